//! Reflection, in the version that is current and in the one that many tools still ask
//! for: with it a client needs no proto file.

use prost::Message;
use prost_types::FileDescriptorProto;
use tokio_stream::once;

use crate::support::{Database, Engine, Server, channel, ok};

const SERVICES: [&str; 3] = [
    "grpc.health.v1.Health",
    "usher.session.v1.SessionService",
    "usher.user.v1.UserService",
];

/// What a client may want to know of, and the file that says it.
const SYMBOLS: [(&str, &str); 5] = [
    (
        "usher.user.v1.UserService",
        "usher/user/v1/user_service.proto",
    ),
    ("usher.session.v1.Message", "usher/session/v1/session.proto"),
    ("usher.error.v1.Reason", "usher/error/v1/reason.proto"),
    ("google.protobuf.Struct", "google/protobuf/struct.proto"),
    ("google.rpc.BadRequest", "error_details.proto"),
];

macro_rules! reflects {
    ($test:ident, $version:ident) => {
        #[tokio::test]
        async fn $test() {
            use tonic_reflection::pb::$version::{
                ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
                server_reflection_request::MessageRequest,
                server_reflection_response::MessageResponse,
            };
            let database = Database::new(Engine::Sqlite);
            let server = Server::start(&database).await;
            let client = ServerReflectionClient::new(channel(server.addr).await.unwrap());
            let ask = |message| {
                let mut client = client.clone();
                async move {
                    let request = ServerReflectionRequest {
                        host: String::new(),
                        message_request: Some(message),
                    };
                    let answers = client.server_reflection_info(once(request)).await;
                    let answer = ok(answers).message().await.unwrap().unwrap();
                    answer.message_response.unwrap()
                }
            };
            let listed = ask(MessageRequest::ListServices(String::new())).await;
            let MessageResponse::ListServicesResponse(listed) = listed else {
                panic!("no list of services: {listed:?}");
            };
            let mut names: Vec<_> = listed
                .service
                .into_iter()
                .map(|service| service.name)
                .collect();
            names.sort();
            names.retain(|name| !name.contains("reflection"));
            assert_eq!(names, SERVICES);
            for (symbol, file) in SYMBOLS {
                let found = ask(MessageRequest::FileContainingSymbol(symbol.to_owned())).await;
                let MessageResponse::FileDescriptorResponse(found) = found else {
                    panic!("no file for {symbol}: {found:?}");
                };
                let found = FileDescriptorProto::decode(&found.file_descriptor_proto[0][..]);
                assert_eq!(found.unwrap().name(), file);
            }
        }
    };
}

reflects!(version_1_tells_all_services_and_messages, v1);
reflects!(version_1_alpha_tells_all_services_and_messages, v1alpha);
