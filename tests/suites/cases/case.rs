//! A case: reading it from its group's file, running it, judging what came of it.
//!
//! In: YAML text. Out: the difference between what is expected and what is, as text. An expected map may name a part of the
//! actual one; lists and scalars are compared whole. `{contains: TEXT}` in place of a string stands for all strings that do.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

/// Runs one case: from what is given to what came of it.
pub(crate) type Run = fn(&Value) -> Result<Value>;

/// A file of cases.
#[derive(Debug)]
pub(crate) struct Group {
    /// What its ids begin with.
    pub(crate) letter: char,
    /// The file.
    pub(crate) text: &'static str,
    /// Its runner.
    pub(crate) run: Run,
}

/// A file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// What upstream's own tests assert.
    #[serde(default)]
    cases: Vec<Written>,
    /// What was read in upstream's implementation: no test of upstream's holds it.
    #[serde(default, rename = "kubelet-source behaviour")]
    source_derived: Vec<Written>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    id: String,
    name: String,
    given: Value,
    expect: Value,
}

/// One case.
#[derive(Debug)]
pub(crate) struct Case {
    /// Letter and number.
    pub(crate) id: String,
    /// What it is about.
    name: String,
    given: Value,
    /// What is to come of it.
    pub(crate) expect: Value,
    /// Read in the implementation.
    pub(crate) source_derived: bool,
    run: Run,
}

impl Case {
    /// Its name as a test.
    pub(crate) fn title(&self) -> String {
        format!("{} {}", self.id, self.name)
    }

    /// Runs it.
    pub(crate) fn outcome(&self) -> Result<Value> {
        match catch_unwind(AssertUnwindSafe(|| (self.run)(&self.given))) {
            Ok(outcome) => outcome,
            Err(_) => bail!("it panicked"),
        }
    }

    /// Compares with an expectation, its own or a spoilt one; tells all differences.
    pub(crate) fn judge(&self, expect: &Value, actual: &Value) -> Result<(), String> {
        let mut differences = Vec::new();
        compare("", expect, actual, &mut differences);
        if differences.is_empty() { Ok(()) } else { Err(format!("{}: {}", self.id, differences.join("; "))) }
    }
}

/// Reads all groups' files.
pub(crate) fn load(groups: &[Group]) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    let mut ids = BTreeSet::new();
    for group in groups {
        let file: File =
            serde_saphyr::from_str(group.text).with_context(|| format!("{}.yaml", group.letter))?;
        let listed = file.cases.into_iter().map(|written| (written, false));
        for (written, source_derived) in listed.chain(file.source_derived.into_iter().map(|w| (w, true))) {
            let Written { id, name, given, expect } = written;
            ensure!(id.starts_with(group.letter), "{id} is in {}.yaml", group.letter);
            ensure!(ids.insert(id.clone()), "{id} is there twice");
            ensure!(asserts(&expect), "{id} expects an empty map, which everything meets");
            cases.push(Case { id, name, given, expect, source_derived, run: group.run });
        }
    }
    Ok(cases)
}

/// False if some map in it is empty.
fn asserts(expect: &Value) -> bool {
    match expect {
        Value::Object(map) => !map.is_empty() && map.values().all(asserts),
        Value::Array(list) => list.iter().all(asserts),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

fn compare(at: &str, expect: &Value, actual: &Value, differences: &mut Vec<String>) {
    match (expect, actual) {
        (Value::Object(expected), Value::String(text)) if part_of(expected).is_some() => {
            if part_of(expected).is_some_and(|part| !text.contains(part)) {
                differences.push(format!("{at} is {text:?}, which does not have {expect}"));
            }
        }
        (Value::Object(expected), Value::Object(actual)) => {
            for (key, value) in expected {
                let at = format!("{at}/{key}");
                match actual.get(key) {
                    Some(actual) => compare(&at, value, actual, differences),
                    None => differences.push(format!("{at} is not there")),
                }
            }
        }
        (Value::Array(expected), Value::Array(there)) if expected.len() == there.len() => {
            for (index, (expected, actual)) in expected.iter().zip(there).enumerate() {
                compare(&format!("{at}/{index}"), expected, actual, differences);
            }
        }
        _ if expect == actual => {}
        _ => differences.push(format!("{at} is {actual}, expected {expect}")),
    }
}

/// The text of `{contains: TEXT}`.
fn part_of(map: &serde_json::Map<String, Value>) -> Option<&str> {
    if map.len() == 1 { map.get("contains")?.as_str() } else { None }
}
