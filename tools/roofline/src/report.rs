//! Estimates of the kernels that the planners choose, and measured kernels, as lines of a report.

use anyhow::{Result, anyhow};
use serde_json::{Value as Json, json};
use tenon_kernels::estimate::{Bound, Cost, Peak};
use tenon_kernels::gpu::matmul::Layout;
use tenon_kernels::gpu::pipeline::published::{Measured, Role, Structure};
use tenon_kernels::gpu::pipeline::{Choice, Estimate, Machine, attention_choice, matmul_choices, stream};

use crate::problem::{Dtype, Problem};
use crate::table::{Table, bar, significant, time};

/// A kernel's expected time beside its bound and beside what others measured.
#[derive(Clone, Debug)]
pub struct Line {
    pub problem: Problem,
    /// The row of the family's table.
    pub kernel: String,
    pub symbol: String,
    pub estimate: Estimate,
    pub peak: Peak,
    /// Measured times of the same problem on the same chip: whose, and seconds.
    pub others: Vec<(String, f64)>,
}

impl Line {
    /// The chosen kernel for a problem; `None` where the family has no kernel for it, with the reason.
    pub fn of(problem: &Problem, machine: &Machine, measured: &[Measured]) -> Result<Self> {
        let refused =
            |error: tenon_kernels::KernelError| anyhow!("{problem} {}: {error}", problem.dtype().name());
        let chosen = match problem {
            Problem::Matmul { .. } => {
                let product = problem.product().expect("a product has its planner's form");
                let choices = matmul_choices(&product, machine).map_err(refused)?;
                choices.into_iter().find(|choice| choice.is_chosen)
            }
            Problem::Attention { .. } => {
                let attention = problem.attention()?.expect("attention has its planner's form");
                Some(attention_choice(&attention, machine).map_err(refused)?)
            }
            _ => problem.stream_cost().map(|cost| Choice {
                name: "stream".to_owned(),
                symbol: String::new(),
                estimate: stream::stream(cost, machine),
                is_chosen: true,
            }),
        };
        let chosen =
            chosen.ok_or_else(|| anyhow!("{problem}: the planner's choice is no legal candidate"))?;
        Ok(Self {
            problem: problem.clone(),
            kernel: chosen.name,
            symbol: chosen.symbol,
            estimate: chosen.estimate,
            peak: peak(machine, problem.dtype()),
            others: others(problem, measured),
        })
    }

    fn cost(&self) -> Cost {
        Cost { flops: self.estimate.flops, bytes: self.estimate.bytes }
    }

    pub fn bound(&self) -> Bound {
        self.cost().bound(self.peak)
    }

    /// The bound's time over the expected one.
    pub fn share(&self) -> f64 {
        self.cost().seconds(self.peak) / self.estimate.seconds
    }

    pub fn json(&self) -> Json {
        let estimate = &self.estimate;
        let shares: serde_json::Map<String, Json> =
            estimate.components.iter().map(|c| (c.name.to_owned(), json!(c.seconds * 1e6))).collect();
        let cycles: serde_json::Map<String, Json> = estimate
            .cycles
            .iter()
            .map(|(limiter, cycles)| (limiter.name().to_owned(), json!(cycles)))
            .collect();
        json!({
            "kind": "estimate",
            "operator": self.problem.operator().to_string(),
            "shape": self.problem.to_string(),
            "dtype": self.problem.dtype().name(),
            "kernel": self.kernel,
            "symbol": self.symbol,
            "bound": bound_name(self.bound()),
            "us": estimate.seconds * 1e6,
            "tflops": estimate.flops_per_second() / 1e12,
            "gb_per_second": estimate.bytes_per_second() / 1e9,
            "share_of_bound": self.share(),
            "limiter": estimate.limiter.name(),
            "clock_mhz": estimate.clock_hz / 1e6,
            "model_error": estimate.error,
            "us_by_part": shares,
            "cycles_of_an_iteration": cycles,
            "others": self.others.iter().map(|(kernel, s)| json!({"kernel": kernel, "us": s * 1e6})).collect::<Vec<_>>(),
        })
    }
}

/// The data sheet's rates for a type.
pub fn peak(machine: &Machine, dtype: Dtype) -> Peak {
    match dtype {
        Dtype::Bf16 | Dtype::F16 => machine.chip.bf16_peak(),
        Dtype::E4m3 | Dtype::S8 | Dtype::Mxfp8 => machine.chip.fp8_peak(),
        // Four bits run at twice the rate of eight.
        Dtype::Mxfp4 => {
            let peak = machine.chip.fp8_peak();
            Peak { flops_per_second: 2.0 * peak.flops_per_second, ..peak }
        }
        Dtype::Tf32 => {
            let peak = machine.chip.bf16_peak();
            Peak { flops_per_second: peak.flops_per_second / 2.0, ..peak }
        }
    }
}

pub fn bound_name(bound: Bound) -> &'static str {
    match bound {
        Bound::Compute => "compute",
        Bound::Memory => "memory",
    }
}

/// What was measured for exactly this problem, fastest first; of our own kernels the vendor's library.
fn others(problem: &Problem, measured: &[Measured]) -> Vec<(String, f64)> {
    let mut found = Vec::new();
    for row in measured.iter().filter(|row| row.dtype == problem.dtype().name()) {
        let is_same = match (&row.structure, problem) {
            (Structure::Product(shape, _), Problem::Matmul { m, n, k, layout: Layout::NT, .. }) => {
                let straight = (shape.rows, shape.columns) == (*m, *n);
                (straight || (shape.columns, shape.rows) == (*m, *n)) && shape.depth == *k
            }
            (
                Structure::Attention(shape, _) | Structure::Decode(shape, _),
                Problem::Attention { shape: asked, .. },
            ) => shape == asked,
            _ => false,
        };
        if is_same {
            match row.peer_seconds {
                Some(peer) => {
                    found.push(("ours, measured".to_owned(), row.seconds));
                    found.push(("vendor".to_owned(), peer));
                }
                None => found.push((row.kernel.clone(), row.seconds)),
            }
        }
    }
    found.sort_by(|a, b| a.1.total_cmp(&b.1));
    found.dedup();
    found
}

/// Lines as a table: rates in the unit of their bound.
pub fn table(lines: &[Line]) -> Table {
    let titles = [
        "operator",
        "shape",
        "type",
        "row",
        "bound",
        ">estimate",
        ">TFLOP/s",
        ">GB/s",
        ">of bound",
        "",
        "limiter",
        "measured by others",
    ];
    let mut table = Table::new(&titles);
    for line in lines {
        let rate = |seconds: f64| match line.bound() {
            Bound::Compute => format!("{} TFLOP/s", significant(line.estimate.flops / seconds / 1e12)),
            Bound::Memory => format!("{} GB/s", significant(line.estimate.bytes / seconds / 1e9)),
        };
        let others =
            line.others.iter().take(2).map(|(kernel, seconds)| format!("{kernel} {}", rate(*seconds)));
        table.row([
            line.problem.operator().to_string(),
            line.problem.to_string(),
            line.problem.dtype().name().to_owned(),
            line.kernel.clone(),
            bound_name(line.bound()).to_owned(),
            time(line.estimate.seconds),
            significant(line.estimate.flops_per_second() / 1e12),
            significant(line.estimate.bytes_per_second() / 1e9),
            format!("{:.0} %", 100.0 * line.share()),
            format!("{:<10}", bar(line.share(), 10)),
            line.estimate.limiter.name().to_owned(),
            others.collect::<Vec<_>>().join(", "),
        ]);
    }
    table
}

/// Where the time of one kernel goes.
pub fn explanation(line: &Line) -> Table {
    let mut table = Table::new(&["part", ">time", ">share", ""]);
    for part in line.estimate.components.iter().filter(|part| part.seconds > 1e-9) {
        let share = part.seconds / line.estimate.seconds;
        table.row([
            part.name.to_owned(),
            time(part.seconds),
            format!("{:.1} %", 100.0 * share),
            bar(share, 30),
        ]);
    }
    table
}

/// Cycles of one iteration of the main loop on a compute unit, by resource.
pub fn iteration(line: &Line) -> Table {
    let mut table = Table::new(&["resource", ">cycles of an iteration", ""]);
    let largest = line.estimate.cycles.iter().map(|(_, cycles)| *cycles).fold(1.0, f64::max);
    for (resource, cycles) in line.estimate.cycles.iter().filter(|(_, cycles)| *cycles > 0.5) {
        table.row([resource.name().to_owned(), format!("{cycles:.0}"), bar(cycles / largest, 30)]);
    }
    table
}

/// Measured kernels beside the vendor's library and the model.
pub fn evidence(measured: &[Measured], machine: &Machine) -> Table {
    let titles = [
        "kernel",
        "shape",
        "type",
        ">measured",
        ">TFLOP/s",
        ">GB/s",
        ">vendor",
        ">ratio",
        ">model",
        ">error",
        "role",
        "source",
    ];
    let mut table = Table::new(&titles);
    for row in measured {
        let estimate = row.estimate(machine);
        let is_library = row.role == Role::Library;
        let model = |text: String| if is_library { String::new() } else { text };
        table.row([
            row.kernel.clone(),
            row.shape(),
            row.dtype.clone(),
            time(row.seconds),
            significant(estimate.flops / row.seconds / 1e12),
            significant(estimate.bytes / row.seconds / 1e9),
            row.peer_seconds.map_or_else(String::new, time),
            row.peer_seconds.map_or_else(String::new, |peer| format!("{:.2}", peer / row.seconds)),
            model(time(estimate.seconds)),
            model(format!("{:+.1} %", 100.0 * (estimate.seconds / row.seconds - 1.0))),
            role_name(row.role).to_owned(),
            row.source.clone(),
        ]);
    }
    table
}

pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::Fit => "fitted",
        Role::HeldOut => "held out",
        Role::Library => "library",
    }
}
