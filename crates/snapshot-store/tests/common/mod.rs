//! Plain values that most tests begin with.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use snapshot_store::{
    ClusterIdentity, ContentHash, Fingerprint, Incarnation, IncarnationId, Lsn, NodeId, PartitionId,
    ReplicaRole, SnapshotId, Timestamp, WriteId,
    format::{
        Certificate, CertifiedSnapshot, Pointer, PointerEntry, PublishedSnapshot, SnapshotDirectory, Unknown,
        VerifyLevel,
    },
};

pub(crate) const P0: PartitionId = PartitionId::new(0);

pub(crate) fn ulid(number: u128) -> ulid::Ulid {
    ulid::Ulid::from(number)
}

pub(crate) fn snapshot_id(number: u128) -> SnapshotId {
    SnapshotId::new(ulid(number))
}

pub(crate) fn write_id(number: u128) -> WriteId {
    WriteId::new(ulid(number))
}

pub(crate) fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

pub(crate) fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(1_760_000_000_000 + millis)
}

pub(crate) fn cluster() -> ClusterIdentity {
    ClusterIdentity {
        name: "shop".to_owned(),
        fingerprint: Fingerprint::from_bytes([0xc1; 16]),
    }
}

pub(crate) fn other_cluster() -> ClusterIdentity {
    ClusterIdentity {
        name: "shop".to_owned(),
        fingerprint: Fingerprint::from_bytes([0xee; 16]),
    }
}

pub(crate) fn incarnation(generation: u64) -> Incarnation {
    Incarnation {
        generation,
        id: IncarnationId::from_bytes([generation as u8; 16]),
    }
}

/// Same generation as `incarnation(1)`, another log.
pub(crate) fn rival_incarnation() -> Incarnation {
    Incarnation {
        generation: 1,
        id: IncarnationId::from_bytes([0x77; 16]),
    }
}

pub(crate) fn entry_of(incarnation: Incarnation, lsn: u64, id: u128) -> PointerEntry {
    let (lsn, snapshot_id) = (Lsn::new(lsn), snapshot_id(id));
    PointerEntry {
        snapshot_id,
        incarnation,
        lsn,
        path: SnapshotDirectory {
            generation: incarnation.generation,
            lsn,
            snapshot_id,
        },
        log_bytes: lsn.get() * 100,
        files: 2,
        bytes_total: 1_000,
        bytes_uploaded: 1_000,
        bytes_copied: 0,
        created_at: at(lsn.get()),
        node: node("worker-1"),
        role: ReplicaRole::Follower,
        manifest_hash: ContentHash::of(b"manifest"),
        unknown: Unknown::default(),
    }
}

/// A snapshot of the first generation whose id follows from its LSN.
pub(crate) fn entry(lsn: u64) -> PointerEntry {
    entry_of(incarnation(1), lsn, u128::from(lsn))
}

pub(crate) fn pointer(entries: Vec<PointerEntry>) -> Pointer {
    let published = |entry: &PointerEntry| PublishedSnapshot {
        snapshot_id: entry.snapshot_id,
        incarnation: entry.incarnation,
        lsn: entry.lsn,
        published_at: entry.created_at,
        unknown: Unknown::default(),
    };
    Pointer {
        cluster: cluster(),
        partition: P0,
        write_id: write_id(9),
        restorable_snapshots_min: 2,
        history: entries.iter().map(published).collect(),
        snapshots: entries,
        unknown: Unknown::default(),
    }
}

pub(crate) fn certified(entry: &PointerEntry) -> CertifiedSnapshot {
    CertifiedSnapshot {
        snapshot_id: entry.snapshot_id,
        lsn: entry.lsn,
        path: entry.path,
        manifest_hash: entry.manifest_hash,
        verified: VerifyLevel::Content,
        verified_by: node("worker-2"),
        verified_at: at(50),
        unknown: Unknown::default(),
    }
}

pub(crate) fn certificate(up_to: u64, entries: &[PointerEntry]) -> Certificate {
    Certificate {
        cluster: cluster(),
        partition: P0,
        incarnation: incarnation(1),
        write_id: write_id(8),
        up_to: Lsn::new(up_to),
        snapshots: entries.iter().map(certified).collect(),
        issued_by: node("admin-1"),
        issued_at: at(60),
        unknown: Unknown::default(),
    }
}
