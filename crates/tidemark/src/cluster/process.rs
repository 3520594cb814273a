//! One child process: its output goes to a file, its standard input stays open as long as the parent lives.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

/// How much of a log is looked at for the line that says the node serves, and for the last lines of a report.
const LOOK_BYTES_MAX: u64 = 1 << 20;

/// A running child; it is killed when this is dropped.
#[derive(Debug)]
pub(super) struct NodeProcess {
    child: Child,
    log: PathBuf,
    /// Where in the log this run begins.
    log_start: u64,
}

impl NodeProcess {
    /// Starts `command` with its output appended to `log`.
    pub(super) fn spawn(mut command: Command, log: &Path) -> io::Result<Self> {
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
        self.child.try_wait()
    }

    /// Returns the first whole line of this run that begins with `start`, such as the one with which a node says that it
    /// serves.
    pub(super) fn line_with(&self, start: &str) -> io::Result<Option<String>> {
        let mut file = File::open(&self.log)?;
        file.seek(SeekFrom::Start(self.log_start))?;
        let mut text = Vec::new();
        file.take(LOOK_BYTES_MAX).read_to_end(&mut text)?;
        let text = String::from_utf8_lossy(&text);
        let complete = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
        Ok(complete
            .lines()
            .find(|line| line.starts_with(start))
            .map(str::to_owned))
    }

    /// Asks it to end.
    pub(super) fn terminate(&self) -> io::Result<()> {
        self.signal(rustix::process::Signal::TERM)
    }

    /// Ends it at once and reaps it.
    pub(super) fn kill(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }

    fn signal(&self, signal: rustix::process::Signal) -> io::Result<()> {
        let id = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        let id = id.ok_or_else(|| io::Error::other("the process has no id"))?;
        Ok(rustix::process::kill_process(id, signal)?)
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
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
        assert_eq!(process.line_with("ready ").unwrap(), None);
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
