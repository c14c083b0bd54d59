//! `drainscope check`: what works on this node, what does not, what is lost by that and how to mend it. The kernel's items
//! come from [`crate::kernel`]; the API's are asked for here, by the same requests that the agent makes.

use crate::args::{CheckArgs, Output};
use crate::kernel::{CheckItem, CheckState, KernelConfig, Pins, probe_kernel};
use crate::kube::client::{ConnectError, connect};
use kube::Client;
use kube::core::Request;
use kube::core::params::ListParams;
use serde::Serialize;
use std::time::Duration;

/// How long an API request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The whole report.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The worst of all items.
    pub state: CheckState,
    /// One by one.
    pub items: Vec<CheckItem>,
}

impl Report {
    fn of(items: Vec<CheckItem>) -> Self {
        let state = items.iter().map(|item| item.state).max().unwrap_or(CheckState::Ok);
        Self { state, items }
    }

    /// 0 all works, 1 degraded, 2 fails.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.state {
            CheckState::Ok => 0,
            CheckState::Degraded => 1,
            CheckState::Failed => 2,
        }
    }

    /// The report as text.
    #[must_use]
    pub fn text(&self, output: Output) -> String {
        match output {
            Output::Json => serde_json::to_string_pretty(self).unwrap_or_default() + "\n",
            Output::Table => self.table(),
        }
    }

    fn table(&self) -> String {
        let width = self.items.iter().map(|item| item.name.chars().count()).max().unwrap_or(0);
        let mut text = format!("{}\n", word(self.state));
        for item in &self.items {
            text.push_str(&format!(
                "{:<9} {:<width$}  {}\n",
                word(item.state),
                item.name,
                one_line(&item.detail)
            ));
            if item.state != CheckState::Ok && !item.fix.is_empty() {
                text.push_str(&format!("{:<9} {:<width$}  -> {}\n", "", "", one_line(&item.fix)));
            }
        }
        text
    }
}

const fn word(state: CheckState) -> &'static str {
    match state {
        CheckState::Ok => "ok",
        CheckState::Degraded => "degraded",
        CheckState::Failed => "failed",
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Looks at everything.
pub async fn check(args: &CheckArgs) -> Report {
    let config = KernelConfig {
        cgroup_root: args.cgroup_root.clone(),
        debug_log: false,
        silence: PATIENCE,
        ring_bytes: None,
    };
    let mut items = probe_kernel(&config);
    items.push(pins(args));
    items.extend(api(args).await);
    Report::of(items)
}

fn pins(args: &CheckArgs) -> CheckItem {
    match Pins::check(&args.pin_dir) {
        Ok(()) => item("pins", CheckState::Ok, args.pin_dir.display().to_string(), ""),
        Err(error) => item(
            "pins",
            CheckState::Degraded,
            format!("{error}; lost: what happens while no agent runs"),
            "bpffs at /sys/fs/bpf, writable for the agent",
        ),
    }
}

async fn api(args: &CheckArgs) -> Vec<CheckItem> {
    let client = match connect(args.kube.kubeconfig.as_deref()).await {
        Ok(client) => client,
        Err(error @ ConnectError::InCluster(_)) => {
            let fix = "in a pod this works by itself; elsewhere pass --kubeconfig";
            return vec![item("API server", CheckState::Degraded, error.to_string(), fix)];
        }
        Err(error) => {
            return vec![item(
                "API server",
                CheckState::Failed,
                error.to_string(),
                "a kubeconfig that can be used",
            )];
        }
    };
    let reached = tokio::time::timeout(PATIENCE, client.apiserver_version()).await;
    let version = match reached {
        Ok(Ok(version)) => {
            item("API server", CheckState::Ok, format!("Kubernetes {}", version.git_version), "")
        }
        Ok(Err(error)) => {
            let fix = "the address and credentials of the kubeconfig or service account, and the network";
            return vec![item("API server", CheckState::Failed, error.to_string(), fix)];
        }
        Err(_) => {
            let detail = format!("no answer within {PATIENCE:?}");
            return vec![item(
                "API server",
                CheckState::Failed,
                detail,
                "the network between node and API server",
            )];
        }
    };
    let mut items = vec![version];
    let fields = args.kube.node_name.as_ref().map(|node| format!("spec.nodeName={node}"));
    let resources = [
        ("list pods", "/api/v1/pods", fields, "pods of this node: nothing has a name without them"),
        ("list services", "/api/v1/services", None, "whether late traffic is expected"),
        (
            "list endpointslices",
            "/apis/discovery.k8s.io/v1/endpointslices",
            None,
            "endpoint lag and silent terminations",
        ),
    ];
    for (name, path, fields, lost) in resources {
        items.push(list(&client, name, path, fields, lost).await);
    }
    items
}

async fn list(client: &Client, name: &str, path: &str, fields: Option<String>, lost: &str) -> CheckItem {
    let mut params = ListParams::default().limit(1);
    params.field_selector = fields;
    let request = match Request::new(path).list(&params) {
        Ok(request) => request,
        Err(error) => return item(name, CheckState::Failed, error.to_string(), ""),
    };
    match tokio::time::timeout(PATIENCE, client.request_text(request)).await {
        Ok(Ok(_)) => item(name, CheckState::Ok, "allowed", ""),
        Ok(Err(error)) => {
            let fix =
                format!("a ClusterRole with get, list and watch on {}", name.trim_start_matches("list "));
            item(name, CheckState::Failed, format!("{error}; lost: {lost}"), &fix)
        }
        Err(_) => item(name, CheckState::Failed, format!("no answer within {PATIENCE:?}; lost: {lost}"), ""),
    }
}

fn item(name: &str, state: CheckState, detail: impl Into<String>, fix: &str) -> CheckItem {
    CheckItem { name: name.to_owned(), state, detail: detail.into(), fix: fix.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_item_decides() {
        let ok = || item("a", CheckState::Ok, "fine", "");
        let degraded = || item("longer", CheckState::Degraded, "old\nkernel", "a new one");
        let failed = || item("c", CheckState::Failed, "gone", "");
        for (items, code) in
            [(vec![], 0), (vec![ok()], 0), (vec![ok(), degraded()], 1), (vec![failed(), degraded()], 2)]
        {
            assert_eq!(Report::of(items).exit_code(), code);
        }
        let report = Report::of(vec![ok(), degraded()]);
        assert_eq!(
            report.text(Output::Table),
            "degraded\nok        a       fine\ndegraded  longer  old kernel\n                  -> a new one\n"
        );
        let json: serde_json::Value = serde_json::from_str(&report.text(Output::Json)).expect("JSON");
        assert_eq!((&json["state"], &json["items"][1]["fix"]), (&"degraded".into(), &"a new one".into()));
    }
}
