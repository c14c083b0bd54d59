//! `/metrics`: a fresh observation as OpenMetrics or Prometheus text, with gzip where the scraper takes it.

use super::{App, error};
use crate::clock::mono_now;
use crate::exposition::own::{self, Own};
use crate::exposition::{negotiate, open_metrics, prometheus};
use crate::host::process;
use crate::kube::events::outbox::Outbox;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
use probe_core::snapshot::Series;
use std::io::Write as _;
use std::path::Path;

/// GET /metrics.
pub async fn metrics(State(app): State<App>, headers: HeaderMap) -> Response {
    let at = mono_now();
    let mut own = own_series(&app);
    own.extend(app.mirror.manager().series(at));
    let mut series = match app.links.handle.scrape(own).await {
        Ok(series) => series,
        Err(why) => return error(StatusCode::SERVICE_UNAVAILABLE, why),
    };
    app.mirror.manager().scraped(at);
    series.extend(own::process_series(&process::read(Path::new("/proc"))));
    let format = negotiate::format(text(&headers, header::ACCEPT));
    let text_out = match format {
        negotiate::Format::OpenMetrics => open_metrics(series),
        negotiate::Format::Prometheus => prometheus::from_open_metrics(&open_metrics(series)),
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

/// What the agent says of itself, the kernel side and the process left out.
fn own_series(app: &App) -> Vec<Series> {
    let states = app.table.states();
    let own = Own {
        kernel_error: app.start.kernel_error.as_deref(),
        hooks: &app.start.hooks,
        cgroup_error: app.start.cgroup_error.as_deref(),
        rules: app.rules.state(),
        conntrack: app.lookups.state(),
        conntrack_queries: app.lookups.counts(),
        kubelet: app.readings.state(),
        api_in_sync: !states.is_empty() && states.iter().all(|(_, state)| state.synced),
        api_seen: states.iter().any(|(_, state)| state.ever_synced),
        lags: app.table.lags(mono_now()),
        events: app.outbox.as_deref().map(Outbox::state),
    };
    own.series()
}

fn compressed(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 8), Compression::fast());
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn text(headers: &HeaderMap, name: HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}
