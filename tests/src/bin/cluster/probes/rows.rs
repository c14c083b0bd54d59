//! The pods: a probe each, how its server behaves, and what is to come of it.

use probe_core::probes::ProbeType;
use serde_json::{Value, json};

use crate::pods;

/// When both sides are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// Once the kubelet has probed for a while.
    Settled,
    /// From the container's start.
    AtOnce,
}

/// One pod and its probe.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) title: &'static str,
    /// The pod's.
    pub(super) name: &'static str,
    pub(super) kind: ProbeType,
    /// In the API's form.
    pub(super) probe: Value,
    /// The server's environment.
    env: &'static [(&'static str, &'static str)],
    pub(super) begin: Begin,
    /// Results, in both accounts.
    pub(super) results: &'static [&'static str],
    /// Part of what is said of all that are no success.
    pub(super) says: &'static str,
    /// What is believed by turns.
    pub(super) up: bool,
    pub(super) down: bool,
    /// The container is restarted.
    pub(super) kills: bool,
    /// The kubelet discards every run.
    pub(super) discarded: bool,
    /// A command that nobody else runs as long as it settles: its processes are the kubelet's. The pod is not mirrored.
    pub(super) is_alone: bool,
}

impl Case {
    /// Its pod.
    pub(super) fn pod(&self) -> Value {
        let mut pod = pods::pod(self.name, self.spec());
        if self.is_alone {
            pod["metadata"]["annotations"] = json!({"drainscope.io/probes": "off"});
        }
        pod
    }

    fn spec(&self) -> Value {
        let mut container = pods::container("exit");
        let variables = self.env.iter().map(|(name, value)| json!({"name": name, "value": value}));
        container["env"] = variables.collect();
        if let Some(object) = container.as_object_mut() {
            object.remove("readinessProbe");
        }
        container[self.field()] = self.probe.clone();
        if self.discarded {
            // `probe pod` refuses a pod of which it can run nothing.
            container["livenessProbe"] = json!({"tcpSocket": {"port": 8080}});
        }
        pods::spec(container, 5)
    }

    /// It has connections.
    pub(super) fn has_connections(&self) -> bool {
        self.probe["exec"].is_null() && !self.discarded
    }

    /// The agent mirrors it to its end. Once the API says that a container has started its startup probe is not run any more, though the
    /// mirror's own may not have passed.
    pub(super) fn is_mirrored(&self) -> bool {
        !(self.is_alone || (self.kind == ProbeType::Startup && self.up))
    }

    /// `drainscope probe pod` runs it as well: not beside what is compared with connections from the start, for it makes some.
    pub(super) fn is_sampled(&self) -> bool {
        self.begin == Begin::Settled || !self.is_mirrored()
    }

    fn field(&self) -> &'static str {
        match self.kind {
            ProbeType::Liveness => "livenessProbe",
            ProbeType::Readiness => "readinessProbe",
            ProbeType::Startup => "startupProbe",
        }
    }

    /// A number of its probe, or the API's default.
    pub(super) fn number(&self, key: &str, default: i32) -> i32 {
        self.probe[key].as_i64().and_then(|number| i32::try_from(number).ok()).unwrap_or(default)
    }
}

fn case(title: &'static str, name: &'static str, kind: ProbeType, handler: Value) -> Case {
    let mut probe = json!({"periodSeconds": 1, "timeoutSeconds": 3});
    for (key, value) in handler.as_object().into_iter().flatten() {
        probe[key] = value.clone();
    }
    Case {
        title,
        name,
        kind,
        probe,
        env: &[],
        begin: Begin::Settled,
        results: &["success"],
        says: "",
        up: true,
        down: false,
        kills: false,
        discarded: false,
        is_alone: false,
    }
}

fn ready(title: &'static str, name: &'static str, handler: Value) -> Case {
    case(title, name, ProbeType::Readiness, handler)
}

/// One that fails all the time.
fn unready(title: &'static str, name: &'static str, handler: Value, says: &'static str) -> Case {
    Case { results: &["failure"], says, up: false, down: true, ..ready(title, name, handler) }
}

fn http(path: &str) -> Value {
    json!({"httpGet": {"path": path, "port": 8081}})
}

/// With other numbers.
fn with(mut handler: Value, numbers: &[(&str, i32)]) -> Value {
    for (key, number) in numbers {
        handler[*key] = json!(number);
    }
    handler
}

/// All of them.
pub(super) fn all() -> Vec<Case> {
    [sockets(), calls(), commands(), restarting(), flapping()].into_iter().flatten().collect()
}

/// HTTP, HTTPS and TCP.
fn sockets() -> Vec<Case> {
    vec![
        ready("HTTP 200, port by name", "http-ok", json!({"httpGet": {"path": "/readyz", "port": "http"}})),
        unready("HTTP 500", "http-500", http("/status?code=500"), "HTTP probe failed with statuscode: 500"),
        Case {
            results: &["warning"],
            says: "Probe terminated redirects",
            ..ready("HTTP redirect to another host", "http-elsewhere", http("/elsewhere"))
        },
        unready(
            "HTTP answer after the timeout",
            "http-late",
            with(http("/?delay=4s"), &[("timeoutSeconds", 1)]),
            "context deadline exceeded",
        ),
        ready(
            "HTTPS, certificate of another name by nobody",
            "https-ok",
            json!({"httpGet": {"path": "/readyz", "port": 8443, "scheme": "HTTPS"}}),
        ),
        ready("TCP", "tcp-ok", json!({"tcpSocket": {"port": 8080}})),
        unready(
            "TCP refused",
            "tcp-refused",
            json!({"tcpSocket": {"port": 9}}),
            "connect: connection refused",
        ),
        Case {
            results: &["unknown"],
            up: false,
            down: true,
            discarded: true,
            says: "strconv.Atoi: parsing",
            ..ready(
                "port that nothing is named",
                "port-name",
                json!({"httpGet": {"path": "/", "port": "nonesuch"}}),
            )
        },
    ]
}

/// gRPC.
fn calls() -> Vec<Case> {
    vec![
        ready("gRPC SERVING", "grpc-ok", json!({"grpc": {"port": 9090}})),
        Case {
            env: &[("HEALTH", "2")],
            ..unready(
                "gRPC NOT_SERVING",
                "grpc-not-serving",
                json!({"grpc": {"port": 9090}}),
                "service unhealthy (responded with \"NOT_SERVING\")",
            )
        },
    ]
}

/// Commands: as the kubelet alone runs them, and mirrored.
fn commands() -> Vec<Case> {
    let exec = |words: &[&str]| json!({"exec": {"command": words}});
    let of = |is_alone, [ok, one, late]: [(&'static str, &'static str); 3]| {
        [
            Case { is_alone, ..ready(ok.0, ok.1, exec(&["/app", "exit", "0"])) },
            Case {
                is_alone,
                env: &[("CODE", "1")],
                ..unready(one.0, one.1, exec(&["/app", "exit", "$(CODE)"]), "code 1")
            },
            Case {
                is_alone,
                ..unready(
                    late.0,
                    late.1,
                    with(exec(&["/app", "exit", "0", "4s"]), &[("timeoutSeconds", 1)]),
                    "command timed out: \"/app exit 0 4s\" timed out after 1s",
                )
            },
        ]
    };
    let alone = [
        ("exec, exit code 0", "exec-ok"),
        ("exec, exit code 1 by a variable", "exec-1"),
        ("exec, longer than the timeout", "exec-late"),
    ];
    let mirrored = [
        ("exec, exit code 0, mirrored", "exec-ok-too"),
        ("exec, exit code 1 by a variable, mirrored", "exec-1-too"),
        ("exec, longer than the timeout, mirrored", "exec-late-too"),
    ];
    [of(true, alone), of(false, mirrored)].into_iter().flatten().collect()
}

/// A probe that kills its container.
fn answers_500(what: &'static str, name: &'static str, kind: ProbeType) -> Case {
    Case {
        begin: Begin::AtOnce,
        results: &["failure"],
        says: "statuscode: 500",
        up: false,
        down: true,
        kills: true,
        ..case(what, name, kind, with(http("/status?code=500"), &[("periodSeconds", 5)]))
    }
}

/// Liveness and startup.
fn restarting() -> Vec<Case> {
    let (liveness, startup) = (ProbeType::Liveness, ProbeType::Startup);
    vec![
        Case {
            env: &[("START_DELAY", "8s")],
            begin: Begin::AtOnce,
            results: &["success", "failure"],
            says: "connect: connection refused",
            ..case(
                "slow start within the startup probe",
                "slow-start",
                startup,
                with(http("/readyz"), &[("failureThreshold", 60)]),
            )
        },
        answers_500("liveness HTTP 500: restarted", "live-500", liveness),
        answers_500("startup HTTP 500: restarted", "startup-500", startup),
        Case {
            begin: Begin::AtOnce,
            results: &["success", "failure"],
            says: "statuscode: 503",
            ..case(
                "liveness HTTP 200 after failures below the threshold",
                "live-late",
                liveness,
                with(http("/late?after=12s"), &[("failureThreshold", 60), ("initialDelaySeconds", 2)]),
            )
        },
    ]
}

/// Good and bad by turns.
fn flapping() -> Vec<Case> {
    vec![
        Case {
            results: &["success", "failure"],
            says: "statuscode: 503",
            ..ready("flapping below the threshold", "flap-below", http("/flap?bad=1500ms&good=3500ms"))
        },
        Case {
            results: &["success", "failure"],
            says: "statuscode: 503",
            down: true,
            ..ready(
                "flapping above the threshold",
                "flap-above",
                with(http("/flap?bad=10s&good=10s"), &[("failureThreshold", 2)]),
            )
        },
    ]
}
