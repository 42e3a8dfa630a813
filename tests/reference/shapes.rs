//! The reference as data: what each documented endpoint is asked and answers, and the names of all 177.

use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::{Map, Value};

/// An endpoint that the reference writes out.
#[derive(Debug, Deserialize)]
pub struct Shape {
    pub section: String,
    pub method: String,
    pub path: String,
    /// `none`, `user`, `admin` or `federation-signature`.
    pub auth: String,
    #[serde(default)]
    pub request_example: Option<Value>,
    #[serde(default)]
    pub response_example: Option<Value>,
    /// Empty where the reference lists none.
    pub status_codes: Vec<u16>,
}

/// One of the 177.
#[derive(Debug)]
pub struct Row {
    pub category: &'static str,
    pub method: &'static str,
    pub path: &'static str,
    /// Whether the reference writes it out; the others it only counts.
    pub documented: bool,
}

#[derive(Deserialize)]
struct Shapes {
    endpoints: Vec<Shape>,
}

pub static SHAPES: LazyLock<Vec<Shape>> = LazyLock::new(|| {
    let shapes = serde_json::from_str::<Shapes>(include_str!("shapes.json"));
    shapes.expect("the shapes are readable").endpoints
});

pub static ROWS: LazyLock<Vec<Row>> = LazyLock::new(|| {
    let lines = include_str!("endpoints.tsv").lines().skip(1);
    lines
        .map(|line| {
            let columns: Vec<&str> = line.split('\t').collect();
            Row {
                category: columns[0],
                method: columns[1],
                path: columns[2],
                documented: columns[4] == "yes",
            }
        })
        .collect()
});

/// The documented endpoint of a section of the reference.
pub fn section(number: &str) -> &'static Shape {
    let shape = SHAPES.iter().find(|shape| shape.section == number);
    shape.unwrap_or_else(|| panic!("the reference has no section {number}"))
}

/// What a room or an event may not have; then the answer says `null`.
const OPTIONAL: [&str; 3] = ["name", "topic", "user_id"];

/// What is missing in an answer, or of another type than in the example: one line for each.
pub fn faults(example: &Value, answer: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    compare(example, answer, "answer", &mut faults);
    faults
}

fn compare(example: &Value, answer: &Value, at: &str, faults: &mut Vec<String>) {
    match (example, answer) {
        (Value::Object(example), Value::Object(answer)) => compare_objects(example, answer, at, faults),
        (Value::Array(example), Value::Array(answer)) => compare_arrays(example, answer, at, faults),
        (Value::Null, _) | (Value::String(_), Value::String(_)) | (Value::Bool(_), Value::Bool(_)) => (),
        (Value::Number(example), Value::Number(answer)) if example.is_f64() || !answer.is_f64() => (),
        _ => faults.push(format!("{at}: {answer} where the reference has {example}")),
    }
}

fn compare_objects(example: &Map<String, Value>, answer: &Map<String, Value>, at: &str, faults: &mut Vec<String>) {
    for (key, value) in example {
        if OPTIONAL.contains(&key.as_str()) && answer.get(key) == Some(&Value::Null) {
            continue;
        }
        if stands_for_any(key, value) {
            if answer.is_empty() {
                faults.push(format!("{at}: empty where the reference has {key}"));
            }
            for (key, found) in answer {
                compare(value, found, &format!("{at}.{key}"), faults);
            }
        } else if let Some(found) = answer.get(key) {
            compare(value, found, &format!("{at}.{key}"), faults);
        } else {
            faults.push(format!("{at}.{key} is missing"));
        }
    }
}

/// Whether a key of an example is an identifier that stands for those of the answer.
fn stands_for_any(key: &str, value: &Value) -> bool {
    key.starts_with(['@', '!', '$']) || key.contains(':') || key.starts_with("DEVICE") || key == "example.com" || {
        // Both the name of a field and, in a map of sessions, an identifier.
        key.starts_with("session_id") && value.is_object()
    }
}

/// Every element has the fields of the example's first. Events differ with their type: one of the same type has them.
fn compare_arrays(example: &[Value], answer: &[Value], at: &str, faults: &mut Vec<String>) {
    let Some(first) = example.first() else {
        return;
    };
    if answer.is_empty() {
        faults.push(format!("{at}: empty where the reference has {first}"));
    }
    let event_type = first.get("type").filter(|_| first.get("content").is_some());
    let mut like = answer
        .iter()
        .filter(|found| event_type.is_none() || found.get("type") == event_type)
        .peekable();
    if like.peek().is_none() && !answer.is_empty() {
        faults.push(format!("{at}: no event of type {event_type:?}"));
    }
    for (index, found) in like.enumerate() {
        compare(first, found, &format!("{at}[{index}]"), faults);
    }
}

#[test]
fn an_answer_that_differs_is_told() {
    let example = serde_json::json!({
        "events": [{ "type": "m.room.name", "content": { "name": "A" }, "sender": "@alice:example.com" }],
        "joined": { "@alice:example.com": { "count": 1 } },
        "done": true,
    });
    let told = |answer: Value| faults(&example, &answer);
    let event = serde_json::json!({ "type": "m.room.name", "content": { "name": "B" }, "sender": "@bob:x" });
    let other = serde_json::json!({ "type": "m.room.topic", "content": {} });
    let good = serde_json::json!({
        "events": [&other, &event], "joined": { "@bob:x": { "count": 3, "more": 1 } }, "done": false,
    });
    assert_eq!(told(good.clone()), Vec::<String>::new());
    let mut bad = good.clone();
    bad["events"] = serde_json::json!([other]);
    bad["joined"] = serde_json::json!({ "@bob:x": { "count": "3" } });
    bad["done"] = Value::Null;
    assert_eq!(told(bad).len(), 3);
    assert_eq!(
        told(serde_json::json!({ "events": [], "joined": {}, "done": true })).len(),
        2
    );
}

#[test]
fn the_reference_has_as_many_endpoints_as_it_says() {
    assert_eq!((ROWS.len(), SHAPES.len()), (177, 133));
    assert_eq!(ROWS.iter().filter(|row| row.documented).count(), 133);
}
