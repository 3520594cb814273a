//! What somebody does to a partition from outside: its pointer goes, or another cluster's takes its place; its log loses
//! records, or is created anew. Each partition suffers one of them at most, and half of the partitions none.

use crate::{oracle::Oracle, plan::FaultClass, truth::Truth, world::World};
use bytes::Bytes;
use futures::FutureExt;
use object_store::{ObjectStoreExt, path::Path};
use partition_log::{Log, LogAdmin, Registration};
use snapshot_store::{
    Fingerprint, Incarnation, IncarnationId, PartitionId,
    format::{Keys, Stored},
};

/// How often one of them happens, at each draw.
const CHANCE: f64 = 0.004;
/// How many records a log loses.
const RECORDS_LOST: std::ops::Range<u64> = 1..25;

/// What somebody did to a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Harm {
    /// Its pointer was deleted. A new snapshot heals that, where a replica is left to make one.
    PointerDeleted,
    /// Another cluster's pointer is in the place of its own, until it is taken away.
    PointerForeign {
        /// The object that nobody may replace.
        foreign: Bytes,
    },
    /// Its log was created anew, as the next generation: it begins again.
    LogRecreated,
    /// Its log was created anew, and claims to be of the same generation: nobody can tell which is right.
    LogConflicts,
    /// Its log lost its newest records.
    LogRegressed,
}

impl Harm {
    /// Returns whether it takes a person to go on: then no progress is expected of the partition.
    pub(crate) fn needs_help(&self) -> bool {
        matches!(self, Harm::LogConflicts | Harm::LogRegressed)
    }
}

/// Draws what is done to a partition now.
pub(crate) fn draw(world: &World) {
    let classes = [
        FaultClass::PointerDeleted,
        FaultClass::PointerForeign,
        FaultClass::LogRecreated,
        FaultClass::LogRegressed,
    ];
    for class in classes {
        if !world.strikes(class, CHANCE) {
            continue;
        }
        let partitions = world.plan().partitions;
        let partition = PartitionId::new(world.below(0..u64::from(partitions)) as u32);
        if !world.oracle(|oracle| oracle.may_harm(partition, partitions as usize / 2)) {
            continue;
        }
        world.counters().count(&format!("harm done {}", class.as_str()));
        world.event(format!("harm to partition {partition}: {}", class.as_str()));
        match class {
            FaultClass::PointerDeleted => delete_pointer(world, partition),
            FaultClass::PointerForeign => displace_pointer(world, partition),
            FaultClass::LogRecreated => recreate_log(world, partition),
            _ => shorten_log(world, partition),
        }
    }
}

fn pointer_path(partition: PartitionId) -> Path {
    Path::from(Keys::pointer(partition))
}

fn delete_pointer(world: &World, partition: PartitionId) {
    world.oracle(|oracle| oracle.set_harm(partition, Some(Harm::PointerDeleted)));
    world.raw().delete(&pointer_path(partition)).now_or_never();
}

fn displace_pointer(world: &World, partition: PartitionId) {
    let pointer = world.oracle(|oracle| oracle.pointer(partition));
    let Some(mut pointer) = pointer else { return };
    pointer.cluster.fingerprint = Fingerprint::from_bytes([0x5a; 16]);
    let foreign: Bytes = pointer.encode().into();
    let harm = Harm::PointerForeign {
        foreign: foreign.clone(),
    };
    world.oracle(|oracle| oracle.set_harm(partition, Some(harm)));
    world
        .raw()
        .put(&pointer_path(partition), foreign.into())
        .now_or_never();
}

/// Puts pointers back that are foreign or still gone: what an operator does who finds them so. (One that is gone comes back by
/// itself, unless no replica is left that could make a snapshot.)
pub(crate) fn undo(world: &World) {
    for partition in (0..world.plan().partitions).map(PartitionId::new) {
        let path = pointer_path(partition);
        let own = world.oracle(|oracle| {
            match oracle.harm(partition)? {
                Harm::PointerForeign { .. } => oracle.after_write(&path),
                Harm::PointerDeleted if oracle.pointer(partition).is_none() => {}
                _ => return None,
            }
            oracle.set_harm(partition, None);
            oracle.own_pointer(partition)
        });
        let Some(own) = own else { continue };
        world.event(format!("partition {partition} gets its pointer back"));
        world.raw().put(&path, own.into()).now_or_never();
        world.oracle(|oracle| oracle.after_write(&path));
    }
}

fn registration(world: &World, partition: PartitionId) -> Option<Registration> {
    world.log().registration(partition).now_or_never()?.ok()
}

fn recreate_log(world: &World, partition: PartitionId) {
    let Some(old) = registration(world, partition) else {
        return;
    };
    let conflicts = world.below(0..2) == 0;
    let generation = old.incarnation.generation + u64::from(!conflicts);
    let id = IncarnationId::from_bytes([world.below(1..255) as u8; 16]);
    let new = Registration {
        incarnation: Incarnation { generation, id },
        ..old
    };
    world.log().forget(partition);
    let truth = Truth::new(new.fingerprint, new.incarnation);
    world.log().provision(new).now_or_never();
    let harm = match conflicts {
        true => Harm::LogConflicts,
        false => Harm::LogRecreated,
    };
    world.counters().count(&format!("harm done {harm:?}"));
    world.oracle(|oracle| {
        oracle.set_harm(partition, Some(harm));
        if let Some(history) = oracle.history(partition) {
            history.begin_anew(truth);
        }
        oracle.after_trim(partition);
    });
}

fn shorten_log(world: &World, partition: PartitionId) {
    world.log().lose_tail(partition, world.below(RECORDS_LOST));
    let info = world.log().info(partition).now_or_never();
    let Some(Ok(info)) = info else { return };
    let last = info.tail.prev();
    world.event(format!("log {partition} ends at {last} now"));
    world.oracle(|oracle: &mut Oracle| {
        oracle.set_harm(partition, Some(Harm::LogRegressed));
        if let Some(history) = oracle.history(partition) {
            history.lose_after(last);
        }
    });
}
