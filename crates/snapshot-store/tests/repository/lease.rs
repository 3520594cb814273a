//! The lease of the admins: conditional writes, lost answers, and what it is kept out of.

use super::*;
use faults::Fault;
use snapshot_store::{
    AdminSession, LeaseClaim, LeaseWrite, StoreError, Versioned,
    format::{Keys, Lease, LeaseEpoch},
};
use std::time::Duration;

fn claim(world: &World, holder: &str, session: u128) -> LeaseClaim {
    LeaseClaim {
        cluster: world.record.cluster.clone(),
        holder: node(holder),
        session: AdminSession::new(ulid(session)),
        address: Some("http://127.0.0.1:7400".to_owned()),
        term: Duration::from_secs(10),
    }
}

fn written(outcome: LeaseWrite) -> Versioned<Lease> {
    match outcome {
        LeaseWrite::Written(lease) => lease,
        LeaseWrite::Lost(found) => panic!("lost to {found:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_taken_renewed_given_up_and_taken_by_another_with_growing_epochs() {
    let world = World::new().await;
    let repository = &world.repository;
    assert!(repository.lease().await.unwrap().is_none());
    let (one, two) = (claim(&world, "admin-1", 1), claim(&world, "admin-2", 2));

    let taken = written(repository.take_lease(&one, None).await.unwrap());
    assert_eq!(
        (taken.value.epoch, taken.value.term()),
        (LeaseEpoch::new(1), one.term)
    );
    let renewed = written(repository.renew_lease(&one, &taken).await.unwrap());
    assert_ne!(renewed.value.write_id, taken.value.write_id);
    assert_eq!(renewed.value.epoch, LeaseEpoch::new(1), "the same term of office");
    let given_up = written(repository.give_up_lease(&renewed).await.unwrap());
    assert!(given_up.value.given_up && given_up.value.term().is_zero());

    let taken = written(repository.take_lease(&two, Some(&given_up)).await.unwrap());
    assert_eq!(
        (&taken.value.holder, taken.value.epoch),
        (&two.holder, LeaseEpoch::new(2))
    );
    assert!(!taken.value.given_up);
    assert_eq!(repository.lease().await.unwrap().unwrap().value, taken.value);
}

#[tokio::test(start_paused = true)]
async fn of_two_admins_that_take_or_renew_on_the_same_read_one_loses_and_learns_to_whom() {
    let world = World::new().await;
    let (one, two) = (claim(&world, "admin-1", 1), claim(&world, "admin-2", 2));
    let other = world.other(7);
    let first = written(world.repository.take_lease(&one, None).await.unwrap());
    let LeaseWrite::Lost(Some(found)) = other.take_lease(&two, None).await.unwrap() else {
        panic!("both took it");
    };
    assert_eq!(found.value, first.value);

    let second = written(other.take_lease(&two, Some(&found)).await.unwrap());
    let late = world.repository.renew_lease(&one, &first).await.unwrap();
    assert!(
        matches!(late, LeaseWrite::Lost(Some(found)) if found.value == second.value),
        "a deposed holder does not renew"
    );
    let late = world.repository.give_up_lease(&first).await.unwrap();
    assert!(
        matches!(late, LeaseWrite::Lost(Some(_))),
        "nor give up what is not its own"
    );
}

#[tokio::test(start_paused = true)]
async fn a_lease_whose_answer_was_lost_is_found_again_and_one_that_lands_late_changes_nothing() {
    let world = World::new().await;
    let claim = claim(&world, "admin-1", 1);
    let mut held = written(world.repository.take_lease(&claim, None).await.unwrap());
    for fault in [Fault::After, Fault::FalseLoser] {
        world.store.fail_put("lease.json", fault);
        held = written(world.repository.renew_lease(&claim, &held).await.unwrap());
    }
    world.store.fail_put("lease.json", Fault::Before);
    let unclear = world.repository.renew_lease(&claim, &held).await;
    assert!(
        matches!(unclear, Err(StoreError::Indeterminate { .. })),
        "{unclear:?}"
    );

    world.store.fail_put("lease.json", Fault::Late);
    assert!(world.repository.renew_lease(&claim, &held).await.is_err());
    let held = written(world.repository.renew_lease(&claim, &held).await.unwrap());
    world.store.land().await;
    assert_eq!(
        world.repository.lease().await.unwrap().unwrap().value,
        held.value,
        "the late write was decided on an older version"
    );
}

#[tokio::test(start_paused = true)]
async fn a_foreign_unreadable_or_newer_lease_is_named_and_never_overwritten() {
    let world = World::new().await;
    let mine = claim(&world, "admin-1", 1);
    let held = written(world.repository.take_lease(&mine, None).await.unwrap());
    let foreign = LeaseClaim {
        cluster: other_cluster(),
        ..mine.clone()
    };
    for before in [None, Some(&held)] {
        let refused = world.repository.take_lease(&foreign, before).await;
        assert!(matches!(refused, Err(StoreError::Foreign { .. })), "{refused:?}");
    }
    for bytes in ["{\"format\": 99}", "{}", "not a document"] {
        world.put(Keys::LEASE, bytes).await;
        let refused = world.repository.lease().await.unwrap_err();
        assert!(refused.to_string().contains(Keys::LEASE), "{refused}");
        // Whoever thinks that there is none, or an older one, does not replace it.
        for before in [None, Some(&held)] {
            assert!(world.repository.take_lease(&mine, before).await.is_err());
        }
        assert_eq!(world.get(Keys::LEASE).await, bytes.as_bytes());
    }
}

#[tokio::test(start_paused = true)]
async fn surveys_know_the_lease() {
    let world = World::new().await;
    let claim = claim(&world, "admin-1", 1);
    written(world.repository.take_lease(&claim, None).await.unwrap());
    let survey = world.repository.survey_base(2).await.unwrap();
    assert_eq!(survey.unknown, []);
}
