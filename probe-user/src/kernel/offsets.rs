//! What the kernel programs must know of the running kernel: offsets of members, enum values, namespaces.

use super::btf::Btf;
use super::hooks::{ADDRESS_GONE, Program};
use probe_ebpf::fields::{ABSENT, FIELDS, Offsets, PATHS};
use probe_ebpf::settings::Settings;
use std::os::fd::AsRawFd as _;

/// Signals that stop a container: TERM, INT, QUIT (the usual STOPSIGNALs) and KILL.
const STOP_SIGNALS: [i32; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGKILL];
/// STOPSIGNALs of some images that are reloads or the like elsewhere: USR1 (haproxy), WINCH (httpd), RTMIN+3 (systemd).
const DELETION_SIGNALS: [i32; 5] = [libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2, libc::SIGWINCH, 37];

/// Where the members lie.
pub(super) fn offsets(btf: &Btf) -> Offsets {
    let mut offsets = Offsets([ABSENT; FIELDS]);
    for (field, structure, path) in PATHS {
        offsets.0[*field as usize] = btf.offset(structure, path).unwrap_or(ABSENT);
    }
    offsets
}

/// Everything else that BTF and this process know. `v1_controller` names the cgroup v1 controller to follow, if it is v1.
pub(super) fn settings(btf: &Btf, v1_controller: Option<&str>) -> Result<Settings, String> {
    let mut settings = Settings::UNSET;
    settings.upid_size = btf.size("upid").ok_or("BTF has no struct upid")?;
    if let Some(controller) = v1_controller {
        let id = format!("{controller}_cgrp_id");
        settings.v1_subsystem =
            btf.enumerator("cgroup_subsys_id", &id).ok_or_else(|| format!("BTF has no {id}"))?;
        settings.hierarchy = hierarchy_number(controller)
            .ok_or_else(|| format!("/proc/cgroups has no hierarchy for the controller {controller}"))?;
    }
    settings.host_net =
        own_namespace_cookie().map_err(|error| format!("cookie of the network namespace: {error}"))?;
    for signal in STOP_SIGNALS {
        settings.stop_signals |= 1 << signal;
    }
    for signal in DELETION_SIGNALS {
        settings.deletion_signals |= 1 << signal;
    }
    for reason in ADDRESS_GONE {
        if let Some(number) = btf.enumerator("skb_drop_reason", &format!("SKB_DROP_REASON_{reason}"))
            && number < 256
        {
            settings.drop_reasons[number as usize / 64] |= 1 << (number % 64);
        }
    }
    settings.queue_purge = btf.enumerator("skb_drop_reason", "SKB_DROP_REASON_QUEUE_PURGE").unwrap_or(ABSENT);
    // Whose it was, the socket alone tells.
    if btf.tracepoint_arguments("kfree_skb").is_some_and(|arguments| arguments > 3) {
        settings.tcp_close = btf.enumerator("skb_drop_reason", "SKB_DROP_REASON_TCP_CLOSE").unwrap_or(ABSENT);
    }
    Ok(settings)
}

/// Why a program cannot run on this kernel; `None` if nothing speaks against it.
pub(super) fn unsupported(btf: &Btf, offsets: &Offsets, program: &Program) -> Option<String> {
    let Some(arguments) = btf.tracepoint_arguments(program.hook) else {
        return Some(format!("this kernel has no tracepoint {}", program.hook));
    };
    if arguments < program.arguments {
        return Some(format!(
            "the tracepoint {} has {arguments} arguments on this kernel, {} are needed",
            program.hook, program.arguments
        ));
    }
    let missing: Vec<String> = PATHS
        .iter()
        .filter(|(field, ..)| program.fields.contains(field) && offsets.of(*field) == ABSENT)
        .map(|(_, structure, path)| format!("{structure}.{path}"))
        .collect();
    (!missing.is_empty()).then(|| format!("this kernel has no {}", missing.join(", ")))
}

/// Second column of /proc/cgroups.
fn hierarchy_number(controller: &str) -> Option<u32> {
    let table = std::fs::read_to_string("/proc/cgroups").ok()?;
    table.lines().find_map(|line| {
        let mut columns = line.split_ascii_whitespace();
        (columns.next() == Some(controller)).then(|| columns.next()?.parse().ok()).flatten()
    })
}

/// SO_NETNS_COOKIE of a socket of this process: the namespace that counts as the node's own.
fn own_namespace_cookie() -> std::io::Result<u64> {
    /// include/uapi/asm-generic/socket.h, since 5.14.
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = std::net::UdpSocket::bind((std::net::Ipv6Addr::LOCALHOST, 0))
        .or_else(|_| std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0)))?;
    let mut cookie = 0u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).expect("eight fits");
    // SAFETY: the socket is open, the buffer is as long as said.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if failed != 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(cookie)
}

#[cfg(test)]
mod tests {
    use super::super::hooks::PROGRAMS;
    use super::*;

    #[test]
    fn a_kernel_without_a_member_names_the_programs_that_need_it() {
        let Ok(btf) = Btf::of_running_kernel() else { return eprintln!("skipped: no BTF") };
        let mut offsets = offsets(&btf);
        for program in PROGRAMS {
            assert_eq!(unsupported(&btf, &offsets, program), None, "{}", program.name);
        }
        offsets.0[probe_ebpf::fields::Field::WriteSeq as usize] = ABSENT;
        let broken: Vec<&str> = PROGRAMS
            .iter()
            .filter(|program| {
                unsupported(&btf, &offsets, program).is_some_and(|why| why.contains("tcp_sock.write_seq"))
            })
            .map(|program| program.name)
            .collect();
        assert_eq!(broken, ["inet_sock_set_state", "tcp_rcv_space_adjust"]);
    }
}
