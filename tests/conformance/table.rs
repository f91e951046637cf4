//! The table of a whole run in Markdown: totals by group and by operator, and the cases that need not pass.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::case;
use crate::lists::Lists;
use crate::pool::Outcome;

/// Cases that ONNX Runtime does not pass, as `group/case`.
const ONNX_RUNTIME: &str = include_str!("onnxruntime.txt");

#[derive(Default)]
struct Row {
    passed: usize,
    failed: usize,
    excused: usize,
    /// Cases that ONNX Runtime passes.
    onnx_runtime: usize,
}

impl Row {
    fn add(&mut self, outcome: &Outcome, lists: &Lists, onnx_runtime: bool) {
        match (&outcome.failure, lists.excuse(&outcome.case.name)) {
            (None, _) => self.passed += 1,
            (Some(_), Some(_)) => self.excused += 1,
            (Some(_), None) => self.failed += 1,
        }
        self.onnx_runtime += usize::from(onnx_runtime);
    }

    fn write(&self, text: &mut String, name: &str) {
        let all = self.passed + self.failed + self.excused;
        let Row { passed, failed, excused, onnx_runtime } = self;
        let _ = writeln!(text, "| {name} | {all} | {passed} | {failed} | {excused} | {onnx_runtime} |");
    }
}

/// The table of `provider`'s outcomes. A case counts for each operator of its model.
pub fn markdown(outcomes: &[Outcome], lists: &Lists, provider: &str) -> String {
    let foreign: BTreeSet<&str> = ONNX_RUNTIME.lines().filter(|line| !line.starts_with('#')).collect();
    let (mut total, mut groups, mut operators) = (Row::default(), BTreeMap::new(), BTreeMap::new());
    let mut excused = Vec::new();
    for outcome in outcomes {
        let passes_there = !foreign.contains(format!("{}/{}", outcome.case.kind, outcome.case.name).as_str());
        let add = |row: &mut Row| row.add(outcome, lists, passes_there);
        add(&mut total);
        add(groups.entry(outcome.case.kind.clone()).or_default());
        for operator in case::operators(&outcome.case) {
            add(operators.entry(operator).or_default());
        }
        if outcome.failure.is_some()
            && let Some(reason) = lists.excuse(&outcome.case.name)
        {
            excused.push((outcome.case.name.as_str(), reason, passes_there));
        }
    }
    let mut text = format!(
        "# The ONNX backend suite (onnx 1.23.2) on provider `{provider}`\n\n\
         `cargo xtask conformance` writes this file. The last column counts the cases that ONNX Runtime 1.32 passes on \
         the CPU with the same cases and tolerances.\n\n"
    );
    let head = |text: &mut String, what: &str| {
        let _ = writeln!(text, "| {what} | cases | passed | failed | excused | ONNX Runtime |");
        text.push_str("| --- | --: | --: | --: | --: | --: |\n");
    };
    head(&mut text, "group");
    groups.iter().for_each(|(name, row)| row.write(&mut text, name));
    total.write(&mut text, "all");
    text.push_str("\n## Excused cases\n\n| case | reason | ONNX Runtime |\n| --- | --- | --- |\n");
    for (name, reason, passes_there) in excused {
        let there = if passes_there { "passes" } else { "fails" };
        let _ = writeln!(text, "| {name} | {reason} | {there} |");
    }
    text.push_str("\n## Operators\n\nA case counts for each operator of its model.\n\n");
    head(&mut text, "operator");
    operators.iter().for_each(|(name, row)| row.write(&mut text, name));
    text
}
