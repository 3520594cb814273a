//! One conformance suite for every kind of store, through the public API of the repository: a local folder, memory, two
//! S3 servers of different make, an Azure server, and a bucket of Google Cloud Storage where one is named. Besides
//! them: stores that are wrong on purpose, and a network that is.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cases;
mod cleanup;
mod doubles;
mod faults;
mod killed_server;
mod races;
mod refusals;
mod subject;
mod world;

use subject::Subject;

#[tokio::test(flavor = "multi_thread")]
async fn memory_conforms() {
    conforms(&Subject::memory()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_folder_conforms() {
    conforms(&Subject::folder()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_s3_server_conforms() {
    conforms(&Subject::s3().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_s3_server_of_another_make_conforms() {
    conforms(&Subject::moto().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_azure_server_conforms() {
    conforms(&Subject::azurite().await).await;
}

/// There is no faithful server of it to install, so this is for whoever has a bucket.
#[tokio::test(flavor = "multi_thread")]
async fn google_cloud_storage_conforms_where_a_bucket_is_named() {
    match Subject::named_gcs_bucket() {
        Some(subject) => {
            conforms(&subject).await;
            races::have_one_winner_each(&subject).await;
        }
        None => println!("not run: TIDEMARK_TEST_GCS_URL names no bucket"),
    }
}

/// Runs all cases, and fails with the names of those that failed.
async fn conforms(subject: &Subject) {
    let mut failed = Vec::new();
    macro_rules! run {
        ($($module:ident::$case:ident,)*) => {
            $(if !subject::runs(concat!(stringify!($module), "::", stringify!($case)), $module::$case(subject)).await {
                failed.push(stringify!($case));
            })*
        };
    }
    run! {
        cases::the_check_accepts_it_and_leaves_nothing,
        cases::whoever_initialises_gets_the_same_identity,
        cases::a_published_snapshot_comes_back_as_it_was,
        cases::the_pointer_only_grows,
        cases::the_certificate_only_grows,
        cases::unchanged_files_are_copied_inside_the_store,
        cases::big_files_travel_in_parts,
        cases::damage_is_found,
        cases::any_prefix_and_any_foreign_name_will_do,
        cleanup::only_what_may_go_goes,
        cleanup::more_than_a_thousand_objects_are_listed,
        refusals::wrong_credentials_are_named,
        refusals::a_missing_bucket_is_named,
        refusals::a_store_that_does_not_answer_is_named,
    }
    assert!(failed.is_empty(), "{} fails {failed:?}", subject.name());
}
