//! One case: finding it, and running it in a worker.

use std::io::{BufRead, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use tenon_runtime::graph::{self, Graph};
use tenon_runtime::model::{self, Limits};
use tenon_runtime::session::{Environment, Session, SessionOptions};
use tenon_runtime::tensor::Value;

use crate::Options;
use crate::compare::{Tolerance, compare};
use crate::source::{self, Files, Reader, Source};

/// A case of a suite.
#[derive(Clone, Debug)]
pub struct Case {
    /// The folder or archive it is in.
    pub kind: String,
    pub name: String,
    pub source: Source,
}

/// The cases that the options choose, by kind and name.
pub fn find(options: &Options) -> Result<Vec<Case>, String> {
    let mut cases = source::all(&options.cases)?;
    cases.retain(|case| {
        let named =
            options.filters.is_empty() || options.filters.iter().any(|f| case.name.contains(f.as_str()));
        let kind = options.kinds.is_empty() || options.kinds.contains(&case.kind);
        named && kind && (options.ops.is_empty() || operators(case).iter().any(|op| options.ops.contains(op)))
    });
    Ok(cases)
}

/// The operators of a case's model, each once.
pub fn operators(case: &Case) -> Vec<String> {
    fn collect(graph: &Graph, list: &mut Vec<String>) {
        for id in graph.node_ids() {
            let node = graph.node(id);
            list.push(node.operator());
            node.bodies().iter().for_each(|body| collect(body.graph(), list));
        }
    }
    let mut list = Vec::new();
    let bytes = Reader::default().open(&case.source).and_then(|mut files| files.require("model.onnx"));
    if let Ok(bytes) = bytes
        && let Ok(graph) = model::load_bytes(bytes, None, &Limits::default()).and_then(|m| graph::build(&m))
    {
        collect(&graph, &mut list);
    }
    list.sort();
    list.dedup();
    list
}

/// Answers each case on standard input with one line: `pass`, or `fail` and the reason.
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
    let mut reader = Reader::default();
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let source = Source::from_line(&line);
        let outcome =
            catch_unwind(AssertUnwindSafe(|| run(&environment, &mut reader, &source, &options.provider)));
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

fn run(
    environment: &Environment,
    reader: &mut Reader,
    source: &Source,
    provider: &str,
) -> Result<(), String> {
    let request = provider.parse().map_err(|error| format!("{error}"))?;
    let options = SessionOptions {
        providers: vec![request],
        threads: Some(1),
        balance: false,
        ..SessionOptions::default()
    };
    let mut files = reader.open(source)?;
    let session = match source {
        // From the file, so that external data is found.
        Source::Folder(folder) => Session::open(environment, &folder.join("model.onnx"), &options),
        Source::Archive { .. } => Session::from_bytes(environment, files.require("model.onnx")?, &options),
    };
    let session = session.map_err(|error| error.to_string())?;
    let tolerance = tolerance(&files.get("meta.json").unwrap_or_default());
    for set in 0.. {
        let mut inputs = Vec::new();
        for (index, spec) in session.inputs().iter().enumerate() {
            let file = format!("test_data_set_{set}/input_{index}.pb");
            if let Some(input) = value(&mut files, &file, spec.ty.as_ref())? {
                inputs.push((spec.name.as_str(), input));
            }
        }
        let output_file = |index| format!("test_data_set_{set}/output_{index}.pb");
        if !(0..session.outputs().len()).any(|index| files.has(&output_file(index))) {
            return if set == 0 { Err("the case expects nothing".into()) } else { Ok(()) };
        }
        let outputs = session.run(&inputs).map_err(|error| error.to_string())?;
        for (index, (output, spec)) in outputs.iter().zip(session.outputs()).enumerate() {
            let ty = output.type_info().or(spec.ty.clone());
            if let Some(expected) = value(&mut files, &output_file(index), ty.as_ref())? {
                compare(output, &expected, tolerance)
                    .map_err(|why| format!("output '{}': {why}", spec.name))?;
            }
        }
    }
    Ok(())
}

fn value(files: &mut Files<'_>, file: &str, ty: Option<&graph::TypeInfo>) -> Result<Option<Value>, String> {
    let Some(bytes) = files.get(file) else { return Ok(None) };
    let decoded = model::value_from_bytes(bytes, ty).map_err(|error| format!("{file}: {error}"))?;
    Ok(Some(decoded.1))
}

/// The case's tolerance; the suite's default where its file does not say.
fn tolerance(meta: &[u8]) -> Tolerance {
    let text = String::from_utf8_lossy(meta);
    let number = |key: &str| {
        let after = text.split_once(&format!("\"{key}\":"))?.1;
        after.trim_start().split([',', '}']).next()?.trim().parse::<f64>().ok()
    };
    Tolerance { relative: number("rtol").unwrap_or(1e-3), absolute: number("atol").unwrap_or(1e-7) }
}
