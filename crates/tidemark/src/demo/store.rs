//! Where the snapshots of a demo go.
//!
//! Credentials never pass through here: the nodes inherit them from the environment of this process, as does a server that
//! the demo starts. So none stands on a command line, in a configuration file or in the output.

use super::DemoError;
use crate::{cluster::ClusterStore, commands::key_value};
use snapshot_store::Seams;
use std::{ffi::OsString, path::PathBuf};

/// Variables that an S3 server of the demo and its clients take their credentials from.
const S3_CREDENTIALS: [&str; 2] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
/// What the names of options contain that hold credentials.
const CREDENTIAL_WORDS: [&str; 5] = ["key", "secret", "token", "password", "credential"];

/// Where the snapshots of a demo go; into a folder of its own when nothing is given.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct StoreArgs {
    /// Publish in this store, below a new prefix of its own: s3://bucket/prefix, az://container/prefix, gs://bucket/prefix or
    /// file:///folder. Other objects are left alone, and what the demo published stays. Credentials come from the usual
    /// variables of the environment (AWS_*, AZURE_*, GOOGLE_*).
    #[arg(long, value_name = "URL")]
    pub store: Option<String>,
    /// Option of the store's client, such as endpoint=http://127.0.0.1:9000; may be given several times. Refused when it
    /// holds a credential: those belong into the environment.
    #[arg(long = "store-option", value_name = "KEY=VALUE", requires = "store", value_parser = plain_option)]
    pub store_options: Vec<(String, String)>,
    /// Start this S3 server, with its data in the folder of the demo, and publish there: a program that is called with
    /// ADDRESS FOLDER BUCKET, prints its endpoint, accepts the credentials in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY,
    /// and ends with its standard input. `scripts/demo.sh --store s3` builds one and passes it here.
    #[arg(long, value_name = "PROGRAM", conflicts_with = "store")]
    pub s3_server: Option<PathBuf>,
}

impl StoreArgs {
    /// Returns the store of a new demo. Makes no request.
    ///
    /// # Errors
    /// When a server of the demo's own would have no credentials to accept.
    pub(super) fn choose(&self, seams: &Seams) -> Result<ClusterStore, DemoError> {
        if let Some(program) = &self.s3_server {
            check_credentials(|name| std::env::var_os(name))?;
            let program = program.clone();
            return Ok(ClusterStore::Server { program });
        }
        Ok(match &self.store {
            None => ClusterStore::Folder,
            Some(url) => ClusterStore::At {
                url: format!("{}/demo-{}", url.trim_end_matches('/'), seams.ulid()),
                options: self.store_options.iter().cloned().collect(),
            },
        })
    }
}

/// Without credentials a client would ask a cloud's metadata address for some.
fn check_credentials(variable: impl Fn(&str) -> Option<OsString>) -> Result<(), DemoError> {
    let missing = |name: &&str| variable(name).is_none_or(|value| value.is_empty());
    match S3_CREDENTIALS.into_iter().find(missing) {
        Some(variable) => Err(DemoError::NoCredentials { variable }),
        None => Ok(()),
    }
}

/// Returns the line with which to get ready for starting a kept cluster again; `None` when there is nothing to do.
pub(super) fn credentials_line(store: &ClusterStore) -> Option<String> {
    let [id, secret] = S3_CREDENTIALS;
    match store {
        ClusterStore::Folder => None,
        ClusterStore::At { .. } => {
            Some("# with the store's credentials in the environment, as for the demo".to_owned())
        }
        // The server accepts what it is started with, so that nothing needs to be remembered.
        ClusterStore::Server { .. } => Some(format!(
            "export {id}=demo {secret}=$(cat /proc/sys/kernel/random/uuid)"
        )),
    }
}

/// Parses `KEY=VALUE` where the key is not that of a credential.
fn plain_option(text: &str) -> Result<(String, String), String> {
    let (key, value) = key_value(text)?;
    let lower = key.to_ascii_lowercase();
    if CREDENTIAL_WORDS.iter().any(|word| lower.contains(word)) {
        return Err(format!(
            "{key} may hold a credential, which others could read from the list of processes: set the variable of the \
             environment instead (AWS_*, AZURE_* or GOOGLE_*)"
        ));
    }
    Ok((key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_demo_publishes_below_a_prefix_of_its_own() {
        let args = StoreArgs {
            store: Some("s3://bucket/demos/".to_owned()),
            ..StoreArgs::default()
        };
        let url = || match args.choose(&Seams::real()) {
            Ok(ClusterStore::At { url, .. }) => url,
            other => panic!("{other:?}"),
        };
        let (first, second) = (url(), url());
        assert!(first.starts_with("s3://bucket/demos/demo-"), "{first}");
        assert_ne!(first, second);
    }

    #[test]
    fn options_with_credentials_are_refused_without_repeating_them() {
        for option in [
            "secret_access_key=hidden",
            "AWS_SESSION_TOKEN=hidden",
            "azure_storage_account_key=hidden",
            "google_application_credentials=hidden",
        ] {
            let refusal = plain_option(option).unwrap_err();
            assert!(!refusal.contains("hidden"), "{refusal}");
            assert!(refusal.contains("environment"), "{refusal}");
        }
        let endpoint = plain_option("endpoint=http://127.0.0.1:9000/?a=b").unwrap();
        assert_eq!(endpoint.1, "http://127.0.0.1:9000/?a=b");
    }

    #[test]
    fn a_server_without_credentials_is_refused_by_the_name_of_the_variable() {
        let set = |id: &'static str, secret: &'static str| {
            move |name: &str| {
                let value = if name.ends_with("ID") { id } else { secret };
                (value != "unset").then(|| OsString::from(value))
            }
        };
        let missing = |found: Result<(), DemoError>| match found {
            Err(DemoError::NoCredentials { variable }) => Some(variable),
            _ => None,
        };
        assert_eq!(missing(check_credentials(set("id", "secret"))), None);
        assert_eq!(
            missing(check_credentials(set("unset", "secret"))),
            Some("AWS_ACCESS_KEY_ID")
        );
        assert_eq!(
            missing(check_credentials(set("id", ""))),
            Some("AWS_SECRET_ACCESS_KEY")
        );
    }
}
