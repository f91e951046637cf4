//! Constants of a family from measured kernels, and the error on kernels that were left out.

use super::machine::Machine;
use super::published::{Measured, Role};
use crate::error::Result;

/// Steps of a search.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// From the table's constants, with every row.
    pub steps: usize,
    /// From the fitted ones, for each row that is left out.
    pub left_out_steps: usize,
}

/// How well the model explains a set of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Accuracy {
    pub rows: usize,
    /// Means of `|estimate / measured - 1|`: constants fitted to all rows, and to all but the one estimated.
    pub fitted: f64,
    pub left_out: f64,
    /// The largest with all rows.
    pub worst: f64,
}

/// Relative error of an estimated time.
pub fn error(row: &Measured, machine: &Machine) -> f64 {
    row.estimate(machine).seconds / row.seconds - 1.0
}

/// Mean absolute relative error over rows.
pub fn mean_error(rows: &[&Measured], machine: &Machine) -> f64 {
    rows.iter().map(|row| error(row, machine).abs()).sum::<f64>() / rows.len().max(1) as f64
}

/// The rows on `machine`'s chip that constants are fitted to.
pub fn fitted_rows<'a>(rows: &'a [Measured], machine: &Machine) -> Vec<&'a Measured> {
    rows.iter().filter(|row| row.role == Role::Fit && row.chip == machine.chip.name).collect()
}

/// The machine with the constants that its table names as fitted changed to explain `rows` best: a random search that
/// changes a few of them at a time by a factor and keeps what helps.
pub fn fit(machine: &Machine, rows: &[&Measured], steps: usize) -> Result<Machine> {
    let mut best = machine.clone();
    let mut least = loss(rows, &best);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let names = best.model.fitted.clone();
    for step in 0..steps {
        let width = 0.25 * 0.02_f64.powf(step as f64 / steps as f64);
        let mut tried = best.clone();
        for name in &names {
            if random.next() < 0.4 {
                let factor = (width * (random.next() + random.next() - random.next() - random.next())).exp();
                *tried.constant(name)? *= factor;
            }
        }
        tried.model.limit();
        let now = loss(rows, &tried);
        if now < least {
            (best, least) = (tried, now);
        }
    }
    Ok(best)
}

/// Fits, then leaves every row out once.
pub fn cross_validate(machine: &Machine, rows: &[&Measured], effort: Effort) -> Result<(Machine, Accuracy)> {
    let all = fit(machine, rows, effort.steps)?;
    let mut left_out = 0.0;
    for index in 0..rows.len() {
        let others: Vec<&Measured> =
            rows.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, row)| *row).collect();
        left_out += error(rows[index], &fit(&all, &others, effort.left_out_steps)?).abs();
    }
    let worst = rows.iter().map(|row| error(row, &all).abs()).fold(0.0, f64::max);
    let accuracy = Accuracy {
        rows: rows.len(),
        fitted: mean_error(rows, &all),
        left_out: left_out / rows.len().max(1) as f64,
        worst,
    };
    Ok((all, accuracy))
}

/// Mean absolute logarithm of estimate over measurement: a factor too long weighs as much as one too short.
fn loss(rows: &[&Measured], machine: &Machine) -> f64 {
    let logs = rows.iter().map(|row| (row.estimate(machine).seconds / row.seconds).ln().abs());
    logs.sum::<f64>() / rows.len().max(1) as f64
}

/// Uniform numbers in 0 to 1 (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}
