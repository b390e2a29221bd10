//! Users: Add, Get, Update, Delete.

use futures_util::future::join_all;
use prost_types::{FieldMask, Struct, value::Kind};
use serde_json::json;
use tonic::Code;
use uuid::Uuid;

use crate::support::{
    Server, assert_just_now, failed, largest_metadata, object, ok, refused_fields, resource,
    user::{AddRequest, DeleteRequest, GetRequest, UpdateRequest, User},
    wrong_metadata,
};

fn jane() -> AddRequest {
    AddRequest {
        user_id: "jane".to_owned(),
        email: Some("jane@example.com".to_owned()),
        first_name: Some("Jane".to_owned()),
        last_name: Some("Smith".to_owned()),
        metadata: Some(object(json!({"foo": "bar"}))),
        request_id: None,
    }
}

fn update(user_id: &str) -> UpdateRequest {
    UpdateRequest {
        user_id: user_id.to_owned(),
        ..Default::default()
    }
}

fn mask(paths: &[&str]) -> FieldMask {
    let paths = paths.iter().map(|path| (*path).to_owned()).collect();
    FieldMask { paths }
}

fn delete(user_id: &str) -> DeleteRequest {
    DeleteRequest {
        user_id: user_id.to_owned(),
        ..Default::default()
    }
}

async fn updated(server: &mut Server, request: UpdateRequest) -> User {
    ok(server.users.update(request).await).user.unwrap()
}

pub async fn a_user_comes_back_as_it_was_added(mut server: Server) {
    let added = server.add_user_with(jane()).await;
    let asked = jane();
    assert_eq!(
        (
            &added.user_id,
            &added.email,
            &added.first_name,
            &added.last_name,
            &added.metadata
        ),
        (
            &asked.user_id,
            &asked.email,
            &asked.first_name,
            &asked.last_name,
            &asked.metadata
        ),
    );
    assert_eq!(Uuid::parse_str(&added.uuid).unwrap().get_version_num(), 7);
    assert_eq!(added.session_count, 0);
    assert!(!added.etag.is_empty());
    assert_eq!(added.created_at, added.updated_at);
    assert_just_now(added.created_at);

    assert_eq!(server.get_user("jane").await.unwrap(), added);
}

pub async fn times_are_in_microseconds(mut server: Server) {
    let mut finer_than_milliseconds = false;
    for number in 0..20 {
        let time = server.add_user(&number.to_string()).await.created_at;
        let nanos = time.unwrap().nanos;
        assert_eq!(nanos % 1000, 0);
        finer_than_milliseconds |= nanos % 1_000_000 != 0;
    }
    assert!(finer_than_milliseconds);
}

pub async fn absent_and_empty_fields_are_different(mut server: Server) {
    let absent = server.add_user("absent").await;
    assert_eq!(
        (
            absent.email,
            absent.first_name,
            absent.last_name,
            absent.metadata
        ),
        (None, None, None, None)
    );
    let empty = Some(String::new());
    let asked = AddRequest {
        user_id: "empty".to_owned(),
        email: empty.clone(),
        first_name: empty.clone(),
        last_name: empty.clone(),
        metadata: Some(Struct::default()),
        request_id: None,
    };
    server.add_user_with(asked).await;
    let found = server.get_user("empty").await.unwrap();
    assert_eq!(
        (
            found.email,
            found.first_name,
            found.last_name,
            found.metadata
        ),
        (empty.clone(), empty.clone(), empty, Some(Struct::default())),
    );
}

pub async fn an_id_is_any_string_and_is_compared_byte_for_byte(mut server: Server) {
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
        "'; DROP TABLE users; --",
        "\n\t\u{1}\u{7f}\u{feff}\u{10ffff}",
        "null",
        "0",
        "00",
        &longest,
    ];
    for id in ids {
        assert_eq!(server.add_user(id).await.user_id, id);
    }
    let mut uuids: Vec<String> = Vec::new();
    for id in ids {
        let found = server.get_user(id).await.unwrap();
        assert_eq!(found.user_id, id);
        uuids.push(found.uuid);
    }
    uuids.sort();
    uuids.dedup();
    assert_eq!(uuids.len(), ids.len());
}

pub async fn what_an_id_cannot_be_is_refused(mut server: Server) {
    for id in ["", "a\0b", &"a".repeat(1025), &"ü".repeat(513)] {
        let user_id = id.to_owned();
        let add = AddRequest {
            user_id: user_id.clone(),
            ..Default::default()
        };
        assert_eq!(refused_fields(server.users.add(add).await), ["user_id"]);
        let get = GetRequest { user_id };
        assert_eq!(refused_fields(server.users.get(get).await), ["user_id"]);
        assert_eq!(
            refused_fields(server.users.update(update(id)).await),
            ["user_id"]
        );
        assert_eq!(
            refused_fields(server.users.delete(delete(id)).await),
            ["user_id"]
        );
    }
}

pub async fn emails_and_names_are_any_text_up_to_a_limit(mut server: Server) {
    let longest = Some("ü".repeat(512));
    let asked = AddRequest {
        email: Some("not an e-mail".to_owned()),
        first_name: longest.clone(),
        last_name: longest,
        ..jane()
    };
    let added = server.add_user_with(asked.clone()).await;
    assert_eq!(
        (added.email, added.first_name, added.last_name),
        (asked.email, asked.first_name, asked.last_name)
    );

    for wrong in ["a\0".to_owned(), "a".repeat(1025)] {
        let wrong = Some(wrong);
        let add = AddRequest {
            user_id: "other".to_owned(),
            email: wrong.clone(),
            first_name: wrong.clone(),
            last_name: wrong.clone(),
            ..Default::default()
        };
        let fields = ["email", "first_name", "last_name"];
        assert_eq!(refused_fields(server.users.add(add).await), fields);
        let change = UpdateRequest {
            email: wrong.clone(),
            first_name: wrong.clone(),
            last_name: wrong,
            ..update("jane")
        };
        assert_eq!(refused_fields(server.users.update(change).await), fields);
    }
}

pub async fn an_email_need_not_be_unique(mut server: Server) {
    for user_id in ["a", "b"] {
        let asked = AddRequest {
            user_id: user_id.to_owned(),
            ..jane()
        };
        assert_eq!(server.add_user_with(asked).await.email, jane().email);
    }
}

pub async fn metadata_comes_back_equal(mut server: Server) {
    let metadata = object(json!({
        "": "empty key",
        "null": null,
        "nulls": [null, {"deep": null}],
        "empty": [[], {}, "", [[]], [{}]],
        "numbers": [0, -1, 42, 0.1, -2.5e-10, 1e300, 5e-324, 1.797_693_134_862_315_7e308,
                    9_007_199_254_740_991_i64, -9_007_199_254_740_992_i64, 1e21, 123_456_789.123_456_78],
        "bools": [true, false],
        "text": "ü🦀\u{1}\u{7f}\u{2028}\\\"/ \u{10ffff}",
        "ÜBER \"quoted\"": {"nested": {"nested": {"nested": [1, [2, [3, {"x": "y"}]]]}}},
    }));
    let asked = AddRequest {
        metadata: Some(metadata.clone()),
        ..jane()
    };
    assert_eq!(
        server.add_user_with(asked).await.metadata,
        Some(metadata.clone())
    );
    let found = server.get_user("jane").await.unwrap();
    assert_eq!(found.metadata, Some(metadata));
}

pub async fn metadata_has_limits(mut server: Server) {
    for (index, fits) in largest_metadata().into_iter().enumerate() {
        let user_id = index.to_string();
        let metadata = Some(fits);
        let asked = AddRequest {
            user_id,
            metadata: metadata.clone(),
            ..Default::default()
        };
        assert_eq!(server.add_user_with(asked).await.metadata, metadata);
    }
    for wrong in wrong_metadata() {
        let metadata = Some(wrong);
        let add = AddRequest {
            metadata: metadata.clone(),
            ..jane()
        };
        assert_eq!(refused_fields(server.users.add(add).await), ["metadata"]);
        let change = UpdateRequest {
            metadata,
            ..update("0")
        };
        assert_eq!(
            refused_fields(server.users.update(change).await),
            ["metadata"]
        );
    }
}

pub async fn every_violation_is_listed(mut server: Server) {
    let wrong = Some("\0".to_owned());
    let add = AddRequest {
        user_id: String::new(),
        email: wrong.clone(),
        first_name: wrong.clone(),
        last_name: wrong.clone(),
        metadata: wrong_metadata().pop(),
        request_id: wrong.clone(),
    };
    let mut fields = refused_fields(server.users.add(add).await);
    fields.sort();
    assert_eq!(
        fields,
        [
            "email",
            "first_name",
            "last_name",
            "metadata",
            "request_id",
            "user_id"
        ]
    );

    let change = UpdateRequest {
        user_id: String::new(),
        email: wrong.clone(),
        first_name: wrong.clone(),
        last_name: wrong,
        metadata: wrong_metadata().pop(),
        update_mask: Some(mask(&["uuid"])),
        etag: None,
    };
    let mut fields = refused_fields(server.users.update(change).await);
    fields.sort();
    assert_eq!(
        fields,
        [
            "email",
            "first_name",
            "last_name",
            "metadata",
            "update_mask",
            "user_id"
        ]
    );
}

pub async fn a_taken_user_id_already_exists(mut server: Server) {
    let first = server.add_user_with(jane()).await;
    let again = AddRequest {
        email: None,
        ..jane()
    };
    let details = failed(
        server.users.add(again).await,
        Code::AlreadyExists,
        "USER_ALREADY_EXISTS",
    );
    assert_eq!(resource(&details), ("usher.user.v1.User", "jane"));
    assert_eq!(server.get_user("jane").await.unwrap(), first);
}

pub async fn an_add_that_is_sent_again_answers_with_the_first_user(mut server: Server) {
    let asked = AddRequest {
        request_id: Some(Uuid::now_v7().to_string()),
        ..jane()
    };
    let first = server.add_user_with(asked.clone()).await;
    assert_eq!(server.add_user_with(asked.clone()).await, first);

    // In its current state.
    let change = UpdateRequest {
        email: Some("new@example.com".to_owned()),
        ..update("jane")
    };
    let changed = updated(&mut server, change).await;
    assert_eq!(server.add_user_with(asked.clone()).await, changed);

    // All at once: one adds, and all answer with its user.
    let asked = AddRequest {
        user_id: "john".to_owned(),
        request_id: Some(Uuid::now_v7().to_string()),
        ..jane()
    };
    let answers = join_all((0..16).map(|_| {
        let (mut users, asked) = (server.users.clone(), asked.clone());
        async move { ok(users.add(asked).await).user.unwrap() }
    }));
    let answers = answers.await;
    assert!(answers.iter().all(|user| *user == answers[0]));
}

pub async fn a_request_id_with_other_content_already_exists(mut server: Server) {
    let asked = AddRequest {
        request_id: Some(Uuid::now_v7().to_string()),
        ..jane()
    };
    server.add_user_with(asked.clone()).await;
    let metadata = Some(object(json!({"foo": "baz"})));
    for other in [
        AddRequest {
            user_id: "john".to_owned(),
            ..asked.clone()
        },
        AddRequest {
            email: None,
            ..asked.clone()
        },
        AddRequest {
            first_name: Some(String::new()),
            ..asked.clone()
        },
        AddRequest {
            last_name: None,
            ..asked.clone()
        },
        AddRequest {
            metadata,
            ..asked.clone()
        },
    ] {
        let asked_for = other.user_id.clone();
        let details = failed(
            server.users.add(other).await,
            Code::AlreadyExists,
            "REQUEST_ID_REUSED",
        );
        assert_eq!(
            resource(&details),
            ("usher.user.v1.User", asked_for.as_str())
        );
    }
    failed(
        server.get_user("john").await,
        Code::NotFound,
        "USER_NOT_FOUND",
    );
    for wrong in ["", "1", "not-a-uuid", "0191e4d47c0b7d6e8a43111213141516"] {
        let add = AddRequest {
            request_id: Some(wrong.to_owned()),
            ..jane()
        };
        assert_eq!(refused_fields(server.users.add(add).await), ["request_id"]);
    }
}

pub async fn an_unknown_user_is_not_found(mut server: Server) {
    let get = server.get_user("nobody").await;
    let details = failed(get, Code::NotFound, "USER_NOT_FOUND");
    assert_eq!(resource(&details), ("usher.user.v1.User", "nobody"));
    let change = server.users.update(update("nobody")).await;
    let details = failed(change, Code::NotFound, "USER_NOT_FOUND");
    assert_eq!(resource(&details), ("usher.user.v1.User", "nobody"));
}

pub async fn an_update_sets_the_fields_that_are_present(mut server: Server) {
    let added = server.add_user_with(jane()).await;
    let change = UpdateRequest {
        email: Some(String::new()),
        last_name: Some("Doe".to_owned()),
        // An empty mask is none.
        update_mask: Some(mask(&[])),
        ..update("jane")
    };
    let changed = updated(&mut server, change).await;
    assert_ne!(changed.etag, added.etag);
    assert!(changed.updated_at.unwrap().nanos != added.updated_at.unwrap().nanos);
    let expected = User {
        email: Some(String::new()),
        last_name: Some("Doe".to_owned()),
        updated_at: changed.updated_at,
        etag: changed.etag.clone(),
        ..added
    };
    assert_eq!(changed, expected);
    assert_eq!(server.get_user("jane").await.unwrap(), expected);
}

pub async fn an_update_merges_metadata(mut server: Server) {
    server.add_user("jane").await;
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
        (json!({}), json!({"a": {"x": {}}})),
    ] {
        let change = UpdateRequest {
            metadata: Some(object(patch)),
            ..update("jane")
        };
        let changed = updated(&mut server, change).await;
        assert_eq!(changed.metadata, Some(object(merged)));
        assert_eq!(server.get_user("jane").await.unwrap(), changed);
    }
}

pub async fn a_merge_that_grows_too_large_is_refused(mut server: Server) {
    let half = "x".repeat(40 * 1024);
    let asked = AddRequest {
        metadata: Some(object(json!({"a": half}))),
        ..jane()
    };
    let added = server.add_user_with(asked).await;
    let change = UpdateRequest {
        metadata: Some(object(json!({"b": half}))),
        ..update("jane")
    };
    assert_eq!(
        refused_fields(server.users.update(change).await),
        ["metadata"]
    );
    assert_eq!(server.get_user("jane").await.unwrap(), added);
}

pub async fn a_masked_update_replaces_exactly_the_named_fields(mut server: Server) {
    let added = server.add_user_with(jane()).await;
    let change = UpdateRequest {
        email: Some("new@example.com".to_owned()),
        first_name: Some("not named".to_owned()),
        metadata: Some(object(json!({"only": null}))),
        // last_name is named and absent.
        update_mask: Some(mask(&["email", "last_name", "metadata"])),
        ..update("jane")
    };
    let changed = updated(&mut server, change).await;
    assert_eq!(changed.email.as_deref(), Some("new@example.com"));
    assert_eq!(changed.first_name, added.first_name);
    assert_eq!(changed.last_name, None);
    assert_eq!(changed.metadata, Some(object(json!({"only": null}))));
    assert_eq!(server.get_user("jane").await.unwrap(), changed);

    let change = UpdateRequest {
        update_mask: Some(mask(&["metadata"])),
        ..update("jane")
    };
    assert_eq!(updated(&mut server, change).await.metadata, None);
}

pub async fn a_star_mask_replaces_all_fields(mut server: Server) {
    server.add_user_with(jane()).await;
    let change = UpdateRequest {
        first_name: Some("J".to_owned()),
        update_mask: Some(mask(&["*"])),
        ..update("jane")
    };
    let changed = updated(&mut server, change).await;
    assert_eq!(
        (
            changed.email,
            changed.first_name.as_deref(),
            changed.last_name,
            changed.metadata
        ),
        (None, Some("J"), None, None),
    );
}

pub async fn an_unknown_or_immutable_path_is_refused(mut server: Server) {
    let added = server.add_user_with(jane()).await;
    for path in [
        "user_id",
        "uuid",
        "created_at",
        "updated_at",
        "etag",
        "session_count",
        "nonsense",
        "",
        "Email",
        "email ",
        "metadata.foo",
        "update_mask",
    ] {
        for paths in [vec![path], vec!["email", path]] {
            let change = UpdateRequest {
                update_mask: Some(mask(&paths)),
                ..update("jane")
            };
            assert_eq!(
                refused_fields(server.users.update(change).await),
                ["update_mask"],
                "{paths:?}"
            );
        }
    }
    // All fields and one of them is no mask either.
    let change = UpdateRequest {
        update_mask: Some(mask(&["email", "*"])),
        ..update("jane")
    };
    assert_eq!(
        refused_fields(server.users.update(change).await),
        ["update_mask"]
    );
    assert_eq!(server.get_user("jane").await.unwrap(), added);
}

pub async fn an_update_that_changes_nothing_returns_the_user_unchanged(mut server: Server) {
    let added = server.add_user_with(jane()).await;
    let same = UpdateRequest {
        email: jane().email,
        metadata: jane().metadata,
        ..update("jane")
    };
    let same_masked = UpdateRequest {
        update_mask: Some(mask(&["email", "metadata"])),
        ..same.clone()
    };
    for change in [update("jane"), same, same_masked] {
        assert_eq!(updated(&mut server, change).await, added);
        assert_eq!(server.get_user("jane").await.unwrap(), added);
    }
}

pub async fn concurrent_merges_all_survive(mut server: Server) {
    server.add_user("jane").await;
    join_all((0..50).map(|number| {
        let mut users = server.users.clone();
        async move {
            let metadata = Some(object(json!({"keys": {number.to_string(): number}})));
            ok(users
                .update(UpdateRequest {
                    metadata,
                    ..update("jane")
                })
                .await)
        }
    }))
    .await;
    let found = server.get_user("jane").await.unwrap().metadata.unwrap();
    let Some(Kind::StructValue(keys)) = &found.fields["keys"].kind else {
        panic!("no keys in {found:?}");
    };
    assert_eq!(keys.fields.len(), 50);
}

pub async fn a_stale_etag_aborts_and_nothing_changes(mut server: Server) {
    let first = server.add_user_with(jane()).await;
    let change = UpdateRequest {
        email: Some("second@example.com".to_owned()),
        etag: Some(first.etag.clone()),
        ..update("jane")
    };
    let second = updated(&mut server, change).await;
    for stale in [
        first.etag,
        String::new(),
        "nonsense".to_owned(),
        "\0".to_owned(),
    ] {
        let change = UpdateRequest {
            email: Some("third@example.com".to_owned()),
            etag: Some(stale.clone()),
            ..update("jane")
        };
        failed(
            server.users.update(change).await,
            Code::Aborted,
            "ETAG_MISMATCH",
        );
        for validate_only in [true, false] {
            let erase = DeleteRequest {
                etag: Some(stale.clone()),
                validate_only,
                ..delete("jane")
            };
            failed(
                server.users.delete(erase).await,
                Code::Aborted,
                "ETAG_MISMATCH",
            );
        }
        assert_eq!(server.get_user("jane").await.unwrap(), second);
    }
    let erase = DeleteRequest {
        etag: Some(second.etag),
        ..delete("jane")
    };
    ok(server.users.delete(erase).await);
}

pub async fn of_concurrent_updates_with_one_etag_one_wins(mut server: Server) {
    let etag = Some(server.add_user("jane").await.etag);
    let answers = join_all((0..20).map(|number: u8| {
        let (mut users, etag) = (server.users.clone(), etag.clone());
        let email = Some(number.to_string());
        async move {
            users
                .update(UpdateRequest {
                    email,
                    etag,
                    ..update("jane")
                })
                .await
        }
    }));
    let (won, lost): (Vec<_>, Vec<_>) = answers.await.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 19));
    for answer in lost {
        failed(answer, Code::Aborted, "ETAG_MISMATCH");
    }
    let won = won.into_iter().map(ok).next().unwrap().user.unwrap();
    assert_eq!(server.get_user("jane").await.unwrap(), won);
}

pub async fn an_etag_does_not_outlive_its_user(mut server: Server) {
    let first = server.add_user("jane").await;
    ok(server.users.delete(delete("jane")).await);
    server.add_user("jane").await;
    let change = UpdateRequest {
        email: Some("new@example.com".to_owned()),
        etag: Some(first.etag),
        ..update("jane")
    };
    failed(
        server.users.update(change).await,
        Code::Aborted,
        "ETAG_MISMATCH",
    );
}

async fn jane_and_john_with_sessions(server: &mut Server) {
    for user_id in ["jane", "john"] {
        server.add_user(user_id).await;
        for number in 0..3 {
            let session_id = format!("{user_id}-{number}");
            server.add_session(user_id, &session_id).await;
            server.say(&session_id, &["one", "two"]).await;
        }
    }
}

pub async fn a_deletion_erases_the_user_with_all_that_is_theirs(mut server: Server) {
    jane_and_john_with_sessions(&mut server).await;
    let receipt = ok(server.users.delete(delete("jane")).await)
        .receipt
        .unwrap();
    assert_eq!(receipt.user_id, "jane");
    assert_eq!((receipt.sessions_deleted, receipt.messages_deleted), (3, 6));
    assert_just_now(receipt.erased_at);

    failed(
        server.get_user("jane").await,
        Code::NotFound,
        "USER_NOT_FOUND",
    );
    for number in 0..3 {
        let session = server.get_session(&format!("jane-{number}")).await;
        failed(session, Code::NotFound, "SESSION_NOT_FOUND");
    }
    assert_eq!(server.get_user("john").await.unwrap().session_count, 3);
    assert_eq!(server.get_session("john-2").await.unwrap().message_count, 2);
}

pub async fn a_deletion_of_nobody_is_not_found_unless_that_is_allowed(mut server: Server) {
    for validate_only in [true, false] {
        let erase = DeleteRequest {
            validate_only,
            ..delete("nobody")
        };
        let details = failed(
            server.users.delete(erase.clone()).await,
            Code::NotFound,
            "USER_NOT_FOUND",
        );
        assert_eq!(resource(&details), ("usher.user.v1.User", "nobody"));
        let erase = DeleteRequest {
            allow_missing: true,
            etag: Some("any".to_owned()),
            ..erase
        };
        let receipt = ok(server.users.delete(erase).await).receipt.unwrap();
        assert_eq!(receipt.user_id, "nobody");
        assert_eq!((receipt.sessions_deleted, receipt.messages_deleted), (0, 0));
    }
}

pub async fn a_validation_answers_with_the_receipt_and_erases_nothing(mut server: Server) {
    jane_and_john_with_sessions(&mut server).await;
    let before = server.get_user("jane").await.unwrap();
    let erase = DeleteRequest {
        validate_only: true,
        ..delete("jane")
    };
    let would_be = ok(server.users.delete(erase).await).receipt.unwrap();
    assert_eq!(would_be.user_id, "jane");
    assert_eq!(
        (would_be.sessions_deleted, would_be.messages_deleted),
        (3, 6)
    );
    assert!(would_be.erased_at.is_some());
    assert_eq!(server.get_user("jane").await.unwrap(), before);
    assert_eq!(server.get_session("jane-0").await.unwrap().message_count, 2);

    let receipt = ok(server.users.delete(delete("jane")).await)
        .receipt
        .unwrap();
    assert_eq!(
        (receipt.sessions_deleted, receipt.messages_deleted),
        (would_be.sessions_deleted, would_be.messages_deleted),
    );
}

pub async fn a_deleted_id_can_be_used_again_at_once(mut server: Server) {
    let request_id = Some(Uuid::now_v7().to_string());
    let asked = AddRequest {
        request_id,
        ..jane()
    };
    let first = server.add_user_with(asked.clone()).await;
    server.add_session("jane", "session").await;
    ok(server.users.delete(delete("jane")).await);
    // Its request_id is forgotten with it.
    let second = server.add_user_with(asked).await;
    assert_ne!(second.uuid, first.uuid);
    assert_eq!(second.session_count, 0);
    assert_eq!(server.add_session("jane", "session").await.message_count, 0);
}
