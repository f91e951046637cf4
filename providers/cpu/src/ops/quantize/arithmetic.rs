//! QLinear operators of com.microsoft over several operands: QLinearAdd, QLinearMul, QLinearWhere, QLinearConcat.

use super::value::{Affine, Codes, check};
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::ops::Operator;
use crate::ops::elementwise::broadcast::{Broadcast, shape_of};
use crate::ops::real::to_vec;
use crate::shape;
use crate::tensor::{Bool, DType, Dims, Tensor};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Arithmetic {
    Add,
    Mul,
}

impl Kernel for Arithmetic {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let (a, b) = (cx.input(0)?, cx.input(3)?);
        if a.dtype() != b.dtype() {
            return Err(OpError::invalid(format!(
                "operands must have one type, got {} and {}",
                a.dtype(),
                b.dtype()
            )));
        }
        let codes = Codes::of(a.dtype())?;
        let (from_a, from_b, to) =
            (Affine::read(cx, 1, 2)?, Affine::read(cx, 4, 5)?, Affine::read(cx, 6, 7)?);
        let dims = shape_of(&[a.dims(), b.dims()])?;
        let plan = Broadcast::new([a.dims(), b.dims()], &dims)?;
        let values = |affine: Affine| -> [f32; 256] {
            std::array::from_fn(|byte| affine.value(codes.load(byte as u8)))
        };
        let (table_a, table_b) = (values(from_a), values(from_b));
        let mut out = cx.output(0, a.dtype(), &dims)?;
        let (a, b, y) = (a.as_bytes(), b.as_bytes(), out.as_bytes_mut());
        plan.for_each_row(0..plan.len(), |at, len, [at_a, at_b]| {
            for (k, y) in y[at..at + len].iter_mut().enumerate() {
                let a = table_a[usize::from(a[at_a + if plan.repeats(0) { 0 } else { k }])];
                let b = table_b[usize::from(b[at_b + if plan.repeats(1) { 0 } else { k }])];
                let value = if *self == Arithmetic::Add { a + b } else { a * b };
                *y = to.code(value, codes) as u8;
            }
        });
        cx.set(0, out);
        Ok(())
    }
}

/// Elements of X or Y by a condition, each brought to the scale of the result.
struct Where;

impl Kernel for Where {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let (condition, x, y) = (cx.input(0)?, cx.input(1)?, cx.input(4)?);
        let codes = Codes::of(x.dtype())?;
        if x.dtype() != y.dtype() {
            return Err(OpError::invalid(format!(
                "operands must have one type, got {} and {}",
                x.dtype(),
                y.dtype()
            )));
        }
        let (from_x, from_y, to) =
            (Affine::read(cx, 2, 3)?, Affine::read(cx, 5, 6)?, Affine::read(cx, 7, 8)?);
        let table_x = codes.table(|code| to.code(from_x.value(code), codes));
        let table_y = codes.table(|code| to.code(from_y.value(code), codes));
        let dims = shape_of(&[condition.dims(), x.dims(), y.dims()])?;
        let plan = Broadcast::new([condition.dims(), x.dims(), y.dims()], &dims)?;
        let mut out = cx.output(0, x.dtype(), &dims)?;
        let (flags, x, y, z) =
            (condition.as_slice::<Bool>()?, x.as_bytes(), y.as_bytes(), out.as_bytes_mut());
        plan.for_each_row(0..plan.len(), |at, len, [flag, at_x, at_y]| {
            let place = |i: usize, at: usize, k: usize| at + if plan.repeats(i) { 0 } else { k };
            for (k, z) in z[at..at + len].iter_mut().enumerate() {
                *z = if flags[place(0, flag, k)].0 != 0 {
                    table_x[usize::from(x[place(1, at_x, k)])]
                } else {
                    table_y[usize::from(y[place(2, at_y, k)])]
                };
            }
        });
        cx.set(0, out);
        Ok(())
    }
}

/// Tensors along one axis, each brought to the scale of the result; inputs come as (tensor, scale, zero point).
struct Concat {
    axis: i64,
}

/// One tensor to concatenate.
struct Part {
    bytes: Vec<u8>,
    dims: Dims,
}

impl Concat {
    fn part(cx: &Context<'_>, index: usize, to: Affine, codes: Codes) -> Result<Part> {
        let tensor = cx.input(index)?;
        let dims = tensor.dims().into();
        if tensor.dtype() == DType::F32 {
            let bytes = to_vec::<f32>(tensor)?.into_iter().map(|value| to.code(value, codes) as u8).collect();
            return Ok(Part { bytes, dims });
        }
        let from = Affine::read(cx, index + 1, index + 2)?;
        let own = Codes::of(tensor.dtype())?;
        let table = own.table(|code| to.code(from.value(code), codes));
        Ok(Part { bytes: tensor.as_bytes().iter().map(|&byte| table[usize::from(byte)]).collect(), dims })
    }
}

impl Kernel for Concat {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let codes = Codes::of(cx.input(1)?.dtype())?;
        let to = Affine::read(cx, 0, 1)?;
        let count = (cx.input_count() - 2) / 3;
        let parts: Vec<Part> =
            (0..count).map(|i| Concat::part(cx, 2 + 3 * i, to, codes)).collect::<Result<Vec<Part>>>()?;
        let first =
            parts.first().ok_or_else(|| OpError::invalid("QLinearConcat needs at least one tensor"))?;
        let axis = shape::axis(self.axis, first.dims.len())?;
        let mut dims = first.dims.clone();
        dims[axis] = 0;
        for part in &parts {
            let fits = part.dims.len() == dims.len()
                && (0..dims.len()).all(|i| i == axis || part.dims[i] == dims[i]);
            if !fits {
                return Err(OpError::invalid(format!(
                    "shape {:?} does not line up with {:?}",
                    part.dims, first.dims
                )));
            }
            dims[axis] += part.dims[axis];
        }
        let outer: usize = dims[..axis].iter().product();
        let mut out: Tensor = cx.output(0, codes.dtype(), &dims)?;
        let y = out.as_bytes_mut();
        let mut at = 0;
        for o in 0..outer {
            for part in &parts {
                let block = part.bytes.len() / outer;
                y[at..at + block].copy_from_slice(&part.bytes[o * block..(o + 1) * block]);
                at += block;
            }
        }
        cx.set(0, out);
        Ok(())
    }
}

pub const OPERATORS: &[Operator] = &[
    Operator::of("com.microsoft", "QLinearAdd", |node| {
        check(node.input_dtype(0))?;
        Ok(Box::new(Arithmetic::Add))
    }),
    Operator::of("com.microsoft", "QLinearMul", |node| {
        check(node.input_dtype(0))?;
        Ok(Box::new(Arithmetic::Mul))
    }),
    Operator::of("com.microsoft", "QLinearWhere", |node| {
        check(node.input_dtype(1))?;
        Ok(Box::new(Where))
    }),
    Operator::of("com.microsoft", "QLinearConcat", |node| {
        Ok(Box::new(Concat { axis: node.required_int("axis")? }))
    }),
];
