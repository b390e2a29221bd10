//! A PostgreSQL that stops, freezes, comes back, or has too much to do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};
use sea_orm::ConnectionTrait;
use tonic::{Code, Status, Streaming};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus::{NotServing, Serving},
};
use uuid::Uuid;

use crate::{
    postgres::{self, Cluster},
    support::{
        Database, Engine, Server, Signal, failed, ok, said,
        session::{AddMessagesRequest, DeleteRequest as DeleteSession},
        user::{AddRequest, DeleteRequest, GetRequest, ListOrderedRequest},
    },
};

/// How soon calls must work again when the database does.
const SOON: Duration = Duration::from_secs(5);

fn add(user_id: &str) -> AddRequest {
    AddRequest {
        user_id: user_id.to_owned(),
        request_id: Some(Uuid::now_v7().to_string()),
        ..Default::default()
    }
}

async fn watch(server: &mut Server) -> Streaming<HealthCheckResponse> {
    let mut watch = ok(server.health.watch(HealthCheckRequest::default()).await);
    assert_eq!(next(&mut watch).await, Serving as i32);
    watch
}

async fn next(watch: &mut Streaming<HealthCheckResponse>) -> i32 {
    watch.message().await.unwrap().unwrap().status
}

async fn works_again_soon(server: &mut Server) {
    let begun = Instant::now();
    while let Err(status) = server.get_user("jane").await {
        assert!(begun.elapsed() < SOON, "{status:?}");
    }
    while let Err(status) = server.users.add(add(&Uuid::now_v7().to_string())).await {
        assert!(begun.elapsed() < SOON, "{status:?}");
    }
}

#[tokio::test]
async fn a_database_that_is_away_is_unavailable_until_it_is_back() {
    let Some(mut cluster) = Cluster::new() else {
        return;
    };
    let mut server = Server::start(&Database::of(&cluster)).await;
    server.add_user("jane").await;
    let mut watch = watch(&mut server).await;
    // So that every connection is there, and dies.
    let calls = join_all((0..64).map(|number| {
        let mut users = server.users.clone();
        async move { users.add(add(&format!("user {number}"))).await }
    }));
    for call in calls.await {
        ok(call);
    }
    cluster.stop();
    let (mut reader, mut writer, mut lister) = (
        server.users.clone(),
        server.users.clone(),
        server.users.clone(),
    );
    let get = GetRequest {
        user_id: "jane".to_owned(),
    };
    let (read, added, page) = tokio::join!(
        reader.get(get),
        writer.add(add("john")),
        lister.list_ordered(ListOrderedRequest::default()),
    );
    for call in [read.map(drop), added.map(drop), page.map(drop)] {
        let details = failed(call, Code::Unavailable, "STORE_UNAVAILABLE");
        assert!(details.retry_info().unwrap().retry_delay.is_some());
    }
    assert_eq!(next(&mut watch).await, NotServing as i32);

    cluster.start();
    // No call meets a connection that died with the server.
    server.get_user("jane").await.unwrap();
    ok(server.users.add(add("back")).await);
    assert_eq!(next(&mut watch).await, Serving as i32);
    assert!(!server.process.output().contains("panicked"));
}

#[tokio::test]
async fn a_database_that_freezes_lets_no_call_hang() {
    let Some(cluster) = Cluster::new() else {
        return;
    };
    let environment = [("USHER_REQUEST_TIMEOUT", "1s")];
    let mut server = Server::start_with(&Database::of(&cluster), environment).await;
    server.add_user("jane").await;
    let mut watch = watch(&mut server).await;
    cluster.signal(Signal::STOP);
    let lists = join_all((0..4).map(|_| {
        let mut users = server.users.clone();
        async move {
            users
                .list_ordered(ListOrderedRequest::default())
                .await
                .map(drop)
        }
    }));
    let mut calls = lists.await;
    calls.push(server.get_user("jane").await.map(drop));
    calls.push(server.users.add(add("john")).await.map(drop));
    for call in calls {
        assert_eq!(call.unwrap_err().code(), Code::DeadlineExceeded);
    }
    assert_eq!(next(&mut watch).await, NotServing as i32);
    cluster.signal(Signal::CONT);
    works_again_soon(&mut server).await;
    assert_eq!(next(&mut watch).await, Serving as i32);
    // No connection was left inside a transaction that nobody ends.
    let lists = join_all((0..40).map(|_| {
        let mut users = server.users.clone();
        async move { users.list_ordered(ListOrderedRequest::default()).await }
    }));
    for list in lists.await {
        ok(list);
    }
}

/// Whether a call is to be sent again.
fn is_passing(status: &Status) -> bool {
    [
        Code::Unavailable,
        Code::DeadlineExceeded,
        Code::ResourceExhausted,
    ]
    .contains(&status.code())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_write_is_lost_and_none_is_applied_twice() {
    let Some(mut cluster) = Cluster::new() else {
        return;
    };
    let mut server = Server::start(&Database::of(&cluster)).await;
    server.add_user("jane").await;
    server.add_session("jane", "session").await;
    let (acknowledged, stop) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let (mut users, mut sessions) = (server.users.clone(), server.sessions.clone());
            let (acknowledged, stop) = (Arc::clone(&acknowledged), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut written = 0;
                while !stop.load(Ordering::Relaxed) {
                    let user = add(&format!("user {writer} {written}"));
                    while let Err(status) = users.add(user.clone()).await {
                        assert!(is_passing(&status), "{status:?}");
                    }
                    let message = AddMessagesRequest {
                        session_id: "session".to_owned(),
                        messages: vec![said("hello")],
                        request_id: Some(Uuid::now_v7().to_string()),
                    };
                    while let Err(status) = sessions.add_messages(message.clone()).await {
                        assert!(is_passing(&status), "{status:?}");
                    }
                    written += 1;
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                written
            })
        })
        .collect();
    for round in 1..=3 {
        while acknowledged.load(Ordering::Relaxed) < 60 * round {
            tokio::task::yield_now().await;
        }
        cluster.stop();
        cluster.start();
    }
    stop.store(true, Ordering::Relaxed);
    let written = join_all(writers)
        .await
        .into_iter()
        .map(Result::unwrap)
        .sum::<i64>();

    works_again_soon(&mut server).await;
    // And those of jane and of the last line.
    let listed = ok(server
        .users
        .list_ordered(ListOrderedRequest::default())
        .await);
    assert_eq!(listed.total_count, written + 2);
    assert_eq!(
        server.get_session("session").await.unwrap().message_count,
        written
    );
}

#[tokio::test]
async fn a_pool_that_is_exhausted_turns_calls_away() {
    if postgres::is_missing() {
        return;
    }
    let database = Database::new(Engine::Postgres);
    let mut server = Server::start(&database).await;
    server.add_user("jane").await;
    let connection = database.open().await;
    let lock = "BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE";
    connection.execute_unprepared(lock).await.unwrap();
    let mut calls: FuturesUnordered<_> = (0..60)
        .map(|_| {
            let mut users = server.users.clone();
            let request = GetRequest {
                user_id: "jane".to_owned(),
            };
            async move { users.get(request).await }
        })
        .collect();
    // Those that find no place are told so while the others still wait for the lock.
    let details = failed(
        calls.next().await.unwrap(),
        Code::ResourceExhausted,
        "OVERLOADED",
    );
    assert!(details.retry_info().unwrap().retry_delay.is_some());
    connection.execute_unprepared("ROLLBACK").await.unwrap();
    let answers: Vec<_> = calls.collect().await;
    assert!(answers.iter().any(Result::is_ok));
    for refusal in answers.into_iter().filter(Result::is_err) {
        failed(refusal, Code::ResourceExhausted, "OVERLOADED");
    }
    server.get_user("jane").await.unwrap();
}

#[tokio::test]
async fn writes_that_are_in_each_others_way_are_run_again() {
    if postgres::is_missing() {
        return;
    }
    let database = Database::new(Engine::Postgres);
    let mut server = Server::start(&database).await;
    for round in 0..20 {
        let user_id = format!("user {round}");
        server.add_user(&user_id).await;
        let sessions: Vec<_> = (0..6).map(|number| format!("{user_id} {number}")).collect();
        for session_id in &sessions {
            server.add_session(&user_id, session_id).await;
        }
        // A user is erased, who locks the sessions, while each session is, which locks
        // the user, and gets messages.
        let erase = DeleteRequest {
            user_id,
            ..Default::default()
        };
        let mut users = server.users.clone();
        let sessions = sessions.into_iter().map(|session_id| {
            let (mut erasing, mut adding) = (server.sessions.clone(), server.sessions.clone());
            async move {
                let erase = DeleteSession {
                    session_id: session_id.clone(),
                    ..Default::default()
                };
                let messages = AddMessagesRequest {
                    session_id,
                    messages: vec![said("hello"); 20],
                    ..Default::default()
                };
                let (erased, added) =
                    tokio::join!(erasing.delete(erase), adding.add_messages(messages));
                [erased.map(drop), added.map(drop)]
            }
        });
        let (erased, others) = tokio::join!(users.delete(erase), join_all(sessions));
        ok(erased);
        for answer in others.into_iter().flatten() {
            let code = answer.map_or_else(|status| status.code(), |()| Code::Ok);
            assert!([Code::Ok, Code::NotFound].contains(&code), "{code:?}");
        }
    }
    let listed = ok(server
        .users
        .list_ordered(ListOrderedRequest::default())
        .await);
    assert_eq!(listed.total_count, 0);
    let sessions = usher::pb::session::v1::ListOrderedRequest::default();
    assert_eq!(
        ok(server.sessions.list_ordered(sessions).await).total_count,
        0
    );
}
