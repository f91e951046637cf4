//! A graph, or some nodes of one, in the form that crosses the C ABI.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::ptr;

use tenon_plugin_api::{ffi, host};

use crate::graph::{Attribute, Dim, Graph, Node, NodeId, TensorType, ValueId};
use crate::tensor::Tensor;

/// Nodes of a graph as a [`ffi::Graph`], and which value each index stands for.
pub struct GraphView<'g> {
    header: Box<ffi::Graph>,
    values: Vec<ValueId>,
    _storage: Storage,
    _graph: PhantomData<&'g Graph>,
}

impl<'g> GraphView<'g> {
    /// A view of `nodes`, given in topological order, with the boundary values `inputs` and `outputs`. Constants are
    /// neither inputs nor outputs of nodes; they hang on their values.
    pub fn new(graph: &'g Graph, nodes: &[NodeId], inputs: &[ValueId], outputs: &[ValueId]) -> GraphView<'g> {
        let mut builder =
            Builder { graph, storage: Storage::default(), numbers: HashMap::new(), values: Vec::new() };
        let inputs: Vec<u32> = inputs.iter().map(|&value| builder.number(value)).collect();
        let nodes: Vec<ffi::Node> = nodes.iter().map(|&id| builder.node(graph.node(id))).collect();
        let outputs: Vec<u32> = outputs.iter().map(|&value| builder.number(value)).collect();
        let values: Vec<ffi::Value> = builder.values.clone().iter().map(|&id| builder.value(id)).collect();
        let Builder { mut storage, values: ids, .. } = builder;
        let header = Box::new(ffi::Graph {
            struct_size: size_of::<ffi::Graph>(),
            value_count: values.len(),
            values: pointers(&mut storage, values, |s| &mut s.values, |s| &mut s.value_pointers),
            node_count: nodes.len(),
            nodes: pointers(&mut storage, nodes, |s| &mut s.nodes, |s| &mut s.node_pointers),
            input_count: inputs.len(),
            inputs: keep(&mut storage.numbers, inputs),
            output_count: outputs.len(),
            outputs: keep(&mut storage.numbers, outputs),
        });
        GraphView { header, values: ids, _storage: storage, _graph: PhantomData }
    }

    /// The form that functions of a provider take; valid while the view lives.
    pub fn as_ffi(&self) -> host::Graph<'_> {
        // SAFETY: every pointer leads into the view's storage or into the graph, which the view borrows.
        unsafe { host::Graph::new(&self.header) }
    }

    /// The graph's value behind each index of the view.
    pub fn values(&self) -> &[ValueId] {
        &self.values
    }
}

/// Everything the view's pointers lead to. Slices are boxed so that they never move.
#[derive(Default)]
struct Storage {
    numbers: Vec<Box<[u32]>>,
    integers: Vec<Box<[i64]>>,
    strings: Vec<Box<[ffi::Str]>>,
    text: Vec<Box<str>>,
    tensors: Vec<Box<[ffi::Tensor]>>,
    attributes: Vec<Box<[ffi::Attribute]>>,
    attribute_pointers: Vec<Box<[*const ffi::Attribute]>>,
    nodes: Vec<Box<[ffi::Node]>>,
    node_pointers: Vec<Box<[*const ffi::Node]>>,
    values: Vec<Box<[ffi::Value]>>,
    value_pointers: Vec<Box<[*const ffi::Value]>>,
}

fn keep<T>(shelf: &mut Vec<Box<[T]>>, items: Vec<T>) -> *const T {
    if items.is_empty() {
        return ptr::null();
    }
    shelf.push(items.into_boxed_slice());
    shelf.last().map_or(ptr::null(), |items| items.as_ptr())
}

/// Keeps `items` and an array of pointers to each.
fn pointers<T>(
    storage: &mut Storage,
    items: Vec<T>,
    shelf: fn(&mut Storage) -> &mut Vec<Box<[T]>>,
    pointer_shelf: fn(&mut Storage) -> &mut Vec<Box<[*const T]>>,
) -> *const *const T {
    let count = items.len();
    let first = keep(shelf(storage), items);
    let pointers = (0..count).map(|index| first.wrapping_add(index)).collect();
    keep(pointer_shelf(storage), pointers)
}

struct Builder<'g> {
    graph: &'g Graph,
    storage: Storage,
    numbers: HashMap<ValueId, u32>,
    values: Vec<ValueId>,
}

impl Builder<'_> {
    fn number(&mut self, value: ValueId) -> u32 {
        let next = self.values.len() as u32;
        *self.numbers.entry(value).or_insert_with(|| {
            self.values.push(value);
            next
        })
    }

    fn slots(&mut self, slots: &[Option<ValueId>]) -> (u32, *const u32) {
        let numbers: Vec<u32> =
            slots.iter().map(|slot| slot.map_or(ffi::NO_VALUE, |value| self.number(value))).collect();
        (numbers.len() as u32, keep(&mut self.storage.numbers, numbers))
    }

    fn node(&mut self, node: &Node) -> ffi::Node {
        let (input_count, inputs) = self.slots(node.inputs());
        let (output_count, outputs) = self.slots(node.outputs());
        let attributes: Vec<ffi::Attribute> =
            node.attributes.iter().filter_map(|(name, value)| self.attribute(name, value)).collect();
        let attribute_count = attributes.len() as u32;
        let attributes =
            pointers(&mut self.storage, attributes, |s| &mut s.attributes, |s| &mut s.attribute_pointers);
        ffi::Node {
            struct_size: size_of::<ffi::Node>(),
            name: ffi::Str::new(&node.name),
            domain: ffi::Str::new(&node.domain),
            op_type: ffi::Str::new(&node.op_type),
            version: u32::try_from(node.version).unwrap_or(0),
            input_count,
            inputs,
            output_count,
            attribute_count,
            outputs,
            attributes,
        }
    }

    /// `None` for the kinds that only the host uses: types and lists of tensors.
    fn attribute(&mut self, name: &str, value: &Attribute) -> Option<ffi::Attribute> {
        let mut attribute = ffi::Attribute {
            struct_size: size_of::<ffi::Attribute>(),
            name: ffi::Str::new(name),
            kind: 0,
            f: 0.0,
            i: 0,
            s: ffi::Str::EMPTY,
            tensor: ptr::null(),
            count: 0,
            ints: ptr::null(),
            floats: ptr::null(),
            strings: ptr::null(),
        };
        attribute.kind = match value {
            Attribute::Int(value) => {
                attribute.i = *value;
                ffi::ATTRIBUTE_INT
            }
            Attribute::Float(value) => {
                attribute.f = *value;
                ffi::ATTRIBUTE_FLOAT
            }
            Attribute::String(value) => {
                attribute.s = ffi::Str::new(value);
                ffi::ATTRIBUTE_STRING
            }
            Attribute::Bytes(value) => {
                attribute.s = ffi::Str { data: value.as_ptr().cast(), len: value.len() };
                ffi::ATTRIBUTE_STRING
            }
            Attribute::Tensor(value) => {
                attribute.tensor = self.tensor(value);
                ffi::ATTRIBUTE_TENSOR
            }
            Attribute::Ints(values) => {
                attribute.count = values.len();
                attribute.ints = values.as_ptr();
                ffi::ATTRIBUTE_INTS
            }
            Attribute::Floats(values) => {
                attribute.count = values.len();
                attribute.floats = values.as_ptr();
                ffi::ATTRIBUTE_FLOATS
            }
            Attribute::Strings(values) => {
                attribute.count = values.len();
                let strings = values.iter().map(|value| ffi::Str::new(value)).collect();
                attribute.strings = keep(&mut self.storage.strings, strings);
                ffi::ATTRIBUTE_STRINGS
            }
            Attribute::Type(_) | Attribute::Tensors(_) | Attribute::Types(_) => return None,
        };
        Some(attribute)
    }

    fn tensor(&mut self, tensor: &Tensor) -> *const ffi::Tensor {
        let dims: Vec<i64> = tensor.dims().iter().map(|&dim| dim as i64).collect();
        let rank = dims.len() as u32;
        let dims = keep(&mut self.storage.integers, dims);
        let tensor = ffi::Tensor {
            data: tensor.as_ptr().cast_mut().cast(),
            bytes: tensor.byte_len(),
            dims,
            rank,
            dtype: tensor.dtype() as u32,
            memory: ffi::MEMORY_HOST,
            reserved: 0,
        };
        keep(&mut self.storage.tensors, vec![tensor])
    }

    fn value(&mut self, id: ValueId) -> ffi::Value {
        let graph = self.graph;
        let value = graph.value(id);
        let mut view = ffi::Value {
            struct_size: size_of::<ffi::Value>(),
            name: ffi::Str::new(value.name()),
            dtype: 0,
            rank: -1,
            dims: ptr::null(),
            dim_symbols: ptr::null(),
            constant: ptr::null(),
        };
        if let Some(constant) = value.constant() {
            view.constant = self.tensor(constant);
            view.dtype = constant.dtype() as u32;
            view.rank = constant.rank() as i32;
            view.dims =
                keep(&mut self.storage.integers, constant.dims().iter().map(|&dim| dim as i64).collect());
        } else if let Some(ty) = value.ty().and_then(|ty| ty.as_tensor()) {
            self.describe(ty, &mut view);
        }
        view
    }

    fn describe(&mut self, ty: &TensorType, view: &mut ffi::Value) {
        view.dtype = ty.dtype as u32;
        let Some(shape) = &ty.shape else { return };
        view.rank = shape.rank() as i32;
        let dims = shape.iter().map(|dim| dim.known().map_or(-1, |size| size as i64)).collect();
        view.dims = keep(&mut self.storage.integers, dims);
        if shape.iter().any(|dim| matches!(dim, Dim::Symbol(_) | Dim::Expr(_))) {
            let symbols = shape.iter().map(|dim| self.symbol(dim)).collect();
            view.dim_symbols = keep(&mut self.storage.strings, symbols);
        }
    }

    fn symbol(&mut self, dim: &Dim) -> ffi::Str {
        let text = match dim {
            Dim::Symbol(name) => name.to_string(),
            Dim::Expr(expr) => expr.to_string(),
            Dim::Known(_) | Dim::Unknown => return ffi::Str::EMPTY,
        };
        self.storage.text.push(text.into_boxed_str());
        self.storage.text.last().map_or(ffi::Str::EMPTY, |text| ffi::Str::new(text))
    }
}
