//! Where things lie: the repository, what is built, the zoo.

use std::path::PathBuf;

/// The repository's root folder.
pub fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).map(PathBuf::from).unwrap_or(here)
}

/// The folder that Cargo builds into; everything else that is made lies there too.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    }
}

/// A Python script of the project.
pub fn script(name: &str) -> PathBuf {
    root().join("tools/python").join(name)
}

/// The folder with the manifest and references of the zoo: `TENON_ZOO`, or `shared/zoo` beside the repository.
pub fn zoo() -> Option<PathBuf> {
    let named = std::env::var_os("TENON_ZOO").map(PathBuf::from);
    let beside = root().parent().map(|p| p.join("shared/zoo"));
    named.into_iter().chain(beside).find(|folder| folder.join("manifest.json").is_file())
}
