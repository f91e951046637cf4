//! `--bench`: load time, first run, and the distribution of repeated runs, from one or several threads.

use std::time::{Duration, Instant};

use anstream::println;
use anyhow::{Result, ensure};
use serde_json::{Value as Json, json};
use tenon_roofline::table::Table;
use tenon_runtime::session::Session;
use tenon_runtime::tensor::Value;

use crate::args::BenchArgs;
use crate::inputs::Feeds;
use crate::open::Opened;
use crate::output;
use crate::progress::Progress;
use crate::quantity::{self, milliseconds};

/// Runs measured at least, however long they take.
const MIN_RUNS: usize = 3;

/// What was measured.
pub struct Measurement {
    first: Duration,
    /// Every measured run, shortest first.
    runs: Vec<Duration>,
    /// From the start of the first measured run to the end of the last, over all threads.
    wall: Duration,
    peak_rss_bytes: u64,
}

/// Measures `session` with `feeds`.
pub fn measure(session: &Session, feeds: &Feeds, args: &BenchArgs, quiet: bool) -> Result<Measurement> {
    ensure!(args.concurrency > 0, "--concurrency must be at least 1");
    let _progress = Progress::start("measuring", quiet);
    let inputs = feeds.as_run_inputs();
    let start = Instant::now();
    session.run(&inputs)?;
    let first = start.elapsed();
    for _ in 0..args.warmup {
        session.run(&inputs)?;
    }
    let start = Instant::now();
    let workers = std::thread::scope(|scope| {
        let spawn = || scope.spawn(|| measure_worker(session, &inputs, args));
        let handles: Vec<_> = (0..args.concurrency).map(|_| spawn()).collect();
        handles
            .into_iter()
            .map(|h| h.join().expect("a worker returns its errors"))
            .collect::<Result<Vec<_>>>()
    })?;
    let wall = start.elapsed();
    let mut runs: Vec<Duration> = workers.into_iter().flatten().collect();
    runs.sort();
    Ok(Measurement { first, runs, wall, peak_rss_bytes: peak_rss_bytes() })
}

fn measure_worker(session: &Session, inputs: &[(&str, Value)], args: &BenchArgs) -> Result<Vec<Duration>> {
    let limit = Duration::from_secs_f64(args.duration.clamp(0.0, 1e6));
    let begin = Instant::now();
    let mut runs = Vec::with_capacity(1024);
    loop {
        let done = match args.iterations {
            Some(n) => runs.len() >= n.max(1),
            None => runs.len() >= MIN_RUNS && begin.elapsed() >= limit,
        };
        if done {
            return Ok(runs);
        }
        let start = Instant::now();
        session.run(inputs)?;
        runs.push(start.elapsed());
    }
}

impl Measurement {
    /// The run time that `percent` of the runs do not exceed.
    fn percentile(&self, percent: f64) -> Duration {
        let rank = (percent / 100.0 * self.runs.len() as f64).ceil() as usize;
        self.runs.get(rank.clamp(1, self.runs.len().max(1)) - 1).copied().unwrap_or_default()
    }

    fn mean(&self) -> Duration {
        self.runs.iter().sum::<Duration>() / u32::try_from(self.runs.len().max(1)).unwrap_or(u32::MAX)
    }

    fn per_second(&self) -> f64 {
        self.runs.len() as f64 / self.wall.as_secs_f64().max(1e-9)
    }

    /// The whole measurement as one JSON object.
    pub fn to_json(&self, opened: &Opened, feeds: &Feeds, args: &BenchArgs) -> Json {
        json!({
            "load_ms": milliseconds(opened.load),
            "first_run_ms": milliseconds(self.first),
            "p50_ms": milliseconds(self.percentile(50.0)),
            "p90_ms": milliseconds(self.percentile(90.0)),
            "p99_ms": milliseconds(self.percentile(99.0)),
            "min_ms": milliseconds(self.percentile(0.0)),
            "max_ms": milliseconds(self.percentile(100.0)),
            "mean_ms": milliseconds(self.mean()),
            "runs": self.runs.len(),
            "warmup_runs": args.warmup,
            "concurrency": args.concurrency,
            "runs_per_s": self.per_second(),
            "peak_rss_bytes": self.peak_rss_bytes,
            "providers": output::provider_counts(&opened.session),
            "inputs": output::feeds_json(feeds),
        })
    }

    /// Prints the measurement for people.
    pub fn print(&self, opened: &Opened) {
        let mut table =
            Table::new(&[">load", ">first run", ">p50", ">p90", ">p99", ">runs/s", ">peak memory"]);
        table.row([
            quantity::time(opened.load),
            quantity::time(self.first),
            quantity::time(self.percentile(50.0)),
            quantity::time(self.percentile(90.0)),
            quantity::time(self.percentile(99.0)),
            format!("{:.1}", self.per_second()),
            quantity::bytes(self.peak_rss_bytes),
        ]);
        println!("{table}");
        println!("  {} runs · {}", self.runs.len(), output::provider_phrase(&opened.session));
    }
}

/// The largest resident memory this process ever had; 0 where the system does not tell.
fn peak_rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse::<u64>().ok());
    kib.map_or(0, |n| n * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_measured_runs() {
        let runs = (1..=10).map(Duration::from_millis).collect();
        let m =
            Measurement { first: Duration::ZERO, runs, wall: Duration::from_millis(55), peak_rss_bytes: 0 };
        let ms = |p| m.percentile(p).as_millis();
        assert_eq!((ms(0.0), ms(50.0), ms(90.0), ms(99.0), ms(100.0)), (1, 5, 9, 10, 10));
        assert_eq!(m.mean(), Duration::from_micros(5500));
        assert!((m.per_second() - 10.0 / 0.055).abs() < 1e-6);
    }

    #[test]
    fn this_process_has_a_peak() {
        if cfg!(target_os = "linux") {
            assert!(peak_rss_bytes() > 100_000);
        }
    }
}
