//! Graph messages to graphs: inputs, initializers, nodes with their bodies, outputs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::scope::{Building, Frame};
use super::{Builder, MAX_FRAMES, OVERRIDABLE_SINCE_IR, canonical_domain};
use crate::error::{Error, Result, ResultExt};
use crate::graph::{Attribute, Attributes, Body, Graph, Node, Opsets, TypeInfo, ValueId};
use crate::model::proto::{AttributeProto, GraphProto, NodeProto, TypeProto, ValueInfoProto};
use crate::model::{
    attribute_from_proto, attribute_kind as kind, attribute_kind_of as kind_of, densify, tensor_from_proto,
    type_from_proto,
};
use crate::tensor::Tensor;

impl<'a> Builder<'a> {
    /// Builds the outermost graph.
    pub(super) fn main_graph(&mut self, proto: &'a GraphProto, opsets: Arc<Opsets>) -> Result<Graph> {
        let frame = self.open_graph(proto, opsets, None)?;
        self.fill_graph(frame, proto)?;
        Ok(self.close_graph().0)
    }

    fn open_graph(&mut self, proto: &GraphProto, opsets: Arc<Opsets>, outer: Option<usize>) -> Result<usize> {
        let mut graph = Graph::new(proto.name.clone(), opsets.clone());
        graph.doc.clone_from(&proto.doc_string);
        self.graphs.push(Building { graph, captures: Vec::new() });
        let arguments = outer.and_then(|f| self.frames[f].arguments.clone());
        let prefix = outer.map_or(String::new(), |f| self.frames[f].prefix.clone());
        self.open_frame(Frame {
            graph: self.graphs.len() - 1,
            names: HashMap::with_capacity(proto.node.len() + proto.initializer.len()),
            outer,
            awaited: HashSet::new(),
            arguments,
            opsets,
            prefix,
        })
    }

    fn close_graph(&mut self) -> (Graph, Vec<ValueId>) {
        self.frames.pop();
        let done = self.graphs.pop().expect("every open graph was pushed");
        (done.graph, done.captures)
    }

    pub(super) fn open_frame(&mut self, frame: Frame<'a>) -> Result<usize> {
        if self.frames.len() >= MAX_FRAMES {
            return Err(Error::limit(format!(
                "bodies and function calls are nested deeper than {MAX_FRAMES}"
            )));
        }
        self.frames.push(frame);
        Ok(self.frames.len() - 1)
    }

    fn fill_graph(&mut self, frame: usize, proto: &'a GraphProto) -> Result<()> {
        self.add_inputs(frame, proto)?;
        self.add_initializers(frame, proto)?;
        let described = proto.value_info.iter().chain(&proto.output);
        let types = described.filter_map(|v| Some((v.name.as_str(), v.r#type.as_deref()?))).collect();
        self.declare_outputs(frame, &proto.node, &types)?;
        self.add_nodes(frame, &proto.node)?;
        for output in &proto.output {
            let value = self.resolve(frame, &output.name).flatten();
            let value = value.ok_or_else(|| self.unknown_name(frame, "graph output", &output.name))?;
            let declared = declared_type(output)?;
            self.graph_of(frame).add_output(output.name.as_str(), value, declared);
        }
        Ok(())
    }

    fn add_inputs(&mut self, frame: usize, proto: &'a GraphProto) -> Result<()> {
        let is_main = self.frames[frame].outer.is_none();
        let fixed: HashSet<&str> = if is_main && self.ir_version < OVERRIDABLE_SINCE_IR {
            let sparse = proto.sparse_initializer.iter().filter_map(|s| s.values.as_ref());
            proto.initializer.iter().chain(sparse).map(|t| t.name.as_str()).collect()
        } else {
            HashSet::new()
        };
        for input in proto.input.iter().filter(|i| !fixed.contains(i.name.as_str())) {
            if input.name.is_empty() {
                return Err(Error::invalid_model("a graph input has no name"));
            }
            let ty = declared_type(input)?;
            let id = self.graph_of(frame).add_input(&input.name, ty)?;
            self.frames[frame].names.insert(&input.name, Some(id));
        }
        Ok(())
    }

    fn add_initializers(&mut self, frame: usize, proto: &'a GraphProto) -> Result<()> {
        for tensor in &proto.initializer {
            self.add_initializer(frame, &tensor.name, tensor_from_proto(tensor)?)?;
        }
        for sparse in &proto.sparse_initializer {
            let name = sparse.values.as_ref().map_or("", |v| v.name.as_str());
            self.add_initializer(frame, name, densify(sparse, self.limits)?)?;
        }
        Ok(())
    }

    fn add_initializer(&mut self, frame: usize, name: &'a str, tensor: Tensor) -> Result<()> {
        if name.is_empty() {
            return Err(Error::invalid_model("an initializer has no name"));
        }
        let known = self.frames[frame].names.get(name).copied().flatten();
        let graph = self.graph_of(frame);
        let Some(input) = known else {
            let id = graph.add_constant(name, tensor);
            self.frames[frame].names.insert(name, Some(id));
            return Ok(());
        };
        if !graph.value(input).is_input() || graph.value(input).default().is_some() {
            return Err(Error::invalid_model(format!(
                "two initializers are named '{name}'; names must be unique"
            )));
        }
        graph.set_default(input, Some(tensor));
        Ok(())
    }

    /// Gives every node output of a scope a value; outputs of Constant nodes get their contents as well.
    pub(super) fn declare_outputs(
        &mut self,
        frame: usize,
        nodes: &'a [NodeProto],
        types: &HashMap<&str, &TypeProto>,
    ) -> Result<()> {
        for proto in nodes {
            for name in proto.output.iter().filter(|o| !o.is_empty()) {
                self.declare_output(frame, name, types).in_node(|| label(proto))?;
            }
            if is_constant(proto) {
                self.fill_constant(frame, proto).in_node(|| label(proto))?;
            }
        }
        Ok(())
    }

    fn declare_output(
        &mut self,
        frame: usize,
        name: &'a str,
        types: &HashMap<&str, &TypeProto>,
    ) -> Result<()> {
        let scope = &mut self.frames[frame];
        if let Some(known) = scope.names.get(name) {
            // An output of the enclosing call has a value already, which one node of the function may compute.
            if known.is_some_and(|v| scope.awaited.remove(&v)) {
                return Ok(());
            }
            return Err(Error::invalid_model(format!(
                "two sources define value '{name}'; every node output, graph input and initializer needs its own name"
            )));
        }
        let shown =
            if scope.prefix.is_empty() { name.to_owned() } else { format!("{}/{name}", scope.prefix) };
        // A type that cannot be read is only a hint lost; the declared types of graph inputs and outputs are checked.
        let ty = types.get(name).and_then(|t| type_from_proto(t).ok()).flatten();
        let id = self.graph_of(frame).add_value(&shown, ty);
        self.frames[frame].names.insert(name, Some(id));
        Ok(())
    }

    fn fill_constant(&mut self, frame: usize, proto: &'a NodeProto) -> Result<()> {
        let Some(name) = proto.output.first().filter(|o| !o.is_empty()) else { return Ok(()) };
        let tensor = self.constant_of(frame, proto)?;
        let id = self.frames[frame].names.get(name.as_str()).copied().flatten();
        let id = id.ok_or_else(|| Error::internal(format!("constant '{name}' was not declared")))?;
        self.graph_of(frame).make_constant(id, tensor)
    }

    fn constant_of(&mut self, frame: usize, proto: &'a NodeProto) -> Result<Tensor> {
        let attributes = self.attributes_of(frame, &proto.attribute)?;
        let mut values =
            attributes.iter().filter(|(name, _)| name.starts_with("value") || *name == "sparse_value");
        let (Some((name, value)), None) = (values.next(), values.next()) else {
            return Err(Error::invalid_model("a Constant node needs exactly one value attribute"));
        };
        match value {
            Attribute::Tensor(t) => Ok(t.clone()),
            Attribute::Float(v) => Ok(Tensor::scalar(*v)),
            Attribute::Int(v) => Ok(Tensor::scalar(*v)),
            Attribute::String(v) => Tensor::from_strings(&[], &[v]),
            Attribute::Floats(v) => Tensor::from_slice(&[v.len()], v),
            Attribute::Ints(v) => Tensor::from_slice(&[v.len()], v),
            Attribute::Strings(v) => Tensor::from_strings(&[v.len()], v),
            other => Err(Error::invalid_model(format!(
                "attribute '{name}' of a Constant cannot be {}",
                other.kind()
            ))),
        }
    }

    /// Adds the nodes of a scope, whose outputs are declared.
    pub(super) fn add_nodes(&mut self, frame: usize, nodes: &'a [NodeProto]) -> Result<()> {
        for proto in nodes.iter().filter(|n| !is_constant(n)) {
            self.add_node(frame, proto).in_node(|| label(proto))?;
        }
        Ok(())
    }

    fn add_node(&mut self, frame: usize, proto: &'a NodeProto) -> Result<()> {
        self.node_count += 1;
        if self.node_count > self.limits.max_nodes {
            return Err(Error::limit(format!(
                "the graph has more nodes than the limit of {} once functions are inlined",
                self.limits.max_nodes
            )));
        }
        if proto.op_type.is_empty() {
            return Err(Error::invalid_model("the node has no op_type; it must name an operator"));
        }
        let inputs = self.inputs_of(frame, proto)?;
        let names = &self.frames[frame].names;
        let outputs: Vec<_> = proto.output.iter().map(|o| names.get(o.as_str()).copied().flatten()).collect();
        let attributes = self.attributes_of(frame, &proto.attribute)?;
        let domain = canonical_domain(&proto.domain);
        if let Some(function) = self.functions.get(&(domain, &proto.op_type, &proto.overload)).copied() {
            if proto.attribute.iter().any(holds_graph) {
                return Err(Error::unsupported("graph attributes of function calls are not supported"));
            }
            let prefix = self.prefixed(frame, &proto.name, proto);
            self.call(frame, function, &prefix, &inputs, &outputs, attributes)?;
            return Ok(());
        }
        let version = self.version_of(frame, domain)?;
        let mut node = Node::new(self.intern(domain), self.intern(&proto.op_type), version);
        node.name =
            if proto.name.is_empty() { String::new() } else { self.prefixed(frame, &proto.name, proto) };
        node.attributes = attributes;
        for attribute in proto.attribute.iter().filter(|a| holds_graph(a)) {
            node = node.with_body(self.body_of(frame, attribute)?);
        }
        let id = self.graph_of(frame).add_node(node, &inputs, &outputs)?;
        if self.frames[frame].graph == 0 {
            self.added.push(id);
        }
        Ok(())
    }

    fn prefixed(&self, frame: usize, name: &str, proto: &NodeProto) -> String {
        let name = if name.is_empty() { proto.op_type.as_str() } else { name };
        match self.frames[frame].prefix.as_str() {
            "" => name.to_owned(),
            prefix => format!("{prefix}/{name}"),
        }
    }

    fn inputs_of(&mut self, frame: usize, proto: &'a NodeProto) -> Result<Vec<Option<ValueId>>> {
        let mut inputs = Vec::with_capacity(proto.input.len());
        for name in &proto.input {
            inputs.push(match name.as_str() {
                "" => None,
                name => self.resolve(frame, name).ok_or_else(|| self.unknown_name(frame, "input", name))?,
            });
        }
        while inputs.last() == Some(&None) {
            inputs.pop();
        }
        Ok(inputs)
    }

    /// The attributes that are not graphs; references to function attributes are replaced by what the call gives.
    fn attributes_of(&mut self, frame: usize, protos: &'a [AttributeProto]) -> Result<Attributes> {
        let mut attributes = Attributes::new();
        for proto in protos.iter().filter(|a| !holds_graph(a)) {
            let value = if proto.ref_attr_name.is_empty() {
                Some(attribute_from_proto(proto, self.limits)?)
            } else {
                let arguments = self.frames[frame].arguments.as_ref().ok_or_else(|| {
                    Error::invalid_model(format!(
                        "attribute '{}' refers to function attribute '{}', but the node is in no function",
                        proto.name, proto.ref_attr_name
                    ))
                })?;
                arguments.get(proto.ref_attr_name.as_str()).cloned()
            };
            if let Some(value) = value {
                let name = self.intern(&proto.name);
                attributes.set(name, value);
            }
        }
        Ok(attributes)
    }

    fn body_of(&mut self, frame: usize, attribute: &'a AttributeProto) -> Result<Body> {
        let proto = match (kind_of(attribute), attribute.g.as_deref()) {
            (kind::GRAPH, Some(graph)) if attribute.ref_attr_name.is_empty() => graph,
            _ => {
                return Err(Error::unsupported(format!(
                    "attribute '{}' is a list of graphs or a reference to one, which no operator uses",
                    attribute.name
                )));
            }
        };
        let opsets = self.frames[frame].opsets.clone();
        let inner = self.open_graph(proto, opsets, Some(frame))?;
        self.fill_graph(inner, proto)?;
        let (graph, captures) = self.close_graph();
        Ok(Body::new(self.intern(&attribute.name), graph, captures))
    }
}

fn declared_type(info: &ValueInfoProto) -> Result<Option<TypeInfo>> {
    let ty = info.r#type.as_deref().map(type_from_proto).transpose();
    Ok(ty.map_err(|e| Error::new(e.kind(), format!("value '{}': {}", info.name, e.message())))?.flatten())
}

fn is_constant(proto: &NodeProto) -> bool {
    proto.op_type == "Constant" && canonical_domain(&proto.domain).is_empty()
}

fn holds_graph(attribute: &AttributeProto) -> bool {
    matches!(kind_of(attribute), kind::GRAPH | kind::GRAPHS)
}

/// What identifies a node in messages: its name, else its operator and first output.
fn label(proto: &NodeProto) -> String {
    match proto.output.iter().find(|o| !o.is_empty()) {
        _ if !proto.name.is_empty() => proto.name.clone(),
        Some(output) => format!("{} -> {output}", proto.op_type),
        None => proto.op_type.clone(),
    }
}
