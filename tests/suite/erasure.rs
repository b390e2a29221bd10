//! Erasure, read from the disk: after a deletion no byte of what was erased is in
//! any file.

use std::{collections::HashSet, fs, path::Path};

use futures_util::{StreamExt, stream};
use sea_orm::{ConnectionTrait, Statement};
use serde_json::json;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use crate::support::{
    Database, Engine, Server, object, ok, said,
    session::{AddMessagesRequest, DeleteRequest as DeleteSession, NewMessage},
    user::{AddRequest, DeleteRequest, UpdateRequest},
};

/// What is left of a secret is found if it is at least this long.
const TRACE: usize = 12;

/// The promise of the contract.
const WITHIN: std::time::Duration = std::time::Duration::from_mins(1);

/// Hexadecimal digits that nobody else has, in any part of them that is long enough to
/// be a trace.
fn secret() -> String {
    // The random half of two UUIDs.
    let random = || Uuid::now_v7().simple().to_string()[16..].to_owned();
    random() + &random()
}

/// Everything personal that a user ever had.
struct Person {
    user_id: String,
    sessions: Vec<String>,
    secrets: Vec<String>,
}

fn sessions_of(number: usize) -> usize {
    2_usize.saturating_sub(number % 4)
}

/// Adds a user with a secret in every field, at most two sessions, and messages of which some
/// are longer than a page of the file; and replaces some of it.
async fn add_person(mut server: Clients, number: usize) -> Person {
    let mut secrets = Vec::new();
    let mut fresh = || {
        secrets.push(secret());
        secrets[secrets.len() - 1].clone()
    };
    let user_id = fresh();
    let user = AddRequest {
        user_id: user_id.clone(),
        email: Some(fresh()),
        first_name: Some(fresh()),
        last_name: Some(fresh()),
        metadata: Some(object(json!({fresh(): [fresh(), {"nested": fresh()}]}))),
        request_id: None,
    };
    ok(server.users.add(user).await);
    let mut sessions = Vec::new();
    for _ in 0..sessions_of(number) {
        let session_id = fresh();
        let session = usher::pb::session::v1::AddRequest {
            session_id: session_id.clone(),
            user_id: user_id.clone(),
            metadata: Some(object(json!({"topic": fresh()}))),
            request_id: Some(Uuid::now_v7().to_string()),
        };
        ok(server.sessions.add(session).await);
        let long = fresh().repeat(1 + (number % 7) * 30);
        let messages = AddMessagesRequest {
            session_id: session_id.clone(),
            messages: vec![
                said(&long),
                NewMessage {
                    name: Some(fresh()),
                    metadata: Some(object(json!({"mood": fresh()}))),
                    ..said(&fresh())
                },
            ],
            request_id: Some(Uuid::now_v7().to_string()),
        };
        ok(server.sessions.add_messages(messages).await);
        sessions.push(session_id);
    }
    let change = UpdateRequest {
        user_id: user_id.clone(),
        email: Some(fresh() + &"x".repeat(number % 300)),
        metadata: Some(object(json!({"more": fresh()}))),
        ..Default::default()
    };
    ok(server.users.update(change).await);
    Person {
        user_id,
        sessions,
        secrets,
    }
}

async fn erase(mut server: Clients, person: &Person) {
    let request = DeleteRequest {
        user_id: person.user_id.clone(),
        ..Default::default()
    };
    let receipt = ok(server.users.delete(request).await).receipt.unwrap();
    let sessions = i64::try_from(person.sessions.len()).unwrap();
    assert_eq!(
        (receipt.sessions_deleted, receipt.messages_deleted),
        (sessions, 2 * sessions)
    );
}

#[derive(Clone)]
struct Clients {
    users: usher::pb::user::v1::user_service_client::UserServiceClient<tonic::transport::Channel>,
    sessions: usher::pb::session::v1::session_service_client::SessionServiceClient<
        tonic::transport::Channel,
    >,
}

fn clients(server: &Server) -> Clients {
    Clients {
        users: server.users.clone(),
        sessions: server.sessions.clone(),
    }
}

async fn add_people(server: &Server, numbers: std::ops::Range<usize>) -> Vec<Person> {
    stream::iter(numbers)
        .map(|number| add_person(clients(server), number))
        .buffer_unordered(32)
        .collect()
        .await
}

/// How many traces of the secrets there are in the folder's files.
fn traces<'a>(folder: &Path, secrets: impl Iterator<Item = &'a String>) -> usize {
    let known: HashSet<u64> = secrets
        .flat_map(|secret| windows(secret.as_bytes()))
        .collect();
    // Most windows are nobody's, and this says so faster than the set does.
    let mut maybe = vec![false; 1 << 20];
    for window in &known {
        maybe[low_bits(*window)] = true;
    }
    let is_known = |window: &u64| maybe[low_bits(*window)] && known.contains(window);
    let files = fs::read_dir(folder).unwrap();
    files
        .filter_map(|file| fs::read(file.unwrap().path()).ok())
        .map(|bytes| windows(&bytes).filter(is_known).count())
        .sum()
}

/// Every run of `TRACE` hexadecimal digits, as a number.
fn windows(bytes: &[u8]) -> impl Iterator<Item = u64> {
    let (mut window, mut length) = (0_u64, 0);
    bytes.iter().filter_map(move |byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => {
                length = 0;
                return None;
            }
        };
        length += 1;
        window = (window << 4 | u64::from(digit)) & ((1 << (4 * TRACE)) - 1);
        (length >= TRACE).then_some(window)
    })
}

fn low_bits(window: u64) -> usize {
    usize::try_from(window & 0xf_ffff).unwrap()
}

fn secrets<'a>(people: impl IntoIterator<Item = &'a Person>) -> impl Iterator<Item = &'a String> {
    people.into_iter().flat_map(|person| &person.secrets)
}

/// Waits until no trace is left, looking again whenever the server logs something.
async fn until_clean(server: &mut Server, database: &Database, erased: &[Person]) {
    let deadline = Instant::now() + WITHIN;
    loop {
        let seen = server.process.lines_printed();
        let left = traces(database.folder(), secrets(erased));
        if left == 0 {
            return;
        }
        let printed = timeout_at(deadline, server.process.prints_after(seen)).await;
        assert!(
            printed.is_ok(),
            "{left} traces are left:\n{}",
            server.process.output()
        );
    }
}

async fn assert_whole(database: &Database) {
    let connection = database.open().await;
    let statement =
        Statement::from_string(connection.get_database_backend(), "PRAGMA integrity_check");
    let row = connection.query_one_raw(statement).await.unwrap().unwrap();
    assert_eq!(row.try_get_by_index::<String>(0).unwrap(), "ok");
}

#[tokio::test]
async fn nothing_of_hundreds_of_erased_users_is_left_in_any_file() {
    let database = Database::new(Engine::Sqlite);
    let mut server = Server::start(&database).await;
    let mut kept = add_people(&server, 0..1500).await;
    let erased: Vec<Person> = kept.drain(100..500).collect();
    assert!(traces(database.folder(), secrets(&erased)) > 0);

    // While others come, which splits pages that hold the erased.
    let erasing =
        stream::iter(&erased).for_each_concurrent(8, |person| erase(clients(&server), person));
    let (more, ()) = tokio::join!(add_people(&server, 1500..2000), erasing);
    kept.extend(more);
    until_clean(&mut server, &database, &erased).await;

    assert_whole(&database).await;
    for person in &kept {
        let user = server.get_user(&person.user_id).await.unwrap();
        assert_eq!(
            user.session_count,
            i64::try_from(person.sessions.len()).unwrap()
        );
    }
    // The others are still there, to the letter.
    let connection = database.open().await;
    connection
        .execute_unprepared("PRAGMA wal_checkpoint(TRUNCATE)")
        .await
        .unwrap();
    assert!(traces(database.folder(), secrets(&kept)) > kept.len());
    server.stop().await;
    assert_eq!(traces(database.folder(), secrets(&erased)), 0);
}

#[tokio::test]
async fn an_erased_session_leaves_nothing_either() {
    let database = Database::new(Engine::Sqlite);
    let mut server = Server::start(&database).await;
    let people = add_people(&server, 0..60).await;
    let mut erased = Vec::new();
    for person in &people {
        for session_id in &person.sessions {
            let request = DeleteSession {
                session_id: session_id.clone(),
                ..Default::default()
            };
            ok(server.sessions.delete(request).await);
            erased.push(Person {
                user_id: String::new(),
                sessions: Vec::new(),
                secrets: vec![session_id.clone()],
            });
        }
    }
    until_clean(&mut server, &database, &erased).await;
    assert_whole(&database).await;
}

#[tokio::test]
async fn a_scrub_that_a_crash_prevented_is_done_at_the_next_start() {
    let database = Database::new(Engine::Sqlite);
    let server = Server::start(&database).await;
    let mut erased = add_people(&server, 0..100).await;
    let kept = erased.split_off(50);
    for person in &erased {
        erase(clients(&server), person).await;
    }
    server.kill().await;
    assert!(traces(database.folder(), secrets(&erased)) > 0);

    let mut server = Server::start(&database).await;
    until_clean(&mut server, &database, &erased).await;
    for person in &kept {
        server.get_user(&person.user_id).await.unwrap();
    }
    assert_whole(&database).await;
}

#[tokio::test]
async fn a_server_that_stops_scrubs_first() {
    let database = Database::new(Engine::Sqlite);
    let server = Server::start(&database).await;
    let mut erased = add_people(&server, 0..50).await;
    let _kept = erased.split_off(25);
    for person in &erased {
        erase(clients(&server), person).await;
    }
    server.stop().await;
    assert_eq!(traces(database.folder(), secrets(&erased)), 0);
    // So few leave no trace as a rule; that it looked for one is in its own books.
    let connection = database.open().await;
    let left = Statement::from_string(
        connection.get_database_backend(),
        "SELECT wanted - done FROM scrub",
    );
    let left = connection.query_one_raw(left).await.unwrap().unwrap();
    assert_eq!(left.try_get_by_index::<i64>(0).unwrap(), 0);
}
