//! helm, built from its published Go module into the user's cache, a folder for each version. Cold it takes two to three
//! minutes on two cores, which is why `cargo xtask check` does not ask for it.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::process;
use crate::setup;

const MODULE: &str = "helm.sh/helm/v3/cmd/helm";
/// Needs Go 1.26.
const VERSION: &str = "v3.21.4";

/// Its folder in a cache.
pub(crate) fn folder(cache: &Path) -> PathBuf {
    cache.join(format!("helm-{VERSION}"))
}

/// The program, if it was built before.
pub(super) fn cached() -> Result<Option<PathBuf>> {
    Ok(in_cache(&setup::user_cache()?.join("drainscope")))
}

/// The program in the user's own cache, built if it was not.
pub(super) fn ensure() -> Result<PathBuf> {
    ensure_in(&setup::user_cache()?.join("drainscope"))
}

/// The program in that cache, built if it was not.
pub(crate) fn ensure_in(cache: &Path) -> Result<PathBuf> {
    if let Some(program) = in_cache(cache) {
        return Ok(program);
    }
    let begun = Instant::now();
    eprintln!("deploy: helm {VERSION}: building it from its Go module (two to three minutes)");
    let mut go = process::command("go");
    go.args(["install", "-trimpath", "-ldflags=-s -w"]).arg(format!("{MODULE}@{VERSION}"));
    process::run(go.env("GOBIN", folder(cache)).env("CGO_ENABLED", "0"))
        .context("helm needs Go 1.26 or later to be built")?;
    eprintln!("deploy: helm {VERSION}: built after {} s", begun.elapsed().as_secs());
    in_cache(cache).context("helm was built but is not there")
}

fn in_cache(cache: &Path) -> Option<PathBuf> {
    Some(folder(cache).join("helm")).filter(|program| program.is_file())
}
