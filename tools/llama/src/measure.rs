//! The speed of prefill and decoding, and where the time goes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tenon_runtime::session::{BoundRun, DeviceTensor, Environment, Session};

use crate::Args;
use crate::decode::{State, prompt};
use crate::weights::Description;

/// Steps after which a captured graph replays every binding.
const WARM: usize = 6;

pub fn run(environment: &Environment, args: &Args) -> Result<()> {
    let model = Description::read(&args.model)?;
    ensure!(args.prompt + args.steps.max(WARM) <= args.length, "{} positions are too few", args.length);
    let start = Instant::now();
    let fill = args.open(environment, "fill.onnx", &args.provider, false)?;
    let weights = model.on_device(&fill)?;
    eprintln!("weights: {:.2} s", start.elapsed().as_secs_f64());
    let start = Instant::now();
    let session = args.open(environment, "model.onnx", &args.provider, false)?;
    eprintln!("session: {:.2} s", start.elapsed().as_secs_f64());
    let bandwidth = args.bandwidth.or_else(|| device_bandwidth(environment, args)).unwrap_or(0.0);
    measure(&session, &model, &weights, args, bandwidth)?;
    if args.profile {
        let session = args.open(environment, "model.onnx", &args.provider, true)?;
        profile(&session, &model, &weights, args)?;
    }
    Ok(())
}

/// What the provider's device says about its memory, in GB/s.
fn device_bandwidth(environment: &Environment, args: &Args) -> Option<f64> {
    let info = environment.providers().into_iter().find(|info| info.name == args.provider.name)?;
    let index = args.provider.device.unwrap_or(0);
    info.devices.iter().find(|device| device.index == index).map(|device| device.memory_gb_per_s)
}

fn measure(
    session: &Session,
    model: &Description,
    weights: &BTreeMap<String, DeviceTensor>,
    args: &Args,
    bandwidth: f64,
) -> Result<()> {
    let state = State::new(session, model, args.batch, args.length)?;
    let tokens = prompt(args.batch, args.prompt, model.vocab)?;
    let mut prefill = state.prefill(session, weights, &tokens)?;
    let mut steps = state.steps(session, weights)?;
    for _ in 0..2 {
        finish(&mut prefill)?;
        for number in 0..WARM {
            finish(&mut steps[number % 2])?;
        }
    }
    let (mut prefills, mut decodes, mut host) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..args.repeat.max(1) {
        let start = Instant::now();
        finish(&mut prefill)?;
        prefills.push(start.elapsed());
        let start = Instant::now();
        for number in 0..args.steps {
            let before = Instant::now();
            steps[number % 2].run()?;
            host.push(before.elapsed());
        }
        steps[0].synchronize()?;
        decodes.push(start.elapsed() / args.steps as u32);
    }
    let [prefill, step, host] = [prefills, decodes, host].map(median);
    let kept = args.prompt as f64 + args.steps as f64 / 2.0;
    let cache = (2 * model.layers * model.kv_heads * model.head * model.dtype().bits() / 8) as f64;
    let bytes = model.step_bytes() + cache * kept * args.batch as f64;
    let rate = bytes / step.as_secs_f64() / 1e9;
    println!(
        "batch {:4}  prefill {} tokens {:8.2} ms  step {:7.3} ms  {:9.1} tok/s  host {:5.1} us  {rate:6.0} GB/s  {:4.1} % of {bandwidth:.0}",
        args.batch,
        args.prompt,
        prefill.as_secs_f64() * 1e3,
        step.as_secs_f64() * 1e3,
        args.batch as f64 / step.as_secs_f64(),
        host.as_secs_f64() * 1e6,
        100.0 * rate / bandwidth,
    );
    Ok(())
}

fn finish(run: &mut BoundRun<'_>) -> Result<()> {
    run.run()?;
    Ok(run.synchronize()?)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Kernels of one prefill and of some steps, those that take longest first.
fn profile(
    session: &Session,
    model: &Description,
    weights: &BTreeMap<String, DeviceTensor>,
    args: &Args,
) -> Result<()> {
    let state = State::new(session, model, args.batch, args.length)?;
    let tokens = prompt(args.batch, args.prompt, model.vocab)?;
    let mut prefill = state.prefill(session, weights, &tokens)?;
    let mut steps = state.steps(session, weights)?;
    finish(&mut prefill)?;
    session.take_timeline();
    finish(&mut prefill)?;
    table("prefill", session, 1);
    for number in 0..WARM {
        finish(&mut steps[number % 2])?;
    }
    session.take_timeline();
    for number in 0..WARM {
        finish(&mut steps[number % 2])?;
    }
    table("step", session, WARM);
    Ok(())
}

fn table(what: &str, session: &Session, runs: usize) {
    let mut rows: BTreeMap<String, (usize, u64, f64)> = BTreeMap::new();
    for (_, entry) in session.take_timeline() {
        let node = entry.node.rsplit('/').next().unwrap_or_default();
        let row = rows.entry(format!("{} {node} {}", entry.symbol, entry.parameters)).or_default();
        *row = (row.0 + 1, row.1 + entry.duration_ns, row.2 + entry.bytes.max(0.0));
    }
    let mut rows: Vec<_> = rows.into_iter().collect();
    rows.sort_by_key(|(_, (_, time, _))| std::cmp::Reverse(*time));
    let total: u64 = rows.iter().map(|(_, (_, time, _))| time).sum();
    println!("{what}: {:.3} ms in kernels", total as f64 / 1e6 / runs as f64);
    for (name, (count, time, bytes)) in rows.iter().take(24) {
        println!(
            "{:9.1} us {:5} x {:7.2} us {:6.0} GB/s  {name}",
            *time as f64 / 1e3 / runs as f64,
            count / runs,
            *time as f64 / 1e3 / *count as f64,
            bytes / *time as f64,
        );
    }
}
