//! Network namespaces by file descriptor: made, entered and handed to child processes, never named in the file system.
//!
//! A namespace lives as long as a descriptor, a process or a socket of it, so a killed process leaves none behind.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::Arc;

use anyhow::Context as _;
use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace; clones are the same one.
#[derive(Clone, Debug)]
pub struct NetNs(Arc<OwnedFd>);

impl NetNs {
    /// The calling thread's.
    pub fn current() -> anyhow::Result<Self> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// A process's.
    pub fn of_process(pid: i32) -> anyhow::Result<Self> {
        Self::open(&format!("/proc/{pid}/ns/net"))
    }

    fn open(path: &str) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("open {path}"))?;
        Ok(Self(Arc::new(file.into())))
    }

    /// A new, empty one; the calling thread stays where it is.
    pub fn create() -> anyhow::Result<Self> {
        in_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
            Self::current()
        })?
    }

    /// Moves the calling thread into it; threads and processes that it makes later start there.
    pub fn enter(&self) -> anyhow::Result<()> {
        setns(self.as_fd(), CloneFlags::CLONE_NEWNET).context("enter a network namespace")
    }

    /// Runs `action` inside it, on a thread of its own.
    pub fn inside<T: Send>(&self, action: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        in_a_thread(|| {
            self.enter()?;
            Ok(action())
        })?
    }

    /// The path under which other programs of this process's life time can open it.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// The number that names it in /proc (the kernel reuses it soon after the namespace is gone).
    pub fn inode(&self) -> anyhow::Result<u64> {
        Ok(File::open(self.path())?.metadata()?.ino())
    }

    /// A command that will run inside it, and that the kernel kills when the *thread* that spawns it ends.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let namespace = self.clone();
        // SAFETY: between fork and exec only setns(2) and prctl(2) are called, both async-signal-safe; no allocation, no lock.
        unsafe {
            command.pre_exec(move || {
                setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
                nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
                Ok(())
            });
        }
        command
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn in_a_thread<T: Send>(action: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
    std::thread::scope(|scope| scope.spawn(action).join()).ok().context("the namespace's thread panicked")
}
