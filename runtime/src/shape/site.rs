//! What a rule sees of one node, the results it sets, and the checks that many rules share.

use std::borrow::Cow;
use std::collections::HashMap;

use smallvec::SmallVec;

use super::contents::Contents;
use super::dim;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::graph::{Dim, Graph, Node, Shape, TensorType, TypeInfo, ValueId};

/// The contents that were followed so far.
pub type Known = HashMap<ValueId, Contents>;

/// One node under inference. Getters give `None` or `Undefined` for what is absent or not known.
pub struct Site<'a> {
    pub graph: &'a Graph,
    pub node: &'a Node,
    known: &'a Known,
    pub types: SmallVec<[Option<TypeInfo>; 2]>,
    pub contents: SmallVec<[Option<Contents>; 2]>,
}

impl<'a> Site<'a> {
    pub fn new(graph: &'a Graph, node: &'a Node, known: &'a Known) -> Self {
        let outputs = node.outputs().len();
        Site {
            graph,
            node,
            known,
            types: SmallVec::from_elem(None, outputs),
            contents: SmallVec::from_elem(None, outputs),
        }
    }

    /// The operator set version of the node.
    pub fn version(&self) -> i64 {
        self.node.version
    }

    /// The number of inputs, left-out ones counted.
    pub fn input_count(&self) -> usize {
        self.node.inputs().len()
    }

    /// True when input `i` is given.
    pub fn has(&self, i: usize) -> bool {
        self.node.input(i).is_some()
    }

    /// The type of input `i`.
    pub fn input(&self, i: usize) -> Option<&'a TypeInfo> {
        self.graph.value(self.node.input(i)?).ty()
    }

    /// The tensor type of input `i`.
    pub fn tensor(&self, i: usize) -> Option<&'a TensorType> {
        self.input(i)?.as_tensor()
    }

    /// The element type of input `i`.
    pub fn dtype(&self, i: usize) -> DType {
        self.tensor(i).map_or(DType::Undefined, |t| t.dtype)
    }

    /// The shape of input `i`.
    pub fn shape(&self, i: usize) -> Option<&'a Shape> {
        self.tensor(i)?.shape.as_ref()
    }

    /// The rank of input `i`.
    pub fn rank(&self, i: usize) -> Option<usize> {
        self.shape(i).map(Shape::rank)
    }

    /// Dimension `axis` of input `i`.
    pub fn dim(&self, i: usize, axis: usize) -> Dim {
        self.shape(i).and_then(|s| s.get(axis)).cloned().unwrap_or_default()
    }

    /// The contents of input `i`, as far as they are known.
    pub fn contents_of(&self, i: usize) -> Option<Cow<'a, Contents>> {
        let id = self.node.input(i)?;
        match self.known.get(&id) {
            Some(contents) => Some(Cow::Borrowed(contents)),
            None => Contents::of(self.graph.constant(id)?).map(Cow::Owned),
        }
    }

    /// The integers of input `i`, when all are known. Constants may be longer than followed contents.
    pub fn ints_of(&self, i: usize) -> Option<Vec<i64>> {
        let id = self.node.input(i)?;
        match self.known.get(&id) {
            Some(contents) => contents.ints(),
            None => self.graph.constant(id)?.to_i64_vec().ok(),
        }
    }

    /// The numbers of input `i`, when all are known and they are few.
    pub fn reals_of(&self, i: usize) -> Option<Vec<f64>> {
        self.contents_of(i)?.reals()
    }

    /// The one integer of input `i`, when it is known.
    pub fn int_of(&self, i: usize) -> Option<i64> {
        match self.contents_of(i)?.elements.as_slice() {
            [element] => element.as_int(),
            _ => None,
        }
    }

    /// The size that the one element of input `i` gives a dimension.
    pub fn size_of(&self, i: usize) -> Dim {
        match self.contents_of(i).as_deref().map(|c| c.elements.as_slice()) {
            Some([element]) => element.to_dim(),
            _ => Dim::Unknown,
        }
    }

    /// An integer attribute or `default`.
    pub fn int(&self, name: &str, default: i64) -> Result<i64> {
        self.node.int_or(name, default)
    }

    /// A truth value kept as an integer attribute.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool> {
        self.node.attributes.flag(name, default)
    }

    /// A list of integers.
    pub fn ints(&self, name: &str) -> Result<Option<&'a [i64]>> {
        self.node.attributes.ints(name)
    }

    /// A string attribute or `default`.
    pub fn string(&self, name: &str, default: &'a str) -> Result<&'a str> {
        self.node.string_or(name, default)
    }

    /// An integer attribute that must be given.
    pub fn required_int(&self, name: &str) -> Result<i64> {
        self.node.attributes.int(name)?.ok_or_else(|| self.missing(name))
    }

    /// The error for a missing attribute.
    pub fn missing(&self, name: &str) -> Error {
        Error::invalid_model(format!("{} needs attribute '{name}'", self.node.operator()))
    }

    /// An element type given by its ONNX number.
    pub fn dtype_attribute(&self, name: &str) -> Result<Option<DType>> {
        let Some(number) = self.node.attributes.int(name)? else { return Ok(None) };
        let dtype = i32::try_from(number).ok().and_then(DType::from_onnx);
        dtype.map(Some).ok_or_else(|| {
            Error::invalid_model(format!("attribute '{name}' is {number}, which is no element type of ONNX"))
        })
    }

    /// A non-negative integer attribute.
    pub fn size_attribute(&self, name: &str, default: i64) -> Result<usize> {
        let value = self.int(name, default)?;
        usize::try_from(value).map_err(|_| {
            Error::invalid_model(format!("attribute '{name}' is {value}; it must not be negative"))
        })
    }

    /// The name of input `i` for messages.
    pub fn name(&self, i: usize) -> String {
        match self.node.input(i) {
            Some(id) => format!("input {i} '{}'", self.graph.value(id).name()),
            None => format!("input {i}"),
        }
    }

    /// What input `i` is, for messages.
    pub fn describe(&self, i: usize) -> String {
        match self.input(i) {
            Some(ty) => format!("{} of type {ty}", self.name(i)),
            None => self.name(i),
        }
    }

    /// An error unless the rank of input `i` is unknown or `expected`.
    pub fn expect_rank(&self, i: usize, expected: usize) -> Result<()> {
        match self.rank(i) {
            Some(rank) if rank != expected => {
                Err(Error::invalid_model(format!("{} must have rank {expected}", self.describe(i))))
            }
            _ => Ok(()),
        }
    }

    /// An error unless the rank of input `i` is unknown or at least `least`.
    pub fn expect_rank_from(&self, i: usize, least: usize) -> Result<()> {
        match self.rank(i) {
            Some(rank) if rank < least => {
                Err(Error::invalid_model(format!("{} must have rank {least} or more", self.describe(i))))
            }
            _ => Ok(()),
        }
    }

    /// An error when two dimensions that must be equal are known and differ.
    pub fn expect_equal(&self, a: (usize, usize), b: (usize, usize)) -> Result<()> {
        let (x, y) = (self.dim(a.0, a.1), self.dim(b.0, b.1));
        if !dim::differ(&x, &y) {
            return Ok(());
        }
        Err(Error::invalid_model(format!(
            "dimension {} of {} is {x} and dimension {} of {} is {y}; they must be equal",
            a.1,
            self.describe(a.0),
            b.1,
            self.describe(b.0)
        )))
    }

    /// An error when the known element types of two inputs differ.
    pub fn expect_same_dtype(&self, a: usize, b: usize) -> Result<()> {
        let (x, y) = (self.dtype(a), self.dtype(b));
        if x == DType::Undefined || y == DType::Undefined || x == y {
            return Ok(());
        }
        Err(Error::invalid_model(format!(
            "{} and {} must have one element type",
            self.describe(a),
            self.describe(b)
        )))
    }

    /// Sets output `i` to any type.
    pub fn set(&mut self, i: usize, ty: TypeInfo) {
        if let Some(slot) = self.types.get_mut(i) {
            *slot = Some(ty);
        }
    }

    /// Sets output `i` to a tensor; nothing is set when neither its element type nor its rank is known.
    pub fn set_tensor(&mut self, i: usize, dtype: DType, shape: Option<Shape>) {
        if dtype != DType::Undefined || shape.is_some() {
            self.set(i, TypeInfo::Tensor(TensorType { dtype, shape }));
        }
    }

    /// Gives output `i` the type of input `from`.
    pub fn copy(&mut self, from: usize, i: usize) {
        if let Some(ty) = self.input(from) {
            self.set(i, ty.clone());
        }
    }

    /// Gives output `i` the shape of input `from` with another element type.
    pub fn copy_shape(&mut self, from: usize, i: usize, dtype: DType) {
        self.set_tensor(i, dtype, self.shape(from).cloned());
    }

    /// Sets the contents of output `i`.
    pub fn set_contents(&mut self, i: usize, contents: Option<Contents>) {
        if let Some(slot) = self.contents.get_mut(i) {
            *slot = contents.filter(|c| !c.is_blank());
        }
    }

    /// The first known element type of the inputs.
    pub fn first_dtype(&self, inputs: &[usize]) -> DType {
        inputs.iter().map(|i| self.dtype(*i)).find(|d| *d != DType::Undefined).unwrap_or_default()
    }

    /// The shape that inputs broadcast to; `None` when a rank is unknown.
    pub fn broadcast(&self, inputs: &[usize]) -> Result<Option<Shape>> {
        let mut total: Option<Shape> = None;
        for &i in inputs {
            let Some(shape) = self.shape(i) else { return Ok(None) };
            total = Some(match total {
                None => shape.clone(),
                Some(other) => self.broadcast_pair(&other, shape)?,
            });
        }
        Ok(total)
    }

    fn broadcast_pair(&self, a: &Shape, b: &Shape) -> Result<Shape> {
        let rank = a.rank().max(b.rank());
        let one = Dim::Known(1);
        let at =
            |s: &'_ Shape, i: usize| (i + s.rank()).checked_sub(rank).map_or(one.clone(), |i| s[i].clone());
        let mut dims = SmallVec::with_capacity(rank);
        for i in 0..rank {
            let dim = dim::broadcast(&at(a, i), &at(b, i))
                .map_err(|e| Error::invalid_model(format!("shapes {a} and {b}: {}", e.message())))?;
            dims.push(dim.unwrap_or_default());
        }
        Ok(Shape(dims))
    }
}
