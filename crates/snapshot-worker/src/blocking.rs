//! Where work that blocks a thread (files, RocksDB) runs: a seam, because a simulation has one thread.

use snapshot_store::in_background;
use tokio::task::JoinError;

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
            Blocking::Threads => finished(tokio::task::spawn_blocking(work).await).await,
        }
    }

    /// The same for work that takes long and is not urgent: it leaves the processor to everything else.
    pub async fn run_in_background<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> T {
        match self {
            Blocking::Inline => work(),
            Blocking::Threads => finished(in_background(work).await).await,
        }
    }

    /// Runs both and returns their results: at the same time, where there are threads. Blocks its thread. A panic in
    /// either continues in the caller.
    pub fn both<A: Send, B>(self, first: impl Fn() -> A + Sync, second: impl FnOnce() -> B) -> (A, B) {
        if self == Blocking::Inline {
            return (first(), second());
        }
        std::thread::scope(|scope| {
            let apart = std::thread::Builder::new().spawn_scoped(scope, &first);
            let second = second();
            let first = match apart {
                Ok(apart) => apart
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                // No thread to be had.
                Err(_) => first(),
            };
            (first, second)
        })
    }
}

async fn finished<T>(result: Result<T, JoinError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down: nobody will look at the result any more.
            Err(_) => std::future::pending().await,
        },
    }
}
