//! Provisioning, incarnations, sealing.

use super::Fixture;
use super::subject::{Subject, incarnation, next, record, registration};
use crate::{AppendError, Base, LogError, ProvisionError, ReadError, Registration};
use snapshot_store::{ChainHash, Fingerprint, Lsn, PartitionId};

/// A log is never created silently: every request for a missing one says so.
pub async fn a_log_that_was_never_provisioned_is_missing(fixture: &mut impl Fixture) {
    let partition = PartitionId::new(5);
    let missing = LogError::Missing { partition };
    let (log, admin) = (fixture.log(), fixture.admin());
    assert_eq!(log.registration(partition).await, Err(missing.clone()));
    assert_eq!(log.info(partition).await, Err(missing.clone()));
    let appended = log
        .append(partition, incarnation(1), vec![record(1)], Some(Lsn::FIRST))
        .await;
    assert_eq!(appended, Err(AppendError::Log(missing.clone())));
    let read = match log.read(partition, incarnation(1), Lsn::FIRST).await {
        Ok(mut stream) => next(&mut stream).await.err(),
        Err(error) => Some(error),
    };
    assert_eq!(read, Some(ReadError::Log(missing.clone())));
    assert_eq!(
        admin.trim(partition, incarnation(1), Lsn::FIRST).await,
        Err(missing.clone())
    );
    assert_eq!(
        admin.set_sealed(partition, incarnation(1), true).await,
        Err(missing.clone())
    );
    assert_eq!(
        log.info(partition).await,
        Err(missing),
        "asking for a log must not create it"
    );
}

/// A repeated provisioning finds the log as it is.
pub async fn provisioning_again_changes_nothing(fixture: &mut impl Fixture) {
    let log = Subject::new(fixture).await;
    log.append(1, 3).await;
    assert_eq!(log.trim(1).await, 1);
    log.admin
        .set_sealed(log.partition, log.incarnation, true)
        .await
        .expect("the log is sealed");
    assert_eq!(log.admin.provision(registration(0)).await, Ok(()));
    assert_eq!(log.bounds().await, (1, 4));
    let found = log.log.registration(log.partition).await;
    assert_eq!(
        found,
        Ok(Registration {
            sealed: true,
            ..registration(0)
        })
    );
}

/// Whatever differs, a second registration of a partition is refused and names the one in place.
pub async fn another_registration_is_refused(fixture: &mut impl Fixture) {
    let log = Subject::new(fixture).await;
    log.append(1, 2).await;
    let base = Some(Base {
        lsn: Lsn::new(8),
        chain_hash: None,
        log_bytes: 0,
    });
    for other in [
        Registration {
            incarnation: incarnation(2),
            ..registration(0)
        },
        Registration {
            fingerprint: Fingerprint::from_bytes([8; 16]),
            ..registration(0)
        },
        Registration {
            base,
            ..registration(0)
        },
    ] {
        let refused = log.admin.provision(other).await;
        assert_eq!(
            refused,
            Err(ProvisionError::Exists {
                partition: log.partition,
                found: log.incarnation
            })
        );
    }
    assert_eq!(log.log.registration(log.partition).await, Ok(registration(0)));
    assert_eq!(log.all().await, [record(1), record(2)]);
}

/// Everything is asked of one incarnation; nothing happens to another.
pub async fn another_incarnation_is_refused(fixture: &mut impl Fixture) {
    let log = Subject::new(fixture).await;
    log.append(1, 3).await;
    // A newer one, and another life of the same generation.
    let twin = crate::Registration {
        incarnation: incarnation(1),
        ..registration(0)
    }
    .incarnation;
    let twin = snapshot_store::Incarnation {
        id: incarnation(9).id,
        ..twin
    };
    for asked in [incarnation(2), twin] {
        let refused = LogError::OtherIncarnation {
            partition: log.partition,
            found: log.incarnation,
            expected: asked,
        };
        let other = Subject {
            incarnation: asked,
            ..log.clone()
        };
        assert_eq!(
            other.try_append(vec![record(4)], Some(4)).await,
            Err(AppendError::Log(refused.clone()))
        );
        assert_eq!(other.first(1).await, Err(ReadError::Log(refused.clone())));
        assert_eq!(
            log.admin.trim(log.partition, asked, Lsn::new(2)).await,
            Err(refused.clone())
        );
        assert_eq!(
            log.admin.set_sealed(log.partition, asked, true).await,
            Err(refused)
        );
    }
    assert_eq!(log.bounds().await, (0, 4));
    log.append(4, 4).await;
}

/// A base is a trim point from birth.
pub async fn a_log_with_a_base_begins_after_it(fixture: &mut impl Fixture) {
    let base = Base {
        lsn: Lsn::new(41),
        chain_hash: Some(ChainHash::of(b"base")),
        log_bytes: 900,
    };
    let registration = Registration {
        base: Some(base),
        incarnation: incarnation(3),
        ..registration(0)
    };
    let log = Subject::with(fixture, registration.clone()).await;
    assert_eq!(log.log.registration(log.partition).await, Ok(registration));
    assert_eq!(log.bounds().await, (41, 42));
    assert_eq!(
        log.info().await.held_bytes.unwrap_or(0),
        0,
        "the base's bytes are not in this log"
    );
    assert_eq!(
        log.first(41).await,
        Err(ReadError::Trimmed {
            trim_point: Lsn::new(41)
        })
    );
    log.append(42, 44).await;
    let log = log.restarted(fixture).await;
    assert_eq!(log.bounds().await, (41, 45));
    assert_eq!(log.all().await, [record(42), record(43), record(44)]);
}

/// A base so high that positions could overflow is refused; nothing is created.
pub async fn a_base_beyond_all_logs_is_refused(fixture: &mut impl Fixture) {
    let base = Base {
        lsn: Lsn::new(u64::MAX),
        chain_hash: None,
        log_bytes: 0,
    };
    let registration = Registration {
        base: Some(base),
        ..registration(0)
    };
    let partition = registration.partition;
    let refused = fixture.admin().provision(registration).await;
    assert!(
        matches!(refused, Err(ProvisionError::Log(LogError::Unavailable { .. }))),
        "{refused:?}"
    );
    assert_eq!(
        fixture.log().info(partition).await,
        Err(LogError::Missing { partition })
    );
}

/// Sealing refuses appends and nothing else, survives a restart, and can be taken back.
pub async fn a_sealed_log_takes_no_appends_until_it_is_unsealed(fixture: &mut impl Fixture) {
    let log = Subject::new(fixture).await;
    log.append(1, 3).await;
    log.admin
        .set_sealed(log.partition, log.incarnation, true)
        .await
        .expect("the log is sealed");
    assert_eq!(
        log.try_append(vec![record(4)], None).await,
        Err(AppendError::Sealed)
    );
    assert_eq!(
        log.try_append(vec![record(4)], Some(4)).await,
        Err(AppendError::Sealed)
    );
    assert_eq!(log.all().await.len(), 3);
    assert_eq!(log.trim(1).await, 1);
    let log = log.restarted(fixture).await;
    assert_eq!(
        log.try_append(vec![record(4)], None).await,
        Err(AppendError::Sealed)
    );
    log.admin
        .set_sealed(log.partition, log.incarnation, false)
        .await
        .expect("the log is unsealed");
    log.append(4, 4).await;
}

/// The registry is kept with the log.
pub async fn a_restart_keeps_the_registration(fixture: &mut impl Fixture) {
    let log = Subject::new(fixture).await.restarted(fixture).await;
    assert_eq!(log.log.registration(log.partition).await, Ok(registration(0)));
    assert_eq!(log.bounds().await, (0, 1));
    let partition = PartitionId::new(1);
    assert_eq!(
        log.log.info(partition).await,
        Err(LogError::Missing { partition })
    );
}
