//! The stored inputs: the golden files of the formats, the example configurations, and what stands in `corpus/`.

use crate::target::Target;
use bytes::Bytes;
use snapshot_store::{LeaderEpoch, Leadership, Lsn, NodeId, RecordHash};
use snapshot_worker::core::{LedBody, Record};
use std::{fs, path::Path};

/// Returns the inputs of `target`, in a fixed order.
///
/// # Panics
/// When the folders of the tree cannot be read.
pub fn inputs(target: Target) -> Vec<Vec<u8>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = files(&here.join("corpus").join(target.name()), "");
    match target {
        Target::Config => found.extend(files(&here.join("../../examples/config"), "")),
        Target::Record => found.extend(records().iter().map(|record| record.encode().to_vec())),
        Target::Latest | Target::Metadata | Target::Trim | Target::Control => {
            let golden = here.join("../../crates/snapshot-store/tests/golden");
            found.extend(files(&golden, target.name()));
        }
    }
    assert!(!found.is_empty(), "{} has no inputs", target.name());
    found
}

fn files(folder: &Path, prefix: &str) -> Vec<Vec<u8>> {
    let listed = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = listed
        .map(|entry| entry.expect("a folder of the tree").path())
        .collect();
    paths.retain(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with(prefix))
    });
    paths.sort();
    paths
        .iter()
        .map(|path| fs::read(path).expect("a file of the tree"))
        .collect()
}

/// One of each kind.
fn records() -> Vec<Record> {
    let led = |sequence, body| Record::Led {
        leadership: Leadership {
            epoch: LeaderEpoch::new(3),
            node: NodeId::new("worker-1").expect("this names a node"),
        },
        sequence,
        body,
    };
    vec![
        led(
            1,
            LedBody::Announce {
                address: "http://worker-1:7300".to_owned(),
            },
        ),
        led(2, LedBody::Command(Bytes::from_static(b"put a 1"))),
        led(u64::MAX, LedBody::NoOp),
        Record::Skip {
            lsn: Lsn::new(12),
            hash: RecordHash::of(b"poison"),
            reason: "written by a broken client".to_owned(),
        },
    ]
}
