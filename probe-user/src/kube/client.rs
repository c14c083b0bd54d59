//! The connection to the API server, by kubeconfig or by the pod's service account. Opens nothing yet: the first request
//! does.

use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// How long a TCP connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// There is no way to the API; the agent exits with status 2.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// No kubeconfig given and not in a pod.
    #[error("not in a cluster ({0}): pass --kubeconfig")]
    InCluster(#[from] InClusterError),
    /// The kubeconfig cannot be used.
    #[error("kubeconfig {}: {error}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why.
        error: KubeconfigError,
    },
    /// Its credentials or certificates cannot be used.
    #[error("no API client can be made: {0}")]
    Client(#[from] kube::Error),
}

/// A client for the API of `kubeconfig`'s current context, else of the cluster that this pod runs in.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client, ConnectError> {
    let mut config = match kubeconfig {
        None => Config::incluster()?,
        Some(path) => {
            let failed = |error| ConnectError::Kubeconfig { path: path.to_owned(), error };
            let file = Kubeconfig::read_from(path).map_err(failed)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(failed)?
        }
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // The watches retry by themselves, where it is counted.
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}
