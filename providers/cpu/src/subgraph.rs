//! Reads a claimed subgraph from the plugin contract into the forms that kernel builders and the compiler take.

use std::collections::BTreeMap;

use tenon_plugin_api::{AttributeView, GraphView, NodeView, TensorView, ValueView, ffi};

use crate::constant::Constant;
use crate::node::{Attribute, Node, ValueInfo};
use crate::program::{Source, SourceNode};
use crate::tensor::{DType, Dims};

/// Constants up to this many bytes are copied to aligned memory for kernel builders when the model holds them unaligned;
/// larger unaligned ones are shown to builders without their contents and to `pack` later.
const COPY_LIMIT: usize = 1 << 20;

/// A subgraph and the aligned copies that its description refers to.
pub struct ReadGraph {
    pub source: Source,
    _copies: Vec<Constant>,
}

/// A node and the aligned copies that its description refers to.
pub struct ReadNode {
    pub node: Node,
    _copies: Vec<Constant>,
}

/// Reads a whole subgraph.
pub fn read(graph: GraphView<'_>) -> ReadGraph {
    let mut copies = Vec::new();
    let values: Vec<ValueInfo> = (0..graph.value_count())
        .map(|index| {
            graph.value(index as u32).map_or_else(ValueInfo::default, |value| describe(value, &mut copies))
        })
        .collect();
    let nodes = graph
        .nodes()
        .map(|view| {
            let inputs = slots(view.inputs());
            let outputs = slots(view.outputs());
            let info = |slots: &[Option<usize>]| {
                slots.iter().map(|slot| slot.map(|value| values[value].clone())).collect()
            };
            let node = node(view, info(&inputs), info(&outputs), &mut copies);
            SourceNode { node, inputs, outputs }
        })
        .collect();
    let indices = |slots: &[u32]| slots.iter().map(|&slot| slot as usize).collect();
    let is_constant =
        |index: usize| graph.value(index as u32).and_then(|v| v.constant()).and_then(refer).is_some();
    let source = Source {
        nodes,
        inputs: indices(graph.inputs()),
        outputs: indices(graph.outputs()),
        constants: (0..values.len()).map(is_constant).collect(),
        values,
    };
    ReadGraph { source, _copies: copies }
}

/// Reads one node.
pub fn read_node(view: NodeView<'_>) -> ReadNode {
    let mut copies = Vec::new();
    let inputs = (0..view.inputs().len()).map(|i| Some(describe(view.input(i)?, &mut copies))).collect();
    let outputs = (0..view.outputs().len()).map(|i| Some(describe(view.output(i)?, &mut copies))).collect();
    let node = node(view, inputs, outputs, &mut copies);
    ReadNode { node, _copies: copies }
}

/// The constants of a subgraph by value index; copied unless they outlive the executable.
pub fn constants(graph: GraphView<'_>, stay: bool) -> Vec<Option<Constant>> {
    let constant = |index: usize| {
        let view = graph.value(index as u32)?.constant()?;
        let constant = refer(view)?;
        Some(if stay { constant } else { constant.into_owned() })
    };
    (0..graph.value_count()).map(constant).collect()
}

fn slots(slots: &[u32]) -> Vec<Option<usize>> {
    slots.iter().map(|&slot| (slot != ffi::NO_VALUE).then_some(slot as usize)).collect()
}

fn node(
    view: NodeView<'_>,
    inputs: Vec<Option<ValueInfo>>,
    outputs: Vec<Option<ValueInfo>>,
    copies: &mut Vec<Constant>,
) -> Node {
    let attributes: BTreeMap<String, Attribute> = view
        .attributes()
        .filter_map(|(name, value)| Some((name.to_string(), attribute(value, copies)?)))
        .collect();
    Node {
        name: view.name().into(),
        domain: view.domain().into(),
        op_type: view.op_type().into(),
        version: view.version(),
        inputs,
        outputs,
        attributes,
    }
}

fn attribute(value: AttributeView<'_>, copies: &mut Vec<Constant>) -> Option<Attribute> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some(match value {
        AttributeView::Int(value) => Attribute::Int(value),
        AttributeView::Float(value) => Attribute::Float(value),
        AttributeView::String(value) => Attribute::String(text(value)),
        AttributeView::Ints(values) => Attribute::Ints(values.to_vec()),
        AttributeView::Floats(values) => Attribute::Floats(values.to_vec()),
        AttributeView::Strings(values) => Attribute::Strings(values.iter().map(text).collect()),
        AttributeView::Tensor(view) => {
            let mut constant = refer(view)?;
            constant.align();
            let tensor = constant.view();
            copies.push(constant);
            Attribute::Tensor(tensor)
        }
        _ => return None,
    })
}

fn describe(value: ValueView<'_>, copies: &mut Vec<Constant>) -> ValueInfo {
    let dims = value.dims().map(|dims| dims.iter().map(|&dim| usize::try_from(dim).ok()).collect());
    let mut constant = value.constant().and_then(refer);
    if let Some(constant) = &mut constant
        && (constant.is_aligned() || constant.byte_len() <= COPY_LIMIT)
    {
        constant.align();
    }
    let constant = constant.filter(Constant::is_aligned).map(|constant| {
        let tensor = constant.view();
        copies.push(constant);
        tensor
    });
    ValueInfo { name: value.name().into(), dtype: value.dtype(), dims, constant }
}

fn refer(view: TensorView<'_>) -> Option<Constant> {
    let dims: Dims = view.dims().iter().map(|&dim| usize::try_from(dim).ok()).collect::<Option<_>>()?;
    let expected = crate::tensor::byte_len(view.dtype(), &dims);
    if view.dtype() != DType::String && expected.ok() != Some(view.byte_len()) {
        return None;
    }
    // SAFETY: the host keeps the bytes valid for the call, and longer where it says so; callers copy otherwise.
    Some(unsafe { Constant::borrowed(view.dtype(), dims, view.data().cast_const().cast(), view.byte_len()) })
}
