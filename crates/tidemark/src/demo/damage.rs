//! The damage of the fallback scenario: one byte of a stored snapshot, while its partition is paused.

use super::{
    DemoError,
    scenario::{STEP_WITHIN, Stage, reason},
};
use crate::cluster::{ClusterError, Node, wait_for};
use snapshot_proto::v1::{PauseRequest, ReplicaStatus, ResumeRequest};
use snapshot_store::PartitionId;
use std::path::PathBuf;

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
        let answer = self.endpoints.admin().await?.pause(request).await;
        answer.map_err(|status| self.refused(&status))?;
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
        let answer = self.endpoints.admin().await?.resume(request).await;
        answer.map(drop).map_err(|status| self.refused(&status))
    }

    fn refused(&self, status: &tonic::Status) -> DemoError {
        let url = self.endpoints.url(Node::Admin).to_owned();
        ClusterError::Unreachable {
            node: Node::Admin,
            url,
            detail: status.message().to_owned(),
        }
        .into()
    }

    /// Flips one byte in the largest file of the newest snapshot; returns its id and LSN.
    pub(super) async fn damage_newest(&self, partition: u32) -> Result<(String, u64), DemoError> {
        let failed = |error: String| DemoError::Bucket(format!("partition {partition}: {error}"));
        let pointer = self.repository.pointer(PartitionId::new(partition)).await;
        let pointer = pointer.map_err(|error| failed(error.to_string()))?;
        let newest = pointer.as_ref().and_then(|pointer| pointer.value.latest());
        let newest = newest.ok_or_else(|| failed("there is no snapshot".to_owned()))?;
        let folder = self
            .cluster
            .bucket_dir()
            .join(partition.to_string())
            .join(newest.path.to_string());
        let file = flip_a_byte(folder).map_err(|error| failed(error.to_string()))?;
        self.progress.say(format_args!(
            "flipped a byte in {} of partition {partition}'s newest snapshot, at {}",
            file.display(),
            newest.lsn
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

/// Flips a bit in the middle of the largest data file below `folder`.
fn flip_a_byte(folder: PathBuf) -> std::io::Result<PathBuf> {
    use std::io::{Error, Read, Seek, SeekFrom, Write};
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&folder)? {
        let entry = entry?;
        if entry.file_name() != "metadata.json" && entry.metadata()?.is_file() {
            files.push((entry.metadata()?.len(), entry.path()));
        }
    }
    let (length, path) = files
        .into_iter()
        .max()
        .ok_or_else(|| Error::other("the snapshot has no files"))?;
    let mut file = std::fs::File::options().read(true).write(true).open(&path)?;
    let mut byte = [0];
    file.seek(SeekFrom::Start(length / 2))?;
    file.read_exact(&mut byte)?;
    file.seek(SeekFrom::Start(length / 2))?;
    file.write_all(&[byte[0] ^ 0x10])?;
    file.sync_all()?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_of_the_largest_data_file_is_flipped() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
        write("metadata.json", &[0; 100]);
        write("000001.sst", &[0; 50]);
        write("CURRENT", &[0; 5]);
        let path = flip_a_byte(folder.path().to_owned()).unwrap();
        assert_eq!(path.file_name().unwrap(), "000001.sst");
        let bytes = std::fs::read(path).unwrap();
        assert_eq!(bytes.iter().filter(|byte| **byte != 0).count(), 1);
        assert_eq!(bytes.len(), 50);
    }
}
