//! Crashes: a server that is killed under write load, many rounds on one file, has
//! every write that it acknowledged, and none in half.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::watch;
use tonic::Code;

use crate::{
    postgres,
    support::{
        Database, Engine, Server, ok, said,
        session::{
            AddMessagesRequest, AddRequest as AddSession, ListMessagesRequest,
            ListOrderedRequest as ListSessions, Session,
        },
        user::{AddRequest, DeleteRequest, ListOrderedRequest, User},
    },
};

const ROUNDS: usize = 12;
const WRITERS: usize = 8;
/// How many messages a writer adds to each of its users.
const MESSAGES: i64 = 3;

/// How far a user's life is known to have come. Each step is noted before its call is
/// sent and again when it is answered.
#[derive(Clone, Copy, Debug, Default)]
struct Life {
    sent: Step,
    answered: Step,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    #[default]
    Nothing,
    Added,
    WithSession,
    WithMessages,
    Deleted,
}

type Lives = Arc<Mutex<BTreeMap<String, Life>>>;

/// Lives one user's life after another until the server is gone.
async fn write(mut server: Writer, lives: Lives, acknowledged: watch::Sender<usize>) {
    loop {
        let number = server.next.fetch_add(1, Ordering::Relaxed);
        let user_id = format!("user-{number}");
        for step in [
            Step::Added,
            Step::WithSession,
            Step::WithMessages,
            Step::Deleted,
        ] {
            // Every third user stays.
            if step == Step::Deleted && number.is_multiple_of(3) {
                break;
            }
            lives
                .lock()
                .unwrap()
                .entry(user_id.clone())
                .or_default()
                .sent = step;
            if !server.take(step, &user_id).await {
                return;
            }
            lives
                .lock()
                .unwrap()
                .entry(user_id.clone())
                .or_default()
                .answered = step;
            acknowledged.send_modify(|count| *count += 1);
        }
    }
}

struct Writer {
    users: usher::pb::user::v1::user_service_client::UserServiceClient<tonic::transport::Channel>,
    sessions: usher::pb::session::v1::session_service_client::SessionServiceClient<
        tonic::transport::Channel,
    >,
    next: Arc<AtomicUsize>,
}

impl Writer {
    /// Whether the server acknowledged the step.
    async fn take(&mut self, step: Step, user_id: &str) -> bool {
        let user_id = user_id.to_owned();
        let session_id = format!("session of {user_id}");
        match step {
            Step::Nothing => true,
            Step::Added => {
                let request = AddRequest {
                    user_id,
                    ..Default::default()
                };
                self.users.add(request).await.is_ok()
            }
            Step::WithSession => {
                let request = AddSession {
                    session_id,
                    user_id,
                    ..Default::default()
                };
                self.sessions.add(request).await.is_ok()
            }
            Step::WithMessages => {
                let request = AddMessagesRequest {
                    session_id,
                    messages: (0..MESSAGES)
                        .map(|number| said(&number.to_string()))
                        .collect(),
                    ..Default::default()
                };
                self.sessions.add_messages(request).await.is_ok()
            }
            Step::Deleted => {
                let request = DeleteRequest {
                    user_id,
                    ..Default::default()
                };
                self.users.delete(request).await.is_ok()
            }
        }
    }
}

/// What the user's rows say of their life.
async fn found(server: &mut Server, user_id: &str) -> Step {
    let session_id = format!("session of {user_id}");
    let session = server.get_session(&session_id).await;
    let messages = ListMessagesRequest {
        session_id,
        ..Default::default()
    };
    let messages = server.sessions.list_messages(messages).await;
    match server.get_user(user_id).await {
        Err(status) => {
            assert_eq!(status.code(), Code::NotFound);
            // Nothing outlives its user.
            assert_eq!(session.unwrap_err().code(), Code::NotFound);
            assert_eq!(messages.unwrap_err().code(), Code::NotFound);
            Step::Nothing
        }
        Ok(user) => {
            let Ok(session) = session else {
                assert_eq!(user.session_count, 0);
                return Step::Added;
            };
            assert_eq!(user.session_count, 1);
            let messages = ok(messages);
            let sequences: Vec<i64> = messages
                .messages
                .iter()
                .map(|message| message.sequence)
                .collect();
            assert_eq!(session.message_count, messages.total_count);
            match session.message_count {
                0 => Step::WithSession,
                count => {
                    assert_eq!((count, sequences), (MESSAGES, (1..=MESSAGES).collect()));
                    Step::WithMessages
                }
            }
        }
    }
}

async fn all_users(server: &mut Server) -> (Vec<User>, i64) {
    let mut request = ListOrderedRequest {
        page_size: 1000,
        ..Default::default()
    };
    let mut users = Vec::new();
    loop {
        let page = ok(server.users.list_ordered(request.clone()).await);
        users.extend(page.users);
        if page.next_page_token.is_empty() {
            return (users, page.total_count);
        }
        request.page_token = page.next_page_token;
    }
}

async fn all_sessions(server: &mut Server) -> (Vec<Session>, i64) {
    let mut request = ListSessions {
        page_size: 1000,
        ..Default::default()
    };
    let mut sessions = Vec::new();
    loop {
        let page = ok(server.sessions.list_ordered(request.clone()).await);
        sessions.extend(page.sessions);
        if page.next_page_token.is_empty() {
            return (sessions, page.total_count);
        }
        request.page_token = page.next_page_token;
    }
}

async fn check(server: &mut Server, lives: &Lives) {
    let known = lives.lock().unwrap().clone();
    for (user_id, life) in &known {
        let found = found(server, user_id).await;
        // A call that was sent and not answered has happened or has not.
        let possible = match (life.answered, life.sent) {
            (Step::Deleted, _) => vec![Step::Nothing],
            (answered, Step::Deleted) => vec![answered, Step::Nothing],
            (answered, sent) => vec![answered, sent],
        };
        assert!(possible.contains(&found), "{user_id}: {life:?}, {found:?}");
        // What is settled now must stay.
        let settled = match (life.sent, found) {
            (Step::Deleted, Step::Nothing) => Step::Deleted,
            (_, found) => found,
        };
        let life = Life {
            sent: settled,
            answered: settled,
        };
        lives.lock().unwrap().insert(user_id.clone(), life);
    }
    let (users, total) = all_users(server).await;
    assert_eq!(users.len(), usize::try_from(total).unwrap());
    assert!(users.iter().all(|user| known.contains_key(&user.user_id)));
    let (sessions, total) = all_sessions(server).await;
    assert_eq!(sessions.len(), usize::try_from(total).unwrap());
    let owners: BTreeSet<&String> = sessions.iter().map(|session| &session.user_id).collect();
    assert!(
        owners.len() == sessions.len() && owners.iter().all(|owner| known.contains_key(*owner))
    );
}

#[tokio::test]
async fn a_crash_on_sqlite_loses_nothing_that_was_acknowledged() {
    crash_again_and_again(&Database::new(Engine::Sqlite)).await;
}

#[tokio::test]
async fn a_crash_on_postgres_loses_nothing_that_was_acknowledged() {
    if !postgres::is_missing() {
        crash_again_and_again(&Database::new(Engine::Postgres)).await;
    }
}

async fn crash_again_and_again(database: &Database) {
    let lives = Lives::default();
    let next = Arc::new(AtomicUsize::new(0));
    for round in 0..ROUNDS {
        let mut server = Server::start(database).await;
        check(&mut server, &lives).await;
        let (acknowledged, mut acknowledgements) = watch::channel(0);
        let writers: Vec<_> = (0..WRITERS)
            .map(|_| {
                let writer = Writer {
                    users: server.users.clone(),
                    sessions: server.sessions.clone(),
                    next: Arc::clone(&next),
                };
                tokio::spawn(write(writer, Arc::clone(&lives), acknowledged.clone()))
            })
            .collect();
        // Another moment of the load in every round.
        let enough = 10 + 37 * round % 150;
        acknowledgements
            .wait_for(|count| *count >= enough)
            .await
            .unwrap();
        server.kill().await;
        database.settle().await;
        for writer in writers {
            writer.await.unwrap();
        }
    }
    let mut server = Server::start(database).await;
    check(&mut server, &lives).await;
    let counted = lives.lock().unwrap().len();
    assert!(counted > ROUNDS * 3, "only {counted} users");
}
