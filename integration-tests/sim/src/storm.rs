//! One run: a cluster is founded, a storm passes over it, and in the calm afterwards it must be well again.

use crate::{
    client,
    counters::Counters,
    harm, nodes, operator,
    oracle::Oracle,
    plan::{FaultClass, Plan},
    plant::Plant,
    report::Report,
    world::World,
};
use futures::future::{try_join, try_join_all};
use object_store::{memory::InMemory, path::Path};
use partition_log::{LogAdmin, Registration, memory::MemoryLog};
use snapshot_store::{
    ClusterSpec, Entropy, ManualClock, Repository, Seams, Timestamp,
    format::{ClusterRecord, KeyHash},
};
use std::{
    collections::BTreeMap,
    io::Write,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use turmoil::Sim;

/// How often faults are drawn.
const DRAW_MS: u64 = 100;
/// How often all replicas are compared with the log during the storm.
const COMPARE_MS: u64 = 2000;
/// How long a message takes at most on a link that is slow.
const SLOW_LINK_MS: u64 = 600;
/// The host of all clients and of the operator: each further host makes every step longer.
const CLIENTS_HOST: &str = "clients";
/// How many simulated clients write.
const CLIENTS: usize = 2;

/// Panics of this process; a run without a panic is not enough for a good one, but with one it is a bad one.
static PANICS: AtomicU64 = AtomicU64::new(0);

/// How a run is made.
pub struct Options {
    /// How long the storm lasts.
    pub storm: Duration,
    /// Folder of the nodes' disks; a file system in memory is fast.
    pub disks: PathBuf,
    /// A bug that is planted.
    pub plant: Option<Plant>,
    /// Where the trace goes.
    pub trace: Option<Box<dyn Write + Send>>,
}

/// What is wrong at the moment, from outside.
type Down = BTreeMap<String, Duration>;

pub(crate) struct Storm<'a> {
    pub(crate) world: World,
    sim: Sim<'a>,
    down: Down,
    /// Links that are broken, until when.
    links: Vec<(String, String, Link, Duration)>,
    pub(crate) now: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Held,
    Lost,
    OneWay,
    Slow,
}

/// Founds the cluster: what `cluster init` does, without faults.
fn found(plan: &Plan) -> anyhow::Result<(Arc<InMemory>, MemoryLog, ClusterRecord)> {
    let (raw, log) = (Arc::new(InMemory::new()), MemoryLog::new());
    let seams = Seams {
        clock: Arc::new(ManualClock::at(Timestamp::from_millis(1_699_999_999_000))),
        entropy: Entropy::seeded(plan.seed),
    };
    let repository = Repository::with_store(raw.clone(), Path::default(), seams);
    let spec = ClusterSpec {
        name: "simulated".to_owned(),
        partitions: plan.partitions,
        key_hash: KeyHash::Blake3Mod,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    let record = runtime.block_on(async {
        let record = repository.init(&spec).await?;
        for registration in Registration::of_new_cluster(&record) {
            log.provision(registration).await?;
        }
        anyhow::Ok(record)
    })?;
    Ok((raw, log, record))
}

/// Makes one run, which depends on `plan` and the length of the storm alone. To be called once per process.
///
/// # Errors
/// When the run could not be made; what went wrong within it stands in the report.
pub fn run(plan: Plan, options: Options) -> anyhow::Result<Report> {
    let counters = Counters::default();
    counters.install()?;
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        hook(panic);
    }));
    let (raw, log, cluster) = found(&plan)?;
    let oracle = Oracle::new(raw, log, &cluster);
    let world = World::new(
        (plan, options.plant),
        options.disks,
        oracle,
        counters,
        options.trace,
    );
    let mut storm = Storm::new(world.clone(), &cluster);
    storm.pass(options.storm)?;
    let calm = storm.calm_down()?;
    if PANICS.load(Ordering::Relaxed) > 0 {
        world.violate("something panicked");
    }
    let simulated = storm.now;
    let (trace_hash, events) = world.end_trace();
    Ok(Report {
        seed: world.plan().seed,
        trace_hash,
        events,
        simulated_ms: simulated.as_millis() as u64,
        calm_ms: calm.as_millis() as u64,
        violations: world.violations(),
        counters: world.counters().all(),
    })
}

fn failed(error: Box<dyn std::error::Error>) -> anyhow::Error {
    anyhow::anyhow!("a host ended: {error}")
}

impl Storm<'_> {
    fn new(world: World, cluster: &ClusterRecord) -> Self {
        let plan = world.plan().clone();
        let mut sim = turmoil::Builder::new()
            .rng_seed(plan.seed)
            .tick_duration(Duration::from_millis(plan.tick_ms))
            .simulation_duration(Duration::from_secs(100_000))
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(plan.message_latency_ms_max()))
            .tcp_capacity(1 << 16)
            .enable_random_order()
            .build();
        let host = world.clone();
        sim.host(nodes::LOG, move || nodes::log(host.clone()));
        for name in plan.worker_names() {
            let (host, node) = (world.clone(), name.clone());
            sim.host(name, move || nodes::worker(host.clone(), node.clone()));
        }
        for name in plan.admin_names() {
            let (host, node, cluster) = (world.clone(), name.clone(), cluster.clone());
            sim.host(name, move || {
                nodes::admin(host.clone(), node.clone(), cluster.clone())
            });
        }
        let clients = (1..=CLIENTS).map(|number| client::write(world.clone(), format!("client-{number}")));
        let clients = try_join_all(clients);
        let operator = operator::operate(world.clone());
        sim.client(CLIENTS_HOST, async move {
            try_join(clients, operator).await?;
            Ok(())
        });
        Storm {
            world,
            sim,
            down: Down::new(),
            links: Vec::new(),
            now: Duration::ZERO,
        }
    }

    /// Lets the cluster run for one step; `true` when the clients are done.
    pub(crate) fn step(&mut self) -> anyhow::Result<bool> {
        let done = self.sim.step().map_err(failed)?;
        self.now += Duration::from_millis(self.world.plan().tick_ms);
        self.world.set_now(self.now);
        self.world.do_what_is_due();
        for node in self.world.take_crashes() {
            self.crash(&node, false);
        }
        Ok(done)
    }

    pub(crate) fn is_every(&self, millis: u64) -> bool {
        (self.now.as_millis() as u64).is_multiple_of(millis)
    }

    fn pass(&mut self, length: Duration) -> anyhow::Result<()> {
        while self.now < length {
            self.step()?;
            if self.is_every(DRAW_MS) {
                self.end_what_is_over(false);
                self.draw_crashes();
                self.draw_links();
                self.draw_pauses();
                self.draw_damage();
                harm::draw(&self.world);
            }
            if self.is_every(COMPARE_MS) {
                self.compare();
            }
        }
        Ok(())
    }

    fn any(&self, names: &[String]) -> String {
        names[self.world.below(0..names.len() as u64) as usize].clone()
    }

    fn draw_crashes(&mut self) {
        let plan = self.world.plan().clone();
        let nodes = [plan.worker_names(), plan.worker_names(), plan.admin_names()].concat();
        if self.world.strikes(FaultClass::Crash, 0.012) {
            let node = self.any(&nodes);
            self.crash(&node, false);
        }
        if self.world.strikes(FaultClass::Wipe, 0.008) {
            let node = self.any(&plan.worker_names());
            self.crash(&node, true);
        }
        if self.world.strikes(FaultClass::Upgrade, 0.01) {
            let node = self.any(&plan.worker_names());
            self.update(&node);
        }
    }

    /// Gives a worker the newer version of the software, and starts it again.
    fn update(&mut self, node: &str) {
        if self.world.update(node) {
            self.world.event(format!("{node} is updated"));
            self.crash(node, false);
        }
    }

    /// Ends what some nodes do only for a while: all workers get the newer version, and no admin holds back any more.
    pub(crate) fn end_phases(&mut self) {
        let plan = self.world.plan().clone();
        if plan.has(FaultClass::Upgrade) {
            for worker in plan.worker_names() {
                self.update(&worker);
            }
        }
        if plan.has(FaultClass::DryRun) {
            for admin in plan.admin_names() {
                self.crash(&admin, false);
            }
        }
    }

    fn crash(&mut self, node: &str, wipe: bool) {
        if self.down.contains_key(node) {
            return;
        }
        self.world.event(format!("{node} stops, wiped: {wipe}"));
        self.world.set_worker(node, None);
        self.sim.crash(node);
        if wipe {
            // It may not have been created yet.
            std::fs::remove_dir_all(self.world.disk(node)).ok();
        }
        let until = self.now + Duration::from_millis(self.world.below(50..6000));
        self.down.insert(node.to_owned(), until);
    }

    fn draw_links(&mut self) {
        let plan = self.world.plan().clone();
        let kinds = [
            (FaultClass::Cut, Link::Held),
            (FaultClass::CutLossy, Link::Lost),
            (FaultClass::CutOneWay, Link::OneWay),
            (FaultClass::Slow, Link::Slow),
        ];
        for (class, link) in kinds {
            if !self.world.strikes(class, 0.008) {
                continue;
            }
            let mut left = [plan.worker_names(), plan.admin_names()].concat();
            let from = self.any(&left);
            left.retain(|node| *node != from);
            left.push(nodes::LOG.to_owned());
            let to = self.any(&left);
            // One fault at a time on a link: they are undone one by one.
            let taken = |(a, b, ..): &(String, String, Link, Duration)| {
                (*a == from && *b == to) || (*a == to && *b == from)
            };
            if self.links.iter().any(taken) {
                continue;
            }
            self.world.event(format!("link {from} to {to}: {link:?}"));
            match link {
                Link::Held => self.sim.hold(from.as_str(), to.as_str()),
                Link::Lost => self.sim.partition(from.as_str(), to.as_str()),
                Link::OneWay => self.sim.partition_oneway(from.as_str(), to.as_str()),
                Link::Slow => self.slow(&from, &to, SLOW_LINK_MS),
            }
            let until = self.now + Duration::from_millis(self.world.below(100..8000));
            self.links.push((from, to, link, until));
        }
    }

    /// Takes a node its time: it hears nothing, its messages and its requests to the store wait, and its clock stands still.
    fn draw_pauses(&mut self) {
        let plan = self.world.plan().clone();
        if !self.world.strikes(FaultClass::Pause, 0.01) {
            return;
        }
        let mut others = [plan.worker_names(), plan.admin_names()].concat();
        let node = self.any(&others);
        others.retain(|other| *other != node);
        others.push(nodes::LOG.to_owned());
        others.push(CLIENTS_HOST.to_owned());
        let busy = |(a, b, ..): &(String, String, Link, Duration)| *a == node || *b == node;
        if self.down.contains_key(&node) || self.links.iter().any(busy) {
            return;
        }
        let until = self.now + Duration::from_millis(self.world.below(1000..12_000));
        self.world.event(format!("{node} gets no time"));
        self.world.pause(&node, until);
        for other in others {
            self.sim.hold(node.as_str(), other.as_str());
            self.links.push((node.clone(), other, Link::Held, until));
        }
    }

    fn slow(&self, from: &str, to: &str, millis: u64) {
        let latency = Duration::from_millis(millis);
        self.sim.set_link_max_message_latency(from, to, latency);
    }

    /// Takes back what has lasted long enough, or everything.
    pub(crate) fn end_what_is_over(&mut self, all: bool) {
        let now = self.now;
        let over: Vec<String> = self
            .down
            .iter()
            .filter(|(_, until)| all || **until <= now)
            .map(|(node, _)| node.clone())
            .collect();
        for node in over {
            self.down.remove(&node);
            self.sim.bounce(node.as_str());
        }
        let (over, left) = std::mem::take(&mut self.links)
            .into_iter()
            .partition(|(.., until)| all || *until <= now);
        self.links = left;
        let over: Vec<(String, String, Link, Duration)> = over;
        for (from, to, link, _) in over {
            self.world.event(format!("link {from} to {to} is well"));
            match link {
                Link::Held => self.sim.release(from.as_str(), to.as_str()),
                Link::Lost => self.sim.repair(from.as_str(), to.as_str()),
                Link::OneWay => self.sim.repair_oneway(from.as_str(), to.as_str()),
                Link::Slow => self.slow(&from, &to, self.world.plan().message_latency_ms_max()),
            }
        }
    }
}
