//! The stored formats, pinned: a reader of any later version must understand these files, and this version must
//! write exactly these bytes. A changed file here is a new format number.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::*;
use serde_json::{Value, json};
use snapshot_store::{
    AdminSession, ChainHash, ContentHash, LeaderEpoch, Leadership, Lsn, PartitionId, ReplicaRole, RequestId,
    StateDigest,
    format::{
        Certificate, ChainPoint, ChainTrail, ClusterRecord, Control, FormatError, KeyHash, KeyRange, Keys,
        Lease, LeaseEpoch, Manifest, ManifestFile, Origin, Pause, PauseScope, Pointer, Producer,
        SnapshotDirectory, StateMachineVersion, StickyHold, StickyReason, Stored, Unknown,
    },
};
use std::path::Path;

fn golden(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    std::fs::read(folder.join(name)).unwrap_or_default()
}

fn check<T: Stored + PartialEq + std::fmt::Debug>(name: &str, value: &T) {
    let golden = String::from_utf8(golden(name)).unwrap();
    let written = String::from_utf8(value.encode()).unwrap();
    assert_eq!(
        written, golden,
        "{name}: this version writes other bytes than the golden file holds"
    );
    assert_eq!(&T::decode(name, golden.as_bytes()).unwrap(), value, "{name}");

    // A newer number is refused by name; a field that a later version added is kept and written back.
    let format = format!("\"format\": {}", T::FORMAT);
    let newer = golden.replacen(&format, "\"format\": 99", 1);
    let refused = T::decode(name, newer.as_bytes()).unwrap_err();
    assert!(matches!(refused, FormatError::Newer { found: 99, .. }), "{name}");
    let text = refused.to_string();
    for said in [name, "99", T::WHAT] {
        assert!(text.contains(said), "{text}");
    }
    let extended = golden.replacen(&format, &format!("{format},\n  \"zz_later\": [1]"), 1);
    let read = T::decode(name, extended.as_bytes()).unwrap();
    assert_ne!(&read, value, "{name}: the unknown field is gone");
    let written = String::from_utf8(read.encode()).unwrap();
    assert!(written.contains("\"zz_later\": ["), "{name}: {written}");
    assert_eq!(T::decode(name, written.as_bytes()).unwrap(), read, "{name}");
    for broken in [
        &golden.replacen(&format, "\"colour\": 1", 1),
        &golden[..golden.len() / 2],
        "",
    ] {
        let refused = T::decode(name, broken.as_bytes());
        assert!(
            matches!(refused, Err(FormatError::Unparsable { .. })),
            "{name}: {refused:?}"
        );
    }
}

#[test]
fn cluster_identity_keeps_its_form() {
    let incarnations = (0..2).map(|p| (PartitionId::new(p), incarnation(1))).collect();
    check(
        "cluster.json",
        &ClusterRecord {
            cluster: cluster(),
            partitions: 2,
            key_hash: KeyHash::Blake3Mod,
            incarnations,
            created_at: at(0),
            forked_from: None,
            unknown: Unknown::default(),
        },
    );
}

#[test]
fn the_marks_of_copies_keep_their_form() {
    let incarnations = [(P0, incarnation(2))].into();
    let fork = ClusterRecord {
        cluster: cluster(),
        partitions: 1,
        key_hash: KeyHash::Blake3Mod,
        incarnations,
        created_at: at(0),
        forked_from: Some(other_cluster()),
        unknown: Unknown::default(),
    };
    check("cluster-fork.json", &fork);
    let mut sealed = Control::empty(cluster(), write_id(3));
    sealed.pauses.push(Pause {
        scope: PauseScope::Cluster,
        by: "ops".to_owned(),
        at: at(1),
        reason: "moved to s3://new/place".to_owned(),
        moved_to: Some("s3://new/place".to_owned()),
        unknown: Unknown::default(),
    });
    check("control-sealed.json", &sealed);
}

#[test]
fn pointer_keeps_its_form() {
    let mut pointer: Pointer = pointer(vec![entry(800), entry(500)]);
    pointer.snapshots[0].role = ReplicaRole::Leader;
    check("latest.json", &pointer);
}

#[test]
fn certificate_keeps_its_form() {
    check("trim.json", &certificate(500, &[entry(800), entry(500)]));
}

#[test]
fn control_state_keeps_its_form() {
    check("control-empty.json", &Control::empty(cluster(), write_id(1)));
    let pause = |scope| Pause {
        scope,
        by: "ops".to_owned(),
        at: at(1),
        reason: "migration".to_owned(),
        moved_to: None,
        unknown: Unknown::default(),
    };
    let hold = |reason| StickyHold {
        partition: P0,
        reason,
        since: at(2),
        detail: "seen at 7".to_owned(),
        unknown: Unknown::default(),
    };
    check(
        "control.json",
        &Control {
            cluster: cluster(),
            write_id: write_id(2),
            pauses: vec![
                pause(PauseScope::Cluster),
                pause(PauseScope::Partition(PartitionId::new(1))),
            ],
            holds: vec![
                hold(StickyReason::ChainMismatch),
                hold(StickyReason::LogRegressed),
                hold(StickyReason::DamagedSnapshot),
            ],
            unknown: Unknown::default(),
        },
    );
}

#[test]
fn lease_keeps_its_form() {
    let held = Lease {
        cluster: cluster(),
        write_id: write_id(4),
        epoch: LeaseEpoch::new(3),
        holder: node("admin-1"),
        session: AdminSession::new(ulid(5)),
        address: Some("http://10.0.0.7:7400".to_owned()),
        acquired_at: at(0),
        renewed_at: at(6_000),
        expires_at: at(16_000),
        given_up: false,
        unknown: Unknown::default(),
    };
    check("lease.json", &held);
    let given_up = Lease {
        address: None,
        expires_at: held.renewed_at,
        given_up: true,
        ..held
    };
    check("lease-given-up.json", &given_up);
}

#[test]
fn objects_from_before_there_were_copies_are_read() {
    let old = Pointer::decode("latest", &golden("latest-before-copies.json")).unwrap();
    assert!(old.snapshots.iter().all(|entry| entry.bytes_copied == 0));
    let old = Manifest::decode("metadata", &golden("metadata-before-copies.json")).unwrap();
    assert!(old.bytes_copied == 0 && old.files.iter().all(|file| file.copies == 0));
}

/// Puts a field that a later version might have added into every member of the document's lists, and of the lists in it.
fn extend_members(value: &mut Value) -> usize {
    let Value::Object(object) = value else { return 0 };
    let mut extended = 0;
    for (name, list) in object.iter_mut() {
        // Chain points are closed: they are compared as a whole.
        let Value::Array(members) = list else { continue };
        for member in members.iter_mut().filter(|_| name != "chain") {
            extended += 1 + extend_members(member);
            member["zz_later"] = json!({"of": ["a later", "version"]});
        }
    }
    extended
}

fn members_keep_unknown_fields<T: Stored>(name: &str, expected: usize) {
    let mut value: Value = serde_json::from_slice(&golden(name)).unwrap();
    assert_eq!(extend_members(&mut value), expected, "{name}");
    let read = T::decode(name, &serde_json::to_vec(&value).unwrap()).unwrap();
    let written: Value = serde_json::from_slice(&read.encode()).unwrap();
    assert_eq!(written, value, "{name}");
}

#[test]
fn unknown_fields_in_the_members_of_lists_survive_a_rewrite() {
    members_keep_unknown_fields::<Pointer>("latest.json", 4);
    members_keep_unknown_fields::<Certificate>("trim.json", 2);
    members_keep_unknown_fields::<Control>("control.json", 5);
    members_keep_unknown_fields::<Manifest>("metadata.json", 1);
}

#[test]
fn small_values_are_closed() {
    for (name, key) in [("latest.json", "cluster"), ("metadata.json", "producer")] {
        let mut value: Value = serde_json::from_slice(&golden(name)).unwrap();
        value[key]["zz_later"] = json!(1);
        let bytes = serde_json::to_vec(&value).unwrap();
        let refused = match name {
            "latest.json" => Pointer::decode(name, &bytes).map(drop),
            _ => Manifest::decode(name, &bytes).map(drop),
        };
        assert!(
            matches!(refused, Err(FormatError::Unparsable { .. })),
            "{name}: {refused:?}"
        );
    }
}

#[test]
fn facts_that_a_host_does_not_keep_may_be_null_or_left_out() {
    let mut value: Value = serde_json::from_slice(&golden("metadata-minimal.json")).unwrap();
    let object = value.as_object_mut().unwrap();
    for key in ["chain", "state_digest", "leader", "request_id", "origin"] {
        assert_eq!(object.remove(key), Some(Value::Null), "{key} is written as null");
    }
    let read = Manifest::decode("metadata", &serde_json::to_vec(&value).unwrap()).unwrap();
    assert_eq!(read, manifest());
}

fn manifest() -> Manifest {
    Manifest {
        cluster: cluster(),
        partition: P0,
        incarnation: incarnation(1),
        snapshot_id: snapshot_id(800),
        lsn: Lsn::new(800),
        chain: None,
        state_digest: None,
        leader: None,
        log_bytes: 80_000,
        state_machine: StateMachineVersion {
            name: "kv".to_owned(),
            version: 1,
        },
        key_range: KeyRange { partition: 0, of: 2 },
        producer: Producer {
            node: node("worker-1"),
            role: ReplicaRole::Follower,
        },
        request_id: None,
        origin: None,
        created_at: at(800),
        bytes_total: 12,
        bytes_uploaded: 12,
        bytes_copied: 0,
        files: vec![ManifestFile {
            name: "000007.sst".to_owned(),
            bytes: 12,
            hash: ContentHash::of(b"some content"),
            copies: 0,
            unknown: Unknown::default(),
        }],
        unknown: Unknown::default(),
    }
}

#[test]
fn manifest_keeps_its_form() {
    check("metadata-minimal.json", &manifest());
    let point = |lsn| ChainPoint {
        lsn: Lsn::new(lsn),
        hash: ChainHash::of(b"chain"),
    };
    check(
        "metadata.json",
        &Manifest {
            chain: Some(ChainTrail(vec![point(800), point(0)])),
            state_digest: Some(StateDigest::of(b"state")),
            leader: Some(Leadership {
                epoch: LeaderEpoch::new(3),
                node: node("worker-2"),
            }),
            request_id: Some(RequestId::new(ulid(77))),
            origin: Some(Origin {
                cluster: other_cluster(),
                incarnation: incarnation(4),
                snapshot_id: snapshot_id(66),
            }),
            ..manifest()
        },
    );
}

#[test]
fn keys_keep_their_form() {
    let directory = entry(800).path;
    assert_eq!(
        directory.to_string(),
        "0000000001-00000000000000000800_000000000000000000000000S0"
    );
    assert_eq!(Keys::pointer(P0), "0/latest.json");
    assert_eq!(Keys::certificate(P0), "0/trim.json");
    assert_eq!(
        Keys::manifest(P0, &directory),
        format!("0/{directory}/metadata.json")
    );
    assert_eq!(
        Keys::file(P0, &directory, "CURRENT"),
        format!("0/{directory}/CURRENT")
    );
    assert_eq!(directory.to_string().parse(), Ok(directory));
}

#[test]
fn names_that_are_merely_similar_are_not_snapshot_directories() {
    let good = entry(800).path.to_string();
    let long = "99999999999-00000000000000000800_000000000000000000000000S0";
    assert!(
        long.parse::<SnapshotDirectory>().is_ok(),
        "a generation above ten digits is still printed the same"
    );
    for name in [
        "",
        "1-800_000000000000000000000000S0",
        &good.to_lowercase(),
        &good[1..],
        &format!("{good}x"),
        &format!("{good}.bak"),
        &format!(" {good}"),
        &good.replace('_', "-"),
        "+000000001-00000000000000000800_000000000000000000000000S0",
    ] {
        assert!(name.parse::<SnapshotDirectory>().is_err(), "{name:?}");
    }
}
