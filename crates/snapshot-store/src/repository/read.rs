//! Reads the stored objects: one GET each, fresh each time, nothing cached.

use super::{
    Repository, Versioned,
    anomaly::{Anomaly, AnomalyKind},
    check::{is_archived, not_readable},
    error::{ManifestError, StoreError},
    publish::entry_for,
};
use crate::{
    format::{
        Certificate, CertifiedSnapshot, ClusterRecord, Control, FormatError, Keys, Lease, Manifest, Pointer,
        PointerEntry, SnapshotDirectory, Stored,
    },
    vocabulary::{ClusterIdentity, ContentHash, Incarnation, Lsn, PartitionId, SnapshotId},
};

impl Repository {
    /// Returns the identity of the cluster; `None` when there is no `cluster.json`.
    ///
    /// # Errors
    /// When the store does not answer or the object cannot be understood.
    pub async fn cluster(&self) -> Result<Option<ClusterRecord>, StoreError> {
        Ok(self
            .read::<ClusterRecord>(Keys::CLUSTER)
            .await?
            .map(|found| found.value))
    }

    /// Returns the pointer of `partition`; `None` when there is none.
    ///
    /// # Errors
    /// When the store does not answer or the object cannot be understood.
    pub async fn pointer(&self, partition: PartitionId) -> Result<Option<Versioned<Pointer>>, StoreError> {
        let key = Keys::pointer(partition);
        let found = self.read::<Pointer>(&key).await?;
        if let Some(found) = &found {
            check_pointer_shape(&key, &found.value)?;
        }
        Ok(found)
    }

    /// Returns the certificate of the last trim of `partition`; `None` when there is none.
    ///
    /// # Errors
    /// When the store does not answer or the object cannot be understood.
    pub async fn certificate(
        &self,
        partition: PartitionId,
    ) -> Result<Option<Versioned<Certificate>>, StoreError> {
        self.read(&Keys::certificate(partition)).await
    }

    /// Returns the control state; `None` when it is missing, which callers treat as unreadable.
    ///
    /// # Errors
    /// When the store does not answer or the object cannot be understood.
    pub async fn control(&self) -> Result<Option<Versioned<Control>>, StoreError> {
        self.read(Keys::CONTROL).await
    }

    /// Returns the lease of the admins; `None` when no admin took one yet.
    ///
    /// # Errors
    /// When the store does not answer or the object cannot be understood.
    pub async fn lease(&self) -> Result<Option<Versioned<Lease>>, StoreError> {
        self.read(Keys::LEASE).await
    }

    /// Returns the manifest of a snapshot, checked against what its pointer says of it.
    ///
    /// # Errors
    /// When it is missing or is not the one the pointer names; when the store does not answer.
    pub async fn manifest(
        &self,
        partition: PartitionId,
        entry: &PointerEntry,
    ) -> Result<Manifest, ManifestError> {
        self.named_manifest(partition, &Named::in_pointer(entry)).await
    }

    /// Returns what a pointer says of a snapshot that `certificate` names, from its manifest: the very entry it was
    /// published with.
    ///
    /// # Errors
    /// When the manifest is missing or is not the one the certificate names; when the store does not answer.
    pub async fn certified_entry(
        &self,
        certificate: &Certificate,
        snapshot: &CertifiedSnapshot,
    ) -> Result<PointerEntry, ManifestError> {
        let named = Named::in_certificate(certificate, snapshot);
        match self.named_manifest(certificate.partition, &named).await {
            Ok(manifest) => Ok(entry_for(&manifest, snapshot.manifest_hash)),
            Err(ManifestError::Store(error)) if is_archived(&error) => {
                let key = Keys::manifest(certificate.partition, &snapshot.path);
                Err(ManifestError::Damaged(not_readable(&key)))
            }
            Err(error) => Err(error),
        }
    }

    async fn named_manifest(&self, partition: PartitionId, named: &Named) -> Result<Manifest, ManifestError> {
        let key = Keys::manifest(partition, &named.path);
        let Some((bytes, _)) = self.get_document(&key).await? else {
            let detail = format!(
                "the {} names snapshot {} at {}",
                named.by, named.snapshot_id, named.lsn
            );
            return Err(ManifestError::Damaged(Anomaly::new(
                AnomalyKind::MissingManifest,
                key,
                detail,
            )));
        };
        check_manifest(&key, &bytes, partition, named).map_err(ManifestError::Damaged)
    }

    async fn read<T: Stored>(&self, key: &str) -> Result<Option<Versioned<T>>, StoreError> {
        match self.get_document(key).await? {
            None => Ok(None),
            Some((bytes, version)) => Ok(Some(Versioned {
                value: T::decode(key, &bytes)?,
                version,
            })),
        }
    }

    /// Checks that the store holds this cluster: a wrong URL, or a folder that is not mounted, shows here.
    pub(super) async fn check_cluster(&self, cluster: &ClusterIdentity) -> Result<(), StoreError> {
        let record = self.cluster().await?.ok_or_else(|| StoreError::Missing {
            key: Keys::CLUSTER.to_owned(),
        })?;
        check_owner(Keys::CLUSTER, &record.cluster, cluster)
    }
}

/// Checks that the object at `key` belongs to our cluster.
pub(super) fn check_owner(
    key: &str,
    found: &ClusterIdentity,
    ours: &ClusterIdentity,
) -> Result<(), StoreError> {
    if found.fingerprint == ours.fingerprint {
        return Ok(());
    }
    Err(StoreError::Foreign {
        key: key.to_owned(),
        found: found.fingerprint,
        expected: ours.fingerprint,
    })
}

/// Checks what the format promises and the parser does not see: never empty, newest first, each path the one that
/// follows from its snapshot.
fn check_pointer_shape(key: &str, pointer: &Pointer) -> Result<(), FormatError> {
    let fault = |detail: String| FormatError::Unparsable {
        key: key.to_owned(),
        what: Pointer::WHAT,
        detail,
    };
    if pointer.snapshots.is_empty() {
        return Err(fault("it names no snapshot".to_owned()));
    }
    let position = |entry: &PointerEntry| (entry.incarnation.generation, entry.lsn);
    if !pointer
        .snapshots
        .is_sorted_by(|newer, older| position(newer) > position(older))
    {
        return Err(fault("its snapshots are not sorted newest first".to_owned()));
    }
    for entry in &pointer.snapshots {
        let expected = SnapshotDirectory {
            generation: entry.incarnation.generation,
            lsn: entry.lsn,
            snapshot_id: entry.snapshot_id,
        };
        if entry.path != expected {
            return Err(fault(format!(
                "snapshot {} lives in {}, not in {expected}",
                entry.snapshot_id, entry.path
            )));
        }
    }
    Ok(())
}

/// What a manifest must agree with.
struct Named {
    /// Which object names it, in words.
    by: &'static str,
    snapshot_id: SnapshotId,
    incarnation: Incarnation,
    lsn: Lsn,
    path: SnapshotDirectory,
    manifest_hash: ContentHash,
}

impl Named {
    fn in_pointer(entry: &PointerEntry) -> Self {
        Named {
            by: "pointer",
            snapshot_id: entry.snapshot_id,
            incarnation: entry.incarnation,
            lsn: entry.lsn,
            path: entry.path,
            manifest_hash: entry.manifest_hash,
        }
    }

    fn in_certificate(certificate: &Certificate, snapshot: &CertifiedSnapshot) -> Self {
        Named {
            by: "certificate",
            snapshot_id: snapshot.snapshot_id,
            incarnation: certificate.incarnation,
            lsn: snapshot.lsn,
            path: snapshot.path,
            manifest_hash: snapshot.manifest_hash,
        }
    }
}

/// Checks a manifest's bytes against what names it.
fn check_manifest(
    key: &str,
    bytes: &[u8],
    partition: PartitionId,
    named: &Named,
) -> Result<Manifest, Anomaly> {
    let found = ContentHash::of(bytes);
    if found != named.manifest_hash {
        let detail = format!("expected hash {}, found {found}", named.manifest_hash);
        return Err(Anomaly::new(AnomalyKind::WrongHash, key, detail));
    }
    let manifest = Manifest::decode(key, bytes).map_err(|error| {
        let kind = match error {
            FormatError::Newer { .. } => AnomalyKind::NewerFormat,
            FormatError::Unparsable { .. } => AnomalyKind::UnreadableManifest,
        };
        Anomaly::new(kind, key, error.to_string())
    })?;
    if manifest.incarnation != named.incarnation {
        let detail = format!(
            "expected incarnation {}, found {}",
            named.incarnation, manifest.incarnation
        );
        return Err(Anomaly::new(AnomalyKind::WrongIncarnation, key, detail));
    }
    let described = (
        manifest.partition,
        manifest.directory(),
        manifest.lsn,
        manifest.snapshot_id,
    );
    if described != (partition, named.path, named.lsn, named.snapshot_id) {
        let detail = format!(
            "it describes partition {}, {}",
            manifest.partition,
            manifest.directory()
        );
        return Err(Anomaly::new(AnomalyKind::WrongSnapshot, key, detail));
    }
    if let Some(file) = manifest.files.iter().find(|file| !is_file_name(&file.name)) {
        let detail = format!("{:?} is not a file name", file.name);
        return Err(Anomaly::new(AnomalyKind::UnreadableManifest, key, detail));
    }
    if !manifest.files.is_sorted_by(|a, b| a.name < b.name) {
        let detail = "its files are not sorted by name, or one stands twice";
        return Err(Anomaly::new(AnomalyKind::UnreadableManifest, key, detail));
    }
    Ok(manifest)
}

/// Returns whether a data file may have this name: it becomes part of a key and of a local path.
pub(super) fn is_file_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=255).contains(&name.len())
        && !name.starts_with('.')
        && name != Manifest::FILE_NAME
        && name.bytes().all(allowed)
}
