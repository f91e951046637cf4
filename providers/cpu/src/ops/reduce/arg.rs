//! ArgMax and ArgMin: the position of the extreme element along one axis.

use half::{bf16, f16};

use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::{NEWEST, Operator};
use crate::shape;
use crate::tensor::{DType, Dims, Element};

struct ArgExtreme {
    largest: bool,
    axis: i64,
    keep_dims: bool,
    /// Of several equal extremes, the last.
    last: bool,
}

impl Kernel for ArgExtreme {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        match cx.input(0)?.dtype() {
            DType::F32 => self.find::<f32>(cx),
            DType::F64 => self.find::<f64>(cx),
            DType::F16 => self.find::<f16>(cx),
            DType::BF16 => self.find::<bf16>(cx),
            DType::I8 => self.find::<i8>(cx),
            DType::I16 => self.find::<i16>(cx),
            DType::I32 => self.find::<i32>(cx),
            DType::I64 => self.find::<i64>(cx),
            DType::U8 => self.find::<u8>(cx),
            DType::U16 => self.find::<u16>(cx),
            DType::U32 => self.find::<u32>(cx),
            DType::U64 => self.find::<u64>(cx),
            other => Err(refuse(other)),
        }
    }
}

fn refuse(dtype: DType) -> OpError {
    OpError::unsupported(format!("ArgMax and ArgMin are not defined for element type {dtype}"))
}

impl ArgExtreme {
    fn find<T: Element + PartialOrd>(&self, cx: &mut Context<'_>) -> Result<()> {
        let input = cx.input(0)?;
        let mut dims: Dims = input.dims().into();
        if dims.is_empty() {
            dims.push(1);
        }
        let axis = shape::axis(self.axis, dims.len())?;
        let size = dims[axis];
        let outer: usize = dims[..axis].iter().product();
        let inner: usize = dims[axis + 1..].iter().product();
        if size == 0 && outer * inner > 0 {
            return Err(OpError::invalid(format!(
                "there is no extreme along the empty axis {axis} of {dims:?}"
            )));
        }
        if self.keep_dims {
            dims[axis] = 1;
        } else {
            dims.remove(axis);
        }
        if input.rank() == 0 {
            dims.clear();
        }
        let mut out = cx.output(0, DType::I64, &dims)?;
        let (x, y) = (input.as_slice::<T>()?, out.as_mut_slice::<i64>()?);
        for o in 0..outer {
            let block = &x[o * size * inner..(o + 1) * size * inner];
            let found = &mut y[o * inner..(o + 1) * inner];
            found.fill(0);
            for k in 1..size {
                for (i, found) in found.iter_mut().enumerate() {
                    let (new, old) = (block[k * inner + i], block[*found as usize * inner + i]);
                    if self.replaces(new, old) {
                        *found = k as i64;
                    }
                }
            }
        }
        cx.set(0, out);
        Ok(())
    }

    /// Whether a later element takes the place of the extreme so far; NaN is more extreme than any number.
    #[expect(clippy::eq_op, reason = "a value that differs from itself is NaN")]
    fn replaces<T: PartialOrd>(&self, new: T, old: T) -> bool {
        if old != old {
            return self.last && new != new;
        }
        let better = if self.largest { new > old } else { new < old };
        better || new != new || self.last && new == old
    }
}

fn build(node: &Node, largest: bool) -> Result<Box<dyn Kernel>> {
    let dtype = node.input_dtype(0);
    if dtype != DType::Undefined && !dtype.is_float() && (!dtype.is_integer() || dtype.bits() < 8) {
        return Err(refuse(dtype));
    }
    Ok(Box::new(ArgExtreme {
        largest,
        axis: node.int("axis", 0)?,
        keep_dims: node.flag("keepdims", true)?,
        last: node.flag("select_last_index", false)?,
    }))
}

pub const OPERATORS: &[Operator] = &[
    Operator::onnx("ArgMax", 1, NEWEST, |node| build(node, true)),
    Operator::onnx("ArgMin", 1, NEWEST, |node| build(node, false)),
];
