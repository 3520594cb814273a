//! The database as one node has it: the one in memory, on a node that may stop in the middle of its work.
//!
//! A node that is about to stop writes nothing any more: what it does until the end of the step fails.

use crate::{plan::FaultClass, plant, state::MemoryEngine, world::World};
use snapshot_worker::processor::{Changes, StateEngine, StateError, StateSnapshot, StateStore};
use std::{fs, path::Path, sync::Arc};

/// How often a node stops in the middle of its work on its disk.
const CRASH_CHANCE: f64 = 0.0005;
/// How often a checkpoint holds a file of several parts.
const BALLAST_CHANCE: f64 = 0.03;
/// A little more than one part.
const BALLAST_BYTES: usize = (8 << 20) + 4096;
/// How often that happens at most: each of them stays in memory.
const BALLASTS_MAX: u64 = 6;

/// Opens the states of `node`.
pub(crate) struct NodeDisk {
    pub(crate) world: World,
    pub(crate) node: String,
}

struct NodeState {
    world: World,
    node: String,
    inner: Arc<dyn StateStore>,
}

/// Draws whether `node` stops now; if it does, or does already, nothing is done any more.
fn step(world: &World, node: &str, work: &str) -> Result<(), StateError> {
    if world.strikes(FaultClass::CrashAtStep, CRASH_CHANCE) {
        world.event(format!("{node} stops at {work}"));
        world.crash_soon(node);
    }
    match world.stops(node) {
        true => Err(StateError::Failed("the node stops".to_owned())),
        false => Ok(()),
    }
}

impl StateEngine for NodeDisk {
    fn open(&self, dir: &Path) -> Result<Arc<dyn StateStore>, StateError> {
        step(&self.world, &self.node, "opening a state")?;
        plant::spoil(&self.world, &self.node, dir)
            .map_err(|error| StateError::Failed(format!("{}: {error}", dir.display())))?;
        Ok(Arc::new(NodeState {
            world: self.world.clone(),
            node: self.node.clone(),
            inner: MemoryEngine.open(dir)?,
        }))
    }

    fn open_read_only(&self, dir: &Path) -> Result<Box<dyn StateSnapshot>, StateError> {
        step(&self.world, &self.node, "opening a checkpoint")?;
        MemoryEngine.open_read_only(dir)
    }
}

impl StateStore for NodeState {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        self.inner.get(key)
    }

    fn write(&self, changes: &Changes) -> Result<(), StateError> {
        step(&self.world, &self.node, "applying")?;
        self.inner.write(changes)
    }

    fn flush(&self) -> Result<(), StateError> {
        step(&self.world, &self.node, "a flush")?;
        self.inner.flush()
    }

    fn checkpoint(&self, dir: &Path) -> Result<(), StateError> {
        step(&self.world, &self.node, "a checkpoint")?;
        self.inner.checkpoint(dir)?;
        step(&self.world, &self.node, "the end of a checkpoint")?;
        let ballasts = self.world.counters().get("file of several parts");
        if ballasts < BALLASTS_MAX && self.world.strikes(FaultClass::Multipart, BALLAST_CHANCE) {
            self.world.counters().count("file of several parts");
            let bytes = vec![self.world.below(0..256) as u8; BALLAST_BYTES];
            let path = dir.join("ballast");
            fs::write(&path, bytes)
                .map_err(|error| StateError::Failed(format!("{}: {error}", path.display())))?;
        }
        Ok(())
    }

    fn snapshot(self: Arc<Self>) -> Box<dyn StateSnapshot> {
        Arc::clone(&self.inner).snapshot()
    }

    fn has_snapshots(&self) -> bool {
        self.inner.has_snapshots()
    }
}
