//! Edits of a graph. Every edit keeps the dependency edges, the uses of values and the names in step.

use std::sync::Arc;

use smallvec::SmallVec;

use super::node::Link;
use super::{Graph, ModelInfo, Node, NodeId, Output, Slot, TypeInfo, Use, Value, ValueId};
use crate::error::{Error, Result};
use crate::tensor::Tensor;

impl Graph {
    /// Adds a value that nothing produces yet. A name that is taken gets a suffix; an empty one a made-up name.
    pub fn add_value(&mut self, name: &str, ty: Option<TypeInfo>) -> ValueId {
        let name = self.unique_name(name);
        self.insert_value(name, ty)
    }

    /// Adds a constant; a name that is taken gets a suffix.
    pub fn add_constant(&mut self, name: &str, tensor: Tensor) -> ValueId {
        let ty = tensor.type_info();
        let id = self.add_value(name, Some(ty));
        self.value_mut(id).constant = Some(tensor);
        id
    }

    /// Appends an input; an error when the name is taken.
    pub fn add_input(&mut self, name: &str, ty: Option<TypeInfo>) -> Result<ValueId> {
        if self.by_name.contains_key(name) {
            return Err(Error::invalid_model(format!(
                "two values are named '{name}', one of them a graph input; names must be unique"
            )));
        }
        let id = self.insert_value(name.into(), ty);
        self.adopt_input(id);
        Ok(id)
    }

    /// Makes a value that nothing computes an input.
    pub(super) fn adopt_input(&mut self, value: ValueId) {
        self.value_mut(value).is_input = true;
        self.inputs.push(value);
    }

    /// Gives an input the contents it has when the caller does not feed it.
    pub fn set_default(&mut self, input: ValueId, tensor: Option<Tensor>) {
        self.value_mut(input).default = tensor;
    }

    /// Turns every input that has a default into a constant, so that it can be folded.
    pub fn freeze_defaults(&mut self) {
        for id in self.inputs.clone() {
            let value = self.value_mut(id);
            if let Some(tensor) = value.default.take() {
                value.is_input = false;
                value.ty = Some(tensor.type_info());
                value.constant = Some(tensor);
                self.inputs.retain(|i| *i != id);
            }
        }
    }

    /// Removes an input that nothing reads, and with it the value.
    pub fn remove_input(&mut self, input: ValueId) -> Result<()> {
        if !self.is_unused(input) {
            return Err(Error::internal(format!("input '{}' is still read", self.value(input).name())));
        }
        self.inputs.retain(|i| *i != input);
        self.value_mut(input).is_input = false;
        self.remove_value(input)
    }

    /// Appends an output named `name` that returns `value`.
    pub fn add_output(&mut self, name: impl Into<Arc<str>>, value: ValueId, declared: Option<TypeInfo>) {
        self.outputs.push(Output { name: name.into(), value, declared });
    }

    /// Replaces all outputs.
    pub fn set_outputs(&mut self, outputs: Vec<Output>) {
        self.outputs = outputs;
    }

    /// Puts another value behind output `index`; its name stays.
    pub fn set_output_value(&mut self, index: usize, value: ValueId) {
        self.outputs[index].value = value;
    }

    /// Sets or clears the type of a value.
    pub fn set_type(&mut self, value: ValueId, ty: Option<TypeInfo>) {
        self.value_mut(value).ty = ty;
    }

    /// Renames a value; an error when the name is taken.
    pub fn rename_value(&mut self, value: ValueId, name: &str) -> Result<()> {
        if self.value(value).name() == name {
            return Ok(());
        }
        if self.by_name.contains_key(name) {
            return Err(Error::internal(format!("a value named '{name}' exists already")));
        }
        let name: Arc<str> = name.into();
        let old = std::mem::replace(&mut self.value_mut(value).name, name.clone());
        self.by_name.remove(&old);
        self.by_name.insert(name, value);
        Ok(())
    }

    /// Makes `value` a constant: its producer no longer computes it.
    pub fn make_constant(&mut self, value: ValueId, tensor: Tensor) -> Result<()> {
        if self.value(value).is_input {
            return Err(Error::internal(format!("input '{}' cannot be constant", self.value(value).name())));
        }
        if let Some((node, slot)) = self.producer(value) {
            self.set_output(node, slot, None)?;
        }
        let v = self.value_mut(value);
        v.ty = Some(tensor.type_info());
        v.constant = Some(tensor);
        Ok(())
    }

    /// Drops the contents of a constant, for instance after a provider has packed them. What reads it must be gone
    /// from this graph or know the contents otherwise.
    pub fn take_constant(&mut self, value: ValueId) -> Option<Tensor> {
        self.value_mut(value).constant.take()
    }

    /// Adds a node that reads `inputs` and computes `outputs`, which nothing else computes.
    pub fn add_node(
        &mut self,
        mut node: Node,
        inputs: &[Option<ValueId>],
        outputs: &[Option<ValueId>],
    ) -> Result<NodeId> {
        for v in outputs.iter().flatten() {
            self.check_assignable(*v)?;
        }
        for (i, v) in outputs.iter().enumerate() {
            if v.is_some() && outputs[..i].contains(v) {
                return Err(Error::internal(format!("a {} node lists one output twice", node.operator())));
            }
        }
        self.order.take();
        node.inputs = SmallVec::from_slice(inputs);
        node.links = SmallVec::from_elem(None, inputs.len());
        node.outputs = SmallVec::from_slice(outputs);
        let unlinked = Link { use_index: 0, edge: None };
        for body in &mut node.bodies {
            body.links = vec![unlinked; body.captures.len()];
        }
        let captures: Vec<_> = slots_of_captures(&node).collect();
        let id = NodeId(self.dag.add_node(node));
        for (i, v) in inputs.iter().enumerate() {
            if let Some(v) = v {
                self.attach(*v, Use { node: id, slot: Slot::Input(i as u32) });
            }
        }
        for (slot, v) in captures {
            self.attach(v, Use { node: id, slot });
        }
        for (i, v) in outputs.iter().enumerate() {
            if let Some(v) = v {
                self.set_producer(*v, Some((id, i as u32)));
            }
        }
        Ok(id)
    }

    /// Adds a node whose `output_count` outputs are new values named after `name`, and returns them with the node.
    pub fn append(
        &mut self,
        node: Node,
        inputs: &[Option<ValueId>],
        output_count: usize,
    ) -> Result<(NodeId, Vec<ValueId>)> {
        let hint = if node.name.is_empty() { node.op_type.to_string() } else { node.name.clone() };
        let outputs: Vec<ValueId> = (0..output_count).map(|_| self.add_value(&hint, None)).collect();
        let slots: Vec<_> = outputs.iter().copied().map(Some).collect();
        Ok((self.add_node(node, inputs, &slots)?, outputs))
    }

    /// Removes a node and returns it. Its outputs stay as values without producer where something reads them, and go
    /// otherwise; [`Graph::check`] rejects a value that is read but not computed.
    pub fn remove_node(&mut self, id: NodeId) -> Node {
        self.order.take();
        let outputs = self.node(id).outputs.clone();
        for v in outputs.iter().flatten() {
            self.set_producer(*v, None);
        }
        let reads = self.reads_of(id);
        for (slot, v) in reads {
            self.detach(v, Use { node: id, slot });
        }
        let node = self.dag.remove_node(id.0).expect("the node was just read");
        for v in outputs.iter().flatten() {
            if self.is_unused(*v) {
                self.drop_value(*v);
            }
        }
        node
    }

    /// Removes a value that nothing reads or computes.
    pub fn remove_value(&mut self, id: ValueId) -> Result<()> {
        let value = self.value(id);
        if !self.is_unused(id) || value.producer.is_some() || value.is_input {
            return Err(Error::internal(format!("value '{}' is still in use", value.name())));
        }
        self.drop_value(id);
        Ok(())
    }

    /// Makes every reader of `old`, graph outputs included, read `new`.
    pub fn replace_all_uses(&mut self, old: ValueId, new: ValueId) {
        if old == new {
            return;
        }
        self.replace_node_uses(old, new);
        for output in &mut self.outputs {
            if output.value == old {
                output.value = new;
            }
        }
    }

    /// Makes every node that reads `old` read `new`; graph outputs keep returning `old`.
    pub fn replace_node_uses(&mut self, old: ValueId, new: ValueId) {
        if old == new {
            return;
        }
        self.order.take();
        while let Some(last) = self.value(old).uses.last().copied() {
            self.detach(old, last);
            self.point_slot_at(last, new);
            self.attach(new, last);
        }
    }

    /// Sets, replaces or leaves out input `index` of a node, lengthening its input list as needed.
    pub fn set_input(&mut self, node: NodeId, index: usize, value: Option<ValueId>) {
        self.order.take();
        let n = self.node_mut(node);
        if index >= n.inputs.len() {
            n.inputs.resize(index + 1, None);
            n.links.resize(index + 1, None);
        }
        let at = Use { node, slot: Slot::Input(index as u32) };
        if let Some(old) = self.node(node).inputs[index] {
            self.detach(old, at);
        }
        self.node_mut(node).inputs[index] = value;
        if let Some(v) = value {
            self.attach(v, at);
        }
    }

    /// Shortens the input list of a node to `count`.
    pub fn truncate_inputs(&mut self, node: NodeId, count: usize) {
        for index in count..self.node(node).inputs.len() {
            self.set_input(node, index, None);
        }
        let n = self.node_mut(node);
        n.inputs.truncate(count);
        n.links.truncate(count);
    }

    /// Makes `value`, which nothing computes, output `index` of a node, or leaves that output out.
    pub fn set_output(&mut self, node: NodeId, index: usize, value: Option<ValueId>) -> Result<()> {
        if self.node(node).output(index) == value {
            return Ok(());
        }
        if let Some(v) = value {
            self.check_assignable(v)?;
        }
        self.order.take();
        let n = self.node_mut(node);
        if index >= n.outputs.len() {
            n.outputs.resize(index + 1, None);
        }
        if let Some(old) = std::mem::replace(&mut n.outputs[index], value) {
            self.set_producer(old, None);
        }
        if let Some(v) = value {
            self.set_producer(v, Some((node, index as u32)));
        }
        Ok(())
    }

    /// The nested graph of body number `body`; its inputs change only through the capture functions.
    pub fn body_graph_mut(&mut self, node: NodeId, body: usize) -> &mut Graph {
        &mut self.node_mut(node).bodies[body].graph
    }

    /// Makes a body capture `value` and returns the new input of the body.
    pub fn add_capture(&mut self, node: NodeId, body: usize, value: ValueId) -> ValueId {
        self.order.take();
        let (name, ty) = (self.value(value).shared_name(), self.value(value).ty.clone());
        let b = &mut self.node_mut(node).bodies[body];
        let inner = b.graph.add_value(&name, ty);
        b.graph.adopt_input(inner);
        let index = b.captures.len() as u32;
        b.captures.push(value);
        b.links.push(Link { use_index: 0, edge: None });
        self.attach(value, Use { node, slot: Slot::Capture { body: body as u32, index } });
        inner
    }

    /// Removes capture `index` of a body, whose input nothing in the body may read any more.
    pub fn remove_capture(&mut self, node: NodeId, body: usize, index: usize) -> Result<()> {
        let inner = self.node(node).bodies[body].capture_inputs()[index];
        self.body_graph_mut(node, body).remove_input(inner)?;
        self.drop_capture(node, body, index);
        Ok(())
    }

    /// Replaces capture `index` of a body by a constant inside it.
    pub fn capture_to_constant(&mut self, node: NodeId, body: usize, index: usize, tensor: Tensor) {
        let inner = self.node(node).bodies[body].capture_inputs()[index];
        let graph = self.body_graph_mut(node, body);
        graph.inputs.retain(|i| *i != inner);
        let value = graph.value_mut(inner);
        value.is_input = false;
        value.ty = Some(tensor.type_info());
        value.constant = Some(tensor);
        self.drop_capture(node, body, index);
    }

    fn drop_capture(&mut self, node: NodeId, body: usize, index: usize) {
        self.order.take();
        let all = self.node(node).bodies[body].captures.clone();
        let at = |i: usize| Use { node, slot: Slot::Capture { body: body as u32, index: i as u32 } };
        for (i, v) in all.iter().enumerate().skip(index) {
            self.detach(*v, at(i));
        }
        let b = &mut self.node_mut(node).bodies[body];
        b.captures.remove(index);
        b.links.pop();
        for (i, v) in all.iter().enumerate().skip(index + 1) {
            self.attach(*v, at(i - 1));
        }
    }

    /// Sets what the model file says about itself.
    pub fn set_info(&mut self, info: ModelInfo) {
        self.info = Arc::new(info);
    }

    /// Removes the values added since `bound` was [`Graph::value_bound`] that have neither a source nor a reader.
    pub(super) fn drop_unused_since(&mut self, bound: usize) {
        for index in bound..self.values.len() {
            let id = ValueId::from_index(index);
            if self.get_value(id).is_some_and(|v| v.producer.is_none()) && self.is_unused(id) {
                self.drop_value(id);
            }
        }
    }

    fn check_assignable(&self, id: ValueId) -> Result<()> {
        let value = self.value(id);
        let why = if value.producer.is_some() {
            "computed by another node"
        } else if value.is_input {
            "a graph input"
        } else if value.constant.is_some() {
            "a constant"
        } else {
            return Ok(());
        };
        Err(Error::invalid_model(format!(
            "value '{}' is already {why}; a value has one source",
            value.name()
        )))
    }

    fn insert_value(&mut self, name: Arc<str>, ty: Option<TypeInfo>) -> ValueId {
        let id = ValueId::from_index(self.values.len());
        self.by_name.insert(name.clone(), id);
        self.live_values += 1;
        self.values.push(Some(Value {
            name,
            ty,
            constant: None,
            default: None,
            producer: None,
            is_input: false,
            uses: SmallVec::new(),
        }));
        id
    }

    fn drop_value(&mut self, id: ValueId) {
        if let Some(value) = self.values[id.index()].take() {
            self.by_name.remove(&value.name);
            self.live_values -= 1;
        }
    }

    fn unique_name(&mut self, wanted: &str) -> Arc<str> {
        if !wanted.is_empty() && !self.by_name.contains_key(wanted) {
            return wanted.into();
        }
        let stem = if wanted.is_empty() { "value" } else { wanted };
        loop {
            self.next_suffix += 1;
            let name = format!("{stem}_{}", self.next_suffix);
            if !self.by_name.contains_key(name.as_str()) {
                return name.into();
            }
        }
    }

    fn reads_of(&self, id: NodeId) -> Vec<(Slot, ValueId)> {
        let node = self.node(id);
        let inputs = node.inputs.iter().enumerate().filter_map(|(i, v)| Some((Slot::Input(i as u32), (*v)?)));
        inputs.chain(slots_of_captures(node)).collect()
    }

    fn point_slot_at(&mut self, at: Use, value: ValueId) {
        let node = &mut self.dag[at.node.0];
        match at.slot {
            Slot::Input(i) => node.inputs[i as usize] = Some(value),
            Slot::Capture { body, index } => node.bodies[body as usize].captures[index as usize] = value,
        }
    }

    fn link_mut(&mut self, at: Use) -> &mut Link {
        let node = &mut self.dag[at.node.0];
        match at.slot {
            Slot::Input(i) => node.links[i as usize].get_or_insert(Link { use_index: 0, edge: None }),
            Slot::Capture { body, index } => &mut node.bodies[body as usize].links[index as usize],
        }
    }

    fn attach(&mut self, value: ValueId, at: Use) {
        let v = self.value_mut(value);
        let use_index = v.uses.len() as u32;
        v.uses.push(at);
        let producer = v.producer;
        let edge = producer.map(|(p, _)| self.dag.add_edge(p.0, at.node.0, ()));
        *self.link_mut(at) = Link { use_index, edge };
    }

    fn detach(&mut self, value: ValueId, at: Use) {
        let Link { use_index, edge } = *self.link_mut(at);
        if let Some(edge) = edge {
            self.dag.remove_edge(edge);
        }
        if let Slot::Input(i) = at.slot {
            self.dag[at.node.0].links[i as usize] = None;
        }
        let uses = &mut self.value_mut(value).uses;
        uses.swap_remove(use_index as usize);
        if let Some(moved) = uses.get(use_index as usize).copied() {
            self.link_mut(moved).use_index = use_index;
        }
    }

    fn set_producer(&mut self, value: ValueId, producer: Option<(NodeId, u32)>) {
        let v = self.value_mut(value);
        v.producer = producer;
        let uses = std::mem::take(&mut v.uses);
        for at in &uses {
            if let Some(edge) = self.link_mut(*at).edge.take() {
                self.dag.remove_edge(edge);
            }
            let edge = producer.map(|(p, _)| self.dag.add_edge(p.0, at.node.0, ()));
            self.link_mut(*at).edge = edge;
        }
        self.value_mut(value).uses = uses;
    }
}

fn slots_of_captures(node: &Node) -> impl Iterator<Item = (Slot, ValueId)> {
    node.bodies.iter().enumerate().flat_map(|(b, body)| {
        let slot = move |k: usize| Slot::Capture { body: b as u32, index: k as u32 };
        body.captures.iter().enumerate().map(move |(k, v)| (slot(k), *v))
    })
}
