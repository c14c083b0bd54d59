//! Kubernetes Events of what the core's notices say: a task that sends them one by one at its own pace. In: the [`Outbox`],
//! which the driver fills and never waits for. Out: requests to the API, and in the outbox what became of them.
//!
//! core/v1, not events.k8s.io/v1: an Event that grows with its rollout changes its message, which the newer API holds
//! immutable (`ValidateEventUpdate`, pkg/apis/core/validation/events.go of 1.36). Either API shows the same objects.

pub mod outbox;

use crate::clock::mono_now;
use crate::kube::client::Api;
use crate::kube::retry::{Backoff, Timing, brief};
use futures::io::AsyncReadExt as _;
use kube::Client;
use kube::core::Request;
use kube::core::params::{Patch, PatchParams, PostParams};
use outbox::{Dropped, Outbox, Sent};
use probe_core::limits::SECOND;
use probe_core::notice::{About, Notice, REASON};
use probe_core::time::Mono;
use probe_core::wallclock::Timestamp;
use serde_json::{Value, json};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Who reports, in the form that the API asks for (a qualified name).
const REPORTER: &str = "drainscope.io/agent";
/// Longest `reportingInstance` (core/validation, `ReportingInstanceLengthLimit`).
const INSTANCE_BYTES: usize = 128;
/// So many Events at once: a rolling update's pods on one node. Further ones come one by one.
const BURST: u64 = 20;
const INTERVAL_NS: u64 = SECOND;
/// How often the API server may fail on one Event (a webhook that is down, say) before it is given up: at the longest pause
/// about a minute, in which the others wait. An API server that is away or overloaded is waited for without a bound.
const TRIES: u32 = 10;
/// Longest answer that is read: the Event itself with the server's fields, or a Status.
const ANSWER_BYTES: u64 = 64 << 10;

/// A token bucket, as the moment at which it will be full.
#[derive(Debug, Default)]
struct Pace(Mono);

impl Pace {
    /// Takes a token: how long to wait until it is there, in nanoseconds.
    fn take(&mut self, now: Mono) -> u64 {
        self.0 = self.0.max(now).after(INTERVAL_NS);
        self.0.since(now.after(BURST * INTERVAL_NS))
    }
}

/// Sends what is in the outbox, for as long as the agent runs.
pub async fn run(outbox: Arc<Outbox>, api: Api, timing: Timing, node: String) {
    let mut pace = Pace::default();
    let mut backoff = Backoff::new(timing);
    loop {
        let notice = outbox.next().await;
        tokio::time::sleep(Duration::from_nanos(pace.take(mono_now()))).await;
        let mut tries = 0;
        loop {
            let mut error = match timeout(timing.request, send(&api.client(), &notice, &node)).await {
                Ok(Ok(sent)) => {
                    outbox.sent(sent);
                    backoff.reset();
                    break;
                }
                Ok(Err(error)) => error,
                Err(_elapsed) => Failed::retry("send", format!("no answer within {:?}", timing.request)),
            };
            tries += u32::from(matches!(error.then, Then::Retry { why: Why::ItsOwn, .. }));
            if tries >= TRIES {
                error.then = Then::Drop(Dropped::Rejected);
            }
            let why = format!("cannot {} events in {}: {}", error.verb, notice.namespace, error.why);
            let news = match error.then {
                Then::Drop(reason) => outbox.dropped(reason, &why),
                Then::Retry { .. } => outbox.failed(&why),
            };
            if news {
                tracing::warn!(verb = error.verb, resource = "events", namespace = notice.namespace, "{why}");
            }
            let Then::Retry { after, why } = error.then else { break };
            if why == Why::Unauthorized {
                api.renew().await;
            }
            tokio::time::sleep(backoff.failed().max(after.min(timing.backoff_max))).await;
        }
    }
}

/// What follows from a failure.
#[derive(Clone, Copy, Debug)]
enum Then {
    Drop(Dropped),
    Retry {
        /// The server asks for this pause.
        after: Duration,
        why: Why,
    },
}

/// Why it may work next time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// The server is away or overloaded.
    Server,
    /// The credentials are read anew.
    Unauthorized,
    /// Something about this Event.
    ItsOwn,
}

/// A request that failed.
#[derive(Debug)]
struct Failed {
    /// As RBAC calls it.
    verb: &'static str,
    why: String,
    then: Then,
}

impl Failed {
    fn retry(verb: &'static str, why: String) -> Self {
        Self { verb, why, then: Then::Retry { after: Duration::ZERO, why: Why::Server } }
    }

    fn of(verb: &'static str, error: &kube::Error) -> Self {
        let why = brief(error);
        let kube::Error::Api(status) = error else { return Self::retry(verb, why) };
        let details = status.details.as_ref();
        let after = Duration::from_secs(details.map_or(0, |details| details.retry_after_seconds).into());
        // A namespace that is going takes nothing new, which says nothing about what the agent may do.
        let is_going = details
            .is_some_and(|details| details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating"));
        let then = match status.code {
            403 if !is_going => Then::Drop(Dropped::Forbidden),
            // It was made or expired between two requests: 409 and 404 are looked at again.
            401 => Then::Retry { after, why: Why::Unauthorized },
            429 | 503 => Then::Retry { after, why: Why::Server },
            408 | 409 | 500.. => Then::Retry { after, why: Why::ItsOwn },
            _ => Then::Drop(Dropped::Rejected),
        };
        Self { verb, why, then }
    }
}

/// An Event that stands for several ends replaces what was said before, if that is still there.
async fn send(client: &Client, notice: &Notice, node: &str) -> Result<Sent, Failed> {
    let path = format!("/api/v1/namespaces/{}/events", notice.namespace);
    if notice.count > 1 {
        let patch = Patch::Merge(change(notice));
        let request = Request::new(&path)
            .patch(&notice.name, &PatchParams::default(), &patch)
            .map_err(|error| Failed::of("patch", &kube::Error::BuildRequest(error)))?;
        match answer(client, request).await {
            Ok(()) => return Ok(Sent::Updated),
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(Failed::of("patch", &error)),
        }
    }
    let body = event(notice, node).to_string().into_bytes();
    let request = Request::new(&path)
        .create(&PostParams::default(), body)
        .map_err(|error| Failed::of("create", &kube::Error::BuildRequest(error)))?;
    match answer(client, request).await {
        Ok(()) => Ok(Sent::Created),
        // An agent before this one said it.
        Err(kube::Error::Api(status)) if status.code == 409 && notice.count == 1 => Ok(Sent::Repeated),
        Err(error) => Err(Failed::of("create", &error)),
    }
}

async fn answer(client: &Client, request: hyper::Request<Vec<u8>>) -> Result<(), kube::Error> {
    let stream = client.request_stream(request).await?;
    // Read to its end, so that the connection can be used again; what it says is known.
    let mut body = Vec::new();
    drop(pin!(stream).take(ANSWER_BYTES).read_to_end(&mut body).await);
    Ok(())
}

fn change(notice: &Notice) -> Value {
    json!({"message": notice.message, "count": notice.count, "lastTimestamp": seconds(notice.last)})
}

fn event(notice: &Notice, node: &str) -> Value {
    let (kind, name, uid, version) = match &notice.about {
        About::Pod { name, uid } => ("Pod", name, Some(uid), Some("v1")),
        About::Workload(workload) => {
            (workload.kind.as_str(), &workload.name, None, api_version(&workload.kind))
        }
    };
    let instance = node.get(..INSTANCE_BYTES).unwrap_or(node);
    let mut event = change(notice);
    event["apiVersion"] = json!("v1");
    event["kind"] = json!("Event");
    event["metadata"] = json!({"name": notice.name, "namespace": notice.namespace});
    event["involvedObject"] = json!({"kind": kind, "namespace": notice.namespace, "name": name});
    if let Some(uid) = uid {
        event["involvedObject"]["uid"] = json!(uid);
    }
    if let Some(version) = version {
        event["involvedObject"]["apiVersion"] = json!(version);
    }
    event["type"] = json!("Warning");
    event["reason"] = json!(REASON);
    event["source"] = json!({"component": "drainscope", "host": node});
    event["reportingComponent"] = json!(REPORTER);
    event["reportingInstance"] = json!(instance);
    event["firstTimestamp"] = json!(seconds(notice.first));
    event
}

/// By which `kubectl events --for` asks; that of other kinds is not known from their name.
fn api_version(kind: &str) -> Option<&'static str> {
    match kind {
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" => Some("apps/v1"),
        "Job" | "CronJob" => Some("batch/v1"),
        "ReplicationController" => Some("v1"),
        _ => None,
    }
}

/// The API's times have whole seconds.
fn seconds(at: Timestamp) -> String {
    let text = at.to_string();
    text.split_once('.').map_or(text.clone(), |(whole, _)| format!("{whole}Z"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use probe_core::event::Workload;

    fn notice(about: About) -> Notice {
        Notice {
            name: "api.0123abcd".into(),
            namespace: "shop".into(),
            about,
            message: "2 requests lost".into(),
            count: 1,
            first: Timestamp(1_700_000_000_123_456_789),
            last: Timestamp(1_700_000_009_000_000_000),
        }
    }

    #[test]
    fn an_event_has_what_the_api_asks_for() {
        let of_pod = event(&notice(About::Pod { name: "api-1".into(), uid: "u1".into() }), "n1");
        assert_eq!(
            of_pod,
            json!({
                "apiVersion": "v1", "kind": "Event", "type": "Warning", "reason": "RequestsLost",
                "metadata": {"name": "api.0123abcd", "namespace": "shop"},
                "involvedObject": {"apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "api-1", "uid": "u1"},
                "message": "2 requests lost", "count": 1,
                "firstTimestamp": "2023-11-14T22:13:20Z", "lastTimestamp": "2023-11-14T22:13:29Z",
                "source": {"component": "drainscope", "host": "n1"},
                "reportingComponent": "drainscope.io/agent", "reportingInstance": "n1",
            })
        );
        for (kind, version) in
            [("Deployment", json!("apps/v1")), ("CronJob", json!("batch/v1")), ("Rollout", Value::Null)]
        {
            let workload = Workload { kind: kind.into(), name: "api".into() };
            let object = &event(&notice(About::Workload(workload)), &"n".repeat(200));
            assert_eq!(object["involvedObject"]["apiVersion"], version, "{kind}");
            assert_eq!(object["reportingInstance"].as_str().map(str::len), Some(INSTANCE_BYTES));
        }
    }

    #[test]
    fn a_burst_goes_at_once_and_the_rest_one_by_one() {
        let mut pace = Pace::default();
        let at = |second: u64| Mono((1000 + second) * SECOND);
        for number in 0..BURST {
            assert_eq!(pace.take(at(0)), 0, "{number}");
        }
        assert_eq!(pace.take(at(0)), SECOND);
        assert_eq!(pace.take(at(1)), SECOND);
        assert_eq!(pace.take(at(10)), 0, "what was not used is there");
        for number in 0..BURST {
            assert_eq!(pace.take(at(1000)), 0, "and no more than a burst: {number}");
        }
        assert_eq!(pace.take(at(1000)), SECOND);
    }

    #[test]
    fn what_follows_from_a_refusal_depends_on_its_code() {
        for (code, cause, expected) in [
            (403, None, "Drop(Forbidden)"),
            (403, Some("NamespaceTerminating"), "Drop(Rejected)"),
            (404, None, "Drop(Rejected)"),
            (422, None, "Drop(Rejected)"),
            (401, None, "Retry { after: 3s, why: Unauthorized }"),
            (409, None, "Retry { after: 3s, why: ItsOwn }"),
            (429, None, "Retry { after: 3s, why: Server }"),
            (503, None, "Retry { after: 3s, why: Server }"),
            (500, None, "Retry { after: 3s, why: ItsOwn }"),
        ] {
            let causes: Vec<Value> =
                cause.iter().map(|reason| json!({"reason": reason, "message": "", "field": ""})).collect();
            let status = json!({"code": code, "details": {"retryAfterSeconds": 3, "causes": causes}});
            let status = serde_json::from_value(status).expect("a Status");
            let failed = Failed::of("create", &kube::Error::Api(Box::new(status)));
            assert_eq!(format!("{:?}", failed.then), expected, "{code} {cause:?}");
        }
    }
}
