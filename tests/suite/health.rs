//! grpc.health.v1, and `usher health`.

use tonic::{Code, Streaming};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus::{self, NotServing, Serving},
    health_client::HealthClient,
};
use usher::pb::{
    session::v1::session_service_client::SessionServiceClient,
    user::v1::user_service_client::UserServiceClient,
};

use crate::support::{
    Database, Engine, PATIENCE, Process, Server, channel, failed, free_addr, ok,
    session::GetRequest as GetSession, user::AddRequest,
};

const NAMES: [&str; 3] = [
    "",
    "usher.user.v1.UserService",
    "usher.session.v1.SessionService",
];

fn of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.to_owned(),
    }
}

/// The next status that a Watch tells.
async fn next(watch: &mut Streaming<HealthCheckResponse>) -> Option<ServingStatus> {
    let message = tokio::time::timeout(PATIENCE, watch.message()).await;
    message
        .expect("the status changes")
        .unwrap()
        .map(|answer| answer.status())
}

#[tokio::test]
async fn every_service_and_the_whole_server_have_a_status() {
    let database = Database::new(Engine::Sqlite);
    let mut server = Server::start(&database).await;
    for name in NAMES {
        let watch = server.health.watch(of(name)).await;
        assert_eq!(next(&mut ok(watch)).await, Some(Serving));
        assert_eq!(ok(server.health.check(of(name)).await).status(), Serving);
    }
    let unknown = server.health.check(of("usher.user.v1.Nobody")).await;
    assert_eq!(unknown.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn it_is_not_serving_until_the_store_is_migrated() {
    let database = Database::new(Engine::Sqlite);
    let url = database.url();
    let migrated = Process::start(["migrate", "--database-url", &url])
        .exit_code()
        .await;
    assert_eq!(migrated, 0);

    let lock = database.lock().await;
    let addr = free_addr().unwrap();
    let listen = addr.to_string();
    let process = Process::start(["--listen", &listen, "--database-url", &url]);
    let channel = loop {
        match channel(addr).await {
            Ok(channel) => break channel,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let mut health = HealthClient::new(channel.clone());
    let mut watches = Vec::new();
    for name in NAMES {
        let mut watch = ok(health.watch(of(name)).await);
        assert_eq!(next(&mut watch).await, Some(NotServing));
        watches.push(watch);
    }
    let add = AddRequest {
        user_id: "jane".to_owned(),
        ..Default::default()
    };
    let get = GetSession {
        session_id: "session".to_owned(),
    };
    let calls = [
        UserServiceClient::new(channel.clone())
            .add(add)
            .await
            .map(drop),
        SessionServiceClient::new(channel).get(get).await.map(drop),
    ];
    for call in calls {
        let details = failed(call, Code::Unavailable, "STORE_UNAVAILABLE");
        assert!(details.retry_info().unwrap().retry_delay.is_some());
    }

    lock.rollback().await.unwrap();
    for watch in &mut watches {
        assert_eq!(next(watch).await, Some(Serving));
    }
    Server::connect(process).await.add_user("jane").await;
}

#[tokio::test]
async fn it_follows_the_store() {
    let database = Database::new(Engine::Sqlite);
    let mut server = Server::start(&database).await;
    let mut watch = ok(server.health.watch(of("")).await);
    assert_eq!(next(&mut watch).await, Some(Serving));
    let lock = database.lock().await;
    assert_eq!(next(&mut watch).await, Some(NotServing));
    assert_eq!(
        ok(server.health.check(of(NAMES[1])).await).status(),
        NotServing
    );
    lock.rollback().await.unwrap();
    assert_eq!(next(&mut watch).await, Some(Serving));
    server.add_user("jane").await;
}

#[tokio::test]
async fn the_program_asks_for_health() {
    let database = Database::new(Engine::Sqlite);
    let server = Server::start(&database).await;
    let addr = server.addr.to_string();
    for name in NAMES {
        let mut asked = Process::start(["health", "--addr", &addr, "--service", name]);
        assert_eq!(asked.exit_code().await, 0);
        assert_eq!(asked.output(), "SERVING\n");
    }
    let everywhere = format!("0.0.0.0:{}", server.addr.port());
    let mut asked = Process::start_with(["health"], [("USHER_LISTEN", &everywhere)]);
    assert_eq!(asked.exit_code().await, 0);

    let mut unknown = Process::start(["health", "--addr", &addr, "--service", "nonsense"]);
    assert_eq!(unknown.exit_code().await, 1);
    assert_eq!(unknown.output().lines().count(), 1);

    server.stop().await;
    let mut nobody = Process::start(["health", "--addr", &addr]);
    assert_eq!(nobody.exit_code().await, 1);
    assert_eq!(nobody.output().lines().count(), 1);
}
