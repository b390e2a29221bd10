//! The rules of users: parse, authorise, ask the store, reply. One function for each
//! RPC, whatever the edge.

use crate::{
    auth::{Caller, Role},
    error::Result,
    fields::{RequestId, UserId, Violations, text},
    mask::Mask,
    metadata::Metadata,
    page::{self, Page, row_count},
    pb::user::v1::{
        AddRequest, AddResponse, DeleteRequest, DeleteResponse, GetRequest, GetResponse,
        GetSessionsRequest, GetSessionsResponse, ListOrderedRequest, ListOrderedResponse, OrderBy,
        UpdateRequest, UpdateResponse,
    },
    store::{Store, session, user},
};

/// The rules of users.
#[derive(Clone)]
pub struct Users {
    store: Store,
}

impl Users {
    /// The rules of the users in this store.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Adds a user.
    pub async fn add(&self, caller: &Caller, mut request: AddRequest) -> Result<AddResponse> {
        let project = caller.project_as(Role::Writer)?;
        let mut violations = Violations::new();
        let request_id = request.request_id.take();
        let retry = violations.check_optional("request_id", request_id, |request_id| {
            RequestId::parse(&request_id, &request)
        });
        let user_id = violations.check("user_id", UserId::parse(request.user_id));
        let email = violations.check_optional("email", request.email, text);
        let first_name = violations.check_optional("first_name", request.first_name, text);
        let last_name = violations.check_optional("last_name", request.last_name, text);
        let metadata = violations.check_optional("metadata", request.metadata, Metadata::parse);
        let (
            Some(user_id),
            Some(email),
            Some(first_name),
            Some(last_name),
            Some(metadata),
            Some(request),
        ) = (user_id, email, first_name, last_name, metadata, retry)
        else {
            return Err(violations.into());
        };
        let add = user::Add {
            project,
            user_id,
            email,
            first_name,
            last_name,
            metadata,
            request,
        };
        let user = user::add(&self.store, add).await?;
        Ok(AddResponse {
            user: Some(user.into()),
        })
    }

    /// Reads a user.
    pub async fn get(&self, caller: &Caller, request: GetRequest) -> Result<GetResponse> {
        let project = caller.project_as(Role::Reader)?;
        let mut violations = Violations::new();
        let user_id = violations.check("user_id", UserId::parse(request.user_id));
        let Some(user_id) = user_id else {
            return Err(violations.into());
        };
        let user = user::get(&self.store, project, &user_id).await?;
        Ok(GetResponse {
            user: Some(user.into()),
        })
    }

    /// Changes a user.
    pub async fn update(&self, caller: &Caller, request: UpdateRequest) -> Result<UpdateResponse> {
        let project = caller.project_as(Role::Writer)?;
        let mut violations = Violations::new();
        let mask = Mask::parse(
            &mut violations,
            request.update_mask,
            &["email", "first_name", "last_name", "metadata"],
        );
        let user_id = violations.check("user_id", UserId::parse(request.user_id));
        let email = violations.check_optional("email", request.email, text);
        let first_name = violations.check_optional("first_name", request.first_name, text);
        let last_name = violations.check_optional("last_name", request.last_name, text);
        let metadata = violations.check_optional("metadata", request.metadata, Metadata::parse);
        let (
            Some(mask),
            Some(user_id),
            Some(email),
            Some(first_name),
            Some(last_name),
            Some(metadata),
        ) = (mask, user_id, email, first_name, last_name, metadata)
        else {
            return Err(violations.into());
        };
        let update = user::Update {
            project,
            user_id,
            email: mask.value("email", email),
            first_name: mask.value("first_name", first_name),
            last_name: mask.value("last_name", last_name),
            metadata: mask.metadata(metadata),
            etag: request.etag,
        };
        let user = user::update(&self.store, update).await?;
        Ok(UpdateResponse {
            user: Some(user.into()),
        })
    }

    /// Erases a user with all their sessions and messages.
    pub async fn delete(&self, caller: &Caller, request: DeleteRequest) -> Result<DeleteResponse> {
        let project = caller.project_as(Role::Admin)?;
        let mut violations = Violations::new();
        let user_id = violations.check("user_id", UserId::parse(request.user_id));
        let Some(user_id) = user_id else {
            return Err(violations.into());
        };
        let delete = user::Delete {
            project,
            user_id,
            etag: request.etag,
            allow_missing: request.allow_missing,
        };
        let receipt = if request.validate_only {
            user::receipt_for(&self.store, &delete).await?
        } else {
            user::delete(&self.store, delete).await?
        };
        Ok(DeleteResponse {
            receipt: Some(receipt),
        })
    }

    /// Lists a user's sessions, newest first.
    pub async fn get_sessions(
        &self,
        caller: &Caller,
        mut request: GetSessionsRequest,
    ) -> Result<GetSessionsResponse> {
        let project = caller.project_as(Role::Reader)?;
        let mut violations = Violations::new();
        let asked = page::Request {
            size: std::mem::take(&mut request.page_size),
            number: 0,
            token: std::mem::take(&mut request.page_token),
        };
        let page = Page::parse(&mut violations, project, "GetSessions", &request, &asked);
        let user_id = violations.check("user_id", UserId::parse(request.user_id));
        let (Some(page), Some(user_id)) = (page, user_id) else {
            return Err(violations.into());
        };
        let (listed, total_count) =
            session::list_of(&self.store, project, user_id, page.clone()).await?;
        Ok(GetSessionsResponse {
            sessions: listed.rows,
            next_page_token: page.next_token(listed.next),
            total_count,
        })
    }

    /// Lists users in an order.
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
        let page = Page::parse(&mut violations, project, "users", &request, &asked);
        let order_by = OrderBy::try_from(request.order_by).map_err(|_| "is unknown".into());
        let order_by = violations.check("order_by", order_by);
        let email = violations.check_optional("email", request.email, text);
        let (Some(page), Some(order_by), Some(email)) = (page, order_by, email) else {
            return Err(violations.into());
        };
        let list = user::List {
            project,
            email,
            order_by,
            ascending: request.ascending,
            page,
        };
        let (listed, total_count) = user::list(&self.store, &list).await?;
        Ok(ListOrderedResponse {
            row_count: row_count(&listed.rows),
            users: listed.rows,
            next_page_token: list.page.next_token(listed.next),
            total_count,
        })
    }
}
