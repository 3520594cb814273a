//! `snapshots sweep` lists by default, deletes what may go when told to, and says why the rest stays.

use crate::bucket::{Answer, Bucket, P0};
use anyhow::{Context, ensure};
use snapshot_store::{
    PartitionId, WriteId,
    format::{Control, Keys, Pause, PauseScope, Stored, Unknown},
};
use std::collections::BTreeMap;

impl Answer {
    /// What became of each directory of the first partition, by LSN: deleted, may go, or why it stays.
    fn verdicts(&self) -> anyhow::Result<BTreeMap<u64, String>> {
        let directories = self.json["partitions"][0]["directories"].as_array();
        let verdict = |found: &serde_json::Value| {
            let word = match (found["deleted"].as_bool()?, found["reason"].as_str()) {
                (true, _) => "deleted",
                (false, None) => "may go",
                (false, Some(reason)) => reason,
            };
            Some((found["lsn"].as_u64()?, word.to_owned()))
        };
        let verdicts: Option<_> = directories
            .context("no directories")?
            .iter()
            .map(verdict)
            .collect();
        verdicts.context("a directory without a verdict")
    }
}

fn verdicts(expected: &[(u64, &str)]) -> BTreeMap<u64, String> {
    expected
        .iter()
        .map(|(lsn, word)| (*lsn, (*word).to_owned()))
        .collect()
}

/// Snapshots at 100 to 600, of which three are retained; a killed upload at 150, one that may run at 900, and notes.
async fn full_bucket() -> anyhow::Result<Bucket> {
    let bucket = Bucket::new().await?;
    for lsn in [300, 400, 500] {
        bucket.publish(lsn).await?;
    }
    bucket.certify(400).await?;
    bucket.publish(600).await?;
    for (lsn, file) in [(150, "000007.sst#1"), (900, "000007.sst")] {
        bucket.write(&format!("0/{}/{file}", bucket.directory(lsn)), "half a file")?;
    }
    bucket.write("0/notes.txt", "a note")?;
    bucket.write("notes/one.txt", "a note")?;
    Ok(bucket)
}

#[tokio::test]
async fn it_lists_first_and_deletes_only_what_may_go() -> anyhow::Result<()> {
    let bucket = full_bucket().await?;
    let stays = [
        (400, "retained"),
        (500, "retained"),
        (600, "retained"),
        (900, "not-below-pointer"),
    ];
    let gone = |word| [100, 150, 200, 300].map(|lsn| (lsn, word));
    let listed = bucket.snapshots(&["sweep"])?;
    ensure!(listed.code == Some(0), "{listed:?}");
    ensure!(
        listed.verdicts()? == verdicts(&[&gone("may go")[..], &stays].concat()),
        "{listed:?}"
    );
    let unknown: Vec<_> = listed.json["unknown"]
        .as_array()
        .context("a list")?
        .iter()
        .map(|found| &found["key"])
        .collect();
    ensure!(unknown == ["notes/", "0/notes.txt"], "{listed:?}");
    ensure!(
        bucket.snapshots(&["sweep"])?.json == listed.json,
        "listing changed something"
    );

    let deleted = bucket.snapshots(&["sweep", "--partition", "0", "--delete"])?;
    ensure!(deleted.code == Some(0), "{deleted:?}");
    ensure!(
        deleted.verdicts()? == verdicts(&[&gone("deleted")[..], &stays].concat()),
        "{deleted:?}"
    );
    ensure!(deleted.json["freed"] == listed.json["freed"], "{deleted:?}");
    let again = bucket.snapshots(&["sweep", "--delete"])?;
    ensure!(again.verdicts()? == verdicts(&stays), "{again:?}");
    ensure!(bucket.path("0/notes.txt").exists() && bucket.path("notes/one.txt").exists());
    let verified = bucket.snapshots(&["verify", "--level", "restore", "--partition", "0"])?;
    let snapshots = verified.json["snapshots"].as_array().context("a list")?;
    ensure!(
        snapshots.len() == 3 && verified.json["damage"] == 0,
        "{verified:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_paused_partition_is_not_deleted_from() -> anyhow::Result<()> {
    let bucket = full_bucket().await?;
    let mut control = Control::empty(
        bucket.record.cluster.clone(),
        WriteId::new(snapshot_store::Seams::real().ulid()),
    );
    control.pauses.push(Pause {
        scope: PauseScope::Partition(P0),
        by: "ann".to_owned(),
        at: snapshot_store::Seams::real().clock.now(),
        reason: "looking at it".to_owned(),
        moved_to: None,
        unknown: Unknown::default(),
    });
    bucket.write(Keys::CONTROL, control.encode())?;
    let refused = bucket.snapshots(&["sweep", "--delete"])?;
    ensure!(refused.code == Some(1), "{refused:?}");
    let error = refused.json["partitions"][0]["error"]
        .as_str()
        .context("no error")?;
    ensure!(
        error.contains("ann") && error.contains("tidemark resume"),
        "{error}"
    );
    ensure!(
        refused.json["partitions"][1]["error"].is_null(),
        "the other goes on: {refused:?}"
    );
    ensure!(refused.json["freed"]["directories"] == 0, "{refused:?}");
    bucket.remove(Keys::CONTROL)?;
    ensure!(
        bucket.snapshots(&["sweep", "--delete"])?.code == Some(1),
        "it may have held a pause"
    );
    ensure!(
        bucket.snapshots(&["sweep"])?.code == Some(0),
        "looking is always allowed"
    );
    Ok(())
}

#[tokio::test]
async fn an_unreadable_pointer_deletes_nothing_and_keeps_no_other_partition_waiting() -> anyhow::Result<()> {
    let bucket = full_bucket().await?;
    bucket.write(&Keys::pointer(P0), "{")?;
    let refused = bucket.snapshots(&["sweep", "--delete"])?;
    ensure!(refused.code == Some(1), "{refused:?}");
    ensure!(refused.json["partitions"][0]["error"].is_string(), "{refused:?}");
    let other = &refused.json["partitions"][1];
    ensure!(
        other["partition"] == PartitionId::new(1).get() && other["error"].is_null(),
        "{refused:?}"
    );
    Ok(())
}

#[tokio::test]
async fn the_present_generation_is_no_older_one() -> anyhow::Result<()> {
    let bucket = full_bucket().await?;
    let generation = bucket.incarnation().generation.to_string();
    let swept = bucket.snapshots(&["sweep", "--generation", &generation, "--delete"])?;
    ensure!(swept.json["freed"]["directories"] == 0, "{swept:?}");
    ensure!(swept.verdicts()?[&100] == "not-older", "{swept:?}");
    Ok(())
}
