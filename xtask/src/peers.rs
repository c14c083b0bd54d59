//! What `cargo xtask bench probes` holds our probes against: real programs of published Go modules (`tests/probers`), built once and kept outside the tree.
//!
//! Not here: how they are run and what is compared (the benchmark's own matter).

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::go::{self, Module};
use crate::metadata::Metadata;
use crate::setup;

/// Module, its main package, the benchmark's flag, how long the first build takes on two cores.
const PEERS: [(&str, &str, &str, &str); 2] = [
    (
        "blackbox",
        "github.com/prometheus/blackbox_exporter",
        "--blackbox-exporter",
        "some 20 seconds, the first time",
    ),
    (
        "cloudprober",
        "github.com/cloudprober/cloudprober/cmd/cloudprober",
        "--cloudprober",
        "a minute or two, the first time",
    ),
];

/// Builds what the benchmark's arguments ask for; the flags that tell it where that is.
pub(crate) fn flags(metadata: &Metadata, args: &[OsString]) -> Result<Vec<OsString>> {
    if args.first().is_none_or(|first| first != "probes") {
        return Ok(Vec::new());
    }
    let mut flags = Vec::new();
    let shelf = setup::user_cache()?.join("drainscope/probers");
    for (name, package, flag, duration) in PEERS {
        let module = Module::of(metadata.root.join("tests/probers").join(name), &shelf)?;
        let build = |source: &Path, into: &Path| go::build(source, into, "-s -w", &[package]);
        module
            .ensure("bench", package, duration, build)
            .context("the peers need Go 1.26 or later: cargo xtask setup --servers")?;
        let program = module.into_place().join(package.rsplit('/').next().unwrap_or(package));
        flags.extend([flag.into(), program.into_os_string()]);
    }
    Ok(flags)
}
