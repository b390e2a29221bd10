//! What one project holds, another never meets; and what a role may not do is refused.
//! Shown through the rules, for no edge can tell callers apart yet.

use crate::{
    auth::{Caller, Role},
    error::{Error, Resource, Result},
    pb::{
        session::v1::{self as session, NewMessage, Role as Speaker},
        user::v1 as user,
    },
    sessions::Sessions,
    store,
    users::Users,
};

/// The same names in every project.
const USER: &str = "jane";
const SESSION: &str = "session";
const REQUEST: &str = "0191e4d4-7c0b-7d6e-8a43-111213141516";

struct Rules {
    users: Users,
    sessions: Sessions,
    _folder: tempfile::TempDir,
}

impl Rules {
    async fn new() -> Self {
        let (folder, store) = store::temporary().await;
        Self {
            users: Users::new(store.clone()),
            sessions: Sessions::new(store),
            _folder: folder,
        }
    }

    /// Adds a user, a session and a message, under the same names and request ids in
    /// every project.
    async fn fill(&self, caller: &Caller, content: &str) {
        let add = user::AddRequest {
            user_id: USER.to_owned(),
            email: Some(content.to_owned()),
            request_id: Some(REQUEST.to_owned()),
            ..Default::default()
        };
        self.users.add(caller, add).await.unwrap();
        let add = session::AddRequest {
            session_id: SESSION.to_owned(),
            user_id: USER.to_owned(),
            request_id: Some(REQUEST.to_owned()),
            ..Default::default()
        };
        self.sessions.add(caller, add).await.unwrap();
        self.say(caller, content).await.unwrap();
    }

    async fn say(&self, caller: &Caller, content: &str) -> Result<session::AddMessagesResponse> {
        let message = NewMessage {
            role: Speaker::User.into(),
            content: content.to_owned(),
            ..Default::default()
        };
        let add = session::AddMessagesRequest {
            session_id: SESSION.to_owned(),
            messages: vec![message],
            request_id: Some(REQUEST.to_owned()),
        };
        self.sessions.add_messages(caller, add).await
    }

    /// Everything that a caller can see.
    async fn seen(&self, caller: &Caller) -> Result<Seen> {
        let listed = self
            .users
            .list_ordered(caller, user::ListOrderedRequest::default());
        let listed = listed.await?;
        let by_email = user::ListOrderedRequest {
            email: Some("one".to_owned()),
            ..Default::default()
        };
        let sessions = self
            .sessions
            .list_ordered(caller, session::ListOrderedRequest::default());
        let sessions = sessions.await?;
        Ok(Seen {
            users: (listed.users.len(), listed.total_count),
            named_one: self.users.list_ordered(caller, by_email).await?.total_count,
            sessions: (sessions.sessions.len(), sessions.total_count),
        })
    }

    async fn user(&self, caller: &Caller) -> Result<user::User> {
        let get = user::GetRequest {
            user_id: USER.to_owned(),
        };
        Ok(self.users.get(caller, get).await?.user.unwrap())
    }

    async fn contents(&self, caller: &Caller) -> Result<Vec<String>> {
        let list = session::ListMessagesRequest {
            session_id: SESSION.to_owned(),
            ..Default::default()
        };
        let messages = self.sessions.list_messages(caller, list).await?.messages;
        Ok(messages
            .into_iter()
            .map(|message| message.content)
            .collect())
    }
}

#[derive(Debug, PartialEq)]
struct Seen {
    users: (usize, i64),
    named_one: i64,
    sessions: (usize, i64),
}

fn admin(project: i64) -> Caller {
    Caller::of(project, Role::Admin)
}

#[tokio::test]
async fn two_projects_hold_the_same_names_and_never_meet() {
    let rules = Rules::new().await;
    let (one, two, empty) = (admin(1), admin(2), admin(3));
    rules.fill(&one, "one").await;
    rules.fill(&two, "two").await;
    let seen = |named_one| Seen {
        users: (1, 1),
        named_one,
        sessions: (1, 1),
    };
    assert_eq!(rules.seen(&one).await.unwrap(), seen(1));
    assert_eq!(rules.seen(&two).await.unwrap(), seen(0));
    let nothing = Seen {
        users: (0, 0),
        named_one: 0,
        sessions: (0, 0),
    };
    assert_eq!(rules.seen(&empty).await.unwrap(), nothing);
    assert_eq!(
        rules.user(&two).await.unwrap().email.as_deref(),
        Some("two")
    );
    assert_eq!(rules.contents(&two).await.unwrap(), ["two"]);

    // What exists elsewhere looks like what exists nowhere.
    let missing = rules.user(&empty).await;
    assert!(matches!(missing, Err(Error::NotFound(Resource::User(id))) if id == USER));
    let missing = rules.contents(&empty).await;
    assert!(matches!(missing, Err(Error::NotFound(Resource::Session(id))) if id == SESSION));
    let foreign = session::AddRequest {
        session_id: "other".to_owned(),
        user_id: USER.to_owned(),
        ..Default::default()
    };
    let added = rules.sessions.add(&empty, foreign).await;
    assert!(matches!(added, Err(Error::NotFound(Resource::User(_)))));

    // A change here is none there.
    let update = user::UpdateRequest {
        user_id: USER.to_owned(),
        email: Some("changed".to_owned()),
        ..Default::default()
    };
    rules.users.update(&one, update).await.unwrap();
    let end = session::EndRequest {
        session_id: SESSION.to_owned(),
    };
    rules.sessions.end(&one, end).await.unwrap();
    assert_eq!(
        rules.user(&two).await.unwrap().email.as_deref(),
        Some("two")
    );
    let delete = user::DeleteRequest {
        user_id: USER.to_owned(),
        ..Default::default()
    };
    let erased = rules
        .users
        .delete(&one, delete)
        .await
        .unwrap()
        .receipt
        .unwrap();
    assert_eq!((erased.sessions_deleted, erased.messages_deleted), (1, 1));
    assert_eq!(rules.seen(&one).await.unwrap(), nothing);
    assert_eq!(rules.seen(&two).await.unwrap(), seen(0));
    assert_eq!(rules.contents(&two).await.unwrap(), ["two"]);
}

#[tokio::test]
async fn a_page_token_is_refused_in_another_project() {
    let rules = Rules::new().await;
    let (one, two) = (admin(1), admin(2));
    let page = |page_token: String| user::ListOrderedRequest {
        page_size: 1,
        page_token,
        ..Default::default()
    };
    for caller in [&one, &two] {
        for user_id in ["a", "b"] {
            let add = user::AddRequest {
                user_id: user_id.to_owned(),
                ..Default::default()
            };
            rules.users.add(caller, add).await.unwrap();
        }
    }
    let first = rules
        .users
        .list_ordered(&one, page(String::new()))
        .await
        .unwrap();
    let token = first.next_page_token;
    rules
        .users
        .list_ordered(&one, page(token.clone()))
        .await
        .unwrap();
    let refused = rules.users.list_ordered(&two, page(token)).await;
    assert!(matches!(refused, Err(Error::Invalid(fields)) if fields[0].field == "page_token"));
}

#[tokio::test]
async fn a_role_that_is_too_small_is_denied() {
    let rules = Rules::new().await;
    rules.fill(&admin(1), "one").await;
    let (reader, writer) = (Caller::of(1, Role::Reader), Caller::of(1, Role::Writer));
    rules.seen(&reader).await.unwrap();
    rules.user(&reader).await.unwrap();
    rules.contents(&reader).await.unwrap();
    rules.say(&writer, "one").await.unwrap();

    let (users, sessions) = (&rules.users, &rules.sessions);
    let denied = [
        users
            .add(&reader, user::AddRequest::default())
            .await
            .map(drop),
        users
            .update(&reader, user::UpdateRequest::default())
            .await
            .map(drop),
        users
            .delete(&reader, user::DeleteRequest::default())
            .await
            .map(drop),
        users
            .delete(&writer, user::DeleteRequest::default())
            .await
            .map(drop),
        sessions
            .add(&reader, session::AddRequest::default())
            .await
            .map(drop),
        sessions
            .update(&reader, session::UpdateRequest::default())
            .await
            .map(drop),
        sessions
            .end(&reader, session::EndRequest::default())
            .await
            .map(drop),
        sessions
            .delete(&reader, session::DeleteRequest::default())
            .await
            .map(drop),
        sessions
            .delete(&writer, session::DeleteRequest::default())
            .await
            .map(drop),
        rules.say(&reader, "one").await.map(drop),
        sessions
            .update_message(&reader, session::UpdateMessageRequest::default())
            .await
            .map(drop),
    ];
    for call in denied {
        assert!(matches!(call, Err(Error::PermissionDenied)), "{call:?}");
    }
}
