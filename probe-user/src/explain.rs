//! `drainscope explain pod`: why a pod is not Ready or gets no traffic, by [`probe_core::explain`].
//!
//! The pod, the Services and the EndpointSlices of its namespace are read from the API (three requests) or from a file, such as
//! `kubectl get pod,service,endpointslice -o yaml` writes it. The answer comes first, then why. Writes nothing.

use crate::args::{ExplainPodArgs, Output};
use anyhow::{Context as _, bail};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Request;
use kube::core::params::ListParams;
use kube::{Client, Config};
use probe_core::explain::{Activity, Explanation, Outlook, explain};
use probe_core::rules::endpoint::EndpointSlice;
use probe_core::rules::object::{Pod, Service};
use probe_core::wallclock::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

/// How long an API request may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most that is read of a file.
const MAX_FILE: u64 = 64 << 20;

/// What the explanation is made of.
#[derive(Debug, Default)]
pub struct Objects {
    pods: Vec<Pod>,
    services: Vec<Service>,
    slices: Vec<EndpointSlice>,
}

/// Reads what is asked for and explains it, as of this moment; the text for stdout.
pub async fn pod(args: &ExplainPodArgs, now: Timestamp) -> anyhow::Result<String> {
    let name = args.name.strip_prefix("pod/").unwrap_or(&args.name);
    let objects = match &args.file {
        Some(file) => read_file(file)?,
        None => read_api(args, name).await?,
    };
    let is_it = |pod: &&Pod| {
        pod.metadata.name == name
            && (args.file.is_none()
                || args.namespace.as_ref().is_none_or(|own| *own == pod.metadata.namespace))
    };
    let mut found = objects.pods.iter().filter(is_it);
    let Some(pod) = found.next() else { bail!("there is no pod {name} there") };
    if found.next().is_some() {
        bail!("there are several pods {name}: say which with --namespace");
    }
    let told = explain(pod, &objects.services, &objects.slices, now);
    Ok(match args.output {
        Output::Json => serde_json::to_string_pretty(&told)? + "\n",
        Output::Table => text(&told),
    })
}

/// Objects of a file: a list, or several documents, as YAML or JSON.
pub fn read_file(file: &Path) -> anyhow::Result<Objects> {
    let named = || file.display().to_string();
    let mut text = String::new();
    let read = if file.as_os_str() == "-" {
        std::io::stdin().lock().take(MAX_FILE + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).with_context(named)?.take(MAX_FILE + 1).read_to_string(&mut text)
    };
    if u64::try_from(read.with_context(named)?).unwrap_or(u64::MAX) > MAX_FILE {
        bail!("{}: more than {MAX_FILE} bytes", named());
    }
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).with_context(named)?;
    let mut objects = Objects::default();
    for document in documents {
        let items = match document.get("items") {
            Some(Value::Array(items)) => items.clone(),
            _ => vec![document],
        };
        for mut item in items {
            if item["metadata"].is_object() && item["metadata"]["namespace"].is_null() {
                item["metadata"]["namespace"] = "default".into();
            }
            let kind = item["kind"].as_str().unwrap_or_default().to_owned();
            match kind.as_str() {
                "Pod" => objects.pods.push(object(item).with_context(named)?),
                "Service" => objects.services.push(object(item).with_context(named)?),
                "EndpointSlice" => objects.slices.push(object(item).with_context(named)?),
                _ => {}
            }
        }
    }
    Ok(objects)
}

fn object<T: DeserializeOwned>(item: Value) -> anyhow::Result<T> {
    let name = format!("{} {}", item["kind"], item["metadata"]["name"]);
    serde_json::from_value(item).with_context(|| format!("{name} is not what the API would have"))
}

async fn read_api(args: &ExplainPodArgs, name: &str) -> anyhow::Result<Objects> {
    let options = KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
    let mut config = match &args.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).with_context(|| path.display().to_string())?;
            Config::from_custom_kubeconfig(file, &options)
                .await
                .with_context(|| path.display().to_string())?
        }
        None if args.context.is_some() => Config::from_kubeconfig(&options).await?,
        None => Config::infer().await.context("no cluster: pass --kubeconfig, or --file")?,
    };
    config.connect_timeout = Some(PATIENCE);
    config.default_retry = false;
    let namespace = args.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let client = Client::try_from(config)?;
    let pod = Request::new(format!("/api/v1/namespaces/{namespace}/pods")).get(name, &Default::default())?;
    let list = |path: String| Request::new(path).list(&ListParams::default());
    let services = list(format!("/api/v1/namespaces/{namespace}/services"))?;
    let slices = list(format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"))?;
    Ok(Objects {
        pods: vec![ask(&client, &format!("pod {namespace}/{name}"), pod).await?],
        services: ask::<Items<Service>>(&client, "services", services).await?.items,
        slices: ask::<Items<EndpointSlice>>(&client, "endpointslices", slices).await?.items,
    })
}

/// A list as the API answers it.
#[derive(serde::Deserialize)]
struct Items<T> {
    items: Vec<T>,
}

async fn ask<T: DeserializeOwned>(
    client: &Client,
    what: &str,
    request: axum::http::Request<Vec<u8>>,
) -> anyhow::Result<T> {
    let answer = tokio::time::timeout(PATIENCE, client.request::<T>(request)).await;
    answer.with_context(|| format!("{what}: no answer in {PATIENCE:?}"))?.with_context(|| what.to_owned())
}

/// For people: the answer, then why, then what differs.
fn text(told: &Explanation) -> String {
    let Explanation { namespace, name, .. } = told;
    let without: Vec<_> = told.services.iter().filter(|reach| !reach.traffic).collect();
    let verdict = match (told.ready, without.is_empty()) {
        (false, _) => format!("NOT READY  {namespace}/{name}  {}", told.reason),
        (true, true) => format!("READY      {namespace}/{name}"),
        (true, false) => format!("READY      {namespace}/{name}  but without traffic"),
    };
    // One line each, whatever the API has in its texts.
    let one_line = |text: &str| text.replace(char::is_control, " ");
    let mut text = one_line(&verdict) + "\n";
    let mut line = |word: &str, what: &str| {
        text.push_str(&format!("{word:<9}{}\n", one_line(what)));
    };
    if !told.message.is_empty() {
        line("why", &told.message);
    }
    for unready in &told.containers {
        line("why", &format!("{}: {}", unready.container, unready.why));
    }
    if let Some(deadline) = &told.deadline {
        line("ends", &format!("it is being deleted, by {deadline}"));
    }
    for probe in &told.probes {
        let state = match probe.state {
            Activity::Runs => "runs",
            Activity::Delayed => "delayed",
            Activity::Gated => "gated",
            Activity::Passed => "passed",
            Activity::Waits => "waits",
            Activity::Ended => "ended",
        };
        let outlook = probe.outlook.map_or_else(String::new, |outlook| coming(&outlook, told.at));
        let (container, kind) = (&probe.container, probe.kind.lowercase());
        line("probe", &format!("{container} {kind} {}: {state}: {}{outlook}", probe.handler, probe.why));
    }
    for reach in &told.services {
        let word = if reach.traffic { "yes" } else { "no" };
        line("traffic", &format!("{}: {word}, {}", reach.service, reach.why));
    }
    if told.services.is_empty() {
        line("traffic", "no Service of its namespace selects it");
    }
    for difference in &told.differences {
        line("differs", difference);
    }
    text
}

/// When a probe runs next and what may come of it, in seconds from now.
fn coming(outlook: &Outlook, now: Timestamp) -> String {
    const NS: i64 = 1_000_000_000;
    let by = |moment: Timestamp| moment.0.saturating_sub(now.0).max(0).saturating_add(NS - 1) / NS;
    let between = |from: Timestamp, to: Timestamp| match from.0.saturating_sub(now.0).max(0) / NS {
        0 => format!("in at most {} s", by(to)),
        from => format!("in {from} s to {} s", by(to)),
    };
    let mut text = format!("; next {}", between(outlook.next_from, outlook.next_by));
    if let Some(passes_by) = outlook.passes_by {
        text.push_str(&format!("; passes in at most {} s if all succeed from now on", by(passes_by)));
    }
    if let Some(fails) = outlook.fails {
        text.push_str(&format!("; fails {} if all fail", between(fails.from, fails.by)));
    }
    text
}
