//! The model's small numbers as the product's values, and the product's decisions asked with them.
//!
//! Nothing is decided here. A rule that a mutant breaks is left out or changed where the model asks, never here.

use snapshot_store::{
    ClusterIdentity, ContentHash, Fingerprint, Incarnation, IncarnationId, Lsn, NodeId, PartitionId,
    ReplicaRole, SnapshotId, Timestamp, WriteId,
    core::{
        DeleteFacts, DeleteScope, LogFacts, PointerCandidate, PointerFloor, ReplaceRefusal, ReplicaNeed,
        SnapshotTrust, TrimDecision, TrimFacts, TrimGrant, TrimRule, may_delete, may_replace_pointer,
        retained_after, trim_up_to,
    },
    format::{
        Certificate, CertifiedSnapshot, Pointer, PointerEntry, PublishedSnapshot, SnapshotDirectory, Unknown,
        VerifyLevel,
    },
};
use snapshot_worker::core::{self as worker, RestoreNeed, StartStep};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use ulid::Ulid;

const PARTITION: PartitionId = PartitionId::new(0);

/// One snapshot as pointer, certificate and directory name speak of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Entry {
    /// Generation of the log's incarnation; the model has one incarnation per generation.
    pub inc: u8,
    /// The LSN whose state it holds.
    pub lsn: u8,
    /// Its id, which is also the place of its objects.
    pub id: u8,
}

/// `latest.json`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Latest {
    /// What an ETag tells apart; never used twice.
    pub version: u8,
    /// Whether it belongs to another cluster.
    pub foreign: bool,
    /// Retained snapshots, newest first.
    pub entries: Vec<Entry>,
    /// Ids that were published, newest first.
    pub history: Vec<u8>,
}

impl Latest {
    /// Returns generation and LSN of the latest snapshot.
    pub fn position(&self) -> (u8, u8) {
        self.entries
            .first()
            .map_or((0, 0), |entry| (entry.inc, entry.lsn))
    }
}

/// `trim.json`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Certified {
    /// What an ETag tells apart.
    pub version: u8,
    /// The log it speaks of.
    pub inc: u8,
    /// Up to where the log may be trimmed.
    pub up_to: u8,
    /// What it rests on, newest first.
    pub entries: Vec<Entry>,
}

/// A log, as far as decisions look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogView {
    /// Generation of its incarnation.
    pub inc: u8,
    /// The LSN that it begins after; 0 for a log that continues none.
    pub base: u8,
    /// The last LSN written.
    pub last: u8,
    /// The highest LSN removed.
    pub trim: u8,
}

/// Permission to trim.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Grant {
    /// The log it is for.
    pub inc: u8,
    /// Up to where.
    pub up_to: u8,
    /// The snapshots it rests on.
    pub entries: Vec<Entry>,
    /// Whether the certificate in force covers it.
    pub certified: bool,
}

/// What a worker does next at its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Compare the record at the applied LSN, then read on.
    Compare,
    /// Read on; there is nothing to compare.
    ReadOn,
    /// Restore a snapshot.
    Restore,
    /// Set the state of an older log aside.
    SetAside,
    /// Wait for help.
    Blocked,
}

/// What was found out about a snapshot of the pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// Present, and its content is what the manifest says.
    Sound,
    /// Missing, incomplete or changed.
    Damaged,
}

/// Values that all questions share.
#[derive(Debug)]
pub struct Product {
    ours: ClusterIdentity,
    other: ClusterIdentity,
    node: NodeId,
}

impl Default for Product {
    fn default() -> Self {
        let cluster = |byte| ClusterIdentity {
            name: "model".to_owned(),
            fingerprint: Fingerprint::from_bytes([byte; 16]),
        };
        Product {
            ours: cluster(1),
            other: cluster(2),
            node: NodeId::new("n").expect("a letter names a node"),
        }
    }
}

fn incarnation(inc: u8) -> Incarnation {
    Incarnation {
        generation: u64::from(inc),
        id: IncarnationId::from_bytes([inc; 16]),
    }
}

fn lsn(lsn: u8) -> Lsn {
    Lsn::new(u64::from(lsn))
}

fn small(value: u64) -> u8 {
    u8::try_from(value).expect("all numbers of the model are small")
}

fn snapshot_id(id: u8) -> SnapshotId {
    SnapshotId::new(Ulid::from(u128::from(id)))
}

fn directory(entry: Entry) -> SnapshotDirectory {
    SnapshotDirectory {
        generation: u64::from(entry.inc),
        lsn: lsn(entry.lsn),
        snapshot_id: snapshot_id(entry.id),
    }
}

fn small_id(id: SnapshotId) -> u8 {
    u8::try_from(id.get().0).expect("all ids of the model are small")
}

fn back(entry: &PointerEntry) -> Entry {
    Entry {
        inc: small(entry.incarnation.generation),
        lsn: small(entry.lsn.get()),
        id: small_id(entry.snapshot_id),
    }
}

impl Product {
    fn entry(&self, entry: Entry) -> PointerEntry {
        PointerEntry {
            snapshot_id: snapshot_id(entry.id),
            incarnation: incarnation(entry.inc),
            lsn: lsn(entry.lsn),
            path: directory(entry),
            log_bytes: u64::from(entry.lsn),
            files: 1,
            bytes_total: 1,
            bytes_uploaded: 1,
            bytes_copied: 0,
            created_at: Timestamp::default(),
            node: self.node.clone(),
            role: ReplicaRole::Follower,
            manifest_hash: ContentHash::from_bytes([entry.id; 32]),
            unknown: Unknown::default(),
        }
    }

    fn pointer(&self, latest: &Latest) -> Pointer {
        let published = |id: &u8| PublishedSnapshot {
            snapshot_id: snapshot_id(*id),
            incarnation: incarnation(0),
            lsn: Lsn::ZERO,
            published_at: Timestamp::default(),
            unknown: Unknown::default(),
        };
        let cluster = if latest.foreign { &self.other } else { &self.ours };
        Pointer {
            cluster: cluster.clone(),
            partition: PARTITION,
            write_id: WriteId::new(Ulid::from(u128::from(latest.version))),
            restorable_snapshots_min: 1,
            snapshots: latest.entries.iter().map(|entry| self.entry(*entry)).collect(),
            history: latest.history.iter().map(published).collect(),
            unknown: Unknown::default(),
        }
    }

    fn certificate(&self, certified: &Certified) -> Certificate {
        let snapshot = |entry: &Entry| CertifiedSnapshot {
            snapshot_id: snapshot_id(entry.id),
            lsn: lsn(entry.lsn),
            path: directory(*entry),
            manifest_hash: ContentHash::from_bytes([entry.id; 32]),
            verified: VerifyLevel::Content,
            verified_by: self.node.clone(),
            verified_at: Timestamp::default(),
            unknown: Unknown::default(),
        };
        Certificate {
            cluster: self.ours.clone(),
            partition: PARTITION,
            incarnation: incarnation(certified.inc),
            write_id: WriteId::new(Ulid::from(u128::from(certified.version))),
            up_to: lsn(certified.up_to),
            snapshots: certified.entries.iter().map(snapshot).collect(),
            issued_by: self.node.clone(),
            issued_at: Timestamp::default(),
            unknown: Unknown::default(),
        }
    }

    /// Asks `may_replace_pointer`. `trimmed` is the log as the publisher knows it: generation and trim point.
    ///
    /// # Errors
    /// The product's refusal.
    pub fn may_replace(
        &self,
        current: Option<&Latest>,
        candidate: Entry,
        certificate: Option<&Certified>,
        trimmed: Option<(u8, u8)>,
    ) -> Result<(), ReplaceRefusal> {
        let current = current.map(|latest| self.pointer(latest));
        let certificate = certificate.map(|certified| self.certificate(certified));
        let candidate = PointerCandidate {
            cluster: &self.ours,
            partition: PARTITION,
            incarnation: incarnation(candidate.inc),
            lsn: lsn(candidate.lsn),
            snapshot_id: snapshot_id(candidate.id),
        };
        let floor = PointerFloor {
            certificate: certificate.as_ref(),
            trimmed: trimmed.map(|(inc, trim)| (incarnation(inc), lsn(trim))),
        };
        may_replace_pointer(current.as_ref(), &candidate, &floor)
    }

    /// Asks `retained_after`.
    pub fn retained(
        &self,
        current: Option<&Latest>,
        newest: Entry,
        certificate: Option<&Certified>,
        restorable_min: u8,
    ) -> Vec<Entry> {
        let current = current.map(|latest| self.pointer(latest));
        let certificate = certificate.map(|certified| self.certificate(certified));
        let newest = self.entry(newest);
        retained_after(
            current.as_ref(),
            newest,
            certificate.as_ref(),
            u32::from(restorable_min),
        )
        .iter()
        .map(back)
        .collect()
    }

    /// Asks `may_delete` for the sweep of the current generation.
    pub fn may_delete(&self, entry: Entry, latest: Option<&Latest>, certificate: Option<&Certified>) -> bool {
        let pointer = latest.map(|latest| self.pointer(latest));
        let certificate = certificate.map(|certified| self.certificate(certified));
        let facts = DeleteFacts {
            cluster: &self.ours,
            partition: PARTITION,
            pointer: pointer.as_ref(),
            certificate: certificate.as_ref(),
        };
        may_delete(&directory(entry), &facts, DeleteScope::CurrentGeneration).is_ok()
    }

    /// Asks `trim_up_to`. `needs` are the needed LSNs of the live replicas; `None` is a hold.
    pub fn trim_up_to(
        &self,
        log: LogView,
        latest: Option<&Latest>,
        certificate: Option<&Certified>,
        checked: &dyn Fn(Entry) -> Option<Checked>,
        needs: impl Iterator<Item = Option<u8>>,
        restorable_min: u8,
    ) -> Option<Grant> {
        let pointer = latest.map(|latest| self.pointer(latest));
        let certificate = certificate.map(|certified| self.certificate(certified));
        let mut trust = BTreeMap::new();
        for entry in latest.into_iter().flat_map(|latest| &latest.entries) {
            let word = match checked(*entry) {
                Some(Checked::Sound) => SnapshotTrust::Verified(VerifyLevel::Content),
                Some(Checked::Damaged) => SnapshotTrust::Damaged,
                None => continue,
            };
            trust.insert(snapshot_id(entry.id), word);
        }
        let replicas: Vec<ReplicaNeed> = needs
            .map(|need| ReplicaNeed {
                node: self.node.clone(),
                needed_lsn: need.map(lsn),
                log_bytes: None,
            })
            .collect();
        let facts = TrimFacts {
            cluster: &self.ours,
            partition: PARTITION,
            log: Some(LogFacts {
                incarnation: incarnation(log.inc),
                trim_point: lsn(log.trim),
                tail: lsn(log.last + 1),
            }),
            pointer: pointer.as_ref(),
            certificate: certificate.as_ref(),
            trust: &trust,
            replicas: &replicas,
            now: Timestamp::default(),
        };
        let rule = TrimRule {
            restorable_snapshots_min: u32::from(restorable_min),
            verify_before_trim: VerifyLevel::Content,
            retain_records: 0,
            held_records_max: u64::MAX,
            held_bytes_max: u64::MAX,
            trim_delay: Duration::ZERO,
            force: false,
        };
        match trim_up_to(&facts, &rule) {
            TrimDecision::Trim(grant) => Some(granted(&grant)),
            TrimDecision::Hold { .. } => None,
        }
    }

    /// Asks `restore_candidates`: what the pointer retains, then what only the certificate names. What must not be used at
    /// all gives none.
    pub fn candidates(
        &self,
        latest: Option<&Latest>,
        certificate: Option<&Certified>,
        log: LogView,
        applied: Option<u8>,
    ) -> Vec<Entry> {
        let pointer = latest.map(|latest| self.pointer(latest));
        let certificate = certificate.map(|certified| self.certificate(certified));
        let need = RestoreNeed {
            fingerprint: self.ours.fingerprint,
            partition: PARTITION,
            incarnation: incarnation(log.inc),
            trim_point: lsn(log.trim),
            applied_lsn: applied.map(lsn),
            damaged: &BTreeSet::new(),
        };
        let found = worker::restore_candidates(pointer.as_ref(), certificate.as_ref(), &need);
        let found = found.unwrap_or_default();
        let certified = found.certified.iter().map(|snapshot| Entry {
            inc: small(snapshot.path.generation),
            lsn: small(snapshot.lsn.get()),
            id: small_id(snapshot.snapshot_id),
        });
        found.entries.iter().map(back).chain(certified).collect()
    }
}

fn granted(grant: &TrimGrant) -> Grant {
    Grant {
        inc: small(grant.incarnation.generation),
        up_to: small(grant.up_to.get()),
        entries: grant.snapshots.iter().map(back).collect(),
        certified: grant.certified,
    }
}

fn worker_log(log: LogView) -> worker::LogFacts {
    worker::LogFacts {
        incarnation: incarnation(log.inc),
        first_lsn: lsn(log.base + 1),
        has_base: log.base > 0,
        base: None,
        trim_point: lsn(log.trim),
    }
}

/// Asks the worker's `next_step`; `local` is generation and applied LSN of its state.
pub fn next_step(local: Option<(u8, u8)>, log: LogView) -> Next {
    let local = local.map(|(inc, applied)| worker::LocalFacts {
        incarnation: incarnation(inc),
        applied_lsn: lsn(applied),
        regressed: false,
        hash_at_base: None,
    });
    match worker::next_step(local.as_ref(), &worker_log(log)) {
        StartStep::Compare { .. } => Next::Compare,
        StartStep::ReadFrom { .. } => Next::ReadOn,
        StartStep::Restore { .. } => Next::Restore,
        StartStep::SetAside { .. } => Next::SetAside,
        StartStep::Blocked { .. } => Next::Blocked,
    }
}

/// Asks the worker's `may_replay_from_first`.
pub fn may_replay_from_first(log: LogView) -> bool {
    worker::may_replay_from_first(&worker_log(log)).is_ok()
}
