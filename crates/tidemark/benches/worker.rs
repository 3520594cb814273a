//! What a worker costs beside the raw operation: applying, exporting, restoring.
//!
//! ```text
//! cargo bench -p tidemark --bench worker -- apply       applying a log, against the same writes made directly
//! cargo bench -p tidemark --bench worker -- latency     writes while exports run, against writes without
//! cargo bench -p tidemark --bench worker -- restore     a lost state, against a plain parallel download and fsync
//! cargo bench -p tidemark --bench worker -- stale       a state that is one snapshot behind: what is downloaded
//! cargo bench -p tidemark --bench worker -- memory      the peak memory of an export and of a restore
//! cargo bench --profile dev -p tidemark --bench worker  without a second build of everything
//! ```
//!
//! `restore` and `memory` take `--url s3://bucket/prefix` and `--option KEY=VALUE`, as `tidemark` does; `restore` takes
//! `--peer 'tool cp s3://bucket/prefix/{snapshot}* {dir}'`, too. Each prints the median over interleaved pairs, with the spread,
//! or figures that do not depend on the machine's speed.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on fails")]

#[path = "support/bed.rs"]
mod bed;
#[path = "support/ratio.rs"]
mod ratio;

use bed::{Bed, LEADER, PARTITION};
use bytes::Bytes;
use clap::{Parser, Subcommand};
use futures::future;
use rand::{SeedableRng, rngs::StdRng};
use ratio::{pairs, seconds};
use snapshot_store::{ContentHash, Incremental, Repository, Seams, StoreOptions, reserve_processors};
use snapshot_worker::{
    core::FinishedRestore,
    processor::{Changes, RocksEngine, RocksOptions, StateEngine, WorkerOptions},
};
use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use tidemark::cli::BLOCKING_THREADS_MAX;
use tokio::time::{Instant, MissedTickBehavior};

/// The replica that is lost, or falls behind.
const FOLLOWER: usize = 1;
const SEED: u64 = 1;
/// How often a batch is proposed in `latency`, and how many keys it changes.
const PROPOSE_EVERY: Duration = Duration::from_millis(2);
const PROPOSED_KEYS: usize = 10;
/// How many batches lie between two trims of the log: it is in this process's memory, whose growth is no matter of exports.
const TRIM_EVERY: u128 = 50;
/// How many keys are read in `memory`: enough to fill the block cache also with a small state, as on a node that serves.
const READS: usize = 100_000;
/// Prefix of the key-value state machine's only keyspace.
const KEYSPACE: u8 = 1;

#[derive(Parser)]
struct Args {
    /// Passed by cargo.
    #[arg(long, hide = true, global = true)]
    bench: bool,
    #[command(subcommand)]
    measure: Option<Measure>,
    /// How many keys.
    #[arg(long, global = true, default_value_t = 262_144)]
    keys: usize,
    /// Size of every value.
    #[arg(long, global = true, default_value_t = 1_000)]
    value_bytes: usize,
    /// How many pairs, or repetitions.
    #[arg(long, global = true, default_value_t = 9)]
    pairs: usize,
    /// How many processors background work has for itself; 0: it shares half of them.
    #[arg(long, global = true, default_value_t = 0)]
    background_processors: usize,
    /// Where snapshots go; the memory of this process when it is not given.
    #[arg(long, global = true, default_value = "memory://")]
    url: String,
    /// Option of the store's client.
    #[arg(long = "option", global = true, value_parser = |text: &str| text.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())).ok_or("KEY=VALUE"))]
    options: Vec<(String, String)>,
    /// One step of `memory`, in a process of its own, and what it leaves to the next one.
    #[arg(long, global = true, hide = true, requires = "memory_folder")]
    memory_step: Option<String>,
    #[arg(long, global = true, hide = true)]
    memory_folder: Option<PathBuf>,
    /// Shell command that downloads `{snapshot}*` into `{dir}`.
    #[arg(long, global = true)]
    peer: Option<String>,
}

#[derive(Subcommand)]
enum Measure {
    Apply,
    Latency,
    Restore,
    Stale,
    Memory,
}

fn main() {
    let args = Args::parse();
    if args.background_processors > 0 {
        reserve_processors(args.background_processors).unwrap();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .enable_all()
        .build();
    runtime.unwrap().block_on(run(args));
}

async fn run(args: Args) {
    if args.memory_step.is_none() {
        println!("{} keys with values of {} bytes", args.keys, args.value_bytes);
    }
    match args.measure {
        Some(Measure::Apply) => apply(&args).await,
        Some(Measure::Latency) => latency(&args).await,
        Some(Measure::Restore) => restore(&args).await,
        Some(Measure::Stale) => stale(&args).await,
        Some(Measure::Memory) => match (&args.memory_step, &args.memory_folder) {
            (Some(step), Some(folder)) => memory_step(&args, step, folder).await,
            _ => memory(&args).await,
        },
        None => println!("nothing to measure; the head of this file says what there is"),
    }
}

impl Args {
    fn repository(&self, incremental: Incremental) -> Repository {
        let options = StoreOptions {
            incremental,
            ..StoreOptions::for_client(self.options.iter().cloned())
        };
        Repository::open_with(&self.url, &options, Seams::real()).unwrap()
    }
}

/// A log is there; how long a new replica takes until it has applied it, and how long its writes take by themselves.
async fn apply(args: &Args) {
    let mut bed = Bed::in_memory(SEED, args.repository(Incremental::Off)).await;
    bed.start(LEADER).await;
    bed.handle(LEADER).lead().await.unwrap();
    // The same numbers again give the same values: what the replica applies is what is written directly.
    let mut again = StdRng::seed_from_u64(SEED);
    let keys: Vec<usize> = (0..args.keys).collect();
    let last = bed.write(&keys, args.value_bytes).await;
    bed.settle().await;
    let metadata = first_pair(&bed.state_dir(LEADER));
    let batches = batches(
        &bed.options(LEADER).await,
        &keys,
        args.value_bytes,
        &mut again,
        &metadata,
    );

    let folder = tempfile::tempdir().unwrap();
    let bed = tokio::sync::Mutex::new(bed);
    let ours = async |_| {
        let mut bed = bed.lock().await;
        let took = seconds(async || {
            bed.launch(FOLLOWER).await;
            bed.until(FOLLOWER, |status| status.applied_lsn >= Some(last))
                .await;
        });
        let took = took.await;
        bed.stop(FOLLOWER).await;
        fs::remove_dir_all(bed.data_dir(FOLLOWER)).unwrap();
        took
    };
    let theirs = async |pair: usize| {
        let engine = RocksEngine::new(&RocksOptions::default()).unwrap();
        let dir = folder.path().join(pair.to_string());
        let store = engine.open(&dir).unwrap();
        let began = Instant::now();
        for batch in &batches {
            store.write(batch).unwrap();
        }
        let took = began.elapsed().as_secs_f64();
        store.flush().unwrap();
        drop(store);
        fs::remove_dir_all(dir).unwrap();
        took
    };
    pairs("seconds to apply", args.pairs, ours, theirs).await;
    bed.into_inner().end().await;
}

/// Returns the first pair of a state: a worker's metadata.
fn first_pair(state: &Path) -> (Vec<u8>, Bytes) {
    let engine = RocksEngine::new(&RocksOptions::default()).unwrap();
    let state = engine.open_read_only(state).unwrap();
    let (key, value) = state.scan(&[]).next().unwrap().unwrap();
    (key.into(), value.into_vec().into())
}

/// Makes the batches in which a worker writes these keys and values: each writes the metadata, too.
fn batches(
    options: &WorkerOptions,
    keys: &[usize],
    value_bytes: usize,
    rng: &mut StdRng,
    (key, value): &(Vec<u8>, Bytes),
) -> Vec<Changes> {
    let records = options
        .apply_records_max
        .min(options.apply_bytes_max / (value_bytes + 100))
        .max(1);
    let mut change = |key: &usize| {
        let (key, value) = bed::pair(rng, *key, value_bytes);
        ([&[KEYSPACE], key.as_bytes()].concat(), Some(value.into()))
    };
    let metadata = (key.clone(), Some(value.clone()));
    let batches = keys.chunks(records);
    batches
        .map(|keys| {
            let changes = keys.iter().map(&mut change);
            changes.chain([metadata.clone()]).collect()
        })
        .collect()
}

/// The leader takes writes at a steady rate; once with an export of the same node under way, once without.
async fn latency(args: &Args) {
    let mut bed = Bed::in_memory(SEED, args.repository(Incremental::Off)).await;
    bed.start(LEADER).await;
    bed.handle(LEADER).lead().await.unwrap();
    bed.load(args.keys, args.value_bytes).await;
    let commands = (0..PROPOSED_KEYS)
        .map(|key| bed.put(key, args.value_bytes))
        .collect();
    let (bed, commands): (Bed, Vec<Bytes>) = (bed, commands);
    let window = Duration::from_secs(5);

    let ours = async |_| {
        let exports = async {
            let end = Instant::now() + window;
            let mut made = 0;
            while Instant::now() < end {
                bed.publish(LEADER).await;
                made += 1;
            }
            made
        };
        let (p99, made) = future::join(p99(&bed, &commands, window), exports).await;
        assert!(made > 0, "no export was under way");
        p99
    };
    let theirs = async |_| p99(&bed, &commands, window).await;
    pairs("p99 of a write in ms, with exports", args.pairs, ours, theirs).await;
    bed.end().await;
}

/// Proposes at a steady rate and returns the 99th percentile of the milliseconds until a batch was applied, counted from
/// when it was due.
async fn p99(bed: &Bed, commands: &[Bytes], window: Duration) -> f64 {
    let leader = bed.handle(LEADER);
    let mut ticks = tokio::time::interval(PROPOSE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let count = window.as_millis() / PROPOSE_EVERY.as_millis();
    let mut waits = Vec::new();
    for number in 1..=count {
        let due = ticks.tick().await;
        leader.propose(commands.to_vec()).await.unwrap();
        waits.push(due.elapsed().as_secs_f64() * 1e3);
        if number % TRIM_EVERY == 0 {
            bed.trim(bed.status(LEADER).applied_lsn.unwrap()).await;
        }
    }
    waits.sort_by(f64::total_cmp);
    waits[waits.len() * 99 / 100]
}

/// A replica has lost its state; how long it takes until it is active again, against a plain download of the same files
/// that ends with an fsync, as a restore does.
async fn restore(args: &Args) {
    let mut bed = Bed::on_disk(SEED, args.repository(Incremental::Off)).await;
    bed.start(LEADER).await;
    bed.handle(LEADER).lead().await.unwrap();
    bed.load(args.keys, args.value_bytes).await;
    let published = bed.publish(LEADER).await;
    bed.trim(published.lsn).await;
    println!("{} MiB", published.bytes_total >> 20);
    let pointer = bed.repository.pointer(PARTITION).await.unwrap().unwrap();
    let snapshot = format!("{PARTITION}/{}/", pointer.value.latest().unwrap().path);

    let bed = tokio::sync::Mutex::new(bed);
    let ours = async |_| {
        let mut bed = bed.lock().await;
        let restored = lose_and_restore(&mut bed).await;
        assert_eq!(restored.bytes_downloaded, restored.bytes);
        restored.duration.as_secs_f64()
    };
    let Some(peer) = &args.peer else {
        println!("{:.2} s without a peer", ours(0).await);
        bed.into_inner().end().await;
        return;
    };
    let theirs = async |_| {
        let into = tempfile::tempdir().unwrap();
        seconds(async || download(peer, &snapshot, into.path())).await
    };
    pairs("seconds to restore", args.pairs, ours, theirs).await;
    bed.into_inner().end().await;
}

/// Lets a replica begin without state, and stops it again once it is active.
async fn lose_and_restore(bed: &mut Bed) -> FinishedRestore {
    let dir = bed.data_dir(FOLLOWER);
    if dir.exists() {
        fs::remove_dir_all(&dir).unwrap();
    }
    bed.start(FOLLOWER).await;
    let restored = bed.status(FOLLOWER).last_restore.unwrap();
    bed.stop(FOLLOWER).await;
    restored
}

fn download(command: &str, snapshot: &str, dir: &Path) {
    let command = command.replace("{snapshot}", snapshot);
    let command = command.replace("{dir}", &dir.display().to_string());
    let status = Command::new("sh").args(["-c", &command]).status().unwrap();
    assert!(status.success(), "{command}: {status}");
    for entry in fs::read_dir(dir).unwrap() {
        fs::File::open(entry.unwrap().path()).unwrap().sync_all().unwrap();
    }
}

/// A replica makes a snapshot, goes on, and makes another one. Its state as it was at the first one is restored from the
/// second one: what is read from the store then, against the files that the first one did not have.
async fn stale(args: &Args) {
    let (mut downloaded, mut took) = (Vec::new(), Vec::new());
    for seed in 0..args.pairs as u64 {
        let mut bed = Bed::on_disk(seed, args.repository(Incremental::Off)).await;
        bed.start(LEADER).await;
        bed.handle(LEADER).lead().await.unwrap();
        bed.start(FOLLOWER).await;
        bed.load(args.keys, args.value_bytes).await;
        let first = bed.publish(FOLLOWER).await;
        bed.stop(FOLLOWER).await;
        let (dir, kept) = (bed.data_dir(FOLLOWER), bed.data_dir(FOLLOWER + 1));
        copy_folder(&dir, &kept);
        bed.start(FOLLOWER).await;
        bed.change(args.keys, 1.0, args.value_bytes).await;
        let second = bed.publish(FOLLOWER).await;
        bed.stop(FOLLOWER).await;
        bed.trim(second.lsn).await;
        fs::remove_dir_all(&dir).unwrap();
        fs::rename(&kept, &dir).unwrap();

        let manifests = bed.manifests().await;
        let of = |id| {
            manifests
                .iter()
                .find(|manifest| manifest.snapshot_id == id)
                .unwrap()
        };
        let known: HashSet<ContentHash> = of(first.snapshot_id).files.iter().map(|file| file.hash).collect();
        let files = of(second.snapshot_id).files.iter();
        let new: u64 = files
            .filter(|file| !known.contains(&file.hash))
            .map(|file| file.bytes)
            .sum();
        let began = Instant::now();
        bed.start(FOLLOWER).await;
        let active = began.elapsed();
        let restored = bed.status(FOLLOWER).last_restore.unwrap();
        println!(
            "seed {seed}: {} bytes, {new} of new files, {} downloaded, {} linked; active {:.0} ms after its start",
            restored.bytes,
            restored.bytes_downloaded,
            restored.bytes_linked,
            active.as_secs_f64() * 1e3
        );
        downloaded.push(restored.bytes_downloaded as f64 / new as f64);
        took.push(active.as_secs_f64() * 1e3);
        bed.end().await;
    }
    for (what, values) in [
        ("downloaded / new files", &mut downloaded),
        ("ms to active", &mut took),
    ] {
        values.sort_by(f64::total_cmp);
        let (median, least, most) = (values[values.len() / 2], values[0], values[values.len() - 1]);
        println!(
            "{what}: median {median:.4} of {}, from {least:.4} to {most:.4}",
            values.len()
        );
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The peak memory of a process while its replica exports, and of another one while it restores. Two runs with different
/// `--keys` show whether it is constant; the store must be elsewhere. Each step has a process of its own: what a load, and a
/// log that is not trimmed, leave in memory is no matter of exports and restores.
async fn memory(args: &Args) {
    let folder = tempfile::tempdir().unwrap();
    for step in ["load", "export", "restore"] {
        let ended = Command::new(std::env::current_exe().unwrap())
            .args(std::env::args_os().skip(1))
            .arg("--memory-step")
            .arg(step)
            .arg("--memory-folder")
            .arg(folder.path())
            .status();
        assert!(ended.unwrap().success());
    }
    println!("of {} MiB of values", (args.keys * args.value_bytes) >> 20);
}

async fn memory_step(args: &Args, step: &str, folder: &Path) {
    let mut bed = Bed::in_folder(SEED, args.repository(Incremental::Off), folder).await;
    if step == "restore" {
        bed.start(FOLLOWER).await;
        bed.read(FOLLOWER, args.keys, READS);
        let before = resident("VmRSS:");
        forget_peak();
        bed.lose_partition(FOLLOWER).await;
        println!("restore: {before} MiB before, at most {} MiB", resident("VmHWM:"));
    } else {
        bed.start(LEADER).await;
        bed.handle(LEADER).lead().await.unwrap();
        if step == "load" {
            bed.load(args.keys, args.value_bytes).await;
        } else {
            bed.change(args.keys, 0.0, args.value_bytes).await;
            bed.read(LEADER, args.keys, READS);
        }
        let before = resident("VmRSS:");
        forget_peak();
        let published = bed.publish(LEADER).await;
        println!("{step}: {before} MiB before, at most {} MiB", resident("VmHWM:"));
        bed.trim(published.lsn).await;
    }
    bed.end().await;
}

/// Returns MiB of this process's memory.
fn resident(line: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|found| found.starts_with(line)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
}

fn forget_peak() {
    fs::write("/proc/self/clear_refs", "5").unwrap();
}
