//! The agent's two servers. `--listen` has metrics and health for everybody; `--api-listen` has what names clients and
//! pods. Both bound what a client can cost: see [`server`].

pub mod api;
pub mod health;
pub mod metrics;
pub mod probes;
pub mod record;
pub mod server;
pub mod status;

use crate::driver::Links;
use crate::host::conntrack::Lookups;
use crate::host::rules::Watched;
use crate::kernel::{Heritage, Hook};
use crate::kube::events::outbox::Outbox;
use crate::kube::table::WatchTable;
use crate::kubelet::Readings;
use crate::mirror::Mirror;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use probe_core::time::Mono;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

/// What the agent found when it started; it does not change.
pub struct Start {
    /// This node.
    pub node: String,
    /// When it started.
    pub at: Mono,
    /// Why no kernel program runs, if none does.
    pub kernel_error: Option<String>,
    /// Each program and whether it runs.
    pub hooks: Vec<Hook>,
    /// Why cgroups cannot be followed.
    pub cgroup_error: Option<String>,
    /// Where programs and counts are pinned, and what was there.
    pub pins: Option<(PathBuf, Heritage)>,
    /// Why nothing is pinned, if something shall be.
    pub pin_error: Option<String>,
    /// The probes of pods that do not say whether are mirrored.
    pub probes: bool,
}

/// What the handlers work on.
#[derive(Clone)]
pub struct App {
    /// The driver.
    pub links: Links,
    /// Health of the watches.
    pub table: Arc<WatchTable>,
    /// Whether the service proxy's rules are followed.
    pub rules: Watched,
    /// Whether connection tracking is asked.
    pub lookups: Lookups,
    /// Kubernetes Events on their way, if they are wanted.
    pub outbox: Option<Arc<Outbox>>,
    /// Mirrored probes.
    pub mirror: Mirror,
    /// Whether the kubelet's own verdicts are read.
    pub readings: Readings,
    /// What was found at the start.
    pub start: Arc<Start>,
}

/// `--listen`: metrics and health.
pub fn public(app: App) -> Router {
    finished(health_routes().route("/metrics", get(metrics::metrics)), app)
}

/// `--api-listen`: status and API, and health too.
pub fn private(app: App) -> Router {
    let routes = health_routes()
        .route("/status", get(status::status))
        .route("/api/v1/terminations", get(api::terminations))
        .route("/api/v1/terminations/{namespace}/{pod}", get(api::termination))
        .route("/api/v1/restarts", get(api::restarts))
        .route("/api/v1/advice", get(api::advice))
        .route("/api/v1/probes", get(probes::probes))
        .route("/api/v1/removed-endpoints", get(api::removed_endpoints))
        .route("/api/v1/record", get(record::record));
    finished(routes, app)
}

fn health_routes() -> Router<App> {
    Router::new().route("/livez", get(health::livez)).route("/readyz", get(health::readyz))
}

fn finished(routes: Router<App>, app: App) -> Router {
    routes
        .fallback(async || error(StatusCode::NOT_FOUND, "no such path"))
        .method_not_allowed_fallback(async || {
            error(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are allowed")
        })
        .with_state(app)
}

/// Every error has the same form.
pub(crate) fn error(status: StatusCode, message: impl std::fmt::Display) -> Response {
    json_response(status, &json!({ "error": message.to_string() }))
}

/// A JSON answer.
pub(crate) fn json_response(status: StatusCode, body: &impl serde::Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(bytes) => (status, [(header::CONTENT_TYPE, "application/json")], bytes).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests;
