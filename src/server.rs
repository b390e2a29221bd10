//! The composition root: opens the store, wires the services, binds, serves, and
//! drains.

use std::{
    io::{self, Write},
    net::SocketAddr,
    time::Duration,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};
use tonic::{
    Code,
    transport::{Endpoint, Server, server::TcpIncoming},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    config::{self, MigrateWhen, UsageError},
    grpc::{self, health::Health},
    store::{OpenError, Store},
};

/// How long `usher health` waits for an answer.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(3);

/// Why usher cannot do what it was asked to: one line for standard error.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A flag that cannot be.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// The address cannot be bound.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, io::Error),
    /// The database cannot be opened.
    #[error("cannot open the database: {0}")]
    Open(#[from] OpenError),
    /// The operating system gives no threads.
    #[error("cannot start: {0}")]
    Runtime(io::Error),
    /// The operating system gives no signal handlers.
    #[error("cannot wait for signals: {0}")]
    Signals(io::Error),
    /// The descriptors that were built in cannot be served.
    #[error("cannot serve reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// Serving ended by itself.
    #[error("stopped serving: {0}")]
    Serve(String),
    /// The server that was asked is not healthy, or not there.
    #[error("{0}")]
    Unhealthy(String),
}

/// Serves until a signal says to stop.
pub async fn serve(config: &config::Serve) -> Result<(), Failure> {
    let url = config.database.url()?;
    let mut signals = Signals::new().map_err(Failure::Signals)?;
    let cannot_listen = |error| Failure::Listen(config.listen, error);
    // Small messages go out at once: there is no more to come that could fill a
    // packet.
    let incoming = TcpIncoming::bind(config.listen)
        .map_err(cannot_listen)?
        .with_nodelay(Some(true));
    let listen = incoming.local_addr().map_err(cannot_listen)?;

    let store = Store::new(&url).await?;
    let (health, health_service) = Health::new().await;
    let limits = grpc::Limits {
        request_timeout: config.request_timeout,
        max_message_bytes: config.max_message_bytes as usize,
    };
    let routes = grpc::routes(&store, health_service, limits)?;
    let (stop, stopped) = oneshot::channel::<()>();
    let mut serving = tokio::spawn(async move {
        Server::builder()
            .serve_with_incoming_shutdown(routes, incoming, async {
                // An error means that the sender is gone, which is a reason to stop too.
                let _ = stopped.await;
            })
            .await
    });

    // From here on health says NOT_SERVING and calls are UNAVAILABLE, until the
    // schema is there.
    tokio::select! {
        prepared = store.prepare(config.migrate) => prepared?,
        () = signals.any() => return Ok(()),
    }
    health.serving().await;
    tracing::info!(%listen, version = env!("CARGO_PKG_VERSION"), "serving");
    let following = tokio::spawn(health.clone().follow(store.clone()));
    let scrubbing = tokio::spawn(store.clone().scrub_forever());

    tokio::select! {
        () = signals.any() => tracing::info!("draining"),
        ended = &mut serving => return Err(Failure::Serve(format!("{ended:?}"))),
    }
    let deadline = Instant::now() + config.drain_timeout;
    cancel(following).await;
    health.drain().await;
    // It is gone only if serving has ended, which is what it asks for.
    let _ = stop.send(());
    if timeout_at(deadline, serving).await.is_err() {
        tracing::warn!("the drain timeout passed before every call was done");
    }
    cancel(scrubbing).await;
    if timeout_at(deadline, store.close()).await.is_err() {
        tracing::warn!("the drain timeout passed before the database was closed");
    }
    tracing::info!("stopped");
    Ok(())
}

/// Ends a task, and waits until it has.
async fn cancel(task: JoinHandle<()>) {
    task.abort();
    // An error only says that it was ended.
    let _ = task.await;
}

/// Migrates the database.
pub async fn migrate(config: &config::Migrate) -> Result<(), Failure> {
    let store = Store::new(&config.database.url()?).await?;
    store.prepare(MigrateWhen::Auto).await?;
    store.close().await;
    tracing::info!("the database is up to date");
    Ok(())
}

/// Asks a running server for its health, and prints its answer.
pub async fn health(config: &config::Health) -> Result<(), Failure> {
    let addr = config.addr();
    let silent = |why: String| Failure::Unhealthy(format!("no answer from {addr}: {why}"));
    let ask = async {
        let endpoint = Endpoint::try_from(format!("http://{addr}"));
        let channel = match endpoint {
            Ok(endpoint) => endpoint.connect().await,
            Err(error) => Err(error),
        };
        let channel = channel.map_err(|error| silent(error.to_string()))?;
        let request = HealthCheckRequest {
            service: config.service.clone(),
        };
        match HealthClient::new(channel).check(request).await {
            Ok(answer) => Ok(answer.into_inner().status()),
            Err(status) if status.code() == Code::NotFound => Ok(ServingStatus::ServiceUnknown),
            Err(status) => Err(silent(status.message().to_owned())),
        }
    };
    match timeout(HEALTH_TIMEOUT, ask).await {
        Ok(Ok(ServingStatus::Serving)) => {
            // The exit code says it too, if nobody listens.
            let _ = writeln!(io::stdout(), "SERVING");
            Ok(())
        }
        Ok(Ok(status)) => Err(Failure::Unhealthy(status.as_str_name().to_owned())),
        Ok(Err(failure)) => Err(failure),
        Err(_) => Err(silent("it takes too long".to_owned())),
    }
}

/// The signals that end a server.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
