//! Level 2: a ledger of accounts and transfers, replicated by Tidemark's own partition processor.
//!
//! All that is written here is what a command does ([`StateMachine`]); RocksDB, the apply loop, leadership, snapshots and
//! restores come with [`Worker`]. Each partition is a branch with accounts of its own. Transfers move money about, so
//! whatever happens, the sum of a branch's balances stays what it was: on every replica, at every LSN.
//!
//! `cargo run -p ledger` ends with the line `ok`, or with an error and exit code 1.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use partition_log::embedded::{EmbeddedLog, EmbeddedOptions};
use serde::{Deserialize, Serialize};
use snapshot_scheduler::{Policy, Scheduler, SchedulerOptions, WorkerSpec};
use snapshot_worker::prelude::*;
use std::{fs, net::SocketAddr, path::Path, sync::Arc, time::Duration};
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::TcpIncoming};

/// A state is made of named, ordered sets of pairs. A prefix tells them apart on the disk, and never changes.
const BALANCES: Keyspace = Keyspace { name: "balances", prefix: 1 };
const TRANSFERS: Keyspace = Keyspace { name: "transfers", prefix: 2 };
/// Of each branch.
const ACCOUNTS: u64 = 20;
const SUM: u64 = ACCOUNTS * 100;

/// What a client may ask for, as it stands in the log.
#[derive(Serialize, Deserialize)]
enum Command {
    /// Opens the branch's accounts, once.
    Open { accounts: u64, balance: u64 },
    /// Moves money between two of them.
    Transfer { from: u64, to: u64, amount: u64 },
}

impl Command {
    fn encode(&self) -> Result<Bytes> {
        Ok(serde_json::to_vec(self)?.into())
    }
}

struct Ledger;

impl StateMachine for Ledger {
    /// Name and version stand in every state and snapshot: another or a newer machine's is never opened.
    fn name(&self) -> &'static str {
        "ledger"
    }

    fn version(&self) -> u32 {
        1
    }

    fn keyspaces(&self) -> &'static [Keyspace] {
        &[BALANCES, TRANSFERS]
    }

    /// Deterministic: it looks at nothing but its arguments, so all replicas come to the same state and the same reply.
    /// A transfer that is not covered is a reply. An error is for what this version cannot apply at all.
    fn apply(&self, lsn: Lsn, command: &Bytes, state: &mut Transaction<'_>) -> Result<Bytes, ApplyError> {
        let command = serde_json::from_slice(command).map_err(|error| ApplyError::Poison(error.to_string()))?;
        match command {
            Command::Open { accounts, balance } if state.get(&BALANCES, &key(0))?.is_none() => {
                (0..accounts).for_each(|account| state.put(&BALANCES, &key(account), key(balance)));
            }
            Command::Open { .. } => return Ok("there are accounts already".into()),
            Command::Transfer { from, to, amount } => {
                let Some(rest) = balance(state, from)?.and_then(|balance| balance.checked_sub(amount)) else {
                    return Ok("not covered".into());
                };
                if state.get(&BALANCES, &key(to))?.is_none() {
                    return Ok("no such account".into());
                }
                // What a command wrote it also reads: a transfer to oneself changes nothing.
                state.put(&BALANCES, &key(from), key(rest));
                let sum = balance(state, to)?.unwrap_or_default() + amount;
                state.put(&BALANCES, &key(to), key(sum));
                state.put(&TRANSFERS, &key(lsn.get()), format!("{amount} from {from} to {to}"));
            }
        }
        Ok("done".into())
    }
}

/// Big-endian, so that keys lie in the order of their numbers.
fn key(number: u64) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

fn balance(state: &Transaction<'_>, account: u64) -> Result<Option<u64>, ApplyError> {
    Ok(state.get(&BALANCES, &key(account))?.map(|stored| number(&stored)))
}

fn number(stored: &[u8]) -> u64 {
    stored.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Adds up a branch: all balances as they were at one LSN, while transfers go on.
fn audit(branch: &PartitionHandle) -> Result<Lsn> {
    let view = branch.view()?;
    let sum = view.scan(&BALANCES, &[]).try_fold(0, |sum, pair| pair.map(|(_, value)| sum + number(&value)))?;
    ensure!(sum == SUM, "branch {}: the sum at LSN {} is {sum}", branch.partition(), view.applied_lsn());
    Ok(view.applied_lsn())
}

struct Node {
    worker: Worker,
    address: SocketAddr,
    stop: CancellationToken,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
}

/// What the nodes share.
struct Shared {
    log: EmbeddedLog,
    repository: Repository,
}

async fn start(folder: &Path, node: &NodeId, listen: SocketAddr, shared: &Shared) -> Result<Node> {
    fs::create_dir_all(folder)?;
    let listener = TcpListener::bind(listen).await?;
    let address = listener.local_addr()?;
    // Which cluster this node belongs to: asked of the store at the first start, kept in the folder from then on.
    let identity = LocalIdentity::adopt(folder, node, &shared.repository).await?;
    let mut options = WorkerOptions::new(node.clone(), format!("http://{address}"), folder.to_owned(), identity);
    options.flush_interval = Duration::from_millis(200);
    let (log, repository) = (Arc::new(shared.log.clone()), shared.repository.clone());
    let worker = Worker::start(options, Arc::new(Ledger), log, repository, Seams::real())?;
    // The program's own server, with Tidemark's requests as one of its services.
    let (stop, router) = (CancellationToken::new(), Server::builder().add_service(worker.service()));
    let stopped = stop.clone().cancelled_owned();
    let server = tokio::spawn(router.serve_with_incoming_shutdown(TcpIncoming::from(listener), stopped));
    Ok(Node { worker, address, stop, server })
}

/// Opens a branch on a running node, and returns it once it has all that was in its log.
async fn open(node: &Node, partition: PartitionId) -> Result<PartitionHandle> {
    let branch = node.worker.open_partition(partition)?;
    // Role, state and applied LSN can be watched: here each change of role and state is printed.
    let (mut changes, mut before, node) = (branch.watch(), String::new(), node.address);
    tokio::spawn(async move {
        while changes.changed().await.is_ok() {
            let status = changes.borrow_and_update();
            let now = format!("{node}: branch {partition} is {} and {}", status.role.as_str(), status.state);
            if now != before {
                eprintln!("{now}, applied {}", status.applied_lsn.unwrap_or_default());
                before = now;
            }
        }
    });
    branch.watch().wait_for(|status| status.state == PartitionState::Active).await?;
    Ok(branch)
}

/// Makes `count` transfers at the branch's leader; each is answered when it was applied, durable in the log.
async fn transfers(leader: &PartitionHandle, count: u64) -> Result<Lsn> {
    let at = leader.status().applied_lsn.unwrap_or_default().get();
    let transfer = |number| Command::Transfer {
        from: (number * 7) % ACCOUNTS,
        to: (number * 13 + 1) % ACCOUNTS,
        amount: number % 50,
    };
    let commands: Result<Vec<Bytes>> = (at..at + count).map(|number| transfer(number).encode()).collect();
    let applied = leader.propose(commands?).await?;
    Ok(applied.last().context("no transfer was made")?.lsn)
}

#[tokio::main]
async fn main() -> Result<()> {
    timeout(Duration::from_secs(120), run()).await.context("it took too long")?
}

async fn run() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    // A cluster of two partitions: its identity in the store, and an empty log for each.
    let repository = Repository::open(&format!("file://{}", at("store").display()), Seams::real())?;
    let cluster = repository.init(&ClusterSpec::new("ledger", 2)).await?;
    let log = EmbeddedLog::open(&at("log"), EmbeddedOptions::default())?;
    for registration in Registration::of_new_cluster(&cluster) {
        log.provision(registration).await?;
    }
    let shared = Shared { log, repository };
    let (a, b, any) = (NodeId::new("a")?, NodeId::new("b")?, SocketAddr::from(([127, 0, 0, 1], 0)));
    let first = start(&at("a"), &a, any, &shared).await?;
    let second = start(&at("b"), &b, any, &shared).await?;
    let all: Vec<PartitionId> = cluster.incarnations.keys().copied().collect();

    // The admin, in the same process: has a snapshot made every 300 records, has it verified, and trims.
    let policy = Policy { snapshot_after_records: 300, lag_records_max: 100, ..Policy::default() };
    let worker = |id, node: &Node| WorkerSpec::grpc(id, format!("http://{}", node.address), all.clone());
    let scheduler = Scheduler::builder(policy)
        .options(SchedulerOptions { assign_leaders: false, ..SchedulerOptions::default() })
        .admin(NodeId::new("admin")?)
        .cluster(&cluster)
        .log(Arc::new(shared.log.clone()))
        .store(shared.repository.clone())
        .workers(vec![worker(a, &first)?, worker(b.clone(), &second)?])
        .build()?;
    tokio::spawn(scheduler.run(CancellationToken::new()));

    // Branches open on both nodes; those on a announce themselves in the log as leaders, and open the accounts.
    for partition in &all {
        let (leader, follower) = (open(&first, *partition).await?, open(&second, *partition).await?);
        leader.lead().await?;
        leader.propose(vec![Command::Open { accounts: ACCOUNTS, balance: SUM / ACCOUNTS }.encode()?]).await?;
        // Transfers and audits, until two snapshots were published and verified, and the log was trimmed.
        while shared.log.info(*partition).await?.trim_point == Lsn::ZERO {
            let last = transfers(&leader, 20).await?;
            follower.watch().wait_for(|status| status.applied_lsn >= Some(last)).await?;
            audit(&leader)?;
            audit(&follower)?;
        }
    }
    // A branch can be closed and opened again while the node runs.
    ensure!(second.worker.close_partition(all[1]).await);
    let last = transfers(&first.worker.partition(all[1]).context("a has both branches")?, 20).await?;
    ensure!(open(&second, all[1]).await?.status().applied_lsn >= Some(last));

    // b loses its disk, and starts anew with nothing.
    second.worker.shutdown().await;
    second.stop.cancel();
    second.server.await??;
    fs::remove_dir_all(at("b"))?;
    let second = start(&at("b"), &b, second.address, &shared).await?;
    for partition in all {
        // It restores a snapshot, follows the log, and can lead from there.
        let (theirs, own) = (first.worker.partition(partition).context("a has it")?, open(&second, partition).await?);
        own.lead().await?;
        let last = transfers(&own, 20).await?;
        theirs.watch().wait_for(|status| status.applied_lsn >= Some(last)).await?;
        ensure!(audit(&own)? == last && audit(&theirs)? == last);
        ensure!(own.digest().await? == theirs.digest().await?, "branch {partition}: a and b differ");
        let restored = second.worker.agent().replica(partition).and_then(|status| status.last_restore);
        let restored = restored.context("b came back without a snapshot")?.lsn;
        let trim_point = shared.log.info(partition).await?.trim_point;
        println!(
            "branch {partition}: trimmed up to {trim_point}, b restored {restored} and has {last}: the sum is {SUM}"
        );
    }
    println!("ok");
    Ok(())
}
