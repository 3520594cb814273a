//! kill -9 of a worker over an embedded log, at every named step and at random moments: while it applies, flushes, makes
//! snapshots, restores, and puts a restored state in place.
//!
//! After each kill the state on the disk is what the log says at its LSN; the next start leaves nothing else on the disk,
//! and a restore goes on from what was complete. The process that is killed is this test binary, running one test.
//!
//! `TIDEMARK_KILL_ROUNDS` sets the number of random kills, `TIDEMARK_KILL_SEED` repeats a run's choices.

use super::site::{Scene, Site};
use crate::{failpoint::KILL_AT, processor::tests::bed::until_active};
use snapshot_store::{Entropy, Lsn};
use std::{
    env, fs,
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};
use tokio::time::Instant;

const DIR: &str = "TIDEMARK_TEST_KILLED_DIR";
const TRIM_POINT: &str = "TIDEMARK_TEST_KILLED_TRIM_POINT";
/// The latest moment of a random kill: most of what a start does is over by then.
const RANDOM_KILL_MAX: u64 = 900;
/// A process that was not killed after this long does not do what the test is about.
const KILLED_WITHIN: Duration = Duration::from_secs(60);

/// Every named step, what leads there, and at which of its occurrences the process is killed.
const STEPS: &[(&str, u32, Scene)] = &[
    ("apply: before the write", 7, Scene::GoOn),
    ("apply: written", 7, Scene::GoOn),
    ("flush: begun", 3, Scene::GoOn),
    ("flush: done", 3, Scene::GoOn),
    ("export: the checkpoint is made", 1, Scene::GoOn),
    ("export: the checkpoint is read", 2, Scene::GoOn),
    ("export: bytes are sent", 2, Scene::GoOn),
    ("export: the upload is over", 1, Scene::GoOn),
    ("export: the checkpoint is removed", 1, Scene::GoOn),
    ("restore: bytes are read", 2, Scene::NoState),
    ("restore: bytes are read", 2, Scene::StaleState),
    ("restore: a file is complete", 3, Scene::StaleState),
    ("restore: all files are complete", 1, Scene::NoState),
    ("restore: the snapshot is checked", 1, Scene::StaleState),
    ("replace: the new state is durable", 1, Scene::StaleState),
    ("replace: the new state is in place", 1, Scene::NoState),
    ("replace: the new state is in place", 1, Scene::StaleState),
    ("restore: the snapshot is installed", 1, Scene::StaleState),
    ("restore: staging is empty", 1, Scene::NoState),
];

/// Not a test by itself: what [`start`] runs, until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_process_that_is_killed() {
    let (Ok(dir), Ok(trim_point)) = (env::var(DIR), env::var(TRIM_POINT)) else {
        return;
    };
    let site = Site::at(PathBuf::from(dir));
    let running = site.start(Lsn::new(trim_point.parse().unwrap())).await;
    until_active(&running.handle).await;
    running.handle.lead().await.unwrap();
    let began = Instant::now();
    let writes = async {
        while began.elapsed() < KILLED_WITHIN {
            running.write(10).await;
        }
    };
    tokio::join!(writes, async {
        while began.elapsed() < KILLED_WITHIN {
            running.snapshot().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    panic!("nobody killed it");
}

fn start(site: &Site, trim_point: Lsn, kill_at: Option<String>) -> Child {
    let said = fs::File::create(site.dir.join("said")).unwrap();
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args([
            "--exact",
            "processor::tests::killed::the_process_that_is_killed",
            "--nocapture",
        ])
        .env(DIR, &site.dir)
        .env(TRIM_POINT, trim_point.to_string())
        .stdout(Stdio::null())
        .stderr(said);
    if let Some(kill_at) = kill_at {
        command.env(KILL_AT, kill_at);
    }
    command.spawn().unwrap()
}

/// Waits for the end of a process that kills itself.
async fn killed(site: &Site, mut process: Child, name: &str) {
    let began = Instant::now();
    let status = loop {
        match process.try_wait().unwrap() {
            Some(status) => break Some(status),
            None if began.elapsed() > KILLED_WITHIN => {
                process.kill().unwrap();
                process.wait().unwrap();
                break None;
            }
            None => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    let by_kill = status.is_some_and(|status| status.signal() == Some(9));
    let said = fs::read_to_string(site.dir.join("said")).unwrap_or_default();
    assert!(by_kill, "{name}: it was not killed, {status:?}; it said:\n{said}");
}

fn setting(name: &str, otherwise: u64) -> u64 {
    env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(otherwise)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_at_every_named_step_leaves_a_true_state_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::found(dir.path()).await;
    let mut resumed = 0;
    for (step, occurrence, scene) in STEPS {
        let trim_point = site.prepare(*scene).await;
        let process = start(&site, trim_point, Some(format!("{step}:{occurrence}")));
        killed(&site, process, step).await;
        resumed += site.check(trim_point, step).await;
    }
    assert!(resumed > 0, "some restore went on from staging");
    site.check_snapshots().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_at_any_moment_leaves_a_true_state_and_nothing_else() {
    let rounds = setting("TIDEMARK_KILL_ROUNDS", 20);
    let seed = setting("TIDEMARK_KILL_SEED", u64::from(std::process::id()));
    eprintln!("{rounds} rounds; TIDEMARK_KILL_SEED={seed} repeats the choices");
    let random = Entropy::seeded(seed);
    let dir = tempfile::tempdir().unwrap();
    let site = Site::found(dir.path()).await;
    for round in 0..rounds {
        let scene = [Scene::GoOn, Scene::NoState, Scene::StaleState][random.below(3).unwrap()];
        let after = Duration::from_millis(random.next_u64() % RANDOM_KILL_MAX);
        let name = format!("round {round}, {scene:?}, killed after {after:?}");
        eprintln!("{name}");
        let trim_point = site.prepare(scene).await;
        let mut process = start(&site, trim_point, None);
        tokio::time::sleep(after).await;
        process.kill().unwrap();
        killed(&site, process, &name).await;
        site.check(trim_point, &name).await;
    }
    site.check_snapshots().await;
}
