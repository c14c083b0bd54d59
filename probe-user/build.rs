//! Builds the BPF object from `probe-ebpf` with stable Rust; `AYA_BUILD_SKIP=1` leaves it out (the agent then says so).

fn main() -> aya_build::Result<()> {
    println!("cargo:rerun-if-env-changed=AYA_BUILD_SKIP");
    println!("cargo:rustc-check-cfg=cfg(no_bpf_object)");
    if std::env::var_os("AYA_BUILD_SKIP").is_some_and(|v| v == "1" || v == "true") {
        println!("cargo:rustc-cfg=no_bpf_object");
        return Ok(());
    }
    // SAFETY: a build script has one thread here. The variable is inherited by the inner cargo only: it is what lets a
    // stable toolchain pass `-Z build-std=core` for the BPF target.
    unsafe { std::env::set_var("RUSTC_BOOTSTRAP", "1") };
    // SAFETY: as above. Its progress would be replayed as a warning a line, at every build.
    unsafe { std::env::set_var("CARGO_TERM_QUIET", "true") };
    let toolchain = std::env::var("RUSTUP_TOOLCHAIN").unwrap_or_else(|_| "stable".into());
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../probe-ebpf");
    aya_build::build_ebpf(
        [aya_build::Package { name: "probe-ebpf", root_dir: root, ..Default::default() }],
        aya_build::Toolchain::Custom(&toolchain),
    )
}
