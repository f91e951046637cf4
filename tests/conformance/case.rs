//! One case: finding it, and running it in a worker.

use std::io::{BufRead, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tenon_runtime::graph::{self, Graph};
use tenon_runtime::model;
use tenon_runtime::session::{Environment, Session, SessionOptions};

use crate::Options;
use crate::compare::{Tolerance, compare};

/// A case of the suite.
#[derive(Clone, Debug)]
pub struct Case {
    pub kind: String,
    pub name: String,
    pub folder: PathBuf,
}

/// The cases that the options choose, by kind and name.
pub fn find(options: &Options) -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    for kind in folders(&options.cases)? {
        for folder in folders(&kind)? {
            let name = file_name(&folder);
            let wanted =
                options.filters.is_empty() || options.filters.iter().any(|f| name.contains(f.as_str()));
            if wanted && folder.join("model.onnx").exists() && uses(&folder, &options.ops) {
                cases.push(Case { kind: file_name(&kind), name, folder });
            }
        }
    }
    Ok(cases)
}

fn folders(path: &Path) -> Result<Vec<PathBuf>, String> {
    let entries =
        std::fs::read_dir(path).map_err(|error| format!("cannot list {}: {error}", path.display()))?;
    let mut folders: Vec<PathBuf> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()).collect();
    folders.sort();
    Ok(folders)
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

fn uses(folder: &Path, ops: &[String]) -> bool {
    ops.is_empty() || operators(folder).iter().any(|op| ops.contains(op))
}

/// The operators of a case's model, each once.
pub fn operators(folder: &Path) -> Vec<String> {
    fn collect(graph: &Graph, list: &mut Vec<String>) {
        for id in graph.node_ids() {
            let node = graph.node(id);
            list.push(node.operator());
            node.bodies().iter().for_each(|body| collect(body.graph(), list));
        }
    }
    let mut list = Vec::new();
    if let Ok(graph) = model::load(folder.join("model.onnx")).and_then(|model| graph::build(&model)) {
        collect(&graph, &mut list);
    }
    list.sort();
    list.dedup();
    list
}

/// Answers each folder on standard input with one line: `pass`, or `fail` and the reason.
pub fn serve(options: &Options) -> ExitCode {
    let environment = Environment::new();
    let registered = environment.register(tenon_provider_cpu::table());
    let loaded = registered
        .and_then(|()| options.library.as_deref().map_or(Ok(()), |path| environment.load_library(path)));
    if let Err(error) = loaded {
        eprintln!("error: {error}");
        return ExitCode::FAILURE;
    }
    if std::env::var_os("RUST_BACKTRACE").is_none() {
        std::panic::set_hook(Box::new(|_| {}));
    }
    for line in std::io::stdin().lock().lines() {
        let Ok(folder) = line else { break };
        let outcome =
            catch_unwind(AssertUnwindSafe(|| run(&environment, Path::new(&folder), &options.provider)));
        let answer = match outcome {
            Ok(Ok(())) => "pass".to_string(),
            Ok(Err(reason)) => format!("fail {}", reason.replace('\n', " ")),
            Err(panic) => format!("fail PANIC {}", panic_text(&*panic)),
        };
        let mut out = std::io::stdout().lock();
        if writeln!(out, "{answer}").and_then(|()| out.flush()).is_err() {
            break;
        }
    }
    ExitCode::SUCCESS
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()))
        .unwrap_or_default()
        .replace('\n', " ")
}

fn run(environment: &Environment, folder: &Path, provider: &str) -> Result<(), String> {
    let request = provider.parse().map_err(|error| format!("{error}"))?;
    let options = SessionOptions { providers: vec![request], threads: Some(1), ..SessionOptions::default() };
    let session = Session::open(environment, &folder.join("model.onnx"), &options)
        .map_err(|error| error.to_string())?;
    let tolerance = tolerance(folder);
    for set in folders(folder)? {
        let mut inputs = Vec::new();
        for (index, spec) in session.inputs().iter().enumerate() {
            let file = set.join(format!("input_{index}.pb"));
            if file.exists() {
                let (_, value) =
                    model::read_value(&file, spec.ty.as_ref()).map_err(|error| error.to_string())?;
                inputs.push((spec.name.as_str(), value));
            }
        }
        let outputs = session.run(&inputs).map_err(|error| error.to_string())?;
        for (index, (output, spec)) in outputs.iter().zip(session.outputs()).enumerate() {
            let file = set.join(format!("output_{index}.pb"));
            if !file.exists() {
                continue;
            }
            let declared = output.type_info().or(spec.ty.clone());
            let (_, expected) =
                model::read_value(&file, declared.as_ref()).map_err(|error| error.to_string())?;
            compare(output, &expected, tolerance).map_err(|why| format!("output '{}': {why}", spec.name))?;
        }
    }
    Ok(())
}

/// The case's tolerance; the suite's default where its file does not say.
fn tolerance(folder: &Path) -> Tolerance {
    let text = std::fs::read_to_string(folder.join("meta.json")).unwrap_or_default();
    let number = |key: &str| {
        let after = text.split_once(&format!("\"{key}\":"))?.1;
        after.trim_start().split([',', '}']).next()?.trim().parse::<f64>().ok()
    };
    Tolerance { relative: number("rtol").unwrap_or(1e-3), absolute: number("atol").unwrap_or(1e-7) }
}
