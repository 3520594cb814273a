//! Level 1: a service that has a database, an apply loop and an election of its own adopts Tidemark.
//!
//! The service remembers where in its log each word was said last: one log and one column family per partition, all
//! families of a node in one RocksDB. What it gives to Tidemark is [`PartitionHost`], below. What it gets: its states are
//! published as snapshots, its log is trimmed as far as verified snapshots cover, and a node without a disk comes back.
//! `cargo run -p existing-service` ends with the line `ok`, or with an error and exit code 1.

use anyhow::{Context as _, Result, bail, ensure};
use futures::{StreamExt as _, TryFutureExt as _, future::try_join_all};
use partition_log::embedded::{EmbeddedLog, EmbeddedOptions};
use rocksdb::{BoundColumnFamily, DB, IteratorMode, Options, WriteBatch};
use snapshot_scheduler::{Policy, Scheduler, SchedulerOptions, WorkerSpec};
use snapshot_worker::prelude::*;
use std::{fs, net::SocketAddr, path::Path, pin::pin, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::watch, task::JoinSet, task::block_in_place, time::sleep, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::TcpIncoming};

/// Under this key a state says what it is, in the same batch as its data, and so in every snapshot. No word has a 0.
const FACTS: &[u8] = b"\0facts";

/// One partition on one node.
struct Replica {
    partition: PartitionId,
    node: NodeId,
    log: EmbeddedLog,
    election: watch::Receiver<NodeId>,
    db: Arc<DB>,
    facts: watch::Sender<CheckpointFacts>,
    state: watch::Sender<PartitionState>,
}

impl Replica {
    fn family(&self) -> Arc<BoundColumnFamily<'_>> {
        self.db.cf_handle(&self.partition.to_string()).expect("the database was opened with it")
    }

    /// Writes `batch` with the facts after it. Both are on the disk when this returns: what is applied is durable.
    fn write(&self, mut batch: WriteBatch, facts: CheckpointFacts) -> Result<(), HostError> {
        batch.put_cf(&self.family(), FACTS, serde_json::to_vec(&facts).map_err(std::io::Error::other)?);
        self.db.write(batch).and_then(|()| self.db.flush_wal(true)).map_err(std::io::Error::other)?;
        self.facts.send_replace(facts);
        Ok(())
    }

    fn apply(&self, records: &RecordBatch) -> Result<(), HostError> {
        let (family, mut batch, mut facts) = (self.family(), WriteBatch::default(), self.facts.borrow().clone());
        for word in &records.records {
            facts.lsn = facts.lsn.next();
            facts.log_bytes += word.len() as u64;
            batch.put_cf(&family, word, facts.lsn.to_string());
        }
        self.write(batch, facts)
    }

    /// The apply loop, as the service had it. New is what it does when the log no longer has the next record: Tidemark
    /// chooses a snapshot above the trim point, downloads and verifies it, and hands it to `install`, below.
    async fn follow(&self, agent: &SnapshotAgent) -> Result<()> {
        let CheckpointFacts { incarnation, lsn: applied, .. } = *self.facts.borrow();
        let goal = self.log.info(self.partition).await?.tail;
        let mut records = pin!(self.log.read(self.partition, incarnation, applied.next()).try_flatten_stream());
        let trim_point = loop {
            // Active once it has reached the end that the log had when this began: then it is asked for snapshots.
            let reached = self.facts.borrow().lsn.next() >= goal;
            self.state.send_replace(if reached { PartitionState::Active } else { PartitionState::CatchingUp });
            match records.next().await.context("the log ended the stream")? {
                Ok(records) => block_in_place(|| self.apply(&records))?,
                Err(ReadError::Trimmed { trim_point }) => break trim_point,
                Err(error) => return Err(error.into()),
            }
        };
        self.state.send_replace(PartitionState::Restoring);
        let request = RestoreRequest::new(incarnation, trim_point, Some(self.facts.borrow().lsn));
        match agent.restore(self.partition, request).await? {
            RestoreOutcome::Restored(_) => Ok(()),
            RestoreOutcome::NothingUsable { detail, .. } => bail!(detail),
        }
    }

    /// Says every word of `text`. A leader that was deposed unawares is kept out by the tail it expects.
    async fn say(&self, text: &'static str) -> Result<Lsn> {
        ensure!(*self.election.borrow() == self.node, "{} does not lead", self.node);
        let CheckpointFacts { incarnation, lsn: applied, .. } = *self.facts.borrow();
        let words = text.split(' ').map(Into::into).collect();
        let last = self.log.append(self.partition, incarnation, words, Some(applied.next())).await?;
        self.facts.subscribe().wait_for(|facts| facts.lsn >= last).await?;
        Ok(last)
    }

    fn pairs(&self) -> Result<Vec<String>> {
        let pairs = self.db.iterator_cf(&self.family(), IteratorMode::Start);
        pairs.map(|pair| Ok(format!("{:?}", pair?))).collect()
    }
}

/// The seam: all that Tidemark needs of the service.
#[async_trait::async_trait]
impl PartitionHost for Replica {
    fn status(&self) -> ReplicaStatus {
        let leads = *self.election.borrow() == self.node;
        let role = if leads { ReplicaRole::Leader } else { ReplicaRole::Follower };
        ReplicaStatus { role, state: self.state.borrow().clone(), ..self.facts.borrow().status() }
    }

    /// Hard links to the tables of this partition's family.
    async fn checkpoint(&self, dir: &Path) -> Result<(), HostError> {
        block_in_place(|| checkpoint_family(&self.db, &self.partition.to_string(), dir))
    }

    /// What the copy says of itself, once all of it could be read.
    async fn inspect(&self, dir: &Path) -> Result<CheckpointFacts, HostError> {
        let mut facts = Vec::new();
        let each = |key: &[u8], value: &[u8]| facts.extend_from_slice(if key == FACTS { value } else { &[] });
        block_in_place(|| read_family(dir, &self.partition.to_string(), each))?;
        serde_json::from_slice(&facts).map_err(|error| HostError::Corrupt(format!("the facts: {error}")))
    }

    /// The old state goes and the new one comes in one batch: no crash leaves a mixture.
    async fn install(&self, dir: &Path, manifest: &Manifest) -> Result<(), HostError> {
        let mut facts = self.inspect(dir).await?;
        // A snapshot that a forked cluster brought along still says that it is its source's.
        (facts.fingerprint, facts.incarnation) = (manifest.cluster.fingerprint, manifest.incarnation);
        block_in_place(|| {
            let (family, mut batch) = (self.family(), WriteBatch::default());
            batch.delete_range_cf(&family, &[][..], &[0xff][..]);
            read_family(dir, &self.partition.to_string(), |key, value| batch.put_cf(&family, key, value))?;
            self.write(batch, facts)?;
            Ok(fs::remove_dir_all(dir)?)
        })
    }
}

/// What the nodes share. `election` says who leads, and stands for whatever the service elects its leaders with.
struct Service {
    log: EmbeddedLog,
    repository: Repository,
    election: watch::Sender<NodeId>,
}

struct Node {
    agent: SnapshotAgent,
    replicas: Vec<Arc<Replica>>,
    address: SocketAddr,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

async fn start(folder: &Path, node: &NodeId, listen: SocketAddr, service: &Service) -> Result<Node> {
    fs::create_dir_all(folder)?;
    let listener = TcpListener::bind(listen).await?;
    let address = listener.local_addr()?;
    // Who this node is: asked of the store at the first start, kept in the folder from then on.
    let identity = LocalIdentity::adopt(folder, node, &service.repository).await?;
    let config = AgentConfig::new(&identity, format!("http://{address}"), folder.to_owned());
    let agent = SnapshotAgent::new(config, service.repository.clone(), Seams::real())?;
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    let partitions = (0..identity.partitions).map(PartitionId::new);
    let db = DB::open_cf(&options, folder.join("db"), partitions.clone().map(|partition| partition.to_string()))?;
    let (mut replicas, mut tasks, stop, db) = (Vec::new(), JoinSet::new(), CancellationToken::new(), Arc::new(db));
    for partition in partitions {
        let registration = service.log.registration(partition).await?;
        let words = StateMachineVersion { name: "words".to_owned(), version: 1 };
        let empty = CheckpointFacts::empty(&registration, identity.key_range(partition), words);
        let (log, election, db) = (service.log.clone(), service.election.subscribe(), Arc::clone(&db));
        let (facts, state) = (watch::Sender::new(empty), watch::Sender::default());
        let replica = Arc::new(Replica { partition, node: node.clone(), log, election, db, facts, state });
        if let Some(stored) = replica.db.get_cf(&replica.family(), FACTS)? {
            replica.facts.send_replace(serde_json::from_slice(&stored)?);
        }
        agent.attach(partition, replica.clone());
        replicas.push(replica.clone());
        let (agent, stop) = (agent.clone(), stop.clone());
        tasks.spawn(async move {
            // What goes wrong is tried again. Until it works the replica is not active, and is asked for nothing.
            while let Some(ended) = stop.run_until_cancelled(replica.follow(&agent)).await {
                let Err(error) = ended else { continue };
                eprintln!("{} partition {partition}: {error:#}", replica.node);
                sleep(Duration::from_millis(200)).await;
            }
        });
    }
    // The service's own server, which serves Tidemark's requests beside its own.
    let server = Server::builder().add_service(agent.service());
    let (incoming, stopped) = (TcpIncoming::from(listener), stop.clone().cancelled_owned());
    tasks.spawn(async { drop(server.serve_with_incoming_shutdown(incoming, stopped).await) });
    Ok(Node { agent, replicas, address, stop, tasks })
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
    let cluster = repository.init(&ClusterSpec::new("words", 2)).await?;
    let log = EmbeddedLog::open(&at("log"), EmbeddedOptions::default())?;
    try_join_all(Registration::of_new_cluster(&cluster).map(|registration| log.provision(registration))).await?;
    let (a, b, any) = (NodeId::new("a")?, NodeId::new("b")?, SocketAddr::from(([127, 0, 0, 1], 0)));
    let service = Service { log, repository, election: watch::Sender::new(a.clone()) };
    let first = start(&at("a"), &a, any, &service).await?;
    let mut second = start(&at("b"), &b, any, &service).await?;
    // The admin asks the nodes over gRPC: for a snapshot when 200 records came since the last, to verify it, and so on.
    let policy = Policy { snapshot_after_records: 200, lag_records_max: 100, ..Policy::default() };
    let all = cluster.incarnations.keys().copied();
    let worker = |id, node: &Node| WorkerSpec::grpc(id, format!("http://{}", node.address), all.clone());
    let scheduler = Scheduler::builder(policy)
        .options(SchedulerOptions { assign_leaders: false, ..SchedulerOptions::default() })
        .admin(NodeId::new("admin")?)
        .cluster(&cluster)
        .log(Arc::new(service.log.clone()))
        .store(service.repository.clone())
        .workers(vec![worker(a, &first)?, worker(b.clone(), &second)?])
        .build()?;
    tokio::spawn(scheduler.run(CancellationToken::new()));
    // Two verified snapshots of each partition are needed before anything is trimmed.
    for replica in &first.replicas {
        while service.log.info(replica.partition).await?.trim_point == Lsn::ZERO {
            replica.say("to be or not to be").await?;
        }
    }
    // b loses its disk, and starts anew at the same address with nothing.
    second.stop.cancel();
    while second.tasks.join_next().await.is_some() {}
    let address = second.address;
    drop(second);
    fs::remove_dir_all(at("b"))?;
    let second = start(&at("b"), &b, address, &service).await?;
    // It is elected, and leads as soon as it has what it missed: first from the store, then from the log.
    service.election.send_replace(b);
    for (first, replica) in first.replicas.iter().zip(&second.replicas) {
        let partition = replica.partition;
        replica.state.subscribe().wait_for(|state| *state == PartitionState::Active).await?;
        let last = replica.say("that is the question").await?;
        first.facts.subscribe().wait_for(|facts| facts.lsn == last).await?;
        ensure!(first.pairs()? == replica.pairs()?, "partition {partition}: a and b differ");
        let restored =
            second.agent.replica(partition).and_then(|status| status.last_restore).context("no restore")?.lsn;
        let trim_point = service.log.info(partition).await?.trim_point;
        println!("partition {partition}: trimmed up to {trim_point}, b restored {restored} and has {last}, as a");
    }
    println!("ok");
    Ok(())
}
