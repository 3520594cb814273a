//! Where a local cluster keeps its snapshots.

use snapshot_store::{OpenError, Repository, Seams, StoreOptions};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

/// Name of the bucket that a cluster's own S3 server has.
const BUCKET: &str = "tidemark";

/// The object store of a local cluster. Credentials are no part of it: nodes inherit the variables that a cloud's client
/// reads (`AWS_*`, `AZURE_*`, `GOOGLE_*`) from the environment of this process.
#[derive(Clone, Debug, Default)]
pub enum ClusterStore {
    /// The folder `bucket` in that of the cluster.
    #[default]
    Folder,
    /// A store that is there already.
    At {
        /// URL of the repository.
        url: String,
        /// Options of the store's client. They end up in configuration files and on command lines: none may be a secret.
        options: BTreeMap<String, String>,
    },
    /// An S3 server of the cluster's own, with its data in the folder `bucket`. It is started as
    /// `PROGRAM ADDRESS FOLDER BUCKET`, prints its endpoint once it listens, accepts the credentials in its environment
    /// (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`), and ends with its standard input.
    Server {
        /// The program.
        program: PathBuf,
    },
}

impl ClusterStore {
    /// Returns how it is reached, when `bucket` is the folder and `address` the free address that it may have.
    pub(super) fn place(&self, bucket: &Path, address: &str) -> StorePlace {
        match self {
            ClusterStore::Folder => StorePlace {
                url: url::Url::from_file_path(bucket).map_or_else(|()| String::new(), String::from),
                options: BTreeMap::new(),
            },
            ClusterStore::At { url, options } => StorePlace {
                url: url.clone(),
                options: options.clone(),
            },
            ClusterStore::Server { .. } => StorePlace {
                url: format!("s3://{BUCKET}"),
                options: [
                    ("endpoint", format!("http://{address}")),
                    ("region", "us-east-1".to_owned()),
                    ("allow_http", "true".to_owned()),
                ]
                .map(|(key, value)| (key.to_owned(), value))
                .into(),
            },
        }
    }

    /// Returns the command that serves the store at `address`; `None` when nothing has to be started.
    pub(super) fn server(&self, bucket: &Path, address: &str) -> Option<Command> {
        let ClusterStore::Server { program } = self else {
            return None;
        };
        let mut command = Command::new(program);
        command.arg(address).arg(bucket).arg(BUCKET);
        Some(command)
    }

    /// Returns whether the data lies in the folder of the cluster.
    pub fn is_own(&self) -> bool {
        !matches!(self, ClusterStore::At { .. })
    }
}

/// How the store of a local cluster is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorePlace {
    /// URL of the repository.
    pub url: String,
    /// Options of the store's client, without credentials.
    pub options: BTreeMap<String, String>,
}

impl StorePlace {
    /// Returns the options in the form in which a store is opened.
    pub fn store_options(&self) -> StoreOptions {
        StoreOptions::for_client(self.options.clone())
    }

    /// Opens the repository. Makes no request.
    ///
    /// # Errors
    /// When URL or options cannot be used.
    pub fn open(&self, seams: Seams) -> Result<Repository, OpenError> {
        Repository::open_with(&self.url, &self.store_options(), seams)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_store_is_reached_in_its_own_way_and_only_a_server_is_started() {
        let options: BTreeMap<_, _> = [("region".to_owned(), "eu".to_owned())].into();
        let at = ClusterStore::At {
            url: "s3://bucket/prefix".to_owned(),
            options: options.clone(),
        };
        let server = ClusterStore::Server {
            program: "/bin/s3-server".into(),
        };
        let (bucket, address) = (Path::new("/tmp/a folder/bucket"), "127.0.0.1:1");
        let cases = [
            (ClusterStore::Folder, "file:///tmp/a%20folder/bucket", None, true),
            (at, "s3://bucket/prefix", None, false),
            (server, "s3://tidemark", Some("/bin/s3-server"), true),
        ];
        for (store, url, program, own) in cases {
            let place = store.place(bucket, address);
            assert_eq!(place.url, url);
            let started = store.server(bucket, address);
            let started = started.map(|command| command.get_program().to_string_lossy().into_owned());
            assert_eq!(started.as_deref(), program);
            assert_eq!(store.is_own(), own);
            match store {
                ClusterStore::Folder => assert!(place.options.is_empty()),
                ClusterStore::At { .. } => assert_eq!(place.options, options),
                ClusterStore::Server { .. } => assert_eq!(place.options["endpoint"], "http://127.0.0.1:1"),
            }
        }
    }
}
