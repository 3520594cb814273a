//! The seal of a repository that is moved, and the identity of the one it is moved or forked to.
//!
//! The seal is a pause of the whole cluster in the source's `control.json`, which names the destination. Every admin reads
//! it again before each trim, and orders no snapshots; so what is retained there stays, and hardly anything is added.

use super::{
    super::{
        Repository,
        error::StoreError,
        init::{InitError, check_name},
        read::check_owner,
    },
    CopyError, CopyFault,
};
use crate::{
    format::{Certificate, ClusterRecord, Control, Keys, Pause, PauseScope, Pointer, Unknown},
    vocabulary::{ClusterIdentity, Fingerprint, Incarnation, IncarnationId, PartitionId, WriteId},
};
use std::collections::BTreeMap;

impl Repository {
    /// Seals this repository as moved to `to`, unless it is already. Returns the control state in force.
    pub(super) async fn seal(
        &self,
        cluster: &ClusterIdentity,
        to: &str,
        by: &str,
    ) -> Result<Control, CopyError> {
        let seal = Pause {
            scope: PauseScope::Cluster,
            by: by.to_owned(),
            at: self.seams().clock.now(),
            reason: format!("moved to {to}"),
            moved_to: Some(to.to_owned()),
            unknown: Unknown::default(),
        };
        let control = self.update_control(cluster, |control| {
            if control.seal().is_none() {
                control.pauses.push(seal.clone());
            }
        });
        let control = control.await.map_err(CopyError::Source)?;
        match control.seal() {
            Some(found)
                if found
                    .moved_to
                    .as_deref()
                    .is_some_and(|before| same_place(before, to)) =>
            {
                Ok(control)
            }
            Some(found) => Err(CopyError::MovedElsewhere {
                to: found.moved_to.clone().unwrap_or_default(),
                by: found.by.clone(),
            }),
            None => Err(CopyError::Source(StoreError::Contended {
                key: Keys::CONTROL.to_owned(),
                tries: 1,
            })),
        }
    }

    /// Refuses a destination that is the source under another name, or holds something else than this very cluster.
    pub(super) async fn refuse_other_cluster(
        &self,
        record: &ClusterRecord,
        source: Option<&Control>,
    ) -> Result<(), CopyError> {
        let found = self.cluster().await.map_err(unusable)?;
        let occupied = |found: &ClusterRecord, what| CopyError::Occupied {
            found: found.cluster.clone(),
            what,
        };
        match &found {
            None => {
                return self
                    .refuse_if_in_use(Keys::CLUSTER)
                    .await
                    .map_err(CopyError::Destination);
            }
            Some(found) if found.cluster.fingerprint != record.cluster.fingerprint => {
                return Err(occupied(found, "not the one that is moved"));
            }
            Some(found)
                if found.incarnations != record.incarnations || found.partitions != record.partitions =>
            {
                return Err(occupied(found, "of the same fingerprint and another shape"));
            }
            Some(_) => {}
        }
        let control = self.control().await.map_err(unusable)?;
        match (control, source) {
            (Some(here), Some(there)) if here.value.write_id == there.write_id => Err(CopyError::Overlap {
                from: "the source".to_owned(),
                to: self.url().to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// Creates the identity of a moved cluster here, and the control state with what `source` holds besides its seal.
    pub(super) async fn adopt(&self, record: &ClusterRecord, source: &Control) -> Result<(), CopyError> {
        self.create_folder().await.map_err(CopyError::Destination)?;
        self.ensure_capable().await.map_err(unusable)?;
        self.refuse_other_cluster(record, Some(source)).await?;
        if self.cluster().await.map_err(unusable)?.is_none() {
            let in_force = self
                .create_cluster(record.clone())
                .await
                .map_err(CopyError::Destination)?;
            check_owner(Keys::CLUSTER, &in_force.cluster, &record.cluster).map_err(unusable)?;
        }
        let control = Control {
            write_id: WriteId::new(self.seams().ulid()),
            pauses: without_seal(source),
            ..source.clone()
        };
        self.create_control(control)
            .await
            .map_err(CopyError::Destination)?;
        Ok(())
    }

    /// Adds the pauses and holds of `source` that are not here to the control state here: those that came up since it was
    /// first copied. What was lifted here meanwhile comes back; that holds too much for a while, never too little.
    pub(super) async fn carry_control(&self, source: &Control) -> Result<(), CopyFault> {
        let added = self.update_control(&source.cluster, |control| {
            for pause in without_seal(source) {
                if !control.pauses.iter().any(|found| found.scope == pause.scope) {
                    control.pauses.push(pause);
                }
            }
            for hold in &source.holds {
                if !control
                    .holds_of(hold.partition)
                    .any(|found| found.reason == hold.reason)
                {
                    control.holds.push(hold.clone());
                }
            }
        });
        added.await.map(drop).map_err(CopyFault::Destination)
    }

    /// Returns the identity of the fork of `source` here, which is created where nothing is.
    pub(super) async fn adopt_fork(
        &self,
        source: &Repository,
        record: &ClusterRecord,
        name: Option<&str>,
    ) -> Result<ClusterRecord, CopyError> {
        self.create_folder().await.map_err(CopyError::Destination)?;
        let found = match self.cluster().await.map_err(unusable)? {
            Some(found) => found,
            None => {
                let name = name.ok_or(CopyError::Nameless)?;
                check_name(name).map_err(CopyError::Destination)?;
                self.ensure_capable().await.map_err(unusable)?;
                self.refuse_if_in_use(Keys::CLUSTER)
                    .await
                    .map_err(CopyError::Destination)?;
                let drawn = self.draw_fork(source, record, name).await?;
                self.create_cluster(drawn).await.map_err(CopyError::Destination)?
            }
        };
        let occupied = |what| CopyError::Occupied {
            found: found.cluster.clone(),
            what,
        };
        if found.cluster.fingerprint == record.cluster.fingerprint {
            return Err(CopyError::SameCluster {
                cluster: found.cluster,
            });
        }
        let origin = found.forked_from.as_ref().map(|origin| origin.fingerprint);
        if origin != Some(record.cluster.fingerprint) {
            return Err(occupied("no fork of the source"));
        }
        if name.is_some_and(|name| name != found.cluster.name) {
            return Err(occupied("a fork of the source under another name"));
        }
        let control = Control::empty(found.cluster.clone(), WriteId::new(self.seams().ulid()));
        self.create_control(control)
            .await
            .map_err(CopyError::Destination)?;
        Ok(found)
    }

    /// Draws the identity of a fork: each log lives one generation after all that is found of it at the source.
    async fn draw_fork(
        &self,
        source: &Repository,
        record: &ClusterRecord,
        name: &str,
    ) -> Result<ClusterRecord, CopyError> {
        let entropy = &self.seams().entropy;
        let mut incarnations = BTreeMap::new();
        let looks = (0..record.partitions).map(PartitionId::new);
        let looks = looks
            .map(|partition| async move { (partition, source.highest_generation(record, partition).await) });
        for (partition, highest) in super::a_few_at_once(looks.collect()).await {
            let next = Incarnation {
                generation: highest?.saturating_add(1),
                id: IncarnationId::from_bytes(entropy.bytes_16()),
            };
            incarnations.insert(partition, next);
        }
        Ok(ClusterRecord {
            cluster: ClusterIdentity {
                name: name.to_owned(),
                fingerprint: Fingerprint::from_bytes(entropy.bytes_16()),
            },
            partitions: record.partitions,
            key_hash: record.key_hash,
            incarnations,
            created_at: self.seams().clock.now(),
            forked_from: Some(record.cluster.clone()),
            unknown: Unknown::default(),
        })
    }

    /// Returns the highest generation found of a partition: in the identity, its pointer, its certificate and, where one of them
    /// cannot be understood, the names of its directories.
    async fn highest_generation(
        &self,
        record: &ClusterRecord,
        partition: PartitionId,
    ) -> Result<u64, CopyError> {
        let first = record.incarnations.get(&partition);
        let mut highest = first.map_or(0, |incarnation| incarnation.generation);
        let mut unclear = false;
        let mut note = |found: Result<Option<u64>, StoreError>| match found {
            Ok(found) => {
                highest = highest.max(found.unwrap_or(0));
                Ok(())
            }
            Err(StoreError::Unusable(_)) => {
                unclear = true;
                Ok(())
            }
            Err(error) => Err(CopyError::Source(error)),
        };
        let of_pointer = |pointer: &Pointer| Some(pointer.latest()?.incarnation.generation);
        let of_certificate = |certificate: &Certificate| certificate.incarnation.generation;
        let pointer = self.pointer(partition).await;
        note(pointer.map(|found| found.and_then(|found| of_pointer(&found.value))))?;
        let certificate = self.certificate(partition).await;
        note(certificate.map(|found| found.map(|found| of_certificate(&found.value))))?;
        if unclear {
            let inventory = self.inventory(partition).await.map_err(CopyError::Source)?;
            let generations = inventory.directories.keys().map(|directory| directory.generation);
            highest = highest.max(generations.max().unwrap_or(0));
        }
        Ok(highest)
    }
}

/// Returns the pauses that hold for the cluster wherever it is.
fn without_seal(control: &Control) -> Vec<Pause> {
    let pauses = control.pauses.iter().filter(|pause| pause.moved_to.is_none());
    pauses.cloned().collect()
}

/// Returns whether two URLs differ at most by a slash at the end.
fn same_place(one: &str, other: &str) -> bool {
    one.trim_end_matches('/') == other.trim_end_matches('/')
}

fn unusable(error: StoreError) -> CopyError {
    CopyError::Destination(InitError::Store(error))
}
