//! Totals by group and operator, the cases that failed, and the verdict.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;

use crate::Options;
use crate::case;
use crate::lists::Lists;
use crate::pool::Outcome;
use crate::table;

/// Prints the outcome and writes the table; fails on a failure without an excuse and on an excused case that passed.
pub fn print(outcomes: &[Outcome], lists: &Lists, options: &Options) -> ExitCode {
    let mut groups: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let (mut unexpected, mut excused, mut surprises) = (Vec::new(), 0, Vec::new());
    for outcome in outcomes {
        let group = groups.entry(outcome.case.kind.as_str()).or_default();
        group.1 += 1;
        let excuse = lists.excuse(&outcome.case.name);
        match (&outcome.failure, excuse) {
            (None, None) => group.0 += 1,
            (None, Some(_)) => {
                group.0 += 1;
                surprises.push(outcome);
            }
            (Some(_), Some(_)) => excused += 1,
            (Some(_), None) => unexpected.push(outcome),
        }
    }
    for outcome in &unexpected {
        println!("FAIL {}: {}", outcome.case.name, outcome.failure.as_deref().unwrap_or_default());
    }
    for outcome in &surprises {
        println!("UNEXPECTED PASS {}: remove it from the provider's list", outcome.case.name);
    }
    if options.verbose {
        print_operators(outcomes);
    }
    for (group, (passed, all)) in &groups {
        println!("{group:<20} {passed:>5} of {all:>5}");
    }
    if let Some(path) = &options.csv
        && let Err(error) = std::fs::write(path, csv(outcomes, lists))
    {
        eprintln!("error: cannot write {}: {error}", path.display());
        return ExitCode::from(2);
    }
    let fresh = write_table(outcomes, lists, options);
    let passed: usize = groups.values().map(|(passed, _)| passed).sum();
    println!("conformance: {passed} passed, {} failed, {excused} skipped", unexpected.len());
    let agrees = match options.agreement {
        None => unexpected.is_empty() && surprises.is_empty(),
        Some(share) => passed as f64 >= share * outcomes.len() as f64,
    };
    if agrees && fresh { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Writes the table, or compares it; false when that failed or the table in the file is another one.
fn write_table(outcomes: &[Outcome], lists: &Lists, options: &Options) -> bool {
    let Some(path) = &options.table else { return true };
    let text = table::markdown(outcomes, lists, &options.provider);
    if options.check {
        let same = std::fs::read_to_string(path).is_ok_and(|found| found == text);
        if !same {
            eprintln!(
                "error: {} is not up to date: run `cargo xtask conformance` and commit it",
                path.display()
            );
        }
        return same;
    }
    let written = std::fs::write(path, text);
    if let Err(error) = &written {
        eprintln!("error: cannot write {}: {error}", path.display());
    }
    written.is_ok()
}

/// Passed and all, by operator; a case counts for each operator of its model.
fn print_operators(outcomes: &[Outcome]) {
    let mut table: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for outcome in outcomes {
        for operator in case::operators(&outcome.case) {
            let row = table.entry(operator).or_default();
            row.0 += usize::from(outcome.failure.is_none());
            row.1 += 1;
        }
    }
    for (operator, (passed, all)) in table {
        println!("{operator:<32} {passed:>5} of {all:>5}");
    }
}

fn csv(outcomes: &[Outcome], lists: &Lists) -> String {
    let mut text = String::from("kind,case,result,ms,reason\n");
    for outcome in outcomes {
        let excuse = lists.excuse(&outcome.case.name);
        let result = match (&outcome.failure, excuse) {
            (None, _) => "pass",
            (Some(_), Some(_)) => "excused",
            (Some(_), None) => "fail",
        };
        let reason = excuse.or(outcome.failure.as_deref()).unwrap_or_default().replace('"', "'");
        let milliseconds = outcome.time.as_secs_f64() * 1e3;
        let _ = writeln!(
            text,
            "{},{},{result},{milliseconds:.1},\"{reason}\"",
            outcome.case.kind, outcome.case.name
        );
    }
    text
}
