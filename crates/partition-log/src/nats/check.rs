//! What a deployment has and lacks, in sentences.

use super::admin::REGISTRATION;
use super::core::settings;
use super::link::Failure;
use super::logs::Logs;
use super::place::{Place, STREAM_NOT_FOUND};
use crate::LogError;
use async_nats::jetstream::stream::Info;
use serde::Deserialize;
use snapshot_store::PartitionId;
use std::collections::BTreeMap;

/// How one finding counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FindingLevel {
    /// As it should be.
    Good,
    /// Cannot be asked for over the protocol; the text says what to look at.
    Unknown,
    /// The deployment works, and something promised is missing.
    Lacking,
    /// Logs cannot be kept here, or not safely.
    Broken,
}

/// One thing found out about a deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How it counts.
    pub level: FindingLevel,
    /// What was found, and what to do about it.
    pub text: String,
}

fn finding(level: FindingLevel, text: impl Into<String>) -> Finding {
    let text = text.into();
    Finding { level, text }
}

#[derive(Deserialize)]
struct Account {
    #[serde(default)]
    streams: u64,
}

impl Logs {
    pub(super) async fn check(&self, partitions: &[PartitionId]) -> Vec<Finding> {
        if let Err(detail) = self.link.check() {
            return vec![finding(FindingLevel::Broken, detail)];
        }
        let mut findings = Vec::new();
        if let Some(server) = self.link.server() {
            let (name, version) = (&server.server_name, &server.version);
            let text = format!("connected to {name}, nats-server {version}");
            findings.push(finding(FindingLevel::Good, text));
        }
        match self.link.api::<Account>("INFO", &()).await {
            Ok(account) => {
                let text = format!("JetStream is on; the account has {} streams", account.streams);
                findings.push(finding(FindingLevel::Good, text));
            }
            Err(failure) => {
                let text = format!("JetStream cannot be used: {failure}");
                findings.push(finding(FindingLevel::Broken, text));
                return findings;
            }
        }
        findings.push(finding(
            FindingLevel::Unknown,
            "whether acknowledged records are on the disks cannot be asked: see that every server has `jetstream { sync_interval: always }`",
        ));
        findings.push(self.check_trims().await);
        findings.push(self.check_registry().await);
        // The same about many partitions is said once.
        let mut by_text: BTreeMap<(FindingLevel, String), Vec<PartitionId>> = BTreeMap::new();
        for partition in partitions {
            for found in self.check_partition(*partition).await {
                by_text
                    .entry((found.level, found.text))
                    .or_default()
                    .push(*partition);
            }
        }
        findings.extend(by_text.into_iter().map(|((level, text), partitions)| {
            let partitions: Vec<String> = partitions.iter().map(PartitionId::to_string).collect();
            finding(level, format!("partition {}: {text}", partitions.join(", ")))
        }));
        findings
    }

    /// Finds out whether these credentials may trim, by purging a stream that is not there.
    async fn check_trims(&self) -> Finding {
        let stream = format!("{}-none", self.names.bucket());
        let purged = self
            .link
            .api::<serde_json::Value>(
                &format!("STREAM.PURGE.{stream}"),
                &serde_json::json!({ "seq": 1 }),
            )
            .await;
        match purged {
            Err(Failure::Refused {
                code: STREAM_NOT_FOUND,
                ..
            }) => finding(
                FindingLevel::Good,
                "these credentials may trim: right for admins, too much for workers",
            ),
            Err(Failure::NotSent(_)) => finding(
                FindingLevel::Good,
                "these credentials may not trim: right for workers, too little for admins",
            ),
            answer => {
                let text = format!("whether these credentials may trim is not known: {answer:?}");
                finding(FindingLevel::Unknown, text)
            }
        }
    }

    async fn check_registry(&self) -> Finding {
        let stream = self.names.registry_stream();
        match self.link.api::<Info>(&format!("STREAM.INFO.{stream}"), &()).await {
            Ok(info) => self.replicas_of("the registry", info.config.num_replicas),
            Err(Failure::Refused {
                code: STREAM_NOT_FOUND,
                ..
            }) => finding(
                FindingLevel::Lacking,
                format!(
                    "there is no registry {}: no log was provisioned with this prefix",
                    self.names.bucket()
                ),
            ),
            Err(failure) => finding(
                FindingLevel::Broken,
                format!("the registry cannot be read: {failure}"),
            ),
        }
    }

    fn replicas_of(&self, what: &str, found: usize) -> Finding {
        let wanted = usize::from(self.options.replicas);
        if found >= wanted {
            return finding(FindingLevel::Good, format!("{what} is kept on {found} servers"));
        }
        finding(
            FindingLevel::Lacking,
            format!(
                "{what} is kept on {found} servers, and {wanted} are wanted: `nats stream edit --replicas {wanted}`"
            ),
        )
    }

    async fn check_partition(&self, partition: PartitionId) -> Vec<Finding> {
        let entry = match self.entry(partition).await {
            Ok(entry) => entry,
            Err(LogError::Missing { .. }) => {
                return vec![finding(FindingLevel::Lacking, "no log is provisioned")];
            }
            Err(LogError::Unavailable { detail, .. }) => return vec![finding(FindingLevel::Broken, detail)],
            Err(error) => return vec![finding(FindingLevel::Broken, error.to_string())],
        };
        let place = Place::new(&self.names, &entry.registration);
        let look = match place.look_at_any(&self.link).await {
            Ok(look) => look,
            Err(Failure::Refused {
                code: STREAM_NOT_FOUND,
                ..
            }) => {
                let text = format!("its stream {} is gone: its records are lost", place.stream);
                return vec![finding(FindingLevel::Broken, text)];
            }
            Err(failure) => return vec![finding(FindingLevel::Broken, failure.to_string())],
        };
        let mut findings = vec![self.replicas_of("the log", look.config.num_replicas)];
        let faults = settings::faults(&look.config, &place.subject);
        if !faults.is_empty() {
            findings.push(finding(FindingLevel::Broken, place.unsafe_settings(&faults)));
        }
        if look.config.deny_purge {
            let text = "deny_purge is on, which cannot be taken back: it can never be trimmed";
            findings.push(finding(FindingLevel::Broken, text));
        }
        if !look.config.metadata.contains_key(REGISTRATION) {
            findings.push(finding(
                FindingLevel::Lacking,
                "its stream does not say which log it is: it was not made by Tidemark",
            ));
        }
        if settings::is_sealed(&look.config) {
            findings.push(finding(
                FindingLevel::Good,
                "the log is sealed: it takes no appends",
            ));
        }
        let followers = look.config.num_replicas.saturating_sub(1);
        if let Some(current) = look.followers_current.filter(|current| *current < followers) {
            let text = format!("{current} of the {followers} servers that follow are up to date");
            findings.push(finding(FindingLevel::Lacking, text));
        }
        findings
    }

    /// Makes a stream with as many replicas as `servers`, unless it is there, to see that the servers work together.
    #[cfg(feature = "conformance")]
    pub(super) async fn create_probe(&self, servers: usize) -> Result<(), String> {
        let name = self.probe();
        let replicas = u8::try_from(servers).unwrap_or(1);
        let config = settings::log_stream(name.clone(), format!("{name}.probe"), replicas, 1);
        let created = self
            .link
            .api::<Info>(&format!("STREAM.CREATE.{name}"), &config)
            .await;
        created.map(drop).map_err(|failure| failure.to_string())
    }

    /// Checks that all of that stream's servers are there and up to date.
    #[cfg(feature = "conformance")]
    pub(super) async fn check_probe(&self, servers: usize) -> Result<(), String> {
        let subject = format!("STREAM.INFO.{}", self.probe());
        let info = self.link.api::<Info>(&subject, &()).await;
        let cluster = info.map_err(|failure| failure.to_string())?.cluster;
        let replicas = cluster.map(|cluster| cluster.replicas).unwrap_or_default();
        match replicas
            .iter()
            .filter(|peer| peer.current && !peer.offline)
            .count()
        {
            count if count + 1 == servers => Ok(()),
            count => Err(format!("{count} of {} followers are up to date", servers - 1)),
        }
    }

    /// Deletes that stream, if it is there.
    #[cfg(feature = "conformance")]
    pub(super) async fn delete_probe(&self) -> Result<(), String> {
        let subject = format!("STREAM.DELETE.{}", self.probe());
        match self.link.api::<serde_json::Value>(&subject, &()).await {
            Ok(_)
            | Err(Failure::Refused {
                code: STREAM_NOT_FOUND,
                ..
            }) => Ok(()),
            Err(failure) => Err(failure.to_string()),
        }
    }

    #[cfg(feature = "conformance")]
    fn probe(&self) -> String {
        format!("{}-probe", self.names.bucket())
    }
}
