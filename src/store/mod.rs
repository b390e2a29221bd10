//! All SQL, and nothing else knows SQL.
//!
//! Each entity's file holds its rows and every statement on them. Reads take the
//! [`Store`] and use a pool of readers; writes are functions from a transaction
//! and an input, which [`Store::write`] runs one after another on the one
//! connection that writes.

mod connect;
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
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::future::BoxFuture;
use prost_types::Timestamp;
use sea_orm::{
    ConnAcquireErr, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, EntityTrait,
    QuerySelect, RuntimeErr, Select, SqlErr, SqliteTransactionMode, SqlxSqliteError,
    TransactionOptions, TransactionTrait,
    sea_query::{Asterisk, Expr, ExprTrait},
};
use tokio::{
    sync::{Mutex, Notify, OwnedMutexGuard, Semaphore},
    time::{Instant, sleep},
};
use uuid::Uuid;

pub use connect::DatabaseUrl;
pub use page::Rows;

use crate::{
    error::{Error, Resource, Result},
    fields::RequestId,
};

/// The most writes that wait for their turn; one more is turned away.
const WAITING_WRITES: usize = 1024;

/// How long after one attempt to open a busy database the next one is made.
const RETRY: Duration = Duration::from_millis(20);

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The database says no: it is not there, not writable, not a database.
    #[error("{0}")]
    Database(DbErr),
    /// A later version of usher was here.
    #[error("it was migrated by a newer version of usher ({0}); use that version")]
    Newer(String),
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
    /// Set once the schema is there.
    ready: OnceLock<()>,
    /// Wakes the scrubber.
    erased: Notify,
}

impl Store {
    /// A store on the database, which is neither opened nor looked at yet: every
    /// call on it is UNAVAILABLE until [`prepare`](Self::prepare) has succeeded.
    pub async fn new(url: &DatabaseUrl) -> Result<Self, OpenError> {
        let (writer, reader) = connect::sqlite(url).await?;
        Ok(Self(Arc::new(Inner {
            reader,
            writer,
            turn: Arc::new(Mutex::new(())),
            waiting: Semaphore::new(WAITING_WRITES),
            done: AtomicU64::new(0),
            done_at_ping: AtomicU64::new(u64::MAX),
            ready: OnceLock::new(),
            erased: Notify::new(),
        })))
    }

    /// Opens or creates the database, and migrates it.
    pub async fn prepare(&self) -> Result<(), OpenError> {
        let deadline = Instant::now() + connect::BUSY_TIMEOUT;
        // Processes that switch a new file to WAL at once are told at once that it is
        // busy, whatever their timeout (https://www.sqlite.org/wal.html, 11).
        let txn = loop {
            match self.begin().await {
                Err(error) if is_busy(&error) && Instant::now() < deadline => sleep(RETRY).await,
                txn => break txn?,
            }
        };
        migration::apply(&txn).await?;
        txn.commit().await?;
        connect::check_wal(&self.0.writer).await?;
        self.0.ready.get_or_init(|| ());
        Ok(())
    }

    /// Shows that the database can be read, and that it could be written or is being
    /// written: a ping does not stand in line, for a long line is no fault of it.
    pub async fn ping(&self) -> Result<()> {
        let reader = self.reader()?;
        reader.execute_unprepared("SELECT 1 FROM totals").await?;
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
    /// was an erasure; returns never.
    pub async fn scrub_forever(self) {
        scrub::run(&self).await;
    }

    /// Does the last scrub that is wanted, waits for what runs, and closes every
    /// connection. If it is cut short, the next start does the scrub.
    pub async fn close(&self) {
        if self.0.ready.get().is_some()
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
    fn reader(&self) -> Result<&DatabaseConnection> {
        self.check_ready()?;
        Ok(&self.0.reader)
    }

    /// For several statements that read the same state.
    async fn snapshot(&self) -> Result<DatabaseTransaction> {
        Ok(self.reader()?.begin().await?)
    }

    /// Runs a write in a transaction of its own, when its turn has come, and commits
    /// it if it succeeds.
    async fn write<I, T>(&self, input: I, apply: Write<I, T>) -> Result<T>
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
    {
        self.check_ready()?;
        let place = self
            .0
            .waiting
            .try_acquire()
            .map_err(|_| Error::Overloaded)?;
        let turn = self.turn().await;
        drop(place);
        self.run(turn, input, apply).await
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

    /// Runs a write whose turn has come. It runs to its end even if its caller leaves, so
    /// that no transaction is ever abandoned half way.
    async fn run<I, T>(&self, turn: OwnedMutexGuard<()>, input: I, apply: Write<I, T>) -> Result<T>
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
    {
        let store = self.clone();
        let running = tokio::spawn(async move {
            let result = store.transact(&input, apply).await;
            store.0.done.fetch_add(1, Ordering::Relaxed);
            drop(turn);
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

    /// A transaction that holds the write lock from its start, so that what it reads
    /// is still so when it writes (<https://www.sqlite.org/isolation.html>).
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

/// Whether a statement failed because a row that it refers to is not there.
fn is_foreign_key_violation(error: &DbErr) -> bool {
    matches!(
        error.sql_err(),
        Some(SqlErr::ForeignKeyConstraintViolation(_))
    )
}

impl From<DbErr> for Error {
    fn from(error: DbErr) -> Self {
        match error {
            DbErr::ConnectionAcquire(ConnAcquireErr::Timeout) => Self::Overloaded,
            error if is_away(&error) => Self::Unavailable(Box::new(error)),
            error => Self::Internal(Box::new(error)),
        }
    }
}

/// Whether the database, rather than the statement, is to blame: it is locked by
/// somebody else, or its disk is full, read-only, failing or gone.
fn is_away(error: &DbErr) -> bool {
    const READONLY: i32 = 8;
    const IOERR: i32 = 10;
    const FULL: i32 = 13;
    const CANTOPEN: i32 = 14;
    const PROTOCOL: i32 = 15;
    is_busy(error)
        || matches!(
            sqlite_code(error),
            Some(READONLY | IOERR | FULL | CANTOPEN | PROTOCOL)
        )
        || matches!(error, DbErr::ConnectionAcquire(_))
}

/// Whether somebody else holds the database's lock.
fn is_busy(error: &DbErr) -> bool {
    const BUSY: i32 = 5;
    const LOCKED: i32 = 6;
    matches!(sqlite_code(error), Some(BUSY | LOCKED))
}

/// The primary result code of SQLite, which is the low byte
/// (<https://www.sqlite.org/rescode.html>).
fn sqlite_code(error: &DbErr) -> Option<i32> {
    let (DbErr::Conn(cause) | DbErr::Exec(cause) | DbErr::Query(cause)) = error else {
        return None;
    };
    let RuntimeErr::SqlxError(cause) = cause else {
        return None;
    };
    let cause = cause.as_database_error()?;
    cause.try_downcast_ref::<SqlxSqliteError>()?;
    let code: i32 = cause.code()?.parse().ok()?;
    Some(code & 0xff)
}

/// A store of a unit test's own.
#[cfg(test)]
pub async fn temporary() -> (tempfile::TempDir, Store) {
    let folder = tempfile::TempDir::new().unwrap();
    let url = format!("sqlite://{}/usher.db?mode=rwc", folder.path().display());
    let store = Store::new(&url.parse().unwrap()).await.unwrap();
    store.prepare().await.unwrap();
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
        other.prepare().await.unwrap();
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
