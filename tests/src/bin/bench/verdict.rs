//! What every benchmark's verdict is made of: bars that are held or missed, and the machine that it was measured on.

use std::fmt::Write as _;

use serde::Serialize;

use crate::stats::Median;

/// Something that must hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Bar {
    held: bool,
    /// The interval straddles the bar: another run may decide otherwise.
    inconclusive: bool,
    text: String,
}

impl Bar {
    pub(crate) fn new(held: bool, text: String) -> Self {
        Self { held, inconclusive: false, text }
    }

    /// The median must not be below `bar`.
    pub(crate) fn of_median(median: &Median, bar: f64, text: String) -> Self {
        Self { held: median.value >= bar, inconclusive: median.straddles(bar), text }
    }

    pub(crate) fn held(&self) -> bool {
        self.held
    }

    #[cfg(test)]
    pub(crate) fn inconclusive(&self) -> bool {
        self.inconclusive
    }
}

/// What it was measured on.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) kernel: String,
    pub(crate) cpus: usize,
    pub(crate) cpu: String,
}

impl Machine {
    pub(crate) fn this() -> anyhow::Result<Self> {
        let info = std::fs::read_to_string("/proc/cpuinfo")?;
        let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Ok(Self {
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            cpus: std::thread::available_parallelism()?.get(),
            cpu: model.map_or("an unnamed CPU", |(_, name)| name).to_owned(),
        })
    }

    /// The line that says whether all bars held on this machine, and the bars.
    pub(crate) fn verdict(&self, bars: &[Bar]) -> String {
        let missed = bars.iter().filter(|bar| !bar.held).count();
        let mut text = match missed {
            0 => format!("HELD  all {} bars", bars.len()),
            _ => format!("MISSED  {missed} of {} bars", bars.len()),
        };
        let open = bars.iter().filter(|bar| bar.inconclusive).count();
        // Writing to a String cannot fail.
        if open > 0 {
            let _ok = write!(text, " ({open} inconclusive)");
        }
        let _ok = writeln!(text, "  on {} cores of {}, kernel {}\n", self.cpus, self.cpu, self.kernel);
        for bar in bars {
            let word = if bar.held { "held" } else { "MISSED" };
            let doubt = if bar.inconclusive { "  inconclusive: the interval straddles the bar" } else { "" };
            let _ok = writeln!(text, "  {word:6}  {}{doubt}", bar.text);
        }
        text
    }
}
