//! Where the kubelet's own verdicts are read, and what vouches for it.

use super::{ConfigError, duration};
use crate::args::KubeletArgs;
use crate::kube::client::Trust;
use crate::kube::names::is_subdomain;
use crate::kubelet::{PATIENCE, Settings};
use hyper::Uri;
use std::net::Ipv6Addr;
use std::num::NonZeroU16;
use std::time::Duration;

/// Shortest `--kubelet-metrics-period`: no probe runs more often.
const PERIOD_MIN: Duration = Duration::from_secs(1);

/// None if nobody asks for it.
pub(super) fn settings(args: &KubeletArgs) -> Result<Option<Settings>, ConfigError> {
    let Some(typed) = &args.kubelet_metrics else { return Ok(None) };
    let url = url_of(typed).ok_or_else(|| ConfigError::KubeletUrl(typed.clone()))?;
    let period = duration("--kubelet-metrics-period", args.kubelet_metrics_period, PERIOD_MIN)?;
    let trust = match (&args.kubelet_certificate_authority, args.kubelet_insecure_tls) {
        (Some(_), true) => return Err(ConfigError::KubeletTrust),
        (Some(file), false) => Trust::File(file.clone()),
        (None, true) => Trust::Nobody,
        (None, false) => Trust::Cluster,
    };
    Ok(Some(Settings { url, period, patience: PATIENCE, trust }))
}

/// Never without TLS: credentials go there. The downward API gives an IPv6 address without brackets.
fn url_of(typed: &str) -> Option<Uri> {
    let authority = typed.strip_prefix("https://")?;
    let (host, port) = authority.strip_suffix('/').unwrap_or(authority).rsplit_once(':')?;
    let port: NonZeroU16 = port.parse().ok()?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let host = match bare.parse::<Ipv6Addr>() {
        Ok(address) => format!("[{address}]"),
        // An IPv4 address is one too, as far as its characters go.
        Err(_) => Some(host).filter(|host| is_subdomain(host))?.to_owned(),
    };
    format!("https://{host}:{port}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::tests::config;
    use super::*;

    #[test]
    fn credentials_go_to_a_kubelet_by_tls_alone() {
        let of = |flags: &[&str]| {
            config(&[&["--node-name", "n"], flags].concat(), None).map(|config| config.kubelet)
        };
        assert_eq!(of(&["--kubelet-insecure-tls"]), Ok(None), "nothing is asked");
        for (typed, url) in [
            ("https://10.0.0.1:10250", "https://10.0.0.1:10250/"),
            ("https://node-1.example:10250/", "https://node-1.example:10250/"),
            ("https://[fd00::1]:10250", "https://[fd00::1]:10250/"),
            ("https://fd00::1:10250", "https://[fd00::1]:10250/"),
        ] {
            let settings = of(&["--kubelet-metrics", typed]).expect(typed).expect("asked");
            assert_eq!((settings.url.to_string(), settings.trust), (url.to_owned(), Trust::Cluster));
            assert_eq!(settings.period, Duration::from_secs(15));
        }
        for typed in [
            "http://10.0.0.1:10255",
            "10.0.0.1:10250",
            "https://10.0.0.1",
            "https://:10250",
            "https://10.0.0.1:0",
            "https://10.0.0.1:102500",
            "https://10.0.0.1:10250/metrics",
            "https://10.0.0.1:10250?a=b",
            "https://me:secret@10.0.0.1:10250",
            "https://$(NODE_IP):10250",
            "",
        ] {
            let error = of(&["--kubelet-metrics", typed]).expect_err(typed);
            assert_eq!(error, ConfigError::KubeletUrl(typed.to_owned()));
        }
        let kubelet = "--kubelet-metrics=https://10.0.0.1:10250";
        let authority = "--kubelet-certificate-authority=/etc/ca.pem";
        let trust = |flags: &[&str]| {
            of(&[&[kubelet], flags].concat()).map(|settings| settings.map(|settings| settings.trust))
        };
        assert_eq!(trust(&[authority]), Ok(Some(Trust::File("/etc/ca.pem".into()))));
        assert_eq!(trust(&["--kubelet-insecure-tls"]), Ok(Some(Trust::Nobody)));
        assert_eq!(trust(&[authority, "--kubelet-insecure-tls"]), Err(ConfigError::KubeletTrust));
        for period in ["999ms", "0s", "-15s", "25h"] {
            let period = format!("--kubelet-metrics-period={period}");
            assert!(matches!(of(&[kubelet, &period]), Err(ConfigError::OutOfRange { .. })), "{period}");
        }
    }
}
