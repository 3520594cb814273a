//! `docs/repository-format.md` is enough to write a reader: the one in `integration-tests/reader`, in Python and without a
//! line of the project's code, says of repositories that the library made what the library says of them.

mod document;
mod made;

use anyhow::{Context, ensure};
use made::{Made, P0, P1, PARTITIONS, Reading};
use serde_json::{Value, json};
use snapshot_store::{
    CheckLevel, Incarnation, IncarnationId, Lsn, NoProgress, PartitionId,
    format::{Keys, PointerEntry},
};
use snapshot_worker::core::{RestoreNeed, restore_candidates};
use std::collections::{BTreeMap, BTreeSet};

/// Kind and key of what is wrong.
type Faults = BTreeSet<(String, String)>;

impl Reading {
    fn faults(&self) -> anyhow::Result<Faults> {
        let faults = self.json["faults"].as_array().context("no list of faults")?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let fault = |fault: &Value| Some((text(&fault["kind"])?, text(&fault["key"])?));
        let faults: Option<_> = faults.iter().map(fault).collect();
        faults.context("a fault without kind or key")
    }
}

/// The fields of `snapshot` that the reader shows, as the library knows them.
fn same_fields(snapshot: &Value, entry: &PointerEntry) -> anyhow::Result<()> {
    let known = serde_json::to_value(entry)?;
    for field in [
        "snapshot_id",
        "incarnation",
        "lsn",
        "path",
        "files",
        "bytes_total",
        "manifest_hash",
    ] {
        ensure!(
            snapshot[field] == known[field] && !known[field].is_null(),
            "{field}: {snapshot} and {known}"
        );
    }
    Ok(())
}

fn words(list: &Value) -> anyhow::Result<BTreeSet<&str>> {
    let list = list.as_array().context("not a list")?.iter().map(Value::as_str);
    list.collect::<Option<_>>().context("not a list of texts")
}

#[tokio::test]
async fn the_reader_lists_what_the_library_knows() -> anyhow::Result<()> {
    let made = Made::new().await?;
    let read = made.read(&["list"])?;
    ensure!(read.code == Some(0) && read.faults()?.is_empty(), "{read:?}");
    ensure!(
        read.json["cluster"] == serde_json::to_value(&made.record.cluster)?,
        "{read:?}"
    );
    let base = made.repository.survey_base(PARTITIONS).await?;
    let strange: BTreeSet<_> = base.unknown.iter().map(|found| found.key.as_str()).collect();
    ensure!(
        words(&read.json["unknown"])? == strange && !strange.is_empty(),
        "{read:?}"
    );

    let mut states = BTreeSet::new();
    let partitions = read.json["partitions"].as_array().context("no partitions")?;
    ensure!(partitions.len() == PARTITIONS as usize, "{read:?}");
    for (found, number) in partitions.iter().zip(0..) {
        let partition = PartitionId::new(number);
        ensure!(found["partition"] == number, "{found}");
        let entries = match made.repository.pointer(partition).await? {
            Some(pointer) => pointer.value.snapshots,
            None => Vec::new(),
        };
        let snapshots = found["snapshots"].as_array().context("no snapshots")?;
        ensure!(snapshots.len() == entries.len(), "{found}");
        for (snapshot, entry) in snapshots.iter().zip(&entries) {
            same_fields(snapshot, entry)?;
        }
        let certificate = made.repository.certificate(partition).await?;
        let up_to = certificate.map(|certificate| certificate.value.up_to);
        ensure!(found["certified_up_to"] == json!(up_to), "{found}");
        let survey = made.repository.survey(partition).await?;
        let known = survey
            .directories
            .iter()
            .map(|known| json!({"directory": known.directory.to_string(), "state": known.state.as_str()}));
        ensure!(
            found["directories"] == known.collect::<Value>(),
            "{found} and {survey:?}"
        );
        states.extend(survey.directories.iter().map(|known| known.state.as_str()));
        let strange: BTreeSet<_> = survey.unknown.iter().map(|known| known.key.as_str()).collect();
        ensure!(words(&found["unknown"])? == strange, "{found} and {survey:?}");
    }
    ensure!(
        states == BTreeSet::from(["retained", "evicted", "unfinished"]),
        "the repository must have all of them: {states:?}"
    );
    Ok(())
}

#[tokio::test]
async fn the_reader_hashes_what_the_library_uploaded_and_copied() -> anyhow::Result<()> {
    let made = Made::new().await?;
    let read = made.read(&["verify"])?;
    ensure!(read.code == Some(0), "{read:?}");
    let snapshots = read.json["snapshots"].as_array().context("no snapshots")?;
    let mut expected = Vec::new();
    let mut copied = 0;
    for partition in [P0, P1] {
        for entry in made.pointer(partition).await?.snapshots {
            let manifest = made.repository.manifest(partition, &entry).await?;
            copied += manifest.bytes_copied;
            expected.push((partition, manifest));
        }
    }
    ensure!(copied > 0, "no file was copied inside the store");
    ensure!(snapshots.len() == expected.len(), "{read:?}");
    for (snapshot, (partition, manifest)) in snapshots.iter().zip(expected) {
        let hashes = manifest.files.iter().map(|file| (file.name.as_str(), file.hash));
        let hashes: BTreeMap<_, _> = hashes.collect();
        ensure!(snapshot["hashes"] == json!(hashes), "{snapshot}");
        ensure!(
            snapshot["partition"] == json!(partition) && snapshot["sound"] == true,
            "{snapshot}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn reader_and_library_find_the_same_restore_points() -> anyhow::Result<()> {
    let made = Made::new().await?;
    let pointer = made.pointer(P0).await?;
    let ours = made.incarnation(P0);
    let newer = Incarnation {
        generation: ours.generation + 1,
        ..ours
    };
    let rival = Incarnation {
        id: IncarnationId::from_bytes([9; 16]),
        ..ours
    };
    let mut found = Vec::new();
    for (incarnation, needed, applied) in [
        (ours, 0, None),
        (ours, 200, None),
        (ours, 300, None),
        (ours, 301, None),
        (ours, 100, Some(299)),
        (ours, 100, Some(300)),
        (newer, 0, None),
        (rival, 0, None),
    ] {
        let need = RestoreNeed {
            fingerprint: made.record.cluster.fingerprint,
            partition: P0,
            incarnation,
            trim_point: Lsn::new(needed),
            applied_lsn: applied.map(Lsn::new),
            damaged: &BTreeSet::new(),
        };
        let candidates = restore_candidates(Some(&pointer), None, &need);
        let expected = candidates.as_ref().ok().and_then(|known| known.entries.first());

        let (needed, incarnation) = (needed.to_string(), incarnation.to_string());
        let applied = applied.map(|applied: u64| applied.to_string());
        let mut asked = vec!["--needed", &needed, "--incarnation", &incarnation];
        asked.extend(applied.iter().flat_map(|applied| ["--applied", applied]));
        let read = made.restore_point(P0, &asked)?;
        match expected {
            Some(entry) => same_fields(&read.json["restore_point"], entry)?,
            None => ensure!(read.json["restore_point"].is_null(), "{asked:?}: {read:?}"),
        }
        ensure!(
            read.code == Some(i32::from(expected.is_none())),
            "{asked:?}: {read:?}"
        );
        let refused = read.faults()?.iter().any(|(kind, _)| kind == "wrong-incarnation");
        ensure!(refused == candidates.is_err(), "{asked:?}: {read:?}");
        found.push(expected.map(|entry| entry.lsn.get()));
    }
    ensure!(
        found == [Some(300), Some(300), Some(300), None, Some(300), None, None, None],
        "{found:?}"
    );
    Ok(())
}

/// What the library finds in the newest snapshot of the first partition, as the reader must find it.
async fn expect_damage(made: &Made, kind: &str, key: &str) -> anyhow::Result<()> {
    let entry = made.pointer(P0).await?.snapshots.remove(0);
    let (cluster, level) = (&made.record.cluster, CheckLevel::Content);
    let check = made
        .repository
        .check_snapshot(cluster, P0, &entry, level, &NoProgress);
    let known = check.await?.anomalies;
    let known: Faults = known
        .into_iter()
        .map(|known| (known.kind.to_string(), known.key))
        .collect();
    let expected = Faults::from([(kind.to_owned(), key.to_owned())]);
    ensure!(known == expected, "the library finds {known:?}");
    let read = made.read(&["verify"])?;
    ensure!(
        read.code == Some(1) && read.faults()? == expected,
        "{kind} at {key}: {read:?}"
    );

    // The next older one is the restore point, as long as it covers what is needed.
    let read = made.restore_point(P0, &["--needed", "200"])?;
    ensure!(
        read.code == Some(0) && read.json["restore_point"]["lsn"] == 200,
        "{read:?}"
    );
    let damaged = &read.json["damaged"][entry.path.to_string()][0];
    ensure!(damaged["kind"] == kind && damaged["key"] == key, "{read:?}");
    let read = made.restore_point(P0, &["--needed", "201"])?;
    ensure!(
        read.code == Some(1) && read.json["restore_point"].is_null(),
        "{read:?}"
    );
    Ok(())
}

#[tokio::test]
async fn damage_has_the_same_name_and_the_next_older_snapshot_is_taken() -> anyhow::Result<()> {
    let made = Made::new().await?;
    let entry = made.pointer(P0).await?.snapshots.remove(0);
    let file = Keys::file(P0, &entry.path, "000007.sst");
    let manifest = Keys::manifest(P0, &entry.path);
    let mut bytes = std::fs::read(made.path(&file))?;
    bytes[4_000] ^= 1;
    made.write(&file, &bytes)?;
    expect_damage(&made, "wrong-hash", &file).await?;
    bytes.pop();
    made.write(&file, &bytes)?;
    expect_damage(&made, "wrong-size", &file).await?;
    std::fs::remove_file(made.path(&file))?;
    expect_damage(&made, "missing-file", &file).await?;

    let made = Made::new().await?;
    let entry = made.pointer(P0).await?.snapshots.remove(0);
    let changed = Keys::manifest(P0, &entry.path);
    ensure!(changed != manifest, "every repository draws ids of its own");
    made.edit(&changed, |text| {
        text.replace("\"log_bytes\": ", "\"log_bytes\": 1")
    })?;
    expect_damage(&made, "wrong-hash", &changed).await?;
    std::fs::remove_file(made.path(&changed))?;
    expect_damage(&made, "missing-manifest", &changed).await
}

#[tokio::test]
async fn a_newer_format_is_refused_by_name() -> anyhow::Result<()> {
    let bump = |text: &str| text.replacen("\"format\": 1", "\"format\": 2", 1);
    for key in [Keys::CLUSTER.to_owned(), Keys::pointer(P0), Keys::certificate(P0)] {
        let made = Made::new().await?;
        made.edit(&key, bump)?;
        let expected = Faults::from([("newer-format".to_owned(), key.clone())]);
        for command in ["list", "verify"] {
            let read = made.read(&[command])?;
            ensure!(read.code == Some(1) && read.faults()? == expected, "{read:?}");
            let detail = read.json["faults"][0]["detail"].as_str().context("no detail")?;
            ensure!(
                detail.contains("format 2") && detail.contains("up to 1"),
                "{detail}"
            );
        }
        // A certificate is of no concern to a restore; what lies under a newer pointer is not looked at.
        let read = made.restore_point(P0, &["--needed", "0"])?;
        let concerned = key != Keys::certificate(P0);
        ensure!(read.code == Some(i32::from(concerned)), "{key}: {read:?}");
    }
    let made = Made::new().await?;
    let key = made.edit_manifest(bump).await?;
    expect_damage(&made, "newer-format", &key).await
}

#[tokio::test]
async fn fields_of_a_later_version_are_passed_over() -> anyhow::Result<()> {
    let made = Made::new().await?;
    let before = [made.read(&["list"])?, made.read(&["verify"])?];
    let later = |text: &str| {
        // Into every object that may get new fields: the document, and the members of its lists.
        let text = text.replacen("{\n", "{\n  \"zz_later\": [{\"a\": 1}],\n", 1);
        text.replace("\n    {\n", "\n    {\n      \"zz_later\": null,\n")
    };
    for key in [Keys::CLUSTER.to_owned(), Keys::pointer(P0), Keys::certificate(P0)] {
        made.edit(&key, later)?;
    }
    for (before, after) in before
        .iter()
        .zip([made.read(&["list"])?, made.read(&["verify"])?])
    {
        ensure!(
            after.code == Some(0) && after.json == before.json,
            "{before:?} and {after:?}"
        );
    }
    made.edit_manifest(later).await?;
    let read = made.read(&["verify"])?;
    ensure!(read.code == Some(0), "{read:?}");
    let check = made.repository.check_partition(&made.record, P0).await?;
    ensure!(
        check.snapshots.len() == 3,
        "the library passes over them, too: {check:?}"
    );
    Ok(())
}
