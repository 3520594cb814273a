//! How much of a snapshot is uploaded when 1 % of the keys have changed since the one before.
//!
//! ```text
//! cargo bench -p tidemark --bench incremental                          256 MiB of state, 9 repetitions: some minutes
//! cargo bench -p tidemark --bench incremental -- --keys 1000000 --value-bytes 100
//! cargo bench --profile dev -p tidemark --bench incremental            without a second build of everything
//! ```
//!
//! Three replicas of one partition apply the same log in this process, with the key-value state machine and the RocksDB
//! options of a worker. Keys are written in random order with values of random bytes. Then each repetition, with a seed of
//! its own, makes these snapshots, and changes 1 % of the keys, drawn evenly, before each but the first:
//!
//! - the first, by a follower that is drawn;
//! - `same node`: by the node that made the one before;
//! - `other node`: by one of the other two, drawn;
//! - `default choice`, some times: by one of the two followers, drawn anew each time, as the scheduler does.
//!
//! A file is new if no snapshot that is retained then (2 of them) has one with its hash; that is counted here, from the
//! manifests, and compared with what was uploaded. The store is this process's memory: which bytes are sent does not
//! depend on the store.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on fails")]

#[path = "support/bed.rs"]
mod bed;

use bed::{Bed, LEADER};
use clap::Parser;
use rand::RngExt;
use snapshot_store::{ContentHash, Incremental, Repository, Seams, StoreOptions};
use std::collections::HashSet;

const REPLICAS: usize = 3;

#[derive(Parser)]
struct Args {
    /// Passed by cargo.
    #[arg(long, hide = true)]
    bench: bool,
    /// How many keys.
    #[arg(long, default_value_t = 262_144)]
    keys: usize,
    /// Size of every value.
    #[arg(long, default_value_t = 1_000)]
    value_bytes: usize,
    /// How much of 100 keys changes between two snapshots.
    #[arg(long, default_value_t = 1.0)]
    changed_percent: f64,
    /// How often all is repeated, each time from the start and with another seed.
    #[arg(long, default_value_t = 9)]
    repetitions: u64,
    /// Snapshots by the default choice in each repetition.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

#[tokio::main]
async fn main() {
    let args = Args::parse();
    let (mut same, mut other, mut default) = (Vec::new(), Vec::new(), Vec::new());
    println!(
        "{} keys with values of {} bytes, {} % of them changed between two snapshots",
        args.keys, args.value_bytes, args.changed_percent
    );
    for seed in 0..args.repetitions {
        let mut bed = start(seed).await;
        bed.load(args.keys, args.value_bytes).await;
        let follower = bed.rng.random_range(LEADER + 1..REPLICAS);
        snapshot(&bed, follower).await;

        same.push(change_and_snapshot(&mut bed, &args, follower).await);
        let others: Vec<_> = (0..REPLICAS).filter(|node| *node != follower).collect();
        let drawn = others[bed.rng.random_range(0..others.len())];
        other.push(change_and_snapshot(&mut bed, &args, drawn).await);
        let mut sum = Snapshot::default();
        for _ in 0..args.rounds {
            let drawn = bed.rng.random_range(LEADER + 1..REPLICAS);
            sum.add(&change_and_snapshot(&mut bed, &args, drawn).await);
        }
        default.push(sum);
        println!(
            "seed {seed}: same node {}; other node {}; default choice {}",
            same[same.len() - 1],
            other[other.len() - 1],
            default[default.len() - 1]
        );
        bed.end().await;
    }
    println!(
        "median of {} repetitions, and from least to most:",
        args.repetitions
    );
    report("same node", &same);
    report("other node", &other);
    report("default choice", &default);
}

/// What one snapshot, or several together, took.
#[derive(Clone, Copy, Default)]
struct Snapshot {
    total: u64,
    /// Of files that no retained snapshot had.
    new: u64,
    uploaded: u64,
    copied: u64,
}

impl Snapshot {
    fn add(&mut self, other: &Snapshot) {
        self.total += other.total;
        self.new += other.new;
        self.uploaded += other.uploaded;
        self.copied += other.copied;
    }
}

impl std::fmt::Display for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mib = |bytes: u64| bytes as f64 / 1_048_576.0;
        let (total, new, uploaded, copied) = (
            mib(self.total),
            mib(self.new),
            mib(self.uploaded),
            mib(self.copied),
        );
        write!(
            f,
            "{total:.1} MiB, {new:.2} new, {uploaded:.2} uploaded, {copied:.1} copied"
        )
    }
}

fn report(what: &str, snapshots: &[Snapshot]) {
    let spread = |value: &dyn Fn(&Snapshot) -> f64| {
        let mut values: Vec<f64> = snapshots.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        let (median, least, most) = (values[values.len() / 2], values[0], values[values.len() - 1]);
        format!("{median:.4} ({least:.4} to {most:.4})")
    };
    println!(
        "{what}: uploaded / new files {}, uploaded / total {}, MiB in all {}",
        spread(&|one| one.uploaded as f64 / one.new as f64),
        spread(&|one| one.uploaded as f64 / one.total as f64),
        spread(&|one| one.total as f64 / 1_048_576.0),
    );
}

/// Starts the replicas on a log of the embedded engine and a store in memory.
async fn start(seed: u64) -> Bed {
    let options = StoreOptions {
        incremental: Incremental::On,
        ..StoreOptions::default()
    };
    let repository = Repository::open_with("memory://", &options, Seams::real()).unwrap();
    let mut bed = Bed::on_disk(seed, repository).await;
    for number in 0..REPLICAS {
        bed.start(number).await;
    }
    bed.handle(LEADER).lead().await.unwrap();
    bed
}

async fn change_and_snapshot(bed: &mut Bed, args: &Args, node: usize) -> Snapshot {
    bed.change(args.keys, args.changed_percent, args.value_bytes)
        .await;
    snapshot(bed, node).await
}

/// Makes a snapshot on `node`.
async fn snapshot(bed: &Bed, node: usize) -> Snapshot {
    let before = bed.manifests().await;
    let known: HashSet<ContentHash> = before
        .iter()
        .flat_map(|manifest| manifest.files.iter().map(|file| file.hash))
        .collect();
    let published = bed.publish(node).await;
    let after = bed.manifests().await;
    let made = after
        .iter()
        .find(|manifest| manifest.snapshot_id == published.snapshot_id);
    let new = made
        .unwrap()
        .files
        .iter()
        .filter(|file| !known.contains(&file.hash));
    Snapshot {
        total: published.bytes_total,
        new: new.map(|file| file.bytes).sum(),
        uploaded: published.bytes_uploaded,
        copied: published.bytes_copied,
    }
}
