//! The element loops of one- and two-operand operators. An operator gives a function of single elements; here it becomes
//! a loop over rows for one element type, picked once while building, and driven over broadcast shapes and threads.

use half::{bf16, f16};
use tenon_kernels::cpu::cast::convert_float;
use tenon_kernels::cpu::elementwise::{self, Binary, Unary};
use tenon_kernels::cpu::{Context as KernelContext, Features};
use tenon_kernels::parallel::Parallel;

use super::broadcast::Broadcast;
use crate::error::Result;
use crate::kernel::Context;
use crate::tensor::{DType, Element, Tensor};

/// Elements below which a thread is not worth waking.
const GRAIN: usize = 32 * 1024;

/// Elements of the row that short periods are laid out to.
const TILE: usize = 1024;

/// Elements converted at a time when a 16-bit type is computed as f32.
const CHUNK: usize = 256;

/// The operator's numbers (`alpha`, `beta`, ...), meaning as the operator defines.
pub type Params = [f32; 2];

/// One operand of a row.
#[derive(Clone, Copy)]
pub struct Operand {
    /// First element of the row.
    pub data: *const u8,
    /// One element stands for the whole row.
    pub repeats: bool,
}

/// Computes `len` elements at `out` from one operand.
///
/// # Safety
/// The operand must have `len` elements of the row's type and `out` room for `len` results, without overlap.
pub type UnaryRow = unsafe fn(params: &Params, input: *const u8, out: *mut u8, len: usize);

/// Computes `len` elements at `out` from two operands.
///
/// # Safety
/// As for [`UnaryRow`], for each operand; a repeating operand has one element.
pub type BinaryRow = unsafe fn(params: &Params, a: Operand, b: Operand, out: *mut u8, len: usize);

/// The loop of a one-operand operator.
#[derive(Clone, Copy)]
pub enum UnaryLoop {
    Typed(UnaryRow),
    /// A vector kernel over f32; may compute in place.
    Vector(Unary),
}

/// The loop of a two-operand operator.
#[derive(Clone, Copy)]
pub enum BinaryLoop {
    Typed(BinaryRow),
    /// A vector kernel over f32; may compute in place.
    Vector(Binary),
}

/// A function of one element of type `T`.
pub trait UnaryOp<T> {
    fn apply(params: &Params, x: T) -> T;
}

/// A function of two elements of type `T`.
pub trait BinaryOp<T> {
    type Output: Element;
    fn apply(params: &Params, a: T, b: T) -> Self::Output;
}

/// The row loop of `P` over elements of type `T`.
///
/// # Safety
/// See [`UnaryRow`].
pub unsafe fn unary_row<T: Element, P: UnaryOp<T>>(
    params: &Params,
    input: *const u8,
    out: *mut u8,
    len: usize,
) {
    // SAFETY: the caller passes `len` elements of type `T` on both sides, without overlap.
    let (input, out) = unsafe {
        (
            std::slice::from_raw_parts(input.cast::<T>(), len),
            std::slice::from_raw_parts_mut(out.cast::<T>(), len),
        )
    };
    for (out, &x) in out.iter_mut().zip(input) {
        *out = P::apply(params, x);
    }
}

/// The row loop of `P` over elements of type `T`.
///
/// # Safety
/// See [`BinaryRow`].
pub unsafe fn binary_row<T: Element, P: BinaryOp<T>>(
    params: &Params,
    a: Operand,
    b: Operand,
    out: *mut u8,
    len: usize,
) {
    if len == 0 {
        return;
    }
    // SAFETY: the caller passes `len` elements (one where it repeats) of type `T` and room for `len` results.
    let (a_row, b_row, out) = unsafe {
        (
            std::slice::from_raw_parts(a.data.cast::<T>(), if a.repeats { 1 } else { len }),
            std::slice::from_raw_parts(b.data.cast::<T>(), if b.repeats { 1 } else { len }),
            std::slice::from_raw_parts_mut(out.cast::<P::Output>(), len),
        )
    };
    match (a.repeats, b.repeats) {
        (false, false) => {
            for ((out, &a), &b) in out.iter_mut().zip(a_row).zip(b_row) {
                *out = P::apply(params, a, b);
            }
        }
        (false, true) => {
            let b = b_row[0];
            for (out, &a) in out.iter_mut().zip(a_row) {
                *out = P::apply(params, a, b);
            }
        }
        (true, false) => {
            let a = a_row[0];
            for (out, &b) in out.iter_mut().zip(b_row) {
                *out = P::apply(params, a, b);
            }
        }
        (true, true) => out.fill(P::apply(params, a_row[0], b_row[0])),
    }
}

impl UnaryLoop {
    /// Computes `len` elements of type `from` into elements of type `to`.
    ///
    /// # Safety
    /// See [`UnaryRow`]; a vector kernel over f32 may be given the same memory twice.
    unsafe fn run(self, run: &Run, input: *const u8, out: *mut u8, len: usize) {
        if !is_half(run.from) {
            // SAFETY: promised by the caller.
            return unsafe { self.run_direct(run, input, out, len) };
        }
        let (mut wide, mut result) = ([0f32; CHUNK], [0f32; CHUNK]);
        let mut at = 0;
        while at < len {
            let n = CHUNK.min(len - at);
            // SAFETY: the row has elements `at .. at + n` on both sides and the arrays hold `n` elements.
            unsafe {
                widen(run, input.add(at * 2), &mut wide[..n]);
                if run.to == run.from {
                    self.run_direct(run, wide.as_ptr().cast(), result.as_mut_ptr().cast(), n);
                    narrow(run, &result[..n], out.add(at * 2));
                } else {
                    self.run_direct(run, wide.as_ptr().cast(), out.add(at * run.to.bits() / 8), n);
                }
            }
            at += n;
        }
    }

    /// # Safety
    /// As for [`UnaryLoop::run`].
    unsafe fn run_direct(self, run: &Run, input: *const u8, out: *mut u8, len: usize) {
        match self {
            // SAFETY: promised by the caller.
            UnaryLoop::Typed(row) => unsafe { row(&run.params, input, out, len) },
            UnaryLoop::Vector(op) => {
                let cx = KernelContext::serial(run.features);
                // SAFETY: `out` has room for `len` f32; `input` is either the same memory or does not overlap.
                unsafe {
                    let y = std::slice::from_raw_parts_mut(out.cast::<f32>(), len);
                    if input == out.cast_const() {
                        elementwise::unary_in_place(cx, op, y);
                    } else {
                        let x = std::slice::from_raw_parts(input.cast::<f32>(), len);
                        elementwise::unary(cx, op, x, y).expect("operand and result have the same length");
                    }
                }
            }
        }
    }
}

impl BinaryLoop {
    /// True when the loop may write over operand `i` of the operation.
    fn works_over(self, i: usize, dtype: DType) -> bool {
        match self {
            BinaryLoop::Typed(_) => false,
            BinaryLoop::Vector(op) => dtype == DType::F32 && (i == 0 || commutes(op)),
        }
    }

    /// Computes `len` elements of type `from` into elements of type `to`.
    ///
    /// # Safety
    /// See [`BinaryRow`]; `out` may be an operand that the loop works over.
    unsafe fn run(self, run: &Run, a: Operand, b: Operand, out: *mut u8, len: usize) {
        if !is_half(run.from) {
            // SAFETY: promised by the caller.
            return unsafe { self.run_direct(run, a, b, out, len) };
        }
        let mut wide = [[0f32; CHUNK]; 2];
        let mut result = [0f32; CHUNK];
        let mut at = 0;
        while at < len {
            let n = CHUNK.min(len - at);
            for (operand, wide) in [a, b].iter().zip(&mut wide) {
                let (skip, count) = if operand.repeats { (0, 1) } else { (at, n) };
                // SAFETY: the row has elements `at .. at + n`, or one where it repeats.
                unsafe { widen(run, operand.data.add(skip * 2), &mut wide[..count]) };
            }
            let a = Operand { data: wide[0].as_ptr().cast(), repeats: a.repeats };
            let b = Operand { data: wide[1].as_ptr().cast(), repeats: b.repeats };
            // SAFETY: the arrays hold `n` elements and the output has room for elements `at .. at + n`.
            unsafe {
                if run.to == run.from {
                    self.run_direct(run, a, b, result.as_mut_ptr().cast(), n);
                    narrow(run, &result[..n], out.add(at * 2));
                } else {
                    self.run_direct(run, a, b, out.add(at * run.to.bits() / 8), n);
                }
            }
            at += n;
        }
    }

    /// # Safety
    /// As for [`BinaryLoop::run`].
    unsafe fn run_direct(self, run: &Run, a: Operand, b: Operand, out: *mut u8, len: usize) {
        // Empty operands may have no address, which a slice must have.
        if len == 0 {
            return;
        }
        let op = match self {
            // SAFETY: promised by the caller.
            BinaryLoop::Typed(row) => return unsafe { row(&run.params, a, b, out, len) },
            BinaryLoop::Vector(op) => op,
        };
        let cx = KernelContext::serial(run.features);
        let count = |operand: Operand| if operand.repeats { 1 } else { len };
        // SAFETY: operands have as many f32 as `count` says and `out` has room for `len`; `out` overlaps an operand only
        // when it is that operand, and then no slice of the operand is made.
        let done = unsafe {
            let y = std::slice::from_raw_parts_mut(out.cast::<f32>(), len);
            if out.cast_const() == a.data && !a.repeats {
                elementwise::binary_in_place(cx, op, y, std::slice::from_raw_parts(b.data.cast(), count(b)))
            } else if out.cast_const() == b.data && !b.repeats {
                elementwise::binary_in_place(cx, op, y, std::slice::from_raw_parts(a.data.cast(), count(a)))
            } else {
                let a = std::slice::from_raw_parts(a.data.cast(), count(a));
                elementwise::binary(cx, op, a, std::slice::from_raw_parts(b.data.cast(), count(b)), y)
            }
        };
        done.expect("operands have the length of the row or one element");
    }
}

fn commutes(op: Binary) -> bool {
    matches!(op, Binary::Add | Binary::Mul | Binary::Min | Binary::Max)
}

/// True for the 16-bit float types, whose rows are those of f32.
pub fn is_half(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16)
}

/// # Safety
/// `from` must have as many 16-bit floats as `to` has room for.
unsafe fn widen(run: &Run, from: *const u8, to: &mut [f32]) {
    let (cx, len) = (KernelContext::serial(run.features), to.len());
    // SAFETY: promised by the caller; both types are plain 16-bit patterns.
    let done = unsafe {
        match run.from {
            DType::F16 => convert_float(cx, std::slice::from_raw_parts(from.cast::<f16>(), len), to),
            _ => convert_float(cx, std::slice::from_raw_parts(from.cast::<bf16>(), len), to),
        }
    };
    done.expect("both sides have the same length");
}

/// # Safety
/// `to` must have room for as many 16-bit floats as `from` has elements.
unsafe fn narrow(run: &Run, from: &[f32], to: *mut u8) {
    let (cx, len) = (KernelContext::serial(run.features), from.len());
    // SAFETY: promised by the caller; both types are plain 16-bit patterns.
    let done = unsafe {
        match run.to {
            DType::F16 => convert_float(cx, from, std::slice::from_raw_parts_mut(to.cast::<f16>(), len)),
            _ => convert_float(cx, from, std::slice::from_raw_parts_mut(to.cast::<bf16>(), len)),
        }
    };
    done.expect("both sides have the same length");
}

/// Memory of operands and an output as tasks on several threads see it.
struct Shared<const N: usize> {
    inputs: [*const u8; N],
    out: *mut u8,
}

// SAFETY: tasks read the inputs and write disjoint ranges of the output.
unsafe impl<const N: usize> Sync for Shared<N> {}

impl<const N: usize> Shared<N> {
    fn out(&self) -> *mut u8 {
        self.out
    }

    fn input(&self, i: usize) -> *const u8 {
        self.inputs[i]
    }
}

/// Calls `body(start, end)` for ranges that cover `0 .. len`, on several threads when there is enough work.
pub fn split(parallel: &dyn Parallel, len: usize, grain: usize, body: &(dyn Fn(usize, usize) + Sync)) {
    let tasks = (len / grain.max(1)).min(parallel.threads() * 4);
    if tasks <= 1 || parallel.threads() == 1 {
        return body(0, len);
    }
    // A multiple of 64, so that ranges of packed elements start at byte boundaries.
    let chunk = len.div_ceil(tasks).next_multiple_of(64);
    parallel.for_each(len.div_ceil(chunk), &|task| body(task * chunk, len.min((task + 1) * chunk)));
}

/// What every row of one run shares.
struct Run {
    features: Features,
    params: Params,
    from: DType,
    to: DType,
}

/// Runs a one-operand loop over input 0 into output 0 of element type `to`, in place where it can.
pub fn run_unary(cx: &mut Context<'_>, body: UnaryLoop, params: Params, to: DType) -> Result<()> {
    let input = cx.input(0)?;
    let (from, len) = (input.dtype(), input.len());
    let in_place = matches!(body, UnaryLoop::Vector(_)) && from == DType::F32 && to == from;
    let reused = if in_place { cx.reuse(0, 0) } else { None };
    let (mut out, source) = match reused {
        Some(mut out) => {
            let source = out.as_bytes_mut().as_ptr();
            (out, source)
        }
        None => {
            let input = cx.input(0)?;
            (cx.output(0, to, input.dims())?, input.as_ptr())
        }
    };
    let run = Run { features: cx.features(), params, from, to };
    let shared = Shared { inputs: [source], out: out.as_bytes_mut().as_mut_ptr() };
    if len > 0 {
        split(cx.parallel(), len, GRAIN, &|start, end| {
            // SAFETY: input and output have `len` elements; tasks take disjoint ranges; only a vector kernel over f32
            // is given the same memory twice.
            unsafe {
                let input = shared.input(0).add(start * from.bits() / 8);
                body.run(&run, input, shared.out().add(start * to.bits() / 8), end - start);
            }
        });
    }
    cx.set(0, out);
    Ok(())
}

/// Fills `out` from two tensors of one type, read with the shapes `shapes`, both of which broadcast to `out`'s.
pub fn fill_binary(
    cx: &Context<'_>,
    body: BinaryLoop,
    params: Params,
    [a, b]: [&Tensor; 2],
    shapes: [&[usize]; 2],
    out: &mut Tensor,
) -> Result<()> {
    let plan = Broadcast::new(shapes, out.dims())?;
    let run = Run { features: cx.features(), params, from: a.dtype(), to: out.dtype() };
    let shared = Shared { inputs: [a.as_ptr(), b.as_ptr()], out: out.as_bytes_mut().as_mut_ptr() };
    run_plan(cx.parallel(), body, &run, &plan, &shared);
    Ok(())
}

/// `total = total op next`, the latter read with shape `shape`, which broadcasts to `total`'s.
pub fn accumulate(
    cx: &Context<'_>,
    body: BinaryLoop,
    params: Params,
    total: &mut Tensor,
    next: &Tensor,
) -> Result<()> {
    let dims: crate::tensor::Dims = total.dims().into();
    let dtype = total.dtype();
    if body.works_over(0, dtype) {
        let plan = Broadcast::new([&dims, next.dims()], &dims)?;
        let run = Run { features: cx.features(), params, from: dtype, to: dtype };
        let data = total.as_bytes_mut().as_mut_ptr();
        let shared = Shared { inputs: [data.cast_const(), next.as_ptr()], out: data };
        run_plan(cx.parallel(), body, &run, &plan, &shared);
        return Ok(());
    }
    let mut copy = cx.scratch(dtype, &dims)?;
    copy.as_bytes_mut().copy_from_slice(total.as_bytes());
    fill_binary(cx, body, params, [&copy, next], [&dims, next.dims()], total)
}

fn run_plan(parallel: &dyn Parallel, body: BinaryLoop, run: &Run, plan: &Broadcast<2>, shared: &Shared<2>) {
    if let BinaryLoop::Vector(_) = body
        && run.from == DType::F32
        && let Some((periodic, period)) = plan.periodic(TILE / 2)
    {
        return run_tiled(parallel, body, run, plan.len(), shared, periodic, period);
    }
    let (step, out_step) = (run.from.bits() / 8, run.to.bits() / 8);
    split(parallel, plan.len(), GRAIN, &|start, end| {
        plan.for_each_row(start..end, |at, len, [a, b]| {
            // SAFETY: the plan keeps offsets inside the operands it was made for and rows inside the output; tasks
            // take disjoint ranges; an operand that is the output is one the loop works over, of the same shape.
            unsafe {
                let a = Operand { data: shared.input(0).add(a * step), repeats: plan.repeats(0) };
                let b = Operand { data: shared.input(1).add(b * step), repeats: plan.repeats(1) };
                body.run(run, a, b, shared.out().add(at * out_step), len);
            }
        });
    });
}

/// Runs an operation one of whose operands repeats every `period` elements: several periods are laid out one after the
/// other, so that rows become long.
fn run_tiled(
    parallel: &dyn Parallel,
    body: BinaryLoop,
    run: &Run,
    len: usize,
    shared: &Shared<2>,
    periodic: usize,
    period: usize,
) {
    let mut tile = [0f32; TILE];
    // SAFETY: the operand has `period` f32, at most half a tile.
    let one = unsafe { std::slice::from_raw_parts(shared.input(periodic).cast::<f32>(), period) };
    tile.chunks_exact_mut(period).for_each(|copy| copy.copy_from_slice(one));
    let row = TILE / period * period;
    split(parallel, len.div_ceil(row), GRAIN / row, &|start, end| {
        for at in (start * row..len.min(end * row)).step_by(row) {
            let n = row.min(len - at);
            // SAFETY: the other operand and the output have `len` elements, and the tile has `row`; tasks take disjoint
            // rows; an operand that is the output is one the loop works over.
            unsafe {
                let tiled = Operand { data: tile.as_ptr().cast(), repeats: false };
                let other = Operand { data: shared.input(1 - periodic).add(at * 4), repeats: false };
                let (a, b) = if periodic == 0 { (tiled, other) } else { (other, tiled) };
                body.run(run, a, b, shared.out().add(at * 4), n);
            }
        }
    });
}

/// Runs a two-operand loop over two inputs of one shape into output 0 of type `to`, in place where it can.
fn run_aligned(cx: &mut Context<'_>, body: BinaryLoop, params: Params, to: DType) -> Result<()> {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    let (from, len) = (a.dtype(), a.len());
    let mut sources = [a.as_ptr(), b.as_ptr()];
    let mut reused = None;
    if to == from {
        let over = (0..2).find(|&i| body.works_over(i, to) && cx.is_reusable(i, 0));
        if let Some(i) = over {
            reused = cx.reuse(i, 0);
            if let Some(out) = &mut reused {
                sources[i] = out.as_bytes_mut().as_ptr();
            }
        }
    }
    let mut out = match reused {
        Some(out) => out,
        None => cx.output(0, to, cx.input(0)?.dims())?,
    };
    let run = Run { features: cx.features(), params, from, to };
    let shared = Shared { inputs: sources, out: out.as_bytes_mut().as_mut_ptr() };
    let (step, out_step) = (from.bits() / 8, to.bits() / 8);
    split(cx.parallel(), len, GRAIN, &|start, end| {
        // SAFETY: operands and output have `len` elements; tasks take disjoint ranges; an operand that is the output is
        // one the loop works over.
        unsafe {
            let a = Operand { data: shared.input(0).add(start * step), repeats: false };
            let b = Operand { data: shared.input(1).add(start * step), repeats: false };
            body.run(&run, a, b, shared.out().add(start * out_step), end - start);
        }
    });
    cx.set(0, out);
    Ok(())
}

/// Runs a two-operand loop over inputs 0 and 1 (the second read with shape `b_dims`, where given) into output 0 of type
/// `to`, in place where it can.
pub fn run_binary(
    cx: &mut Context<'_>,
    body: BinaryLoop,
    params: Params,
    b_dims: Option<&[usize]>,
    to: DType,
) -> Result<()> {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    let b_dims = b_dims.unwrap_or(b.dims());
    if a.dims() == b_dims {
        return run_aligned(cx, body, params, to);
    }
    let dims = super::broadcast::shape_of(&[a.dims(), b_dims])?;
    let plan = Broadcast::new([a.dims(), b_dims], &dims)?;
    let run = Run { features: cx.features(), params, from: a.dtype(), to };
    let mut sources = [a.as_ptr(), b.as_ptr()];
    let fits = [a.dims() == dims.as_slice(), b_dims == dims.as_slice()];
    let mut reused = None;
    for i in 0..2 {
        if reused.is_none() && fits[i] && to == run.from && body.works_over(i, to) {
            reused = cx.reuse(i, 0);
            if let Some(out) = &mut reused {
                sources[i] = out.as_bytes_mut().as_ptr();
            }
        }
    }
    let mut out = match reused {
        Some(out) => out.reshaped(&dims)?,
        None => cx.output(0, to, &dims)?,
    };
    let shared = Shared { inputs: sources, out: out.as_bytes_mut().as_mut_ptr() };
    run_plan(cx.parallel(), body, &run, &plan, &shared);
    cx.set(0, out);
    Ok(())
}
