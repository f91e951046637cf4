//! roofline: what time each kernel should take on a chip, and why.

use std::path::PathBuf;
use std::process::ExitCode;

use anstream::println;
use anyhow::{Context, Result, anyhow, ensure};
use clap::Parser;
use serde_json::json;
use tenon_kernels::gpu::arch;
use tenon_kernels::gpu::pipeline::{Machine, fit, published};
use tenon_roofline::problem::{Dtype, Operator, Problem};
use tenon_roofline::report::{self, Line};
use tenon_roofline::svg;
use tenon_roofline::table::{Table, significant};

const EXAMPLES: &str = "\
Examples:
  roofline --chip mi355x                                    every operator at its usual shapes
  roofline --chip mi355x --shape 8192x8192x8192 --explain   where the time of one product goes
  roofline --chip mi355x --shape 8192x8192x8192:nn          weights in rows of N
  roofline --chip mi300x --operator matmul --dtype e4m3 --llm
  roofline --chip mi355x --operator attention --shape 16x64/8x4096x4096x128:causal
  roofline --chip h100 --measured                           rows of the tables: ours, the vendor's, the model's
  roofline --chip mi355x --svg roofline.svg                 rate over intensity, below the chip's roof

Times are estimates of a model of the main loop: matrix instructions, shared memory, loads, exponentials, barriers,
rounds over the compute units, caches, device memory and the clock that the power allows. Its constants and where they
come from stand in kernels/arch/ARCH/pipeline.toml; what they were fitted to in published.toml and the tuning tables.
No GPU is needed.";

/// Expected times of the kernels on a GPU, present or absent: what bounds them and how near they come.
#[derive(Parser, Debug)]
#[command(name = "roofline", version, after_help = EXAMPLES, max_term_width = 110)]
struct Args {
    /// The chip, as chips.toml names it; without it the chips are listed
    #[arg(long, value_name = "NAME")]
    chip: Option<String>,
    /// Only this kind of kernel; may be repeated
    #[arg(long)]
    operator: Vec<Operator>,
    /// A shape of the operator (of matmul where none is named); may be repeated
    #[arg(long, value_name = "SHAPE")]
    shape: Vec<String>,
    /// Type of the operands; may be repeated
    #[arg(long, default_value = "bf16")]
    dtype: Vec<Dtype>,
    /// The linear layers of an 8-billion-parameter llama at 1 to 4096 tokens
    #[arg(long, conflicts_with = "shape")]
    llm: bool,
    /// What was measured on the chip, beside the model
    #[arg(long, conflicts_with_all = ["shape", "llm", "svg", "explain"])]
    measured: bool,
    /// Where the time of each kernel goes
    #[arg(long)]
    explain: bool,
    /// Also draw the roofline
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// One JSON object instead of tables
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let style = anstyle::AnsiColor::Red.on_default().bold();
            anstream::eprintln!("{style}error:{style:#} {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let Some(name) = &args.chip else { return list() };
    let machine = Machine::find(name).map_err(|error| anyhow!("--chip {name}: {error}"))?;
    let measured = published::on_chip(name)?;
    if args.measured {
        return evidence(args, &machine, &measured);
    }
    let (mut lines, mut refused) = (Vec::new(), Vec::new());
    for problem in problems(args)? {
        match Line::of(&problem, &machine, &measured) {
            Ok(line) => lines.push(line),
            Err(error) => refused.push(error.to_string()),
        }
    }
    ensure!(!lines.is_empty(), "no kernel serves what was asked for: {}", refused.join("; "));
    if let Some(path) = &args.svg {
        std::fs::write(path, svg::roofline(&lines, &machine))
            .with_context(|| format!("--svg {}", path.display()))?;
    }
    if args.json {
        let lines: Vec<_> = lines.iter().map(Line::json).collect();
        println!(
            "{:#}",
            json!({ "chip": name, "arch": machine.arch, "estimates": lines, "refused": refused })
        );
        return Ok(());
    }
    println!("{}\n", heading(&machine));
    println!("{}", report::table(&lines));
    if args.explain {
        for line in &lines {
            let clock = line.estimate.clock_hz / 1e6;
            println!("{} {} at {clock:.0} MHz: {}", line.problem.operator(), line.problem, line.symbol);
            println!("{}\n{}", report::explanation(line), report::iteration(line));
        }
    }
    for reason in refused {
        anstream::eprintln!("not estimated: {reason}");
    }
    Ok(())
}

fn problems(args: &Args) -> Result<Vec<Problem>> {
    let all = [Operator::Matmul, Operator::Attention, Operator::Cast, Operator::Norm];
    let operators = match (&args.operator[..], args.shape.is_empty() && !args.llm) {
        ([], true) => all.to_vec(),
        ([], false) => vec![Operator::Matmul],
        (named, _) => named.to_vec(),
    };
    let mut problems = Vec::new();
    for dtype in &args.dtype {
        for operator in &operators {
            if args.llm && *operator == Operator::Matmul {
                problems.extend(Problem::llm(*dtype));
            } else if args.shape.is_empty() {
                problems.extend(Problem::usual(*operator, *dtype));
            }
            for shape in &args.shape {
                problems.push(Problem::parse(*operator, shape, *dtype)?);
            }
        }
    }
    Ok(problems)
}

/// What everything below it is.
fn heading(machine: &Machine) -> String {
    let chip = &machine.chip;
    format!(
        "{} ({}): {} TFLOP/s bf16, {} fp8, {} GB/s by the data sheet. ESTIMATES: the model's mean error on measured kernels that it was not fitted to is {:.1} %.",
        chip.device_name,
        machine.arch,
        significant(chip.bf16_flops_per_second / 1e12),
        significant(chip.fp8_flops_per_second / 1e12),
        significant(chip.bytes_per_second / 1e9),
        100.0 * machine.model.error
    )
}

fn list() -> Result<()> {
    let mut table = Table::new(&[
        "chip",
        "arch",
        ">units",
        ">bf16 TFLOP/s",
        ">fp8 TFLOP/s",
        ">GB/s",
        ">measured rows",
        ">model error",
    ]);
    for arch in arch::all() {
        for chip in arch.chips()? {
            let machine = Machine::of(arch, chip.clone());
            let rows = published::measured(arch)?.iter().filter(|row| row.chip == chip.name).count();
            table.row([
                chip.name,
                arch.name.to_owned(),
                chip.compute_units.to_string(),
                significant(chip.bf16_flops_per_second / 1e12),
                significant(chip.fp8_flops_per_second / 1e12),
                significant(chip.bytes_per_second / 1e9),
                rows.to_string(),
                machine.map_or_else(|_| "no model".to_owned(), |m| format!("{:.1} %", 100.0 * m.model.error)),
            ]);
        }
    }
    println!("{table}\nroofline --chip NAME estimates the kernels of one; roofline --help says more.");
    Ok(())
}

fn evidence(args: &Args, machine: &Machine, measured: &[published::Measured]) -> Result<()> {
    ensure!(!measured.is_empty(), "nothing was measured on {}", machine.chip.name);
    let fitted = fit::fitted_rows(measured, machine);
    let held_out: Vec<_> = measured.iter().filter(|row| row.role == published::Role::HeldOut).collect();
    let errors = (fit::mean_error(&fitted, machine), fit::mean_error(&held_out, machine));
    if args.json {
        let rows: Vec<_> = measured
            .iter()
            .map(|row| {
                json!({
                    "kernel": row.kernel, "shape": row.shape(), "dtype": row.dtype, "us": row.seconds * 1e6,
                    "peer_us": row.peer_seconds.map(|s| s * 1e6), "role": report::role_name(row.role), "source": row.source,
                    "model_us": (row.role != published::Role::Library).then(|| row.estimate(machine).seconds * 1e6),
                })
            })
            .collect();
        println!(
            "{:#}",
            json!({ "chip": machine.chip.name, "measured": rows, "fitted_error": errors.0,
                    "held_out_error": (!held_out.is_empty()).then_some(errors.1), "left_out_error": machine.model.error })
        );
        return Ok(());
    }
    println!("{}", report::evidence(measured, machine));
    println!(
        "The model's mean error: {:.1} % on the {} rows it was fitted to,",
        100.0 * errors.0,
        fitted.len()
    );
    println!("{:.1} % on each of them when it was left out of the fit,", 100.0 * machine.model.error);
    if !held_out.is_empty() {
        println!("{:.1} % on the {} rows that no fit has seen.", 100.0 * errors.1, held_out.len());
    }
    let ratios: Vec<f64> = measured.iter().filter_map(|row| Some(row.peer_seconds? / row.seconds)).collect();
    if !ratios.is_empty() {
        let mean = (ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp();
        println!(
            "The vendor's library takes {mean:.3} times our time, geometric mean over {} rows.",
            ratios.len()
        );
    }
    Ok(())
}
