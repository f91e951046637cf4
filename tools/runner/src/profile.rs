//! `--profile`: a timeline in the trace event format, and a table of where the time goes.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value as Json, json};
use tenon_plugin_api::TimelineEntry;
use tenon_roofline::table::Table;

use crate::quantity;

/// A provider's name and what it ran.
pub type Entry = (String, TimelineEntry);

/// Operators shown.
const SHOWN: usize = 12;

/// Writes `timeline` to `path` as trace events: one process for each provider, one thread for each stream.
pub fn write(path: &Path, timeline: &[Entry]) -> Result<()> {
    let text = serde_json::to_string(&trace(timeline)).context("cannot write the timeline as JSON")?;
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn trace(timeline: &[Entry]) -> Json {
    let start = timeline.iter().map(|(_, e)| e.start_ns).min().unwrap_or(0);
    let mut processes: BTreeMap<&str, usize> = BTreeMap::new();
    for (provider, _) in timeline {
        let next = processes.len() + 1;
        processes.entry(provider).or_insert(next);
    }
    let mut events: Vec<Json> = processes
        .iter()
        .map(|(name, pid)| json!({ "ph": "M", "name": "process_name", "pid": pid, "args": { "name": name } }))
        .collect();
    events.extend(timeline.iter().map(|(provider, e)| {
        let known = |v: f64| (v >= 0.0).then_some(v);
        json!({
            "ph": "X", "name": title(e), "cat": e.op_type,
            "pid": processes[provider.as_str()], "tid": e.stream,
            "ts": (e.start_ns - start) as f64 / 1e3, "dur": e.duration_ns as f64 / 1e3,
            "args": { "node": e.node, "op": e.op_type, "kernel": e.symbol, "parameters": e.parameters,
                      "flops": known(e.flops), "bytes": known(e.bytes) },
        })
    }));
    json!({ "traceEvents": events, "displayTimeUnit": "ms" })
}

fn title(entry: &TimelineEntry) -> &str {
    [&entry.op_type, &entry.symbol, &entry.node]
        .into_iter()
        .find(|s| !s.is_empty())
        .map_or("?", String::as_str)
}

/// The operators that took longest.
pub fn hot_operators(timeline: &[Entry]) -> Table {
    let mut totals: BTreeMap<(&str, &str), (usize, u64, f64)> = BTreeMap::new();
    for (provider, entry) in timeline {
        let total = totals.entry((title(entry), provider)).or_default();
        *total = (total.0 + 1, total.1 + entry.duration_ns, total.2 + entry.flops.max(0.0));
    }
    let all: u64 = totals.values().map(|t| t.1).sum();
    let mut rows: Vec<_> = totals.into_iter().collect();
    rows.sort_by_key(|(_, (_, ns, _))| std::cmp::Reverse(*ns));
    let mut table = Table::new(&["operator", "provider", ">calls", ">time", ">share", ">Gflop/s"]);
    for ((op, provider), (calls, ns, flops)) in rows.into_iter().take(SHOWN) {
        let share = 100.0 * ns as f64 / all.max(1) as f64;
        let rate = if flops > 0.0 && ns > 0 { format!("{:.1}", flops / ns as f64) } else { "-".to_owned() };
        let time = quantity::time(Duration::from_nanos(ns));
        table.row([
            op.to_owned(),
            provider.to_owned(),
            calls.to_string(),
            time,
            format!("{share:.1} %"),
            rate,
        ]);
    }
    table
}
