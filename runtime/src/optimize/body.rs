//! The standard operators that an internal operator stands for.

use super::pattern::{dtype_of, float_scalar, shape_of};
use super::{DOMAIN, bodies};
use crate::error::Result;
use crate::graph::{Attribute, Graph, Node, NodeId, ValueId};

/// A graph of standard operators that computes what an internal node computes: its inputs are the given inputs of the
/// node in order, its outputs those of the node. `None` for other operators and where a needed type is not known.
pub fn body(graph: &Graph, node: NodeId) -> Option<Graph> {
    let n = graph.node(node);
    if *n.domain != *DOMAIN {
        return None;
    }
    let mut builder = Builder::new(graph, node)?;
    let result = match &*n.op_type {
        "FusedConv" => builder.convolution(n)?,
        "FusedMatMul" => builder.product(graph, n)?,
        "QuantizedMatMul" => builder.dequantized(n)?,
        _ => return None,
    };
    let result = if *n.op_type == *"QuantizedMatMul" { result } else { builder.activated(n, result)? };
    let name = graph.value(n.output(0)?).shared_name();
    let mut body = builder.graph;
    body.add_output(name, result, None);
    Some(body)
}

/// Puts the body of an internal node in its place. False when it has none.
pub fn expand(graph: &mut Graph, node: NodeId) -> Result<bool> {
    let Some(inner) = body(graph, node) else { return Ok(false) };
    let n = graph.node(node);
    let inputs: Vec<ValueId> = n.inputs().iter().flatten().copied().collect();
    let (name, output) = (n.label(graph), n.output(0));
    let results = bodies::splice(graph, &inner, &inputs, &name)?;
    if let (Some(old), Some(new)) = (output, results.first()) {
        let ty = graph.value(old).ty().cloned();
        graph.replace_all_uses(old, *new);
        graph.set_type(*new, ty);
    }
    graph.remove_node(node);
    Ok(true)
}

struct Builder {
    graph: Graph,
    /// By the node's slots.
    inputs: Vec<Option<ValueId>>,
    dtype: crate::dtype::DType,
}

impl Builder {
    fn new(outer: &Graph, node: NodeId) -> Option<Builder> {
        let n = outer.node(node);
        let mut graph = Graph::new(n.operator(), outer.opsets.clone());
        let mut inputs = Vec::new();
        for (i, input) in n.inputs().iter().enumerate() {
            inputs.push(match input {
                Some(v) => Some(graph.add_input(&format!("input_{i}"), outer.value(*v).ty().cloned()).ok()?),
                None => None,
            });
        }
        Some(Builder { graph, inputs, dtype: outer.input_type(node, 0)?.dtype()? })
    }

    fn given(&self, i: usize) -> Option<ValueId> {
        self.inputs.get(i).copied().flatten()
    }

    /// Adds a node named after its operator.
    fn add(&mut self, mut node: Node, inputs: &[ValueId]) -> Option<ValueId> {
        let twins = self.graph.node_ids().filter(|id| self.graph.node(*id).op_type == node.op_type).count();
        node.name = if twins == 0 { node.op_type.to_string() } else { format!("{}_{twins}", node.op_type) };
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        self.graph.append(node, &inputs, 1).ok()?.1.first().copied()
    }

    fn op(&mut self, op: &str, since: i64, inputs: &[ValueId]) -> Option<ValueId> {
        let version = super::pattern::version(&self.graph, since);
        self.add(Node::new("", op, version), inputs)
    }

    fn scalar(&mut self, value: f64) -> Option<ValueId> {
        Some(self.graph.add_constant("scalar", float_scalar(self.dtype, value)?))
    }

    fn convolution(&mut self, n: &Node) -> Option<ValueId> {
        let mut conv = Node::new("", "Conv", super::pattern::version(&self.graph, 11));
        for (name, value) in n.attributes.iter().filter(|(name, _)| !name.starts_with("activation")) {
            conv.attributes.set(name, value.clone());
        }
        let inputs: Vec<ValueId> = (0..3).filter_map(|i| self.given(i)).collect();
        let result = self.add(conv, &inputs)?;
        self.plus(result, 3)
    }

    fn product(&mut self, outer: &Graph, n: &Node) -> Option<ValueId> {
        let a = self.operand(outer, n, 0, "transA")?;
        let b = self.operand(outer, n, 1, "transB")?;
        let mut result = self.op("MatMul", 13, &[a, b])?;
        let alpha = n.float_or("alpha", 1.0).ok()?;
        if alpha != 1.0 {
            let factor = self.scalar(f64::from(alpha))?;
            result = self.op("Mul", 14, &[result, factor])?;
        }
        let biased = self.plus(result, 2)?;
        self.plus(biased, 3)
    }

    /// The product of the dequantised operands, still an internal operator with what is behind it.
    fn dequantized(&mut self, n: &Node) -> Option<ValueId> {
        let a = self.widened(n, 0, 4, "a")?;
        let b = self.widened(n, 1, 6, "b")?;
        let mut node = Node::new(DOMAIN, "FusedMatMul", 1).with_name("FusedMatMul".to_owned());
        let is_own = |name: &str| name == "dtype" || name.starts_with("a_") || name.starts_with("b_");
        for (name, value) in n.attributes.iter().filter(|(name, _)| !is_own(name)) {
            node.attributes.set(name, value.clone());
        }
        let inputs = [Some(a), Some(b), self.given(2), self.given(3)];
        self.graph.append(node, &inputs, 1).ok()?.1.first().copied()
    }

    /// Operand `i`, dequantised where input `scale` is given; its zero point is the input behind.
    fn widened(&mut self, n: &Node, i: usize, scale: usize, name: &str) -> Option<ValueId> {
        let codes = self.given(i)?;
        let Some(scales) = self.given(scale) else { return Some(codes) };
        let mut node = Node::new("", "DequantizeLinear", super::pattern::version(&self.graph, 21));
        for attribute in ["axis", "block_size"] {
            let value = n.int_or(&format!("{name}_{attribute}"), i64::from(attribute == "axis")).ok()?;
            node.attributes.set(attribute, value);
        }
        if dtype_of(&self.graph, scales) == crate::dtype::DType::F8E8M0 {
            node.attributes.set("output_dtype", n.int_or("dtype", 1).ok()?);
        }
        let inputs: Vec<ValueId> =
            [Some(codes), Some(scales), self.given(scale + 1)].into_iter().flatten().collect();
        self.add(node, &inputs)
    }

    fn operand(&mut self, outer: &Graph, n: &Node, i: usize, attribute: &str) -> Option<ValueId> {
        let value = self.given(i)?;
        if !n.attributes.flag(attribute, false).ok()? {
            return Some(value);
        }
        let rank = shape_of(outer, n.input(i)?)?.rank();
        if rank < 2 {
            return Some(value);
        }
        let mut perm: Vec<i64> = (0..rank as i64).collect();
        perm.swap(rank - 1, rank - 2);
        let version = super::pattern::version(&self.graph, 13);
        self.add(Node::new("", "Transpose", version).with_attribute("perm", perm), &[value])
    }

    fn plus(&mut self, value: ValueId, i: usize) -> Option<ValueId> {
        match self.given(i) {
            Some(other) => self.op("Add", 14, &[value, other]),
            None => Some(value),
        }
    }

    fn activated(&mut self, n: &Node, x: ValueId) -> Option<ValueId> {
        let parameters = n.attributes.floats("activation_params").ok()?.unwrap_or(&[]);
        let parameter = |i: usize, default: f32| parameters.get(i).copied().unwrap_or(default);
        let with = |builder: &mut Builder, op: &str, since: i64, attributes: &[(&str, Attribute)]| {
            let mut node = Node::new("", op, super::pattern::version(&builder.graph, since));
            for (name, value) in attributes {
                node.attributes.set(*name, value.clone());
            }
            builder.add(node, &[x])
        };
        match n.string_or("activation", "").ok()? {
            "" => Some(x),
            "Relu" => self.op("Relu", 14, &[x]),
            "Sigmoid" => self.op("Sigmoid", 13, &[x]),
            "Tanh" => self.op("Tanh", 13, &[x]),
            "HardSwish" => self.op("HardSwish", 14, &[x]),
            "Silu" => {
                let gate = self.op("Sigmoid", 13, &[x])?;
                self.op("Mul", 14, &[x, gate])
            }
            "Gelu" => with(self, "Gelu", 20, &[]),
            "LeakyRelu" => with(self, "LeakyRelu", 16, &[("alpha", parameter(0, 0.01).into())]),
            "HardSigmoid" => {
                let attributes = [("alpha", parameter(0, 0.2).into()), ("beta", parameter(1, 0.5).into())];
                with(self, "HardSigmoid", 6, &attributes)
            }
            "Clip" => {
                let (min, max) = (parameter(0, f32::MIN), parameter(1, f32::MAX));
                let (min, max) = (self.scalar(f64::from(min))?, self.scalar(f64::from(max))?);
                self.op("Clip", 13, &[x, min, max])
            }
            _ => None,
        }
    }
}
