//! Where work that blocks a thread (hashing, local files, a host's database) runs: a seam, because a simulation has one
//! thread.

use crate::background::in_background;
use std::io;
use tokio::task::JoinError;

/// How blocking work is run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Blocking {
    /// On the runtime's blocking threads.
    #[default]
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

    /// Runs work on files that somebody waits for. A panic in `work` is an error.
    pub(crate) async fn files<T: Send + 'static>(
        self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        match self {
            Blocking::Inline => work(),
            Blocking::Threads => joined(tokio::task::spawn_blocking(work).await),
        }
    }

    /// The same for work that is not urgent.
    pub(crate) async fn files_in_background<T: Send + 'static>(
        self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        match self {
            Blocking::Inline => work(),
            Blocking::Threads => joined(in_background(work).await),
        }
    }
}

fn joined<T>(result: Result<io::Result<T>, JoinError>) -> io::Result<T> {
    result.unwrap_or_else(|error| Err(io::Error::other(error)))
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[tokio::test]
    async fn inline_work_runs_on_the_calling_thread_and_other_work_does_not() {
        let here = thread::current().id();
        let place = || thread::current().id();
        let found = [
            Blocking::Inline.run(place).await,
            Blocking::Inline.run_in_background(place).await,
            Blocking::Inline.files(move || Ok(place())).await.unwrap(),
            Blocking::Inline
                .files_in_background(move || Ok(place()))
                .await
                .unwrap(),
        ];
        assert_eq!(found, [here; 4]);
        assert_ne!(Blocking::Threads.run(place).await, here);
        assert_ne!(Blocking::Threads.run_in_background(place).await, here);
    }
}
