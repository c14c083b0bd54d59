//! Writes over HTTP: Events, made and changed by a merge patch, with the real server's checks of what an agent could get wrong.
//!
//! Not here: namespaces that do not exist, `generateName`, the expiry of Events.

use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::Service;
use crate::apiserver::kind::Kind;
use crate::apiserver::query::Route;
use crate::apiserver::status::Failure;
use crate::apiserver::store::StoreError;

/// The longest body that is read.
const BODY_BYTES: usize = 64 * 1024;
/// core/validation: `NoteLengthLimit` and `ReportingInstanceLengthLimit`.
const LIMITS: [(&str, usize); 2] = [("message", 1024), ("reportingInstance", 128)];

/// A write that is served.
pub(super) enum Write<'a> {
    /// Into this namespace.
    Create(&'a str),
    /// Of this namespace and name.
    Patch(&'a str, &'a str),
}

impl<'a> Write<'a> {
    /// What that method means there; `None` if it is not served.
    pub(super) fn of(method: &Method, route: &'a Route) -> Option<Self> {
        if let Route::Collection(Kind::Events, Some(namespace)) = route
            && method == Method::POST
        {
            return Some(Self::Create(namespace));
        }
        if let Route::Object(Kind::Events, namespace, name) = route
            && method == Method::PATCH
        {
            return Some(Self::Patch(namespace, name));
        }
        None
    }
}

impl Service {
    pub(super) async fn write(
        &self,
        write: Write<'_>,
        head: &Parts,
        body: Incoming,
    ) -> Result<(StatusCode, Value), Failure> {
        let (verb, namespace, wanted) = match write {
            Write::Create(namespace) => ("create", namespace, "application/json"),
            Write::Patch(namespace, _) => ("patch", namespace, "application/merge-patch+json"),
        };
        self.audit.record(verb, Kind::Events.resource(), Some(namespace), "");
        self.faults.authorize(verb, Kind::Events, Some(namespace))?;
        self.interfere(Kind::Events).await?;
        if head.headers.get(CONTENT_TYPE).is_none_or(|given| given != wanted) {
            return Err(Failure::new(415, "UnsupportedMediaType", format!("only {wanted} is taken")));
        }
        let body = Limited::new(body, BODY_BYTES).collect().await;
        let body = body.map_err(|error| Failure::bad_request(error.to_string()))?.to_bytes();
        let sent: Value =
            serde_json::from_slice(&body).map_err(|error| Failure::bad_request(error.to_string()))?;
        match write {
            Write::Create(namespace) => {
                let mut event = sent;
                if event["metadata"]["namespace"].is_null() {
                    event["metadata"]["namespace"] = json!(namespace);
                }
                check(&event, namespace)?;
                let made = self.store.create(Kind::Events, event).map_err(|error| refused(&error))?;
                Ok((StatusCode::CREATED, Value::clone(&made)))
            }
            Write::Patch(namespace, name) => {
                let old = self.store.get(Kind::Events, namespace, name).map_err(|error| refused(&error))?;
                let mut new = Value::clone(&old);
                merge(&mut new, &sent);
                check(&new, namespace)?;
                let change = |event: &mut Value| merge(event, &sent);
                let changed = self.store.update(Kind::Events, namespace, name, change);
                Ok((StatusCode::OK, Value::clone(&*changed.map_err(|error| refused(&error))?)))
            }
        }
    }
}

fn refused(error: &StoreError) -> Failure {
    match error {
        StoreError::AlreadyExists { .. } => Failure::new(409, "AlreadyExists", error.to_string()),
        StoreError::NotFound { .. } => Failure::new(404, "NotFound", error.to_string()),
        StoreError::Invalid { .. } => Failure::new(422, "Invalid", error.to_string()),
    }
}

/// What core/validation asks of an Event, the fields that every Event has included.
fn check(event: &Value, namespace: &str) -> Result<(), Failure> {
    let invalid = |why: &str| Err(Failure::new(422, "Invalid", format!("Event is invalid: {why}")));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if text(&event["metadata"]["namespace"]) != namespace
        || text(&event["involvedObject"]["namespace"]) != namespace
    {
        return invalid("involvedObject.namespace: does not match event.namespace");
    }
    let name = text(&event["metadata"]["name"]);
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_label = |label: &str| {
        label.bytes().all(|byte| is_plain(byte) || byte == b'-')
            && label.bytes().next().is_some_and(is_plain)
            && label.bytes().last().is_some_and(is_plain)
    };
    if name.len() > 253 || !name.split('.').all(is_label) {
        return invalid("metadata.name: a lowercase RFC 1123 subdomain");
    }
    for field in ["reason", "message", "reportingComponent", "reportingInstance"] {
        if text(&event[field]).is_empty() {
            return invalid(&format!("{field}: required value"));
        }
    }
    for (field, most) in LIMITS {
        if text(&event[field]).len() > most {
            return invalid(&format!("{field}: can have at most {most} characters"));
        }
    }
    if !matches!(event["type"].as_str(), Some("Normal" | "Warning")) {
        return invalid("type: has to be either Normal or Warning");
    }
    Ok(())
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        target.clone_from(patch);
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (field, value) in fields {
        if value.is_null() {
            drop(target.as_object_mut().map(|target| target.remove(field)));
        } else {
            merge(&mut target[field], value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Value {
        json!({
            "metadata": {"namespace": "shop", "name": "api-1.0123abcd"}, "involvedObject": {"namespace": "shop"},
            "reason": "RequestsLost", "message": "m", "reportingComponent": "drainscope.io/agent", "reportingInstance": "n1",
            "type": "Warning",
        })
    }

    #[test]
    fn an_event_that_the_real_server_refuses_is_refused() {
        assert_eq!(check(&event(), "shop"), Ok(()));
        for (pointer, value) in [
            ("/metadata/name", json!("Api")),
            ("/metadata/name", json!("api.-1")),
            ("/metadata/name", json!("a".repeat(254))),
            ("/involvedObject/namespace", json!("bank")),
            ("/message", json!("x".repeat(1025))),
            ("/reportingInstance", json!("n".repeat(129))),
            ("/reportingComponent", json!("")),
            ("/type", json!("Error")),
        ] {
            let mut event = event();
            *event.pointer_mut(pointer).expect("a field") = value;
            assert_eq!(check(&event, "shop").expect_err(pointer).code, 422, "{pointer}");
        }
    }

    #[test]
    fn a_merge_patch_changes_removes_and_adds() {
        let mut object = json!({"a": 1, "b": {"c": 2, "d": 3}});
        merge(&mut object, &json!({"a": 9, "b": {"c": null}, "e": {"f": 4}}));
        assert_eq!(object, json!({"a": 9, "b": {"d": 3}, "e": {"f": 4}}));
    }
}
