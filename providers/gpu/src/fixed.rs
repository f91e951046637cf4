//! Nodes that constants determine, such as a cast of weights: their work is done once, when the graph is compiled.

use std::collections::HashSet;
use std::sync::Arc;

use tenon_plugin_api::{GraphView, Result};

use crate::compile::{Compilation, Compiled};
use crate::constant::{Block, Constants};
use crate::executable::GpuExecutable;
use crate::opened::Opened;
use crate::operator::Derived;
use crate::schedule::{Declared, Home, ValueId};

/// Operators whose results differ from run to run.
const NOT_PURE: &[&str] = &[
    "Bernoulli",
    "Dropout",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
];
/// The part of the free memory that results may take, as a divisor.
const MEMORY_PART: u64 = 8;

/// Results on the device: their memory, and the address of each value.
pub(crate) struct Results {
    pub block: Block,
    pub addresses: Vec<(u32, u64)>,
}

/// Does the work of the nodes that constants determine, after which `compilation` has them no more and their results are
/// constants of its own. `derived` loses what only those nodes read. `None` where there are none.
pub(crate) fn compute(
    opened: &Arc<Opened>,
    graph: GraphView<'_>,
    compilation: &mut Compilation,
    derived: &mut Vec<(u32, Derived<'_>)>,
) -> Result<Option<Results>> {
    let (free_bytes, _) = opened.driver.memory(opened.context)?;
    let Some(early) = take(compilation, free_bytes / MEMORY_PART) else { return Ok(None) };
    let own: HashSet<u32> = early.nodes.iter().flat_map(|node| &node.derived).map(|&v| v as u32).collect();
    let (mine, rest) = std::mem::take(derived).into_iter().partition(|(value, _)| own.contains(value));
    *derived = rest;
    let constants = Constants::upload(opened, graph, &early.device_constants, mine)?;
    let values = early.outputs.clone();
    let executable = GpuExecutable::new(opened.clone(), early, constants);
    let (block, addresses) = executable.run_once()?;
    let addresses = values.into_iter().map(|value| value as u32).zip(addresses).collect();
    Ok(Some(Results { block, addresses }))
}

/// Splits off the nodes that constants determine; what other nodes read of them are its outputs.
fn take(compilation: &mut Compilation, limit: u64) -> Option<Compilation> {
    let is_fixed = fixed(compilation);
    let read = |wanted: bool| -> HashSet<ValueId> {
        let nodes = compilation.nodes.iter().zip(&is_fixed).filter(|&(_, &fixed)| fixed == wanted);
        nodes.flat_map(|(node, _)| node.inputs.iter().flatten().copied()).collect()
    };
    let (read_by_fixed, mut read_by_rest) = (read(true), read(false));
    let made = compilation.nodes.iter().zip(&is_fixed).filter(|&(_, &fixed)| fixed);
    let made = made.flat_map(|(node, _)| node.outputs.iter().flatten().copied());
    let results: Vec<ValueId> = made.filter(|value| read_by_rest.contains(value)).collect();
    let bytes: u64 = results.iter().filter_map(|&value| byte_len(&compilation.declared[value])).sum();
    if results.is_empty() || bytes > limit {
        return None;
    }
    read_by_rest.extend(&compilation.outputs);
    let mut declared = compilation.declared.clone();
    for (number, &value) in results.iter().enumerate() {
        declared[value].home = Home::Output(number as u32);
    }
    let (mut early, mut rest): (Vec<Compiled>, Vec<Compiled>) = (Vec::new(), Vec::new());
    for (node, fixed) in std::mem::take(&mut compilation.nodes).into_iter().zip(is_fixed) {
        if fixed { early.push(node) } else { rest.push(node) }
    }
    let on_device = |read: &HashSet<ValueId>| {
        let values = compilation.device_constants.iter().copied();
        values.filter(|&value| read.contains(&(value as ValueId))).collect::<Vec<u32>>()
    };
    let early = Compilation {
        nodes: early,
        declared,
        inputs: Vec::new(),
        outputs: results.clone(),
        constants: compilation.constants.clone(),
        device_constants: on_device(&read_by_fixed),
    };
    compilation.device_constants = on_device(&read_by_rest);
    compilation.nodes = rest;
    for value in results {
        let dims = compilation.declared[value].known_dims().unwrap_or_default();
        compilation.declared[value].home = Home::Absent;
        compilation.constants.push((value, dims));
    }
    Some(early)
}

/// For each node whether constants determine it, and the sizes of its results are known.
fn fixed(compilation: &Compilation) -> Vec<bool> {
    let mut known: HashSet<ValueId> = compilation.constants.iter().map(|(value, _)| *value).collect();
    let handed_out: HashSet<ValueId> = compilation.outputs.iter().copied().collect();
    let mut is_fixed = |node: &Compiled| {
        let mut inputs = node.inputs.iter().flatten();
        let fits = |value: &ValueId| {
            !handed_out.contains(value) && byte_len(&compilation.declared[*value]).is_some()
        };
        let fixed = !node.inputs.is_empty()
            && inputs.all(|value| known.contains(value))
            && !NOT_PURE.contains(&node.op_type.as_str())
            && node.outputs.iter().flatten().all(fits);
        if fixed {
            known.extend(node.outputs.iter().flatten());
        }
        fixed
    };
    compilation.nodes.iter().map(&mut is_fixed).collect()
}

fn byte_len(value: &Declared) -> Option<u64> {
    let count = value.known_dims()?.iter().try_fold(1usize, |count, &dim| count.checked_mul(dim))?;
    value.scalar?.byte_len(count).map(|bytes| bytes as u64)
}
