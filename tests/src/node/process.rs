//! Starting a process as a container runtime does: born inside its cgroup, in a mount namespace of its own, in given pid and network namespaces.
//!
//! One `clone3` with `CLONE_INTO_CGROUP` and `CLONE_NEWPID`: no helper process stays in the container's cgroup, and the child is pid 1 from its first
//! instruction. The kernel kills it when the thread that started it ends, so that a killed world leaves no process. No file system
//! isolation, no capabilities, no seccomp.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::time::Duration;
use std::{process, ptr};

use anyhow::Context as _;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::pipe2;

use super::netns::NetNs;

/// linux/sched.h; the libc crate does not have it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// The pid namespace of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pids {
    /// One of its own, in which it is pid 1.
    Own,
    /// That of the process with this pid: of the sandbox (`shareProcessNamespace`), or of a container that a command is run in.
    Of(i32),
    /// The node's (`hostPID`).
    Node,
}

/// What to start, and where.
#[derive(Clone, Debug)]
pub struct ProcessSpec {
    /// Full path of the program.
    pub program: PathBuf,
    /// Its arguments, without the program's own name.
    pub arguments: Vec<String>,
    /// Its whole environment.
    pub environment: Vec<(String, String)>,
    /// The cgroup v2 directory that it is born in.
    pub cgroup: PathBuf,
    /// The network namespace that it joins; a new one if absent.
    pub network: Option<NetNs>,
    /// Its pid namespace.
    pub pids: Pids,
    /// The file that standard output and error are appended to.
    pub log: PathBuf,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By exit(2).
    Code(i32),
    /// By a signal.
    Signal(i32),
}

impl Exit {
    /// The exit code as Kubernetes reports it: 128 + n for signal n.
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// A running (or ended and not yet waited for) process.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    pidfd: OwnedFd,
}

/// Everything that the child needs between clone and exec, made before: the child must not allocate.
struct Prepared {
    program: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    proc_fs: CString,
    proc_directory: CString,
    root_directory: CString,
    cgroup: File,
    log: File,
    null: File,
    network: Option<NetNs>,
    report_read: OwnedFd,
    report_write: OwnedFd,
}

impl Process {
    /// Starts a process. It ends with the calling thread: call this on a [`super::spawner::Spawner`].
    pub fn start(spec: &ProcessSpec) -> anyhow::Result<Self> {
        let name = spec.program.display();
        let prepared = Prepared::new(spec).with_context(|| format!("prepare {name}"))?;
        let argument_pointers = pointers(&prepared.arguments);
        let environment_pointers = pointers(&prepared.environment);
        let new_network = if prepared.network.is_some() { 0 } else { flag(libc::CLONE_NEWNET) };
        let new_pids = if spec.pids == Pids::Own { flag(libc::CLONE_NEWPID) } else { 0 };
        let mut pidfd: libc::c_int = -1;
        // SAFETY: clone_args is plain numbers, for which zero is the documented default.
        let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
        arguments.flags =
            flag(libc::CLONE_NEWNS) | flag(libc::CLONE_PIDFD) | CLONE_INTO_CGROUP | new_pids | new_network;
        arguments.pidfd = address(&raw mut pidfd);
        arguments.exit_signal = u64::from(libc::SIGCHLD.unsigned_abs());
        arguments.cgroup = u64::from(prepared.cgroup.as_raw_fd().unsigned_abs());
        if let Pids::Of(pid) = spec.pids {
            children_join(pid)?;
        }
        // SAFETY: without CLONE_VM this is a fork: the child works on its own copy of this stack, and calls only async-signal-safe functions
        // until it execs or exits (see `child`).
        let pid =
            unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) };
        if pid == 0 {
            child(&prepared, &argument_pointers, &environment_pointers);
        }
        let cloned = if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
        if let Pids::Of(_) = spec.pids {
            children_join(i32::try_from(process::id())?)?;
        }
        cloned.with_context(|| format!("clone3 for {name}"))?;
        // SAFETY: the kernel stored a new descriptor there, which nobody else has.
        let process = Self { pid: i32::try_from(pid)?, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } };
        drop(prepared.report_write);
        let mut report = Vec::new();
        File::from(prepared.report_read).read_to_end(&mut report)?;
        if let Ok(report) = <[u8; 4]>::try_from(report.as_slice()) {
            process.wait()?;
            return Err(io::Error::from_raw_os_error(i32::from_ne_bytes(report)))
                .with_context(|| format!("start {name}"));
        }
        Ok(process)
    }

    /// Its pid as this process sees it.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends a signal to it; to one that has ended, nothing happens.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        // SAFETY: plain system call on an owned descriptor; no signal information is passed.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                signal as i32,
                ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        let error = io::Error::last_os_error();
        if result == 0 || error.raw_os_error() == Some(libc::ESRCH) {
            return Ok(());
        }
        Err(error).with_context(|| format!("send {signal} to {}", self.pid))
    }

    /// Waits for its end and reaps it.
    pub fn wait(&self) -> anyhow::Result<Exit> {
        loop {
            match waitid(Id::PIDFd(self.pidfd.as_fd()), WaitPidFlag::WEXITED) {
                Ok(WaitStatus::Exited(_, code)) => return Ok(Exit::Code(code)),
                Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(Exit::Signal(signal as i32)),
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error).with_context(|| format!("wait for {}", self.pid)),
            }
        }
    }

    /// As [`Self::wait`], with the CPU time that it took, and the children that it waited for: what wait4(2) says.
    pub fn wait_with_time(&self) -> anyhow::Result<(Exit, Duration)> {
        // SAFETY: both are plain numbers, for which zero is a value.
        let (mut info, mut usage): (libc::siginfo_t, libc::rusage) = unsafe { std::mem::zeroed() };
        loop {
            // SAFETY: waitid with its fifth argument, which the C library does not have; both places outlive the call.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_waitid,
                    libc::P_PIDFD,
                    self.pidfd.as_raw_fd(),
                    &raw mut info,
                    libc::WEXITED,
                    &raw mut usage,
                )
            };
            let error = io::Error::last_os_error();
            if result == 0 {
                break;
            }
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error).with_context(|| format!("wait for {}", self.pid));
            }
        }
        // SAFETY: waitid has filled it for a child that ended.
        let status = unsafe { info.si_status() };
        let exit = if info.si_code == libc::CLD_EXITED { Exit::Code(status) } else { Exit::Signal(status) };
        let time = |time: libc::timeval| -> anyhow::Result<Duration> {
            Ok(Duration::new(u64::try_from(time.tv_sec)?, u32::try_from(time.tv_usec)? * 1000))
        };
        Ok((exit, time(usage.ru_utime)? + time(usage.ru_stime)?))
    }

    /// Waits at most so long for its end; `None` if it still runs.
    pub fn wait_timeout(&self, timeout: Duration) -> anyhow::Result<Option<Exit>> {
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        let ended = poll(&mut [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)], timeout)? > 0;
        if ended { self.wait().map(Some) } else { Ok(None) }
    }
}

impl Prepared {
    fn new(spec: &ProcessSpec) -> anyhow::Result<Self> {
        let program = CString::new(spec.program.as_os_str().as_bytes())?;
        let mut arguments = vec![program.clone()];
        for argument in &spec.arguments {
            arguments.push(CString::new(argument.as_bytes())?);
        }
        let environment =
            spec.environment.iter().map(|(name, value)| CString::new(format!("{name}={value}")));
        let (report_read, report_write) = pipe2(OFlag::O_CLOEXEC)?;
        Ok(Self {
            program,
            arguments,
            environment: environment.collect::<Result<_, _>>()?,
            proc_fs: c"proc".to_owned(),
            proc_directory: c"/proc".to_owned(),
            root_directory: c"/".to_owned(),
            cgroup: File::open(&spec.cgroup).with_context(|| format!("open {}", spec.cgroup.display()))?,
            log: OpenOptions::new().append(true).create(true).open(&spec.log)?,
            null: OpenOptions::new().read(true).open("/dev/null")?,
            network: spec.network.clone(),
            report_read,
            report_write,
        })
    }
}

/// From now on this thread's children are born in the pid namespace of this process.
fn children_join(pid: i32) -> anyhow::Result<()> {
    let namespace = File::open(format!("/proc/{pid}/ns/pid")).with_context(|| format!("join {pid}"))?;
    setns(namespace, CloneFlags::CLONE_NEWPID).with_context(|| format!("join the pid namespace of {pid}"))
}

fn flag(flag: libc::c_int) -> u64 {
    u64::from(flag.cast_unsigned())
}

fn address<T>(pointer: *mut T) -> u64 {
    u64::try_from(pointer.addr()).expect("addresses have at most 64 bits")
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

/// The child's way from clone to exec; if a step fails, its errno goes into the report pipe.
fn child(prepared: &Prepared, arguments: &[*const libc::c_char], environment: &[*const libc::c_char]) -> ! {
    // SAFETY: only system call wrappers and errno are used, on descriptors and strings that the parent made before the clone and that this
    // copy of the address space keeps.
    unsafe {
        let done = set_up(prepared)
            && libc::execve(prepared.program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) == 0;
        let errno = if done { 0 } else { *libc::__errno_location() };
        libc::write(prepared.report_write.as_raw_fd(), (&raw const errno).cast(), size_of_val(&errno));
        libc::_exit(127)
    }
}

/// Whether every step succeeded; else errno says why not.
///
/// # Safety
/// Runs between clone and exec: nothing here may allocate or lock.
unsafe fn set_up(prepared: &Prepared) -> bool {
    // SAFETY: as for the caller; the signal set is initialised by sigemptyset before it is used.
    unsafe {
        let mut no_signals = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(no_signals.as_mut_ptr());
        // Rust programs ignore SIGPIPE and a thread may block signals; a container starts with neither.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0
            && libc::sigprocmask(libc::SIG_SETMASK, no_signals.as_ptr(), ptr::null_mut()) == 0
            && libc::setsid() != -1
            && prepared
                .network
                .as_ref()
                .is_none_or(|network| libc::setns(network.as_fd().as_raw_fd(), libc::CLONE_NEWNET) == 0)
            && libc::mount(
                ptr::null(),
                prepared.root_directory.as_ptr(),
                ptr::null(),
                libc::MS_REC | libc::MS_PRIVATE,
                ptr::null(),
            ) == 0
            && libc::mount(
                prepared.proc_fs.as_ptr(),
                prepared.proc_directory.as_ptr(),
                prepared.proc_fs.as_ptr(),
                0,
                ptr::null(),
            ) == 0
            && libc::dup2(prepared.null.as_raw_fd(), 0) != -1
            && libc::dup2(prepared.log.as_raw_fd(), 1) != -1
            && libc::dup2(prepared.log.as_raw_fd(), 2) != -1
    }
}
