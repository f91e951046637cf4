//! The table of inference rules: one row an operator, in family files.

mod attention;
mod contrib;
mod elementwise;
mod generator;
mod index;
mod layout;
mod matmul;
mod ml;
mod nn;
mod normalization;
mod quantize;
mod recurrent;
mod reduce;
mod resize;
mod sequence;
mod signal;
mod text;
mod training;
mod vision;
mod window;

use std::collections::HashMap;
use std::sync::LazyLock;

use super::site::Site;
use crate::error::{Error, Result};

/// Sets the output types of one node.
type Infer = fn(&mut Site<'_>) -> Result<()>;

/// How one operator, in every version, infers.
pub struct Rule {
    domain: &'static str,
    operator: &'static str,
    /// Leading inputs that every version needs.
    required: usize,
    infer: Infer,
}

impl Rule {
    const fn onnx(operator: &'static str, required: usize, infer: Infer) -> Self {
        Rule { domain: "", operator, required, infer }
    }

    const fn of(domain: &'static str, operator: &'static str, required: usize, infer: Infer) -> Self {
        Rule { domain, operator, required, infer }
    }

    /// Checks that the required inputs are given, then infers.
    pub fn apply(&self, site: &mut Site<'_>) -> Result<()> {
        if let Some(missing) = (0..self.required).find(|i| !site.has(*i)) {
            return Err(Error::invalid_model(format!(
                "{} needs {} input{}, but input {missing} is missing",
                site.node.operator(),
                self.required,
                if self.required == 1 { "" } else { "s" }
            )));
        }
        (self.infer)(site)
    }
}

const FAMILIES: &[&[Rule]] = &[
    attention::RULES,
    contrib::RULES,
    elementwise::RULES,
    generator::RULES,
    index::RULES,
    layout::RULES,
    matmul::RULES,
    ml::RULES,
    nn::RULES,
    normalization::RULES,
    quantize::RULES,
    recurrent::RULES,
    reduce::RULES,
    resize::RULES,
    sequence::RULES,
    signal::RULES,
    text::RULES,
    training::RULES,
    vision::RULES,
];

static TABLE: LazyLock<HashMap<(&str, &str), &Rule>> = LazyLock::new(|| {
    FAMILIES.iter().flat_map(|rules| rules.iter()).map(|rule| ((rule.domain, rule.operator), rule)).collect()
});

/// The rule of an operator.
pub fn find(domain: &str, operator: &str) -> Option<&'static Rule> {
    TABLE.get(&(domain, operator)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_operator_has_two_rows() {
        assert_eq!(TABLE.len(), FAMILIES.iter().map(|rules| rules.len()).sum::<usize>());
    }
}
