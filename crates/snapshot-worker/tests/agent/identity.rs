//! Learning once which cluster a node belongs to.

use crate::fixture::{Cluster, seams};
use snapshot_store::{NodeId, Repository};
use snapshot_worker::agent::{IdentityError, LocalIdentity};

#[tokio::test]
async fn identity_is_learnt_once_and_kept_locally() {
    let cluster = Cluster::in_memory().await;
    let data_dir = cluster.dir.path().join("a");
    let node = NodeId::new("a").unwrap();
    assert_eq!(LocalIdentity::load(&data_dir).unwrap(), None);
    let adopted = LocalIdentity::adopt(&data_dir, &node, &cluster.repository)
        .await
        .unwrap();
    assert_eq!(
        (&adopted.cluster, adopted.partitions),
        (&cluster.record.cluster, 4)
    );

    // Another store, without a cluster: it is not asked any more.
    let empty = Repository::open("memory://", seams()).unwrap();
    assert_eq!(
        LocalIdentity::adopt(&data_dir, &node, &empty).await.unwrap(),
        adopted
    );

    let other = NodeId::new("b").unwrap();
    let error = LocalIdentity::adopt(&data_dir, &other, &empty).await.unwrap_err();
    assert!(matches!(error, IdentityError::OtherNode { .. }), "{error}");

    std::fs::write(data_dir.join(LocalIdentity::FILE_NAME), b"{").unwrap();
    assert!(matches!(
        LocalIdentity::load(&data_dir),
        Err(IdentityError::Unreadable { .. })
    ));
}

#[tokio::test]
async fn a_store_without_a_cluster_says_what_to_run() {
    let dir = tempfile::tempdir().unwrap();
    let empty = Repository::open("memory://", seams()).unwrap();
    let error = LocalIdentity::adopt(dir.path(), &NodeId::new("a").unwrap(), &empty)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("tidemark cluster init"), "{error}");
}
