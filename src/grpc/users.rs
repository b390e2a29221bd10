//! `usher.user.v1.UserService` over the rules of users.

use tonic::{Request, Response, Status, async_trait};

use super::unary;
use crate::{
    pb::user::v1::{
        AddRequest, AddResponse, DeleteRequest, DeleteResponse, GetRequest, GetResponse,
        GetSessionsRequest, GetSessionsResponse, ListOrderedRequest, ListOrderedResponse,
        UpdateRequest, UpdateResponse, user_service_server::UserService,
    },
    users::Users,
};

#[async_trait]
impl UserService for Users {
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

    async fn delete(
        &self,
        request: Request<DeleteRequest>,
    ) -> Result<Response<DeleteResponse>, Status> {
        unary(request, async |caller, request| {
            self.delete(caller, request).await
        })
        .await
    }

    async fn get_sessions(
        &self,
        request: Request<GetSessionsRequest>,
    ) -> Result<Response<GetSessionsResponse>, Status> {
        unary(request, async |caller, request| {
            self.get_sessions(caller, request).await
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
}
