//! Every flag and environment variable, checked before anything is opened or bound.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::store::DatabaseUrl;

/// Keeps an application's users, their sessions, and the messages in them, and
/// serves them over gRPC.
#[derive(Debug, Parser)]
#[command(name = "usher", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

impl Cli {
    /// What to do: `serve`, unless something else is asked for.
    pub fn command(self) -> Command {
        self.command.unwrap_or(Command::Serve(self.serve))
    }
}

/// What usher does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Open or create the database, migrate it, and serve (the default)
    Serve(Serve),
    /// Open or create the database, migrate it, and exit
    Migrate(Migrate),
    /// Ask a running server for its health; exit 0 if it is SERVING and 1 otherwise
    Health(Health),
}

/// The configuration of a server.
#[derive(Args, Clone, Debug)]
pub struct Serve {
    /// Where to serve gRPC
    #[arg(long, env = "USHER_LISTEN", value_name = "ADDR:PORT", default_value_t = DEFAULT_LISTEN)]
    pub listen: SocketAddr,

    #[command(flatten)]
    pub(crate) database: Database,

    /// Whether to migrate the database at the start, or to refuse one that needs it
    #[arg(
        long,
        env = "USHER_MIGRATE",
        value_name = "WHEN",
        default_value = "auto"
    )]
    pub migrate: MigrateWhen,

    /// How long a call may take; a sooner deadline of its caller wins
    #[arg(long, env = "USHER_REQUEST_TIMEOUT", value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub request_timeout: Duration,

    /// How long calls in flight may go on after SIGTERM or SIGINT
    #[arg(long, env = "USHER_DRAIN_TIMEOUT", value_name = "DURATION", default_value = "20s", value_parser = duration)]
    pub drain_timeout: Duration,

    /// The largest request, in bytes; the default is 4 MiB
    #[arg(long, env = "USHER_MAX_MESSAGE_BYTES", value_name = "BYTES", default_value_t = 4 * 1024 * 1024, value_parser = clap::value_parser!(u32).range(1024..=1024 * 1024 * 1024))]
    pub max_message_bytes: u32,

    #[command(flatten)]
    pub(crate) log: Log,
}

impl Serve {
    /// How to log.
    pub fn log_format(&self) -> Option<LogFormat> {
        self.log.log_format
    }
}

/// The configuration of a migration.
#[derive(Args, Clone, Debug)]
pub struct Migrate {
    #[command(flatten)]
    pub(crate) database: Database,

    #[command(flatten)]
    pub(crate) log: Log,
}

impl Migrate {
    /// How to log.
    pub fn log_format(&self) -> Option<LogFormat> {
        self.log.log_format
    }
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Database {
    /// Where the database is: a SQLite file, which mode=rwc creates if it is missing, or
    /// `postgres://user:password@host/database`
    #[arg(
        long,
        env = "USHER_DATABASE_URL",
        hide_env_values = true,
        value_name = "URL",
        default_value = "sqlite://usher.db?mode=rwc"
    )]
    database_url: String,
}

impl Database {
    /// The URL, or why it is none. clap does not check it, for its errors would print
    /// it.
    pub(crate) fn url(&self) -> Result<DatabaseUrl, UsageError> {
        self.database_url
            .parse()
            .map_err(|flaw| UsageError(format!("invalid value for '--database-url <URL>': {flaw}")))
    }
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Log {
    /// How to log; the default is text on a terminal and json otherwise
    #[arg(long, env = "USHER_LOG_FORMAT", value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
}

/// When a server migrates its database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MigrateWhen {
    /// At the start, if it needs it
    Auto,
    /// Never: `usher migrate` does it
    Never,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

/// The configuration of a health check.
#[derive(Args, Clone, Debug)]
pub struct Health {
    /// The server's address; an unspecified one (0.0.0.0, [::]) means this machine
    #[arg(long, env = "USHER_LISTEN", value_name = "ADDR:PORT", default_value_t = DEFAULT_LISTEN)]
    addr: SocketAddr,

    /// Which service to ask for; empty means the whole server
    #[arg(long, value_name = "NAME", default_value = "")]
    pub service: String,
}

impl Health {
    /// An address that can be connected to.
    pub fn addr(&self) -> SocketAddr {
        let ip = match self.addr.ip() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        SocketAddr::new(ip, self.addr.port())
    }
}

const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 50051);

/// A flag that cannot be. Its text is for standard error, and the exit code is 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(String);

/// A duration above zero and of at most a day, like `30s` or `1m 30s`.
fn duration(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_hours(24);
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be more than zero".to_owned()),
        Ok(duration) if duration > LONGEST => Err("must be at most one day".to_owned()),
        Ok(duration) => Ok(duration),
        Err(flaw) => Err(flaw.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_health_check_of_all_interfaces_asks_this_machine() {
        for (addr, asked) in [
            ("0.0.0.0:7", "127.0.0.1:7"),
            ("[::]:7", "[::1]:7"),
            ("10.0.0.1:7", "10.0.0.1:7"),
        ] {
            let health = Health {
                addr: addr.parse().unwrap(),
                service: String::new(),
            };
            assert_eq!(health.addr(), asked.parse().unwrap());
        }
    }
}
