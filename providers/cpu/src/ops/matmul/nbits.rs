//! MatMulNBits and MatMulBnb4: products with weights quantised in blocks.

use tenon_kernels::cpu::elementwise::Unary;
use tenon_kernels::cpu::gemm::PackedB;
use tenon_kernels::cpu::nbits::{BlockWeights, BlockZeros, PackedBlocks, matmul_blocks};
use tenon_kernels::cpu::{Context as Cpu, Matrix as View};

use crate::error::{OpError, Result};
use crate::kernel::{Constants, Context, Kernel, Released};
use crate::node::Node;
use crate::ops::gemm::{Addend, After, Gemm, Matrix};
use crate::ops::real::{self, Output};
use crate::prepacked::Prepacked;
use crate::tensor::{DType, Dims, Tensor};

/// Weights of `n` outputs and `k` inputs that rows of f32 are multiplied with.
pub enum Linear {
    Blocks(PackedBlocks),
    Dense(PackedB<f32>),
    /// All weights are zero.
    Zero,
}

impl Linear {
    /// Packs dense weights `n × k`, one row an output.
    pub fn dense(cpu: &Cpu<'_>, weights: &[f32], n: usize, k: usize) -> Result<Linear> {
        Ok(Linear::Dense(PackedB::pack(*cpu, View::row_major(weights, n, k).transposed())?))
    }

    /// `y = activation-free a · wᵀ + bias` for `rows` rows.
    pub fn run(
        &self,
        cpu: &Cpu<'_>,
        a: &[f32],
        [rows, n, k]: [usize; 3],
        bias: Option<&[f32]>,
        y: &mut [f32],
    ) -> Result<()> {
        match self {
            Linear::Blocks(packed) => Ok(matmul_blocks(*cpu, a, rows, packed, bias, Unary::Identity, y)?),
            Linear::Dense(packed) => {
                let bias = bias.map(|data| Addend { data, row_stride: 0, column_stride: 1, scale: 1.0 });
                let after = After { addends: [bias, None], ..After::default() };
                f32::multiply_packed(cpu, Matrix::new(a, rows, k), packed, y, n, &after)
            }
            Linear::Zero => {
                for row in y.chunks_exact_mut(n.max(1)) {
                    match bias {
                        Some(bias) => row.copy_from_slice(bias),
                        None => row.fill(0.0),
                    }
                }
                Ok(())
            }
        }
    }
}

/// Quantised weights in the layout of MatMulNBits.
pub struct Quantized<'a> {
    pub bits: usize,
    pub block: usize,
    pub n: usize,
    pub k: usize,
    pub codes: &'a [u8],
    pub scales: &'a [f32],
    pub zeros: Option<BlockZeros<'a>>,
}

impl Quantized<'_> {
    /// Packs for repeated products.
    pub fn pack(&self, cpu: &Cpu<'_>) -> Result<Linear> {
        if matches!(self.bits, 2 | 4 | 8) && self.block >= 16 && self.block.is_power_of_two() {
            let weights = BlockWeights {
                bits: self.bits as u32,
                block: self.block,
                n: self.n,
                k: self.k,
                codes: self.codes,
                scales: self.scales,
                zero_points: self.zeros,
            };
            return Ok(Linear::Blocks(PackedBlocks::pack(*cpu, &weights)?));
        }
        Linear::dense(cpu, &self.dequantize()?, self.n, self.k)
    }

    /// The weights in f32, `n × k`.
    fn dequantize(&self) -> Result<Vec<f32>> {
        let Quantized { bits, block, n, k, codes, scales, zeros } = *self;
        let blocks = k.div_ceil(block);
        let (blob, zero_row) = ((block * bits).div_ceil(8), (blocks * bits).div_ceil(8));
        let zeros_fit = match zeros {
            None => true,
            Some(BlockZeros::Packed(zeros)) => zeros.len() == n * zero_row,
            Some(BlockZeros::Float(zeros)) => zeros.len() == n * blocks,
        };
        if codes.len() != n * blocks * blob || scales.len() != n * blocks || !zeros_fit {
            return Err(OpError::invalid(format!(
                "{} bytes of codes, {} scales or the zero points do not fit {n} × {k} weights of {bits} bits in blocks of {block}",
                codes.len(),
                scales.len()
            )));
        }
        let mask = (1u16 << bits) - 1;
        let read = |bytes: &[u8], index: usize| {
            let (byte, shift) = (index * bits / 8, index * bits % 8);
            let pair = u16::from(bytes[byte]) | u16::from(bytes.get(byte + 1).copied().unwrap_or(0)) << 8;
            f32::from(pair >> shift & mask)
        };
        let mut weights = Vec::with_capacity(n * k);
        for row in 0..n {
            for index in 0..k {
                let at = row * blocks + index / block;
                let zero = match zeros {
                    None => (1u32 << (bits - 1)) as f32,
                    Some(BlockZeros::Packed(zeros)) => {
                        read(&zeros[row * zero_row..][..zero_row], index / block)
                    }
                    Some(BlockZeros::Float(zeros)) => zeros[at],
                };
                weights.push((read(&codes[at * blob..][..blob], index % block) - zero) * scales[at]);
            }
        }
        Ok(weights)
    }
}

// ---- MatMulNBits ----

struct MatMulNBits {
    bits: usize,
    block: usize,
    n: usize,
    k: usize,
    packed: Prepacked<Linear>,
}

fn positive(node: &Node, name: &str) -> Result<usize> {
    match node.required_int(name)? {
        value if value > 0 => Ok(value as usize),
        value => Err(OpError::invalid(format!("attribute '{name}' is {value}, expected at least 1"))),
    }
}

pub fn build_nbits(node: &Node) -> Result<Box<dyn Kernel>> {
    match node.input_dtype(0) {
        DType::F64 => return Err(OpError::unsupported("MatMulNBits has no kernel for double")),
        other => real::check(other)?,
    }
    let bits = node.int("bits", 4)?;
    if !(2..=8).contains(&bits) {
        return Err(OpError::unsupported(format!("there is no kernel for weights of {bits} bits")));
    }
    if node.int("weight_prepacked", 0)? != 0 {
        return Err(OpError::unsupported("weights that were packed for another provider cannot be read"));
    }
    if node.has_input(4) && node.input_dims(4).is_none_or(|dims| dims.iter().all(|&dim| dim != Some(0))) {
        return Err(OpError::unsupported("there is no kernel for the deprecated input g_idx"));
    }
    Ok(Box::new(MatMulNBits {
        bits: bits as usize,
        block: positive(node, "block_size")?,
        n: positive(node, "N")?,
        k: positive(node, "K")?,
        packed: Prepacked::default(),
    }))
}

impl MatMulNBits {
    fn pack_weights(
        &self,
        cpu: &Cpu<'_>,
        codes: &Tensor,
        scales: &Tensor,
        zeros: Option<&Tensor>,
    ) -> Result<Linear> {
        if codes.is_empty() {
            return Ok(Linear::Zero);
        }
        let scales = real::to_vec::<f32>(scales)?;
        let floats;
        let zeros = match zeros {
            None => None,
            Some(zeros) if zeros.dtype() == DType::U8 => Some(BlockZeros::Packed(zeros.as_bytes())),
            Some(zeros) => {
                floats = real::to_vec::<f32>(zeros)?;
                Some(BlockZeros::Float(&floats))
            }
        };
        let codes = codes.as_bytes();
        Quantized { bits: self.bits, block: self.block, n: self.n, k: self.k, codes, scales: &scales, zeros }
            .pack(cpu)
    }
}

impl Kernel for MatMulNBits {
    fn pack(&self, constants: &Constants<'_>) -> Result<Released> {
        let (Some(codes), Some(scales)) = (constants.input(1), constants.input(2)) else {
            return Ok(Released::NONE);
        };
        let cpu = constants.cpu();
        let zeros = constants.input(3);
        self.packed.keep(self.pack_weights(&cpu, codes, scales, zeros)?);
        Ok(Released::NONE.with(1).with(2).with(3))
    }

    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let cpu = cx.cpu();
        let dtype = cx.input(0)?.dtype();
        let a = real::load_input::<f32>(cx, 0)?;
        if a.dims().last() != Some(&self.k) {
            return Err(OpError::invalid(format!(
                "the input has shape {:?}, expected rows of {}",
                a.dims(),
                self.k
            )));
        }
        let pack = || self.pack_weights(&cpu, cx.input(1)?, cx.input(2)?, cx.optional(3));
        let packed = self.packed.get_or_pack(pack)?;
        let bias = real::load_optional::<f32>(cx, 5)?;
        let bias = bias.as_ref().map(|bias| bias.as_slice::<f32>()).transpose()?;
        if bias.is_some_and(|bias| bias.len() != self.n) {
            return Err(OpError::invalid(format!("the bias does not have {} values", self.n)));
        }
        let mut dims: Dims = a.dims().into();
        let last = dims.len() - 1;
        dims[last] = self.n;
        let mut y = Output::new::<f32>(cx, 0, dtype, &dims)?;
        let extents = [a.len() / self.k, self.n, self.k];
        packed.run(&cpu, a.as_slice()?, extents, bias, y.slice::<f32>()?)?;
        y.finish(cx)
    }
}

// ---- MatMulBnb4 ----

/// The values of the codes of bitsandbytes' FP4, without their sign bit.
const FP4: [f32; 8] = [0.0, 0.005_208_333_5, 0.666_666_7, 1.0, 0.333_333_34, 0.5, 0.166_666_67, 0.25];

/// The values of the codes of NF4 (Dettmers et al., QLoRA).
const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

struct MatMulBnb4 {
    normal_float: bool,
    block: usize,
    n: usize,
    k: usize,
    /// The product sums over `k`; otherwise over `n`.
    transposed: bool,
    packed: Prepacked<Linear>,
}

pub fn build_bnb4(node: &Node) -> Result<Box<dyn Kernel>> {
    match node.input_dtype(0) {
        DType::F64 => return Err(OpError::unsupported("MatMulBnb4 has no kernel for double")),
        other => real::check(other)?,
    }
    let normal_float = match node.required_int("quant_type")? {
        0 => false,
        1 => true,
        other => return Err(OpError::invalid(format!("quant_type {other} is none of 0 (FP4), 1 (NF4)"))),
    };
    Ok(Box::new(MatMulBnb4 {
        normal_float,
        block: positive(node, "block_size")?,
        n: positive(node, "N")?,
        k: positive(node, "K")?,
        transposed: node.flag("transB", true)?,
        packed: Prepacked::default(),
    }))
}

impl MatMulBnb4 {
    fn pack_weights(&self, cpu: &Cpu<'_>, codes: &Tensor, largest: &Tensor) -> Result<Linear> {
        let (codes, largest) = (codes.as_bytes(), real::to_vec::<f32>(largest)?);
        let count = self.n * self.k;
        if codes.len() != count.div_ceil(2) || largest.len() != count.div_ceil(self.block) {
            return Err(OpError::invalid(format!(
                "{} bytes of codes and {} scales do not fit {} × {} weights in blocks of {}",
                codes.len(),
                largest.len(),
                self.n,
                self.k,
                self.block
            )));
        }
        let value = |index: usize| {
            let code = usize::from(codes[index / 2] >> (4 * (1 - index % 2)) & 0xF);
            let unit = match (self.normal_float, code < 8) {
                (true, _) => NF4[code],
                (false, true) => FP4[code],
                (false, false) => -FP4[code - 8],
            };
            unit * largest[index / self.block]
        };
        let weights: Vec<f32> = (0..count).map(value).collect();
        if self.transposed {
            return Linear::dense(cpu, &weights, self.n, self.k);
        }
        Ok(Linear::Dense(PackedB::pack(*cpu, View::row_major(&weights, self.n, self.k))?))
    }
}

impl Kernel for MatMulBnb4 {
    fn pack(&self, constants: &Constants<'_>) -> Result<Released> {
        let (Some(codes), Some(largest)) = (constants.input(1), constants.input(2)) else {
            return Ok(Released::NONE);
        };
        let cpu = constants.cpu();
        self.packed.keep(self.pack_weights(&cpu, codes, largest)?);
        Ok(Released::NONE.with(1).with(2))
    }

    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let cpu = cx.cpu();
        let dtype = cx.input(0)?.dtype();
        let a = real::load_input::<f32>(cx, 0)?;
        let (n, k) = if self.transposed { (self.n, self.k) } else { (self.k, self.n) };
        if a.dims().last() != Some(&k) {
            return Err(OpError::invalid(format!(
                "the input has shape {:?}, expected rows of {k}",
                a.dims()
            )));
        }
        let packed = self.packed.get_or_pack(|| self.pack_weights(&cpu, cx.input(1)?, cx.input(2)?))?;
        let mut dims: Dims = a.dims().into();
        let last = dims.len() - 1;
        dims[last] = n;
        let mut y = Output::new::<f32>(cx, 0, dtype, &dims)?;
        packed.run(&cpu, a.as_slice()?, [a.len() / k, n, k], None, y.slice::<f32>()?)?;
        y.finish(cx)
    }
}
