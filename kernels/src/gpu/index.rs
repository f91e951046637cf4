//! Elements whose place follows from their index: mirrored padding, triangles, one-hot rows, reversed sequences, slices
//! picked by tuples of indices.

use super::launch::{Arg, Plan};
use super::scalar::{self, Scalar, Structure, blocks, kernel, launch, overlapping, pointer};
use super::unit::{Text, Unit};
use crate::error::{KernelError, Result};
use crate::estimate::Cost;

/// Dimensions at most.
const RANK: usize = 8;

/// Where the elements outside a tensor come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PadMode {
    /// The nearest element.
    Edge,
    /// The elements mirrored at the outermost one.
    Reflect,
    /// The elements repeated.
    Wrap,
}

/// The launch of `total` elements of `bytes` bytes, each read and written once.
fn each(name: &str, bytes: usize, total: usize, args: Vec<Arg>) -> Result<Plan> {
    if total == 0 {
        return Ok(Plan::default());
    }
    if total >= 1 << 31 {
        return Err(KernelError::shape(format!("{name} of {total} elements: at most 2^31 - 1")));
    }
    let cost = Cost { flops: 0.0, bytes: (2 * total * bytes) as f64 };
    Ok(overlapping(launch(format!("{name}_b{bytes}"), [blocks(total), 1, 1], args, cost)))
}

/// Pads a tensor of shape `input` by `begins` and `ends` elements (negative: cuts). Operands: 0 the result, 1 the input.
///
/// # Errors
/// More than 8 dimensions, or an axis without elements to pad with.
pub fn pad(
    element_bytes: usize,
    input: &[usize],
    begins: &[i64],
    ends: &[i64],
    mode: PadMode,
) -> Result<Plan> {
    let size = |axis: usize| input[axis] as i64 + begins[axis] + ends[axis];
    let output: Vec<usize> = (0..input.len()).map(|axis| size(axis).max(0) as usize).collect();
    let total = output.iter().product();
    if input.len() > RANK || (total > 0 && input.contains(&0)) {
        return Err(KernelError::shape(format!("padding {input:?} to {output:?}")));
    }
    let parameters = Structure::default()
        .u32(total as u32)
        .u32(input.len() as u32)
        .u32(mode as u32)
        .u32s::<RANK>(output.iter().rev().map(|&dim| dim as u32), 1)
        .u32s::<RANK>(input.iter().rev().map(|&dim| dim as u32), 1)
        .i32s::<RANK>(begins.iter().rev().map(|&begin| begin as i32))
        .finish();
    each("pad_mirrored", element_bytes, total, vec![pointer(0), pointer(1), parameters])
}

/// One side of diagonal `diagonal` of matrices `[count, rows, columns]`. Operands: 0 the result, 1 the input.
pub fn triangle(
    element_bytes: usize,
    [count, rows, columns]: [usize; 3],
    diagonal: i32,
    is_upper: bool,
) -> Result<Plan> {
    let total = count * rows * columns;
    let sizes = [total, rows, columns].map(|size| Arg::U32(size as u32));
    let mut args: Vec<Arg> = [pointer(0), pointer(1)].into_iter().chain(sizes).collect();
    args.extend([Arg::I32(diagonal), Arg::U32(is_upper.into())]);
    each("triangle", element_bytes, total, args)
}

/// A matrix `[rows, columns]` with the elements `bits` on diagonal `k`, zero elsewhere. Operands: 0 the result.
pub fn diagonal(element_bytes: usize, [rows, columns]: [usize; 2], k: i32, bits: u64) -> Result<Plan> {
    let sizes = [rows * columns, columns].map(|size| Arg::U32(size as u32));
    let args = [pointer(0)].into_iter().chain(sizes).chain([Arg::I32(k), Arg::I64(bits as i64)]).collect();
    each("diagonal", element_bytes, rows * columns, args)
}

/// `[outer, depth, inner]` from indices `[outer, inner]` of type `index`. Operands: 0 the result, 1 the indices, 2 the
/// values off and on.
pub fn one_hot(element_bytes: usize, index: Scalar, [outer, depth, inner]: [usize; 3]) -> Result<Plan> {
    let total = outer * depth * inner;
    let sizes = [index as usize, total, depth, inner].map(|size| Arg::U32(size as u32));
    let args = [0, 1, 2].map(pointer).into_iter().chain(sizes).collect();
    each("one_hot", element_bytes, total, args)
}

/// Reverses the sequences of `[steps, batch, inner]`, or of `[batch, steps, inner]`. Operands: 0 the result, 1 the input,
/// 2 the lengths as i64.
pub fn reverse_sequence(
    element_bytes: usize,
    [steps, batch, inner]: [usize; 3],
    is_time_first: bool,
) -> Result<Plan> {
    let total = steps * batch * inner;
    let sizes = [total, inner, batch, steps, is_time_first.into()].map(|size| Arg::U32(size as u32));
    let args = [0, 1, 2].map(pointer).into_iter().chain(sizes).collect();
    each("reverse_sequence", element_bytes, total, args)
}

/// Slices of `data` (its first `batch_rank` dimensions shared with the indices) at `rows` tuples of `depth` indices for
/// each batch. Operands: 0 the result, 1 the data, 2 the indices as i64.
///
/// # Errors
/// Tuples longer than the data has dimensions, or than 8.
pub fn gather_nd(
    element_bytes: usize,
    data: &[usize],
    batch_rank: usize,
    rows: usize,
    depth: usize,
) -> Result<Plan> {
    if depth > RANK || batch_rank + depth > data.len() {
        return Err(KernelError::shape(format!("tuples of {depth} indices into {data:?}")));
    }
    let indexed = &data[batch_rank..batch_rank + depth];
    let inner: usize = data[batch_rank + depth..].iter().product();
    let batches: usize = data[..batch_rank].iter().product();
    let total = batches * rows * inner;
    let slices = inner * indexed.iter().product::<usize>();
    if total > 0 && (slices == 0 || slices >= 1 << 31) {
        return Err(KernelError::shape(format!("slices of {data:?}")));
    }
    let steps = (0..depth).map(|d| (inner * indexed[d + 1..].iter().product::<usize>()) as u32);
    let parameters = Structure::default()
        .u32s::<5>([total, inner, rows, slices, depth].map(|size| size as u32), 0)
        .u32s::<RANK>(indexed.iter().map(|&dim| dim as u32), 1)
        .u32s::<RANK>(steps, 0)
        .finish();
    each("gather_nd", element_bytes, total, vec![pointer(0), pointer(1), pointer(2), parameters])
}

/// What the build compiles.
pub fn unit(arch: Text) -> Unit {
    let own = Text { path: "device/index.cu", text: include_str!("../../device/index.cu") };
    let names = ["pad_mirrored", "triangle", "diagonal", "one_hot", "reverse_sequence", "gather_nd"];
    Unit {
        name: "index".into(),
        texts: vec![arch, scalar::TEXT, own],
        defines: vec![("INDEX_RANK".into(), RANK.to_string())],
        kernels: names
            .iter()
            .flat_map(|name| [1, 2, 4, 8].map(|bytes| kernel(format!("{name}_b{bytes}"))))
            .collect(),
    }
}
