//! kill -9 at random moments of three NATS servers, three workers and two admins, during a steady load of acknowledged
//! writes.
//!
//! Each round kills up to three of them at once, so that the servers lose their majority now and then. Afterwards every
//! acknowledged write is there on every replica, replicas are equal, and no log was trimmed above what an independent reader
//! of the bucket can restore. `TIDEMARK_CHAOS_ROUNDS` sets the number of rounds, `TIDEMARK_CHAOS_SEED` repeats a run's
//! choices.

use anyhow::{Context, ensure};
use integration_tests::{
    SecondAdmin, SingleNode, TestCluster,
    acknowledged::{Load, check_content},
    bucket::until_covered,
    on_nats::{self, settled_on},
    replicas::content,
    rounds::{Deck, Rounds},
};
use partition_log::{
    Log as _,
    conformance::{NatsServers, NatsUser},
    nats::NatsLog,
};
use rand::RngExt;
use snapshot_store::PartitionId;
use std::{fmt, time::Duration};
use tidemark::{
    cluster::{Node, PortBlock, Settings, wait_for},
    kv::KvClient,
};

const PARTITIONS: u32 = 4;
const WORKERS: u32 = 3;
const SERVERS: usize = 3;
const WRITERS: u64 = 4;
const AT_ONCE_MAX: usize = 3;
const WITHIN: Duration = Duration::from_secs(60);

/// One of the eight processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Server(usize),
    Node(Node),
    SecondAdmin,
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Victim::Server(index) => write!(f, "nats-{}", index + 1),
            Victim::Node(node) => write!(f, "{node}"),
            Victim::SecondAdmin => f.write_str("admin-2"),
        }
    }
}

/// Returns all of them.
fn everybody() -> Vec<Victim> {
    let servers = (0..SERVERS).map(Victim::Server);
    let workers = (1..=WORKERS).map(|number| Victim::Node(Node::Worker(number)));
    let admins = [Victim::Node(Node::Admin), Victim::SecondAdmin];
    servers.chain(workers).chain(admins).collect()
}

/// The eight processes, and what looks at them.
struct Everything {
    cluster: TestCluster,
    servers: NatsServers,
    log: NatsLog,
    admin: SecondAdmin,
    second: Option<SingleNode>,
    _ports: PortBlock,
}

impl Everything {
    async fn launch() -> anyhow::Result<Self> {
        let settings = Settings {
            snapshot_after_records: 150,
            lag_records_max: 70,
            overrides: vec![("admin", "[scheduler]\nlease_term_ms = 1500\n".to_owned())],
            ..Settings::default()
        };
        let servers = NatsServers::start(SERVERS).await;
        let base = env!("CARGO_TARGET_TMPDIR");
        let cluster = on_nats::launch(&servers, base, "nats-chaos", WORKERS, PARTITIONS, settings).await?;
        let ports = PortBlock::take()?;
        let mut everything = Everything {
            admin: SecondAdmin::prepare(&cluster, &ports)?,
            log: servers.connect(NatsUser::Admin).await,
            cluster,
            servers,
            second: None,
            _ports: ports,
        };
        everything.start(Victim::SecondAdmin).await?;
        Ok(everything)
    }

    fn kill(&mut self, victim: Victim) -> anyhow::Result<()> {
        match victim {
            Victim::Server(index) => self.servers.kill(index),
            Victim::Node(node) => self.cluster.kill(node)?,
            Victim::SecondAdmin => {
                let said = self.second.take().context("admin-2 runs")?.said()?;
                ensure!(!said.contains("panicked at"), "admin-2: {said}");
            }
        }
        Ok(())
    }

    async fn start(&mut self, victim: Victim) -> anyhow::Result<()> {
        match victim {
            Victim::Server(index) => self.servers.start_again(index),
            Victim::Node(node) => self.cluster.start(node).await?,
            Victim::SecondAdmin => {
                let second = self.admin.spawn()?;
                second.until_said(&["ready admin"], WITHIN).await?;
                self.second = Some(second);
            }
        }
        Ok(())
    }

    /// Asks each log how far it is trimmed, then the bucket whether it covers that; returns how many are trimmed.
    async fn check_trims(&self) -> anyhow::Result<usize> {
        let mut trimmed = 0;
        for partition in 0..PARTITIONS {
            let info = wait_for("the log to answer", WITHIN, async || {
                let info = self.log.info(PartitionId::new(partition)).await;
                info.map_err(|error| error.to_string())
            })
            .await?;
            let trim_point = info.trim_point.get();
            trimmed += usize::from(trim_point > 0);
            until_covered(&self.cluster.bucket_dir(), partition, trim_point).await?;
        }
        Ok(trimmed)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_servers_workers_and_admins_at_any_moment_loses_no_acknowledged_write() -> anyhow::Result<()>
{
    let Rounds {
        rounds,
        seed,
        mut random,
    } = Rounds::from_environment(5);
    let mut everything = Everything::launch().await?;
    let client = KvClient::connect(everything.cluster.endpoints().worker_urls()).await?;
    let client = client.with_patience(Duration::from_secs(90));
    let load = Load::start(&client, WRITERS);
    let mut deck = Deck::new(everybody());
    for round in 1..=rounds {
        tokio::time::sleep(Duration::from_millis(random.random_range(200..2_500))).await;
        let mut victims = deck.deal(&mut random, AT_ONCE_MAX, |_, _| false);
        let away = Duration::from_millis(random.random_range(0..1_500));
        let names: Vec<String> = victims.iter().map(Victim::to_string).collect();
        let context = format!("round {round}, seed {seed}: the kill of {}", names.join(", "));
        eprintln!(
            "{context}, away for {away:?}, {} acknowledged",
            load.acknowledged()
        );
        for victim in &victims {
            everything.kill(*victim)?;
        }
        tokio::time::sleep(away).await;
        // Nodes wait for the log before they serve.
        victims.sort_by_key(|victim| !matches!(victim, Victim::Server(_)));
        for victim in victims {
            everything.start(victim).await.with_context(|| context.clone())?;
        }
        load.until_it_goes_on(&context).await?;
        everything.check_trims().await.context(context)?;
    }

    // On a busy machine few rounds are over before the first trim.
    wait_for("a log to be trimmed", WITHIN, async || {
        match everything
            .check_trims()
            .await
            .map_err(|error| format!("{error:#}"))?
        {
            0 => Err(format!("{} acknowledged", load.acknowledged())),
            _ => Ok(()),
        }
    })
    .await?;
    let written = load.finish().await?;
    everything.cluster.until_healthy(WITHIN).await?;
    settled_on(
        &everything.log,
        everything.cluster.endpoints(),
        PARTITIONS,
        WITHIN,
    )
    .await?;
    for worker in 1..=WORKERS {
        let held = content(everything.cluster.endpoints(), worker, PARTITIONS).await?;
        check_content(&held, &written).with_context(|| format!("on worker {worker}, seed {seed}"))?;
    }
    everything.check_trims().await?;
    everything.kill(Victim::SecondAdmin)?;
    everything.cluster.finish()
}
