//! What a seed stands for: the size of the cluster, and which faults it meets.
//!
//! Each seed switches whole classes of faults on or off: with all of them at once the loud ones hide the rare ones.

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use std::{collections::BTreeSet, ops::Range};

macro_rules! fault_classes {
    ($($(#[$doc:meta])* $variant:ident => $word:literal,)*) => {
        /// A kind of fault that a storm may bring.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum FaultClass { $($(#[$doc])* $variant,)* }

        impl FaultClass {
            /// Every class.
            pub const ALL: &[FaultClass] = &[$(FaultClass::$variant,)*];

            /// Returns its word in the trace and in the counters.
            pub const fn as_str(self) -> &'static str {
                match self { $(FaultClass::$variant => $word,)* }
            }
        }
    };
}

fault_classes! {
    /// A node stops between two of its steps, loses what it had not flushed, and starts again.
    Crash => "crash",
    /// The same, and its disk is empty afterwards.
    Wipe => "wipe",
    /// A node stops while one of its requests to the store is under way, before or after it took effect.
    CrashAtRequest => "crash-at-request",
    /// Two nodes do not hear each other; what they sent meanwhile is delivered afterwards.
    Cut => "cut",
    /// The same, and what they sent is lost with the connection.
    CutLossy => "cut-lossy",
    /// One node does not hear another, which hears it.
    CutOneWay => "cut-one-way",
    /// Messages between two nodes take long.
    Slow => "slow-link",
    /// An append does not take place, and is answered by "unavailable" or not at all.
    AppendLost => "append-lost",
    /// An append takes place, and its answer is lost.
    AppendUnknown => "append-unknown",
    /// An append takes place after its caller was told that its fate is unknown.
    AppendLate => "append-late",
    /// Reading the log, or asking about it, fails.
    LogReadFails => "log-read-fails",
    /// A trim takes place long after its caller gave it up.
    TrimLate => "trim-late",
    /// A trim takes place, and again later.
    TrimTwice => "trim-twice",
    /// A request to the store fails and had no effect.
    StoreBefore => "store-before",
    /// A request to the store fails and had its effect.
    StoreAfter => "store-after",
    /// A put lands after its caller was told that it failed.
    StoreLate => "store-late",
    /// A request to the store takes seconds.
    StoreSlow => "store-slow",
    /// A node does not reach the store for a while.
    StoreOutage => "store-outage",
    /// One byte of a stored file flips.
    Flip => "flip",
    /// A lifecycle rule deletes files of one restorable snapshot.
    Lifecycle => "lifecycle",
    /// The clocks of the nodes differ by up to a minute.
    Skew => "skew",
    /// A node stops while one of its requests to the log is under way, or in the middle of its work on its disk.
    CrashAtStep => "crash-at-step",
    /// A node hears nothing, says nothing and gets no answers for seconds; its clock stands still, and leaps afterwards.
    Pause => "pause",
    /// A call arrives twice, the second time late.
    RpcTwice => "rpc-twice",
    /// A call arrives after later ones, also after its caller gave up.
    RpcLate => "rpc-late",
    /// Data files are read so slowly that a restore takes longer than the next snapshot.
    RestoreSlow => "restore-slow",
    /// An answer of the store ends early, with an error or as if that were all.
    StoreTruncated => "store-truncated",
    /// A pointer is read as it was before its latest change.
    StoreStale => "store-stale",
    /// A file has several parts, which are slow, fail, or take effect without an answer.
    Multipart => "multipart",
    /// Somebody deletes a pointer.
    PointerDeleted => "pointer-deleted",
    /// The pointer of another cluster takes the place of a pointer, and is taken away after the storm.
    PointerForeign => "pointer-foreign",
    /// A log is lost and provisioned anew, under the next generation or wrongly under the same.
    LogRecreated => "log-recreated",
    /// A log loses its newest records.
    LogRegressed => "log-regressed",
    /// An operator pauses the cluster or a partition, and resumes it.
    Operator => "operator",
    /// Admins only show what they would do, in some of their lives.
    DryRun => "dry-run",
    /// Workers are updated to a newer state machine, one after the other.
    Upgrade => "upgrade",
}

/// What a seed stands for.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// Number of admins.
    pub admins: usize,
    /// Whether admins use a lease; without one each of them believes to be the one that acts.
    pub lease: bool,
    /// Number of workers.
    pub workers: usize,
    /// Number of partitions.
    pub partitions: u32,
    /// Records after which a snapshot is due.
    pub snapshot_after_records: u64,
    /// Whether the admin deletes snapshots that nothing depends on.
    pub prune: bool,
    /// Whether snapshots are opened by a worker before a trim rests on them.
    pub restore_checks: bool,
    /// Whether uploads copy what an earlier snapshot holds.
    pub incremental: bool,
    /// Records a live replica may lie below the guard before it no longer holds the trim.
    pub held_records_max: u64,
    /// Milliseconds of one step of the simulation; a divisor of 100.
    ///
    /// Within a step one node after the other runs, each of them as if it were alone, and messages arrive between steps.
    pub tick_ms: u64,
    /// Milliseconds a snapshot must have been published before a trim may rest on it.
    pub trim_delay_ms: u64,
    /// The classes of faults that are on.
    pub faults: BTreeSet<FaultClass>,
}

/// Draws how long a step is. Each costs real time, whether or not anything happens in it: short ones, which order events
/// finely, are for few seeds.
fn draw_tick_ms(rng: &mut StdRng) -> u64 {
    match rng.random_range(0..100) {
        0..2 => 1,
        2..22 => 5,
        22..72 => 10,
        _ => 20,
    }
}

impl Plan {
    /// Draws the plan of a seed.
    pub fn of_seed(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x7469_6465);
        // Some seeds are nearly quiet, so that single classes are seen alone.
        let density = *[0.1, 0.35, 0.35, 0.7].choose(&mut rng).unwrap_or(&0.35);
        let faults = FaultClass::ALL.iter().copied();
        let faults = faults.filter(|_| rng.random_bool(density)).collect();
        let mut rng = StdRng::seed_from_u64(seed ^ 0x6d61_726b);
        Plan {
            seed,
            admins: if rng.random_bool(0.8) { 2 } else { 1 },
            lease: rng.random_bool(0.6),
            workers: rng.random_range(3..=5),
            partitions: *[4, 4, 6, 8, 16].choose(&mut rng).unwrap_or(&4),
            snapshot_after_records: rng.random_range(8..=30),
            prune: rng.random_bool(0.6),
            restore_checks: rng.random_bool(0.2),
            incremental: rng.random_bool(0.7),
            held_records_max: if rng.random_bool(0.6) { 10 } else { 1_000_000 },
            tick_ms: draw_tick_ms(&mut rng),
            trim_delay_ms: if rng.random_bool(0.2) { 5000 } else { 0 },
            faults,
        }
    }

    /// Returns whether a class of faults is on.
    pub fn has(&self, class: FaultClass) -> bool {
        self.faults.contains(&class)
    }

    /// Returns how long a request to the store is on its way, in milliseconds: often longer than a step, so that what a node
    /// does in several requests is seen by others in between.
    pub fn store_lag_ms(&self) -> Range<u64> {
        1..15.max(2 * self.tick_ms)
    }

    /// Returns how long a message between two nodes takes at most, in milliseconds, unless their link is slow.
    pub fn message_latency_ms_max(&self) -> u64 {
        20.max(2 * self.tick_ms)
    }

    /// Returns the names of the admins.
    pub fn admin_names(&self) -> Vec<String> {
        (1..=self.admins)
            .map(|number| format!("admin-{number}"))
            .collect()
    }

    /// Returns the names of the workers.
    pub fn worker_names(&self) -> Vec<String> {
        (1..=self.workers)
            .map(|number| format!("worker-{number}"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_of_faults_is_on_in_some_seeds_and_off_in_others() {
        let plans: Vec<Plan> = (1..=150).map(Plan::of_seed).collect();
        for class in FaultClass::ALL {
            let on = plans.iter().filter(|plan| plan.has(*class)).count();
            assert!((20..=130).contains(&on), "{class:?} is on in {on} of 150");
        }
        assert!(plans.iter().any(|plan| plan.admins == 2 && !plan.lease));
        for tick_ms in [1, 5, 10, 20] {
            assert!(
                plans.iter().any(|plan| plan.tick_ms == tick_ms),
                "no seed has steps of {tick_ms} ms"
            );
        }
    }
}
