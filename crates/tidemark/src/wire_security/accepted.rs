//! The tokens a server accepts: a file of names, roles and hashes.
//!
//! ```toml
//! [[token]]
//! name = "worker-1"
//! role = "operate"
//! blake3 = "64 hexadecimal characters"
//! expires = "2027-06-30T00:00:00Z"     # left out: never
//! ```
//!
//! Messages about such a file name entries and keys and never repeat a value: somebody may have put the token itself
//! where its hash belongs.

use super::{AccessRole, TokenHash};
use snapshot_store::Timestamp;
use toml::{Table, Value};

/// The most tokens one server accepts; every request is compared with all of them.
const TOKENS_MAX: usize = 10_000;
const NAME_LENGTH_MAX: usize = 64;
const KEYS: [&str; 4] = ["name", "role", "blake3", "expires"];

/// One token a server accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedToken {
    /// Whose it is, for people: it appears in refusals and logs.
    pub name: String,
    /// What it entitles to.
    pub role: AccessRole,
    /// What it is known by.
    pub hash: TokenHash,
    /// The moment from which it is refused; `None` for never.
    pub expires: Option<Timestamp>,
}

/// All tokens a server accepts; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedTokens(Vec<AcceptedToken>);

/// What is wrong with a file of accepted tokens: all of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct AcceptedTokensError(pub Vec<String>);

impl AcceptedTokens {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// With every fault at once; none repeats a value of the file.
    pub fn parse(text: &str) -> Result<Self, AcceptedTokensError> {
        let table: Table = toml::from_str(text).map_err(|error| {
            let before = error.span().map_or(0, |span| span.start);
            let line = 1 + text.bytes().take(before).filter(|byte| *byte == b'\n').count();
            AcceptedTokensError(vec![format!("line {line} is not TOML")])
        })?;
        let mut faults: Vec<String> = table
            .keys()
            .filter(|key| *key != "token")
            .map(|key| format!("{key:?} is not a key of this file"))
            .collect();
        let entries = match table.get("token") {
            Some(Value::Array(entries)) if !entries.is_empty() && entries.len() <= TOKENS_MAX => {
                entries.as_slice()
            }
            _ => {
                faults.push(format!("it needs 1 to {TOKENS_MAX} [[token]] entries"));
                &[]
            }
        };
        let mut tokens: Vec<AcceptedToken> = Vec::new();
        for (number, entry) in (1..).zip(entries) {
            match parse_entry(entry) {
                Ok(token) => {
                    for earlier in &tokens {
                        if earlier.name == token.name {
                            faults.push(format!("entry {number}: an earlier one has the same name"));
                        }
                        if earlier.hash == token.hash {
                            faults.push(format!("entry {number}: an earlier one has the same hash"));
                        }
                    }
                    tokens.push(token);
                }
                Err(problems) => {
                    faults.extend(
                        problems
                            .into_iter()
                            .map(|problem| format!("entry {number}: {problem}")),
                    );
                }
            }
        }
        match faults.is_empty() {
            true => Ok(AcceptedTokens(tokens)),
            false => Err(AcceptedTokensError(faults)),
        }
    }

    /// Returns the token with this hash. Takes equally long whichever it is, and whether there is one.
    pub(super) fn find(&self, hash: TokenHash) -> Option<&AcceptedToken> {
        let mut found = None;
        for token in &self.0 {
            if token.hash == hash {
                found = Some(token);
            }
        }
        found
    }

    /// Returns the tokens.
    pub fn tokens(&self) -> &[AcceptedToken] {
        &self.0
    }
}

fn parse_entry(entry: &Value) -> Result<AcceptedToken, Vec<String>> {
    let Value::Table(entry) = entry else {
        return Err(vec!["is not a [[token]] section".to_owned()]);
    };
    let mut problems: Vec<String> = entry
        .keys()
        .filter(|key| !KEYS.contains(&key.as_str()))
        .map(|_| "it has an unknown key; name, role, blake3 and expires are known".to_owned())
        .collect();
    let text = |key: &str| entry.get(key).and_then(Value::as_str);
    let name = text("name").filter(|name| {
        (1..=NAME_LENGTH_MAX).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic())
    });
    if name.is_none() {
        problems.push(format!(
            "`name` must be 1 to {NAME_LENGTH_MAX} visible ASCII characters"
        ));
    }
    let role = match text("role") {
        Some("read") => Some(AccessRole::Read),
        Some("operate") => Some(AccessRole::Operate),
        Some("trim") => Some(AccessRole::Trim),
        _ => None,
    };
    if role.is_none() {
        problems.push("`role` must be \"read\", \"operate\" or \"trim\"".to_owned());
    }
    let hash = text("blake3").and_then(TokenHash::from_hex);
    if hash.is_none() {
        problems.push("`blake3` must be the token's hash in 64 hexadecimal characters".to_owned());
    }
    let expires = entry.get("expires").map(parse_moment);
    if expires == Some(None) {
        problems.push("`expires` must be a time such as \"2027-06-30T00:00:00Z\"".to_owned());
    }
    match (name, role, hash) {
        (Some(name), Some(role), Some(hash)) if problems.is_empty() => Ok(AcceptedToken {
            name: name.to_owned(),
            role,
            hash,
            expires: expires.flatten(),
        }),
        _ => Err(problems),
    }
}

/// Reads a time in quotes, or one as TOML writes it.
fn parse_moment(value: &Value) -> Option<Timestamp> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Datetime(time) => time.to_string(),
        _ => return None,
    };
    serde_json::from_value(serde_json::Value::String(text)).ok()
}
