//! The way between clients and one server, which a test can cut. It knows bytes, and nothing of what they mean.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// What becomes of bytes and connections on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Open,
    /// Connections break, and new ones end at once.
    Closed,
    /// Nothing passes, and nobody is told.
    Silent,
}

/// Stands between clients and a server; takes no more connections once this is dropped.
pub(crate) struct Passage {
    address: SocketAddr,
    way: watch::Sender<Way>,
    /// Connections that were tried while the way was closed.
    refused: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Passage {
    /// Opens one to the server at `upstream`, which need not run yet.
    pub(crate) async fn to(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback has free ports");
        let address = listener.local_addr().expect("a listener has an address");
        let (way, seen) = watch::channel(Way::Open);
        let refused = Arc::new(AtomicUsize::new(0));
        let serving = tokio::spawn(serve(listener, upstream, seen, Arc::clone(&refused)));
        Passage {
            address,
            way,
            refused,
            serving,
        }
    }

    /// Returns where clients find it.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn set(&self, way: Way) {
        self.way.send_replace(way);
    }

    pub(crate) fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(
    listener: TcpListener,
    upstream: SocketAddr,
    way: watch::Receiver<Way>,
    refused: Arc<AtomicUsize>,
) {
    loop {
        let (client, _) = listener.accept().await.expect("a listener accepts");
        if *way.borrow() == Way::Closed {
            refused.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let mut closed = way.clone();
        let (there, back) = (way.clone(), way.clone());
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(upstream).await else {
                // Nobody is there: the client's connection ends with this.
                return;
            };
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            // Whichever ends first ends the connection. It does not matter how.
            tokio::select! {
                _ = closed.wait_for(|way| *way == Way::Closed) => {}
                _ = pass(from_client, to_server, there) => {}
                _ = pass(from_server, to_client, back) => {}
            }
        });
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut way: watch::Receiver<Way>,
) -> std::io::Result<()> {
    let mut bytes = vec![0; 64 << 10];
    loop {
        let count = from.read(&mut bytes).await?;
        // The test has ended when nobody holds the way any more.
        if count == 0 || way.wait_for(|way| *way == Way::Open).await.is_err() {
            return Ok(());
        }
        to.write_all(&bytes[..count]).await?;
    }
}
