//! `runner doctor`: every class of a provider's kernels against the CPU provider on random data, its times beside the
//! chip's bound and the vendor's library, and a report to keep or to send.

mod blaslt;
mod cublaslt;
mod hipblaslt;
mod measure;
mod probe;
mod report;
mod transfer;
mod tune;

use std::process::ExitCode;

use anstream::{eprintln, println};
use anyhow::{Context, Result, bail, ensure};
use tenon_plugin_api::DeviceInfo;
use tenon_runtime::dtype::DType;
use tenon_runtime::session::{Environment, ProviderRequest};

use crate::args::DoctorArgs;
use crate::open;
use blaslt::Peer;
use measure::{Patient, Verdict};
use probe::{Extent, Maker, Probe};
use report::{Report, Row};
use transfer::Transfer;

/// What `--only` calls the copies.
const COPIES: &str = "copies";

/// Examines a provider; fails when a kernel's results differ or a run fails.
pub fn run(args: &DoctorArgs) -> Result<ExitCode> {
    let environment = open::environment(&args.provider_dir)?;
    let request: ProviderRequest =
        args.provider.parse().with_context(|| format!("--provider {}", args.provider))?;
    let device = find(&environment, &request)?;
    let extent = if args.check { Extent::Small } else { Extent::Full };
    let mut report = Report::new(&args.provider, &device, args.check);
    let peer = if args.check { None } else { report.note_peer(peer(&device)) };
    let mut probes = Maker::new(args.seed).probes(extent)?;
    let mut copies = true;
    if let Some(only) = &args.only {
        probes.retain(|probe| probe.class.contains(only.as_str()));
        copies = COPIES.contains(only.as_str());
        ensure!(copies || !probes.is_empty(), "--only {only}: no class of kernels has this in its name");
    }
    let top = args.tune.unwrap_or(if args.check { 0 } else { 3 });
    let patient = Patient { environment: &environment, provider: request, device };
    if !args.talk.json {
        println!("{}", report.heading());
    }
    for probe in &probes {
        let row = examine(&patient, probe, peer.as_ref(), args.check)?;
        if row.is_broken() {
            eprintln!("{}", row.alarm(&patient.provider.name));
        }
        report.rows.push(row);
    }
    if copies {
        report.transfers = transfers(&patient, args)?;
    }
    if top > 0 {
        report.tuned = tune::run(&patient, &probes, top, &mut report)?;
    }
    if let Some(folder) = &args.out {
        report.write(folder)?;
    }
    println!("{}", if args.talk.json { report.to_json().to_string() } else { report.to_text() });
    Ok(if report.is_broken() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The copies of the device under test.
fn transfers(patient: &Patient<'_>, args: &DoctorArgs) -> Result<Vec<Transfer>> {
    let name = &patient.provider.name;
    let provider = patient.environment.provider(name);
    let provider = provider.with_context(|| format!("there is no provider '{name}'"))?;
    transfer::run(&provider, patient.device.index, args.seed, args.check)
}

/// The requested device, or why the provider cannot be used.
fn find(environment: &Environment, request: &ProviderRequest) -> Result<DeviceInfo> {
    let providers = environment.providers();
    let Some(provider) = providers.iter().find(|provider| provider.name == request.name) else {
        let names: Vec<&str> = providers.iter().map(|provider| provider.name.as_str()).collect();
        bail!("there is no provider '{}': one of {}", request.name, names.join(", "));
    };
    ensure!(provider.score > 0, "provider '{}' cannot be used here: {}", provider.name, provider.reason);
    let index = request.device.unwrap_or(0) as usize;
    let count = provider.devices.len();
    let device = provider.devices.get(index);
    device.cloned().with_context(|| format!("provider '{}' has {count} devices, not {index}", provider.name))
}

/// The library of the device's vendor, which its arch tells.
fn peer(device: &DeviceInfo) -> Result<Peer> {
    match &device.arch {
        arch if arch.starts_with("sm") => cublaslt::peer(device.index),
        arch if arch.starts_with("gfx") => hipblaslt::peer(device.index),
        arch => bail!("no vendor's library of products is known for '{arch}'"),
    }
}

/// Checks a probe, and times it where its results are right and times are wanted.
fn examine(patient: &Patient<'_>, probe: &Probe, peer: Option<&Peer>, is_check: bool) -> Result<Row> {
    let verdict = patient.check(probe).with_context(|| format!("{} {}", probe.class, probe.shape))?;
    let mut row = Row::new(probe, verdict);
    if is_check || !matches!(row.verdict, Verdict::Agrees(_)) {
        return Ok(row);
    }
    match patient.time(probe) {
        Ok(timing) => row.timing = Some(timing),
        Err(error) => row.note = format!("no time: {error:#}"),
    }
    if let (Some(peer), Some((product, DType::BF16))) = (peer, probe.product) {
        match peer.time(product) {
            Ok(microseconds) => row.peer_microseconds = Some(microseconds),
            Err(error) => row.note = format!("{error:#}"),
        }
    }
    Ok(row)
}
