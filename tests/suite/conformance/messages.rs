//! Messages: `AddMessages`, `ListMessages`, `GetMessage`, `UpdateMessage`.

use std::{collections::BTreeSet, fmt::Debug};

use futures_util::future::{join, join_all, join3};
use prost_types::{Struct, value::Kind};
use serde_json::json;
use tonic::{Code, Status, transport::Endpoint};
use tonic_types::ErrorDetails;
use uuid::Uuid;

use crate::support::{
    Server, assert_just_now, failed, largest_metadata, object, ok, refused_fields, resource, said,
    session::{
        AddMessagesRequest, DeleteRequest, EndRequest, GetMessageRequest, ListMessagesRequest,
        ListMessagesResponse, Message, NewMessage, Role, Session, UpdateMessageRequest,
        UpdateRequest, session_service_client::SessionServiceClient,
    },
    wrong_metadata,
};

const SESSION: &str = "usher.session.v1.Session";
const MESSAGE: &str = "usher.session.v1.Message";
const CONTENT_BYTES: usize = 262_144;

fn add(messages: Vec<NewMessage>) -> AddMessagesRequest {
    AddMessagesRequest {
        session_id: "chat".to_owned(),
        messages,
        request_id: None,
    }
}

fn add_again(messages: Vec<NewMessage>) -> AddMessagesRequest {
    AddMessagesRequest {
        request_id: Some(Uuid::now_v7().to_string()),
        ..add(messages)
    }
}

fn list(session_id: &str) -> ListMessagesRequest {
    ListMessagesRequest {
        session_id: session_id.to_owned(),
        ..Default::default()
    }
}

fn get(session_id: &str, message_id: &str) -> GetMessageRequest {
    GetMessageRequest {
        session_id: session_id.to_owned(),
        message_id: message_id.to_owned(),
    }
}

fn update(session_id: &str, message_id: &str, patch: serde_json::Value) -> UpdateMessageRequest {
    UpdateMessageRequest {
        session_id: session_id.to_owned(),
        message_id: message_id.to_owned(),
        metadata: Some(object(patch)),
    }
}

/// Adds a user with one session.
async fn jane_chats(server: &mut Server) -> Session {
    server.add_user("jane").await;
    server.add_session("jane", "chat").await
}

async fn added(server: &mut Server, request: AddMessagesRequest) -> Vec<Message> {
    ok(server.sessions.add_messages(request).await).messages
}

async fn listed(server: &mut Server, session_id: &str) -> ListMessagesResponse {
    ok(server.sessions.list_messages(list(session_id)).await)
}

async fn found(server: &mut Server, session_id: &str, message_id: &str) -> Message {
    let answer = server.sessions.get_message(get(session_id, message_id));
    ok(answer.await).message.unwrap()
}

async fn updated(server: &mut Server, request: UpdateMessageRequest) -> Message {
    ok(server.sessions.update_message(request).await)
        .message
        .unwrap()
}

async fn message_count(server: &mut Server) -> i64 {
    server.get_session("chat").await.unwrap().message_count
}

async fn end_chat(server: &mut Server) {
    let end = EndRequest {
        session_id: "chat".to_owned(),
    };
    ok(server.sessions.end(end).await);
}

fn sequences(messages: &[Message]) -> Vec<i64> {
    messages.iter().map(|message| message.sequence).collect()
}

pub async fn messages_come_back_as_they_were_added(mut server: Server) {
    jane_chats(&mut server).await;
    let roles = [
        Role::Norole,
        Role::System,
        Role::Assistant,
        Role::User,
        Role::Function,
        Role::Tool,
    ];
    let asked: Vec<_> = roles
        .into_iter()
        .map(|role| NewMessage {
            role: role.into(),
            name: Some(format!("a {role:?}")),
            content: format!("ü🦀\n\t\u{1}\u{feff}\\\" says {role:?} "),
            metadata: Some(object(
                json!({"role": role.as_str_name(), "null": null, "empty": [{}]}),
            )),
        })
        .collect();
    let messages = added(&mut server, add(asked.clone())).await;
    assert_eq!(sequences(&messages), [1, 2, 3, 4, 5, 6]);
    for (message, asked) in messages.iter().zip(&asked) {
        assert_eq!(
            (
                &message.role,
                &message.name,
                &message.content,
                &message.metadata
            ),
            (&asked.role, &asked.name, &asked.content, &asked.metadata),
        );
        let message_id = Uuid::parse_str(&message.message_id).unwrap();
        assert_eq!(message_id.get_version_num(), 7);
        assert_eq!(message.created_at, message.updated_at);
        assert_just_now(message.created_at);
        assert_eq!(
            found(&mut server, "chat", &message.message_id).await,
            *message
        );
    }
    assert_eq!(listed(&mut server, "chat").await.messages, messages);
}

pub async fn absent_and_empty_fields_of_a_message_are_different(mut server: Server) {
    jane_chats(&mut server).await;
    let empty = NewMessage {
        name: Some(String::new()),
        metadata: Some(Struct::default()),
        ..said("")
    };
    let messages = added(&mut server, add(vec![said(""), empty])).await;
    assert_eq!(listed(&mut server, "chat").await.messages, messages);
    let [absent, empty] = messages.try_into().unwrap();
    assert_eq!(
        (absent.name, absent.content.as_str(), absent.metadata),
        (None, "", None)
    );
    assert_eq!(
        (empty.name.as_deref(), empty.metadata),
        (Some(""), Some(Struct::default()))
    );
}

pub async fn messages_are_numbered_from_one_in_each_session(mut server: Server) {
    jane_chats(&mut server).await;
    server.add_session("jane", "other").await;
    let mut ids = BTreeSet::new();
    for (session_id, contents, expected) in [
        ("chat", vec!["a", "b"], vec![1, 2]),
        ("other", vec!["a"], vec![1]),
        ("chat", vec!["a"], vec![3]),
        ("other", vec!["a", "b", "c"], vec![2, 3, 4]),
        ("chat", vec!["a", "b"], vec![4, 5]),
    ] {
        let messages = server.say(session_id, &contents).await;
        assert_eq!(sequences(&messages), expected);
        ids.extend(messages.into_iter().map(|message| message.message_id));
    }
    assert_eq!(ids.len(), 9);
}

pub async fn a_content_is_any_text_up_to_a_limit(mut server: Server) {
    jane_chats(&mut server).await;
    for longest in ["x".repeat(CONTENT_BYTES), "ü".repeat(CONTENT_BYTES / 2)] {
        let messages = added(&mut server, add(vec![said(&longest)])).await;
        assert!(messages[0].content == longest);
        let message = found(&mut server, "chat", &messages[0].message_id).await;
        assert!(message.content == longest);
    }
    let too_long = [
        "x".repeat(CONTENT_BYTES + 1),
        "ü".repeat(CONTENT_BYTES / 2 + 1),
    ];
    for wrong in too_long.iter().map(String::as_str).chain(["a\0"]) {
        let answer = server
            .sessions
            .add_messages(add(vec![said(""), said(wrong)]));
        assert_eq!(refused_fields(answer.await), ["messages[1].content"]);
    }
    assert_eq!(message_count(&mut server).await, 2);
}

pub async fn a_speakers_name_is_any_text_up_to_a_limit(mut server: Server) {
    jane_chats(&mut server).await;
    let named = |name: &str| NewMessage {
        name: Some(name.to_owned()),
        ..said("hello")
    };
    for name in [" a\u{301} 🦀\n", &"ü".repeat(512)] {
        let messages = added(&mut server, add(vec![named(name)])).await;
        assert_eq!(messages[0].name.as_deref(), Some(name));
    }
    for wrong in ["a\0", &"a".repeat(1025), &"ü".repeat(513)] {
        let answer = server.sessions.add_messages(add(vec![named(wrong)]));
        assert_eq!(refused_fields(answer.await), ["messages[0].name"]);
    }
}

pub async fn metadata_of_a_message_has_limits(mut server: Server) {
    jane_chats(&mut server).await;
    let with = |metadata: &Struct| NewMessage {
        metadata: Some(metadata.clone()),
        ..said("hello")
    };
    let fits = largest_metadata();
    let messages = added(&mut server, add(fits.iter().map(with).collect())).await;
    for (message, metadata) in messages.iter().zip(fits) {
        assert_eq!(message.metadata, Some(metadata));
    }
    for wrong in wrong_metadata() {
        let answer = server.sessions.add_messages(add(vec![with(&wrong)]));
        assert_eq!(refused_fields(answer.await), ["messages[0].metadata"]);
        let change = UpdateMessageRequest {
            metadata: Some(wrong),
            ..update("chat", &messages[0].message_id, json!({}))
        };
        let answer = server.sessions.update_message(change);
        assert_eq!(refused_fields(answer.await), ["metadata"]);
    }
}

pub async fn one_to_a_thousand_messages_are_added_at_once(mut server: Server) {
    jane_chats(&mut server).await;
    for count in [0, 1001] {
        let answer = server.sessions.add_messages(add(vec![said("a"); count]));
        assert_eq!(refused_fields(answer.await), ["messages"]);
        assert_eq!(message_count(&mut server).await, 0);
    }
    let asked: Vec<_> = (1..=1000).map(|n: i64| said(&n.to_string())).collect();
    let messages = added(&mut server, add(asked)).await;
    assert_eq!(messages.len(), 1000);
    assert!(
        (1..)
            .zip(&messages)
            .all(|(n, message)| message.sequence == n && message.content == n.to_string())
    );
    assert_eq!(message_count(&mut server).await, 1000);
    let query = ListMessagesRequest {
        page_size: 1000,
        ..list("chat")
    };
    let answer = ok(server.sessions.list_messages(query).await);
    assert_eq!(answer.messages, messages);
    assert_eq!(answer.total_count, 1000);
}

pub async fn a_message_needs_a_known_role(mut server: Server) {
    jane_chats(&mut server).await;
    for role in [Role::Unspecified.into(), 7, -1, i32::MAX] {
        let message = NewMessage {
            role,
            ..said("hello")
        };
        let answer = server.sessions.add_messages(add(vec![message]));
        assert_eq!(refused_fields(answer.await), ["messages[0].role"]);
    }
}

pub async fn every_violation_of_every_message_is_listed(mut server: Server) {
    let wrong = Some(object(json!({"\0": 1})));
    let asked = AddMessagesRequest {
        session_id: String::new(),
        messages: vec![
            said("right"),
            NewMessage {
                name: Some("\0".to_owned()),
                content: "no role".to_owned(),
                ..Default::default()
            },
            NewMessage {
                metadata: wrong.clone(),
                ..said("\0")
            },
            NewMessage {
                role: 7,
                ..Default::default()
            },
        ],
        request_id: Some("not-a-uuid".to_owned()),
    };
    let mut fields = refused_fields(server.sessions.add_messages(asked).await);
    fields.sort();
    assert_eq!(
        fields,
        [
            "messages[1].name",
            "messages[1].role",
            "messages[2].content",
            "messages[2].metadata",
            "messages[3].role",
            "request_id",
            "session_id",
        ]
    );

    let none = AddMessagesRequest {
        session_id: String::new(),
        request_id: Some(String::new()),
        ..add(vec![])
    };
    let mut fields = refused_fields(server.sessions.add_messages(none).await);
    fields.sort();
    assert_eq!(fields, ["messages", "request_id", "session_id"]);

    let nothing = GetMessageRequest::default();
    let mut fields = refused_fields(server.sessions.get_message(nothing).await);
    fields.sort();
    assert_eq!(fields, ["message_id", "session_id"]);

    let change = UpdateMessageRequest {
        metadata: wrong,
        ..Default::default()
    };
    let mut fields = refused_fields(server.sessions.update_message(change).await);
    fields.sort();
    assert_eq!(fields, ["message_id", "metadata", "session_id"]);
}

pub async fn more_violations_than_a_client_can_receive_are_counted(mut server: Server) {
    jane_chats(&mut server).await;
    // The smallest limit of the usual clients.
    let channel = Endpoint::try_from(format!("http://{}", server.addr))
        .unwrap()
        .http2_max_header_list_size(8 * 1024)
        .connect_lazy();
    let mut sessions = SessionServiceClient::new(channel);
    let answer = sessions.add_messages(add(vec![NewMessage::default(); 1000]));
    let details = failed(answer.await, Code::InvalidArgument, "INVALID_FIELDS");
    let violations = &details.bad_request().unwrap().field_violations;
    let (rest, listed) = violations.split_last().unwrap();
    assert!((10..1000).contains(&listed.len()));
    for (index, violation) in listed.iter().enumerate() {
        assert_eq!(violation.field, format!("messages[{index}].role"));
    }
    assert_eq!(rest.field, "");
    let count = (1000 - listed.len()).to_string();
    assert!(rest.description.contains(&count), "{}", rest.description);
}

pub async fn one_wrong_message_keeps_all_from_being_added(mut server: Server) {
    jane_chats(&mut server).await;
    let right = server.say("chat", &["right"]).await;
    for position in 0..3 {
        let mut messages = vec![said("right"); 3];
        messages[position].role = Role::Unspecified.into();
        let answer = server.sessions.add_messages(add_again(messages));
        assert_eq!(
            refused_fields(answer.await),
            [format!("messages[{position}].role")]
        );
    }
    assert_eq!(message_count(&mut server).await, 1);
    assert_eq!(listed(&mut server, "chat").await.messages, right);
    assert_eq!(sequences(&server.say("chat", &["next"]).await), [2]);
}

pub async fn concurrent_messages_get_distinct_gapless_sequences(mut server: Server) {
    jane_chats(&mut server).await;
    let answers = join_all((0..20).map(|call| {
        let mut sessions = server.sessions.clone();
        let contents: Vec<String> = (0..=call % 5).map(|n| format!("{call}-{n}")).collect();
        let asked = add(contents.iter().map(|content| said(content)).collect());
        async move {
            let messages = ok(sessions.add_messages(asked).await).messages;
            let answered = messages.iter().map(|message| &message.content);
            assert!(answered.eq(&contents));
            messages
        }
    }));
    let answers = answers.await;
    for messages in &answers {
        let first = messages[0].sequence;
        assert!(
            (first..)
                .zip(messages)
                .all(|(n, message)| message.sequence == n)
        );
    }
    let mut all = answers.concat();
    all.sort_by_key(|message| message.sequence);
    assert!(sequences(&all).into_iter().eq(1..=60));
    let query = ListMessagesRequest {
        page_size: 100,
        ..list("chat")
    };
    let answer = ok(server.sessions.list_messages(query).await);
    assert_eq!((answer.messages, answer.total_count), (all, 60));
    assert_eq!(message_count(&mut server).await, 60);
}

pub async fn messages_that_meet_an_end_are_added_or_refused(mut server: Server) {
    jane_chats(&mut server).await;
    let ten_calls = || {
        join_all((0..10).map(|_| {
            let mut sessions = server.sessions.clone();
            async move { sessions.add_messages(add(vec![said("hello"); 2])).await }
        }))
    };
    let mut other = server.sessions.clone();
    let end = other.end(EndRequest {
        session_id: "chat".to_owned(),
    });
    let (before, end, after) = join3(ten_calls(), end, ten_calls()).await;
    let answers = before.into_iter().chain(after);
    let ended = ok(end).session.unwrap();
    let (kept, refused): (Vec<_>, Vec<_>) = answers.partition(Result::is_ok);
    for answer in refused {
        failed(answer, Code::FailedPrecondition, "SESSION_ENDED");
    }
    let kept: Vec<_> = kept
        .into_iter()
        .flat_map(|kept| ok(kept).messages)
        .collect();
    let kept_count = i64::try_from(kept.len()).unwrap();
    assert_eq!(ended.message_count, kept_count);
    assert_eq!(server.get_session("chat").await.unwrap(), ended);
    assert_eq!(listed(&mut server, "chat").await.total_count, kept_count);
}

pub async fn messages_that_are_sent_again_are_the_first_ones(mut server: Server) {
    jane_chats(&mut server).await;
    server.say("chat", &["before"]).await;
    let asked = add_again(vec![said("one"), said("two")]);
    let first = added(&mut server, asked.clone()).await;
    server.say("chat", &["after"]).await;
    assert_eq!(added(&mut server, asked.clone()).await, first);

    // All at once: one adds, and all answer with its messages.
    let at_once = add_again(vec![said("three"), said("four")]);
    let answers = join_all((0..16).map(|_| {
        let (mut sessions, asked) = (server.sessions.clone(), at_once.clone());
        async move { ok(sessions.add_messages(asked).await).messages }
    }));
    let answers = answers.await;
    assert!(answers.iter().all(|messages| *messages == answers[0]));
    assert_eq!(sequences(&answers[0]), [5, 6]);
    assert_eq!(message_count(&mut server).await, 6);

    // After the end too.
    end_chat(&mut server).await;
    assert_eq!(added(&mut server, asked).await, first);
    assert_eq!(message_count(&mut server).await, 6);
}

pub async fn a_request_id_for_other_messages_already_exists(mut server: Server) {
    jane_chats(&mut server).await;
    server.add_session("jane", "other").await;
    let asked = add_again(vec![said("one"), said("two")]);
    let first = added(&mut server, asked.clone()).await;
    let with = |messages| AddMessagesRequest {
        messages,
        ..asked.clone()
    };
    let named = NewMessage {
        name: Some(String::new()),
        ..said("two")
    };
    let with_metadata = NewMessage {
        metadata: Some(Struct::default()),
        ..said("two")
    };
    let by_another = NewMessage {
        role: Role::Tool.into(),
        ..said("two")
    };
    let elsewhere = AddMessagesRequest {
        session_id: "other".to_owned(),
        ..asked.clone()
    };
    for other in [
        with(vec![said("one")]),
        with(vec![said("two"), said("one")]),
        with(vec![said("one"), named]),
        with(vec![said("one"), with_metadata]),
        with(vec![said("one"), by_another]),
        elsewhere,
    ] {
        let asked_for = other.session_id.clone();
        let details = failed(
            server.sessions.add_messages(other).await,
            Code::AlreadyExists,
            "REQUEST_ID_REUSED",
        );
        assert_eq!(resource(&details), (SESSION, asked_for.as_str()));
    }
    assert_eq!(listed(&mut server, "chat").await.messages, first);
    assert_eq!(listed(&mut server, "other").await.total_count, 0);
    for wrong in ["", "1", "not-a-uuid", "0191e4d47c0b7d6e8a43111213141516"] {
        let add = AddMessagesRequest {
            request_id: Some(wrong.to_owned()),
            ..asked.clone()
        };
        let answer = server.sessions.add_messages(add);
        assert_eq!(refused_fields(answer.await), ["request_id"]);
    }
}

pub async fn messages_without_a_request_id_are_added_each_time(mut server: Server) {
    jane_chats(&mut server).await;
    let first = server.say("chat", &["hello"]).await;
    let second = server.say("chat", &["hello"]).await;
    assert_ne!(first[0].message_id, second[0].message_id);
    assert_eq!(message_count(&mut server).await, 2);
}

pub async fn added_messages_change_only_the_count_of_their_session(mut server: Server) {
    let session = jane_chats(&mut server).await;
    let jane = server.get_user("jane").await.unwrap();
    for message_count in [2, 4] {
        server.say("chat", &["one", "two"]).await;
        let expected = Session {
            message_count,
            ..session.clone()
        };
        assert_eq!(server.get_session("chat").await.unwrap(), expected);
    }
    assert_eq!(server.get_user("jane").await.unwrap(), jane);
}

pub async fn messages_beside_updates_of_their_session_are_all_counted(mut server: Server) {
    jane_chats(&mut server).await;
    join_all((0..20).map(|number| {
        let (mut first, mut second) = (server.sessions.clone(), server.sessions.clone());
        let change = UpdateRequest {
            session_id: "chat".to_owned(),
            metadata: Some(object(json!({number.to_string(): number}))),
            ..Default::default()
        };
        async move {
            let added = first.add_messages(add(vec![said("hello"); 2]));
            let (added, updated) = join(added, second.update(change)).await;
            ok(added);
            ok(updated);
        }
    }))
    .await;
    let session = server.get_session("chat").await.unwrap();
    assert_eq!(session.message_count, 40);
    assert_eq!(session.metadata.unwrap().fields.len(), 20);
}

pub async fn what_a_session_id_of_messages_cannot_be_is_refused(mut server: Server) {
    let message_id = Uuid::now_v7().to_string();
    for id in ["", "a\0b", &"a".repeat(1025), &"ü".repeat(513)] {
        let add = AddMessagesRequest {
            session_id: id.to_owned(),
            ..add(vec![said("hello")])
        };
        let change = update(id, &message_id, json!({}));
        let sessions = &mut server.sessions;
        let fields = [
            refused_fields(sessions.add_messages(add).await),
            refused_fields(sessions.list_messages(list(id)).await),
            refused_fields(sessions.get_message(get(id, &message_id)).await),
            refused_fields(sessions.update_message(change).await),
        ];
        assert_eq!(fields, [["session_id"]; 4]);
    }
}

pub async fn messages_of_an_unknown_session_are_not_found(mut server: Server) {
    jane_chats(&mut server).await;
    let message_id = &server.say("chat", &["hello"]).await[0].message_id;
    let add = AddMessagesRequest {
        session_id: "nothing".to_owned(),
        ..add_again(vec![said("hello")])
    };
    let change = update("nothing", message_id, json!({"foo": "bar"}));
    let sessions = &mut server.sessions;
    let all = [
        session_not_found(sessions.add_messages(add).await),
        session_not_found(sessions.list_messages(list("nothing")).await),
        session_not_found(sessions.get_message(get("nothing", message_id)).await),
        session_not_found(sessions.update_message(change).await),
    ];
    for details in all {
        assert_eq!(resource(&details), (SESSION, "nothing"));
    }
}

#[track_caller]
fn session_not_found<T: Debug>(result: Result<T, Status>) -> ErrorDetails {
    failed(result, Code::NotFound, "SESSION_NOT_FOUND")
}

pub async fn an_ended_session_takes_no_messages(mut server: Server) {
    jane_chats(&mut server).await;
    server.say("chat", &["hello"]).await;
    end_chat(&mut server).await;
    for asked in [add(vec![said("more")]), add_again(vec![said("more")])] {
        let details = failed(
            server.sessions.add_messages(asked).await,
            Code::FailedPrecondition,
            "SESSION_ENDED",
        );
        let violations = &details.precondition_failure().unwrap().violations;
        assert_eq!(violations[0].r#type, "SESSION_ACTIVE");
        assert_eq!(violations[0].subject, "chat");
    }
    assert_eq!(message_count(&mut server).await, 1);
    assert_eq!(listed(&mut server, "chat").await.total_count, 1);
}

pub async fn an_unknown_message_is_not_found(mut server: Server) {
    jane_chats(&mut server).await;
    server.add_session("jane", "other").await;
    server.say("chat", &["hello"]).await;
    let elsewhere = server.say("other", &["hello"]).await.remove(0);
    let unknown = Uuid::now_v7().to_string();
    for message_id in [&unknown, &elsewhere.message_id] {
        let change = update("chat", message_id, json!({"foo": "bar"}));
        let sessions = &mut server.sessions;
        let all = [
            message_not_found(sessions.get_message(get("chat", message_id)).await),
            message_not_found(sessions.update_message(change).await),
        ];
        for details in all {
            assert_eq!(resource(&details), (MESSAGE, message_id.as_str()));
        }
    }
    let same = found(&mut server, "other", &elsewhere.message_id).await;
    assert_eq!(same, elsewhere);
}

#[track_caller]
fn message_not_found<T: Debug>(result: Result<T, Status>) -> ErrorDetails {
    failed(result, Code::NotFound, "MESSAGE_NOT_FOUND")
}

pub async fn a_message_does_not_outlive_its_session(mut server: Server) {
    jane_chats(&mut server).await;
    let message_id = &server.say("chat", &["hello"]).await[0].message_id;
    let erase = DeleteRequest {
        session_id: "chat".to_owned(),
        ..Default::default()
    };
    ok(server.sessions.delete(erase).await);
    server.add_session("jane", "chat").await;
    assert_eq!(listed(&mut server, "chat").await.total_count, 0);
    message_not_found(server.sessions.get_message(get("chat", message_id)).await);
}

pub async fn a_malformed_message_id_is_refused(mut server: Server) {
    jane_chats(&mut server).await;
    for wrong in [
        "",
        "1",
        "\0",
        "not-a-uuid",
        "0191e4d47c0b7d6e8a43111213141516",
        "{0191e4d4-7c0b-7d6e-8a43-111213141516}",
        " 0191e4d4-7c0b-7d6e-8a43-111213141516",
    ] {
        let answer = server.sessions.get_message(get("chat", wrong));
        assert_eq!(refused_fields(answer.await), ["message_id"]);
        let change = update("chat", wrong, json!({}));
        let answer = server.sessions.update_message(change);
        assert_eq!(refused_fields(answer.await), ["message_id"]);
    }
}

pub async fn a_message_update_merges_metadata(mut server: Server) {
    jane_chats(&mut server).await;
    let messages = server.say("chat", &["one", "two"]).await;
    let session = server.get_session("chat").await.unwrap();
    let first = &messages[0];
    let mut last = first.clone();
    for (patch, merged) in [
        // Into none at all.
        (
            json!({"a": {"b": 1, "nothing": null}, "c": [1, 2]}),
            json!({"a": {"b": 1}, "c": [1, 2]}),
        ),
        // Objects merge recursively, arrays and scalars replace.
        (
            json!({"a": {"d": 2}, "c": [3]}),
            json!({"a": {"b": 1, "d": 2}, "c": [3]}),
        ),
        // null removes the key.
        (
            json!({"a": {"b": null}, "c": null, "e": null}),
            json!({"a": {"d": 2}}),
        ),
        (json!({"a": "scalar"}), json!({"a": "scalar"})),
        (json!({"a": {"x": {"y": null}}}), json!({"a": {"x": {}}})),
    ] {
        let change = update("chat", &first.message_id, patch);
        let changed = updated(&mut server, change).await;
        assert_ne!(changed.updated_at, last.updated_at);
        let expected = Message {
            metadata: Some(object(merged)),
            updated_at: changed.updated_at,
            ..first.clone()
        };
        assert_eq!(changed, expected);
        assert_eq!(
            found(&mut server, "chat", &first.message_id).await,
            expected
        );
        last = changed;
    }
    let others = listed(&mut server, "chat").await.messages;
    assert_eq!(others, [last, messages[1].clone()]);
    assert_eq!(server.get_session("chat").await.unwrap(), session);
}

pub async fn a_message_update_needs_metadata(mut server: Server) {
    jane_chats(&mut server).await;
    let message = server.say("chat", &["hello"]).await.remove(0);
    let change = UpdateMessageRequest {
        metadata: None,
        ..update("chat", &message.message_id, json!({}))
    };
    let answer = server.sessions.update_message(change);
    assert_eq!(refused_fields(answer.await), ["metadata"]);
    assert_eq!(
        found(&mut server, "chat", &message.message_id).await,
        message
    );
}

pub async fn a_message_merge_that_grows_too_large_is_refused(mut server: Server) {
    jane_chats(&mut server).await;
    let half = "x".repeat(40 * 1024);
    let asked = NewMessage {
        metadata: Some(object(json!({"a": half}))),
        ..said("hello")
    };
    let message = added(&mut server, add(vec![asked])).await.remove(0);
    let change = update("chat", &message.message_id, json!({"b": half}));
    let answer = server.sessions.update_message(change);
    assert_eq!(refused_fields(answer.await), ["metadata"]);
    assert_eq!(
        found(&mut server, "chat", &message.message_id).await,
        message
    );
}

pub async fn a_message_of_an_ended_session_can_be_updated(mut server: Server) {
    jane_chats(&mut server).await;
    let message = server.say("chat", &["hello"]).await.remove(0);
    end_chat(&mut server).await;
    let session = server.get_session("chat").await.unwrap();
    let patch = json!({"rating": 5});
    let change = update("chat", &message.message_id, patch.clone());
    let changed = updated(&mut server, change).await;
    assert_eq!(changed.metadata, Some(object(patch)));
    assert_eq!(
        found(&mut server, "chat", &message.message_id).await,
        changed
    );
    assert_eq!(server.get_session("chat").await.unwrap(), session);
}

pub async fn an_update_that_changes_nothing_returns_the_message_unchanged(mut server: Server) {
    jane_chats(&mut server).await;
    let asked = NewMessage {
        metadata: Some(object(json!({"foo": {"bar": [1, null]}}))),
        ..said("hello")
    };
    let message = added(&mut server, add(vec![asked])).await.remove(0);
    for patch in [
        json!({}),
        json!({"foo": {}}),
        json!({"foo": {"bar": [1, null]}}),
        json!({"unknown": null}),
    ] {
        let change = update("chat", &message.message_id, patch);
        assert_eq!(updated(&mut server, change).await, message);
        assert_eq!(
            found(&mut server, "chat", &message.message_id).await,
            message
        );
    }
}

pub async fn concurrent_merges_into_a_message_all_survive(mut server: Server) {
    jane_chats(&mut server).await;
    let message_id = &server.say("chat", &["hello"]).await[0].message_id;
    join_all((0..50).map(|number| {
        let mut sessions = server.sessions.clone();
        let patch = json!({"keys": {number.to_string(): number}});
        let change = update("chat", message_id, patch);
        async move { ok(sessions.update_message(change).await) }
    }))
    .await;
    let message = found(&mut server, "chat", message_id).await;
    let metadata = message.metadata.unwrap();
    let Some(Kind::StructValue(keys)) = &metadata.fields["keys"].kind else {
        panic!("no keys in {metadata:?}");
    };
    assert_eq!(keys.fields.len(), 50);
}
