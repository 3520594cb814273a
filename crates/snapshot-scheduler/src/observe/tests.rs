//! What is made of the replies of workers, in whatever order they come.

use super::*;
use crate::{
    SnapshotEvents, WorkerClient,
    core::{Policy, SchedulerOptions, plan},
};
use async_trait::async_trait;
use proptest::prelude::*;
use snapshot_store::{Entropy, Fingerprint, Timestamp};

const PARTITIONS: u32 = 4;
const NOW: Moment = Moment(Duration::from_secs(100));

/// Nobody calls it: the replies are given.
struct Silent;

#[async_trait]
impl WorkerClient for Silent {
    async fn status(&self, _: v1::GetStatusRequest) -> Result<v1::WorkerStatus, WorkerError> {
        unreachable!("it is not polled")
    }
    async fn create_snapshot(&self, _: v1::CreateSnapshotRequest) -> Result<SnapshotEvents, WorkerError> {
        unreachable!("it is asked for nothing")
    }
    async fn verify(&self, _: v1::VerifySnapshotRequest) -> Result<v1::VerifySnapshotReply, WorkerError> {
        unreachable!("it is asked for nothing")
    }
    async fn lead(&self, _: PartitionId) -> Result<v1::LeadReply, WorkerError> {
        unreachable!("it is asked for nothing")
    }
    async fn append_noop(&self, _: PartitionId) -> Result<v1::AppendNoopReply, WorkerError> {
        unreachable!("it is asked for nothing")
    }
}

fn identity() -> ClusterIdentity {
    ClusterIdentity {
        name: "test".to_owned(),
        fingerprint: Fingerprint::from_bytes([3; 16]),
    }
}

fn node(number: usize) -> NodeId {
    NodeId::new(format!("n{number}")).unwrap()
}

fn state(nodes: usize) -> State {
    let ids = || (0..PARTITIONS).map(PartitionId::new);
    let spec = |number| WorkerSpec {
        node: node(number),
        address: String::new(),
        partitions: ids().collect(),
        client: Arc::new(Silent),
    };
    let workers = (0..nodes).map(|number| (node(number), spec(number))).collect();
    let (options, policy) = (SchedulerOptions::default(), Policy::default());
    State::new(
        &identity(),
        PARTITIONS,
        &workers,
        &options,
        &policy,
        Timestamp::default(),
    )
}

/// One reply: generation, version, and the applied LSNs of some partitions.
fn reply(number: usize, generation: u32, version: u64, applied: &[Option<u64>]) -> v1::WorkerStatus {
    let replica = |(id, lsn): (u32, &Option<u64>)| {
        lsn.map(|lsn| v1::ReplicaStatus {
            partition: id,
            state: v1::PartitionState::Active.into(),
            applied_lsn: Some(lsn),
            needed_lsn: Some(lsn),
            archived: (lsn % 3 == 0).then_some(v1::ArchivedSnapshot {
                lsn: lsn / 2,
                ..Default::default()
            }),
            leader: Some(v1::Leadership {
                epoch: lsn % 5,
                node: node(number).to_string(),
                address: String::new(),
            }),
            ..Default::default()
        })
    };
    v1::WorkerStatus {
        node: node(number).to_string(),
        node_generation: format!("g{generation}"),
        version,
        partitions: (0..).zip(applied).filter_map(replica).collect(),
        exports_max: 1,
        ..Default::default()
    }
}

fn applied(state: &State, number: usize) -> Option<u64> {
    let report = state.view.partitions[&PartitionId::new(0)]
        .replicas
        .get(&node(number));
    report.and_then(|report| report.applied_lsn).map(Lsn::get)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_permutation_of_status_replies_gives_the_same_plan(
        lsns in prop::collection::vec(
            prop::collection::vec(prop::option::of(0u64..10_000), PARTITIONS as usize), 2..6),
        order in any::<u64>(),
        seed in any::<u64>(),
    ) {
        let replies: Vec<_> = lsns.iter().enumerate().map(|(number, lsns)| reply(number, 1, 1, lsns)).collect();
        let mut shuffled: Vec<usize> = (0..replies.len()).collect();
        let entropy = Entropy::seeded(order);
        for at in (1..shuffled.len()).rev() {
            shuffled.swap(at, entropy.below(at + 1).unwrap());
        }
        let made = |order: &[usize]| {
            let mut state = state(replies.len());
            for number in order {
                apply_status(&identity(), &mut state, NOW, &node(*number), &replies[*number]).unwrap();
            }
            let plan = plan(&state.view, &Policy::default(), NOW, &Entropy::seeded(seed));
            (state.view, plan)
        };
        let in_order: Vec<usize> = (0..replies.len()).collect();
        prop_assert_eq!(made(&in_order), made(&shuffled));
    }
}

#[test]
fn late_replies_of_a_former_process_and_of_an_older_version_change_nothing() {
    let mut state = state(1);
    let mut apply = |generation, version, lsn| {
        let reply = reply(0, generation, version, &[Some(lsn)]);
        apply_status(&identity(), &mut state, NOW, &node(0), &reply).unwrap();
        applied(&state, 0)
    };
    assert_eq!(apply(1, 7, 700), Some(700));
    assert_eq!(
        apply(1, 6, 600),
        Some(700),
        "an older version of the same process"
    );
    // It was restarted: its versions count anew.
    assert_eq!(apply(2, 1, 650), Some(650));
    assert_eq!(
        apply(1, 8, 800),
        Some(650),
        "a reply of the former process that was on its way"
    );
    assert_eq!(apply(2, 2, 660), Some(660));
}

#[test]
fn unchanged_from_another_process_is_asked_again_and_refreshes_the_same_one() {
    let mut state = state(1);
    let unchanged = |generation: &str| v1::WorkerStatus {
        node: node(0).to_string(),
        node_generation: generation.to_owned(),
        version: 7,
        unchanged: true,
        ..Default::default()
    };
    let later = NOW.plus(Duration::from_secs(5));
    apply_status(
        &identity(),
        &mut state,
        NOW,
        &node(0),
        &reply(0, 1, 7, &[Some(9)]),
    )
    .unwrap();
    let same = apply_status(&identity(), &mut state, later, &node(0), &unchanged("g1"));
    assert!(matches!(same, Ok(Applied::Done)));
    assert_eq!(state.view.nodes[&node(0)].heard_at, Some(later));
    assert_eq!(applied(&state, 0), Some(9), "what it said before still stands");
    let other = apply_status(&identity(), &mut state, later, &node(0), &unchanged("g2"));
    assert!(matches!(other, Ok(Applied::AskAgain)));
}

#[test]
fn a_worker_that_left_the_cluster_while_it_was_asked_stays_out() {
    let mut state = state(2);
    state.nodes.remove(&node(1));
    state.view.nodes.remove(&node(1));
    apply_status(
        &identity(),
        &mut state,
        NOW,
        &node(1),
        &reply(1, 1, 1, &[Some(9)]),
    )
    .unwrap();
    assert_eq!(applied(&state, 1), None);
    assert!(!state.view.nodes.contains_key(&node(1)));
}
