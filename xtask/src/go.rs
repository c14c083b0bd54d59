//! Go programs that xtask builds once and keeps outside the tree.
//!
//! A module's folder in the cache is named by what the module's files say (the versions are among them), so another checkout finds its own, and a build that was killed leaves only a
//! folder that no name leads to. Nothing is downloaded but published Go modules, by `go` itself, which holds each against the module's go.sum.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::process;

/// A Go module of this repository and the place of what is built from it.
pub(crate) struct Module {
    source: PathBuf,
    place: PathBuf,
}

impl Module {
    /// The module in `source`, built into a folder of `shelf` that begins with its name.
    pub(crate) fn of(source: PathBuf, shelf: &Path) -> Result<Self> {
        let name = source.file_name().unwrap_or_default().to_string_lossy();
        let place = shelf.join(format!("{name}-{:016x}", fingerprint(&source)?));
        Ok(Self { source, place })
    }

    /// Where its programs are, once built.
    pub(crate) fn into_place(self) -> PathBuf {
        self.place
    }

    /// Has `build` make the programs, from the module's folder into another one, unless they are there. `what` it is and how long that takes are said for `who` asked.
    pub(crate) fn ensure(
        &self,
        who: &str,
        what: &str,
        duration: &str,
        build: impl FnOnce(&Path, &Path) -> Result<()>,
    ) -> Result<()> {
        let place = &self.place;
        if place.is_dir() {
            return Ok(());
        }
        let begun = Instant::now();
        eprintln!("{who}: building {what} ({duration}) into {}", place.display());
        let partial = place.with_extension(format!("partial-{}", std::process::id()));
        fs::create_dir_all(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
        build(&self.source, &partial).with_context(|| format!("cannot build {what}"))?;
        fs::rename(&partial, place).with_context(|| format!("cannot move into {}", place.display()))?;
        eprintln!("{who}: {what}: built in {:.0} s", begun.elapsed().as_secs_f64());
        Ok(())
    }
}

/// Packages of the module in `source`, compiled without cgo: images have no libraries.
pub(crate) fn build(source: &Path, into: &Path, ldflags: &str, packages: &[&str]) -> Result<()> {
    let mut go = process::command("go");
    go.current_dir(source).env("CGO_ENABLED", "0");
    go.args(["build", "-trimpath", "-ldflags", ldflags, "-o"]).arg(into).args(packages);
    process::run(&mut go)
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
        let source = std::env::temp_dir().join(format!("xtask-go-{}", std::process::id())).join("kube");
        fs::create_dir_all(source.join("below")).unwrap();
        let place = || Module::of(source.clone(), Path::new("/c")).unwrap().into_place();
        let mut places = Vec::new();
        for (file, text) in [("go.mod", "v1"), ("go.mod", "v2"), ("below/main.go", "v2")] {
            fs::write(source.join(file), text).unwrap();
            places.push(place());
        }
        assert_eq!(places[2], place());
        fs::remove_dir_all(source.parent().unwrap()).unwrap();
        assert!(places[0].to_str().unwrap().starts_with("/c/kube-"), "{places:?}");
        places.dedup();
        assert_eq!(places.len(), 3);
    }
}
