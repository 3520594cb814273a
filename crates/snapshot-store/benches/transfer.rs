//! Uploads and downloads against a plain parallel copy tool, on the same files, the same server and the same disk.
//!
//! ```text
//! cargo bench -p snapshot-store --bench transfer -- --url s3://bucket/bench --option endpoint=http://127.0.0.1:9000 … \
//!     --bytes 1073741824 --pairs 9 --upload-peer 'tool cp {dir} s3://bucket/peer/' --download-peer 'tool cp s3://bucket/peer/ {dir}'
//! ```
//!
//! Prints, for each direction, the median over interleaved pairs of our time divided by the peer's, with the spread; then how
//! many requests one transfer made, and the peak memory of this process. Without peers it transfers once and prints requests
//! and memory: two runs with different `--bytes` show whether memory is constant.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on fails")]

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "support/counting.rs"]
mod counting;

use clap::Parser;
use common::{node, snapshot_id};
use counting::CountingStore;
use object_store::{aws::AmazonS3Builder, path::Path as StorePath};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use snapshot_store::{
    ClusterSpec, Incremental, Lsn, NoProgress, PartitionId, Published, ReplicaRole, Repository, Seams,
    SnapshotUpload, StoreOptions, Timestamp,
    format::{ClusterRecord, KeyHash, KeyRange, Producer, StateMachineVersion},
};
use std::{path::Path, process::Command, sync::Arc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Size of one file, as RocksDB is told to make them.
const FILE_BYTES: u64 = 8 << 20;

#[derive(Parser)]
struct Args {
    /// Passed by cargo.
    #[arg(long, hide = true)]
    bench: bool,
    /// `s3://bucket/prefix`.
    #[arg(long)]
    url: Option<String>,
    /// Option of the S3 client.
    #[arg(long = "option", value_parser = |text: &str| text.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())).ok_or("KEY=VALUE"))]
    options: Vec<(String, String)>,
    /// How much is transferred at a time.
    #[arg(long, default_value_t = 256 << 20)]
    bytes: u64,
    /// How many pairs are measured.
    #[arg(long, default_value_t = 9)]
    pairs: usize,
    /// Shell command that uploads `{dir}`.
    #[arg(long)]
    upload_peer: Option<String>,
    /// Shell command that downloads the same into `{dir}`.
    #[arg(long)]
    download_peer: Option<String>,
    /// Folder of the server that is emptied of old snapshots between pairs.
    #[arg(long)]
    server_prefix_dir: Option<std::path::PathBuf>,
}

#[tokio::main]
async fn main() {
    let args = Args::parse();
    let Some(url) = args.url.clone() else {
        println!("no --url: nothing to measure; the head of this file says how");
        return;
    };
    let world = World::new(&url, &args).await;
    if let Some(peer) = &args.upload_peer {
        let mut ratios = Vec::new();
        for pair in 0..args.pairs {
            let ours = async || {
                let began = Instant::now();
                world.publish(pair as u64).await;
                began.elapsed().as_secs_f64()
            };
            let theirs = || timed(peer, world.files.path());
            let (mine, other) = interleaved(pair, ours, theirs).await;
            println!(
                "upload {pair}: ours {mine:.2} s, peer {other:.2} s, ratio {:.3}",
                mine / other
            );
            ratios.push(mine / other);
            world.tidy(&args);
        }
        report("upload", &mut ratios);
    }
    world.counts.reset();
    let published = world.publish(1_000).await;
    println!(
        "requests of one upload of {} files: {}",
        published.entry.files, world.counts
    );
    world.counts.reset();
    world.download(&published).await;
    println!("requests of one download: {}", world.counts);
    if let Some(peer) = &args.download_peer {
        let mut ratios = Vec::new();
        for pair in 0..args.pairs {
            let ours = async || world.download(&published).await;
            let theirs = || {
                let into = tempfile::tempdir().unwrap();
                timed(peer, into.path())
            };
            let (mine, other) = interleaved(pair, ours, theirs).await;
            println!(
                "download {pair}: ours {mine:.2} s, peer {other:.2} s, ratio {:.3}",
                mine / other
            );
            ratios.push(mine / other);
        }
        report("download", &mut ratios);
    }
    println!("peak memory of this process: {} MiB", peak_memory_bytes() >> 20);
}

/// Runs both, the one first in even pairs and the other in odd ones.
async fn interleaved(
    pair: usize,
    ours: impl AsyncFnOnce() -> f64,
    theirs: impl FnOnce() -> f64,
) -> (f64, f64) {
    if pair.is_multiple_of(2) {
        let mine = ours().await;
        (mine, theirs())
    } else {
        let other = theirs();
        (ours().await, other)
    }
}

fn timed(command: &str, dir: &Path) -> f64 {
    let command = command.replace("{dir}", &dir.display().to_string());
    let began = Instant::now();
    let status = Command::new("sh").args(["-c", &command]).status().unwrap();
    assert!(status.success(), "{command}: {status}");
    began.elapsed().as_secs_f64()
}

fn report(what: &str, ratios: &mut [f64]) {
    ratios.sort_by(f64::total_cmp);
    let median = ratios[ratios.len() / 2];
    let (least, most) = (ratios[0], ratios[ratios.len() - 1]);
    println!(
        "{what}: median ratio {median:.3} of {} pairs, from {least:.3} to {most:.3}",
        ratios.len()
    );
}

/// The most memory this process ever had.
fn peak_memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

struct World {
    repository: Repository,
    record: ClusterRecord,
    counts: Arc<counting::Counts>,
    files: tempfile::TempDir,
}

impl World {
    async fn new(url: &str, args: &Args) -> Self {
        let place = url.strip_prefix("s3://").unwrap();
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        let mut builder = AmazonS3Builder::new().with_bucket_name(bucket);
        for (key, value) in &args.options {
            builder = builder.with_config(key.parse().unwrap(), value);
        }
        // The same choice of TLS as in the product; the server speaks plain http.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let counts = Arc::default();
        let store = CountingStore::new(Arc::new(builder.build().unwrap()), Arc::clone(&counts));
        let options = StoreOptions {
            incremental: Incremental::Off,
            ..StoreOptions::default()
        };
        let seams = Seams::real();
        let base = StorePath::from(format!("{prefix}/{}", seams.ulid()));
        let repository = Repository::with_store_and(Arc::new(store), base, &options, seams);
        let spec = ClusterSpec {
            name: "bench".to_owned(),
            partitions: 1,
            key_hash: KeyHash::Blake3Mod,
        };
        let record = repository.init(&spec).await.unwrap();
        World {
            repository,
            record,
            counts,
            files: random_files(args.bytes),
        }
    }

    async fn publish(&self, number: u64) -> Published {
        let partition = PartitionId::new(0);
        let upload = SnapshotUpload {
            cluster: self.record.cluster.clone(),
            partition,
            incarnation: self.record.incarnations[&partition],
            snapshot_id: snapshot_id(u128::from(number) + 1),
            lsn: Lsn::new(number + 1),
            chain: None,
            state_digest: None,
            leader: None,
            log_bytes: 0,
            state_machine: StateMachineVersion {
                name: "bench".to_owned(),
                version: 1,
            },
            key_range: KeyRange { partition: 0, of: 1 },
            producer: Producer {
                node: node("bench"),
                role: ReplicaRole::Follower,
            },
            request_id: None,
            created_at: Timestamp::default(),
            dir: self.files.path().to_owned(),
            restorable_snapshots_min: Some(1),
            lower_restorable_min: false,
            trimmed: None,
            distrusted: Vec::new(),
        };
        let published = self
            .repository
            .publish(&upload, &NoProgress, &CancellationToken::new())
            .await;
        published.unwrap()
    }

    /// Downloads a snapshot and returns the seconds it took.
    async fn download(&self, published: &Published) -> f64 {
        let into = tempfile::tempdir().unwrap();
        let target = into.path().join("snapshot");
        let began = Instant::now();
        let entry = &published.entry;
        self.repository
            .download(PartitionId::new(0), entry, &target, &NoProgress)
            .await
            .unwrap();
        began.elapsed().as_secs_f64()
    }

    /// Keeps the server's disk from filling up; no snapshot of an earlier pair is needed any more.
    fn tidy(&self, args: &Args) {
        let Some(folder) = &args.server_prefix_dir else {
            return;
        };
        for partition in std::fs::read_dir(folder).unwrap().flatten() {
            let partition = partition.path().join("0");
            for entry in std::fs::read_dir(partition).into_iter().flatten().flatten() {
                if entry.path().is_dir() {
                    std::fs::remove_dir_all(entry.path()).unwrap();
                }
            }
        }
    }
}

/// Files of random bytes, which no tool can compress.
fn random_files(bytes: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = StdRng::seed_from_u64(7);
    let mut content = vec![0; FILE_BYTES as usize];
    for number in 0..bytes.div_ceil(FILE_BYTES) {
        rng.fill(&mut content[..]);
        std::fs::write(dir.path().join(format!("{number:06}.sst")), &content).unwrap();
    }
    dir
}
