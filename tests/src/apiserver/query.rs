//! What a request asks for: its path as a route, its query as checked list or watch options.
//!
//! A path that the real server has and this one does not is a 404 like any other.

use super::kind::Kind;
use super::selector::Selector;
use super::status::Failure;

/// The resource that a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// `/readyz`, `/livez`, `/healthz`.
    Health,
    /// `/version`.
    Version,
    /// `/api`: the versions of the core group.
    CoreVersions,
    /// `/apis`: the other groups.
    Groups,
    /// `/api/v1` or `/apis/discovery.k8s.io/v1`: the resources of a group version.
    Resources(&'static str),
    /// All objects of a kind, or those in a namespace.
    Collection(Kind, Option<String>),
    /// One object; the namespace is empty for a cluster-scoped kind.
    Object(Kind, String, String),
}

impl Route {
    pub(super) fn parse(path: &str) -> Result<Self, Failure> {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let (group, rest) = match parts.as_slice() {
            ["readyz" | "livez" | "healthz", ..] => return Ok(Self::Health),
            ["version"] => return Ok(Self::Version),
            ["api"] => return Ok(Self::CoreVersions),
            ["apis"] => return Ok(Self::Groups),
            ["api", "v1"] => return Ok(Self::Resources("")),
            ["apis", "discovery.k8s.io", "v1"] => return Ok(Self::Resources("discovery.k8s.io")),
            ["api", "v1", rest @ ..] => ("", rest),
            ["apis", "discovery.k8s.io", "v1", rest @ ..] => ("discovery.k8s.io", rest),
            _ => return Err(Failure::no_such_path()),
        };
        let kind_of = |resource: &str| Kind::of_resource(group, resource).ok_or_else(Failure::no_such_path);
        let (kind, namespace, name) = match rest {
            ["namespaces", namespace, resource] => (kind_of(resource)?, Some(*namespace), None),
            ["namespaces", namespace, resource, name] => (kind_of(resource)?, Some(*namespace), Some(*name)),
            [resource] => (kind_of(resource)?, None, None),
            [resource, name] => (kind_of(resource)?, None, Some(*name)),
            _ => return Err(Failure::no_such_path()),
        };
        match (kind.namespaced(), namespace, name) {
            (true, namespace, None) => Ok(Self::Collection(kind, namespace.map(str::to_owned))),
            (false, None, None) => Ok(Self::Collection(kind, None)),
            (true, Some(namespace), Some(name)) => {
                Ok(Self::Object(kind, namespace.to_owned(), name.to_owned()))
            }
            (false, None, Some(name)) => Ok(Self::Object(kind, String::new(), name.to_owned())),
            (true, None, Some(_)) | (false, Some(_), _) => Err(Failure::no_such_path()),
        }
    }
}

/// The resource version that a request starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// Unset: the newest state.
    Newest,
    /// `0`: any state will do; here the newest.
    Any,
    /// That version.
    Version(u64),
}

/// `resourceVersionMatch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Match {
    /// Unset.
    Unset,
    /// At least as new.
    NotOlderThan,
    /// Exactly that version.
    Exact,
}

/// The options of a list or a watch.
#[derive(Clone, Debug)]
pub(super) struct Query {
    pub(super) watch: bool,
    pub(super) from: From,
    pub(super) version_match: Match,
    pub(super) limit: Option<usize>,
    pub(super) continue_token: Option<String>,
    pub(super) bookmarks: bool,
    pub(super) timeout_seconds: Option<u64>,
    pub(super) initial_events: bool,
    pub(super) selector: Selector,
    /// Both selectors as they were written, for the audit.
    pub(super) selector_text: String,
}

impl Query {
    pub(super) fn parse(kind: Kind, query: &str) -> Result<Self, Failure> {
        let pairs: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
        let value = |name: &str| {
            let found = pairs.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value.as_ref()).filter(|value| !value.is_empty())
        };
        let flag = |name: &str| matches!(value(name), Some("true" | "1"));
        let number = |name: &str| match value(name) {
            None => Ok(None),
            Some(text) => match text.parse::<u64>() {
                Ok(number) => Ok(Some(number)),
                Err(error) => {
                    Err(Failure::bad_request(format!("{name}: Invalid value: \"{text}\": {error}")))
                }
            },
        };
        let from = match number("resourceVersion")? {
            None => From::Newest,
            Some(0) => From::Any,
            Some(version) => From::Version(version),
        };
        let version_match = match value("resourceVersionMatch") {
            None => Match::Unset,
            Some("NotOlderThan") => Match::NotOlderThan,
            Some("Exact") => Match::Exact,
            Some(other) => {
                return Err(invalid(format!("resourceVersionMatch: Unsupported value: \"{other}\"")));
            }
        };
        let (fields, labels) =
            (value("fieldSelector").unwrap_or_default(), value("labelSelector").unwrap_or_default());
        let parsed = Self {
            watch: flag("watch"),
            from,
            version_match,
            limit: number("limit")?.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0),
            continue_token: value("continue").map(str::to_owned),
            bookmarks: flag("allowWatchBookmarks"),
            timeout_seconds: number("timeoutSeconds")?.filter(|seconds| *seconds > 0),
            initial_events: flag("sendInitialEvents"),
            selector: Selector::parse(kind, fields, labels)?,
            selector_text: [fields, labels]
                .into_iter()
                .filter(|text| !text.is_empty())
                .collect::<Vec<_>>()
                .join(";"),
        };
        parsed.check()?;
        Ok(parsed)
    }

    /// The combinations that the real server refuses.
    fn check(&self) -> Result<(), Failure> {
        if self.watch {
            match (self.initial_events, self.version_match) {
                (true, Match::Unset | Match::Exact) => {
                    return Err(invalid(
                        "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                    ));
                }
                (false, Match::NotOlderThan | Match::Exact) => {
                    return Err(invalid(
                        "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                    ));
                }
                (true, Match::NotOlderThan) | (false, Match::Unset) => {}
            }
            return Ok(());
        }
        if self.initial_events {
            return Err(invalid("sendInitialEvents is forbidden for list"));
        }
        match (self.version_match, self.from) {
            (Match::NotOlderThan | Match::Exact, From::Newest) => {
                Err(invalid("resourceVersionMatch is forbidden unless resourceVersion is provided"))
            }
            (Match::Exact, From::Any) => {
                Err(invalid("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""))
            }
            (Match::Unset, _)
            | (Match::NotOlderThan, From::Any | From::Version(_))
            | (Match::Exact, From::Version(_)) => Ok(()),
        }
    }
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(422, "Invalid", message)
}
