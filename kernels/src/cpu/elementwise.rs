//! Elementwise operations: f32 functions on vectors, and typed maps with broadcasting for every other type.

use super::features::{Context, Features};
use super::math;
use super::nest::Nest;
use super::simd::{Kernel, Simd, max_nan, min_nan};
use crate::error::{KernelError, Result, expect_len};
use crate::parallel::{SharedMut, for_each_range};

/// Elements a task should at least have, by the cost of the operation.
const CHEAP_GRAIN: usize = 32 * 1024;
const COSTLY_GRAIN: usize = 4 * 1024;

/// A function of one f32. Names and formulas are ONNX's.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Unary {
    Identity,
    Neg,
    Abs,
    Sqrt,
    Reciprocal,
    Floor,
    Ceil,
    /// Nearest integer, ties to even.
    Round,
    Exp,
    Log,
    Tanh,
    Sigmoid,
    Erf,
    /// x Φ(x).
    Gelu,
    /// The tanh approximation of Gelu.
    GeluTanh,
    /// x sigmoid(x).
    Silu,
    /// x sigmoid(alpha x); with 1.702 it is "quick GELU".
    Swish {
        alpha: f32,
    },
    Softplus,
    Softsign,
    Mish,
    Relu,
    LeakyRelu {
        alpha: f32,
    },
    ThresholdedRelu {
        alpha: f32,
    },
    Elu {
        alpha: f32,
    },
    Celu {
        alpha: f32,
    },
    Selu {
        alpha: f32,
        gamma: f32,
    },
    Clip {
        min: f32,
        max: f32,
    },
    HardSigmoid {
        alpha: f32,
        beta: f32,
    },
    HardSwish,
    /// scale * x + shift.
    Affine {
        scale: f32,
        shift: f32,
    },
}

impl Unary {
    /// The bounds (low, high) of a function that only clamps.
    pub(crate) fn bounds(self) -> Option<(f32, f32)> {
        match self {
            Unary::Identity => Some((f32::NEG_INFINITY, f32::INFINITY)),
            Unary::Relu => Some((0.0, f32::INFINITY)),
            Unary::Clip { min, max } => Some((min, max)),
            _ => None,
        }
    }

    /// Whether the cost is more than reading and writing the element.
    fn is_costly(self) -> bool {
        use Unary::*;
        matches!(
            self,
            Exp | Log
                | Tanh
                | Sigmoid
                | Erf
                | Gelu
                | GeluTanh
                | Silu
                | Swish { .. }
                | Softplus
                | Mish
                | Elu { .. }
                | Celu { .. }
                | Selu { .. }
        )
    }
}

/// A function of two f32. `Min` and `Max` return NaN when either operand is NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Min,
    Max,
}

/// A vector function; the arms of [`Unary`] become types so that loops hold no branches.
pub(crate) trait VectorMap: Copy {
    fn apply<S: Simd>(self, s: S, x: S::F) -> S::F;
}

/// A computation that is handed the function to apply.
pub(crate) trait WithMap {
    type Output;
    fn call<M: VectorMap>(self, map: M) -> Self::Output;
}

macro_rules! maps {
    ($( $name:ident $( { $($field:ident),* } )? => |$s:ident, $x:ident| $body:expr; )*) => {
        $(
            #[derive(Clone, Copy)]
            struct $name { $( $($field: f32,)* )? }
            impl VectorMap for $name {
                #[inline(always)]
                fn apply<S: Simd>(self, $s: S, $x: S::F) -> S::F {
                    $( let Self { $($field),* } = self; )?
                    $body
                }
            }
        )*
        /// Calls `with` with the vector form of `op`.
        #[inline(always)]
        pub(crate) fn with_map<W: WithMap>(op: Unary, with: W) -> W::Output {
            match op {
                $( Unary::$name $( { $($field),* } )? => with.call($name { $( $($field,)* )? }), )*
            }
        }
    };
}

maps! {
    Identity => |_s, x| x;
    Neg => |s, x| s.neg(x);
    Abs => |s, x| s.abs(x);
    Sqrt => |s, x| s.sqrt(x);
    Reciprocal => |s, x| s.div(s.splat(1.0), x);
    Floor => |s, x| s.floor(x);
    Ceil => |s, x| s.ceil(x);
    Round => |s, x| s.round(x);
    Exp => |s, x| math::exp(s, x);
    Log => |s, x| math::log(s, x);
    Tanh => |s, x| math::tanh(s, x);
    Sigmoid => |s, x| math::sigmoid(s, x);
    Erf => |s, x| math::erf(s, x);
    Gelu => |s, x| math::gelu(s, x);
    GeluTanh => |s, x| math::gelu_tanh(s, x);
    Silu => |s, x| math::swish(s, x, 1.0);
    Swish { alpha } => |s, x| math::swish(s, x, alpha);
    Softplus => |s, x| math::softplus(s, x);
    Softsign => |s, x| s.div(x, s.add(s.splat(1.0), s.abs(x)));
    Mish => |s, x| s.mul(x, math::tanh(s, math::softplus(s, x)));
    Relu => |s, x| s.max(s.zero(), x);
    LeakyRelu { alpha } => |s, x| s.select(s.lt(x, s.zero()), s.mul(x, s.splat(alpha)), x);
    ThresholdedRelu { alpha } => |s, x| s.select(s.le(x, s.splat(alpha)), s.zero(), x);
    Elu { alpha } => |s, x| s.select(s.lt(x, s.zero()), s.mul(s.splat(alpha), math::expm1(s, x)), x);
    Celu { alpha } => |s, x| {
        let scaled = math::expm1(s, s.div(x, s.splat(alpha)));
        s.select(s.lt(x, s.zero()), s.mul(s.splat(alpha), scaled), x)
    };
    Selu { alpha, gamma } => |s, x| {
        let negative = s.mul(s.splat(alpha), math::expm1(s, x));
        s.mul(s.splat(gamma), s.select(s.le(x, s.zero()), negative, x))
    };
    Clip { min, max } => |s, x| s.min(s.splat(max), s.max(s.splat(min), x));
    HardSigmoid { alpha, beta } => |s, x| {
        let y = s.fma(s.splat(alpha), x, s.splat(beta));
        s.min(s.splat(1.0), s.max(s.zero(), y))
    };
    HardSwish => |s, x| {
        let y = s.fma(x, s.splat(1.0 / 6.0), s.splat(0.5));
        s.mul(x, s.min(s.splat(1.0), s.max(s.zero(), y)))
    };
    Affine { scale, shift } => |s, x| s.fma(x, s.splat(scale), s.splat(shift));
}

#[inline(always)]
pub(crate) fn apply_binary<S: Simd>(s: S, op: Binary, a: S::F, b: S::F) -> S::F {
    match op {
        Binary::Add => s.add(a, b),
        Binary::Sub => s.sub(a, b),
        Binary::Mul => s.mul(a, b),
        Binary::Div => s.div(a, b),
        Binary::Min => min_nan(s, a, b),
        Binary::Max => max_nan(s, a, b),
    }
}

/// Applies a map from `x` to `y`, which may be the same memory.
struct MapLoop<M> {
    map: M,
    x: *const f32,
    y: *mut f32,
    len: usize,
}

impl<M: VectorMap> Kernel for MapLoop<M> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { map, x, y, len } = self;
        let body = len - len % S::LANES;
        let mut i = 0;
        // SAFETY: `x` and `y` hold `len` elements; each is read before it is written.
        unsafe {
            while i < body {
                s.store(y.add(i), map.apply(s, s.load(x.add(i))));
                i += S::LANES;
            }
            if i < len {
                let v = map.apply(s, s.load_partial(x.add(i), len - i));
                s.store_partial(y.add(i), len - i, v);
            }
        }
    }
}

struct RunMap {
    features: Features,
    x: *const f32,
    y: *mut f32,
    len: usize,
}

impl WithMap for RunMap {
    type Output = ();

    fn call<M: VectorMap>(self, map: M) {
        self.features.dispatch(MapLoop { map, x: self.x, y: self.y, len: self.len });
    }
}

/// `y = op(x)` on the calling thread.
///
/// # Safety
/// `x` and `y` hold `len` elements; they may be the same memory but not overlap otherwise.
pub(crate) unsafe fn unary_raw(features: Features, op: Unary, x: *const f32, y: *mut f32, len: usize) {
    if op == Unary::Identity && x == y.cast_const() {
        return;
    }
    with_map(op, RunMap { features, x, y, len });
}

/// `y = op(x)`.
pub fn unary(ctx: Context<'_>, op: Unary, x: &[f32], y: &mut [f32]) -> Result<()> {
    expect_len("output of the elementwise function", y.len(), x.len())?;
    let grain = if op.is_costly() { COSTLY_GRAIN } else { CHEAP_GRAIN };
    let out = SharedMut::new(y);
    for_each_range(ctx.parallel, x.len(), grain, 64, &|range| {
        // SAFETY: ranges are disjoint.
        let part = unsafe { out.slice(range.clone()) };
        let x = &x[range];
        // SAFETY: both parts hold the range's elements.
        unsafe { unary_raw(ctx.features, op, x.as_ptr(), part.as_mut_ptr(), x.len()) };
    });
    Ok(())
}

/// `x = op(x)`.
pub fn unary_in_place(ctx: Context<'_>, op: Unary, x: &mut [f32]) {
    if op == Unary::Identity {
        return;
    }
    let grain = if op.is_costly() { COSTLY_GRAIN } else { CHEAP_GRAIN };
    let len = x.len();
    let out = SharedMut::new(x);
    for_each_range(ctx.parallel, len, grain, 64, &|range| {
        // SAFETY: ranges are disjoint.
        let part = unsafe { out.slice(range) };
        // SAFETY: one slice, read and written in place.
        unsafe { unary_raw(ctx.features, op, part.as_ptr(), part.as_mut_ptr(), part.len()) };
    });
}

/// One row of a binary operation; an operand with step 0 is a single value.
struct BinaryRow {
    op: Binary,
    a: *const f32,
    b: *const f32,
    a_step: usize,
    b_step: usize,
    y: *mut f32,
    len: usize,
}

impl Kernel for BinaryRow {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.op {
            Binary::Add => binary_row::<S, 0>(s, self),
            Binary::Sub => binary_row::<S, 1>(s, self),
            Binary::Mul => binary_row::<S, 2>(s, self),
            Binary::Div => binary_row::<S, 3>(s, self),
            Binary::Min => binary_row::<S, 4>(s, self),
            Binary::Max => binary_row::<S, 5>(s, self),
        }
    }
}

#[inline(always)]
fn binary_row<S: Simd, const OP: u8>(s: S, row: BinaryRow) {
    const OPS: [Binary; 6] = [Binary::Add, Binary::Sub, Binary::Mul, Binary::Div, Binary::Min, Binary::Max];
    let op = OPS[OP as usize];
    let BinaryRow { a, b, a_step, b_step, y, len, .. } = row;
    let mut i = 0;
    // SAFETY: operands hold `len` elements, or one where the step is 0; `y` holds `len`.
    unsafe {
        let (a_one, b_one) = (s.splat(*a), s.splat(*b));
        while i + S::LANES <= len {
            let av = if a_step == 0 { a_one } else { s.load(a.add(i)) };
            let bv = if b_step == 0 { b_one } else { s.load(b.add(i)) };
            s.store(y.add(i), apply_binary(s, op, av, bv));
            i += S::LANES;
        }
        if i < len {
            let n = len - i;
            let av = if a_step == 0 { a_one } else { s.load_partial(a.add(i), n) };
            let bv = if b_step == 0 { b_one } else { s.load_partial(b.add(i), n) };
            s.store_partial(y.add(i), n, apply_binary(s, op, av, bv));
        }
    }
}

/// `y = a op b` where each operand has `y`'s length or one element.
pub fn binary(ctx: Context<'_>, op: Binary, a: &[f32], b: &[f32], y: &mut [f32]) -> Result<()> {
    let len = y.len();
    let step = |name: &str, n: usize| match n {
        n if n == len => Ok(1),
        1 => Ok(0),
        n => Err(KernelError::shape(format!("operand {name} has {n} elements, expected {len} or 1"))),
    };
    let (a_step, b_step) = (step("a", a.len())?, step("b", b.len())?);
    let out = SharedMut::new(y);
    for_each_range(ctx.parallel, len, CHEAP_GRAIN, 64, &|range| {
        // SAFETY: ranges are disjoint.
        let part = unsafe { out.slice(range.clone()) };
        let a = a[range.start * a_step..].as_ptr();
        let b = b[range.start * b_step..].as_ptr();
        ctx.features.dispatch(BinaryRow { op, a, b, a_step, b_step, y: part.as_mut_ptr(), len: part.len() });
    });
    Ok(())
}

/// `y = y op b` where `b` has `y`'s length or one element.
pub fn binary_in_place(ctx: Context<'_>, op: Binary, y: &mut [f32], b: &[f32]) -> Result<()> {
    let len = y.len();
    if b.len() != len && b.len() != 1 {
        return Err(KernelError::shape(format!("operand b has {} elements, expected {len} or 1", b.len())));
    }
    let b_step = usize::from(b.len() == len);
    let out = SharedMut::new(y);
    for_each_range(ctx.parallel, len, CHEAP_GRAIN, 64, &|range| {
        // SAFETY: ranges are disjoint.
        let part = unsafe { out.slice(range.clone()) };
        let b = b[range.start * b_step..].as_ptr();
        let y = part.as_mut_ptr();
        ctx.features.dispatch(BinaryRow { op, a: y, b, a_step: 1, b_step, y, len: part.len() });
    });
    Ok(())
}

/// `y[i] = a[i..] op b[i..]` over `shape` with element strides per dimension (0 broadcasts). `y` is contiguous.
pub fn binary_broadcast(
    ctx: Context<'_>,
    op: Binary,
    shape: &[usize],
    a: &[f32],
    a_strides: &[usize],
    b: &[f32],
    b_strides: &[usize],
    y: &mut [f32],
) -> Result<()> {
    let nest = Nest::new(shape, [(a.len(), a_strides), (b.len(), b_strides)])?;
    expect_len("output", y.len(), nest.len())?;
    let [a_step, b_step] = nest.inner_steps();
    if a_step > 1 || b_step > 1 {
        return map_binary(ctx, shape, a, a_strides, b, b_strides, y, move |a, b| scalar_binary(op, a, b));
    }
    let row = nest.inner_len();
    let out = SharedMut::new(y);
    for_each_range(ctx.parallel, nest.rows(), (CHEAP_GRAIN / row.max(1)).max(1), 1, &|rows| {
        nest.for_rows(rows, |index, [a_offset, b_offset]| {
            // SAFETY: rows are disjoint.
            let part = unsafe { out.slice(index * row..(index + 1) * row) };
            let (a, b) = (a[a_offset..].as_ptr(), b[b_offset..].as_ptr());
            ctx.features.dispatch(BinaryRow { op, a, b, a_step, b_step, y: part.as_mut_ptr(), len: row });
        });
    });
    Ok(())
}

fn scalar_binary(op: Binary, a: f32, b: f32) -> f32 {
    apply_binary(super::scalar::Scalar, op, [a; 4], [b; 4])[0]
}

/// `y[i] = f(x[i])` for any types.
pub fn map_unary<A, Y>(ctx: Context<'_>, x: &[A], y: &mut [Y], f: impl Fn(A) -> Y + Sync) -> Result<()>
where
    A: Copy + Sync,
    Y: Send,
{
    expect_len("output", y.len(), x.len())?;
    let out = SharedMut::new(y);
    for_each_range(ctx.parallel, x.len(), CHEAP_GRAIN / 2, 64, &|range| {
        // SAFETY: ranges are disjoint.
        let part = unsafe { out.slice(range.clone()) };
        for (y, &x) in part.iter_mut().zip(&x[range]) {
            *y = f(x);
        }
    });
    Ok(())
}

/// `y = f(a, b)` over `shape` with element strides per dimension (0 broadcasts). `y` is contiguous.
pub fn map_binary<A, B, Y>(
    ctx: Context<'_>,
    shape: &[usize],
    a: &[A],
    a_strides: &[usize],
    b: &[B],
    b_strides: &[usize],
    y: &mut [Y],
    f: impl Fn(A, B) -> Y + Sync,
) -> Result<()>
where
    A: Copy + Sync,
    B: Copy + Sync,
    Y: Send,
{
    let nest = Nest::new(shape, [(a.len(), a_strides), (b.len(), b_strides)])?;
    expect_len("output", y.len(), nest.len())?;
    let [a_step, b_step] = nest.inner_steps();
    let row = nest.inner_len();
    let out = SharedMut::new(y);
    for_each_range(ctx.parallel, nest.rows(), (CHEAP_GRAIN / 2 / row.max(1)).max(1), 1, &|rows| {
        nest.for_rows(rows, |index, [a_offset, b_offset]| {
            // SAFETY: rows are disjoint.
            let part = unsafe { out.slice(index * row..(index + 1) * row) };
            let (a, b) = (&a[a_offset..], &b[b_offset..]);
            match (a_step, b_step) {
                (1, 1) => {
                    part.iter_mut().zip(a).zip(b).for_each(|((y, &a), &b)| *y = f(a, b));
                }
                (1, 0) => part.iter_mut().zip(a).for_each(|(y, &a)| *y = f(a, b[0])),
                (0, 1) => part.iter_mut().zip(b).for_each(|(y, &b)| *y = f(a[0], b)),
                _ => part.iter_mut().enumerate().for_each(|(i, y)| *y = f(a[i * a_step], b[i * b_step])),
            }
        });
    });
    Ok(())
}

/// `y = f(a, b, c)` over `shape` with element strides per dimension (0 broadcasts). `y` is contiguous.
pub fn map_ternary<A, B, C, Y>(
    ctx: Context<'_>,
    shape: &[usize],
    (a, a_strides): (&[A], &[usize]),
    (b, b_strides): (&[B], &[usize]),
    (c, c_strides): (&[C], &[usize]),
    y: &mut [Y],
    f: impl Fn(A, B, C) -> Y + Sync,
) -> Result<()>
where
    A: Copy + Sync,
    B: Copy + Sync,
    C: Copy + Sync,
    Y: Send,
{
    let nest = Nest::new(shape, [(a.len(), a_strides), (b.len(), b_strides), (c.len(), c_strides)])?;
    expect_len("output", y.len(), nest.len())?;
    let [a_step, b_step, c_step] = nest.inner_steps();
    let row = nest.inner_len();
    let out = SharedMut::new(y);
    for_each_range(ctx.parallel, nest.rows(), (CHEAP_GRAIN / 2 / row.max(1)).max(1), 1, &|rows| {
        nest.for_rows(rows, |index, [ao, bo, co]| {
            // SAFETY: rows are disjoint.
            let part = unsafe { out.slice(index * row..(index + 1) * row) };
            for (i, y) in part.iter_mut().enumerate() {
                *y = f(a[ao + i * a_step], b[bo + i * b_step], c[co + i * c_step]);
            }
        });
    });
    Ok(())
}
