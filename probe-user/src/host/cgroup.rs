//! cgroupfs: which hierarchy to follow, which containers exist at start, and the agent's own pod. The kernel programs
//! report every later change; their records carry paths from the hierarchy's root, so [`Hierarchy::local`] cuts them to
//! the subtree that this agent keeps to. Reads only.

use crate::host::cgroup_path::{self, CgroupPath};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Deepest directory that is looked at: the kubelet's tree is five deep, its parent may be a few more.
const DEPTH_MAX: usize = 10;
/// Most directories that one scan looks at.
const DIRECTORIES_MAX: usize = 100_000;

/// No hierarchy can be followed; the agent goes on without cgroups.
#[derive(Debug, Error)]
pub enum CgroupError {
    /// Neither cgroup v2 nor the v1 pids hierarchy is there.
    #[error("no cgroup v2 and no v1 pids hierarchy at {} or below it: is cgroupfs mounted there? (--cgroup-root)", .0.display())]
    NoHierarchy(PathBuf),
}

/// The hierarchy whose cgroup ids the kernel programs match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hierarchy {
    /// Cgroup v2, alone or beside v1 (hybrid).
    V2 {
        /// Directory that the agent keeps to.
        mount: PathBuf,
        /// Its path from the hierarchy's root, without slashes at the ends; empty for all of it.
        subtree: String,
    },
    /// Cgroup v1.
    V1 {
        /// Directory that the agent keeps to.
        mount: PathBuf,
        /// The controller whose tree is followed.
        controller: &'static str,
        /// As above.
        subtree: String,
    },
}

impl Hierarchy {
    /// The directory that the agent keeps to.
    #[must_use]
    pub fn directory(&self) -> &Path {
        match self {
            Self::V2 { mount, .. } | Self::V1 { mount, .. } => mount,
        }
    }

    /// The part of a path from the hierarchy's root that lies below this agent's subtree; `None` for other subtrees.
    #[must_use]
    pub fn local<'a>(&self, path: &'a str) -> Option<&'a str> {
        let (Self::V2 { subtree, .. } | Self::V1 { subtree, .. }) = self;
        let path = path.trim_start_matches('/');
        if subtree.is_empty() {
            return Some(path);
        }
        let rest = path.strip_prefix(subtree.as_str())?;
        if rest.is_empty() { Some(rest) } else { rest.strip_prefix('/') }
    }
}

/// Chooses the hierarchy: v2 at `root` or at `root/unified` (hybrid), else the v1 pids tree.
pub fn hierarchy(root: &Path) -> Result<Hierarchy, CgroupError> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for candidate in [root.to_owned(), root.join("unified")] {
        if candidate.join("cgroup.controllers").is_file() {
            let subtree = subtree_of(&mounts, &candidate);
            return Ok(Hierarchy::V2 { mount: candidate, subtree });
        }
    }
    for candidate in [root.join("pids"), root.to_owned()] {
        // Every v1 cgroup below the root has its controller's files; the root itself has none, but a release agent.
        if candidate.join("pids.current").is_file() || is_v1_root(&candidate) {
            let subtree = subtree_of(&mounts, &candidate);
            return Ok(Hierarchy::V1 { mount: candidate, controller: "pids", subtree });
        }
    }
    Err(CgroupError::NoHierarchy(root.to_owned()))
}

fn is_v1_root(directory: &Path) -> bool {
    directory.file_name().is_some_and(|name| name == "pids") && directory.join("release_agent").is_file()
}

/// Path of `directory` from the root of the cgroup hierarchy that is mounted above it.
fn subtree_of(mountinfo: &str, directory: &Path) -> String {
    let directory = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    let mut best: Option<(&Path, &str)> = None;
    for line in mountinfo.lines() {
        // "36 35 98:0 ROOT MOUNTPOINT options - TYPE SOURCE …": proc(5).
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut fields = left.split(' ').skip(3);
        let (Some(root), Some(point)) = (fields.next(), fields.next()) else { continue };
        let point = Path::new(point);
        let longer = best.is_none_or(|(other, _)| point.as_os_str().len() >= other.as_os_str().len());
        if right.starts_with("cgroup") && directory.starts_with(point) && longer {
            best = Some((point, root));
        }
    }
    let Some((point, root)) = best else { return String::new() };
    let below = directory.strip_prefix(point).unwrap_or(Path::new("")).to_string_lossy().into_owned();
    // A mount from outside our cgroup namespace shows as "/..": it is the root, as far as we can know.
    let root = if root.contains("..") { "" } else { root.trim_matches('/') };
    [root, below.trim_matches('/')]
        .iter()
        .filter(|part| !part.is_empty())
        .copied()
        .collect::<Vec<_>>()
        .join("/")
}

/// One cgroup that a scan found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its id: the directory's inode number.
    pub id: u64,
    /// Its path below the agent's directory.
    pub path: String,
    /// What it is: [`CgroupPath::Pod`], [`CgroupPath::Container`] or [`CgroupPath::Odd`].
    pub what: CgroupPath,
}

/// All pods' and containers' cgroups below the agent's directory, parents first; directories that vanish meanwhile are left out.
#[must_use]
pub fn scan(hierarchy: &Hierarchy) -> Vec<Found> {
    let base = hierarchy.directory();
    let mut found = Vec::new();
    let mut queue = vec![(base.to_owned(), 0usize)];
    let mut seen = 0usize;
    while let Some((directory, depth)) = queue.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            seen += 1;
            if seen > DIRECTORIES_MAX {
                return found;
            }
            let path = entry.path();
            let local = path.strip_prefix(base).unwrap_or(&path).to_string_lossy().into_owned();
            let what = cgroup_path::parse(&local);
            let descend = matches!(what, CgroupPath::Foreign | CgroupPath::Grouping | CgroupPath::Pod { .. });
            if matches!(what, CgroupPath::Pod { .. } | CgroupPath::Container { .. } | CgroupPath::Odd)
                && let Ok(metadata) = entry.metadata()
            {
                found.push(Found { id: metadata.ino(), path: local, what });
            }
            if descend && depth + 1 < DEPTH_MAX {
                queue.push((path, depth + 1));
            }
        }
    }
    found
}

/// Uid of the pod that the agent itself runs in; `None` outside a pod or in a private cgroup namespace.
#[must_use]
pub fn own_pod_uid() -> Option<String> {
    pod_uid_in(&fs::read_to_string("/proc/self/cgroup").ok()?)
}

fn pod_uid_in(proc_cgroup: &str) -> Option<String> {
    proc_cgroup.lines().find_map(|line| match cgroup_path::parse(line.splitn(3, ':').nth(2)?) {
        CgroupPath::Pod { pod_uid } | CgroupPath::Container { pod_uid, .. } => Some(pod_uid),
        CgroupPath::Foreign | CgroupPath::Grouping | CgroupPath::Inner | CgroupPath::Odd => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str, directories: &[&str], files: &[&str]) -> Self {
            let root = std::env::temp_dir().join(format!("drainscope-cgroup-{name}-{}", std::process::id()));
            drop(fs::remove_dir_all(&root));
            for directory in directories {
                fs::create_dir_all(root.join(directory)).expect("temporary directory");
            }
            for file in files {
                fs::write(root.join(file), "").expect("temporary file");
            }
            Self(root)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    #[test]
    fn v2_alone_hybrid_and_v1_are_told_apart() {
        let v2 = Tree::new("v2", &["x"], &["cgroup.controllers"]);
        assert!(matches!(hierarchy(&v2.0), Ok(Hierarchy::V2 { mount, .. }) if mount == v2.0));
        let hybrid =
            Tree::new("hybrid", &["unified", "pids"], &["unified/cgroup.controllers", "pids/release_agent"]);
        assert!(
            matches!(hierarchy(&hybrid.0), Ok(Hierarchy::V2 { mount, .. }) if mount == hybrid.0.join("unified"))
        );
        let v1 = Tree::new("v1", &["pids"], &["pids/release_agent"]);
        assert!(
            matches!(hierarchy(&v1.0), Ok(Hierarchy::V1 { mount, controller: "pids", .. }) if mount == v1.0.join("pids"))
        );
        let none = Tree::new("none", &["x"], &[]);
        assert!(matches!(hierarchy(&none.0), Err(CgroupError::NoHierarchy(_))));
    }

    #[test]
    fn a_scan_finds_pods_and_containers_below_any_parent() {
        let tree = Tree::new(
            "scan",
            &[
                "kubepods/burstable/podaaaa/c1/init.scope",
                "test/kubepods/podbbbb/c2",
                "kubepods/strange",
                "system.slice/ssh.service",
            ],
            &["cgroup.controllers"],
        );
        let mut found: Vec<String> = scan(&hierarchy(&tree.0).expect("v2"))
            .into_iter()
            .map(|found| format!("{:?}", found.what))
            .collect();
        found.sort();
        assert_eq!(
            found,
            [
                r#"Container { pod_uid: "aaaa", container_id: "c1" }"#,
                r#"Container { pod_uid: "bbbb", container_id: "c2" }"#,
                "Odd",
                r#"Pod { pod_uid: "aaaa" }"#,
                r#"Pod { pod_uid: "bbbb" }"#,
            ]
        );
    }

    #[test]
    fn paths_of_other_subtrees_are_not_ours() {
        let ours = Hierarchy::V2 { mount: PathBuf::from("/m/ours"), subtree: "ours".into() };
        assert_eq!(ours.local("/ours/kubepods/poda"), Some("kubepods/poda"));
        assert_eq!(ours.local("/ours"), Some(""));
        assert_eq!(ours.local("/ours-too/kubepods/poda"), None);
        assert_eq!(ours.local("/kubepods/poda"), None);
        let all = Hierarchy::V2 { mount: PathBuf::from("/m"), subtree: String::new() };
        assert_eq!(all.local("/kubepods/poda"), Some("kubepods/poda"));
    }

    #[test]
    fn the_subtree_follows_from_the_mount_table() {
        let mounts = "30 25 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                      32 30 0:27 /part /mnt/part rw - cgroup2 cgroup2 rw\n\
                      33 30 0:27 /../.. /host rw - cgroup2 cgroup2 rw\n";
        for (directory, expected) in [
            ("/sys/fs/cgroup/unified", ""),
            ("/sys/fs/cgroup/unified/nonexistent-a/b", "nonexistent-a/b"),
            ("/mnt/part/nonexistent-a", "part/nonexistent-a"),
            ("/host/nonexistent-a", "nonexistent-a"),
            ("/elsewhere", ""),
        ] {
            assert_eq!(subtree_of(mounts, Path::new(directory)), expected, "{directory}");
        }
    }

    #[test]
    fn the_own_pod_is_read_from_proc() {
        assert_eq!(pod_uid_in("0::/kubepods/burstable/podaaaa/c1\n").as_deref(), Some("aaaa"));
        assert_eq!(pod_uid_in("11:pids:/kubepods/podbbbb/c\n0::/\n").as_deref(), Some("bbbb"));
        assert_eq!(pod_uid_in("0::/user.slice\n"), None);
    }
}
