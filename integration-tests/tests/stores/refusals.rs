//! What a store that cannot be used is said to be.

use crate::{
    subject::Subject,
    world::{P0, World, checkpoint, publish, spec, store_error},
};
use snapshot_store::{Entropy, InitError, Repository, Seams, StoreError, StoreOptions, SystemClock};
use std::{error::Error, sync::Arc};

fn open(url: &str, options: &StoreOptions) -> Repository {
    let seams = Seams {
        clock: Arc::new(SystemClock),
        entropy: Entropy::from_os(),
    };
    Repository::open_with(url, options, seams).unwrap()
}

/// Initialises, which writes, and returns why it failed.
async fn refusal(url: &str, options: &StoreOptions) -> StoreError {
    match open(url, options).init(&spec(1)).await {
        Err(InitError::Store(error)) => error,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn wrong_credentials_are_named(subject: &Subject) {
    if !subject.checks_credentials() {
        return;
    }
    // Of the length and form that the client expects.
    let wrong = [
        ("secret_access_key", "not-the-secret"),
        ("access_key_id", "NOBODY"),
        ("account_key", "bm90LXRoZS1zZWNyZXQ="),
    ];
    let right = subject.options();
    for (option, value) in wrong
        .iter()
        .filter(|(option, _)| right.client.contains_key(*option))
    {
        let mut options = right.clone();
        options.client.insert((*option).to_owned(), (*value).to_owned());
        let error = refusal(&subject.url("credentials"), &options).await;
        assert!(matches!(error, StoreError::Denied { .. }), "{option}: {error:?}");
        assert!(error.to_string().contains("check its credentials"), "{error}");
        assert!(!error.is_retryable());
        assert!(!chain(&error).contains(value), "no secret in {}", chain(&error));
    }
    assert_eq!(subject.raw("credentials").keys().await, [""; 0]);
}

pub(crate) async fn a_missing_bucket_is_named(subject: &Subject) {
    if !subject.has_buckets() {
        return;
    }
    let url = subject.url("prefix").replacen("://", "://absent-", 1);
    let world = World::new(subject, "present").await;
    let files = checkpoint(&[("CURRENT", 16)]);
    let absent = open(&url, &subject.options());
    let published = publish(&absent, &world.record, P0, files.path(), 100).await;
    let refusals = [
        refusal(&url, &subject.options()).await,
        store_error(published.unwrap_err()),
    ];
    for error in refusals {
        assert!(matches!(error, StoreError::NoBucket { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("create it, or check the store URL"), "{text}");
        assert!(!error.is_retryable());
    }
}

pub(crate) async fn a_store_that_does_not_answer_is_named(subject: &Subject) {
    if !subject.has_endpoint() {
        return;
    }
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = free.local_addr().unwrap();
    drop(free);
    let mut options = subject.options();
    let endpoint = options.client["endpoint"].clone();
    let path = endpoint.splitn(4, '/').nth(3).unwrap_or_default();
    options
        .client
        .insert("endpoint".to_owned(), format!("http://{nobody}/{path}"));
    options.transfer.retries_max = 0;
    let error = refusal(&subject.url("prefix"), &options).await;
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    assert!(error.to_string().contains("did not answer"), "{error}");
    assert!(error.is_retryable());
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
