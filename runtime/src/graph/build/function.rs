//! Calls of functions, replaced by the function's nodes.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use super::scope::Frame;
use super::{Builder, canonical_domain};
use crate::error::{Error, Result};
use crate::graph::{Attribute, Attributes, Node, Opsets, ValueId};
use crate::model::attribute_from_proto;
use crate::model::proto::FunctionProto;

impl<'a> Builder<'a> {
    /// Adds the nodes of `function` to the graph of scope `frame` and returns the values of its outputs.
    ///
    /// `outputs` are values that nothing computes yet and that the function's outputs become; an output without one
    /// gets a new value. The result is `None` for an output that is an input which the call leaves out.
    pub(in crate::graph) fn call(
        &mut self,
        frame: usize,
        function: &'a FunctionProto,
        prefix: &str,
        inputs: &[Option<ValueId>],
        outputs: &[Option<ValueId>],
        attributes: Attributes,
    ) -> Result<Vec<Option<ValueId>>> {
        let key = (canonical_domain(&function.domain), function.name.as_str(), function.overload.as_str());
        if self.active.contains(&key) {
            let chain: Vec<&str> = self.active.iter().map(|k| k.1).chain([key.1]).collect();
            return Err(Error::invalid_model(format!(
                "functions call each other in a circle: {}",
                chain.join(" -> ")
            )));
        }
        check_counts(function, inputs.len(), outputs.len())?;
        let inner = self.open_call(frame, function, prefix, inputs, outputs, attributes)?;
        self.active.push(key);
        self.declare_outputs(inner, &function.node, &HashMap::new())?;
        self.add_nodes(inner, &function.node)?;
        let results = self.call_results(inner, function, outputs)?;
        self.active.pop();
        self.frames.pop();
        Ok(results)
    }

    fn open_call(
        &mut self,
        frame: usize,
        function: &'a FunctionProto,
        prefix: &str,
        inputs: &[Option<ValueId>],
        outputs: &[Option<ValueId>],
        attributes: Attributes,
    ) -> Result<usize> {
        let mut names = HashMap::with_capacity(function.node.len() + inputs.len());
        for (i, name) in function.input.iter().enumerate() {
            if names.insert(name.as_str(), inputs.get(i).copied().flatten()).is_some() {
                return Err(Error::invalid_model(format!(
                    "function '{}' has two inputs '{name}'",
                    function.name
                )));
            }
        }
        let mut awaited = HashSet::new();
        for (name, value) in function.output.iter().zip(outputs) {
            if let (Some(id), false) = (value, names.contains_key(name.as_str())) {
                names.insert(name, Some(*id));
                awaited.insert(*id);
            }
        }
        let mut opsets: Opsets = (*self.frames[frame].opsets).clone();
        for import in &function.opset_import {
            opsets.insert(canonical_domain(&import.domain).into(), import.version);
        }
        let arguments = Rc::new(self.arguments_of(function, attributes)?);
        let graph = self.frames[frame].graph;
        self.open_frame(Frame {
            graph,
            names,
            outer: None,
            awaited,
            arguments: Some(arguments),
            opsets: Arc::new(opsets),
            prefix: prefix.to_owned(),
        })
    }

    /// The attributes of a call: what it gives, else the function's defaults.
    fn arguments_of(
        &self,
        function: &'a FunctionProto,
        given: Attributes,
    ) -> Result<HashMap<&'a str, Attribute>> {
        let mut arguments = HashMap::new();
        for proto in &function.attribute_proto {
            arguments.insert(proto.name.as_str(), attribute_from_proto(proto, self.limits)?);
        }
        let declared = function.attribute_proto.iter().map(|p| p.name.as_str());
        for name in function.attribute.iter().map(String::as_str).chain(declared) {
            if let Some(value) = given.get(name) {
                arguments.insert(name, value.clone());
            }
        }
        Ok(arguments)
    }

    fn call_results(
        &mut self,
        inner: usize,
        function: &'a FunctionProto,
        outputs: &[Option<ValueId>],
    ) -> Result<Vec<Option<ValueId>>> {
        let mut results = Vec::with_capacity(function.output.len());
        for (i, name) in function.output.iter().enumerate() {
            let found = self.frames[inner].names.get(name.as_str()).copied();
            let found = found.filter(|v| v.is_none_or(|v| !self.frames[inner].awaited.contains(&v)));
            let Some(result) = found else {
                return Err(Error::invalid_model(format!(
                    "function '{}' declares output '{name}', which none of its nodes computes",
                    function.name
                )));
            };
            results.push(result);
            let wanted = outputs.get(i).copied().flatten();
            if let (Some(from), Some(to)) = (result, wanted.filter(|w| Some(*w) != result)) {
                let version = self.version_of(inner, "").unwrap_or(1);
                self.graph_of(inner).add_node(
                    Node::new("", "Identity", version),
                    &[Some(from)],
                    &[Some(to)],
                )?;
            }
        }
        Ok(results)
    }
}

fn check_counts(function: &FunctionProto, inputs: usize, outputs: usize) -> Result<()> {
    for (what, given, declared) in
        [("inputs", inputs, function.input.len()), ("outputs", outputs, function.output.len())]
    {
        if given > declared {
            return Err(Error::invalid_model(format!(
                "the node has {given} {what}, function '{}' has {declared}",
                function.name
            )));
        }
    }
    Ok(())
}
