//! `--fit`: constants of the time model that explain what was measured on a chip, and what leaving rows out says.

use anstream::println;
use anyhow::{Result, anyhow, ensure};
use serde_json::json;
use tenon_kernels::gpu::pipeline::fit::{self, Effort};
use tenon_kernels::gpu::pipeline::{Machine, published};
use tenon_roofline::report;

const EFFORT: Effort = Effort { steps: 20_000, left_out_steps: 400 };

/// Fits and prints.
pub fn run(chip: &str, is_json: bool) -> Result<()> {
    let machine = Machine::find(chip).map_err(|error| anyhow!("--fit {chip}: {error}"))?;
    let rows = published::on_chip(chip)?;
    let fitted = fit::fitted_rows(&rows, &machine);
    ensure!(!fitted.is_empty(), "--fit {chip}: nothing that constants can be fitted to was measured on it");
    let before = fit::mean_error(&fitted, &machine);
    let (mut best, accuracy) = fit::cross_validate(&machine, &fitted, EFFORT)?;
    let names = best.model.fitted.clone();
    let mut constants = Vec::new();
    for name in &names {
        // As the table spells them: microseconds and megahertz.
        let value = *best.constant(name)?;
        let (key, value) = match name.as_str() {
            "sustained" => ("sustained_mhz".to_owned(), value / 1e6),
            name if name.ends_with("_us") => (name.to_owned(), value * 1e6),
            name => (name.to_owned(), value),
        };
        constants.push((key, value));
    }
    if is_json {
        let constants: serde_json::Map<_, _> =
            constants.into_iter().map(|(key, value)| (key, json!(value))).collect();
        println!(
            "{:#}",
            json!({ "chip": chip, "rows": accuracy.rows, "error_before": before, "error_fitted": accuracy.fitted,
                    "error_left_out": accuracy.left_out, "worst": accuracy.worst, "constants": constants })
        );
        return Ok(());
    }
    println!("{}", report::evidence(&rows, &best));
    println!(
        "{} rows: mean error {:.1} % with the table's constants, {:.1} % fitted,",
        accuracy.rows,
        100.0 * before,
        100.0 * accuracy.fitted
    );
    println!(
        "{:.1} % on rows left out of the fit one at a time; the worst is {:.1} %.\n",
        100.0 * accuracy.left_out,
        100.0 * accuracy.worst
    );
    for (key, value) in constants {
        println!("{key} = {value:.4}");
    }
    println!("error = {:.3}", accuracy.left_out);
    Ok(())
}
