//! Sixteen publishers race for the same place in the pointer, fifty times.

use crate::{
    subject::Subject,
    world::{P0, World, checkpoint, upload},
};
use futures::future::join_all;
use snapshot_store::{NoProgress, PublishError, SnapshotId};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const PUBLISHERS: usize = 16;
const ROUNDS: u64 = 50;

#[tokio::test(flavor = "multi_thread")]
async fn racing_publishers_have_one_winner_in_memory() {
    have_one_winner_each(&Subject::memory()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_publishers_have_one_winner_in_a_local_folder() {
    have_one_winner_each(&Subject::folder()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_publishers_have_one_winner_on_an_s3_server() {
    have_one_winner_each(&Subject::s3().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_publishers_have_one_winner_on_an_s3_server_of_another_make() {
    have_one_winner_each(&Subject::moto().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_publishers_have_one_winner_on_an_azure_server() {
    have_one_winner_each(&Subject::azurite().await).await;
}

/// In each round every publisher has a snapshot of the same LSN: one is published, and all others are told which.
pub(crate) async fn have_one_winner_each(subject: &Subject) {
    let world = World::new(subject, "races").await;
    let files = checkpoint(&[("CURRENT", 16)]);
    let publishers: Vec<_> = (0..PUBLISHERS).map(|_| world.other()).collect();
    let begun = Instant::now();
    let mut winners: Vec<SnapshotId> = Vec::new();
    for round in 1..=ROUNDS {
        let attempts = publishers.iter().map(|publisher| {
            let attempt = upload(publisher, &world.record, P0, files.path(), round);
            let publisher = publisher.clone();
            // Tasks of their own, so that they run at the same time.
            tokio::spawn(async move {
                let id = attempt.snapshot_id;
                let outcome = publisher
                    .publish(&attempt, &NoProgress, &CancellationToken::new())
                    .await;
                (id, outcome)
            })
        });
        let mut published = Vec::new();
        let mut told = Vec::new();
        for ended in join_all(attempts).await {
            match ended.unwrap() {
                (id, Ok(_)) => published.push(id),
                (_, Err(PublishError::Superseded { current, .. })) => told.push(current.snapshot_id),
                (id, Err(error)) => panic!("round {round}, {id}: {error:?}"),
            }
        }
        assert_eq!(published.len(), 1, "round {round}");
        assert!(told.iter().all(|id| *id == published[0]), "round {round}");
        winners.push(published[0]);
        let pointer = world.pointer().await;
        assert_eq!(
            pointer.latest().map(|latest| latest.snapshot_id),
            published.pop(),
            "round {round}"
        );
    }
    // Every swap there ever was stands in the history: the winners' and no other, in order.
    let history: Vec<SnapshotId> = world
        .pointer()
        .await
        .history
        .iter()
        .map(|past| past.snapshot_id)
        .collect();
    winners.reverse();
    assert_eq!(history, winners);
    println!(
        "{}: {PUBLISHERS} publishers, {ROUNDS} rounds, {:?}",
        subject.name(),
        begun.elapsed()
    );
}
