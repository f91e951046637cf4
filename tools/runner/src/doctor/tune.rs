//! Which of the family's kernels is fastest for each of the doctor's products: the candidates of least estimated time are
//! measured, as `autotune` does it.

use anyhow::{Context, Result};
use tenon_autotune::rows::Row;
use tenon_autotune::tune::{self, Device, Operands};
use tenon_kernels::gpu::matmul::Layout;
use tenon_roofline::problem::{Dtype, Problem};
use tenon_runtime::dtype::DType;
use tenon_runtime::session::ProviderInfo;

use super::measure::Patient;
use super::probe::{Probe, Product};
use super::report::Report;

/// Runs of each candidate that count.
const RUNS: usize = 10;

/// A product for which candidates were measured.
pub struct Tuned {
    pub shape: String,
    /// Type and layout.
    pub kind: String,
    /// Candidate and microseconds: the planner's choice, where it ran, and the fastest.
    pub planned: Option<(String, f64)>,
    pub best: (String, f64),
    /// Candidates that failed or were wrong, with the reason.
    pub failed: Vec<String>,
    pub row: Row,
}

/// Measures `top` candidates, and the planner's, for each 16-bit product among the probes, weights lying as `MatMul` and
/// as a linear layer have them. A chip without tables to choose from has none, which the report says.
pub fn run(patient: &Patient<'_>, probes: &[Probe], top: usize, report: &mut Report) -> Result<Vec<Tuned>> {
    let providers: Vec<ProviderInfo> = patient.environment.providers();
    let name = &patient.provider.name;
    let machine = match tune::machine(&providers, name, patient.provider.device.unwrap_or(0)) {
        Ok(machine) => machine,
        Err(error) => {
            report.no_tuning = format!("{error:#}");
            return Ok(Vec::new());
        }
    };
    let device = Device { environment: patient.environment, provider: patient.provider.clone(), machine };
    let mut tuned = Vec::new();
    for probe in probes {
        let Some((Product { m, n, k }, dtype)) = probe.product else { continue };
        let dtype = match dtype {
            DType::BF16 => Dtype::Bf16,
            DType::F16 => Dtype::F16,
            _ => continue,
        };
        for layout in [Layout::NN, Layout::NT] {
            let problem = Problem::Matmul { m, n, k, layout: Layout::NT, dtype };
            let what = || format!("choosing a kernel for {problem} {}", layout.name());
            match one(&device, &problem, layout, top).with_context(what) {
                Ok(Some(found)) => tuned.push(found),
                Ok(None) => {}
                Err(error) => report.notes.push(format!("{error:#}")),
            }
        }
    }
    Ok(tuned)
}

/// `None` where no candidate ran right.
fn one(device: &Device<'_>, problem: &Problem, layout: Layout, top: usize) -> Result<Option<Tuned>> {
    let operands = Operands::random(problem, layout, &device.machine)?;
    let outcomes = device.tune(problem, &operands, top, RUNS)?;
    let failed = outcomes.iter().filter_map(|outcome| {
        let error = outcome.seconds.as_ref().err()?;
        Some(format!("{problem} {}: {error:#}", outcome.choice.name))
    });
    let planned = outcomes.iter().find(|outcome| outcome.choice.is_chosen);
    let planned = planned.and_then(|outcome| {
        Some((outcome.choice.name.clone(), outcome.seconds.as_ref().ok().copied()? * 1e6))
    });
    let (Some((choice, seconds)), Some(row)) =
        (tune::best(&outcomes), tune::row(problem, layout, &outcomes, &device.machine, None, None))
    else {
        return Ok(None);
    };
    Ok(Some(Tuned {
        shape: problem.to_string(),
        kind: row.kind.clone(),
        planned,
        best: (choice.name.clone(), seconds * 1e6),
        failed: failed.collect(),
        row,
    }))
}
