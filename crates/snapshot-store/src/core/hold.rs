//! Why the admin leaves a log alone.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! hold_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $label:literal, $remedy:literal;)*) => {
        /// Why a log is not trimmed now. Each has a metric label and an entry in the operator guide.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum HoldReason { $($(#[doc = $doc])+ $variant,)* }

        impl HoldReason {
            /// Every reason, in the order of the operator guide.
            pub const ALL: &[HoldReason] = &[$(HoldReason::$variant,)*];

            /// Returns the name used in status, metrics, JSON and the operator guide.
            pub const fn as_str(self) -> &'static str {
                match self { $(HoldReason::$variant => $label,)* }
            }

            /// Returns what it means, as this page of the code says it.
            pub const fn meaning(self) -> &'static str {
                match self { $(HoldReason::$variant => concat!($($doc),+).trim_ascii(),)* }
            }

            /// Returns one sentence that says what to do, or that nothing is to be done.
            pub const fn remedy(self) -> &'static str {
                match self { $(HoldReason::$variant => $remedy,)* }
            }
        }
    };
}

hold_reasons! {
    /// There is nothing new to trim: all that may go is gone.
    NothingToTrim = "nothing-to-trim", "nothing to do: the log is trimmed as far as the rule allows";
    /// Fewer restorable snapshots of this incarnation than `restorable_snapshots_min`.
    TooFewSnapshots = "too-few-snapshots", "wait for the next snapshots, or create one with `tidemark snapshots create`";
    /// A restorable snapshot was not verified at the demanded level yet.
    UnverifiedSnapshot = "unverified-snapshot", "wait: a worker is checking the snapshot; if it lasts, see `tidemark explain`";
    /// A restorable snapshot is damaged; it is not skipped.
    DamagedSnapshot = "damaged-snapshot", "new snapshots are ordered by themselves; check the store with `tidemark snapshots verify`";
    /// A stored object belongs to another cluster or partition.
    ForeignIdentity = "foreign-identity", "two clusters share a prefix: give this cluster its own store URL";
    /// No pointer although the log was trimmed or a certificate exists.
    PointerMissing = "pointer-missing", "find out who deleted latest.json; a new snapshot above the trim point heals it";
    /// The pointer or the certificate cannot be read.
    PointerUnreadable = "pointer-unreadable", "look at the object the message names: restore it or repair access; it is never overwritten";
    /// The pointer speaks of a newer or conflicting life of the log.
    IncarnationMismatch = "incarnation-mismatch", "the log is not the one the snapshots were made from: check the log's address and data folder";
    /// A snapshot or replica is above the tail, or a replica found another record where it stands: the log lost records.
    LogRegressed = "log-regressed", "stop writers and restore the log, or see the runbook for a lost log; nothing is trimmed meanwhile";
    /// Replicas or snapshots differ at the same LSN.
    ChainMismatch = "chain-mismatch", "keep all data folders: replicas disagree; see the runbook before doing anything";
    /// The admin has not heard from all expected workers since it started.
    ViewWarming = "view-warming", "wait: the admin is still collecting status";
    /// What the admin knows is too old.
    StaleView = "stale-view", "check that the workers and the log server can be reached from the admin";
    /// No replica is live.
    NoLiveReplica = "no-live-replica", "start the workers that host the partition";
    /// A live replica still needs the records.
    ReplicaBehind = "replica-behind", "wait for the replica to catch up, or lower `held_records_max`";
    /// A replica runs a state machine that cannot read what would be left.
    VersionUnsupported = "version-unsupported", "update the replica's software";
    /// `trim_delay` has not passed yet.
    Delay = "delay", "nothing to do: `trim_delay` keeps the records a while longer";
    /// An operator paused the partition or the cluster.
    Paused = "paused", "`tidemark resume` when ready";
    /// `admin/control.json` is missing or cannot be read.
    ControlUnreadable = "control-unreadable", "restore admin/control.json or access to it; the admin obeys it and so waits";
    /// Another admin acts, or this one could not find out whether one does.
    Standby = "standby", "nothing to do: the active admin trims; `tidemark status` says which one that is";
    /// The admin only shows what it would do.
    DryRun = "dry-run", "set `dry_run = false` to let it act";
    /// The log did not answer.
    LogUnavailable = "log-unavailable", "start the log server or check its address";
    /// The object store did not answer.
    StoreUnavailable = "store-unavailable", "check the store's URL, credentials and network";
    /// Another admin wrote the certificate first.
    LostRace = "lost-race", "nothing to do: another admin was faster, the next tick looks again";
}

impl fmt::Display for HoldReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
