//! The gRPC edge: what is served, and how a call finds its rule.

mod edge;
pub mod health;
mod sessions;
mod users;

use std::time::Duration;

use tonic::{Request, Response, Status, service::Routes};
use tower::Layer;

pub use edge::Edge;

use crate::{
    auth::Caller,
    error,
    pb::{
        FILE_DESCRIPTOR_SET, session::v1::session_service_server::SessionServiceServer,
        user::v1::user_service_server::UserServiceServer,
    },
    sessions::Sessions,
    store::Store,
    users::Users,
};

/// What the edge lets through.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long a call may take, if its caller does not want it sooner.
    pub request_timeout: Duration,
    /// The largest request, in bytes.
    pub max_message_bytes: usize,
}

/// Every service, behind the [`Edge`].
pub fn routes(
    store: &Store,
    health: health::Service,
    limits: Limits,
) -> Result<Edge<Routes>, tonic_reflection::server::Error> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // So that grpcurl can show the details of errors.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let users = UserServiceServer::new(Users::new(store.clone()))
        .max_decoding_message_size(limits.max_message_bytes);
    let sessions = SessionServiceServer::new(Sessions::new(store.clone()))
        .max_decoding_message_size(limits.max_message_bytes);
    let routes = Routes::new(users)
        .add_service(sessions)
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .prepare();
    Ok(edge::EdgeLayer::new(limits.request_timeout).layer(routes))
}

/// A unary call: finds the caller, applies the rule, shapes the error.
async fn unary<Q, A>(
    request: Request<Q>,
    rule: impl AsyncFnOnce(&Caller, Q) -> error::Result<A>,
) -> Result<Response<A>, Status> {
    let caller = Caller::anyone();
    let answer = rule(&caller, request.into_inner()).await?;
    Ok(Response::new(answer))
}
