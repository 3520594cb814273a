//! A log server on loopback, with a runtime of its own so that it can be killed as a whole.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary is a crate and uses a part"
)]

use partition_log::remote::{
    RemoteLog, RemoteLogAdmin, RemoteLogMove, log_admin_service, log_move_service, log_service,
    server_builder,
};
use partition_log::{Log, LogAdmin, LogMove};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{net::TcpListener, runtime::Runtime};
use tokio_stream::wrappers::TcpListenerStream;

/// How long a server may take to stop.
const STOP_MAX: Duration = Duration::from_secs(10);

/// A server of log and admin service.
pub struct LogServer {
    pub address: SocketAddr,
    runtime: Option<Runtime>,
}

impl LogServer {
    pub async fn start(log: Arc<dyn Log>, admin: Arc<dyn LogAdmin>) -> Self {
        Self::serve(log, admin, None).await
    }

    /// Starts a server whose logs can be moved.
    pub async fn start_movable(log: Arc<dyn Log>, admin: Arc<dyn LogAdmin>, mover: Arc<dyn LogMove>) -> Self {
        Self::serve(log, admin, Some(mover)).await
    }

    async fn serve(log: Arc<dyn Log>, admin: Arc<dyn LogAdmin>, mover: Option<Arc<dyn LogMove>>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime starts");
        let serving = runtime.spawn(async move {
            let listener = TcpListener::bind("127.0.0.1:0")
                .await
                .expect("loopback has free ports");
            let address = listener.local_addr().expect("a bound socket has an address");
            let server = server_builder()
                .add_service(log_service(log))
                .add_service(log_admin_service(admin))
                .add_optional_service(mover.map(log_move_service))
                .serve_with_incoming(TcpListenerStream::new(listener));
            tokio::spawn(server);
            address
        });
        let address = serving.await.expect("the server starts");
        LogServer {
            address,
            runtime: Some(runtime),
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn log(&self) -> RemoteLog {
        RemoteLog::connect_lazy(&self.url()).expect("the address is a URL")
    }

    pub fn admin(&self) -> RemoteLogAdmin {
        RemoteLogAdmin::connect_lazy(&self.url()).expect("the address is a URL")
    }

    pub fn mover(&self) -> RemoteLogMove {
        RemoteLogMove::connect_lazy(&self.url()).expect("the address is a URL")
    }

    /// Breaks all connections, and waits until nothing of the server runs any more: a test process that ended while
    /// the server still closed its database would be aborted.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A runtime may not be waited for on a thread of another one.
            let stopping = std::thread::spawn(move || runtime.shutdown_timeout(STOP_MAX));
            stopping.join().expect("the server stops");
        }
    }
}

impl Drop for LogServer {
    fn drop(&mut self) {
        self.kill();
    }
}
