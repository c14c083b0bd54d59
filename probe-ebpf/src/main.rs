//! The kernel programs, one hook a file in `programs/`. Compiled for the BPF target by `probe-user/build.rs`; for any
//! other target this is an empty program.
//!
//! They stamp, count and classify; they never change anything. What they share with user space is in the library.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod programs;

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier would refuse a program that can get here.
    loop {}
}

/// GPL-compatible, as the helpers for BTF tracepoints demand.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
