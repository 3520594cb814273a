//! Writing the lease, `admin/lease.json`: one conditional put against the read, or write, that came before it.
//!
//! Any error of the put is unclear, so the lease is read again: own write id means done, anything else that another
//! admin was faster. A write that lands later than that finds another version and does nothing.

use super::{Repository, Versioned, error::StoreError, read::check_owner, request::PutFault};
use crate::{
    format::{Keys, Lease, LeaseEpoch, Stored, Unknown},
    vocabulary::{AdminSession, ClusterIdentity, NodeId, WriteId},
};
use std::time::Duration;

/// Who writes a lease, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseClaim {
    /// The cluster it belongs to.
    pub cluster: ClusterIdentity,
    /// The admin.
    pub holder: NodeId,
    /// Its process.
    pub session: AdminSession,
    /// Where operators reach it, if that is known.
    pub address: Option<String>,
    /// How long the lease is to stand without being renewed.
    pub term: Duration,
}

/// What became of a write.
#[derive(Clone, Debug)]
pub enum LeaseWrite {
    /// It is in force.
    Written(Versioned<Lease>),
    /// Another one is in force, or none: it was decided on an old version.
    Lost(Option<Versioned<Lease>>),
}

impl Repository {
    /// Takes the lease for `claim`, if it still is `before`.
    ///
    /// # Errors
    /// When `cluster.json` or the lease belongs to another cluster; when the store fails or gave no clear answer.
    pub async fn take_lease(
        &self,
        claim: &LeaseClaim,
        before: Option<&Versioned<Lease>>,
    ) -> Result<LeaseWrite, StoreError> {
        match before {
            Some(before) => check_owner(Keys::LEASE, &before.value.cluster, &claim.cluster)?,
            // A wrong URL, or a folder that is not mounted, has no lease either.
            None => self.check_cluster(&claim.cluster).await?,
        }
        let old = before.map(|before| &before.value);
        let now = self.seams().clock.now();
        let next = Lease {
            cluster: claim.cluster.clone(),
            write_id: self.write_id(),
            epoch: old.map_or(LeaseEpoch::default(), |old| old.epoch).next(),
            holder: claim.holder.clone(),
            session: claim.session,
            address: claim.address.clone(),
            acquired_at: now,
            renewed_at: now,
            expires_at: now.plus(claim.term),
            given_up: false,
            unknown: old.map_or_else(Unknown::default, |old| old.unknown.clone()),
        };
        self.put_lease(next, before).await
    }

    /// Renews the caller's own lease, if it still is `held`.
    ///
    /// # Errors
    /// When the store fails or gave no clear answer.
    pub async fn renew_lease(
        &self,
        claim: &LeaseClaim,
        held: &Versioned<Lease>,
    ) -> Result<LeaseWrite, StoreError> {
        let now = self.seams().clock.now();
        let next = Lease {
            write_id: self.write_id(),
            address: claim.address.clone(),
            renewed_at: now,
            expires_at: now.plus(claim.term),
            ..held.value.clone()
        };
        self.put_lease(next, Some(held)).await
    }

    /// Gives the caller's own lease up, if it still is `held`.
    ///
    /// # Errors
    /// When the store fails or gave no clear answer.
    pub async fn give_up_lease(&self, held: &Versioned<Lease>) -> Result<LeaseWrite, StoreError> {
        let now = self.seams().clock.now();
        let next = Lease {
            write_id: self.write_id(),
            renewed_at: now,
            expires_at: now,
            given_up: true,
            ..held.value.clone()
        };
        self.put_lease(next, Some(held)).await
    }

    fn write_id(&self) -> WriteId {
        WriteId::new(self.seams().ulid())
    }

    async fn put_lease(
        &self,
        next: Lease,
        before: Option<&Versioned<Lease>>,
    ) -> Result<LeaseWrite, StoreError> {
        self.ensure_capable().await?;
        let expected = before.map(|before| before.version.clone());
        let error = match self.put_if(Keys::LEASE, next.encode(), expected).await {
            Ok(version) => {
                return Ok(LeaseWrite::Written(Versioned { value: next, version }));
            }
            Err(error) => error,
        };
        let found = self.lease().await?;
        match (found, PutFault::of(Keys::LEASE, error)) {
            (Some(found), _) if found.value.write_id == next.write_id => Ok(LeaseWrite::Written(found)),
            (found, PutFault::Lost) => Ok(LeaseWrite::Lost(found)),
            (_, PutFault::Refused(error)) => Err(error),
            (_, PutFault::Unclear(source)) => Err(StoreError::Indeterminate {
                key: Keys::LEASE.to_owned(),
                source,
            }),
        }
    }
}
