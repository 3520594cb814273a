//! A load of acknowledged writes while nodes are killed, and what must be there afterwards.

use crate::replicas::Pairs;
use anyhow::ensure;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tidemark::{cluster::wait_for, kv::KvClient};
use tokio::task::JoinHandle;

/// How long writes may stand still after a node was started again.
const GOES_ON_WITHIN: Duration = Duration::from_secs(60);
/// So many acknowledgements say that writes go on.
const GOES_ON: u64 = 20;

/// What one writer did: the keys it wrote once, and the last value of the key it keeps overwriting.
#[derive(Debug, Default)]
pub struct Written {
    once: Pairs,
    counter: u64,
}

/// Writers that go on until they are told to stop.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    writers: Vec<JoinHandle<anyhow::Result<Written>>>,
}

impl Load {
    /// Starts `writers` writers; each gives up with the patience of `client`.
    pub fn start(client: &KvClient, writers: u64) -> Self {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let writers = (0..writers)
            .map(|writer| tokio::spawn(write(client.clone(), writer, stop.clone(), acknowledged.clone())))
            .collect();
        Load {
            stop,
            acknowledged,
            writers,
        }
    }

    /// Returns how many writes were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until some more writes are acknowledged than now.
    ///
    /// # Errors
    /// When they are not in time, after `what`.
    pub async fn until_it_goes_on(&self, what: &str) -> anyhow::Result<()> {
        let before = self.acknowledged();
        let what = format!("writes to go on after {what}");
        wait_for(&what, GOES_ON_WITHIN, async || {
            match self.acknowledged() - before {
                GOES_ON.. => Ok(()),
                since => Err(format!("{since} acknowledged since")),
            }
        })
        .await?;
        Ok(())
    }

    /// Lets every writer end after an acknowledgement, and returns what each has written.
    ///
    /// # Errors
    /// When a write of any of them failed.
    pub async fn finish(self) -> anyhow::Result<Vec<Written>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut written = Vec::new();
        for writer in self.writers {
            written.push(writer.await??);
        }
        Ok(written)
    }
}

/// Writes until told to stop, one write after the other; only what was acknowledged is counted.
async fn write(
    client: KvClient,
    writer: u64,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
) -> anyhow::Result<Written> {
    let mut written = Written::default();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let (key, value) = (
            format!("writer-{writer}-{number:08}"),
            format!("{writer}/{number}/{}", "x".repeat(100)),
        );
        client.put(key.clone(), value.clone()).await?;
        written.once.insert(key.into_bytes(), value.into_bytes());
        client
            .put(format!("counter-{writer}"), number.to_string())
            .await?;
        written.counter = number;
        acknowledged.fetch_add(2, Ordering::Relaxed);
    }
    Ok(written)
}

/// Everything acknowledged is in `held`, and nothing is there that was never written.
///
/// # Errors
/// With what is missing or too much.
pub fn check_content(held: &Pairs, written: &[Written]) -> anyhow::Result<()> {
    let mut expected = Pairs::new();
    for (writer, written) in written.iter().enumerate() {
        expected.extend(written.once.clone());
        expected.insert(
            format!("counter-{writer}").into_bytes(),
            written.counter.to_string().into_bytes(),
        );
    }
    for (key, value) in &expected {
        let found = held.get(key).map(|value| String::from_utf8_lossy(value));
        ensure!(
            held.get(key) == Some(value),
            "acknowledged {} is {found:?}, not {:?}",
            String::from_utf8_lossy(key),
            String::from_utf8_lossy(value)
        );
    }
    // Writers stop only after an acknowledgement, so that nothing else can be there.
    let stray: Vec<_> = held.keys().filter(|key| !expected.contains_key(*key)).collect();
    ensure!(
        stray.is_empty(),
        "{} pairs were never acknowledged: {:?}",
        stray.len(),
        stray.first()
    );
    Ok(())
}
