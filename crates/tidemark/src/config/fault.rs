//! What is wrong with a configuration: all of it at once.

use snapshot_store::NodeId;
use std::{collections::BTreeSet, fmt, net::SocketAddr, path::PathBuf};

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Fault {
    /// The key, with its sections: `limits.exports_max`.
    pub key: String,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}; {}", self.key, self.problem, self.remedy)
    }
}

/// Collects faults.
#[derive(Debug, Default)]
pub struct Faults {
    found: Vec<Fault>,
    keys: BTreeSet<String>,
}

impl Faults {
    /// Adds a fault. A key that already has one keeps the first: what follows from a fault is not a second one.
    pub fn add(&mut self, key: impl Into<String>, problem: impl Into<String>, remedy: impl Into<String>) {
        let key = key.into();
        if self.keys.insert(key.clone()) {
            self.found.push(Fault {
                key,
                problem: problem.into(),
                remedy: remedy.into(),
            });
        }
    }

    /// Returns what was collected.
    pub fn into_vec(self) -> Vec<Fault> {
        self.found
    }

    pub(super) fn node_id(&mut self, key: &str, text: &str) {
        if let Err(error) = NodeId::new(text) {
            self.add(key, error.to_string(), "choose a name such as \"worker-1\"");
        }
    }

    pub(super) fn listen(&mut self, key: &str, text: &str) {
        if text.parse::<SocketAddr>().is_err() {
            self.add(
                key,
                format!("{text:?} is not an address to listen on"),
                "write IP and port, such as \"127.0.0.1:7310\" or \"0.0.0.0:7310\"",
            );
        }
    }

    /// Faults addresses that two servers of one node would share; port 0 asks the system for a free one.
    pub(super) fn distinct_listens(&mut self, listens: &[(&str, &str)]) {
        for (at, (key, text)) in listens.iter().enumerate() {
            let clash = listens[..at]
                .iter()
                .find(|(_, other)| other == text && !text.ends_with(":0"));
            if let Some((other, _)) = clash {
                self.add(
                    *key,
                    format!("{text:?} is also the value of `{other}`"),
                    "give each its own port",
                );
            }
        }
    }

    pub(super) fn http_url(&mut self, key: &str, text: &str) {
        let sound = url::Url::parse(text)
            .is_ok_and(|url| ["http", "https"].contains(&url.scheme()) && url.host().is_some());
        if !sound {
            self.add(
                key,
                format!("{text:?} is not the address of a node"),
                "write it as \"http://host:port\", or \"https://host:port\" where it speaks TLS",
            );
        }
    }

    pub(super) fn at_least_one(&mut self, key: &str, value: u64) {
        if value == 0 {
            self.add(key, "0 is not allowed", "set at least 1");
        }
    }

    pub(super) fn data_dir(&mut self, key: &str, text: &str) {
        if text.is_empty() {
            self.add(
                key,
                "the folder is empty",
                "name a folder on a local disk that this node alone uses",
            );
        }
    }
}

/// A configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}; check the path, or start from examples/config", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{origin} is not valid TOML: {detail}")]
    NotToml {
        /// The file.
        origin: String,
        /// Where and why.
        detail: String,
    },
    /// Keys or values are wrong.
    #[error("{origin} has {} fault(s):{}", faults.len(), listed(faults))]
    Faulty {
        /// The file.
        origin: String,
        /// All of them.
        faults: Vec<Fault>,
    },
}

impl ConfigError {
    /// Returns the faults of keys and values; empty when the file could not even be parsed.
    pub fn faults(&self) -> &[Fault] {
        match self {
            ConfigError::Faulty { faults, .. } => faults,
            ConfigError::Unreadable { .. } | ConfigError::NotToml { .. } => &[],
        }
    }
}

fn listed(faults: &[Fault]) -> String {
    faults.iter().map(|fault| format!("\n  {fault}")).collect()
}
