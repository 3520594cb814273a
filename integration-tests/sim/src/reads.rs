//! What a node reads of the store when the answer ends early, comes late, or is old.

use crate::{plan::FaultClass, world::World};
use bytes::Bytes;
use futures::{StreamExt, stream};
use object_store::{Error, GetRange, GetResult, GetResultPayload, ObjectMeta, Result, path::Path};

/// How often an answer is one of those, where the class is on.
const CHANCE: f64 = 0.01;
/// How often reading a data file is slow, and how slow, in milliseconds.
const SLOW_CHANCE: f64 = 0.3;
const SLOW_MS: std::ops::Range<u64> = 2000..9000;

/// Whether `path` is a data file of a snapshot.
fn is_data(path: &Path) -> bool {
    let name = path.filename().unwrap_or_default();
    path.parts().count() > 2 && name != "metadata.json"
}

/// Waits as long as reading `path` takes in addition, where restores are slow.
pub(crate) async fn drag(world: &World, path: &Path) {
    if is_data(path) && world.strikes(FaultClass::RestoreSlow, SLOW_CHANCE) {
        world.lag(SLOW_MS).await;
    }
}

/// Cuts an answer short: with an error behind what arrives, or as if that were all.
pub(crate) async fn maybe_truncate(world: &World, path: &Path, read: GetResult) -> Result<GetResult> {
    if !world.strikes(FaultClass::StoreTruncated, CHANCE) {
        return Ok(read);
    }
    let silently = world.below(0..2) == 0;
    world.event(format!("an answer with {path} ends early, silently: {silently}"));
    let (meta, range, attributes, extensions) = (
        read.meta.clone(),
        read.range.clone(),
        read.attributes.clone(),
        read.extensions.clone(),
    );
    let bytes = read.bytes().await?;
    let kept = world.below(0..bytes.len().max(1) as u64) as usize;
    let head: Result<Bytes> = Ok(bytes.slice(..kept));
    let reset = Err(Error::Generic {
        store: "simulated",
        source: "the connection was reset".into(),
    });
    let payload = match silently {
        true => stream::iter(vec![head]).boxed(),
        false => stream::iter(vec![head, reset]).boxed(),
    };
    Ok(GetResult {
        payload: GetResultPayload::Stream(payload),
        meta,
        range,
        attributes,
        extensions,
    })
}

/// Returns `path` as it was before its latest change, where it is a pointer that is read late.
pub(crate) fn maybe_stale(world: &World, path: &Path) -> Option<GetResult> {
    if path.filename() != Some("latest.json") || !world.strikes(FaultClass::StoreStale, CHANCE) {
        return None;
    }
    let (bytes, e_tag) = world.oracle(|oracle| oracle.pointer_before(path))?;
    world.counters().count("stale pointer read");
    world.event(format!("{path} is read as it was before {e_tag:?}"));
    Some(answer(path, bytes, e_tag, None))
}

/// Makes an answer to a read of `path`, of all of it or of a range.
pub(crate) fn answer(
    path: &Path,
    bytes: Bytes,
    e_tag: Option<String>,
    range: Option<&GetRange>,
) -> GetResult {
    let size = bytes.len() as u64;
    let range = range.and_then(|range| range.as_range(size).ok());
    let range = range.unwrap_or(0..size);
    let part = bytes.slice(range.start as usize..range.end as usize);
    GetResult {
        payload: GetResultPayload::Stream(stream::iter([Ok(part)]).boxed()),
        meta: ObjectMeta {
            location: path.clone(),
            last_modified: Default::default(),
            size,
            e_tag,
            version: None,
        },
        range,
        attributes: Default::default(),
        extensions: Default::default(),
    }
}
