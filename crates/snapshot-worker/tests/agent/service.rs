//! The gRPC service over loopback.

use crate::fixture::{Cluster, Node};
use snapshot_proto::v1::{self, create_snapshot_event::Event, worker_service_client::WorkerServiceClient};
use snapshot_store::{RequestId, SnapshotId};
use std::time::Duration;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt as _;

pub(crate) async fn serve(node: &Node) -> WorkerServiceClient<Channel> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder().add_service(node.agent.service());
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    WorkerServiceClient::connect(format!("http://{address}"))
        .await
        .unwrap()
}

fn request(cluster: &Cluster, partition: u32, min_lsn: u64) -> v1::CreateSnapshotRequest {
    v1::CreateSnapshotRequest {
        partition,
        min_lsn,
        request_id: RequestId::new(cluster.seams.ulid()).to_string(),
        distrusted: vec![],
        restorable_snapshots_min: 2,
    }
}

async fn create(client: &mut WorkerServiceClient<Channel>, request: v1::CreateSnapshotRequest) -> Vec<Event> {
    let mut stream = client.create_snapshot(request).await.unwrap().into_inner();
    let mut events = Vec::new();
    while let Some(event) = stream.message().await.unwrap() {
        events.push(event.event.unwrap());
    }
    events
}

fn reason(status: &Status) -> String {
    status
        .get_details_error_info()
        .map(|info| info.reason)
        .unwrap_or_default()
}

#[tokio::test]
async fn a_snapshot_is_made_verified_and_shown_over_the_wire() {
    let cluster = Cluster::in_memory().await;
    let node = cluster.node("a");
    node.host.apply(42);
    let mut client = serve(&node).await;

    let events = create(&mut client, request(&cluster, 1, 40)).await;
    assert!(
        matches!(&events[0], Event::Accepted(accepted) if accepted.lsn == 42),
        "{events:?}"
    );
    let Some(Event::Published(published)) = events.last() else {
        panic!("{events:?}")
    };
    assert_eq!((published.lsn, published.role()), (42, v1::ReplicaRole::Follower));

    let check = v1::VerifySnapshotRequest {
        partition: 1,
        snapshot_id: published.snapshot_id.clone(),
        level: v1::VerifyLevel::Content.into(),
    };
    let reply = client.verify_snapshot(check).await.unwrap().into_inner();
    assert!(reply.ok && reply.bytes_read > 0, "{reply:?}");
    assert_eq!(
        (reply.node.as_str(), reply.level()),
        ("a", v1::VerifyLevel::Content)
    );

    let status = client
        .get_status(v1::GetStatusRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!((status.node.as_str(), status.exports_max), ("a", 1));
    assert_eq!((status.exports_queued, status.exports_queue_max), (0, 0));
    let replica = &status.partitions[0];
    assert_eq!((replica.partition, replica.applied_lsn), (1, Some(42)));
    assert_eq!(
        replica.archived.as_ref().unwrap().snapshot_id,
        published.snapshot_id
    );
}

#[tokio::test]
async fn a_stale_replica_declines_with_both_lsns() {
    let cluster = Cluster::in_memory().await;
    let node = cluster.node("a");
    node.host.apply(41);
    let mut client = serve(&node).await;
    let events = create(&mut client, request(&cluster, 1, 1000)).await;
    let [Event::Declined(declined)] = events.as_slice() else {
        panic!("{events:?}")
    };
    assert_eq!(declined.reason(), v1::DeclineReason::Behind);
    assert_eq!((declined.applied_lsn, declined.min_lsn), (Some(41), Some(1000)));
    assert!(
        declined.message.contains("41") && declined.message.contains("1000"),
        "{}",
        declined.message
    );
}

#[tokio::test]
async fn an_unknown_partition_is_a_clear_answer() {
    let cluster = Cluster::in_memory().await;
    let node = cluster.node("a");
    let mut client = serve(&node).await;
    let events = create(&mut client, request(&cluster, 77, 1)).await;
    let [Event::Declined(declined)] = events.as_slice() else {
        panic!("{events:?}")
    };
    assert_eq!(declined.reason(), v1::DeclineReason::UnknownPartition);

    let snapshot_id = SnapshotId::new(cluster.seams.ulid()).to_string();
    let request_id = RequestId::new(cluster.seams.ulid()).to_string();
    let answers = [
        client.lead(v1::LeadRequest { partition: 77 }).await.map(drop),
        client
            .append_noop(v1::AppendNoopRequest { partition: 77 })
            .await
            .map(drop),
        client
            .cancel(v1::CancelRequest {
                partition: 77,
                request_id,
            })
            .await
            .map(drop),
        client
            .verify_snapshot(v1::VerifySnapshotRequest {
                partition: 77,
                snapshot_id,
                level: 0,
            })
            .await
            .map(drop),
    ];
    for answer in answers {
        let status = answer.unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::NotFound, "unknown-partition")
        );
        assert!(
            status.message().contains("77") && status.message().contains("node a"),
            "{status}"
        );
    }
}

#[tokio::test]
async fn hosts_and_arguments_that_refuse_say_why() {
    let cluster = Cluster::in_memory().await;
    let node = cluster.node("a");
    node.host.apply(5);
    let mut client = serve(&node).await;

    let reply = client
        .append_noop(v1::AppendNoopRequest { partition: 1 })
        .await
        .unwrap();
    assert_eq!(reply.into_inner().lsn, 6);
    let status = client.lead(v1::LeadRequest { partition: 1 }).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::FailedPrecondition, "unavailable")
    );

    let mut bad = request(&cluster, 1, 1);
    bad.distrusted = vec!["nonsense".to_owned()];
    let status = client.create_snapshot(bad).await.map(drop).unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::InvalidArgument, "invalid-argument")
    );
    assert!(status.message().contains("distrusted"), "{status}");

    let unknown = SnapshotId::new(cluster.seams.ulid()).to_string();
    let check = v1::VerifySnapshotRequest {
        partition: 1,
        snapshot_id: unknown,
        level: 0,
    };
    let status = client.verify_snapshot(check).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::NotFound, "unknown-snapshot")
    );
}

#[tokio::test]
async fn status_is_left_out_while_unchanged_and_policy_arrives_with_an_admins_poll() {
    let cluster = Cluster::in_memory().await;
    let node = cluster.node("a");
    node.host.apply(5);
    let mut client = serve(&node).await;
    let policy = v1::WorkerPolicy {
        snapshot_after_records: 1000,
        snapshot_after_bytes: 2000,
        restorable_snapshots_min: 3,
        paused: false,
        paused_partitions: vec![3],
        overrides: vec![],
    };
    let poll = |admin: &str, known_version| v1::GetStatusRequest {
        admin: admin.to_owned(),
        known_version,
        policy: Some(policy.clone()),
    };
    let mut received = node.agent.policy();
    let first = client.get_status(poll("", 0)).await.unwrap().into_inner();
    assert!(!first.unchanged && !first.node_generation.is_empty());
    assert_eq!(*received.borrow(), None, "an operator sends no policy");
    let mut of_a_reader = tonic::Request::new(poll("admin-2", first.version));
    let role = "read".parse().unwrap();
    of_a_reader
        .metadata_mut()
        .insert(snapshot_worker::agent::ROLE_METADATA, role);
    client.get_status(of_a_reader).await.unwrap();
    assert_eq!(*received.borrow(), None, "who may only read changes nothing");

    let second = client
        .get_status(poll("admin-1", first.version))
        .await
        .unwrap()
        .into_inner();
    assert!(second.unchanged && second.partitions.is_empty(), "{second:?}");
    tokio::time::timeout(Duration::from_secs(10), received.changed())
        .await
        .unwrap()
        .unwrap();
    let kept = received.borrow().clone().unwrap();
    assert_eq!(
        (kept.admin.as_str(), kept.restorable_snapshots_min),
        ("admin-1", 3)
    );

    node.host.apply(6);
    let third = client
        .get_status(poll("admin-1", first.version))
        .await
        .unwrap()
        .into_inner();
    assert!(!third.unchanged && third.version > first.version);
    assert_eq!(third.partitions[0].applied_lsn, Some(6));

    let restarted = cluster.node("a");
    assert_ne!(restarted.agent.node_generation(), first.node_generation);
}

#[tokio::test]
async fn repairs_are_refused_with_a_reason_where_there_is_nothing_to_repair() {
    let cluster = Cluster::in_memory().await;
    let node = cluster.node("a");
    node.host.apply(42);
    let mut client = serve(&node).await;
    let skip = |record_hash: &'static [u8]| v1::SkipRecordRequest {
        partition: 1,
        lsn: 43,
        record_hash: record_hash.into(),
        reason: "because".to_owned(),
        dry_run: false,
    };
    let refused = client.skip_record(skip(&[7; 32])).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::FailedPrecondition, "not-blocked-by-record")
    );
    let refused = client.skip_record(skip(&[7; 3])).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::InvalidArgument, "invalid-argument")
    );
    let rebuild = v1::RebuildPartitionRequest {
        partition: 1,
        dry_run: true,
    };
    let refused = client.rebuild_partition(rebuild).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::Unimplemented, "unsupported")
    );
}
