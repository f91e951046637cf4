//! HannWindow, HammingWindow and BlackmanWindow: sums of cosines.

use std::f64::consts::TAU;

use super::optional_int;
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::layout::generate::dtype_of;
use crate::ops::layout::number;
use crate::ops::{NEWEST, Operator};
use crate::tensor::DType;

pub const OPERATORS: &[Operator] = &[
    Operator::onnx("HannWindow", 17, NEWEST, |node| window(node, [0.5, 0.5, 0.0])),
    Operator::onnx("HammingWindow", 17, NEWEST, |node| window(node, [25.0 / 46.0, 21.0 / 46.0, 0.0])),
    Operator::onnx("BlackmanWindow", 17, NEWEST, |node| window(node, [0.42, 0.5, 0.08])),
];

struct Window {
    /// Coefficients of 1, -cos(x) and cos(2 x).
    terms: [f64; 3],
    periodic: bool,
    dtype: DType,
}

fn window(node: &Node, terms: [f64; 3]) -> Result<Box<dyn Kernel>> {
    let dtype = dtype_of(node.int("output_datatype", 1)?)?;
    Ok(Box::new(Window { terms, periodic: node.int("periodic", 1)? != 0, dtype }))
}

impl Kernel for Window {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let size = optional_int(cx, 0)?.unwrap_or(0);
        let size =
            usize::try_from(size).map_err(|_| OpError::invalid(format!("a window of {size} elements")))?;
        crate::tensor::byte_len(DType::F64, &[size])?;
        // A symmetric window of one element is its middle.
        let period = if self.periodic { size } else { size.saturating_sub(1) };
        let [one, first, second] = self.terms;
        let value = |i: usize| {
            let x = if period == 0 { TAU / 2.0 } else { TAU * i as f64 / period as f64 };
            one - first * x.cos() + second * (2.0 * x).cos()
        };
        let values: Vec<f64> = (0..size).map(value).collect();
        let output = number::store(cx, 0, self.dtype, &[size], &values)?;
        cx.set(0, output);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::node::Attribute;
    use crate::testing::{node, run, tensor};

    #[test]
    fn windows_are_symmetric_or_periodic() {
        let hann = |periodic: i64, size: i32| {
            let attributes =
                [("periodic", Attribute::Int(periodic)), ("output_datatype", Attribute::Int(11))];
            let outputs =
                run(&node("", "HannWindow", 17, &attributes, 1), &[Some(tensor(&[], &[size]))]).unwrap();
            outputs[0].as_slice::<f64>().unwrap().to_vec()
        };
        let close =
            |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-15) && a.len() == b.len();
        assert!(close(&hann(0, 3), &[0.0, 1.0, 0.0]));
        assert!(close(&hann(1, 4), &[0.0, 0.5, 1.0, 0.5]));
        assert!(close(&hann(0, 1), &[1.0]));
        assert!(run(&node("", "HannWindow", 17, &[], 1), &[Some(tensor(&[], &[-1i64]))]).is_err());
    }
}
