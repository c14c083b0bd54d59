//! `/api/v1/probes`: the probes of the local pods, and what the kernel programs saw of the kubelet's.

use super::{App, error, json_response};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

/// GET /api/v1/probes.
pub async fn probes(State(app): State<App>) -> Response {
    match app.links.handle.probes().await {
        Ok(probes) => {
            json_response(StatusCode::OK, &serde_json::json!({ "node": app.start.node, "probes": probes }))
        }
        Err(why) => error(StatusCode::SERVICE_UNAVAILABLE, why),
    }
}
