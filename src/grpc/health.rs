//! grpc.health.v1: whether calls would succeed, for every service and for `""`.
//!
//! All services share one store, so they have one status. It changes only after
//! several pings in a row say the same, so that one slow ping does not flap.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use tonic::server::NamedService;
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};

use crate::{
    pb::{
        session::v1::session_service_server::SessionServiceServer,
        user::v1::user_service_server::UserServiceServer,
    },
    sessions::Sessions,
    store::Store,
    users::Users,
};

/// The health service.
pub type Service = HealthServer<HealthService>;

/// How long after a ping the next one is sent.
const INTERVAL: Duration = Duration::from_millis(500);

/// How long a ping may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many pings must fail in a row before health says `NOT_SERVING`.
const FAILURES: u32 = 3;

/// How many pings must succeed in a row before health says SERVING again.
const SUCCESSES: u32 = 2;

/// The names that have a status.
const NAMES: [&str; 3] = [
    "",
    <UserServiceServer<Users> as NamedService>::NAME,
    <SessionServiceServer<Sessions> as NamedService>::NAME,
];

/// Says how the server is.
#[derive(Clone)]
pub struct Health(HealthReporter);

impl Health {
    /// `NOT_SERVING` until told otherwise, and the service that says so.
    pub async fn new() -> (Self, Service) {
        let reporter = HealthReporter::new();
        let service = HealthServer::new(HealthService::from_health_reporter(reporter.clone()));
        let health = Self(reporter);
        health.set(ServingStatus::NotServing).await;
        (health, service)
    }

    /// SERVING, now that the store is open.
    pub async fn serving(&self) {
        self.set(ServingStatus::Serving).await;
    }

    /// Follows the store from then on; returns never.
    pub async fn follow(self, store: Store) {
        let mut hysteresis = Hysteresis::serving();
        loop {
            sleep(INTERVAL).await;
            let answered = matches!(timeout(PATIENCE, store.ping()).await, Ok(Ok(())));
            match hysteresis.after(answered) {
                None => {}
                Some(true) => {
                    tracing::info!("the database answers again");
                    self.set(ServingStatus::Serving).await;
                }
                Some(false) => {
                    tracing::error!("the database does not answer");
                    self.set(ServingStatus::NotServing).await;
                }
            }
        }
    }

    /// `NOT_SERVING` for good. Watch streams are told, and then end, so that they do
    /// not keep their connections open.
    pub async fn drain(mut self) {
        self.set(ServingStatus::NotServing).await;
        for name in NAMES {
            self.0.clear_service_status(name).await;
        }
        self.set(ServingStatus::NotServing).await;
    }

    async fn set(&self, status: ServingStatus) {
        for name in NAMES {
            self.0.set_service_status(name, status).await;
        }
    }
}

/// A status that several pings in a row must contradict before it changes.
struct Hysteresis {
    serving: bool,
    against: u32,
}

impl Hysteresis {
    fn serving() -> Self {
        Self {
            serving: true,
            against: 0,
        }
    }

    /// The new status, if this ping changes it.
    fn after(&mut self, answered: bool) -> Option<bool> {
        self.against = if answered == self.serving {
            0
        } else {
            self.against + 1
        };
        let needed = if self.serving { FAILURES } else { SUCCESSES };
        if self.against < needed {
            return None;
        }
        *self = Self {
            serving: answered,
            against: 0,
        };
        Some(answered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_several_pings_in_a_row_change_the_status() {
        let mut hysteresis = Hysteresis::serving();
        for (answered, change) in [
            (true, None),
            (false, None),
            (false, None),
            (true, None),
            (false, None),
            (false, None),
            (false, Some(false)),
            (false, None),
            (true, None),
            (false, None),
            (true, None),
            (true, Some(true)),
            (true, None),
        ] {
            assert_eq!(hysteresis.after(answered), change);
        }
    }
}
