//! A server process on a free port of loopback.

use super::http_client;
use anyhow::{Context, anyhow};
use http::Request;
use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;
use tidemark::cluster::wait_for;

/// How long a server may take until it answers, on a machine that is busy with other tests.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How many ports are tried: another process may take one between finding it free and using it.
const PORT_TRIES: usize = 3;
const OUTPUT: &str = "output.log";

/// Killed when dropped. Neither server starts further processes.
#[derive(Debug)]
pub(super) struct ServerProcess {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
}

impl ServerProcess {
    /// Starts what `command` makes of a port and a folder of its own, and waits until it answers.
    pub(super) async fn start(name: &str, command: impl Fn(u16, &Path) -> Command) -> anyhow::Result<Self> {
        let mut failure = anyhow!("{name} was not started");
        for _ in 0..PORT_TRIES {
            let mut process = Self::spawn(&command).with_context(|| format!("{name} cannot be started"))?;
            match process.until_ready(name).await {
                Ok(()) => return Ok(process),
                Err(error) => failure = error.context(process.said()),
            }
        }
        Err(failure)
    }

    fn spawn(command: &impl Fn(u16, &Path) -> Command) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let output = File::create(folder.path().join(OUTPUT))?;
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let child = command(address.port(), folder.path())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()?;
        Ok(ServerProcess {
            child,
            address,
            folder,
        })
    }

    async fn until_ready(&mut self, name: &str) -> anyhow::Result<()> {
        let request = Request::get("/").body(())?;
        let what = format!("{name} to answer");
        let running = wait_for(&what, READY_WITHIN, async || {
            if self
                .child
                .try_wait()
                .map_err(|error| error.to_string())?
                .is_some()
            {
                return Ok(false);
            }
            match http_client::send(self.address, &request).await {
                Ok(_) => Ok(true),
                Err(error) => Err(format!("{error:#}")),
            }
        });
        match running.await? {
            true => Ok(()),
            false => Err(anyhow!("{name} ended at once")),
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns what it has printed.
    pub(super) fn said(&self) -> String {
        let output = std::fs::read(self.folder.path().join(OUTPUT)).unwrap_or_default();
        String::from_utf8_lossy(&output).into_owned()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
