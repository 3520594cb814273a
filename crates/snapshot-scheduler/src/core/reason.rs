//! Why the admin did, or did not do, something: the words shared by status, metrics and the operator guide.

use snapshot_store::{Lsn, core::HoldReason};
use std::fmt;

macro_rules! words {
    ($(#[$outer:meta])* $name:ident { $($(#[doc = $doc:literal])+ $variant:ident = $label:literal, $remedy:literal;)* }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[doc = $doc])+ $variant,)* }

        impl $name {
            /// Every value.
            pub const ALL: &[$name] = &[$($name::$variant,)*];

            /// Returns the word used in status, metrics and JSON.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $label,)* }
            }

            /// Returns what it means, as this page of the code says it.
            pub const fn meaning(self) -> &'static str {
                match self { $($name::$variant => concat!($($doc),+).trim_ascii(),)* }
            }

            /// Returns one sentence that says what to do; empty when nothing is to be done.
            pub const fn remedy(self) -> &'static str {
                match self { $($name::$variant => $remedy,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// Why a snapshot was asked for.
    SnapshotCause {
        /// Enough records since the latest one.
        Records = "records", "";
        /// Enough bytes since the latest one.
        Bytes = "bytes", "";
        /// A restorable snapshot is damaged.
        Repair = "repair", "";
        /// The log was trimmed and the pointer is gone.
        PointerMissing = "pointer-missing", "";
        /// An operator asked.
        Manual = "manual", "";
    }
}

words! {
    /// Why a snapshot is checked by a worker.
    VerifyCause {
        /// A trim demands it.
        Trim = "trim", "";
        /// A worker found it damaged.
        Report = "report", "";
        /// It was read long ago.
        Audit = "audit", "";
    }
}

words! {
    /// What a look at a partition's snapshots, or the reading of one of them, came to.
    AuditResult {
        /// Everything is as it should be.
        Sound = "sound", "";
        /// A snapshot is incomplete or changed.
        Damaged = "damaged", "";
        /// The pointer is gone, unreadable or not ours, or a manifest is of another cluster or a newer version.
        Untrusted = "untrusted", "";
        /// The store, or the worker, did not say.
        Failed = "failed", "";
    }
}

words! {
    /// What became of the question whether a partition needs a snapshot.
    SnapshotCode {
        /// One is asked for now.
        Ordered = "ordered", "";
        /// Too little was appended since the latest one.
        NotDue = "not-due", "";
        /// One is being made.
        Running = "running", "";
        /// Another admin acts, or this one could not find out whether one does.
        Standby = "standby", "ask the active admin; `tidemark status` says which one that is";
        /// An operator paused the partition or the cluster.
        Paused = "paused", "`tidemark resume` when ready";
        /// The control state cannot be read, so a pause may be in force.
        ControlUnreadable = "control-unreadable", "restore admin/control.json or access to it";
        /// A sticky hold keeps the evidence as it is.
        Held = "held", "see the trim hold of the partition and its runbook";
        /// The pointer was not read yet.
        ArchiveUnknown = "archive-unknown", "";
        /// The pointer cannot be read or is not ours.
        ArchiveUnreadable = "archive-unreadable", "look at the object the message names";
        /// The log has not answered yet, or does not exist.
        LogUnavailable = "log-unavailable", "start the log server or check its address";
        /// The snapshots are not of the log's incarnation or an older one.
        IncarnationMismatch = "incarnation-mismatch", "check the log's address and data folder";
        /// No replica is live and active.
        NoLiveReplica = "no-live-replica", "start the workers that host the partition";
        /// The reports do not show a fresh non-leader yet.
        FollowersBehind = "followers-behind", "";
        /// All fresh non-leaders are busy or failing; the leader is asked if that lasts.
        FollowersBusy = "followers-busy", "";
        /// Not even the leader can be asked now.
        NoCandidate = "no-candidate", "see the errors of the nodes that host the partition";
        /// The cluster makes as many snapshots as it may.
        ClusterBusy = "cluster-busy", "";
        /// A record must be appended first, so that the next snapshot is above the damaged one.
        NeedsRecord = "needs-record", "";
        /// The admin only shows what it would do.
        DryRun = "dry-run", "set `dry_run = false` to let it act";
    }
}

words! {
    /// What became of the question who leads a partition.
    LeadershipCode {
        /// The leader is live.
        Led = "led", "";
        /// A node is asked to lead now.
        Assigned = "assigned", "";
        /// A node was asked a moment ago.
        Waiting = "waiting", "";
        /// Another admin acts, or this one could not find out whether one does.
        Standby = "standby", "";
        /// The admin only shows whom it would ask.
        DryRun = "dry-run", "set `dry_run = false` to let it act";
        /// Assignment is a host's business here.
        Off = "off", "";
        /// The admin has not heard from all expected workers since it started.
        ViewWarming = "view-warming", "";
        /// The log lost records: nobody may lead.
        Held = "held", "see the trim hold of the partition and its runbook";
        /// No replica is live and active.
        NoCandidate = "no-candidate", "start the workers that host the partition";
    }
}

words! {
    /// What is the matter with a partition as a whole.
    Condition {
        /// All expected replicas are live and active, one leads, and nothing but the ordinary holds the log.
        Healthy = "healthy", "";
        /// Some expected replica is not live, or not active yet.
        Degraded = "degraded", "start the workers that host the partition, or look at why they are blocked";
        /// No live node leads it.
        Leaderless = "leaderless", "see its leadership in `tidemark explain`";
        /// Its log is held for a reason that asks for somebody.
        Held = "held", "see the trim hold of the partition and its runbook";
        /// No replica is live.
        Down = "down", "start the workers that host the partition";
        /// The log or the pointer is not known yet.
        Unknown = "unknown", "";
    }
}

words! {
    /// Whether this admin acts.
    LeaseCode {
        /// It has the lease.
        Active = "active", "";
        /// It has the lease and cannot renew it, because the store does not answer; it goes on.
        Unconfirmed = "unconfirmed", "check the store's URL, credentials and network";
        /// Another admin has the lease.
        Standby = "standby", "";
        /// The lease is to be read, or renewed, first.
        Pending = "pending", "if it lasts, check the store's URL, credentials and network";
        /// The lease cannot be used; this admin does nothing.
        Unusable = "unusable", "repair access to admin/lease.json, or put the object aside: it is made anew";
        /// No lease is used; every admin acts.
        Off = "off", "";
        /// The policy says `dry_run`: it decides and says what it would do, and leaves the lease to others.
        DryRun = "dry-run", "set `dry_run = false` to let it act";
    }
}

impl LeaseCode {
    /// Returns whether the admin acts.
    pub const fn acts(self) -> bool {
        match self {
            LeaseCode::Active | LeaseCode::Unconfirmed | LeaseCode::Off => true,
            LeaseCode::Standby | LeaseCode::Pending | LeaseCode::Unusable | LeaseCode::DryRun => false,
        }
    }
}

words! {
    /// Why the lease is taken, renewed, given up or left alone.
    LeaseReason {
        /// There is none.
        Vacant = "vacant", "";
        /// Its holder gave it up.
        GivenUp = "given-up", "";
        /// A former process of this node left it behind.
        FormerProcess = "former-process", "";
        /// Its holder did not renew it for its whole term.
        Expired = "expired", "";
        /// It is ours, and a part of its term has passed.
        RenewalDue = "renewal-due", "";
        /// It is ours, and was renewed a moment ago.
        Fresh = "fresh", "";
        /// Another admin has it.
        HeldByOther = "held-by-other", "";
        /// This admin stops.
        Stopping = "stopping", "";
        /// This admin only shows what it would do.
        DryRun = "dry-run", "";
    }
}

/// A decision in words, with the values it was made on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// A stable word.
    pub code: &'static str,
    /// What was seen.
    pub detail: String,
    /// What to do about it; empty when nothing is to be done.
    pub remedy: &'static str,
}

/// What trimming a partition came to last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrimStatus {
    /// It was not looked at yet.
    Pending,
    /// The log is left alone.
    Held {
        /// Why.
        reason: HoldReason,
        /// What was seen.
        detail: String,
    },
    /// The log was trimmed.
    Trimmed {
        /// Trim point now in force.
        trim_point: Lsn,
        /// What was binding.
        detail: String,
    },
    /// A step failed after the decision; it is tried again.
    Failed {
        /// What happened.
        detail: String,
    },
}

impl TrimStatus {
    /// Returns the decision in words.
    pub fn reason(&self) -> Reason {
        match self {
            TrimStatus::Pending => Reason {
                code: "pending",
                detail: String::new(),
                remedy: "",
            },
            TrimStatus::Held { reason, detail } => Reason {
                code: reason.as_str(),
                detail: detail.clone(),
                remedy: reason.remedy(),
            },
            TrimStatus::Trimmed { detail, .. } => Reason {
                code: "trimmed",
                detail: detail.clone(),
                remedy: "",
            },
            TrimStatus::Failed { detail } => Reason {
                code: "failed",
                detail: detail.clone(),
                remedy: "it is tried again; check the log server and the store if it lasts",
            },
        }
    }
}
