//! Where workloads come from: files, standard input, the API. A file that exists is one, whatever its name; else kind/name is asked of the
//! API, one GET each.

use super::manifest::{self, Manifest, ManifestError};
use super::table::printable;
use crate::args::advise::AdviseProbesArgs;
use crate::kube::names::is_subdomain;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// The most that is read of an input: thousands of workloads.
const MOST_BYTES: u64 = 16 << 20;

/// Kinds by the names that kubectl knows, and where the API has them.
const KINDS: [(&[&str], &str, &str); 8] = [
    (&["pod", "pods", "po"], "api/v1", "pods"),
    (&["deployment", "deployments", "deploy"], "apis/apps/v1", "deployments"),
    (&["statefulset", "statefulsets", "sts"], "apis/apps/v1", "statefulsets"),
    (&["daemonset", "daemonsets", "ds"], "apis/apps/v1", "daemonsets"),
    (&["replicaset", "replicasets", "rs"], "apis/apps/v1", "replicasets"),
    (&["replicationcontroller", "replicationcontrollers", "rc"], "api/v1", "replicationcontrollers"),
    (&["job", "jobs"], "apis/batch/v1", "jobs"),
    (&["cronjob", "cronjobs", "cj"], "apis/batch/v1", "cronjobs"),
];

/// An input cannot be read; the command exits with status 2.
#[derive(Debug, Error)]
pub enum SourceError {
    /// Neither a file nor a workload.
    #[error(
        "{0}: no such file, and no workload: kind/name with a kind of pod, deployment, statefulset, daemonset, replicaset, \
         replicationcontroller, job, cronjob"
    )]
    Neither(String),
    /// A file that cannot be read.
    #[error("{name}: {error}")]
    Read {
        /// The file.
        name: String,
        /// Why.
        error: io::Error,
    },
    /// An input beyond its bound.
    #[error("{0}: longer than {most} MiB", most = MOST_BYTES >> 20)]
    TooLong(String),
    /// Bytes that are no text.
    #[error("{0}: no text in UTF-8")]
    NoText(String),
    /// Text that is no workload.
    #[error("{name}: {text}")]
    Manifest {
        /// Where from.
        name: String,
        /// What is wrong with it.
        text: String,
    },
    /// No way to the API.
    #[error("no kubeconfig can be used, and not in a cluster: {0}")]
    Kubeconfig(#[from] KubeconfigError),
    /// Its credentials or certificates cannot be used, or it refused.
    #[error("{name}: {error}")]
    Api {
        /// What was asked for.
        name: String,
        /// Why.
        error: kube::Error,
    },
    /// A flag that makes no sense.
    #[error("{0}")]
    Flag(String),
    /// No answer.
    #[error("{name}: no answer of the API within {timeout:?}")]
    Timeout {
        /// What was asked for.
        name: String,
        /// How long.
        timeout: Duration,
    },
}

/// One input.
#[derive(Debug)]
pub(super) struct Source {
    /// As the command line names it.
    pub(super) name: String,
    /// What is in it.
    pub(super) manifest: Manifest,
}

/// A workload of the API.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    group: &'static str,
    resource: &'static str,
    name: String,
}

/// Reads all that the command line names, in its order; the first that cannot be read ends it.
pub(super) async fn read_all(args: &AdviseProbesArgs) -> Result<Vec<Source>, SourceError> {
    let mut sources = Vec::new();
    let mut api = None;
    for target in &args.targets {
        let (name, text) = if target == "-" {
            ("standard input".to_owned(), text_of("standard input", io::stdin().lock())?)
        } else {
            match (File::open(target), wanted(target)) {
                (Ok(file), _) => (target.clone(), text_of(target, file)?),
                (Err(error), Some(wanted)) if is_absent(&error) => {
                    let api = match &mut api {
                        Some(api) => api,
                        None => api.insert(Api::connect(args).await?),
                    };
                    (target.clone(), api.get(target, &wanted).await?)
                }
                (Err(error), None) if is_absent(&error) => return Err(SourceError::Neither(target.clone())),
                (Err(error), _) => return Err(SourceError::Read { name: target.clone(), error }),
            }
        };
        let manifest = manifest::read(&text).map_err(|error: ManifestError| SourceError::Manifest {
            name: name.clone(),
            text: printable(&error.to_string()),
        })?;
        sources.push(Source { name, manifest });
    }
    Ok(sources)
}

/// `deploy/api` is no file: neither it nor, as a rule, its directory is there.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn text_of(name: &str, reader: impl Read) -> Result<String, SourceError> {
    let mut bytes = Vec::new();
    reader
        .take(MOST_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| SourceError::Read { name: name.to_owned(), error })?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(SourceError::TooLong(name.to_owned()));
    }
    String::from_utf8(bytes).map_err(|_not_text| SourceError::NoText(name.to_owned()))
}

fn wanted(target: &str) -> Option<Wanted> {
    let (kind, name) = target.split_once('/')?;
    let kind = kind.to_ascii_lowercase();
    let (_, group, resource) = KINDS.into_iter().find(|(names, ..)| names.contains(&kind.as_str()))?;
    is_subdomain(name).then(|| Wanted { group, resource, name: name.to_owned() })
}

/// The API with the user's credentials.
struct Api {
    client: Client,
    namespace: String,
    timeout: Duration,
}

impl Api {
    async fn connect(args: &AdviseProbesArgs) -> Result<Self, SourceError> {
        let timeout = Duration::try_from(args.timeout)
            .map_err(|_negative| SourceError::Flag("--timeout: it must not be negative".into()))?;
        let mut config = config(args.kubeconfig.as_deref(), args.context.clone()).await?;
        config.connect_timeout = Some(timeout);
        let namespace = args.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        if !is_subdomain(&namespace) {
            return Err(SourceError::Flag(format!("{namespace:?} is no namespace")));
        }
        let failed = |error| SourceError::Api { name: "the API".into(), error };
        Ok(Self { client: Client::try_from(config).map_err(failed)?, namespace, timeout })
    }

    async fn get(&self, target: &str, wanted: &Wanted) -> Result<String, SourceError> {
        let Wanted { group, resource, name } = wanted;
        let path = format!("/{group}/namespaces/{}/{resource}/{name}", self.namespace);
        let titled = format!("{target} in {}", self.namespace);
        let failed = |error| SourceError::Api { name: titled.clone(), error };
        let request = http_get(&path).map_err(failed)?;
        match tokio::time::timeout(self.timeout, self.client.request_text(request)).await {
            Ok(answer) => answer.map_err(failed),
            Err(_elapsed) => Err(SourceError::Timeout { name: titled, timeout: self.timeout }),
        }
    }
}

fn http_get(path: &str) -> Result<hyper::Request<Vec<u8>>, kube::Error> {
    hyper::Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)
}

/// As kubectl finds it; in a pod without a kubeconfig, its service account.
async fn config(path: Option<&Path>, context: Option<String>) -> Result<Config, KubeconfigError> {
    let has_context = context.is_some();
    let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
    match path.map(PathBuf::from) {
        Some(path) => Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &options).await,
        None => match Config::from_kubeconfig(&options).await {
            Err(error) if !has_context => Config::incluster().map_err(|_not_in_a_pod| error),
            found => found,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_has_a_kind_that_kubectl_knows_and_a_name() {
        for (target, path) in [
            ("deploy/api", Some(("apis/apps/v1", "deployments", "api"))),
            ("Deployment/api", Some(("apis/apps/v1", "deployments", "api"))),
            ("po/api-0.x", Some(("api/v1", "pods", "api-0.x"))),
            ("cj/nightly", Some(("apis/batch/v1", "cronjobs", "nightly"))),
            ("api", None),
            ("service/api", None),
            ("deploy/", None),
            ("deploy/../secrets/x", None),
            ("deploy/API", None),
        ] {
            let wanted = wanted(target);
            let found = wanted.as_ref().map(|wanted| (wanted.group, wanted.resource, wanted.name.as_str()));
            assert_eq!(found, path, "{target}");
        }
    }

    #[test]
    fn an_input_is_read_up_to_its_bound() {
        let read = |bytes: u64| text_of("x", io::repeat(b' ').take(bytes));
        assert_eq!(read(MOST_BYTES).expect("as long as allowed").len() as u64, MOST_BYTES);
        assert_eq!(read(u64::MAX).expect_err("endless").to_string(), "x: longer than 16 MiB");
        assert_eq!(text_of("x", &b"\xff"[..]).expect_err("no text").to_string(), "x: no text in UTF-8");
    }
}
