//! `cargo xtask gen`: writes the generated files that are committed, or checks that they are fresh.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

#[derive(clap::Args)]
pub struct Args {
    /// Write nothing; fail when a committed file differs from what would be written.
    #[arg(long)]
    pub check: bool,
}

/// A generated file: where it lies and what it must contain.
struct Generated {
    path: PathBuf,
    contents: String,
}

/// Writes or checks every generated file.
pub fn run(args: &Args) -> Result<()> {
    let root = crate::place::root();
    let mut stale = Vec::new();
    for file in [onnx_messages(&root)?, gpu_families(&root)?] {
        let current = std::fs::read_to_string(&file.path).unwrap_or_default();
        if current == file.contents {
            continue;
        }
        if args.check {
            stale.push(file.path);
        } else {
            println!("wrote {}", file.path.display());
            std::fs::write(&file.path, file.contents)
                .with_context(|| format!("cannot write {}", file.path.display()))?;
        }
    }
    if !stale.is_empty() {
        bail!("stale generated files, run `cargo xtask gen`: {stale:?}");
    }
    Ok(())
}

/// The Rust types of `onnx.proto`. Only tensor contents and training graphs are `Bytes`, which share the file's memory; the large and rare
/// fields of attributes are boxed, which keeps nodes small.
fn onnx_messages(root: &Path) -> Result<Generated> {
    let folder = root.join("runtime/src/model");
    let descriptors = protox::compile(["onnx.proto"], [&folder]).context("cannot compile onnx.proto")?;
    let mut config = prost_build::Config::new();
    config.bytes([".onnx.TensorProto.raw_data", ".onnx.ModelProto.training_info"]);
    for field in ["t", "g", "tp", "sparse_tensor"] {
        config.boxed(format!(".onnx.AttributeProto.{field}"));
    }
    config.boxed(".onnx.ValueInfoProto.type");
    let module = prost_build::Module::from_protobuf_package_name("onnx");
    let mut files = config
        .generate(descriptors.file.into_iter().map(|f| (module.clone(), f)).collect())
        .context("cannot generate Rust from onnx.proto")?;
    ensure!(files.len() == 1, "onnx.proto must be one module, got {}", files.len());
    let code = files.remove(&module).context("no module named onnx was generated")?;
    let header = "//! The protobuf messages of the ONNX format. Generated from onnx.proto by `cargo xtask gen`; do not edit.\n\n";
    Ok(Generated { path: folder.join("proto.rs"), contents: format!("{header}{code}") })
}

/// The list of GPU families and the texts under `kernels/arch`: every folder with an `arch.toml` is a family, every
/// device text and every table of a family is embedded, and so are the headers under `kernels/device`.
fn gpu_families(root: &Path) -> Result<Generated> {
    let kernels = root.join("kernels");
    let mut families = Vec::new();
    let mut files = Vec::new();
    for folder in sorted(&kernels.join("arch"))? {
        let is_family = folder.join("arch.toml").exists();
        if is_family {
            families.push(name_of(&folder));
        }
        for file in sorted(&folder)? {
            let is_text =
                ["cu", "cuh", "hip", "h"].iter().any(|kind| file.extension() == Some(kind.as_ref()));
            if is_text || (is_family && file.extension() == Some("toml".as_ref())) {
                files.push(format!("arch/{}/{}", name_of(&folder), name_of(&file)));
            }
        }
    }
    let headers = sorted(&kernels.join("device"))?;
    let headers = headers.iter().filter(|file| file.extension() == Some("cuh".as_ref()));
    files.extend(headers.map(|file| format!("device/{}", name_of(file))));
    let mut code = String::from(
        "//! The GPU families and the texts under `kernels/arch`. Generated from the folders by `cargo xtask gen`; do not edit.\n\n",
    );
    let list = families.iter().map(|name| format!("    {name:?},\n")).collect::<String>();
    code.push_str("#[rustfmt::skip]\npub(super) const ARCHS: &[&str] = &[\n");
    code.push_str(&list);
    code.push_str("];\n\n#[rustfmt::skip]\npub(super) const FILES: &[(&str, &str)] = &[\n");
    for file in files {
        code.push_str(&format!("    ({file:?}, include_str!(\"../../{file}\")),\n"));
    }
    code.push_str("];\n");
    Ok(Generated { path: kernels.join("src/gpu/archs.rs"), contents: code })
}

/// What a folder holds, by name.
fn sorted(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>().context("a folder changed")?;
    paths.retain(|path| path.is_dir() || path.is_file());
    paths.sort();
    Ok(paths)
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;
