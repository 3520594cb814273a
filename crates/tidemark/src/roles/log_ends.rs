//! The log as a node or a command holds it, whichever engine keeps it.

use super::log::{connect, connect_admin};
use crate::{
    config::{AdminLogSection, LogEngine, LogSection},
    wire_security::ClientSecurity,
};
use partition_log::{
    Log, LogAdmin, LogMove,
    copy::Place,
    nats::{NatsLog, NatsOptions},
    remote::{self, RemoteLogMove},
};
use std::sync::Arc;

/// Both sides of the log. What the caller may do is decided by the servers, by its credentials.
#[derive(Clone)]
pub(crate) struct LogEnds {
    /// What people call it.
    pub(crate) name: String,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) admin: Arc<dyn LogAdmin>,
    pub(crate) mover: Arc<dyn LogMove>,
    /// The engine, where it is NATS: it can say more about its deployment.
    pub(crate) nats: Option<NatsLog>,
}

impl LogEnds {
    /// The log of a log server: `admin_url` is its `admin_listen`.
    ///
    /// # Errors
    /// When an address is none, or not one for these credentials.
    pub(crate) fn server(url: &str, admin_url: &str, security: &ClientSecurity) -> anyhow::Result<Self> {
        let channel = security.channel(remote::endpoint(admin_url)?)?;
        Ok(LogEnds {
            name: url.to_owned(),
            log: connect(url, security)?,
            admin: connect_admin(admin_url, security)?,
            mover: Arc::new(RemoteLogMove::intercepted(channel)),
            nats: None,
        })
    }

    /// The log on NATS servers; the connection is made in the background.
    ///
    /// # Errors
    /// When the options do not fit together, or a file that they name cannot be read.
    pub(crate) async fn nats(options: NatsOptions) -> anyhow::Result<Self> {
        let name = match options.prefix == NatsOptions::default().prefix {
            true => options.servers.join(","),
            false => format!("{} (prefix {})", options.servers.join(","), options.prefix),
        };
        let log = NatsLog::connect(options).await?;
        Ok(LogEnds {
            name,
            log: Arc::new(log.clone()),
            admin: Arc::new(log.clone()),
            mover: Arc::new(log.clone()),
            nats: Some(log),
        })
    }

    /// The log as a worker reaches it.
    ///
    /// # Errors
    /// When it is not configured as it should be.
    pub(crate) async fn of_worker(section: &LogSection, security: &ClientSecurity) -> anyhow::Result<Self> {
        match section.engine {
            LogEngine::Embedded => Self::server(&section.url, &section.url, security),
            LogEngine::Nats => Self::nats(section.nats.options()?).await,
        }
    }

    /// The log as an admin reaches it.
    ///
    /// # Errors
    /// When it is not configured as it should be.
    pub(crate) async fn of_admin(
        section: &AdminLogSection,
        security: &ClientSecurity,
    ) -> anyhow::Result<Self> {
        match section.engine {
            LogEngine::Embedded => Self::server(&section.url, &section.admin_url, security),
            LogEngine::Nats => Self::nats(section.nats.options()?).await,
        }
    }

    /// The log as one end of a copy.
    pub(crate) fn place(&self) -> Place {
        Place {
            name: self.name.clone(),
            log: Arc::clone(&self.log),
            admin: Arc::clone(&self.admin),
            mover: Arc::clone(&self.mover),
        }
    }
}
