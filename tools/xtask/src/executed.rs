//! Kernels for emulated devices that nothing has executed: none but those that a list excuses, each with the reason.

use std::collections::HashSet;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use tenon_kernels::gpu::arch;
use tenon_kernels::table;

use crate::{place, process};

/// The emulator's variable: the file to which it adds what it ran.
pub const VARIABLE: &str = "TENON_EMULATOR_EXECUTED";

/// That file: lines `target symbol`.
pub fn file() -> PathBuf {
    place::target().join("kernels/executed.txt")
}

/// Begins a new list.
pub fn forget() -> Result<()> {
    match std::fs::remove_file(file()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context("cannot begin a new list")
        }
        _ => Ok(()),
    }
}

/// Runs the kernels' own tests on emulated devices.
pub fn run_tests() -> Result<()> {
    let mut tests = process::cargo(["test", "--quiet", "--package", "tenon-tests", "--test", "amd"]);
    process::run(tests.env(VARIABLE, file()))
}

/// An excuse: kernels of these names need not have been executed. One `*` stands for any text.
struct Excuse {
    kernels: String,
}

impl Excuse {
    fn covers(&self, symbol: &str) -> bool {
        match self.kernels.split_once('*') {
            None => symbol == self.kernels,
            Some((front, back)) => {
                symbol.len() >= front.len() + back.len()
                    && symbol.starts_with(front)
                    && symbol.ends_with(back)
            }
        }
    }
}

/// Holds what was executed on `families` to the kernels they have.
///
/// # Errors
/// A kernel that nothing executed and no excuse covers, and an excuse that covers none.
pub fn check(families: &[&str]) -> Result<()> {
    let path = file();
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let executed: HashSet<&str> = text.lines().collect();
    let list = place::root().join("tests/amd/unexecuted.toml");
    let excuses =
        std::fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
    let excuses = excuses_of(&excuses)?;
    let (mut missing, mut count, mut used) = (Vec::new(), 0, vec![false; excuses.len()]);
    for name in families {
        let family = arch::find(name)?;
        for kernel in family.units()?.iter().flat_map(|unit| &unit.kernels) {
            count += 1;
            let line = format!("{} {}", family.target, kernel.symbol);
            if executed.contains(line.as_str()) {
                continue;
            }
            match excuses.iter().position(|excuse| excuse.covers(&kernel.symbol)) {
                Some(excuse) => used[excuse] = true,
                None => missing.push(line),
            }
        }
    }
    let idle = excuses.iter().zip(&used).filter(|(_, used)| !**used);
    let idle: Vec<&str> = idle.map(|(excuse, _)| excuse.kernels.as_str()).collect();
    ensure!(missing.is_empty(), "never executed on an emulated device:\n{}", missing.join("\n"));
    ensure!(idle.is_empty(), "{}: every kernel of these was executed: {}", list.display(), idle.join(", "));
    println!(
        "{count} kernels of {} executed, but for what {} excuses",
        families.join(" and "),
        list.display()
    );
    Ok(())
}

fn excuses_of(text: &str) -> Result<Vec<Excuse>> {
    let rows = table::parse(text)?;
    let excuse = |row: &table::Row| -> Result<Excuse> {
        ensure!(
            row.name == "excuse" && !row.text("reason")?.is_empty(),
            "row [[{}]]: not an excuse",
            row.name
        );
        Ok(Excuse { kernels: row.text("kernels")?.to_owned() })
    };
    rows.iter().map(excuse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excuse_covers_what_its_star_leaves_open() {
        let text = "[[excuse]]\nkernels = \"softmax_*_v1\"\nreason = \"no plan takes it\"\n";
        let excuses = excuses_of(text).unwrap();
        for (symbol, wanted) in [
            ("softmax_f32_v1", true),
            ("softmax__v1", true),
            ("softmax_v1", false),
            ("softmax_f32_v4", false),
        ] {
            assert_eq!(excuses[0].covers(symbol), wanted, "{symbol}");
        }
        assert!(excuses_of("[[excuse]]\nkernels = \"a\"\n").is_err());
        assert!(excuses_of("[[other]]\nkernels = \"a\"\nreason = \"b\"\n").is_err());
    }
}
