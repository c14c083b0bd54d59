//! Reads of kernel structures, at offsets that user space writes into the instructions when it loads them (see `fields`).
//!
//! `direct` is for pointers that the verifier knows (tracepoint arguments and what they lead to): a plain load, a third
//! of the price of a helper call. `probe` is for all else.

use super::maps;
use aya_ebpf::bindings::bpf_pidns_info;
use aya_ebpf::helpers::generated;
use core::arch::asm;
use core::mem::MaybeUninit;
use probe_ebpf::fields::Field;
use probe_ebpf::settings::Settings;

/// Written by user space before the programs are loaded; constant from then on (the verifier sees its values).
#[unsafe(no_mangle)]
static SETTINGS: Settings = Settings::UNSET;

/// TCP states (include/net/tcp_states.h).
pub(super) mod tcp {
    pub(in super::super) const ESTABLISHED: i32 = 1;
    pub(in super::super) const SYN_SENT: i32 = 2;
    pub(in super::super) const SYN_RECV: i32 = 3;
    pub(in super::super) const FIN_WAIT1: i32 = 4;
    pub(in super::super) const FIN_WAIT2: i32 = 5;
    pub(in super::super) const TIME_WAIT: u8 = 6;
    pub(in super::super) const CLOSE: i32 = 7;
    pub(in super::super) const CLOSE_WAIT: i32 = 8;
    pub(in super::super) const LAST_ACK: i32 = 9;
    pub(in super::super) const LISTEN: i32 = 10;
    pub(in super::super) const CLOSING: i32 = 11;
    pub(in super::super) const NEW_SYN_RECV: u8 = 12;
}
/// Address family (include/linux/socket.h).
pub(super) const AF_INET6: u16 = 10;
/// IP protocol number of TCP; MPTCP sockets (262) fire the same hooks.
pub(super) const IPPROTO_TCP: u16 = 6;

macro_rules! setting {
    ($name:ident: $type:ty) => {
        #[inline(always)]
        pub(super) fn $name() -> $type {
            // SAFETY: a static of this program; volatile because user space patches it.
            unsafe { core::ptr::read_volatile(&raw const SETTINGS.$name) }
        }
    };
}
setting!(upid_size: u32);
setting!(v1_subsystem: u32);
setting!(hierarchy: u32);
setting!(host_net: u64);
setting!(stop_signals: u64);
setting!(deletion_signals: u64);
setting!(queue_purge: u32);
setting!(tcp_close: u32);
setting!(instance: u64);

/// These are the programs that count. Asked by every program before it writes anything that others read, or that a second one would write
/// again.
#[inline(always)]
pub(super) fn is_active() -> bool {
    maps::CONTROL.get(0).is_some_and(|control| control.instance == instance())
}

/// These programs count, and the socket is plain TCP's. Asked after all that is cheaper.
#[inline(always)]
pub(super) fn is_counted(sk: *const u8) -> bool {
    direct::<u16>(sk, Field::Protocol) == IPPROTO_TCP && is_active()
}

/// Nobody has read the counts for so long that the programs stop. Asked by a hook that is rare and never silent for long.
#[inline(always)]
pub(super) fn stop_when_forgotten() {
    let Some(control) = maps::CONTROL.get_ptr_mut(0) else { return };
    // SAFETY: a live map value; user space, which may write at the same moment, looks again at its next beat.
    unsafe {
        if (*control).until_ns < now_ns() {
            (*control).instance = 0;
        }
    }
}

const PIDS_BYTES: u32 = 8;
const _: () = assert!(size_of::<bpf_pidns_info>() == PIDS_BYTES as usize);

/// The running task is the agent's, whatever container that is in. To be asked of probes only.
#[inline(always)]
pub(super) fn is_agent() -> bool {
    let Some(control) = maps::CONTROL.get(0) else { return false };
    let mut own = bpf_pidns_info { pid: 0, tgid: 0 };
    // SAFETY: the helper writes no more than these bytes, and nothing if the task is of another pid namespace.
    let failed = unsafe {
        let (device, inode) = (control.agent_device, control.agent_inode);
        generated::bpf_get_ns_current_pid_tgid(device, inode, &raw mut own, PIDS_BYTES)
    };
    failed == 0 && control.agent_pid != 0 && own.tgid == control.agent_pid
}

/// Bit `reason` of the drop reasons that may mean "address gone".
#[inline(always)]
pub(super) fn drop_reason_matters(reason: u32) -> bool {
    if reason >= 256 {
        return false;
    }
    // SAFETY: the index is below 4; a static of this program.
    let word =
        unsafe { core::ptr::read_volatile(&raw const SETTINGS.drop_reasons[(reason >> 6) as usize & 3]) };
    word >> (reason & 63) & 1 == 1
}

/// A plain load from a pointer that the verifier knows.
#[inline(always)]
pub(super) fn direct<T: Copy>(base: *const u8, field: Field) -> T {
    // SAFETY: the verifier checks type and bounds of the access; a fault reads as zero.
    unsafe { core::ptr::read_volatile(base.add(field.placeholder()).cast()) }
}

/// The address of a member, for structures nested by value.
#[inline(always)]
pub(super) fn member(base: *const u8, field: Field) -> *const u8 {
    let mut address = base.wrapping_add(field.placeholder());
    // The compiler would put it together with what is added next, and nobody would find the placeholder in the sum.
    // SAFETY: changes nothing. An instruction all the same: the kernel refuses line numbers of none.
    unsafe { asm!("{0} = {0}", inout(reg) address, options(pure, readonly, nostack)) };
    address
}

/// A checked read from any kernel address; `None` if it faults.
#[inline(always)]
pub(super) fn probe<T: Copy>(base: *const u8, field: Field) -> Option<T> {
    probe_at(member(base, field))
}

/// A checked read from any kernel address; `None` if it faults.
#[inline(always)]
pub(super) fn probe_at<T: Copy>(address: *const u8) -> Option<T> {
    #[expect(clippy::cast_possible_truncation, reason = "a few bytes")]
    let size = size_of::<T>() as u32;
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: writes exactly the size of T into T's place, or fails.
    let failed = unsafe { generated::bpf_probe_read_kernel(value.as_mut_ptr().cast(), size, address.cast()) };
    if failed != 0 {
        return None;
    }
    // SAFETY: filled above; every T used here is valid for any bytes (integers, raw pointers, byte arrays).
    Some(unsafe { value.assume_init() })
}

/// The tcp_sock behind a full TCP socket, null for anything else.
#[inline(always)]
pub(super) fn tcp_sock(sk: *const u8) -> *const u8 {
    // SAFETY: the helper checks what the socket is.
    unsafe { generated::bpf_skc_to_tcp_sock(sk.cast_mut().cast()).cast() }
}

/// 1 if the number is not 0, else 0. Without a branch: of several facts the verifier would follow each combination. (BPF has
/// no instruction for it, and what the compiler recognises it turns into a branch.)
#[inline(always)]
pub(super) fn is_set(number: u64) -> u32 {
    let mut negated = number;
    // SAFETY: arithmetic on a register.
    unsafe { asm!("{0} = -{0}", inout(reg) negated, options(pure, nomem, nostack)) };
    ((number | negated) >> 63) as u32
}

/// The same number, made here and now: of several, the compiler would load all parts first and keep them on the stack.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "it was 32 bits before")]
pub(super) fn at_once(number: u32) -> u32 {
    let mut made = u64::from(number);
    // SAFETY: changes nothing.
    unsafe { asm!("{0} = {0}", inout(reg) made, options(nomem, nostack)) };
    made as u32
}

/// 1 if both numbers are the same, else 0; see [`is_set`].
#[inline(always)]
pub(super) fn is_same(a: u32, b: u32) -> u32 {
    is_set(u64::from(a ^ b)) ^ 1
}

/// 1 if the first number is the smaller one, else 0; see [`is_set`]. Both are below 2^63.
#[inline(always)]
pub(super) fn is_less(a: u64, b: u64) -> u32 {
    let mut difference = a;
    // SAFETY: as above.
    unsafe { asm!("{0} -= {1}", inout(reg) difference, in(reg) b, options(pure, nomem, nostack)) };
    (difference >> 63) as u32
}

/// CLOCK_MONOTONIC.
#[inline(always)]
pub(super) fn now_ns() -> u64 {
    // SAFETY: no arguments.
    unsafe { generated::bpf_ktime_get_ns() }
}

/// The low half of the kernel's own clock, in ticks.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the low half")]
pub(super) fn jiffies() -> u32 {
    // SAFETY: no arguments.
    unsafe { generated::bpf_jiffies64() as u32 }
}

/// The running process.
#[inline(always)]
pub(super) fn current_process() -> u32 {
    // SAFETY: no arguments.
    (unsafe { generated::bpf_get_current_pid_tgid() } >> 32) as u32
}

/// The running task.
#[inline(always)]
pub(super) fn current_task() -> *const u8 {
    // SAFETY: no arguments; read through `probe` only.
    unsafe { generated::bpf_get_current_task() as *const u8 }
}

/// Cookie of a socket's network namespace; 0 if it has none.
#[inline(always)]
pub(super) fn net_cookie(sk: *const u8) -> u64 {
    let net: *const u8 = direct(sk, Field::Net);
    if net.is_null() {
        return 0;
    }
    direct(net, Field::NetCookie)
}

/// The same of a socket that the verifier does not know; `None` if there is no socket.
#[inline(always)]
pub(super) fn net_cookie_of_unknown(sk: *const u8) -> Option<u64> {
    if sk.is_null() {
        return None;
    }
    probe(probe(sk, Field::Net)?, Field::NetCookie)
}

/// 1 if accept() took the connection, else 0. With a branch: the verifier allows no arithmetic on pointers.
#[inline(always)]
pub(super) fn is_accepted(sk: *const u8) -> u32 {
    u32::from(direct::<u64>(sk, Field::Socket) != 0)
}

/// 1 if the client's FIN has come, in whatever state (SOCK_DONE of enum sock_flags, include/net/sock.h); see [`is_set`].
#[inline(always)]
pub(super) fn client_has_finished(sk: *const u8) -> u32 {
    const SOCK_DONE: u64 = 1 << 1;
    is_set(direct::<u64>(sk, Field::Flags) & SOCK_DONE)
}

/// The kernel itself gives the socket up, or its application has closed it (SOCK_DEAD).
#[inline(always)]
pub(super) fn is_dead(sk: *const u8) -> bool {
    const SOCK_DEAD: u64 = 1;
    direct::<u64>(sk, Field::Flags) & SOCK_DEAD != 0
}

/// 1 if the client's RST is what ends the connection: tcp_reset sets one of these errors before the state, and nothing else
/// does (net/ipv4/tcp_input.c; a reset of our own sets its error after the state).
#[inline(always)]
pub(super) fn client_has_reset(sk: *const u8) -> u32 {
    const EPIPE: u32 = 32;
    const ECONNRESET: u32 = 104;
    let error: u32 = direct(sk, Field::Error);
    is_same(error, EPIPE) | is_same(error, ECONNRESET)
}

#[inline(always)]
fn mapped(v4: u32) -> [u64; 2] {
    // The bytes 00 00 ff ff, then the address as it is on the wire, in a little-endian word.
    [0, u64::from(v4) << 32 | 0xffff_0000]
}

/// Local and peer address as IPv6 in two words each, IPv4 mapped.
#[inline(always)]
pub(super) fn local_address(sk: *const u8) -> [u64; 2] {
    if direct::<u16>(sk, Field::Family) == AF_INET6 {
        let base = member(sk, Field::LocalV6);
        // SAFETY: verifier-checked loads, as in `direct`.
        unsafe { [core::ptr::read_volatile(base.cast()), core::ptr::read_volatile(base.add(8).cast())] }
    } else {
        mapped(direct(sk, Field::LocalV4))
    }
}

/// See [`local_address`].
#[inline(always)]
pub(super) fn peer_address(sk: *const u8) -> [u64; 2] {
    if direct::<u16>(sk, Field::Family) == AF_INET6 {
        let base = member(sk, Field::PeerV6);
        // SAFETY: verifier-checked loads, as in `direct`.
        unsafe { [core::ptr::read_volatile(base.cast()), core::ptr::read_volatile(base.add(8).cast())] }
    } else {
        mapped(direct(sk, Field::PeerV4))
    }
}

/// Both ends are the same address, or the peer is a loopback one: no client's.
#[inline(always)]
pub(super) fn is_own_traffic(sk: *const u8) -> bool {
    let peer = peer_address(sk);
    peer == local_address(sk) || is_loopback(peer)
}

/// 127.0.0.0/8 (mapped) or ::1.
#[inline(always)]
pub(super) fn is_loopback(address: [u64; 2]) -> bool {
    let low = u64::from_be(address[1]);
    address[0] == 0 && (low == 1 || low >> 24 == 0x00ff_ff7f)
}

/// IPv4 address as it is on the wire, in the two-word form.
#[inline(always)]
pub(super) fn mapped_v4(wire: u32) -> [u64; 2] {
    mapped(wire)
}
