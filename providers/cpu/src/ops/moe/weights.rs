//! The packed weights of experts.

use tenon_kernels::cpu::Context as Cpu;
use tenon_kernels::cpu::nbits::BlockZeros;

use crate::error::{OpError, Result};
use crate::ops::matmul::nbits::{Linear, Quantized};
use crate::ops::real;
use crate::tensor::{DType, Tensor};

/// One projection of every expert: `outputs × inputs` each.
pub struct Projection {
    pub experts: Vec<Linear>,
    pub outputs: usize,
    pub inputs: usize,
}

/// Packs float weights `[experts, outputs, inputs]`.
pub fn pack_float(cpu: &Cpu<'_>, weights: &Tensor) -> Result<Projection> {
    let &[_, outputs, inputs] = weights.dims() else {
        return Err(OpError::invalid(format!(
            "expert weights have three axes, got shape {:?}",
            weights.dims()
        )));
    };
    let values = real::to_vec::<f32>(weights)?;
    let experts = values
        .chunks_exact((outputs * inputs).max(1))
        .map(|weights| Linear::dense(cpu, weights, outputs, inputs))
        .collect::<Result<_>>()?;
    Ok(Projection { experts, outputs, inputs })
}

/// Packs weights of `bits` bits `[experts, outputs, inputs * bits / 8]` with scales `[experts, outputs]` or, where
/// `block` is given, `[experts, outputs, inputs / block]`, and zero points packed likewise.
pub fn pack_quantized(
    cpu: &Cpu<'_>,
    weights: &Tensor,
    scales: &Tensor,
    zeros: Option<&Tensor>,
    bits: usize,
    block: Option<usize>,
) -> Result<Projection> {
    let &[count, outputs, row_bytes] = weights.dims() else {
        return Err(OpError::invalid(format!(
            "expert weights have three axes, got shape {:?}",
            weights.dims()
        )));
    };
    if weights.dtype() != DType::U8 {
        return Err(OpError::unsupported(format!(
            "there is no kernel for expert weights of {}",
            weights.dtype()
        )));
    }
    let inputs = row_bytes * 8 / bits;
    let block = block.unwrap_or(inputs).max(1);
    let blocks = inputs.div_ceil(block);
    let scales = real::to_vec::<f32>(scales)?;
    if !inputs.is_multiple_of(block) || scales.len() != count * outputs * blocks {
        return Err(OpError::invalid(format!(
            "{} scales do not fit {count} experts of {outputs} × {inputs} weights in blocks of {block}",
            scales.len()
        )));
    }
    let zeros = zeros
        .map(|zeros| unpack_zeros(zeros, [count, outputs, blocks], bits, block == inputs))
        .transpose()?;
    let per_expert = outputs * blocks;
    let experts = (0..count)
        .map(|expert| {
            Quantized {
                bits,
                block,
                n: outputs,
                k: inputs,
                codes: &weights.as_bytes()[expert * outputs * row_bytes..][..outputs * row_bytes],
                scales: &scales[expert * per_expert..][..per_expert],
                zeros: zeros
                    .as_ref()
                    .map(|zeros| BlockZeros::Float(&zeros[expert * per_expert..][..per_expert])),
            }
            .pack(cpu)
        })
        .collect::<Result<_>>()?;
    Ok(Projection { experts, outputs, inputs })
}

/// Zero points as floats: rows of `blocks` codes for each output, or one row of `outputs` codes for each expert.
fn unpack_zeros(
    zeros: &Tensor,
    [count, outputs, blocks]: [usize; 3],
    bits: usize,
    by_column: bool,
) -> Result<Vec<f32>> {
    let (rows, codes) =
        if by_column && zeros.rank() == 2 { (count, outputs) } else { (count * outputs, blocks) };
    let row_bytes = (codes * bits).div_ceil(8);
    let bytes = zeros.as_bytes();
    if zeros.dtype() != DType::U8 || bytes.len() != rows * row_bytes {
        return Err(OpError::invalid(format!(
            "zero points of shape {:?} do not fit the scales",
            zeros.dims()
        )));
    }
    let mask = (1u16 << bits) - 1;
    let code = |row: usize, index: usize| {
        let (byte, shift) = (row * row_bytes + index * bits / 8, index * bits % 8);
        let pair = u16::from(bytes[byte]) | u16::from(bytes.get(byte + 1).copied().unwrap_or(0)) << 8;
        f32::from(pair >> shift & mask)
    };
    Ok((0..rows)
        .flat_map(|row| (0..codes).map(move |index| (row, index)))
        .map(|(row, index)| code(row, index))
        .collect())
}
