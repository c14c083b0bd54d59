//! The cluster's programs, built from the Go modules of `tests/cluster` and kept outside the tree.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::deploy::helm;
use crate::go;
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
    let [kube, fortio, images] =
        MODULES.map(|(module, ..)| go_module(root, cache, module).map(go::Module::into_place));
    Ok(Programs { kube: kube?, fortio: fortio?, images: images?, helm: helm::folder(cache) })
}

/// Builds what is not in the cache.
pub(super) fn ensure(root: &Path, cache: &Path) -> Result<()> {
    for (module, what, duration) in MODULES {
        go_module(root, cache, module)?.ensure("cluster", what, duration, |source, into| match module {
            "kube" => kube(source, into),
            "fortio" => go::build(source, into, "-s -w", &["fortio.org/fortio"]),
            _ => images(source, into),
        })?;
    }
    helm::ensure_in(cache).map(drop)
}

fn go_module(root: &Path, cache: &Path, name: &str) -> Result<go::Module> {
    go::Module::of(root.join("tests/cluster").join(name), &cache.join("cluster"))
}

fn kube(source: &Path, into: &Path) -> Result<()> {
    let mut go = process::command("go");
    go.current_dir(source).args(["list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes"]);
    let version = process::capture(&mut go)?;
    go::build(source, into, &version_flags(version.trim()), &["."])?;
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
    go::build(source, into, "-s -w", &["./mkimage", "./pause", "./app"])?;
    for name in IMAGES {
        let mut make = process::command(into.join("mkimage"));
        make.arg(into.join(name).with_extension("tar"));
        make.arg(format!("drainscope.test/{name}:1")).arg(format!("/{name}")).arg(into.join(name));
        process::run(&mut make)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_server_tells_the_modules_version() {
        let flags = version_flags("v1.36.3");
        assert!(flags.contains("version.gitVersion=v1.36.3 ") && flags.contains("gitMinor=36 "), "{flags}");
    }
}
