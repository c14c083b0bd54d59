//! The Rust library sources (`rust-src`) of exactly the compiler that builds the kernel programs: there is no compiled
//! `core` for the BPF target, so cargo builds it from them.
//!
//! In order: a sysroot that has them; `rustup component add`; Debian's package of the very same version, unpacked into the
//! user's cache and linked into the sysroot. It never replaces a real folder, only a link that is dangling or of another
//! version.

use std::env;
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::apt::{self, Source};
use crate::{privilege, process};

/// The file by which sources are known to be there and readable.
const CORE: &str = "library/core/src/lib.rs";

/// Suites that may hold another release's compiler, the likeliest first. Backports of the current stable release hold
/// several versions at once; the symbolic names go on working when a new release comes out.
const SUITES: [&str; 4] = ["trixie-backports", "stable-backports", "testing", "unstable"];

/// Where Debian's own keys are, by release.
const KEYRINGS: [&str; 2] =
    ["/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp"];

/// A download of some 4 MB, on a slow line, and an unreachable server that does not answer.
const RUSTUP_LIMIT: Duration = Duration::from_secs(180);

/// Which compiler's sources, and where they may go.
pub(crate) struct Target {
    /// The compiler's installation.
    pub(crate) sysroot: PathBuf,
    /// `1.95.0`, as the compiler says it.
    pub(crate) version: String,
    /// The toolchain's name when rustup manages it.
    pub(crate) toolchain: Option<String>,
    /// The user's cache folder.
    pub(crate) cache: PathBuf,
}

/// What is at `lib/rustlib/src/rust`.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Readable,
    Missing,
    /// A link that leads nowhere, or to sources that are not there.
    Broken,
    /// A link to Debian's sources of another version, left behind by a compiler update.
    OtherVersion(String),
    /// A real folder without the library in it: not ours to remove.
    Foreign,
}

impl Target {
    /// The compiler that the BPF build uses. aya-build runs `rustup run <toolchain> cargo` when there is a rustup, with the
    /// toolchain that rustup chose for the outer cargo, else `stable`.
    pub(crate) fn active() -> Result<Self> {
        let toolchain = process::find("rustup")
            .map(|_| env::var("RUSTUP_TOOLCHAIN").unwrap_or_else(|_| "stable".to_owned()));
        let rustc = |args: [&str; 2]| -> Result<String> {
            let mut command = match &toolchain {
                Some(name) => {
                    let mut rustup = process::command("rustup");
                    rustup.args(["run", name, "rustc"]);
                    rustup
                }
                None => process::command("rustc"),
            };
            process::capture(command.args(args)).with_context(|| match &toolchain {
                Some(name) => format!("rustup is there but its toolchain `{name}` does not run"),
                None => "there is no rustc on PATH".to_owned(),
            })
        };
        let version = rustc(["--version", "--verbose"])?;
        let version = compiler_version(&version).context("rustc does not say its version")?;
        let sysroot = PathBuf::from(rustc(["--print", "sysroot"])?.trim());
        Ok(Self { sysroot, version, toolchain, cache: user_cache()? })
    }

    fn link(&self) -> PathBuf {
        self.sysroot.join("lib/rustlib/src/rust")
    }
}

/// Makes the sources readable, or says what to do by hand.
pub(crate) fn ensure(target: &Target) -> Result<()> {
    let name = format!("library sources of rustc {}", target.version);
    let link = target.link();
    match state(&link, &target.version) {
        State::Readable => {
            eprintln!("setup: {name}: found in {}", target.sysroot.display());
            return Ok(());
        }
        State::Foreign => bail!("{} has no {CORE}; move that folder away and try again", link.display()),
        State::Missing => eprintln!("setup: {name}: missing"),
        State::Broken => eprintln!("setup: {name}: {} is a broken link, to be replaced", link.display()),
        State::OtherVersion(other) => {
            eprintln!("setup: {name}: {} leads to {other}, to be replaced", link.display());
        }
    }
    if let Some(toolchain) = &target.toolchain {
        eprintln!("setup: {name}: asking rustup (at most {} s)", RUSTUP_LIMIT.as_secs());
        remove_link(&link).unwrap_or_else(|error| eprintln!("setup: {} stays: {error}", link.display()));
        match ask_rustup(toolchain) {
            Ok(()) if state(&link, &target.version) == State::Readable => {
                eprintln!("setup: {name}: installed by rustup");
                return Ok(());
            }
            Ok(()) => eprintln!("setup: rustup says it is done, but {CORE} is not there; going on"),
            Err(error) => eprintln!("setup: rustup cannot, going on: {}", first_line(&format!("{error:#}"))),
        }
    }
    let sources = from_debian(target).with_context(|| by_hand(target))?;
    point_at(&link, &sources)?;
    if state(&link, &target.version) != State::Readable {
        bail!("{} was linked, but {CORE} is not readable through it", link.display());
    }
    eprintln!("setup: {name}: linked to {}", sources.display());
    Ok(())
}

fn by_hand(target: &Target) -> String {
    let version = &target.version;
    let component = format!(
        "rustup component add rust-src{}",
        match &target.toolchain {
            Some(name) => format!(" --toolchain {name}"),
            None => String::new(),
        }
    );
    let short = version.rsplit_once('.').map_or(version.as_str(), |(short, _patch)| short);
    format!(
        "the library sources of rustc {version} are missing; by hand: `{component}`, or with a compiler of the distribution \
         its package of the same version (Debian: rust-src, Ubuntu: rust-{short}-src)"
    )
}

fn state(link: &Path, version: &str) -> State {
    let Ok(meta) = fs::symlink_metadata(link) else { return State::Missing };
    let readable = File::open(link.join(CORE)).and_then(|mut file| file.read(&mut [0])).is_ok_and(|n| n == 1);
    if !meta.is_symlink() {
        return if readable { State::Readable } else { State::Foreign };
    }
    if !readable {
        return State::Broken;
    }
    // Debian names the folder after the version; of a folder with another kind of name nothing is known.
    let leads_to = fs::read_link(link).unwrap_or_default();
    let folder = leads_to.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    match folder.strip_prefix("rustc-") {
        Some(other) if other != version => State::OtherVersion(folder),
        _ => State::Readable,
    }
}

fn ask_rustup(toolchain: &str) -> Result<()> {
    let mut rustup = process::command("rustup");
    rustup.args(["component", "add", "rust-src", "--toolchain", toolchain]);
    rustup.env("RUSTUP_TERM_COLOR", "never").env("RUST_BACKTRACE", "0");
    process::capture_within(&mut rustup, RUSTUP_LIMIT).map(drop)
}

/// The unpacked sources of Debian's package, from the cache if an earlier set-up left them there.
fn from_debian(target: &Target) -> Result<PathBuf> {
    let home = target.cache.join("drainscope/rust-src").join(&target.version);
    if let Some(sources) = unpacked(&home) {
        return Ok(sources);
    }
    let os = fs::read_to_string("/etc/os-release").context("cannot tell the distribution")?;
    if apt::os_release_field(&os, "ID").as_deref() != Some("debian") {
        bail!(
            "only Debian's archive keeps them in one package for every version; this is another distribution"
        );
    }
    let codename =
        apt::os_release_field(&os, "VERSION_CODENAME").context("/etc/os-release has no codename")?;
    let sources = apt::machine_sources(Path::new("/"))?;
    let source = apt::debian_source(&sources, &codename)
        .with_context(|| format!("apt's sources name no mirror for {codename} main"))?;

    // A private folder beside the final one: a set-up that is killed half-way leaves no half-unpacked sources behind.
    let work = home.with_extension("partial");
    drop(fs::remove_dir_all(&work));
    fs::create_dir_all(&work).with_context(|| format!("cannot create {}", work.display()))?;
    let package = download(source, &target.version, &work)?;
    let tree = work.join("tree");
    process::capture(process::command("dpkg-deb").arg("-x").arg(&package).arg(&tree))?;
    drop(fs::remove_dir_all(&home));
    fs::rename(&tree, &home).with_context(|| format!("cannot move into {}", home.display()))?;
    drop(fs::remove_dir_all(&work));
    unpacked(&home).context("Debian's package has no library sources in it")
}

/// `usr/src/rustc-*` that really holds the library.
fn unpacked(home: &Path) -> Option<PathBuf> {
    let folders = fs::read_dir(home.join("usr/src")).ok()?;
    folders.filter_map(|entry| Some(entry.ok()?.path())).find(|folder| folder.join(CORE).is_file())
}

/// Downloads the package from the first suite that has the version; returns the file.
fn download(source: &Source, version: &str, work: &Path) -> Result<PathBuf> {
    if let Some(package) = apt::version_of_upstream(&madison(&[])?, version) {
        return download_version(&[], &package, work);
    }
    let keyring = source
        .signed_by
        .clone()
        .or_else(|| KEYRINGS.iter().find(|file| Path::new(file).is_file()).map(|file| (*file).to_owned()));
    for suite in SUITES {
        let (list, lists) = (work.join("sources.list"), work.join(format!("lists-{suite}")));
        fs::create_dir_all(lists.join("partial"))?;
        fs::write(&list, apt::one_line(source, keyring.as_deref(), suite))?;
        let options = [
            format!("Dir::Etc::sourcelist={}", list.display()),
            "Dir::Etc::sourceparts=-".to_owned(),
            format!("Dir::State::lists={}", lists.display()),
            // The machine's own package cache stays as it is.
            "Dir::Cache::pkgcache=".to_owned(),
            "Dir::Cache::srcpkgcache=".to_owned(),
            "Acquire::Languages=none".to_owned(),
        ];
        eprintln!("setup: looking for rust-src {version} in {suite} at {}", source.uri);
        if let Err(error) = process::capture(with_options("apt-get", &options).arg("update")) {
            eprintln!("setup: {suite} cannot be read, going on: {error:#}");
            continue;
        }
        if let Some(package) = apt::version_of_upstream(&madison(&options)?, version) {
            return download_version(&options, &package, work);
        }
    }
    bail!("no suite of {} has rust-src {version} (looked in {})", source.uri, SUITES.join(", "));
}

fn madison(options: &[String]) -> Result<String> {
    process::capture(with_options("apt-cache", options).args(["madison", "rust-src"]))
}

fn download_version(options: &[String], package: &str, work: &Path) -> Result<PathBuf> {
    eprintln!("setup: downloading rust-src {package} (Debian)");
    let folder = work.join("package");
    fs::create_dir_all(&folder)?;
    let mut apt = with_options("apt-get", options);
    process::capture(apt.arg("download").arg(format!("rust-src={package}")).current_dir(&folder))?;
    let mut files = fs::read_dir(&folder)?.filter_map(|entry| Some(entry.ok()?.path()));
    files
        .find(|file| file.extension().is_some_and(|e| e == "deb"))
        .context("apt-get download left no package")
}

fn with_options(program: &str, options: &[String]) -> Command {
    let mut command = process::command(program);
    command.env("LC_ALL", "C").args(options.iter().flat_map(|option| ["-o", option]));
    command
}

/// Makes `link` a symbolic link to `sources`; by sudo where the sysroot is not ours.
fn point_at(link: &Path, sources: &Path) -> Result<()> {
    let parent = link.parent().context("a link has a parent")?;
    let own = || -> std::io::Result<()> {
        fs::create_dir_all(parent)?;
        let fresh = parent.join(".rust-drainscope");
        drop(fs::remove_file(&fresh));
        symlink(sources, &fresh)?;
        fs::rename(&fresh, link)
    };
    match own() {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            let Ok(privilege) = privilege::detect() else {
                bail!(
                    "{} is not writable; as root: ln -sfn {} {}",
                    parent.display(),
                    sources.display(),
                    link.display()
                )
            };
            eprintln!("setup: {} is not writable by this user: linking as root", parent.display());
            process::run(privilege.command("mkdir").arg("-p").arg(parent))?;
            process::run(privilege.command("ln").arg("-sfn").arg(sources).arg(link))
        }
        other => other.with_context(|| format!("cannot link {}", link.display())),
    }
}

/// rustup refuses to install over a link that it did not make.
fn remove_link(link: &Path) -> std::io::Result<()> {
    match fs::symlink_metadata(link) {
        Ok(meta) if meta.is_symlink() => fs::remove_file(link),
        _ => Ok(()),
    }
}

/// The `release:` line of `rustc --version --verbose`.
fn compiler_version(verbose: &str) -> Option<String> {
    verbose.lines().find_map(|line| line.strip_prefix("release:")).map(|rest| rest.trim().to_owned())
}

/// The user's folder for what can be made again.
pub(crate) fn user_cache() -> Result<PathBuf> {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || absolute("HOME").map(|home| home.join(".cache"));
    absolute("XDG_CACHE_HOME").or_else(home).context("neither XDG_CACHE_HOME nor HOME is set")
}

fn first_line(text: &str) -> &str {
    // The line after the command's own status says why.
    text.lines().find(|line| line.starts_with("error")).or_else(|| text.lines().next()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
