//! The connection to the API server, by kubeconfig or by the pod's service account, and with the same credentials that to the
//! node's kubelet. Opens nothing yet: the first request does. Credentials that the server refuses are read anew, once for all who share the connection.

use hyper::Uri;
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use thiserror::Error;

/// How long a TCP connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two readings of the credentials: all watches of a node are refused at once, and one reading serves them all.
const RENEWAL: Duration = Duration::from_secs(1);

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

/// What vouches for a kubelet's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The authority that vouches for the API server's.
    Cluster,
    /// The authorities in this file.
    File(PathBuf),
    /// Nothing: whoever answers is believed, and gets the credentials.
    Nobody,
}

/// A client for the API of `kubeconfig`'s current context, else of the cluster that this pod runs in.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client, ConnectError> {
    Ok(Client::try_from(config(kubeconfig).await?)?)
}

/// A client for the kubelet at this address, with the same credentials.
pub async fn connect_kubelet(
    kubeconfig: Option<&Path>,
    url: &Uri,
    trust: &Trust,
) -> Result<Client, ConnectError> {
    let mut config = config(kubeconfig).await?;
    config.cluster_url = url.clone();
    // What holds for the way to the API server does not hold for this one.
    config.tls_server_name = None;
    config.proxy_url = None;
    config.accept_invalid_certs = *trust == Trust::Nobody;
    match trust {
        Trust::Cluster => {}
        Trust::File(path) => config.root_cert_file = Some(path.clone()),
        // No authority is looked for: an image may have none.
        Trust::Nobody => (config.root_cert, config.root_cert_file) = (Some(Vec::new()), None),
    }
    Ok(Client::try_from(config)?)
}

async fn config(kubeconfig: Option<&Path>) -> Result<Config, ConnectError> {
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
    Ok(config)
}

/// The client that all requests share; clones share it too.
#[derive(Clone)]
pub struct Api {
    kubeconfig: Option<PathBuf>,
    current: Arc<Mutex<(Client, Instant)>>,
}

impl Api {
    /// As [`connect`].
    pub async fn connect(kubeconfig: Option<&Path>) -> Result<Self, ConnectError> {
        let client = connect(kubeconfig).await?;
        Ok(Self {
            kubeconfig: kubeconfig.map(Path::to_owned),
            current: Arc::new(Mutex::new((client, Instant::now()))),
        })
    }

    /// The client of now, for one request.
    #[must_use]
    pub fn client(&self) -> Client {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// The server refused the credentials (401): a rotated token is in its file before the library looks there again, which
    /// it does once a minute.
    pub async fn renew(&self) {
        {
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            if current.1.elapsed() < RENEWAL {
                return;
            }
            current.1 = Instant::now();
        }
        match connect(self.kubeconfig.as_deref()).await {
            Ok(client) => self.current.lock().unwrap_or_else(PoisonError::into_inner).0 = client,
            Err(error) => tracing::warn!(%error, "the credentials cannot be read anew"),
        }
    }
}
