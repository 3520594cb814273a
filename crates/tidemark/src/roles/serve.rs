//! gRPC servers of a node: bound early, served with health and reflection, ended within a bounded time.

use super::{
    RoleError,
    metrics::{self, Readiness},
    stop::DRAIN_MAX,
};
use crate::{
    config::{self, AuthSection, TlsSection, Wire},
    wire_security::{self, ServerSecurity},
};
use metrics_exporter_prometheus::PrometheusHandle;
use partition_log::remote::server_builder;
use snapshot_proto::DESCRIPTORS;
use snapshot_store::Clock;
use std::{io, net::SocketAddr, path::Path, sync::Arc};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::{service::RoutesBuilder, transport::server::TcpIncoming};
use tonic_health::server::HealthReporter;

/// A port that is held and not yet served; only [`bind_service`] hands one out for gRPC.
pub(super) struct Bound {
    listener: TcpListener,
    pub(super) address: SocketAddr,
}

/// Binds `text`, which came from the configuration key `key`.
pub(super) async fn bind(key: &'static str, text: &str) -> Result<Bound, RoleError> {
    let failed = |source: io::Error| match (source.kind(), text.parse()) {
        (io::ErrorKind::AddrInUse, Ok(address)) => RoleError::PortInUse { address, key },
        _ => RoleError::Listen {
            address: text.to_owned(),
            key,
            source,
        },
    };
    let listener = TcpListener::bind(text).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok(Bound { listener, address })
}

/// Binds `text`, which came from the configuration key `key`, for gRPC services. Ports that other machines reach are
/// refused unless `security` protects them.
pub(super) async fn bind_service(
    key: &'static str,
    text: &str,
    security: &ServerSecurity,
) -> Result<Bound, RoleError> {
    let bound = bind(key, text).await?;
    match security.may_listen(bound.address) {
        true => Ok(bound),
        false => Err(RoleError::Exposed {
            address: bound.address,
            key,
        }),
    }
}

/// Reads the credentials of a node; `clock` decides when a token has expired.
pub(super) fn credentials(
    tls: &TlsSection,
    auth: &AuthSection,
    clock: Arc<dyn Clock>,
) -> Result<Wire, RoleError> {
    config::read_wire(tls, auth, clock).map_err(|faults| RoleError::Credentials { faults })
}

/// Creates the data folder, if need be.
pub(super) fn data_dir(path: &Path) -> Result<(), RoleError> {
    std::fs::create_dir_all(path).map_err(|source| RoleError::DataDir {
        path: path.to_owned(),
        source,
    })
}

/// All servers of a node.
pub(super) struct Servers {
    stop: CancellationToken,
    tasks: JoinSet<Result<(), RoleError>>,
    reporters: Vec<HealthReporter>,
    readiness: Readiness,
    security: ServerSecurity,
}

impl Servers {
    /// Serves metrics at once, and says how the rest will be protected; the node is not ready yet.
    pub(super) fn start(metrics: Bound, handle: PrometheusHandle, security: ServerSecurity) -> Self {
        tracing::info!("{security}");
        wire_security::metrics::describe();
        let servers = Servers {
            stop: CancellationToken::new(),
            tasks: JoinSet::new(),
            reporters: Vec::new(),
            readiness: Readiness::default(),
            security,
        };
        // It outlives the others, so that what happens while stopping can still be seen; the process's end ends it.
        let endpoint = metrics::serve(
            metrics.listener,
            handle,
            servers.readiness.clone(),
            CancellationToken::new(),
        );
        tokio::spawn(endpoint);
        servers
    }

    pub(super) fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Serves what `add` adds, with health and reflection.
    pub(super) async fn serve(
        &mut self,
        bound: Bound,
        add: impl FnOnce(&mut RoutesBuilder),
    ) -> Result<(), RoleError> {
        let (reporter, health) = tonic_health::server::health_reporter();
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .map_err(|error| RoleError::Descriptors(error.to_string()))?;
        let mut routes = RoutesBuilder::default();
        routes.add_service(health).add_service(reflection);
        add(&mut routes);
        let address = bound.address;
        // A builder's own `tcp_nodelay` does not reach a listener that is handed in; without it every small answer
        // waits some 40 ms for the peer's delayed acknowledgement.
        let incoming = TcpIncoming::from(bound.listener).with_nodelay(Some(true));
        let protected = self.security.apply(server_builder());
        let serving = protected
            .map_err(|source| RoleError::Server { address, source })?
            .add_routes(routes.routes())
            .serve_with_incoming_shutdown(incoming, self.stop.clone().cancelled_owned());
        self.tasks.spawn(async move {
            serving
                .await
                .map_err(|source| RoleError::Server { address, source })
        });
        reporter
            .set_service_status("", tonic_health::ServingStatus::Serving)
            .await;
        self.reporters.push(reporter);
        Ok(())
    }

    /// Waits until `stop` is cancelled, or a server fails.
    pub(super) async fn run_until(&mut self, stop: &CancellationToken) -> Result<(), RoleError> {
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            Some(ended) = self.tasks.join_next() => {
                ended.unwrap_or_else(|error| Err(RoleError::Metrics { detail: format!("a server panicked: {error}") }))
            }
        }
    }

    /// Says to whoever asks that the node is going away; requests are still answered.
    pub(super) async fn announce_stop(&self) {
        self.readiness.not_ready("stopping");
        for reporter in &self.reporters {
            reporter
                .set_service_status("", tonic_health::ServingStatus::NotServing)
                .await;
        }
    }

    /// Takes no new requests and waits a bounded time for those under way.
    pub(super) async fn drain(mut self) {
        self.stop.cancel();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN_MAX, ended).await.is_err() {
            tracing::debug!("streams that were still open are cut off");
            self.tasks.abort_all();
        }
    }
}

/// Prints the line that says a node serves.
pub(super) fn announce_ready(role: &str, node: &str, address: SocketAddr) -> io::Result<()> {
    crate::output::print_line(&format!("ready {role} {node} {address}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_in_use_is_named_with_its_key() {
        let holder = bind("listen", "127.0.0.1:0").await.unwrap();
        let text = holder.address.to_string();
        let error = bind("admin_listen", &text)
            .await
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        assert!(
            error.contains(&text) && error.contains("`admin_listen`") && error.contains("in use"),
            "{error}"
        );
    }
}
