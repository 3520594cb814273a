//! A cluster of real processes and an S3 server during a storm: kill -9 and SIGSTOP of any of them, networks that break or
//! fall silent, single requests to the store that are lost, delayed, refused or answered in vain, and a full disk below one
//! worker.
//!
//! Writes go on all the time. After each round the log is trimmed no further than an independent reader of the bucket
//! can restore; [`calm`] has what must be so in the end. `TIDEMARK_CHAOS_ROUNDS` sets the number of rounds, and
//! `TIDEMARK_CHAOS_SEED` repeats a run's choices; what they meet depends on the moment all the same.

mod calm;
mod everything;
#[path = "../../../crates/partition-log/tests/nats_common/passage.rs"]
mod passage;
#[path = "../../../crates/partition-log/tests/common/small_disk.rs"]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod small_disk;
mod storm;

use anyhow::Context;
use everything::Everything;
use integration_tests::{
    acknowledged::Load,
    rounds::{Deck, Rounds},
};
use rand::{RngExt, seq::SliceRandom as _};
use std::{collections::BTreeMap, path::PathBuf, time::Duration};
use storm::Disturbance;
use tidemark::kv::KvClient;
use tokio::time::Instant;

const ROUNDS: u64 = 6;
const WRITERS: u64 = 12;
const AT_ONCE_MAX: usize = 3;
const DISK_MIB: u32 = 96;

#[test]
fn kills_stops_bad_networks_and_a_full_disk_lose_no_acknowledged_write() -> anyhow::Result<()> {
    let test = "kills_stops_bad_networks_and_a_full_disk_lose_no_acknowledged_write";
    let disk = match small_disk::inside(test, DISK_MIB) {
        Ok(Some(disk)) => Some(disk),
        // It ran in a process of its own.
        Ok(None) => return Ok(()),
        Err(reason) => {
            eprintln!("NO DISK IS FILLED in this run: {reason}");
            None
        }
    };
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(run(disk))
}

async fn run(disk: Option<PathBuf>) -> anyhow::Result<()> {
    let Rounds {
        rounds,
        seed,
        mut random,
    } = Rounds::from_environment(ROUNDS);
    let begun = Instant::now();
    let with_disk = disk.is_some();
    let mut everything = Everything::launch(seed, disk).await?;
    let client = KvClient::connect(everything.cluster.endpoints().worker_urls()).await?;
    let load = Load::start(&client.with_patience(Duration::from_secs(90)), WRITERS);
    everything.faults.set_active(true);

    let all = Disturbance::all(&everything.cluster.nodes(), with_disk, &mut random);
    let mut deck = Deck::new(all);
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for round in 1..=rounds {
        tokio::time::sleep(Duration::from_millis(random.random_range(200..1_500))).await;
        let mut dealt = deck.deal(&mut random, AT_ONCE_MAX, Disturbance::meets);
        let length = Duration::from_millis(random.random_range(0..3_000));
        let names: Vec<String> = dealt.iter().map(Disturbance::to_string).collect();
        let context = format!("round {round}, seed {seed}: {}", names.join(", "));
        eprintln!("{context}; for {length:?}, {} acknowledged", load.acknowledged());
        for disturbance in &dealt {
            *counts.entry(disturbance.kind()).or_default() += 1;
            everything.begin(*disturbance).with_context(|| context.clone())?;
        }
        tokio::time::sleep(length).await;
        dealt.shuffle(&mut random);
        dealt.sort_by_key(Disturbance::ends_in_place);
        for disturbance in dealt {
            everything
                .end(disturbance)
                .await
                .with_context(|| context.clone())?;
        }
        load.until_it_goes_on(&context).await?;
        everything.check_trims().await.context(context)?;
    }
    let (stormed, acknowledged) = (begun.elapsed(), load.acknowledged());
    calm::check(&mut everything, load)
        .await
        .with_context(|| format!("in the calm, seed {seed}"))?;

    let requests = everything.faults.requests();
    let written = |name: &str| -> u32 {
        let puts = requests
            .iter()
            .filter(|((method, target), _)| method == "PUT" && target.ends_with(name));
        puts.map(|(_, times)| times).sum()
    };
    eprintln!(
        "{rounds} rounds in {stormed:?}, calm after {:?}: {counts:?}; {} requests to the store, of which {:?}; \
         {} connections refused; {acknowledged} writes acknowledged in the storm; \
         {} pointers and {} certificates sent, {} trims seen{}",
        begun.elapsed() - stormed,
        requests.values().sum::<u32>(),
        everything.faults.faults(),
        everything.refused(),
        written("/latest.json"),
        written("/trim.json"),
        everything.trims_seen,
        if with_disk { "" } else { "; NO DISK WAS FILLED" },
    );
    everything.finish()
}
