//! What everything in one run shares: randomness, the trace, counters, violations, and what is due later.

use crate::{
    counters::Counters,
    oracle::Oracle,
    plan::{FaultClass, Plan},
    plant::Plant,
};
use bytes::Bytes;
use object_store::{memory::InMemory, path::Path};
use partition_log::memory::MemoryLog;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use snapshot_store::{Blocking, Clock, Entropy, Seams, Timestamp};
use snapshot_worker::processor::Worker;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    io::Write,
    ops::Range,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// When all runs begin, by the clock of a node without skew.
const EPOCH_MS: u64 = 1_700_000_000_000;
/// How far the clock of a node is off at most, where clocks are skewed.
const SKEW_MS_MAX: i64 = 60_000;

/// How many violations a report names: it must fit into a pipe. The trace has all.
const VIOLATIONS_MAX: usize = 50;

/// Where all blocking work of a run takes place: on its one thread.
pub(crate) const BLOCKING: Blocking = Blocking::Inline;

type Later = Box<dyn FnOnce(&World) + Send>;

/// What everything in one run shares. Clones are the same.
#[derive(Clone)]
pub(crate) struct World(Arc<Shared>);

struct Shared {
    plan: Plan,
    /// The bug that is planted in this run.
    plant: Option<Plant>,
    /// Folder of the nodes' disks.
    disks: PathBuf,
    raw: Arc<InMemory>,
    log: MemoryLog,
    counters: Counters,
    state: Mutex<State>,
    oracle: Mutex<Oracle>,
}

struct State {
    rng: StdRng,
    now: Duration,
    calm: bool,
    quiet: bool,
    hasher: blake3::Hasher,
    events: u64,
    trace: Option<Box<dyn Write + Send>>,
    violations: Vec<String>,
    later: Vec<(Duration, Later)>,
    crashes: BTreeSet<String>,
    outages: BTreeMap<String, Duration>,
    /// Nodes that get no time: since when, and until when.
    pauses: BTreeMap<String, (Duration, Duration)>,
    workers: BTreeMap<String, Arc<Worker>>,
    lives: BTreeMap<String, u64>,
    /// Nodes with the newer version of the software.
    updated: BTreeSet<String>,
    /// What only planted bugs look at: pointers that were reported before they were put, the content of data files before and after a
    /// byte of it flipped, and which nodes have read which of those.
    reported: BTreeMap<Path, Bytes>,
    flipped: BTreeMap<String, (Bytes, Bytes)>,
    downloaded: BTreeSet<(String, String)>,
}

impl World {
    pub(crate) fn new(
        (plan, plant): (Plan, Option<Plant>),
        disks: PathBuf,
        oracle: Oracle,
        counters: Counters,
        trace: Option<Box<dyn Write + Send>>,
    ) -> Self {
        let (raw, log) = (Arc::clone(oracle.raw()), oracle.log().clone());
        let state = State {
            rng: StdRng::seed_from_u64(plan.seed ^ 0x776f_726c),
            now: Duration::ZERO,
            calm: false,
            quiet: false,
            hasher: blake3::Hasher::new(),
            events: 0,
            trace,
            violations: Vec::new(),
            later: Vec::new(),
            crashes: BTreeSet::new(),
            outages: BTreeMap::new(),
            pauses: BTreeMap::new(),
            workers: BTreeMap::new(),
            lives: BTreeMap::new(),
            updated: BTreeSet::new(),
            reported: BTreeMap::new(),
            flipped: BTreeMap::new(),
            downloaded: BTreeSet::new(),
        };
        World(Arc::new(Shared {
            plan,
            plant,
            disks,
            raw,
            log,
            counters,
            state: Mutex::new(state),
            oracle: Mutex::new(oracle),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.0.plan
    }

    /// Returns the store as it is, without faults.
    pub(crate) fn raw(&self) -> &Arc<InMemory> {
        &self.0.raw
    }

    /// Returns the log as it is, without faults.
    pub(crate) fn log(&self) -> &MemoryLog {
        &self.0.log
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// Returns the folder that is `node`'s disk.
    pub(crate) fn disk(&self, node: &str) -> PathBuf {
        self.0.disks.join(node)
    }

    /// Looks at the oracle; what it found wrong is kept as violations.
    pub(crate) fn oracle<T>(&self, look: impl FnOnce(&mut Oracle) -> T) -> T {
        let (answer, found) = {
            let mut oracle = self.0.oracle.lock().unwrap_or_else(PoisonError::into_inner);
            let answer = look(&mut oracle);
            (answer, oracle.take_violations())
        };
        for violation in found {
            self.violate(violation);
        }
        answer
    }

    /// Writes a line of the trace.
    pub(crate) fn event(&self, line: impl Display) {
        let now = self.now();
        let mut state = self.state();
        let line = format!("{:>9.3} {line}\n", now.as_secs_f64() * 1e3);
        state.hasher.update(line.as_bytes());
        state.events += 1;
        if let Some(trace) = &mut state.trace {
            // A trace that cannot be written changes nothing about the run.
            let _ = trace.write_all(line.as_bytes());
        }
    }

    /// Says that something happened that must not.
    pub(crate) fn violate(&self, what: impl Display) {
        self.event(format!("VIOLATION {what}"));
        let mut state = self.state();
        if state.violations.len() < VIOLATIONS_MAX {
            state.violations.push(what.to_string());
        }
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    /// Ends the trace; returns its hash and its number of lines.
    pub(crate) fn end_trace(&self) -> (String, u64) {
        let mut state = self.state();
        if let Some(mut trace) = state.trace.take() {
            // As above.
            let _ = trace.flush();
        }
        (state.hasher.finalize().to_hex()[..32].to_owned(), state.events)
    }

    /// Returns the simulated time since the start.
    pub(crate) fn now(&self) -> Duration {
        turmoil::sim_elapsed().unwrap_or_else(|| self.state().now)
    }

    pub(crate) fn set_now(&self, now: Duration) {
        self.state().now = now;
    }

    /// Ends the storm: no fault begins any more.
    pub(crate) fn calm(&self) {
        let mut state = self.state();
        state.calm = true;
        state.outages.clear();
        state.pauses.clear();
    }

    /// Returns whether the storm is over.
    pub(crate) fn is_calm(&self) -> bool {
        self.state().calm
    }

    /// Gives `node` the newer version of the software, from its next life on. Returns whether that is news.
    pub(crate) fn update(&self, node: &str) -> bool {
        self.state().updated.insert(node.to_owned())
    }

    /// Returns whether `node` has the newer version of the software.
    pub(crate) fn is_updated(&self, node: &str) -> bool {
        self.state().updated.contains(node)
    }

    /// Returns whether clients have stopped.
    pub(crate) fn writing_is_over(&self) -> bool {
        self.state().quiet
    }

    pub(crate) fn stop_writing(&self) {
        self.state().quiet = true;
    }

    pub(crate) fn below(&self, range: Range<u64>) -> u64 {
        self.state().rng.random_range(range)
    }

    /// Draws whether a fault of `class` happens now.
    pub(crate) fn strikes(&self, class: FaultClass, probability: f64) -> bool {
        if !self.0.plan.has(class) {
            return false;
        }
        let hit = {
            let mut state = self.state();
            let hit = state.rng.random_bool(probability);
            hit && !state.calm
        };
        if hit {
            self.0.counters.count(&format!("fault {}", class.as_str()));
        }
        hit
    }

    /// Lets some time pass, as a request does on its way.
    pub(crate) async fn lag(&self, millis: Range<u64>) {
        let millis = self.below(millis);
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }

    /// Has `act` done at some time from now, whatever becomes of the caller.
    pub(crate) fn later(&self, millis: Range<u64>, act: impl FnOnce(&World) + Send + 'static) {
        let due = self.now() + Duration::from_millis(self.below(millis));
        self.state().later.push((due, Box::new(act)));
    }

    /// Does what is due.
    pub(crate) fn do_what_is_due(&self) {
        loop {
            let due = {
                let mut state = self.state();
                let now = state.now;
                let at = state.later.iter().position(|(due, _)| *due <= now);
                at.map(|at| state.later.remove(at).1)
            };
            match due {
                Some(act) => act(self),
                None => return,
            }
        }
    }

    /// Asks for `node` to be stopped at the end of this step.
    pub(crate) fn crash_soon(&self, node: &str) {
        self.state().crashes.insert(node.to_owned());
    }

    /// Returns whether `node` stops at the end of this step.
    pub(crate) fn stops(&self, node: &str) -> bool {
        self.state().crashes.contains(node)
    }

    pub(crate) fn take_crashes(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.state().crashes)
    }

    /// Keeps `node` from the store for a while.
    pub(crate) fn begin_outage(&self, node: &str, millis: Range<u64>) {
        let until = self.now() + Duration::from_millis(self.below(millis));
        self.state().outages.insert(node.to_owned(), until);
    }

    pub(crate) fn has_outage(&self, node: &str) -> bool {
        let now = self.now();
        self.state().outages.get(node).is_some_and(|until| now < *until)
    }

    /// Has `node` get no answers of the store, and its clock stand still, until then.
    pub(crate) fn pause(&self, node: &str, until: Duration) {
        let now = self.now();
        self.state().pauses.insert(node.to_owned(), (now, until));
    }

    /// Returns since when and until when `node` gets no time, if it does not.
    fn pause_of(&self, node: &str) -> Option<(Duration, Duration)> {
        let now = self.now();
        let pause = self.state().pauses.get(node).copied();
        pause.filter(|(_, until)| now < *until)
    }

    /// Waits until `node` gets time again.
    pub(crate) async fn wait_for_time(&self, node: &str) {
        while self.pause_of(node).is_some() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Remembers the worker that runs on a node now; `None` when none does.
    pub(crate) fn set_worker(&self, node: &str, worker: Option<Arc<Worker>>) {
        let before = {
            let mut state = self.state();
            match worker {
                Some(worker) => state.workers.insert(node.to_owned(), worker),
                None => state.workers.remove(node),
            }
        };
        drop(before);
    }

    pub(crate) fn workers(&self) -> BTreeMap<String, Arc<Worker>> {
        self.state().workers.clone()
    }

    /// Returns whether this bug is planted in this run.
    pub(crate) fn has_planted(&self, plant: Plant) -> bool {
        self.0.plant == Some(plant)
    }

    pub(crate) fn report(&self, path: &Path, pointer: Bytes) {
        self.state().reported.insert(path.clone(), pointer);
    }

    pub(crate) fn reported(&self, path: &Path) -> Option<Bytes> {
        self.state().reported.get(path).cloned()
    }

    /// Remembers what a data file was before a byte of it flipped, and afterwards.
    pub(crate) fn note_flip(&self, name: &str, before: Bytes, after: Bytes) {
        self.state().flipped.insert(name.to_owned(), (before, after));
    }

    /// Returns what a data file was before a byte of it flipped, and remembers that `node` has it.
    pub(crate) fn before_flip(&self, node: &str, name: &str) -> Option<Bytes> {
        let mut state = self.state();
        let before = state.flipped.get(name)?.0.clone();
        state.downloaded.insert((node.to_owned(), name.to_owned()));
        Some(before)
    }

    /// Returns what a data file that `node` has read was after a byte of it flipped, once.
    pub(crate) fn take_flipped(&self, node: &str, name: &str) -> Option<Bytes> {
        let mut state = self.state();
        let read = state.downloaded.remove(&(node.to_owned(), name.to_owned()));
        read.then(|| state.flipped.get(name).map(|(_, after)| after.clone()))?
    }

    /// Returns clock and randomness for the next life of `node`.
    pub(crate) fn seams(&self, node: &str) -> Seams {
        let life = {
            let mut state = self.state();
            let life = state.lives.entry(node.to_owned()).or_default();
            *life += 1;
            *life
        };
        let number = u64::from_le_bytes(
            blake3::hash(node.as_bytes()).as_bytes()[..8]
                .try_into()
                .unwrap_or_default(),
        );
        let seed = self.0.plan.seed ^ number.rotate_left(17) ^ (life << 40);
        let skew_ms = match self.0.plan.has(FaultClass::Skew) {
            true => (number % (2 * SKEW_MS_MAX as u64)) as i64 - SKEW_MS_MAX,
            false => 0,
        };
        Seams {
            clock: Arc::new(NodeClock {
                world: self.clone(),
                node: node.to_owned(),
                skew_ms,
            }),
            entropy: Entropy::seeded(seed),
        }
    }
}

/// The clock of one node.
struct NodeClock {
    world: World,
    node: String,
    skew_ms: i64,
}

impl Clock for NodeClock {
    fn now(&self) -> Timestamp {
        let now = self.world.now();
        let now = self.world.pause_of(&self.node).map_or(now, |(since, _)| since);
        let elapsed = now.as_millis() as u64;
        Timestamp::from_millis((EPOCH_MS + elapsed).saturating_add_signed(self.skew_ms))
    }
}
