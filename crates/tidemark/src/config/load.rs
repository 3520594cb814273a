//! Reads a configuration: file, then environment, then everything that is wrong with them.

use super::{ConfigError, Fault, Faults, RoleConfig, schema::structural_faults};
use figment::{Figment, providers::Serialized, value::Value as EnvValue};
use serde_json::{Map, Value};
use std::path::Path;

/// Prefix of the environment variables that override keys: `TIDEMARK__LIMITS__EXPORTS_MAX=1`.
pub const ENV_PREFIX: &str = "TIDEMARK__";

/// Reads the file at `path` and lays this process's environment over it.
///
/// # Errors
/// With every fault at once.
pub fn load<C: RoleConfig>(path: &Path) -> Result<C, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let environment = std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
    parse(&path.display().to_string(), &text, environment)
}

/// Reads `text`, which came from `origin`, and lays `environment` over it; variables without [`ENV_PREFIX`] are
/// passed over.
///
/// # Errors
/// With every fault at once.
pub fn parse<C: RoleConfig>(
    origin: &str,
    text: &str,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<C, ConfigError> {
    let not_toml = |detail: String| ConfigError::NotToml {
        origin: origin.to_owned(),
        detail,
    };
    let file: toml::Table = toml::from_str(text).map_err(|error| not_toml(error.to_string()))?;
    let mut merged = Figment::from(Serialized::defaults(file));
    let overrides = overrides(environment);
    let origin = match overrides.is_empty() {
        true => origin.to_owned(),
        false => format!("{origin} with the {ENV_PREFIX} variables of the environment"),
    };
    for (key, value) in overrides {
        merged = merged.merge(Serialized::default(&key, value));
    }
    let mut tree: Value = merged.extract().map_err(|error| ConfigError::NotToml {
        origin: origin.clone(),
        detail: error.to_string(),
    })?;

    let mut faults = Faults::default();
    let on_nats = tree.pointer("/log/engine").and_then(Value::as_str) == Some("nats");
    let required = match on_nats {
        true => C::REQUIRED_WITH_NATS,
        false => C::REQUIRED,
    };
    for required in required {
        if tree
            .pointer(&format!("/{}", required.replace('.', "/")))
            .is_none()
        {
            faults.add(*required, "is missing", "set it; examples/config shows every key");
        }
    }
    structural_faults::<C>(&mut tree, &mut faults);
    // What was faulty is gone from the tree; the defaults take its place, so that the rest can be judged too.
    let mut whole = serde_json::to_value(C::default()).expect("a configuration has string keys");
    overlay(&mut whole, tree);
    match serde_json::from_value::<C>(whole) {
        Ok(config) => {
            config.check(&mut faults);
            let faults = faults.into_vec();
            if faults.is_empty() {
                return Ok(config);
            }
            Err(ConfigError::Faulty {
                origin: origin.to_owned(),
                faults,
            })
        }
        Err(error) => {
            // A key that is missing inside a list cannot be filled in; it was faulted above.
            let mut faults = faults.into_vec();
            if faults.is_empty() {
                let remedy = "compare it with the file of this role in examples/config".to_owned();
                faults.push(Fault {
                    key: "(file)".to_owned(),
                    problem: error.to_string(),
                    remedy,
                });
            }
            Err(ConfigError::Faulty {
                origin: origin.to_owned(),
                faults,
            })
        }
    }
}

/// Turns `TIDEMARK__SECTION__KEY=text` into `section.key` and a value, in order of their names.
fn overrides(environment: impl IntoIterator<Item = (String, String)>) -> Vec<(String, EnvValue)> {
    let mut found: Vec<_> = environment
        .into_iter()
        .filter_map(|(name, text)| {
            let key = name.strip_prefix(ENV_PREFIX)?.to_lowercase().replace("__", ".");
            let value = text
                .parse()
                .unwrap_or_else(|never: std::convert::Infallible| match never {});
            (!key.is_empty()).then_some((key, value))
        })
        .collect();
    found.sort_by(|(left, _), (right, _)| left.cmp(right));
    found
}

/// Lays `over` over `base`, table by table.
fn overlay(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => overlay_table(base, over),
        (base, over) => *base = over,
    }
}

fn overlay_table(base: &mut Map<String, Value>, over: Map<String, Value>) {
    for (key, value) in over {
        match base.get_mut(&key) {
            Some(present) => overlay(present, value),
            None => {
                base.insert(key, value);
            }
        }
    }
}
