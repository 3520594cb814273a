//! Hundreds of partitions on one node.

use super::bed::{Bed, commands, until_active};
use crate::core::{NODE_FILES, PARTITION_FILES};
use futures::future::join_all;
use snapshot_store::PartitionId;
use std::fs;

const PARTITIONS: u32 = 500;
/// What the operator guide states for a small partition, write buffers and caches included.
const PARTITION_BYTES: u64 = 1 << 20;
/// Threads are the node's, not the partitions': RocksDB's pools and those of the runtime that wait for the disk, of which
/// there are 512 at most.
const THREADS_MAX: usize = 512 + 16;
/// Tables of a partition that has flushed a few times.
const TABLES: u64 = 4;

/// Memory of this process that is in use.
fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn open_files() -> u64 {
    fs::read_dir("/proc/self/fd").unwrap().count() as u64
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_partitions_of_a_node_fit_the_stated_limits() {
    let bed = Bed::of(PARTITIONS).await;
    let before = (resident_bytes(), threads());
    let mut options = bed.options("w1");
    options.partitions = (0..PARTITIONS).map(PartitionId::new).collect();
    options.restores_max = 4;
    for round in ["first", "second"] {
        let worker = bed.start(options.clone());
        let handles: Vec<_> = worker
            .partitions()
            .into_iter()
            .map(|partition| worker.partition(partition).unwrap())
            .collect();
        assert_eq!(handles.len(), PARTITIONS as usize);
        join_all(handles.iter().map(until_active)).await;
        for led in join_all(handles.iter().map(|handle| handle.lead())).await {
            led.unwrap();
        }
        let value = format!("{round}={}", "x".repeat(2000));
        let writes = handles.iter().map(|handle| handle.propose(commands(&[&value])));
        for written in join_all(writes).await {
            written.unwrap();
        }

        let files = open_files();
        let files_max = NODE_FILES + u64::from(PARTITIONS) * (PARTITION_FILES + TABLES);
        assert!(
            files <= files_max,
            "{files} files are open, {files_max} are stated"
        );
        let grown = resident_bytes().saturating_sub(before.0);
        let grown_max = u64::from(PARTITIONS) * PARTITION_BYTES;
        assert!(
            grown <= grown_max,
            "{grown} bytes more than before, {grown_max} are stated"
        );
        let more = threads() - before.1;
        assert!(more <= THREADS_MAX, "{more} more threads");
        worker.shutdown().await;
    }
}
