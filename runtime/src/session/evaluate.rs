//! Evaluates constant nodes through a provider, for constant folding.

use crate::error::{Error, Result};
use crate::execute::Runner;
use crate::graph::Graph;
use crate::optimize::Evaluator;
use crate::plan::Compiler;
use crate::tensor::{Tensor, Value};

/// Runs one-node graphs on the devices of a session.
pub(super) struct DeviceEvaluator<'a> {
    pub compiler: &'a Compiler,
}

impl Evaluator for DeviceEvaluator<'_> {
    fn evaluate(&self, graph: &Graph) -> Result<Vec<Tensor>> {
        let planned = self.compiler.plan(graph)?;
        let outputs = Runner::new(planned.plan).start().finish(&[])?;
        outputs
            .into_iter()
            .map(|value| match value {
                Value::Tensor(tensor) => Ok(tensor),
                other => Err(Error::internal(format!("a folded node gave {}", other.description()))),
            })
            .collect()
    }
}
