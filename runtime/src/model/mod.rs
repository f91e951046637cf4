//! Reads and writes ONNX files: models with their external data, and the standard's test data. Protobuf types end here
//! and in `graph::build`.
//!
//! Weights stay in the memory-mapped file. Nothing is believed: wire format, nesting, sizes and paths are checked before
//! memory is taken.
#![deny(unsafe_code)]

mod attribute;
mod data;
mod external;
mod save;
mod scan;
mod sniff;
mod sparse;
mod tensor;
mod types;

#[rustfmt::skip]
pub mod proto;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;

pub(crate) use attribute::{attribute_from_proto, kind as attribute_kind, kind_of as attribute_kind_of};
pub use data::{read_value, value_from_bytes, value_to_bytes, write_value};
pub use save::{SaveOptions, save, to_proto};
pub(crate) use sparse::densify;
pub(crate) use tensor::tensor_from_proto;
pub(crate) use types::type_from_proto;

use crate::error::{Error, Result, ResultExt, Stage};
use crate::graph::ModelInfo;
use crate::mapping::map_file;
use proto::{AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto};

/// What loading may take. The defaults are far above real models.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Protobuf messages inside each other; a nested graph is three. At most 96.
    pub max_depth: usize,
    /// Nodes in the file, and nodes of the graph after functions are inlined.
    pub max_nodes: usize,
    /// Memory of the decoded messages in bytes, without weights that stay in the file.
    pub max_decoded_bytes: usize,
    /// Bytes of one tensor.
    pub max_tensor_bytes: usize,
    /// Bytes of all tensors in the files together.
    pub max_total_bytes: usize,
    /// Bytes of one tensor that the file stores sparse, made dense.
    pub max_dense_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_depth: 96,
            max_nodes: 5_000_000,
            max_decoded_bytes: 4 << 30,
            max_tensor_bytes: 1 << 40,
            max_total_bytes: 1 << 42,
            max_dense_bytes: 1 << 30,
        }
    }
}

/// A decoded model whose tensors all have their contents at hand, in the file's memory where the file has them raw.
#[derive(Debug)]
pub struct Model {
    proto: ModelProto,
    info: ModelInfo,
    path: Option<PathBuf>,
    limits: Limits,
}

impl Model {
    /// The decoded messages; external data has become raw data.
    pub fn proto(&self) -> &ModelProto {
        &self.proto
    }

    /// What the file says about itself.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// The file it was loaded from.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The limits it was loaded under.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }
}

/// Loads a model file under the default limits.
pub fn load(path: impl AsRef<Path>) -> Result<Model> {
    load_with(path, &Limits::default())
}

/// Loads a model file. External data is looked for in the file's folder and nowhere else.
pub fn load_with(path: impl AsRef<Path>, limits: &Limits) -> Result<Model> {
    let path = path.as_ref();
    let load = || {
        let bytes = map_file(path)?;
        let mut model = decode(bytes, limits).map_err(|e| named(e, path))?;
        let files = external::Files::beside(path);
        resolve(&mut model.proto, files, limits).map_err(|e| named(e, path))?;
        model.path = Some(path.to_owned());
        Ok(model)
    };
    load().at_stage(Stage::Load)
}

/// Loads a model from memory; `folder` is where external data lies, if the model may have any.
pub fn load_bytes(bytes: impl Into<Bytes>, folder: Option<&Path>, limits: &Limits) -> Result<Model> {
    let load = || {
        let mut model = decode(bytes.into(), limits)?;
        resolve(&mut model.proto, external::Files::in_folder(folder), limits)?;
        Ok(model)
    };
    load().at_stage(Stage::Load)
}

/// Takes an already decoded model, for programs that build one.
pub fn from_proto(mut proto: ModelProto, limits: &Limits) -> Result<Model> {
    let load = || {
        resolve(&mut proto, external::Files::in_folder(None), limits)?;
        let info = describe(&proto);
        Ok(Model { proto, info, path: None, limits: limits.clone() })
    };
    load().at_stage(Stage::Load)
}

fn named(error: Error, path: &Path) -> Error {
    Error::new(error.kind(), format!("{}: {}", path.display(), error.message()))
}

fn decode(bytes: Bytes, limits: &Limits) -> Result<Model> {
    if let Some(what) = sniff::foreign_format(&bytes) {
        return Err(Error::invalid_model(format!("not an ONNX model; this is {what}")));
    }
    let limits = Limits { max_depth: limits.max_depth.min(96), ..limits.clone() };
    scan::check(scan::Message::Model, &bytes, &limits)?;
    let proto = ModelProto::decode(bytes)
        .map_err(|e| Error::invalid_model(format!("the file is damaged or not an ONNX model: {e}")))?;
    if proto.graph.is_none() {
        return Err(Error::invalid_model("the file has no graph; it is not an ONNX model"));
    }
    let info = describe(&proto);
    Ok(Model { proto, info, path: None, limits })
}

fn describe(proto: &ModelProto) -> ModelInfo {
    let mut notes = Vec::new();
    if !proto.training_info.is_empty() {
        notes.push("the model's training information is ignored".to_owned());
    }
    ModelInfo {
        ir_version: proto.ir_version,
        producer_name: proto.producer_name.clone(),
        producer_version: proto.producer_version.clone(),
        domain: proto.domain.clone(),
        model_version: proto.model_version,
        doc: proto.doc_string.clone(),
        metadata: proto.metadata_props.iter().map(|p| (p.key.clone(), p.value.clone())).collect(),
        notes,
    }
}

/// Replaces external data by raw data that shares the mapped file, and checks the size of every tensor.
fn resolve(proto: &mut ModelProto, files: external::Files, limits: &Limits) -> Result<()> {
    let mut resolver = Resolver { files, limits, total: 0 };
    if let Some(graph) = &mut proto.graph {
        resolver.graph(graph)?;
    }
    for function in &mut proto.functions {
        resolver.attributes(&mut function.attribute_proto)?;
        resolver.nodes(&mut function.node)?;
    }
    Ok(())
}

struct Resolver<'a> {
    files: external::Files,
    limits: &'a Limits,
    total: usize,
}

impl Resolver<'_> {
    fn graph(&mut self, graph: &mut GraphProto) -> Result<()> {
        for tensor in &mut graph.initializer {
            self.tensor(tensor)?;
        }
        for sparse in &mut graph.sparse_initializer {
            self.sparse(sparse)?;
        }
        self.nodes(&mut graph.node)
    }

    fn nodes(&mut self, nodes: &mut [NodeProto]) -> Result<()> {
        for node in nodes.iter_mut().filter(|n| !n.attribute.is_empty()) {
            self.attributes(&mut node.attribute).in_node(|| node.name.clone())?;
        }
        Ok(())
    }

    fn attributes(&mut self, attributes: &mut [AttributeProto]) -> Result<()> {
        for attribute in attributes {
            for tensor in attribute.t.as_deref_mut().into_iter().chain(&mut attribute.tensors) {
                self.tensor(tensor)?;
            }
            for sparse in
                attribute.sparse_tensor.as_deref_mut().into_iter().chain(&mut attribute.sparse_tensors)
            {
                self.sparse(sparse)?;
            }
            for graph in attribute.g.as_deref_mut().into_iter().chain(&mut attribute.graphs) {
                self.graph(graph)?;
            }
        }
        Ok(())
    }

    fn sparse(&mut self, sparse: &mut SparseTensorProto) -> Result<()> {
        for tensor in sparse.values.iter_mut().chain(&mut sparse.indices) {
            self.tensor(tensor)?;
        }
        Ok(())
    }

    fn tensor(&mut self, tensor: &mut TensorProto) -> Result<()> {
        if tensor.data_location == 1 {
            self.files.resolve(tensor)?;
        }
        let bytes = tensor.raw_data.len();
        self.total = self.total.saturating_add(bytes);
        let limit = |what: &str, limit: usize| {
            Err(Error::limit(format!("tensor '{}': {what} exceeds the limit of {limit} bytes", tensor.name)))
        };
        if bytes > self.limits.max_tensor_bytes {
            return limit(&format!("its size of {bytes} bytes"), self.limits.max_tensor_bytes);
        }
        if self.total > self.limits.max_total_bytes {
            return limit("the size of all tensors so far", self.limits.max_total_bytes);
        }
        Ok(())
    }
}
