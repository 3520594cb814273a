//! `snapshots copy` and `snapshots restore` between folders and onto an S3 server.

use crate::bucket::{Answer, Bucket, P0};
use anyhow::{Context, ensure};
use integration_tests::{
    binary,
    s3_server::{Locking, S3Server},
};
use serde_json::Value;
use snapshot_store::{
    Repository, Seams, StoreOptions,
    format::{Keys, PauseScope},
};
use snapshot_worker::processor::{RocksEngine, RocksOptions, inspect_state};
use std::{path::Path, process::Command};
use tidemark::kv::machine::KvMachine;

/// Runs `tidemark snapshots ARGS`; everything it needs stands in them.
fn snapshots(args: &[&str]) -> anyhow::Result<Answer> {
    let output = Command::new(binary()?)
        .args(["--output", "json", "snapshots"])
        .args(args)
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    let json = match text.lines().count() {
        // A wrong call says so on the standard error alone.
        0 => Value::String(errors.into_owned()),
        1 => serde_json::from_str(&text)?,
        _ => anyhow::bail!("{args:?}: {text}\n{errors}"),
    };
    Ok(Answer {
        code: output.status.code(),
        json,
    })
}

fn outcomes(answer: &Answer) -> Vec<&str> {
    let partitions = answer.json["partitions"].as_array().into_iter().flatten();
    partitions.filter_map(|one| one["outcome"].as_str()).collect()
}

/// Checks that the folder is the state of the first partition at `lsn`.
fn assert_state(folder: &Path, lsn: u64, digest: &Value) -> anyhow::Result<()> {
    let engine = RocksEngine::new(&RocksOptions::default())?;
    let facts = inspect_state(&engine, &KvMachine, folder)?;
    let found = facts.state_digest.context("a digest")?.to_string();
    ensure!(facts.lsn.get() == lsn, "{facts:?}");
    ensure!(digest.as_str() == Some(found.as_str()), "{digest} and {found}");
    Ok(())
}

#[tokio::test]
async fn a_cluster_moves_from_folder_to_folder() -> anyhow::Result<()> {
    let bucket = Bucket::new().await?;
    let there = format!("file://{}", bucket.dir.path().join("there").display());
    let source = bucket.repository.url().to_owned();
    let moved = snapshots(&["copy", &source, &there, "--move", "--by", "ann"])?;
    ensure!(moved.code == Some(0), "{moved:?}");
    ensure!(outcomes(&moved) == ["copied", "no-snapshot"], "{moved:?}");
    let found = &moved.json["partitions"][0]["snapshots"];
    ensure!(found[0]["lsn"] == 100 && found[1]["lsn"] == 200, "{moved:?}");
    ensure!(moved.json["seal"]["moved_to"] == there.as_str(), "{moved:?}");

    // The source is sealed: nothing is deleted there any more.
    let control = bucket.repository.control().await?.context("control.json")?.value;
    let seal = control.seal().context("a seal")?;
    ensure!(seal.by == "ann" && seal.scope == PauseScope::Cluster, "{seal:?}");
    let refused = bucket.snapshots(&["sweep", "--delete"])?;
    ensure!(refused.code == Some(1), "{refused:?}");

    let again = snapshots(&["copy", &source, &there, "--move"])?;
    ensure!(
        again.code == Some(0) && again.json["nothing_to_do"] == true,
        "{again:?}"
    );
    let verified = snapshots(&["verify", "--level", "restore", "--store", &there])?;
    ensure!(verified.code == Some(0), "{verified:?}");
    let same = |key: &str| -> anyhow::Result<bool> {
        let there = bucket.dir.path().join("there").join(key);
        Ok(std::fs::read(bucket.path(key))? == std::fs::read(there)?)
    };
    ensure!(same(Keys::CLUSTER)?);
    for entry in bucket.pointer().await?.snapshots {
        ensure!(same(&Keys::manifest(P0, &entry.path))?);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_forked_onto_an_s3_server_and_its_snapshot_is_looked_into() -> anyhow::Result<()> {
    let bucket = Bucket::new().await?;
    let disk = tempfile::tempdir()?;
    let server = S3Server::start("127.0.0.1:0", disk.path(), "clones", Locking::Atomic).await?;
    let there = "s3://clones/shop";
    let options: Vec<String> = server
        .options()
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let with_options = |flag: &'static str, args: &[&str]| -> anyhow::Result<Answer> {
        let options = options.iter().flat_map(|option| [flag, option.as_str()]);
        let args: Vec<&str> = args.iter().copied().chain(options).collect();
        snapshots(&args)
    };
    let source = bucket.repository.url().to_owned();
    let nameless = with_options("--dst-option", &["copy", &source, there, "--fork"])?;
    ensure!(nameless.code == Some(1), "{nameless:?}");
    let fork = ["copy", &source, there, "--fork", "--name", "clone", "--at", "150"];
    let forked = with_options("--dst-option", &fork)?;
    ensure!(
        forked.code == Some(3),
        "the second partition has no snapshot: {forked:?}"
    );
    ensure!(outcomes(&forked) == ["copied", "no-snapshot"], "{forked:?}");
    ensure!(
        forked.json["cluster"]["name"] == "clone" && forked.json["seal"].is_null(),
        "{forked:?}"
    );
    ensure!(
        forked.json["partitions"][0]["snapshots"][0]["lsn"] == 100,
        "{forked:?}"
    );
    let first = ["copy", &source, there, "--fork", "--partitions", "0"];
    let again = with_options("--dst-option", &first)?;
    ensure!(
        again.code == Some(0) && again.json["nothing_to_do"] == true,
        "{again:?}"
    );

    let clone = Repository::open_with(there, &StoreOptions::for_client(server.options()), Seams::real())?;
    let entry = clone
        .pointer(P0)
        .await?
        .context("a pointer")?
        .value
        .snapshots
        .remove(0);
    let manifest = clone.manifest(P0, &entry).await?;
    let origin = manifest.origin.context("an origin")?;
    ensure!(origin.cluster == bucket.record.cluster, "{origin:?}");
    ensure!(manifest.incarnation.generation == 2);
    let verified = with_options("--store-option", &["verify", "--store", there])?;
    ensure!(verified.code == Some(0), "{verified:?}");

    let folder = disk.path().join("look/here");
    let to = folder.to_str().context("a path")?;
    let restore = ["restore", "0", "--store", there, "--to", to];
    let restored = with_options("--store-option", &restore)?;
    ensure!(
        restored.code == Some(0) && restored.json["format"] == "rocksdb",
        "{restored:?}"
    );
    assert_state(&folder, 100, &restored.json["state_digest"])?;
    let refused = with_options("--store-option", &restore)?;
    ensure!(refused.code == Some(1), "the folder is not empty: {refused:?}");
    Ok(())
}

#[tokio::test]
async fn restore_takes_what_it_was_told_to_and_nothing_else() -> anyhow::Result<()> {
    let bucket = Bucket::new().await?;
    let folder = bucket.dir.path().join("look");
    std::fs::create_dir(&folder)?;
    let to = folder.to_str().context("a path")?;
    let missing = bucket.snapshots(&["restore", "0", "--to", to, "--at", "99"])?;
    ensure!(missing.code == Some(1), "{missing:?}");
    let said = missing.json["error"].as_str().unwrap_or_default();
    ensure!(said.contains("200, 100"), "{said}");

    let entries = bucket.pointer().await?.snapshots;
    let current = Keys::file(P0, &entries[0].path, "CURRENT");
    bucket.write(&current, "MANIFEST-000000\n")?;
    let damaged = bucket.snapshots(&["restore", "0", "--to", to])?;
    ensure!(damaged.code == Some(1), "{damaged:?}");
    ensure!(
        damaged.json["anomalies"][0]["key"] == current.as_str(),
        "{damaged:?}"
    );
    ensure!(damaged.json["older"]["lsn"] == 100, "{damaged:?}");
    let beside = std::fs::read_dir(bucket.dir.path())?.count();
    ensure!(
        std::fs::read_dir(&folder)?.count() == 0 && beside == 2,
        "nothing of the damaged one is left"
    );

    let older = entries[1].snapshot_id.to_string();
    let restored = bucket.snapshots(&["restore", "0", "--to", to, "--snapshot", &older])?;
    ensure!(restored.code == Some(0), "{restored:?}");
    assert_state(&folder, 100, &restored.json["state_digest"])
}

#[tokio::test]
async fn wrong_calls_change_nothing_and_say_what_is_wrong() -> anyhow::Result<()> {
    let bucket = Bucket::new().await?;
    let source = bucket.repository.url().to_owned();
    let other = Bucket::new().await?;
    let there = format!("file://{}", bucket.dir.path().join("there").display());
    for (args, code, word) in [
        (vec!["copy", &source, &source, "--move"], 1, "same place"),
        (
            vec!["copy", &source, other.repository.url(), "--move"],
            1,
            "another URL",
        ),
        (
            vec!["copy", &source, other.repository.url(), "--fork", "--name", "a"],
            1,
            "another URL",
        ),
        (
            vec!["copy", &source, &there, "--move", "--partitions", "0-7"],
            1,
            "no partition",
        ),
        (
            vec!["copy", &source, &there, "--move", "--partitions", "7-0"],
            2,
            "range",
        ),
        (vec!["copy", &source, &there, "--move", "--at", "5"], 2, "--move"),
        (
            vec!["copy", "file:///nowhere/at/all", &source, "--move"],
            1,
            "nowhere",
        ),
    ] {
        let refused = snapshots(&args)?;
        ensure!(refused.code == Some(code), "{args:?}: {refused:?}");
        ensure!(refused.json.to_string().contains(word), "{args:?}: {refused:?}");
    }
    let control = bucket.repository.control().await?.context("control.json")?.value;
    ensure!(control.seal().is_none());
    ensure!(!bucket.dir.path().join("there").exists());
    Ok(())
}
