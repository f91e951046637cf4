//! autotune: ranks the kernels of a family by the time model, measures them on a device, and writes rows of its tables.

mod cublaslt;
mod fitting;
mod measure;
mod rank;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use clap::Parser;
use tenon_kernels::gpu::matmul::Layout;
use tenon_roofline::problem::{Dtype, LLM_LAYERS, LLM_TOKENS, Operator, Problem};

const EXAMPLES: &str = "\
Examples:
  autotune --estimate --chip mi355x --shapes llm               rows for a chip that nobody here has
  autotune --estimate --chip h100 --shapes 4096x4096x4096 --top 5
  autotune --provider cuda --shapes 8192x8192x8192,16x4096x4096
  autotune --provider cuda --shapes llm --write kernels/arch/sm90/matmul.toml
  autotune --fit mi355x                                        constants of the time model from published kernels

Estimated rows say `estimate` and carry no measured time. Measured rows carry the chip, the shape, the median
microseconds of the kernel and of the vendor's library in the same process, the date and the commit. Every kernel's
result is checked on random elements against float64 before its time counts; one that is wrong is named and left out.
Weights rotate through more memory than the second-level cache holds, and each kernel is timed alone between two
marks of the device's clock, the library's alike.";

/// Chooses kernels: by estimate for any chip, by measurement on a device that is present.
#[derive(Parser, Debug)]
#[command(name = "autotune", version, after_help = EXAMPLES, max_term_width = 110, arg_required_else_help = true)]
pub struct Args {
    /// Rank all legal candidates by the time model; needs --chip and no device
    #[arg(long, conflicts_with_all = ["provider", "fit"])]
    pub estimate: bool,
    /// The chip to estimate for, as `roofline` lists them
    #[arg(long, value_name = "NAME", requires = "estimate")]
    pub chip: Option<String>,
    /// Measure on a device of this provider: NAME[:DEVICE]
    #[arg(long, value_name = "NAME", conflicts_with = "fit")]
    pub provider: Option<String>,
    /// Folders with provider libraries, beside this program's own
    #[arg(long, value_name = "DIR")]
    pub provider_dir: Vec<PathBuf>,
    /// Fit the time model's constants to what was measured on this chip, leave every row out once, print both
    #[arg(long, value_name = "CHIP")]
    pub fit: Option<String>,
    /// Kind of kernel to tune
    #[arg(long, default_value = "matmul")]
    pub operator: Operator,
    /// Shapes MxNxK, or the sets `llm` (layers of an 8-billion-parameter llama, 1 to 4096 tokens) and `square`
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "square")]
    pub shapes: Vec<String>,
    /// Type of the operands
    #[arg(long, default_value = "bf16")]
    pub dtype: Dtype,
    /// How the weights lie: nt, rows of K as a linear layer keeps them, or nn, rows of N as MatMul takes them
    #[arg(long, default_value = "nt")]
    pub layout: Weights,
    /// Candidates shown with --estimate, or measured, those of the least estimated time first
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub top: usize,
    /// Write the best rows into this table; rows of the same kind, shape and chip are replaced
    #[arg(long, value_name = "FILE")]
    pub write: Option<PathBuf>,
    /// Runs of each measured kernel
    #[arg(long, value_name = "N", default_value_t = 15)]
    pub runs: usize,
    /// The vendor's library, when it is not found by its name
    #[arg(long, value_name = "FILE")]
    pub peer: Option<PathBuf>,
    /// Measure without the vendor's library
    #[arg(long, conflicts_with_all = ["peer", "write"])]
    pub no_peer: bool,
    /// What rows give as their commit; asked of git when not given
    #[arg(long, value_name = "HASH")]
    pub commit: Option<String>,
    /// One JSON object instead of tables
    #[arg(long)]
    pub json: bool,
}

/// How the weights of a product lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Weights {
    /// N x K
    Nt,
    /// K x N
    Nn,
}

impl Weights {
    pub fn layout(self) -> Layout {
        match self {
            Weights::Nt => Layout::NT,
            Weights::Nn => Layout::NN,
        }
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let style = anstyle::AnsiColor::Red.on_default().bold();
            anstream::eprintln!("{style}error:{style:#} {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    if let Some(chip) = &args.fit {
        return fitting::run(chip, args.json);
    }
    ensure!(
        args.operator == Operator::Matmul,
        "--operator {}: only matmul has candidates to choose among",
        args.operator
    );
    ensure!(args.top > 0 && args.runs > 0, "--top and --runs must be at least 1");
    let problems = problems(args)?;
    match (&args.chip, &args.provider) {
        (Some(chip), None) => rank::run(chip, &problems, args),
        (None, Some(provider)) => measure::run(provider, &problems, args),
        _ if args.estimate => bail!("--estimate needs --chip"),
        _ => bail!("one of --estimate, --provider and --fit says what to do"),
    }
}

/// The products that `--shapes` names.
fn problems(args: &Args) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for shape in &args.shapes {
        match shape.as_str() {
            "llm" => {
                for m in LLM_TOKENS {
                    let (layout, dtype) = (Layout::NT, args.dtype);
                    problems.extend(LLM_LAYERS.map(|[n, k]| Problem::Matmul { m, n, k, layout, dtype }));
                }
            }
            "square" => problems.extend(Problem::usual(Operator::Matmul, args.dtype)),
            shape => problems.push(Problem::parse(Operator::Matmul, shape, args.dtype)?),
        }
    }
    Ok(problems)
}
