//! Named moments between steps that change something on the disk. This crate's own tests crash there; in every other
//! build [`reached`] is empty.

#[cfg(not(test))]
pub(crate) const fn reached(_: &'static str) {}

#[cfg(test)]
pub(crate) use at_tests::{KILL_AT, crash_at, reached};

#[cfg(test)]
mod at_tests {
    use std::{
        cell::Cell,
        panic::{AssertUnwindSafe, catch_unwind},
        sync::{
            OnceLock,
            atomic::{AtomicU64, Ordering},
        },
    };

    /// `<moment>:<n>`: the process that finds this in its environment kills itself when it is there for the n-th time.
    pub(crate) const KILL_AT: &str = "TIDEMARK_TEST_KILL_AT";

    thread_local! {
        static CRASH_AT: Cell<Option<&'static str>> = const { Cell::new(None) };
    }

    /// Notes that `moment` is reached, and ends what the test wants to end there.
    pub(crate) fn reached(moment: &'static str) {
        if CRASH_AT.get() == Some(moment) {
            CRASH_AT.set(None);
            panic!("the test wants a crash at {moment}");
        }
        if let Some((wanted, left)) = kill_at()
            && wanted == moment
            && left.fetch_sub(1, Ordering::SeqCst) == 1
        {
            let own = rustix::process::getpid();
            rustix::process::kill_process(own, rustix::process::Signal::KILL).unwrap();
            // The signal may take effect a moment later, and nothing may happen until then.
            loop {
                std::thread::park();
            }
        }
    }

    fn kill_at() -> Option<&'static (String, AtomicU64)> {
        static WANTED: OnceLock<Option<(String, AtomicU64)>> = OnceLock::new();
        let read = || {
            let wanted = std::env::var(KILL_AT).ok()?;
            let (moment, times) = wanted.rsplit_once(':').unwrap();
            Some((moment.to_owned(), AtomicU64::new(times.parse().unwrap())))
        };
        WANTED.get_or_init(read).as_ref()
    }

    /// Runs `work` up to `moment` and no further: what comes after it is not done.
    pub(crate) fn crash_at(moment: &'static str, work: impl FnOnce()) {
        CRASH_AT.set(Some(moment));
        let crashed = catch_unwind(AssertUnwindSafe(work)).is_err();
        let met = CRASH_AT.replace(None).is_none();
        assert!(crashed && met, "{moment} was not reached");
    }
}
