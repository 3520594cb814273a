//! One child process: its output goes to a file, and it ends when the parent is gone, because its standard input does.

use super::{ClusterError, error::process_error, wait_for};
use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

const READY_WITHIN: Duration = Duration::from_secs(60);
/// How many lines of a log a report shows.
pub(super) const LOG_LINES: usize = 20;

/// How much of a log is looked at for the line that says the node serves, and for the last lines of a report.
const LOOK_BYTES_MAX: u64 = 1 << 20;

/// How a process is known to serve, and how it learns that its parent is gone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    /// Finds out whether a line of its output says that it serves.
    pub(super) is_ready: fn(&str) -> bool,
    /// Whether it ends with its standard input. Where it does not, a shell beside it waits for that end and kills it.
    pub(super) watches_stdin: bool,
}

/// A running child; it is killed when this is dropped.
#[derive(Debug)]
pub(super) struct NodeProcess {
    child: Child,
    guard: Option<Child>,
    log: PathBuf,
    /// Where in the log this run begins.
    log_start: u64,
}

impl NodeProcess {
    /// Starts `what` and waits until it serves.
    pub(super) async fn spawn_ready(
        what: &str,
        command: Command,
        log: &Path,
        manner: Manner,
    ) -> Result<Self, ClusterError> {
        let mut process = Self::spawn(command, log).map_err(process_error("start", what))?;
        if !manner.watches_stdin {
            let guard = guard_of(process.id()).map_err(process_error("guard", what))?;
            process.guard = Some(guard);
        }
        let mut ended = None;
        wait_for(&format!("{what} to serve"), READY_WITHIN, async || {
            ended = process.ended().map_err(|error| error.to_string())?;
            match process.line_that(manner.is_ready) {
                _ if ended.is_some() => Ok(()),
                Ok(Some(_)) => Ok(()),
                Ok(None) => Err(format!("its log ends with:\n{}", last_lines(log, LOG_LINES))),
                Err(error) => Err(error.to_string()),
            }
        })
        .await?;
        match ended {
            None => Ok(process),
            Some(status) => Err(ClusterError::Exited {
                what: what.to_owned(),
                status,
                log: log.to_owned(),
                tail: last_lines(log, LOG_LINES),
            }),
        }
    }

    /// Starts `command` with its output appended to `log`.
    fn spawn(mut command: Command, log: &Path) -> io::Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        let log_start = output.metadata()?.len();
        let child = command
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            // A group of its own: an interrupt at the terminal reaches the parent, which ends the children in order.
            .process_group(0)
            .spawn()?;
        Ok(NodeProcess {
            child,
            guard: None,
            log: log.to_owned(),
            log_start,
        })
    }

    /// Returns the id of the process.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns how it ended; `None` while it runs.
    pub(super) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        let ended = self.child.try_wait()?;
        if ended.is_some() {
            self.dismiss_guard();
        }
        Ok(ended)
    }

    /// Returns the first whole line of this run that is as wanted.
    fn line_that(&self, wanted: fn(&str) -> bool) -> io::Result<Option<String>> {
        let mut file = File::open(&self.log)?;
        file.seek(SeekFrom::Start(self.log_start))?;
        let mut text = Vec::new();
        file.take(LOOK_BYTES_MAX).read_to_end(&mut text)?;
        let text = String::from_utf8_lossy(&text);
        let complete = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
        Ok(complete.lines().find(|line| wanted(line)).map(str::to_owned))
    }

    /// Asks it to end.
    pub(super) fn terminate(&self) -> io::Result<()> {
        self.signal(rustix::process::Signal::TERM)
    }

    /// Ends it at once and reaps it.
    pub(super) fn kill(&mut self) -> io::Result<ExitStatus> {
        self.dismiss_guard();
        self.child.kill()?;
        self.child.wait()
    }

    /// Ends the guard. Before the child is reaped: its id may be another process's afterwards.
    fn dismiss_guard(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            // Both fail only when it has ended already, which is what is wanted.
            let _ = guard.kill();
            let _ = guard.wait();
        }
    }

    fn signal(&self, signal: rustix::process::Signal) -> io::Result<()> {
        let id = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        let id = id.ok_or_else(|| io::Error::other("the process has no id"))?;
        Ok(rustix::process::kill_process(id, signal)?)
    }
}

/// Starts a shell that kills the process `id` when this process is gone.
fn guard_of(id: u32) -> io::Result<Child> {
    Command::new("sh")
        .args(["-c", "read -r _; kill -KILL \"$1\"", "guard", &id.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        self.dismiss_guard();
        // Both fail only when it has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the last `lines` lines of the file at `path`; what went wrong when it cannot be read.
pub(super) fn last_lines(path: &Path, lines: usize) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let start = file.metadata()?.len().saturating_sub(LOOK_BYTES_MAX);
        file.seek(SeekFrom::Start(start))?;
        let mut text = Vec::new();
        file.take(LOOK_BYTES_MAX).read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    };
    match read() {
        Ok(text) => {
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
        Err(error) => format!("(unreadable: {error})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn only_a_whole_line_of_this_run_says_ready() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        std::fs::write(&log, "ready worker old 127.0.0.1:1\n").unwrap();
        let mut process = NodeProcess::spawn(shell("printf 'ready worker ne'"), &log).unwrap();
        process.child.wait().unwrap();
        assert_eq!(
            process.line_that(|line| line.starts_with("ready ")).unwrap(),
            None
        );
    }

    #[test]
    fn a_guard_kills_the_process_when_its_own_input_ends_and_a_dismissed_one_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let start = || {
            let mut process = NodeProcess::spawn(shell("exec sleep 60"), &folder.path().join("log")).unwrap();
            process.guard = Some(guard_of(process.id()).unwrap());
            process
        };
        let mut process = start();
        // As when the parent is gone.
        drop(process.guard.as_mut().unwrap().stdin.take());
        let ended = process.child.wait().unwrap();
        assert!(!ended.success(), "{ended}");

        let mut process = start();
        process.dismiss_guard();
        assert_eq!(process.ended().unwrap(), None);
    }

    #[test]
    fn a_dropped_process_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let process = NodeProcess::spawn(shell("cat"), &folder.path().join("log")).unwrap();
        let id = rustix::process::Pid::from_raw(i32::try_from(process.id()).unwrap()).unwrap();
        drop(process);
        assert!(rustix::process::test_kill_process(id).is_err());
    }
}
