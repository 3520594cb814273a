//! Work that takes long and is never urgent: hashing and sending an upload, checking stored files, reading a checkpoint
//! through.
//!
//! It runs on threads of its own, with a lower priority than all others of the process (nice 10), and on half of the
//! processors: a thread that wakes up finds one that it need not wait for, while a low priority alone makes it wait until the
//! slice of whoever runs there is over. Without this, writes wait behind an export: `docs/adr/0017-background-threads.md`
//! has the figures. A node whose writes must never wait gives it processors of its own ([`reserve_processors`]).

use rustix::{
    io::Errno,
    process::Pid,
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};
use std::{
    fs, io,
    sync::{LazyLock, OnceLock},
};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    task::{AbortHandle, JoinError, spawn_blocking},
};

/// How much lower the priority is, as nice values count; 0 is a process's usual one and 19 the lowest.
const NICE: i32 = 10;

/// The processors of these threads, once they are decided on.
static PROCESSORS: OnceLock<Vec<usize>> = OnceLock::new();

/// The threads, for the whole process. `None` when they could not be had: then the runtime's own serve.
static THREADS: LazyLock<Option<Runtime>> = LazyLock::new(|| {
    let processors = PROCESSORS.get_or_init(|| {
        let usable = sched_getaffinity(None).map(processors_of).unwrap_or_default();
        share_of(&usable).to_vec()
    });
    let threads = processors.len().max(1);
    let threads = Builder::new_multi_thread()
        .worker_threads(threads)
        .max_blocking_threads(threads)
        .enable_all()
        .thread_name("background")
        .on_thread_start(move || stand_back(processors))
        .build();
    threads
        .inspect_err(|error| tracing::warn!(%error, "background work runs on the usual threads"))
        .ok()
});

/// Gives background work the last `count` of the processors that this process may use, and keeps all else off them: the
/// threads that are there, and those that they start. Without this, background work has half of the processors and shares them.
///
/// For the whole process, and before anything works in the background: best as the first thing that `main` does.
///
/// # Errors
/// When `count` is 0 or does not leave a processor for all else, when background work has begun, or when the system refuses.
pub fn reserve_processors(count: usize) -> io::Result<()> {
    let usable = processors_of(sched_getaffinity(None)?);
    let rest = usable.len().saturating_sub(count);
    if count == 0 || rest == 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "{count} of {} processors were to be for background work: let it be at least 1, and leave at least 1",
                usable.len()
            ),
        ));
    }
    let (others, own) = usable.split_at(rest);
    PROCESSORS
        .set(own.to_vec())
        .map_err(|_| io::Error::other("background work has begun, and has its processors already"))?;
    let others = set_of(others);
    for task in fs::read_dir("/proc/self/task")? {
        let id = task?.file_name().to_str().and_then(|id| id.parse().ok());
        match sched_setaffinity(id.and_then(Pid::from_raw), &others) {
            // It has ended meanwhile.
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Returns the processors that background work is left to: half of those that the process may use, and at least one.
fn share_of(usable: &[usize]) -> &[usize] {
    &usable[usable.len() / 2..]
}

fn processors_of(set: CpuSet) -> Vec<usize> {
    (0..CpuSet::MAX_CPU)
        .filter(|processor| set.is_set(*processor))
        .collect()
}

fn set_of(processors: &[usize]) -> CpuSet {
    let mut set = CpuSet::new();
    for processor in processors {
        set.set(*processor);
    }
    set
}

/// Lowers the priority of this thread alone, as Linux has it, and binds it to `processors`. Nothing depends on either.
fn stand_back(processors: &[usize]) {
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "the priority of background work stays as it is");
    }
    if let Err(error) = sched_setaffinity(None, &set_of(processors)) {
        tracing::debug!(%error, "background work runs on all processors");
    }
}

/// Returns the runtime of these threads, for connections. `None` when it could not be had.
pub(crate) fn runtime() -> Option<&'static Handle> {
    THREADS.as_ref().map(Runtime::handle)
}

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

/// Runs `work`, which keeps a processor busy, on these threads and returns its result. Dropping the future drops `work`.
///
/// # Errors
/// When `work` panicked, or the runtime is shutting down.
pub(crate) async fn drive_in_background<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, JoinError> {
    let Some(runtime) = runtime() else {
        return Ok(work.await);
    };
    let work = runtime.spawn(work);
    let _dropped_with_this = AbortOnDrop(work.abort_handle());
    // A thread waits meanwhile, for the same reason.
    spawn_blocking(move || runtime.block_on(work)).await.flatten()
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
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

    #[test]
    fn background_work_has_half_of_the_processors_and_at_least_one() {
        assert_eq!(share_of(&[3]), [3]);
        assert_eq!(share_of(&[0, 5]), [5]);
        assert_eq!(share_of(&[0, 1, 2]), [1, 2]);
        assert_eq!(share_of(&[0, 1, 2, 3]), [2, 3]);
        assert!(share_of(&[]).is_empty());
    }

    #[tokio::test]
    async fn only_background_work_is_bound_to_its_share() {
        let here = || processors_of(sched_getaffinity(None).unwrap());
        let usual = spawn_blocking(here).await.unwrap();
        assert_eq!(in_background(here).await.unwrap(), share_of(&usual));
        assert_eq!(spawn_blocking(here).await.unwrap(), usual);
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
        let busy = drive_in_background(async { std::thread::sleep(Duration::from_millis(20)) });
        tokio::select! {
            done = busy => done.unwrap(),
            () = tokio::time::sleep(Duration::from_secs(3600)) => panic!("the clock ran on"),
        }
        assert!(began.elapsed() < Duration::from_secs(3600));
    }

    #[tokio::test]
    async fn work_whose_future_is_dropped_is_dropped_as_well() {
        let (alive, mut gone) = tokio::sync::oneshot::channel::<()>();
        let work = drive_in_background(async move {
            let _alive = alive;
            std::future::pending::<()>().await;
        });
        let waited = tokio::time::timeout(Duration::from_millis(20), work).await;
        assert!(waited.is_err());
        assert!((&mut gone).await.is_err());
    }
}
