//! Products of integers of 8 bits: both sides as signed rows, exact sums on matrix units where the family has them, and
//! zero points, scales and addends behind them.
//!
//! With A' = A - 128 where A is unsigned (else A), and its zero points less 128 too, a sum is
//! `A' B' - zero of A' (sum of B's column) - zero of B' (sum of A's row) + K zero of A' zero of B'`.

pub(super) mod conv;
pub(super) mod product;

use tenon_kernels::gpu::integer::{self, Bias, Conclusion, Side, Zeros, pitch};
use tenon_kernels::gpu::layout::{self, StridedCopy, contiguous};
use tenon_kernels::gpu::matmul::{self, Element, Epilogue, Kind, Layout, Matrix, Problem};
use tenon_kernels::gpu::quantize::{Granularity, Linear, Rules, Sharing};
use tenon_kernels::gpu::scalar::Scalar;
use tenon_plugin_api::{DType, Error, NodeView, Result};

use crate::operator::{Decline, Derived, Expansion, Lowering};
use crate::schedule::ValueId;

/// What is taken from unsigned elements to make them signed.
const MIDDLE: u8 = 128;

fn middle(is_unsigned: bool) -> u8 {
    if is_unsigned { MIDDLE } else { 0 }
}

/// An operand of a product, as its node gives it.
#[derive(Clone, Copy, Debug)]
struct Factor {
    is_unsigned: bool,
    /// The input with its zero points.
    zero: Option<usize>,
    /// Its zero points are those of signed elements: nothing is to be taken from the other side's sums.
    is_centred: bool,
}

impl Factor {
    /// Input `index`, its zero points being input `zero`.
    fn read(l: &Lowering<'_>, index: usize, zero: usize) -> std::result::Result<Factor, Decline> {
        let is_unsigned = match l.scalar(index)? {
            Scalar::U8 => true,
            Scalar::I8 => false,
            other => return Err(Decline(format!("input {index} of type {} is no byte", other.suffix()))),
        };
        let zero = l.has_input(zero).then_some(zero);
        if let Some(zero) = zero
            && l.scalar(zero)? != l.scalar(index)?
        {
            return Err(Decline(format!("input {zero} is of another type than input {index}")));
        }
        let bytes = |index: usize| l.node.input(index)?.constant()?.host_bytes();
        let is_centred = match zero {
            None => !is_unsigned,
            Some(zero) => bytes(zero).is_some_and(|all| all.iter().all(|&byte| byte == middle(is_unsigned))),
        };
        Ok(Factor { is_unsigned, zero, is_centred })
    }

    /// A tensor that is made on the device, with stored zero points.
    fn made() -> Factor {
        Factor { is_unsigned: true, zero: None, is_centred: false }
    }

    /// The zero points; `value`: where they are, when not in an input.
    fn zeros(&self, cx: &Expansion<'_, '_>, value: Option<ValueId>) -> Result<(Zeros, Option<ValueId>)> {
        let input = self.zero.map(|index| cx.input(index)).transpose()?;
        match value.or(input).filter(|_| !self.is_centred) {
            Some(value) => {
                let count = cx.builder.dims(value).iter().product();
                Ok((Zeros::Stored { count, is_unsigned: self.is_unsigned }, Some(value)))
            }
            None if self.is_centred => Ok((Zeros::Known(0), None)),
            None => Ok((Zeros::Known(-i32::from(middle(self.is_unsigned))), None)),
        }
    }
}

/// A constant operand, made rows when the graph is compiled.
pub(super) struct Weight<'a> {
    bytes: &'a [u8],
    rows: usize,
    depth: usize,
    /// Its matrix has the depth first.
    is_transposed: bool,
    flip: u8,
}

impl<'a> Weight<'a> {
    /// Input `index`: `[rows, depth...]`, or where `is_transposed` `[depth, rows]`; `None` for what is no constant.
    pub fn read(node: NodeView<'a>, index: usize, is_transposed: bool) -> Option<Weight<'a>> {
        let tensor = node.input(index)?.constant()?;
        let dims: Option<Vec<usize>> = tensor.dims().iter().map(|&dim| usize::try_from(dim).ok()).collect();
        let (&first, rest) = dims.as_deref()?.split_first()?;
        let rest: usize = if rest.is_empty() { return None } else { rest.iter().product() };
        if is_transposed && tensor.dims().len() != 2 {
            return None;
        }
        let (rows, depth) = if is_transposed { (rest, first) } else { (first, rest) };
        let bytes = tensor.host_bytes()?;
        let flip = middle(tensor.dtype() == DType::U8);
        let fits = rows > 0 && depth > 0 && bytes.len() == rows * depth;
        fits.then_some(Weight { bytes, rows, depth, is_transposed, flip })
    }

    fn at(&self, row: usize, at: usize) -> u8 {
        let place = if self.is_transposed { at * self.rows + row } else { row * self.depth + at };
        self.bytes[place] ^ self.flip
    }

    /// The signed rows, and their sums where `has_sums`.
    pub fn derived(
        node: NodeView<'a>,
        index: usize,
        is_transposed: bool,
        has_sums: bool,
    ) -> Vec<Derived<'a>> {
        let read = move || {
            let weight = Weight::read(node, index, is_transposed);
            weight.ok_or_else(|| Error::internal("the weights are gone"))
        };
        let Ok(weight) = read() else { return Vec::new() };
        let (rows, row_bytes) = (weight.rows, pitch(weight.depth));
        let signed = move |out: &mut [u8]| {
            let weight = read()?;
            for (row, bytes) in out.chunks_mut(row_bytes).enumerate() {
                bytes[weight.depth..].fill(0);
                (0..weight.depth).for_each(|at| bytes[at] = weight.at(row, at));
            }
            Ok(())
        };
        let sums = move |out: &mut [u8]| {
            let weight = read()?;
            for (row, to) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                let sum: i32 = (0..weight.depth).map(|at| i32::from(weight.at(row, at).cast_signed())).sum();
                *to = sum.to_le_bytes();
            }
            Ok(())
        };
        let mut derived = vec![Derived { bytes: rows * row_bytes, fill: Box::new(signed) }];
        if has_sums {
            derived.push(Derived { bytes: rows * 4, fill: Box::new(sums) });
        }
        derived
    }
}

/// One side of a product on the device.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub bytes: ValueId,
    sums: Option<ValueId>,
    /// Rows of all matrices.
    count: usize,
    /// One matrix for all batches.
    is_shared: bool,
    is_constant: bool,
}

impl Rows {
    /// Matrices `[batches, rows, depth]` of bytes (the last two exchanged where `is_transposed`) as signed rows, with their
    /// sums where `has_sums`.
    pub fn new(
        cx: &mut Expansion<'_, '_>,
        bytes: ValueId,
        [batches, rows, depth]: [usize; 3],
        is_transposed: bool,
        is_unsigned: bool,
        has_sums: bool,
    ) -> Result<Rows> {
        let count = batches * rows;
        let mut bytes = bytes;
        if is_transposed {
            let turned = cx.scratch(Scalar::U8, &[count, depth])?;
            let strides = vec![(rows * depth) as i64, 1, rows as i64];
            let dims = vec![batches, rows, depth];
            let copy = StridedCopy {
                element_bytes: 1,
                to_strides: contiguous(&dims),
                dims,
                from_strides: strides,
                from_offset: 0,
                to_offset: 0,
            };
            cx.run(layout::strided_copy(&copy), &[Some(turned), Some(bytes)])?;
            bytes = turned;
        }
        let writes = is_unsigned || pitch(depth) != depth;
        let sums = if has_sums { Some(cx.scratch(Scalar::I32, &[count])?) } else { None };
        let signed = if writes { cx.scratch(Scalar::I8, &[count, pitch(depth)])? } else { bytes };
        let plan = integer::signed_rows(count, depth, is_unsigned, [writes, has_sums]);
        cx.run(plan, &[writes.then_some(signed), sums, Some(bytes)])?;
        Ok(Rows { bytes: signed, sums, count, is_shared: batches == 1, is_constant: false })
    }

    /// The rows that [`Weight::derived`] made.
    pub fn derived(cx: &mut Expansion<'_, '_>, rows: usize, depth: usize, has_sums: bool) -> Result<Rows> {
        let bytes = cx.derived(0, rows * pitch(depth))?;
        let sums = if has_sums { Some(cx.derived(1, rows * 4)?) } else { None };
        Ok(Rows { bytes, sums, count: rows, is_shared: true, is_constant: true })
    }
}

/// `product` is D[m][n] = A[m][k] B[n][k] of signed rows: on matrix units where the family has kernels for it.
fn multiply(
    cx: &mut Expansion<'_, '_>,
    product: ValueId,
    a: &Rows,
    b: &Rows,
    [m, n, k]: [usize; 3],
    batches: usize,
) -> Result<()> {
    let row = pitch(k);
    let matrix = |side: &Rows, rows: usize| Matrix {
        row_stride: row,
        batch_stride: if side.is_shared || batches == 1 { 0 } else { rows * row },
        share: if side.is_shared || batches == 1 { usize::MAX } else { 1 },
        is_constant: side.is_constant,
    };
    let problem = Problem {
        kind: Kind { input: Element::S8, output: matmul::Output::I32, layout: Layout::NT },
        m,
        n,
        k: row,
        batches,
        a: matrix(a, m),
        b: matrix(b, n),
        d: Matrix {
            row_stride: n,
            batch_stride: if batches == 1 { 0 } else { m * n },
            share: if batches == 1 { usize::MAX } else { 1 },
            is_constant: false,
        },
        epilogue: Epilogue::default(),
    };
    let target = cx.builder.target;
    let has_all = |plan: &tenon_kernels::gpu::Plan| plan.launches.iter().all(|l| (target.has)(&l.symbol));
    if let Some(plan) = matmul::plan_for(target.arch, &problem, target.chip).ok().filter(has_all) {
        let mut operands = vec![None; matmul::D + 1];
        operands[matmul::A] = Some(a.bytes);
        operands[matmul::B] = Some(b.bytes);
        operands[matmul::D] = Some(product);
        return cx.run(Ok(plan), &operands);
    }
    let plan = integer::matmul([m, n, k], batches, [a.is_shared, b.is_shared]);
    cx.run(plan, &[Some(product), Some(a.bytes), Some(b.bytes)])
}

/// What a side of a product has behind the sums.
struct Behind {
    zeros: (Zeros, Option<ValueId>),
    sums: Option<(ValueId, usize)>,
    scale: Option<ValueId>,
}

impl Behind {
    /// A side whose zero points are within the sums already.
    fn nothing() -> Behind {
        Behind { zeros: (Zeros::Known(0), None), sums: None, scale: None }
    }
}

/// The result of a product: `output` has its type; the others are values where they are given.
struct Ending {
    product: ValueId,
    /// Rows, columns, matrices.
    extents: [usize; 3],
    depth: usize,
    rows: Behind,
    columns: Behind,
    alpha: f32,
    result: Option<(ValueId, Option<ValueId>)>,
    /// The addend and its strides over rows and columns.
    bias: Option<(ValueId, [usize; 2])>,
}

impl Ending {
    fn run(self, cx: &mut Expansion<'_, '_>, output: ValueId) -> Result<()> {
        let [rows, columns, batches] = self.extents;
        let all = [(&self.rows, rows * batches, "rows"), (&self.columns, columns * batches, "columns")];
        for (side, count, what) in all {
            let zeros = side.zeros.1.map(|value| cx.builder.dims(value).iter().product::<usize>());
            let scales = side.scale.map(|value| cx.builder.dims(value).iter().product::<usize>());
            for given in [zeros, scales].into_iter().flatten() {
                if given == 0 || !count.is_multiple_of(given) {
                    return Err(Error::invalid(format!("{given} zero points or scales for {count} {what}")));
                }
            }
        }
        let count = |cx: &Expansion<'_, '_>, value: ValueId| cx.builder.dims(value).iter().product::<usize>();
        let side = |cx: &Expansion<'_, '_>, behind: &Behind| Side {
            zeros: behind.zeros.0,
            sums: behind.sums.map_or(0, |(_, count)| count),
            scales: behind.scale.map(|value| (count(cx, value), cx.builder.scalar(value))),
        };
        let conclusion = Conclusion {
            extents: self.extents,
            depth: self.depth,
            rows: side(cx, &self.rows),
            columns: side(cx, &self.columns),
            alpha: self.alpha,
            result_scale: self.result.map(|(scale, _)| cx.builder.scalar(scale)),
            has_result_zero: self.result.is_some_and(|(_, zero)| zero.is_some()),
            bias: self.bias.map(|(value, strides)| Bias { scalar: cx.builder.scalar(value), strides }),
            output: cx.builder.scalar(output),
        };
        let operands = [
            Some(output),
            Some(self.product),
            self.rows.sums.map(|(value, _)| value),
            self.columns.sums.map(|(value, _)| value),
            self.rows.zeros.1,
            self.columns.zeros.1,
            self.rows.scale,
            self.columns.scale,
            self.result.map(|(scale, _)| scale),
            self.result.and_then(|(_, zero)| zero),
            self.bias.map(|(value, _)| value),
        ];
        cx.run(conclusion.plan(), &operands)
    }
}

/// Scale (f32) and zero point (u8) that cover `x`, and its codes.
pub(super) struct Dynamic {
    pub codes: ValueId,
    pub scale: ValueId,
    pub zero: ValueId,
}

impl Dynamic {
    /// Quantises `x` into the values given, as DynamicQuantizeLinear does.
    pub fn run(&self, cx: &mut Expansion<'_, '_>, x: ValueId) -> Result<()> {
        let (scalar, total) = (cx.builder.scalar(x), cx.builder.dims(x).iter().product::<usize>());
        let plan = integer::dynamic_scale(scalar, total);
        cx.run(plan, &[Some(self.scale), Some(self.zero), Some(x)])?;
        let linear = Linear {
            real: scalar,
            code: Scalar::U8,
            scale: Scalar::F32,
            precision: Scalar::F32,
            has_zero: true,
            rules: Rules::default(),
            granularity: Granularity { extents: [1, 1, total], sharing: Sharing::Tensor },
        };
        cx.run(linear.quantize(), &[Some(self.codes), Some(x), Some(self.scale), Some(self.zero)])
    }
}
