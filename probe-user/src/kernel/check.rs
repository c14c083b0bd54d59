//! The kernel's part of `drainscope check`: what this machine offers, item by item, with what is lost and how to mend
//! it. Loads and attaches for real, detaches at once, changes nothing.

use super::{HookState, Kernel, KernelConfig, btf};
use crate::host::cgroup::{self, Hierarchy};
use serde::Serialize;

/// How an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckState {
    /// As it should be.
    Ok,
    /// Something is lost.
    Degraded,
    /// Nothing works without it.
    Failed,
}

/// One line of the report.
#[derive(Clone, Debug, Serialize)]
pub struct CheckItem {
    /// What was looked at.
    pub name: String,
    /// How it is.
    pub state: CheckState,
    /// What was found.
    pub detail: String,
    /// What to do; empty if nothing.
    pub fix: String,
}

impl CheckItem {
    fn new(name: &str, state: CheckState, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name: name.to_owned(), state, detail: detail.into(), fix: fix.into() }
    }
}

/// Looks at the kernel and tries every hook.
#[must_use]
pub fn probe_kernel(config: &KernelConfig) -> Vec<CheckItem> {
    let mut items = vec![release(), btf_item(), lockdown(), capabilities(), cgroups(config), memlock()];
    match Kernel::load(config, None) {
        Ok(kernel) => items.extend(kernel.hooks().iter().map(|hook| {
            let name = format!("hook {}", hook.name);
            match &hook.state {
                HookState::Active => CheckItem::new(&name, CheckState::Ok, "attached", ""),
                HookState::Unsupported(why) => CheckItem::new(
                    &name,
                    CheckState::Degraded,
                    format!("{why}; lost: {}", hook.feature),
                    "a newer kernel",
                ),
                HookState::Failed(why) => CheckItem::new(
                    &name,
                    CheckState::Degraded,
                    format!("{why}; lost: {}", hook.feature),
                    "report this with the output of drainscope check -o json",
                ),
            }
        })),
        Err(error) => items.push(CheckItem::new(
            "kernel programs",
            CheckState::Failed,
            error.to_string(),
            "run as root or with CAP_BPF, CAP_PERFMON on a kernel with BTF (5.10 or later)",
        )),
    }
    items
}

fn first_line(path: &str) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.lines().next()?.to_owned())
}

fn release() -> CheckItem {
    let release = first_line("/proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".into());
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= (6, 10) {
        CheckItem::new("kernel", CheckState::Ok, release, "")
    } else {
        CheckItem::new(
            "kernel",
            CheckState::Degraded,
            format!("{release}: before 6.10 refused attempts have no hook"),
            "a kernel of 6.10 or later",
        )
    }
}

fn btf_item() -> CheckItem {
    match btf::Btf::of_running_kernel() {
        Ok(_) => CheckItem::new("BTF", CheckState::Ok, btf::VMLINUX, ""),
        Err(error) => CheckItem::new(
            "BTF",
            CheckState::Failed,
            error.to_string(),
            "a kernel with CONFIG_DEBUG_INFO_BTF=y",
        ),
    }
}

fn lockdown() -> CheckItem {
    let text = first_line("/sys/kernel/security/lockdown")
        .unwrap_or_else(|| "not shown (securityfs is not mounted)".into());
    let mode = text.split(['[', ']']).nth(1).unwrap_or(&text).to_owned();
    if mode == "confidentiality" {
        CheckItem::new(
            "lockdown",
            CheckState::Failed,
            "confidentiality: tracing programs may not read kernel memory",
            "boot with lockdown=integrity or none",
        )
    } else {
        CheckItem::new("lockdown", CheckState::Ok, mode, "")
    }
}

fn capabilities() -> CheckItem {
    /// Numbers of include/uapi/linux/capability.h.
    const NEEDED: [(u32, &str); 2] = [(38, "CAP_PERFMON"), (39, "CAP_BPF")];
    const SYS_ADMIN: u32 = 21;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    let has = |bit: u32| effective >> bit & 1 == 1;
    let missing: Vec<&str> =
        NEEDED.iter().filter(|(bit, _)| !has(*bit) && !has(SYS_ADMIN)).map(|(_, name)| *name).collect();
    if missing.is_empty() {
        CheckItem::new("capabilities", CheckState::Ok, "CAP_BPF, CAP_PERFMON", "")
    } else {
        CheckItem::new(
            "capabilities",
            CheckState::Failed,
            format!("missing {}", missing.join(", ")),
            "run as root, or add them to the container's securityContext",
        )
    }
}

fn cgroups(config: &KernelConfig) -> CheckItem {
    match cgroup::hierarchy(&config.cgroup_root) {
        Ok(Hierarchy::V2 { mount, .. }) => {
            CheckItem::new("cgroups", CheckState::Ok, format!("v2 at {}", mount.display()), "")
        }
        Ok(Hierarchy::V1 { mount, controller, .. }) => CheckItem::new(
            "cgroups",
            CheckState::Ok,
            format!("v1, controller {controller}, at {}", mount.display()),
            "",
        ),
        Err(error) => CheckItem::new("cgroups", CheckState::Failed, error.to_string(), "--cgroup-root"),
    }
}

fn memlock() -> CheckItem {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: fills the struct that is passed.
    if unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) } != 0 {
        return CheckItem::new("memlock", CheckState::Degraded, "cannot be read", "");
    }
    let text = if limit.rlim_cur == libc::RLIM_INFINITY {
        "unlimited".to_owned()
    } else {
        format!("{} KiB (of no matter since 5.11)", limit.rlim_cur / 1024)
    };
    CheckItem::new("memlock", CheckState::Ok, text, "")
}
