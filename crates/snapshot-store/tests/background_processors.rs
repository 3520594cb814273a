//! Processors for background work alone. What is changed here is the whole process's, so this test has one of its own.

use rustix::thread::{CpuSet, sched_getaffinity};
use snapshot_store::{Blocking, reserve_processors};
use std::{io::ErrorKind, sync::mpsc, thread};

fn here() -> Vec<usize> {
    let set = sched_getaffinity(None).expect("Linux says where a thread may run");
    (0..CpuSet::MAX_CPU)
        .filter(|processor| set.is_set(*processor))
        .collect()
}

#[test]
fn nothing_else_runs_on_reserved_processors() {
    let usable = here();
    for count in [0, usable.len(), usable.len() + 1] {
        let refused = reserve_processors(count).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
        assert!(
            refused
                .to_string()
                .contains(&format!("{count} of {}", usable.len())),
            "{refused}"
        );
    }
    let Some((own, others)) = usable.split_last().filter(|(_, others)| !others.is_empty()) else {
        // One processor: there is nothing to divide.
        return;
    };
    let (ask, questions) = mpsc::channel::<()>();
    let earlier = thread::spawn(move || questions.recv().map(|()| here()));
    reserve_processors(1).unwrap();
    ask.send(()).unwrap();
    assert_eq!(
        earlier.join().unwrap().unwrap(),
        others,
        "a thread that was there"
    );
    assert_eq!(here(), others);

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let (usual, background) = runtime.block_on(async {
        let threads = Blocking::Threads;
        (threads.run(here).await, threads.run_in_background(here).await)
    });
    assert_eq!((usual, background), (others.to_vec(), vec![*own]));
    assert!(reserve_processors(1).is_err(), "it has begun");
}
