//! A host whose whole state is three files: one that never changes, as RocksDB's tables, and two that do.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use snapshot_store::{
    Fingerprint, Incarnation, LeaderEpoch, Lsn, PartitionId, ReplicaRole, StateDigest,
    format::{ChainPoint, ChainTrail, KeyRange, Manifest, StateMachineVersion},
};
use snapshot_worker::{
    agent::{CheckpointFacts, HostError, PartitionHost},
    core::{PartitionState, ReplicaStatus},
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};
use tokio::sync::Semaphore;

const FACTS: &str = "facts.json";
const DATA: &str = "data.bin";
/// The same at every LSN of a partition.
pub(crate) const TABLE: &str = "000001.sst";
/// Bytes of it.
pub(crate) const TABLE_BYTES: u64 = 50_000;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct State {
    lsn: Lsn,
    incarnation: Incarnation,
    fingerprint: Fingerprint,
    partition: u32,
    version: u32,
    digest: StateDigest,
}

pub(crate) struct FakeHost {
    pub(crate) partition: PartitionId,
    pub(crate) dir: PathBuf,
    state: Mutex<Option<State>>,
    pub(crate) replica_state: Mutex<PartitionState>,
    /// A checkpoint takes a permit; closed gates hold it back.
    pub(crate) gate: Arc<Semaphore>,
    /// Newest version of the state it can read.
    pub(crate) version: AtomicU32,
    /// Whether it says that it leads.
    pub(crate) leads: AtomicBool,
    /// Makes the host lie about the LSN of what it inspects.
    pub(crate) lies: AtomicBool,
    incarnation: Incarnation,
    fingerprint: Fingerprint,
}

impl FakeHost {
    pub(crate) fn new(
        dir: PathBuf,
        partition: PartitionId,
        fingerprint: Fingerprint,
        incarnation: Incarnation,
    ) -> Arc<Self> {
        Arc::new(FakeHost {
            partition,
            dir,
            state: Mutex::default(),
            replica_state: Mutex::new(PartitionState::Active),
            gate: Arc::new(Semaphore::new(1000)),
            version: AtomicU32::new(1),
            leads: AtomicBool::new(false),
            lies: AtomicBool::new(false),
            incarnation,
            fingerprint,
        })
    }

    /// Moves the state to `lsn`, with content that follows from it.
    pub(crate) fn apply(&self, lsn: u64) {
        let data = format!("state of {} at {lsn} ", self.partition).repeat(500);
        let state = State {
            lsn: Lsn::new(lsn),
            incarnation: self.incarnation,
            fingerprint: self.fingerprint,
            partition: self.partition.get(),
            version: self.version.load(Ordering::SeqCst),
            digest: StateDigest::of(data.as_bytes()),
        };
        fs::create_dir_all(&self.dir).unwrap();
        let table = self.dir.join(TABLE);
        if !table.exists() {
            fs::write(&table, vec![self.partition.get() as u8; TABLE_BYTES as usize]).unwrap();
        }
        fs::write(self.dir.join(DATA), data).unwrap();
        fs::write(self.dir.join(FACTS), serde_json::to_vec(&state).unwrap()).unwrap();
        *self.state.lock().unwrap() = Some(state);
    }

    pub(crate) fn lsn(&self) -> Option<u64> {
        self.state.lock().unwrap().as_ref().map(|state| state.lsn.get())
    }

    /// Cluster and log that the state in place says it belongs to.
    pub(crate) fn identity(&self) -> Option<(Fingerprint, Incarnation)> {
        let state = self.read(&self.dir).ok()?;
        Some((state.fingerprint, state.incarnation))
    }

    fn read(&self, dir: &Path) -> Result<State, HostError> {
        let corrupt = |detail: String| HostError::Corrupt(detail);
        let facts = fs::read(dir.join(FACTS)).map_err(|error| corrupt(error.to_string()))?;
        let state: State = serde_json::from_slice(&facts).map_err(|error| corrupt(error.to_string()))?;
        let data = fs::read(dir.join(DATA)).map_err(|error| corrupt(error.to_string()))?;
        if StateDigest::of(&data) != state.digest {
            return Err(corrupt("the data does not have its digest".to_owned()));
        }
        if state.version > self.version.load(Ordering::SeqCst) {
            return Err(HostError::Mismatch(format!(
                "the state is of version {}",
                state.version
            )));
        }
        Ok(state)
    }
}

#[async_trait]
impl PartitionHost for FakeHost {
    fn status(&self) -> ReplicaStatus {
        let state = self.state.lock().unwrap().clone();
        let applied = state.as_ref().map(|state| state.lsn);
        let state_machine = StateMachineVersion {
            name: "fake".to_owned(),
            version: self.version.load(Ordering::SeqCst),
        };
        let role = match self.leads.load(Ordering::SeqCst) {
            true => ReplicaRole::Leader,
            false => ReplicaRole::Follower,
        };
        ReplicaStatus {
            role,
            state: self.replica_state.lock().unwrap().clone(),
            incarnation: Some(self.incarnation),
            applied_lsn: applied,
            durable_lsn: applied,
            needed: applied.map(|lsn| (lsn, lsn.get() * 10)),
            log_bytes: applied.map(|lsn| lsn.get() * 10),
            ..ReplicaStatus::new(self.partition, state_machine)
        }
    }

    async fn checkpoint(&self, dir: &Path) -> Result<(), HostError> {
        self.gate
            .acquire()
            .await
            .expect("gates are never closed for good")
            .forget();
        fs::create_dir(dir)?;
        for name in [FACTS, DATA, TABLE] {
            fs::copy(self.dir.join(name), dir.join(name))?;
        }
        Ok(())
    }

    async fn inspect(&self, dir: &Path) -> Result<CheckpointFacts, HostError> {
        let state = self.read(dir)?;
        let lsn = if self.lies.load(Ordering::SeqCst) {
            state.lsn.next()
        } else {
            state.lsn
        };
        let point = ChainPoint {
            lsn,
            hash: snapshot_store::ChainHash::of(&lsn.get().to_be_bytes()),
        };
        Ok(CheckpointFacts {
            lsn,
            incarnation: state.incarnation,
            fingerprint: state.fingerprint,
            chain: Some(ChainTrail(vec![point])),
            leader: None,
            log_bytes: state.lsn.get() * 10,
            state_machine: StateMachineVersion {
                name: "fake".to_owned(),
                version: state.version,
            },
            state_digest: Some(state.digest),
            key_range: KeyRange {
                partition: state.partition,
                of: 4,
            },
        })
    }

    fn reusable_files(&self) -> Option<PathBuf> {
        Some(self.dir.clone())
    }

    async fn install(&self, dir: &Path, manifest: &Manifest) -> Result<(), HostError> {
        let mut state = self.read(dir)?;
        if manifest.origin.is_some() {
            // Made this cluster's own where nobody looks, and only then put in place.
            state.fingerprint = manifest.cluster.fingerprint;
            state.incarnation = manifest.incarnation;
            fs::write(
                dir.join(FACTS),
                serde_json::to_vec(&state).expect("facts have a JSON form"),
            )?;
        }
        if self.dir.exists() {
            fs::remove_dir_all(&self.dir)?;
        }
        fs::create_dir_all(self.dir.parent().unwrap())?;
        fs::rename(dir, &self.dir)?;
        *self.state.lock().unwrap() = Some(state);
        Ok(())
    }

    async fn advance(&self) -> Result<Lsn, HostError> {
        let next = self.lsn().unwrap_or(0) + 1;
        self.apply(next);
        Ok(Lsn::new(next))
    }

    async fn lead(&self) -> Result<LeaderEpoch, HostError> {
        Err(HostError::Unavailable("another one leads".to_owned()))
    }
}
