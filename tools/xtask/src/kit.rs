//! `cargo xtask kit`: gathers what checks a GPU provider on a machine that has the device, and needs no compiler there.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use tenon_kernels::gpu::arch::{self, Arch, Vendor};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::{conformance, kernels, place, process, venv};

/// The decoders of the kit: a small one, whose tokens are compared with the CPU provider's, and one of Llama-3.1-8B's shape
/// that is timed. Neither holds weights; they are made on the device.
const DECODERS: [(&str, &str); 2] = [
    (
        "small",
        "--layers 3 --hidden 512 --heads 8 --kv-heads 2 --head 64 --ffn 1024 --vocab 1000 --dtype f16 --logits",
    ),
    ("llama-8b", "--dtype bf16"),
];

#[derive(clap::Args)]
pub struct Args {
    /// The provider: cuda, rocm
    #[arg(long, default_value = "cuda")]
    provider: String,
    /// Add the zoo's models that `cargo xtask zoo` fetched
    #[arg(long)]
    zoo: bool,
}

/// Builds with optimisation and fills `target/kit`.
pub fn run(args: &Args) -> Result<()> {
    let families = families(&args.provider)?;
    let kit = place::target().join("kit");
    if kit.exists() {
        std::fs::remove_dir_all(&kit).with_context(|| format!("cannot empty {}", kit.display()))?;
    }
    for family in &families {
        kernels::run(&kernels::Args { arch: Some(family.name.to_owned()), ..kernels::Args::default() })?;
    }
    programs(&args.provider, &kit)?;
    for script in ["gpu_check.py", "gpu_kernels.py"] {
        copy(&place::script(script), &kit.join(script))?;
    }
    if families.iter().any(|family| family.vendor == Vendor::Nvidia) {
        kernel_cases(&families, &kit.join("kernels"))?;
    }
    archives(&conformance::write_cases(false)?, &kit.join("cases"))?;
    let lists = place::root().join("providers").join(&args.provider).join("conformance");
    tree(&lists, &kit.join("lists"))?;
    decoders(&kit.join("decoders"))?;
    if args.zoo {
        let zoo = place::target().join("zoo/cases");
        ensure!(zoo.is_dir(), "{} is missing: run `cargo xtask zoo` first", zoo.display());
        tree(&zoo, &kit.join("models"))?;
    }
    println!("{}: copy it to the machine and run `python3 gpu_check.py` in it", kit.display());
    Ok(())
}

/// The families that a provider serves.
fn families(provider: &str) -> Result<Vec<&'static Arch>> {
    let vendor = match provider {
        "cuda" => Vendor::Nvidia,
        "rocm" => Vendor::Amd,
        other => bail!("provider {other} is for no GPU: cuda or rocm"),
    };
    Ok(arch::all().iter().filter(|family| family.vendor == vendor).collect())
}

/// Builds the programs and libraries that the checks run, without their debug information.
fn programs(provider: &str, kit: &Path) -> Result<()> {
    let library = format!("tenon-provider-{provider}");
    let mut build = process::cargo(["build", "--release", "--config", "profile.release.strip=true"]);
    let packages = ["tenon-runner", "tenon-llama", "tenon-tests", "tenon-provider-cpu", &library];
    packages.iter().for_each(|package| _ = build.args(["--package", package]));
    process::run(&mut build)?;
    let libraries = ["cpu", provider].map(|name| format!("libtenon_provider_{name}.so"));
    for name in ["runner", "llama", "conformance"].into_iter().chain(libraries.iter().map(String::as_str)) {
        copy(&place::target().join("release").join(name), &kit.join(name))?;
    }
    Ok(())
}

/// The kernels alone, and what they are to compute.
fn kernel_cases(families: &[&Arch], folder: &Path) -> Result<()> {
    for family in families {
        let pack = format!("{}.pack", family.name);
        copy(&place::target().join("kernels").join(&pack), &folder.join(&pack))?;
        let path = folder.join(format!("{}.jsonl", family.name));
        let file =
            std::fs::File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let example = ["run", "--quiet", "--release", "--package", "tenon-kernels", "--example", "gpu_cases"];
        process::run(process::cargo(example).arg(family.name).stdout(Stdio::from(file)))?;
    }
    Ok(())
}

fn decoders(folder: &Path) -> Result<()> {
    for (name, options) in DECODERS {
        let mut write = Command::new(venv::python()?);
        write.arg(place::script("make_llama.py")).arg(folder.join(name)).args(options.split(' '));
        process::run(&mut write)?;
    }
    Ok(())
}

/// Each folder of `from` as an archive, as the suite's program reads them.
fn archives(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    for kind in list(from)?.into_iter().filter(|path| path.is_dir()) {
        let name = kind.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let path = to.join(format!("{name}.zip"));
        let file =
            std::fs::File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let mut archive = ZipWriter::new(BufWriter::new(file));
        add(&mut archive, &kind, &kind)?;
        archive.finish().with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn add(archive: &mut ZipWriter<BufWriter<std::fs::File>>, root: &Path, folder: &Path) -> Result<()> {
    for path in list(folder)? {
        if path.is_dir() {
            add(archive, root, &path)?;
            continue;
        }
        let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        archive.start_file(&name, SimpleFileOptions::default())?;
        archive.write_all(&bytes).with_context(|| format!("cannot add {name}"))?;
    }
    Ok(())
}

fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        std::fs::read_dir(folder).and_then(|entries| entries.map(|e| e.map(|e| e.path())).collect());
    entries.with_context(|| format!("cannot list {}", folder.display()))
}

/// Copies a folder with all that it holds.
fn tree(from: &Path, to: &Path) -> Result<()> {
    for path in list(from)? {
        let place = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() { tree(&path, &place)? } else { copy(&path, &place)? }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let folder = to.parent().context("a copy lies in a folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let copied = std::fs::copy(from, to);
    copied.with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}
