//! Certificates of one cluster's life, by openssl, and kubeconfigs that carry them.
//!
//! One authority, elliptic keys, a client certificate for each component; names and groups are what Kubernetes' own roles are bound to.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::STATE;
use crate::process;

/// Certificate, subject, alternative names of a server.
const CERTIFICATES: [(&str, &str, Option<&str>); 8] = [
    (
        "apiserver",
        "/CN=kube-apiserver",
        Some("IP:10.89.0.1,IP:127.0.0.1,IP:10.96.0.1,DNS:localhost,DNS:kubernetes.default.svc"),
    ),
    ("apiserver-kubelet", "/O=system:masters/CN=kube-apiserver-kubelet-client", None),
    ("admin", "/O=system:masters/CN=admin", None),
    ("controller-manager", "/CN=system:kube-controller-manager", None),
    ("scheduler", "/CN=system:kube-scheduler", None),
    ("kube-proxy", "/CN=system:kube-proxy", None),
    ("node-1", "/O=system:nodes/CN=system:node:node-1", Some("IP:10.89.0.1,DNS:node-1")),
    ("node-2", "/O=system:nodes/CN=system:node:node-2", Some("IP:10.89.0.2,DNS:node-2")),
];
/// Those that talk to the API server by a kubeconfig.
const CLIENTS: [&str; 6] = ["admin", "controller-manager", "scheduler", "kube-proxy", "node-1", "node-2"];

/// Makes all of them in the state folder.
pub(super) fn make() -> Result<()> {
    let pki = Path::new(STATE).join("pki");
    fs::set_permissions(&pki, Permissions::from_mode(0o700)).context("cannot protect the keys")?;
    openssl(
        &pki,
        &["req", "-x509", "-nodes", "-subj", "/CN=drainscope-cluster", "-out", "ca.crt", "-keyout", "ca.key"],
    )?;
    openssl(&pki, &["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "sa.key"])?;
    openssl(&pki, &["ec", "-in", "sa.key", "-pubout", "-out", "sa.pub"])?;
    for (name, subject, names) in CERTIFICATES {
        let (certificate, key) = (format!("{name}.crt"), format!("{name}.key"));
        let names = names.map(|names| format!("subjectAltName={names}"));
        let mut args = vec!["req", "-x509", "-nodes", "-CA", "ca.crt", "-CAkey", "ca.key", "-subj", subject];
        args.extend(["-addext", "basicConstraints=critical,CA:FALSE"]);
        args.extend(["-addext", "extendedKeyUsage=clientAuth,serverAuth"]);
        args.extend(names.iter().flat_map(|names| ["-addext", names.as_str()]));
        args.extend(["-out", &certificate, "-keyout", &key]);
        openssl(&pki, &args)?;
    }
    for name in CLIENTS {
        let file = Path::new(STATE).join("conf").join(name).with_extension("kubeconfig");
        fs::write(&file, kubeconfig(name)).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

fn openssl(folder: &Path, args: &[&str]) -> Result<()> {
    let mut openssl = process::command("openssl");
    openssl.current_dir(folder).args(args);
    if args.first() == Some(&"req") {
        openssl.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "365"]);
    }
    process::capture(&mut openssl).map(drop)
}

fn kubeconfig(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: cluster\n\
         clusters: [{{name: cluster, cluster: {{server: \"https://10.89.0.1:6443\", certificate-authority: \"{STATE}/pki/ca.crt\"}}}}]\n\
         users: [{{name: me, user: {{client-certificate: \"{STATE}/pki/{name}.crt\", client-key: \"{STATE}/pki/{name}.key\"}}}}]\n\
         contexts: [{{name: cluster, context: {{cluster: cluster, user: me}}}}]\n"
    )
}
