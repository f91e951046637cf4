//! MatMulNBits: products with weights of 4 or 8 bits, packed when the graph is compiled.

use tenon_kernels::gpu::matmul::nbits::{self, NBits, Source, Weights};
use tenon_kernels::gpu::matmul::{Bias, Epilogue};
use tenon_kernels::gpu::scalar::Scalar;
use tenon_plugin_api::{DType, Error, NodeView, Result};

use super::Family;
use crate::operator::{Decline, Derived, Expansion, Lowered, Lowering, Operator, refused};
use crate::schedule::Target;

pub(super) const FAMILIES: &[Family] =
    &[Family { domain: "com.microsoft", op_types: &["MatMulNBits"], lower: matmul_nbits }];

/// Inputs of the node.
const A: usize = 0;
const CODES: usize = 1;
const SCALES: usize = 2;
const ZEROS: usize = 3;
const ORDER: usize = 4;
const BIAS: usize = 5;

struct MatMulNBits {
    weights: Weights,
    has_bias: bool,
}

impl Operator for MatMulNBits {
    fn supports(&self, target: Target<'_>) -> Result<()> {
        nbits::order(target.arch).map(drop).map_err(refused)
    }

    fn derived<'a>(&self, node: NodeView<'a>, arch: &'a str) -> Vec<Derived<'a>> {
        let weights = self.weights;
        vec![Derived {
            bytes: weights.packed_bytes(),
            fill: Box::new(move |out| {
                let blob = Blob::read(node, weights)?;
                nbits::pack(&weights, nbits::order(arch).map_err(refused)?, &blob, out).map_err(refused)
            }),
        }]
    }

    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let mut dims = cx.dims(A)?;
        let Weights { n, k, scalar, .. } = self.weights;
        if dims.last() != Some(&k) {
            return Err(Error::invalid(format!("the input has shape {dims:?}, expected rows of {k}")));
        }
        let rows: usize = dims.iter().rev().skip(1).product();
        let bias = if self.has_bias { Some(cx.input(BIAS)?) } else { None };
        if let Some(bias) = bias
            && cx.builder.dims(bias) != [n]
        {
            let shape = cx.builder.dims(bias);
            return Err(Error::invalid(format!("the bias has shape {shape:?}, expected [{n}]")));
        }
        if let Some(last) = dims.last_mut() {
            *last = n;
        }
        let output = cx.output(0, scalar, &dims)?;
        if rows == 0 {
            return Ok(());
        }
        let epilogue = Epilogue { bias: bias.map(|_| Bias::Output), ..Epilogue::default() };
        let problem = NBits { weights: self.weights, m: rows, epilogue };
        let packed = cx.derived(0, self.weights.packed_bytes())?;
        let plan = nbits::plan_for(cx.builder.target.arch, &problem, cx.chip());
        let a = cx.input(A)?;
        // In the numbering of products on matrix units: A, the weights, D, the bias.
        cx.run(plan, &[Some(a), Some(packed), Some(output), bias])
    }
}

fn matmul_nbits(l: &Lowering<'_>) -> Lowered {
    let scalar = l.half_or_single(A)?;
    if l.scalar(SCALES)? != scalar {
        return Err(Decline::new("the scales are of another type than the input"));
    }
    if l.node.int_or("weight_prepacked", 0)? != 0 {
        return Err(Decline::new("weights that were packed for another provider cannot be read"));
    }
    let is_empty =
        |index| l.input(index).ok().and_then(|v| v.dims().map(|dims| dims.contains(&0))) == Some(true);
    if l.has_input(ORDER) && !is_empty(ORDER) {
        return Err(Decline::new("the deprecated input g_idx has no GPU kernel"));
    }
    let size = |name: &str| match l.node.int_or(name, 0)? {
        value if value > 0 => Ok(value as usize),
        value => Err(Decline(format!("attribute '{name}' is {value}, expected at least 1"))),
    };
    let bits = l.node.int_or("bits", 4)?;
    let weights = Weights {
        n: size("N")?,
        k: size("K")?,
        bits: u32::try_from(bits).unwrap_or(0),
        group: size("block_size")?,
        has_zeros: l.has_input(ZEROS),
        scalar,
    };
    weights.check().map_err(|error| Decline(error.to_string()))?;
    if !weights.k.is_multiple_of(2) {
        return Err(Decline::new("an odd number of inputs has no GPU kernel"));
    }
    Blob::read(l.node, weights)?.check()?;
    for index in [CODES, SCALES, ZEROS] {
        l.leave_on_host(index);
    }
    Ok(Box::new(MatMulNBits { weights, has_bias: l.has_input(BIAS) }))
}

/// The node's constants, as ONNX lays them out: for each output the codes of its blocks, low bits first.
struct Blob<'a> {
    weights: Weights,
    codes: &'a [u8],
    scales: &'a [u8],
    zeros: Zeros<'a>,
}

enum Zeros<'a> {
    None,
    /// Packed like the codes, each row in whole bytes.
    Packed(&'a [u8]),
    /// Of the scales' type.
    Float(&'a [u8]),
}

impl<'a> Blob<'a> {
    fn read(node: NodeView<'a>, weights: Weights) -> Result<Blob<'a>> {
        let constant = |index: usize| {
            let tensor = node.input(index).and_then(|value| value.constant());
            let bytes = tensor.as_ref().and_then(|tensor| tensor.host_bytes());
            bytes.ok_or_else(|| Error::unsupported(format!("input {index} is no constant in host memory")))
        };
        let zeros = match node.input(ZEROS) {
            None => Zeros::None,
            Some(value) if value.dtype() == DType::U8 => Zeros::Packed(constant(ZEROS)?),
            Some(_) => Zeros::Float(constant(ZEROS)?),
        };
        Ok(Blob { weights, codes: constant(CODES)?, scales: constant(SCALES)?, zeros })
    }

    /// Blocks of a row.
    fn blocks(&self) -> usize {
        self.weights.k.div_ceil(self.weights.group)
    }

    fn row_bytes(&self) -> usize {
        self.blocks() * self.weights.group * self.weights.bits as usize / 8
    }

    fn zero_row_bytes(&self) -> usize {
        (self.blocks() * self.weights.bits as usize).div_ceil(8)
    }

    /// Declines sizes that do not fit each other, and zero points that are no codes.
    fn check(&self) -> std::result::Result<(), Decline> {
        let Weights { n, k, bits, group, scalar, .. } = self.weights;
        let blocks = n * self.blocks();
        let zero_bytes = match self.zeros {
            Zeros::None => (0, 0),
            Zeros::Packed(bytes) => (bytes.len(), n * self.zero_row_bytes()),
            Zeros::Float(bytes) => (bytes.len(), blocks * scalar.bytes()),
        };
        if self.codes.len() != n * self.row_bytes()
            || self.scales.len() != blocks * scalar.bytes()
            || zero_bytes.0 != zero_bytes.1
        {
            return Err(Decline(format!(
                "the weights' constants do not fit {n} outputs and {k} inputs of {bits} bits in blocks of {group}"
            )));
        }
        let limit = ((1u32 << bits) - 1) as f32;
        let is_code = |value: f32| value.fract() == 0.0 && (0.0..=limit).contains(&value);
        match self.zeros {
            Zeros::Float(bytes) if !(0..blocks).all(|at| is_code(float(scalar, bytes, at))) => {
                Err(Decline::new("zero points between codes have no GPU kernel"))
            }
            _ => Ok(()),
        }
    }
}

/// Element `at` of little-endian floats.
fn float(scalar: Scalar, bytes: &[u8], at: usize) -> f32 {
    let size = scalar.bytes();
    match (scalar, &bytes[at * size..(at + 1) * size]) {
        (Scalar::F16, &[low, high]) => half::f16::from_le_bytes([low, high]).to_f32(),
        (Scalar::BF16, &[low, high]) => half::bf16::from_le_bytes([low, high]).to_f32(),
        (_, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
        _ => f32::NAN,
    }
}

/// Code `at` of bytes that hold `bits` each, low bits first.
fn code(bits: u32, bytes: &[u8], at: usize) -> u8 {
    match bits {
        4 => bytes[at / 2] >> (at % 2 * 4) & 15,
        _ => bytes[at],
    }
}

impl Source for Blob<'_> {
    fn codes(&self, row: usize, codes: &mut [u8]) {
        let bytes = &self.codes[row * self.row_bytes()..][..self.row_bytes()];
        codes.iter_mut().enumerate().for_each(|(at, to)| *to = code(self.weights.bits, bytes, at));
    }

    fn scales(&self, row: usize, scales: &mut [u8]) {
        scales.copy_from_slice(&self.scales[row * scales.len()..][..scales.len()]);
    }

    fn zeros(&self, row: usize, zeros: &mut [u8]) {
        let (blocks, row_bytes) = (self.blocks(), self.zero_row_bytes());
        for (at, zero) in zeros.iter_mut().enumerate() {
            *zero = match self.zeros {
                Zeros::None => 0,
                Zeros::Packed(bytes) => code(self.weights.bits, &bytes[row * row_bytes..], at),
                Zeros::Float(bytes) => float(self.weights.scalar, bytes, row * blocks + at) as u8,
            };
        }
    }
}
