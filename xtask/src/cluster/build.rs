//! The cluster's programs, built from the Go modules of `tests/cluster` and kept outside the tree.
//!
//! A module's folder in the cache is named by what the module's files say (the versions are among them), so another checkout finds its own, and a build that was killed leaves only a
//! folder that no name leads to. Nothing is downloaded but published Go modules, by `go` itself.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::deploy::helm;
use crate::process;
use crate::setup;

/// What one binary is linked under: it acts by the name it is called by.
const COMPONENTS: [&str; 7] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
];
/// Images: name, and the program that is all they hold.
const IMAGES: [&str; 2] = ["pause", "app"];
/// Modules, what they are, and how long the first build takes on two cores.
const MODULES: [(&str, &str, &str); 3] = [
    ("kube", "Kubernetes and etcd", "about 12 minutes, the first time"),
    ("fortio", "fortio, the load generator", "half a minute"),
    ("images", "container images", "some seconds"),
];

/// Folders of built programs.
pub(super) struct Programs {
    kube: PathBuf,
    fortio: PathBuf,
    images: PathBuf,
    helm: PathBuf,
}

impl Programs {
    /// Image archives to import.
    pub(super) fn images(&self) -> [PathBuf; 2] {
        IMAGES.map(|name| self.images.join(name).with_extension("tar"))
    }

    /// Puts the programs before everything else on a command's path.
    pub(super) fn put_on_path(&self, command: &mut Command) -> Result<()> {
        let inherited = process::search_path();
        let own = [&self.kube, &self.fortio, &self.images, &self.helm].map(PathBuf::clone).into_iter();
        let path = env::join_paths(own.chain(env::split_paths(&inherited)));
        command.env("PATH", path.context("the cache's folder has a colon in its name")?);
        Ok(())
    }
}

/// `drainscope` in the user's cache.
pub(super) fn user_cache() -> Result<PathBuf> {
    Ok(setup::user_cache()?.join("drainscope"))
}

/// Where everything is, once built.
pub(super) fn find(root: &Path, cache: &Path) -> Result<Programs> {
    let [kube, fortio, images] = MODULES.map(|(module, ..)| place(root, cache, module));
    Ok(Programs { kube: kube?, fortio: fortio?, images: images?, helm: helm::folder(cache) })
}

/// Builds what is not in the cache.
pub(super) fn ensure(root: &Path, cache: &Path) -> Result<()> {
    for (module, what, duration) in MODULES {
        let place = place(root, cache, module)?;
        if place.is_dir() {
            continue;
        }
        let begun = Instant::now();
        eprintln!("cluster: building {what} ({duration}) into {}", place.display());
        let partial = place.with_extension(format!("partial-{}", std::process::id()));
        fs::create_dir_all(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
        let source = source(root, module);
        let built = match module {
            "kube" => kube(&source, &partial),
            "fortio" => go_build(&source, &partial, "-s -w", &["fortio.org/fortio"]),
            _ => images(&source, &partial),
        };
        built.with_context(|| format!("cannot build {what}"))?;
        fs::rename(&partial, &place).with_context(|| format!("cannot move into {}", place.display()))?;
        eprintln!("cluster: {what}: built in {:.0} s", begun.elapsed().as_secs_f64());
    }
    helm::ensure_in(cache).map(drop)
}

fn source(root: &Path, module: &str) -> PathBuf {
    root.join("tests/cluster").join(module)
}

fn place(root: &Path, cache: &Path, module: &str) -> Result<PathBuf> {
    Ok(cache.join("cluster").join(format!("{module}-{:016x}", fingerprint(&source(root, module))?)))
}

/// The module's folder, compiled without cgo: images have no libraries.
fn go_build(source: &Path, into: &Path, ldflags: &str, packages: &[&str]) -> Result<()> {
    let mut go = process::command("go");
    go.current_dir(source).env("CGO_ENABLED", "0");
    go.args(["build", "-trimpath", "-ldflags", ldflags, "-o"]).arg(into).args(packages);
    process::run(&mut go)
}

fn kube(source: &Path, into: &Path) -> Result<()> {
    let mut go = process::command("go");
    go.current_dir(source).args(["list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes"]);
    let version = process::capture(&mut go)?;
    go_build(source, into, &version_flags(version.trim()), &["."])?;
    for component in COMPONENTS {
        std::os::unix::fs::symlink("kube", into.join(component))?;
    }
    Ok(())
}

/// The version that the API server tells its clients; release builds set it by the linker too.
fn version_flags(version: &str) -> String {
    let minor = version.split('.').nth(1).unwrap_or_default();
    let set = |name: &str, value: &str| format!("-X k8s.io/component-base/version.{name}={value}");
    let flags = [
        "-s -w".to_owned(),
        set("gitVersion", version),
        set("gitMajor", "1"),
        set("gitMinor", minor),
        set("gitTreeState", "clean"),
        set("gitCommit", "unknown"),
        set("buildDate", "1970-01-01T00:00:00Z"),
    ];
    flags.join(" ")
}

fn images(source: &Path, into: &Path) -> Result<()> {
    go_build(source, into, "-s -w", &["./mkimage", "./pause", "./app"])?;
    for name in IMAGES {
        let mut make = process::command(into.join("mkimage"));
        make.arg(into.join(name).with_extension("tar"));
        make.arg(format!("drainscope.test/{name}:1")).arg(format!("/{name}")).arg(into.join(name));
        process::run(&mut make)?;
    }
    Ok(())
}

/// FNV-1a over names and contents of all files: no secret, only a name that changes with them.
fn fingerprint(folder: &Path) -> Result<u64> {
    let mut files = Vec::new();
    collect(folder, &mut files)?;
    files.sort();
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for file in files {
        let name: OsString = file.strip_prefix(folder).unwrap_or(&file).into();
        let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        for byte in name.as_encoded_bytes().iter().chain([&0]).chain(&bytes) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    Ok(hash)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() { collect(&path, files)? } else { files.push(path) }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_named_by_names_and_contents_of_all_files() {
        let root = env::temp_dir().join(format!("xtask-cluster-{}", std::process::id()));
        let module = source(&root, "kube");
        fs::create_dir_all(module.join("below")).unwrap();
        let mut places = Vec::new();
        for (file, text) in [("go.mod", "v1"), ("go.mod", "v2"), ("below/main.go", "v2")] {
            fs::write(module.join(file), text).unwrap();
            places.push(place(&root, Path::new("/c"), "kube").unwrap());
        }
        assert_eq!(places[2], place(&root, Path::new("/c"), "kube").unwrap());
        fs::remove_dir_all(&root).unwrap();
        assert!(places[0].starts_with("/c/cluster"), "{places:?}");
        places.dedup();
        assert_eq!(places.len(), 3);
    }

    #[test]
    fn the_api_server_tells_the_modules_version() {
        let flags = version_flags("v1.36.3");
        assert!(flags.contains("version.gitVersion=v1.36.3 ") && flags.contains("gitMinor=36 "), "{flags}");
    }
}
