//! Type and shape inference with symbolic dimensions: every value gets the most specific static type that follows from
//! the graph inputs, and small integer tensors are followed so that shapes computed in the graph resolve.
//!
//! A dimension of a graph input `x` that the model leaves unnamed becomes the symbol `x.1` (its axis); a size of an inner
//! value `y` that only the run decides becomes the symbol `y#0`.

mod contents;
mod control;
mod dim;
pub mod expr;
mod merge;
mod rules;
mod site;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use smallvec::SmallVec;

pub use contents::{Contents, Element};

use crate::error::{Error, Result, ResultExt, Stage};
use crate::graph::{Dim, Graph, NodeId, Shape, TypeInfo, ValueId};
use crate::tensor::Tensor;
use site::{Known, Site};

/// Bodies nested deeper than this are an error.
const MAX_DEPTH: usize = 64;

/// What the caller fixes before inference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Sizes of symbolic dimensions of the graph inputs, by name.
    pub dims: BTreeMap<String, usize>,
}

/// How much is known after inference. Values of bodies are counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// All values.
    pub values: usize,
    /// Values whose element type is known.
    pub typed: usize,
    /// Values that are tensors of known rank, and values that are no tensors.
    pub ranked: usize,
    /// Of the ranked, those whose every size is known or an expression over the symbols of the graph inputs.
    pub shaped: usize,
    /// Of the ranked, those whose every size is known.
    pub fixed: usize,
    /// Operators without a rule, sorted.
    pub unknown_operators: Vec<String>,
}

/// The result of inference with the contents it could follow.
#[derive(Clone, Debug, Default)]
pub struct Analysis {
    pub summary: Summary,
    known: Known,
}

impl Analysis {
    /// What is known of the elements of `value`, a computed value of the outermost graph.
    pub fn contents(&self, value: ValueId) -> Option<&Contents> {
        self.known.get(&value)
    }

    /// The tensor `value` is in every run, when it is a small one of integers or booleans that follows from shapes.
    pub fn tensor(&self, graph: &Graph, value: ValueId) -> Option<Tensor> {
        self.known.get(&value)?.to_tensor(graph.value(value).ty()?.dtype()?)
    }
}

/// Sets the type of every value it can, in nested graphs too. Safe to repeat after edits.
///
/// Errors: a node that breaks its operator's rules whatever the inputs, a declared element type that contradicts the
/// computed one, a name in [`Options::dims`] that no graph input has.
pub fn infer(graph: &mut Graph, options: &Options) -> Result<Summary> {
    analyse(graph, options).map(|a| a.summary)
}

/// As [`infer`], and returns the contents it followed.
pub fn analyse(graph: &mut Graph, options: &Options) -> Result<Analysis> {
    let mut pass = Pass::default();
    pass.whole(graph, options).at_stage(Stage::Shape)?;
    let mut summary = Summary { unknown_operators: pass.unknown.into_iter().collect(), ..Summary::default() };
    count(graph, &mut summary);
    Ok(Analysis { summary, known: pass.known })
}

/// Sets the output types of one node from the present types of its inputs; contents are followed from constants only.
pub fn infer_node(graph: &mut Graph, node: NodeId) -> Result<()> {
    Pass::default().node(graph, node, 0).at_stage(Stage::Shape)
}

/// What rules produce: a type and contents for each output.
type Outputs = (SmallVec<[Option<TypeInfo>; 2]>, SmallVec<[Option<Contents>; 2]>);

#[derive(Default)]
struct Pass {
    /// Of the graph being visited; bodies have their own.
    known: Known,
    unknown: BTreeSet<String>,
}

impl Pass {
    fn whole(&mut self, graph: &mut Graph, options: &Options) -> Result<()> {
        name_input_dims(graph);
        bind(graph, options)?;
        adopt_declared_outputs(graph);
        self.graph(graph, 0)?;
        check_declared_outputs(graph)
    }

    /// Infers the nodes of a graph whose input types are set.
    fn graph(&mut self, graph: &mut Graph, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(Error::limit(format!("graphs are nested more than {MAX_DEPTH} deep")));
        }
        let order = graph.topological_order()?.to_vec();
        for node in order {
            self.node(graph, node, depth)?;
        }
        Ok(())
    }

    fn node(&mut self, graph: &mut Graph, id: NodeId, depth: usize) -> Result<()> {
        let outputs = if graph.node(id).bodies().is_empty() {
            self.plain(graph, id)
        } else {
            control::infer(self, graph, id, depth)
        };
        outputs
            .and_then(|outputs| self.apply(graph, id, outputs, depth))
            .in_node(|| graph.node(id).label(graph))
    }

    /// Runs the operator's rule.
    fn plain(&mut self, graph: &Graph, id: NodeId) -> Result<Outputs> {
        let node = graph.node(id);
        let mut site = Site::new(graph, node, &self.known);
        match rules::find(&node.domain, &node.op_type) {
            Some(rule) => rule.apply(&mut site)?,
            None => {
                self.unknown.insert(node.operator());
            }
        }
        Ok((site.types, site.contents))
    }

    fn apply(
        &mut self,
        graph: &mut Graph,
        id: NodeId,
        (types, contents): Outputs,
        depth: usize,
    ) -> Result<()> {
        let outputs: SmallVec<[Option<ValueId>; 4]> = graph.node(id).outputs().into();
        for ((value, inferred), contents) in outputs.into_iter().zip(types).zip(contents) {
            let Some(value) = value else { continue };
            let v = graph.value(value);
            let inferred = merge::refine(v.name(), inferred, v.ty())?;
            let ty = inferred.map(|ty| name_unknown_dims(ty, v.name(), depth));
            graph.set_type(value, ty);
            match contents {
                Some(contents) => self.known.insert(value, contents),
                None => self.known.remove(&value),
            };
        }
        Ok(())
    }
}

/// Gives each unnamed size of a tensor a name of its own.
fn name_unknown_dims(ty: TypeInfo, value: &str, depth: usize) -> TypeInfo {
    let TypeInfo::Tensor(mut tensor) = ty else { return ty };
    if let Some(shape) = &mut tensor.shape {
        for (axis, dim) in shape.0.iter_mut().enumerate() {
            if *dim == Dim::Unknown {
                *dim = Dim::Symbol(merge::made_up_name(value, axis, depth));
            }
        }
    }
    TypeInfo::Tensor(tensor)
}

fn name_input_dims(graph: &mut Graph) {
    for input in graph.inputs().to_vec() {
        let value = graph.value(input);
        let Some(TypeInfo::Tensor(tensor)) = value.ty() else { continue };
        let Some(shape) = tensor.shape.as_ref().filter(|s| s.contains(&Dim::Unknown)) else { continue };
        let name = |(axis, d): (usize, &Dim)| match d {
            Dim::Unknown => Dim::symbol(format!("{}.{axis}", value.name())),
            other => other.clone(),
        };
        let named = TypeInfo::tensor(tensor.dtype, shape.iter().enumerate().map(name).collect::<Shape>());
        graph.set_type(input, Some(named));
    }
}

/// The symbols in the types of the graph inputs.
pub fn input_symbols(graph: &Graph) -> BTreeSet<Arc<str>> {
    let mut symbols = BTreeSet::new();
    for input in graph.inputs() {
        for dim in graph.value(*input).ty().and_then(TypeInfo::shape).into_iter().flat_map(|s| s.iter()) {
            if let Some(e) = dim.to_expr() {
                expr::collect_symbols(&e, &mut symbols);
            }
        }
    }
    symbols
}

/// Replaces the symbols that the caller fixes, everywhere.
fn bind(graph: &mut Graph, options: &Options) -> Result<()> {
    if options.dims.is_empty() {
        return Ok(());
    }
    let symbols = input_symbols(graph);
    let mut values = BTreeMap::new();
    for (name, size) in &options.dims {
        if !symbols.contains(name.as_str()) {
            let names = symbols.iter().map(|s| &**s).collect::<Vec<_>>().join(", ");
            return Err(Error::invalid_input(format!(
                "no dimension of the graph inputs is named '{name}'; their symbolic dimensions are: {}",
                if names.is_empty() { "none" } else { &names }
            )));
        }
        let size = i64::try_from(*size)
            .map_err(|_| Error::limit(format!("size {size} of '{name}' is too large")))?;
        values.insert(Arc::<str>::from(name.as_str()), size);
    }
    bind_values(graph, &values);
    Ok(())
}

fn bind_values(graph: &mut Graph, values: &BTreeMap<Arc<str>, i64>) {
    for id in graph.value_ids().collect::<Vec<_>>() {
        if let Some(ty) = graph.value(id).ty() {
            let bound = merge::bind(ty, values);
            graph.set_type(id, Some(bound));
        }
    }
    let mut outputs = graph.outputs().to_vec();
    for output in &mut outputs {
        output.declared = output.declared.as_ref().map(|ty| merge::bind(ty, values));
    }
    graph.set_outputs(outputs);
    for node in graph.node_ids().collect::<Vec<_>>() {
        for body in 0..graph.node(node).bodies().len() {
            bind_values(graph.body_graph_mut(node, body), values);
        }
    }
}

fn adopt_declared_outputs(graph: &mut Graph) {
    for output in graph.outputs().to_vec() {
        if graph.value(output.value).ty().is_none() {
            graph.set_type(output.value, output.declared);
        }
    }
}

fn check_declared_outputs(graph: &Graph) -> Result<()> {
    for output in graph.outputs() {
        if let (Some(found), Some(declared)) = (graph.value(output.value).ty(), &output.declared)
            && let Err(e) = merge::refine(&output.name, Some(found.clone()), Some(declared))
        {
            return Err(Error::invalid_model(format!("graph {}", e.message())));
        }
    }
    Ok(())
}

fn count(graph: &Graph, summary: &mut Summary) {
    let made_up = |d: &Dim| match d {
        Dim::Known(_) => false,
        Dim::Unknown => true,
        other => {
            let mut symbols = BTreeSet::new();
            other.to_expr().iter().for_each(|e| expr::collect_symbols(e, &mut symbols));
            symbols.iter().any(|s| dim::is_made_up(s))
        }
    };
    for id in graph.value_ids() {
        summary.values += 1;
        let Some(ty) = graph.value(id).ty() else { continue };
        summary.typed += usize::from(merge::is_typed(ty));
        let dims: &[Dim] = match ty {
            TypeInfo::Tensor(t) => match &t.shape {
                Some(shape) => shape,
                None => continue,
            },
            _ => &[],
        };
        summary.ranked += 1;
        summary.shaped += usize::from(!dims.iter().any(made_up));
        summary.fixed += usize::from(dims.iter().all(|d| d.known().is_some()));
    }
    for node in graph.node_ids() {
        for body in graph.node(node).bodies() {
            count(body.graph(), summary);
        }
    }
}
