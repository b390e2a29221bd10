//! Defects: what a caller and an operator learn of them.

use sea_orm::ConnectionTrait;
use tonic::Code;

use crate::support::{Database, Engine, Server, failed};

#[tokio::test]
async fn an_internal_error_says_nothing_to_the_caller_and_all_to_the_log_once() {
    let database = Database::new(Engine::Sqlite);
    let mut server = Server::start(&database).await;
    server.add_user("jane").await;
    let connection = database.open().await;
    let damage = "ALTER TABLE sessions RENAME COLUMN metadata TO lost";
    connection.execute_unprepared(damage).await.unwrap();

    let status = server.get_session("session").await.unwrap_err();
    assert_eq!(status.message(), "internal error");
    let shown = format!("{status:?}");
    failed::<()>(Err(status), Code::Internal, "INTERNAL");
    assert!(!shown.contains("column"), "{shown}");

    let line = server.process.line("a call failed").await;
    assert!(
        line.contains("ERROR") && line.contains("no such column"),
        "{line}"
    );
    server.get_user("jane").await.unwrap();
    let output = server.process.output();
    assert_eq!(output.matches("no such column").count(), 1, "{output}");
}
