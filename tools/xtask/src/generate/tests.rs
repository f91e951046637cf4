//! A new chip is a block of a table and a new GPU family a folder: nothing else changes but the generated list.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Generated, gpu_families};

/// A family that does not exist, copied from one that does.
const COPY: &str = "gfx959";
const ORIGINAL: &str = "gfx950";

/// A copy of the `kernels` crate in a folder of its own, removed when dropped.
struct Tree(PathBuf);

impl Tree {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("{name}_{}", std::process::id()));
        for part in ["arch", "device", "src"] {
            copy(&crate::place::root().join("kernels").join(part), &root.join("kernels").join(part));
        }
        Tree(root)
    }

    fn generated(&self) -> Generated {
        gpu_families(&self.0).expect("the families are listed")
    }

    fn arch(&self, name: &str) -> PathBuf {
        self.0.join("kernels/arch").join(name)
    }

    /// Every file's contents.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.0.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("the copy can be listed") {
                let path = entry.expect("the copy can be listed").path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => drop(found.insert(path.clone(), fs::read(path).expect("the copy can be read"))),
                }
            }
        }
        found
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // What stays behind lies in the system's temporary folder.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the temporary folder can be written");
    for entry in fs::read_dir(from).expect("the crate can be listed") {
        let entry = entry.expect("the crate can be listed");
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(fs::copy(entry.path(), to.join(entry.file_name())).expect("a file is copied")),
        }
    }
}

/// A block for a chip that does not exist.
fn add_chip(tree: &Tree, family: &str) {
    let path = tree.arch(family).join("chips.toml");
    let chips = fs::read_to_string(&path).expect("the family has chips");
    let block = chips[chips.rfind("[[chip]]").expect("a chip is listed")..]
        .replace("name = \"mi355x\"", "name = \"mi399z\"")
        .replace("device_name = \"MI355X\"", "device_name = \"MI399Z\"");
    assert!(block.contains("MI399Z"));
    fs::write(&path, format!("{chips}\n{block}")).expect("the copy can be written");
}

#[test]
fn a_chip_is_a_block_of_a_table() {
    let tree = Tree::new("pretend_chip");
    let before = tree.generated().contents;
    add_chip(&tree, ORIGINAL);
    assert_eq!(tree.generated().contents, before);
}

#[test]
fn a_copied_folder_is_a_family_and_changes_only_the_generated_list() {
    let tree = Tree::new("pretend_arch");
    let before = tree.generated();
    fs::write(&before.path, &before.contents).expect("the copy can be written");
    let files = tree.files();
    copy(&tree.arch(ORIGINAL), &tree.arch(COPY));
    let after = tree.generated();
    fs::write(&after.path, &after.contents).expect("the copy can be written");
    let own: Vec<&str> = after.contents.lines().filter(|line| !before.contents.contains(line)).collect();
    assert!(!own.is_empty() && own.iter().all(|line| line.contains(COPY)), "{own:?}");
    let folder = tree.arch(COPY);
    for (path, contents) in tree.files() {
        if !path.starts_with(&folder) && path != after.path {
            assert_eq!(files.get(&path), Some(&contents), "{}", path.display());
        }
    }
}

/// The pretend family's units, as a build of the copied crate lists them.
fn listing(tree: &Tree) -> String {
    let kernels = tree.0.join("kernels");
    let manifest = "[package]\nname = \"tenon-kernels\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n\
                    [dependencies]\nhalf = { version = \"2.7\", default-features = false }\n\n[workspace]\n";
    let program = format!(
        "use tenon_kernels::gpu::{{arch, unit}};\n\
         fn main() {{\n    let family = arch::find({COPY:?}).unwrap();\n    \
         assert_eq!(family.chip_of(\"AMD Instinct MI399Z\").unwrap().name, \"mi399z\");\n    \
         print!(\"{{}}\", unit::listing(family.name, family.target, &family.units().unwrap()));\n}}\n"
    );
    fs::create_dir_all(kernels.join("examples")).expect("the copy can be written");
    fs::write(kernels.join("Cargo.toml"), manifest).expect("the copy can be written");
    fs::write(kernels.join("examples/list.rs"), program).expect("the copy can be written");
    fs::copy(crate::place::root().join("Cargo.lock"), kernels.join("Cargo.lock")).expect("a file is copied");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["run", "--quiet", "--offline", "--example", "list"]).current_dir(&kernels);
    cargo.env("CARGO_TARGET_DIR", tree.0.join("target")).env_remove("RUSTFLAGS");
    let output = cargo.output().expect("cargo starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("a listing is text")
}

#[test]
fn units_of_a_copied_family_are_listed_and_compile() {
    let tree = Tree::new("pretend_units");
    copy(&tree.arch(ORIGINAL), &tree.arch(COPY));
    add_chip(&tree, COPY);
    let generated = tree.generated();
    fs::write(&generated.path, &generated.contents).expect("the copy can be written");
    let units = listing(&tree);
    assert!(units.contains(&format!("\"arch\": \"{COPY}\"")) && units.contains("\"name\": \"layout\""));
    let python = crate::place::target().join("kernels/venv/bin/python");
    if !python.exists() {
        assert!(std::env::var_os("CI").is_none(), "`cargo xtask kernels` comes first");
        eprintln!("skipped: no compiler of GPU kernels in {}", python.display());
        return;
    }
    let (list, pack) = (tree.0.join("units.json"), tree.0.join("units.pack"));
    fs::write(&list, units).expect("the copy can be written");
    let mut command = Command::new(python);
    command
        .arg(crate::place::script("amdgcn.py"))
        .arg("build")
        .arg(&list)
        .arg("--cache")
        .arg(tree.0.join("cache"));
    let output = command
        .args(["--filter", "layout", "--out"])
        .arg(&pack)
        .output()
        .expect("the compiler's Python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let container = fs::read(&pack).expect("the container was written");
    let pack = tenon_kernels::gpu::pack::parse(&container).expect("the container reads back");
    assert!(pack.units.iter().any(|unit| unit.name == "layout" && !unit.kernels.is_empty()));
}
