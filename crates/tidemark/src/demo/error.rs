//! Why a demo could not be carried through.

use crate::{
    cluster::ClusterError,
    kv::{KvError, import::ImportError},
};
use std::io;

/// The demo ended before its verdict.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The own binary cannot be found.
    #[error("cannot find the tidemark binary")]
    Binary(#[source] io::Error),
    /// No folder to work in.
    #[error("cannot make a folder to work in; choose another one with --dir")]
    Folder(#[source] io::Error),
    /// A server of the demo's own, and nothing that it could accept.
    #[error("{variable} is not set: the S3 server accepts the credentials it is started with; give it any")]
    NoCredentials {
        /// The variable.
        variable: &'static str,
    },
    /// The file cannot be imported.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The file cannot be read a second time, by the reader that says what is expected.
    #[error("cannot read the input: {0}")]
    Expected(String),
    /// The cluster did not do what was asked, or not in time.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A write or read of pairs failed for good.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// A stored object is not where it should be or not what it should be.
    #[error("in the bucket: {0}")]
    Bucket(String),
    /// The result could not be printed.
    #[error("cannot print the result")]
    Print(#[source] io::Error),
    /// Somebody asked it to end.
    #[error("interrupted; nothing is left running")]
    Interrupted,
}
