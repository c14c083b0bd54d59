//! The agent itself, from `/proc/self`: what it costs (resident memory, CPU time, descriptors, start time), and by what numbers the
//! kernel knows it. A value that cannot be read is left out, never guessed.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// The agent's own cost, in base units. Values of `None` could not be read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessStats {
    /// Resident set, bytes.
    pub resident_bytes: Option<u64>,
    /// Virtual size, bytes.
    pub virtual_bytes: Option<u64>,
    /// User and system CPU time, seconds.
    pub cpu_seconds: Option<f64>,
    /// Start, Unix seconds.
    pub start_unix_seconds: Option<f64>,
    /// Open descriptors.
    pub open_fds: Option<u64>,
    /// Limit of open descriptors.
    pub max_fds: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
}

/// By what the kernel programs know this process, whatever namespaces it is in: its pid, and the file of the pid namespace that says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnProcess {
    /// Pid in its own namespace; 0: not known.
    pub pid: u32,
    /// Device of the namespace's file, in the kernel's own form.
    pub device: u64,
    /// Inode number of that file.
    pub inode: u64,
}

impl OwnProcess {
    /// Reads it.
    #[must_use]
    pub fn read() -> Self {
        let Ok(file) = fs::metadata("/proc/self/ns/pid") else { return Self::default() };
        // MKDEV of include/linux/kdev_t.h: user space's form has the parts elsewhere.
        let device = libc::major(file.dev()) << 20 | libc::minor(file.dev());
        Self { pid: std::process::id(), device: device.into(), inode: file.ino() }
    }
}

/// USER_HZ: the unit of times in /proc/PID/stat, 100 on every architecture that runs Kubernetes (include/asm-generic/param.h).
const USER_HZ: f64 = 100.0;

/// Reads below `proc` (`/proc`; tests give their own tree).
#[must_use]
pub fn read(proc: &Path) -> ProcessStats {
    let mut stats = ProcessStats::default();
    if let Ok(status) = fs::read_to_string(proc.join("self/status")) {
        stats.resident_bytes = kibibytes(&status, "VmRSS:");
        stats.virtual_bytes = kibibytes(&status, "VmSize:");
        stats.threads = field(&status, "Threads:").and_then(|value| value.parse().ok());
    }
    if let Ok(stat) = fs::read_to_string(proc.join("self/stat")) {
        // The command's name may hold spaces and parentheses: fields count from behind its last one.
        let fields: Vec<&str> =
            stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
        let ticks = |index: usize| fields.get(index).and_then(|value| value.parse::<f64>().ok());
        stats.cpu_seconds = ticks(11).zip(ticks(12)).map(|(user, system)| (user + system) / USER_HZ);
        let boot = fs::read_to_string(proc.join("stat"))
            .ok()
            .and_then(|text| field(&text, "btime")?.parse::<f64>().ok());
        stats.start_unix_seconds = ticks(19).zip(boot).map(|(start, boot)| boot + start / USER_HZ);
    }
    stats.open_fds = fs::read_dir(proc.join("self/fd"))
        .ok()
        .map(|entries| u64::try_from(entries.count()).unwrap_or(u64::MAX));
    if let Ok(limits) = fs::read_to_string(proc.join("self/limits")) {
        stats.max_fds = field(&limits, "Max open files").and_then(|value| value.parse().ok());
    }
    stats
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()
}

fn kibibytes(status: &str, name: &str) -> Option<u64> {
    field(status, name)?.parse::<u64>().ok().map(|value| value * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_process_can_be_read() {
        let stats = read(Path::new("/proc"));
        assert!(stats.resident_bytes.is_some_and(|bytes| bytes > 100_000), "{stats:?}");
        assert!(stats.cpu_seconds.is_some() && stats.open_fds.is_some_and(|fds| fds >= 3), "{stats:?}");
        assert!(stats.max_fds.is_some() && stats.threads.is_some_and(|threads| threads >= 1), "{stats:?}");
        let now = crate::clock::unix_now_ns() / 1_000_000_000;
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are exact in f64")]
        let age = stats.start_unix_seconds.map(|start| now as f64 - start);
        assert!(age.is_some_and(|age| (-2.0..36_000.0).contains(&age)), "{stats:?}");
    }

    #[test]
    fn what_is_not_there_is_left_out() {
        assert_eq!(read(Path::new("/nonexistent")), ProcessStats::default());
    }
}
