//! The targets.

use bytes::Bytes;
use snapshot_store::{
    Lsn, NodeId, SnapshotId, Timestamp,
    core::{
        DeleteFacts, DeleteScope, LogFacts, PointerCandidate, PointerFloor, ReplicaNeed, SnapshotTrust,
        TrimDecision, TrimFacts, TrimRule, may_delete, may_replace_pointer, retained_after, trim_up_to,
    },
    format::{Certificate, Control, Manifest, Pointer, Stored, VerifyLevel},
};
use snapshot_worker::core::{Record, RestoreNeed, restore_candidates};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    time::Duration,
};
use tidemark::config::{AdminConfig, Fault, LogConfig, RoleConfig, WorkerConfig, parse};

/// Something that reads bytes from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// `latest.json`.
    Latest,
    /// `metadata.json`.
    Metadata,
    /// `trim.json`.
    Trim,
    /// `control.json`.
    Control,
    /// The envelope of a log record.
    Record,
    /// A configuration file, for every role.
    Config,
}

impl Target {
    /// Every target.
    pub const ALL: &[Target] = &[
        Target::Latest,
        Target::Metadata,
        Target::Trim,
        Target::Control,
        Target::Record,
        Target::Config,
    ];

    /// Returns its name, which is also that of its folder of inputs.
    pub const fn name(self) -> &'static str {
        match self {
            Target::Latest => "latest",
            Target::Metadata => "metadata",
            Target::Trim => "trim",
            Target::Control => "control",
            Target::Record => "record",
            Target::Config => "config",
        }
    }

    /// Reads `bytes`; returns whether they were understood.
    ///
    /// # Panics
    /// When something misbehaves: that is what it is for.
    pub fn check(self, bytes: &[u8]) -> bool {
        match self {
            Target::Latest => read::<Pointer>(bytes).inspect(decide_by_pointer).is_some(),
            Target::Metadata => read::<Manifest>(bytes).is_some(),
            Target::Trim => read::<Certificate>(bytes)
                .inspect(decide_by_certificate)
                .is_some(),
            Target::Control => read::<Control>(bytes).is_some(),
            Target::Record => read_record(bytes),
            Target::Config => read_config(bytes),
        }
    }
}

/// Reads a stored object; what was understood must survive being written.
fn read<T: Stored + PartialEq + Debug>(bytes: &[u8]) -> Option<T> {
    let value = T::decode("key", bytes).ok()?;
    let written = value.encode();
    let again = T::decode("key", &written).expect("what this version writes, it reads");
    assert_eq!(again, value, "reading what was written gives another value");
    assert_eq!(again.encode(), written, "writing again gives other bytes");
    Some(value)
}

fn read_record(bytes: &[u8]) -> bool {
    let bytes = Bytes::copy_from_slice(bytes);
    let Ok(record) = Record::decode(&bytes) else {
        return false;
    };
    let written = record.encode();
    assert_eq!(Record::decode(&written).as_ref(), Ok(&record));
    true
}

/// Reads a configuration file as each role would. What was accepted must survive being written; a refusal says of every
/// fault where it is, what it is and what to do.
fn read_config(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    let roles = [
        read_role::<LogConfig>(text),
        read_role::<WorkerConfig>(text),
        read_role::<AdminConfig>(text),
    ];
    roles.contains(&true)
}

fn read_role<C: RoleConfig + PartialEq + Debug>(text: &str) -> bool {
    match parse::<C>("file", text, []) {
        Ok(config) => {
            let written = toml::to_string(&config).expect("what was read can be written");
            let again = parse::<C>("file", &written, []).expect("what was written is accepted");
            assert_eq!(
                again, config,
                "reading what was written gives another configuration"
            );
            true
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            let said = |fault: &Fault| {
                // The key may be the one without a name: TOML has it.
                !fault.problem.is_empty() && !fault.remedy.is_empty()
            };
            assert!(error.faults().iter().all(said), "{:?}", error.faults());
            false
        }
    }
}

/// Takes a pointer for what all decisions are made on.
fn decide_by_pointer(pointer: &Pointer) {
    let Some(latest) = pointer.latest() else { return };
    let log = LogFacts {
        incarnation: latest.incarnation,
        trim_point: Lsn::ZERO,
        tail: latest.lsn.next(),
    };
    let sound = SnapshotTrust::Verified(VerifyLevel::Restore);
    let trust: BTreeMap<SnapshotId, SnapshotTrust> = pointer
        .snapshots
        .iter()
        .map(|entry| (entry.snapshot_id, sound))
        .collect();
    let replicas = [ReplicaNeed {
        node: node(),
        needed_lsn: Some(latest.lsn),
        log_bytes: Some(latest.log_bytes),
    }];
    let facts = TrimFacts {
        cluster: &pointer.cluster,
        partition: pointer.partition,
        log: Some(log),
        pointer: Some(pointer),
        certificate: None,
        trust: &trust,
        replicas: &replicas,
        now: Timestamp::from_millis(u64::MAX / 2),
    };
    for trim_delay in [Duration::ZERO, Duration::from_secs(60)] {
        let rule = TrimRule {
            restorable_snapshots_min: pointer.restorable_snapshots_min,
            verify_before_trim: VerifyLevel::Content,
            retain_records: 0,
            held_records_max: u64::MAX,
            held_bytes_max: u64::MAX,
            trim_delay,
            force: false,
        };
        if let TrimDecision::Trim(grant) = trim_up_to(&facts, &rule) {
            assert!(grant.up_to <= grant.guard_lsn && grant.guard_lsn <= latest.lsn.max(grant.guard_lsn));
            assert!(grant.snapshots.iter().all(|entry| entry.lsn >= grant.up_to));
        }
    }
    let candidate = PointerCandidate {
        cluster: &pointer.cluster,
        partition: pointer.partition,
        incarnation: latest.incarnation,
        lsn: latest.lsn,
        snapshot_id: latest.snapshot_id,
    };
    let replaced = may_replace_pointer(Some(pointer), &candidate, &PointerFloor::default());
    assert!(replaced.is_err(), "a pointer is replaced by what it names");
    let kept = retained_after(
        Some(pointer),
        latest.clone(),
        None,
        pointer.restorable_snapshots_min,
    );
    assert!(!kept.is_empty());
    let need = RestoreNeed {
        fingerprint: pointer.cluster.fingerprint,
        partition: pointer.partition,
        incarnation: latest.incarnation,
        trim_point: latest.lsn,
        applied_lsn: None,
        damaged: &BTreeSet::new(),
    };
    if let Ok(found) = restore_candidates(Some(pointer), None, &need) {
        assert!(found.entries.iter().all(|entry| entry.lsn >= latest.lsn));
    }
    let facts = DeleteFacts {
        cluster: &pointer.cluster,
        partition: pointer.partition,
        pointer: Some(pointer),
        certificate: None,
    };
    let deleted = may_delete(&latest.path, &facts, DeleteScope::CurrentGeneration);
    assert!(deleted.is_err(), "something is deleted without a certificate");
}

/// Takes a certificate for a floor that a snapshot right below it must not pass.
fn decide_by_certificate(certificate: &Certificate) {
    let Some(named) = certificate.snapshots.first() else {
        return;
    };
    let candidate = PointerCandidate {
        cluster: &certificate.cluster,
        partition: certificate.partition,
        incarnation: certificate.incarnation,
        lsn: certificate.up_to.prev(),
        snapshot_id: named.snapshot_id,
    };
    let floor = PointerFloor {
        certificate: Some(certificate),
        trimmed: None,
    };
    let allowed = may_replace_pointer(None, &candidate, &floor).is_ok();
    assert!(
        !allowed || certificate.up_to == Lsn::ZERO,
        "a pointer below the certificate"
    );
    let need = RestoreNeed {
        fingerprint: certificate.cluster.fingerprint,
        partition: certificate.partition,
        incarnation: certificate.incarnation,
        trim_point: certificate.up_to,
        applied_lsn: None,
        damaged: &BTreeSet::new(),
    };
    let found = restore_candidates(None, Some(certificate), &need).expect("it is our own");
    assert!(
        found
            .certified
            .iter()
            .all(|snapshot| snapshot.lsn >= certificate.up_to)
    );
    assert_eq!(
        found.certified.len() + found.passed_over.len(),
        certificate.snapshots.len()
    );
}

fn node() -> NodeId {
    NodeId::new("w").expect("a letter names a node")
}
