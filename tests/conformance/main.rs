//! The ONNX backend suite through the public session API: every case of a folder, isolated from crashes and hangs.
//!
//! `conformance CASES [--provider NAME] [--provider-library FILE] [--lists FOLDER] [--kind NAME]...
//! [--filter TEXT]... [--ops A,B] [--threads N] [--limit SECONDS] [--csv FILE] [--table FILE [--check]]
//! [--agreement SHARE] [--verbose]`
//! CASES holds `<kind>/<case>/{model.onnx, meta.json, test_data_set_<n>/{input,output}_<i>.pb}`; a kind may be an archive
//! `<kind>.zip` of such folders. Cases run in worker processes; a worker that dies or stalls costs its case and is
//! replaced. Exits 1 when a result differs from what the provider's lists expect (`unsupported.toml` and
//! `expected_failures.toml` of the folder `--lists`), and with `--check` when the table in the file is not this run's; with
//! `--agreement` only when a smaller share of the cases passes.

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

/// The options of a run.
pub struct Options {
    pub cases: PathBuf,
    pub provider: String,
    pub library: Option<PathBuf>,
    /// Folders or archives of the suite, such as `simple`; all of them when none is given.
    pub kinds: Vec<String>,
    pub filters: Vec<String>,
    pub ops: Vec<String>,
    pub workers: usize,
    pub csv: Option<PathBuf>,
    pub lists: Option<PathBuf>,
    /// Where the table of a whole run goes.
    pub table: Option<PathBuf>,
    /// Compare with the table in the file instead of writing it.
    pub check: bool,
    /// The share of cases that must pass, instead of all.
    pub agreement: Option<f64>,
    pub verbose: bool,
    /// Time after which a case counts as hanging.
    pub limit: Duration,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let options = match parse(&arguments) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("error: {message}");
            return ExitCode::from(2);
        }
    };
    if arguments.iter().any(|argument| argument == "--worker") {
        return case::serve(&options);
    }
    let cases = match case::find(&options) {
        Ok(cases) => cases,
        Err(message) => {
            eprintln!("error: {message}");
            return ExitCode::from(2);
        }
    };
    let lists = match lists::Lists::read(options.lists.as_deref()) {
        Ok(lists) => lists,
        Err(message) => {
            eprintln!("error: {message}");
            return ExitCode::from(2);
        }
    };
    let results = pool::run(&cases, &arguments, &options);
    report::print(&results, &lists, &options)
}

fn parse(arguments: &[String]) -> Result<Options, String> {
    let mut options = Options {
        cases: PathBuf::new(),
        provider: "cpu".into(),
        library: None,
        kinds: Vec::new(),
        filters: Vec::new(),
        ops: Vec::new(),
        workers: std::thread::available_parallelism().map_or(1, usize::from),
        csv: None,
        lists: None,
        table: None,
        check: false,
        agreement: None,
        verbose: false,
        limit: Duration::from_secs(20),
    };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().cloned().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--provider" => options.provider = value()?,
            "--provider-library" => options.library = Some(value()?.into()),
            "--kind" => options.kinds.push(value()?),
            "--limit" => {
                let seconds = value()?.parse().map_err(|_| "--limit needs a number of seconds")?;
                options.limit = Duration::from_secs(seconds);
            }
            "--filter" => options.filters.push(value()?),
            "--ops" => options.ops.extend(value()?.split(',').map(String::from)),
            "--threads" => options.workers = value()?.parse().map_err(|_| "--threads needs a number")?,
            "--csv" => options.csv = Some(value()?.into()),
            "--lists" => options.lists = Some(value()?.into()),
            "--table" => options.table = Some(value()?.into()),
            "--agreement" => {
                options.agreement = Some(value()?.parse().map_err(|_| "--agreement needs a number")?);
            }
            "--check" => options.check = true,
            "--verbose" => options.verbose = true,
            "--worker" => {}
            flag if flag.starts_with('-') => return Err(format!("unknown option {flag}")),
            folder => options.cases = folder.into(),
        }
    }
    if options.cases.as_os_str().is_empty() {
        return Err("the folder of cases is missing".into());
    }
    Ok(options)
}
