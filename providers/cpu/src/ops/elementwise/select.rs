//! Where: elements of one operand or another by a condition, for every element type.

use super::binary::check_same_type;
use super::broadcast::{Broadcast, shape_of};
use super::row::split;
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::layout::text::{self, Strings};
use crate::ops::{NEWEST, Operator};
use crate::tensor::{Bool, DType, Tensor};

/// Elements below which a thread is not worth waking.
const GRAIN: usize = 32 * 1024;

struct Where;

impl Kernel for Where {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let (condition, x, y) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
        check_same_type(x.dtype(), y.dtype())?;
        let dims = shape_of(&[condition.dims(), x.dims(), y.dims()])?;
        let plan = Broadcast::new([condition.dims(), x.dims(), y.dims()], &dims)?;
        let flags = condition.as_slice::<Bool>()?;
        if x.dtype() == DType::String {
            let out = select_strings(cx, &plan, flags, [x, y], &dims)?;
            cx.set(0, out);
            return Ok(());
        }
        let mut out = cx.output(0, x.dtype(), &dims)?;
        match x.dtype().bits() {
            8 => select::<u8>(cx, &plan, flags, [x, y], &mut out),
            16 => select::<u16>(cx, &plan, flags, [x, y], &mut out),
            32 => select::<u32>(cx, &plan, flags, [x, y], &mut out),
            64 => select::<u64>(cx, &plan, flags, [x, y], &mut out),
            128 => select::<[u64; 2]>(cx, &plan, flags, [x, y], &mut out),
            _ => {
                return Err(OpError::unsupported(format!(
                    "Where is not defined for element type {}",
                    x.dtype()
                )));
            }
        }
        cx.set(0, out);
        Ok(())
    }
}

/// The output as tasks see it.
struct Target<T>(*mut T);

// SAFETY: tasks write disjoint parts.
unsafe impl<T: Send> Sync for Target<T> {}

impl<T> Target<T> {
    /// # Safety
    /// The part must be inside the output and no other task may hold it.
    #[expect(clippy::mut_from_ref, reason = "the caller keeps parts disjoint")]
    unsafe fn part(&self, at: usize, len: usize) -> &mut [T] {
        // SAFETY: promised by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(at), len) }
    }
}

/// Elements of the plain type `T`, any of that width.
fn cells<T>(tensor: &Tensor) -> &[T] {
    let bytes = tensor.as_bytes();
    if bytes.is_empty() {
        return &[];
    }
    // SAFETY: `T` is an unsigned integer (or two) of the element's size; tensors are aligned for their elements, and
    // 16-byte elements need no more than 8.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<T>()) }
}

fn select<T: Copy + Send + Sync>(
    cx: &Context<'_>,
    plan: &Broadcast<3>,
    flags: &[Bool],
    [x, y]: [&Tensor; 2],
    out: &mut Tensor,
) {
    let (x, y) = (cells::<T>(x), cells::<T>(y));
    let target = Target(out.as_bytes_mut().as_mut_ptr().cast::<T>());
    let repeats = [plan.repeats(0), plan.repeats(1), plan.repeats(2)];
    split(cx.parallel(), plan.len(), GRAIN, &|start, end| {
        plan.for_each_row(start..end, |at, len, [flag_at, x_at, y_at]| {
            // SAFETY: rows lie inside the output and those of different tasks are disjoint.
            let row = unsafe { target.part(at, len) };
            let span = |at: usize, repeats: bool| at..at + if repeats { 1 } else { len };
            let x = &x[span(x_at, repeats[1])];
            let y = &y[span(y_at, repeats[2])];
            if repeats[0] {
                let (from, repeats) = if flags[flag_at].0 != 0 { (x, repeats[1]) } else { (y, repeats[2]) };
                if repeats {
                    row.fill(from[0])
                } else {
                    row.copy_from_slice(from)
                }
                return;
            }
            select_row(&flags[flag_at..flag_at + len], x, y, row);
        });
    });
}

/// `x` and `y` have the row's length or one element.
fn select_row<T: Copy>(flags: &[Bool], x: &[T], y: &[T], row: &mut [T]) {
    let len = row.len();
    let pairs = row.iter_mut().zip(flags);
    match (x.len() == len, y.len() == len) {
        (true, true) => {
            for (((out, flag), &x), &y) in pairs.zip(x).zip(y) {
                *out = if flag.0 != 0 { x } else { y };
            }
        }
        (true, false) => {
            let y = y[0];
            for ((out, flag), &x) in pairs.zip(x) {
                *out = if flag.0 != 0 { x } else { y };
            }
        }
        (false, true) => {
            let x = x[0];
            for ((out, flag), &y) in pairs.zip(y) {
                *out = if flag.0 != 0 { x } else { y };
            }
        }
        (false, false) => {
            let (x, y) = (x[0], y[0]);
            for (out, flag) in pairs {
                *out = if flag.0 != 0 { x } else { y };
            }
        }
    }
}

fn select_strings(
    cx: &Context<'_>,
    plan: &Broadcast<3>,
    flags: &[Bool],
    [x, y]: [&Tensor; 2],
    dims: &[usize],
) -> Result<Tensor> {
    let (x, y) = (Strings::new(x)?, Strings::new(y)?);
    let mut chosen: Vec<&[u8]> = Vec::with_capacity(plan.len());
    plan.for_each_row(0..plan.len(), |_, len, [flag, from_x, from_y]| {
        for k in 0..len {
            let step = |i: usize| if plan.repeats(i) { 0 } else { k };
            let pick_x = flags[flag + step(0)].0 != 0;
            chosen.push(if pick_x { x.get(from_x + step(1)) } else { y.get(from_y + step(2)) });
        }
    });
    text::write(cx, 0, dims, |i| chosen[i])
}

fn build(node: &Node) -> Result<Box<dyn Kernel>> {
    let dtype = node.input_dtype(1);
    if (1..8).contains(&dtype.bits()) {
        return Err(OpError::unsupported(format!("Where is not defined for element type {dtype}")));
    }
    Ok(Box::new(Where))
}

pub const OPERATORS: &[Operator] = &[Operator::onnx("Where", 1, NEWEST, build)];
