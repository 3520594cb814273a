//! Bugs that are planted on purpose, to see whether and how soon the simulation finds them.
//!
//! Each of them turns a decision of the product around where its effect passes a seam: at the store, the log or the disk of
//! a node. The product has no switch for them, and nothing of them is in the shipped binary.

use crate::{
    reads,
    state::{is_table, table_name, table_number},
    world::World,
};
use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream};
use object_store::{
    GetOptions, GetResult, ObjectStore, ObjectStoreExt, PutMode, PutPayload, PutResult, Result, path::Path,
};
use partition_log::{Log, LogInfo, ReadError, RecordBatch, RecordStream};
use snapshot_store::{
    Incarnation, Lsn, PartitionId,
    format::{Pointer, Stored},
};
use std::{fs, path::Path as FilePath};

macro_rules! plants {
    ($($(#[doc = $doc:literal])+ $variant:ident = $word:literal;)*) => {
        /// A bug that is planted on purpose.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Plant { $($(#[doc = $doc])+ $variant,)* }

        impl Plant {
            /// Every one of them.
            pub const ALL: &[Plant] = &[$(Plant::$variant,)*];

            /// Returns its word on the command line.
            pub const fn as_str(self) -> &'static str {
                match self { $(Plant::$variant => $word,)* }
            }
        }

        impl std::str::FromStr for Plant {
            type Err = String;

            fn from_str(word: &str) -> Result<Self, String> {
                let known = Plant::ALL.iter().copied().find(|plant| plant.as_str() == word);
                known.ok_or_else(|| format!("{word} is none of {:?}", [$($word),*]))
            }
        }
    };
}

plants! {
    /// The pointer is put without a condition.
    BlindPut = "blind-put";
    /// A put of the pointer that lost its race is repeated over the new version, without comparing again.
    RetryWithoutComparing = "retry-without-comparing";
    /// After an unclear answer to the swap of the pointer its snapshot is deleted.
    DeleteAfterTimeout = "delete-after-timeout";
    /// A snapshot is reported as published before the pointer names it, and the admin believes the report.
    ReportBeforePointer = "report-before-pointer";
    /// The log is trimmed to what a worker's status says is archived.
    TrustStatus = "trust-status";
    /// The log is trimmed to the newest restorable snapshot instead of the oldest.
    NewestRestorable = "newest-restorable";
    /// A reader that the log overtook goes on with the first record that is left.
    SkipGap = "skip-gap";
    /// A publisher deletes what its pointer does not name.
    DeleteUnreferenced = "delete-unreferenced";
    /// The log trims whatever incarnation the request is for.
    IgnoreIncarnation = "ignore-incarnation";
    /// A restore compares neither hashes nor the state with what the manifest says.
    RestoreUnchecked = "restore-unchecked";
}

fn pointer_of(path: &Path, payload: &PutPayload) -> Option<Pointer> {
    if path.filename() != Some("latest.json") {
        return None;
    }
    Pointer::decode(path.as_ref(), &Bytes::from(payload.clone())).ok()
}

/// Turns a conditional put of a pointer into what the planted bug makes of it.
pub(crate) fn mode(world: &World, path: &Path, mode: PutMode) -> PutMode {
    match path.filename() {
        Some("latest.json") if world.has_planted(Plant::BlindPut) => PutMode::Overwrite,
        _ => mode,
    }
}

/// What a publisher does after its put of a pointer was answered.
pub(crate) async fn after_put(
    world: &World,
    store: &dyn ObjectStore,
    path: &Path,
    payload: PutPayload,
    answer: Result<PutResult>,
) -> Result<PutResult> {
    let Some(pointer) = pointer_of(path, &payload) else {
        return answer;
    };
    match &answer {
        Err(object_store::Error::Precondition { .. }) if world.has_planted(Plant::RetryWithoutComparing) => {
            return store.put_opts(path, payload, PutMode::Overwrite.into()).await;
        }
        Err(_) if world.has_planted(Plant::DeleteAfterTimeout) => {
            if let Some(latest) = pointer.latest() {
                let directory = format!("{}/{}", pointer.partition, latest.path);
                delete_below(world, store, &directory, |_| true).await;
            }
        }
        Ok(_) if world.has_planted(Plant::DeleteUnreferenced) => {
            let named = |path: &Path| {
                let directory = path.parts().nth(1);
                let is_snapshot = path.parts().count() > 2;
                !is_snapshot
                    || pointer.snapshots.iter().any(|entry| {
                        directory
                            .as_ref()
                            .is_some_and(|part| part.as_ref() == entry.path.to_string())
                    })
            };
            delete_below(world, store, &pointer.partition.to_string(), |path| !named(path)).await;
        }
        _ => {}
    }
    answer
}

async fn delete_below(world: &World, store: &dyn ObjectStore, prefix: &str, is_due: impl Fn(&Path) -> bool) {
    let prefix = Path::from(prefix);
    let found: Vec<Path> = world
        .raw()
        .list(Some(&prefix))
        .filter_map(|found| std::future::ready(found.ok().map(|meta| meta.location)))
        .collect()
        .await;
    for path in found.iter().filter(|path| is_due(path)) {
        store.delete(path).await.ok();
    }
}

/// Answers a read as the planted bug would: an admin believes what was reported, and a restore reads what it does not check.
pub(crate) fn read(world: &World, node: &str, path: &Path, options: &GetOptions) -> Option<GetResult> {
    if world.has_planted(Plant::ReportBeforePointer) && node.starts_with("admin") {
        return Some(reads::answer(path, world.reported(path)?, None, None));
    }
    if world.has_planted(Plant::RestoreUnchecked) {
        let before = world.before_flip(node, path.filename()?)?;
        return Some(reads::answer(path, before, None, options.range.as_ref()));
    }
    None
}

/// Reports a pointer, and puts it some time later.
pub(crate) async fn before_put(world: &World, path: &Path, payload: &PutPayload) {
    if world.has_planted(Plant::ReportBeforePointer) && pointer_of(path, payload).is_some() {
        world.report(path, payload.clone().into());
        world.lag(500..6000).await;
    }
}

/// Returns up to where and for which life of the log a trim is carried out.
pub(crate) fn trim(
    world: &World,
    partition: PartitionId,
    incarnation: Incarnation,
    up_to: Lsn,
) -> (Incarnation, Lsn) {
    if world.has_planted(Plant::IgnoreIncarnation) {
        let registered = world.log().registration(partition).now_or_never();
        if let Some(Ok(registered)) = registered {
            return (registered.incarnation, up_to);
        }
    }
    if world.has_planted(Plant::NewestRestorable) {
        let newest = world.oracle(|oracle| Some(oracle.pointer(partition)?.latest()?.lsn));
        return (incarnation, newest.unwrap_or(up_to));
    }
    if world.has_planted(Plant::TrustStatus) {
        let workers = world.plan().worker_names();
        let archived = workers.iter().filter_map(|node| archived(world, node, partition));
        return (incarnation, archived.max().unwrap_or(up_to));
    }
    (incarnation, up_to)
}

/// Returns what `node` says is archived: what it keeps over restarts, and puts into its status.
fn archived(world: &World, node: &str, partition: PartitionId) -> Option<Lsn> {
    let path = world
        .disk(node)
        .join("archived")
        .join(format!("{partition}.json"));
    let said: serde_json::Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    said.get("lsn")?.as_u64().map(Lsn::new)
}

/// Hides from a worker that the log was trimmed, where its readers skip gaps.
pub(crate) fn info(world: &World, node: &str, info: LogInfo) -> LogInfo {
    match world.has_planted(Plant::SkipGap) && !node.starts_with("admin") {
        true => LogInfo {
            trim_point: Lsn::ZERO,
            ..info
        },
        false => info,
    }
}

/// Reads on behind a gap, as if the records that are left came next. `missed` is the record at `from`, which a reader compares
/// with what it remembers.
pub(crate) fn skip_gaps<L: Log + Clone>(
    (log, missed): (L, Option<Bytes>),
    partition: PartitionId,
    incarnation: Incarnation,
    from: Lsn,
    inner: RecordStream,
) -> RecordStream {
    let state = (log, missed, inner, from);
    stream::unfold(state, move |(log, missed, mut inner, first)| async move {
        loop {
            let records = match inner.next().await? {
                Ok(batch) => batch.records,
                Err(ReadError::Trimmed { trim_point }) => {
                    match log.read(partition, incarnation, trim_point.next()).await {
                        Ok(stream) => inner = stream,
                        Err(error) => inner = stream::iter([Err(error)]).boxed(),
                    }
                    match &missed {
                        Some(record) if first == from => vec![record.clone()],
                        _ => continue,
                    }
                }
                Err(error) => return Some((Err(error), (log, missed, inner, first))),
            };
            let next = first.plus(records.len() as u64);
            return Some((Ok(RecordBatch { first, records }), (log, missed, inner, next)));
        }
    })
    .boxed()
}

/// Remembers a byte that flipped in the store, where it matters: in a table that can be read all the same. The database notices
/// any other by itself, and what is no table has no hash of its own.
pub(crate) fn note_flip(world: &World, path: &Path, before: Bytes, after: Bytes) {
    let name = path.filename().unwrap_or_default();
    if name.ends_with(".tbl") && is_table(&after) {
        world.note_flip(name, before, after);
    }
}

/// Gives a restored state the bytes that the store has by now, whatever their hash.
pub(crate) fn spoil(world: &World, node: &str, dir: &FilePath) -> std::io::Result<()> {
    if !world.has_planted(Plant::RestoreUnchecked) {
        return Ok(());
    }
    let current = dir.join("CURRENT");
    let Ok(names) = fs::read_to_string(&current) else {
        return Ok(());
    };
    let mut spoilt = Vec::new();
    for name in names.lines() {
        spoilt.push(match world.take_flipped(node, name) {
            Some(bytes) => {
                let name = table_name(table_number(name), &bytes);
                fs::write(dir.join(&name), bytes)?;
                name
            }
            None => name.to_owned(),
        });
    }
    fs::write(current, spoilt.join("\n"))
}
