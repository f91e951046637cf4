//! Products of floats and constant codes of 4 or 8 bits: the kernels of MatMulNBits, with the codes packed when the graph is
//! compiled.

use tenon_kernels::gpu::matmul::nbits::{self, NBits, RECORD_DEPTH, Source, Weights};
use tenon_kernels::gpu::matmul::{Bias, Epilogue, Matrix};
use tenon_kernels::gpu::quantize::{Granularity, Sharing};
use tenon_kernels::gpu::scalar::Scalar;
use tenon_plugin_api::{DType, Error, NodeView, Result};

use super::super::extents::Extents;
use super::super::quantize::granularity;
use super::super::tail::Tail;
use super::{B_SCALE, B_ZERO};
use crate::operator::{Decline, Derived, Expansion, Lowered, Lowering, Operator, refused};
use crate::schedule::Target;

struct Packed {
    weights: Weights,
    alpha: f32,
    is_transposed: bool,
    tail: Tail,
}

pub(super) fn lower(l: &Lowering<'_>, (is_a_transposed, is_transposed): (bool, bool)) -> Lowered {
    if is_a_transposed {
        return Err(Decline::new("a transposed left operand of packed weights has no GPU kernel"));
    }
    let scalar = l.half_or_single(0)?;
    if l.scalar(B_SCALE)? != scalar {
        return Err(Decline::new("the scales are of another type than the left operand"));
    }
    let codes = Codes::read(l.node, is_transposed)?;
    let weights = codes.weights(scalar)?;
    weights.check().map_err(|error| Decline(error.to_string()))?;
    if !weights.k.is_multiple_of(2) {
        return Err(Decline::new("an odd number of inputs has no GPU kernel"));
    }
    for index in [1, B_SCALE, B_ZERO] {
        l.leave_on_host(index);
    }
    Ok(Box::new(Packed {
        weights,
        alpha: l.node.float_or("alpha", 1.0)?,
        is_transposed,
        tail: Tail::read(l)?,
    }))
}

impl Operator for Packed {
    fn supports(&self, target: Target<'_>) -> Result<()> {
        nbits::order(target.arch).map(drop).map_err(refused)
    }

    fn derived<'a>(&self, node: NodeView<'a>, arch: &'a str) -> Vec<Derived<'a>> {
        let (weights, is_transposed) = (self.weights, self.is_transposed);
        vec![Derived {
            bytes: weights.packed_bytes(),
            fill: Box::new(move |out| {
                let codes =
                    Codes::read(node, is_transposed).map_err(|Decline(reason)| Error::internal(reason))?;
                let source = Grouped { codes, group: weights.group };
                nbits::pack(&weights, nbits::order(arch).map_err(refused)?, &source, out).map_err(refused)
            }),
        }]
    }

    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let Weights { n, k, scalar, .. } = self.weights;
        let b = if self.is_transposed { [n, k] } else { [k, n] };
        let Extents { m, dims, .. } = Extents::new(&cx.dims(0)?, &b, (false, self.is_transposed))?;
        let output = cx.output(0, scalar, &dims)?;
        if m == 0 {
            return Ok(());
        }
        let (within, left) = self.tail.split(cx, &dims, n)?;
        let epilogue = Epilogue {
            alpha: self.alpha,
            bias: within.bias.map(|_| Bias::Output),
            activation: within.activation,
            residual: within.residual.map(|_| Matrix::packed(n)),
            ..Epilogue::default()
        };
        let plan =
            nbits::plan_for(cx.builder.target.arch, &NBits { weights: self.weights, m, epilogue }, cx.chip());
        let packed = cx.derived(0, self.weights.packed_bytes())?;
        let a = cx.input(0)?;
        let product = if left.is_empty() { output } else { cx.scratch(scalar, &dims)? };
        // In the numbering of products on matrix units: A, the weights, D, the bias, the residual.
        cx.run(plan, &[Some(a), Some(packed), Some(product), within.bias, within.residual])?;
        if left.is_empty() {
            return Ok(());
        }
        left.run(cx, product, output, &dims, &[])
    }
}

/// A constant matrix of codes with its scales and zero points.
struct Codes<'a> {
    n: usize,
    k: usize,
    is_transposed: bool,
    dtype: DType,
    codes: &'a [u8],
    scale_bytes: usize,
    scales: &'a [u8],
    zeros: Option<&'a [u8]>,
    granularity: Granularity,
}

impl<'a> Codes<'a> {
    fn read(node: NodeView<'a>, is_transposed: bool) -> std::result::Result<Codes<'a>, Decline> {
        let constant = |index: usize| {
            let tensor = node.input(index).and_then(|value| value.constant());
            tensor.ok_or_else(|| Decline(format!("input {index} is no constant")))
        };
        let bytes = |index: usize| {
            constant(index)?
                .host_bytes()
                .ok_or_else(|| Decline(format!("input {index} is not in host memory")))
        };
        let sizes = |dims: &[i64]| -> Vec<usize> {
            dims.iter().map(|&dim| usize::try_from(dim).unwrap_or(0)).collect()
        };
        let (tensor, scale) = (constant(1)?, constant(B_SCALE)?);
        let dims = sizes(tensor.dims());
        let [rows, columns] = dims[..] else { return Err(Decline::new("packed weights are no matrix")) };
        let (n, k) = if is_transposed { (rows, columns) } else { (columns, rows) };
        let block = usize::try_from(node.int_or("b_block_size", 0)?).unwrap_or(0);
        let granularity = granularity(&dims, &sizes(scale.dims()), node.int_or("b_axis", 1)?, block)?;
        let zeros = if node.input(B_ZERO).is_some() { Some(bytes(B_ZERO)?) } else { None };
        let codes = Codes {
            n,
            k,
            is_transposed,
            dtype: tensor.dtype(),
            codes: bytes(1)?,
            scale_bytes: scale.dtype().bits() / 8,
            scales: bytes(B_SCALE)?,
            zeros,
            granularity,
        };
        let count = granularity.scales();
        let is_whole = codes.dtype.byte_len(n * k) == Some(codes.codes.len())
            && codes.scales.len() == count * codes.scale_bytes
            && codes.zeros.is_none_or(|zeros| codes.dtype.byte_len(count) == Some(zeros.len()));
        if !is_whole || n * k == 0 {
            return Err(Decline::new("the constants of packed weights do not fit each other"));
        }
        Ok(codes)
    }

    fn bits(&self) -> u32 {
        self.dtype.bits() as u32
    }

    /// Their form, when inputs share scales as records can have them.
    fn weights(&self, scalar: Scalar) -> std::result::Result<Weights, Decline> {
        let is_signed = match self.dtype {
            DType::U4 | DType::U8 => false,
            DType::I4 | DType::I8 => true,
            other => return Err(Decline(format!("weights of {other} have no GPU kernel"))),
        };
        let whole = self.k.next_multiple_of(RECORD_DEPTH);
        let [outer, _, inner] = self.granularity.extents;
        // The axis of the scales is that of the inputs where it is not the one of the outputs.
        let is_along_inputs = if self.is_transposed { inner == 1 && outer == self.n } else { outer == 1 };
        let group = match self.granularity.sharing {
            Sharing::Tensor => whole,
            Sharing::Axis
                if is_along_inputs && self.granularity.extents[1] == self.k && !self.is_across() =>
            {
                return Err(Decline::new("a scale for each input has no GPU kernel"));
            }
            Sharing::Axis => whole,
            Sharing::Block(size) if is_along_inputs && size >= self.k => whole,
            Sharing::Block(size) if is_along_inputs => size,
            Sharing::Block(_) => return Err(Decline::new("blocks of outputs have no GPU kernel")),
        };
        // Without zero points the middle code stands for 0.
        let has_zeros = self.zeros.is_some() || !is_signed;
        Ok(Weights { n: self.n, k: self.k, bits: self.bits(), group, has_zeros, scalar })
    }

    /// Scales along the axis of the outputs.
    fn is_across(&self) -> bool {
        let [outer, _, inner] = self.granularity.extents;
        if self.is_transposed { outer == 1 && inner == self.k } else { inner == 1 && outer == self.k }
    }

    /// The code at `at` of packed ones, signed ones counted from their least.
    fn code(&self, bytes: &[u8], at: usize) -> u8 {
        let is_signed = matches!(self.dtype, DType::I4 | DType::I8);
        match self.bits() {
            4 => (bytes[at / 2] >> (at % 2 * 4) & 15) ^ if is_signed { 8 } else { 0 },
            _ => bytes[at] ^ if is_signed { 0x80 } else { 0 },
        }
    }

    /// Where the scale of an input of an output is.
    fn scale_index(&self, row: usize, input: usize) -> usize {
        let [_, axis, inner] = self.granularity.extents;
        let at = if self.is_transposed { row * self.k + input } else { input * self.n + row };
        let (o, a, i) = (at / inner / axis, at / inner % axis, at % inner);
        match self.granularity.sharing {
            Sharing::Tensor => 0,
            Sharing::Axis => a,
            Sharing::Block(size) => (o * axis.div_ceil(size) + a / size) * inner + i,
        }
    }
}

/// The codes in groups of inputs.
struct Grouped<'a> {
    codes: Codes<'a>,
    group: usize,
}

impl Source for Grouped<'_> {
    fn codes(&self, row: usize, codes: &mut [u8]) {
        let Codes { n, k, is_transposed, codes: bytes, .. } = self.codes;
        for (input, code) in codes.iter_mut().enumerate() {
            let at = if is_transposed { row * k + input } else { input * n + row };
            *code = self.codes.code(bytes, at);
        }
    }

    fn scales(&self, row: usize, scales: &mut [u8]) {
        let size = self.codes.scale_bytes;
        for (group, scale) in scales.chunks_mut(size).enumerate() {
            let at = self.codes.scale_index(row, group * self.group) * size;
            scale.copy_from_slice(&self.codes.scales[at..at + size]);
        }
    }

    fn zeros(&self, row: usize, zeros: &mut [u8]) {
        for (group, zero) in zeros.iter_mut().enumerate() {
            *zero = match self.codes.zeros {
                Some(bytes) => self.codes.code(bytes, self.codes.scale_index(row, group * self.group)),
                None => 0,
            };
        }
    }
}
