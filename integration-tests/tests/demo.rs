//! `tidemark demo` as a user runs it, in a small size.

use anyhow::{Context, ensure};
use integration_tests::binary;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    io::Write,
    net::TcpStream,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};
use tidemark::cluster::wait_for;

const LINES: u32 = 6_000;
const PARTITIONS: usize = 4;

/// Writes a file with updates of a third as many keys, values of all JSON kinds; returns what must be there at the end.
fn write_input(path: &Path) -> anyhow::Result<(u64, String)> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    let mut last: BTreeMap<String, String> = BTreeMap::new();
    for number in 0..LINES {
        // A walk with steps that share no factor with the number of keys reaches all of them.
        let key = format!("key-{}", number * 7_919 % (LINES / 3));
        let (source, stored) = match number % 4 {
            0 => (format!("{{\"n\": {number},  \"t\": \"\\u00e9\"}}"), None),
            1 => (
                format!("\"text \\\"{number}\\\" \\u00e9\""),
                Some(format!("text \"{number}\" é")),
            ),
            2 => (format!("{number}.50e1"), None),
            _ => (format!("[{number}, null, true, \"{}\"]", "x".repeat(200)), None),
        };
        writeln!(file, "{{\"key\": \"{key}\", \"value\": {source}}}")?;
        last.insert(key, stored.unwrap_or(source));
    }
    file.flush()?;
    let mut hasher = blake3::Hasher::new();
    for text in last.iter().flat_map(|(key, value)| [key, value]) {
        hasher.update(&u32::try_from(text.len())?.to_be_bytes());
        hasher.update(text.as_bytes());
    }
    Ok((last.len() as u64, hasher.finalize().to_hex().to_string()))
}

async fn run(arguments: &[&str], within: Duration) -> anyhow::Result<Output> {
    let mut command = tokio::process::Command::new(binary()?);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    Ok(tokio::time::timeout(within, command.output())
        .await
        .context("the demo takes too long")??)
}

fn list<'a>(value: &'a Value, field: &str) -> anyhow::Result<&'a Vec<Value>> {
    value[field]
        .as_array()
        .with_context(|| format!("{field} is not a list: {value}"))
}

#[tokio::test]
async fn the_demo_recovers_four_times_and_holds_what_the_file_says() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (file, keep) = (folder.path().join("input.jsonl"), folder.path().join("kept"));
    let (pairs, digest) = write_input(&file)?;
    let (file, kept) = (file.to_string_lossy(), keep.to_string_lossy());
    let arguments = [
        "demo",
        &file,
        "--partitions",
        "4",
        "--output",
        "json",
        "--keep",
        &kept,
    ];
    let output = run(&arguments, Duration::from_secs(240)).await?;
    let (said, shown) = (
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout),
    );
    ensure!(output.status.success(), "{}\n{said}\n{shown}", output.status);
    let report: Value =
        serde_json::from_str(&shown).with_context(|| format!("not one JSON object: {shown}"))?;

    ensure!(report["ok"] == true, "{said}");
    ensure!(
        report["records"] == pairs,
        "{} pairs, not {pairs}",
        report["records"]
    );
    ensure!(
        report["digest"] == digest.as_str(),
        "digest {}, not {digest}",
        report["digest"]
    );
    let partitions = list(&report, "partitions")?;
    ensure!(partitions.len() == PARTITIONS, "{} partitions", partitions.len());
    partitions.iter().try_for_each(check_partition)?;
    check_recoveries(list(&report, "recoveries")?)?;

    for name in [
        "config/log-1.toml",
        "config/admin-1.toml",
        "config/worker-3.toml",
        "bucket/cluster.json",
        "data/log-1",
    ] {
        ensure!(keep.join(name).exists(), "{name} was not kept");
        ensure!(
            !name.ends_with("toml") || said.contains(name),
            "how to start {name} is not said: {said}"
        );
    }
    for log in std::fs::read_dir(keep.join("logs"))? {
        let text = std::fs::read(log?.path())?;
        ensure!(
            !String::from_utf8_lossy(&text).contains("panicked at"),
            "a node panicked"
        );
    }
    Ok(())
}

fn check_partition(partition: &Value) -> anyhow::Result<()> {
    let number = |field: &str| {
        partition[field]
            .as_u64()
            .with_context(|| format!("no {field}: {partition}"))
    };
    let (tail, trim_point) = (number("tail")?, number("trim_point")?);
    let (archived, guard) = (number("archived_lsn")?, number("guard_lsn")?);
    ensure!(
        0 < trim_point && trim_point <= guard && guard <= archived && archived < tail,
        "{partition}"
    );
    ensure!(partition["leader"].is_string(), "no leader: {partition}");

    let snapshots = list(partition, "snapshots")?;
    ensure!(snapshots.len() >= 2, "{} snapshots: {partition}", snapshots.len());
    let followers = snapshots
        .iter()
        .filter(|snapshot| snapshot["role"] == "follower")
        .count();
    ensure!(
        2 * followers > snapshots.len(),
        "{followers} of {} snapshots by followers",
        snapshots.len()
    );
    for snapshot in snapshots {
        let bytes = |field: &str| snapshot[field].as_u64().unwrap_or(0);
        ensure!(
            snapshot["snapshot_id"].as_str().is_some_and(|id| id.len() == 26),
            "{snapshot}"
        );
        ensure!(
            bytes("lsn") > 0 && bytes("bytes_total") > 0 && bytes("bytes_uploaded") <= bytes("bytes_total"),
            "{snapshot}"
        );
    }

    let digests = partition["digests"].as_object().context("no digests")?;
    ensure!(digests.len() == 3, "{} replicas: {partition}", digests.len());
    let first = digests.values().next();
    ensure!(
        digests.values().all(|digest| Some(digest) == first),
        "replicas differ: {partition}"
    );
    Ok(())
}

fn check_recoveries(recoveries: &[Value]) -> anyhow::Result<()> {
    for (kind, partitions) in [
        ("bootstrap", PARTITIONS),
        ("trim-gap", PARTITIONS),
        ("admin-restart", PARTITIONS),
        ("fallback", 1),
    ] {
        let recovery = recoveries.iter().find(|recovery| recovery["kind"] == kind);
        let recovery = recovery.with_context(|| format!("no {kind}: {recoveries:?}"))?;
        ensure!(recovery["partitions"] == partitions, "{recovery}");
        ensure!(
            recovery["node"].is_string() && recovery["duration_ms"].is_u64(),
            "{recovery}"
        );
    }
    Ok(())
}

/// A demo that was started and will not be let finish; killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a demo below `dir` and returns it with the addresses its nodes serve at, once all of them do.
async fn start_and_wait(dir: &Path) -> anyhow::Result<(Running, Vec<String>)> {
    let output = std::fs::File::create(dir.join("said"))?;
    let mut command = Command::new(binary()?);
    command
        .args(["demo", "--records", "5000", "--partitions", "2", "--dir"])
        .arg(dir.join("work"));
    let demo = Running(
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()?,
    );
    let addresses = wait_for(
        "all nodes of the demo to serve",
        Duration::from_secs(60),
        async || {
            let addresses = listens(&dir.join("work")).map_err(|error| error.to_string())?;
            let deaf: Vec<_> = addresses
                .iter()
                .filter(|address| TcpStream::connect(address).is_err())
                .collect();
            if addresses.len() == 5 && deaf.is_empty() {
                Ok(addresses)
            } else {
                Err(format!("{addresses:?}, not {deaf:?}"))
            }
        },
    )
    .await?;
    Ok((demo, addresses))
}

/// Reads from the configuration files of the demo below `work` where its nodes listen.
fn listens(work: &Path) -> anyhow::Result<Vec<String>> {
    let mut addresses = Vec::new();
    for demo in std::fs::read_dir(work)? {
        for config in std::fs::read_dir(demo?.path().join("config"))? {
            let text = std::fs::read_to_string(config?.path())?;
            let listen = text.lines().find_map(|line| line.strip_prefix("listen = "));
            addresses.extend(listen.map(|address| address.trim_matches('"').to_owned()));
        }
    }
    Ok(addresses)
}

async fn until_gone(addresses: &[String]) -> anyhow::Result<()> {
    wait_for(
        "all nodes of the demo to be gone",
        Duration::from_secs(60),
        async || {
            let left: Vec<_> = addresses
                .iter()
                .filter(|address| TcpStream::connect(address).is_ok())
                .collect();
            if left.is_empty() {
                Ok(())
            } else {
                Err(format!("{left:?} still answer"))
            }
        },
    )
    .await?;
    Ok(())
}

#[tokio::test]
async fn an_interrupted_demo_leaves_nothing_behind() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (mut demo, addresses) = start_and_wait(folder.path()).await?;
    let id = rustix::process::Pid::from_raw(i32::try_from(demo.0.id())?).context("no id")?;
    rustix::process::kill_process(id, rustix::process::Signal::INT)?;
    let status = wait_for("the demo to end", Duration::from_secs(60), async || {
        demo.0
            .try_wait()
            .map_err(|error| error.to_string())?
            .ok_or_else(|| "running".to_owned())
    })
    .await?;
    ensure!(
        !status.success(),
        "an interrupted demo does not say that all is well"
    );
    until_gone(&addresses).await?;
    let left: Vec<_> = std::fs::read_dir(folder.path().join("work"))?.collect();
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

#[tokio::test]
async fn a_killed_demo_leaves_no_process_behind() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (demo, addresses) = start_and_wait(folder.path()).await?;
    drop(demo);
    until_gone(&addresses).await
}
