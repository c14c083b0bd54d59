//! Cases of the rules, by name.

use super::super::spec::{Hook, Owner};
use super::super::timing::Bounds;
use super::super::{Code, Level};
use super::{BATCH, SERVICE, found, report};

/// Ports, probes and hook of a container that nothing is wrong with.
const PORTS: &str = r#""ports":[{"name":"http","containerPort":8080}]"#;
const READY: &str = r#""readinessProbe":{"httpGet":{"path":"/ready","port":"http"}}"#;
const ALIVE: &str = r#""livenessProbe":{"httpGet":{"path":"/alive","port":8080}}"#;
const HOOK: &str = r#""lifecycle":{"preStop":{"sleep":{"seconds":10}}}"#;

fn pod(container: &[&str]) -> String {
    with("", container)
}

fn with(spec: &str, container: &[&str]) -> String {
    format!(r#"{{{spec}"containers":[{{"name":"app",{}}}]}}"#, container.join(","))
}

fn liveness(fields: &str) -> String {
    format!(r#""livenessProbe":{{"httpGet":{{"path":"/alive","port":8080}},{fields}}}"#)
}

fn startup(fields: &str) -> String {
    format!(r#""startupProbe":{{"httpGet":{{"path":"/alive","port":8080}},{fields}}}"#)
}

fn readiness(fields: &str) -> String {
    format!(r#""readinessProbe":{{"httpGet":{{"path":"/ready","port":8080}},{fields}}}"#)
}

fn prestop(hook: &str) -> String {
    format!(r#""lifecycle":{{"preStop":{hook}}}"#)
}

fn check(cases: &[(&str, String, &[&str])]) {
    for (name, pod, wanted) in cases {
        assert_eq!(found(pod, SERVICE), *wanted, "{name}");
    }
}

#[test]
fn probes() {
    let with_probes = |probes: &[&str]| pod(&[&[PORTS, HOOK], probes].concat());
    check(&[
        ("nothing wrong", with_probes(&[READY, ALIVE]), &[]),
        ("no liveness is no fault", with_probes(&[READY]), &[]),
        ("no readiness", with_probes(&[ALIVE]), &["warning missing-readiness"]),
        (
            "no readiness after startup",
            with_probes(&[&startup(r#""failureThreshold":30"#)]),
            &["note missing-readiness"],
        ),
        ("no readiness and no port", pod(&[ALIVE]), &[]),
        (
            "liveness equals readiness",
            with_probes(&[READY, r#""livenessProbe":{"httpGet":{"path":"/ready","port":"http"}}"#]),
            &["warning liveness-equals-readiness"],
        ),
        (
            "the same by the API's defaults",
            with_probes(&[
                r#""readinessProbe":{"httpGet":{"port":8080}}"#,
                r#""livenessProbe":{"httpGet":{"path":"/","port":8080,"scheme":"HTTP"}}"#,
            ]),
            &["warning liveness-equals-readiness"],
        ),
        (
            "liveness well after readiness",
            with_probes(&[
                READY,
                r#""livenessProbe":{"httpGet":{"path":"/ready","port":"http"},"failureThreshold":6}"#,
            ]),
            &["note liveness-equals-readiness"],
        ),
        (
            "timeout equals period",
            with_probes(&[READY, &liveness(r#""timeoutSeconds":10"#)]),
            &["warning timeout-not-below-period"],
        ),
        ("timeout below period", with_probes(&[READY, &liveness(r#""timeoutSeconds":9"#)]), &[]),
        (
            "period 1 with the default timeout",
            with_probes(&[ALIVE, &readiness(r#""periodSeconds":1"#)]),
            &["warning timeout-not-below-period"],
        ),
        (
            "one failure restarts",
            with_probes(&[READY, &liveness(r#""failureThreshold":1"#)]),
            &["warning single-failure"],
        ),
        ("one failure makes unready", with_probes(&[ALIVE, &readiness(r#""failureThreshold":1"#)]), &[]),
        ("exec", with_probes(&[r#""readinessProbe":{"exec":{"command":["true"]}}"#]), &["note exec-cost"]),
        (
            "exec of startup alone",
            with_probes(&[READY, r#""startupProbe":{"exec":{"command":["true"]}}"#]),
            &[],
        ),
        (
            "no restart",
            with(r#""restartPolicy":"Never","#, &[PORTS, READY, ALIVE, HOOK]),
            &["note no-restart"],
        ),
        ("a port that is not there", pod(&[READY, HOOK]), &["error port-name-unknown"]),
        (
            "another host",
            with_probes(&[r#""readinessProbe":{"tcpSocket":{"port":1,"host":"db"}}"#]),
            &["warning probe-host"],
        ),
        (
            "the node's loopback",
            with_probes(&[r#""readinessProbe":{"tcpSocket":{"port":1,"host":"127.0.0.1"}}"#]),
            &["error probe-host"],
        ),
        (
            "loopback of a pod in the node's network",
            with(
                r#""hostNetwork":true,"#,
                &[PORTS, HOOK, r#""readinessProbe":{"tcpSocket":{"port":1,"host":"127.0.0.1"}}"#],
            ),
            &["note probe-host"],
        ),
    ]);
}

#[test]
fn what_the_api_refuses() {
    check(&[
        ("no handler", pod(&[PORTS, READY, HOOK, r#""livenessProbe":{}"#]), &["error invalid"]),
        ("a refused probe is no missing one", pod(&[PORTS, HOOK, r#""readinessProbe":{"periodSeconds":5}"#]), &["error invalid"]),
        ("two at once", pod(&[PORTS, READY, HOOK, &liveness(r#""periodSeconds":-1,"successThreshold":2"#)]), &["error invalid", "error invalid"]),
        ("negative grace", with(r#""terminationGracePeriodSeconds":-1,"#, &[PORTS, READY]), &["error invalid"]),
        ("stopSignal without os", pod(&[r#""lifecycle":{"stopSignal":"SIGUSR1"}"#]), &["error invalid"]),
        ("stopSignal", with(r#""os":{"name":"linux"},"#, &[r#""lifecycle":{"stopSignal":"SIGUSR1"}"#]), &[]),
        (
            "probe of an init container",
            r#"{"containers":[{"name":"app"}],"initContainers":[{"name":"i","readinessProbe":{"exec":{"command":["true"]}}}]}"#.to_owned(),
            &["error init-container"],
        ),
        (
            "a sidecar may have one",
            r#"{"containers":[{"name":"app"}],"initContainers":[{"name":"i","restartPolicy":"Always","readinessProbe":{"tcpSocket":{"port":1}}}]}"#.to_owned(),
            &[],
        ),
    ]);
    let report = report(&pod(&[PORTS, READY, HOOK, r#""livenessProbe":{}"#]), SERVICE);
    assert_eq!(report.findings[0].what, "livenessProbe: Required value: must specify a handler type");
    assert_eq!(report.probes.len(), 1, "a refused probe has no times");
}

#[test]
fn start() {
    let with_probes = |probes: &[&str]| pod(&[&[PORTS, HOOK, READY], probes].concat());
    check(&[
        (
            "a delay is the time to start",
            with_probes(&[&liveness(r#""initialDelaySeconds":60"#)]),
            &["note delay-as-startup"],
        ),
        ("startup instead", with_probes(&[ALIVE, &startup(r#""failureThreshold":30"#)]), &[]),
        (
            "startup with the defaults",
            with_probes(&[ALIVE, &startup(r#""periodSeconds":10"#)]),
            &["warning startup-gains-nothing"],
        ),
        (
            "startup that runs oftener and ends sooner",
            with_probes(&[ALIVE, &startup(r#""periodSeconds":2,"failureThreshold":5"#)]),
            &["warning startup-gains-nothing"],
        ),
        (
            "liveness kills before readiness asks",
            pod(&[PORTS, HOOK, ALIVE, &readiness(r#""initialDelaySeconds":21"#)]),
            &["warning liveness-before-readiness"],
        ),
        (
            "liveness kills when readiness asks",
            pod(&[PORTS, HOOK, ALIVE, &readiness(r#""initialDelaySeconds":20"#)]),
            &[],
        ),
        (
            "startup holds liveness back",
            pod(&[
                PORTS,
                HOOK,
                ALIVE,
                &readiness(r#""initialDelaySeconds":60"#),
                &startup(r#""failureThreshold":30"#),
            ]),
            &[],
        ),
    ]);
}

#[test]
fn shutdown() {
    let hook = |hook: &str| pod(&[PORTS, READY, &prestop(hook)]);
    let grace = |seconds: i64, hook: &str| {
        with(&format!(r#""terminationGracePeriodSeconds":{seconds},"#), &[PORTS, READY, &prestop(hook)])
    };
    let sleep = |seconds: i64| format!(r#"{{"sleep":{{"seconds":{seconds}}}}}"#);
    check(&[
        ("no hook", pod(&[PORTS, READY]), &["note missing-prestop"]),
        ("no hook and no port", pod(&[READY.replace("\"http\"", "80").as_str()]), &[]),
        ("half of the grace", hook(&sleep(15)), &[]),
        ("most of the grace", hook(&sleep(16)), &["note prestop-eats-grace"]),
        ("all but two seconds", hook(&sleep(28)), &["warning prestop-eats-grace"]),
        ("all of the grace", hook(&sleep(30)), &["warning prestop-eats-grace"]),
        ("more than the grace", hook(&sleep(31)), &["error prestop-over-grace"]),
        ("negative", hook(&sleep(-1)), &["error prestop-over-grace"]),
        ("more than any grace", hook(&sleep(i64::MAX)), &["error prestop-over-grace"]),
        ("a grace of its own", grace(60, &sleep(20)), &[]),
        ("the longest grace", grace(i64::MAX, &sleep(20)), &[]),
        (
            "a command that sleeps",
            hook(r#"{"exec":{"command":["/bin/sh","-c","sleep 40"]}}"#),
            &["error prestop-over-grace"],
        ),
        (
            "a command that does more",
            hook(r#"{"exec":{"command":["sh","-c","nginx -s quit; sleep 40"]}}"#),
            &[],
        ),
        ("tcpSocket", hook(r#"{"tcpSocket":{"port":1}}"#), &["error prestop-tcp"]),
        ("no grace", grace(0, &sleep(0)), &["warning grace-too-short", "warning prestop-eats-grace"]),
        (
            "SIGKILL",
            with(r#""os":{"name":"linux"},"#, &[r#""lifecycle":{"stopSignal":"SIGKILL"}"#]),
            &["warning stop-signal"],
        ),
    ]);
}

#[test]
fn a_job_serves_nobody() {
    assert_eq!(found(&pod(&[PORTS]), BATCH), <[String; 0]>::default());
}

#[test]
fn a_command_that_is_nothing_but_a_sleep_is_one() {
    for (command, wanted) in [
        (r#"["sleep","15"]"#, Some(15)),
        (r#"["/usr/bin/sleep","15s"]"#, Some(15)),
        (r#"["/bin/bash","-c"," sleep  7 "]"#, Some(7)),
        (r#"["sh","-c","sleep 5 && echo"]"#, None),
        (r#"["sleep","1m"]"#, None),
        (r#"["sleep","0.5"]"#, None),
        (r#"["sleep"]"#, None),
        ("[]", None),
    ] {
        let hook: Hook =
            serde_json::from_str(&format!(r#"{{"exec":{{"command":{command}}}}}"#)).expect("a hook");
        assert_eq!(hook.sleep_seconds(), wanted, "{command}");
    }
}

#[test]
fn the_times_of_the_defaults() {
    let report = report(&pod(&[PORTS, READY, ALIVE, HOOK]), SERVICE);
    let (live, ready) = (&report.probes[0], &report.probes[1]);
    assert_eq!(live.first_run_seconds, Bounds { from: 0, to: 10 });
    assert_eq!(live.detection_refused_seconds, Bounds { from: 20, to: 30 });
    assert_eq!(live.detection_hanging_seconds, Bounds { from: 21, to: 31 });
    assert_eq!(live.rule_of_thumb_seconds, 33);
    assert_eq!(live.start_budget_seconds, Some(Bounds { from: 20, to: 30 }));
    // 31 s to see it, 10 s of preStop and the rest of the grace.
    assert_eq!(live.restart_at_most_seconds, Some(61));
    assert_eq!((ready.restart_at_most_seconds, ready.start_budget_seconds), (None, None));
    assert_eq!(ready.recovery_at_most_seconds, 11);
}

#[test]
fn a_restart_has_the_grace_of_its_probe_and_two_seconds_at_least() {
    for (fields, hook, wanted) in [
        (r#""terminationGracePeriodSeconds":5"#, HOOK, 31 + 5 + 2),
        (r#""terminationGracePeriodSeconds":60"#, HOOK, 31 + 60),
        (r#""terminationGracePeriodSeconds":1"#, r#""name":"app""#, 31 + 2),
        (r#""periodSeconds":10"#, r#""lifecycle":{"preStop":{"exec":{"command":["./drain"]}}}"#, 31 + 30 + 2),
    ] {
        let text = format!(r#"{{"containers":[{{{hook},{}}}]}}"#, liveness(fields));
        assert_eq!(report(&text, SERVICE).probes[0].restart_at_most_seconds, Some(wanted), "{fields} {hook}");
    }
}

#[test]
fn a_startup_probe_holds_the_others_back() {
    let report = report(
        &pod(&[&liveness(r#""initialDelaySeconds":9"#), &startup(r#""failureThreshold":30"#)]),
        SERVICE,
    );
    let (start, live) = (&report.probes[0], &report.probes[1]);
    assert_eq!(
        (start.after_startup, start.start_budget_seconds),
        (false, Some(Bounds { from: 290, to: 300 }))
    );
    assert_eq!((live.after_startup, live.start_budget_seconds), (true, None));
    assert_eq!(live.first_run_seconds, Bounds { from: 0, to: 10 });
}

#[test]
fn processes_of_exec_probes_are_counted_by_their_periods() {
    let text = pod(&[
        r#""readinessProbe":{"exec":{"command":["a"]},"periodSeconds":5}"#,
        r#""livenessProbe":{"exec":{"command":["b"]}}"#,
    ]);
    let load = report(&text, SERVICE).exec.expect("exec probes");
    assert_eq!((load.probes, load.pods_per_node), (2, 110));
    assert!((load.per_pod_per_second - 0.3).abs() < 1e-9 && (load.per_node_per_second - 33.0).abs() < 1e-9);
    let one = Owner { is_batch: false, pods_per_node: 1 };
    let finding = report(&text, one).findings.remove(0);
    assert_eq!((finding.code, finding.level), (Code::ExecCost, Level::Note));
    assert!(finding.why.contains("0.30/s for a pod, x 1 pods of a node = 0.3/s"), "{}", finding.why);
}

#[test]
fn the_largest_numbers_overflow_nothing() {
    let most = r#""initialDelaySeconds":2147483647,"periodSeconds":2147483647,"failureThreshold":2147483647,"timeoutSeconds":2147483647"#;
    let probe =
        format!("{},{}", liveness(most), readiness(&format!("{most},\"successThreshold\":2147483647")));
    let report =
        report(&with(r#""terminationGracePeriodSeconds":9223372036854775807,"#, &[PORTS, &probe]), SERVICE);
    assert!(report.probes.iter().all(|probe| probe.detection_hanging_seconds.to > 0), "{:?}", report.probes);
}
