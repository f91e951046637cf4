//! The command line: every option, its help, and examples.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use crate::compare::Tolerance;
use crate::inputs::InputArg;
use crate::inputs::image::ImageOptions;

const EXAMPLES: &str = "\
Examples:
  runner model.onnx                               run with inputs made from the model's shapes
  runner model.onnx photo.png                     an image, resized to what the model takes
  runner model.onnx -i ids=ids.npy -i mask=ones   inputs by name
  runner model.onnx -i x=random:-1..1 --dim N=8   a batch of 8
  runner model.onnx --bench --threads 4 --json    times as one JSON object
  runner model.onnx --test-data DIR --rtol 1e-3   check against input_i.pb and output_i.pb
  runner model.onnx --verify --bisect             find the first node that differs from the plain CPU result
  runner model.onnx --profile trace.json          open the file in ui.perfetto.dev
  runner inspect model.onnx --stage partitions    where each node runs, and why
  runner doctor --provider NAME                   a provider's kernels: right, and how fast

Exit codes: 0 success, 1 failure or disagreement, 2 wrong usage.";

/// Runs ONNX models: prints the outputs, the time, and where each part ran.
#[derive(Parser, Debug)]
#[command(
    name = "runner",
    version,
    after_help = EXAMPLES,
    args_conflicts_with_subcommands = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    max_term_width = 110
)]
pub struct Args {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub run: RunArgs,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Print the model as it is after a stage of the pipeline
    Inspect(InspectArgs),
    /// List providers and their devices
    Providers(ProvidersArgs),
    /// Check each class of a provider's kernels against the CPU on random data, and time them
    Doctor(DoctorArgs),
}

/// `runner MODEL`.
#[derive(ClapArgs, Debug)]
pub struct RunArgs {
    /// The ONNX model
    #[arg(value_name = "MODEL")]
    pub model: Option<PathBuf>,
    /// Inputs, as --input takes them
    #[arg(value_name = "INPUT")]
    pub files: Vec<InputArg>,
    /// An input: [NAME=]FILE (.npy .npz .pb .json .png .jpg, or a folder of input_i.pb), random[:LO..HI], zeros, ones,
    /// or JSON such as x=[1,2]; inputs not given are random
    #[arg(short, long = "input", value_name = "[NAME=]SOURCE")]
    pub inputs: Vec<InputArg>,
    /// Seed of random inputs
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Write outputs to a .npz file, or to output_i.pb files in a folder
    #[arg(long, value_name = "PATH")]
    pub save_outputs: Option<PathBuf>,
    /// Class names, one a line, for outputs that look like scores; taken from the model's metadata when not given
    #[arg(long, value_name = "FILE")]
    pub labels: Option<PathBuf>,
    #[command(flatten)]
    pub image: ImageOptions,
    #[command(flatten)]
    pub check: CheckArgs,
    #[command(flatten)]
    pub bench: BenchArgs,
    #[command(flatten)]
    pub write: WriteArgs,
    #[command(flatten)]
    pub session: SessionArgs,
    #[command(flatten)]
    pub talk: TalkArgs,
}

/// Checking results.
#[derive(ClapArgs, Debug)]
#[command(next_help_heading = "Checking")]
pub struct CheckArgs {
    /// Feed input_i.pb and compare with output_i.pb, of DIR or of every test_data_set_i in it, in order
    #[arg(long, value_name = "DIR", conflicts_with_all = ["verify", "bench"])]
    pub test_data: Option<PathBuf>,
    /// With --test-data: feed outputs back as inputs of the next data set; * stands for the same text on both sides
    #[arg(long, value_name = "OUTPUT:INPUT", requires = "test_data")]
    pub carry: Vec<Carry>,
    /// Compare with the same model on the CPU without optimisation
    #[arg(long, conflicts_with = "bench")]
    pub verify: bool,
    /// With --verify: compare every intermediate value and name the first node that differs
    #[arg(long, requires = "verify")]
    pub bisect: bool,
    /// Allowed difference relative to each expected element
    #[arg(long, value_name = "R", default_value_t = 1e-3)]
    pub rtol: f64,
    /// Allowed absolute difference
    #[arg(long, value_name = "A", default_value_t = 1e-5)]
    pub atol: f64,
    /// Allowed difference relative to the largest expected magnitude of the output
    #[arg(long, value_name = "S", default_value_t = 0.0)]
    pub stol: f64,
}

impl CheckArgs {
    /// The three tolerances together.
    pub fn tolerance(&self) -> Tolerance {
        Tolerance { relative: self.rtol, absolute: self.atol, scaled: self.stol }
    }
}

/// Measuring.
#[derive(ClapArgs, Debug)]
#[command(next_help_heading = "Measuring")]
pub struct BenchArgs {
    /// Measure load, first run and repeated runs
    #[arg(long)]
    pub bench: bool,
    /// Runs before measuring
    #[arg(long, value_name = "N", default_value_t = 3, requires = "bench")]
    pub warmup: usize,
    /// Measured runs; otherwise as many as --duration allows
    #[arg(long, value_name = "N", requires = "bench")]
    pub iterations: Option<usize>,
    /// Seconds to measure for, and at least 3 runs
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0, requires = "bench")]
    pub duration: f64,
    /// Threads that call the session at the same time
    #[arg(long, value_name = "N", default_value_t = 1, requires = "bench")]
    pub concurrency: usize,
    /// Write a timeline that ui.perfetto.dev and chrome://tracing open
    #[arg(long, value_name = "FILE")]
    pub profile: Option<PathBuf>,
}

/// Writing what the pipeline made.
#[derive(ClapArgs, Debug)]
#[command(next_help_heading = "Writing the graph")]
pub struct WriteArgs {
    /// Print which partition runs where, instead of running
    #[arg(long, value_name = "FORMAT")]
    pub dump_partition: Option<PartitionFormat>,
    /// Write the optimised model
    #[arg(long, value_name = "FILE")]
    pub save_optimized: Option<PathBuf>,
}

/// How the session is made; the same for every command that loads a model.
#[derive(ClapArgs, Debug)]
#[command(next_help_heading = "Session")]
pub struct SessionArgs {
    /// Providers in order of preference, each NAME[:DEVICE][,KEY=VALUE..] [default: every usable one]
    #[arg(short, long, value_name = "A,B")]
    pub provider: Option<String>,
    /// Fail where a requested provider declines a node, and list the reasons
    #[arg(long)]
    pub strict: bool,
    /// Leave every node with the first provider that takes it, also where another is estimated to finish first
    #[arg(long)]
    pub no_balance: bool,
    /// Threads of the CPU provider [default: every core]
    #[arg(short, long, value_name = "N")]
    pub threads: Option<usize>,
    /// Size of a symbolic dimension
    #[arg(short, long = "dim", value_name = "NAME=SIZE")]
    pub dims: Vec<DimArg>,
    /// Leave the graph as the model has it
    #[arg(long)]
    pub no_optimize: bool,
    /// Rewrite the graph but fuse no operators
    #[arg(long)]
    pub no_fuse: bool,
    /// Folder with provider libraries, besides those beside this program and in TENON_PROVIDER_PATH
    #[arg(long, value_name = "DIR")]
    pub provider_dir: Vec<PathBuf>,
}

/// What is printed, and where.
#[derive(ClapArgs, Debug)]
#[command(next_help_heading = "Output")]
pub struct TalkArgs {
    /// Print one JSON object and nothing else on standard output
    #[arg(long)]
    pub json: bool,
    /// Print only results and errors
    #[arg(short, long)]
    pub quiet: bool,
    /// Messages of the runtime on standard error: error, warn, info, debug, trace, or a filter such as tenon_runtime=debug
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    pub log: String,
}

/// `runner inspect`.
#[derive(ClapArgs, Debug)]
pub struct InspectArgs {
    /// The ONNX model
    pub model: PathBuf,
    /// The stage whose result is printed
    #[arg(long, value_name = "STAGE", default_value = "graph")]
    pub stage: StageArg,
    /// Print the partition as a Graphviz graph
    #[arg(long, conflicts_with_all = ["svg", "json"])]
    pub dot: bool,
    /// Print the partition as a drawing
    #[arg(long, conflicts_with = "json")]
    pub svg: bool,
    #[command(flatten)]
    pub session: SessionArgs,
    #[command(flatten)]
    pub talk: TalkArgs,
}

/// `runner providers`.
#[derive(ClapArgs, Debug)]
pub struct ProvidersArgs {
    /// Folder with provider libraries, besides those beside this program and in TENON_PROVIDER_PATH
    #[arg(long, value_name = "DIR")]
    pub provider_dir: Vec<PathBuf>,
    #[command(flatten)]
    pub talk: TalkArgs,
}

/// `runner doctor`.
#[derive(ClapArgs, Debug)]
pub struct DoctorArgs {
    /// The provider, as NAME[:DEVICE][,KEY=VALUE..]
    #[arg(short, long, value_name = "NAME")]
    pub provider: String,
    /// Check results on small shapes and take no times; what an emulated device can do
    #[arg(long)]
    pub check: bool,
    /// Kernels measured for each of the products, those of least estimated time, to write the fastest as rows; 0: none
    /// [default: 3, with --check 0]
    #[arg(long, value_name = "N")]
    pub tune: Option<usize>,
    /// Only classes of kernels with this text in their name, such as `matmul` or `f16`; `copies` for copies alone
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,
    /// Write doctor.txt, doctor.json and matmul.toml, rows for the family's table, to this folder
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Seed of the random data
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Folder with provider libraries, besides those beside this program and in TENON_PROVIDER_PATH
    #[arg(long, value_name = "DIR")]
    pub provider_dir: Vec<PathBuf>,
    #[command(flatten)]
    pub talk: TalkArgs,
}

/// A stage of the pipeline, as named on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StageArg {
    /// As the file has it
    Graph,
    /// With inferred types and shapes
    Shape,
    /// After the rewrites, with what each did
    Optimized,
    /// Which provider runs what, and why
    Partitions,
    /// Steps, buffers and transfers
    Plan,
}

/// How a partition is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PartitionFormat {
    Dot,
    Svg,
    Json,
}

/// `NAME=SIZE`.
#[derive(Clone, Debug, PartialEq)]
pub struct DimArg {
    pub name: String,
    pub size: usize,
}

impl FromStr for DimArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, size) =
            text.rsplit_once('=').filter(|(name, _)| !name.is_empty()).ok_or("expected NAME=SIZE")?;
        let size = size.trim().parse().map_err(|_| format!("'{size}' is not a size"))?;
        Ok(DimArg { name: name.to_owned(), size })
    }
}

/// `OUTPUT:INPUT`, each with at most one `*`.
#[derive(Clone, Debug, PartialEq)]
pub struct Carry {
    output: String,
    input: String,
}

impl FromStr for Carry {
    type Err = String;

    /// Names may hold colons: the text is split where both sides have as many `*`, at the middle-most colon.
    fn from_str(text: &str) -> Result<Self, String> {
        let stars = |s: &str| s.matches('*').count();
        let candidates = text.match_indices(':').map(|(at, _)| (&text[..at], &text[at + 1..]));
        let fitting = candidates
            .filter(|(o, i)| !o.is_empty() && !i.is_empty() && stars(o) == stars(i) && stars(o) <= 1);
        let best = fitting.min_by_key(|(o, i)| o.len().abs_diff(i.len()));
        let (output, input) = best.ok_or("expected OUTPUT:INPUT, with a * on both sides or on none")?;
        Ok(Carry { output: output.to_owned(), input: input.to_owned() })
    }
}

impl Carry {
    /// The input that the output named `output` is fed back to.
    pub fn input_for(&self, output: &str) -> Option<String> {
        let Some((before, after)) = self.output.split_once('*') else {
            return (self.output == output).then(|| self.input.clone());
        };
        let middle = output.strip_prefix(before)?.strip_suffix(after)?;
        Some(self.input.replacen('*', middle, 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_model_or_a_subcommand_comes_first() {
        let args = Args::parse_from(["runner", "m.onnx", "x=[1]", "-i", "y=zeros", "--dim", "N=4"]);
        assert_eq!(args.run.model, Some("m.onnx".into()));
        assert_eq!((args.run.files.len(), args.run.inputs.len()), (1, 1));
        assert_eq!(args.run.session.dims, [DimArg { name: "N".into(), size: 4 }]);
        let args = Args::parse_from(["runner", "inspect", "m.onnx", "--stage", "plan"]);
        assert!(matches!(args.command, Some(Command::Inspect(InspectArgs { stage: StageArg::Plan, .. }))));
    }

    #[test]
    fn options_that_need_another_say_so() {
        assert!(Args::try_parse_from(["runner", "m.onnx", "--bisect"]).is_err());
        assert!(Args::try_parse_from(["runner", "m.onnx", "--dim", "N"]).is_err());
        assert!(Args::try_parse_from(["runner", "m.onnx", "--bench", "--verify"]).is_err());
    }

    #[test]
    fn carried_names_may_hold_a_star_and_colons() {
        let carry: Carry = "present.*:past_key_values.*".parse().unwrap();
        assert_eq!(carry.input_for("present.3.key").as_deref(), Some("past_key_values.3.key"));
        assert_eq!(carry.input_for("logits"), None);
        let carry: Carry = "state:1:state:0".parse().unwrap();
        assert_eq!(carry.input_for("state:1").as_deref(), Some("state:0"));
        assert!("present.*:past".parse::<Carry>().is_err());
        assert!("nothing".parse::<Carry>().is_err());
    }
}
