//! What an engine's error means: the statement's fault, somebody else's, or nobody there.

use sea_orm::{DbErr, RuntimeErr, SqlErr, SqlxError, SqlxSqliteError};

use super::OpenError;
use crate::error::Error;

/// Whether a statement failed because a row that it refers to is not there.
pub(super) fn is_foreign_key_violation(error: &DbErr) -> bool {
    matches!(
        error.sql_err(),
        Some(SqlErr::ForeignKeyConstraintViolation(_))
    )
}

impl From<DbErr> for Error {
    fn from(error: DbErr) -> Self {
        if is_away(&error) {
            Self::Unavailable(Box::new(error))
        } else {
            Self::Internal(Box::new(error))
        }
    }
}

/// Whether the database, rather than the statement, is to blame: it is locked by
/// somebody else, full, read-only, failing or gone.
fn is_away(error: &DbErr) -> bool {
    match cause(error) {
        Cause::Sqlite(code) => {
            const READONLY: i32 = 8;
            const IOERR: i32 = 10;
            const FULL: i32 = 13;
            const CANTOPEN: i32 = 14;
            const PROTOCOL: i32 = 15;
            is_busy(error) || [READONLY, IOERR, FULL, CANTOPEN, PROTOCOL].contains(&code)
        }
        // https://www.postgresql.org/docs/current/errcodes-appendix.html
        Cause::Postgres(code) => {
            // Connection, authorisation, no such database, conflict, resources, shut down,
            // system error.
            ["08", "28", "3D", "40", "53", "57", "58"].contains(&&code[..2])
                // Read-only since a failover; timeouts in a transaction or of a lock.
                || ["25006", "25P03", "25P04", "55P03"].contains(&code.as_str())
        }
        Cause::Connection => true,
        Cause::Other => false,
    }
}

/// Whether somebody else holds the database's lock.
pub(super) fn is_busy(error: &DbErr) -> bool {
    const BUSY: i32 = 5;
    const LOCKED: i32 = 6;
    matches!(cause(error), Cause::Sqlite(BUSY | LOCKED))
}

/// Whether a write failed only because another was in its way, and would succeed now.
pub(super) fn is_conflict(error: &Error) -> bool {
    let (Error::Unavailable(error) | Error::Internal(error)) = error else {
        return false;
    };
    match error.downcast_ref().map(cause) {
        // A serialization failure, a deadlock, or a row that was not there when it was
        // looked for and is now.
        Some(Cause::Postgres(code)) => ["40001", "40P01", "23505"].contains(&code.as_str()),
        _ => false,
    }
}

/// What is behind an error.
enum Cause {
    /// A primary result code, the low byte of an extended one
    /// (<https://www.sqlite.org/rescode.html>).
    Sqlite(i32),
    /// A SQLSTATE of five characters.
    Postgres(String),
    /// No answer.
    Connection,
    Other,
}

fn cause(error: &DbErr) -> Cause {
    let error = match error {
        DbErr::ConnectionAcquire(_) => return Cause::Connection,
        DbErr::Conn(RuntimeErr::SqlxError(error))
        | DbErr::Exec(RuntimeErr::SqlxError(error))
        | DbErr::Query(RuntimeErr::SqlxError(error)) => error,
        _ => return Cause::Other,
    };
    let Some(database) = error.as_database_error() else {
        return match **error {
            SqlxError::Io(_)
            | SqlxError::Tls(_)
            | SqlxError::Protocol(_)
            | SqlxError::PoolClosed
            | SqlxError::WorkerCrashed => Cause::Connection,
            _ => Cause::Other,
        };
    };
    let code = database.code().unwrap_or_default();
    if database.try_downcast_ref::<SqlxSqliteError>().is_some() {
        code.parse()
            .map_or(Cause::Other, |code: i32| Cause::Sqlite(code & 0xff))
    } else if code.len() == 5 && code.is_ascii() {
        Cause::Postgres(code.into_owned())
    } else {
        Cause::Other
    }
}

impl From<DbErr> for OpenError {
    fn from(error: DbErr) -> Self {
        match error {
            DbErr::ConnectionAcquire(_) => Self::NoAnswer,
            error => Self::Database(error),
        }
    }
}
