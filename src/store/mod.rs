//! All SQL, and nothing else knows SQL.
//!
//! Each entity's file holds its rows and every statement on them. Reads take the
//! [`Store`] and use a pool of readers; writes are functions from a transaction
//! and an input, which [`Store::write`] runs: on SQLite one after another on the one
//! connection that writes, on PostgreSQL side by side, and again if one was in another's
//! way.

mod connect;
mod fault;
pub mod message;
mod migration;
mod page;
#[cfg(test)]
mod plans;
mod scrub;
pub mod session;
mod totals;
pub mod user;

use std::{
    ops::Deref,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::future::BoxFuture;
use prost_types::Timestamp;
use sea_orm::{
    AccessMode, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr,
    EntityTrait, IsolationLevel, QuerySelect, Select, SqliteTransactionMode, TransactionOptions,
    TransactionTrait,
    sea_query::{Asterisk, Expr, ExprTrait},
};
use tokio::{
    sync::{Mutex, Notify, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout},
};
use uuid::Uuid;

pub use connect::DatabaseUrl;
pub use page::Rows;

use crate::{
    config::MigrateWhen,
    error::{Error, Resource, Result},
    fields::RequestId,
};

/// The most writes that wait for their turn; one more is turned away.
const WAITING_WRITES: usize = 1024;

/// How long a call waits for a place in the pool.
const PLACE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long after one attempt to open a busy database the next one is made.
const RETRY: Duration = Duration::from_millis(20);

/// How often a write of PostgreSQL is run that is in another's way, and how long it waits
/// between at most.
const ATTEMPTS: u32 = 10;
const BACKOFF: Duration = Duration::from_millis(200);

/// Names the lock under which replicas migrate one after another.
const MIGRATION_LOCK: i64 = 0x0075_7368_6572; // "usher"

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The database says no: it is not there, not writable, not a database.
    #[error("{0}")]
    Database(DbErr),
    /// Nobody is at its address.
    #[error("no server answers at the address in its URL")]
    NoAnswer,
    /// A later version of usher was here.
    #[error("it was migrated by a newer version of usher ({0}); use that version")]
    Newer(String),
    /// It is not migrated, and must not be.
    #[error("it needs the migration {0}; run usher migrate")]
    Older(String),
    /// The file system has no shared memory, as most network file systems.
    #[error("it cannot be switched to write-ahead logging; put it on a local disk")]
    NoWal,
}

/// A write: what it does in a transaction with its input. It may be run again from
/// the start, so it keeps nothing but what it returns.
pub type Write<I, T> = for<'c> fn(&'c DatabaseTransaction, &'c I) -> BoxFuture<'c, Result<T>>;

/// The database.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    reader: DatabaseConnection,
    writer: DatabaseConnection,
    /// Held by the write that runs.
    turn: Arc<Mutex<()>>,
    /// The places of those that wait for it.
    waiting: Semaphore,
    /// How many writes have ended, and how many had at the last ping that found one
    /// running.
    done: AtomicU64,
    done_at_ping: AtomicU64,
    /// The places in the pool of readers, which on PostgreSQL is that of writers too.
    places: Arc<Semaphore>,
    /// Set once the schema is there.
    ready: OnceLock<()>,
    /// Wakes the scrubber.
    erased: Notify,
}

/// A place in the pool, for one statement.
struct Reader<'a> {
    connection: &'a DatabaseConnection,
    _place: OwnedSemaphorePermit,
}

impl Deref for Reader<'_> {
    type Target = DatabaseConnection;

    fn deref(&self) -> &DatabaseConnection {
        self.connection
    }
}

/// A place in the pool, for several statements that see the same state.
struct Snapshot {
    txn: DatabaseTransaction,
    _place: OwnedSemaphorePermit,
}

impl Snapshot {
    /// Lets go of the state, and waits until that is done.
    async fn end(self) -> Result<(), DbErr> {
        self.txn.rollback().await
    }
}

impl Deref for Snapshot {
    type Target = DatabaseTransaction;

    fn deref(&self) -> &DatabaseTransaction {
        &self.txn
    }
}

impl Store {
    /// A store on the database, which is neither opened nor looked at yet: every
    /// call on it is UNAVAILABLE until [`prepare`](Self::prepare) has succeeded.
    pub async fn new(url: &DatabaseUrl) -> Result<Self, OpenError> {
        let connect::Pools {
            writer,
            reader,
            places,
        } = connect::connect(url).await?;
        Ok(Self(Arc::new(Inner {
            reader,
            writer,
            turn: Arc::new(Mutex::new(())),
            waiting: Semaphore::new(WAITING_WRITES),
            done: AtomicU64::new(0),
            done_at_ping: AtomicU64::new(u64::MAX),
            places: Arc::new(Semaphore::new(places)),
            ready: OnceLock::new(),
            erased: Notify::new(),
        })))
    }

    /// Opens or creates the database, and migrates it or refuses it.
    pub async fn prepare(&self, migrate: MigrateWhen) -> Result<(), OpenError> {
        let deadline = Instant::now() + connect::BUSY_TIMEOUT;
        // Processes that switch a new file to WAL at once are told at once that it is
        // busy, whatever their timeout (https://www.sqlite.org/wal.html, 11).
        let txn = loop {
            match self.begin().await {
                Err(error) if fault::is_busy(&error) && Instant::now() < deadline => {
                    sleep(RETRY).await;
                }
                txn => break txn?,
            }
        };
        if !self.is_sqlite() {
            // What was done by those who held the lock before must be seen.
            let lock = format!(
                "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; \
                 SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"
            );
            txn.execute_unprepared(&lock).await?;
        }
        match migrate {
            MigrateWhen::Auto => migration::apply(&txn).await?,
            MigrateWhen::Never => migration::check(&txn).await?,
        }
        txn.commit().await?;
        if self.is_sqlite() {
            connect::check_wal(&self.0.writer).await?;
        }
        self.0.ready.get_or_init(|| ());
        Ok(())
    }

    /// Shows that the database can be read, and that it could be written or is being
    /// written: a ping does not stand in line, for a long line is no fault of it.
    pub async fn ping(&self) -> Result<()> {
        self.check_ready()?;
        // There is one more connection than places, for this.
        self.0
            .reader
            .execute_unprepared("SELECT 1 FROM totals LIMIT 1")
            .await?;
        if !self.is_sqlite() {
            return Ok(());
        }
        match Arc::clone(&self.0.turn).try_lock_owned() {
            Ok(turn) => self.run(turn, (), |_, ()| Box::pin(async { Ok(()) })).await,
            Err(_) => {
                let done = self.0.done.load(Ordering::Relaxed);
                if self.0.done_at_ping.swap(done, Ordering::Relaxed) == done {
                    return Err(Error::Unavailable("no write has ended for a while".into()));
                }
                Ok(())
            }
        }
    }

    /// Finds what is left in the file of erased rows and removes it, whenever there
    /// was an erasure; returns never on SQLite. PostgreSQL does its own
    /// housekeeping.
    pub async fn scrub_forever(self) {
        if self.is_sqlite() {
            scrub::run(&self).await;
        }
    }

    /// Does the last scrub that is wanted, waits for what runs, and closes every
    /// connection. If it is cut short, the next start does the scrub.
    pub async fn close(&self) {
        if self.is_sqlite()
            && self.0.ready.get().is_some()
            && let Err(error) = scrub::if_wanted(self).await
        {
            tracing::warn!(cause = %error, "the last scrub failed; the next start does it");
        }
        for pool in [&self.0.reader, &self.0.writer] {
            // Closing cannot fail in a way that anybody could act on.
            let _ = pool.close_by_ref().await;
        }
    }

    /// For one statement that reads.
    async fn reader(&self) -> Result<Reader<'_>> {
        self.check_ready()?;
        Ok(Reader {
            connection: &self.0.reader,
            _place: self.place().await?,
        })
    }

    /// For several statements that read the same state.
    async fn snapshot(&self) -> Result<Snapshot> {
        self.check_ready()?;
        let place = self.place().await?;
        let reader = &self.0.reader;
        if self.is_sqlite() {
            let txn = reader.begin().await?;
            return Ok(Snapshot { txn, _place: place });
        }
        // sqlx would forget a transaction of PostgreSQL whose caller leaves while it
        // begins, and hand its connection on.
        let reader = reader.clone();
        let begin = tokio::spawn(async move {
            let (isolation, access) = (IsolationLevel::RepeatableRead, AccessMode::ReadOnly);
            reader
                .begin_with_config(Some(isolation), Some(access))
                .await
        });
        let txn = begin
            .await
            .map_err(|panic| Error::Internal(Box::new(panic)))??;
        Ok(Snapshot { txn, _place: place })
    }

    /// A place in the pool, so that a connection which does not come is the database's
    /// fault and not the load's.
    async fn place(&self) -> Result<OwnedSemaphorePermit> {
        let place = Arc::clone(&self.0.places).acquire_owned();
        timeout(PLACE_TIMEOUT, place)
            .await
            .map_err(|_| Error::Overloaded)?
            .map_err(|closed| Error::Internal(Box::new(closed)))
    }

    fn is_sqlite(&self) -> bool {
        self.0.writer.get_database_backend() == DbBackend::Sqlite
    }

    /// Runs a write in a transaction of its own, when its turn has come, and commits
    /// it if it succeeds.
    async fn write<I, T>(&self, input: I, apply: Write<I, T>) -> Result<T>
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
    {
        self.check_ready()?;
        let waiting = self
            .0
            .waiting
            .try_acquire()
            .map_err(|_| Error::Overloaded)?;
        if self.is_sqlite() {
            let turn = self.turn().await;
            drop(waiting);
            return self.run(turn, input, apply).await;
        }
        let place = self.place().await?;
        drop(waiting);
        self.run(place, input, apply).await
    }

    /// The same, for the scrubber, which waits however long the line is.
    async fn write_in_turn<I, T>(&self, input: I, apply: Write<I, T>) -> Result<T>
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
    {
        let turn = self.turn().await;
        self.run(turn, input, apply).await
    }

    /// Waits until no write runs, and keeps others waiting while it is held. First come,
    /// first served.
    async fn turn(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.0.turn).lock_owned().await
    }

    /// Runs a write that has its turn, or its place, and holds it until it has ended. It
    /// runs to its end even if its caller leaves, so that no transaction is ever abandoned
    /// half way.
    async fn run<I, T>(&self, held: impl Send + 'static, input: I, apply: Write<I, T>) -> Result<T>
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
    {
        let store = self.clone();
        let running = tokio::spawn(async move {
            let mut attempt = 1;
            let result = loop {
                match store.transact(&input, apply).await {
                    Err(error) if fault::is_conflict(&error) && attempt < ATTEMPTS => {
                        sleep(backoff(attempt)).await;
                        attempt += 1;
                    }
                    result => break result,
                }
            };
            store.0.done.fetch_add(1, Ordering::Relaxed);
            drop(held);
            result
        });
        running
            .await
            .map_err(|panic| Error::Internal(Box::new(panic)))?
    }

    async fn transact<I, T>(&self, input: &I, apply: Write<I, T>) -> Result<T> {
        let txn = self.begin().await?;
        match apply(&txn, input).await {
            Ok(value) => {
                txn.commit().await?;
                Ok(value)
            }
            Err(error) => {
                // After some errors the engine has done it already, and says so.
                let _ = txn.rollback().await;
                Err(error)
            }
        }
    }

    /// On SQLite, a transaction that holds the write lock from its start, so that what it
    /// reads is still so when it writes (<https://www.sqlite.org/isolation.html>). On
    /// PostgreSQL, writes lock the rows that they are about to change.
    async fn begin(&self) -> Result<DatabaseTransaction, DbErr> {
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        self.0.writer.begin_with_options(options).await
    }

    fn check_ready(&self) -> Result<()> {
        match self.0.ready.get() {
            Some(()) => Ok(()),
            None => Err(Error::Unavailable("the database is being opened".into())),
        }
    }
}

/// Microseconds since the epoch.
fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// Now, even if the clock was set back behind an earlier time.
fn now_after(earlier: i64) -> i64 {
    Ord::max(now(), earlier)
}

/// A time of the store, for the wire.
fn timestamp(microseconds: i64) -> Timestamp {
    const SECOND: i64 = 1_000_000;
    let fraction = microseconds.rem_euclid(SECOND);
    Timestamp {
        seconds: microseconds.div_euclid(SECOND),
        nanos: i32::try_from(fraction * 1000).unwrap_or_default(),
    }
}

/// The name of a row's state (<https://google.aip.dev/154>). The uuid tells a row
/// from another one that had its id before.
fn etag(uuid: Uuid, revision: i64) -> String {
    format!("{}-{revision}", uuid.simple())
}

fn check_etag(asked: Option<&str>, current: &str) -> Result<()> {
    match asked {
        Some(asked) if asked != current => Err(Error::EtagMismatch),
        _ => Ok(()),
    }
}

/// What an Add answers whose row is there already: that row, if the same call made it.
fn added_before<M>(
    made: Option<M>,
    digest: impl Fn(&M) -> Option<Vec<u8>>,
    request: &RequestId,
    taken: Resource,
) -> Result<M> {
    match made {
        None => Err(Error::AlreadyExists(taken)),
        Some(made) if digest(&made).as_ref() == Some(&request.digest) => Ok(made),
        Some(_) => Err(Error::RequestIdReused(taken)),
    }
}

/// A number of rows that a statement changed.
fn rows(affected: u64) -> i64 {
    i64::try_from(affected).unwrap_or(i64::MAX)
}

/// How many rows a query matches, counted in an index.
async fn count<E: EntityTrait>(query: Select<E>, db: &impl ConnectionTrait) -> Result<i64, DbErr> {
    let count: Option<i64> = query
        .select_only()
        .expr(Expr::col(Asterisk).count())
        .into_tuple()
        .one(db)
        .await?;
    Ok(count.unwrap_or(0))
}

/// A random time within a range that grows with each attempt.
fn backoff(attempt: u32) -> Duration {
    let most = BACKOFF.mul_f64(f64::from(attempt) / f64::from(ATTEMPTS));
    most.mul_f64(f64::from(random()) / f64::from(u16::MAX))
}

/// Any number.
fn random() -> u16 {
    let [.., high, low] = Uuid::now_v7().into_bytes();
    u16::from_be_bytes([high, low])
}

/// A store of a unit test's own.
#[cfg(test)]
pub async fn temporary() -> (tempfile::TempDir, Store) {
    let folder = tempfile::TempDir::new().unwrap();
    let url = format!("sqlite://{}/usher.db?mode=rwc", folder.path().display());
    let store = Store::new(&url.parse().unwrap()).await.unwrap();
    store.prepare(MigrateWhen::Auto).await.unwrap();
    (folder, store)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{auth::ProjectId, fields::UserId};

    fn user_id(number: usize) -> UserId {
        UserId::parse(format!("user {number}")).unwrap()
    }

    async fn add(store: &Store, number: usize) -> Result<user::Model> {
        let add = user::Add {
            project: ProjectId::DEFAULT,
            user_id: user_id(number),
            email: None,
            first_name: Some("x".repeat(1000)),
            last_name: None,
            metadata: None,
            request: None,
        };
        user::add(store, add).await
    }

    #[tokio::test]
    async fn what_is_acknowledged_after_the_disk_was_full_is_committed() {
        let (folder, store) = temporary().await;
        let writer = &store.0.writer;
        writer
            .execute_unprepared("PRAGMA max_page_count = 60")
            .await
            .unwrap();
        let mut number = 0;
        let error = loop {
            match add(&store, number).await {
                Ok(_) => number += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
        // The next writes fail for another reason, and then succeed.
        let taken = add(&store, 0).await;
        assert!(matches!(taken, Err(Error::AlreadyExists(_))), "{taken:?}");
        writer
            .execute_unprepared("PRAGMA max_page_count = 6000")
            .await
            .unwrap();
        add(&store, number).await.unwrap();

        // Another process sees what was acknowledged.
        let url = format!("sqlite://{}/usher.db", folder.path().display());
        let other = Store::new(&url.parse().unwrap()).await.unwrap();
        other.prepare(MigrateWhen::Auto).await.unwrap();
        for number in 0..=number {
            user::get(&other, ProjectId::DEFAULT, &user_id(number))
                .await
                .unwrap();
        }
    }

    #[tokio::test]
    async fn a_ping_does_not_stand_in_line() {
        let (_folder, store) = temporary().await;
        let turn = store.turn().await;
        // A write runs, and it may be the first.
        store.ping().await.unwrap();
        // It still does, and none has ended.
        let stuck = store.ping().await;
        assert!(matches!(stuck, Err(Error::Unavailable(_))), "{stuck:?}");
        store
            .run(turn, (), |_, ()| Box::pin(async { Ok(()) }))
            .await
            .unwrap();
        let _turn = store.turn().await;
        store.ping().await.unwrap();
    }
}
