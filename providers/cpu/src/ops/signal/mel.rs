//! MelWeightMatrix: triangular filters that turn a spectrum into mel bands.

use super::optional_int;
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::layout::generate::dtype_of;
use crate::ops::layout::number;
use crate::ops::real;
use crate::ops::{NEWEST, Operator};
use crate::tensor::{DType, byte_len};

pub const OPERATORS: &[Operator] = &[Operator::onnx("MelWeightMatrix", 17, NEWEST, mel_weight_matrix)];

struct MelWeightMatrix {
    dtype: DType,
}

fn mel_weight_matrix(node: &Node) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(MelWeightMatrix { dtype: dtype_of(node.int("output_datatype", 1)?)? }))
}

impl Kernel for MelWeightMatrix {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let count = |index: usize| -> Result<usize> {
            let value = optional_int(cx, index)?.unwrap_or(0);
            usize::try_from(value)
                .map_err(|_| OpError::invalid(format!("input {index} must not be negative, got {value}")))
        };
        let (bands, dft_len, sample_rate) = (count(0)?, count(1)?, count(2)?);
        let hertz = |index: usize| match real::to_vec::<f64>(cx.input(index)?)?.as_slice() {
            &[value] if value.is_finite() && value >= 0.0 => Ok(value),
            other => {
                Err(OpError::invalid(format!("input {index} must be one frequency in hertz, got {other:?}")))
            }
        };
        let (low, high) = (mel(hertz(3)?), mel(hertz(4)?));
        if sample_rate == 0 {
            return Err(OpError::invalid("sample_rate must be positive"));
        }
        let dims = [dft_len / 2 + 1, bands];
        byte_len(DType::F64, &dims)?;
        let step = (high - low) / (bands as f64 + 2.0);
        // The first, middle and last spectrum bin of band `i` are edges `i`, `i + 1` and `i + 2`.
        let edge = |i: usize| {
            ((dft_len as f64 + 1.0) * hertz_of(i as f64 * step + low) / sample_rate as f64).floor()
        };
        let mut weights = vec![0f64; dims[0] * dims[1]];
        for band in 0..bands {
            let [left, centre, right] = [edge(band), edge(band + 1), edge(band + 2)];
            for (bin, row) in weights.chunks_exact_mut(bands).enumerate() {
                let bin = bin as f64;
                if bin >= left && bin <= centre {
                    row[band] = if left == centre { 1.0 } else { (bin - left) / (centre - left) };
                }
                if bin >= centre && bin < right {
                    row[band] = (right - bin) / (right - centre);
                }
            }
        }
        let output = number::store(cx, 0, self.dtype, &dims, &weights)?;
        cx.set(0, output);
        Ok(())
    }
}

fn mel(hertz: f64) -> f64 {
    2595.0 * (hertz / 700.0).ln_1p() / std::f64::consts::LN_10
}

fn hertz_of(mel: f64) -> f64 {
    700.0 * (mel / 2595.0 * std::f64::consts::LN_10).exp_m1()
}

#[cfg(test)]
mod tests {
    use crate::testing::{node, run, tensor};

    #[test]
    fn bands_are_triangles_that_peak_at_one() {
        let ints = [8i64, 64, 16000].map(|v| Some(tensor(&[], &[v])));
        let [a, b, c] = ints;
        let inputs = [a, b, c, Some(tensor(&[], &[0f32])), Some(tensor(&[], &[8000f32]))];
        let output = run(&node("", "MelWeightMatrix", 17, &[], 1), &inputs).unwrap().remove(0);
        assert_eq!(output.dims(), [33, 8]);
        let values = output.as_slice::<f32>().unwrap();
        for band in 0..8 {
            let peak = (0..33).map(|bin| values[bin * 8 + band]).fold(0f32, f32::max);
            assert_eq!(peak, 1.0);
        }
    }
}
