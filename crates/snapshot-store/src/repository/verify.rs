//! Verifies a partition as a whole: pointer, certificate, and everything else below its prefix.
//!
//! What is wrong is told apart from what is not known: a store that does not answer is an error, and never taken for
//! damage. The listing comes before pointer and certificate are read, so that what is published meanwhile is not taken
//! for something that nobody wants.

use super::{
    Progress, Repository,
    anomaly::{Anomaly, AnomalyKind},
    check::is_archived,
    error::{ContentCheck, StoreError},
    survey::{DirectoryState, Inventory, Judge, UnknownObject, position},
};
use crate::{
    core::DeleteScope,
    format::{
        Certificate, ClusterRecord, FormatError, Keys, Manifest, Pointer, PointerEntry, SnapshotDirectory,
        Stored,
    },
    vocabulary::{ClusterIdentity, Incarnation, Lineage, PartitionId},
};

/// How thoroughly a snapshot is checked without a local copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckLevel {
    /// Manifest and all files are there with their sizes: one GET and one listing.
    Presence,
    /// All files have the hashes the manifest names: each is read once.
    Content,
}

/// What a check of a partition found, the insides of its snapshots aside.
#[derive(Clone, Debug, Default)]
pub struct PartitionCheck {
    /// The snapshots that the pointer retains, newest first; none when it cannot be relied on.
    pub snapshots: Vec<PointerEntry>,
    /// What is wrong.
    pub anomalies: Vec<Anomaly>,
    /// Uploads that may still be going on, which is nothing wrong.
    pub uploads: Vec<SnapshotDirectory>,
}

/// A document that was read, or what is wrong with it.
type Read<T> = Result<Option<T>, Anomaly>;

impl Repository {
    /// Checks pointer, certificate and everything else below the prefix of `partition` against the cluster's
    /// identity: one listing and two GETs. The snapshots themselves are for [`Repository::check_snapshot`].
    ///
    /// # Errors
    /// Only when the store did not answer: then nothing is known.
    pub async fn check_partition(
        &self,
        record: &ClusterRecord,
        partition: PartitionId,
    ) -> Result<PartitionCheck, StoreError> {
        let inventory = self.inventory(partition).await?;
        let pointer_key = Keys::pointer(partition);
        let certificate_key = Keys::certificate(partition);
        let pointer = self
            .pointer(partition)
            .await
            .map(|found| found.map(|found| found.value));
        let pointer = sorted(&pointer_key, AnomalyKind::PointerUnreadable, pointer)?;
        let certificate = self
            .certificate(partition)
            .await
            .map(|found| found.map(|found| found.value));
        let certificate = sorted(&certificate_key, AnomalyKind::CertificateUnreadable, certificate)?;

        let mut check = PartitionCheck::default();
        let owner = Owner { record, partition };
        let pointer = match pointer {
            Ok(None) => {
                check.anomalies.extend(missing_pointer(&pointer_key, &inventory));
                None
            }
            Ok(Some(pointer)) => owner.take_pointer(&pointer_key, pointer, &mut check.anomalies),
            Err(anomaly) => {
                check.anomalies.push(anomaly);
                None
            }
        };
        let certificate = match certificate {
            Ok(None) => None,
            Ok(Some(certificate)) => {
                owner.take_certificate(&certificate_key, certificate, &mut check.anomalies)
            }
            Err(anomaly) => {
                check.anomalies.push(anomaly);
                None
            }
        };
        if let (Some(pointer), Some(certificate)) = (&pointer, &certificate) {
            check
                .anomalies
                .extend(gone_back(&pointer_key, pointer, certificate));
        }
        let judge = Judge {
            cluster: &record.cluster,
            partition,
            pointer,
            certificate,
            scope: DeleteScope::CurrentGeneration,
        };
        check.anomalies.extend(missing_certified(&judge, &inventory));
        sort_directories(&judge, &inventory, &mut check);
        check
            .anomalies
            .extend(inventory.unknown.iter().map(Anomaly::from));
        check.snapshots = judge.pointer.map_or_else(Vec::new, |pointer| pointer.snapshots);
        Ok(check)
    }

    /// Checks one snapshot at `level`, and that its manifest belongs to `cluster`.
    ///
    /// # Errors
    /// Only when the store did not answer: then nothing is known.
    pub async fn check_snapshot(
        &self,
        cluster: &ClusterIdentity,
        partition: PartitionId,
        entry: &PointerEntry,
        level: CheckLevel,
        progress: &dyn Progress,
    ) -> Result<ContentCheck, StoreError> {
        let mut check = match level {
            CheckLevel::Presence => {
                let (manifest, anomalies) = self.present_manifest(partition, entry).await?;
                ContentCheck {
                    anomalies,
                    bytes_read: 0,
                    manifest,
                }
            }
            CheckLevel::Content => self.check_content(partition, entry, progress).await?,
        };
        let key = Keys::manifest(partition, &entry.path);
        match &check.manifest {
            Some(manifest) => check.anomalies.extend(foreign(&key, &manifest.cluster, cluster)),
            // Other bytes than the pointer names: whose they are says more than that their hash is wrong.
            None => {
                for anomaly in &mut check.anomalies {
                    if anomaly.kind == AnomalyKind::WrongHash
                        && let Some((bytes, _)) = self.get_document(&key).await?
                        && let Ok(manifest) = Manifest::decode(&key, &bytes)
                        && let Some(better) = foreign(&key, &manifest.cluster, cluster)
                    {
                        *anomaly = better;
                    }
                }
            }
        }
        Ok(check)
    }
}

/// Tells what is wrong with a document from not knowing.
fn sorted<T>(
    key: &str,
    unreadable: AnomalyKind,
    read: Result<Option<T>, StoreError>,
) -> Result<Read<T>, StoreError> {
    let kind = match &read {
        Err(StoreError::Unusable(FormatError::Newer { .. })) => AnomalyKind::NewerFormat,
        Err(StoreError::Unusable(FormatError::Unparsable { .. })) => unreadable,
        Err(error) if is_archived(error) => AnomalyKind::NotReadable,
        Ok(_) | Err(_) => return read.map(Ok),
    };
    Ok(read.map_err(|error| Anomaly::new(kind, key, error.to_string())))
}

/// Whose objects the documents must be.
struct Owner<'a> {
    record: &'a ClusterRecord,
    partition: PartitionId,
}

impl Owner<'_> {
    /// Returns the pointer if it can be relied on.
    fn take_pointer(&self, key: &str, pointer: Pointer, anomalies: &mut Vec<Anomaly>) -> Option<Pointer> {
        let found = self
            .misplaced(key, &pointer.cluster, pointer.partition)
            .or_else(|| {
                let mut lives = pointer.snapshots.iter().map(|entry| entry.incarnation);
                lives.find_map(|found| self.rival(key, found))
            });
        match found {
            Some(anomaly) => {
                anomalies.push(anomaly);
                None
            }
            None => Some(pointer),
        }
    }

    /// Returns the certificate if it can be relied on.
    fn take_certificate(
        &self,
        key: &str,
        certificate: Certificate,
        anomalies: &mut Vec<Anomaly>,
    ) -> Option<Certificate> {
        let found = self
            .misplaced(key, &certificate.cluster, certificate.partition)
            .or_else(|| self.rival(key, certificate.incarnation));
        match found {
            Some(anomaly) => {
                anomalies.push(anomaly);
                None
            }
            None => Some(certificate),
        }
    }

    fn misplaced(&self, key: &str, cluster: &ClusterIdentity, partition: PartitionId) -> Option<Anomaly> {
        foreign(key, cluster, &self.record.cluster).or_else(|| {
            (partition != self.partition).then(|| {
                let detail = format!("it is of partition {partition}, not of {}", self.partition);
                Anomaly::new(AnomalyKind::WrongSnapshot, key, detail)
            })
        })
    }

    /// Finds a log of the same generation as the one the cluster began with, and of another identity.
    fn rival(&self, key: &str, found: Incarnation) -> Option<Anomaly> {
        let ours = self.record.incarnations.get(&self.partition)?;
        (found.compared_to(ours) == Lineage::Conflict).then(|| {
            let detail = format!("expected incarnation {ours}, found {found}");
            Anomaly::new(AnomalyKind::WrongIncarnation, key, detail)
        })
    }
}

fn foreign(key: &str, found: &ClusterIdentity, ours: &ClusterIdentity) -> Option<Anomaly> {
    (found.fingerprint != ours.fingerprint).then(|| {
        let detail = format!("it belongs to cluster {found}, not to {ours}");
        Anomaly::new(AnomalyKind::ForeignCluster, key, detail)
    })
}

/// A partition without a pointer is new, unless something says that there was one.
fn missing_pointer(key: &str, inventory: &Inventory) -> Option<Anomaly> {
    let complete = inventory
        .directories
        .values()
        .filter(|contents| contents.manifest.is_some())
        .count();
    let detail = match (inventory.has_certificate, complete) {
        (false, 0) => return None,
        (true, complete) => format!("there is a certificate, and {complete} complete snapshots"),
        (false, complete) => format!(
            "there are {complete} complete snapshots: it was deleted, or the publisher of the first one died before it"
        ),
    };
    Some(Anomaly::new(AnomalyKind::PointerMissing, key, detail))
}

/// A pointer below what was certified was put back to an older version of itself.
fn gone_back(key: &str, pointer: &Pointer, certificate: &Certificate) -> Option<Anomaly> {
    let latest = pointer.latest()?;
    let behind = match latest.incarnation.compared_to(&certificate.incarnation) {
        Lineage::Same => latest.lsn < certificate.up_to,
        Lineage::Older => true,
        Lineage::Newer => false,
        Lineage::Conflict => {
            let detail = format!(
                "it is of incarnation {}, and the certificate of {}",
                latest.incarnation, certificate.incarnation
            );
            return Some(Anomaly::new(AnomalyKind::WrongIncarnation, key, detail));
        }
    };
    behind.then(|| {
        let detail = format!(
            "it ends at {} of generation {}, and the log may be trimmed up to {} of generation {}",
            latest.lsn, latest.incarnation.generation, certificate.up_to, certificate.incarnation.generation
        );
        Anomaly::new(AnomalyKind::PointerBehind, key, detail)
    })
}

/// What the certificate rests on must be there, whether the pointer still names it or not.
fn missing_certified(judge: &Judge<'_>, inventory: &Inventory) -> Vec<Anomaly> {
    let complete = |directory: &SnapshotDirectory| {
        let contents = inventory.directories.get(directory);
        contents.is_some_and(|contents| contents.manifest.is_some())
    };
    let unretained = judge
        .certificate
        .iter()
        .flat_map(|certificate| certificate.unretained(judge.pointer.as_ref()));
    unretained
        .filter(|snapshot| !complete(&snapshot.path))
        .map(|snapshot| {
            let detail = format!(
                "the certificate names snapshot {} at {}",
                snapshot.snapshot_id, snapshot.lsn
            );
            Anomaly::new(
                AnomalyKind::MissingManifest,
                Keys::manifest(judge.partition, &snapshot.path),
                detail,
            )
        })
        .collect()
}

/// Tells uploads that may still go on from those that nothing can complete any more.
fn sort_directories(judge: &Judge<'_>, inventory: &Inventory, check: &mut PartitionCheck) {
    for (directory, contents) in &inventory.directories {
        if judge.state(directory, contents.manifest.is_some()) != DirectoryState::Unfinished {
            continue;
        }
        if judge.latest().is_none_or(|latest| position(directory) > latest) {
            check.uploads.push(*directory);
            continue;
        }
        let size = contents.size();
        let stays = match judge.verdict(directory) {
            Ok(()) => "may be deleted".to_owned(),
            Err(reason) => format!("stays: {}", reason.in_words()),
        };
        let detail = format!("{} objects, {} bytes; it {stays}", size.objects, size.bytes);
        let key = format!("{}/{directory}/", judge.partition);
        check
            .anomalies
            .push(Anomaly::new(AnomalyKind::UnfinishedDirectory, key, detail));
    }
}

impl From<&UnknownObject> for Anomaly {
    fn from(found: &UnknownObject) -> Self {
        let detail = match found.bytes {
            Some(bytes) => format!("{bytes} bytes that Tidemark did not write"),
            None => "a folder that Tidemark did not write".to_owned(),
        };
        Anomaly::new(AnomalyKind::UnknownObject, found.key.clone(), detail)
    }
}
