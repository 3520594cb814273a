//! The check before the first write.

use super::*;
use faults::Fault;
use snapshot_store::{InitError, OpenError, StoreError};

fn repository(store: &FaultyStore) -> Repository {
    Repository::with_store(Arc::new(store.clone()), Path::from("base"), seams(4))
}

#[tokio::test(start_paused = true)]
async fn a_store_that_ignores_conditions_is_refused_with_a_remedy() {
    let store = FaultyStore::around(Arc::new(InMemory::new()));
    store.ignore_conditions();
    let refused = repository(&store).init(&spec()).await.unwrap_err();
    let InitError::Store(error @ StoreError::Incapable { .. }) = &refused else {
        panic!("{refused:?}")
    };
    assert!(
        error.to_string().contains("use a store with conditional writes"),
        "{error}"
    );
    assert!(!error.is_retryable());
    assert_eq!(store.puts("cluster.json"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_capable_store_is_probed_once_and_left_clean() {
    let memory = Arc::new(InMemory::new());
    let store = FaultyStore::around(memory.clone());
    let repository = repository(&store);
    repository.ensure_capable().await.unwrap();
    let puts = store.puts("");
    assert!(puts > 4);
    repository.ensure_capable().await.unwrap();
    repository.clone().ensure_capable().await.unwrap();
    assert_eq!(store.puts(""), puts, "the answer is kept");
    assert!(
        futures::TryStreamExt::try_collect::<Vec<_>>(object_store::ObjectStore::list(&memory, None))
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test(start_paused = true)]
async fn reading_does_not_probe() {
    let world = World::new().await;
    let before = world.store.puts("");
    let reader = Repository::with_store(Arc::new(world.store.clone()), Path::from("base"), seams(5));
    assert!(reader.pointer(P0).await.unwrap().is_none());
    assert!(reader.certificate(P0).await.unwrap().is_none());
    assert!(reader.control().await.unwrap().is_some());
    assert_eq!(world.store.puts(""), before);
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_store_is_asked_again_next_time() {
    let store = FaultyStore::around(Arc::new(InMemory::new()));
    let repository = repository(&store);
    store.fail_put("", Fault::Before);
    let error = repository.ensure_capable().await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    assert!(error.is_retryable());
    repository.ensure_capable().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_does_not_condemn_a_store() {
    for fault in [Fault::After, Fault::FalseLoser, Fault::Late] {
        let store = FaultyStore::around(Arc::new(InMemory::new()));
        let repository = repository(&store);
        store.fail_put("", fault);
        let outcome = repository.ensure_capable().await;
        assert!(
            outcome.as_ref().err().is_none_or(StoreError::is_retryable),
            "{outcome:?}"
        );
        repository.ensure_capable().await.unwrap();
    }
}

#[test]
fn urls_are_explained() {
    let open = |url: &str| Repository::open(url, seams(1));
    assert!(open("file:///tmp/somewhere").is_ok());
    assert!(open("memory://").is_ok());
    for url in ["s3://bucket/prefix", "az://container", "gs://bucket"] {
        let error = open(url).unwrap_err();
        assert!(matches!(error, OpenError::NotBuiltIn { .. }));
        assert!(error.to_string().contains("later release"), "{error}");
    }
    assert!(matches!(
        open("ftp://x").unwrap_err(),
        OpenError::UnknownScheme { .. }
    ));
    assert!(matches!(
        open("not a url").unwrap_err(),
        OpenError::Unparsable { .. }
    ));
    assert!(matches!(
        open("file://host/share").unwrap_err(),
        OpenError::NoFolder { .. }
    ));
}
