//! The log server: the embedded log over gRPC. Trims and provisioning are accepted on a port of their own.

use super::{
    RoleArgs, log_metrics, metrics,
    serve::{Servers, announce_ready, bind, bind_service, credentials, data_dir},
    stop,
};
use crate::{
    config::{self, LogConfig},
    wire_security::ClientSecurity,
};
use partition_log::{
    Log, LogAdmin, LogMove,
    embedded::{EmbeddedLog, EmbeddedOptions},
    remote::{self, RemoteLog, RemoteLogAdmin},
};
use snapshot_store::SystemClock;
use std::{path::Path, process::ExitCode, sync::Arc};

/// Returns a client of the log at `url`; it connects when first used.
///
/// # Errors
/// When `url` is no address, or not one for these credentials.
pub fn connect(url: &str, security: &ClientSecurity) -> anyhow::Result<Arc<dyn Log>> {
    let channel = security.channel(remote::endpoint(url)?)?;
    Ok(Arc::new(RemoteLog::intercepted(channel)))
}

/// Returns a client that may trim and provision; `url` is the log's `admin_listen`.
///
/// # Errors
/// When `url` is no address, or not one for these credentials.
pub fn connect_admin(url: &str, security: &ClientSecurity) -> anyhow::Result<Arc<dyn LogAdmin>> {
    let channel = security.channel(remote::endpoint(url)?)?;
    Ok(Arc::new(RemoteLogAdmin::intercepted(channel)))
}

/// Opens the log in `folder`.
pub(super) async fn open(folder: &Path) -> anyhow::Result<EmbeddedLog> {
    let folder = folder.to_owned();
    // After a crash this replays the write-ahead log, which blocks.
    Ok(tokio::task::spawn_blocking(move || EmbeddedLog::open(&folder, EmbeddedOptions::default())).await??)
}

/// Runs a log node.
///
/// # Errors
/// When configuration, ports or data folder cannot be used.
pub async fn run(args: RoleArgs) -> anyhow::Result<ExitCode> {
    let config: LogConfig = config::load(&args.config)?;
    let stop = stop::requested(args.exit_on_stdin_close)?;
    let wire = credentials(&config.tls, &config.auth, Arc::new(SystemClock))?;
    let service = bind_service("listen", &config.listen, &wire.server).await?;
    let admin = bind_service("admin_listen", &config.admin_listen, &wire.server).await?;
    let metrics_port = bind("metrics_listen", &config.metrics_listen).await?;
    data_dir(&config.data_dir)?;
    let mut servers = Servers::start(metrics_port, metrics::install()?, wire.server);

    servers.readiness().not_ready("opening the log");
    let log = open(&config.data_dir).await?;
    let shared: Arc<dyn Log> = Arc::new(log.clone());
    let shared_admin: Arc<dyn LogAdmin> = Arc::new(log.clone());
    let shared_mover: Arc<dyn LogMove> = Arc::new(log.clone());
    let (address, admin_address) = (service.address, admin.address);
    servers
        .serve(service, |routes| {
            routes.add_service(remote::log_service(Arc::clone(&shared)));
        })
        .await?;
    servers
        .serve(admin, |routes| {
            routes.add_service(remote::log_service(Arc::clone(&shared)));
            routes.add_service(remote::log_admin_service(shared_admin));
            routes.add_service(remote::log_move_service(shared_mover));
        })
        .await?;
    let sampling = tokio::spawn(log_metrics::sample(shared));
    servers.readiness().ready();
    tracing::info!(node = config.node_id, %address, %admin_address, "the log serves");
    announce_ready("log", &config.node_id, address)?;

    let served = servers.run_until(&stop).await;
    servers.announce_stop().await;
    sampling.abort();
    servers.drain().await;
    stop::tidy("closing the log", log.close()).await;
    served?;
    Ok(ExitCode::SUCCESS)
}
