//! What keeps the logs of a local cluster: the log server of the binary, or three NATS servers of the cluster's own.
//!
//! The NATS servers run with the files of `examples/nats` as they are; what differs comes from their environment. The passwords
//! of the two users are drawn for each cluster, and lie in files beside the configuration that only this user can read.

use super::{ClusterError, LocalCluster, Node, error::file_error, layout::Layout, wait_for};
use crate::{config::NatsSection, roles::LogEnds};
use partition_log::nats::{FindingLevel, NatsLog, NatsOptions};
use snapshot_store::Entropy;
use std::{
    fmt,
    fs::File,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// What keeps the logs of a local cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// The log server of the binary.
    #[default]
    Embedded,
    /// Three NATS servers, as `examples/nats` configures them: one of them may fail.
    Nats {
        /// The program `nats-server`.
        program: PathBuf,
    },
}

/// How many NATS servers a cluster has.
const SERVERS: u32 = 3;
/// How long servers that have just started may take until they have elected a leader.
const SERVE_WITHIN: Duration = Duration::from_secs(60);
/// How long one look at them may take: without a leader some requests are not answered.
const LOOK_TIMEOUT: Duration = Duration::from_millis(500);
/// What a server says once it takes connections; the servers may still look for each other then.
pub(super) const SERVER_IS_READY: &str = "Server is ready";

pub(super) const SERVER_CONF: &str = include_str!("../../../../examples/nats/server.conf");
const USERS_CONF: &str = include_str!("../../../../examples/nats/users.conf");

impl Engine {
    /// Returns what is started for the logs.
    pub fn nodes(&self) -> Vec<Node> {
        match self {
            Engine::Embedded => vec![Node::Log],
            Engine::Nats { .. } => (1..=SERVERS).map(Node::Nats).collect(),
        }
    }
}

/// A user of `examples/nats/users.conf`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum User {
    /// May do everything.
    Admin,
    /// May append and read.
    Worker,
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            User::Admin => "admin",
            User::Worker => "worker",
        })
    }
}

/// What the NATS servers of one cluster are started with. `Debug` shows no password.
pub(super) struct NatsServers {
    program: PathBuf,
    /// Of the admin and of the workers.
    passwords: [String; 2],
}

impl fmt::Debug for NatsServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsServers")
            .field("program", &self.program)
            .finish_non_exhaustive()
    }
}

impl NatsServers {
    /// Draws the passwords and writes what the servers and their users read beside the files of the nodes.
    pub(super) fn create(program: &Path, layout: &Layout, entropy: &Entropy) -> Result<Self, ClusterError> {
        let passwords = [(); 2].map(|()| hex::encode(entropy.bytes_16()));
        let users = layout.nats_users();
        std::fs::write(&users, USERS_CONF).map_err(file_error("write", &users))?;
        for (user, password) in [User::Admin, User::Worker].into_iter().zip(&passwords) {
            let path = layout.nats_login(user);
            write_secret(&path, &format!("{user}:{password}\n")).map_err(file_error("write", &path))?;
        }
        let program = program.to_owned();
        Ok(NatsServers { program, passwords })
    }

    /// Returns the command that serves as `node`.
    pub(super) fn command(&self, layout: &Layout, node: Node) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(layout.config(node));
        command.envs(environment(layout, node));
        for (name, password) in ["NATS_ADMIN", "NATS_WORKER"].iter().zip(&self.passwords) {
            command.env(name, quoted(password));
        }
        command
    }

    /// Returns the line that starts `node` again from a shell; it shows no password.
    pub(super) fn line(&self, layout: &Layout, node: Node) -> String {
        let mut words = vec!["env".to_owned()];
        words.extend(
            environment(layout, node)
                .into_iter()
                .map(|(name, value)| format!("{name}='{value}'")),
        );
        for (name, user) in [("NATS_ADMIN", User::Admin), ("NATS_WORKER", User::Worker)] {
            let login = layout.nats_login(user);
            words.push(format!(r#"{name}="\"$(cut -d: -f2 {})\"""#, login.display()));
        }
        let config = layout.config(node);
        format!(
            "{} {} --config {}",
            words.join(" "),
            self.program.display(),
            config.display()
        )
    }
}

/// What a server's environment says, beside the passwords.
fn environment(layout: &Layout, node: Node) -> [(&'static str, String); 5] {
    let routes: Vec<String> = (1..=SERVERS)
        .map(|number| quoted(&format!("nats://{}", layout.nats_route(Node::Nats(number)))))
        .collect();
    [
        ("NATS_NAME", node.to_string()),
        ("NATS_LISTEN", quoted(&layout.listen(node))),
        ("NATS_CLUSTER", quoted(&layout.nats_route(node))),
        ("NATS_ROUTES", format!("[{}]", routes.join(","))),
        ("NATS_DATA", quoted(&layout.data_dir(node).display().to_string())),
    ]
}

/// Writes a value as the servers' configuration takes it.
fn quoted(value: &str) -> String {
    format!("\"{value}\"")
}

fn write_secret(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())
}

/// Returns the section `log.nats` of a node.
pub(super) fn section(layout: &Layout, user: User) -> NatsSection {
    NatsSection {
        servers: urls(layout),
        login: layout.nats_login(user),
        ..NatsSection::default()
    }
}

fn urls(layout: &Layout) -> Vec<String> {
    (1..=SERVERS)
        .map(|number| layout.url(Node::Nats(number)))
        .collect()
}

/// Returns the arguments with which commands reach the logs as an admin.
pub(super) fn log_arguments(engine: &Engine, layout: &Layout) -> Vec<String> {
    match engine {
        Engine::Embedded => vec!["--log-admin".to_owned(), layout.log_admin_url()],
        Engine::Nats { .. } => vec![
            "--log-admin".to_owned(),
            urls(layout).join(","),
            "--nats-login".to_owned(),
            layout.nats_login(User::Admin).display().to_string(),
        ],
    }
}

impl LocalCluster {
    /// Waits until logs can be created: NATS servers that have just started elect a leader among themselves first.
    ///
    /// # Errors
    /// When they do not serve in time; the error says what they lack.
    pub(super) async fn until_logs_serve(&self) -> Result<(), ClusterError> {
        let (Engine::Nats { .. }, Ok(options)) = (
            &self.spec().settings.engine,
            section(self.layout(), User::Admin).options(),
        ) else {
            return Ok(());
        };
        let log = NatsLog::connect(NatsOptions {
            request_timeout: LOOK_TIMEOUT,
            ..options
        });
        let log = log.await.map_err(|error| ClusterError::Log {
            detail: error.to_string(),
        })?;
        wait_for("the NATS servers to serve", SERVE_WITHIN, async || {
            let findings = log.check(&[]).await.into_iter();
            let broken = findings.filter(|finding| finding.level == FindingLevel::Broken);
            let broken: Vec<String> = broken.map(|finding| finding.text).collect();
            match broken.is_empty() {
                true => Ok(()),
                false => Err(broken.join("; ")),
            }
        })
        .await
    }

    /// Opens the logs as an admin does. The connection is made in the background.
    ///
    /// # Errors
    /// When addresses or credentials cannot be used.
    pub(crate) async fn open_logs(&self) -> Result<LogEnds, ClusterError> {
        let (layout, endpoints) = (self.layout(), self.endpoints());
        let opened = match &self.spec().settings.engine {
            Engine::Embedded => {
                let url = endpoints.url(Node::Log);
                LogEnds::server(url, endpoints.log_admin_url(), endpoints.security())
            }
            Engine::Nats { .. } => match section(layout, User::Admin).options() {
                Ok(options) => LogEnds::nats(options).await,
                Err(error) => Err(error),
            },
        };
        opened.map_err(|error| ClusterError::Log {
            detail: format!("{error:#}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{ClusterStore, PortBlock};
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_line_that_starts_a_server_again_gives_it_the_same_and_shows_no_password() {
        let folder = tempfile::tempdir().unwrap();
        let ports = PortBlock::take().unwrap();
        let layout = Layout::new(folder.path().to_owned(), 1, &ClusterStore::Folder, &ports, false);
        std::fs::create_dir(folder.path().join("config")).unwrap();
        let servers = NatsServers {
            // Shows what a server would be given.
            program: "sh -c 'env | grep ^NATS_ | sort' shown".into(),
            ..NatsServers::create(Path::new(""), &layout, &Entropy::seeded(1)).unwrap()
        };
        let node = Node::Nats(2);
        let line = servers.line(&layout, node);
        let shown = Command::new("sh").args(["-c", &line]).output().unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        let command = servers.command(&layout, node);
        let mut given: Vec<String> = command
            .get_envs()
            .filter_map(|(name, value)| Some(format!("{}={}", name.to_str()?, value?.to_str()?)))
            .collect();
        given.sort();
        assert_eq!(shown.lines().collect::<Vec<_>>(), given);
        assert_eq!(given.len(), 7);

        for (user, password) in [User::Admin, User::Worker].into_iter().zip(&servers.passwords) {
            assert!(!line.contains(password) && !format!("{servers:?}").contains(password));
            let path = layout.nats_login(user);
            let text = std::fs::read_to_string(&path).unwrap();
            assert_eq!(text, format!("{user}:{password}\n"));
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }
}
