//! Embeds the compiled kernels that `cargo xtask kernels` wrote; without them the provider builds and says what to run.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=TENON_KERNEL_PACKS");
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = std::env::var_os("TENON_KERNEL_PACKS")
        .map_or_else(|| workspace.join("target/kernels"), PathBuf::from);
    let mut packs: Vec<PathBuf> = std::fs::read_dir(&folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.starts_with("sm") && name.ends_with(".pack")
        })
        .collect();
    packs.sort();
    let mut text = String::from("pub(super) const PACKS: &[(&str, &[u8])] = &[\n");
    for path in &packs {
        println!("cargo::rerun-if-changed={}", path.display());
        let arch = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let path = path.canonicalize().expect("the file was just listed");
        let _ = writeln!(text, "    ({arch:?}, include_bytes!({path:?})),");
    }
    if packs.is_empty() {
        // Looked at again once kernels have been built.
        println!("cargo::rerun-if-changed={}", folder.display());
    }
    text.push_str("];\n");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("packs.rs");
    std::fs::write(out, text).expect("OUT_DIR is writable");
}
