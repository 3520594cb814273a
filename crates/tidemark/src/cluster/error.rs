//! What can go wrong with a local cluster.

use super::Node;
use std::{
    io,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

/// A local cluster could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A file or folder could not be read, written or removed.
    #[error("{action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The credentials in the settings cannot be used.
    #[error("the credentials cannot be used: {}", detail.join("; "))]
    Credentials {
        /// What is wrong with them.
        detail: Vec<String>,
    },
    /// The logs cannot be opened.
    #[error("the logs cannot be opened: {detail}")]
    Log {
        /// Why not.
        detail: String,
    },
    /// All blocks of ports that may be used are taken.
    #[error("no free block of loopback ports among {tried}: end other local clusters")]
    NoPorts {
        /// How many were looked at.
        tried: u32,
    },
    /// The folder already holds something.
    #[error("folder {path} is not empty: name an empty or a new one")]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// A process could not be started or signalled.
    #[error("{action} {what}")]
    Process {
        /// What was tried.
        action: &'static str,
        /// With which process.
        what: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The node is running although it should not, or the other way round.
    #[error("{node} is {state}")]
    WrongState {
        /// The node.
        node: Node,
        /// `running` or `not running`.
        state: &'static str,
    },
    /// A process ended before it served.
    #[error("{what} ended with {status} before it was ready; its log {log} ends with:\n{tail}")]
    Exited {
        /// The node, or what else was started.
        what: String,
        /// How it ended.
        status: ExitStatus,
        /// Where its output is.
        log: PathBuf,
        /// The last lines of that.
        tail: String,
    },
    /// A command of the binary failed.
    #[error("`{command}` ended with {status}: {output}")]
    Command {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        output: String,
    },
    /// What was waited for did not come.
    #[error("waited {within:?} for {what}; last seen: {seen}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        within: Duration,
        /// How things stood at the end.
        seen: String,
    },
    /// There are two admins, and none acts.
    #[error("no admin acts: {detail}")]
    NoAdmin {
        /// How each of them stands.
        detail: String,
    },
    /// A node did not answer.
    #[error("{node} does not answer at {url}: {detail}")]
    Unreachable {
        /// The node.
        node: Node,
        /// Where it should be.
        url: String,
        /// What happened.
        detail: String,
    },
}

pub(super) fn file_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ClusterError {
    let path = path.to_owned();
    move |source| ClusterError::File { action, path, source }
}

pub(super) fn process_error(action: &'static str, what: &str) -> impl FnOnce(io::Error) -> ClusterError {
    let what = what.to_owned();
    move |source| ClusterError::Process { action, what, source }
}
