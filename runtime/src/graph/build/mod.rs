//! Builds the graph of a model: resolves names, turns initializers and Constant nodes into constants, closes bodies over
//! what they capture, and replaces calls of the model's own functions by their contents.

mod body;
mod function;
mod scope;

use std::collections::HashMap;
use std::sync::Arc;

use super::{Graph, NodeId, Opsets};
use crate::error::{Error, Result, ResultExt, Stage};
use crate::model::proto::{FunctionProto, OperatorSetIdProto};
use crate::model::{Limits, Model};
use scope::{Building, Frame};

/// The newest version of each standard operator set that the runtime knows.
const KNOWN_OPSETS: [(&str, i64); 4] =
    [("", 28), ("ai.onnx.ml", 5), ("ai.onnx.preview", 1), ("ai.onnx.preview.training", 1)];

/// The newest IR version whose rules the loader knows.
const KNOWN_IR_VERSION: i64 = 14;

/// From this IR version on an initializer may be overridden by an input of the same name; before, it must have one.
const OVERRIDABLE_SINCE_IR: i64 = 4;

/// The deepest nesting of bodies and function calls.
const MAX_FRAMES: usize = 100;

/// Builds the graph of a model and checks it.
///
/// Nodes may come in any order. Errors name the node: duplicate and missing values, cycles, recursion of functions,
/// unknown operator set versions, contents of tensors that do not fit their shape.
pub fn build(model: &Model) -> Result<Graph> {
    build_unchecked(model).and_then(|graph| graph.check().map(|()| graph)).at_stage(Stage::Graph)
}

fn build_unchecked(model: &Model) -> Result<Graph> {
    let proto = model.proto();
    let main = proto.graph.as_ref().ok_or_else(|| Error::invalid_model("the model has no graph"))?;
    let opsets = Arc::new(opsets_of(&proto.opset_import, proto.ir_version)?);
    let functions = functions_of(&proto.functions)?;
    let mut builder = Builder::new(model.limits(), functions, proto.ir_version);
    let mut info = model.info().clone();
    if proto.ir_version > KNOWN_IR_VERSION {
        info.notes.push(format!(
            "the file has IR version {}, newer than {KNOWN_IR_VERSION}; parts that are not known are ignored",
            proto.ir_version
        ));
    }
    let mut graph = builder.main_graph(main, opsets)?;
    graph.set_info(info);
    Ok(graph)
}

/// A function call: domain, name and overload.
type FunctionKey<'a> = (&'a str, &'a str, &'a str);

/// State of one build. `'a` is the lifetime of the messages.
pub(super) struct Builder<'a> {
    limits: &'a Limits,
    functions: HashMap<FunctionKey<'a>, &'a FunctionProto>,
    ir_version: i64,
    /// Functions whose contents are being built, outermost first.
    active: Vec<FunctionKey<'a>>,
    /// Graphs under construction, outermost first.
    graphs: Vec<Building>,
    /// Name scopes, outermost first.
    frames: Vec<Frame<'a>>,
    names: HashMap<&'a str, Arc<str>>,
    node_count: usize,
    /// Nodes added to the outermost graph.
    added: Vec<NodeId>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(
        limits: &'a Limits,
        functions: HashMap<FunctionKey<'a>, &'a FunctionProto>,
        ir_version: i64,
    ) -> Self {
        Builder {
            limits,
            functions,
            ir_version,
            active: Vec::new(),
            graphs: Vec::new(),
            frames: Vec::new(),
            names: HashMap::new(),
            node_count: 0,
            added: Vec::new(),
        }
    }

    /// Continues with a finished graph; nodes added to it see the operator sets `opsets`.
    pub(super) fn enter(&mut self, graph: Graph, opsets: Arc<Opsets>) {
        self.graphs.push(Building { graph, captures: Vec::new() });
        self.frames.push(Frame::closed(0, opsets));
    }

    /// Ends what `enter` began, also after an error: the graph and the nodes that were added to it.
    pub(super) fn leave(mut self) -> (Graph, Vec<NodeId>) {
        self.graphs.truncate(1);
        let graph = self.graphs.pop().map(|b| b.graph).unwrap_or_default();
        (graph, self.added)
    }

    /// One allocation for all equal operator and attribute names.
    fn intern(&mut self, name: &'a str) -> Arc<str> {
        self.names.entry(name).or_insert_with(|| name.into()).clone()
    }
}

/// The standard operators' domain has two spellings.
fn canonical_domain(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

/// The imports of a model or function; the model's are checked against the versions that are known.
pub(super) fn opsets_of(imports: &[OperatorSetIdProto], ir_version: i64) -> Result<Opsets> {
    let mut opsets = Opsets::new();
    for import in imports {
        let domain = canonical_domain(&import.domain);
        let known = KNOWN_OPSETS.iter().find(|(d, _)| *d == domain).map(|(_, v)| *v);
        let shown = if domain.is_empty() { "ai.onnx" } else { domain };
        if import.version < 1 {
            return Err(Error::invalid_model(format!(
                "the model imports version {} of operator set {shown}; versions start at 1",
                import.version
            )));
        }
        if let Some(known) = known.filter(|k| import.version > *k) {
            return Err(Error::unsupported(format!(
                "the model imports version {} of operator set {shown}, this build knows versions up to {known}; \
                 export it for an older version",
                import.version
            )));
        }
        let newest = opsets.entry(domain.into()).or_insert(import.version);
        *newest = import.version.max(*newest);
    }
    if opsets.is_empty() {
        if ir_version >= 3 {
            return Err(Error::invalid_model("the model imports no operator set; it needs at least ai.onnx"));
        }
        opsets.insert("".into(), 1);
    }
    Ok(opsets)
}

fn functions_of(protos: &[FunctionProto]) -> Result<HashMap<FunctionKey<'_>, &FunctionProto>> {
    let mut functions = HashMap::with_capacity(protos.len());
    for f in protos {
        let key = (canonical_domain(&f.domain), f.name.as_str(), f.overload.as_str());
        if functions.insert(key, f).is_some() {
            return Err(Error::invalid_model(format!(
                "the model defines function '{}' of domain '{}' twice; give one another overload name",
                f.name, f.domain
            )));
        }
    }
    Ok(functions)
}
