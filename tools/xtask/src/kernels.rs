//! `cargo xtask kernels`: compiles every GPU kernel with the pinned compiler, no GPU needed, and checks the machine code.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use tenon_kernels::gpu::arch::{self, Arch, Vendor};
use tenon_kernels::gpu::unit;

use crate::{place, process, venv};

#[derive(clap::Args, Default)]
pub struct Args {
    /// The only family to compile, such as sm90
    #[arg(long)]
    pub arch: Option<String>,
    /// Compile and check only units whose names hold this text, and write no container
    #[arg(long)]
    pub filter: Option<String>,
    /// Compilers at a time; as many as there are cores by default
    #[arg(long)]
    pub jobs: Option<u32>,
}

/// Compiles the families into `target/kernels/<arch>.pack`, with reports in `target/kernels/report/<arch>`. What was
/// compiled before with the same inputs is not again.
pub fn run(args: &Args) -> Result<()> {
    let python = venv::kernels()?;
    let families: Vec<&Arch> = match &args.arch {
        Some(name) => vec![arch::find(name)?],
        None => arch::all().iter().collect(),
    };
    for family in families {
        compile(family, &python, args)?;
    }
    Ok(())
}

fn compile(family: &Arch, python: &PathBuf, args: &Args) -> Result<()> {
    let folder = place::target().join("kernels");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let units = folder.join(format!("{}.json", family.name));
    std::fs::write(&units, unit::listing(family.name, family.target, &family.units()?))
        .with_context(|| format!("cannot write {}", units.display()))?;
    let mut command = Command::new(python);
    let script = match family.vendor {
        Vendor::Nvidia => "nvrtc.py",
        Vendor::Amd => "amdgcn.py",
    };
    command.arg(place::script(script)).arg("build").arg(&units).arg("--cache").arg(folder.join("cache"));
    command.arg("--report").arg(folder.join("report").join(family.name));
    match &args.filter {
        Some(filter) => command.args(["--filter", filter]),
        None => command.arg("--out").arg(folder.join(format!("{}.pack", family.name))),
    };
    if let Some(jobs) = args.jobs {
        command.args(["--jobs", &jobs.to_string()]);
    }
    process::run(&mut command)
}
