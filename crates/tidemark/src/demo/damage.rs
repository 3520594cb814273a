//! The damage of the fallback scenario: one bit of a stored snapshot, while its partition is paused.

use super::{
    DemoError,
    scenario::{STEP_WITHIN, Stage, reason},
};
use crate::{
    cluster::{Node, wait_for},
    wire_security::SecuredChannel,
};
use object_store::{ObjectStore, ObjectStoreExt as _, path::Path as StorePath};
use snapshot_proto::v1::{
    PauseRequest, ReplicaStatus, ResumeRequest, admin_service_client::AdminServiceClient,
};
use snapshot_store::{PartitionId, format::Keys, open_store};

impl Stage<'_> {
    /// Returns a partition whose writes do not depend on `node`.
    pub(super) async fn partition_led_elsewhere(&self, node: Node) -> Result<u32, DemoError> {
        let name = node.to_string();
        let partition = wait_for("a partition that another worker leads", STEP_WITHIN, async || {
            let status = self
                .endpoints
                .cluster_status()
                .await
                .map_err(|error| error.to_string())?;
            let elsewhere = |view: &&snapshot_proto::v1::PartitionView| {
                view.leader.as_ref().is_some_and(|leader| leader.node != name) && view.snapshots.len() >= 2
            };
            status
                .partitions
                .iter()
                .find(elsewhere)
                .map(|view| view.partition)
                .ok_or_else(|| "none".to_owned())
        })
        .await?;
        Ok(partition)
    }

    /// Makes the admin leave `partition` alone, so that no newer snapshot takes the place of the damaged one, and
    /// waits until none is being made.
    pub(super) async fn pause(&self, partition: u32) -> Result<(), DemoError> {
        self.progress.say(format_args!("pausing partition {partition}"));
        let request = PauseRequest {
            partition: Some(partition),
            by: "demo".to_owned(),
            reason: "the newest snapshot is about to be damaged".to_owned(),
        };
        self.ask_admin("the admin to pause the partition", async |mut admin| {
            admin.pause(request.clone()).await.map(drop)
        })
        .await?;
        let mut idle = 0;
        wait_for(
            "no snapshot of the paused partition to be in the making",
            STEP_WITHIN,
            async || {
                for worker in 1..=self.endpoints.workers() {
                    let status = self
                        .endpoints
                        .worker_status(worker)
                        .await
                        .map_err(|error| error.to_string())?;
                    let exporting =
                        |replica: &ReplicaStatus| replica.partition == partition && replica.export.is_some();
                    if status.partitions.iter().any(exporting) {
                        idle = 0;
                        return Err(format!("{} makes one", status.node));
                    }
                }
                idle += 1;
                // A request that was already on its way shows up within a few looks.
                if idle >= 8 {
                    Ok(())
                } else {
                    Err("waiting for requests on their way".to_owned())
                }
            },
        )
        .await?;
        Ok(())
    }

    pub(super) async fn resume(&self, partition: u32) -> Result<(), DemoError> {
        let request = ResumeRequest {
            partition: Some(partition),
        };
        self.ask_admin("the admin to resume the partition", async |mut admin| {
            admin.resume(request).await.map(drop)
        })
        .await
    }

    /// Asks the admin that acts for something that can be repeated; again while none acts, because one of two is taking over.
    async fn ask_admin(
        &self,
        what: &str,
        request: impl AsyncFn(AdminServiceClient<SecuredChannel>) -> Result<(), tonic::Status>,
    ) -> Result<(), DemoError> {
        wait_for(what, STEP_WITHIN, async || {
            let admin = self.endpoints.admin().await;
            let answer = request(admin.map_err(|error| error.to_string())?).await;
            answer.map_err(|status| status.message().to_owned())
        })
        .await?;
        Ok(())
    }

    /// Flips one bit in the largest file of the newest snapshot; returns its id and LSN.
    pub(super) async fn damage_newest(&self, partition: u32) -> Result<(String, u64), DemoError> {
        let failed = |error: String| DemoError::Bucket(format!("partition {partition}: {error}"));
        let pointer = self.repository.pointer(PartitionId::new(partition)).await;
        let pointer = pointer.map_err(|error| failed(error.to_string()))?;
        let newest = pointer.as_ref().and_then(|pointer| pointer.value.latest());
        let newest = newest.ok_or_else(|| failed("there is no snapshot".to_owned()))?;
        let manifest = self
            .repository
            .manifest(PartitionId::new(partition), newest)
            .await;
        let manifest = manifest.map_err(|error| failed(error.to_string()))?;
        let largest = manifest.files.iter().max_by_key(|file| file.bytes);
        let file = largest.ok_or_else(|| failed("the newest snapshot has no files".to_owned()))?;
        let key = Keys::file(manifest.partition, &manifest.directory(), &file.name);
        let place = self.cluster.store();
        let opened = open_store(&place.url, &place.store_options());
        let (store, base) = opened.map_err(|error| failed(error.to_string()))?;
        let path = key.split('/').fold(base, StorePath::join);
        let damaged = flip_a_bit(&*store, &path).await;
        damaged.map_err(|error| failed(error.to_string()))?;
        self.progress.say(format_args!(
            "flipped a bit in {} of partition {partition}'s newest snapshot, at {}",
            file.name, newest.lsn
        ));
        Ok((newest.snapshot_id.to_string(), newest.lsn.get()))
    }

    /// Waits until the restorable snapshots are all newer than the damaged one, and verified.
    pub(super) async fn until_sound(&self, partition: u32, damaged_lsn: u64) -> Result<(), DemoError> {
        self.progress
            .say("waiting until sound snapshots have taken the place of the damaged one");
        wait_for(
            "sound snapshots in place of the damaged one",
            STEP_WITHIN,
            async || {
                let status = self
                    .endpoints
                    .cluster_status()
                    .await
                    .map_err(|error| error.to_string())?;
                let view = status.partitions.iter().find(|view| view.partition == partition);
                let view = view.ok_or_else(|| "the partition is not in the status".to_owned())?;
                match view.guard_lsn {
                    Some(guard) if guard > damaged_lsn => Ok(()),
                    guard => Err(format!(
                        "guard {guard:?}, damaged {damaged_lsn}; trim: {}; snapshot: {}",
                        reason(view.trim.as_ref()),
                        reason(view.snapshot.as_ref())
                    )),
                }
            },
        )
        .await?;
        Ok(())
    }
}

/// Flips a bit in the middle of the object at `path`.
async fn flip_a_bit(store: &dyn ObjectStore, path: &StorePath) -> object_store::Result<()> {
    let mut bytes = store.get(path).await?.bytes().await?.to_vec();
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 0x10;
    }
    store.put(path, bytes.into()).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot_store::StoreOptions;

    #[tokio::test]
    async fn one_bit_of_the_object_is_flipped_in_whatever_store() {
        let folder = tempfile::tempdir().unwrap();
        let in_folder = url::Url::from_file_path(folder.path()).unwrap();
        for url in [in_folder.as_str(), "memory://"] {
            let (store, base) = open_store(url, &StoreOptions::default()).unwrap();
            let path = base.clone().join("0").join("large.sst");
            store.put(&path, vec![0; 50].into()).await.unwrap();
            flip_a_bit(&*store, &path).await.unwrap();
            let bytes = store.get(&path).await.unwrap().bytes().await.unwrap();
            let ones: u32 = bytes.iter().map(|byte| byte.count_ones()).sum();
            assert_eq!((bytes.len(), ones), (50, 1), "{url}");
            assert!(flip_a_bit(&*store, &base.join("missing")).await.is_err());
        }
    }
}
