//! Lists: UserService.ListOrdered, UserService.GetSessions,
//! SessionService.ListOrdered, SessionService.ListMessages.

use std::{collections::HashSet, convert::Infallible, fmt::Debug, ops::Range};

use futures_util::future::join_all;
use prost::Message as _;
use prost_types::Timestamp;
use sea_orm::ConnectionTrait;
use serde_json::json;
use tonic::{Code, Status};
use usher::pb::session::v1::session_service_client::SessionServiceClient;

use crate::support::{
    Database, Engine, Server, channel, failed, object, ok, refused_fields, resource, said,
    session::{self, Message, Session},
    user::{self, User},
};

/// A page of any list.
struct Page<T> {
    rows: Vec<T>,
    next: String,
    total: i64,
    bytes: usize,
}

/// A request for a list, so that what is the same for all lists is said once.
trait List: Clone {
    type Row: Clone + Debug + PartialEq;

    async fn answer(self, server: &Server) -> Result<Page<Self::Row>, Status>;

    fn page(self, page_size: i32, page_token: &str) -> Self;
}

/// A list whose pages have numbers too.
trait NumberedList: List {
    fn number(self, page_number: i32) -> Self;
}

/// `page_size` and `page_token`, which all lists have, and where to ask.
macro_rules! list {
    ($request:path, $row:ty, $client:ident . $call:ident, $rows:ident $(, $row_count:ident)?) => {
        impl List for $request {
            type Row = $row;

            async fn answer(self, server: &Server) -> Result<Page<$row>, Status> {
                let mut client = server.$client.clone();
                let answer = client.$call(self).await?.into_inner();
                $(assert_eq!(usize::try_from(answer.$row_count), Ok(answer.$rows.len()));)?
                Ok(Page {
                    bytes: answer.encoded_len(),
                    rows: answer.$rows,
                    next: answer.next_page_token,
                    total: answer.total_count,
                })
            }

            fn page(mut self, page_size: i32, page_token: &str) -> Self {
                self.page_size = page_size;
                self.page_token = page_token.to_owned();
                self
            }
        }
    };
}

list!(
    user::ListOrderedRequest,
    User,
    users.list_ordered,
    users,
    row_count
);
list!(
    user::GetSessionsRequest,
    Session,
    users.get_sessions,
    sessions
);
list!(
    session::ListOrderedRequest,
    Session,
    sessions.list_ordered,
    sessions,
    row_count
);
list!(
    session::ListMessagesRequest,
    Message,
    sessions.list_messages,
    messages
);

impl NumberedList for user::ListOrderedRequest {
    fn number(mut self, page_number: i32) -> Self {
        self.page_number = page_number;
        self
    }
}

impl NumberedList for session::ListOrderedRequest {
    fn number(mut self, page_number: i32) -> Self {
        self.page_number = page_number;
        self
    }
}

fn users() -> user::ListOrderedRequest {
    user::ListOrderedRequest::default()
}

fn sessions() -> session::ListOrderedRequest {
    session::ListOrderedRequest::default()
}

fn sessions_of(user_id: &str) -> user::GetSessionsRequest {
    user::GetSessionsRequest {
        user_id: user_id.to_owned(),
        ..Default::default()
    }
}

fn messages_of(session_id: &str) -> session::ListMessagesRequest {
    session::ListMessagesRequest {
        session_id: session_id.to_owned(),
        ..Default::default()
    }
}

fn last_messages_of(session_id: &str, last_n: i32) -> session::ListMessagesRequest {
    session::ListMessagesRequest {
        last_n,
        ..messages_of(session_id)
    }
}

async fn page<L: List>(server: &Server, list: L) -> Page<L::Row> {
    match list.answer(server).await {
        Ok(page) => page,
        Err(status) => panic!("{status:?}"),
    }
}

/// The token of a list's second page, where pages hold one row.
async fn token<L: List>(server: &Server, list: &L) -> String {
    let next = page(server, list.clone().page(1, "")).await.next;
    assert!(!next.is_empty());
    next
}

/// All pages of a list, the first of the first of these sizes, and so on around.
async fn pages<L: List>(server: &Server, list: &L, sizes: &[i32]) -> Vec<Page<L::Row>> {
    let mut pages: Vec<Page<L::Row>> = Vec::new();
    let mut next = String::new();
    for size in sizes.iter().cycle() {
        let page = page(server, list.clone().page(*size, &next)).await;
        assert!(page.next.is_empty() || page.next != next, "it stands still");
        next.clone_from(&page.next);
        pages.push(page);
        if next.is_empty() {
            break;
        }
    }
    pages
}

/// All rows of a list, page by page.
async fn walk<L: List>(server: &Server, list: &L, size: i32) -> Vec<L::Row> {
    let pages = pages(server, list, &[size]).await;
    pages.into_iter().flat_map(|page| page.rows).collect()
}

#[track_caller]
fn refused<T>(answer: Result<Page<T>, Status>) -> Vec<String> {
    refused_fields(answer.map(|page| page.total))
}

/// Whether a list refuses this token, and for no other reason.
async fn refuses_token<L: List>(server: &Server, list: &L, token: &str) -> bool {
    let answer = list.clone().page(2, token).answer(server).await;
    refused(answer) == ["page_token"]
}

fn time(at: Option<Timestamp>) -> (i64, i32) {
    let at = at.unwrap();
    (at.seconds, at.nanos)
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap()
}

/// The documented orders of users, as a key that sorts them ascending.
fn user_key(by: user::OrderBy, user: &User) -> (String, (i64, i32), String) {
    use user::OrderBy::{CreatedAt, Email, Unspecified, UpdatedAt, UserId};
    let email = user.email.clone().unwrap_or_default();
    let (text, at) = match by {
        Unspecified | CreatedAt => (String::new(), time(user.created_at)),
        UpdatedAt => (String::new(), time(user.updated_at)),
        UserId => (String::new(), (0, 0)),
        Email => (email, time(user.created_at)),
    };
    (text, at, user.user_id.clone())
}

/// The documented orders of sessions, as a key that sorts them ascending.
fn session_key(by: session::OrderBy, session: &Session) -> (String, (i64, i32), String) {
    use session::OrderBy::{CreatedAt, SessionId, Unspecified, UpdatedAt, UserId};
    let (text, at) = match by {
        Unspecified | CreatedAt => (String::new(), time(session.created_at)),
        UpdatedAt => (String::new(), time(session.updated_at)),
        SessionId => (String::new(), (0, 0)),
        UserId => (session.user_id.clone(), time(session.created_at)),
    };
    (text, at, session.session_id.clone())
}

fn sorted<T: Clone, K: Ord>(rows: &[T], ascending: bool, key: impl Fn(&T) -> K) -> Vec<T> {
    let mut rows = rows.to_vec();
    rows.sort_by_key(&key);
    if !ascending {
        rows.reverse();
    }
    rows
}

/// Every order of users, with what it makes of these.
fn user_orders(all: &[User]) -> Vec<(user::ListOrderedRequest, Vec<User>)> {
    use user::OrderBy::{CreatedAt, Email, Unspecified, UpdatedAt, UserId};
    let orders = [Unspecified, CreatedAt, UpdatedAt, UserId, Email];
    let both = orders.map(|by| [false, true].map(|ascending| (by, ascending)));
    both.into_iter()
        .flatten()
        .map(|(by, ascending)| {
            let request = user::ListOrderedRequest {
                order_by: by.into(),
                ascending,
                ..users()
            };
            (request, sorted(all, ascending, |user| user_key(by, user)))
        })
        .collect()
}

/// Every order of sessions, with what it makes of these.
fn session_orders(all: &[Session]) -> Vec<(session::ListOrderedRequest, Vec<Session>)> {
    use session::OrderBy::{CreatedAt, SessionId, Unspecified, UpdatedAt, UserId};
    let orders = [Unspecified, CreatedAt, UpdatedAt, SessionId, UserId];
    let both = orders.map(|by| [false, true].map(|ascending| (by, ascending)));
    both.into_iter()
        .flatten()
        .map(|(by, ascending)| {
            let request = session::ListOrderedRequest {
                order_by: by.into(),
                ascending,
                ..sessions()
            };
            let key = |session: &Session| session_key(by, session);
            (request, sorted(all, ascending, key))
        })
        .collect()
}

/// Ids whose order differs by bytes, by letters, by UTF-16 and by locale.
const IDS: [&str; 20] = [
    "b", "B", "a", "A", "aa", "Z", "z", // The same letter, composed and decomposed.
    "\u{e9}", "e\u{301}", "e", "f", // In UTF-16 the second comes first.
    "\u{ff5e}", "🦀", "10", "9", " ", "_", "%", "\u{1}", "a/b@c",
];

/// Users with these e-mails in turn.
async fn add_users(server: &Server, ids: &[String], emails: &[Option<&str>]) -> Vec<User> {
    let mut added = Vec::new();
    let requests: Vec<_> = ids.iter().zip(emails.iter().cycle()).collect();
    for chunk in requests.chunks(100) {
        let calls = chunk.iter().map(|(user_id, email)| {
            let mut users = server.users.clone();
            let request = user::AddRequest {
                user_id: (*user_id).clone(),
                email: email.map(str::to_owned),
                ..Default::default()
            };
            async move { ok(users.add(request).await).user.unwrap() }
        });
        added.extend(join_all(calls).await);
    }
    added
}

async fn add_sessions(server: &Server, user_id: &str, ids: &[String]) -> Vec<Session> {
    let mut added = Vec::new();
    for chunk in ids.chunks(100) {
        let calls = chunk.iter().map(|session_id| {
            let mut sessions = server.sessions.clone();
            let request = session::AddRequest {
                session_id: session_id.clone(),
                user_id: user_id.to_owned(),
                ..Default::default()
            };
            async move { ok(sessions.add(request).await).session.unwrap() }
        });
        added.extend(join_all(calls).await);
    }
    added
}

async fn delete_user(server: &Server, user_id: &str) {
    let request = user::DeleteRequest {
        user_id: user_id.to_owned(),
        ..Default::default()
    };
    ok(server.users.clone().delete(request).await);
}

async fn delete_session(server: &Server, session_id: &str) {
    let request = session::DeleteRequest {
        session_id: session_id.to_owned(),
        ..Default::default()
    };
    ok(server.sessions.clone().delete(request).await);
}

async fn end(server: &Server, session_id: &str) -> Session {
    let request = session::EndRequest {
        session_id: session_id.to_owned(),
    };
    ok(server.sessions.clone().end(request).await)
        .session
        .unwrap()
}

fn numbered(prefix: &str, numbers: Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("{prefix}{number}")).collect()
}

/// Adds messages of which each says its sequence.
async fn say_numbers(server: &Server, session_id: &str, sequences: Range<usize>) {
    let request = session::AddMessagesRequest {
        session_id: session_id.to_owned(),
        messages: numbered("", sequences)
            .iter()
            .map(|text| said(text))
            .collect(),
        ..Default::default()
    };
    ok(server.sessions.clone().add_messages(request).await);
}

/// The sequences of messages that [`say_numbers`] added.
fn sequences(messages: &[Message]) -> Vec<usize> {
    for message in messages {
        assert_eq!(message.content, message.sequence.to_string());
    }
    let sequences = messages.iter().map(|message| message.sequence);
    sequences
        .map(|sequence| usize::try_from(sequence).unwrap())
        .collect()
}

/// Twelve users; twelve sessions of jane, who is one of them; twelve messages in
/// the first of those.
async fn a_dozen_of_each(server: &Server) -> (Vec<User>, Vec<Session>) {
    let mut ids = numbered("user-", 1..12);
    ids.push("jane".to_owned());
    add_users(server, &ids, &[None, Some("a"), Some("b")]).await;
    add_sessions(server, "jane", &numbered("session-", 0..12)).await;
    say_numbers(server, "session-0", 1..13).await;
    let users = page(server, users()).await.rows;
    let sessions = page(server, sessions()).await.rows;
    assert_eq!((users.len(), sessions.len()), (12, 12));
    (users, sessions)
}

pub async fn lists_are_newest_first_by_default(mut server: Server) {
    for id in ["b", "c", "a"] {
        server.add_user(id).await;
    }
    for id in ["y", "z", "x"] {
        server.add_session("c", id).await;
    }
    let listed = page(&server, users()).await.rows;
    let ids: Vec<_> = listed.iter().map(|user| user.user_id.as_str()).collect();
    assert_eq!(ids, ["a", "c", "b"]);
    for user in &listed {
        assert_eq!(server.get_user(&user.user_id).await.unwrap(), *user);
    }
    for listed in [
        page(&server, sessions()).await.rows,
        page(&server, sessions_of("c")).await.rows,
    ] {
        let ids: Vec<_> = listed
            .iter()
            .map(|session| session.session_id.as_str())
            .collect();
        assert_eq!(ids, ["x", "z", "y"]);
        for session in &listed {
            assert_eq!(
                server.get_session(&session.session_id).await.unwrap(),
                *session
            );
        }
    }
}

pub async fn an_empty_list_is_one_empty_page(mut server: Server) {
    server.add_user("jane").await;
    let of_jane = page(&server, sessions_of("jane")).await;
    let all = page(&server, sessions()).await;
    for page in [of_jane, all] {
        assert_eq!((page.rows, page.next.as_str(), page.total), (vec![], "", 0));
    }
    delete_user(&server, "jane").await;
    let users = page(&server, users()).await;
    assert_eq!(
        (users.rows, users.next.as_str(), users.total),
        (vec![], "", 0)
    );
}

/// Users whose orders all differ: e-mails repeat, are empty and absent, and the
/// first users were changed last.
async fn users_in_disorder(server: &mut Server) -> Vec<User> {
    let ids = IDS.map(str::to_owned);
    let emails = [
        Some("jane@example.com"),
        None,
        Some("Jane@example.com"),
        Some(""),
        Some("\u{e9}"),
        Some("e\u{301}"),
        Some("jane@example.com"),
    ];
    add_users(server, &ids, &emails).await;
    for id in ["f", "🦀", "b", "9", "a"] {
        let request = user::UpdateRequest {
            user_id: id.to_owned(),
            first_name: Some("changed".to_owned()),
            ..Default::default()
        };
        ok(server.users.update(request).await);
    }
    let mut all = Vec::new();
    for id in ids {
        all.push(server.get_user(&id).await.unwrap());
    }
    all
}

pub async fn users_are_listed_in_every_order(mut server: Server) {
    let all = users_in_disorder(&mut server).await;
    for (list, expected) in user_orders(&all) {
        for size in [1, 3, 1000] {
            assert_eq!(walk(&server, &list, size).await, expected, "{list:?}");
        }
    }
}

/// Sessions of several users whose orders all differ, every third ended.
async fn sessions_in_disorder(server: &mut Server) -> Vec<Session> {
    let users = ["b", "B", "\u{e9}", "e\u{301}", "🦀", "\u{ff5e}"];
    for user in users {
        server.add_user(user).await;
    }
    for (id, user) in IDS.iter().zip(users.iter().cycle()) {
        server.add_session(user, id).await;
    }
    for id in ["z", "B", "\u{ff5e}", "_", "A"] {
        let request = session::UpdateRequest {
            session_id: id.to_owned(),
            metadata: Some(object(json!({"changed": true}))),
            ..Default::default()
        };
        ok(server.sessions.update(request).await);
    }
    for id in IDS.iter().step_by(3) {
        end(server, id).await;
    }
    let mut all = Vec::new();
    for id in IDS {
        all.push(server.get_session(id).await.unwrap());
    }
    all
}

pub async fn sessions_are_listed_in_every_order(mut server: Server) {
    let all = sessions_in_disorder(&mut server).await;
    for (list, expected) in session_orders(&all) {
        for size in [1, 3, 1000] {
            assert_eq!(walk(&server, &list, size).await, expected, "{list:?}");
        }
    }
}

pub async fn an_unknown_order_or_state_is_refused(server: Server) {
    for unknown in [-1, 5, 99, i32::MIN, i32::MAX] {
        let list = user::ListOrderedRequest {
            order_by: unknown,
            ..users()
        };
        assert_eq!(refused(list.answer(&server).await), ["order_by"]);
        let list = session::ListOrderedRequest {
            order_by: unknown,
            state: unknown,
            ..sessions()
        };
        assert_eq!(refused(list.answer(&server).await), ["order_by", "state"]);
    }
    let list = session::ListOrderedRequest {
        state: 3,
        ..sessions()
    };
    assert_eq!(refused(list.answer(&server).await), ["state"]);
}

pub async fn users_are_filtered_by_exactly_their_email(mut server: Server) {
    let all = users_in_disorder(&mut server).await;
    for email in [
        "",
        "jane@example.com",
        "Jane@example.com",
        "JANE@EXAMPLE.COM",
        "jane@example.com ",
        "jane",
        "%",
        "_ane@example.com",
        "jane%",
        "*",
        "\u{e9}",
        "e\u{301}",
        "null",
    ] {
        let matching: Vec<User> = all
            .iter()
            .filter(|user| user.email.as_deref() == Some(email))
            .cloned()
            .collect();
        for (order, expected) in user_orders(&matching) {
            let list = user::ListOrderedRequest {
                email: Some(email.to_owned()),
                ..order
            };
            assert_eq!(walk(&server, &list, 2).await, expected, "{list:?}");
            assert_eq!(page(&server, list).await.total, number(expected.len()));
        }
    }
    for wrong in ["a\0".to_owned(), "a".repeat(1025)] {
        let list = user::ListOrderedRequest {
            email: Some(wrong),
            ..users()
        };
        assert_eq!(refused(list.answer(&server).await), ["email"]);
    }
}

pub async fn sessions_are_filtered_by_user_and_state(mut server: Server) {
    use session::State;
    let all = sessions_in_disorder(&mut server).await;
    let users = [None, Some("b"), Some("B"), Some("e\u{301}"), Some("%")];
    let both = users
        .map(|user| [State::Unspecified, State::Active, State::Ended].map(|state| (user, state)));
    for (user, state) in both.into_iter().flatten() {
        let matching: Vec<Session> = all
            .iter()
            .filter(|session| user.is_none_or(|user| session.user_id == user))
            .filter(|session| match state {
                State::Unspecified => true,
                State::Active => session.ended_at.is_none(),
                State::Ended => session.ended_at.is_some(),
            })
            .cloned()
            .collect();
        for (order, expected) in session_orders(&matching) {
            let list = session::ListOrderedRequest {
                user_id: user.map(str::to_owned),
                state: state.into(),
                ..order
            };
            assert_eq!(walk(&server, &list, 2).await, expected, "{list:?}");
            assert_eq!(page(&server, list).await.total, number(expected.len()));
        }
    }
    for wrong in ["a\0".to_owned(), "a".repeat(1025)] {
        let list = session::ListOrderedRequest {
            user_id: Some(wrong),
            ..sessions()
        };
        assert_eq!(refused(list.answer(&server).await), ["user_id"]);
    }
}

pub async fn lists_of_what_does_not_exist_are_empty_or_not_found(mut server: Server) {
    server.add_user("jane").await;
    server.add_session("jane", "session").await;
    let list = session::ListOrderedRequest {
        user_id: Some("nobody".to_owned()),
        ..sessions()
    };
    let listed = page(&server, list).await;
    assert_eq!(
        (listed.rows, listed.next.as_str(), listed.total),
        (vec![], "", 0)
    );

    let of_nobody = sessions_of("nobody").answer(&server).await;
    let details = failed(
        of_nobody.map(|page| page.total),
        Code::NotFound,
        "USER_NOT_FOUND",
    );
    assert_eq!(resource(&details), ("usher.user.v1.User", "nobody"));
    let of_none = messages_of("none").answer(&server).await;
    let details = failed(
        of_none.map(|page| page.total),
        Code::NotFound,
        "SESSION_NOT_FOUND",
    );
    assert_eq!(resource(&details), ("usher.session.v1.Session", "none"));

    for wrong in ["", "a\0", &"a".repeat(1025)] {
        assert_eq!(
            refused(sessions_of(wrong).answer(&server).await),
            ["user_id"]
        );
        assert_eq!(
            refused(messages_of(wrong).answer(&server).await),
            ["session_id"]
        );
    }
}

/// A page that is asked for without a size, with too large ones, and by number.
async fn page_sizes<L: List>(server: &Server, list: &L, total: usize) {
    assert!(total > 1000);
    for (asked, given) in [
        (0, 50),
        (1, 1),
        (999, 999),
        (1000, 1000),
        (1001, 1000),
        (5000, 1000),
        (i32::MAX, 1000),
    ] {
        let page = page(server, list.clone().page(asked, "")).await;
        assert_eq!(
            (page.rows.len(), page.total),
            (given, number(total)),
            "{asked}"
        );
        assert!(!page.next.is_empty());
    }
    let rest = pages(server, list, &[5000]).await.pop().unwrap();
    assert_eq!((rest.rows.len(), rest.total), (total - 1000, number(total)));
}

async fn numbered_page_sizes<L: NumberedList>(server: &Server, list: &L, total: usize) {
    page_sizes(server, list, total).await;
    for (asked, number, given) in [
        (0, 2, 50),
        (5000, 1, 1000),
        (5000, 2, total - 1000),
        (i32::MAX, 3, 0),
    ] {
        let page = page(server, list.clone().page(asked, "").number(number)).await;
        assert_eq!(page.rows.len(), given, "{asked} {number}");
    }
}

pub async fn pages_of_users_have_a_default_size_and_a_limit(server: Server) {
    add_users(&server, &numbered("", 0..1003), &[Some("all"), Some("all")]).await;
    numbered_page_sizes(&server, &users(), 1003).await;
    let list = user::ListOrderedRequest {
        email: Some("all".to_owned()),
        order_by: user::OrderBy::Email.into(),
        ..users()
    };
    numbered_page_sizes(&server, &list, 1003).await;
}

pub async fn pages_of_sessions_have_a_default_size_and_a_limit(mut server: Server) {
    server.add_user("jane").await;
    add_sessions(&server, "jane", &numbered("", 0..1003)).await;
    numbered_page_sizes(&server, &sessions(), 1003).await;
    page_sizes(&server, &sessions_of("jane"), 1003).await;
    let list = session::ListOrderedRequest {
        user_id: Some("jane".to_owned()),
        state: session::State::Active.into(),
        ..sessions()
    };
    numbered_page_sizes(&server, &list, 1003).await;
}

pub async fn pages_of_messages_have_a_default_size_and_a_limit(mut server: Server) {
    server.add_user("jane").await;
    server.add_session("jane", "session").await;
    say_numbers(&server, "session", 1..1001).await;
    say_numbers(&server, "session", 1001..1004).await;
    page_sizes(&server, &messages_of("session"), 1003).await;
}

pub async fn negative_sizes_and_numbers_are_refused(mut server: Server) {
    server.add_user("jane").await;
    server.add_session("jane", "session").await;
    for negative in [-1, i32::MIN] {
        for answer in [
            users().page(negative, "").answer(&server).await.err(),
            sessions().page(negative, "").answer(&server).await.err(),
            sessions_of("jane")
                .page(negative, "")
                .answer(&server)
                .await
                .err(),
            messages_of("session")
                .page(negative, "")
                .answer(&server)
                .await
                .err(),
            last_messages_of("session", 1)
                .page(negative, "")
                .answer(&server)
                .await
                .err(),
        ] {
            let status = answer.expect("a negative size is refused");
            assert_eq!(refused_fields(Err::<(), _>(status)), ["page_size"]);
        }
        for size in [0, 10] {
            let list = users().page(size, "").number(negative);
            assert_eq!(refused(list.answer(&server).await), ["page_number"]);
            let list = sessions().page(size, "").number(negative);
            assert_eq!(refused(list.answer(&server).await), ["page_number"]);
            let list = last_messages_of("session", negative).page(size, "");
            assert_eq!(refused(list.answer(&server).await), ["last_n"]);
        }
    }
}

pub async fn every_violation_of_a_list_is_listed(server: Server) {
    let list = user::ListOrderedRequest {
        page_size: -1,
        page_number: -1,
        order_by: 99,
        email: Some("\0".to_owned()),
        ..users()
    };
    let mut fields = refused(list.answer(&server).await);
    fields.sort();
    assert_eq!(fields, ["email", "order_by", "page_number", "page_size"]);
    let list = session::ListOrderedRequest {
        page_size: -1,
        page_token: "nonsense".to_owned(),
        order_by: 99,
        state: 99,
        user_id: Some("\0".to_owned()),
        ..sessions()
    };
    let mut fields = refused(list.answer(&server).await);
    fields.sort();
    assert_eq!(
        fields,
        ["order_by", "page_size", "page_token", "state", "user_id"]
    );
    let list = sessions_of("").page(-1, "nonsense");
    let mut fields = refused(list.answer(&server).await);
    fields.sort();
    assert_eq!(fields, ["page_size", "page_token", "user_id"]);
    let list = last_messages_of("", -1).page(-1, "nonsense");
    let mut fields = refused(list.answer(&server).await);
    fields.sort();
    assert_eq!(fields, ["last_n", "page_size", "page_token", "session_id"]);
}

/// Pages by number are the slices of the whole, and have a successor exactly where
/// rows follow.
async fn slices<L: NumberedList>(server: &Server, list: &L, whole: &[L::Row]) {
    for size in [1, 5, 6, 12, 13] {
        let chunks: Vec<_> = whole.chunks(size).collect();
        for index in 0..chunks.len() + 2 {
            let asked = list.clone().page(i32::try_from(size).unwrap(), "");
            let page = page(server, asked.number(i32::try_from(index + 1).unwrap())).await;
            let expected = chunks.get(index).copied().unwrap_or_default();
            assert_eq!(page.rows, expected, "page {} of {size}", index + 1);
            assert_eq!(page.total, number(whole.len()));
            assert_eq!(page.next.is_empty(), index + 1 >= chunks.len());
        }
    }
    let far = list.clone().page(i32::MAX, "").number(i32::MAX);
    let page = page(server, far).await;
    assert_eq!((page.rows.len(), page.next.as_str()), (0, ""));
    assert_eq!(page.total, number(whole.len()));
}

pub async fn pages_are_numbered_from_one(server: Server) {
    let (all_users, all_sessions) = a_dozen_of_each(&server).await;
    for (list, whole) in user_orders(&all_users) {
        slices(&server, &list, &whole).await;
    }
    for (list, whole) in session_orders(&all_sessions) {
        slices(&server, &list, &whole).await;
    }
    let list = session::ListOrderedRequest {
        user_id: Some("jane".to_owned()),
        state: session::State::Active.into(),
        ..sessions()
    };
    slices(&server, &list, &all_sessions).await;
}

pub async fn a_page_has_a_number_or_a_token_but_not_both(server: Server) {
    a_dozen_of_each(&server).await;
    let users_token = token(&server, &users()).await;
    let sessions_token = token(&server, &sessions()).await;
    for number in [1, 2, 100, -1] {
        for (users_token, sessions_token) in [
            (users_token.as_str(), sessions_token.as_str()),
            ("nonsense", "nonsense"),
        ] {
            let list = users().page(1, users_token).number(number);
            assert_eq!(refused(list.answer(&server).await), ["page_number"]);
            let list = sessions().page(1, sessions_token).number(number);
            assert_eq!(refused(list.answer(&server).await), ["page_number"]);
        }
    }
}

pub async fn a_walk_can_go_on_from_a_numbered_page(server: Server) {
    let (all, _) = a_dozen_of_each(&server).await;
    let first = page(&server, users().page(5, "").number(2)).await;
    let second = page(&server, users().page(50, &first.next)).await;
    assert_eq!(
        (&first.rows[..], &second.rows[..]),
        (&all[5..10], &all[10..])
    );
    assert_eq!(second.next, "");
}

/// The next page is named exactly where rows follow, and sizes may change.
async fn pages_of_a_dozen<L: List>(server: &Server, list: &L) {
    let whole = page(server, list.clone()).await.rows;
    for size in [1, 2, 3, 4, 5, 6, 11, 12, 13, 1000] {
        let pages = pages(server, list, &[size]).await;
        let size = usize::try_from(size).unwrap();
        let expected: Vec<_> = whole.chunks(size).collect();
        let rows: Vec<_> = pages.iter().map(|page| &page.rows[..]).collect();
        assert_eq!(rows, expected);
        assert!(pages.iter().all(|page| page.total == 12));
    }
    let pages = pages(server, list, &[1, 4, 2]).await;
    let lengths: Vec<_> = pages.iter().map(|page| page.rows.len()).collect();
    assert_eq!(lengths, [1, 4, 2, 1, 4]);
    let rows: Vec<_> = pages.into_iter().flat_map(|page| page.rows).collect();
    assert_eq!(rows, whole);
}

pub async fn the_last_page_alone_names_no_other(server: Server) {
    a_dozen_of_each(&server).await;
    pages_of_a_dozen(&server, &users()).await;
    pages_of_a_dozen(&server, &sessions()).await;
    pages_of_a_dozen(&server, &sessions_of("jane")).await;
    pages_of_a_dozen(&server, &messages_of("session-0")).await;
    pages_of_a_dozen(&server, &last_messages_of("session-0", 1000).page(50, "")).await;
}

pub async fn a_token_is_refused_by_another_query(server: Server) {
    a_dozen_of_each(&server).await;
    for id in numbered("session-", 0..6) {
        end(&server, &id).await;
    }
    let email = |email: &str| Some(email.to_owned());
    let queries = [
        users(),
        user::ListOrderedRequest {
            ascending: true,
            ..users()
        },
        user::ListOrderedRequest {
            order_by: 2,
            ..users()
        },
        user::ListOrderedRequest {
            order_by: 3,
            ..users()
        },
        user::ListOrderedRequest {
            order_by: 4,
            ..users()
        },
        user::ListOrderedRequest {
            email: email("a"),
            ..users()
        },
        user::ListOrderedRequest {
            email: email("b"),
            ..users()
        },
    ];
    tokens_open_only_at_home(&server, &queries).await;

    let user_id = || Some("jane".to_owned());
    let queries = [
        sessions(),
        session::ListOrderedRequest {
            ascending: true,
            ..sessions()
        },
        session::ListOrderedRequest {
            order_by: 2,
            ..sessions()
        },
        session::ListOrderedRequest {
            order_by: 3,
            ..sessions()
        },
        session::ListOrderedRequest {
            order_by: 4,
            ..sessions()
        },
        session::ListOrderedRequest {
            state: 1,
            ..sessions()
        },
        session::ListOrderedRequest {
            state: 2,
            ..sessions()
        },
        session::ListOrderedRequest {
            user_id: user_id(),
            ..sessions()
        },
        session::ListOrderedRequest {
            user_id: user_id(),
            state: 1,
            ..sessions()
        },
    ];
    tokens_open_only_at_home(&server, &queries).await;

    let queries = [0, 5, 6].map(|last_n| last_messages_of("session-0", last_n));
    tokens_open_only_at_home(&server, &queries).await;
}

/// Each query's token is good for itself and no other.
async fn tokens_open_only_at_home<L: List>(server: &Server, queries: &[L]) {
    for (home, query) in queries.iter().enumerate() {
        let token = token(server, query).await;
        for (other, query) in queries.iter().enumerate() {
            if home == other {
                page(server, query.clone().page(2, &token)).await;
            } else {
                assert!(refuses_token(server, query, &token).await, "{home} {other}");
            }
        }
    }
}

pub async fn a_token_is_refused_by_another_list(mut server: Server) {
    a_dozen_of_each(&server).await;
    server.add_user("john").await;
    add_sessions(&server, "john", &numbered("of-john-", 0..3)).await;
    say_numbers(&server, "session-1", 1..4).await;
    let of_jane = session::ListOrderedRequest {
        user_id: Some("jane".to_owned()),
        ..sessions()
    };
    let tokens = [
        token(&server, &users()).await,
        token(&server, &sessions()).await,
        token(&server, &of_jane).await,
        token(&server, &sessions_of("jane")).await,
        token(&server, &sessions_of("john")).await,
        token(&server, &messages_of("session-0")).await,
        token(&server, &messages_of("session-1")).await,
    ];
    for (home, token) in tokens.iter().enumerate() {
        let refused = [
            refuses_token_unless(home == 0, &server, &users(), token).await,
            refuses_token_unless(home == 1, &server, &sessions(), token).await,
            refuses_token_unless(home == 2, &server, &of_jane, token).await,
            refuses_token_unless(home == 3, &server, &sessions_of("jane"), token).await,
            refuses_token_unless(home == 4, &server, &sessions_of("john"), token).await,
            refuses_token_unless(home == 5, &server, &messages_of("session-0"), token).await,
            refuses_token_unless(home == 6, &server, &messages_of("session-1"), token).await,
        ];
        assert_eq!(refused, [true; 7], "the token of list {home}");
    }
}

async fn refuses_token_unless<L: List>(own: bool, server: &Server, list: &L, token: &str) -> bool {
    own || refuses_token(server, list, token).await
}

/// A token with one character replaced, doubled, dropped or of another case; cut
/// short; or continued.
fn edits(token: &str) -> HashSet<String> {
    let mut edits = HashSet::new();
    for (at, character) in token.char_indices() {
        let other = if character == 'A' { 'B' } else { 'A' };
        let case = match character {
            'a'..='z' => character.to_ascii_uppercase(),
            _ => character.to_ascii_lowercase(),
        };
        for replacement in [
            other.to_string(),
            case.to_string(),
            String::new(),
            format!("{character}{character}"),
        ] {
            let mut edited = token.to_owned();
            edited.replace_range(at..=at, &replacement);
            edits.insert(edited);
        }
        if at > 0 {
            edits.insert(token[..at].to_owned());
        }
    }
    for more in ["A", "AA", "AAAA", "=", "==", " ", "\n", "\0"] {
        edits.insert(format!("{token}{more}"));
        edits.insert(format!("{more}{token}"));
    }
    edits.remove(token);
    edits
}

async fn edited_tokens_are_refused<L: List>(server: &Server, list: &L) {
    let token = token(server, list).await;
    let mut wrong: Vec<String> = edits(&token).into_iter().collect();
    wrong.extend(
        [
            "=", "====", "A", "AAAA", "1", "-1", "null", "{}", "🦀", " ", "\0", "'; --",
        ]
        .map(str::to_owned),
    );
    wrong.push("A".repeat(100_000));
    wrong.push(token.repeat(1000));
    for chunk in wrong.chunks(100) {
        let refusals = chunk.iter().map(|wrong| refuses_token(server, list, wrong));
        assert!(join_all(refusals).await.into_iter().all(|refused| refused));
    }
    page(server, list.clone().page(1, &token)).await;
}

pub async fn a_token_that_was_edited_is_refused(server: Server) {
    a_dozen_of_each(&server).await;
    edited_tokens_are_refused(&server, &users()).await;
    let by_id = user::ListOrderedRequest {
        order_by: user::OrderBy::UserId.into(),
        ..users()
    };
    edited_tokens_are_refused(&server, &by_id).await;
    edited_tokens_are_refused(&server, &sessions()).await;
    edited_tokens_are_refused(&server, &sessions_of("jane")).await;
    edited_tokens_are_refused(&server, &messages_of("session-0")).await;
    edited_tokens_are_refused(&server, &last_messages_of("session-0", 7)).await;
}

pub async fn a_token_does_not_wear_out(mut server: Server) {
    let (all, _) = a_dozen_of_each(&server).await;
    let token = token(&server, &users()).await;
    server.add_user("newer").await;
    for _ in 0..2 {
        assert_eq!(page(&server, users().page(50, &token)).await.rows, all[1..]);
    }
}

pub async fn the_longest_ids_can_be_walked(server: Server) {
    let longest = |last: &str| "🦀".repeat(255) + last;
    let ids = ["aaaa", "bbbb", "cccc"].map(longest);
    let email = "e".repeat(1024);
    let all = add_users(&server, &ids, &[Some(&email)]).await;
    for (list, expected) in user_orders(&all) {
        assert_eq!(walk(&server, &list, 1).await, expected);
    }
    let all = add_sessions(&server, &ids[0], &ids).await;
    let newest_first = sorted(&all, false, |session| time(session.created_at));
    assert_eq!(walk(&server, &sessions_of(&ids[0]), 1).await, newest_first);
    for (list, expected) in session_orders(&all) {
        assert_eq!(walk(&server, &list, 1).await, expected);
    }
}

/// What lists say of how many users and sessions there are.
async fn totals(server: &Server) -> [i64; 5] {
    let with_email = user::ListOrderedRequest {
        email: Some("a".to_owned()),
        ..users()
    };
    let ended = session::ListOrderedRequest {
        state: session::State::Ended.into(),
        ..sessions()
    };
    [
        page(server, users().page(1, "")).await.total,
        page(server, with_email.page(1, "").number(9)).await.total,
        page(server, sessions().page(1, "")).await.total,
        page(server, ended.page(1, "")).await.total,
        page(server, sessions_of("jane").page(1, "")).await.total,
    ]
}

pub async fn a_total_follows_every_change(server: Server) {
    let ids = ["jane", "john", "joe"].map(str::to_owned);
    add_users(&server, &ids, &[Some("a"), Some("a"), None]).await;
    assert_eq!(totals(&server).await, [3, 2, 0, 0, 0]);
    add_sessions(&server, "jane", &numbered("jane-", 0..3)).await;
    add_sessions(&server, "john", &numbered("john-", 0..2)).await;
    assert_eq!(totals(&server).await, [3, 2, 5, 0, 3]);
    end(&server, "jane-0").await;
    end(&server, "jane-0").await;
    end(&server, "john-0").await;
    assert_eq!(totals(&server).await, [3, 2, 5, 2, 3]);
    delete_session(&server, "jane-0").await;
    assert_eq!(totals(&server).await, [3, 2, 4, 1, 2]);
    delete_user(&server, "john").await;
    assert_eq!(totals(&server).await, [2, 1, 2, 0, 2]);
    let request = user::UpdateRequest {
        user_id: "joe".to_owned(),
        email: Some("a".to_owned()),
        ..Default::default()
    };
    ok(server.users.clone().update(request).await);
    assert_eq!(totals(&server).await, [2, 2, 2, 0, 2]);

    // What fails or changes nothing does not count.
    let again = user::AddRequest {
        user_id: "jane".to_owned(),
        ..Default::default()
    };
    let taken = server.users.clone().add(again).await;
    failed(taken, Code::AlreadyExists, "USER_ALREADY_EXISTS");
    let of_nobody = session::AddRequest {
        session_id: "new".to_owned(),
        user_id: "nobody".to_owned(),
        ..Default::default()
    };
    let refused = server.sessions.clone().add(of_nobody).await;
    failed(refused, Code::NotFound, "USER_NOT_FOUND");
    let missing = user::DeleteRequest {
        user_id: "nobody".to_owned(),
        allow_missing: true,
        ..Default::default()
    };
    ok(server.users.clone().delete(missing).await);
    assert_eq!(totals(&server).await, [2, 2, 2, 0, 2]);

    delete_user(&server, "jane").await;
    delete_user(&server, "joe").await;
    let empty = page(&server, users()).await.total + page(&server, sessions()).await.total;
    assert_eq!(empty, 0);
}

/// Walks a list while others write.
async fn walk_during<L: List>(
    server: &Server,
    list: &L,
    size: i32,
    writes: impl Future<Output = Infallible>,
) -> Vec<L::Row> {
    tokio::select! {
        rows = walk(server, list, size) => rows,
        never = writes => match never {},
    }
}

/// Adds other users and deletes them again, each before and behind any place in
/// any order; and changes one of them.
async fn other_users_come_and_go(server: &Server, stamp: usize) -> Infallible {
    let mut users = server.users.clone();
    for number in 0.. {
        let id = format!("{}other-{stamp}-{number}", ["", "~"][number % 2]);
        let email = ["a", "m", "z"][number % 3];
        add_users(server, std::slice::from_ref(&id), &[Some(email)]).await;
        if number % 4 != 0 {
            delete_user(server, &id).await;
            continue;
        }
        let request = user::UpdateRequest {
            user_id: id,
            email: Some("changed".to_owned()),
            ..Default::default()
        };
        ok(users.update(request).await);
    }
    unreachable!("numbers do not end")
}

/// Those that were there all along came exactly once and in their order. Others may
/// have moved, and come twice.
#[track_caller]
fn all_along<T: Clone + Debug + PartialEq>(
    walked: &[T],
    expected: &[T],
    id: impl Fn(&T) -> String,
) {
    let staying: HashSet<String> = expected.iter().map(&id).collect();
    let stayed: Vec<T> = walked
        .iter()
        .filter(|row| staying.contains(&id(row)))
        .cloned()
        .collect();
    assert_eq!(stayed, expected);
}

pub async fn a_walk_of_users_is_steady_while_others_come_and_go(server: Server) {
    let emails = [Some("b"), None, Some("y"), Some("m")];
    let all = add_users(&server, &numbered("user-", 0..60), &emails).await;
    for (index, (list, expected)) in user_orders(&all).into_iter().enumerate() {
        let writes = other_users_come_and_go(&server, index);
        let walked = walk_during(&server, &list, 4, writes).await;
        all_along(&walked, &expected, |user| user.uuid.clone());
    }
}

async fn other_sessions_come_and_go(server: &Server, stamp: usize) -> Infallible {
    for number in 0.. {
        let id = format!("{}other-{stamp}-{number}", ["", "~"][number % 2]);
        let user = ["jane", "john"][number % 2];
        add_sessions(server, user, std::slice::from_ref(&id)).await;
        if number % 4 == 0 {
            end(server, &id).await;
        } else {
            delete_session(server, &id).await;
        }
    }
    unreachable!("numbers do not end")
}

pub async fn a_walk_of_sessions_is_steady_while_others_come_and_go(mut server: Server) {
    let mut all = Vec::new();
    for user in ["jane", "john"] {
        server.add_user(user).await;
        all.extend(add_sessions(&server, user, &numbered(user, 0..30)).await);
    }
    for (index, (list, expected)) in session_orders(&all).into_iter().enumerate() {
        let writes = other_sessions_come_and_go(&server, index);
        let walked = walk_during(&server, &list, 4, writes).await;
        all_along(&walked, &expected, |session| session.uuid.clone());
    }
    let expected = sorted(&all[..30], false, |session| time(session.created_at));
    let writes = other_sessions_come_and_go(&server, usize::MAX);
    let walked = walk_during(&server, &sessions_of("jane"), 4, writes).await;
    all_along(&walked, &expected, |session| session.uuid.clone());
}

async fn messages_come(server: &Server) -> Infallible {
    for next in 61.. {
        say_numbers(server, "session", next..next + 1).await;
    }
    unreachable!("numbers do not end")
}

pub async fn a_walk_of_messages_is_steady_while_others_come(mut server: Server) {
    server.add_user("jane").await;
    server.add_session("jane", "session").await;
    say_numbers(&server, "session", 1..61).await;
    let writes = messages_come(&server);
    let walked = sequences(&walk_during(&server, &messages_of("session"), 4, writes).await);
    assert!(walked.len() >= 60);
    assert_eq!(walked, (1..=walked.len()).collect::<Vec<_>>());
}

pub async fn a_walk_goes_on_where_its_last_row_was_erased(mut server: Server) {
    add_users(
        &server,
        &numbered("user-", 0..12),
        &[None, Some("a"), Some("b")],
    )
    .await;
    for (list, _) in user_orders(&[]) {
        let mut first = page(&server, list.clone().page(3, "")).await;
        let expected = page(&server, list.clone().page(50, &first.next)).await.rows;
        let last = first.rows.pop().unwrap();
        delete_user(&server, &last.user_id).await;
        let second = page(&server, list.page(50, &first.next)).await;
        assert_eq!((second.rows.len(), second.total), (9, 11));
        assert_eq!(second.rows, expected);
        add_users(&server, &[last.user_id], &[last.email.as_deref()]).await;
    }
    server.add_user("jane").await;
    add_sessions(&server, "jane", &numbered("session-", 0..12)).await;
    let list = sessions_of("jane");
    let whole = page(&server, list.clone()).await.rows;
    let first = page(&server, list.clone().page(3, "")).await;
    delete_session(&server, &whole[2].session_id).await;
    let second = page(&server, list.page(50, &first.next)).await;
    assert_eq!((second.rows, second.total), (whole[3..].to_vec(), 11));
}

const MIB: usize = 1024 * 1024;

/// A walk whose pages end early fits into what clients take, and yields everything.
#[track_caller]
fn end_early<T: Clone>(pages: &[Page<T>], size: usize) -> Vec<T> {
    assert!(pages.len() > 1);
    let (last, others) = pages.split_last().unwrap();
    for page in others {
        assert!((1..size).contains(&page.rows.len()));
        assert!((2 * MIB..4 * MIB).contains(&page.bytes), "{}", page.bytes);
    }
    assert!(last.bytes < 4 * MIB);
    pages.iter().flat_map(|page| page.rows.clone()).collect()
}

pub async fn pages_of_large_messages_end_early(mut server: Server) {
    server.add_user("jane").await;
    server.add_session("jane", "session").await;
    let content = "x".repeat(256 * 1024);
    for _ in 0..3 {
        server.say("session", &[content.as_str(); 15]).await;
    }
    // The usual limit of a client is 4 MiB.
    server.sessions = SessionServiceClient::new(channel(server.addr).await.unwrap());
    for (list, expected) in [
        (messages_of("session"), 1..46_i64),
        (last_messages_of("session", 40), 6..46),
    ] {
        let pages = pages(&server, &list, &[1000]).await;
        let messages = end_early(&pages, 1000);
        assert!(messages.iter().all(|message| message.content == content));
        let sequences: Vec<_> = messages.iter().map(|message| message.sequence).collect();
        assert_eq!(sequences, expected.collect::<Vec<_>>());
        assert!(pages.iter().all(|page| page.total == 45));
    }
}

pub async fn pages_of_large_users_end_early_unless_numbered(mut server: Server) {
    let metadata = Some(object(json!({"a": "x".repeat(60_000)})));
    for number in 0..60 {
        let request = user::AddRequest {
            user_id: number.to_string(),
            metadata: metadata.clone(),
            ..Default::default()
        };
        server.add_user_with(request).await;
    }
    let walked = end_early(&pages(&server, &users(), &[1000]).await, 60);
    let whole = page(&server, users().page(1000, "").number(1)).await;
    assert_eq!((whole.rows.len(), whole.next.as_str()), (60, ""));
    assert_eq!(walked, whole.rows);
}

pub async fn pages_of_large_sessions_end_early_unless_numbered(mut server: Server) {
    server.add_user("jane").await;
    let metadata = Some(object(json!({"a": "x".repeat(60_000)})));
    for number in 0..80 {
        let request = session::AddRequest {
            session_id: number.to_string(),
            user_id: "jane".to_owned(),
            metadata: metadata.clone(),
            ..Default::default()
        };
        ok(server.sessions.add(request).await);
    }
    let whole = page(&server, sessions().page(80, "").number(1)).await;
    assert_eq!((whole.rows.len(), whole.next.as_str()), (80, ""));
    assert!(whole.bytes > 4 * MIB);
    let walked = end_early(&pages(&server, &sessions(), &[1000]).await, 80);
    assert_eq!(walked, whole.rows);
    let walked = end_early(&pages(&server, &sessions_of("jane"), &[1000]).await, 80);
    assert_eq!(walked, whole.rows);
}

pub async fn messages_are_listed_oldest_first(mut server: Server) {
    server.add_user("jane").await;
    server.add_session("jane", "session").await;
    let mut added = server.say("session", &["c", "a"]).await;
    added.extend(server.say("session", &["b"]).await);
    end(&server, "session").await;
    let listed = page(&server, messages_of("session")).await;
    assert_eq!(
        (listed.rows, listed.next.as_str(), listed.total),
        (added, "", 3)
    );

    server.add_session("jane", "empty").await;
    for list in [messages_of("empty"), last_messages_of("empty", 3)] {
        let listed = page(&server, list).await;
        assert_eq!(
            (listed.rows, listed.next.as_str(), listed.total),
            (vec![], "", 0)
        );
    }
}

pub async fn the_last_n_messages_are_listed_oldest_first(mut server: Server) {
    server.add_user("jane").await;
    server.add_session("jane", "session").await;
    say_numbers(&server, "session", 1..201).await;
    for (last_n, first) in [
        (1, 200),
        (3, 198),
        (51, 150),
        (199, 2),
        (200, 1),
        (201, 1),
        (i32::MAX, 1),
    ] {
        let whole = page(&server, last_messages_of("session", last_n)).await;
        assert_eq!(sequences(&whole.rows), (first..=200).collect::<Vec<_>>());
        assert_eq!((whole.next.as_str(), whole.total), ("", 200));
        for size in [7, 100] {
            let pages = pages(&server, &last_messages_of("session", last_n), &[size]).await;
            assert!(pages.iter().all(|page| page.total == 200));
            let walked: Vec<_> = pages.into_iter().flat_map(|page| page.rows).collect();
            assert_eq!(walked, whole.rows);
        }
    }
}

pub async fn of_more_than_a_thousand_last_messages_a_thousand_are_listed(mut server: Server) {
    server.add_user("jane").await;
    server.add_session("jane", "session").await;
    say_numbers(&server, "session", 1..1001).await;
    say_numbers(&server, "session", 1001..1004).await;
    for last_n in [1000, 1001, i32::MAX] {
        let list = last_messages_of("session", last_n);
        let whole = page(&server, list.clone()).await;
        assert_eq!(sequences(&whole.rows), (4..1004).collect::<Vec<_>>());
        assert_eq!((whole.next.as_str(), whole.total), ("", 1003));
        assert_eq!(walk(&server, &list, 300).await, whole.rows);
    }
}

pub async fn the_first_page_settles_which_messages_are_the_last(mut server: Server) {
    server.add_user("jane").await;
    server.add_session("jane", "session").await;
    say_numbers(&server, "session", 1..21).await;
    let list = last_messages_of("session", 10);
    let mut walked = Vec::new();
    let mut next = String::new();
    for (count, more) in [(4, 21..24), (4, 24..99), (2, 99..100)] {
        let page = page(&server, list.clone().page(4, &next)).await;
        assert_eq!(
            (page.rows.len(), page.total),
            (count, number(more.start - 1))
        );
        walked.extend(sequences(&page.rows));
        next = page.next;
        say_numbers(&server, "session", more).await;
    }
    assert_eq!(next, "");
    assert_eq!(walked, (11..21).collect::<Vec<_>>());
    // A new walk starts from the new end.
    let again = page(&server, list).await.rows;
    assert_eq!(sequences(&again), (90..100).collect::<Vec<_>>());
}

/// A clock of microseconds hardly ever gives two rows one moment, so the test does.
#[tokio::test]
async fn rows_of_one_moment_are_walked_by_their_ids() {
    let database = Database::new(Engine::Sqlite);
    let mut server = Server::start(&database).await;
    users_in_disorder(&mut server).await;
    add_sessions(&server, "b", &IDS.map(str::to_owned)).await;
    let connection = database.open().await;
    for table in ["users", "sessions"] {
        let one_moment = format!("UPDATE {table} SET created_at = 1, updated_at = 1");
        connection.execute_unprepared(&one_moment).await.unwrap();
    }
    let (mut all_users, mut all_sessions) = (Vec::new(), Vec::new());
    for id in IDS {
        all_users.push(server.get_user(id).await.unwrap());
        all_sessions.push(server.get_session(id).await.unwrap());
    }
    for (list, expected) in user_orders(&all_users) {
        assert_eq!(walk(&server, &list, 3).await, expected, "{list:?}");
    }
    for (list, expected) in session_orders(&all_sessions) {
        assert_eq!(walk(&server, &list, 3).await, expected, "{list:?}");
    }
    let expected = sorted(&all_sessions, false, |session| session.session_id.clone());
    assert_eq!(walk(&server, &sessions_of("b"), 3).await, expected);
}
