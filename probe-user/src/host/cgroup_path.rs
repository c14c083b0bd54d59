//! Reads pod uid and container id out of a cgroup's path, for the cgroupfs and the systemd driver of the kubelet and the
//! naming of containerd, CRI-O and cri-dockerd. The tree may hang below any parent (`--cgroup-root` of the kubelet, kind,
//! tests). Pure: paths in, names out.

/// What a path below the hierarchy's root names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CgroupPath {
    /// Not below a `kubepods` cgroup.
    Foreign,
    /// `kubepods` itself or the cgroup of a QoS class.
    Grouping,
    /// A pod's own cgroup.
    Pod {
        /// The uid (for static pods the config hash).
        pod_uid: String,
    },
    /// A container's cgroup, sandbox included.
    Container {
        /// The uid (for static pods the config hash).
        pod_uid: String,
        /// The container's id without the runtime's prefix.
        container_id: String,
    },
    /// Below a container, or a runtime's own process next to it: covered by its ancestor or of no interest.
    Inner,
    /// Below `kubepods`, but in no form that is known.
    Odd,
}

/// Reads `path` (with or without a leading slash).
#[must_use]
pub fn parse(path: &str) -> CgroupPath {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    if !parts.by_ref().any(is_kubepods) {
        return CgroupPath::Foreign;
    }
    let Some(pod) = parts.find(|part| !is_qos(part)) else { return CgroupPath::Grouping };
    let Some(pod_uid) = pod_uid_of(pod) else { return CgroupPath::Odd };
    let Some(container) = parts.next() else { return CgroupPath::Pod { pod_uid } };
    if parts.next().is_some() || container.contains("conmon") {
        return CgroupPath::Inner;
    }
    match container_id_of(container) {
        Some(id) => CgroupPath::Container { pod_uid, container_id: id.to_owned() },
        None => CgroupPath::Odd,
    }
}

fn is_kubepods(part: &str) -> bool {
    part == "kubepods" || part == "kubepods.slice" || part.ends_with("-kubepods.slice")
}

fn is_qos(part: &str) -> bool {
    const CLASSES: [&str; 3] = ["burstable", "besteffort", "guaranteed"];
    let name = part.strip_suffix(".slice").unwrap_or(part);
    let class = name.rsplit_once("kubepods-").map_or(name, |(_, class)| class);
    CLASSES.contains(&class)
}

fn pod_uid_of(part: &str) -> Option<String> {
    // systemd: slices nest by their dashes, so the kubelet writes a uid's own dashes as underscores.
    let uid = match part.strip_suffix(".slice") {
        Some(slice) => slice.rsplit_once("-pod")?.1.replace('_', "-"),
        None => part.strip_prefix("pod")?.to_owned(),
    };
    crate::kube::names::is_uid(&uid).then_some(uid)
}

fn container_id_of(part: &str) -> Option<&str> {
    let name = part.strip_suffix(".scope").unwrap_or(part);
    let id = ["cri-containerd-", "crio-", "docker-"]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .unwrap_or(name);
    crate::kube::names::is_uid(id).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "5b0d7c2e-0b1f-4a53-8d3b-0f3c1f2f9f7d";
    const UNDERSCORED: &str = "5b0d7c2e_0b1f_4a53_8d3b_0f3c1f2f9f7d";
    const ID: &str = "3f1a5be7c3f44c0ab5d6b0c9c5a2bb50b1cc7e9b0a4d4f6e8f8c7c0de1234567";

    #[test]
    fn every_driver_and_runtime_is_read() {
        let pod = || CgroupPath::Pod { pod_uid: UID.into() };
        let container = || CgroupPath::Container { pod_uid: UID.into(), container_id: ID.into() };
        let hash = "ab12cd34ef56ab12cd34ef56ab12cd34";
        let table = [
            ("/system.slice/ssh.service".to_owned(), CgroupPath::Foreign),
            ("/".into(), CgroupPath::Foreign),
            (String::new(), CgroupPath::Foreign),
            ("/kubepods".into(), CgroupPath::Grouping),
            ("/kubepods/burstable".into(), CgroupPath::Grouping),
            ("/kubepods.slice/kubepods-besteffort.slice".into(), CgroupPath::Grouping),
            (format!("/kubepods/pod{UID}"), pod()),
            (format!("/kubepods/burstable/pod{UID}"), pod()),
            (format!("kubepods/besteffort/pod{UID}/"), pod()),
            (format!("/kubepods/pod{UID}/{ID}"), container()),
            (format!("/kubepods/pod{UID}/crio-{ID}"), container()),
            (format!("/kubepods/pod{UID}/crio-conmon-{ID}"), CgroupPath::Inner),
            (format!("/kubepods/burstable/pod{UID}/{ID}/init.scope"), CgroupPath::Inner),
            (format!("/my/test-tree/kubepods/burstable/pod{UID}/{ID}"), container()),
            (format!("/kubepods.slice/kubepods-pod{UNDERSCORED}.slice"), pod()),
            (
                format!(
                    "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UNDERSCORED}.slice/cri-containerd-{ID}.scope"
                ),
                container(),
            ),
            (format!("/kubepods.slice/kubepods-pod{UNDERSCORED}.slice/crio-{ID}.scope"), container()),
            (format!("/kubepods.slice/kubepods-pod{UNDERSCORED}.slice/docker-{ID}.scope"), container()),
            (
                format!("/kubepods.slice/kubepods-pod{UNDERSCORED}.slice/crio-{ID}.scope/container"),
                CgroupPath::Inner,
            ),
            (
                format!("/kubepods.slice/kubepods-pod{UNDERSCORED}.slice/crio-conmon-{ID}.scope"),
                CgroupPath::Inner,
            ),
            (
                format!(
                    "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{UNDERSCORED}.slice"
                ),
                pod(),
            ),
            (format!("/kubepods/burstable/pod{hash}"), CgroupPath::Pod { pod_uid: hash.into() }),
            (
                format!("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{hash}.slice"),
                CgroupPath::Pod { pod_uid: hash.into() },
            ),
            ("/kubepods/burstable/pod".into(), CgroupPath::Odd),
            ("/kubepods/burstable/something".into(), CgroupPath::Odd),
            (format!("/kubepods/pod{UID}/a b"), CgroupPath::Odd),
            (format!("/kubepods/pod{}", "a".repeat(300)), CgroupPath::Odd),
            // A cluster inside a pod: the outer pod is this node's.
            (format!("/kubepods/pod{UID}/{ID}/kubepods/podinner/x"), CgroupPath::Inner),
        ];
        for (path, expected) in table {
            assert_eq!(parse(&path), expected, "{path}");
        }
    }
}
