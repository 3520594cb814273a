//! `tidemark demo` as a user runs it, in a small size.

use anyhow::{Context, ensure};
use integration_tests::{
    binary,
    s3_server::{Locking, S3Server},
};
use partition_log::conformance::nats_server_program;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    net::TcpStream,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};
use tidemark::cluster::wait_for;

const LINES: u32 = 6_000;
const PARTITIONS: usize = 4;
/// The S3 server that the demo starts when it is told to.
const S3_SERVER: &str = env!("CARGO_BIN_EXE_s3-server");
/// What a demo with an S3 server is given to authenticate with, and must show nobody.
const SECRET: &str = "never-to-be-seen";

/// What must be there at the end.
struct Expected {
    pairs: u64,
    digest: String,
}

/// Writes a file with updates of a third as many keys, values of all JSON kinds, a quarter of them `long` and hardly
/// compressible.
fn write_input(path: &Path, long: usize) -> anyhow::Result<Expected> {
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
            _ => (
                format!("[{number}, null, true, \"{}\"]", noise(number, long)),
                None,
            ),
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
    Ok(Expected {
        pairs: last.len() as u64,
        digest: hasher.finalize().to_hex().to_string(),
    })
}

/// Returns `length` hexadecimal digits that no other `number` has.
fn noise(number: u32, length: usize) -> String {
    let mut digits = String::new();
    let mut stream = blake3::Hasher::new().update(&number.to_be_bytes()).finalize_xof();
    while digits.len() < length {
        let mut bytes = [0; 32];
        stream.fill(&mut bytes);
        digits.push_str(blake3::Hash::from_bytes(bytes).to_hex().as_str());
    }
    digits.truncate(length);
    digits
}

/// Returns the command of a demo that has `credentials` and no other settings for a cloud.
fn demo(credentials: Option<(&str, &str)>) -> anyhow::Result<Command> {
    let mut command = Command::new(binary()?);
    command.arg("demo").stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AWS_") {
            command.env_remove(name);
        }
    }
    if let Some((id, secret)) = credentials {
        command
            .env("AWS_ACCESS_KEY_ID", id)
            .env("AWS_SECRET_ACCESS_KEY", secret);
    }
    Ok(command)
}

fn on_nats() -> anyhow::Result<Command> {
    let mut command = demo(None)?;
    command
        .args(["--engine", "nats", "--nats-server"])
        .arg(nats_server_program());
    Ok(command)
}

fn has(command: &Command, flag: &str) -> bool {
    command.get_args().any(|argument| argument == flag)
}

async fn run(command: Command, within: Duration) -> anyhow::Result<Output> {
    let mut command = tokio::process::Command::from(command);
    command.kill_on_drop(true);
    Ok(tokio::time::timeout(within, command.output())
        .await
        .context("the demo takes too long")??)
}

/// Runs a demo to its end and checks all that it reports; returns the report, and what it said besides.
async fn sound(command: Command, expected: &Expected) -> anyhow::Result<(Value, String)> {
    let with_nats = has(&command, "--nats-server");
    let output = run(command, Duration::from_secs(240)).await?;
    let (said, shown) = (
        String::from_utf8_lossy(&output.stderr).into_owned(),
        String::from_utf8_lossy(&output.stdout),
    );
    ensure!(output.status.success(), "{}\n{said}\n{shown}", output.status);
    let report: Value =
        serde_json::from_str(&shown).with_context(|| format!("not one JSON object: {shown}"))?;
    ensure!(report["ok"] == true, "{said}");
    ensure!(
        report["records"] == expected.pairs && report["digest"] == expected.digest.as_str(),
        "{} pairs with digest {}, not {} with {}",
        report["records"],
        report["digest"],
        expected.pairs,
        expected.digest
    );
    let partitions = list(&report, "partitions")?;
    ensure!(partitions.len() == PARTITIONS, "{} partitions", partitions.len());
    partitions.iter().try_for_each(check_partition)?;
    check_recoveries(list(&report, "recoveries")?, with_nats)?;
    Ok((report, said))
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
    let expected = write_input(&file, 200)?;
    let mut command = demo(None)?;
    command
        .arg(&file)
        .args(["--partitions", "4", "--output", "json", "--keep"]);
    command.arg(&keep);
    let (_, said) = sound(command, &expected).await?;

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

#[tokio::test]
async fn the_demo_does_the_same_on_an_s3_server_and_copies_there_what_an_earlier_snapshot_holds()
-> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (file, buckets) = (folder.path().join("input.jsonl"), folder.path().join("buckets"));
    let expected = write_input(&file, 4_000)?;
    let server = S3Server::start("127.0.0.1:0", &buckets, "bucket", Locking::Atomic).await?;
    let prefix = buckets.join("bucket/some/prefix");
    std::fs::create_dir_all(&prefix)?;
    std::fs::write(prefix.join("cluster.json"), "of somebody else")?;

    let mut command = demo(Some((S3Server::ACCESS_KEY, S3Server::SECRET_KEY)))?;
    command.arg(&file).args(["--partitions", "4", "--output", "json"]);
    command.args(["--store", "s3://bucket/some/prefix"]);
    for option in [
        &format!("endpoint={}", server.endpoint()),
        "region=us-east-1",
        "allow_http=true",
    ] {
        command.args(["--store-option", option]);
    }
    let (report, said) = sound(command, &expected).await?;

    let partitions = list(&report, "partitions")?.iter();
    let snapshots = partitions.flat_map(|partition| partition["snapshots"].as_array().into_iter().flatten());
    let copied: u64 = snapshots
        .filter_map(|snapshot| snapshot["bytes_copied"].as_u64())
        .sum();
    ensure!(copied > 0, "no snapshot copied anything: {report}");
    ensure!(
        !said.contains(S3Server::SECRET_KEY),
        "it shows its credentials: {said}"
    );

    let mut names = Vec::new();
    for entry in std::fs::read_dir(&prefix)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    ensure!(
        names.len() == 2 && names[0] == "cluster.json" && names[1].starts_with("demo-"),
        "{names:?}"
    );
    ensure!(
        std::fs::read_to_string(prefix.join("cluster.json"))? == "of somebody else",
        "an object of somebody else was changed"
    );
    Ok(())
}

#[tokio::test]
async fn on_nats_the_demo_does_the_same_though_a_server_and_the_acting_admin_are_killed() -> anyhow::Result<()>
{
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("input.jsonl");
    let expected = write_input(&file, 50)?;
    let mut command = on_nats()?;
    command.arg(&file).args(["--partitions", "4", "--output", "json"]);
    let (_, said) = sound(command, &expected).await?;
    ensure!(said.contains("no log has a hole"), "{said}");
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
            bytes("lsn") > 0
                && bytes("bytes_total") > 0
                && bytes("bytes_uploaded") + bytes("bytes_copied") == bytes("bytes_total"),
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

fn check_recoveries(recoveries: &[Value], on_nats: bool) -> anyhow::Result<()> {
    let admin = ["admin-restart", "admin-takeover"][usize::from(on_nats)];
    let mut wanted = vec![("bootstrap", PARTITIONS), ("trim-gap", PARTITIONS)];
    wanted.extend([(admin, PARTITIONS), ("fallback", 1)]);
    wanted.extend(on_nats.then_some(("server-loss", PARTITIONS)));
    for (kind, partitions) in wanted {
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

/// Starts a demo that works in `dir` and returns it with the addresses its nodes, and the S3 server it starts, serve at, once
/// all of them do.
async fn start_and_wait(mut command: Command, dir: &Path) -> anyhow::Result<(Running, Vec<String>)> {
    let output = std::fs::File::create(dir.join("said"))?;
    command.args(["--records", "5000", "--partitions", "2"]);
    // On NATS three servers in place of the log, and another admin.
    let more = usize::from(has(&command, "--s3-server")) + 3 * usize::from(has(&command, "--nats-server"));
    let served = 5 + more;
    command.stdout(output.try_clone()?).stderr(output);
    let demo = Running(command.spawn()?);
    let addresses = wait_for(
        "all nodes of the demo to serve",
        Duration::from_secs(60),
        async || {
            let addresses = listens(&dir.join("work")).map_err(|error| error.to_string())?;
            let deaf: Vec<_> = addresses
                .iter()
                .filter(|address| TcpStream::connect(address).is_err())
                .collect();
            if addresses.len() == served && deaf.is_empty() {
                Ok(addresses)
            } else {
                Err(format!("{addresses:?}, not {deaf:?}"))
            }
        },
    )
    .await?;
    Ok((demo, addresses))
}

/// Reads from the configuration files of the demo below or in `work` where its nodes, and its S3 server, listen.
fn listens(work: &Path) -> anyhow::Result<Vec<String>> {
    let mut folders = vec![work.join("config")];
    for demo in std::fs::read_dir(work)? {
        folders.push(demo?.path().join("config"));
    }
    let mut addresses = BTreeSet::new();
    for config in folders
        .iter()
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flatten()
    {
        let text = std::fs::read_to_string(config?.path())?;
        let starts = ["listen = \"", "endpoint = \"http://"];
        let served = text
            .lines()
            .filter_map(|line| starts.iter().find_map(|start| line.strip_prefix(start)));
        addresses.extend(served.map(|address| address.trim_matches('"').to_owned()));
        let quoted = text.split('"');
        let servers = quoted.filter_map(|text| text.strip_prefix("nats://"));
        // The file of the servers has examples in it.
        let servers = servers.filter(|address| address.starts_with("127."));
        addresses.extend(servers.map(str::to_owned));
    }
    Ok(addresses.into_iter().collect())
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

/// Interrupts a demo and waits until it has ended.
async fn interrupt(demo: &mut Running) -> anyhow::Result<()> {
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
    Ok(())
}

#[tokio::test]
async fn an_interrupted_demo_leaves_nothing_behind() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut command = demo(None)?;
    command.arg("--dir").arg(folder.path().join("work"));
    let (mut demo, addresses) = start_and_wait(command, folder.path()).await?;
    interrupt(&mut demo).await?;
    until_gone(&addresses).await?;
    let left: Vec<_> = std::fs::read_dir(folder.path().join("work"))?.collect();
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

#[tokio::test]
async fn a_kept_demo_keeps_its_s3_bucket_and_says_how_to_serve_it_again_but_not_the_secret()
-> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let kept = folder.path().join("work");
    let mut command = demo(Some(("demo", SECRET)))?;
    command.args(["--s3-server", S3_SERVER, "--keep"]).arg(&kept);
    let (mut demo, addresses) = start_and_wait(command, folder.path()).await?;
    interrupt(&mut demo).await?;
    until_gone(&addresses).await?;

    ensure!(
        kept.join("bucket/tidemark/cluster.json").exists(),
        "the bucket was not kept"
    );
    let said = std::fs::read_to_string(folder.path().join("said"))?;
    let server = said.lines().find(|line| line.contains(S3_SERVER));
    let server = server.with_context(|| format!("how to start the server is not said: {said}"))?;
    ensure!(
        server.contains(&kept.join("bucket").display().to_string()) && said.contains("AWS_SECRET_ACCESS_KEY"),
        "{said}"
    );
    let mut texts = vec![said];
    for part in ["config", "logs"] {
        for file in std::fs::read_dir(kept.join(part))? {
            texts.push(String::from_utf8_lossy(&std::fs::read(file?.path())?).into_owned());
        }
    }
    for text in &texts {
        ensure!(!text.contains(SECRET), "the secret is shown or kept: {text}");
    }
    Ok(())
}

#[tokio::test]
async fn a_killed_demo_leaves_no_process_behind() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut command = demo(None)?;
    command.arg("--dir").arg(folder.path().join("work"));
    let (demo, addresses) = start_and_wait(command, folder.path()).await?;
    drop(demo);
    until_gone(&addresses).await
}

#[tokio::test]
async fn a_killed_demo_takes_its_s3_server_along() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut command = demo(Some(("demo", SECRET)))?;
    command
        .args(["--s3-server", S3_SERVER, "--dir"])
        .arg(folder.path().join("work"));
    let (demo, addresses) = start_and_wait(command, folder.path()).await?;
    drop(demo);
    until_gone(&addresses).await
}

#[tokio::test]
async fn a_killed_demo_takes_its_nats_servers_along() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut command = on_nats()?;
    command.arg("--dir").arg(folder.path().join("work"));
    let (demo, addresses) = start_and_wait(command, folder.path()).await?;
    drop(demo);
    until_gone(&addresses).await
}
