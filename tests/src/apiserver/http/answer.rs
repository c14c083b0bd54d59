//! From request to response: authentication, faults, then the route.
//!
//! What is written is [`super::write`]'s. Whatever goes wrong is a `Status` object with its HTTP status. Watches answer at once and go on in a task of their own.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures::stream::poll_fn;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::Service;
use super::write::Write;
use crate::apiserver::connection::Tear;
use crate::apiserver::faults::Gone;
use crate::apiserver::kind::Kind;
use crate::apiserver::query::{From, Query, Route};
use crate::apiserver::status::Failure;
use crate::apiserver::stream::{LINES_AHEAD, Watcher};

type Body = BoxBody<Bytes, std::io::Error>;

impl Service {
    pub(super) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        tear: &Tear,
    ) -> Result<Response<Body>, Infallible> {
        let (head, body) = request.into_parts();
        let response = match self.route(&head, body, tear).await {
            Ok(response) => response,
            Err(failure) => {
                let code = StatusCode::from_u16(failure.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                let mut response = json_response(code, &failure.body());
                if let Some(seconds) = failure.retry_after {
                    response.headers_mut().insert(RETRY_AFTER, seconds.into());
                }
                response
            }
        };
        Ok(response)
    }

    async fn route(
        self: &Arc<Self>,
        head: &Parts,
        body: Incoming,
        tear: &Tear,
    ) -> Result<Response<Body>, Failure> {
        let path = head.uri.path();
        let route = Route::parse(path);
        if head.method != Method::GET {
            if let Ok(route) = &route
                && let Some(write) = Write::of(&head.method, route)
            {
                self.authenticate(head)?;
                let (code, object) = self.write(write, head, body).await?;
                return Ok(json_response(code, &object));
            }
            self.audit.record(&head.method.as_str().to_ascii_lowercase(), path, None, "");
            let message = "the server does not allow this method on the requested resource";
            return Err(Failure::new(405, "MethodNotAllowed", message));
        }
        self.authenticate(head)?;
        match route {
            Err(failure) => {
                self.audit.record("get", path, None, "");
                Err(failure)
            }
            Ok(Route::Collection(kind, namespace)) => {
                let query = Query::parse(kind, head.uri.query().unwrap_or_default())?;
                let verb = if query.watch { "watch" } else { "list" };
                self.audit.record(verb, kind.resource(), namespace.as_deref(), &query.selector_text);
                accepts_json(head)?;
                self.faults.authorize(verb, kind, namespace.as_deref())?;
                self.interfere(kind).await?;
                if query.watch {
                    return self.watch(kind, namespace, query, tear);
                }
                let list = self.pages.list(&self.store, kind, namespace.as_deref(), &query)?;
                Ok(json_response(StatusCode::OK, &list))
            }
            Ok(Route::Object(kind, namespace, name)) => {
                let scope = Some(namespace.as_str()).filter(|namespace| !namespace.is_empty());
                self.audit.record("get", kind.resource(), scope, "");
                self.faults.authorize("get", kind, scope)?;
                self.interfere(kind).await?;
                let object =
                    self.store.get(kind, &namespace, &name).or(Err(Failure::not_found(kind, &name)))?;
                Ok(json_response(StatusCode::OK, &object))
            }
            Ok(other) => {
                self.audit.record("get", path, None, "");
                Ok(discovery(&other))
            }
        }
    }

    fn authenticate(&self, head: &Parts) -> Result<(), Failure> {
        let Some(token) = self.token() else { return Ok(()) };
        let given = head.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        if given.and_then(|value| value.strip_prefix("Bearer ")) == Some(token.as_str()) {
            return Ok(());
        }
        Err(Failure::new(401, "Unauthorized", "Unauthorized"))
    }

    pub(super) async fn interfere(&self, kind: Kind) -> Result<(), Failure> {
        let (delay, failure) = self.faults.next_request(kind);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        failure.map_or(Ok(()), Err)
    }

    fn watch(
        self: &Arc<Self>,
        kind: Kind,
        namespace: Option<String>,
        query: Query,
        tear: &Tear,
    ) -> Result<Response<Body>, Failure> {
        // Only a watch that resumes can be too old.
        let gone = match query.from {
            From::Version(_) => self.faults.next_watch(kind),
            From::Newest | From::Any => None,
        };
        if gone == Some(Gone::Http) {
            return Err(Failure::expired("The resourceVersion for the provided watch is too old."));
        }
        let (lines, mut body) = mpsc::channel(LINES_AHEAD);
        let watcher = Watcher {
            store: self.store.clone(),
            faults: self.faults.clone(),
            kind,
            namespace,
            query,
            bookmark_interval: self.options.bookmark_interval,
            tear: tear.clone(),
            lines,
        };
        let service = Arc::clone(self);
        service.open_watches.fetch_add(1, Ordering::AcqRel);
        tokio::spawn(async move {
            watcher.run(gone).await;
            service.open_watches.fetch_sub(1, Ordering::AcqRel);
        });
        let body = StreamBody::new(poll_fn(move |cx| body.poll_recv(cx))).boxed();
        Ok(respond(StatusCode::OK, body))
    }
}

/// Only plain JSON is spoken: neither metadata-only objects nor tables nor protobuf.
fn accepts_json(head: &Parts) -> Result<(), Failure> {
    let accept = head.headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("*/*");
    let plain = |kind: &str| matches!(kind.trim(), "application/json" | "application/*" | "*/*");
    if accept.split(',').any(plain) {
        return Ok(());
    }
    Err(Failure::new(406, "NotAcceptable", "only the following media types are accepted: application/json"))
}

fn discovery(route: &Route) -> Response<Body> {
    let group = |name: &str| {
        let version = json!({"groupVersion": format!("{name}/v1"), "version": "v1"});
        json!({"name": name, "versions": [version], "preferredVersion": version})
    };
    let document = match route {
        Route::Version => {
            json!({"major": "1", "minor": "37", "gitVersion": "v1.37.0", "platform": "linux/amd64"})
        }
        Route::CoreVersions => json!({"kind": "APIVersions", "versions": ["v1"]}),
        Route::Groups => {
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [group("discovery.k8s.io")]})
        }
        Route::Resources(group) => resources(group),
        Route::Health | Route::Collection(..) | Route::Object(..) => {
            let body = Full::new(Bytes::from_static(b"ok")).map_err(|never| match never {}).boxed();
            return Response::new(body);
        }
    };
    json_response(StatusCode::OK, &document)
}

fn resources(group: &str) -> Value {
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| kind.group() == group).collect();
    let resource = |kind: &Kind| {
        json!({
            "name": kind.resource(),
            "singularName": kind.object_kind().to_ascii_lowercase(),
            "namespaced": kind.namespaced(),
            "kind": kind.object_kind(),
            "verbs": if *kind == Kind::Events { json!(["create", "get", "list", "patch", "watch"]) } else { json!(["get", "list", "watch"]) },
        })
    };
    let group_version = kinds.first().map_or("v1", |kind| kind.api_version());
    let resources: Vec<Value> = kinds.iter().map(resource).collect();
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources})
}

fn json_response(code: StatusCode, body: &Value) -> Response<Body> {
    respond(code, Full::new(Bytes::from(body.to_string())).map_err(|never| match never {}).boxed())
}

fn respond(code: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    response
}
