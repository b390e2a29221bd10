//! `usher.session.v1.SessionService` over the rules of sessions and messages.

use tonic::{Request, Response, Status, async_trait};

use super::unary;
use crate::{
    pb::session::v1::{
        AddMessagesRequest, AddMessagesResponse, AddRequest, AddResponse, DeleteRequest,
        DeleteResponse, EndRequest, EndResponse, GetMessageRequest, GetMessageResponse, GetRequest,
        GetResponse, ListMessagesRequest, ListMessagesResponse, ListOrderedRequest,
        ListOrderedResponse, UpdateMessageRequest, UpdateMessageResponse, UpdateRequest,
        UpdateResponse, session_service_server::SessionService,
    },
    sessions::Sessions,
};

#[async_trait]
impl SessionService for Sessions {
    async fn add(&self, request: Request<AddRequest>) -> Result<Response<AddResponse>, Status> {
        unary(request, async |caller, request| {
            self.add(caller, request).await
        })
        .await
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        unary(request, async |caller, request| {
            self.get(caller, request).await
        })
        .await
    }

    async fn update(
        &self,
        request: Request<UpdateRequest>,
    ) -> Result<Response<UpdateResponse>, Status> {
        unary(request, async |caller, request| {
            self.update(caller, request).await
        })
        .await
    }

    async fn end(&self, request: Request<EndRequest>) -> Result<Response<EndResponse>, Status> {
        unary(request, async |caller, request| {
            self.end(caller, request).await
        })
        .await
    }

    async fn delete(
        &self,
        request: Request<DeleteRequest>,
    ) -> Result<Response<DeleteResponse>, Status> {
        unary(request, async |caller, request| {
            self.delete(caller, request).await
        })
        .await
    }

    async fn list_ordered(
        &self,
        request: Request<ListOrderedRequest>,
    ) -> Result<Response<ListOrderedResponse>, Status> {
        unary(request, async |caller, request| {
            self.list_ordered(caller, request).await
        })
        .await
    }

    async fn add_messages(
        &self,
        request: Request<AddMessagesRequest>,
    ) -> Result<Response<AddMessagesResponse>, Status> {
        unary(request, async |caller, request| {
            self.add_messages(caller, request).await
        })
        .await
    }

    async fn list_messages(
        &self,
        request: Request<ListMessagesRequest>,
    ) -> Result<Response<ListMessagesResponse>, Status> {
        unary(request, async |caller, request| {
            self.list_messages(caller, request).await
        })
        .await
    }

    async fn get_message(
        &self,
        request: Request<GetMessageRequest>,
    ) -> Result<Response<GetMessageResponse>, Status> {
        unary(request, async |caller, request| {
            self.get_message(caller, request).await
        })
        .await
    }

    async fn update_message(
        &self,
        request: Request<UpdateMessageRequest>,
    ) -> Result<Response<UpdateMessageResponse>, Status> {
        unary(request, async |caller, request| {
            self.update_message(caller, request).await
        })
        .await
    }
}
