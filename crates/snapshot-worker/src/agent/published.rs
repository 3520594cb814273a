//! What a restore chooses from: the pointer, and the certificate where nothing that the pointer retains helps.

use super::{
    restore_job::{RestoreError, RestoreRequest},
    snapshot_agent::Shared,
};
use crate::core::{RestoreCandidates, RestoreNeed, restore_candidates};
use snapshot_store::{
    Anomaly, ManifestError, PartitionId, SnapshotId,
    format::{Certificate, CertifiedSnapshot, Pointer, PointerEntry},
};

/// Published snapshots of one partition, as one restore looks at them. Everything is read afresh each time.
#[derive(Clone, Copy)]
pub(super) struct PublishedSnapshots<'a> {
    pub(super) shared: &'a Shared,
    pub(super) partition: PartitionId,
    pub(super) request: &'a RestoreRequest,
}

impl PublishedSnapshots<'_> {
    pub(super) async fn pointer(&self) -> Result<Option<Pointer>, RestoreError> {
        let found = self.shared.repository.pointer(self.partition).await;
        let found = found.map_err(|error| RestoreError::store(self.partition, error))?;
        Ok(found.map(|versioned| versioned.value))
    }

    pub(super) async fn certificate(&self) -> Result<Option<Certificate>, RestoreError> {
        let found = self.shared.repository.certificate(self.partition).await;
        let found = found.map_err(|error| RestoreError::store(self.partition, error))?;
        Ok(found.map(|versioned| versioned.value))
    }

    /// Returns what to try of what was read.
    pub(super) fn candidates(
        &self,
        pointer: Option<&Pointer>,
        certificate: Option<&Certificate>,
    ) -> Result<RestoreCandidates, RestoreError> {
        let damaged = self.shared.with_slot(self.partition, |slot| slot.damaged.clone());
        let need = RestoreNeed {
            fingerprint: self.shared.config.cluster.fingerprint,
            partition: self.partition,
            incarnation: self.request.incarnation,
            trim_point: self.request.trim_point,
            applied_lsn: self.request.applied_lsn,
            damaged: &damaged,
        };
        restore_candidates(pointer, certificate, &need).map_err(|refusal| RestoreError::StoreUnusable {
            partition: self.partition,
            detail: refusal.to_string(),
        })
    }

    /// Returns the entry that a certified snapshot was published with, or what is wrong with its manifest.
    pub(super) async fn entry(
        &self,
        certificate: &Certificate,
        snapshot: &CertifiedSnapshot,
    ) -> Result<Result<PointerEntry, Anomaly>, RestoreError> {
        let entry = self
            .shared
            .repository
            .certified_entry(certificate, snapshot)
            .await;
        match entry {
            Ok(entry) => Ok(Ok(entry)),
            Err(ManifestError::Damaged(anomaly)) => Ok(Err(anomaly)),
            Err(ManifestError::Store(error)) => Err(RestoreError::store(self.partition, error)),
        }
    }

    /// Returns whether pointer or certificate, read anew, still name `snapshot`. A file of one that neither names is missing
    /// rightly.
    pub(super) async fn name(&self, snapshot: SnapshotId) -> Result<bool, RestoreError> {
        if self
            .pointer()
            .await?
            .is_some_and(|pointer| pointer.retains(snapshot))
        {
            return Ok(true);
        }
        let certificate = self.certificate().await?;
        Ok(certificate.is_some_and(|certificate| certificate.names(snapshot)))
    }
}
