//! One long-lived thread that starts all container processes.
//!
//! "Killed with its parent" (`PR_SET_PDEATHSIG`) means the parent *thread*: a process started on a pod's short-lived thread would die with it.
//! When the spawner is dropped its thread ends, and with it every process that it started and that still runs.

use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

use anyhow::Context as _;

use super::process::{Process, ProcessSpec};

type Job = Box<dyn FnOnce() + Send>;

/// The thread's handle.
#[derive(Debug)]
pub struct Spawner {
    jobs: Mutex<Option<Sender<Job>>>,
    thread: Option<JoinHandle<()>>,
}

impl Spawner {
    /// Starts the thread, in the calling thread's namespaces.
    pub fn start() -> anyhow::Result<Self> {
        let (jobs, inbox) = channel::<Job>();
        let run = move || inbox.into_iter().for_each(|job| job());
        let thread =
            thread::Builder::new().name("spawner".to_owned()).spawn(run).context("start the spawner")?;
        Ok(Self { jobs: Mutex::new(Some(jobs)), thread: Some(thread) })
    }

    /// Starts a process on the thread and waits until it runs its program.
    pub fn spawn(&self, spec: ProcessSpec) -> anyhow::Result<Process> {
        let (result, outcome) = channel();
        let job: Job = Box::new(move || {
            // Without a receiver nobody wants the process any more; dropping it leaves it to the end of this thread.
            drop(result.send(Process::start(&spec)));
        });
        let jobs = self.jobs.lock().ok().and_then(|jobs| jobs.clone()).context("the spawner has ended")?;
        jobs.send(job).ok().context("the spawner has ended")?;
        outcome.recv().context("the spawner has ended")?
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        if let Ok(mut jobs) = self.jobs.lock() {
            *jobs = None;
        }
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
