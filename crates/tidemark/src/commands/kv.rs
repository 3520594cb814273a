//! `kv`: the built-in state machine from the command line.

use crate::{
    kv::{KvClient, import::Pairs},
    output::{OutputFormat, bytes, hex, print_line, progress_bar, table},
};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::{path::PathBuf, process::ExitCode, sync::Arc};

/// How to reach workers.
#[derive(Clone, Debug, Args)]
pub struct WorkersArgs {
    /// Address of a worker; repeat it, so that one that is down does not matter.
    #[arg(
        long = "worker",
        env = "TIDEMARK_WORKERS",
        value_name = "URL",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:7310"
    )]
    workers: Vec<String>,
    #[command(flatten)]
    connection: super::ConnectionArgs,
}

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub enum KvCommand {
    /// Print the value of a key; says on the standard error who answered, and at which LSN.
    #[command(after_help = "Examples:\n  tidemark kv get greeting\n  tidemark kv get greeting --output json")]
    Get {
        /// The key.
        key: String,
        /// How to reach workers.
        #[command(flatten)]
        workers: WorkersArgs,
    },
    /// Store a value of up to 1 MiB; returns when the write was applied as accepted.
    #[command(after_help = "Example:\n  tidemark kv put greeting 'hello, world'")]
    Put {
        /// The key: 1 to 4096 bytes.
        key: String,
        /// The value.
        value: String,
        /// How to reach workers.
        #[command(flatten)]
        workers: WorkersArgs,
    },
    /// Remove a key; it need not exist.
    #[command(after_help = "Example:\n  tidemark kv delete greeting")]
    Delete {
        /// The key.
        key: String,
        /// How to reach workers.
        #[command(flatten)]
        workers: WorkersArgs,
    },
    /// Store all pairs of a file of JSON lines, plain or gzipped.
    #[command(after_help = "\
Each line is an object with `key` and `value`. Stored is the exact source text of the JSON value, except that a
JSON string is stored as its decoded text.

Examples:
  tidemark kv import packages.jsonl.gz
  generate | tidemark kv import -")]
    Import {
        /// The file; `-` for the standard input.
        file: PathBuf,
        /// How to reach workers.
        #[command(flatten)]
        workers: WorkersArgs,
    },
    /// Print number and digest of all pairs.
    #[command(after_help = "\
The digest is BLAKE3 over all pairs in key order, each as 4-byte big-endian length and bytes of the key, then of
the value. It describes one state only while nobody writes.

Example:
  tidemark kv digest --output json")]
    Digest {
        /// How to reach workers.
        #[command(flatten)]
        workers: WorkersArgs,
    },
}

impl KvCommand {
    /// Runs it.
    ///
    /// # Errors
    /// When the cluster refuses or does not answer in time.
    pub async fn run(self, output: OutputFormat) -> anyhow::Result<ExitCode> {
        match self {
            KvCommand::Get { key, workers } => get(workers.connect().await?, key, output).await,
            KvCommand::Put { key, value, workers } => {
                let client = workers.connect().await?;
                let partition = client.partition_of(key.as_bytes());
                let lsn = client.put(key.into_bytes(), value.into_bytes()).await?;
                written(partition.get(), lsn.get(), output)
            }
            KvCommand::Delete { key, workers } => {
                let client = workers.connect().await?;
                let partition = client.partition_of(key.as_bytes());
                let lsn = client.delete(key.into_bytes()).await?;
                written(partition.get(), lsn.get(), output)
            }
            KvCommand::Import { file, workers } => {
                let pairs = Pairs::open(&file)?;
                import(workers.connect().await?, pairs, output).await
            }
            KvCommand::Digest { workers } => digest(workers.connect().await?, output).await,
        }
    }
}

impl WorkersArgs {
    async fn connect(self) -> anyhow::Result<KvClient> {
        Ok(KvClient::connect_with(self.workers, self.connection.security()?).await?)
    }
}

fn written(partition: u32, lsn: u64, output: OutputFormat) -> anyhow::Result<ExitCode> {
    let answer = json!({ "ok": true, "partition": partition, "lsn": lsn });
    output.print(&answer, || {
        format!("acknowledged at LSN {lsn} of partition {partition}")
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn get(client: KvClient, key: String, output: OutputFormat) -> anyhow::Result<ExitCode> {
    let reply = client.get(key.clone().into_bytes()).await?;
    let role = if reply.leader { "leader" } else { "follower" };
    match output {
        OutputFormat::Json => {
            let (text, raw) = match reply.value.as_deref().map(std::str::from_utf8) {
                Some(Ok(text)) => (Some(text), None),
                Some(Err(_)) => (None, reply.value.as_deref().map(hex)),
                None => (None, None),
            };
            let mut answer = json!({
                "key": key,
                "found": reply.value.is_some(),
                "value": text,
                "role": role,
                "node": reply.node,
                "partition": reply.partition,
                "lsn": reply.lsn,
            });
            if let Some(raw) = raw {
                answer["value_hex"] = Value::String(raw);
            }
            print_line(&answer.to_string())?;
        }
        OutputFormat::Text => {
            match &reply.value {
                Some(value) => print_line(&String::from_utf8_lossy(value))?,
                None => eprintln!("{key:?} has no value"),
            }
            eprintln!(
                "({role} {} of partition {} at LSN {})",
                reply.node, reply.partition, reply.lsn
            );
        }
    }
    Ok(super::exit(reply.value.is_some()))
}

async fn import(client: KvClient, pairs: Pairs, output: OutputFormat) -> anyhow::Result<ExitCode> {
    let bar = progress_bar(output, "importing", None);
    let progress = {
        let bar = bar.clone();
        Arc::new(move |records: u64, _bytes: u64| bar.inc(records))
    };
    let started = tokio::time::Instant::now();
    let result = client.import(pairs, progress).await;
    let stored = bar.position();
    bar.finish_and_clear();
    let report = match result {
        Ok(report) => report,
        Err(error) => {
            let context = format!("stopped after {stored} records; importing the file again is harmless");
            return Err(anyhow::Error::new(error).context(context));
        }
    };
    let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let answer =
        json!({ "ok": true, "records": report.records, "bytes": report.bytes, "duration_ms": millis });
    output.print(&answer, || {
        let time = crate::output::duration_ms(millis);
        format!(
            "{} records, {} in {time}, all acknowledged",
            report.records,
            bytes(report.bytes)
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn digest(client: KvClient, output: OutputFormat) -> anyhow::Result<ExitCode> {
    let digest = client.digest().await?;
    output.print(&digest, || {
        let rows = digest.partitions.iter().map(|scan| {
            [
                scan.partition.to_string(),
                scan.pairs.to_string(),
                scan.lsn.to_string(),
                scan.address.clone(),
            ]
        });
        let table = table(["partition", "pairs", "LSN", "read at"], rows);
        format!("{table}\n{} pairs, digest {}", digest.pairs, digest.digest)
    })?;
    Ok(ExitCode::SUCCESS)
}
