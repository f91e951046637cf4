//! Scaled dot-product attention from `Softmax(scale * Q @ K^T + mask) @ V` on `[batch, heads, length, size]`.

use super::pattern::{
    broadcasts_to, dtype_of, emit, follower, operands, private_producer, producer, replace, result, scalar,
    shape_of, version,
};
use super::transpose::permutation;
use super::{Outcome, Rewrite, State};
use crate::error::Result;
use crate::graph::{Dim, Graph, Node, NodeId, ValueId};

pub const REWRITE: Rewrite = Rewrite { name: "Attention", operators: &["Softmax"], apply };

/// The parts of one attention.
struct Parts {
    query: ValueId,
    /// `[batch, heads, size, length]`.
    keys_transposed: ValueId,
    value: ValueId,
    mask: Option<ValueId>,
    scale: f64,
    /// The zero that replaces NaN probabilities of rows without a key, where the model guards against them.
    guard: Option<ValueId>,
    /// The last product.
    end: NodeId,
}

fn apply(graph: &mut Graph, id: NodeId, _: &mut State<'_>) -> Result<Outcome> {
    if !graph.node(id).domain.is_empty() {
        return Ok(Outcome::NoMatch);
    }
    let Some(parts) = find(graph, id) else { return Ok(Outcome::NoMatch) };
    if let Some(reason) = refusal(graph, id, &parts)? {
        return Outcome::check_failed(reason);
    }
    let mut parts = parts;
    let length = shape_of(graph, parts.keys_transposed).and_then(|k| k.last()).cloned();
    parts.query = unscaled(graph, parts.query, &mut parts.scale);
    parts.keys_transposed = unscaled(graph, parts.keys_transposed, &mut parts.scale);
    let Some(key) = key_of(graph, &mut parts)? else {
        return Outcome::check_failed("the keys are not a Transpose");
    };
    let key =
        ungrouped(graph, key).zip(ungrouped(graph, parts.value)).map_or((key, parts.value), |pair| pair);
    // From version 24 on a mask that is too short is extended; version 23 broadcasts it, as the sum does.
    let extends = parts.mask.is_some_and(|m| shape_of(graph, m).and_then(|s| s.last()) != length.as_ref());
    let node = Node::new("", "Attention", if extends { 23 } else { version(graph, 23) })
        .with_name(graph.node(parts.end).name.clone())
        .with_attribute("scale", parts.scale as f32);
    let mut inputs = vec![Some(parts.query), Some(key.0), Some(key.1)];
    inputs.extend(parts.mask.map(Some));
    match parts.guard {
        None => replace(graph, parts.end, node, &inputs)?,
        Some(zero) => {
            let output = emit(graph, node, &inputs)?;
            let empty = emit(graph, Node::new("", "IsNaN", version(graph, 13)), &[Some(output)])?;
            let guard = Node::new("", "Where", version(graph, 9));
            replace(graph, parts.end, guard, &[Some(empty), Some(zero), Some(output)])?;
        }
    }
    Ok(Outcome::Fired)
}

fn find(graph: &Graph, softmax: NodeId) -> Option<Parts> {
    let logits = graph.node(softmax).input(0)?;
    let (scores, mask) = match private_producer(graph, logits, "Add") {
        Some(add) => {
            let (scores, mask) =
                operands(graph, add).into_iter().find(|(s, _)| scaled_product(graph, *s).is_some())?;
            (scores, Some(mask))
        }
        None => (logits, None),
    };
    let (product, scale) = scaled_product(graph, scores)?;
    let (guard, weights) = guarded(graph, softmax);
    let end = follower(graph, weights, "MatMul")?;
    let value = graph.node(end).input(1)?;
    if graph.node(end).input(0) != result(graph, weights) {
        return None;
    }
    let product = graph.node(product);
    Some(Parts {
        query: product.input(0)?,
        keys_transposed: product.input(1)?,
        value,
        mask,
        scale,
        guard,
        end,
    })
}

/// A product, perhaps scaled by a constant, that nothing else reads.
fn scaled_product(graph: &Graph, value: ValueId) -> Option<(NodeId, f64)> {
    if let Some(product) = private_producer(graph, value, "MatMul") {
        return Some((product, 1.0));
    }
    if let Some(mul) = private_producer(graph, value, "Mul") {
        return operands(graph, mul).into_iter().find_map(|(product, factor)| {
            Some((private_producer(graph, product, "MatMul")?, scalar(graph, factor)?))
        });
    }
    let div = graph.node(private_producer(graph, value, "Div")?);
    let divisor = scalar(graph, div.input(1)?).filter(|d| *d != 0.0)?;
    Some((private_producer(graph, div.input(0)?, "MatMul")?, 1.0 / divisor))
}

/// `Where(IsNaN(p), 0, p)` after the softmax: the zero and the node that returns the weights.
fn guarded(graph: &Graph, softmax: NodeId) -> (Option<ValueId>, NodeId) {
    let found = (|| {
        let weights = result(graph, softmax)?;
        let readers: Vec<NodeId> = graph.consumers(weights).collect();
        let [a, b] = readers[..] else { return None };
        let (test, choice) = if graph.node(a).is_onnx("IsNaN") { (a, b) } else { (b, a) };
        let node = graph.node(choice);
        let matches = graph.node(test).is_onnx("IsNaN")
            && node.is_onnx("Where")
            && !graph.is_output(weights)
            && node.input(0) == result(graph, test)
            && graph.sole_consumer(node.input(0)?).is_some()
            && node.input(2) == Some(weights)
            && scalar(graph, node.input(1)?) == Some(0.0);
        matches.then(|| node.input(1).map(|zero| (zero, choice))).flatten()
    })();
    found.map_or((None, softmax), |(zero, choice)| (Some(zero), choice))
}

/// Why the parts are not what the operator computes.
fn refusal(graph: &Graph, softmax: NodeId, parts: &Parts) -> Result<Option<String>> {
    let shapes =
        (shape_of(graph, parts.query), shape_of(graph, parts.keys_transposed), shape_of(graph, parts.value));
    let (Some(q), Some(k), Some(v)) = shapes else { return Ok(Some("a rank is not known".into())) };
    if q.rank() != 4 || k.rank() != 4 || v.rank() != 4 {
        return Ok(Some("queries, keys and values must have rank 4".into()));
    }
    let node = graph.node(softmax);
    let axis = node.int_or("axis", if node.version < 13 { 1 } else { -1 })?;
    if axis != -1 && axis != 3 {
        return Ok(Some(format!("the softmax is over axis {axis}, not over the keys")));
    }
    let same = |a: &Dim, b: &Dim| a == b && *a != Dim::Unknown;
    if !(0..2).all(|i| same(&q[i], &k[i]) && same(&q[i], &v[i])) {
        return Ok(Some(format!("batch and heads may broadcast: queries {q}, keys {k}, values {v}")));
    }
    let dtypes = [parts.query, parts.keys_transposed, parts.value].map(|p| dtype_of(graph, p));
    if !dtypes[0].is_float() || dtypes.iter().any(|d| *d != dtypes[0]) {
        return Ok(Some("the element types are not one float type".into()));
    }
    if parts.scale <= 0.0 {
        return Ok(Some(format!("the scale {} is not positive", parts.scale)));
    }
    let Some(mask) = parts.mask else { return Ok(None) };
    let Some(shape) = shape_of(graph, mask) else { return Ok(Some("the mask's rank is not known".into())) };
    let Some((last, outer)) = shape.split_last().filter(|(_, outer)| !outer.is_empty()) else {
        return Ok(Some(format!("a mask of shape {shape} has no dimension of queries")));
    };
    // Sizes of the last axis that differ only by name must be equal, or 1 in the mask: the second product sees to that.
    let lengths_fit = !matches!((last, &k[3]), (Dim::Known(m), Dim::Known(n)) if *m != 1 && m != n);
    if !lengths_fit || !broadcasts_to(&outer.iter().cloned().collect(), &q[..3].iter().cloned().collect()) {
        let scores = format!("[{},{},{},{}]", q[0], q[1], q[2], k[3]);
        return Ok(Some(format!("a mask of shape {shape} does not fit scores of shape {scores}")));
    }
    if dtype_of(graph, mask) != dtypes[0] {
        return Ok(Some("the mask has another element type".into()));
    }
    Ok(None)
}

/// The value before a multiplication by a positive constant, which goes into `scale`.
fn unscaled(graph: &Graph, value: ValueId, scale: &mut f64) -> ValueId {
    let found = private_producer(graph, value, "Mul")
        .and_then(|m| operands(graph, m).into_iter().find_map(|(x, c)| Some((x, scalar(graph, c)?))))
        .filter(|(x, c)| *c > 0.0 && shape_of(graph, *x) == shape_of(graph, value));
    match found {
        Some((x, factor)) => {
            *scale *= factor;
            x
        }
        None => value,
    }
}

/// The keys as `[batch, heads, length, size]`.
fn key_of(graph: &mut Graph, parts: &mut Parts) -> Result<Option<ValueId>> {
    let Some(transpose) = producer(graph, parts.keys_transposed, "Transpose") else { return Ok(None) };
    let (Some(source), Some(perm)) = (graph.node(transpose).input(0), permutation(graph, transpose)) else {
        return Ok(None);
    };
    let [a, b, c, d] = perm[..] else { return Ok(None) };
    let source = unscaled(graph, source, &mut parts.scale);
    let perm = [a, b, d, c];
    if perm == [0, 1, 2, 3] {
        return Ok(Some(source));
    }
    let node =
        Node::new("", "Transpose", version(graph, 1)).with_attribute("perm", perm.map(|a| a as i64).to_vec());
    emit(graph, node, &[Some(source)]).map(Some)
}

/// The heads before each was repeated for a group of queries: `Reshape(Expand(Unsqueeze(x, 2)))`.
fn ungrouped(graph: &Graph, value: ValueId) -> Option<ValueId> {
    let expand =
        private_producer(graph, graph.node(private_producer(graph, value, "Reshape")?).input(0)?, "Expand")?;
    let single = graph.node(expand).input(0)?;
    let (producer, _) = graph.producer(single)?;
    let node = graph.node(producer);
    if !node.is_onnx("Unsqueeze") && !node.is_onnx("Reshape") {
        return None;
    }
    let source = node.input(0)?;
    let (from, one) = (shape_of(graph, source)?, shape_of(graph, single)?);
    let (many, to) = (shape_of(graph, result(graph, expand)?)?, shape_of(graph, value)?);
    let inserted = [&from[..2], &[Dim::Known(1)], &from[2..]].concat();
    let repeats = many.get(2)?.known()?;
    let repeated = [&from[..2], &[Dim::Known(repeats)], &from[2..]].concat();
    let merged = to.rank() == 4 && to[0] == from[0] && to[2..] == from[2..];
    let fits = from.rank() == 4
        && !from.contains(&Dim::Unknown)
        && one[..] == inserted[..]
        && many[..] == repeated[..]
        && from[1]
            .known()
            .and_then(|g| g.checked_mul(repeats))
            .is_some_and(|h| to.get(1) == Some(&Dim::Known(h)));
    (fits && merged).then_some(source)
}
