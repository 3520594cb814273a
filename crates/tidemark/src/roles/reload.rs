//! Reads the admin's policy again: on SIGHUP, when its file has changed, and when an operator asks.

use crate::config::{self, AdminConfig};
use snapshot_scheduler::{Policy, PolicySource, SchedulerHandle};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How often the file is looked at. A change counts when two looks see the same, so that a file that is being written is
/// left in peace.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// The `[policy]` of an admin's configuration file, with the environment over it.
pub(super) struct ConfiguredPolicy {
    path: PathBuf,
    /// The rest of it takes effect at start only.
    started_with: AdminConfig,
}

impl ConfiguredPolicy {
    pub(super) fn new(path: PathBuf, started_with: AdminConfig) -> Self {
        ConfiguredPolicy { path, started_with }
    }
}

impl PolicySource for ConfiguredPolicy {
    fn read(&self) -> Result<Policy, String> {
        let config: AdminConfig =
            config::load(&self.path).map_err(|error| format!("{:#}", anyhow::Error::from(error)))?;
        let waiting = changed_sections(&self.started_with, &config);
        if !waiting.is_empty() {
            tracing::warn!(keys = ?waiting, "these keys changed, too, and take effect when the admin is started again");
        }
        Ok(config.policy)
    }
}

/// Returns the keys and sections besides the policy in which two configurations differ.
fn changed_sections(old: &AdminConfig, new: &AdminConfig) -> Vec<String> {
    let json = |config: &AdminConfig| serde_json::to_value(config).unwrap_or_default();
    let (old, new) = (json(old), json(new));
    let keys = new.as_object().into_iter().flat_map(|table| table.keys());
    keys.filter(|key| *key != "policy" && old[*key] != new[*key])
        .cloned()
        .collect()
}

/// Takes SIGHUP from now on, so that it no longer ends the process: also while store and log are still waited for. One that
/// comes then is obeyed as soon as there is a scheduler.
///
/// # Errors
/// When signals cannot be listened to.
pub(super) fn hangups() -> std::io::Result<Signal> {
    signal(SignalKind::hangup())
}

/// Reads the policy again on each of `hangups` and when the file at `path` has changed, until `stop`.
pub(super) fn on_change(
    handle: SchedulerHandle,
    path: PathBuf,
    mut hangups: Signal,
    stop: CancellationToken,
) {
    tokio::spawn(async move {
        let mut file = WatchedFile::new(look(&path).await);
        let mut interval = tokio::time::interval(LOOK_INTERVAL);
        loop {
            tokio::select! {
                _ = hangups.recv() => tracing::info!("told to read the policy again"),
                _ = interval.tick() => {
                    if !file.has_changed(look(&path).await) {
                        continue;
                    }
                }
                () = stop.cancelled() => return,
            }
            // What is refused was logged with all its faults.
            if let Ok(changes) = handle.reload_policy().await {
                tracing::info!(changes = changes.len(), "the policy was read again");
            }
        }
    });
}

async fn look(path: &Path) -> Option<Vec<u8>> {
    tokio::fs::read(path).await.ok()
}

/// Tells when the content of a file is another one than it was, and has stayed so for a look.
struct WatchedFile {
    taken: Option<Vec<u8>>,
    seen: Option<Vec<u8>>,
}

impl WatchedFile {
    fn new(content: Option<Vec<u8>>) -> Self {
        WatchedFile {
            taken: content.clone(),
            seen: content,
        }
    }

    /// Takes a look. A file that is not there changes nothing: it may be in the middle of being replaced.
    fn has_changed(&mut self, content: Option<Vec<u8>>) -> bool {
        let steady = self.seen == content;
        self.seen = content;
        let changed = steady && self.seen.is_some() && self.seen != self.taken;
        if changed {
            self.taken.clone_from(&self.seen);
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_counts_once_and_when_two_looks_see_the_same() {
        let content = |text: &str| (!text.is_empty()).then(|| text.as_bytes().to_vec());
        let mut file = WatchedFile::new(content("a"));
        let looks = [
            ("a", false),
            ("b", false),
            ("bc", false),
            ("bc", true),
            ("bc", false),
            ("", false),
            ("", false),
            ("bc", false),
            ("bc", false),
            ("a", false),
            ("a", true),
        ];
        for (at, (text, expected)) in looks.into_iter().enumerate() {
            assert_eq!(file.has_changed(content(text)), expected, "look {at}");
        }
    }

    #[test]
    fn what_waits_for_a_restart_is_named() {
        let old = AdminConfig::default();
        let mut new = old.clone();
        new.policy.snapshot_after_records = 7;
        assert_eq!(changed_sections(&old, &new), Vec::<String>::new());
        new.listen = "127.0.0.1:1".to_owned();
        new.workers.pop();
        assert_eq!(changed_sections(&old, &new), ["listen", "workers"]);
    }
}
