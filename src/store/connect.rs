//! How a database is opened.
//!
//! SQLite: one connection that writes, and a pool of connections that only read.
//! PostgreSQL: one pool for both.

use std::{fmt, num::NonZero, str::FromStr, thread, time::Duration};

use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, DbErr, Statement,
    sqlx::{Connection, postgres::PgConnectOptions, sqlite::SqliteConnectOptions},
};

use super::OpenError;

/// How long a statement waits for another process that holds the database's lock.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a statement waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// How many connections a server opens to PostgreSQL at most.
const POSTGRES_CONNECTIONS: u32 = 16;

/// How long a connection to PostgreSQL may have been idle before it is tested: less than
/// passes between two pings of health, which use one after another.
const IDLE: Duration = Duration::from_millis(250);

/// What a URL of PostgreSQL may say behind its question mark. sqlx would log what it does
/// not know, and go on without it.
const POSTGRES_PARAMETERS: [&str; 18] = [
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-mode",
    "ssl-root-cert",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "statement-cache-capacity",
    "user",
];

/// Where the database is, and of what kind. Never printed: it may hold a password.
#[derive(Clone)]
pub enum DatabaseUrl {
    /// A file.
    Sqlite(String),
    /// A server.
    Postgres(String),
}

impl FromStr for DatabaseUrl {
    type Err = &'static str;

    /// Takes `sqlite://PATH`, with `?mode=rw` or `?mode=rwc` or neither; or
    /// `postgres://…`, as libpq knows it
    /// (<https://www.postgresql.org/docs/current/libpq-connect.html>, 34.1.1.2).
    fn from_str(url: &str) -> Result<Self, Self::Err> {
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            let query = url.split_once('?').map_or("", |(_, query)| query);
            let mut names = query
                .split('&')
                .filter_map(|pair| pair.split('=').next())
                .filter(|name| !name.is_empty());
            if !names.all(|name| POSTGRES_PARAMETERS.contains(&name)) {
                return Err("it has an unknown parameter");
            }
            return match PgConnectOptions::from_str(url) {
                Ok(_) => Ok(Self::Postgres(url.to_owned())),
                Err(_) => Err("it must be like postgres://user:password@host:5432/database"),
            };
        }
        let query = url.split_once('?').map(|(_, query)| query);
        let options = SqliteConnectOptions::from_str(url);
        let path = match &options {
            Ok(options)
                if url.starts_with("sqlite:")
                    && matches!(query, None | Some("mode=rw" | "mode=rwc")) =>
            {
                options.get_filename().to_string_lossy()
            }
            _ => return Err("it must be like sqlite://usher.db?mode=rwc"),
        };
        // In memory, every connection would have a database of its own. A path that
        // begins with file: would be a URI (https://www.sqlite.org/uri.html).
        if path.is_empty() || path == ":memory:" || path.starts_with("file:") {
            return Err("it must name a file");
        }
        Ok(Self::Sqlite(url.to_owned()))
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatabaseUrl(..)")
    }
}

/// The connections of a store. They connect when they are first used.
pub(super) struct Pools {
    /// Those that write.
    pub(super) writer: DatabaseConnection,
    /// Those that read.
    pub(super) reader: DatabaseConnection,
    /// How many calls may read at once: there is one more connection, for health.
    pub(super) places: usize,
}

/// Makes the pools.
pub(super) async fn connect(url: &DatabaseUrl) -> Result<Pools, DbErr> {
    match url {
        DatabaseUrl::Sqlite(url) => {
            let mut writer = sqlite(url, "OFF");
            writer.max_connections(1);
            let places = reader_count();
            let mut readers = sqlite(url, "ON");
            readers.max_connections(places + 1);
            Ok(Pools {
                writer: Database::connect(writer).await?,
                reader: Database::connect(readers).await?,
                places: places as usize,
            })
        }
        DatabaseUrl::Postgres(url) => {
            let pool = Database::connect(postgres(url)).await?;
            Ok(Pools {
                writer: pool.clone(),
                reader: pool,
                places: POSTGRES_CONNECTIONS as usize - 1,
            })
        }
    }
}

/// Whether the file is in the mode that it was asked to be in. SQLite does not say so
/// when it cannot be, as on a file system without shared memory.
pub(super) async fn check_wal(writer: &DatabaseConnection) -> Result<(), OpenError> {
    let statement = Statement::from_string(DbBackend::Sqlite, "PRAGMA journal_mode");
    let mode = writer.query_one_raw(statement).await?;
    let mode: Option<String> = mode.map(|row| row.try_get_by_index(0)).transpose()?;
    match mode.as_deref() {
        Some("wal") => Ok(()),
        _ => Err(OpenError::NoWal),
    }
}

/// A reader is a thread that runs statements, so more than the processors can run
/// would only wait; fewer than four would let one long list hold up the rest.
fn reader_count() -> u32 {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    u32::try_from(processors).unwrap_or(u32::MAX).clamp(4, 16)
}

fn postgres(url: &str) -> ConnectOptions {
    let mut options = ConnectOptions::new(url);
    options
        .connect_lazy(true)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .max_connections(POSTGRES_CONNECTIONS)
        // A test is a round trip, so only a connection that may be dead is tested.
        .test_before_acquire_if_idle_for(IDLE)
        .sqlx_logging(false);
    options
}

fn sqlite(url: &str, query_only: &'static str) -> ConnectOptions {
    let mut options = ConnectOptions::new(url);
    options
        .connect_lazy(true)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        // A connection is an open file: it neither goes stale nor needs a test.
        .test_before_acquire(false)
        .idle_timeout(None::<Duration>)
        .max_lifetime(None::<Duration>)
        // Statements are not logged, for no personal data is.
        .sqlx_logging(false)
        // SQLite ends a transaction by itself when its disk fails or is full
        // (https://www.sqlite.org/lang_transaction.html, section 3). sqlx would still
        // count it, and nest every later one inside it, never to be committed. Such a
        // connection is replaced.
        .map_sqlx_sqlite_before_acquire(|connection, _| {
            let at_rest = !connection.is_in_transaction();
            Box::pin(async move { Ok(at_rest) })
        })
        .map_sqlx_sqlite_opts(move |options| {
            options
                .busy_timeout(BUSY_TIMEOUT)
                .pragma("journal_mode", "WAL")
                // A commit that was answered is on disk.
                .pragma("synchronous", "FULL")
                .pragma("foreign_keys", "ON")
                // Deleted content is overwritten with zeros. What this misses, the
                // scrubber finds.
                .pragma("secure_delete", "ON")
                // Rows that are sorted never reach a temporary file.
                .pragma("temp_store", "MEMORY")
                .pragma("query_only", query_only)
        });
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::temporary;

    async fn pragma(connection: &DatabaseConnection, name: &str) -> String {
        let sql = format!("SELECT CAST({name} AS TEXT) FROM pragma_{name}");
        let statement = Statement::from_string(DbBackend::Sqlite, sql);
        let row = connection.query_one_raw(statement).await.unwrap().unwrap();
        row.try_get_by_index(0).unwrap()
    }

    #[tokio::test]
    async fn every_connection_is_as_safe_as_it_should_be() {
        let (_folder, store) = temporary().await;
        let (writer, reader) = (&store.0.writer, &store.0.reader);
        for connection in [writer, reader] {
            for (name, value) in [
                ("journal_mode", "wal"),
                // FULL: a commit waits for the disk.
                ("synchronous", "2"),
                ("foreign_keys", "1"),
                ("secure_delete", "1"),
                ("temp_store", "2"),
            ] {
                assert_eq!(pragma(connection, name).await, value, "{name}");
            }
        }
        let write = "UPDATE scrub SET wanted = 0";
        writer.execute_unprepared(write).await.unwrap();
        reader.execute_unprepared(write).await.unwrap_err();
    }

    #[test]
    fn a_url_names_a_file_or_a_server() {
        for url in [
            "sqlite://usher.db",
            "sqlite:usher.db?mode=rw",
            "sqlite:///var/lib/usher/a%20b.db?mode=rwc",
            "postgres://user:secret@host/usher?sslmode=require",
            "postgresql:///usher?host=/run/postgresql",
        ] {
            assert!(url.parse::<DatabaseUrl>().is_ok(), "{url}");
        }
        for url in [
            "",
            "usher.db",
            "sqlite:",
            "sqlite://",
            "sqlite://?mode=rwc",
            "sqlite::memory:",
            "sqlite://:memory:?mode=rwc",
            "sqlite://%3Amemory%3A",
            "sqlite://file:usher.db",
            "sqlite://usher.db?mode=memory",
            "sqlite://usher.db?mode=%6Demory",
            "sqlite://usher.db?mode=ro",
            "sqlite://usher.db?mode=rwc&cache=shared",
            "sqlite://usher.db?mode=nonsense",
            "postgres://user:secret@host:port/usher",
            "postgres://user:secret@host/usher?sslmod=require",
            "postgres://host/usher?user=jane&pasword=secret",
            "mysql://user:secret@host/usher",
        ] {
            assert!(url.parse::<DatabaseUrl>().is_err(), "{url}");
        }
    }

    #[test]
    fn a_url_is_never_printed() {
        let url: DatabaseUrl = "sqlite://secret.db".parse().unwrap();
        assert!(!format!("{url:?}").contains("secret"));
    }
}
