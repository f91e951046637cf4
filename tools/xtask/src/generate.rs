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
    for file in [onnx_messages(&root)?] {
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
