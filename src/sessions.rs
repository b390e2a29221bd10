//! The rules of sessions and messages: parse, authorise, ask the store, reply. One
//! function for each RPC, whatever the edge.

use crate::{
    auth::{Caller, Role},
    error::Result,
    fields::{self, Flaw, RequestId, SessionId, UserId, Violations},
    mask::Mask,
    metadata::Metadata,
    page::{self, Page, row_count},
    pb::session::v1::{
        AddMessagesRequest, AddMessagesResponse, AddRequest, AddResponse, DeleteRequest,
        DeleteResponse, EndRequest, EndResponse, GetMessageRequest, GetMessageResponse, GetRequest,
        GetResponse, ListMessagesRequest, ListMessagesResponse, ListOrderedRequest,
        ListOrderedResponse, Message, NewMessage, OrderBy, Role as Speaker, State,
        UpdateMessageRequest, UpdateMessageResponse, UpdateRequest, UpdateResponse,
    },
    store::{
        Store, message,
        session::{self, SessionChange},
    },
};

/// The most messages of one `AddMessages`.
const MAX_MESSAGES: usize = 1000;

/// The rules of sessions and messages.
#[derive(Clone)]
pub struct Sessions {
    store: Store,
}

impl Sessions {
    /// The rules of the sessions in this store.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Adds a session to a user.
    pub async fn add(&self, caller: &Caller, mut request: AddRequest) -> Result<AddResponse> {
        let project = caller.project_as(Role::Writer)?;
        let mut violations = Violations::new();
        let request_id = request.request_id.take();
        let retry = violations.check_optional("request_id", request_id, |request_id| {
            RequestId::parse(&request_id, &request)
        });
        let session_id = violations.check("session_id", SessionId::parse(request.session_id));
        let user_id = violations.check("user_id", UserId::parse(request.user_id));
        let metadata = violations.check_optional("metadata", request.metadata, Metadata::parse);
        let (Some(session_id), Some(user_id), Some(metadata), Some(request)) =
            (session_id, user_id, metadata, retry)
        else {
            return Err(violations.into());
        };
        let add = session::Add {
            project,
            session_id,
            user_id,
            metadata,
            request,
        };
        let session = session::add(&self.store, add).await?;
        Ok(AddResponse {
            session: Some(session.into()),
        })
    }

    /// Reads a session.
    pub async fn get(&self, caller: &Caller, request: GetRequest) -> Result<GetResponse> {
        let project = caller.project_as(Role::Reader)?;
        let session_id = session_id(request.session_id)?;
        let session = session::get(&self.store, project, &session_id).await?;
        Ok(GetResponse {
            session: Some(session.into()),
        })
    }

    /// Changes a session's metadata.
    pub async fn update(&self, caller: &Caller, request: UpdateRequest) -> Result<UpdateResponse> {
        let project = caller.project_as(Role::Writer)?;
        let mut violations = Violations::new();
        let mask = Mask::parse(&mut violations, request.update_mask, &["metadata"]);
        let session_id = violations.check("session_id", SessionId::parse(request.session_id));
        let metadata = violations.check_optional("metadata", request.metadata, Metadata::parse);
        let (Some(mask), Some(session_id), Some(metadata)) = (mask, session_id, metadata) else {
            return Err(violations.into());
        };
        let update = session::Update {
            project,
            session_id,
            change: SessionChange::Metadata(mask.metadata(metadata)),
            etag: request.etag,
        };
        let session = session::update(&self.store, update).await?;
        Ok(UpdateResponse {
            session: Some(session.into()),
        })
    }

    /// Ends a session.
    pub async fn end(&self, caller: &Caller, request: EndRequest) -> Result<EndResponse> {
        let project = caller.project_as(Role::Writer)?;
        let update = session::Update {
            project,
            session_id: session_id(request.session_id)?,
            change: SessionChange::End,
            etag: None,
        };
        let session = session::update(&self.store, update).await?;
        Ok(EndResponse {
            session: Some(session.into()),
        })
    }

    /// Erases a session with all its messages.
    pub async fn delete(&self, caller: &Caller, request: DeleteRequest) -> Result<DeleteResponse> {
        let project = caller.project_as(Role::Admin)?;
        let delete = session::Delete {
            project,
            session_id: session_id(request.session_id)?,
            etag: request.etag,
            allow_missing: request.allow_missing,
        };
        let receipt = if request.validate_only {
            session::receipt_for(&self.store, &delete).await?
        } else {
            session::delete(&self.store, delete).await?
        };
        Ok(DeleteResponse {
            receipt: Some(receipt),
        })
    }

    /// Lists sessions in an order.
    pub async fn list_ordered(
        &self,
        caller: &Caller,
        mut request: ListOrderedRequest,
    ) -> Result<ListOrderedResponse> {
        let project = caller.project_as(Role::Reader)?;
        let mut violations = Violations::new();
        let asked = page::Request {
            size: std::mem::take(&mut request.page_size),
            number: std::mem::take(&mut request.page_number),
            token: std::mem::take(&mut request.page_token),
        };
        let page = Page::parse(&mut violations, project, "sessions", &request, &asked);
        let order_by = OrderBy::try_from(request.order_by).map_err(|_| "is unknown".into());
        let order_by = violations.check("order_by", order_by);
        let state = State::try_from(request.state).map_err(|_| "is unknown".into());
        let state = violations.check("state", state);
        let user_id = violations.check_optional("user_id", request.user_id, UserId::parse);
        let (Some(page), Some(order_by), Some(state), Some(user_id)) =
            (page, order_by, state, user_id)
        else {
            return Err(violations.into());
        };
        let list = session::List {
            project,
            user_id,
            state,
            order_by,
            ascending: request.ascending,
            page,
        };
        let (listed, total_count) = session::list(&self.store, &list).await?;
        Ok(ListOrderedResponse {
            row_count: row_count(&listed.rows),
            sessions: listed.rows,
            next_page_token: list.page.next_token(listed.next),
            total_count,
        })
    }

    /// Adds messages at a session's end, all or none.
    pub async fn add_messages(
        &self,
        caller: &Caller,
        mut request: AddMessagesRequest,
    ) -> Result<AddMessagesResponse> {
        let project = caller.project_as(Role::Writer)?;
        let mut violations = Violations::new();
        let request_id = request.request_id.take();
        let retry = violations.check_optional("request_id", request_id, |request_id| {
            RequestId::parse(&request_id, &request)
        });
        let session_id = violations.check("session_id", SessionId::parse(request.session_id));
        let count = request.messages.len();
        if !(1..=MAX_MESSAGES).contains(&count) {
            violations.add(
                "messages",
                format!("must be 1 to {MAX_MESSAGES} messages, not {count}"),
            );
            return Err(violations.into());
        }
        let messages: Option<Vec<_>> = request
            .messages
            .into_iter()
            .enumerate()
            // Every message is checked before any missing one ends the collection.
            .map(|(index, message)| new_message(&mut violations, index, message))
            .collect::<Vec<_>>()
            .into_iter()
            .collect();
        let (Some(session_id), Some(messages), Some(request)) = (session_id, messages, retry)
        else {
            return Err(violations.into());
        };
        let add = message::Add {
            project,
            session_id,
            messages,
            request,
        };
        let messages = message::add(&self.store, add).await?;
        Ok(AddMessagesResponse {
            messages: messages.into_iter().map(Message::from).collect(),
        })
    }

    /// Lists a session's messages, oldest first.
    pub async fn list_messages(
        &self,
        caller: &Caller,
        mut request: ListMessagesRequest,
    ) -> Result<ListMessagesResponse> {
        let project = caller.project_as(Role::Reader)?;
        let mut violations = Violations::new();
        let last_n = match request.last_n {
            0 => Some(None),
            last_n => page::size(&mut violations, "last_n", last_n).map(Some),
        };
        let asked = page::Request {
            size: match std::mem::take(&mut request.page_size) {
                // The last messages are one page, unless smaller pages are asked for.
                0 => request.last_n.max(0),
                size => size,
            },
            number: 0,
            token: std::mem::take(&mut request.page_token),
        };
        let page = Page::parse(&mut violations, project, "ListMessages", &request, &asked);
        let session_id = violations.check("session_id", SessionId::parse(request.session_id));
        let (Some(page), Some(last_n), Some(session_id)) = (page, last_n, session_id) else {
            return Err(violations.into());
        };
        let list = message::List {
            project,
            session_id,
            last_n,
            page,
        };
        let (listed, total_count) = message::list(&self.store, &list).await?;
        Ok(ListMessagesResponse {
            messages: listed.rows,
            next_page_token: list.page.next_token(listed.next),
            total_count,
        })
    }

    /// Reads a message.
    pub async fn get_message(
        &self,
        caller: &Caller,
        request: GetMessageRequest,
    ) -> Result<GetMessageResponse> {
        let project = caller.project_as(Role::Reader)?;
        let mut violations = Violations::new();
        let session_id = violations.check("session_id", SessionId::parse(request.session_id));
        let message_id = violations.check("message_id", fields::uuid(&request.message_id));
        let (Some(session_id), Some(message_id)) = (session_id, message_id) else {
            return Err(violations.into());
        };
        let message = message::get(&self.store, project, &session_id, message_id).await?;
        Ok(GetMessageResponse {
            message: Some(message.into()),
        })
    }

    /// Merges into a message's metadata.
    pub async fn update_message(
        &self,
        caller: &Caller,
        request: UpdateMessageRequest,
    ) -> Result<UpdateMessageResponse> {
        let project = caller.project_as(Role::Writer)?;
        let mut violations = Violations::new();
        let session_id = violations.check("session_id", SessionId::parse(request.session_id));
        let message_id = violations.check("message_id", fields::uuid(&request.message_id));
        let metadata = request.metadata.ok_or_else(|| "is required".into());
        let metadata = violations.check("metadata", metadata.and_then(Metadata::parse));
        let (Some(session_id), Some(message_id), Some(metadata)) =
            (session_id, message_id, metadata)
        else {
            return Err(violations.into());
        };
        let update = message::Update {
            project,
            session_id,
            message_id,
            metadata,
        };
        let message = message::update(&self.store, update).await?;
        Ok(UpdateMessageResponse {
            message: Some(message.into()),
        })
    }
}

/// The one field of a request that names nothing else.
fn session_id(value: String) -> Result<SessionId> {
    SessionId::parse(value).map_err(|flaw| crate::error::Error::invalid("session_id", flaw))
}

fn new_message(
    violations: &mut Violations,
    index: usize,
    message: NewMessage,
) -> Option<message::New> {
    let field = |name| format!("messages[{index}].{name}");
    let role = violations.check(field("role"), role(message.role));
    let name = violations.check_optional(field("name"), message.name, fields::text);
    let content = violations.check(field("content"), fields::content(message.content));
    let metadata = violations.check_optional(field("metadata"), message.metadata, Metadata::parse);
    Some(message::New {
        role: role?,
        name: name?,
        content: content?,
        metadata: metadata?,
    })
}

fn role(number: i32) -> Result<i32, Flaw> {
    match Speaker::try_from(number) {
        Ok(Speaker::Unspecified) => Err("is required".into()),
        Ok(_) => Ok(number),
        Err(_) => Err("is unknown".into()),
    }
}
