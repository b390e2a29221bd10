//! Sessions: Add, Get, Update, End, Delete.

use futures_util::future::join_all;
use prost_types::{FieldMask, Struct, value::Kind};
use serde_json::json;
use tonic::{Code, Status};
use tonic_types::ErrorDetails;
use uuid::Uuid;

use crate::support::{
    Server, assert_just_now, failed, largest_metadata, object, ok, refused_fields, resource, said,
    session::{
        AddMessagesRequest, AddRequest, DeleteRequest, EndRequest, GetMessageRequest, GetRequest,
        Receipt, Session, UpdateRequest,
    },
    user, wrong_metadata,
};

const USER: &str = "usher.user.v1.User";
const SESSION: &str = "usher.session.v1.Session";

fn chat() -> AddRequest {
    AddRequest {
        session_id: "chat".to_owned(),
        user_id: "jane".to_owned(),
        metadata: Some(object(json!({"foo": "bar"}))),
        request_id: None,
    }
}

fn update(session_id: &str) -> UpdateRequest {
    UpdateRequest {
        session_id: session_id.to_owned(),
        ..Default::default()
    }
}

fn mask(paths: &[&str]) -> FieldMask {
    let paths = paths.iter().map(|path| (*path).to_owned()).collect();
    FieldMask { paths }
}

fn end(session_id: &str) -> EndRequest {
    EndRequest {
        session_id: session_id.to_owned(),
    }
}

fn delete(session_id: &str) -> DeleteRequest {
    DeleteRequest {
        session_id: session_id.to_owned(),
        ..Default::default()
    }
}

async fn added(server: &mut Server, request: AddRequest) -> Session {
    ok(server.sessions.add(request).await).session.unwrap()
}

/// Adds a user with one session.
async fn jane_chats(server: &mut Server) -> Session {
    server.add_user("jane").await;
    added(server, chat()).await
}

async fn updated(server: &mut Server, request: UpdateRequest) -> Session {
    ok(server.sessions.update(request).await).session.unwrap()
}

async fn ended(server: &mut Server, session_id: &str) -> Session {
    ok(server.sessions.end(end(session_id)).await)
        .session
        .unwrap()
}

async fn deleted(server: &mut Server, request: DeleteRequest) -> Receipt {
    ok(server.sessions.delete(request).await).receipt.unwrap()
}

async fn session_count(server: &mut Server, user_id: &str) -> i64 {
    server.get_user(user_id).await.unwrap().session_count
}

pub async fn a_session_comes_back_as_it_was_added(mut server: Server) {
    let session = jane_chats(&mut server).await;
    let asked = chat();
    assert_eq!(
        (&session.session_id, &session.user_id, &session.metadata),
        (&asked.session_id, &asked.user_id, &asked.metadata),
    );
    assert_eq!(Uuid::parse_str(&session.uuid).unwrap().get_version_num(), 7);
    assert_eq!((session.ended_at, session.message_count), (None, 0));
    assert!(!session.etag.is_empty());
    assert_eq!(session.created_at, session.updated_at);
    assert_just_now(session.created_at);

    assert_eq!(server.get_session("chat").await.unwrap(), session);
}

pub async fn a_session_is_counted_by_its_user_and_changes_nothing_else(mut server: Server) {
    let jane = server.add_user("jane").await;
    let john = server.add_user("john").await;
    for (session_id, session_count) in [("a", 1), ("b", 2), ("c", 3)] {
        server.add_session("jane", session_id).await;
        let expected = user::User {
            session_count,
            ..jane.clone()
        };
        assert_eq!(server.get_user("jane").await.unwrap(), expected);
    }
    // Ended ones are counted too.
    ended(&mut server, "a").await;
    assert_eq!(session_count(&mut server, "jane").await, 3);
    assert_eq!(server.get_user("john").await.unwrap(), john);
}

pub async fn absent_and_empty_metadata_of_a_session_are_different(mut server: Server) {
    server.add_user("jane").await;
    for (session_id, metadata) in [("absent", None), ("empty", Some(Struct::default()))] {
        let asked = AddRequest {
            session_id: session_id.to_owned(),
            metadata: metadata.clone(),
            ..chat()
        };
        assert_eq!(added(&mut server, asked).await.metadata, metadata);
        let found = server.get_session(session_id).await.unwrap();
        assert_eq!(found.metadata, metadata);
    }
}

pub async fn a_session_id_is_any_string_and_is_compared_byte_for_byte(mut server: Server) {
    server.add_user("jane").await;
    let longest = "ü".repeat(512);
    let ids = [
        "jane@example.com",
        "a/path/../with/slashes",
        "🦀",
        "Straße",
        "STRASSE",
        "strasse",
        // The same letter, composed and decomposed.
        "\u{e9}",
        "e\u{301}",
        " ",
        " a",
        "a ",
        "a",
        "A",
        "%",
        "_",
        "'; DROP TABLE sessions; --",
        "\n\t\u{1}\u{7f}\u{feff}\u{10ffff}",
        "null",
        "0",
        "00",
        &longest,
    ];
    for id in ids {
        assert_eq!(server.add_session("jane", id).await.session_id, id);
    }
    let mut uuids: Vec<String> = Vec::new();
    for id in ids {
        let found = server.get_session(id).await.unwrap();
        assert_eq!(found.session_id, id);
        uuids.push(found.uuid);
    }
    uuids.sort();
    uuids.dedup();
    assert_eq!(uuids.len(), ids.len());
}

pub async fn what_a_session_id_cannot_be_is_refused(mut server: Server) {
    server.add_user("jane").await;
    for id in ["", "a\0b", &"a".repeat(1025), &"ü".repeat(513)] {
        let session_id = id.to_owned();
        let add = AddRequest {
            session_id: session_id.clone(),
            ..chat()
        };
        let get = GetRequest { session_id };
        let sessions = &mut server.sessions;
        let fields = [
            refused_fields(sessions.add(add).await),
            refused_fields(sessions.get(get).await),
            refused_fields(sessions.update(update(id)).await),
            refused_fields(sessions.end(end(id)).await),
            refused_fields(sessions.delete(delete(id)).await),
        ];
        assert_eq!(fields, [["session_id"]; 5]);

        let add = AddRequest {
            user_id: id.to_owned(),
            ..chat()
        };
        assert_eq!(refused_fields(sessions.add(add).await), ["user_id"]);
    }
}

pub async fn metadata_of_a_session_has_limits(mut server: Server) {
    server.add_user("jane").await;
    server.add_session("jane", "merged").await;
    for (index, fits) in largest_metadata().into_iter().enumerate() {
        let metadata = Some(fits);
        let asked = AddRequest {
            session_id: index.to_string(),
            metadata: metadata.clone(),
            ..chat()
        };
        assert_eq!(added(&mut server, asked).await.metadata, metadata);
        let change = UpdateRequest {
            metadata: metadata.clone(),
            update_mask: Some(mask(&["metadata"])),
            ..update("merged")
        };
        assert_eq!(updated(&mut server, change).await.metadata, metadata);
    }
    for wrong in wrong_metadata() {
        let metadata = Some(wrong);
        let add = AddRequest {
            metadata: metadata.clone(),
            ..chat()
        };
        assert_eq!(refused_fields(server.sessions.add(add).await), ["metadata"]);
        let change = UpdateRequest {
            metadata,
            ..update("merged")
        };
        assert_eq!(
            refused_fields(server.sessions.update(change).await),
            ["metadata"]
        );
    }
}

pub async fn every_violation_of_a_session_is_listed(mut server: Server) {
    let metadata = Some(object(json!({"\0": 1})));
    let add = AddRequest {
        session_id: String::new(),
        user_id: String::new(),
        metadata: metadata.clone(),
        request_id: Some("\0".to_owned()),
    };
    let mut fields = refused_fields(server.sessions.add(add).await);
    fields.sort();
    assert_eq!(fields, ["metadata", "request_id", "session_id", "user_id"]);

    let change = UpdateRequest {
        metadata,
        update_mask: Some(mask(&["uuid"])),
        ..update("")
    };
    let mut fields = refused_fields(server.sessions.update(change).await);
    fields.sort();
    assert_eq!(fields, ["metadata", "session_id", "update_mask"]);
}

pub async fn a_session_for_an_unknown_user_is_not_found(mut server: Server) {
    for request_id in [None, Some(Uuid::now_v7().to_string())] {
        let add = AddRequest {
            request_id,
            ..chat()
        };
        let details = failed(
            server.sessions.add(add).await,
            Code::NotFound,
            "USER_NOT_FOUND",
        );
        assert_eq!(resource(&details), (USER, "jane"));
    }
    let get = server.get_session("chat").await;
    failed(get, Code::NotFound, "SESSION_NOT_FOUND");
}

pub async fn a_taken_session_id_already_exists(mut server: Server) {
    let first = jane_chats(&mut server).await;
    server.add_user("john").await;
    let again = AddRequest {
        metadata: None,
        ..chat()
    };
    let of_another_user = AddRequest {
        user_id: "john".to_owned(),
        ..chat()
    };
    let with_a_request_id = AddRequest {
        request_id: Some(Uuid::now_v7().to_string()),
        ..chat()
    };
    for taken in [again, of_another_user, with_a_request_id] {
        let details = failed(
            server.sessions.add(taken).await,
            Code::AlreadyExists,
            "SESSION_ALREADY_EXISTS",
        );
        assert_eq!(resource(&details), (SESSION, "chat"));
        assert_eq!(server.get_session("chat").await.unwrap(), first);
    }
    assert_eq!(session_count(&mut server, "jane").await, 1);
    assert_eq!(session_count(&mut server, "john").await, 0);
}

pub async fn of_concurrent_adds_of_one_session_id_one_wins(mut server: Server) {
    server.add_user("jane").await;
    let answers = join_all((0..20).map(|_| {
        let mut sessions = server.sessions.clone();
        async move { sessions.add(chat()).await }
    }));
    let (won, lost): (Vec<_>, Vec<_>) = answers.await.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 19));
    for answer in lost {
        failed(answer, Code::AlreadyExists, "SESSION_ALREADY_EXISTS");
    }
    let won = won.into_iter().map(ok).next().unwrap().session.unwrap();
    assert_eq!(server.get_session("chat").await.unwrap(), won);
    assert_eq!(session_count(&mut server, "jane").await, 1);
}

pub async fn concurrent_sessions_of_a_user_are_all_counted(mut server: Server) {
    server.add_user("jane").await;
    join_all((0..20).map(|number: u8| {
        let mut sessions = server.sessions.clone();
        let asked = AddRequest {
            session_id: number.to_string(),
            ..chat()
        };
        async move { ok(sessions.add(asked).await) }
    }))
    .await;
    assert_eq!(session_count(&mut server, "jane").await, 20);
    join_all((0..10).map(|number: u8| {
        let mut sessions = server.sessions.clone();
        async move { ok(sessions.delete(delete(&number.to_string())).await) }
    }))
    .await;
    assert_eq!(session_count(&mut server, "jane").await, 10);
}

pub async fn a_session_that_is_added_again_is_the_first_one(mut server: Server) {
    server.add_user("jane").await;
    let asked = AddRequest {
        request_id: Some(Uuid::now_v7().to_string()),
        ..chat()
    };
    let first = added(&mut server, asked.clone()).await;
    assert_eq!(added(&mut server, asked.clone()).await, first);

    // In its current state.
    server.say("chat", &["hello"]).await;
    let last = ended(&mut server, "chat").await;
    assert_eq!(last.message_count, 1);
    assert_eq!(added(&mut server, asked).await, last);
    assert_eq!(session_count(&mut server, "jane").await, 1);

    // All at once: one adds, and all answer with its session.
    let asked = AddRequest {
        session_id: "other".to_owned(),
        request_id: Some(Uuid::now_v7().to_string()),
        ..chat()
    };
    let answers = join_all((0..16).map(|_| {
        let (mut sessions, asked) = (server.sessions.clone(), asked.clone());
        async move { ok(sessions.add(asked).await).session.unwrap() }
    }));
    let answers = answers.await;
    assert!(answers.iter().all(|session| *session == answers[0]));
    assert_eq!(session_count(&mut server, "jane").await, 2);
}

pub async fn a_request_id_for_another_session_already_exists(mut server: Server) {
    server.add_user("jane").await;
    server.add_user("john").await;
    let asked = AddRequest {
        request_id: Some(Uuid::now_v7().to_string()),
        ..chat()
    };
    let first = added(&mut server, asked.clone()).await;
    for other in [
        AddRequest {
            session_id: "other".to_owned(),
            ..asked.clone()
        },
        AddRequest {
            user_id: "john".to_owned(),
            ..asked.clone()
        },
        AddRequest {
            metadata: None,
            ..asked.clone()
        },
        AddRequest {
            metadata: Some(object(json!({"foo": "baz"}))),
            ..asked.clone()
        },
    ] {
        let asked_for = other.session_id.clone();
        let details = failed(
            server.sessions.add(other).await,
            Code::AlreadyExists,
            "REQUEST_ID_REUSED",
        );
        assert_eq!(resource(&details), (SESSION, asked_for.as_str()));
    }
    let other = server.get_session("other").await;
    failed(other, Code::NotFound, "SESSION_NOT_FOUND");
    assert_eq!(server.get_session("chat").await.unwrap(), first);
    for wrong in ["", "1", "not-a-uuid", "0191e4d47c0b7d6e8a43111213141516"] {
        let add = AddRequest {
            request_id: Some(wrong.to_owned()),
            ..chat()
        };
        assert_eq!(
            refused_fields(server.sessions.add(add).await),
            ["request_id"]
        );
    }
}

pub async fn an_unknown_session_is_not_found(mut server: Server) {
    jane_chats(&mut server).await;
    let longest = "ü".repeat(512);
    for unknown in ["nothing", "Chat", "chat ", &longest] {
        let get = GetRequest {
            session_id: unknown.to_owned(),
        };
        let sessions = &mut server.sessions;
        let all = [
            session_not_found(sessions.get(get).await),
            session_not_found(sessions.update(update(unknown)).await),
            session_not_found(sessions.end(end(unknown)).await),
            session_not_found(sessions.delete(delete(unknown)).await),
        ];
        for details in all {
            assert_eq!(resource(&details), (SESSION, unknown));
        }
    }
}

#[track_caller]
fn session_not_found<T: std::fmt::Debug>(result: Result<T, Status>) -> ErrorDetails {
    failed(result, Code::NotFound, "SESSION_NOT_FOUND")
}

pub async fn a_session_update_merges_metadata(mut server: Server) {
    server.add_user("jane").await;
    let first = server.add_session("jane", "chat").await;
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
        let change = UpdateRequest {
            metadata: Some(object(patch)),
            // An empty mask is none.
            update_mask: Some(mask(&[])),
            ..update("chat")
        };
        let changed = updated(&mut server, change).await;
        assert_ne!(changed.etag, last.etag);
        assert_ne!(changed.updated_at, last.updated_at);
        let expected = Session {
            metadata: Some(object(merged)),
            updated_at: changed.updated_at,
            etag: changed.etag.clone(),
            ..first.clone()
        };
        assert_eq!(changed, expected);
        assert_eq!(server.get_session("chat").await.unwrap(), expected);
        last = changed;
    }
}

pub async fn a_session_merge_that_grows_too_large_is_refused(mut server: Server) {
    server.add_user("jane").await;
    let half = "x".repeat(40 * 1024);
    let asked = AddRequest {
        metadata: Some(object(json!({"a": half}))),
        ..chat()
    };
    let session = added(&mut server, asked).await;
    let change = UpdateRequest {
        metadata: Some(object(json!({"b": half}))),
        ..update("chat")
    };
    assert_eq!(
        refused_fields(server.sessions.update(change).await),
        ["metadata"]
    );
    assert_eq!(server.get_session("chat").await.unwrap(), session);
}

pub async fn a_mask_replaces_or_clears_the_metadata_of_a_session(mut server: Server) {
    jane_chats(&mut server).await;
    for path in ["metadata", "*"] {
        for metadata in [
            Some(object(json!({"only": null}))),
            Some(Struct::default()),
            None,
        ] {
            let change = UpdateRequest {
                metadata: metadata.clone(),
                update_mask: Some(mask(&[path])),
                ..update("chat")
            };
            let changed = updated(&mut server, change).await;
            assert_eq!(changed.metadata, metadata);
            assert_eq!(server.get_session("chat").await.unwrap(), changed);
        }
    }
}

pub async fn an_unknown_or_immutable_path_of_a_session_is_refused(mut server: Server) {
    let session = jane_chats(&mut server).await;
    for path in [
        "session_id",
        "uuid",
        "user_id",
        "created_at",
        "updated_at",
        "ended_at",
        "etag",
        "message_count",
        "nonsense",
        "",
        "Metadata",
        "metadata ",
        "metadata.foo",
        "update_mask",
    ] {
        for paths in [vec![path], vec!["metadata", path]] {
            let change = UpdateRequest {
                update_mask: Some(mask(&paths)),
                ..update("chat")
            };
            assert_eq!(
                refused_fields(server.sessions.update(change).await),
                ["update_mask"],
                "{paths:?}"
            );
        }
    }
    assert_eq!(server.get_session("chat").await.unwrap(), session);
}

pub async fn an_update_that_changes_nothing_returns_the_session_unchanged(mut server: Server) {
    let session = jane_chats(&mut server).await;
    let merged = |metadata| UpdateRequest {
        metadata: Some(object(metadata)),
        ..update("chat")
    };
    let replaced = UpdateRequest {
        metadata: chat().metadata,
        update_mask: Some(mask(&["metadata"])),
        ..update("chat")
    };
    let with_etag = UpdateRequest {
        etag: Some(session.etag.clone()),
        ..update("chat")
    };
    for change in [
        update("chat"),
        merged(json!({})),
        merged(json!({"foo": "bar"})),
        merged(json!({"unknown": null})),
        replaced,
        with_etag,
    ] {
        assert_eq!(updated(&mut server, change).await, session);
        assert_eq!(server.get_session("chat").await.unwrap(), session);
    }
}

pub async fn concurrent_merges_into_a_session_all_survive(mut server: Server) {
    jane_chats(&mut server).await;
    join_all((0..50).map(|number| {
        let mut sessions = server.sessions.clone();
        let metadata = Some(object(json!({"keys": {number.to_string(): number}})));
        let change = UpdateRequest {
            metadata,
            ..update("chat")
        };
        async move { ok(sessions.update(change).await) }
    }))
    .await;
    let found = server.get_session("chat").await.unwrap().metadata.unwrap();
    let Some(Kind::StructValue(keys)) = &found.fields["keys"].kind else {
        panic!("no keys in {found:?}");
    };
    assert_eq!(keys.fields.len(), 50);
}

pub async fn a_stale_etag_of_a_session_aborts_and_nothing_changes(mut server: Server) {
    let first = jane_chats(&mut server).await;
    let change = UpdateRequest {
        metadata: Some(object(json!({"foo": "second"}))),
        etag: Some(first.etag.clone()),
        ..update("chat")
    };
    let second = updated(&mut server, change).await;
    for stale in [
        first.etag,
        String::new(),
        "nonsense".to_owned(),
        "\0".to_owned(),
    ] {
        let change = UpdateRequest {
            metadata: Some(object(json!({"foo": "third"}))),
            etag: Some(stale.clone()),
            ..update("chat")
        };
        failed(
            server.sessions.update(change).await,
            Code::Aborted,
            "ETAG_MISMATCH",
        );
        for validate_only in [true, false] {
            let erase = DeleteRequest {
                etag: Some(stale.clone()),
                allow_missing: true,
                validate_only,
                ..delete("chat")
            };
            failed(
                server.sessions.delete(erase).await,
                Code::Aborted,
                "ETAG_MISMATCH",
            );
        }
        assert_eq!(server.get_session("chat").await.unwrap(), second);
    }
    for validate_only in [true, false] {
        let erase = DeleteRequest {
            etag: Some(second.etag.clone()),
            validate_only,
            ..delete("chat")
        };
        deleted(&mut server, erase).await;
    }
}

pub async fn of_concurrent_session_updates_with_one_etag_one_wins(mut server: Server) {
    let etag = Some(jane_chats(&mut server).await.etag);
    let answers = join_all((0..20).map(|number| {
        let mut sessions = server.sessions.clone();
        let change = UpdateRequest {
            metadata: Some(object(json!({"number": number}))),
            etag: etag.clone(),
            ..update("chat")
        };
        async move { sessions.update(change).await }
    }));
    let (won, lost): (Vec<_>, Vec<_>) = answers.await.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 19));
    for answer in lost {
        failed(answer, Code::Aborted, "ETAG_MISMATCH");
    }
    let won = won.into_iter().map(ok).next().unwrap().session.unwrap();
    assert_eq!(server.get_session("chat").await.unwrap(), won);
}

pub async fn an_etag_does_not_outlive_its_session(mut server: Server) {
    let first = jane_chats(&mut server).await;
    deleted(&mut server, delete("chat")).await;
    let second = added(&mut server, chat()).await;
    let change = UpdateRequest {
        etag: Some(first.etag),
        ..update("chat")
    };
    failed(
        server.sessions.update(change).await,
        Code::Aborted,
        "ETAG_MISMATCH",
    );
    assert_eq!(server.get_session("chat").await.unwrap(), second);
}

pub async fn the_first_end_of_a_session_stays(mut server: Server) {
    jane_chats(&mut server).await;
    server.say("chat", &["hello"]).await;
    let active = server.get_session("chat").await.unwrap();
    let first = ended(&mut server, "chat").await;
    assert_just_now(first.ended_at);
    assert_eq!(first.updated_at, first.ended_at);
    assert_ne!(first.etag, active.etag);
    let expected = Session {
        ended_at: first.ended_at,
        updated_at: first.updated_at,
        etag: first.etag.clone(),
        ..active
    };
    assert_eq!(first, expected);

    for _ in 0..2 {
        assert_eq!(ended(&mut server, "chat").await, first);
        assert_eq!(server.get_session("chat").await.unwrap(), first);
    }
}

pub async fn concurrent_ends_of_a_session_are_one(mut server: Server) {
    jane_chats(&mut server).await;
    let answers = join_all((0..10).map(|_| {
        let mut sessions = server.sessions.clone();
        async move { ok(sessions.end(end("chat")).await).session.unwrap() }
    }));
    let answers = answers.await;
    let found = server.get_session("chat").await.unwrap();
    assert!(found.ended_at.is_some());
    assert!(answers.iter().all(|session| *session == found));
}

pub async fn an_ended_session_is_not_changed(mut server: Server) {
    server.add_user("jane").await;
    let longest = "ü".repeat(512);
    for id in ["chat", &longest] {
        let asked = AddRequest {
            session_id: id.to_owned(),
            ..chat()
        };
        added(&mut server, asked).await;
        let session = ended(&mut server, id).await;
        let merged = UpdateRequest {
            metadata: Some(object(json!({"foo": "baz"}))),
            ..update(id)
        };
        let replaced = UpdateRequest {
            etag: Some(session.etag.clone()),
            update_mask: Some(mask(&["*"])),
            ..update(id)
        };
        for change in [merged, replaced, update(id)] {
            assert_session_ended(server.sessions.update(change).await, id);
        }
        let add = AddMessagesRequest {
            session_id: id.to_owned(),
            messages: vec![said("hello")],
            request_id: None,
        };
        assert_session_ended(server.sessions.add_messages(add).await, id);
        assert_eq!(server.get_session(id).await.unwrap(), session);
    }
}

#[track_caller]
fn assert_session_ended<T: std::fmt::Debug>(result: Result<T, Status>, session_id: &str) {
    let details = failed(result, Code::FailedPrecondition, "SESSION_ENDED");
    let violations = &details
        .precondition_failure()
        .expect("PreconditionFailure is given")
        .violations;
    assert_eq!(violations.len(), 1);
    assert_eq!(
        (
            violations[0].r#type.as_str(),
            violations[0].subject.as_str()
        ),
        ("SESSION_ACTIVE", session_id),
    );
    assert!(!violations[0].description.is_empty());
}

pub async fn an_ended_session_can_be_deleted(mut server: Server) {
    jane_chats(&mut server).await;
    server.say("chat", &["one", "two"]).await;
    let etag = Some(ended(&mut server, "chat").await.etag);
    let erase = DeleteRequest {
        etag,
        ..delete("chat")
    };
    assert_eq!(deleted(&mut server, erase).await.messages_deleted, 2);
    session_not_found(server.get_session("chat").await);
}

pub async fn a_deletion_erases_the_session_with_its_messages(mut server: Server) {
    jane_chats(&mut server).await;
    server.add_session("jane", "other").await;
    let messages = server.say("chat", &["one", "two", "three"]).await;
    server.say("other", &["four"]).await;
    let jane = server.get_user("jane").await.unwrap();

    let receipt = deleted(&mut server, delete("chat")).await;
    assert_eq!(
        (receipt.session_id.as_str(), receipt.messages_deleted),
        ("chat", 3)
    );
    assert_just_now(receipt.erased_at);
    session_not_found(server.get_session("chat").await);
    let get = GetMessageRequest {
        session_id: "chat".to_owned(),
        message_id: messages[0].message_id.clone(),
    };
    session_not_found(server.sessions.get_message(get).await);
    session_not_found(server.sessions.delete(delete("chat")).await);

    let expected = user::User {
        session_count: 1,
        ..jane
    };
    assert_eq!(server.get_user("jane").await.unwrap(), expected);
    assert_eq!(server.get_session("other").await.unwrap().message_count, 1);
}

pub async fn of_concurrent_deletions_of_a_session_one_finds_it(mut server: Server) {
    jane_chats(&mut server).await;
    server.say("chat", &["one", "two"]).await;
    let answers = join_all((0..10).map(|_| {
        let mut sessions = server.sessions.clone();
        async move { sessions.delete(delete("chat")).await }
    }));
    let (won, lost): (Vec<_>, Vec<_>) = answers.await.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 9));
    for answer in lost {
        session_not_found(answer);
    }
    assert_eq!(session_count(&mut server, "jane").await, 0);
}

pub async fn a_deletion_of_no_session_is_not_found_unless_that_is_allowed(mut server: Server) {
    for validate_only in [true, false] {
        let erase = DeleteRequest {
            validate_only,
            ..delete("nothing")
        };
        let details = session_not_found(server.sessions.delete(erase.clone()).await);
        assert_eq!(resource(&details), (SESSION, "nothing"));
        for etag in [None, Some("any".to_owned())] {
            let erase = DeleteRequest {
                allow_missing: true,
                etag,
                ..erase.clone()
            };
            let receipt = deleted(&mut server, erase).await;
            assert_eq!(
                (receipt.session_id.as_str(), receipt.messages_deleted),
                ("nothing", 0)
            );
        }
    }
}

pub async fn a_validation_of_a_session_deletion_erases_nothing(mut server: Server) {
    jane_chats(&mut server).await;
    server.say("chat", &["one", "two"]).await;
    let before = server.get_session("chat").await.unwrap();
    let erase = DeleteRequest {
        validate_only: true,
        ..delete("chat")
    };
    let would_be = deleted(&mut server, erase).await;
    assert_eq!(
        (would_be.session_id.as_str(), would_be.messages_deleted),
        ("chat", 2)
    );
    assert!(would_be.erased_at.is_some());
    assert_eq!(server.get_session("chat").await.unwrap(), before);
    assert_eq!(session_count(&mut server, "jane").await, 1);

    let receipt = deleted(&mut server, delete("chat")).await;
    assert_eq!(receipt.messages_deleted, would_be.messages_deleted);
}

pub async fn a_deleted_session_id_can_be_used_again_at_once(mut server: Server) {
    server.add_user("jane").await;
    server.add_user("john").await;
    let asked = AddRequest {
        request_id: Some(Uuid::now_v7().to_string()),
        ..chat()
    };
    let add_messages = AddMessagesRequest {
        session_id: "chat".to_owned(),
        messages: vec![said("hello")],
        request_id: Some(Uuid::now_v7().to_string()),
    };
    let first = added(&mut server, asked.clone()).await;
    let said_first = ok(server.sessions.add_messages(add_messages.clone()).await).messages;
    ended(&mut server, "chat").await;
    deleted(&mut server, delete("chat")).await;

    // Its request_ids are forgotten with it, whatever they are used for now.
    let asked = AddRequest {
        user_id: "john".to_owned(),
        ..asked
    };
    let second = added(&mut server, asked).await;
    assert_ne!(second.uuid, first.uuid);
    assert_eq!((second.ended_at, second.message_count), (None, 0));
    let said_second = ok(server.sessions.add_messages(add_messages).await).messages;
    assert_ne!(said_second[0].message_id, said_first[0].message_id);
    assert_eq!(said_second[0].sequence, 1);
    assert_eq!(session_count(&mut server, "jane").await, 0);
    assert_eq!(session_count(&mut server, "john").await, 1);
}

pub async fn a_session_dies_with_its_user(mut server: Server) {
    server.add_user("jane").await;
    let asked = AddRequest {
        request_id: Some(Uuid::now_v7().to_string()),
        ..chat()
    };
    let add_messages = AddMessagesRequest {
        session_id: "chat".to_owned(),
        messages: vec![said("hello")],
        request_id: Some(Uuid::now_v7().to_string()),
    };
    let first = added(&mut server, asked.clone()).await;
    let said_first = ok(server.sessions.add_messages(add_messages.clone()).await).messages;
    let erase = user::DeleteRequest {
        user_id: "jane".to_owned(),
        ..Default::default()
    };
    ok(server.users.delete(erase).await);
    session_not_found(server.get_session("chat").await);
    let answer = server.sessions.add_messages(add_messages.clone());
    session_not_found(answer.await);

    server.add_user("jane").await;
    assert_ne!(added(&mut server, asked).await.uuid, first.uuid);
    let said_second = ok(server.sessions.add_messages(add_messages).await).messages;
    assert_ne!(said_second[0].message_id, said_first[0].message_id);
    assert_eq!(said_second[0].sequence, 1);
}
