//! Shows that each expected value is looked at: each is spoilt in turn, and its case must fail then.
//!
//! A case is run once and judged with every spoilt expectation: its runner never sees what is expected, so it cannot answer otherwise.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::case::Case;
use crate::print;

/// Judges all these cases inverted; says what still passes.
pub(crate) fn run(cases: &[&Case]) -> ExitCode {
    let (mut values, mut wrong) = (0_usize, Vec::new());
    for case in cases {
        let actual = match case.outcome() {
            Ok(actual) => actual,
            Err(error) => {
                wrong.push(format!("{} does not run: {error:#}", case.id));
                continue;
            }
        };
        if let Err(difference) = case.judge(&case.expect, &actual) {
            wrong.push(format!("fails as it is: {difference}"));
        }
        let spoilt = spoilt(&case.expect);
        let passed = spoilt.iter().filter(|(_, expect)| case.judge(expect, &actual).is_ok());
        wrong.extend(passed.map(|(at, _)| format!("{} passes although {at} was inverted", case.id)));
        print(&format!("{}: {} values inverted", case.title(), spoilt.len()));
        values += spoilt.len();
    }
    wrong.iter().for_each(|line| print(line));
    print(&format!("cases: {} cases, {values} values inverted, {} wrong", cases.len(), wrong.len()));
    if wrong.is_empty() && values > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Each expectation that differs from this one in one place, and that place.
fn spoilt(expect: &Value) -> Vec<(String, Value)> {
    match expect {
        Value::Object(map) => map
            .iter()
            .flat_map(|(key, value)| {
                spoilt(value).into_iter().map(move |(at, value)| {
                    let mut map = map.clone();
                    map.insert(key.clone(), value);
                    (format!("/{key}{at}"), Value::Object(map))
                })
            })
            .collect(),
        Value::Array(list) => {
            let mut all: Vec<_> = list
                .iter()
                .enumerate()
                .flat_map(|(index, value)| {
                    spoilt(value).into_iter().map(move |(at, value)| {
                        let mut list = list.clone();
                        list[index] = value;
                        (format!("/{index}{at}"), Value::Array(list))
                    })
                })
                .collect();
            let mut longer = list.clone();
            longer.push(list.last().cloned().unwrap_or_default());
            all.push(("/+".to_owned(), Value::Array(longer)));
            if let Some((_, shorter)) = list.split_last() {
                all.push(("/-".to_owned(), Value::Array(shorter.to_vec())));
            }
            all
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            vec![(String::new(), other_than(expect))]
        }
    }
}

fn other_than(scalar: &Value) -> Value {
    match scalar {
        Value::Bool(value) => json!(!value),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => json!(number.wrapping_add(1)),
            (None, number) => json!(number.unwrap_or_default() / 2.0 + 1.0),
        },
        Value::String(text) => json!(format!("{text}~")),
        Value::Null | Value::Array(_) | Value::Object(_) => json!("inverted"),
    }
}
