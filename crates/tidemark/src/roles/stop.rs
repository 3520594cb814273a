//! When a node stops, and how long that may take.

use std::{io::Read as _, process, time::Duration};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The longest time from the signal to the end of the process.
pub const STOP_MAX: Duration = Duration::from_secs(30);
/// How long requests that are being answered may take to end; streams that never end are cut off then.
pub(super) const DRAIN_MAX: Duration = Duration::from_secs(2);
/// How long a role may take to put its state in order.
pub(super) const TIDY_MAX: Duration = Duration::from_secs(25);
/// How long threads may take to notice that the runtime is gone.
pub const RUNTIME_STOP_MAX: Duration = Duration::from_secs(2);

/// Exit code of a process that was told twice to end.
const EXIT_FORCED: i32 = 130;

/// Returns a token that is cancelled when the process is told to end. A second signal ends it at once.
///
/// # Errors
/// When signals cannot be listened to.
pub(crate) fn requested(exit_on_stdin_close: bool) -> std::io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let told = stop.clone();
    tokio::spawn(async move {
        for round in 0..2 {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if round > 0 {
                tracing::warn!("told twice to end: ending at once");
                process::exit(EXIT_FORCED);
            }
            tracing::info!("told to end: stopping within {} s", STOP_MAX.as_secs());
            told.cancel();
        }
    });
    if exit_on_stdin_close {
        let told = stop.clone();
        // A thread of its own: a read that never returns would hold the runtime's end.
        std::thread::spawn(move || {
            let mut sink = [0; 256];
            let mut stdin = std::io::stdin().lock();
            while stdin.read(&mut sink).is_ok_and(|read| read > 0) {}
            tracing::info!(
                "the standard input was closed: stopping within {} s",
                STOP_MAX.as_secs()
            );
            told.cancel();
        });
    }
    Ok(stop)
}

/// Waits for `tidying` until [`TIDY_MAX`] is over; what is not done by then is left to the next start, which copes
/// with it as with a crash.
pub(super) async fn tidy(what: &str, tidying: impl Future<Output = ()>) {
    if tokio::time::timeout(TIDY_MAX, tidying).await.is_err() {
        tracing::warn!(
            "{what} did not end within {} s and is cut off",
            TIDY_MAX.as_secs()
        );
    }
}
