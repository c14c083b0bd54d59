//! For how long containers were kept from the CPU by their own limit (`cpu.stat`), so that a probe's timeout can be told from a slow
//! application's.
//!
//! The files are sampled, for only their growth during a probe tells anything, and one more look is taken at a probe's end. A container
//! without a limit is looked at rarely. Bounded by the containers that have probes. Limits of a cgroup above the container's are not seen.

use crate::host::cgroup::{self, Hierarchy};
use probe_core::limits::SECOND;
use probe_core::time::Mono;
use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

/// Between samples of a container that has a limit.
const LIMITED_NS: u64 = SECOND / 4;
/// Between samples of one that has none, or none yet.
const FREE_NS: u64 = 5 * SECOND;
/// Samples of a container: those of a minute. A probe that began before the oldest is not told about.
const SAMPLES: usize = 240;

/// What `cpu.stat` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stat {
    /// Periods of the limit; none without one.
    periods: u64,
    /// Those at whose end something was throttled.
    throttled: u64,
    /// The sum of throttled times, of which one counts when it is over (kernel/sched/fair.c, unthrottle_cfs_rq).
    throttled_ns: u64,
}

/// One container's history.
struct Watched {
    cgroup: u64,
    file: PathBuf,
    next: Mono,
    /// Each with the moment before which it was read.
    samples: VecDeque<(Mono, Stat)>,
}

/// The containers' histories.
pub struct Throttle {
    hierarchy: Hierarchy,
    /// Where the controller's files are: below this, at the container's path.
    cpu: PathBuf,
    containers: BTreeMap<u32, Watched>,
}

impl Throttle {
    /// For the containers of a hierarchy.
    #[must_use]
    pub fn new(hierarchy: Hierarchy) -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let cpu = cpu_directory(&hierarchy, &mounts);
        Self { hierarchy, cpu, containers: BTreeMap::new() }
    }

    /// Samples what is due of these containers (index and cgroup id); others are forgotten.
    pub fn sample(&mut self, containers: &[(u32, u64)], now: impl Fn() -> Mono) {
        let is_there = |index: u32, cgroup: u64| containers.contains(&(index, cgroup));
        self.containers.retain(|index, watched| is_there(*index, watched.cgroup));
        let is_new = |(index, _): &&(u32, u64)| !self.containers.contains_key(index);
        let new: Vec<(u32, u64)> = containers.iter().filter(is_new).copied().collect();
        if !new.is_empty() {
            self.find(&new);
        }
        for watched in self.containers.values_mut() {
            let at = now();
            if watched.next <= at {
                watched.look(at);
            }
        }
    }

    /// When one of those that are known is due next; `None` if there is none.
    #[must_use]
    pub fn next_due(&self) -> Option<Mono> {
        self.containers.values().map(|watched| watched.next).min()
    }

    /// Looks for the directories of containers: their path is not told with their id.
    fn find(&mut self, new: &[(u32, u64)]) {
        for found in cgroup::scan(&self.hierarchy) {
            let Some((index, cgroup)) = new.iter().find(|(_, cgroup)| *cgroup == found.id) else { continue };
            let file = self.cpu.join(&found.path).join("cpu.stat");
            let watched = Watched { cgroup: *cgroup, file, next: Mono(0), samples: VecDeque::new() };
            self.containers.insert(*index, watched);
        }
    }

    /// For how long a container was throttled since then; the time between the sample before that and that is included. `None` if
    /// nobody looked.
    pub fn since(&mut self, container: u32, begun: Mono, now: Mono) -> Option<u64> {
        let watched = self.containers.get_mut(&container)?;
        let stat = watched.look(now)?;
        let samples = &watched.samples;
        let place = samples.iter().rposition(|(at, _)| *at <= begun)?;
        let counted = stat.throttled_ns.saturating_sub(samples[place].1.throttled_ns);
        // One that goes on is not counted yet, but every period ends in it.
        let (since, first) =
            samples.range(place..).find(|(_, sample)| sample.throttled_ns == stat.throttled_ns)?;
        let periods = stat.periods.saturating_sub(first.periods);
        let goes_on = periods > 0 && stat.throttled.saturating_sub(first.throttled) == periods;
        let uncounted = if goes_on { now.since((*since).max(begun)) } else { 0 };
        Some(counted.saturating_add(uncounted))
    }
}

impl Watched {
    fn look(&mut self, at: Mono) -> Option<Stat> {
        let stat = read(&self.file)?;
        self.next = at.after(if stat.periods > 0 { LIMITED_NS } else { FREE_NS });
        // Of a run of equal ones the ends tell all.
        let is_run =
            self.samples.len() >= 2 && self.samples.iter().rev().take(2).all(|(_, sample)| *sample == stat);
        if is_run {
            self.samples.pop_back();
        }
        self.samples.push_back((at, stat));
        if self.samples.len() > SAMPLES {
            self.samples.pop_front();
        }
        Some(stat)
    }
}

/// A container that has no such file has no limit; one that cannot be read is not known.
fn read(file: &Path) -> Option<Stat> {
    match fs::read_to_string(file) {
        Ok(text) => Some(parse(&text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Some(Stat::default()),
        Err(_) => None,
    }
}

/// `throttled_usec` is cgroup v2's, `throttled_time` (nanoseconds) v1's.
fn parse(text: &str) -> Stat {
    let mut stat = Stat::default();
    for line in text.lines() {
        let Some((name, Ok(value))) = line.split_once(' ').map(|(name, value)| (name, value.parse::<u64>()))
        else {
            continue;
        };
        match name {
            "nr_periods" => stat.periods = value,
            "nr_throttled" => stat.throttled = value,
            "throttled_usec" => stat.throttled_ns = value.saturating_mul(1000),
            "throttled_time" => stat.throttled_ns = value,
            _ => {}
        }
    }
    stat
}

/// The controller is cgroup v2's where no v1 hierarchy has it; else it has the same paths there.
fn cpu_directory(hierarchy: &Hierarchy, mountinfo: &str) -> PathBuf {
    let (Hierarchy::V2 { mount, subtree } | Hierarchy::V1 { mount, subtree, .. }) = hierarchy;
    let v1 = mountinfo.lines().find_map(|line| {
        // "36 35 98:0 ROOT MOUNTPOINT options - TYPE SOURCE OPTIONS": proc(5).
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        let is_cpu = right.next() == Some("cgroup") && right.nth(1)?.split(',').any(|option| option == "cpu");
        let mut left = left.split(' ').skip(3);
        let root = left.next()?.trim_matches('/');
        // A mount from outside our cgroup namespace shows as "/..": it is the root, as far as we can know.
        let root = if root.contains("..") { "" } else { root };
        is_cpu.then(|| (root.to_owned(), PathBuf::from(left.next().unwrap_or_default())))
    });
    match v1 {
        None => mount.clone(),
        Some((root, point)) => {
            let below = Path::new(subtree).strip_prefix(&root).unwrap_or(Path::new(subtree));
            point.join(below)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_file_are_read() {
        let v2 = "usage_usec 5\nnr_periods 7\nnr_throttled 3\nthrottled_usec 1500\n";
        assert_eq!(parse(v2), Stat { periods: 7, throttled: 3, throttled_ns: 1_500_000 });
        let v1 = "nr_periods 7\nnr_throttled 3\nthrottled_time 1500\n";
        assert_eq!(parse(v1), Stat { periods: 7, throttled: 3, throttled_ns: 1500 });
        for odd in ["", "nr_periods", "nr_periods x\nthrottled_usec -1\n", "usage_usec 5\n"] {
            assert_eq!(parse(odd), Stat::default(), "{odd:?}");
        }
    }

    #[test]
    fn the_controller_is_found_beside_or_in_the_hierarchy() {
        let v2 =
            |subtree: &str| Hierarchy::V2 { mount: PathBuf::from("/c/unified"), subtree: subtree.into() };
        let hybrid = "29 20 0:20 / /c/cpuacct rw - cgroup cgroup rw,cpuacct\n30 20 0:21 / /c/cpu rw - cgroup cgroup rw,cpu\n";
        let nested = "30 20 0:21 /a /c/cpu rw - cgroup cgroup rw,cpu,cpuacct\n";
        for (mountinfo, subtree, directory) in [
            ("30 20 0:21 / /c/unified rw - cgroup2 cgroup2 rw\n", "a", "/c/unified"),
            (hybrid, "", "/c/cpu"),
            (hybrid, "a/b", "/c/cpu/a/b"),
            (nested, "a/b", "/c/cpu/b"),
        ] {
            assert_eq!(cpu_directory(&v2(subtree), mountinfo), Path::new(directory), "{mountinfo}");
        }
    }

    const MS: u64 = 1_000_000;

    /// A file that goes with this.
    struct Gone(PathBuf);

    impl Drop for Gone {
        fn drop(&mut self) {
            // What is left of a temporary file disturbs nobody.
            drop(fs::remove_file(&self.0));
        }
    }

    /// A container whose file says this (milliseconds, periods, throttled ones, throttled milliseconds), sampled at those moments.
    fn sampled(name: &str, rows: &[(u64, u64, u64, u64)]) -> (Throttle, Gone) {
        let file = std::env::temp_dir().join(format!("drainscope-throttle-{name}-{}", std::process::id()));
        let watched = Watched { cgroup: 9, file: file.clone(), next: Mono(0), samples: VecDeque::new() };
        let hierarchy = Hierarchy::V2 { mount: PathBuf::from("/nowhere"), subtree: String::new() };
        let mut throttle = Throttle { hierarchy, cpu: PathBuf::new(), containers: [(4, watched)].into() };
        for (at, periods, throttled, ms) in rows {
            let text =
                format!("nr_periods {periods}\nnr_throttled {throttled}\nthrottled_time {}\n", ms * MS);
            fs::write(&file, text).expect("a file");
            throttle.sample(&[(4, 9)], || Mono(at * MS));
        }
        (throttle, Gone(file))
    }

    fn since(throttle: &mut Throttle, begun: u64, now: u64) -> Option<u64> {
        throttle.since(4, Mono(begun * MS), Mono(now * MS)).map(|ns| ns / MS)
    }

    #[test]
    fn what_is_counted_is_taken_from_the_last_sample_before_the_beginning() {
        let rows = [(100, 1, 0, 10), (350, 3, 0, 10), (600, 6, 1, 10), (850, 8, 2, 30), (1100, 11, 3, 70)];
        let (mut throttle, _file) = sampled("counted", &rows);
        assert_eq!(since(&mut throttle, 100, 1200), Some(60));
        assert_eq!(since(&mut throttle, 700, 1200), Some(60));
        assert_eq!(since(&mut throttle, 900, 1200), Some(40));
        assert_eq!(since(&mut throttle, 1150, 1200), Some(0));
        assert_eq!(since(&mut throttle, 99, 1200), None, "nobody had looked");
        assert_eq!(throttle.since(5, Mono(0), Mono(1)), None, "another container");
        throttle.sample(&[(4, 8)], || Mono(2000 * MS));
        assert_eq!(since(&mut throttle, 1900, 2000), None, "another cgroup");
    }

    #[test]
    fn one_that_goes_on_lasts_since_the_sum_stood_still() {
        let (mut throttle, _file) =
            sampled("on", &[(0, 1, 1, 10), (250, 2, 2, 50), (500, 3, 3, 50), (750, 4, 4, 50)]);
        assert_eq!(since(&mut throttle, 300, 800), Some(500));
        assert_eq!(since(&mut throttle, 100, 800), Some(40 + 550));
        let (mut over, _file) = sampled("over", &[(0, 1, 1, 50), (250, 2, 2, 50), (500, 3, 2, 50)]);
        assert_eq!(since(&mut over, 100, 600), Some(0), "a period ended without");
    }
}
