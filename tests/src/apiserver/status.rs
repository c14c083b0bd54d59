//! Errors as the API gives them: `Status` objects, as a response body or inside a watch's ERROR event.

use serde_json::{Value, json};

use super::history::Expired;
use super::kind::Kind;

/// An error response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: u16,
    pub(super) reason: &'static str,
    pub(super) message: String,
    /// `Retry-After`, in seconds.
    pub(super) retry_after: Option<u32>,
}

impl Failure {
    pub(super) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), retry_after: None }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(super) fn not_found(kind: Kind, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} \"{name}\" not found", kind.resource()))
    }

    /// RBAC has no rule for it.
    pub(super) fn forbidden(verb: &str, kind: Kind, namespace: Option<&str>) -> Self {
        let (resource, group) = (kind.resource(), kind.group());
        let scope = namespace
            .map_or_else(|| "at the cluster scope".to_owned(), |name| format!("in the namespace \"{name}\""));
        let message = format!(
            "{resource} is forbidden: User \"agent\" cannot {verb} resource \"{resource}\" in API group \"{group}\" {scope}"
        );
        Self::new(403, "Forbidden", message)
    }

    pub(super) fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    pub(super) fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// An answer with a code of the test's choice.
    pub(super) fn injected(code: u16, retry_after: Option<u32>) -> Self {
        let reason = match code {
            401 => "Unauthorized",
            403 => "Forbidden",
            410 => "Expired",
            429 => "TooManyRequests",
            503 => "ServiceUnavailable",
            _ => "InternalError",
        };
        Self { retry_after, ..Self::new(code, reason, "injected by the test") }
    }

    /// The `Status` object.
    pub(super) fn body(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        });
        if let Some(seconds) = self.retry_after {
            status["details"] = json!({"retryAfterSeconds": seconds});
        }
        status
    }
}

impl From<Expired> for Failure {
    fn from(expired: Expired) -> Self {
        Self::expired(expired.to_string())
    }
}
