//! Who may depend on whom, and where versions live.

use crate::assert_none;
use crate::tree::root;
use std::collections::BTreeMap;
use toml::{Table, Value};

/// A crate of the workspace.
struct Crate {
    /// Relative to the root.
    folder: String,
    manifest: Table,
}

/// What a dependency is for.
#[derive(Clone, Copy, PartialEq)]
enum Purpose {
    Product,
    Build,
    Test,
}

struct Dependency<'a> {
    name: &'a str,
    spec: &'a Value,
    purpose: Purpose,
}

impl Crate {
    fn path(&self) -> String {
        format!("{}/Cargo.toml", self.folder)
    }

    fn name(&self) -> &str {
        self.manifest["package"]["name"].as_str().expect("a crate has a name")
    }

    /// Every dependency of every section, those under `target` too.
    fn dependencies(&self) -> Vec<Dependency<'_>> {
        let targets = self.manifest.get("target").and_then(Value::as_table).into_iter().flatten();
        let tables = targets.filter_map(|(_, table)| table.as_table()).chain([&self.manifest]);
        let mut found = Vec::new();
        for table in tables {
            for (section, purpose) in [
                ("dependencies", Purpose::Product),
                ("build-dependencies", Purpose::Build),
                ("dev-dependencies", Purpose::Test),
            ] {
                let entries = table.get(section).and_then(Value::as_table).into_iter().flatten();
                found.extend(entries.map(|(name, spec)| Dependency { name, spec, purpose }));
            }
        }
        found
    }
}

fn read(path: &str) -> Table {
    let text = std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}:1: {error}"));
    text.parse().unwrap_or_else(|error| panic!("{path}:1: {error}"))
}

fn crates() -> Vec<Crate> {
    let workspace = read("Cargo.toml");
    let members = workspace["workspace"]["members"].as_array().expect("members is a list");
    let folders = members.iter().map(|member| member.as_str().expect("a member is a path").to_string());
    folders.map(|folder| Crate { manifest: read(&format!("{folder}/Cargo.toml")), folder }).collect()
}

/// The folders whose crates a crate of `folder` may use in the product, and the advice when it uses another.
fn allowed(folder: &str) -> (&'static [&'static str], &'static str) {
    match folder {
        "plugin-api" => (&[], "the contract is a leaf"),
        "kernels" => (&[], "kernels are a leaf: no I/O, no driver, no contract"),
        "runtime" => (&["plugin-api"], "the runtime reaches providers through the C table only"),
        "models" => (&["runtime"], "models sit on the runtime"),
        _ if folder.starts_with("runtime/") => (
            &["plugin-api", "runtime", "providers/cpu"],
            "libraries for host applications link the fallback only",
        ),
        _ if folder.starts_with("providers/") => (
            &["plugin-api", "kernels", "providers/gpu"],
            "a provider uses the contract, kernels and its driver",
        ),
        _ if folder.starts_with("tools/") => {
            (&["plugin-api", "kernels", "runtime", "providers", "models", "tools"], "nothing uses the tests")
        }
        _ if folder.starts_with("tests/emulator/") => {
            (&["tests/emulator"], "the stand-in driver sits on the emulator")
        }
        _ => (&["plugin-api", "kernels", "runtime", "providers", "models"], "nothing uses the tools"),
    }
}

fn is_under(folder: &str, parents: &[&str]) -> bool {
    let under =
        |parent: &&str| folder == *parent || folder.strip_prefix(*parent).is_some_and(|r| r.starts_with('/'));
    parents.iter().any(under)
}

#[test]
fn dependencies_point_one_way() {
    let crates = crates();
    let folder_of: BTreeMap<&str, &str> = crates.iter().map(|c| (c.name(), c.folder.as_str())).collect();
    let mut violations = Vec::new();
    for user in &crates {
        let (parents, advice) = allowed(&user.folder);
        for dependency in user.dependencies() {
            let Some(&used) = folder_of.get(dependency.name) else { continue };
            // Tests may use what they test against; the conformance suite is called by the providers' tests.
            let fine = match dependency.purpose {
                Purpose::Product | Purpose::Build => is_under(used, parents),
                Purpose::Test if used == "tests" => user.folder.starts_with("providers/"),
                Purpose::Test => !is_under(used, &["tools"]),
            };
            if !fine {
                violations.push(format!("{}:1: uses {used}: {advice}", user.path()));
            }
        }
    }
    assert_none("Dependencies point from tools down to the contract and the kernels.", &violations);
}

#[test]
fn leaves_use_no_outside_crates() {
    let mut violations = Vec::new();
    for user in crates() {
        let outside: &[&str] = match user.folder.as_str() {
            "plugin-api" => &[],
            "kernels" => &["half"],
            _ => continue,
        };
        for dependency in user.dependencies().iter().filter(|d| d.purpose != Purpose::Test) {
            if !outside.contains(&dependency.name) {
                violations.push(format!("{}:1: uses {}: a leaf may not", user.path(), dependency.name));
            }
        }
    }
    assert_none("The contract uses nothing, kernels use half.", &violations);
}

/// Outside crates that have one home, so that replacing one touches one folder.
#[test]
fn named_dependencies_have_one_home() {
    const HOMES: &[(&str, &[&str])] = &[
        ("prost", &["runtime"]),
        ("petgraph", &["runtime"]),
        ("memmap2", &["runtime", "models"]),
        ("libloading", &["runtime", "providers", "tests", "tools"]),
        ("onnx-protobuf", &["tests"]),
        ("protobuf", &["tests"]),
        ("cudarc", &["providers/cuda"]),
        ("hip-sys", &["providers/rocm"]),
        ("anyhow", &["tools"]),
        ("clap", &["tools", "tests"]),
    ];
    let mut violations = Vec::new();
    for user in crates() {
        for dependency in user.dependencies().iter().filter(|d| d.purpose == Purpose::Product) {
            let home = HOMES.iter().find(|(name, _)| *name == dependency.name);
            if let Some((name, homes)) = home
                && !is_under(&user.folder, homes)
            {
                violations.push(format!("{}:1: uses {name}: its home is {}", user.path(), homes.join(", ")));
            }
        }
    }
    assert_none("Each named dependency has one home.", &violations);
}

#[test]
fn versions_live_in_the_workspace_table() {
    let mut violations = Vec::new();
    for user in crates() {
        for dependency in user.dependencies() {
            let inherits = dependency.spec.get("workspace").and_then(Value::as_bool) == Some(true);
            if !inherits {
                let name = dependency.name;
                violations.push(format!("{}:1: {name}: write `{name}.workspace = true`", user.path()));
            }
        }
        for field in ["version", "edition", "rust-version", "license", "publish"] {
            let value = user.manifest["package"].get(field).and_then(|value| value.get("workspace"));
            if value.and_then(Value::as_bool) != Some(true) {
                violations.push(format!("{}:1: write `{field}.workspace = true`", user.path()));
            }
        }
        let lints = user.manifest.get("lints").and_then(|lints| lints.get("workspace"));
        if lints.and_then(Value::as_bool) != Some(true) {
            violations.push(format!("{}:1: write `[lints]` with `workspace = true`", user.path()));
        }
    }
    assert_none("Versions, editions and lints live in the workspace's manifest.", &violations);
}

#[test]
fn every_version_in_the_workspace_table_is_used() {
    let workspace = read("Cargo.toml");
    let table = workspace["workspace"]["dependencies"].as_table().expect("the table of versions");
    let crates = crates();
    let inside: Vec<&str> = crates.iter().map(Crate::name).collect();
    let used: Vec<&str> = crates.iter().flat_map(|user| user.dependencies()).map(|d| d.name).collect();
    let unused =
        table.keys().filter(|name| !used.contains(&name.as_str()) && !inside.contains(&name.as_str()));
    let violations: Vec<String> =
        unused.map(|name| format!("Cargo.toml:1: no crate uses {name}: remove it from the table")).collect();
    assert_none("The table of versions holds what is used.", &violations);
}

#[test]
fn every_crate_folder_is_a_member() {
    let members: Vec<String> = crates().into_iter().map(|member| member.folder).collect();
    let mut violations = Vec::new();
    for file in crate::tree::files() {
        if let Some(folder) = file.path.strip_suffix("/Cargo.toml")
            && !members.iter().any(|member| member == folder)
        {
            violations.push(file.at(1, "not a member of the workspace: add it to the list"));
        }
    }
    assert_none("Every crate is a member of the workspace.", &violations);
}

/// The stages of the runtime in the order in which data flows. `model` and `graph` share their types.
const STAGES: &[&[&str]] = &[
    &["model", "graph"],
    &["shape"],
    &["optimize"],
    &["plugin"],
    &["partition"],
    &["plan"],
    &["execute"],
    &["session"],
];

#[test]
fn a_stage_of_the_runtime_uses_only_earlier_stages() {
    let rank = |stage: &str| STAGES.iter().position(|names| names.contains(&stage));
    let mut violations = Vec::new();
    for file in crate::tree::files_under("runtime/src/") {
        let folder = file.path["runtime/src/".len()..].split('/').next().unwrap_or_default().to_string();
        let Some(own) = rank(&folder) else { continue };
        for (number, line) in file.lines().take(crate::tree::product_line_count(&file)) {
            for used in line.split("crate::").skip(1) {
                let used = used.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
                if rank(used).is_some_and(|used| used > own) {
                    let message =
                        format!("stage '{folder}' uses the later stage '{used}': move what both need");
                    violations.push(file.at(number, &message));
                }
            }
        }
    }
    assert_none("A stage of the runtime uses only earlier stages.", &violations);
}
