//! `/api/v1/…`: terminations and container restarts as JSON, filtered by query. Unknown or malformed parameters are
//! refused, so that a typo does not look like an empty answer.

use super::{App, error, json_response};
use crate::clock::unix_now_ns;
use crate::driver::query::QueryError;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use jiff::SignedDuration;
use probe_core::termination::{Filter, Listing};
use probe_core::wallclock::Timestamp;
use serde::{Deserialize, Serialize};

/// Items of an answer that names no limit.
const LIMIT_DEFAULT: usize = 100;
/// Most items of an answer.
const LIMIT_MAX: usize = 1000;

/// The query's parameters.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    namespace: Option<String>,
    workload: Option<String>,
    pod: Option<String>,
    since: Option<String>,
    lost: Option<bool>,
    limit: Option<usize>,
}

impl Parameters {
    fn filter(self, now_unix_ns: i64) -> Result<Filter, String> {
        let since = self.since.map(|text| since(&text, now_unix_ns)).transpose()?;
        let limit = self.limit.unwrap_or(LIMIT_DEFAULT);
        if !(1..=LIMIT_MAX).contains(&limit) {
            return Err(format!("limit {limit} is out of range: 1 to {LIMIT_MAX}"));
        }
        let Self { namespace, workload, pod, lost, .. } = self;
        Ok(Filter { namespace, workload, pod, since, lost, limit: Some(limit) })
    }
}

/// A moment (RFC 3339) or an age (`90s`, `10m`, `2h`).
fn since(text: &str, now_unix_ns: i64) -> Result<Timestamp, String> {
    let moment = text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_nanosecond);
    let age = || text.parse::<SignedDuration>().ok().map(|age| i128::from(now_unix_ns) - age.as_nanos());
    moment
        .or_else(age)
        .and_then(|ns| i64::try_from(ns).ok())
        .map(Timestamp)
        .ok_or_else(|| format!("since {text:?} is neither a time (RFC 3339) nor an age such as 10m"))
}

type Asked = Result<Query<Parameters>, QueryRejection>;

fn filter_of(asked: Asked) -> Result<Filter, String> {
    let Query(parameters) = asked.map_err(|why| why.body_text())?;
    parameters.filter(unix_now_ns())
}

fn answer<T: Serialize>(listing: Result<Listing<T>, QueryError>) -> Response {
    match listing {
        Ok(listing) => json_response(StatusCode::OK, &listing),
        Err(why) => error(StatusCode::SERVICE_UNAVAILABLE, why),
    }
}

/// GET /api/v1/terminations.
pub async fn terminations(State(app): State<App>, asked: Asked) -> Response {
    match filter_of(asked) {
        Ok(filter) => answer(app.links.handle.terminations(filter).await),
        Err(why) => error(StatusCode::BAD_REQUEST, why),
    }
}

/// GET /api/v1/restarts.
pub async fn restarts(State(app): State<App>, asked: Asked) -> Response {
    match filter_of(asked) {
        Ok(filter) => answer(app.links.handle.restarts(filter).await),
        Err(why) => error(StatusCode::BAD_REQUEST, why),
    }
}

/// GET /api/v1/advice: what the last rollout of each workload advises.
pub async fn advice(State(app): State<App>, asked: Asked) -> Response {
    match filter_of(asked) {
        Ok(filter) => match app.links.handle.advice(filter).await {
            Ok(items) => json_response(StatusCode::OK, &serde_json::json!({ "items": items })),
            Err(why) => error(StatusCode::SERVICE_UNAVAILABLE, why),
        },
        Err(why) => error(StatusCode::BAD_REQUEST, why),
    }
}

/// GET /api/v1/removed-endpoints: what this node's service proxy ceased to send connections to.
pub async fn removed_endpoints(State(app): State<App>) -> Response {
    json_response(StatusCode::OK, &app.rules.removals())
}

/// GET /api/v1/terminations/{namespace}/{pod}: the newest of that name.
pub async fn termination(
    State(app): State<App>,
    asked: Result<Path<(String, String)>, PathRejection>,
) -> Response {
    let (namespace, pod) = match asked {
        Ok(Path(names)) => names,
        Err(why) => return error(StatusCode::BAD_REQUEST, why.body_text()),
    };
    let missing = format!("no termination of a pod {namespace}/{pod} is known");
    let filter = Filter { namespace: Some(namespace), pod: Some(pod), limit: Some(1), ..Filter::default() };
    match app.links.handle.terminations(filter).await {
        Ok(listing) => match listing.items.first() {
            Some(newest) => json_response(StatusCode::OK, newest),
            None => error(StatusCode::NOT_FOUND, missing),
        },
        Err(why) => error(StatusCode::SERVICE_UNAVAILABLE, why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_moment_or_an_age() {
        const NOW: i64 = 1_795_305_600_000_000_000;
        for (text, expected) in [
            ("2026-11-22T00:00:00Z", Some(NOW)),
            ("2026-11-22T01:00:00.5+01:00", Some(NOW + 500_000_000)),
            ("90s", Some(NOW - 90_000_000_000)),
            ("2h", Some(NOW - 7_200_000_000_000)),
            ("yesterday", None),
            ("", None),
            ("9999-12-31T23:59:59Z", None),
        ] {
            assert_eq!(since(text, NOW).ok(), expected.map(Timestamp), "{text}");
        }
    }

    #[test]
    fn limits_are_bounded() {
        let limited =
            |limit| Parameters { limit, ..Parameters::default() }.filter(0).map(|filter| filter.limit);
        assert_eq!(limited(None), Ok(Some(100)));
        assert_eq!(limited(Some(1000)), Ok(Some(1000)));
        assert!(limited(Some(0)).is_err() && limited(Some(1001)).is_err());
    }
}
