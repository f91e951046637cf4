//! The doctor's findings: a table for people, JSON for programs, and rows for the family's `matmul.toml`.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::{Value as Json, json};
use tenon_autotune::rows::{self, Evidence};
use tenon_kernels::gpu::matmul::{Kind, mfma, wgmma};
use tenon_plugin_api::DeviceInfo;
use tenon_roofline::table::Table;
use tenon_runtime::dtype::DType;

use super::blaslt::Peer;
use super::measure::{Timing, Verdict};
use super::probe::{Probe, Product};
use super::transfer::Transfer;
use super::tune::Tuned;

/// What was found of one probe.
pub struct Row {
    pub class: String,
    pub shape: String,
    pub product: Option<(Product, DType)>,
    pub verdict: Verdict,
    pub timing: Option<Timing>,
    pub peer_microseconds: Option<f64>,
    /// Why a time is missing.
    pub note: String,
}

impl Row {
    pub fn new(probe: &Probe, verdict: Verdict) -> Row {
        Row {
            class: probe.class.clone(),
            shape: probe.shape.clone(),
            product: probe.product,
            verdict,
            timing: None,
            peer_microseconds: None,
            note: String::new(),
        }
    }

    /// True when the provider takes the node and its result cannot be used.
    pub fn is_broken(&self) -> bool {
        matches!(self.verdict, Verdict::Differs(_) | Verdict::Failed(_))
    }

    /// What to tell the user of a broken kernel, and what to do meanwhile.
    pub fn alarm(&self, provider: &str) -> String {
        format!(
            "BROKEN: {} {}: {}\n  Until it is mended run models that need it without this provider (--provider cpu), \
             and compare others with `runner MODEL --provider {provider} --verify`.",
            self.class,
            self.shape,
            self.outcome()
        )
    }

    /// The verdict as text.
    fn outcome(&self) -> String {
        match &self.verdict {
            Verdict::Agrees(comparison) => match &comparison.worst {
                Some(worst) => format!("agrees ({:.0} % of the tolerance)", worst.excess * 100.0),
                None => "agrees".into(),
            },
            Verdict::Differs(comparison) => match (&comparison.mismatch, &comparison.worst) {
                (Some(mismatch), _) => format!("WRONG: {mismatch}"),
                (None, Some(worst)) => format!(
                    "WRONG: {} of {} elements differ, {} is {} instead of {}",
                    comparison.outside, comparison.elements, worst.place, worst.got, worst.expected
                ),
                (None, None) => "WRONG".into(),
            },
            Verdict::Declined(reason) => format!("runs on the CPU: {reason}"),
            Verdict::Failed(reason) => format!("FAILED: {reason}"),
        }
    }

    fn share(&self) -> Option<f64> {
        let timing = self.timing.as_ref()?;
        (timing.bound_microseconds > 0.0 && timing.microseconds > 0.0)
            .then(|| timing.bound_microseconds / timing.microseconds)
    }

    fn to_json(&self) -> Json {
        let (verdict, detail) = match &self.verdict {
            Verdict::Agrees(_) => ("agrees", String::new()),
            Verdict::Differs(_) => ("differs", self.outcome()),
            Verdict::Declined(reason) => ("declined", reason.clone()),
            Verdict::Failed(reason) => ("failed", reason.clone()),
        };
        let timing = self.timing.as_ref();
        json!({
            "class": self.class, "shape": self.shape, "verdict": verdict, "detail": detail, "note": self.note,
            "microseconds": timing.map(|t| t.microseconds),
            "fastest_microseconds": timing.map(|t| t.spread.0),
            "slowest_microseconds": timing.map(|t| t.spread.1),
            "bound_microseconds": timing.map(|t| t.bound_microseconds),
            "kernels": timing.map(|t| t.symbols.clone()), "share_of_bound": self.share(),
            "peer_microseconds": self.peer_microseconds,
        })
    }
}

/// All findings about a device.
pub struct Report {
    provider: String,
    device: DeviceInfo,
    date: String,
    /// No times were taken.
    is_check: bool,
    /// The vendor's library, or why there is none to compare with.
    peer: Result<&'static str, String>,
    pub rows: Vec<Row>,
    pub transfers: Vec<Transfer>,
    /// Products for which candidates were measured; why there are none, and what went wrong for some.
    pub tuned: Vec<Tuned>,
    pub no_tuning: String,
    pub notes: Vec<String>,
}

impl Report {
    pub fn new(provider: &str, device: &DeviceInfo, is_check: bool) -> Report {
        Report {
            provider: provider.to_owned(),
            device: device.clone(),
            date: today(),
            is_check,
            peer: Err("not asked for".into()),
            rows: Vec::new(),
            transfers: Vec::new(),
            tuned: Vec::new(),
            no_tuning: String::new(),
            notes: Vec::new(),
        }
    }

    /// Remembers which library is compared with.
    pub fn note_peer(&mut self, peer: Result<Peer>) -> Option<Peer> {
        match peer {
            Ok(peer) => {
                self.peer = Ok(peer.name);
                Some(peer)
            }
            Err(error) => {
                self.peer = Err(format!("{error:#}"));
                None
            }
        }
    }

    /// Whether a kernel or a copy cannot be trusted.
    pub fn is_broken(&self) -> bool {
        self.rows.iter().any(Row::is_broken) || self.transfers.iter().any(|found| found.failure.is_some())
    }

    /// What is examined.
    pub fn heading(&self) -> String {
        let device = &self.device;
        let mut text = format!(
            "{} on {} ({}, {} compute units), {}\n",
            self.provider, device.name, device.arch, device.compute_units, self.date
        );
        match (&self.peer, self.is_check) {
            (_, true) => text.push_str("results only, small shapes, no times\n"),
            (Ok(name), false) => {
                let _ = writeln!(text, "medians of device time, {name} beside the bf16 products");
            }
            (Err(reason), false) => {
                let _ =
                    writeln!(text, "medians of device time; no vendor's library to compare with: {reason}");
            }
        }
        text
    }

    /// The tables, each with a summary; those of nothing are left out.
    pub fn to_text(&self) -> String {
        let parts = [self.kernels(), self.copies(), self.tuning()];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n\n")
    }

    /// Every class of kernels.
    fn kernels(&self) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let mut table = Table::new(&["class", "shape", ">time", ">of bound", ">vendor", ">ratio", "result"]);
        for row in &self.rows {
            let time = row.timing.as_ref().map_or_else(String::new, |t| microseconds(t.microseconds));
            let share = row.share().map_or_else(String::new, |share| format!("{:.0} %", share * 100.0));
            let peer = row.peer_microseconds.map_or_else(String::new, microseconds);
            let ratio = match (&row.timing, row.peer_microseconds) {
                (Some(ours), Some(theirs)) => format!("{:.2}", theirs / ours.microseconds),
                _ => String::new(),
            };
            let mut result = row.outcome();
            if !row.note.is_empty() {
                let _ = write!(result, "; {}", row.note);
            }
            table.row([row.class.clone(), row.shape.clone(), time, share, peer, ratio, result]);
        }
        let count = |is: fn(&Row) -> bool| self.rows.iter().filter(|row| is(row)).count();
        let declined = count(|row| matches!(row.verdict, Verdict::Declined(_)));
        let agreeing = count(|row| matches!(row.verdict, Verdict::Agrees(_)));
        let broken = count(Row::is_broken);
        format!(
            "{table}\n{agreeing} of {} agree with the CPU provider, {declined} run on the CPU, {broken} are broken",
            self.rows.len()
        )
    }

    /// The copies and their rates.
    fn copies(&self) -> String {
        if self.transfers.is_empty() {
            return String::new();
        }
        let mut table = Table::new(&["copy", ">GB/s", "result"]);
        for found in &self.transfers {
            let rate = found.bytes_per_second.map_or_else(String::new, |rate| format!("{:.1}", rate / 1e9));
            let result = found.failure.as_ref().map_or("right".to_owned(), |why| format!("BROKEN: {why}"));
            table.row([found.what.clone(), rate, result]);
        }
        table.to_string()
    }

    /// What measuring candidates found: the planner's choice beside the fastest.
    fn tuning(&self) -> String {
        let mut parts = Vec::new();
        if !self.no_tuning.is_empty() {
            parts.push(format!("no candidates were measured: {}", self.no_tuning));
        }
        if !self.tuned.is_empty() {
            let mut table = Table::new(&["product", "kind", "planned", ">time", "fastest", ">time", ">gain"]);
            for found in &self.tuned {
                let (name, time) = found.planned.clone().unwrap_or_else(|| ("failed".into(), 0.0));
                let gain = if time > 0.0 { format!("{:.2}", time / found.best.1) } else { String::new() };
                let time = if time > 0.0 { microseconds(time) } else { String::new() };
                let best = (found.best.0.clone(), microseconds(found.best.1));
                table.row([found.shape.clone(), found.kind.clone(), name, time, best.0, best.1, gain]);
            }
            parts.push(table.to_string());
        }
        let failed = self.tuned.iter().flat_map(|found| &found.failed);
        let notes: Vec<&str> = failed.chain(&self.notes).map(String::as_str).collect();
        if !notes.is_empty() {
            parts.push(notes.join("\n"));
        }
        parts.join("\n\n")
    }

    /// The same for programs.
    pub fn to_json(&self) -> Json {
        let device = &self.device;
        json!({
            "provider": self.provider, "date": self.date, "results_only": self.is_check,
            "device": { "name": device.name, "arch": device.arch, "chip": device.chip,
                        "compute_units": device.compute_units, "memory_bytes": device.memory_bytes },
            "peer": self.peer.as_ref().ok(), "no_peer": self.peer.as_ref().err(),
            "probes": self.rows.iter().map(Row::to_json).collect::<Vec<_>>(),
            "copies": self.transfers.iter().map(Transfer::to_json).collect::<Vec<_>>(),
            "tuned": self.tuned.iter().map(tuned_json).collect::<Vec<_>>(),
            "notes": self.notes, "no_tuning": self.no_tuning,
        })
    }

    /// Rows for `kernels/arch/<arch>/matmul.toml`: the fastest of the kernels that were measured for a product, else the one
    /// that ran, its time and the library's, as evidence.
    pub fn to_toml(&self) -> String {
        let mut text = format!(
            "# Measured by runner doctor: microseconds of one product, operands where the run before left them.\n# {}\n",
            self.device.name
        );
        for row in &self.rows {
            let (Some((Product { m, n, k }, _)), Some(timing)) = (row.product, &row.timing) else { continue };
            // A product that is split or packed runs several kernels, which no single row names.
            let [symbol] = timing.symbols.as_slice() else { continue };
            let Some((kind, candidate)) = candidate(&self.device.arch, symbol) else { continue };
            if self.tuned.iter().any(|found| found.row.kind == kind && found.row.extents == [m, n, k]) {
                continue;
            }
            let _ = write!(
                text,
                "\n[[row]]\nkind = {kind:?}\nm = {m}\nn = {n}\nk = {k}\ncandidate = {candidate:?}\nchip = {:?}\n\
                 us = {:.1}\n",
                self.device.chip, timing.microseconds
            );
            if let Some(peer) = row.peer_microseconds {
                let _ = writeln!(text, "peer_us = {peer:.1}");
            }
            let _ = writeln!(text, "date = {:?}", self.date);
        }
        for found in &self.tuned {
            let mut row = found.row.clone();
            if let Evidence::Measured { peer_microseconds, .. } = &mut row.evidence {
                *peer_microseconds = self.peer_time(&found.row);
            }
            let _ = write!(text, "\n{row}");
        }
        text
    }

    /// The library's time of a row's product, which it was asked for with weights as `MatMul` has them.
    fn peer_time(&self, row: &rows::Row) -> Option<f64> {
        let is_it = |probe: &&Row| {
            probe.product.is_some_and(|(Product { m, n, k }, dtype)| {
                [m, n, k] == row.extents && dtype == DType::BF16 && row.kind == "bf16_bf16_bf16_nn"
            })
        };
        self.rows.iter().find(is_it)?.peer_microseconds
    }

    /// Writes `doctor.txt`, `doctor.json` and `matmul.toml`.
    pub fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let files = [
            ("doctor.txt", format!("{}{}\n", self.heading(), self.to_text())),
            ("doctor.json", format!("{:#}\n", self.to_json())),
            ("matmul.toml", self.to_toml()),
        ];
        for (name, text) in files {
            let path = folder.join(name);
            std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

/// The kind of products that a kernel serves, and the name of the table's candidate that it is compiled from.
fn candidate(arch: &str, symbol: &str) -> Option<(String, String)> {
    let name = symbol.strip_prefix("matmul_")?.split("__").next()?;
    let kind = Kind::parse(name).ok()?;
    let wgmma = wgmma::table(arch).ok().and_then(|table| {
        let mut usable = table.candidates.iter().filter(|candidate| candidate.kinds.contains(&kind));
        usable.find(|candidate| candidate.params.symbol(arch, kind) == symbol).map(|found| &found.name)
    });
    let mfma = mfma::table(arch).ok().and_then(|table| {
        let mut usable = table.candidates.iter().filter(|candidate| candidate.kinds.contains(&kind));
        usable.find(|candidate| candidate.params.symbol(arch, kind) == symbol).map(|found| &found.name)
    });
    Some((name.to_owned(), wgmma.or(mfma)?.clone()))
}

fn tuned_json(found: &Tuned) -> Json {
    json!({
        "shape": found.shape, "kind": found.kind, "failed": found.failed,
        "planned": found.planned.as_ref().map(|planned| &planned.0),
        "planned_microseconds": found.planned.as_ref().map(|planned| planned.1),
        "fastest": found.best.0, "fastest_microseconds": found.best.1,
    })
}

fn microseconds(time: f64) -> String {
    if time < 1e3 { format!("{time:.1} us") } else { format!("{:.3} ms", time / 1e3) }
}

/// The date in UTC, `2026-01-31`.
fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    date((seconds / 86_400) as i64)
}

/// The date of a day counted from 1970-01-01, in the Gregorian calendar: eras of 400 years that start in March.
fn date(day: i64) -> String {
    let shifted = day + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_dates() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(19_782), "2024-02-29");
        assert_eq!(date(19_783), "2024-03-01");
        assert_eq!(date(20_819), "2027-01-01");
    }

    #[test]
    fn kernels_are_traced_to_their_candidates() {
        let table = wgmma::table("sm90").unwrap();
        let (first, kind) = (&table.candidates[0], table.candidates[0].kinds[0]);
        let symbol = first.params.symbol("sm90", kind);
        assert_eq!(candidate("sm90", &symbol), Some((kind.name(), first.name.clone())));
        assert_eq!(candidate("sm90", "softmax_f32"), None);
    }

    #[test]
    fn a_broken_kernel_is_named_with_what_to_do() {
        let probe =
            &super::super::probe::Maker::new(1).probes(super::super::probe::Extent::Small).unwrap()[0];
        let row = Row::new(probe, Verdict::Failed("hipErrorLaunchFailure".into()));
        assert!(row.is_broken());
        let alarm = row.alarm("rocm");
        for part in ["matmul bf16", "hipErrorLaunchFailure", "--provider cpu", "--verify"] {
            assert!(alarm.contains(part), "{alarm}");
        }
        assert!(!Row::new(probe, Verdict::Declined("no kernel".into())).is_broken());
    }
}
