//! `token create`: a new token for a client, and the entry for the servers that accept it.

use crate::{
    output::OutputFormat,
    wire_security::{AccessRole, Token},
};
use anyhow::Context as _;
use clap::{Args, Subcommand};
use snapshot_store::{Entropy, Timestamp};
use std::{
    fs::OpenOptions,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// What to do about tokens.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Write a new token to a file, and print the entry by which servers accept it.
    #[command(after_help = "\
The file is for the client: `auth.token_file` of a node, --token-file of a command. Only its owner can read it. The
printed entry is for the file that the servers' `auth.accepted_tokens` names; it holds a hash and is no secret.
Roles: read looks; operate also writes, orders snapshots and pauses (workers); trim also trims and creates logs (admins).

Examples:
  tidemark token create worker-1.token --name worker-1 --role operate >> accepted-tokens.toml
  tidemark token create guest.token --name guest --role read --expires 2027-06-30T00:00:00Z")]
    Create(CreateArgs),
}

/// Arguments of `token create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// The file; must not exist.
    file: PathBuf,
    /// Whose token it is, for people: it appears in refusals.
    #[arg(long, value_parser = parse_name)]
    name: String,
    /// What it entitles to.
    #[arg(long, value_enum)]
    role: AccessRole,
    /// The moment from which it is refused; left out, it does not expire.
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    expires: Option<Timestamp>,
}

fn parse_name(text: &str) -> Result<String, &'static str> {
    let fits = (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'));
    match fits {
        true => Ok(text.to_owned()),
        false => Err("write 1 to 64 visible ASCII characters, without quotes and backslashes"),
    }
}

fn parse_moment(text: &str) -> Result<Timestamp, &'static str> {
    serde_json::from_value(serde_json::Value::String(text.to_owned()))
        .map_err(|_| "write it as 2027-06-30T00:00:00Z")
}

impl TokenCommand {
    /// Runs it.
    ///
    /// # Errors
    /// When the file exists or cannot be written.
    pub fn run(self, output: OutputFormat) -> anyhow::Result<ExitCode> {
        let TokenCommand::Create(args) = self;
        let token = Token::draw(&Entropy::from_os());
        write_secret(&args.file, &token)?;
        let expires = args.expires.map(|at| at.to_string());
        let answer = serde_json::json!({
            "ok": true,
            "file": args.file.display().to_string(),
            "name": args.name,
            "role": args.role,
            "blake3": token.hash().to_string(),
            "expires": expires,
        });
        output.print(&answer, || {
            let mut entry = format!(
                "[[token]]\nname = \"{}\"\nrole = \"{}\"\nblake3 = \"{}\"\n",
                args.name,
                args.role,
                token.hash()
            );
            if let Some(at) = &expires {
                entry += &format!("expires = \"{at}\"\n");
            }
            entry
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Creates a file that only its owner can read.
fn write_secret(path: &Path, token: &Token) -> anyhow::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options
        .open(path)
        .with_context(|| format!("cannot create {}: name a new file", path.display()))?;
    writeln!(file, "{}", token.expose())
        .and_then(|()| file.sync_all())
        .with_context(|| format!("cannot write {}", path.display()))
}
