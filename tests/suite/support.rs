//! A real server for a test, and short words for what tests say often.

use std::{
    fmt::Debug,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use prost_types::{ListValue, Struct, Value, value::Kind};
use rustix::process::{Pid, kill_process};
use sea_orm::{
    ConnectOptions, ConnectionTrait, DatabaseConnection, DatabaseTransaction,
    SqliteTransactionMode, Statement, TransactionOptions, TransactionTrait,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    sync::watch,
    time::timeout,
};
use tonic::{
    Code, Response, Status,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::health_client::HealthClient;
use tonic_types::{ErrorDetails, StatusExt};
use usher::pb::{
    session::v1::session_service_client::SessionServiceClient,
    user::v1::{self as users, user_service_client::UserServiceClient},
};

pub use rustix::process::Signal;

use crate::postgres;

pub use usher::pb::{session::v1 as session, user::v1 as user};

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// A kind of database.
#[derive(Clone, Copy, Debug)]
pub enum Engine {
    Sqlite,
    Postgres,
}

/// A database of a test's own, which is gone when the test is.
pub struct Database {
    folder: TempDir,
    /// Where it is on PostgreSQL.
    postgres: Option<String>,
    /// Whether it is there only for the test.
    is_own: bool,
}

impl Database {
    pub fn new(engine: Engine) -> Self {
        let folder = TempDir::new().unwrap();
        let postgres = match engine {
            Engine::Sqlite => None,
            Engine::Postgres => Some(postgres::create_database()),
        };
        Self {
            folder,
            postgres,
            is_own: true,
        }
    }

    /// The one that a cluster of the test's own begins with.
    pub fn of(cluster: &postgres::Cluster) -> Self {
        let folder = TempDir::new().unwrap();
        Self {
            folder,
            postgres: Some(cluster.url()),
            is_own: false,
        }
    }

    pub fn url(&self) -> String {
        match &self.postgres {
            None => format!("sqlite://{}?mode=rwc", self.file().display()),
            Some(url) => url.clone(),
        }
    }

    /// The SQLite file.
    pub fn file(&self) -> PathBuf {
        self.folder().join("usher.db")
    }

    /// A connection of the test's own.
    pub async fn open(&self) -> DatabaseConnection {
        let mut options = ConnectOptions::new(self.url());
        options.max_connections(1).sqlx_logging(false);
        sea_orm::Database::connect(options).await.unwrap()
    }

    /// Waits until a server of PostgreSQL has ended what a process that is gone had sent.
    pub async fn settle(&self) {
        if self.postgres.is_none() {
            return;
        }
        let connection = self.open().await;
        let others = "SELECT count(*) FROM pg_stat_activity \
                      WHERE datname = current_database() AND pid <> pg_backend_pid()";
        loop {
            let others = Statement::from_string(connection.get_database_backend(), others);
            let row = connection.query_one_raw(others).await.unwrap().unwrap();
            if row.try_get_by_index::<i64>(0).unwrap() == 0 {
                return connection.close().await.unwrap();
            }
        }
    }

    /// Keeps everybody else from writing for as long as it is held.
    pub async fn lock(&self) -> DatabaseTransaction {
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..Default::default()
        };
        self.open().await.begin_with_options(options).await.unwrap()
    }

    /// Where the file is, with all that SQLite puts beside it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Some(url) = self.postgres.as_ref().filter(|_| self.is_own) {
            postgres::drop_database(url);
        }
    }
}

/// A server's process. It is killed when the test leaves it.
pub struct Process {
    child: Child,
    output: Arc<Mutex<String>>,
    lines: watch::Receiver<usize>,
}

impl Process {
    /// Starts `usher` with these arguments, in a clean environment.
    pub fn start<const N: usize>(args: [&str; N]) -> Self {
        Self::start_with(args, [])
    }

    pub fn start_with<const N: usize, const M: usize>(
        args: [&str; N],
        environment: [(&str, &str); M],
    ) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_usher"))
            .args(args)
            .env_clear()
            .envs(environment)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let output = Arc::new(Mutex::new(String::new()));
        let (count, lines) = watch::channel(0);
        let count = Arc::new(count);
        follow(child.stdout.take().unwrap(), &output, &count);
        follow(child.stderr.take().unwrap(), &output, &count);
        Self {
            child,
            output,
            lines,
        }
    }

    /// All that it has printed.
    pub fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    /// How many lines it has printed.
    pub fn lines_printed(&self) -> usize {
        *self.lines.borrow()
    }

    /// Waits until it has printed more lines than these.
    pub async fn prints_after(&mut self, lines: usize) {
        let printed = self.lines.wait_for(|printed| *printed > lines).await;
        printed.expect("the process goes on");
    }

    /// The first line that holds `text`, as soon as it is printed.
    pub async fn line(&mut self, text: &str) -> String {
        let found = |output: &Mutex<String>| {
            let output = output.lock().unwrap();
            output
                .lines()
                .find(|line| line.contains(text))
                .map(str::to_owned)
        };
        let output = Arc::clone(&self.output);
        let wait = self.lines.wait_for(|_| found(&output).is_some());
        let waited = timeout(PATIENCE, wait).await.map(|waited| waited.is_ok());
        match found(&output) {
            Some(line) => line,
            None => panic!("no line with {text:?} ({waited:?}) in:\n{}", self.output()),
        }
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// Waits for its end, and for all of its output.
    pub async fn exit(&mut self) -> ExitStatus {
        let status = timeout(PATIENCE, self.child.wait()).await;
        let status = status.expect("the process ends").unwrap();
        // Both streams end with the process, and then nobody counts any more.
        while self.lines.changed().await.is_ok() {}
        status
    }

    pub async fn exit_code(&mut self) -> i32 {
        self.exit().await.code().expect("no signal ended it")
    }
}

impl Drop for Process {
    /// Waits until it is gone, so that it puts nothing more into a folder that is about
    /// to be removed.
    fn drop(&mut self) {
        let _ = self.child.start_kill();
        while let Ok(None) = self.child.try_wait() {
            std::thread::yield_now();
        }
    }
}

fn follow(
    stream: impl AsyncRead + Unpin + Send + 'static,
    output: &Arc<Mutex<String>>,
    count: &Arc<watch::Sender<usize>>,
) {
    let (output, count) = (Arc::clone(output), Arc::clone(count));
    tokio::spawn(async move {
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            output.lock().unwrap().push_str(&(line + "\n"));
            count.send_modify(|count| *count += 1);
        }
    });
}

/// A server that is SERVING.
pub struct Server {
    pub process: Process,
    pub addr: SocketAddr,
    pub users: UserServiceClient<Channel>,
    pub sessions: SessionServiceClient<Channel>,
    pub health: HealthClient<Channel>,
}

impl Server {
    /// On a port of its own.
    pub async fn start(database: &Database) -> Self {
        Self::start_with(database, []).await
    }

    pub async fn start_with<const N: usize>(
        database: &Database,
        environment: [(&str, &str); N],
    ) -> Self {
        let url = database.url();
        let args = ["--listen", "127.0.0.1:0", "--database-url", &url];
        Self::connect(Process::start_with(args, environment)).await
    }

    /// As soon as the process says that it serves.
    pub async fn connect(mut process: Process) -> Self {
        let line = process.line(r#""message":"serving""#).await;
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        let addr = line["listen"].as_str().unwrap().parse().unwrap();
        let channel = channel(addr).await.unwrap();
        Self {
            process,
            addr,
            users: UserServiceClient::new(channel.clone()),
            sessions: SessionServiceClient::new(channel.clone())
                .max_decoding_message_size(usize::MAX),
            health: HealthClient::new(channel),
        }
    }

    /// A stop as an operator does it.
    pub async fn stop(mut self) {
        self.process.signal(Signal::TERM);
        assert_eq!(self.process.exit_code().await, 0);
    }

    /// A crash.
    pub async fn kill(mut self) {
        self.process.signal(Signal::KILL);
        assert_eq!(self.process.exit().await.code(), None);
    }

    /// Adds a user that has nothing but an id.
    pub async fn add_user(&mut self, user_id: &str) -> users::User {
        self.add_user_with(users::AddRequest {
            user_id: user_id.to_owned(),
            ..Default::default()
        })
        .await
    }

    pub async fn add_user_with(&mut self, request: users::AddRequest) -> users::User {
        ok(self.users.add(request).await).user.unwrap()
    }

    pub async fn get_user(&mut self, user_id: &str) -> Result<users::User, Status> {
        let request = users::GetRequest {
            user_id: user_id.to_owned(),
        };
        let answer = self.users.get(request).await?;
        Ok(answer.into_inner().user.unwrap())
    }

    /// Adds a session that has nothing but an id.
    pub async fn add_session(&mut self, user_id: &str, session_id: &str) -> session::Session {
        let request = session::AddRequest {
            session_id: session_id.to_owned(),
            user_id: user_id.to_owned(),
            ..Default::default()
        };
        ok(self.sessions.add(request).await).session.unwrap()
    }

    pub async fn get_session(&mut self, session_id: &str) -> Result<session::Session, Status> {
        let request = session::GetRequest {
            session_id: session_id.to_owned(),
        };
        let answer = self.sessions.get(request).await?;
        Ok(answer.into_inner().session.unwrap())
    }

    /// Adds messages of the user.
    pub async fn say(&mut self, session_id: &str, contents: &[&str]) -> Vec<session::Message> {
        let request = session::AddMessagesRequest {
            session_id: session_id.to_owned(),
            messages: contents.iter().map(|content| said(content)).collect(),
            ..Default::default()
        };
        ok(self.sessions.add_messages(request).await).messages
    }
}

/// A message of the user, to be added.
pub fn said(content: &str) -> session::NewMessage {
    session::NewMessage {
        role: session::Role::User.into(),
        content: content.to_owned(),
        ..Default::default()
    }
}

pub async fn channel(addr: SocketAddr) -> Result<Channel, tonic::transport::Error> {
    Endpoint::try_from(format!("http://{addr}"))?
        .connect()
        .await
}

/// An address that nobody listens on. Somebody else could take it before it is used,
/// but ports are given out in turn.
pub fn free_addr() -> io::Result<SocketAddr> {
    std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()
}

/// The answer of a call that succeeded.
#[track_caller]
pub fn ok<T>(result: Result<Response<T>, Status>) -> T {
    match result {
        Ok(answer) => answer.into_inner(),
        Err(status) => panic!("{status:?} {:?}", status.get_error_details()),
    }
}

/// The details of a call that failed with this code and this reason of usher's.
#[track_caller]
pub fn failed<T: Debug>(result: Result<T, Status>, code: Code, reason: &str) -> ErrorDetails {
    let status = result.expect_err("the call fails");
    let details = status.get_error_details();
    assert_eq!(status.code(), code, "{status:?}");
    let info = details.error_info().expect("ErrorInfo is given");
    assert_eq!(
        (info.reason.as_str(), info.domain.as_str()),
        (reason, "usher")
    );
    details
}

/// The fields that a call was refused for.
#[track_caller]
pub fn refused_fields<T: Debug>(result: Result<T, Status>) -> Vec<String> {
    let details = failed(result, Code::InvalidArgument, "INVALID_FIELDS");
    let violations = &details
        .bad_request()
        .expect("BadRequest is given")
        .field_violations;
    assert!(
        violations
            .iter()
            .all(|violation| !violation.description.is_empty())
    );
    violations
        .iter()
        .map(|violation| violation.field.clone())
        .collect()
}

/// The type and the name of the resource that an error is about.
#[track_caller]
pub fn resource(details: &ErrorDetails) -> (&str, &str) {
    let info = details.resource_info().expect("ResourceInfo is given");
    (&info.resource_type, &info.resource_name)
}

/// A `Struct` from `serde_json::json!`.
pub fn object(json: serde_json::Value) -> Struct {
    match value(json).kind {
        Some(Kind::StructValue(object)) => object,
        other => panic!("not an object: {other:?}"),
    }
}

fn value(json: serde_json::Value) -> Value {
    use serde_json::Value as Json;
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(value),
        Json::Number(value) => Kind::NumberValue(value.as_f64().unwrap()),
        Json::String(value) => Kind::StringValue(value),
        Json::Array(values) => Kind::ListValue(ListValue {
            values: values.into_iter().map(value).collect(),
        }),
        Json::Object(object) => Kind::StructValue(Struct {
            fields: object
                .into_iter()
                .map(|(key, json)| (key, value(json)))
                .collect(),
        }),
    };
    Value { kind: Some(kind) }
}

/// Metadata at each of its limits: 32 levels, and 64 KiB.
pub fn largest_metadata() -> [Struct; 2] {
    [nested(32), of_bytes(64 * 1024)]
}

/// Metadata beyond each of its limits.
pub fn wrong_metadata() -> Vec<Struct> {
    let only = |kind| Struct {
        fields: [("a".to_owned(), Value { kind })].into(),
    };
    vec![
        nested(33),
        of_bytes(64 * 1024 + 1),
        only(Some(Kind::NumberValue(f64::NAN))),
        only(Some(Kind::NumberValue(f64::INFINITY))),
        only(Some(Kind::NumberValue(f64::NEG_INFINITY))),
        only(Some(Kind::StringValue("\0".to_owned()))),
        only(None),
        object(serde_json::json!({"\0": 1})),
        object(serde_json::json!({"a": [{"b\0": 1}]})),
    ]
}

/// An object in a list in an object in a … so that the whole has this many levels.
fn nested(levels: usize) -> Struct {
    let innermost = serde_json::json!({});
    let whole = (2..levels).fold(innermost, |inner, level| match level % 2 {
        0 => serde_json::json!([inner]),
        _ => serde_json::json!({"a": inner}),
    });
    object(serde_json::json!({"a": whole}))
}

/// `{"a":"…"}` of this many bytes.
fn of_bytes(bytes: usize) -> Struct {
    object(serde_json::json!({"a": "x".repeat(bytes - 8)}))
}

/// A time within the last minute, in whole microseconds.
#[track_caller]
pub fn assert_just_now(time: Option<prost_types::Timestamp>) {
    let time = time.expect("a time is given");
    assert_eq!(time.nanos % 1000, 0);
    let age = std::time::SystemTime::try_from(time).unwrap().elapsed();
    assert!(age.unwrap().as_secs() < 60);
}
