//! `/metrics`, `/livez` and `/readyz` of a node.

use super::RoleError;
use axum::{Router, extract::State, http::StatusCode, routing::get};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Upper bounds of duration histograms, in seconds: from a local read to a large restore.
const SECONDS_BUCKETS: [f64; 14] = [
    0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0,
];
/// Upper bounds of size histograms, in bytes.
const BYTES_BUCKETS: [f64; 7] = [1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
/// Upper bounds of histograms of record counts.
const RECORDS_BUCKETS: [f64; 8] = [0.0, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6];

/// One recorder per process, as the `metrics` crate wants it.
static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();

/// Starts collecting metrics; a second call returns the same handle.
pub(super) fn install() -> Result<PrometheusHandle, RoleError> {
    if let Some(handle) = RECORDER.get() {
        return Ok(handle.clone());
    }
    let failed = |error: metrics_exporter_prometheus::BuildError| RoleError::Metrics {
        detail: error.to_string(),
    };
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)
        .and_then(|builder| {
            builder.set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), &BYTES_BUCKETS)
        })
        .and_then(|builder| {
            builder.set_buckets_for_metric(Matcher::Suffix("_records".to_owned()), &RECORDS_BUCKETS)
        })
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(failed)?;
    describe();
    Ok(RECORDER.get_or_init(|| handle).clone())
}

/// Describes what every node exports, whatever its role, and exports it.
pub(crate) fn describe() {
    metrics::describe_gauge!(
        "tidemark_build_info",
        "Version of the running program; the value is always 1"
    );
    metrics::gauge!("tidemark_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

/// Whether a node serves, and what it waits for until then. Clones share one state.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<Mutex<Option<String>>>);

impl Default for Readiness {
    fn default() -> Self {
        Readiness(Arc::new(Mutex::new(Some("starting".to_owned()))))
    }
}

impl Readiness {
    fn set(&self, waiting_for: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = waiting_for;
    }

    /// From now on the node serves.
    pub fn ready(&self) {
        self.set(None);
    }

    /// From now on the node does not serve, because of `reason`.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.set(Some(reason.into()));
    }

    /// Returns what the node waits for; `None` when it serves.
    pub fn waiting_for(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Clone)]
struct Endpoint {
    handle: PrometheusHandle,
    readiness: Readiness,
}

/// Serves the endpoint until `stop` is cancelled.
pub(super) async fn serve(
    listener: TcpListener,
    handle: PrometheusHandle,
    readiness: Readiness,
    stop: CancellationToken,
) {
    let router = Router::new()
        .route("/metrics", get(scrape))
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .with_state(Endpoint { handle, readiness });
    if let Err(error) = axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
    {
        tracing::error!(%error, "the metrics endpoint ended; the node goes on without it");
    }
}

async fn scrape(State(endpoint): State<Endpoint>) -> ([(&'static str, &'static str); 1], String) {
    endpoint.handle.run_upkeep();
    (
        [("content-type", "text/plain; version=0.0.4; charset=utf-8")],
        endpoint.handle.render(),
    )
}

async fn readyz(State(endpoint): State<Endpoint>) -> (StatusCode, String) {
    match endpoint.readiness.waiting_for() {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_says_what_it_waits_for() {
        let readiness = Readiness::default();
        assert_eq!(readiness.waiting_for().as_deref(), Some("starting"));
        readiness.ready();
        assert_eq!(readiness.waiting_for(), None);
        readiness.clone().not_ready("the log does not answer");
        assert_eq!(
            readiness.waiting_for().as_deref(),
            Some("the log does not answer")
        );
    }
}
