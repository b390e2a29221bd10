//! The program: its command line, its exit codes, its logs, and how it stops.

use futures_util::future::join_all;
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};
use tokio::{process::Command, time::timeout};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus::NotServing};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;

use crate::{
    postgres,
    support::{
        Database, Engine, PATIENCE, Process, Server, Signal, channel, free_addr, object, ok, said,
        session::AddMessagesRequest,
        user::{AddRequest, ListOrderedRequest, UpdateRequest},
    },
};

/// What a process that fails says: exactly one line, on standard error.
async fn failure<const N: usize, const M: usize>(
    args: [&str; N],
    environment: [(&str, &str); M],
    code: i32,
) -> String {
    let process = Command::new(env!("CARGO_BIN_EXE_usher"))
        .args(args)
        .env_clear()
        .envs(environment)
        .kill_on_drop(true)
        .output();
    let output = timeout(PATIENCE, process).await.expect("it ends").unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("error: "), "{said}");
    assert_eq!(output.stdout, b"");
    said
}

#[tokio::test]
async fn help_explains_every_flag_and_variable() {
    for command in ["--help", "serve"] {
        let mut process = Process::start([command, "--help"]);
        assert_eq!(process.exit_code().await, 0);
        let help = process.output();
        for (flag, variable, default) in [
            ("--listen", "USHER_LISTEN", "127.0.0.1:50051"),
            (
                "--database-url",
                "USHER_DATABASE_URL",
                "sqlite://usher.db?mode=rwc",
            ),
            ("--migrate", "USHER_MIGRATE", "auto"),
            ("--request-timeout", "USHER_REQUEST_TIMEOUT", "30s"),
            ("--drain-timeout", "USHER_DRAIN_TIMEOUT", "20s"),
            ("--max-message-bytes", "USHER_MAX_MESSAGE_BYTES", "4194304"),
            ("--log-format", "USHER_LOG_FORMAT", "text on a terminal"),
        ] {
            for text in [flag, variable, default] {
                assert!(help.contains(text), "{text} in {help}");
            }
        }
    }
    let mut process = Process::start(["--help"]);
    process.exit_code().await;
    for command in ["serve", "migrate", "health"] {
        assert!(process.output().contains(&format!("\n  {command} ")));
    }
    // It shows no secret of the environment.
    let url = ("USHER_DATABASE_URL", "sqlite://hunter2.db");
    let mut process = Process::start_with(["--help"], [url]);
    assert_eq!(process.exit_code().await, 0);
    assert!(!process.output().contains("hunter2"));
}

#[tokio::test]
async fn plain_usher_serves_and_so_does_usher_serve() {
    for command in [
        &["serve", "--listen", "127.0.0.1:0"],
        &["--listen", "127.0.0.1:0", "--log-format=json"][..],
    ] {
        let database = Database::new(Engine::Sqlite);
        let url = database.url();
        let process = match *command {
            [one, two, three] => {
                Process::start_with([one, two, three], [("USHER_DATABASE_URL", &url)])
            }
            _ => unreachable!("every command has three words"),
        };
        let mut server = Server::connect(process).await;
        server.add_user("jane").await;
        let output = server.process.output();
        let ready: Vec<_> = output
            .lines()
            .filter(|line| line.contains(&server.addr.to_string()))
            .collect();
        assert_eq!(ready.len(), 1, "{output}");
        server.stop().await;
    }
}

#[tokio::test]
async fn a_malformed_flag_or_variable_is_a_usage_error() {
    for args in [
        ["--listen", "nonsense"],
        ["--listen", "127.0.0.1"],
        ["--request-timeout", "0s"],
        ["--request-timeout", "fast"],
        ["--request-timeout", "300000000000y"],
        ["--drain-timeout", "25h"],
        ["--drain-timeout", "-1s"],
        ["--max-message-bytes", "1"],
        ["--max-message-bytes", "4 MiB"],
        ["--log-format", "xml"],
        ["--nonsense", "1"],
        ["nonsense", "1"],
        ["--database-url", "nonsense"],
        ["--database-url", "sqlite::memory:"],
        ["--database-url", "sqlite://x?mode=memory"],
        ["--database-url", "sqlite://x?mode=nonsense"],
        ["--database-url", "mysql://user:hunter2@host/name"],
    ] {
        let said = failure(args, [], 2).await;
        assert!(!said.contains("hunter2"));
    }
    for variable in [
        ("USHER_LISTEN", "nonsense"),
        ("USHER_REQUEST_TIMEOUT", "nonsense"),
        ("USHER_DRAIN_TIMEOUT", "nonsense"),
        ("USHER_MAX_MESSAGE_BYTES", "nonsense"),
        ("USHER_LOG_FORMAT", "nonsense"),
        ("USHER_MIGRATE", "nonsense"),
        ("USHER_DATABASE_URL", "nonsense"),
    ] {
        failure([], [variable], 2).await;
    }
}

#[tokio::test]
async fn a_port_in_use_is_one_clear_line() {
    let database = Database::new(Engine::Sqlite);
    let server = Server::start(&database).await;
    let (addr, other) = (server.addr.to_string(), Database::new(Engine::Sqlite));
    let said = failure(["--listen", &addr, "--database-url", &other.url()], [], 1).await;
    assert!(said.contains(&addr), "{said}");
}

#[tokio::test]
async fn a_database_that_cannot_be_opened_is_one_clear_line() {
    let database = Database::new(Engine::Sqlite);
    let folder = database.folder().display();
    std::fs::write(
        database.folder().join("text"),
        "this is no database, but long enough".repeat(99),
    )
    .unwrap();
    for (path, why) in [
        ("missing/usher.db?mode=rwc", "unable to open"),
        ("missing.db", "unable to open"),
        ("?mode=rwc", "unable to open"),
        ("text", "not a database"),
    ] {
        let url = format!("sqlite://{folder}/{path}");
        for command in ["serve", "migrate"] {
            let args = [command, "--database-url", &url];
            let environment = [("USHER_LISTEN", "127.0.0.1:0")];
            let said = failure(args, environment, 1).await;
            assert!(said.contains("database") && said.contains(why), "{said}");
        }
    }
}

#[tokio::test]
async fn a_database_from_a_newer_version_is_refused_and_left_alone() {
    let database = Database::new(Engine::Sqlite);
    let url = database.url();
    assert_eq!(
        Process::start(["migrate", "--database-url", &url])
            .exit_code()
            .await,
        0
    );
    let connection = database.open().await;
    let newer = "INSERT INTO seaql_migrations (version, applied_at) VALUES ('m9999_future', 0)";
    connection.execute_unprepared(newer).await.unwrap();
    connection.close().await.unwrap();
    let before = std::fs::read(database.file()).unwrap();
    for command in ["serve", "migrate"] {
        let args = [command, "--database-url", &url];
        let said = failure(args, [("USHER_LISTEN", "127.0.0.1:0")], 1).await;
        assert!(
            said.contains("newer") && said.contains("m9999_future"),
            "{said}"
        );
    }
    assert_eq!(std::fs::read(database.file()).unwrap(), before);
}

#[tokio::test]
async fn a_newer_schema_on_postgres_is_refused_too() {
    if postgres::is_missing() {
        return;
    }
    let database = Database::new(Engine::Postgres);
    let url = database.url();
    assert_eq!(
        Process::start(["migrate", "--database-url", &url])
            .exit_code()
            .await,
        0
    );
    let connection = database.open().await;
    let newer = "INSERT INTO seaql_migrations (version, applied_at) VALUES ('m9999_future', 0)";
    connection.execute_unprepared(newer).await.unwrap();
    connection.close().await.unwrap();
    for command in ["serve", "migrate"] {
        let environment = [("USHER_LISTEN", "127.0.0.1:0")];
        let said = failure([command, "--database-url", &url], environment, 1).await;
        assert!(
            said.contains("newer") && said.contains("m9999_future"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn a_server_that_must_not_migrate_refuses_what_needs_it() {
    for engine in postgres::engines() {
        let database = Database::new(engine);
        let url = database.url();
        let environment = [("USHER_MIGRATE", "never")];
        let args = ["--listen", "127.0.0.1:0", "--database-url", &url];
        let said = failure(args, environment, 1).await;
        assert!(
            said.contains("m0001") && said.contains("usher migrate"),
            "{said}"
        );
        let mut migrate = Process::start(["migrate", "--database-url", &url]);
        assert_eq!(migrate.exit_code().await, 0);
        Server::start_with(&database, environment)
            .await
            .add_user("jane")
            .await;
    }
}

#[tokio::test]
async fn a_server_of_postgres_that_is_not_there_is_one_clear_line_without_its_password() {
    let nobody = free_addr().unwrap();
    let url = format!("postgres://user:hunter2@{nobody}/usher");
    let environment = [("USHER_LISTEN", "127.0.0.1:0")];
    let said = failure(["--database-url", &url], environment, 1).await;
    assert!(
        said.contains("cannot open the database") && !said.contains("hunter2"),
        "{said}"
    );
}

#[tokio::test]
async fn a_database_is_migrated_once_however_many_try() {
    for engine in postgres::engines() {
        let database = Database::new(engine);
        let url = database.url();
        let migrate = || async {
            let mut process = Process::start(["migrate", "--database-url", &url]);
            (process.exit_code().await, process.output())
        };
        for (code, output) in join_all((0..10).map(|_| migrate())).await {
            assert_eq!(code, 0, "{engine:?}: {output}");
        }
        Server::start(&database).await.add_user("jane").await;
        // And it changes nothing that is there.
        assert_eq!(migrate().await.0, 0);
        let mut server = Server::start(&database).await;
        server.get_user("jane").await.unwrap();
    }
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let database = Database::new(Engine::Sqlite);
    let mut server = Server::start(&database).await;
    let user = server.add_user("jane").await;
    server.stop().await;
    let mut server = Server::start(&database).await;
    assert_eq!(server.get_user("jane").await.unwrap(), user);
}

#[tokio::test]
async fn a_signal_drains_the_server() {
    for signal in [Signal::TERM, Signal::INT] {
        let database = Database::new(Engine::Sqlite);
        let mut server = Server::start(&database).await;
        let mut watch = ok(server.health.watch(HealthCheckRequest::default()).await);
        watch.message().await.unwrap();

        // A call that stays in flight for as long as the lock is held.
        let lock = database.lock().await;
        let mut users = server.users.clone();
        let (about_to_call, called) = tokio::sync::oneshot::channel();
        let in_flight = tokio::spawn(async move {
            let request = AddRequest {
                user_id: "jane".to_owned(),
                ..Default::default()
            };
            let _ = about_to_call.send(());
            users.add(request).await
        });
        called.await.unwrap();
        // Calls on one connection arrive in their order, so by now the other has too.
        server.get_user("nobody").await.unwrap_err();

        server.process.signal(signal);
        assert_eq!(watch.message().await.unwrap().unwrap().status(), NotServing);
        assert_eq!(watch.message().await.unwrap(), None);
        while channel(server.addr).await.is_ok() {
            tokio::task::yield_now().await;
        }
        assert!(!in_flight.is_finished());
        lock.rollback().await.unwrap();
        assert_eq!(ok(in_flight.await.unwrap()).user.unwrap().user_id, "jane");
        assert_eq!(server.process.exit_code().await, 0);
    }
}

#[tokio::test]
async fn the_drain_is_bounded() {
    let database = Database::new(Engine::Sqlite);
    let environment = [("USHER_DRAIN_TIMEOUT", "200ms")];
    let mut server = Server::start_with(&database, environment).await;
    // A stream that its caller does not end, and a write that waits for a lock.
    let mut reflection = ServerReflectionClient::new(channel(server.addr).await.unwrap());
    let asked = futures_util::stream::pending();
    let _endless = ok(reflection.server_reflection_info(asked).await);
    let lock = database.lock().await;
    let mut users = server.users.clone();
    let in_flight = tokio::spawn(async move {
        let request = AddRequest {
            user_id: "jane".to_owned(),
            ..Default::default()
        };
        users.add(request).await
    });
    server.get_user("nobody").await.unwrap_err();
    server.process.signal(Signal::TERM);
    // Both still go on when it exits.
    assert_eq!(server.process.exit_code().await, 0);
    in_flight.await.unwrap().unwrap_err();
    drop(lock);
}

#[tokio::test]
async fn a_signal_ends_a_server_that_is_still_opening_its_database() {
    let database = Database::new(Engine::Sqlite);
    let url = database.url();
    assert_eq!(
        Process::start(["migrate", "--database-url", &url])
            .exit_code()
            .await,
        0
    );
    let _lock = database.lock().await;
    let addr = free_addr().unwrap();
    let listen = addr.to_string();
    let mut process = Process::start(["--listen", &listen, "--database-url", &url]);
    while channel(addr).await.is_err() {
        tokio::task::yield_now().await;
    }
    process.signal(Signal::TERM);
    assert_eq!(process.exit_code().await, 0);
}

#[tokio::test]
async fn logs_are_text_or_json() {
    let database = Database::new(Engine::Sqlite);
    let url = database.url();
    let environment = [("USHER_DATABASE_URL", url.as_str())];
    let mut json = Process::start_with(["migrate"], environment);
    json.exit_code().await;
    for line in json.output().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert!(
            line["timestamp"].is_string() && line["level"] == "INFO",
            "{line}"
        );
    }
    let mut text = Process::start_with(["migrate", "--log-format", "text"], environment);
    text.exit_code().await;
    assert!(text.output().contains(" INFO usher::"), "{}", text.output());
    assert!(!text.output().contains('\u{1b}'));
}

#[tokio::test]
async fn no_personal_data_is_logged_at_any_level() {
    const SECRET: &str = "tiger-lily";
    let secret = |number: u8| format!("{SECRET}-{number}");
    let database = Database::new(Engine::Sqlite);
    let mut server = Server::start_with(&database, [("RUST_LOG", "trace")]).await;
    for _ in 0..2 {
        // The second one fails, and its error names the user.
        let added = server.users.add(AddRequest {
            user_id: secret(0),
            email: Some(secret(1)),
            first_name: Some(secret(2)),
            last_name: Some(secret(3)),
            metadata: Some(object(json!({ secret(4): secret(5) }))),
            request_id: None,
        });
        let _ = added.await;
    }
    let wrong = UpdateRequest {
        user_id: secret(0),
        first_name: Some(format!("{SECRET}\0")),
        etag: Some(secret(6)),
        ..Default::default()
    };
    assert_eq!(
        server.users.update(wrong).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    server.add_session(&secret(0), &secret(7)).await;
    let mut message = said(&secret(8));
    message.name = Some(secret(9));
    let messages = AddMessagesRequest {
        session_id: secret(7),
        messages: vec![message],
        ..Default::default()
    };
    ok(server.sessions.add_messages(messages).await);
    let list = ListOrderedRequest {
        email: Some(secret(1)),
        ..Default::default()
    };
    assert_eq!(ok(server.users.list_ordered(list).await).row_count, 1);
    let mut erase = usher::pb::user::v1::DeleteRequest {
        user_id: secret(0),
        ..Default::default()
    };
    ok(server.users.delete(erase.clone()).await);
    erase.allow_missing = false;
    server.users.delete(erase).await.unwrap_err();
    server.process.signal(Signal::TERM);
    server.process.exit_code().await;
    let output = server.process.output();
    assert!(output.lines().count() > 2, "{output}");
    assert!(!output.contains(SECRET), "{output}");
}
