//! `runner MODEL`: loads the model, makes its inputs, and does what the options ask for.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anstream::println;
use anyhow::{Context, Result};
use serde_json::{Value as Json, json};
use tenon_runtime::session::{Environment, SessionOptions};
use tenon_runtime::tensor::Value;

use crate::args::RunArgs;
use crate::inputs::{Feeds, Resolver};
use crate::open::{self, Opened};
use crate::output;
use crate::progress::Progress;
use crate::quantity::milliseconds;
use crate::summary::{self, Summary};
use crate::verify::Reference;
use crate::{bench, inspect, profile, testdata};

/// Runs; the exit code is 1 when a comparison disagrees.
pub fn run(args: &RunArgs) -> Result<ExitCode> {
    let model = args.model.as_deref().context("give a model: runner MODEL (see runner --help)")?;
    let environment = open::environment(&args.session.provider_dir)?;
    let options = SessionOptions { profile: args.bench.profile.is_some(), ..open::options(&args.session)? };
    let opened = open::open(&environment, model, &options, &args.talk)?;
    if let Some(path) = &args.write.save_optimized {
        save_optimized(&opened, path, args)?;
    }
    if let Some(format) = args.write.dump_partition {
        inspect::dump_partition(&opened.session, format);
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(folder) = &args.check.test_data {
        let tolerance = args.check.tolerance();
        let verdict =
            testdata::check(&opened.session, folder, &args.check.carry, tolerance, args.talk.quiet)?;
        let timeline = timeline(args, &opened)?;
        finish(args, model, verdict.to_json(), || {
            print_timeline(args, &timeline);
            verdict.print(args.talk.quiet);
        });
        return Ok(code(verdict.agrees()));
    }
    let feeds = resolve(&opened, args)?;
    output::notice_generated(&feeds, args.talk.quiet || args.talk.json);
    if args.bench.bench {
        let measurement = bench::measure(&opened.session, &feeds, &args.bench, args.talk.quiet)?;
        let json = measurement.to_json(&opened, &feeds, &args.bench);
        let timeline = timeline(args, &opened)?;
        finish(args, model, json, || {
            measurement.print(&opened);
            print_timeline(args, &timeline);
        });
        return Ok(ExitCode::SUCCESS);
    }
    if args.check.verify {
        return verify(args, model, &environment, &options, &opened, &feeds);
    }
    run_once(args, model, &opened, &feeds)
}

fn code(success: bool) -> ExitCode {
    if success { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints `json` with the model's path in front, or calls `human`.
fn finish(args: &RunArgs, model: &Path, json: Json, human: impl FnOnce()) {
    if !args.talk.json {
        return human();
    }
    let mut object = serde_json::Map::from_iter([("model".to_owned(), json!(model.display().to_string()))]);
    if let Json::Object(fields) = json {
        object.extend(fields);
    }
    println!("{}", Json::Object(object));
}

fn resolve(opened: &Opened, args: &RunArgs) -> Result<Feeds> {
    let dims = open::dims(&args.session);
    let resolver =
        Resolver { specs: opened.session.inputs(), dims: &dims, image: &args.image, seed: args.seed };
    let sources: Vec<_> = args.files.iter().chain(&args.inputs).cloned().collect();
    resolver.resolve(&sources)
}

fn save_optimized(opened: &Opened, path: &Path, args: &RunArgs) -> Result<()> {
    let _progress = Progress::start(format!("writing {}", path.display()), args.talk.quiet);
    let options = tenon_runtime::model::SaveOptions::default();
    tenon_runtime::model::save(opened.session.optimized_graph(), path, &options)
        .with_context(|| format!("cannot write {}", path.display()))
}

fn verify(
    args: &RunArgs,
    model: &Path,
    environment: &Environment,
    options: &SessionOptions,
    opened: &Opened,
    feeds: &Feeds,
) -> Result<ExitCode> {
    let progress = Progress::start("comparing with the plain CPU", args.talk.quiet);
    let reference = Reference { environment, model, options, tolerance: args.check.tolerance() };
    let verdict = if args.check.bisect {
        reference.intermediates(&opened.session, feeds)?
    } else {
        reference.outputs(&opened.session, feeds)?
    };
    drop(progress);
    finish(args, model, verdict.to_json(), || verdict.print(args.talk.quiet));
    Ok(code(verdict.agrees()))
}

fn run_once(args: &RunArgs, model: &Path, opened: &Opened, feeds: &Feeds) -> Result<ExitCode> {
    let session = &opened.session;
    let inputs = feeds.as_run_inputs();
    let progress = Progress::start(format!("running {}", model.display()), args.talk.quiet);
    let start = Instant::now();
    let outputs = session.run(&inputs)?;
    let elapsed = start.elapsed();
    if args.bench.profile.is_some() {
        // The first run allocates and packs: the timeline shows the second.
        session.take_timeline();
        session.run(&inputs)?;
    }
    drop(progress);
    let named: Vec<(String, Value)> = session.outputs().iter().map(|s| s.name.clone()).zip(outputs).collect();
    if let Some(path) = &args.save_outputs {
        output::save(path, &named)?;
    }
    let labels = match &args.labels {
        Some(path) => Some(summary::labels_file(path)?),
        None => summary::labels_metadata(session.metadata()),
    };
    let summarise = |(name, value): &(String, Value)| summary::summarise(name, value, labels.as_deref());
    let summaries: Vec<Summary> = named.iter().map(summarise).collect();
    let timeline = timeline(args, opened)?;
    let json = json!({
        "load_ms": milliseconds(opened.load),
        "first_run_ms": milliseconds(elapsed),
        "providers": output::provider_counts(session),
        "inputs": output::feeds_json(feeds),
        "assumed_dims": feeds.assumed,
        "outputs": summaries,
    });
    finish(args, model, json, || {
        output::print_human(session, &summaries, opened.load, elapsed, args.talk.quiet);
        print_timeline(args, &timeline);
    });
    Ok(ExitCode::SUCCESS)
}

/// The kernels that ran since the session was opened or asked before, written where `--profile` says.
fn timeline(args: &RunArgs, opened: &Opened) -> Result<Vec<profile::Entry>> {
    let timeline = opened.session.take_timeline();
    if let Some(path) = &args.bench.profile {
        profile::write(path, &timeline)?;
    }
    Ok(timeline)
}

fn print_timeline(args: &RunArgs, timeline: &[profile::Entry]) {
    if let Some(path) = args.bench.profile.as_ref().filter(|_| !args.talk.quiet) {
        println!("\n{}", profile::hot_operators(timeline));
        println!("  timeline in {}: open it in ui.perfetto.dev", path.display());
    }
}
