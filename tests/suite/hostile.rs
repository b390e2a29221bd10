//! Hostile callers: whatever comes over the wire gets the code of the error table,
//! and the server goes on serving afterwards.

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};
use h2::client::SendRequest;
use http::{HeaderMap, Method, StatusCode};
use prost::{
    Message as _,
    bytes::{Buf, BufMut, Bytes},
};
use prost_types::{FileDescriptorSet, Struct, Value, value::Kind};
use sea_orm::ConnectionTrait;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tonic::{
    Code, Request, Response, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};
use tonic_types::StatusExt;
use usher::pb::{FILE_DESCRIPTOR_SET, user::v1::user_service_client::UserServiceClient};

use crate::support::{
    Database, Engine, PATIENCE, Server, Signal, channel, failed, ok, refused_fields, said, session,
    user,
};

/// Messages as bytes, for calls that no generated client makes.
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

async fn call(
    channel: &Channel,
    path: &str,
    message: impl Into<Bytes>,
) -> Result<Response<Bytes>, Status> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let request = Request::new(message.into());
    grpc.unary(request, path.parse().unwrap(), Raw).await
}

const USER_GET: &str = "/usher.user.v1.UserService/Get";
const USER_ADD: &str = "/usher.user.v1.UserService/Add";
const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

/// An RPC of the contract: its path, and the name of its request's first field.
struct Rpc {
    path: String,
    first_field: String,
}

/// Every RPC of both services.
fn every_rpc() -> Vec<Rpc> {
    let files = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap().file;
    let mut first_fields = HashMap::new();
    for file in &files {
        for message in &file.message_type {
            let first = message.field.iter().find(|field| field.number() == 1);
            let name = format!(".{}.{}", file.package(), message.name());
            first_fields.insert(name, first.map(|field| field.name().to_owned()));
        }
    }
    let mut rpcs = Vec::new();
    for file in &files {
        for service in &file.service {
            for method in &service.method {
                rpcs.push(Rpc {
                    path: format!("/{}.{}/{}", file.package(), service.name(), method.name()),
                    first_field: first_fields[method.input_type()].clone().unwrap(),
                });
            }
        }
    }
    assert_eq!(rpcs.len(), 16);
    rpcs
}

/// Neither of the codes that tell a caller nothing, nor the one for a caller that
/// went away.
#[track_caller]
fn assert_sensible(status: &Status) {
    let senseless = [Code::Internal, Code::Unknown, Code::Cancelled];
    assert!(!senseless.contains(&status.code()), "{status:?}");
}

/// The field that a message was found malformed at, or empty.
#[track_caller]
fn malformed(result: Result<Response<Bytes>, Status>) -> String {
    let details = failed(result, Code::InvalidArgument, "MALFORMED_MESSAGE");
    let mut violations = details.bad_request().unwrap().field_violations.clone();
    assert_eq!(violations.len(), 1);
    let violation = violations.remove(0);
    assert!(!violation.description.is_empty());
    violation.field
}

/// Ends a test: old and new connections are served, and no call was a defect.
async fn still_serves(mut server: Server) {
    server.add_user("still-here").await;
    let mut fresh = UserServiceClient::new(channel(server.addr).await.unwrap());
    let get = user::GetRequest {
        user_id: "still-here".to_owned(),
    };
    ok(fresh.get(get).await);
    drop(fresh);
    server.process.signal(Signal::TERM);
    assert_eq!(server.process.exit_code().await, 0);
    let output = server.process.output();
    for defect in ["panicked", "a call failed"] {
        assert!(!output.contains(defect), "{output}");
    }
}

#[tokio::test]
async fn bytes_that_are_no_message_are_malformed() {
    let database = Database::new(Engine::Sqlite);
    let server = Server::start(&database).await;
    let channel = channel(server.addr).await.unwrap();
    for rpc in every_rpc() {
        for bytes in [
            // A varint without end.
            &[0xff; 16][..],
            // A tag that is cut off.
            &[0x80],
            // Field number 0, and wire types that there are not.
            &[0x00, 0x00],
            &[0x0e],
            &[0x0f],
            // The end of a group that did not begin, and a group without end.
            &[0x7c],
            &[0x7b, 0x08],
            // An unknown field longer than the message.
            &[0xfa, 0x7f, 0x7f],
            b"{\"user_id\":\"jane\"}",
        ] {
            malformed(call(&channel, &rpc.path, bytes.to_vec()).await);
        }
        // As 32 bits; no first field is a fixed32.
        let wrong_type = [0x0d, 1, 2, 3, 4].to_vec();
        let field = malformed(call(&channel, &rpc.path, wrong_type).await);
        assert_eq!(field, rpc.first_field, "{}", rpc.path);
    }
    still_serves(server).await;
}

#[tokio::test]
async fn the_field_where_decoding_stopped_is_named() {
    let database = Database::new(Engine::Sqlite);
    let server = Server::start(&database).await;
    let channel = channel(server.addr).await.unwrap();
    for (path, bytes, field) in [
        // Text that is not UTF-8.
        (USER_GET, &b"\x0a\x02\xff\xfe"[..], "user_id"),
        (USER_GET, b"\x0a\x01\x80", "user_id"),
        (USER_GET, b"\x0a\x03\xed\xa0\x80", "user_id"),
        (USER_ADD, b"\x0a\x01j\x12\x01\xff", "email"),
        (USER_ADD, b"\x0a\x01j\x1a\x01\xff", "first_name"),
        (USER_ADD, b"\x0a\x01j\x22\x01\xff", "last_name"),
        // Text that is longer than the message.
        (USER_GET, b"\x0a\x05jane", "user_id"),
        (USER_GET, b"\x0a", "user_id"),
        (USER_GET, b"\x0a\xff\xff\xff\xff\x0f", "user_id"),
        // Metadata that is a varint, and metadata that is no Struct.
        (USER_ADD, b"\x0a\x01j\x28\x01", "metadata"),
        (USER_ADD, b"\x0a\x01j\x2a\x02\xff\xff", "metadata"),
        // A field of a message in the request.
        (
            "/usher.session.v1.SessionService/AddMessages",
            b"\x0a\x01s\x12\x03\x1a\x01\xff",
            "messages",
        ),
        // A page_size that is text.
        (
            "/usher.user.v1.UserService/ListOrdered",
            b"\x0a\x011",
            "page_size",
        ),
        (
            "/usher.session.v1.SessionService/ListMessages",
            b"\x0a\x01s\x22\x011",
            "last_n",
        ),
    ] {
        assert_eq!(
            malformed(call(&channel, path, bytes).await),
            field,
            "{bytes:?}"
        );
    }
    still_serves(server).await;
}

/// Marsaglia's xorshift64: the same noise in every run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = self.next() % 64;
        (0..length).map(|_| self.next().to_le_bytes()[3]).collect()
    }
}

#[tokio::test]
async fn noise_never_is_a_defect() {
    let database = Database::new(Engine::Sqlite);
    let mut server = Server::start(&database).await;
    server.add_user("jane").await;
    server.add_session("jane", "session").await;
    let channel = channel(server.addr).await.unwrap();
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let mut paths: Vec<String> = every_rpc().into_iter().map(|rpc| rpc.path).collect();
    paths.extend([
        HEALTH_CHECK.to_owned(),
        "/grpc.health.v1.Health/List".to_owned(),
    ]);
    for path in &paths {
        for round in 0..50 {
            let mut bytes = noise.bytes();
            // Some is noise behind the ids of what there is.
            if round % 2 == 0 {
                bytes.splice(0..0, *b"\x0a\x04jane");
            }
            if let Err(status) = call(&channel, path, bytes).await {
                assert_sensible(&status);
            }
        }
    }
    still_serves(server).await;
}

/// An object in an object in a … so that the whole has this many levels. Each is
/// three levels of protobuf messages.
fn nested(levels: usize) -> Struct {
    (1..levels).fold(Struct::default(), |inner, _| {
        let kind = Some(Kind::StructValue(inner));
        Struct {
            fields: [("a".to_owned(), Value { kind })].into(),
        }
    })
}

/// A field that has a length, by the number of the field.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    prost::encode_length_delimiter(content.len(), &mut bytes).unwrap();
    bytes.extend(content);
    bytes
}

/// What [`nested`] is on the wire.
fn nested_bytes(levels: usize) -> Vec<u8> {
    (1..levels).fold(Vec::new(), |inner, _| {
        let value = field(5, &inner);
        field(1, &[field(1, b"a"), field(2, &value)].concat())
    })
}

fn user_with(metadata: Struct) -> user::AddRequest {
    user::AddRequest {
        user_id: "jane".to_owned(),
        metadata: Some(metadata),
        ..Default::default()
    }
}

fn message_with(metadata: Struct) -> session::AddMessagesRequest {
    session::AddMessagesRequest {
        session_id: "session".to_owned(),
        messages: vec![session::NewMessage {
            metadata: Some(metadata),
            ..said("hello")
        }],
        ..Default::default()
    }
}

/// Why a request was refused, and for which field.
#[track_caller]
fn refusal<T: std::fmt::Debug>(result: Result<T, Status>) -> (String, String) {
    let status = result.expect_err("the call fails");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let details = status.get_error_details();
    let violations = &details.bad_request().unwrap().field_violations;
    assert_eq!(violations.len(), 1);
    let reason = &details.error_info().unwrap().reason;
    (reason.clone(), violations[0].field.clone())
}

#[tokio::test]
async fn metadata_that_is_nested_too_deeply_is_refused_at_any_depth() {
    let database = Database::new(Engine::Sqlite);
    let mut server = Server::start(&database).await;
    server.add_user("john").await;
    server.add_session("john", "session").await;
    // The decoder stops a little later than the rule.
    for (levels, reason) in [
        (33, "INVALID_FIELDS"),
        (34, "INVALID_FIELDS"),
        (35, "MALFORMED_MESSAGE"),
        (40, "MALFORMED_MESSAGE"),
        (200, "MALFORMED_MESSAGE"),
    ] {
        let metadata = Some(nested(levels));
        let expected = (reason.to_owned(), "metadata".to_owned());
        let add = server.users.add(user_with(nested(levels))).await;
        assert_eq!(refusal(add), expected, "{levels}");
        let update = user::UpdateRequest {
            user_id: "john".to_owned(),
            metadata: metadata.clone(),
            ..Default::default()
        };
        assert_eq!(refusal(server.users.update(update).await), expected);
        let add = session::AddRequest {
            session_id: "other".to_owned(),
            user_id: "john".to_owned(),
            metadata,
            ..Default::default()
        };
        assert_eq!(refusal(server.sessions.add(add).await), expected);
    }
    // In a message of AddMessages it stops one step sooner.
    for (levels, reason, field) in [
        (33, "INVALID_FIELDS", "messages[0].metadata"),
        (34, "MALFORMED_MESSAGE", "messages"),
        (40, "MALFORMED_MESSAGE", "messages"),
        (200, "MALFORMED_MESSAGE", "messages"),
    ] {
        let add = server
            .sessions
            .add_messages(message_with(nested(levels)))
            .await;
        assert_eq!(
            refusal(add),
            (reason.to_owned(), field.to_owned()),
            "{levels}"
        );
    }
    // Deeper than a recursive encoder goes.
    let channel = channel(server.addr).await.unwrap();
    let add = [field(1, b"jane"), field(5, &nested_bytes(3000))].concat();
    assert_eq!(malformed(call(&channel, USER_ADD, add).await), "metadata");

    assert_eq!(nested_bytes(32), nested(32).encode_to_vec());
    ok(server.users.add(user_with(nested(32))).await);
    ok(server.sessions.add_messages(message_with(nested(32))).await);
    still_serves(server).await;
}

#[tokio::test]
async fn values_that_no_database_keeps_are_refused() {
    let database = Database::new(Engine::Sqlite);
    let mut server = Server::start(&database).await;
    server.add_user("jane").await;
    server.add_session("jane", "session").await;
    let message_id = server.say("session", &["hello"]).await.remove(0).message_id;
    for kind in [
        Some(Kind::NumberValue(f64::NAN)),
        Some(Kind::NumberValue(f64::INFINITY)),
        Some(Kind::NumberValue(f64::NEG_INFINITY)),
        Some(Kind::StringValue("\0".to_owned())),
        None,
    ] {
        let metadata = Struct {
            fields: [("a".to_owned(), Value { kind })].into(),
        };
        let add = session::AddRequest {
            session_id: "other".to_owned(),
            user_id: "jane".to_owned(),
            metadata: Some(metadata.clone()),
            ..Default::default()
        };
        assert_eq!(refused_fields(server.sessions.add(add).await), ["metadata"]);
        let add = message_with(metadata.clone());
        let refused = refused_fields(server.sessions.add_messages(add).await);
        assert_eq!(refused, ["messages[0].metadata"]);
        let update = session::UpdateMessageRequest {
            session_id: "session".to_owned(),
            message_id: message_id.clone(),
            metadata: Some(metadata),
        };
        let refused = refused_fields(server.sessions.update_message(update).await);
        assert_eq!(refused, ["metadata"]);
    }
    let request = session::AddMessagesRequest {
        session_id: "session".to_owned(),
        messages: vec![said("fine"), said("a\0b")],
        ..Default::default()
    };
    let refused = refused_fields(server.sessions.add_messages(request).await);
    assert_eq!(refused, ["messages[1].content"]);
    still_serves(server).await;
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused() {
    let database = Database::new(Engine::Sqlite);
    let server = Server::start(&database).await;
    let channel = channel(server.addr).await.unwrap();
    let large = Bytes::from(vec![0; 10 * 1024 * 1024]);
    let mut paths: Vec<String> = every_rpc().into_iter().map(|rpc| rpc.path).collect();
    paths.push(HEALTH_CHECK.to_owned());
    for path in paths {
        let refused = call(&channel, &path, large.clone()).await;
        failed(refused, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
    }
    still_serves(server).await;
}

#[tokio::test]
async fn the_largest_message_can_be_chosen() {
    let database = Database::new(Engine::Sqlite);
    let environment = [("USHER_MAX_MESSAGE_BYTES", "2048")];
    let mut server = Server::start_with(&database, environment).await;
    let of_bytes = |bytes: usize| {
        let mut request = user::AddRequest {
            user_id: bytes.to_string(),
            first_name: Some("x".repeat(1000)),
            last_name: Some("x".repeat(1000)),
            email: Some("x".repeat(20)),
            ..Default::default()
        };
        let missing = bytes - request.encoded_len();
        request.email = Some("x".repeat(20 + missing));
        assert_eq!(request.encoded_len(), bytes);
        request
    };
    ok(server.users.add(of_bytes(2048)).await);
    let refused = server.users.add(of_bytes(2049)).await;
    failed(refused, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
    server.add_session("2048", "session").await;
    server.say("session", &["x".repeat(2000).as_str()]).await;
    let request = session::AddMessagesRequest {
        session_id: "session".to_owned(),
        messages: vec![said(&"x".repeat(2048))],
        ..Default::default()
    };
    let refused = server.sessions.add_messages(request).await;
    failed(refused, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
    still_serves(server).await;
}

/// A connection on which requests are written by hand.
async fn by_hand(addr: SocketAddr) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(addr).await.unwrap();
    let (requests, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    requests
}

fn request(addr: SocketAddr, path: &str) -> http::request::Builder {
    http::Request::builder()
        .method(Method::POST)
        .uri(format!("http://{addr}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
}

/// How a call that was written by hand was answered: its gRPC status, if it has one.
#[derive(Debug)]
struct Answer {
    http: StatusCode,
    grpc: Option<Status>,
    body: Vec<u8>,
}

impl Answer {
    #[track_caller]
    fn status(self) -> Status {
        self.grpc.expect("there is a gRPC status")
    }

    fn result(self) -> Result<Vec<u8>, Status> {
        match self.grpc.expect("there is a gRPC status") {
            status if status.code() == Code::Ok => Ok(self.body),
            status => Err(status),
        }
    }
}

/// Sends a request with this body. Without one its stream stays open.
async fn send(
    requests: &SendRequest<Bytes>,
    request: http::request::Builder,
    body: Option<Vec<u8>>,
) -> Answer {
    let mut requests = requests.clone().ready().await.unwrap();
    let request = request.body(()).unwrap();
    let (response, mut stream) = requests.send_request(request, false).unwrap();
    if let Some(body) = body {
        // The server may have answered and closed the stream before.
        let _ = stream.send_data(body.into(), true);
    }
    timeout(PATIENCE, read(response))
        .await
        .expect("there is an answer")
}

async fn read(response: h2::client::ResponseFuture) -> Answer {
    let (head, mut body) = response.await.unwrap().into_parts();
    let mut bytes = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.unwrap();
        body.flow_control().release_capacity(chunk.len()).unwrap();
        bytes.extend(chunk);
    }
    let trailers: Option<HeaderMap> = body.trailers().await.unwrap();
    let in_trailers = trailers.as_ref().and_then(Status::from_header_map);
    Answer {
        http: head.status,
        grpc: Status::from_header_map(&head.headers).or(in_trailers),
        body: bytes,
    }
}

/// A gRPC frame: a flag, a length, a message.
fn frame(flag: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[flag], &length[..], message].concat()
}

const JANE: &[u8] = b"\x0a\x04jane";

#[tokio::test]
async fn a_body_that_is_not_one_message_is_malformed() {
    let database = Database::new(Engine::Sqlite);
    let mut server = Server::start(&database).await;
    server.add_user("jane").await;
    let requests = by_hand(server.addr).await;
    let whole = frame(0, JANE);
    let mut bodies = vec![
        // Flags that there are not, and one for an encoding that was not named.
        frame(2, JANE),
        frame(255, JANE),
        frame(1, JANE),
        // Garbage behind the message.
        [&whole[..], &[9, 9, 9, 9, 9, 9]].concat(),
        [&whole[..], &[0, 0, 0]].concat(),
    ];
    // Nothing, and every part of a frame.
    bodies.extend((0..whole.len()).map(|end| whole[..end].to_vec()));
    for body in bodies {
        let text = format!("{body:?}");
        let answer = send(&requests, request(server.addr, USER_GET), Some(body)).await;
        let status = answer.status();
        assert_eq!(status.code(), Code::InvalidArgument, "{text} {status:?}");
        failed(
            Err::<(), _>(status),
            Code::InvalidArgument,
            "MALFORMED_MESSAGE",
        );
    }
    let twice = [&whole[..], &whole[..]].concat();
    let answer = send(&requests, request(server.addr, USER_GET), Some(twice)).await;
    assert_sensible(&answer.status());
    let endless = vec![0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3];
    let answer = send(&requests, request(server.addr, USER_GET), Some(endless)).await;
    failed(
        answer.result(),
        Code::ResourceExhausted,
        "MESSAGE_TOO_LARGE",
    );

    let answer = send(&requests, request(server.addr, USER_GET), Some(whole)).await;
    assert!(!answer.result().unwrap().is_empty());
    drop(requests);
    still_serves(server).await;
}

#[tokio::test]
async fn what_is_not_served_is_unimplemented() {
    let database = Database::new(Engine::Sqlite);
    let server = Server::start(&database).await;
    let requests = by_hand(server.addr).await;
    for path in [
        "/",
        "/usher.user.v1.UserService",
        "/usher.user.v1.UserService/",
        "/usher.user.v1.UserService/Nonsense",
        "/usher.user.v1.UserService/get",
        "/usher.user.v1.UserService/Get/",
        "/usher.user.v1.UserService/Get/Get",
        "/usher.user.v2.UserService/Get",
        "/UserService/Get",
        "/nonsense",
        "/grpc.health.v1.Health/Nonsense",
        "/%00/%ff",
        "//",
    ] {
        let answer = send(&requests, request(server.addr, path), Some(frame(0, JANE))).await;
        assert_eq!(answer.status().code(), Code::Unimplemented, "{path}");
    }
    for encoding in ["gzip", "zstd", "nonsense", "identity, gzip", ""] {
        let request = request(server.addr, USER_GET).header("grpc-encoding", encoding);
        let answer = send(&requests, request, Some(frame(1, JANE))).await;
        assert_eq!(answer.status().code(), Code::Unimplemented, "{encoding:?}");
    }
    drop(requests);
    still_serves(server).await;
}

#[tokio::test]
async fn requests_that_are_not_grpc_are_answered() {
    let database = Database::new(Engine::Sqlite);
    let server = Server::start(&database).await;
    let requests = by_hand(server.addr).await;
    let uri = format!("http://{}{USER_GET}", server.addr);
    let plain = || http::Request::builder().uri(&uri).method(Method::POST);
    for (request, body) in [
        (plain(), frame(0, JANE)),
        (
            plain().header("content-type", "application/json"),
            b"{}".to_vec(),
        ),
        (
            plain().header("content-type", "application/json"),
            frame(0, JANE),
        ),
        (plain().header("content-type", "text/html"), vec![]),
        (plain().method(Method::GET), vec![]),
        (plain().method(Method::DELETE), vec![]),
        (plain().method(Method::OPTIONS), vec![]),
        (
            plain().header("content-type", "application/grpc-web"),
            frame(0, JANE),
        ),
    ] {
        let text = format!("{request:?}");
        let answer = send(&requests, request, Some(body)).await;
        assert!(!answer.http.is_server_error(), "{text} {answer:?}");
        match answer.grpc {
            Some(status) => assert_sensible(&status),
            None => assert!(answer.http.is_client_error(), "{text} {answer:?}"),
        }
    }
    drop(requests);
    still_serves(server).await;
}

#[tokio::test]
async fn connections_that_send_garbage_are_closed() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let database = Database::new(Engine::Sqlite);
    let server = Server::start(&database).await;
    let mut noise = Noise(1);
    let random: Vec<u8> = (0..1000).flat_map(|_| noise.next().to_le_bytes()).collect();
    let conversations: [&[u8]; 10] = [
        b"",
        b"\0",
        &random,
        &PREFACE[..9],
        &PREFACE[..20],
        PREFACE,
        &[PREFACE, &random].concat(),
        // A SETTINGS frame whose length is not that of any.
        &[PREFACE, &[0, 0, 5, 4, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5]].concat(),
        // The start of a TLS handshake.
        &[
            0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03,
        ],
        b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ];
    for said in conversations {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        // The server may have closed it before all is written.
        let _ = stream.write_all(said).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let end = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        assert!(end.is_ok(), "{said:?}");
    }
    // And connections that are left without a word.
    let idle = join_all((0..50).map(|_| TcpStream::connect(server.addr))).await;
    drop(idle);
    still_serves(server).await;
}

#[tokio::test]
async fn garbage_to_health_and_reflection_is_no_defect() {
    let database = Database::new(Engine::Sqlite);
    let server = Server::start(&database).await;
    let requests = by_hand(server.addr).await;
    for path in [
        HEALTH_CHECK,
        "/grpc.health.v1.Health/Watch",
        REFLECTION,
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ] {
        for body in [
            frame(0, &[0xff; 16]),
            frame(0, b"\x0a\x01\xff"),
            frame(7, b""),
            frame(0, JANE)[..7].to_vec(),
            vec![0xff; 100],
        ] {
            let text = format!("{path} {body:?}");
            let answer = send(&requests, request(server.addr, path), Some(body)).await;
            let status = answer.status();
            let senseless = [Code::Internal, Code::Unknown, Code::Cancelled];
            assert!(!senseless.contains(&status.code()), "{text} {status:?}");
        }
    }
    let unknown = frame(0, b"\x0a\x08nonsense");
    let answer = send(&requests, request(server.addr, HEALTH_CHECK), Some(unknown)).await;
    assert_eq!(answer.status().code(), Code::NotFound);
    drop(requests);
    still_serves(server).await;
}

#[tokio::test]
async fn a_malformed_timeout_counts_as_none() {
    let database = Database::new(Engine::Sqlite);
    let mut server = Server::start(&database).await;
    server.add_user("jane").await;
    let requests = by_hand(server.addr).await;
    for timeout in [
        "",
        "S",
        "5",
        "5x",
        "-5S",
        "+5S",
        "5 S",
        "999999999S",
        "99999999H",
        "1e3S",
        "5SS",
        "nonsense",
        "１S",
    ] {
        let request = request(server.addr, USER_GET).header("grpc-timeout", timeout);
        let answer = send(&requests, request, Some(frame(0, JANE))).await;
        assert_eq!(answer.status().code(), Code::Ok, "{timeout:?}");
    }
    drop(requests);
    still_serves(server).await;
}

fn add(user_id: &str) -> user::AddRequest {
    user::AddRequest {
        user_id: user_id.to_owned(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_deadline_that_passes_is_exceeded_and_not_cancelled() {
    let database = Database::new(Engine::Sqlite);
    let mut server = Server::start(&database).await;
    server.add_user("jane").await;
    let requests = by_hand(server.addr).await;
    let timeouts = ["0n", "0S", "1n", "1u", "1m", "20m"];
    let asks = |path: &'static str, body: Option<Vec<u8>>| {
        // Many, for two clocks could ring; but no more than may wait.
        let calls = (0..900).zip(timeouts.iter().cycle()).map(|(_, timeout)| {
            let request = request(server.addr, path).header("grpc-timeout", *timeout);
            send(&requests, request, body.clone())
        });
        join_all(calls.collect::<Vec<_>>())
    };
    // Some of these are done in time.
    for answer in asks(USER_GET, Some(frame(0, JANE))).await {
        let code = answer.status().code();
        assert!(
            [Code::Ok, Code::DeadlineExceeded].contains(&code),
            "{code:?}"
        );
    }
    // None of these: a request that never comes, and a write that has to wait.
    for answer in asks(USER_GET, None).await {
        assert_eq!(answer.status().code(), Code::DeadlineExceeded);
    }
    let lock = database.lock().await;
    for answer in asks(USER_ADD, Some(frame(0, b"\x0a\x04john"))).await {
        assert_eq!(answer.status().code(), Code::DeadlineExceeded);
    }
    lock.rollback().await.unwrap();
    drop(requests);
    still_serves(server).await;
}

#[tokio::test]
async fn a_request_takes_no_longer_than_its_timeout() {
    let database = Database::new(Engine::Sqlite);
    let environment = [("USHER_REQUEST_TIMEOUT", "300ms")];
    let mut server = Server::start_with(&database, environment).await;
    server.add_user("jane").await;
    let lock = database.lock().await;
    let begun = Instant::now();
    let late = server.users.add(add("john")).await.unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late:?}");
    let taken = begun.elapsed();
    let expected = Duration::from_millis(300)..Duration::from_secs(3);
    assert!(expected.contains(&taken), "{taken:?}");
    // A caller's own deadline does not lengthen it.
    let requests = by_hand(server.addr).await;
    let patient = request(server.addr, USER_ADD).header("grpc-timeout", "1H");
    let answer = send(&requests, patient, Some(frame(0, b"\x0a\x03joe"))).await;
    assert_eq!(answer.status().code(), Code::DeadlineExceeded);
    // Reads do not wait for writes.
    server.get_user("jane").await.unwrap();
    lock.rollback().await.unwrap();
    drop(requests);
    still_serves(server).await;
}

#[tokio::test]
async fn a_database_that_somebody_else_locks_is_unavailable() {
    let database = Database::new(Engine::Sqlite);
    let mut server = Server::start(&database).await;
    server.add_user("jane").await;
    let lock = database.lock().await;
    let refused = server.users.add(add("john")).await.unwrap_err();
    assert_eq!(refused.message(), "database unavailable");
    let details = failed(
        Err::<(), _>(refused),
        Code::Unavailable,
        "STORE_UNAVAILABLE",
    );
    assert!(details.retry_info().unwrap().retry_delay.is_some());
    server.get_user("jane").await.unwrap();
    lock.rollback().await.unwrap();
    server.add_user("john").await;
    still_serves(server).await;
}

#[tokio::test]
async fn the_cause_of_a_defect_is_logged_once_and_not_told() {
    let database = Database::new(Engine::Sqlite);
    let mut server = Server::start(&database).await;
    let rename = "ALTER TABLE users RENAME TO elsewhere";
    let connection = database.open().await;
    connection.execute_unprepared(rename).await.unwrap();
    let status = server.get_user("jane").await.unwrap_err();
    assert_eq!(status.message(), "internal error");
    let told = String::from_utf8_lossy(status.details()).into_owned();
    assert!(!told.contains("users"), "{told}");
    failed(Err::<(), _>(status), Code::Internal, "INTERNAL");

    server.process.signal(Signal::TERM);
    assert_eq!(server.process.exit_code().await, 0);
    let output = server.process.output();
    let cause = output.matches("no such table: users").count();
    assert_eq!(cause, 1, "{output}");
}

/// More than may wait: 1,024, and a few that run or belong to the server itself.
const CROWD: usize = 1200;
const WAITING: usize = 1024;

#[tokio::test]
async fn writes_beyond_those_that_may_wait_are_turned_away_at_once() {
    let database = Database::new(Engine::Sqlite);
    let mut server = Server::start(&database).await;
    server.add_user("jane").await;
    let channels = join_all((0..12).map(|_| channel(server.addr))).await;
    let lock = database.lock().await;
    let mut answers: FuturesUnordered<_> = (0..CROWD)
        .zip(channels.iter().cycle())
        .map(|(number, channel)| {
            let mut users = UserServiceClient::new(channel.as_ref().unwrap().clone());
            async move { users.add(add(&number.to_string())).await }
        })
        .collect();

    for _ in 0..CROWD - WAITING - 4 {
        let refused = answers.next().await.unwrap();
        let details = failed(refused, Code::ResourceExhausted, "OVERLOADED");
        assert!(details.retry_info().unwrap().retry_delay.is_some());
    }
    server.get_user("jane").await.unwrap();
    let list = user::ListOrderedRequest::default();
    assert_eq!(ok(server.users.list_ordered(list).await).total_count, 1);

    lock.rollback().await.unwrap();
    let mut added = 1;
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(_) => added += 1,
            refused => {
                failed(refused, Code::ResourceExhausted, "OVERLOADED");
            }
        }
    }
    assert!(added > WAITING);
    drop(answers);
    drop(channels);
    let list = user::ListOrderedRequest::default();
    let total = ok(server.users.list_ordered(list).await).total_count;
    assert_eq!(usize::try_from(total), Ok(added));
    still_serves(server).await;
}
