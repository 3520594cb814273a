//! Reads the stored objects: one GET each, fresh each time, nothing cached.

use super::{
    Repository, Versioned,
    anomaly::{Anomaly, AnomalyKind},
    error::{ManifestError, StoreError},
};
use crate::{
    format::{
        Certificate, ClusterRecord, Control, FormatError, Keys, Lease, Manifest, Pointer, PointerEntry,
        SnapshotDirectory, Stored,
    },
    vocabulary::{ClusterIdentity, ContentHash, PartitionId},
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
        let key = Keys::manifest(partition, &entry.path);
        let Some((bytes, _)) = self.get_document(&key).await? else {
            let detail = format!(
                "the pointer names snapshot {} at {}",
                entry.snapshot_id, entry.lsn
            );
            return Err(ManifestError::Damaged(Anomaly::new(
                AnomalyKind::MissingManifest,
                key,
                detail,
            )));
        };
        check_manifest(&key, &bytes, partition, entry).map_err(ManifestError::Damaged)
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

/// Checks a manifest's bytes against the entry that names it.
fn check_manifest(
    key: &str,
    bytes: &[u8],
    partition: PartitionId,
    entry: &PointerEntry,
) -> Result<Manifest, Anomaly> {
    let found = ContentHash::of(bytes);
    if found != entry.manifest_hash {
        let detail = format!("expected hash {}, found {found}", entry.manifest_hash);
        return Err(Anomaly::new(AnomalyKind::WrongHash, key, detail));
    }
    let manifest = Manifest::decode(key, bytes).map_err(|error| {
        let kind = match error {
            FormatError::Newer { .. } => AnomalyKind::NewerFormat,
            FormatError::Unparsable { .. } => AnomalyKind::UnreadableManifest,
        };
        Anomaly::new(kind, key, error.to_string())
    })?;
    if manifest.incarnation != entry.incarnation {
        let detail = format!(
            "expected incarnation {}, found {}",
            entry.incarnation, manifest.incarnation
        );
        return Err(Anomaly::new(AnomalyKind::WrongIncarnation, key, detail));
    }
    if (manifest.partition, manifest.directory()) != (partition, entry.path) {
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
