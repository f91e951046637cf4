//! What a GPU provider's build script does: it writes the list of the compiled kernels that the library embeds.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Writes `packs.rs` into the folder of generated files: every pack that `cargo xtask kernels` wrote, into `kernels` of
/// Cargo's target folder, for archs whose names start with `prefix`. Without packs the list is empty, and the provider says what to run.
///
/// `TENON_KERNEL_PACKS` names another folder of packs.
pub fn packs(prefix: &str) {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../gpu/build/embed.rs");
    println!("cargo::rerun-if-env-changed=TENON_KERNEL_PACKS");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let named = std::env::var_os("TENON_KERNEL_PACKS").map(PathBuf::from);
    let folder = named.unwrap_or_else(|| target(&out).join("kernels"));
    let is_pack = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with(prefix) && name.ends_with(".pack")
    };
    let entries = std::fs::read_dir(&folder).into_iter().flatten();
    let mut packs: Vec<PathBuf> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_pack).collect();
    packs.sort();
    if packs.is_empty() {
        // Looked at again once kernels have been built.
        println!("cargo::rerun-if-changed={}", folder.display());
    } else {
        // A family's pack that is missing today may come.
        families(prefix).iter().for_each(|name| {
            println!("cargo::rerun-if-changed={}", folder.join(format!("{name}.pack")).display());
        });
    }
    let mut text = String::from("const PACKS: tenon_gpu::Packs = tenon_gpu::Packs(&[\n");
    for path in &packs {
        let arch = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let path = path.canonicalize().expect("the file was just listed");
        let _ = writeln!(text, "    ({arch:?}, include_bytes!({path:?})),");
    }
    text.push_str("]);\n");
    std::fs::write(out.join("packs.rs"), text).expect("OUT_DIR is writable");
}

/// The families there are, by their folders.
fn families(prefix: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kernels/arch");
    let names = std::fs::read_dir(folder).into_iter().flatten();
    let names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name.starts_with(prefix)).collect()
}

/// The folder that Cargo builds into: the one above `out` that carries Cargo's tag.
fn target(out: &Path) -> &Path {
    let tagged = out.ancestors().filter(|folder| folder.join("CACHEDIR.TAG").is_file());
    tagged
        .last()
        .unwrap_or_else(|| out.ancestors().nth(4).expect("OUT_DIR lies deep inside the target folder"))
}
