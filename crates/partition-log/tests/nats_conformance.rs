//! The conformance suite over NATS servers: one alone, and three with a replica each.

use async_trait::async_trait;
use partition_log::conformance::{Fixture, MoveFixture, NatsServers, NatsUser};
use partition_log::nats::NatsLog;
use partition_log::{Log, LogAdmin, LogMove};
use std::{sync::Arc, time::Duration};

/// How long a restarted cluster may take.
const READY_MAX: Duration = Duration::from_secs(60);

struct Nats {
    servers: NatsServers,
    worker: NatsLog,
    admin: NatsLog,
}

impl Nats {
    async fn start(count: usize) -> Self {
        let servers = NatsServers::start(count).await;
        let (worker, admin) = Self::connect(&servers).await;
        Nats {
            servers,
            worker,
            admin,
        }
    }

    async fn connect(servers: &NatsServers) -> (NatsLog, NatsLog) {
        let worker = servers.connect(NatsUser::Worker).await;
        let admin = servers.connect(NatsUser::Admin).await;
        for log in [&worker, &admin] {
            log.ready(READY_MAX).await.expect("the servers can be reached");
        }
        (worker, admin)
    }
}

#[async_trait]
impl Fixture for Nats {
    fn log(&self) -> Arc<dyn Log> {
        Arc::new(self.worker.clone())
    }

    fn admin(&self) -> Arc<dyn LogAdmin> {
        Arc::new(self.admin.clone())
    }

    async fn restart(&mut self) {
        let count = self.servers.count();
        for index in 0..count {
            self.servers.kill(index);
        }
        for index in 0..count {
            self.servers.start_again(index);
        }
        self.servers.until_ready().await;
        (self.worker, self.admin) = Self::connect(&self.servers).await;
    }
}

impl MoveFixture for Nats {
    fn mover(&self) -> Arc<dyn LogMove> {
        Arc::new(self.admin.clone())
    }
}

mod one_server {
    async fn fixture() -> super::Nats {
        super::Nats::start(1).await
    }
    partition_log::log_conformance!(fixture);
    partition_log::log_move_conformance!(fixture);
}

mod three_servers {
    async fn fixture() -> super::Nats {
        super::Nats::start(3).await
    }
    partition_log::log_conformance!(fixture);
    partition_log::log_move_conformance!(fixture);
}
