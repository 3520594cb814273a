//! The check before the first write.

use super::*;
use faults::Fault;
use snapshot_store::{InitError, OpenError, StoreError, StoreKind, StoreOptions};

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
    for (url, instead) in [
        ("s3a://bucket/p", "s3://"),
        ("abfss://c", "az://"),
        ("https://host", "endpoint"),
    ] {
        let error = open(url).unwrap_err();
        assert!(matches!(error, OpenError::UnknownScheme { .. }), "{error}");
        assert!(error.to_string().contains(instead), "{error}");
    }
    for url in ["s3://key:secret@bucket/prefix", "s3://bucket/prefix?region=x"] {
        let error = open(url).unwrap_err();
        assert!(matches!(error, OpenError::CredentialsInUrl { .. }), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    assert!(matches!(
        open("s3:///prefix").unwrap_err(),
        OpenError::NoBucket { .. }
    ));
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

/// Options with which no client asks a cloud for credentials.
fn static_options(kind: &str) -> StoreOptions {
    let pairs: &[(&str, &str)] = match kind {
        "s3" => &[
            ("access_key_id", "id"),
            ("secret_access_key", "hush"),
            ("region", "r"),
        ],
        "az" => &[("account_name", "a"), ("account_key", "aHVzaA==")],
        _ => &[],
    };
    StoreOptions::for_client(
        pairs
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string())),
    )
}

#[test]
fn cloud_stores_open_without_a_request_and_keep_their_secrets() {
    for (url, kind) in [
        ("s3://bucket/prefix", StoreKind::S3),
        ("az://container", StoreKind::Azure),
    ] {
        let options = static_options(&url[..2]);
        let repository = Repository::open_with(url, &options, seams(1)).unwrap();
        assert_eq!((repository.kind(), repository.url()), (kind, url));
        let printed = format!("{repository:?} {options:?}");
        assert!(
            !printed.contains("hush") && !printed.contains("aHVzaA"),
            "{printed}"
        );
    }
}

#[test]
fn options_that_are_unknown_or_unsafe_are_refused_by_name() {
    let open = |url: &str, key: &str| {
        let mut options = static_options(&url[..2]);
        options.client.insert(key.to_owned(), "disabled".to_owned());
        Repository::open_with(url, &options, seams(1)).unwrap_err()
    };
    for key in ["bucket", "conditional_put", "skip_signature"] {
        let error = open("s3://bucket", key);
        assert!(
            matches!(&error, OpenError::RefusedOption { option } if option == key),
            "{error}"
        );
    }
    let mut options = static_options("s3");
    let endpoint = "http://127.0.0.1:1".to_owned();
    options.client.insert("endpoint".to_owned(), endpoint.clone());
    let error = Repository::open_with("s3://bucket", &options, seams(1)).unwrap_err();
    assert!(
        matches!(&error, OpenError::PlainHttp { endpoint: named } if *named == endpoint),
        "{error}"
    );
    options.client.insert("allow_http".to_owned(), "true".to_owned());
    Repository::open_with("s3://bucket", &options, seams(1)).unwrap();
    for url in ["s3://bucket", "az://container", "file:///tmp", "memory://"] {
        let error = open(url, "colour");
        assert!(
            matches!(&error, OpenError::UnknownOption { option, .. } if option == "colour"),
            "{error}"
        );
    }
}
