//! Names of what outlives a killed process (cgroups, temporary directories): `PREFIX-PID-STARTTIME` of the process that made them.
//!
//! The start time tells a living owner from another process that got its pid. Nothing else is remembered anywhere: the next start reads the
//! names, and what has no living owner is a leftover.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// A directory name that says who made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    prefix: String,
    pid: u32,
    start_time: u64,
}

impl Owner {
    /// This process, under a name prefix.
    pub fn this_process(prefix: &str) -> anyhow::Result<Self> {
        let pid = std::process::id();
        let start_time = start_time_of(pid).context("read the own start time")?;
        Ok(Self { prefix: prefix.to_owned(), pid, start_time })
    }

    /// The name of what this owner makes.
    pub fn name(&self) -> String {
        format!("{}-{}-{}", self.prefix, self.pid, self.start_time)
    }

    /// Reads a name back; `None` for names that are not of this prefix.
    pub fn parse(prefix: &str, name: &str) -> Option<Self> {
        let (pid, start_time) = name.strip_prefix(prefix)?.strip_prefix('-')?.split_once('-')?;
        Some(Self { prefix: prefix.to_owned(), pid: pid.parse().ok()?, start_time: start_time.parse().ok()? })
    }

    /// Whether the process that the name speaks of still runs.
    pub fn is_alive(&self) -> bool {
        start_time_of(self.pid) == Some(self.start_time)
    }

    /// Directories in `parent` whose owner of this prefix is dead.
    pub fn leftovers(prefix: &str, parent: &Path) -> anyhow::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(parent).with_context(|| format!("read {}", parent.display()))? {
            let entry = entry?;
            let name = entry.file_name();
            if let Some(owner) = name.to_str().and_then(|name| Self::parse(prefix, name))
                && !owner.is_alive()
            {
                found.push(entry.path());
            }
        }
        Ok(found)
    }
}

/// Field 22 of /proc/PID/stat: clock ticks after boot. A zombie counts as dead: it can own nothing any more.
fn start_time_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name, in parentheses, may contain anything.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_its_name_reads_back() {
        let owner = Owner::this_process("some-prefix").expect("own name");
        assert!(owner.is_alive());
        assert_eq!(Owner::parse("some-prefix", &owner.name()), Some(owner));
    }

    #[test]
    fn another_start_time_is_another_process() {
        let mut owner = Owner::this_process("p").expect("own name");
        owner.start_time += 1;
        assert!(!owner.is_alive());
    }

    #[test]
    fn foreign_names_are_not_owned() {
        for name in ["p", "p-1", "q-1-2", "p-1-x", "p-more-1-2", "pp-1-2"] {
            assert_eq!(Owner::parse("p", name), None, "{name}");
        }
    }
}
