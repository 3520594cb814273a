//! Stands between clients and an HTTP server and breaks what passes, by a plan that a seed decides.
//!
//! It works on bytes: it knows where a request ends and nothing more, so that signatures stay valid and clients are the
//! ones that are shipped, with all their retries.

mod message;
mod plan;

pub use plan::{Fault, FaultPlan};

use anyhow::Context;
use message::Message;
use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tidemark::cluster::wait_for;
use tokio::{
    io::{AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// A running proxy; it takes no more connections once this is dropped.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    plan: FaultPlan,
    /// How long a late request is held back: longer than clients wait.
    late_by: Duration,
    active: AtomicBool,
    under_way: AtomicUsize,
    record: Mutex<Record>,
}

/// What has passed.
#[derive(Debug, Default)]
struct Record {
    requests: HashMap<(String, String), u32>,
    faults: BTreeMap<&'static str, u64>,
}

/// What becomes of a connection after a request.
enum Next {
    Request,
    Close,
    Reset,
}

impl FaultProxy {
    /// Starts one before the server at `upstream`. It breaks nothing until it is told to; `late_by` is how long a late
    /// request is held back.
    ///
    /// # Errors
    /// When there is no port.
    pub async fn start(upstream: SocketAddr, plan: FaultPlan, late_by: Duration) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("no free port")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            upstream,
            plan,
            late_by,
            active: AtomicBool::new(false),
            under_way: AtomicUsize::new(0),
            record: Mutex::default(),
        });
        let serving = tokio::spawn({
            let shared = shared.clone();
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let shared = shared.clone();
                    // What ends a connection is seen by the client.
                    tokio::spawn(async move { shared.serve(client).await });
                }
            }
        });
        Ok(FaultProxy {
            address,
            shared,
            serving,
        })
    }

    /// Returns where it listens.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Switches the plan on or off.
    pub fn set_active(&self, active: bool) {
        self.shared.active.store(active, Ordering::SeqCst);
    }

    /// Waits until no request is under way: the late ones have landed.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn until_quiet(&self) -> anyhow::Result<()> {
        wait_for(
            "the last request to land",
            Duration::from_secs(30),
            async || match self.shared.under_way.load(Ordering::SeqCst) {
                0 => Ok(()),
                many => Err(format!("{many} under way")),
            },
        )
        .await?;
        Ok(())
    }

    /// Returns how often each kind of fault has come.
    pub fn faults(&self) -> BTreeMap<&'static str, u64> {
        self.shared.with_record(|record| record.faults.clone())
    }

    /// Returns the requests so far, method and target, with how often each came.
    pub fn requests(&self) -> HashMap<(String, String), u32> {
        self.shared.with_record(|record| record.requests.clone())
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Shared {
    fn with_record<T>(&self, change: impl FnOnce(&mut Record) -> T) -> T {
        change(&mut self.record.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn serve(&self, client: TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        let mut client = BufReader::new(client);
        let mut upstream = None;
        while let Some(request) = Message::read_request(&mut client).await? {
            self.under_way.fetch_add(1, Ordering::SeqCst);
            let next = self.pass(&request, &mut client, &mut upstream).await;
            self.under_way.fetch_sub(1, Ordering::SeqCst);
            match next? {
                Next::Request => {}
                Next::Close => return Ok(()),
                // Dropping the socket now resets the connection.
                Next::Reset => return client.get_ref().set_zero_linger(),
            }
        }
        Ok(())
    }

    /// Passes one request on, or does to it what the plan says.
    async fn pass(
        &self,
        request: &Message,
        client: &mut BufReader<TcpStream>,
        upstream: &mut Option<BufReader<TcpStream>>,
    ) -> io::Result<Next> {
        let (method, target) = request.request_line();
        let fault = self.next_fault(&method, &target);
        match fault {
            Some(Fault::RefusedBefore(status)) => {
                client.write_all(refusal(status).as_bytes()).await?;
                return Ok(Next::Request);
            }
            Some(Fault::ResetBefore) => return Ok(Next::Reset),
            Some(Fault::Delayed(delay)) => tokio::time::sleep(delay).await,
            Some(Fault::Late) => tokio::time::sleep(self.late_by).await,
            _ => {}
        }
        let mut answer = self.ask(upstream, request, &method).await?;
        match fault {
            Some(Fault::RefusedAfter(status)) => {
                client.write_all(refusal(status).as_bytes()).await?;
                return Ok(Next::Request);
            }
            Some(Fault::ResetAfter) => return Ok(Next::Reset),
            Some(Fault::ClosedAfter) => return Ok(Next::Close),
            Some(Fault::Truncated) => {
                answer.body.truncate(answer.body.len() / 2);
                client.write_all(&answer.head).await?;
                client.write_all(&answer.body).await?;
                return Ok(Next::Close);
            }
            _ => {}
        }
        client.write_all(&answer.head).await?;
        client.write_all(&answer.body).await?;
        Ok(Next::Request)
    }

    fn next_fault(&self, method: &str, target: &str) -> Option<Fault> {
        self.with_record(|record| {
            let key = (method.to_owned(), target.to_owned());
            let made = record.requests.entry(key).or_default();
            let before = *made;
            *made += 1;
            let active = self.active.load(Ordering::SeqCst);
            let fault = active.then(|| self.plan.fault_of(method, target, before))??;
            *record.faults.entry(fault.name()).or_default() += 1;
            Some(fault)
        })
    }

    async fn ask(
        &self,
        upstream: &mut Option<BufReader<TcpStream>>,
        request: &Message,
        method: &str,
    ) -> io::Result<Message> {
        let stream = match upstream {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.upstream).await?;
                stream.set_nodelay(true)?;
                upstream.insert(BufReader::new(stream))
            }
        };
        stream.write_all(&request.head).await?;
        stream.write_all(&request.body).await?;
        Message::read_answer(stream, method).await
    }
}

fn refusal(status: u16) -> String {
    format!("HTTP/1.1 {status} Refused\r\nContent-Length: 0\r\n\r\n")
}
