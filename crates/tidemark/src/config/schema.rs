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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What is left of the value of `key`, where it can stay, and what is said about it.
    fn walked(schema: &Value, mut value: Value) -> (Option<Value>, Vec<String>) {
        let mut faults = Faults::default();
        let kept = walk(schema, &mut value, "key", &mut faults);
        let said = faults.into_vec().iter().map(ToString::to_string).collect();
        (kept.then_some(value), said)
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_refused_with_what_to_write() {
        let list_or_all =
            json!({"anyOf": [{"const": "all"}, {"type": "array", "items": {"type": "integer"}}]});
        let one_to_nine = json!({"type": "integer", "minimum": 1, "maximum": 9});
        let cases = [
            (
                json!({"type": "string"}),
                json!(["a"]),
                "is of the wrong type; write a text in quotes",
            ),
            (
                json!({"type": "string"}),
                json!({"a": 1}),
                "is of the wrong type; write a text in quotes",
            ),
            (
                json!({"type": "boolean"}),
                json!("yes"),
                "is of the wrong type; write true or false",
            ),
            (
                json!({"type": "number"}),
                json!("x"),
                "is of the wrong type; write a number",
            ),
            (
                json!({"type": "array"}),
                json!(3),
                "is of the wrong type; write a list",
            ),
            (
                json!({"type": "object"}),
                json!(true),
                "is of the wrong type; write a section",
            ),
            (
                json!({"type": "null"}),
                json!(1),
                "is of the wrong type; write nothing",
            ),
            (json!({}), json!(1), "is of the wrong type; write another value"),
            (
                json!({"type": "integer"}),
                json!(1.5),
                "is of the wrong type; write a whole number",
            ),
            (
                json!({"type": "integer", "minimum": 1}),
                json!(0),
                "is out of range; write a whole number, at least 1",
            ),
            (
                one_to_nine.clone(),
                json!(0),
                "is out of range; write a whole number from 1 to 9",
            ),
            (
                one_to_nine,
                json!(10),
                "is out of range; write a whole number from 1 to 9",
            ),
            (
                json!({"const": "all"}),
                json!("some"),
                "is not allowed; write \"all\"",
            ),
            (
                json!({"enum": ["a", "b"]}),
                json!("c"),
                "is not allowed; write \"a\" or \"b\"",
            ),
            (
                list_or_all.clone(),
                json!("some"),
                "is not allowed; write \"all\" or a list",
            ),
            (
                list_or_all,
                json!(["x"]),
                "is not allowed; write \"all\" or a list",
            ),
        ];
        for (schema, value, said) in cases {
            let expected = (None, vec![format!("`key`: {value} {said}")]);
            assert_eq!(walked(&schema, value), expected, "{schema}");
        }
    }

    #[test]
    fn a_value_that_fits_stays_and_is_read_as_text_only_where_nothing_else_is_meant() {
        let bounded = json!({"type": "integer", "minimum": 1, "maximum": 9});
        let same = [
            (bounded.clone(), json!(1)),
            (bounded, json!(9)),
            (json!({"type": "number"}), json!(1)),
            (json!({"type": "number"}), json!(1.5)),
            (json!({"type": "array"}), json!(["a", 1])),
            (json!({"type": ["string", "null"]}), Value::Null),
            (json!({"const": "all"}), json!("all")),
            (json!({"enum": ["a", "b"]}), json!("b")),
            (json!({"oneOf": [{"const": "a"}, {"type": "integer"}]}), json!(7)),
            (json!({"type": ["string", "integer"]}), json!(7)),
            (json!({"type": ["string", "number"]}), json!(1.5)),
            (json!({"type": ["string", "boolean"]}), json!(true)),
        ];
        for (schema, value) in same {
            assert_eq!(walked(&schema, value.clone()), (Some(value), vec![]), "{schema}");
        }
        for (value, text) in [(json!(7), "7"), (json!(true), "true")] {
            let schema = json!({"type": ["string", "null"]});
            assert_eq!(walked(&schema, value), (Some(json!(text)), vec![]));
        }
    }

    #[test]
    fn what_is_faulty_in_a_list_or_a_section_is_named_by_its_place_and_taken_out() {
        let list = json!({"type": "array", "items": {"type": "integer"}});
        let said = ["key[1]", "key[3]"]
            .map(|key| format!("`{key}`: \"x\" is of the wrong type; write a whole number"));
        let (left, faults) = walked(&list, json!([1, "x", 2, "x"]));
        assert_eq!((left, faults), (Some(json!([1, 2])), said.to_vec()));

        let section = json!({
            "type": "object",
            "properties": {"count": {"type": "integer"}, "free": {
                "type": "object",
                "additionalProperties": {"type": "string"},
            }},
            "required": ["count", "name"],
        });
        let (left, faults) = walked(
            &section,
            json!({"coumt": 1, "count": "x", "free": {"a": 1, "b": []}}),
        );
        assert_eq!(left, Some(json!({"free": {"a": "1"}})));
        let said = [
            "`key.coumt`: is not a key of this role; did you mean `count`? Otherwise remove it",
            "`key.count`: \"x\" is of the wrong type; write a whole number",
            "`key.free.b`: [] is of the wrong type; write a text in quotes",
            "`key.name`: is missing; set it; examples/config shows every key",
        ];
        assert_eq!(faults, said);
    }

    #[test]
    fn the_nearest_key_is_proposed_if_it_is_near() {
        let proposed = |key: &str, known: &[&str]| {
            let known: Vec<String> = known.iter().map(ToString::to_string).collect();
            nearest(key, known.iter())
        };
        let near = "did you mean `abcxyz`? Otherwise remove it";
        let far = "remove it, or look it up in `tidemark config schema`";
        assert_eq!(proposed("abcdef", &["abcxyz"]), near);
        assert_eq!(proposed("abcdef", &["aaaaaa", "abcxyz", "zzzzzz"]), near);
        assert_eq!(proposed("abcdef", &["abwxyz"]), far);
        assert_eq!(proposed("abcdef", &[]), far);
    }

    #[test]
    fn a_distance_counts_insertions_removals_and_changes() {
        let cases = [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("abc", "abc", 0),
            ("abc", "xabc", 1),
            ("xabc", "abc", 1),
            ("abc", "axc", 1),
            ("ac", "ca", 2),
            ("flaw", "lawn", 2),
            ("kitten", "sitting", 3),
            ("intention", "execution", 5),
        ];
        for (left, right, steps) in cases {
            assert_eq!(distance(left, right), steps, "{left} to {right}");
            assert_eq!(distance(right, left), steps, "{right} to {left}");
        }
    }
}
