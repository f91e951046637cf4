//! FlexAttention as standard operators: Attention where nothing changes the scores, else its steps with the nested graphs
//! `score_mod` and `prob_mod` among them.

use super::bodies;
use super::pattern::{dtype_of, emit, float_scalar, replace, shape_of, version};
use crate::dtype::DType;
use crate::error::{Error, Result, ResultExt};
use crate::graph::{Body, Graph, Node, NodeId, ValueId};

/// Puts standard operators in the place of a FlexAttention node.
///
/// Q is `[batch, q_heads, q_length, size]`, K and V `[batch, kv_heads, kv_length, size]`; `q_heads` is a multiple of
/// `kv_heads`. Each nested graph maps `[batch, q_heads, q_length, kv_length]` to itself.
pub fn expand(graph: &mut Graph, id: NodeId) -> Result<()> {
    let node = graph.node(id);
    let (Some(q), Some(k), Some(v)) = (node.input(0), node.input(1), node.input(2)) else {
        return Err(Error::invalid_model("FlexAttention needs the inputs Q, K and V"));
    };
    let call = Call {
        q,
        k,
        v,
        label: node.label(graph),
        scale: node.attributes.float("scale")?,
        precision: node.attributes.int("softmax_precision")?,
        score_mod: modifier(node, "score_mod")?,
        prob_mod: modifier(node, "prob_mod")?,
    };
    for value in [q, k, v] {
        if let Some(shape) = shape_of(graph, value).filter(|shape| shape.rank() != 4) {
            return Err(Error::invalid_model(format!(
                "FlexAttention needs inputs of rank 4, '{}' has shape {shape}",
                graph.value(value).name()
            )));
        }
    }
    if call.score_mod.is_none() && call.prob_mod.is_none() {
        return attention(graph, id, &call);
    }
    steps(graph, id, &call)
}

/// What a FlexAttention node says.
struct Call {
    q: ValueId,
    k: ValueId,
    v: ValueId,
    label: String,
    scale: Option<f32>,
    precision: Option<i64>,
    score_mod: Option<Body>,
    prob_mod: Option<Body>,
}

fn modifier(node: &Node, name: &str) -> Result<Option<Body>> {
    let Some(body) = node.body(name) else { return Ok(None) };
    let (inputs, outputs) = (body.formal_inputs().len(), body.graph().outputs().len());
    if (inputs, outputs) != (1, 1) {
        return Err(Error::invalid_model(format!(
            "{name} needs one input and one output, it has {inputs} and {outputs}"
        )));
    }
    Ok(Some(body.clone()))
}

fn attention(graph: &mut Graph, id: NodeId, call: &Call) -> Result<()> {
    let mut node = Node::new("", "Attention", version(graph, 23)).with_name(call.label.clone());
    if let Some(scale) = call.scale {
        node.attributes.set("scale", scale);
    }
    if let Some(precision) = call.precision {
        node.attributes.set("softmax_precision", precision);
    }
    replace(graph, id, node, &[Some(call.q), Some(call.k), Some(call.v)])
}

fn steps(graph: &mut Graph, id: NodeId, call: &Call) -> Result<()> {
    let input = dtype_of(graph, call.q);
    if !matches!(input, DType::F32 | DType::F64 | DType::F16 | DType::BF16) {
        return Err(Error::unsupported(format!(
            "FlexAttention needs a known floating-point element type, Q has {input}"
        )));
    }
    let default = if input == DType::F64 { DType::F64 } else { DType::F32 };
    let softmax = call.precision.unwrap_or(i64::from(default as u32));
    let mut steps = Steps { graph, prefix: &call.label };
    let (k, v) = (steps.aligned(call.q, call.k)?, steps.aligned(call.q, call.v)?);
    let scale = steps.root_of_scale(call, input)?;
    let q = steps.op("Mul", 14, &[call.q, scale])?;
    let k = steps.op("Mul", 14, &[k, scale])?;
    let k = steps.add(
        Node::new("", "Transpose", version(steps.graph, 13)).with_attribute("perm", vec![0i64, 1, 3, 2]),
        &[k],
    )?;
    let scores = steps.op("MatMul", 13, &[q, k])?;
    let scores = steps.cast(scores, softmax)?;
    let scores = steps.modified(scores, call.score_mod.as_ref())?;
    let softmax_node = Node::new("", "Softmax", version(steps.graph, 13)).with_attribute("axis", -1i64);
    let probabilities = steps.add(softmax_node, &[scores])?;
    let probabilities = steps.modified(probabilities, call.prob_mod.as_ref())?;
    let v = steps.cast(v, softmax)?;
    let result = steps.op("MatMul", 13, &[probabilities, v])?;
    let cast = Node::new("", "Cast", version(graph, 13))
        .with_name(call.label.clone())
        .with_attribute("to", number(input));
    replace(graph, id, cast, &[Some(result)])
}

fn number(dtype: DType) -> i64 {
    i64::from(dtype as u32)
}

struct Steps<'g> {
    graph: &'g mut Graph,
    prefix: &'g str,
}

impl Steps<'_> {
    fn add(&mut self, node: Node, inputs: &[ValueId]) -> Result<ValueId> {
        let name = format!("{}/{}", self.prefix, node.op_type);
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        emit(self.graph, node.with_name(name), &inputs)
    }

    fn op(&mut self, op_type: &str, since: i64, inputs: &[ValueId]) -> Result<ValueId> {
        self.add(Node::new("", op_type, version(self.graph, since)), inputs)
    }

    fn cast(&mut self, value: ValueId, to: i64) -> Result<ValueId> {
        if number(dtype_of(self.graph, value)) == to {
            return Ok(value);
        }
        self.add(Node::new("", "Cast", version(self.graph, 13)).with_attribute("to", to), &[value])
    }

    /// Dimensions `start..end` of a value's shape.
    fn sizes(&mut self, value: ValueId, start: i64, end: i64) -> Result<ValueId> {
        let node = Node::new("", "Shape", version(self.graph, 15));
        self.add(node.with_attribute("start", start).with_attribute("end", end), &[value])
    }

    fn concat(&mut self, parts: &[ValueId]) -> Result<ValueId> {
        self.add(Node::new("", "Concat", version(self.graph, 13)).with_attribute("axis", 0i64), parts)
    }

    /// Keys or values with each head repeated for the query heads that share it.
    fn aligned(&mut self, q: ValueId, kv: ValueId) -> Result<ValueId> {
        let heads = |value| shape_of(self.graph, value).and_then(|shape| shape[1].known());
        if let (Some(q_heads), Some(kv_heads)) = (heads(q), heads(kv)) {
            if q_heads == kv_heads {
                return Ok(kv);
            }
            if kv_heads == 0 || !q_heads.is_multiple_of(kv_heads) {
                return Err(Error::invalid_model(format!(
                    "the {q_heads} query heads are not a multiple of the {kv_heads} key heads"
                )));
            }
        }
        let (batch, rest) = (self.sizes(kv, 0, 1)?, self.sizes(kv, 2, 4)?);
        let (q_heads, kv_heads) = (self.sizes(q, 1, 2)?, self.sizes(kv, 1, 2)?);
        let repeats = self.op("Div", 14, &[q_heads, kv_heads])?;
        let axis = self.graph.add_constant("axis", crate::tensor::Tensor::from_slice(&[1], &[2i64])?);
        let apart = self.op("Unsqueeze", 13, &[kv, axis])?;
        let wide = self.concat(&[batch, kv_heads, repeats, rest])?;
        let repeated = self.op("Expand", 13, &[apart, wide])?;
        let whole = self.concat(&[batch, q_heads, rest])?;
        self.op("Reshape", 14, &[repeated, whole])
    }

    /// The factor of both queries and keys: the square root of the scale, computed in float32.
    fn root_of_scale(&mut self, call: &Call, dtype: DType) -> Result<ValueId> {
        let known = shape_of(self.graph, call.q).and_then(|shape| shape[3].known());
        let scale = call.scale.or(known.map(|size| 1.0 / (size as f32).sqrt()));
        if let Some(scale) = scale {
            let root = float_scalar(dtype, f64::from(scale.sqrt()));
            let root = root.ok_or_else(|| Error::internal("the element type was just checked"))?;
            return Ok(self.graph.add_constant("scale", root));
        }
        let size = self.sizes(call.q, 3, 4)?;
        let size = self.cast(size, number(DType::F32))?;
        let root = self.op("Sqrt", 13, &[size])?;
        let scale = self.op("Reciprocal", 13, &[root])?;
        let root = self.op("Sqrt", 13, &[scale])?;
        self.cast(root, number(dtype))
    }

    fn modified(&mut self, value: ValueId, modifier: Option<&Body>) -> Result<ValueId> {
        let Some(body) = modifier else { return Ok(value) };
        let inputs: Vec<ValueId> = [value].iter().chain(body.captures()).copied().collect();
        let results = bodies::splice(self.graph, body.graph(), &inputs, self.prefix)
            .in_node(|| body.attribute().to_owned())?;
        Ok(results[0])
    }
}
