//! Updates put into a tensor at positions that indices name. The kernels are `device/scatter.cu`.

use super::launch::{Arg, Plan};
use super::layout::contiguous;
use super::scalar::{self, Scalar, Structure, blocks, kernel, launch, overlapping, pointer};
use super::unit::{Text, Unit};
use crate::error::{KernelError, Result};
use crate::estimate::Cost;

/// Dimensions at most.
const RANK: usize = 8;
/// What one update after the other costs, as bytes that could be moved meanwhile.
const SERIAL_BYTES: f64 = 1e6;

const REDUCED: [Scalar; 12] = [
    Scalar::F32,
    Scalar::F16,
    Scalar::BF16,
    Scalar::F64,
    Scalar::I64,
    Scalar::I32,
    Scalar::I16,
    Scalar::I8,
    Scalar::U32,
    Scalar::U16,
    Scalar::U8,
    Scalar::Bool,
];

/// How updates of one place combine with what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Reduction {
    Add = 1,
    Multiply,
    Max,
    Min,
}

/// Where updates go.
#[derive(Clone, Debug, PartialEq)]
pub struct Scatter {
    /// Slices of updates, and elements of a slice.
    total: usize,
    inner: usize,
    /// Elements of the result.
    elements: usize,
    /// Updates that one thread does one after the other in a reduction, and threads.
    serial: (usize, usize),
    parameters: Arg,
}

impl Scatter {
    /// `rows` tuples of `depth` indices each name a slice of `data`.
    pub fn slices(data: &[usize], rows: usize, depth: usize) -> Result<Scatter> {
        if depth == 0 || depth > RANK || depth > data.len() {
            return Err(KernelError::shape(format!("tuples of {depth} indices into {data:?}")));
        }
        let (indexed, inner) = (&data[..depth], data[depth..].iter().product::<usize>());
        let steps = contiguous(indexed);
        let sizes = [rows, inner, depth, 1].map(|size| size as u32);
        let parameters = Structure::default()
            .u32s::<4>(sizes, 0)
            .u32s::<RANK>(indexed.iter().map(|&dim| dim as u32), 1)
            .u32s::<RANK>(steps.iter().map(|&step| step as u32), 0)
            .u32s::<3>([0; 3], 0)
            .finish();
        Scatter { total: rows, inner, elements: data.iter().product(), serial: (rows, inner), parameters }
            .checked()
    }

    /// One index along `axis` for each element of the updates, of shape `indices`.
    pub fn elements(data: &[usize], indices: &[usize], axis: usize, is_wide: bool) -> Result<Scatter> {
        let rank = data.len();
        let fits = (0..rank).all(|d| d == axis || indices.get(d).is_some_and(|&size| size <= data[d]));
        if rank == 0 || rank > RANK || indices.len() != rank || !fits {
            return Err(KernelError::shape(format!("indices of shape {indices:?} into {data:?}")));
        }
        let total: usize = indices.iter().product();
        let steps = contiguous(data);
        let parameters = Structure::default()
            .u32s::<4>([total as u32, 1, 0, is_wide.into()], 0)
            .u32s::<RANK>(indices.iter().rev().map(|&dim| dim as u32), 1)
            .u32s::<RANK>(steps.iter().rev().map(|&step| step as u32), 0)
            .u32s::<3>([rank, rank - 1 - axis, data[axis]].map(|size| size as u32), 0)
            .finish();
        let serial = (indices[axis], total / indices[axis].max(1));
        Scatter { total, inner: 1, elements: data.iter().product(), serial, parameters }.checked()
    }

    fn checked(self) -> Result<Scatter> {
        if self.elements >= 1 << 31 || self.total * self.inner >= 1 << 31 {
            let (total, inner, elements) = (self.total, self.inner, self.elements);
            return Err(KernelError::shape(format!("{total} updates of {inner} elements in {elements}")));
        }
        Ok(self)
    }

    fn cost(&self, bytes: usize) -> Cost {
        Cost { flops: 0.0, bytes: (self.total * (2 * self.inner * bytes + 8)) as f64 }
    }

    /// 32-bit numbers that [`Scatter::write`] needs, zero beforehand.
    pub fn marks(&self) -> usize {
        self.elements / self.inner.max(1)
    }

    /// The last update of each place stays. Operands: 0 the result, which holds the data, 1 the marks, 2 the indices, 3 the
    /// updates.
    pub fn write(&self, element_bytes: usize) -> Plan {
        if self.total * self.inner == 0 {
            return Plan::default();
        }
        let args = vec![pointer(1), pointer(2), self.parameters.clone()];
        let mut plan = launch(
            "scatter_mark".into(),
            [blocks(self.total), 1, 1],
            args,
            Cost { flops: 0.0, bytes: 12.0 * self.total as f64 },
        );
        let args = [0, 1, 2, 3].map(pointer).into_iter().chain([self.parameters.clone()]).collect();
        let symbol = format!("scatter_write_b{element_bytes}");
        let last = launch(symbol, [blocks(self.total * self.inner), 1, 1], args, self.cost(element_bytes));
        plan.launches.extend(last.launches);
        overlapping(plan)
    }

    /// Updates combine in their order. Operands: 0 the result, which holds the data, 1 the indices, 2 the updates.
    pub fn reduce(&self, scalar: Scalar, reduction: Reduction) -> Result<Plan> {
        if !REDUCED.contains(&scalar) {
            return Err(KernelError::parameter(format!("reductions of type {}", scalar.suffix())));
        }
        if self.total * self.inner == 0 {
            return Ok(Plan::default());
        }
        let args = [0, 1, 2].map(pointer).into_iter();
        let args = args.chain([self.parameters.clone(), Arg::U32(reduction as u32)]).collect();
        let (steps, threads) = self.serial;
        let mut cost = self.cost(scalar.bytes());
        cost.bytes += SERIAL_BYTES * steps as f64;
        let symbol = format!("scatter_reduce_{}", scalar.suffix());
        Ok(overlapping(launch(symbol, [blocks(threads), 1, 1], args, cost)))
    }
}

/// Rows of an update `[batch, lines, length, row]` put into a cache `[batch, lines, capacity, row]` behind a start for each
/// batch. Operands: 0 the cache, 1 the update, 2 the starts as i64, or absent for 0.
pub fn rows(
    element_bytes: usize,
    [batch, lines, length, row]: [usize; 4],
    capacity: usize,
    is_circular: bool,
) -> Result<Plan> {
    let total = batch * lines * length * row;
    if total == 0 {
        return Ok(Plan::default());
    }
    if total >= 1 << 31 || length > capacity {
        return Err(KernelError::shape(format!(
            "{total} elements of {length} rows into a cache of {capacity}"
        )));
    }
    let sizes = [total, row, length, capacity, lines, is_circular.into()].map(|size| size as u32);
    let parameters = Structure::default().u32s::<6>(sizes, 0).finish();
    let cost = Cost { flops: 0.0, bytes: (2 * total * element_bytes) as f64 };
    let args = vec![pointer(0), pointer(1), pointer(2), parameters];
    Ok(overlapping(launch(format!("tensor_scatter_b{element_bytes}"), [blocks(total), 1, 1], args, cost)))
}

/// What the build compiles; `atomics` are the arch's primitives for updates of one place.
pub fn unit(arch: Text, atomics: Text) -> Unit {
    let own = Text { path: "device/scatter.cu", text: include_str!("../../device/scatter.cu") };
    let mut symbols = vec!["scatter_mark".to_owned()];
    for bytes in [1, 2, 4, 8] {
        symbols.extend(["scatter_write", "tensor_scatter"].map(|name| format!("{name}_b{bytes}")));
    }
    symbols.extend(REDUCED.map(|scalar| format!("scatter_reduce_{}", scalar.suffix())));
    Unit {
        name: "scatter".into(),
        texts: vec![arch, atomics, scalar::TEXT, own],
        defines: vec![("INDEX_RANK".into(), RANK.to_string())],
        kernels: symbols.into_iter().map(kernel).collect(),
    }
}
