//! `cargo xtask venv`: the Python environment of the scripts, with pinned packages.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{place, process};

#[derive(clap::Args)]
pub struct Args {}

/// Makes the environment where it is missing or its requirements changed, and prints the interpreter's path.
pub fn run(_: &Args) -> Result<()> {
    println!("{}", python()?.display());
    Ok(())
}

/// The interpreter, with every package of `tools/python/requirements.txt` installed.
pub fn python() -> Result<PathBuf> {
    environment("venv", "requirements.txt")
}

/// The same with the compiler of GPU kernels.
pub fn kernels() -> Result<PathBuf> {
    environment("kernels/venv", "requirements-kernels.txt")
}

fn environment(folder: &str, requirements: &str) -> Result<PathBuf> {
    let folder = place::target().join(folder);
    let python = folder.join("bin/python");
    let requirements = place::script(requirements);
    let wanted = std::fs::read_to_string(&requirements)
        .with_context(|| format!("cannot read {}", requirements.display()))?;
    // Holds the requirements that were installed; written last, so that an interrupted install is done again.
    let stamp = folder.join("installed.txt");
    if python.exists() && std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    create(&folder)?;
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]).arg(&requirements);
    process::run(&mut install).context("cannot install the Python packages")?;
    std::fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(python)
}

fn create(folder: &Path) -> Result<()> {
    let base = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
    process::run(Command::new(&base).args(["-m", "venv"]).arg(folder)).context(
        "cannot make a Python environment: Python 3 with its venv module is needed (PYTHON names another)",
    )
}
