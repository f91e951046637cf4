//! Every compiled choice for a problem with its expected time.

use super::machine::Machine;
use super::{Estimate, attention, product};
use crate::error::{KernelError, Result};
use crate::gpu::arch::{self, Mainloop};
use crate::gpu::attention::Problem as Attention;
use crate::gpu::matmul::{Candidate, Problem, mfma, wgmma};

/// A compiled kernel for a problem.
#[derive(Clone, Debug)]
pub struct Choice {
    /// As the family's table calls it.
    pub name: String,
    pub symbol: String,
    pub estimate: Estimate,
    /// The planner takes it.
    pub is_chosen: bool,
}

/// The legal candidates of the family's `matmul.toml`, shortest expected time first.
pub fn matmul_choices(problem: &Problem, machine: &Machine) -> Result<Vec<Choice>> {
    problem.check()?;
    let mut choices = match arch::find(machine.arch)?.operator("matmul")?.mainloop {
        Mainloop::Wgmma => wgmma_choices(problem, machine)?,
        Mainloop::Mfma => mfma_choices(problem, machine)?,
        other => return Err(no_model("products", other, machine)),
    };
    choices.sort_by(|a, b| a.estimate.seconds.total_cmp(&b.estimate.seconds));
    Ok(choices)
}

/// The kernel that the planner takes for attention.
pub fn attention_choice(problem: &Attention, machine: &Machine) -> Result<Choice> {
    let plan = crate::gpu::attention::plan(machine.arch, problem, &machine.chip)?;
    let launch =
        plan.launches.first().ok_or_else(|| KernelError::shape("attention without a row or a key"))?;
    let symbol = launch.symbol.clone();
    let found = match arch::find(machine.arch)?.operator("attention")?.mainloop {
        Mainloop::Wgmma => wgmma_attention_estimate(problem, &symbol, machine)?,
        Mainloop::Mfma => mfma_attention_estimate(problem, &symbol, machine)?,
        other => return Err(no_model("attention", other, machine)),
    };
    let (name, estimate) = found
        .ok_or_else(|| KernelError::table(format!("no row of arch '{}' is called {symbol}", machine.arch)))?;
    Ok(Choice { name, symbol, estimate, is_chosen: true })
}

fn no_model(what: &str, mainloop: Mainloop, machine: &Machine) -> KernelError {
    KernelError::parameter(format!("arch '{}': {what} by {mainloop:?} have no time model", machine.arch))
}

fn wgmma_choices(problem: &Problem, machine: &Machine) -> Result<Vec<Choice>> {
    let chip = &machine.chip;
    let chosen = wgmma::select(machine.arch, problem, chip)?;
    let table = wgmma::table(machine.arch)?;
    let usable = table.candidates.iter().filter(|candidate| {
        let params = &candidate.params;
        candidate.kinds.contains(&problem.kind)
            && params.is_gated == problem.epilogue.is_gated
            && params.weight_bits == 0
            && params.check(problem.kind, chip).is_ok()
            && problem.k.div_ceil(params.bk(problem.kind) as usize) >= params.cluster_k as usize
            && (!params.is_swapped || problem.m <= params.bn as usize)
    });
    Ok(usable
        .map(|candidate| Choice {
            name: candidate.name.clone(),
            symbol: candidate.params.symbol(machine.arch, problem.kind),
            estimate: product::wgmma_product(problem, &candidate.params, machine),
            is_chosen: candidate.params == chosen,
        })
        .collect())
}

fn mfma_choices(problem: &Problem, machine: &Machine) -> Result<Vec<Choice>> {
    let chip = &machine.chip;
    let chosen = mfma::select(machine.arch, problem, chip)?;
    let table = mfma::table(machine.arch)?;
    let name = |params: &mfma::Params| {
        let is_it = |known: &&Candidate<mfma::Params>| {
            known.kinds.contains(&problem.kind)
                && mfma::Params { splits: params.splits, chunk: params.chunk, ..known.params } == *params
        };
        let name = table.candidates.iter().find(is_it).map_or("?", |known| known.name.as_str());
        if params.splits > 1 { format!("{name}, K in {}", params.splits) } else { name.to_owned() }
    };
    let choice = |params: &mfma::Params, is_chosen| Choice {
        name: name(params),
        symbol: params.symbol(machine.arch, problem.kind),
        estimate: product::mfma_product(problem, params, machine),
        is_chosen,
    };
    let others = table.choices(problem, chip);
    let others =
        others.iter().filter(|(params, _)| mfma::Params { chunk: chosen.chunk, ..*params } != chosen);
    Ok(std::iter::once(choice(&chosen, true))
        .chain(others.map(|(params, _)| choice(params, false)))
        .collect())
}

/// The row whose kernel is called `symbol`, and its expected time.
fn wgmma_attention_estimate(
    problem: &Attention,
    symbol: &str,
    machine: &Machine,
) -> Result<Option<(String, Estimate)>> {
    use crate::gpu::attention::wgmma::{Row, rows};
    let shape = attention::Shape::of(problem);
    for row in rows(machine.arch)? {
        let (name, own, estimate) = match &row {
            Row::Forward(params) => (
                format!("forward {}x{}", params.bm, params.bn),
                params.symbol(machine.arch, problem.element)?,
                attention::forward(&shape, &attention::Tile::wgmma(params), machine),
            ),
            Row::Decode(params) => (
                format!("decode {} rows", params.rows),
                params.symbol(machine.arch, problem.element)?,
                attention::decode(&shape, f64::from(params.shared_bytes()), machine),
            ),
            // The model has no warps that convert codes between copies and products.
            Row::CodedForward(_) => continue,
        };
        if own == symbol {
            return Ok(Some((name, estimate)));
        }
    }
    Ok(None)
}

/// As [`wgmma_attention_estimate`], of CDNA's kernels.
fn mfma_attention_estimate(
    problem: &Attention,
    symbol: &str,
    machine: &Machine,
) -> Result<Option<(String, Estimate)>> {
    use crate::gpu::attention::mfma::{Row, instructions, rows};
    for (row, element) in rows(machine.arch)?.into_iter().filter(|(_, element)| *element == problem.element) {
        let has = instructions(machine.arch, &row, element)?;
        let mut shape = attention::Shape::of(problem);
        if let Some(coded) = &mut shape.coded {
            coded.ops = f64::from(has.vector_a_code_word) / 4.0;
        }
        let (name, own, estimate) = match &row {
            Row::Forward(params) => {
                let counts = params.block_counts(element, has);
                (
                    format!("forward {}x{}", params.bm(), params.bn),
                    params.symbol(machine.arch, element)?,
                    attention::forward(&shape, &attention::Tile::mfma(params, &counts), machine),
                )
            }
            Row::Decode(params) => {
                // Loads into registers are under way for as many keys as are in LDS.
                let groups = (machine.chip.shared_bytes / params.shared_bytes(element).max(1)).clamp(1, 2);
                let stored_bits = shape.coded.map_or(shape.bits, |coded| coded.bits);
                let bytes = groups * params.waves * 32 * (params.head_qk + params.head_v) * stored_bits / 8;
                (
                    format!("decode {} rows", params.rows),
                    params.symbol(machine.arch, element)?,
                    attention::decode(&shape, f64::from(bytes), machine),
                )
            }
        };
        if own == symbol {
            return Ok(Some((name, estimate)));
        }
    }
    Ok(None)
}
