//! `/metrics`: a fresh observation as OpenMetrics or Prometheus text, with gzip where the scraper takes it.

use super::{App, error};
use crate::clock::mono_now;
use crate::driver::query::Observation;
use crate::exposition::{negotiate, open_metrics, own::Own, prometheus};
use crate::host::process;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write as _;
use std::path::Path;

/// GET /metrics.
pub async fn metrics(State(app): State<App>, headers: HeaderMap) -> Response {
    let observation = match app.links.handle.observe(true).await {
        Ok(observation) => observation,
        Err(why) => return error(StatusCode::SERVICE_UNAVAILABLE, why),
    };
    let format = negotiate::format(text(&headers, header::ACCEPT));
    let text_out = match format {
        negotiate::Format::OpenMetrics => render(&app, observation),
        negotiate::Format::Prometheus => prometheus::from_open_metrics(&render(&app, observation)),
    };
    let kind = (header::CONTENT_TYPE, format.content_type());
    let vary = (header::VARY, "Accept, Accept-Encoding");
    if !negotiate::gzip(text(&headers, header::ACCEPT_ENCODING)) {
        return ([kind, vary], text_out).into_response();
    }
    match compressed(text_out.as_bytes()) {
        Ok(bytes) => ([kind, vary, (header::CONTENT_ENCODING, "gzip")], bytes).into_response(),
        Err(why) => error(StatusCode::INTERNAL_SERVER_ERROR, why),
    }
}

/// The whole exposition: the core's series and the agent's own.
fn render(app: &App, observation: Observation) -> String {
    let states = app.table.states();
    let kernel = observation.kernel;
    let own = Own {
        kernel_error: app.start.kernel_error.as_deref(),
        hooks: &app.start.hooks,
        cgroup_error: app.start.cgroup_error.as_deref(),
        api_in_sync: !states.is_empty() && states.iter().all(|(_, state)| state.synced),
        api_seen: states.iter().any(|(_, state)| state.ever_synced),
        programs: kernel.programs,
        maps: kernel.maps,
        records: kernel.records,
        lags: app.table.lags(mono_now()),
        process: process::read(Path::new("/proc")),
    };
    let mut series = observation.snapshot.series;
    series.extend(own.series());
    open_metrics(series)
}

fn compressed(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 8), Compression::fast());
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn text(headers: &HeaderMap, name: HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}
