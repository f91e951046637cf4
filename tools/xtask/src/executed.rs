//! Holds what emulated devices have executed to the kernels that there are: none may be missing.

use std::collections::HashSet;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use tenon_kernels::gpu::arch;

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

/// Holds what was executed on `families` to the kernels they have.
///
/// # Errors
/// Kernels that nothing executed, by name.
pub fn check(families: &[&str]) -> Result<()> {
    let path = file();
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let executed: HashSet<&str> = text.lines().collect();
    let mut kernels = Vec::new();
    for name in families {
        let family = arch::find(name)?;
        let units = family.units()?;
        let symbols = units.iter().flat_map(|unit| &unit.kernels).map(|kernel| &kernel.symbol);
        kernels.extend(symbols.map(|symbol| format!("{} {symbol}", family.target)));
    }
    let missing: Vec<&str> =
        kernels.iter().map(String::as_str).filter(|kernel| !executed.contains(kernel)).collect();
    ensure!(missing.is_empty(), "never executed on an emulated device:\n{}", missing.join("\n"));
    println!("all {} kernels of {} were executed", kernels.len(), families.join(" and "));
    Ok(())
}
