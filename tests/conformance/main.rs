//! The ONNX backend suite through the public session API: every case of a folder, isolated from crashes and hangs.

mod case;
mod compare;
mod lists;
mod pool;
mod report;
mod source;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

const EXAMPLES: &str = "\
Examples:
  conformance cases --filter softmax            cases whose name contains `softmax`
  conformance cases --ops Conv,Gemm --verbose   cases with a node of either operator, counts by operator
  conformance cases --provider cuda --provider-library libtenon_provider_cuda.so --csv outcomes.csv

Cases run in worker processes: one that dies or stalls costs its case and is replaced. The exit status is 1 when a result
differs from what the lists expect, 2 when the suite cannot run.";

/// Runs the cases of the ONNX backend suite and holds the outcomes to a provider's lists.
#[derive(Parser)]
#[command(name = "conformance", after_help = EXAMPLES, max_term_width = 110)]
pub struct Options {
    /// Folder of `<kind>/<case>/{model.onnx, test_data_set_<n>/{input,output}_<i>.pb}`; a kind may be an archive
    /// `<kind>.zip` of such folders
    pub cases: PathBuf,
    /// Provider, with options as the runner takes them
    #[arg(long, default_value = "cpu", value_name = "NAME")]
    pub provider: String,
    /// Shared library that brings the provider
    #[arg(long = "provider-library", value_name = "FILE")]
    pub library: Option<PathBuf>,
    /// Folder of the provider's lists: `unsupported.toml` and `expected_failures.toml`
    #[arg(long, value_name = "FOLDER")]
    pub lists: Option<PathBuf>,
    /// Only this kind of case, such as `simple`; may be given several times
    #[arg(long = "kind", value_name = "NAME")]
    pub kinds: Vec<String>,
    /// Only cases whose name contains this; may be given several times
    #[arg(long = "filter", value_name = "TEXT")]
    pub filters: Vec<String>,
    /// Only cases with a node of one of these operators
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub ops: Vec<String>,
    /// Worker processes
    #[arg(long = "threads", value_name = "N", default_value_t = cores())]
    pub workers: usize,
    /// Time after which a case counts as hanging
    #[arg(long, value_name = "SECONDS", default_value = "20", value_parser = seconds)]
    pub limit: Duration,
    /// Write each case's outcome and time here
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Write the table of the run here, in Markdown
    #[arg(long, value_name = "FILE")]
    pub table: Option<PathBuf>,
    /// Compare with the table in the file instead of writing it
    #[arg(long, requires = "table")]
    pub check: bool,
    /// Share of the cases that must pass, instead of all
    #[arg(long, value_name = "SHARE")]
    pub agreement: Option<f64>,
    /// Print how many cases of each operator pass
    #[arg(long)]
    pub verbose: bool,
    /// Answer cases on standard input
    #[arg(long, hide = true)]
    worker: bool,
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn seconds(text: &str) -> Result<Duration, std::num::ParseIntError> {
    text.parse().map(Duration::from_secs)
}

fn main() -> ExitCode {
    let options = Options::parse();
    if options.worker {
        return case::serve(&options);
    }
    run(&options).unwrap_or_else(|message| {
        eprintln!("error: {message}");
        ExitCode::from(2)
    })
}

fn run(options: &Options) -> Result<ExitCode, String> {
    let cases = case::find(options)?;
    let lists = lists::Lists::read(options.lists.as_deref())?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let results = pool::run(&cases, &arguments, options);
    Ok(report::print(&results, &lists, options))
}
