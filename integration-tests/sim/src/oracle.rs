//! The rules that must never break, checked after every change of the store and every trim.
//!
//! It looks at the store and the log as they are, past all faults. What it finds wrong it keeps until somebody takes it.

mod befallen;

use crate::{
    harm::Harm,
    history::History,
    truth::{Replayed, Truth},
};
use bytes::Bytes;
use futures::FutureExt;
use object_store::{ObjectStoreExt, memory::InMemory, path::Path};
use partition_log::{Log, memory::MemoryLog};
use snapshot_store::{
    ContentHash, Lsn, PartitionId, SnapshotId,
    format::{Certificate, ClusterRecord, Keys, Manifest, Pointer, PointerEntry, SnapshotDirectory, Stored},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A write that its client was told is safe.
#[derive(Clone, Debug)]
pub(crate) struct Acknowledged {
    pub(crate) partition: PartitionId,
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
}

/// A snapshot that was complete and right when the pointer began to name it.
struct Published {
    lsn: Lsn,
    /// Which of the partition's histories it holds; `None` when none of them.
    history: Option<usize>,
    /// Empty when it never was sound: some of its files are copies of damaged ones.
    objects: Objects,
}

/// Objects with the version and the content they had. A put that lands twice makes a new version of the same content.
type Objects = BTreeMap<Path, (Option<String>, ContentHash)>;

/// What is known of one partition.
struct Partition {
    history: History,
    highest: Option<(u64, Lsn)>,
    published: BTreeMap<SnapshotId, Published>,
    trim_point: Lsn,
    /// The latest pointer of its own, and the objects that stood for the latest two.
    pointer: Option<Pointer>,
    versions: Vec<(Bytes, Option<String>)>,
    harm: Option<Harm>,
}

/// Looks at store and log, past all faults.
pub(crate) struct Oracle {
    raw: Arc<InMemory>,
    log: MemoryLog,
    partitions: BTreeMap<PartitionId, Partition>,
    acknowledged: Vec<Acknowledged>,
    violations: Vec<String>,
    /// Partitions that lost objects of one snapshot already: two restorable snapshots bear one loss.
    damaged: BTreeSet<PartitionId>,
    /// Copies that the store made of objects that a fault had damaged.
    damaged_copies: BTreeSet<Path>,
}

impl Oracle {
    pub(crate) fn new(raw: Arc<InMemory>, log: MemoryLog, cluster: &ClusterRecord) -> Self {
        let partition = |(id, incarnation): (&PartitionId, &snapshot_store::Incarnation)| {
            let known = Partition {
                history: History::new(Truth::new(cluster.cluster.fingerprint, *incarnation)),
                highest: None,
                published: BTreeMap::new(),
                trim_point: Lsn::ZERO,
                pointer: None,
                versions: Vec::new(),
                harm: None,
            };
            (*id, known)
        };
        Oracle {
            raw,
            log,
            partitions: cluster.incarnations.iter().map(partition).collect(),
            acknowledged: Vec::new(),
            violations: Vec::new(),
            damaged: BTreeSet::new(),
            damaged_copies: BTreeSet::new(),
        }
    }

    pub(crate) fn raw(&self) -> &Arc<InMemory> {
        &self.raw
    }

    pub(crate) fn log(&self) -> &MemoryLog {
        &self.log
    }

    pub(crate) fn take_violations(&mut self) -> Vec<String> {
        std::mem::take(&mut self.violations)
    }

    /// Returns what the log of a partition ever held.
    pub(crate) fn history(&mut self, partition: PartitionId) -> Option<&mut History> {
        self.partitions
            .get_mut(&partition)
            .map(|known| &mut known.history)
    }

    /// Returns what somebody did to a partition from outside, if it was.
    pub(crate) fn harm(&self, partition: PartitionId) -> Option<&Harm> {
        self.partitions.get(&partition)?.harm.as_ref()
    }

    fn get(&self, path: &Path) -> Option<(Bytes, Option<String>)> {
        let found = self.raw.get(path).now_or_never()?.ok()?;
        let version = found.meta.e_tag.clone();
        Some((found.bytes().now_or_never()?.ok()?, version))
    }

    fn version(&self, path: &Path) -> Option<Option<String>> {
        Some(self.raw.head(path).now_or_never()?.ok()?.e_tag)
    }

    /// Returns the content of an object.
    pub(crate) fn object(&self, key: &str) -> Option<Bytes> {
        Some(self.get(&Path::from(key))?.0)
    }

    pub(crate) fn pointer(&self, partition: PartitionId) -> Option<Pointer> {
        let key = Keys::pointer(partition);
        Pointer::decode(&key, &self.get(&Path::from(key.as_str()))?.0).ok()
    }

    pub(crate) fn certificate(&self, partition: PartitionId) -> Option<Certificate> {
        let key = Keys::certificate(partition);
        Certificate::decode(&key, &self.get(&Path::from(key.as_str()))?.0).ok()
    }

    /// Rule 5, for what the product is about to write, whatever is there.
    pub(crate) fn before_overwrite(&mut self, path: &Path, content: &[u8]) {
        // An upload takes the place of a copy whose answer was lost.
        if snapshot_directory(path).is_none() || self.damaged_copies.remove(path) {
            return;
        }
        let differs = self.get(path).is_some_and(|(bytes, _)| bytes != content);
        // A put that lands late, once more, brings back what a fault has changed since.
        if differs && self.published_as(path) != Some(ContentHash::of(content)) {
            self.violations
                .push(format!("rule 5: {path} is immutable and was written again"));
        }
    }

    /// Rule 5, for what the product is about to delete.
    pub(crate) fn before_delete(&mut self, path: &Path) {
        let Some((partition, directory)) = snapshot_directory(path) else {
            return;
        };
        // Where somebody else took the pointer away, what was decided by it may still be under way.
        let known = self.partitions.get(&partition);
        let Some(pointer) = known.and_then(|known| known.pointer.clone()) else {
            self.violations
                .push(format!("rule 5: {path} was deleted without a pointer"));
            return;
        };
        let place = (directory.generation, directory.lsn);
        let latest = pointer
            .latest()
            .map(|entry| (entry.incarnation.generation, entry.lsn));
        let retained = pointer
            .snapshots
            .iter()
            .any(|entry| entry.snapshot_id == directory.snapshot_id);
        if retained || latest.is_none_or(|latest| place >= latest) {
            self.violations.push(format!(
                "rule 5: {path} was deleted, the pointer's latest is {latest:?}"
            ));
        }
        let certified = self.certificate(partition).is_some_and(|certificate| {
            !certificate.names(directory.snapshot_id)
                && directory.lsn < certificate.up_to
                && certificate
                    .oldest_lsn()
                    .is_some_and(|oldest| directory.lsn < oldest)
        });
        if !certified {
            self.violations.push(format!(
                "rule 5: {path} was deleted, and no certificate is above it"
            ));
        }
    }

    /// Rules 1 to 3, after an object was written or deleted, or after it was damaged.
    pub(crate) fn after_write(&mut self, path: &Path) {
        let Some(partition) = partition_of(path) else {
            return;
        };
        if path.as_ref() == Keys::pointer(partition) {
            self.check_pointer(partition);
        }
        self.check_cover(partition);
    }

    /// Rule 1, after a trim took place.
    pub(crate) fn after_trim(&mut self, partition: PartitionId) -> Lsn {
        let info = self.log.info(partition).now_or_never();
        let trim_point = info
            .and_then(Result::ok)
            .map_or(Lsn::ZERO, |info| info.trim_point);
        let certificate = self.certificate(partition);
        if let Some(known) = self.partitions.get_mut(&partition) {
            let moved = trim_point > known.trim_point;
            known.trim_point = trim_point;
            if moved && let Err(what) = known.check_guard(certificate.as_ref()) {
                self.violations.push(format!(
                    "rule 1: partition {partition} is trimmed to {trim_point}, {what}"
                ));
            }
        }
        self.check_cover(partition);
        trim_point
    }

    pub(crate) fn trim_point(&self, partition: PartitionId) -> Lsn {
        self.partitions
            .get(&partition)
            .map_or(Lsn::ZERO, |known| known.trim_point)
    }

    fn check_pointer(&mut self, partition: PartitionId) {
        let key = Keys::pointer(partition);
        let found = self.get(&Path::from(key.as_str()));
        let Some(known) = self.partitions.get_mut(&partition) else {
            return;
        };
        if let Some(Harm::PointerForeign { foreign }) = &known.harm {
            if found.as_ref().map(|(bytes, _)| bytes) != Some(foreign) {
                self.violations.push(format!(
                    "rule 2: the foreign pointer of partition {partition} was replaced"
                ));
            }
            return;
        }
        let pointer = found
            .as_ref()
            .and_then(|(bytes, _)| Pointer::decode(&key, bytes).ok());
        let (Some(pointer), Some(version)) = (pointer, found) else {
            self.violations.push(format!(
                "rule 2: the pointer of partition {partition} is gone or unreadable"
            ));
            return;
        };
        known.pointer = Some(pointer.clone());
        known.versions.push(version);
        if known.versions.len() > 2 {
            known.versions.remove(0);
        }
        let latest = pointer
            .latest()
            .map(|entry| (entry.incarnation.generation, entry.lsn));
        let Some(known) = self.partitions.get_mut(&partition) else {
            return;
        };
        if latest < known.highest {
            self.violations.push(format!(
                "rule 2: the pointer of partition {partition} went back from {:?} to {latest:?}",
                known.highest
            ));
        }
        known.highest = latest.max(known.highest);
        for entry in &pointer.snapshots {
            let is_new = self
                .partitions
                .get(&partition)
                .is_some_and(|known| !known.published.contains_key(&entry.snapshot_id));
            if is_new {
                self.check_published(partition, entry);
            }
        }
    }

    /// Rules 2 and 3: what the pointer begins to name is complete, and is the state that the log amounts to.
    fn check_published(&mut self, partition: PartitionId, entry: &PointerEntry) {
        let shown = format!(
            "snapshot {} of partition {partition} at {}",
            entry.snapshot_id, entry.lsn
        );
        let (objects, history) = match self.complete(partition, entry) {
            Ok((manifest, objects)) => {
                let found = manifest.chain_hash().zip(manifest.state_digest);
                let holds = self
                    .history(partition)
                    .zip(found)
                    .and_then(|(history, found)| history.find_digests(entry.lsn, found));
                if holds.is_none() {
                    self.violations
                        .push(format!("rule 3: {shown} is not what the log amounts to"));
                }
                (objects, holds)
            }
            Err(what) => {
                self.violations
                    .push(format!("rule 2: {shown} was published incomplete: {what}"));
                (BTreeMap::new(), None)
            }
        };
        let published = Published {
            lsn: entry.lsn,
            history,
            objects,
        };
        if let Some(known) = self.partitions.get_mut(&partition) {
            known.published.insert(entry.snapshot_id, published);
        }
    }

    /// Returns what a snapshot consists of, or what is missing. The product copies files by what a manifest says of them, and looks
    /// at contents before a trim rests on them: a copy of what a fault has damaged is there, and its snapshot is not sound.
    fn complete(&self, partition: PartitionId, entry: &PointerEntry) -> Result<(Manifest, Objects), String> {
        let key = Keys::manifest(partition, &entry.path);
        let path = Path::from(key.as_str());
        let (bytes, version) = self.get(&path).ok_or("it has no manifest")?;
        if ContentHash::of(&bytes) != entry.manifest_hash {
            return Err("its manifest is another one".to_owned());
        }
        let manifest = Manifest::decode(&key, &bytes).map_err(|error| error.to_string())?;
        let mut objects = BTreeMap::from([(path, (version, entry.manifest_hash))]);
        let mut is_sound = true;
        for file in &manifest.files {
            let path = Path::from(Keys::file(partition, &entry.path, &file.name));
            let (bytes, version) = self.get(&path).ok_or_else(|| format!("{path} is missing"))?;
            let is_damaged = ContentHash::of(&bytes) != file.hash;
            if bytes.len() as u64 != file.bytes || is_damaged && !self.damaged_copies.contains(&path) {
                return Err(format!("{path} has another content"));
            }
            is_sound &= !is_damaged;
            objects.insert(path, (version, file.hash));
        }
        match is_sound {
            true => Ok((manifest, objects)),
            false => Ok((manifest, Objects::new())),
        }
    }

    /// Rule 1: something that can be restored covers what was trimmed.
    fn check_cover(&mut self, partition: PartitionId) {
        let trim_point = self.trim_point(partition);
        if trim_point == Lsn::ZERO {
            return;
        }
        let Some(known) = self.partitions.get(&partition) else {
            return;
        };
        let covers = |id: &SnapshotId, published: &Published| {
            known.is_named(id)
                && published.lsn >= trim_point
                && known.history.is_shared(published.history, trim_point)
                && !published.objects.is_empty()
                && self.is_intact(published)
        };
        if !known
            .published
            .iter()
            .rev()
            .any(|(id, published)| covers(id, published))
        {
            self.violations.push(format!(
                "rule 1: partition {partition} is trimmed to {trim_point}, and nothing that can be restored covers that"
            ));
        }
    }

    fn is_intact(&self, published: &Published) -> bool {
        published.objects.iter().all(|(path, (version, hash))| {
            let same = |(content, _): (Bytes, _)| ContentHash::of(&content) == *hash;
            self.version(path).as_ref() == Some(version) || self.get(path).is_some_and(same)
        })
    }

    /// Rule 4, at the moment of the promise: the record is in the log, and the leader that wrote it led.
    pub(crate) fn acknowledge(&mut self, write: Acknowledged, lsn: Lsn) {
        let history = self.history(write.partition);
        let has = |truth: &Replayed| truth.get(&write.key) == Some(&write.value);
        if history.and_then(|history| history.find(lsn, has)).is_none() {
            self.violations.push(format!(
                "rule 4: a write to partition {} was acknowledged at {lsn}, where the log does not have it",
                write.partition
            ));
        }
        self.acknowledged.push(write);
    }

    /// Rule 4, in the end: returns how many acknowledged writes there are, all of which must be there.
    pub(crate) fn check_acknowledged(&mut self) -> usize {
        let writes = std::mem::take(&mut self.acknowledged);
        for (id, known) in &mut self.partitions {
            let ends = known.history.ends();
            for write in writes.iter().filter(|write| write.partition == *id) {
                if !ends.iter().any(|end| end.get(&write.key) == Some(&write.value)) {
                    self.violations.push(format!(
                        "rule 4: partition {id} lost an acknowledged write of key {}",
                        String::from_utf8_lossy(&write.key)
                    ));
                }
            }
        }
        writes.len()
    }
}

impl Partition {
    /// Checks that a trim that took place stays within the guard: as many snapshots as it must rest on are at the trim point or
    /// above, and as many of those that pointer and certificate name were sound when they were published. Whether they were
    /// damaged since is another question.
    fn check_guard(&self, certificate: Option<&Certificate>) -> Result<(), String> {
        if matches!(self.harm, Some(Harm::PointerDeleted)) {
            return Ok(());
        }
        let Some(pointer) = &self.pointer else {
            return Err("and there never was a pointer".to_owned());
        };
        let above = pointer
            .snapshots
            .iter()
            .filter(|entry| entry.lsn >= self.trim_point);
        let (above, wanted) = (above.count(), pointer.restorable_snapshots_min as usize);
        if above < wanted {
            return Err(format!(
                "and the pointer names {above} snapshots there, not {wanted}"
            ));
        }
        let is_certified = |id| certificate.is_some_and(|certificate| certificate.names(id));
        let sound = self.published.iter().filter(|(id, published)| {
            published.lsn >= self.trim_point
                && !published.objects.is_empty()
                && (self.is_named(id) || is_certified(**id))
        });
        match sound.count() {
            sound if sound < wanted => Err(format!("and {sound} sound snapshots are there, not {wanted}")),
            _ => Ok(()),
        }
    }

    /// Returns whether a restore finds a snapshot: the pointer names it, or did before somebody took the pointer away.
    fn is_named(&self, id: &SnapshotId) -> bool {
        let named = |pointer: &Pointer| pointer.snapshots.iter().any(|entry| entry.snapshot_id == *id);
        matches!(self.harm, Some(Harm::PointerDeleted)) || self.pointer.as_ref().is_some_and(named)
    }
}

fn partition_of(path: &Path) -> Option<PartitionId> {
    path.as_ref().split('/').next()?.parse().ok()
}

fn snapshot_directory(path: &Path) -> Option<(PartitionId, SnapshotDirectory)> {
    let directory = path.as_ref().split('/').nth(1)?.parse().ok()?;
    Some((partition_of(path)?, directory))
}
