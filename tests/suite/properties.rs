//! What holds for any input: round trips, walks and totals.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicUsize, Ordering},
};

use proptest::{
    collection::{btree_map, vec},
    prelude::*,
    sample::select,
    test_runner::{Config, TestRunner},
};
use prost_types::{ListValue, Struct, Value, value::Kind};
use tokio::{runtime::Runtime, sync::oneshot};
use tonic::Code;

use crate::{
    postgres,
    support::{
        Database, Engine, Server, ok, said,
        session::{
            AddMessagesRequest, AddRequest as AddSession, DeleteRequest as DeleteSession,
            ListMessagesRequest, ListOrderedRequest as ListSessions,
        },
        user::{AddRequest, DeleteRequest, GetSessionsRequest, ListOrderedRequest, OrderBy, User},
    },
};

/// Checks a property against one server on each engine.
// By reference, the types of the closure's arguments would not be inferred.
#[allow(clippy::needless_pass_by_value)]
fn check<S: Strategy>(cases: u32, strategy: S, property: impl AsyncFn(&mut Server, S::Value))
where
    S::Value: Clone + std::fmt::Debug,
{
    for engine in postgres::engines() {
        check_on(engine, cases, &strategy, &property);
    }
}

fn check_on<S: Strategy>(
    engine: Engine,
    cases: u32,
    strategy: &S,
    property: &impl AsyncFn(&mut Server, S::Value),
) where
    S::Value: Clone + std::fmt::Debug,
{
    let runtime = Runtime::new().unwrap();
    let database = Database::new(engine);
    let server = runtime.block_on(Server::start(&database));
    let server = std::cell::RefCell::new(server);
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    let result = TestRunner::new(config).run(strategy, |value| {
        runtime.block_on(property(&mut server.borrow_mut(), value));
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
    runtime.block_on(server.into_inner().stop());
}

/// Any string without U+0000, of at most so many characters.
fn text(characters: usize) -> impl Strategy<Value = String> {
    let character = any::<char>().prop_filter("U+0000", |character| *character != '\0');
    vec(character, 0..=characters).prop_map(String::from_iter)
}

fn id() -> impl Strategy<Value = String> {
    text(255).prop_filter("empty", |id| !id.is_empty())
}

fn metadata() -> impl Strategy<Value = Struct> {
    let leaf = prop_oneof![
        Just(Kind::NullValue(0)),
        any::<bool>().prop_map(Kind::BoolValue),
        any::<f64>()
            .prop_filter("finite", |number| number.is_finite())
            .prop_map(Kind::NumberValue),
        any::<i32>().prop_map(|number| Kind::NumberValue(number.into())),
        text(20).prop_map(Kind::StringValue),
    ];
    let kind = leaf.prop_recursive(6, 48, 6, |kind| {
        let value = kind.prop_map(|kind| Value { kind: Some(kind) });
        prop_oneof![
            vec(value.clone(), 0..6).prop_map(|values| Kind::ListValue(ListValue { values })),
            btree_map(text(10), value, 0..6)
                .prop_map(|fields| Kind::StructValue(Struct { fields })),
        ]
    });
    let value = kind.prop_map(|kind| Value { kind: Some(kind) });
    btree_map(text(10), value, 0..6).prop_map(|fields| Struct { fields })
}

#[test]
fn any_user_comes_back_equal() {
    let optional = || proptest::option::of(text(255));
    let user = (
        id(),
        optional(),
        optional(),
        optional(),
        proptest::option::of(metadata()),
    );
    check(
        192,
        user,
        async |server, (user_id, email, first_name, last_name, metadata)| {
            let request = AddRequest {
                user_id: user_id.clone(),
                email,
                first_name,
                last_name,
                metadata,
                request_id: None,
            };
            let added = server.add_user_with(request.clone()).await;
            assert_eq!(
                (
                    &added.user_id,
                    &added.email,
                    &added.first_name,
                    &added.last_name,
                    &added.metadata
                ),
                (
                    &request.user_id,
                    &request.email,
                    &request.first_name,
                    &request.last_name,
                    &request.metadata
                ),
            );
            assert_eq!(server.get_user(&user_id).await.unwrap(), added);
            // So that the next case may have the same id.
            ok(server.users.delete(erase(&user_id)).await);
        },
    );
}

#[test]
fn any_session_and_message_come_back_equal() {
    let message = (
        proptest::option::of(text(255)),
        text(2000),
        proptest::option::of(metadata()),
    );
    let session = (id(), proptest::option::of(metadata()), vec(message, 1..5));
    check(
        96,
        session,
        async |server, (session_id, metadata, messages)| {
            server.add_user("jane").await;
            let request = AddSession {
                session_id: session_id.clone(),
                user_id: "jane".to_owned(),
                metadata: metadata.clone(),
                request_id: None,
            };
            assert_eq!(
                ok(server.sessions.add(request).await)
                    .session
                    .unwrap()
                    .metadata,
                metadata
            );
            let session = server.get_session(&session_id).await.unwrap();
            assert_eq!(
                (&session.session_id, session.metadata),
                (&session_id, metadata)
            );

            let new: Vec<_> = messages
                .into_iter()
                .map(
                    |(name, content, metadata)| usher::pb::session::v1::NewMessage {
                        name,
                        metadata,
                        ..said(&content)
                    },
                )
                .collect();
            let request = AddMessagesRequest {
                session_id: session_id.clone(),
                messages: new.clone(),
                request_id: None,
            };
            let added = ok(server.sessions.add_messages(request).await).messages;
            let list = ListMessagesRequest {
                session_id,
                ..Default::default()
            };
            assert_eq!(
                ok(server.sessions.list_messages(list).await).messages,
                added
            );
            for ((message, new), sequence) in added.iter().zip(&new).zip(1..) {
                assert_eq!(
                    (
                        &message.name,
                        &message.content,
                        &message.metadata,
                        message.sequence
                    ),
                    (&new.name, &new.content, &new.metadata, sequence),
                );
            }
            ok(server.users.delete(erase("jane")).await);
        },
    );
}

/// Makes place for a user, whatever a case before left.
fn erase(user_id: &str) -> DeleteRequest {
    DeleteRequest {
        user_id: user_id.to_owned(),
        allow_missing: true,
        ..Default::default()
    }
}

/// The place of a user in an order, by the contract.
fn place(user: &User, order_by: OrderBy) -> (String, i128, String) {
    let time = |time: Option<prost_types::Timestamp>| {
        let time = time.unwrap();
        i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)
    };
    let user_id = user.user_id.clone();
    match order_by {
        OrderBy::Unspecified | OrderBy::CreatedAt => {
            (String::new(), time(user.created_at), user_id)
        }
        OrderBy::UpdatedAt => (String::new(), time(user.updated_at), user_id),
        OrderBy::UserId => (String::new(), 0, user_id),
        OrderBy::Email => (
            user.email.clone().unwrap_or_default(),
            time(user.created_at),
            user_id,
        ),
    }
}

#[test]
fn any_walk_is_the_full_list_while_rows_come_and_go() {
    let order = select(vec![
        OrderBy::Unspecified,
        OrderBy::CreatedAt,
        OrderBy::UpdatedAt,
        OrderBy::UserId,
        OrderBy::Email,
    ]);
    // Few e-mails, so that many are equal.
    let email = proptest::option::of(select(vec!["", "a", "A", "b@x", "ü"]));
    let people = btree_map(text(4), email, 0..40);
    let walk = (people, 1..20_i32, order, any::<bool>());
    let round = AtomicUsize::new(0);
    check(
        48,
        walk,
        async |server, (people, page_size, order_by, ascending)| {
            let round = round.fetch_add(1, Ordering::Relaxed);
            let mut stayed = Vec::new();
            for (suffix, email) in people {
                let request = AddRequest {
                    user_id: format!("{suffix}#{round}"),
                    email: email.map(str::to_owned),
                    ..Default::default()
                };
                stayed.push(server.add_user_with(request).await);
            }
            stayed.sort_by_key(|user| place(user, order_by));
            if !ascending {
                stayed.reverse();
            }

            let (done, mut is_done) = oneshot::channel::<()>();
            let mut others = server.users.clone();
            let coming_and_going = tokio::spawn(async move {
                let mut number = 0;
                while is_done
                    .try_recv()
                    .is_err_and(|error| error == oneshot::error::TryRecvError::Empty)
                {
                    let request = AddRequest {
                        user_id: format!("other {number}"),
                        email: Some(number.to_string()),
                        ..Default::default()
                    };
                    ok(others.add(request.clone()).await);
                    if number % 2 == 0 {
                        ok(others.delete(erase(&request.user_id)).await);
                    }
                    number += 1;
                }
                for number in (1..number).step_by(2) {
                    ok(others.delete(erase(&format!("other {number}"))).await);
                }
            });
            let mut request = ListOrderedRequest {
                page_size,
                order_by: order_by.into(),
                ascending,
                ..Default::default()
            };
            let mut walked = Vec::new();
            loop {
                let page = ok(server.users.list_ordered(request.clone()).await);
                assert_eq!(page.row_count, i32::try_from(page.users.len()).unwrap());
                assert!(page.row_count <= page_size);
                walked.extend(page.users);
                request.page_token = page.next_page_token;
                if request.page_token.is_empty() {
                    break;
                }
            }
            done.send(()).unwrap();
            coming_and_going.await.unwrap();

            let mut in_order = walked.clone();
            in_order.sort_by_key(|user| place(user, order_by));
            if !ascending {
                in_order.reverse();
            }
            assert_eq!(walked, in_order);
            walked.retain(|user| !user.user_id.starts_with("other "));
            assert_eq!(walked, stayed);
            for user in stayed {
                ok(server.users.delete(erase(&user.user_id)).await);
            }
        },
    );
}

/// A call that adds or erases, on one of a few users and sessions.
#[derive(Clone, Debug)]
enum Call {
    AddUser(u8),
    AddSession(u8, u8),
    AddMessages(u8, usize),
    DeleteSession(u8),
    DeleteUser(u8),
}

fn call() -> impl Strategy<Value = Call> {
    let few = 0..4_u8;
    prop_oneof![
        3 => few.clone().prop_map(Call::AddUser),
        4 => (few.clone(), few.clone()).prop_map(|(user, session)| Call::AddSession(user, session)),
        4 => (few.clone(), 1..4_usize).prop_map(|(session, count)| Call::AddMessages(session, count)),
        2 => few.clone().prop_map(Call::DeleteSession),
        1 => few.prop_map(Call::DeleteUser),
    ]
}

/// What should be there: the users, and each session's owner and messages.
#[derive(Default)]
struct Model {
    users: BTreeSet<String>,
    sessions: BTreeMap<String, (String, i64)>,
}

impl Model {
    /// Makes the call on the server and on the model, and expects the same of both.
    async fn apply(&mut self, server: &mut Server, call: Call) {
        let code = match call {
            Call::AddUser(number) => {
                let user_id = number.to_string();
                let request = AddRequest {
                    user_id: user_id.clone(),
                    ..Default::default()
                };
                let expected = if self.users.insert(user_id) {
                    Code::Ok
                } else {
                    Code::AlreadyExists
                };
                (server.users.add(request).await.map(drop), expected)
            }
            Call::AddSession(user, session) => {
                let (user_id, session_id) = (user.to_string(), session.to_string());
                let request = AddSession {
                    session_id: session_id.clone(),
                    user_id: user_id.clone(),
                    ..Default::default()
                };
                let expected = if self.sessions.contains_key(&session_id) {
                    Code::AlreadyExists
                } else if self.users.contains(&user_id) {
                    self.sessions.insert(session_id, (user_id, 0));
                    Code::Ok
                } else {
                    Code::NotFound
                };
                (server.sessions.add(request).await.map(drop), expected)
            }
            Call::AddMessages(session, count) => {
                let request = AddMessagesRequest {
                    session_id: session.to_string(),
                    messages: vec![said("hello"); count],
                    ..Default::default()
                };
                let expected = match self.sessions.get_mut(&session.to_string()) {
                    Some((_, messages)) => {
                        *messages += i64::try_from(count).unwrap();
                        Code::Ok
                    }
                    None => Code::NotFound,
                };
                (
                    server.sessions.add_messages(request).await.map(drop),
                    expected,
                )
            }
            Call::DeleteSession(session) => {
                let request = DeleteSession {
                    session_id: session.to_string(),
                    ..Default::default()
                };
                let answer = server.sessions.delete(request).await;
                let expected = match self.sessions.remove(&session.to_string()) {
                    Some((_, messages)) => {
                        let receipt = answer.as_ref().unwrap().get_ref().receipt.clone();
                        assert_eq!(receipt.unwrap().messages_deleted, messages);
                        Code::Ok
                    }
                    None => Code::NotFound,
                };
                (answer.map(drop), expected)
            }
            Call::DeleteUser(number) => {
                let user_id = number.to_string();
                let request = DeleteRequest {
                    allow_missing: false,
                    ..erase(&user_id)
                };
                let answer = server.users.delete(request).await;
                let expected = if self.users.remove(&user_id) {
                    let sessions = self.sessions.len();
                    let messages = self.messages_of(&user_id);
                    self.sessions.retain(|_, (owner, _)| *owner != user_id);
                    let receipt = answer.as_ref().unwrap().get_ref().receipt.clone().unwrap();
                    let gone = i64::try_from(sessions - self.sessions.len()).unwrap();
                    assert_eq!(
                        (receipt.sessions_deleted, receipt.messages_deleted),
                        (gone, messages)
                    );
                    Code::Ok
                } else {
                    Code::NotFound
                };
                (answer.map(drop), expected)
            }
        };
        let (answer, expected) = code;
        assert_eq!(
            answer.map_or_else(|status| status.code(), |()| Code::Ok),
            expected
        );
    }

    fn messages_of(&self, user_id: &str) -> i64 {
        let theirs = self.sessions.values().filter(|(owner, _)| owner == user_id);
        theirs.map(|(_, messages)| messages).sum()
    }

    /// Every total that the server tells is the number of what it lists, and both are
    /// the model's.
    async fn compare(&self, server: &mut Server) {
        let listed = ok(server
            .users
            .list_ordered(ListOrderedRequest::default())
            .await);
        let ids: BTreeSet<_> = listed
            .users
            .iter()
            .map(|user| user.user_id.clone())
            .collect();
        assert_eq!(ids, self.users);
        assert_eq!(listed.total_count, i64::try_from(self.users.len()).unwrap());
        for user in listed.users {
            let request = GetSessionsRequest {
                user_id: user.user_id.clone(),
                ..Default::default()
            };
            let sessions = ok(server.users.get_sessions(request).await);
            let count = i64::try_from(sessions.sessions.len()).unwrap();
            assert_eq!((sessions.total_count, user.session_count), (count, count));
            let filtered = ListSessions {
                user_id: Some(user.user_id),
                ..Default::default()
            };
            assert_eq!(
                ok(server.sessions.list_ordered(filtered).await).total_count,
                count
            );
        }
        let listed = ok(server.sessions.list_ordered(ListSessions::default()).await);
        assert_eq!(
            listed.total_count,
            i64::try_from(self.sessions.len()).unwrap()
        );
        assert_eq!(listed.sessions.len(), self.sessions.len());
        for session in listed.sessions {
            let request = ListMessagesRequest {
                session_id: session.session_id.clone(),
                page_size: 1000,
                ..Default::default()
            };
            let messages = ok(server.sessions.list_messages(request).await);
            let count = i64::try_from(messages.messages.len()).unwrap();
            assert_eq!(
                (messages.total_count, session.message_count),
                (count, count)
            );
            assert_eq!(self.sessions[&session.session_id], (session.user_id, count));
        }
    }
}

#[test]
fn any_sequence_of_calls_keeps_totals_equal_to_counts() {
    check(64, vec(call(), 0..30), async |server, calls| {
        for number in 0..4 {
            ok(server.users.delete(erase(&number.to_string())).await);
        }
        let mut model = Model::default();
        for call in calls {
            model.apply(server, call).await;
        }
        model.compare(server).await;
    });
}
