//! The operators that can be differentiated, each with the rule that turns derivatives by its outputs into those by its
//! inputs.

use super::emit::Emitter;
use super::{arithmetic, layout, linear, norm, reduce};
use crate::error::{Error, Result};
use crate::graph::{Node, ValueId};

/// A node whose derivative is taken.
pub struct Site<'a, 'g> {
    pub emitter: &'a mut Emitter<'g>,
    pub node: &'a Node,
    /// The derivative of the result by each output, where there is one.
    pub given: &'a [Option<ValueId>],
    /// The inputs whose derivatives are needed.
    pub wanted: &'a [bool],
}

/// The derivatives by a node's inputs; `None` where the result does not depend on one.
pub type Parts = Vec<Option<ValueId>>;

/// A rule; it is called with at least one derivative given and one wanted.
pub type Rule = fn(&mut Site<'_, '_>) -> Result<Parts>;

impl Site<'_, '_> {
    /// Input `index`, which the operator needs.
    pub fn input(&self, index: usize) -> Result<ValueId> {
        self.node.input(index).ok_or_else(|| Error::invalid_model(format!("input {index} is missing")))
    }

    /// Output `index` of the node.
    pub fn output(&self, index: usize) -> Result<ValueId> {
        self.node.output(index).ok_or_else(|| Error::invalid_model(format!("output {index} is missing")))
    }

    /// The derivative by output 0.
    pub fn by_output(&self) -> Result<ValueId> {
        self.given.first().copied().flatten().ok_or_else(|| {
            Error::unsupported(format!("only output 0 of {} can be differentiated", self.node.operator()))
        })
    }

    /// Whether the derivative by input `index` is needed.
    pub fn wants(&self, index: usize) -> bool {
        self.wanted.get(index).copied().unwrap_or(false)
    }

    /// `part` summed to the shape of input `index`, as the only derivative.
    pub fn only(&mut self, index: usize, part: ValueId) -> Result<Parts> {
        let mut parts = vec![None; self.node.inputs().len()];
        parts[index] = Some(part);
        Ok(parts)
    }
}

const TABLES: &[&[(&str, Rule)]] =
    &[arithmetic::RULES, layout::RULES, linear::RULES, norm::RULES, reduce::RULES];

fn find(node: &Node) -> Option<Rule> {
    if !node.domain.is_empty() {
        return None;
    }
    TABLES.iter().copied().flatten().find(|(name, _)| *name == &*node.op_type).map(|(_, rule)| *rule)
}

/// True when there is a rule for the node's operator.
pub fn knows(node: &Node) -> bool {
    find(node).is_some()
}

/// The derivatives by the inputs of `node`.
pub fn apply(
    emitter: &mut Emitter<'_>,
    node: &Node,
    given: &[Option<ValueId>],
    wanted: &[bool],
) -> Result<Parts> {
    match find(node) {
        Some(rule) => rule(&mut Site { emitter, node, given, wanted }),
        None => Err(Error::unsupported(format!(
            "operator {} cannot be differentiated; Gradient knows {}",
            node.operator(),
            TABLES.iter().copied().flatten().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
        ))),
    }
}
