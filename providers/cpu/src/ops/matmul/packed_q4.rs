//! MatMulFpQ4: weights of 4 bits in the blocks of ONNX Runtime's packed blob.

use tenon_kernels::cpu::Context as Cpu;

use super::nbits::Linear;
use crate::error::{OpError, Result};
use crate::kernel::{Constants, Context, Kernel, Released};
use crate::node::Node;
use crate::ops::real::{self, Output};
use crate::prepacked::Prepacked;
use crate::tensor::{DType, Dims, Tensor};

/// Weights of a block.
const BLOCK: usize = 32;

/// A block is a float32 scale, a zero point where the type has one, and 16 bytes whose low nibbles are weights 0 to 15
/// and whose high nibbles are weights 16 to 31. The blocks of a column follow each other.
struct MatMulPackedQ4 {
    /// Without zero points, 8 is zero.
    zero_points: bool,
    packed: Prepacked<(Linear, [usize; 2])>,
}

pub fn build(node: &Node) -> Result<Box<dyn Kernel>> {
    match node.input_dtype(0) {
        DType::F64 => return Err(OpError::unsupported("MatMulFpQ4 has no kernel for double")),
        other => real::check(other)?,
    }
    let zero_points = match node.int("blk_quant_type", 1)? {
        0 => false,
        1 => true,
        other => {
            return Err(OpError::unsupported(format!(
                "MatMulFpQ4 has kernels for blk_quant_type 0 and 1, not for {other}"
            )));
        }
    };
    Ok(Box::new(MatMulPackedQ4 { zero_points, packed: Prepacked::default() }))
}

impl MatMulPackedQ4 {
    /// The packed weights and `[n, k]`.
    fn pack_weights(&self, cpu: &Cpu<'_>, blob: &Tensor, shape: &Tensor) -> Result<(Linear, [usize; 2])> {
        let &[k, n] = &*shape.to_i64s()? else {
            return Err(OpError::invalid(format!("B_shape must be [K, N], got {:?}", shape.to_i64s()?)));
        };
        let (k, n) = (usize::try_from(k).unwrap_or(0), usize::try_from(n).unwrap_or(0));
        let header = if self.zero_points { 5 } else { 4 };
        let (blocks, size) = (k.div_ceil(BLOCK), header + BLOCK / 2);
        let bytes = blob.as_bytes();
        if k == 0 || n == 0 || n.checked_mul(blocks * size) != Some(bytes.len()) {
            return Err(OpError::invalid(format!(
                "a blob of {} bytes does not hold {k} × {n} weights",
                bytes.len()
            )));
        }
        let mut weights = vec![0.0; n * k];
        for (column, weights) in weights.chunks_exact_mut(k).enumerate() {
            for (number, weights) in weights.chunks_mut(BLOCK).enumerate() {
                let block = &bytes[(column * blocks + number) * size..][..size];
                let scale = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
                let zero = if self.zero_points { f32::from(block[4]) } else { 8.0 };
                for (i, weight) in weights.iter_mut().enumerate() {
                    let code = block[header + i % 16] >> (i / 16 * 4) & 0xF;
                    *weight = (f32::from(code) - zero) * scale;
                }
            }
        }
        Ok((Linear::dense(cpu, &weights, n, k)?, [n, k]))
    }
}

impl Kernel for MatMulPackedQ4 {
    fn pack(&self, constants: &Constants<'_>) -> Result<Released> {
        let (Some(blob), Some(shape)) = (constants.input(1), constants.input(2)) else {
            return Ok(Released::NONE);
        };
        let cpu = constants.cpu();
        self.packed.keep(self.pack_weights(&cpu, blob, shape)?);
        Ok(Released::NONE.with(1).with(2))
    }

    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let cpu = cx.cpu();
        let dtype = cx.input(0)?.dtype();
        let a = real::load_input::<f32>(cx, 0)?;
        let pack = || self.pack_weights(&cpu, cx.input(1)?, cx.input(2)?);
        let (weights, [n, k]) = &*self.packed.get_or_pack(pack)?;
        let mut dims: Dims = a.dims().into();
        match dims.last_mut() {
            Some(last) if last == k => *last = *n,
            _ => return Err(OpError::invalid(format!("A has shape {:?}, expected rows of {k}", a.dims()))),
        }
        let mut y = Output::new::<f32>(cx, 0, dtype, &dims)?;
        weights.run(&cpu, a.as_slice()?, [a.len() / k, *n, *k], None, y.slice::<f32>()?)?;
        y.finish(cx)
    }
}
