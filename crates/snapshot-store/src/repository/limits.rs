//! Who may transfer how much at once: one budget of requests and bytes for all that a process does with its store.
//!
//! Restores come first. Everything else leaves them a quarter of the requests, and waits while a restore waits for bytes:
//! a partition that is down is worth more than a snapshot that is a little later.

use super::options::TransferOptions;
use governor::{
    Quota, RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{InMemoryState, NotKeyed},
};
use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};

/// What a transfer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// Brings a partition back.
    Restore,
    /// Uploads or copies a snapshot.
    Snapshot,
    /// Reads a snapshot to see whether it is sound.
    Check,
}

/// The unit in which bytes are counted: the limiter counts in 32 bits.
const UNIT_BYTES: u64 = 1 << 10;
/// How much may be spent at once after a pause. Spending more is split.
const BURST_UNITS: u32 = 8 << 10;
/// How long a transfer that is not a restore stands back before it looks again.
const STAND_BACK: Duration = Duration::from_millis(50);

type Limiter = RateLimiter<NotKeyed, InMemoryState, RuntimeClock, NoOpMiddleware<Nanos>>;

/// The budget of one process and store.
pub(super) struct Limits {
    requests: Semaphore,
    /// What is not a restore needs one of these first.
    behind: Semaphore,
    bytes: Option<ByteBudget>,
}

struct ByteBudget {
    limiter: Limiter,
    restores_waiting: AtomicUsize,
}

/// The right to have one transfer under way.
pub(super) struct Permit<'a> {
    _request: Option<SemaphorePermit<'a>>,
    _behind: Option<SemaphorePermit<'a>>,
}

impl Limits {
    pub(super) fn new(options: &TransferOptions) -> Self {
        let requests = options.requests_max.max(2);
        let kept_for_restores = (requests / 4).max(1);
        Limits {
            requests: Semaphore::new(requests),
            behind: Semaphore::new(requests - kept_for_restores),
            bytes: options.bytes_per_second.map(ByteBudget::new),
        }
    }

    /// Waits until a transfer of `bytes` may begin. Cancel-safe.
    pub(super) async fn admit(&self, lane: Lane, bytes: u64) -> Permit<'_> {
        // The semaphores are never closed, so that acquiring does not fail.
        let behind = match lane {
            Lane::Restore => None,
            Lane::Snapshot | Lane::Check => self.behind.acquire().await.ok(),
        };
        let request = self.requests.acquire().await.ok();
        if let Some(budget) = &self.bytes {
            budget.spend(lane, bytes).await;
        }
        Permit {
            _request: request,
            _behind: behind,
        }
    }
}

impl ByteBudget {
    fn new(bytes_per_second: u64) -> Self {
        let units = u32::try_from(bytes_per_second.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        let per_second = NonZeroU32::new(units).unwrap_or(NonZeroU32::MIN);
        let burst = NonZeroU32::new(BURST_UNITS).unwrap_or(NonZeroU32::MIN);
        ByteBudget {
            limiter: RateLimiter::direct_with_clock(
                Quota::per_second(per_second).allow_burst(burst),
                RuntimeClock(Instant::now()),
            ),
            restores_waiting: AtomicUsize::new(0),
        }
    }

    async fn spend(&self, lane: Lane, bytes: u64) {
        let mut units = bytes.div_ceil(UNIT_BYTES);
        while units > 0 {
            let share = units.min(u64::from(BURST_UNITS));
            if let Some(share) = u32::try_from(share).ok().and_then(NonZeroU32::new) {
                self.spend_share(lane, share).await;
            }
            units -= share;
        }
    }

    async fn spend_share(&self, lane: Lane, units: NonZeroU32) {
        let _waiting = (lane == Lane::Restore).then(|| Waiting::of(&self.restores_waiting));
        loop {
            if lane != Lane::Restore && self.restores_waiting.load(Ordering::Relaxed) > 0 {
                tokio::time::sleep(STAND_BACK).await;
                continue;
            }
            match self.limiter.check_n(units) {
                // A share is never above the burst, so there always is a time at which it fits.
                Ok(Ok(())) | Err(_) => return,
                Ok(Err(not_before)) => {
                    tokio::time::sleep(not_before.wait_time_from(self.limiter.clock().now())).await;
                }
            }
        }
    }
}

/// Counts a restore that waits, until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn of(counter: &'a AtomicUsize) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Waiting(counter)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The time of the runtime, which is simulated in simulations.
#[derive(Clone)]
struct RuntimeClock(Instant);

impl Clock for RuntimeClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.elapsed().into()
    }
}
