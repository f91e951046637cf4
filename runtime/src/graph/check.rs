//! Validation of a graph: what the types of its parts cannot rule out.

use super::{Graph, NodeId};
use crate::error::{Error, Result, ResultExt};

impl Graph {
    /// Checks that every value that is read has a source, that there is no cycle, and the same for all bodies.
    ///
    /// Run it after edits: the executor relies on what it checks.
    pub fn check(&self) -> Result<()> {
        self.topological_order()?;
        for output in &self.outputs {
            if !self.has_source(output.value) {
                return Err(Error::invalid_model(format!(
                    "graph output '{}' is neither computed by a node nor a graph input nor an initializer",
                    output.name
                )));
            }
        }
        for id in self.node_ids() {
            self.check_node(id).in_node(|| self.node(id).label(self))?;
        }
        Ok(())
    }

    fn check_node(&self, id: NodeId) -> Result<()> {
        let node = self.node(id);
        if node.op_type.is_empty() {
            return Err(Error::invalid_model("the node has no op_type; it must name an operator"));
        }
        for value in node.reads() {
            if !self.has_source(value) {
                return Err(Error::invalid_model(format!(
                    "input '{}' is neither computed by a node nor a graph input nor an initializer",
                    self.get_value(value).map_or("(removed)", |v| v.name())
                )));
            }
        }
        for body in &node.bodies {
            if body.graph.inputs().len() < body.captures.len() {
                return Err(Error::internal(format!(
                    "body '{}' has {} captures but {} inputs",
                    body.attribute,
                    body.captures.len(),
                    body.graph.inputs().len()
                )));
            }
            body.graph.check()?;
        }
        Ok(())
    }

    fn has_source(&self, value: super::ValueId) -> bool {
        self.get_value(value).is_some_and(|v| v.is_input || v.constant.is_some() || v.producer.is_some())
    }
}
