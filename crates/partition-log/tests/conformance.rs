//! The conformance suite over every engine of this crate.

mod common;

use async_trait::async_trait;
use common::LogServer;
use partition_log::conformance::{Fixture, MoveFixture};
use partition_log::embedded::{EmbeddedLog, EmbeddedOptions};
use partition_log::memory::MemoryLog;
use partition_log::{Log, LogAdmin, LogMove};
use std::sync::Arc;
use tempfile::TempDir;

struct InMemory(MemoryLog);

#[async_trait]
impl Fixture for InMemory {
    fn log(&self) -> Arc<dyn Log> {
        Arc::new(self.0.clone())
    }

    fn admin(&self) -> Arc<dyn LogAdmin> {
        Arc::new(self.0.clone())
    }

    async fn restart(&mut self) {}
}

impl MoveFixture for InMemory {
    fn mover(&self) -> Arc<dyn LogMove> {
        Arc::new(self.0.clone())
    }
}

struct Embedded {
    dir: TempDir,
    log: EmbeddedLog,
}

impl Embedded {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let log = EmbeddedLog::open(dir.path(), EmbeddedOptions::default()).expect("a new log opens");
        Embedded { dir, log }
    }

    async fn serve(&self) -> LogServer {
        LogServer::start_movable(self.log(), self.admin(), self.mover()).await
    }
}

#[async_trait]
impl Fixture for Embedded {
    fn log(&self) -> Arc<dyn Log> {
        Arc::new(self.log.clone())
    }

    fn admin(&self) -> Arc<dyn LogAdmin> {
        Arc::new(self.log.clone())
    }

    async fn restart(&mut self) {
        self.log.close().await;
        self.log =
            EmbeddedLog::open(self.dir.path(), EmbeddedOptions::default()).expect("the log opens again");
    }
}

impl MoveFixture for Embedded {
    fn mover(&self) -> Arc<dyn LogMove> {
        Arc::new(self.log.clone())
    }
}

struct Remote {
    engine: Embedded,
    server: LogServer,
}

#[async_trait]
impl Fixture for Remote {
    fn log(&self) -> Arc<dyn Log> {
        Arc::new(self.server.log())
    }

    fn admin(&self) -> Arc<dyn LogAdmin> {
        Arc::new(self.server.admin())
    }

    async fn restart(&mut self) {
        self.server.kill();
        self.engine.restart().await;
        self.server = self.engine.serve().await;
    }
}

impl MoveFixture for Remote {
    fn mover(&self) -> Arc<dyn LogMove> {
        Arc::new(self.server.mover())
    }
}

mod memory {
    async fn fixture() -> super::InMemory {
        super::InMemory(super::MemoryLog::new())
    }
    partition_log::log_conformance!(fixture);
    partition_log::log_move_conformance!(fixture);
}

mod embedded {
    async fn fixture() -> super::Embedded {
        super::Embedded::start()
    }
    partition_log::log_conformance!(fixture);
    partition_log::log_move_conformance!(fixture);
}

mod embedded_over_grpc {
    use super::{Embedded, Remote};

    async fn fixture() -> Remote {
        let engine = Embedded::start();
        let server = engine.serve().await;
        Remote { engine, server }
    }
    partition_log::log_conformance!(fixture);
    partition_log::log_move_conformance!(fixture);
}
