//! Where work that blocks a thread (files, RocksDB) runs: a seam, because a simulation has one thread.

/// How blocking work is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocking {
    /// On the runtime's blocking threads.
    Threads,
    /// On the calling thread; for simulations.
    Inline,
}

impl Blocking {
    /// Runs `work` and returns its result. A panic in `work` continues in the caller.
    pub async fn run<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> T {
        match self {
            Blocking::Inline => work(),
            Blocking::Threads => match tokio::task::spawn_blocking(work).await {
                Ok(value) => value,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // The runtime is shutting down: nobody will look at the result any more.
                    Err(_) => std::future::pending().await,
                },
            },
        }
    }
}
