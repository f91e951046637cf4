//! `cargo xtask dist`: builds what is shipped and lays it out in `target/dist`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::{place, process};

#[derive(clap::Args)]
pub struct Args {}

/// A file to ship: where it is built, and its place in the distribution.
struct Artefact {
    from: PathBuf,
    to: PathBuf,
}

/// Builds with optimisation, copies, and lists what was made with its size.
pub fn run(_: &Args) -> Result<()> {
    let providers = providers()?;
    let mut build =
        process::cargo(["build", "--release", "--package", "tenon-runner", "--package", "tenon-capi"]);
    for provider in &providers {
        build.args(["--package", &format!("tenon-provider-{provider}")]);
    }
    process::run(&mut build)?;
    let dist = place::target().join("dist");
    if dist.exists() {
        std::fs::remove_dir_all(&dist).with_context(|| format!("cannot empty {}", dist.display()))?;
    }
    for artefact in artefacts(&providers) {
        let to = dist.join(&artefact.to);
        let folder = to.parent().context("an artefact lies in a folder")?;
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let bytes = std::fs::copy(&artefact.from, &to)
            .with_context(|| format!("cannot copy {} to {}", artefact.from.display(), to.display()))?;
        println!("{:<44} {:>9.1} KiB", artefact.to.display(), bytes as f64 / 1024.0);
    }
    Ok(())
}

fn artefacts(providers: &[String]) -> Vec<Artefact> {
    let release = place::target().join("release");
    let built =
        |name: &str, folder: &str| Artefact { from: release.join(name), to: Path::new(folder).join(name) };
    let source = |path: &str, folder: &str| {
        let from = place::root().join(path);
        let name = from.file_name().unwrap_or_default().to_owned();
        Artefact { from, to: Path::new(folder).join(name) }
    };
    let mut artefacts = vec![
        built("runner", "bin"),
        built("libtenon.so", "lib"),
        source("runtime/capi/include/tenon.h", "include"),
        source("plugin-api/include/tenon_plugin.h", "include"),
        source("LICENSE-MIT", "."),
        source("LICENSE-APACHE", "."),
    ];
    // Beside the program, where it looks for providers. The CPU provider is linked into it, so its library is for others.
    artefacts.extend(providers.iter().map(|provider| {
        let folder = if provider == "cpu" { "lib" } else { "bin" };
        built(&format!("libtenon_provider_{provider}.so"), folder)
    }));
    artefacts
}

/// The folders of `providers/` that are built as plugins; the null provider is for authors, not for users.
fn providers() -> Result<Vec<String>> {
    let folder = place::root().join("providers");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        let manifest = std::fs::read_to_string(path.join("Cargo.toml")).unwrap_or_default();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if manifest.contains("cdylib") && name != "null" {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}
