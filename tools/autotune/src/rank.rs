//! `--estimate`: every legal candidate by its expected time, and table rows that say so.

use anstream::println;
use anyhow::{Result, anyhow};
use serde_json::json;
use tenon_autotune::rows::{self, Evidence, Row};
use tenon_kernels::gpu::pipeline::{Choice, Machine, matmul_choices};
use tenon_roofline::problem::Problem;
use tenon_roofline::table::{Table, significant, time};

use crate::{Args, Weights};

/// Ranks, prints, and writes when asked to.
pub fn run(chip: &str, problems: &[Problem], args: &Args) -> Result<()> {
    let machine = Machine::find(chip).map_err(|error| anyhow!("--chip {chip}: {error}"))?;
    let mut ranked = Vec::new();
    for problem in problems {
        let product = problem.product_in(args.layout.layout()).expect("only products are ranked");
        let choices = matmul_choices(&product, &machine)
            .map_err(|error| anyhow!("{problem} {}: {error}", problem.dtype().name()))?;
        ranked.push((problem, choices));
    }
    let rows: Vec<Row> = ranked
        .iter()
        .filter_map(|(problem, choices)| row(problem, choices.first()?, chip, args.layout))
        .collect();
    if let Some(path) = &args.write {
        rows::write(path, &rows)?;
    }
    if args.json {
        let ranked: Vec<_> =
            ranked.iter().map(|(problem, choices)| ranking(problem, choices, args.top)).collect();
        println!(
            "{:#}",
            json!({ "kind": "estimate", "chip": chip, "model_error": machine.model.error, "ranked": ranked })
        );
        return Ok(());
    }
    println!(
        "{}: ESTIMATES, mean error of the model {:.1} %; * is what the planner takes today.\n",
        machine.chip.device_name,
        100.0 * machine.model.error
    );
    println!("{}", table(&ranked, args.top));
    if args.write.is_none() {
        rows.iter().for_each(|row| println!("{row}"));
    }
    Ok(())
}

fn table(ranked: &[(&Problem, Vec<Choice>)], top: usize) -> Table {
    let mut table =
        Table::new(&["shape", "type", ">rank", "candidate", "", ">estimate", ">TFLOP/s", ">GB/s", "limiter"]);
    for (problem, choices) in ranked {
        let shown = choices.iter().enumerate().filter(|(rank, choice)| *rank < top || choice.is_chosen);
        for (rank, choice) in shown {
            table.row([
                problem.to_string(),
                problem.dtype().name().to_owned(),
                (rank + 1).to_string(),
                choice.name.clone(),
                if choice.is_chosen { "*" } else { "" }.to_owned(),
                time(choice.estimate.seconds),
                significant(choice.estimate.flops_per_second() / 1e12),
                significant(choice.estimate.bytes_per_second() / 1e9),
                choice.estimate.limiter.name().to_owned(),
            ]);
        }
    }
    table
}

fn ranking(problem: &Problem, choices: &[Choice], top: usize) -> serde_json::Value {
    let choices: Vec<_> = choices
        .iter()
        .take(top)
        .map(|c| json!({ "candidate": c.name, "symbol": c.symbol, "us": c.estimate.seconds * 1e6, "is_chosen": c.is_chosen,
                         "limiter": c.estimate.limiter.name() }))
        .collect();
    json!({ "shape": problem.to_string(), "dtype": problem.dtype().name(), "choices": choices })
}

/// The row of the best candidate.
fn row(problem: &Problem, best: &Choice, chip: &str, weights: Weights) -> Option<Row> {
    let Problem::Matmul { m, n, k, .. } = problem else { return None };
    // `128x128, K in 4`: a candidate and the parts of its split.
    let (candidate, splits) = best.name.split_once(", K in ").unwrap_or((&best.name, "1"));
    Some(Row {
        kind: problem.product_in(weights.layout())?.kind.name(),
        extents: [*m, *n, *k],
        candidate: candidate.to_owned(),
        splits: splits.parse().ok()?,
        chip: chip.to_owned(),
        microseconds: best.estimate.seconds * 1e6,
        evidence: Evidence::Estimate,
    })
}
