//! `/api/v1/record`: the event log ([`crate::eventlog`]) from now on, one JSON object a line, until the client goes or the
//! agent ends. A client that reads too slowly is cut off by the driver's side and is told so in its last line.

use super::server::Lease;
use super::{App, error};
use crate::eventlog::tape::RECORDINGS;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures::StreamExt as _;
use std::convert::Infallible;

/// GET /api/v1/record.
pub async fn record(State(app): State<App>, Extension(lease): Extension<Lease>) -> Response {
    match app.links.handle.record().await {
        Ok(Some(recording)) => {
            lease.extend(recording.open.clone());
            let body = Body::from_stream(recording.pieces().map(Ok::<_, Infallible>));
            ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
        }
        Ok(None) => error(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{RECORDINGS} recordings are under way already: end one of them first"),
        ),
        Err(why) => error(StatusCode::SERVICE_UNAVAILABLE, why),
    }
}
