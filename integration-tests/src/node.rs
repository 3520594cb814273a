//! A single process of the binary beside a cluster, for configurations that must not work.

use crate::binary;
use anyhow::Context;
use std::{
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};
use tidemark::cluster::wait_for;

/// A process whose output goes to a file; killed when dropped.
#[derive(Debug)]
pub struct SingleNode {
    child: Child,
    log: PathBuf,
}

impl SingleNode {
    /// Starts the binary with `arguments`; `log` is overwritten with what it says.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(arguments: &[&str], log: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new(binary()?);
        command.args(arguments);
        Self::spawn_command(command, log)
    }

    /// Starts another program in the same way.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn_command(mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let output = std::fs::File::create(log)?;
        let child = command
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("{command:?}"))?;
        Ok(SingleNode {
            child,
            log: log.to_owned(),
        })
    }

    /// Returns its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns what it has said so far.
    ///
    /// # Errors
    /// When its output cannot be read.
    pub fn said(&self) -> anyhow::Result<String> {
        Ok(String::from_utf8_lossy(&std::fs::read(&self.log)?).into_owned())
    }

    /// Waits until it has said all of `words`.
    ///
    /// # Errors
    /// When it has not in time; the error shows what it said instead.
    pub async fn until_said(&self, words: &[&str], within: Duration) -> anyhow::Result<String> {
        let what = format!("{words:?} to be said");
        let said = wait_for(&what, within, async || {
            let said = self.said().map_err(|error| error.to_string())?;
            if words.iter().all(|word| said.contains(word)) {
                Ok(said)
            } else {
                Err(said)
            }
        });
        Ok(said.await?)
    }

    /// Waits until it ends; returns how, and what it said.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn until_ended(&mut self, within: Duration) -> anyhow::Result<(ExitStatus, String)> {
        let status = wait_for("the process to end", within, async || {
            let ended = self.child.try_wait().map_err(|error| error.to_string())?;
            let said = std::fs::read_to_string(&self.log).unwrap_or_default();
            ended.ok_or(format!("still running; said:\n{said}"))
        })
        .await?;
        Ok((status, self.said()?))
    }
}

impl Drop for SingleNode {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
