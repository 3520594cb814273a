//! Work that takes long and is never urgent: hashing an upload, checking stored files, reading a checkpoint through.
//!
//! It runs on threads of its own with a lower priority than all others of the process (nice 10), one for each core, so that
//! it takes what the service leaves over instead of standing in its way. On an idle machine it is as fast as any other.
//! Without this, writes wait behind an export: `docs/adr/0017-background-threads.md` has the figures.

use std::{sync::LazyLock, thread::available_parallelism};
use tokio::{
    runtime::{Builder, Runtime},
    task::{JoinError, spawn_blocking},
};

/// How much lower the priority is, as nice values count; 0 is a process's usual one and 19 the lowest.
const NICE: i32 = 10;

/// The threads, for the whole process. `None` when they could not be had: then the runtime's own serve.
static THREADS: LazyLock<Option<Runtime>> = LazyLock::new(|| {
    let threads = Builder::new_current_thread()
        .max_blocking_threads(available_parallelism().map_or(1, usize::from))
        .thread_name("background")
        .on_thread_start(|| {
            // Of this thread alone, as Linux has it. Nothing depends on it.
            if let Err(error) = rustix::process::setpriority_process(None, NICE) {
                tracing::debug!(%error, "the priority of background work stays as it is");
            }
        })
        .build();
    threads
        .inspect_err(|error| tracing::warn!(%error, "background work runs on the usual threads"))
        .ok()
});

/// Runs `work`, which blocks its thread, at a lower priority and returns its result. Dropping the future does not stop
/// work that has begun.
///
/// # Errors
/// When `work` panicked, or the runtime is shutting down.
pub(crate) async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    // A thread of the caller's runtime waits meanwhile: a paused clock stands still for as long as it does.
    let waiting = spawn_blocking(move || match &*THREADS {
        Some(threads) => threads.handle().block_on(threads.spawn_blocking(work)),
        None => Ok(work()),
    });
    waiting.await.flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn nice() -> i32 {
        rustix::process::getpriority_process(None).unwrap()
    }

    #[tokio::test]
    async fn only_background_work_has_a_lower_priority() {
        let usual = spawn_blocking(nice).await.unwrap();
        assert_eq!(in_background(nice).await.unwrap(), NICE.max(usual));
        assert_eq!(spawn_blocking(nice).await.unwrap(), usual);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_the_threads_go_on() {
        let panicked = in_background(|| panic!("out of order")).await;
        assert!(panicked.is_err_and(|error| error.is_panic()));
        assert_eq!(in_background(|| 7).await.unwrap(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_paused_clock_waits_for_it() {
        let began = tokio::time::Instant::now();
        let work = in_background(|| std::thread::sleep(Duration::from_millis(20)));
        tokio::select! {
            done = work => done.unwrap(),
            () = tokio::time::sleep(Duration::from_secs(3600)) => panic!("the clock ran on"),
        }
        assert!(began.elapsed() < Duration::from_secs(3600));
    }
}
