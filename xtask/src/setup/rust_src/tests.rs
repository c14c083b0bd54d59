//! States of a sysroot built in a temporary folder. The download itself needs Debian's archive and is exercised by
//! `cargo xtask setup --rust-src-into`, not here.

use super::*;

/// A sysroot and a cache of a test's own, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let folder = env::temp_dir().join(format!("xtask-rust-src-{name}-{}", std::process::id()));
        drop(fs::remove_dir_all(&folder));
        fs::create_dir_all(folder.join("sysroot/lib/rustlib/src")).unwrap();
        Self(folder)
    }

    fn link(&self) -> PathBuf {
        self.0.join("sysroot/lib/rustlib/src/rust")
    }

    /// Library sources in the cache, as Debian's package unpacks.
    fn sources(&self, version: &str) -> PathBuf {
        let folder = self.0.join(format!("cache/drainscope/rust-src/{version}/usr/src/rustc-{version}"));
        fs::create_dir_all(folder.join("library/core/src")).unwrap();
        fs::write(folder.join(CORE), "//! core\n").unwrap();
        folder
    }

    fn target(&self, version: &str) -> Target {
        let (sysroot, cache) = (self.0.join("sysroot"), self.0.join("cache"));
        Target { sysroot, version: version.to_owned(), toolchain: None, cache }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

#[test]
fn an_empty_sysroot_is_missing_and_a_dangling_link_is_broken() {
    let scratch = Scratch::new("broken");
    assert_eq!(state(&scratch.link(), "1.95.0"), State::Missing);
    symlink(scratch.0.join("nowhere"), scratch.link()).unwrap();
    assert_eq!(state(&scratch.link(), "1.95.0"), State::Broken);
}

#[test]
fn a_link_to_a_folder_without_the_library_is_broken() {
    let scratch = Scratch::new("hollow");
    let sources = scratch.sources("1.95.0");
    fs::remove_file(sources.join(CORE)).unwrap();
    symlink(&sources, scratch.link()).unwrap();
    assert_eq!(state(&scratch.link(), "1.95.0"), State::Broken);
}

#[test]
fn sources_of_another_version_do_not_count() {
    let scratch = Scratch::new("stale");
    symlink(scratch.sources("1.94.1"), scratch.link()).unwrap();
    assert_eq!(state(&scratch.link(), "1.94.1"), State::Readable);
    assert_eq!(state(&scratch.link(), "1.95.0"), State::OtherVersion("rustc-1.94.1".to_owned()));
}

#[test]
fn a_real_folder_is_used_as_it_is_and_never_replaced() {
    let scratch = Scratch::new("real");
    fs::create_dir_all(scratch.link().join("library/core/src")).unwrap();
    assert_eq!(state(&scratch.link(), "1.95.0"), State::Foreign);
    assert!(ensure(&scratch.target("1.95.0")).is_err());
    fs::write(scratch.link().join(CORE), "//! core\n").unwrap();
    assert_eq!(state(&scratch.link(), "1.95.0"), State::Readable);
    ensure(&scratch.target("1.95.0")).unwrap();
    assert!(!fs::symlink_metadata(scratch.link()).unwrap().is_symlink());
}

#[test]
fn cached_sources_are_linked_over_a_broken_link_without_a_download() {
    let scratch = Scratch::new("cached");
    let sources = scratch.sources("0.0.1");
    symlink(scratch.0.join("nowhere"), scratch.link()).unwrap();
    ensure(&scratch.target("0.0.1")).unwrap();
    assert_eq!(fs::read_link(scratch.link()).unwrap(), sources);
}

#[test]
fn the_version_is_the_release_line() {
    let verbose =
        "rustc 1.95.0 (0123 2026-04-14) (built from a source tarball)\nbinary: rustc\nrelease: 1.95.0\n";
    assert_eq!(compiler_version(verbose).as_deref(), Some("1.95.0"));
    assert_eq!(compiler_version("release: 1.97.0-nightly\n").as_deref(), Some("1.97.0-nightly"));
    assert_eq!(compiler_version("rustc 1.95.0"), None);
}

#[test]
fn the_advice_names_the_toolchain_and_ubuntus_package() {
    let scratch = Scratch::new("advice");
    let mut target = scratch.target("1.95.0");
    target.toolchain = Some("stable".to_owned());
    let advice = by_hand(&target);
    assert!(advice.contains("rustup component add rust-src --toolchain stable"), "{advice}");
    assert!(advice.contains("rust-1.95-src"), "{advice}");
}

#[test]
fn rustups_reason_is_picked_out_of_its_chatter() {
    assert_eq!(
        first_line("`rustup` failed: 1\ninfo: downloading\nerror: no network\n  more"),
        "error: no network"
    );
    assert_eq!(first_line("cannot start"), "cannot start");
}
