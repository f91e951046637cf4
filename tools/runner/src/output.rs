//! Prints the result of a run, for people or as JSON, and writes output files.

use std::path::Path;
use std::time::Duration;

use anstream::println;
use anyhow::{Context, Result, bail};
use serde_json::{Value as Json, json};
use tenon_roofline::table::Table;
use tenon_runtime::model;
use tenon_runtime::session::Session;
use tenon_runtime::tensor::Value;

use crate::inputs::{Feeds, npz};
use crate::quantity;
use crate::summary::{Class, Summary};

/// How often each provider was chosen, for JSON: `{name: node count}`.
pub fn provider_counts(session: &Session) -> Json {
    let mut counts = serde_json::Map::new();
    for share in &session.report().providers {
        let count = counts.entry(share.name.clone()).or_insert(json!(0));
        *count = json!(count.as_u64().unwrap_or(0) + share.nodes as u64);
    }
    Json::Object(counts)
}

/// Where the nodes run, in a phrase: `cpu 120 nodes in 1 partition`.
pub fn provider_phrase(session: &Session) -> String {
    let plural = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let phrase = |name: &str, nodes: usize, partitions: usize| {
        format!("{name}: {} in {}", plural(nodes, "node"), plural(partitions, "partition"))
    };
    let shares = &session.report().providers;
    if shares.is_empty() {
        return "nothing to compute".to_owned();
    }
    shares.iter().map(|s| phrase(&s.name, s.nodes, s.partitions)).collect::<Vec<_>>().join(" · ")
}

/// The inputs as JSON.
pub fn feeds_json(feeds: &Feeds) -> Json {
    let input = |f: &crate::inputs::Feed| {
        let ty = f.value.type_info().map_or_else(|| f.value.description(), |t| t.to_string());
        json!({ "name": f.name, "type": ty, "generated": f.generated })
    };
    Json::Array(feeds.feeds.iter().map(input).collect())
}

/// Says on standard error what was made up, so that nobody takes random results for real ones.
pub fn notice_generated(feeds: &Feeds, quiet: bool) {
    if quiet || feeds.generated().is_empty() {
        return;
    }
    anstream::eprintln!("note: made values for {} (give them with --input)", feeds.generated().join(", "));
    if !feeds.assumed.is_empty() {
        let sizes: Vec<String> = feeds.assumed.iter().map(|(name, size)| format!("{name}={size}")).collect();
        anstream::eprintln!("note: assumed {} (change with --dim NAME=SIZE)", sizes.join(", "));
    }
}

/// Prints tables of the outputs and one line of times and places.
pub fn print_human(session: &Session, summaries: &[Summary], load: Duration, run: Duration, quiet: bool) {
    println!("{}", outputs_table(summaries));
    for summary in summaries.iter().filter(|s| !s.best.is_empty()) {
        println!("{}", classes_table(summary));
    }
    if !quiet {
        let (load, run) = (quantity::time(load), quantity::time(run));
        println!("  loaded in {load} · first run {run} · {}", provider_phrase(session));
    }
}

fn outputs_table(summaries: &[Summary]) -> Table {
    let mut table = Table::new(&["output", "type", ">min", ">max", ">mean", "first elements"]);
    for s in summaries {
        let number = |f: fn(&crate::summary::Range) -> f64| {
            s.range.as_ref().map_or_else(|| "-".to_owned(), |r| quantity::element(f(r)))
        };
        let mut first = s.first.join(" ");
        if s.shape.as_ref().is_some_and(|d| d.iter().product::<usize>() > s.first.len()) {
            first.push_str(" ..");
        }
        if s.not_finite > 0 {
            first.push_str(&format!("  ({} nan or inf)", s.not_finite));
        }
        table.row([
            s.name.clone(),
            s.ty.clone(),
            number(|r| r.min),
            number(|r| r.max),
            number(|r| r.mean),
            first,
        ]);
    }
    table
}

fn classes_table(summary: &Summary) -> Table {
    let several = summary.best.len() > 1;
    let title = format!("{}: best classes", summary.name);
    let mut table = Table::new(&[">row", &title, ">score"]);
    for (row, classes) in summary.best.iter().enumerate() {
        for class in classes {
            let row = if several { row.to_string() } else { String::new() };
            table.row([row, class_name(class), format!("{:.4}", class.score)]);
        }
    }
    table
}

fn class_name(class: &Class) -> String {
    match &class.label {
        Some(label) => label.clone(),
        None => format!("class {}", class.index),
    }
}

/// Writes outputs to `path`: a `.npz` archive, or a folder of `output_i.pb`.
pub fn save(path: &Path, outputs: &[(String, Value)]) -> Result<()> {
    let is_archive = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("npz"));
    if is_archive {
        let mut arrays = Vec::with_capacity(outputs.len());
        for (name, value) in outputs {
            let Some(tensor) = value.as_tensor() else {
                bail!("output '{name}' is {}, which .npz cannot hold: give a folder", value.description());
            };
            arrays.push((name.as_str(), tensor));
        }
        return npz::write(path, arrays);
    }
    std::fs::create_dir_all(path).with_context(|| format!("cannot create the folder {}", path.display()))?;
    for (i, (name, value)) in outputs.iter().enumerate() {
        model::write_value(path.join(format!("output_{i}.pb")), name, value)?;
    }
    Ok(())
}
