//! `cargo xtask image OUT.tar`: the agent as a container image, without a registry, a daemon or root.
//!
//! One layer with one file: `/drainscope`, linked statically against glibc, so the image needs no base. The archive is the one
//! that `docker save` writes (manifest.json, configuration, layer), which `ctr images import`, `docker load`, `podman load` and skopeo
//! read. Times and owners are fixed: the same commit and toolchain, at the same place, make the same bytes. deploy/Dockerfile does
//! the same where there is Docker.

use std::env::consts::ARCH;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use crate::deploy::checksums;
use crate::metadata::Metadata;
use crate::process;
use crate::setup::Setup;

/// The program in the image.
const PROGRAM: &str = "drainscope";
/// Kubernetes reads a plain `drainscope` as this.
const REPOSITORY: &str = "docker.io/library/drainscope";
/// The moment of everything in the archive.
const EPOCH: &str = "1970-01-01T00:00:00Z";

/// Builds the agent and writes the archive; the default tag is the version.
pub(crate) fn run(setup: &Setup, out: &Path, tag: Option<&str>) -> Result<()> {
    let architecture = match ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("no container platform is known for {other}"),
    };
    setup.build()?;
    let metadata = Metadata::read()?;
    let name = format!("{REPOSITORY}:{}", tag.unwrap_or(env!("CARGO_PKG_VERSION")));
    let program = build(&metadata)?;
    let folder = metadata.target.join("image");
    drop(fs::remove_dir_all(&folder));
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    fs::copy(&program, folder.join(PROGRAM)).with_context(|| format!("cannot copy {}", program.display()))?;
    fs::set_permissions(folder.join(PROGRAM), fs::Permissions::from_mode(0o755))?;
    archive(&folder, Path::new("layer.tar"), &[PROGRAM])?;
    let layer = checksum(&folder, "layer.tar")?;
    let configuration = format!("{}.json", write_configuration(&folder, architecture, &layer)?);
    let manifest = json!([{ "Config": configuration, "RepoTags": [name], "Layers": ["layer.tar"] }]);
    fs::write(folder.join("manifest.json"), manifest.to_string()).context("cannot write manifest.json")?;
    let out = std::path::absolute(out)?;
    archive(&folder, &out, &["manifest.json", &configuration, "layer.tar"])?;
    let bytes = fs::metadata(&out)?.len();
    println!("image: {name}, {:.1} MiB, in {}", bytes as f64 / f64::from(1 << 20), out.display());
    println!("image: sha256:{} (its configuration)", configuration.trim_end_matches(".json"));
    Ok(())
}

/// The agent, static and stripped. The kernel programs in it still name places of the build, in their line information.
fn build(metadata: &Metadata) -> Result<PathBuf> {
    let host = process::capture(process::command("rustc").arg("-vV"))?;
    let target = host.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    if !target.ends_with("-gnu") && !target.ends_with("-musl") {
        bail!("a static program cannot be made for {target}");
    }
    let cargo_home = process::cargo_bin().and_then(|folder| folder.parent().map(Path::to_owned));
    let remapped = [(Some(metadata.root.clone()), "/drainscope"), (cargo_home, "/cargo")];
    let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned(), "-Cstrip=symbols".to_owned()];
    for (path, to) in remapped {
        flags.extend(path.map(|path| format!("--remap-path-prefix={}={to}", path.display())));
    }
    // By --config, for variables would reach the build of the kernel programs too.
    let flags = format!("target.{target}.rustflags={}", json!(flags));
    let mut cargo = process::cargo();
    cargo.args(["build", "--locked", "--release", "--package", "probe-user", "--bin", PROGRAM]);
    cargo.args(["--target", target, "--config", &flags]).current_dir(&metadata.root);
    process::run(&mut cargo)?;
    Ok(metadata.target.join(target).join("release").join(PROGRAM))
}

/// The image's configuration; the file's name is its checksum, which is returned.
fn write_configuration(folder: &Path, architecture: &str, layer: &str) -> Result<String> {
    let configuration = json!({
        "architecture": architecture,
        "os": "linux",
        "created": EPOCH,
        "config": {
            "Entrypoint": [format!("/{PROGRAM}")],
            "Cmd": ["agent"],
            "Labels": {
                "org.opencontainers.image.title": PROGRAM,
                "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
                "org.opencontainers.image.licenses": env!("CARGO_PKG_LICENSE"),
            },
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer}")] },
        "history": [{ "created": EPOCH, "created_by": "cargo xtask image" }],
    });
    fs::write(folder.join("config.json"), configuration.to_string()).context("cannot write config.json")?;
    let sum = checksum(folder, "config.json")?;
    fs::rename(folder.join("config.json"), folder.join(format!("{sum}.json")))?;
    Ok(sum)
}

/// A tar of files of the folder, without anything of the machine or the moment.
fn archive(folder: &Path, out: &Path, files: &[&str]) -> Result<()> {
    let mut tar = process::command("tar");
    tar.current_dir(folder).args(["--format=ustar", "--mtime=@0", "--owner=0", "--group=0"]);
    tar.args(["--numeric-owner", "--mode=u=rwX,go=rX", "--file"]).arg(out);
    process::run(tar.args(["--create", "--"]).args(files))
}

fn checksum(folder: &Path, file: &str) -> Result<String> {
    let line = checksums(folder, &[file])?;
    line.split(' ').next().map(str::to_owned).context("sha256sum printed nothing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_the_same_whenever_it_is_made() {
        let folder = std::env::temp_dir().join(format!("xtask-image-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let mut sums = Vec::new();
        for (out, mode, age) in [("a.tar", 0o755, 1), ("b.tar", 0o700, 1_000_000)] {
            fs::write(folder.join(PROGRAM), "program").unwrap();
            let file = fs::File::options().write(true).open(folder.join(PROGRAM)).unwrap();
            file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(age)).unwrap();
            fs::set_permissions(folder.join(PROGRAM), fs::Permissions::from_mode(mode)).unwrap();
            archive(&folder, Path::new(out), &[PROGRAM]).unwrap();
            sums.push(checksum(&folder, out).unwrap());
        }
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(sums[0], sums[1]);
    }
}
