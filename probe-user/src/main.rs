//! The `drainscope` command: reads the command line, sets up logging and the runtime, and hands over to the library.
//! Data goes to stdout, all else to stderr. Exit status: 0, 1 for a negative answer, 2 for usage or environment.

use anyhow::Context as _;
use clap::Parser as _;
use drainscope::args::advise::{AdviseArgs, AdviseCommand};
use drainscope::args::{
    AgentArgs, Args, CheckArgs, CleanupArgs, Command, Explain, ExplainArgs, LogArgs, LogFormat, LogLevel,
    ProbeArgs, ProbeCommand, RecordArgs, ReplayArgs,
};
use drainscope::config::Config;
use drainscope::eventlog::{End, client, replay, report};
use drainscope::run::KernelSide;
use drainscope::{advise, check, cleanup, clock, explain, probe, run};
use probe_core::wallclock::Timestamp;
use std::fs::File;
use std::io::{self, BufReader, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

fn main() -> ExitCode {
    give_memory_back();
    let result = match Args::parse().command {
        Command::Agent(args) => agent(&args),
        Command::Advise(args) => advice(&args),
        Command::Check(args) => doctor(&args),
        Command::Probe(args) => probes(&args),
        Command::Explain(args) => explain_object(&args),
        Command::Record(args) => record(&args),
        Command::Replay(args) => play(&args),
        Command::Cleanup(args) => clean_up(&args),
    };
    result.unwrap_or_else(|error| {
        // A stderr that is gone cannot be told so.
        drop(writeln!(io::stderr(), "drainscope: {}", in_one_line(&error)));
        ExitCode::from(2)
    })
}

/// Has freed memory returned to the system. Loading the kernel programs and the first lists need several times what the
/// agent needs afterwards; by default glibc would keep most of that, and one heap per thread.
fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    for (option, value) in
        [(libc::M_ARENA_MAX, 1), (libc::M_TRIM_THRESHOLD, 128 << 10), (libc::M_MMAP_THRESHOLD, 128 << 10)]
    {
        // SAFETY: takes two numbers, and no other thread allocates yet. Refusing an option changes nothing.
        unsafe { libc::mallopt(option, value) };
    }
}

/// The error and its causes; what an error has said of its cause already is not said again.
fn in_one_line(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn agent(args: &AgentArgs) -> anyhow::Result<ExitCode> {
    let config = Config::new(args, |name| std::env::var(name).ok())?;
    log_to_stderr(&args.log)?;
    let side = KernelSide::load(&config)?;
    runtime()?.block_on(run::agent(&config, side, args.log.log_format))?;
    Ok(ExitCode::SUCCESS)
}

fn doctor(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let report = runtime()?.block_on(check::check(args));
    io::stdout().write_all(report.text(args.output).as_bytes()).context("stdout")?;
    Ok(ExitCode::from(report.exit_code()))
}

/// On terminals, unless the flag or the environment (no-color.org) says no.
fn has_color(no_color: bool) -> bool {
    let is_unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal() && !no_color && !is_unwanted
}

fn probes(args: &ProbeArgs) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout();
    let succeeded = match &args.command {
        ProbeCommand::Run(args) => {
            let target = probe::target(args)?;
            let color = has_color(args.how.no_color);
            runtime()?.block_on(probe::run(args, &target, color, &mut out)).context("stdout")?
        }
        ProbeCommand::Pod(args) => {
            let color = has_color(args.no_color);
            let (text, succeeded) = runtime()?.block_on(probe::pod::run(args, color))?;
            out.write_all(text.as_bytes()).context("stdout")?;
            succeeded
        }
    };
    Ok(if succeeded { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn advice(args: &AdviseArgs) -> anyhow::Result<ExitCode> {
    let AdviseCommand::Probes(args) = &args.command;
    let advice = runtime()?.block_on(advise::probes(args, has_color(args.no_color)))?;
    for remark in &advice.remarks {
        drop(writeln!(io::stderr(), "drainscope: {remark}"));
    }
    io::stdout().write_all(advice.text.as_bytes()).context("stdout")?;
    Ok(ExitCode::from(u8::from(args.exit_code && advice.has_findings)))
}

fn explain_object(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let Explain::Pod(args) = &args.what;
    let said = runtime()?.block_on(explain::pod(args, Timestamp(clock::unix_now_ns())))?;
    io::stdout().write_all(said.as_bytes()).context("stdout")?;
    Ok(ExitCode::SUCCESS)
}

fn record(args: &RecordArgs) -> anyhow::Result<ExitCode> {
    let kept = runtime()?.block_on(client::record(args))?;
    let (end, exit) = match kept.end {
        Some(end @ (End::Stopped | End::AgentEnded)) => (end.text(), ExitCode::SUCCESS),
        Some(end) => (end.text(), ExitCode::from(2)),
        None => ("the connection to the agent broke", ExitCode::from(2)),
    };
    let said = format!("recorded {} lines, {} bytes; {end}\n", kept.lines, kept.bytes);
    // A stderr that is gone cannot be told so.
    drop(io::stderr().write_all(said.as_bytes()));
    Ok(exit)
}

fn play(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    let name = args.file.display();
    let replayed = if args.file.as_os_str() == "-" {
        replay::replay(io::stdin().lock())
    } else {
        replay::replay(BufReader::with_capacity(
            1 << 20,
            File::open(&args.file).with_context(|| name.to_string())?,
        ))
    };
    let replayed = replayed.with_context(|| name.to_string())?;
    io::stdout().write_all(report::text(&replayed, args).as_bytes()).context("stdout")?;
    for remark in report::remarks(&replayed, args) {
        drop(writeln!(io::stderr(), "drainscope: {name}: {remark}"));
    }
    Ok(if replayed.differing.is_none() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn clean_up(args: &CleanupArgs) -> anyhow::Result<ExitCode> {
    let wait = Duration::try_from(args.wait).context("--wait")?;
    let stay = Duration::try_from(args.stay).context("--stay")?;
    runtime()?.block_on(async {
        // As process 1 of a container it would otherwise ignore the signal.
        let mut terminate = signal(SignalKind::terminate()).context("signals cannot be received")?;
        let said = tokio::select! {
            said = cleanup::clean_up(&args.pin_dir, wait) => said?,
            _ = terminate.recv() => anyhow::bail!("SIGTERM while an agent still ran"),
        };
        io::stdout().write_all(said.as_bytes()).context("stdout")?;
        tokio::select! {
            () = tokio::time::sleep(stay) => {}
            _ = terminate.recv() => {}
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Two workers are plenty: the driver is one task, the rest waits.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(4)
        .enable_all()
        .build()
        .context("the runtime cannot be started")
}

fn log_to_stderr(args: &LogArgs) -> anyhow::Result<()> {
    let level = match args.log_level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // Libraries below the agent log each request and socket; warnings of theirs are enough.
    let targets = ["hyper", "hyper_util", "tower", "kube_client", "rustls", "aya"]
        .into_iter()
        .fold(Targets::new().with_default(level), |targets, library| {
            targets.with_target(library, level.min(LevelFilter::WARN))
        });
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let registry = tracing_subscriber::registry().with(targets);
    match args.log_format {
        LogFormat::Text => registry.with(layer.with_ansi(io::stderr().is_terminal())).try_init(),
        LogFormat::Json => registry.with(layer.json()).try_init(),
    }
    .context("the log cannot be set up")
}
