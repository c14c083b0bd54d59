//! What the kernel programs and user space share: the byte layout of maps and ring records, the kernel fields that
//! the programs read, and the one rule that turns a closing connection into a class.
//!
//! Everything here is plain data and pure functions: `no_std`, no dependency, no I/O. The programs themselves are in
//! `main.rs`, which is compiled for the BPF target only.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod class;
pub mod decide;
pub mod fields;
pub mod known;
pub mod protocol;
pub mod record;
pub mod settings;
pub mod wire;
