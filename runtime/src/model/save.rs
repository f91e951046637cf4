//! Writes a graph as an ONNX file, its large constants beside it when the file would be too large.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::attribute::{attribute_to_proto, kind};
use super::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto, ValueInfoProto,
};
use super::tensor::tensor_to_proto;
use super::types::type_to_proto;
use crate::error::{Error, Result, ResultExt, Stage};
use crate::graph::{Graph, Node, TypeInfo, ValueId};
use crate::tensor::Tensor;

/// The IR version that is written.
const IR_VERSION: i64 = 14;

/// Offsets of external data are multiples of this, so that readers can map tensors at page borders.
const EXTERNAL_ALIGNMENT: u64 = 4096;

/// The domain of functions that hold nodes of another operator set version than the model imports.
const VERSIONED_DOMAIN: &str = "tenon.versioned";

/// How a model is written.
#[derive(Clone, Debug)]
pub struct SaveOptions {
    /// Constants of at least this many bytes go to `FILE.data` when any must.
    pub external_threshold: usize,
    /// Constants go to `FILE.data` when all of them together take more bytes than this; a protobuf file ends at 2 GiB.
    pub max_embedded_bytes: usize,
}

impl Default for SaveOptions {
    fn default() -> Self {
        SaveOptions { external_threshold: 1024, max_embedded_bytes: 3 << 29 }
    }
}

/// Writes `graph` to `path`. Files appear under their names only when they are complete, so that a model may be written
/// over the file it was loaded from.
pub fn save(graph: &Graph, path: impl AsRef<Path>, options: &SaveOptions) -> Result<()> {
    let path = path.as_ref();
    let write = || {
        let mut model = to_proto(graph)?;
        let mut external = None;
        if graph.constant_bytes() > options.max_embedded_bytes {
            external = Some(write_external(&mut model, path, options)?);
        }
        let bytes = model.encode_to_vec();
        write_then_rename(path, |file| file.write_all(&bytes))?;
        match external {
            Some((partial, complete)) => {
                std::fs::rename(&partial, &complete).map_err(|e| Error::io("write", &complete, e))
            }
            None => Ok(()),
        }
    };
    write().at_stage(Stage::Load)
}

/// The messages of a graph; constants share the graph's memory.
///
/// A node under another version of its domain than the graph imports becomes a call of a function that imports that
/// version; loading the file puts the node back.
pub fn to_proto(graph: &Graph) -> Result<ModelProto> {
    let mut writer = Writer { opsets: (*graph.opsets).clone(), functions: Vec::new() };
    let proto = writer.graph(graph, None, &[])?;
    if !writer.functions.is_empty() {
        writer.opsets.insert(VERSIONED_DOMAIN.into(), 1);
    }
    let info = &graph.info;
    Ok(ModelProto {
        ir_version: IR_VERSION,
        producer_name: "tenon".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        domain: info.domain.clone(),
        model_version: info.model_version,
        doc_string: info.doc.clone(),
        graph: Some(proto),
        opset_import: imports(&writer.opsets),
        metadata_props: info.metadata.iter().map(|(key, value)| entry(key, value)).collect(),
        training_info: Vec::new(),
        functions: writer.functions,
    })
}

fn imports(opsets: &BTreeMap<Arc<str>, i64>) -> Vec<OperatorSetIdProto> {
    opsets
        .iter()
        .map(|(domain, version)| OperatorSetIdProto { domain: domain.to_string(), version: *version })
        .collect()
}

fn entry(key: &str, value: &str) -> StringStringEntryProto {
    StringStringEntryProto { key: key.to_owned(), value: value.to_owned() }
}

struct Writer {
    opsets: BTreeMap<Arc<str>, i64>,
    functions: Vec<FunctionProto>,
}

/// The names that values of one graph get in the file.
#[derive(Default)]
struct Names {
    of_value: HashMap<ValueId, String>,
    /// Every name that is visible, those of outer graphs included.
    taken: HashSet<String>,
    /// The visible constants.
    constants: HashMap<String, Tensor>,
    /// Constants that an outer graph writes.
    inherited: HashSet<ValueId>,
}

impl Names {
    fn of(&self, value: ValueId) -> String {
        self.of_value.get(&value).cloned().unwrap_or_default()
    }

    /// `wanted`, or with a suffix where it is taken.
    fn claim(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_owned();
        let mut suffix = 0;
        while !self.taken.insert(name.clone()) {
            suffix += 1;
            name = format!("{wanted}_{suffix}");
        }
        name
    }
}

impl Writer {
    /// The messages of a graph inside the one named `outer`; its last inputs are known as `captured` there.
    fn graph(&mut self, graph: &Graph, outer: Option<&Names>, captured: &[String]) -> Result<GraphProto> {
        let names = name_values(graph, outer, captured);
        let formal = &graph.inputs()[..graph.inputs().len() - captured.len()];
        let mut proto =
            GraphProto { name: graph.name.clone(), doc_string: graph.doc.clone(), ..GraphProto::default() };
        if proto.name.is_empty() {
            proto.name = "graph".into();
        }
        for input in formal {
            let value = graph.value(*input);
            proto.input.push(value_info(&names.of(*input), value.ty()));
            if let Some(default) = value.default() {
                proto.initializer.push(tensor_to_proto(&names.of(*input), default));
            }
        }
        for id in graph.value_ids() {
            let value = graph.value(id);
            match value.constant() {
                Some(_) if names.inherited.contains(&id) => {}
                Some(tensor) => proto.initializer.push(tensor_to_proto(&names.of(id), tensor)),
                None if !value.is_input() && value.ty().is_some() && !graph.is_output(id) => {
                    proto.value_info.push(value_info(&names.of(id), value.ty()));
                }
                None => {}
            }
        }
        for id in graph.topological_order()? {
            let node = graph.node(*id);
            let written = self.node(node, &names).in_node(|| node.label(graph))?;
            proto.node.push(written);
        }
        write_outputs(graph, names, outer.is_none(), captured.len(), &mut proto);
        Ok(proto)
    }

    fn node(&mut self, node: &Node, names: &Names) -> Result<NodeProto> {
        let imported = *self.opsets.entry(node.domain.clone()).or_insert(node.version);
        if imported == node.version { self.plain(node, names) } else { self.versioned(node, names) }
    }

    fn plain(&mut self, node: &Node, names: &Names) -> Result<NodeProto> {
        let list = |values: &[Option<ValueId>]| {
            values.iter().map(|v| v.map_or(String::new(), |v| names.of(v))).collect()
        };
        let mut proto = NodeProto {
            input: list(node.inputs()),
            output: list(node.outputs()),
            name: node.name.clone(),
            op_type: node.op_type.to_string(),
            domain: node.domain.to_string(),
            overload: String::new(),
            attribute: node.attributes.iter().map(|(n, a)| attribute_to_proto(n, a)).collect(),
        };
        for body in node.bodies() {
            let captured: Vec<String> = body.captures().iter().map(|v| names.of(*v)).collect();
            let graph = self.graph(body.graph(), Some(names), &captured)?;
            proto.attribute.push(AttributeProto {
                name: body.attribute().to_owned(),
                g: Some(Box::new(graph)),
                r#type: kind::GRAPH,
                ..AttributeProto::default()
            });
        }
        Ok(proto)
    }

    /// A call of a new function that holds only `node` and imports its version; what bodies capture becomes an input.
    fn versioned(&mut self, node: &Node, names: &Names) -> Result<NodeProto> {
        let mut formal = Names::default();
        let mut call =
            NodeProto { domain: VERSIONED_DOMAIN.into(), name: node.name.clone(), ..NodeProto::default() };
        let mut function = FunctionProto { domain: VERSIONED_DOMAIN.into(), ..FunctionProto::default() };
        for value in node.reads() {
            if !formal.of_value.contains_key(&value) {
                let name = formal.claim(&format!("x{}", call.input.len()));
                formal.of_value.insert(value, name.clone());
                function.input.push(name);
                call.input.push(names.of(value));
            }
        }
        for value in node.outputs().iter().flatten() {
            let name = formal.claim(&format!("y{}", call.output.len()));
            formal.of_value.insert(*value, name.clone());
            function.output.push(name);
            call.output.push(names.of(*value));
        }
        let functions_before = self.functions.len();
        let inside = BTreeMap::from([(node.domain.clone(), node.version)]);
        let outside = std::mem::replace(&mut self.opsets, inside);
        let inner = self.plain(node, &formal);
        let mut inside = std::mem::replace(&mut self.opsets, outside);
        if self.functions.len() > functions_before {
            inside.insert(VERSIONED_DOMAIN.into(), 1);
        }
        function.node = vec![inner?];
        function.opset_import = imports(&inside);
        function.name = format!("{}_{}_{}", node.op_type, node.version, self.functions.len());
        call.op_type.clone_from(&function.name);
        self.functions.push(function);
        Ok(call)
    }
}

/// Gives every value a name that is unique among the names visible to it; the main graph's interface keeps its names.
fn name_values(graph: &Graph, outer: Option<&Names>, captured: &[String]) -> Names {
    let mut names = Names::default();
    if let Some(outer) = outer {
        names.taken.clone_from(&outer.taken);
        names.constants.clone_from(&outer.constants);
    }
    let formal_count = graph.inputs().len() - captured.len();
    for (input, name) in graph.inputs()[formal_count..].iter().zip(captured) {
        names.of_value.insert(*input, name.clone());
    }
    for input in &graph.inputs()[..formal_count] {
        let name = names.claim(graph.value(*input).name());
        names.of_value.insert(*input, name);
    }
    if outer.is_none() {
        for output in graph.outputs() {
            let free = !names.of_value.contains_key(&output.value) && !names.taken.contains(&*output.name);
            if free {
                let name = names.claim(&output.name);
                names.of_value.insert(output.value, name);
            }
        }
        names.taken.extend(graph.outputs().iter().map(|o| o.name.to_string()));
    }
    for id in graph.value_ids() {
        let value = graph.value(id);
        let same = |t: &Tensor| names.constants.get(value.name()).is_some_and(|o| shares_memory(o, t));
        if value.constant().is_some_and(same) {
            names.of_value.insert(id, value.name().to_owned());
            names.inherited.insert(id);
            continue;
        }
        let name = match names.of_value.get(&id) {
            Some(name) => name.clone(),
            None => names.claim(value.name()),
        };
        if let Some(tensor) = value.constant() {
            names.constants.insert(name.clone(), tensor.clone());
        }
        names.of_value.insert(id, name);
    }
    names
}

fn shares_memory(a: &Tensor, b: &Tensor) -> bool {
    a.dtype() == b.dtype() && a.dims() == b.dims() && a.as_ptr() == b.as_ptr() && a.byte_len() == b.byte_len()
}

/// Writes the outputs; where the value behind one has another name, an Identity node gives it the right one.
fn write_outputs(graph: &Graph, mut names: Names, is_main: bool, captured: usize, proto: &mut GraphProto) {
    let mut written = HashSet::new();
    let captures = &graph.inputs()[graph.inputs().len() - captured..];
    for output in graph.outputs() {
        let name = names.of(output.value);
        let own = !captures.contains(&output.value) && !names.inherited.contains(&output.value);
        let direct = if is_main { name == *output.name } else { own };
        let ty = output.declared.as_ref().or(graph.value(output.value).ty());
        if direct && written.insert(name.clone()) {
            proto.output.push(value_info(&name, ty));
            continue;
        }
        let reserved = is_main && !written.contains(&*output.name);
        let copy = if reserved { output.name.to_string() } else { names.claim(&output.name) };
        proto.node.push(NodeProto {
            input: vec![name],
            output: vec![copy.clone()],
            op_type: "Identity".into(),
            ..NodeProto::default()
        });
        written.insert(copy.clone());
        proto.output.push(value_info(&copy, ty));
    }
}

fn value_info(name: &str, ty: Option<&TypeInfo>) -> ValueInfoProto {
    ValueInfoProto { name: name.to_owned(), r#type: ty.map(|t| Box::new(type_to_proto(t))) }
}

/// Moves large initializers to the file `PATH.data`, written under a temporary name; returns both names.
fn write_external(model: &mut ModelProto, path: &Path, options: &SaveOptions) -> Result<(PathBuf, PathBuf)> {
    let file_name = path.file_name().and_then(|n| n.to_str());
    let file_name =
        file_name.ok_or_else(|| Error::invalid_input(format!("{} is no file name", path.display())))?;
    let location = format!("{file_name}.data");
    let complete = path.with_file_name(&location);
    let partial = path.with_file_name(format!(".{location}.{}.partial", std::process::id()));
    let fail = |e| Error::io("write", &partial, e);
    let mut file = std::io::BufWriter::new(std::fs::File::create(&partial).map_err(fail)?);
    let mut offset = 0u64;
    let mut write = |tensor: &mut TensorProto| -> std::io::Result<()> {
        let padding = offset.next_multiple_of(EXTERNAL_ALIGNMENT) - offset;
        std::io::copy(&mut std::io::Read::take(std::io::repeat(0), padding), &mut file)?;
        offset += padding;
        let contents = std::mem::replace(&mut tensor.raw_data, Bytes::new());
        file.write_all(&contents)?;
        tensor.data_location = 1;
        tensor.external_data = vec![
            entry("location", &location),
            entry("offset", &offset.to_string()),
            entry("length", &contents.len().to_string()),
        ];
        offset += contents.len() as u64;
        Ok(())
    };
    let graph = model.graph.as_mut().ok_or_else(|| Error::internal("the model has no graph"))?;
    for_each_initializer(graph, &mut |tensor| {
        if tensor.raw_data.len() >= options.external_threshold { write(tensor) } else { Ok(()) }
    })
    .map_err(fail)?;
    file.flush().map_err(fail)?;
    Ok((partial, complete))
}

fn for_each_initializer(
    graph: &mut GraphProto,
    f: &mut impl FnMut(&mut TensorProto) -> std::io::Result<()>,
) -> std::io::Result<()> {
    graph.initializer.iter_mut().try_for_each(&mut *f)?;
    for attribute in graph.node.iter_mut().flat_map(|n| &mut n.attribute) {
        if let Some(body) = &mut attribute.g {
            for_each_initializer(body, f)?;
        }
    }
    Ok(())
}

fn write_then_rename(
    path: &Path,
    write: impl FnOnce(&mut std::fs::File) -> std::io::Result<()>,
) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let partial = path.with_file_name(format!(".{name}.{}.partial", std::process::id()));
    let fail = |e| Error::io("write", path, e);
    let mut file = std::fs::File::create(&partial).map_err(fail)?;
    let written = write(&mut file).and_then(|()| std::fs::rename(&partial, path));
    if written.is_err() {
        // The error that matters is the one above; a leftover temporary file is not worth another.
        let _ = std::fs::remove_file(&partial);
    }
    written.map_err(fail)
}
