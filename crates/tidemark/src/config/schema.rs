//! The JSON schema of a configuration, and the check of a file against it.
//!
//! `serde` stops at the first unknown key or wrong type; walking the schema finds all of them.

use super::{Faults, RoleConfig};
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

/// Returns the JSON schema of a role's configuration file, without references.
pub fn schema_of<C: RoleConfig>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<C>().to_value()
}

/// Adds a fault for every unknown key and every value of a wrong type, and takes these out of `tree`.
pub(super) fn structural_faults<C: RoleConfig>(tree: &mut Value, faults: &mut Faults) {
    walk(&schema_of::<C>(), tree, "", faults);
}

/// Returns whether `value` can stay; faults below it were taken out already.
fn walk(schema: &Value, value: &mut Value, path: &str, faults: &mut Faults) -> bool {
    if let Some(choices) = schema
        .get("anyOf")
        .or_else(|| schema.get("oneOf"))
        .and_then(Value::as_array)
    {
        return any_of(choices, value, path, faults);
    }
    coerce(schema, value);
    match value {
        Value::Object(table) if accepts(schema, "object") => {
            walk_table(schema, table, path, faults);
            true
        }
        Value::Array(items) if accepts(schema, "array") => {
            let Some(item_schema) = schema.get("items") else {
                return true;
            };
            let mut at = 0;
            items.retain_mut(|item| {
                let keep = walk(item_schema, item, &format!("{path}[{at}]"), faults);
                at += 1;
                keep
            });
            true
        }
        scalar => match scalar_problem(schema, scalar) {
            None => true,
            Some(problem) => {
                faults.add(path, problem, format!("write {}", expected(schema)));
                false
            }
        },
    }
}

fn walk_table(schema: &Value, table: &mut Map<String, Value>, path: &str, faults: &mut Faults) {
    let empty = Map::new();
    let known = schema
        .get("properties")
        .and_then(Value::as_object)
        .unwrap_or(&empty);
    let mut dropped = Vec::new();
    for (key, value) in table.iter_mut() {
        let full = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        // A table whose keys are free says of which kind their values are.
        let free = schema
            .get("additionalProperties")
            .filter(|schema| schema.is_object());
        let keep = match known.get(key).or(free) {
            Some(schema) => walk(schema, value, &full, faults),
            None => {
                faults.add(&full, "is not a key of this role", nearest(key, known.keys()));
                false
            }
        };
        if !keep {
            dropped.push(key.clone());
        }
    }
    dropped.iter().for_each(|key| drop(table.remove(key)));
    let required = schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    for key in required
        .filter_map(Value::as_str)
        .filter(|key| !table.contains_key(*key))
    {
        let full = if path.is_empty() {
            key.to_owned()
        } else {
            format!("{path}.{key}")
        };
        faults.add(full, "is missing", "set it; examples/config shows every key");
    }
}

fn any_of(choices: &[Value], value: &mut Value, path: &str, faults: &mut Faults) -> bool {
    for choice in choices {
        let mut trial = value.clone();
        let mut trial_faults = Faults::default();
        if walk(choice, &mut trial, path, &mut trial_faults) && trial_faults.into_vec().is_empty() {
            *value = trial;
            return true;
        }
    }
    let wanted: Vec<_> = choices.iter().map(expected).collect();
    faults.add(
        path,
        format!("{value} is not allowed"),
        format!("write {}", wanted.join(" or ")),
    );
    false
}

/// A number or a truth value in the environment may be meant as text: `TIDEMARK__NODE_ID=1`.
fn coerce(schema: &Value, value: &mut Value) {
    let text = match value {
        Value::Number(_) | Value::Bool(_) if accepts(schema, "string") => value.to_string(),
        _ => return,
    };
    if !accepts(schema, "integer") && !accepts(schema, "number") && !accepts(schema, "boolean") {
        *value = Value::String(text);
    }
}

fn accepts(schema: &Value, kind: &str) -> bool {
    match schema.get("type") {
        Some(Value::String(only)) => only == kind,
        Some(Value::Array(several)) => several.iter().any(|one| one == kind),
        _ => false,
    }
}

fn scalar_problem(schema: &Value, value: &Value) -> Option<String> {
    if let Some(constant) = schema.get("const") {
        return (constant != value).then(|| format!("{value} is not allowed"));
    }
    if let Some(words) = schema.get("enum").and_then(Value::as_array) {
        return (!words.contains(value)).then(|| format!("{value} is not allowed"));
    }
    let fits = match value {
        Value::Null => accepts(schema, "null"),
        Value::Bool(_) => accepts(schema, "boolean"),
        Value::String(_) => accepts(schema, "string"),
        Value::Number(number) if number.is_f64() => accepts(schema, "number"),
        Value::Number(_) => accepts(schema, "integer") || accepts(schema, "number"),
        Value::Array(_) | Value::Object(_) => false,
    };
    if !fits {
        return Some(format!("{value} is of the wrong type"));
    }
    let number = value.as_f64()?;
    let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
    let low = bound("minimum").is_some_and(|minimum| number < minimum);
    let high = bound("maximum").is_some_and(|maximum| number > maximum);
    (low || high).then(|| format!("{value} is out of range"))
}

/// Says in words what a schema accepts.
fn expected(schema: &Value) -> String {
    if let Some(constant) = schema.get("const") {
        return constant.to_string();
    }
    if let Some(words) = schema.get("enum").and_then(Value::as_array) {
        return words
            .iter()
            .map(Value::to_string)
            .collect::<Vec<_>>()
            .join(" or ");
    }
    if accepts(schema, "integer") {
        return match (
            schema.get("minimum").and_then(Value::as_u64),
            schema.get("maximum"),
        ) {
            (Some(minimum), Some(maximum)) => format!("a whole number from {minimum} to {maximum}"),
            (Some(minimum), None) => format!("a whole number, at least {minimum}"),
            _ => "a whole number".to_owned(),
        };
    }
    let words = [
        ("string", "a text in quotes"),
        ("boolean", "true or false"),
        ("number", "a number"),
        ("array", "a list"),
        ("object", "a section"),
        ("null", "nothing"),
    ];
    let word = words.iter().find(|(kind, _)| accepts(schema, kind));
    word.map_or("another value", |(_, word)| word).to_owned()
}

fn nearest<'a>(key: &str, known: impl Iterator<Item = &'a String>) -> String {
    let best = known.map(|candidate| (distance(key, candidate), candidate)).min();
    match best {
        Some((steps, candidate)) if steps <= 1 + key.len() / 3 => {
            format!("did you mean `{candidate}`? Otherwise remove it")
        }
        _ => "remove it, or look it up in `tidemark config schema`".to_owned(),
    }
}

/// Number of single-character edits between two words.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, r) in right.iter().enumerate() {
            let change = diagonal + usize::from(l != *r);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[right.len()]
}
