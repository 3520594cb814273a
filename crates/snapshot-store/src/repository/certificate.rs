//! Writing the certificate of a trim, `<partition>/trim.json`, before the trim.
//!
//! 1. Read the certificate in force. Only if `(generation, up_to)` grows, replace it by a conditional put. A crash
//!    after it leaves a certificate above the trim point, which entitles any admin to trim to it.
//!
//! Any error of the put is unclear, so the certificate is read again: own write id means done, another one means that
//! another admin was faster and this one does not trim.

use super::{Repository, Versioned, error::StoreError, request::PutFault};
use crate::{
    format::{Certificate, CertifiedSnapshot, Keys, Stored, Unknown},
    vocabulary::{ClusterIdentity, Incarnation, Lineage, Lsn, NodeId, PartitionId, WriteId},
};

/// How often the put is tried: only unclear answers need another try, a lost race ends it.
const WRITE_TRIES: usize = 4;

/// What a certificate is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateDraft {
    /// The cluster it belongs to.
    pub cluster: ClusterIdentity,
    /// The partition.
    pub partition: PartitionId,
    /// The log it speaks of.
    pub incarnation: Incarnation,
    /// Highest LSN that may be trimmed, inclusive.
    pub up_to: Lsn,
    /// The snapshots it rests on, newest first; at least one.
    pub snapshots: Vec<CertifiedSnapshot>,
    /// The admin that issues it.
    pub issued_by: NodeId,
}

/// Why no certificate was written. The caller does not trim.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Another admin wrote one that this one does not grow over.
    #[error("partition {partition}: {issued_by} already certified up to {in_force}")]
    LostRace {
        /// The partition.
        partition: PartitionId,
        /// Up to where the certificate in force goes.
        in_force: Lsn,
        /// Who issued it.
        issued_by: NodeId,
    },
    /// The certificate in force is of a newer or conflicting life of the log.
    #[error("{key} is of incarnation {found}, not of {ours}")]
    Incarnation {
        /// The object.
        key: String,
        /// Incarnation found.
        found: Incarnation,
        /// Our own.
        ours: Incarnation,
    },
    /// The draft breaks the rule it is to attest: it rests on no snapshot, or on one below `up_to`.
    #[error("partition {partition}: a certificate up to {up_to} must rest on snapshots at or above it")]
    Unfounded {
        /// The partition.
        partition: PartitionId,
        /// Up to where it was to go.
        up_to: Lsn,
    },
    /// The store did not answer, or holds something else.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Repository {
    /// Writes the certificate of a trim, only if `(generation, up_to)` grows.
    ///
    /// # Errors
    /// See [`CertificateError`]; after any of them the caller does not trim.
    pub async fn write_certificate(
        &self,
        draft: CertificateDraft,
    ) -> Result<Versioned<Certificate>, CertificateError> {
        let founded =
            !draft.snapshots.is_empty() && draft.snapshots.iter().all(|snapshot| snapshot.lsn >= draft.up_to);
        if !founded {
            return Err(CertificateError::Unfounded {
                partition: draft.partition,
                up_to: draft.up_to,
            });
        }
        let certificate = Certificate {
            cluster: draft.cluster,
            partition: draft.partition,
            incarnation: draft.incarnation,
            write_id: WriteId::new(self.seams().ulid()),
            up_to: draft.up_to,
            snapshots: draft.snapshots,
            issued_by: draft.issued_by,
            issued_at: self.seams().clock.now(),
            unknown: Unknown::default(),
        };
        self.put_certificate(certificate).await
    }

    /// Writes `certificate`, whose write id nobody else has, only if `(generation, up_to)` grows.
    pub(super) async fn put_certificate(
        &self,
        certificate: Certificate,
    ) -> Result<Versioned<Certificate>, CertificateError> {
        self.ensure_capable().await?;
        let key = Keys::certificate(certificate.partition);
        let bytes = certificate.encode();
        let mut unclear = None;
        for tries in 1..=WRITE_TRIES {
            let current = self.certificate(certificate.partition).await?;
            if let Some(current) = current.as_ref()
                && current.value.write_id == certificate.write_id
            {
                return Ok(current.clone());
            }
            check_growth(&key, current.as_ref().map(|current| &current.value), &certificate)?;
            match self
                .put_if(&key, bytes.clone(), current.map(|current| current.version))
                .await
            {
                Ok(version) => {
                    return Ok(Versioned {
                        value: certificate,
                        version,
                    });
                }
                Err(error) => match PutFault::of(&key, error) {
                    PutFault::Lost => {}
                    PutFault::Unclear(source) => unclear = Some(source),
                    PutFault::Refused(error) => return Err(error.into()),
                },
            }
            self.pause(tries).await;
        }
        match (self.certificate(certificate.partition).await?, unclear) {
            (Some(current), _) if current.value.write_id == certificate.write_id => Ok(current),
            (_, Some(source)) => Err(StoreError::Indeterminate { key, source }.into()),
            (_, None) => Err(StoreError::Contended {
                key,
                tries: WRITE_TRIES,
            }
            .into()),
        }
    }
}

fn check_growth(
    key: &str,
    current: Option<&Certificate>,
    ours: &Certificate,
) -> Result<(), CertificateError> {
    let Some(current) = current else { return Ok(()) };
    super::read::check_owner(key, &current.cluster, &ours.cluster)?;
    match current.incarnation.compared_to(&ours.incarnation) {
        Lineage::Older => Ok(()),
        Lineage::Same if current.up_to < ours.up_to => Ok(()),
        Lineage::Same => Err(CertificateError::LostRace {
            partition: ours.partition,
            in_force: current.up_to,
            issued_by: current.issued_by.clone(),
        }),
        Lineage::Newer | Lineage::Conflict => Err(CertificateError::Incarnation {
            key: key.to_owned(),
            found: current.incarnation,
            ours: ours.incarnation,
        }),
    }
}
