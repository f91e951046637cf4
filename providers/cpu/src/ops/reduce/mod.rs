//! Operators that fold axes away: ReduceSum and its kin.

pub mod arg;
pub mod cumulative;
pub mod fold;
pub mod loss;
pub mod normalize;
pub mod softmax;

use tenon_kernels::cpu::reduce::{Reduce, reduce};

use self::fold::Plan;
use super::cast::{converted, set_converted};
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::{NEWEST, Operator};
use crate::shape;
use crate::tensor::{Bool, DType, Dims, Element, Tensor};

/// One of the Reduce operators.
struct Reduction {
    op: Reduce,
    /// From the attribute; input 1 is asked when `None`.
    axes: Option<Vec<i64>>,
    keep_dims: bool,
    /// Absent or empty axes mean none instead of all.
    none_when_empty: bool,
}

impl Reduction {
    fn axes(&self, cx: &Context<'_>, rank: usize) -> Result<Dims> {
        let given = match (&self.axes, cx.optional(1)) {
            (Some(axes), _) => shape::axes(axes, rank)?,
            (None, Some(tensor)) => shape::axes(&tensor.to_i64s()?, rank)?,
            (None, None) => Dims::new(),
        };
        let mut axes = given;
        if axes.is_empty() && !self.none_when_empty {
            axes = (0..rank).collect();
        }
        axes.sort_unstable();
        Ok(axes)
    }
}

impl Kernel for Reduction {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let input = cx.input(0)?;
        let axes = self.axes(cx, input.rank())?;
        let kept = input.dims().iter().enumerate();
        let dims: Dims = if self.keep_dims {
            kept.map(|(axis, &size)| if axes.contains(&axis) { 1 } else { size }).collect()
        } else {
            kept.filter(|(axis, _)| !axes.contains(axis)).map(|(_, &size)| size).collect()
        };
        let dtype = input.dtype();
        if dtype == DType::F32 {
            let mut out = cx.output(0, dtype, &dims)?;
            let machine = tenon_kernels::cpu::Context::new(cx.features(), cx.parallel());
            reduce(machine, self.op, input.as_slice()?, input.dims(), &axes, out.as_mut_slice()?)?;
            cx.set(0, out);
            return Ok(());
        }
        let plan = Plan::new(input.dims(), &axes);
        match dtype {
            DType::F16 | DType::BF16 => {
                let wide = converted(cx, input, DType::F32)?;
                let mut sums = cx.scratch(DType::F32, &dims)?;
                let machine = tenon_kernels::cpu::Context::new(cx.features(), cx.parallel());
                reduce(machine, self.op, wide.as_slice()?, wide.dims(), &axes, sums.as_mut_slice()?)?;
                set_converted(cx, 0, sums, dtype)
            }
            DType::F64 => {
                let mut out = cx.output(0, dtype, &dims)?;
                reduce_f64(self.op, &plan, input.as_slice()?, out.as_mut_slice()?);
                cx.set(0, out);
                Ok(())
            }
            DType::I8 => reduce_integers::<i8>(cx, self.op, &plan, &dims),
            DType::I16 => reduce_integers::<i16>(cx, self.op, &plan, &dims),
            DType::I32 => reduce_integers::<i32>(cx, self.op, &plan, &dims),
            DType::I64 => reduce_integers::<i64>(cx, self.op, &plan, &dims),
            DType::U8 => reduce_integers::<u8>(cx, self.op, &plan, &dims),
            DType::U16 => reduce_integers::<u16>(cx, self.op, &plan, &dims),
            DType::U32 => reduce_integers::<u32>(cx, self.op, &plan, &dims),
            DType::U64 => reduce_integers::<u64>(cx, self.op, &plan, &dims),
            DType::Bool => {
                let mut out = cx.output(0, dtype, &dims)?;
                reduce_truth(self.op, &plan, input.as_slice()?, out.as_mut_slice()?)?;
                cx.set(0, out);
                Ok(())
            }
            other => Err(refuse(self.op, other)),
        }
    }
}

fn refuse(op: Reduce, dtype: DType) -> OpError {
    OpError::unsupported(format!("the reduction {op:?} is not defined for element type {dtype}"))
}

fn reduce_truth(op: Reduce, plan: &Plan, x: &[Bool], y: &mut [Bool]) -> Result<()> {
    let start = match op {
        Reduce::Max => 0,
        Reduce::Min => 1,
        _ => return Err(refuse(op, DType::Bool)),
    };
    y.fill(Bool(start));
    if op == Reduce::Max {
        plan.fold(x, y, |total: Bool, x: Bool| Bool(total.0 | u8::from(x.0 != 0)));
    } else {
        plan.fold(x, y, |total: Bool, x: Bool| Bool(total.0 & u8::from(x.0 != 0)));
    }
    Ok(())
}

fn reduce_f64(op: Reduce, plan: &Plan, x: &[f64], y: &mut [f64]) {
    match op {
        Reduce::Max | Reduce::LogSumExp => {
            y.fill(f64::NEG_INFINITY);
            plan.fold(x, y, |total: f64, x: f64| if x > total || x.is_nan() { x } else { total });
        }
        Reduce::Min => {
            y.fill(f64::INFINITY);
            plan.fold(x, y, |total: f64, x: f64| if x < total || x.is_nan() { x } else { total });
        }
        Reduce::Prod => {
            y.fill(1.0);
            plan.fold(x, y, |total: f64, x: f64| total * x);
        }
        Reduce::Sum | Reduce::Mean | Reduce::LogSum => {
            y.fill(0.0);
            plan.fold(x, y, |total: f64, x: f64| total + x);
        }
        Reduce::SumSquare | Reduce::L2 => {
            y.fill(0.0);
            plan.fold(x, y, |total: f64, x: f64| total + x * x);
        }
        Reduce::L1 => {
            y.fill(0.0);
            plan.fold(x, y, |total: f64, x: f64| total + x.abs());
        }
    }
    match op {
        Reduce::Mean => y.iter_mut().for_each(|y| *y /= plan.depth() as f64),
        Reduce::L2 => y.iter_mut().for_each(|y| *y = y.sqrt()),
        Reduce::LogSum => y.iter_mut().for_each(|y| *y = y.ln()),
        Reduce::LogSumExp => {
            let shifts: Vec<f64> = y.iter().map(|&max| if max.is_finite() { max } else { 0.0 }).collect();
            y.fill(0.0);
            plan.fold_with(x, &shifts, y, |total: f64, x: f64, shift: f64| total + (x - shift).exp());
            for (y, shift) in y.iter_mut().zip(shifts) {
                *y = y.ln() + shift;
            }
        }
        _ => {}
    }
}

/// Integers whose sums and products wrap.
trait Integer: Element + Ord {
    const LOWEST: Self;
    const HIGHEST: Self;
    const ONE: Self;
    const ZERO: Self;
    fn plus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;
    fn magnitude(self) -> Self;
    /// The quotient by a count, rounded towards zero; zero for no elements.
    fn over(self, count: usize) -> Self;
}

macro_rules! integers {
    ($($t:ident |$x:ident| $magnitude:expr;)*) => {
        $(
            impl Integer for $t {
                const LOWEST: Self = $t::MIN;
                const HIGHEST: Self = $t::MAX;
                const ONE: Self = 1;
                const ZERO: Self = 0;
                fn plus(self, other: Self) -> Self {
                    self.wrapping_add(other)
                }
                fn times(self, other: Self) -> Self {
                    self.wrapping_mul(other)
                }
                fn magnitude(self) -> Self {
                    let $x = self;
                    $magnitude
                }
                fn over(self, count: usize) -> Self {
                    if count == 0 { 0 } else { (i128::from(self) / count as i128) as $t }
                }
            }
        )*
    };
}

integers! {
    i8 |x| x.wrapping_abs();
    i16 |x| x.wrapping_abs();
    i32 |x| x.wrapping_abs();
    i64 |x| x.wrapping_abs();
    u8 |x| x;
    u16 |x| x;
    u32 |x| x;
    u64 |x| x;
}

fn reduce_integers<T: Integer>(cx: &mut Context<'_>, op: Reduce, plan: &Plan, dims: &[usize]) -> Result<()> {
    if matches!(op, Reduce::L2 | Reduce::LogSum | Reduce::LogSumExp) {
        let wide = converted(cx, cx.input(0)?, DType::F64)?;
        let mut sums: Tensor = cx.scratch(DType::F64, dims)?;
        reduce_f64(op, plan, wide.as_slice()?, sums.as_mut_slice()?);
        return set_converted(cx, 0, sums, T::DTYPE);
    }
    let x = cx.input(0)?.as_slice::<T>()?;
    let mut out = cx.output(0, T::DTYPE, dims)?;
    let y = out.as_mut_slice::<T>()?;
    y.fill(match op {
        Reduce::Max => T::LOWEST,
        Reduce::Min => T::HIGHEST,
        Reduce::Prod => T::ONE,
        _ => T::ZERO,
    });
    match op {
        Reduce::Max => plan.fold(x, y, |total: T, x: T| total.max(x)),
        Reduce::Min => plan.fold(x, y, |total: T, x: T| total.min(x)),
        Reduce::Prod => plan.fold(x, y, |total: T, x: T| total.times(x)),
        Reduce::SumSquare => plan.fold(x, y, |total: T, x: T| total.plus(x.times(x))),
        Reduce::L1 => plan.fold(x, y, |total: T, x: T| total.plus(x.magnitude())),
        _ => plan.fold(x, y, |total: T, x: T| total.plus(x)),
    }
    if op == Reduce::Mean {
        y.iter_mut().for_each(|y| *y = y.over(plan.depth()));
    }
    cx.set(0, out);
    Ok(())
}

/// The builder of `op`, whose axes are an input from opset `axes_input` on.
fn build(node: &Node, op: Reduce, axes_input: u32) -> Result<Box<dyn Kernel>> {
    let dtype = node.input_dtype(0);
    let known = dtype == DType::Undefined
        || dtype.is_float()
        || dtype.is_integer() && dtype.bits() >= 8
        || dtype == DType::Bool && matches!(op, Reduce::Max | Reduce::Min);
    if !known {
        return Err(refuse(op, dtype));
    }
    let from_input = node.version >= axes_input;
    let axes = if from_input { None } else { Some(node.ints("axes")?.unwrap_or(&[]).to_vec()) };
    let none_when_empty = from_input && node.flag("noop_with_empty_axes", false)?;
    Ok(Box::new(Reduction { op, axes, keep_dims: node.flag("keepdims", true)?, none_when_empty }))
}

pub const OPERATORS: &[Operator] = &[
    Operator::onnx("ReduceSum", 1, NEWEST, |node| build(node, Reduce::Sum, 13)),
    Operator::onnx("ReduceMean", 1, NEWEST, |node| build(node, Reduce::Mean, 18)),
    Operator::onnx("ReduceMax", 1, NEWEST, |node| build(node, Reduce::Max, 18)),
    Operator::onnx("ReduceMin", 1, NEWEST, |node| build(node, Reduce::Min, 18)),
    Operator::onnx("ReduceProd", 1, NEWEST, |node| build(node, Reduce::Prod, 18)),
    Operator::onnx("ReduceL1", 1, NEWEST, |node| build(node, Reduce::L1, 18)),
    Operator::onnx("ReduceL2", 1, NEWEST, |node| build(node, Reduce::L2, 18)),
    Operator::onnx("ReduceLogSum", 1, NEWEST, |node| build(node, Reduce::LogSum, 18)),
    Operator::onnx("ReduceLogSumExp", 1, NEWEST, |node| build(node, Reduce::LogSumExp, 18)),
    Operator::onnx("ReduceSumSquare", 1, NEWEST, |node| build(node, Reduce::SumSquare, 18)),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Attribute;
    use crate::testing::{node, random, run, tensor};

    fn reduced(
        op_type: &str,
        version: u32,
        attributes: &[(&str, Attribute)],
        inputs: &[Tensor],
    ) -> Result<Tensor> {
        let inputs: Vec<Option<Tensor>> = inputs.iter().cloned().map(Some).collect();
        run(&node("", op_type, version, attributes, 1), &inputs).map(|mut outputs| outputs.remove(0))
    }

    #[test]
    fn f32_reductions_agree_with_f64() {
        let x = random(&[3, 7, 2, 33]);
        let wide: Vec<f64> = x.as_slice::<f32>().unwrap().iter().map(|&v| f64::from(v)).collect();
        let wide = tensor(&[3, 7, 2, 33], &wide);
        for op in ["Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSumExp", "SumSquare"] {
            for axes in [vec![3], vec![0], vec![1, 2], vec![0, 2], vec![-1, 0], vec![]] {
                let axes = tensor(&[axes.len()], &axes);
                let name = format!("Reduce{op}");
                let narrow = reduced(&name, 18, &[], &[x.clone(), axes.clone()]).unwrap();
                let expected = reduced(&name, 18, &[], &[wide.clone(), axes]).unwrap();
                assert_eq!(narrow.dims(), expected.dims());
                let pairs = narrow.as_slice::<f32>().unwrap().iter().zip(expected.as_slice::<f64>().unwrap());
                for (&y, &e) in pairs {
                    assert!((f64::from(y) - e).abs() <= 2e-5 * e.abs().max(1.0), "{name}: {y} against {e}");
                }
            }
        }
    }

    #[test]
    fn nothing_reduces_to_the_neutral_element() {
        let empty = tensor::<i64>(&[2, 0], &[]);
        let keep = [("keepdims", Attribute::Int(0)), ("axes", Attribute::Ints(vec![1]))];
        assert_eq!(
            reduced("ReduceProd", 13, &keep, std::slice::from_ref(&empty))
                .unwrap()
                .as_slice::<i64>()
                .unwrap(),
            [1, 1]
        );
        assert_eq!(
            reduced("ReduceMax", 13, &keep, &[empty]).unwrap().as_slice::<i64>().unwrap(),
            [i64::MIN; 2]
        );
        let none = [("noop_with_empty_axes", Attribute::Int(1))];
        let same = reduced("ReduceSumSquare", 18, &none, &[tensor(&[2], &[3i32, -2])]).unwrap();
        assert_eq!(same.as_slice::<i32>().unwrap(), [9, 4]);
    }

    #[test]
    fn wrong_axes_are_errors() {
        for axes in [vec![2], vec![-3], vec![0, 0]] {
            let attributes = [("axes", Attribute::Ints(axes))];
            assert!(reduced("ReduceMean", 13, &attributes, &[random(&[2, 3])]).is_err());
        }
    }

    #[test]
    fn the_last_of_equal_extremes_can_be_asked_for() {
        let x = tensor(&[2, 4], &[1i32, 5, 5, 0, 7, 7, 7, 7]);
        for (last, expected) in [(0, [1, 0]), (1, [2, 3])] {
            let attributes = [("axis", Attribute::Int(-1)), ("select_last_index", Attribute::Int(last))];
            let y = reduced("ArgMax", 13, &attributes, std::slice::from_ref(&x)).unwrap();
            assert_eq!(y.as_slice::<i64>().unwrap(), expected);
        }
    }

    #[test]
    fn softmax_before_opset_13_flattens() {
        let x = random(&[2, 3, 4]);
        let flat = reduced("Softmax", 11, &[("axis", Attribute::Int(1))], std::slice::from_ref(&x)).unwrap();
        let rows = reduced("Softmax", 13, &[], &[x.clone().reshaped(&[2, 12]).unwrap()]).unwrap();
        assert_eq!(flat.as_slice::<f32>().unwrap(), rows.as_slice::<f32>().unwrap());
        let axis = reduced("Softmax", 13, &[("axis", Attribute::Int(1))], &[x]).unwrap();
        let sums = reduced("ReduceSum", 11, &[("axes", Attribute::Ints(vec![1]))], &[axis]).unwrap();
        assert!(sums.as_slice::<f32>().unwrap().iter().all(|sum| (sum - 1.0).abs() < 1e-6));
    }
}
