//! Field and label selectors of list and watch requests, parsed and matched as the API server does.
//!
//! Fields: `metadata.name` and `metadata.namespace`, for pods also `spec.nodeName` and `status.phase`, with `=`, `==` and `!=`.
//! Labels: equality, `in`, `notin`, existence. What is not supported is refused with 400, never ignored.

use serde_json::Value;

use super::kind::Kind;
use super::status::Failure;

/// Both selectors of one request; the default matches everything.
#[derive(Clone, Debug, Default)]
pub(super) struct Selector {
    fields: Vec<FieldTerm>,
    labels: Vec<LabelTerm>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct FieldTerm {
    path: String,
    value: String,
    equal: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct LabelTerm {
    key: String,
    rule: LabelRule,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum LabelRule {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
}

impl Selector {
    pub(super) fn parse(kind: Kind, fields: &str, labels: &str) -> Result<Self, Failure> {
        let fields = fields.split(',').filter(|term| !term.is_empty()).map(|term| field_term(kind, term));
        let labels = label_terms(labels).into_iter().map(label_term);
        Ok(Self { fields: fields.collect::<Result<_, _>>()?, labels: labels.collect::<Result<_, _>>()? })
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        self.fields.iter().all(|term| (field_of(object, &term.path) == term.value) == term.equal)
            && self.labels.iter().all(|term| term.matches(object["metadata"]["labels"][&term.key].as_str()))
    }
}

impl LabelTerm {
    fn matches(&self, value: Option<&str>) -> bool {
        let among =
            |values: &[String]| value.is_some_and(|value| values.iter().any(|wanted| wanted == value));
        match &self.rule {
            LabelRule::In(values) => among(values),
            LabelRule::NotIn(values) => !among(values),
            LabelRule::Exists => value.is_some(),
            LabelRule::Absent => value.is_none(),
        }
    }
}

/// A missing field has the empty value, as in the API.
fn field_of<'a>(object: &'a Value, path: &str) -> &'a str {
    path.split('.').fold(object, |value, field| &value[field]).as_str().unwrap_or_default()
}

fn field_term(kind: Kind, term: &str) -> Result<FieldTerm, Failure> {
    let (path, value, equal) = if let Some((path, value)) = term.split_once("!=") {
        (path, value, false)
    } else if let Some((path, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        (path, value, true)
    } else {
        return Err(Failure::bad_request(format!("invalid selector: '{term}'; can't understand '{term}'")));
    };
    let known = match path {
        "metadata.name" => true,
        "metadata.namespace" => kind.namespaced(),
        "spec.nodeName" | "status.phase" => kind == Kind::Pods,
        _ => false,
    };
    if !known {
        return Err(Failure::bad_request(format!("field label not supported: {path}")));
    }
    Ok(FieldTerm { path: path.to_owned(), value: value.to_owned(), equal })
}

/// Splits at the commas that are not inside parentheses.
fn label_terms(selector: &str) -> Vec<&str> {
    let mut depth = 0_i32;
    let outside = |letter: char| {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        letter == ',' && depth == 0
    };
    selector.split(outside).map(str::trim).filter(|term| !term.is_empty()).collect()
}

fn label_term(term: &str) -> Result<LabelTerm, Failure> {
    let invalid = || Failure::bad_request(format!("unable to parse requirement: '{term}'"));
    let (key, rule) = if let Some((head, values)) = term.split_once('(') {
        let values = values.strip_suffix(')').ok_or_else(invalid)?;
        let values = values.split(',').map(|value| value.trim().to_owned()).collect();
        match head.trim().split_once(char::is_whitespace) {
            Some((key, "in")) => (key, LabelRule::In(values)),
            Some((key, "notin")) => (key, LabelRule::NotIn(values)),
            Some(_) | None => return Err(invalid()),
        }
    } else if let Some((key, value)) = term.split_once("!=") {
        (key, LabelRule::NotIn(vec![value.trim().to_owned()]))
    } else if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        (key, LabelRule::In(vec![value.trim().to_owned()]))
    } else if let Some(key) = term.strip_prefix('!') {
        (key, LabelRule::Absent)
    } else {
        (term, LabelRule::Exists)
    };
    let key = key.trim();
    let letter = |letter: char| letter.is_ascii_alphanumeric() || "-_./".contains(letter);
    if key.is_empty() || !key.chars().all(letter) {
        return Err(invalid());
    }
    Ok(LabelTerm { key: key.to_owned(), rule })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_match_as_in_the_api() {
        let pod = json!({
            "metadata": {"name": "a", "namespace": "n", "labels": {"app": "shop", "tier": "web"}},
            "spec": {"nodeName": "node-1"},
        });
        for (fields, labels, expected) in [
            ("", "", true),
            ("spec.nodeName=node-1", "", true),
            ("spec.nodeName==node-1,metadata.name!=b", "", true),
            ("spec.nodeName!=node-1", "", false),
            ("status.phase=", "", true),
            ("", "app=shop,tier!=db", true),
            ("", "app==other", false),
            ("", "app in (shop, bank),tier notin (db)", true),
            ("", "app in (bank)", false),
            ("", "app,!canary", true),
            ("", "canary", false),
            ("", "canary!=yes", true),
            ("metadata.namespace=n", "!app", false),
        ] {
            let selector = Selector::parse(Kind::Pods, fields, labels).expect("a valid selector");
            assert_eq!(selector.matches(&pod), expected, "{fields:?} {labels:?}");
        }
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        for (kind, fields, labels) in [
            (Kind::Services, "spec.nodeName=a", ""),
            (Kind::Nodes, "metadata.namespace=a", ""),
            (Kind::Pods, "spec.colour=red", ""),
            (Kind::Pods, "nonsense", ""),
            (Kind::Pods, "", "app in (shop"),
            (Kind::Pods, "", "app near (shop)"),
            (Kind::Pods, "", "a b"),
            (Kind::Pods, "", "=x"),
        ] {
            let failure = Selector::parse(kind, fields, labels).expect_err("refused");
            assert_eq!(failure.code, 400, "{fields:?} {labels:?}");
        }
    }

    #[test]
    fn garbage_objects_have_no_fields() {
        let selector = Selector::parse(Kind::Pods, "spec.nodeName=node-1", "").expect("valid");
        for object in [json!("text"), json!(null), json!({"spec": 3}), json!({"spec": {"nodeName": 5}})] {
            assert!(!selector.matches(&object), "{object}");
        }
    }
}
