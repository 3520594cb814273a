//! The command line: what there is to call, and who does it.

use crate::{commands, output::OutputFormat, roles, telemetry::LogFormat};
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use std::process::ExitCode;

/// Snapshots partitioned, log-backed state and trims its log, safely and by itself.
#[derive(Debug, Parser)]
#[command(name = "tidemark", version, propagate_version = true, after_help = EXAMPLES, max_term_width = 110)]
pub struct Cli {
    /// How to answer: tables for people, or one JSON object for programs.
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: OutputFormat,
    /// How to write log lines to the standard error; TIDEMARK_LOG filters them.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        env = "TIDEMARK_LOG_FORMAT"
    )]
    pub log_format: LogFormat,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Try it:
  tidemark demo                       a real cluster on this machine does the whole job and shows the result
  tidemark dev                        one process with log, admin and workers, to play with

Operate a cluster:
  tidemark status                     nodes, partitions, what is held and why
  tidemark explain 3                  why partition 3 is or is not snapshotted and trimmed
  tidemark snapshots list             what can be restored
  tidemark trim plan                  how far each log could be trimmed now

Run a cluster (one process per node, configuration as in examples/config):
  tidemark cluster init --name prod --partitions 8 --store file:///mnt/bucket --log-admin http://127.0.0.1:7301
  tidemark log serve --config log.toml
  tidemark worker --config worker.toml
  tidemark admin --config admin.toml

Commands find the admin through --admin or TIDEMARK_ADMIN, workers through --worker or TIDEMARK_WORKERS.
Where nodes speak TLS or ask for tokens: --tls-ca, --tls-cert, --tls-key, --token-file or TIDEMARK_TLS_CA and so on.
They exit with 0 when all went well, 1 when any part failed, 2 when they were called wrongly.";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a cluster.
    #[command(subcommand)]
    Cluster(commands::cluster_init::ClusterCommand),
    /// Run log, admin and workers in one process, to play with.
    Dev(roles::dev::DevArgs),
    /// Run a cluster of separate processes through snapshots, trims, crashes and restores, and judge the result.
    Demo(crate::demo::DemoArgs),
    /// Run an admin node.
    Admin(roles::RoleArgs),
    /// Run a worker node.
    Worker(roles::RoleArgs),
    /// Run the log server; look at logs, check, create and move them; begin lost ones anew.
    #[command(subcommand)]
    Log(commands::log::LogCommand),
    /// Show nodes and partitions as the admin sees them.
    Status(commands::status::StatusArgs),
    /// Look at partitions and their replicas, and help those that cannot help themselves.
    #[command(subcommand)]
    Partitions(commands::partitions::PartitionsCommand),
    /// List, inspect, make and verify snapshots.
    #[command(subcommand)]
    Snapshots(commands::snapshots::SnapshotsCommand),
    /// Look at an object store.
    #[command(subcommand)]
    Store(commands::store::StoreCommand),
    /// See how far logs could be trimmed, or trim them.
    #[command(subcommand)]
    Trim(commands::trim::TrimCommand),
    /// Say why a partition is or is not snapshotted and trimmed.
    Explain(commands::status::ExplainArgs),
    /// Show the admin's policy, or let it read its file again.
    #[command(subcommand)]
    Policy(commands::policy::PolicyCommand),
    /// Stop snapshots and trims, of one partition or of all.
    Pause(commands::pause::PauseArgs),
    /// Take a pause back.
    Resume(commands::pause::ResumeArgs),
    /// Read and write the built-in key-value state machine.
    #[command(subcommand)]
    Kv(commands::kv::KvCommand),
    /// Create the tokens by which nodes and commands are known.
    #[command(subcommand)]
    Token(commands::token::TokenCommand),
    /// Check a configuration file, or print its schema.
    #[command(subcommand)]
    Config(commands::config::ConfigCommand),
    /// Print completions for a shell.
    Completions(CompletionsArgs),
    /// Write the references that are generated from the code: reasons.md and metrics.md.
    #[command(hide = true, after_help = "Example:\n  tidemark docs docs")]
    Docs(crate::reference::DocsArgs),
}

/// Arguments of `completions`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  tidemark completions bash > ~/.local/share/bash-completion/completions/tidemark"
)]
pub struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

impl Cli {
    /// Does what was asked for. The exit code is not 0 when any part failed.
    ///
    /// # Errors
    /// When nothing could be done; the message says what to do about it.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let output = self.output;
        match self.command {
            Command::Cluster(command) => command.run(output).await,
            Command::Dev(args) => roles::dev::run(args, output).await,
            Command::Demo(args) => crate::demo::run(args, output).await,
            Command::Admin(args) => roles::admin::run(args).await,
            Command::Worker(args) => roles::worker::run(args).await,
            Command::Log(command) => command.run(output).await,
            Command::Status(args) => commands::status::run(args, output).await,
            Command::Partitions(command) => command.run(output).await,
            Command::Snapshots(command) => command.run(output).await,
            Command::Store(command) => command.run(output).await,
            Command::Trim(command) => command.run(output).await,
            Command::Explain(args) => commands::status::explain(args, output).await,
            Command::Policy(command) => command.run(output).await,
            Command::Pause(args) => commands::pause::pause(args, output).await,
            Command::Resume(args) => commands::pause::resume(args, output).await,
            Command::Kv(command) => command.run(output).await,
            Command::Token(command) => command.run(output),
            Command::Config(command) => command.run(output),
            Command::Docs(args) => crate::reference::run(&args),
            Command::Completions(args) => {
                clap_complete::generate(
                    args.shell,
                    &mut Cli::command(),
                    "tidemark",
                    &mut std::io::stdout(),
                );
                Ok(ExitCode::SUCCESS)
            }
        }
    }

    /// Returns the log filter that holds where the environment names none: roles tell what they do, commands
    /// only what went wrong.
    pub fn default_filter(&self) -> &'static str {
        match self.command {
            Command::Admin(_)
            | Command::Worker(_)
            | Command::Dev(_)
            | Command::Log(commands::log::LogCommand::Serve(_)) => "info",
            _ => "warn",
        }
    }
}

/// Threads that wait for the disk. Tokio starts another one whenever the last has not yet come back for more, so that a restore
/// of many short writes ends with as many as are allowed, each with its own memory.
pub const BLOCKING_THREADS_MAX: usize = 128;

/// Parses the command line, runs it, and turns errors into one clear message: on the standard error, and with
/// `--output json` also as an object on the standard output.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = cli.output;
    crate::telemetry::init(cli.log_format, cli.default_filter());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start threads: {error}; raise the process limit (`ulimit -u`)");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(cli.run());
    // Work on blocking threads that nobody waits for any more (a read of the standard input) must not hold the exit.
    runtime.shutdown_timeout(roles::RUNTIME_STOP_MAX);
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            if output == OutputFormat::Json {
                let object = serde_json::json!({ "ok": false, "error": format!("{error:#}") });
                // The message already stands on the standard error.
                drop(crate::output::print_line(&object.to_string()));
            }
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls `check` with every command and subcommand.
    fn each(command: &clap::Command, path: &str, check: &mut impl FnMut(&clap::Command, &str)) {
        check(command, path);
        for subcommand in command.get_subcommands() {
            each(subcommand, &format!("{path} {}", subcommand.get_name()), check);
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_argument_says_what_it_is_for() {
        each(&Cli::command(), "tidemark", &mut |command, path| {
            assert!(command.get_about().is_some(), "`{path}` has no description");
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                assert!(
                    argument.get_help().is_some(),
                    "`{path}`: {} has no help",
                    argument.get_id()
                );
            }
        });
    }

    #[test]
    fn every_command_that_is_run_shows_an_example() {
        each(&Cli::command(), "tidemark", &mut |command, path| {
            if command.get_subcommands().next().is_none() {
                assert!(command.get_after_help().is_some(), "`{path}` shows no example");
            }
        });
    }

    #[test]
    fn completions_know_the_commands() {
        let mut script = Vec::new();
        clap_complete::generate(
            clap_complete::Shell::Bash,
            &mut Cli::command(),
            "tidemark",
            &mut script,
        );
        let script = String::from_utf8(script).expect("completions are text");
        for command in ["snapshots", "digest", "explain"] {
            assert!(script.contains(command), "{command} is missing");
        }
    }

    #[test]
    fn common_calls_parse() {
        let calls = [
            "tidemark status --output json",
            "tidemark --output json partitions list --admin http://127.0.0.1:7400",
            "tidemark partitions skip 3 --lsn 1042 --reason ticket-4711 --yes",
            "tidemark partitions skip 3 --lsn 1042 --reason x --worker http://127.0.0.1:7310 --worker http://127.0.0.1:7320",
            "tidemark partitions rebuild 3 --node worker-2 --yes --output json",
            "tidemark snapshots list --store file:///tmp/b",
            "tidemark snapshots show 3",
            "tidemark snapshots create 0 1",
            "tidemark snapshots verify --level content",
            "tidemark store check s3://bucket/prefix --store-option region=eu-central-1 --prune",
            "tidemark snapshots verify --level restore --store file:///tmp/b --scratch /tmp --bytes-per-second 1000000",
            "tidemark snapshots sweep --store file:///tmp/b --partition 3 --generation 1 --delete",
            "tidemark snapshots copy file:///tmp/a s3://b/c --move --dst-option region=r --partitions 0,3-5",
            "tidemark snapshots copy s3://a/b file:///tmp/c --fork --name clone --at 7 --store-option region=r",
            "tidemark snapshots restore 3 --store file:///tmp/b --to /tmp/p3 --at 100",
            "tidemark trim plan",
            "tidemark trim run 0 1 --force",
            "tidemark explain 3",
            "tidemark pause --partition 2 --reason maintenance",
            "tidemark resume",
            "tidemark policy show --output json",
            "tidemark policy reload --admin http://127.0.0.1:7400",
            "tidemark kv put a 1 --worker http://127.0.0.1:7310 --worker http://127.0.0.1:7320",
            "tidemark kv import FILE.jsonl.gz",
            "tidemark token create w.token --name worker-1 --role operate --expires 2027-06-30T00:00:00Z",
            "tidemark status --admin https://admin:7400 --tls-ca ca.pem --tls-cert me.pem --tls-key me.key --token-file me.token",
            "tidemark kv put a 1 --worker https://w:1 --tls-ca ca.pem --tls-server-name worker --token-file me.token",
            "tidemark log info --log https://log:7300 --tls-ca ca.pem --token-file me.token",
            "tidemark config check --role worker worker.toml",
            "tidemark config schema --role admin",
            "tidemark docs docs",
            "tidemark worker --config worker.toml --exit-on-stdin-close",
            "tidemark log serve --config log.toml",
            "tidemark log info",
            "tidemark log info --log nats://n1:4222,n2:4222 --nats-login w.login --output json",
            "tidemark log check --log http://127.0.0.1:7301 --as admin",
            "tidemark log provision --store file:///tmp/b --log-admin http://127.0.0.1:7301 --without-workers",
            "tidemark log copy --from http://127.0.0.1:7301 --to nats://n1:4222 --nats-prefix shop --nats-replicas 1",
            "tidemark log copy --from http://127.0.0.1:7301 --unseal",
            "tidemark log recover --store file:///tmp/b --log-admin http://127.0.0.1:7301 --dry-run",
            "tidemark log recover --store s3://b/c --store-option region=r --log-admin http://127.0.0.1:7301 --yes --begin-empty 3,7 --partitions 0-7 --worker http://w:1",
            "tidemark cluster init --name a --partitions 8 --store file:///tmp/b --log-admin http://127.0.0.1:7301",
            "tidemark cluster init --from-fork --store file:///tmp/b --log-admin http://127.0.0.1:7301",
            "tidemark cluster init --from-fork --name a --store file:///tmp/b --log-admin http://127.0.0.1:7301",
        ];
        for wrong in [
            "tidemark snapshots copy file:///tmp/a file:///tmp/b",
            "tidemark snapshots copy file:///tmp/a file:///tmp/b --move --fork",
            "tidemark snapshots copy file:///tmp/a file:///tmp/b --move --at 7",
            "tidemark snapshots copy file:///tmp/a file:///tmp/b --move --name clone",
            "tidemark log recover --store file:///tmp/b",
            "tidemark log copy --from http://127.0.0.1:7301",
            "tidemark log copy --to http://127.0.0.1:7301",
            "tidemark log check --as nobody",
            "tidemark log recover --store file:///tmp/b --log-admin http://l:1 --dry-run --yes",
            "tidemark log recover --store file:///tmp/b --log-admin http://l:1 --worker http://w:1 --without-workers",
        ] {
            assert!(Cli::try_parse_from(wrong.split(' ')).is_err(), "{wrong}");
        }
        for call in calls {
            let parsed = Cli::try_parse_from(call.split(' '));
            assert!(parsed.is_ok(), "{call}: {:?}", parsed.err());
        }
    }

    #[test]
    fn a_new_cluster_needs_a_shape_and_a_clone_has_one() {
        let calls = [
            "tidemark cluster init --store file:///tmp/b --log-admin http://127.0.0.1:7301",
            "tidemark cluster init --name a --store file:///tmp/b --log-admin http://127.0.0.1:7301",
            "tidemark cluster init --from-fork --partitions 8 --store file:///tmp/b --log-admin http://127.0.0.1:7301",
        ];
        for call in calls {
            assert!(Cli::try_parse_from(call.split(' ')).is_err(), "{call}");
        }
    }
}
