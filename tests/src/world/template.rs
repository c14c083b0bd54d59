//! Pod templates of the test world in a few fields, as Kubernetes would have them written out.

use serde_json::{Value, json};

/// A pod with one container that serves HTTP on one port, named `http`.
#[derive(Clone, Debug)]
pub struct PodTemplate {
    /// Value of the label `app`.
    pub app: String,
    /// `testserver` or `nginx`.
    pub image: String,
    /// The container's arguments.
    pub args: Vec<String>,
    /// The port it serves on.
    pub port: u16,
    /// `preStop.sleep.seconds`; 0 is no hook.
    pub prestop_seconds: u64,
    /// `terminationGracePeriodSeconds`.
    pub grace_seconds: u64,
    /// `lifecycle.stopSignal`, such as `SIGQUIT`; absent is SIGTERM.
    pub stop_signal: Option<String>,
    /// Path of the readiness probe (period 1 s, one failure suffices); absent is no probe.
    pub readiness_path: Option<String>,
    /// `hostNetwork`: the pod has the node's network and addresses.
    pub host_network: bool,
}

impl PodTemplate {
    /// The test world's server on port 8080, with these arguments, probed at /readyz.
    pub fn testserver(app: &str, args: &[&str]) -> Self {
        Self {
            app: app.to_owned(),
            image: "testserver".to_owned(),
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            port: 8080,
            prestop_seconds: 0,
            grace_seconds: 30,
            stop_signal: None,
            readiness_path: Some("/readyz".to_owned()),
            host_network: false,
        }
    }

    /// The test world's server on this port of the node itself, for both address families.
    pub fn on_host(app: &str, port: u16, args: &[&str]) -> Self {
        let listen = format!("[::]:{port}");
        let args = [&["--listen", listen.as_str()], args].concat();
        Self { port, host_network: true, ..Self::testserver(app, &args) }
    }

    /// nginx on port 8080, probed at /.
    pub fn nginx(app: &str) -> Self {
        Self { image: "nginx".to_owned(), readiness_path: Some("/".to_owned()), ..Self::testserver(app, &[]) }
    }

    /// The template as an object with `metadata.labels` and `spec`.
    pub fn to_value(&self) -> Value {
        let mut container = json!({
            "name": "server", "image": self.image, "args": self.args,
            "ports": [{"name": "http", "containerPort": self.port, "protocol": "TCP"}],
        });
        if self.prestop_seconds > 0 {
            container["lifecycle"]["preStop"] = json!({"sleep": {"seconds": self.prestop_seconds}});
        }
        if let Some(signal) = &self.stop_signal {
            container["lifecycle"]["stopSignal"] = json!(signal);
        }
        if let Some(path) = &self.readiness_path {
            container["readinessProbe"] = json!({"httpGet": {"path": path, "port": "http", "scheme": "HTTP"}, "periodSeconds": 1, "failureThreshold": 1});
        }
        if self.host_network {
            // As the API server fills it in: the scheduler keeps two such pods off one node.
            container["ports"][0]["hostPort"] = json!(self.port);
        }
        let mut template = json!({
            "metadata": {"labels": {"app": self.app}},
            "spec": {
                "containers": [container], "restartPolicy": "Always", "terminationGracePeriodSeconds": self.grace_seconds,
            },
        });
        if self.host_network {
            template["spec"]["hostNetwork"] = json!(true);
        }
        template
    }
}
