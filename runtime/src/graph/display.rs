//! The text form of a graph: one line for each input, constant, node and output, bodies indented below their node.

use std::fmt::{self, Write};

use super::{Graph, Node, NodeId, ValueId};
use crate::dtype::DType;
use crate::tensor::Tensor;

/// Constants up to this many elements are written where they are read.
const INLINE_ELEMENTS: usize = 4;

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "graph {:?}", self.name)?;
        for (i, (domain, version)) in self.opsets.iter().enumerate() {
            let domain = if domain.is_empty() { "ai.onnx" } else { domain };
            write!(f, "{}{domain} {version}", if i == 0 { " importing " } else { ", " })?;
        }
        writeln!(f)?;
        self.write_contents(f, 1)
    }
}

impl Graph {
    fn write_contents(&self, f: &mut fmt::Formatter<'_>, depth: usize) -> fmt::Result {
        let pad = "  ".repeat(depth);
        for id in &self.inputs {
            write!(f, "{pad}input {}", self.typed(*id))?;
            if let Some(default) = self.value(*id).default() {
                write!(f, " = {default:?}")?;
            }
            writeln!(f)?;
        }
        for id in self.value_ids() {
            if let Some(tensor) = self.constant(id).filter(|t| !is_inline(t)) {
                writeln!(f, "{pad}constant {} = {tensor:?}", self.value(id).name())?;
            }
        }
        let unsorted: Vec<NodeId>;
        let order = match self.topological_order() {
            Ok(order) => order,
            Err(_) => {
                unsorted = self.node_ids().collect();
                &unsorted
            }
        };
        for id in order {
            self.write_node(f, self.node(*id), depth)?;
        }
        for output in &self.outputs {
            write!(f, "{pad}output {}", output.name)?;
            match self.get_value(output.value) {
                Some(v) if v.name() == &*output.name => {}
                Some(_) => write!(f, " = {}", self.read(output.value))?,
                None => f.write_str(" = (removed)")?,
            }
            let inferred = self.get_value(output.value).and_then(|v| v.ty());
            if let Some(ty) = inferred.or(output.declared.as_ref()) {
                write!(f, ": {ty}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }

    fn write_node(&self, f: &mut fmt::Formatter<'_>, node: &Node, depth: usize) -> fmt::Result {
        let pad = "  ".repeat(depth);
        f.write_str(&pad)?;
        for (i, output) in node.outputs().iter().enumerate() {
            let separator = if i == 0 { "" } else { ", " };
            match output {
                Some(v) => write!(f, "{separator}{}", self.typed(*v))?,
                None => write!(f, "{separator}_")?,
            }
        }
        write!(
            f,
            "{}{}-{}(",
            if node.outputs().is_empty() { "" } else { " = " },
            node.operator(),
            node.version
        )?;
        for (i, input) in node.inputs().iter().enumerate() {
            let separator = if i == 0 { "" } else { ", " };
            match input {
                Some(v) => write!(f, "{separator}{}", self.read(*v))?,
                None => write!(f, "{separator}_")?,
            }
        }
        f.write_str(")")?;
        for (i, (name, value)) in node.attributes.iter().enumerate() {
            write!(f, "{}{name}={value}", if i == 0 { " {" } else { ", " })?;
        }
        if !node.attributes.is_empty() {
            f.write_str("}")?;
        }
        if !node.name.is_empty() {
            write!(f, "  # {}", node.name)?;
        }
        writeln!(f)?;
        for body in node.bodies() {
            write!(f, "{pad}  {}", body.attribute())?;
            for (i, (inner, outer)) in body.capture_inputs().iter().zip(body.captures()).enumerate() {
                let separator = if i == 0 { " capturing " } else { ", " };
                write!(f, "{separator}{} = {}", body.graph().value(*inner).name(), self.read(*outer))?;
            }
            writeln!(f, ":")?;
            body.graph().write_contents(f, depth + 2)?;
        }
        Ok(())
    }

    /// A value with its type where it is defined.
    fn typed(&self, id: ValueId) -> String {
        let Some(value) = self.get_value(id) else { return "(removed)".into() };
        let mut text = value.name().to_owned();
        if let Some(ty) = value.ty() {
            write!(text, ": {ty}").expect("writing to a string does not fail");
        }
        text
    }

    /// A value where it is read: its name, or its contents when it is a small constant.
    fn read(&self, id: ValueId) -> String {
        match self.get_value(id) {
            None => "(removed)".into(),
            Some(value) => match value.constant() {
                Some(tensor) if is_inline(tensor) => format!("{tensor:?}"),
                _ => value.name().to_owned(),
            },
        }
    }
}

fn is_inline(tensor: &Tensor) -> bool {
    tensor.len() <= INLINE_ELEMENTS && (tensor.dtype() != DType::String || tensor.byte_len() <= 64)
}
