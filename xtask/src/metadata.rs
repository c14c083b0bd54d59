//! What `cargo metadata` says about this workspace: its root, its target folder, its members and their test targets.
//!
//! Nothing is read from manifests by hand, except by `check`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::process;

/// The package that holds the test world and its suites.
pub(crate) const WORLD: &str = "tests";

/// The workspace as cargo sees it.
pub(crate) struct Metadata {
    /// Folder of the workspace manifest.
    pub(crate) root: PathBuf,
    /// Where cargo builds.
    pub(crate) target: PathBuf,
    /// Manifest of each member.
    pub(crate) manifests: Vec<PathBuf>,
    /// Integration tests that need no privilege, over all members.
    pub(crate) unprivileged: Vec<String>,
    /// Integration tests of the test world that need root and BTF, in the order of its manifest.
    pub(crate) privileged: Vec<String>,
}

impl Metadata {
    /// Asks cargo.
    pub(crate) fn read() -> Result<Self> {
        let text =
            process::capture(process::cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
        Self::parse(&serde_json::from_str(&text).context("cargo metadata is not JSON")?)
    }

    fn parse(metadata: &Value) -> Result<Self> {
        let path = |value: &Value, key: &str| -> Result<PathBuf> {
            let text = value[key].as_str().with_context(|| format!("cargo metadata has no {key}"))?;
            Ok(Path::new(text).to_owned())
        };
        let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
        let manifests = packages.iter().map(|p| path(p, "manifest_path")).collect::<Result<_>>()?;
        let world = packages.iter().find(|p| p["name"] == WORLD);
        let privileged = world.map(privileged_suites).transpose()?.unwrap_or_default();
        let mut unprivileged = Vec::new();
        for package in packages {
            let own = test_targets(package);
            unprivileged
                .extend(own.filter(|t| package["name"] != WORLD || !privileged.iter().any(|p| p == t)));
        }
        let unprivileged = unprivileged.into_iter().map(str::to_owned).collect();
        Ok(Self {
            root: path(metadata, "workspace_root")?,
            target: path(metadata, "target_directory")?,
            manifests,
            unprivileged,
            privileged,
        })
    }
}

fn test_targets(package: &Value) -> impl Iterator<Item = &str> {
    let targets = package["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_test = |t: &&Value| t["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|k| k == "test"));
    targets.iter().filter(is_test).filter_map(|t| t["name"].as_str())
}

/// `[package.metadata.drainscope] privileged = [..]` of the test world. A name that is no test target is an error: the
/// suite would otherwise never run and nobody would notice.
fn privileged_suites(world: &Value) -> Result<Vec<String>> {
    let listed = &world["metadata"]["drainscope"]["privileged"];
    if listed.is_null() {
        return Ok(Vec::new());
    }
    let listed = listed.as_array().context("package.metadata.drainscope.privileged is not a list")?;
    let mut suites = Vec::new();
    for name in listed {
        let name = name.as_str().context("package.metadata.drainscope.privileged has a non-string")?;
        if !test_targets(world).any(|target| target == name) {
            bail!("privileged suite `{name}` is no [[test]] of package `{WORLD}`");
        }
        suites.push(name.to_owned());
    }
    Ok(suites)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn workspace(privileged: &Value) -> Value {
        let test = |name: &str| json!({"name": name, "kind": ["test"]});
        json!({
            "workspace_root": "/r", "target_directory": "/r/target",
            "packages": [
                {"name": "agent", "manifest_path": "/r/agent/Cargo.toml", "metadata": null,
                 "targets": [{"name": "agent", "kind": ["lib"]}, test("api")]},
                {"name": "tests", "manifest_path": "/r/tests/Cargo.toml",
                 "metadata": {"drainscope": {"privileged": privileged}},
                 "targets": [{"name": "world", "kind": ["lib"]}, test("netns"), test("replay")]},
            ],
        })
    }

    #[test]
    fn suites_are_split_by_the_test_worlds_own_list() {
        let metadata = Metadata::parse(&workspace(&json!(["netns"]))).unwrap();
        assert_eq!(metadata.privileged, ["netns"]);
        assert_eq!(metadata.unprivileged, ["api", "replay"]);
        assert_eq!(metadata.manifests.len(), 2);
    }

    #[test]
    fn without_a_list_every_suite_is_unprivileged() {
        let metadata = Metadata::parse(&workspace(&Value::Null)).unwrap();
        assert_eq!(metadata.unprivileged, ["api", "netns", "replay"]);
        assert!(metadata.privileged.is_empty());
    }

    #[test]
    fn a_listed_suite_that_does_not_exist_is_an_error() {
        let error = Metadata::parse(&workspace(&json!(["nets"]))).err().unwrap();
        assert!(error.to_string().contains("`nets`"), "{error}");
    }
}
