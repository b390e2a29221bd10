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
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::future::BoxFuture;
use prost_types::Timestamp;
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, EntityTrait, QuerySelect,
    RuntimeErr, Select, SqlErr, SqliteTransactionMode, TransactionOptions, TransactionTrait,
    sea_query::{Asterisk, Expr, ExprTrait},
};
use tokio::sync::{Mutex, MutexGuard, Notify, Semaphore, oneshot};
use uuid::Uuid;

pub use connect::DatabaseUrl;
pub use page::Rows;

use crate::error::{Error, Result};

/// The most writes that wait for their turn; one more is turned away.
const WAITING_WRITES: usize = 1024;

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The database says no: it is not there, not writable, not a database.
    #[error("{0}")]
    Database(DbErr),
    /// A later version of usher was here.
    #[error("it was migrated by a newer version of usher ({0}); use that version")]
    Newer(String),
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
    /// Held by the write that runs. First come, first served.
    turn: Mutex<()>,
    waiting: Arc<Semaphore>,
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
            turn: Mutex::new(()),
            waiting: Arc::new(Semaphore::new(WAITING_WRITES)),
            ready: OnceLock::new(),
            erased: Notify::new(),
        })))
    }

    /// Opens or creates the database, and migrates it.
    pub async fn prepare(&self) -> Result<(), OpenError> {
        let txn = self.begin().await?;
        migration::apply(&txn).await?;
        txn.commit().await?;
        self.0.ready.get_or_init(|| ());
        Ok(())
    }

    /// Shows that the database can be read and could be written.
    pub async fn ping(&self) -> Result<()> {
        let reader = self.reader()?;
        reader.execute_unprepared("SELECT 1 FROM totals").await?;
        self.write((), |_, ()| Box::pin(async { Ok(()) })).await
    }

    /// Finds what is left in the file of erased rows and removes it, whenever there
    /// was an erasure; returns never.
    pub async fn scrub_forever(&self) {
        scrub::run(self).await;
    }

    /// One last scrub, if one is wanted.
    pub async fn scrub(&self) -> Result<()> {
        scrub::if_wanted(self).await
    }

    /// Waits for what runs, and closes every connection.
    pub async fn close(&self) {
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
    ///
    /// A write that has begun runs to its end even if its caller leaves, so that no
    /// transaction is ever abandoned half way; one whose caller left before that is
    /// not begun.
    async fn write<I, T>(&self, input: I, apply: Write<I, T>) -> Result<T>
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
    {
        self.check_ready()?;
        let place = Arc::clone(&self.0.waiting)
            .try_acquire_owned()
            .map_err(|_| Error::Overloaded)?;
        let (mut answer, answered) = oneshot::channel();
        let store = self.clone();
        tokio::spawn(async move {
            let turn = tokio::select! {
                biased;
                () = answer.closed() => return,
                turn = store.turn() => turn,
            };
            drop(place);
            let result = store.transact(&input, apply).await;
            drop(turn);
            let _ = answer.send(result);
        });
        answered
            .await
            .map_err(|gone| Error::Internal(Box::new(gone)))?
    }

    /// Waits until no write runs, and keeps others waiting while it is held.
    async fn turn(&self) -> MutexGuard<'_, ()> {
        self.0.turn.lock().await
    }

    async fn transact<I, T>(&self, input: &I, apply: Write<I, T>) -> Result<T> {
        let txn = self.begin().await?;
        match apply(&txn, input).await {
            Ok(value) => {
                txn.commit().await?;
                Ok(value)
            }
            Err(error) => {
                txn.rollback().await?;
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
        match &error {
            DbErr::ConnectionAcquire(_) => Self::Overloaded,
            DbErr::Conn(cause) | DbErr::Exec(cause) | DbErr::Query(cause) if is_away(cause) => {
                Self::Unavailable(Box::new(error))
            }
            _ => Self::Internal(Box::new(error)),
        }
    }
}

/// Whether the database, rather than the statement, is to blame: it is locked by
/// somebody else, or its disk is full, read-only, failing or gone. The primary
/// result code is the low byte: <https://www.sqlite.org/rescode.html>.
fn is_away(cause: &RuntimeErr) -> bool {
    const BUSY: i32 = 5;
    const LOCKED: i32 = 6;
    const READONLY: i32 = 8;
    const IOERR: i32 = 10;
    const FULL: i32 = 13;
    const CANTOPEN: i32 = 14;
    const PROTOCOL: i32 = 15;
    let RuntimeErr::SqlxError(error) = cause else {
        return false;
    };
    let Some(error) = error.as_database_error() else {
        return false;
    };
    let code: Option<i32> = error.code().and_then(|code| code.parse().ok());
    let primary = code.map(|code| code & 0xff);
    matches!(
        primary,
        Some(BUSY | LOCKED | READONLY | IOERR | FULL | CANTOPEN | PROTOCOL)
    )
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
