//! What a matrix product computes: element types, extents, where the operands lie, and what is fused behind it.

use crate::error::{KernelError, Result as Checked};
use crate::gpu::launch;

/// Numbers of the operands of a plan. Every address is a multiple of 16 bytes.
///
/// `A`: m x k, or k x m where it is transposed. `B`: k x n, or n x k where it is transposed (as a linear layer keeps its
/// weights). `D`: m x n. `A_BLOCKS`, `B_BLOCKS`: scales of block-scaled operands as [`super::mfma::blocks`] packs them.
/// `UP`: as B, read where the epilogue is gated. `BIAS`: n elements. `RESIDUAL`: m x n elements of D's type. `M_SCALE`, `N_SCALE`: m and n f32.
pub const A: usize = 0;
pub const B: usize = 1;
pub const D: usize = 2;
pub const BIAS: usize = 3;
pub const RESIDUAL: usize = 4;
pub const M_SCALE: usize = 5;
pub const N_SCALE: usize = 6;
pub const UP: usize = 7;
pub const A_BLOCKS: usize = 8;
pub const B_BLOCKS: usize = 9;

/// Values along K that share a scale of a block-scaled operand.
pub const BLOCK: usize = 32;

/// Type of the elements of A and B. Sums are f32, those of integers i32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    BF16,
    F16,
    /// f32 in memory, of which the matrix units read the upper 19 bits.
    TF32,
    F32,
    E4M3,
    S8,
    /// E4M3 with an E8M0 scale for each 32 along K (OCP MXFP8).
    MXFP8,
    /// E2M1 with an E8M0 scale for each 32 along K (OCP MXFP4). A byte, which strides count, holds two, the first one low.
    MXFP4,
}

/// Type of the elements of D.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Result {
    BF16,
    F16,
    F32,
    /// Exact sums of integers, without an epilogue.
    I32,
}

/// Which of A and B are transposed: the letters of A and B, `n` as the operator names its extents, `t` transposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    pub is_a_transposed: bool,
    pub is_b_transposed: bool,
}

/// What makes two problems need different kernels, apart from tile sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    pub input: Element,
    pub output: Result,
    pub layout: Layout,
}

/// Where an operand's matrices lie, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Distance of neighbouring rows in memory.
    pub row_stride: usize,
    /// Distance of neighbouring matrices; 0 where there is one.
    pub batch_stride: usize,
    /// Consecutive batches that read the same matrix: the number of batches for a matrix that all share.
    pub share: usize,
    /// No earlier kernel of the stream may still be writing it: a weight. Its loads need not wait.
    pub is_constant: bool,
}

impl Matrix {
    /// One matrix for all batches, rows without gaps.
    pub fn packed(columns: usize) -> Self {
        Self { row_stride: columns, batch_stride: 0, share: usize::MAX, is_constant: false }
    }

    /// The same, written before any kernel that is still running.
    pub fn constant(columns: usize) -> Self {
        Self { is_constant: true, ..Self::packed(columns) }
    }
}

/// What is applied to every sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activation {
    #[default]
    None,
    Relu,
    /// With the tanh approximation.
    GeluTanh,
    Silu,
    /// With the error function.
    Gelu,
}

/// Type of the bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    F32,
    /// As D's elements.
    Output,
}

/// What follows a product, in this order: alpha, scales, bias, activation, beta times the residual. The forms of a
/// convolution, a bias along rows and a residual before the activation, only some families have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Epilogue {
    /// `D = activation(alpha A B) (alpha A UP)`, as in SwiGLU, GEGLU and ReGLU; nothing else may follow.
    pub is_gated: bool,
    pub alpha: f32,
    pub has_m_scale: bool,
    pub has_n_scale: bool,
    pub bias: Option<Bias>,
    /// The bias has m elements, one for each row of D, instead of n.
    pub is_bias_along_rows: bool,
    pub activation: Activation,
    pub residual: Option<Matrix>,
    /// The residual is added before the activation.
    pub is_residual_first: bool,
    pub beta: f32,
}

impl Default for Epilogue {
    fn default() -> Self {
        Self {
            is_gated: false,
            alpha: 1.0,
            has_m_scale: false,
            has_n_scale: false,
            bias: None,
            is_bias_along_rows: false,
            activation: Activation::None,
            residual: None,
            is_residual_first: false,
            beta: 1.0,
        }
    }
}

/// A batch of products.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Problem {
    pub kind: Kind,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub batches: usize,
    pub a: Matrix,
    pub b: Matrix,
    pub d: Matrix,
    pub epilogue: Epilogue,
}

impl Element {
    pub fn bytes(self) -> usize {
        match self {
            Element::BF16 | Element::F16 => 2,
            Element::TF32 | Element::F32 => 4,
            Element::E4M3 | Element::S8 | Element::MXFP8 | Element::MXFP4 => 1,
        }
    }

    /// Values along K that one of [`Element::bytes`] holds.
    pub fn values(self) -> usize {
        if self == Element::MXFP4 { 2 } else { 1 }
    }

    pub fn bits(self) -> usize {
        8 * self.bytes() / self.values()
    }

    /// Whether the operand has block scales.
    pub fn has_blocks(self) -> bool {
        matches!(self, Element::MXFP8 | Element::MXFP4)
    }

    /// As symbols and tables spell it.
    pub fn name(self) -> &'static str {
        match self {
            Element::BF16 => "bf16",
            Element::F16 => "f16",
            Element::TF32 => "tf32",
            Element::F32 => "f32",
            Element::E4M3 => "e4m3",
            Element::S8 => "s8",
            Element::MXFP8 => "mxfp8",
            Element::MXFP4 => "mxfp4",
        }
    }

    pub(super) fn map_element(self) -> launch::Element {
        match self {
            Element::BF16 => launch::Element::BF16,
            Element::F16 => launch::Element::F16,
            Element::TF32 | Element::F32 => launch::Element::F32,
            Element::E4M3 | Element::S8 | Element::MXFP8 | Element::MXFP4 => launch::Element::U8,
        }
    }
}

impl Result {
    pub fn bytes(self) -> usize {
        match self {
            Result::BF16 | Result::F16 => 2,
            Result::F32 | Result::I32 => 4,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Result::BF16 => "bf16",
            Result::F16 => "f16",
            Result::F32 => "f32",
            Result::I32 => "i32",
        }
    }

    pub(super) fn map_element(self) -> launch::Element {
        match self {
            Result::BF16 => launch::Element::BF16,
            Result::F16 => launch::Element::F16,
            Result::F32 => launch::Element::F32,
            Result::I32 => launch::Element::U32,
        }
    }
}

impl Layout {
    /// A linear layer: activations m x k, weights n x k.
    pub const NT: Self = Self { is_a_transposed: false, is_b_transposed: true };
    /// Both as the operator names them.
    pub const NN: Self = Self { is_a_transposed: false, is_b_transposed: false };

    pub fn name(self) -> &'static str {
        match (self.is_a_transposed, self.is_b_transposed) {
            (false, false) => "nn",
            (false, true) => "nt",
            (true, false) => "tn",
            (true, true) => "tt",
        }
    }
}

impl Kind {
    /// `input_input_output_layout`.
    pub fn name(self) -> String {
        let input = self.input.name();
        format!("{input}_{input}_{}_{}", self.output.name(), self.layout.name())
    }

    /// Reads what [`Kind::name`] writes.
    pub fn parse(name: &str) -> Checked<Self> {
        let unknown = || KernelError::table(format!("'{name}' names no kind of product"));
        let [a, b, output, layout] = name.split('_').collect::<Vec<_>>()[..] else { return Err(unknown()) };
        use Element::{BF16, E4M3, F16, F32, MXFP4, MXFP8, S8, TF32};
        let inputs = [BF16, F16, TF32, F32, E4M3, S8, MXFP8, MXFP4];
        let outputs = [Result::BF16, Result::F16, Result::F32, Result::I32];
        let layouts =
            [false, true].map(|a| [false, true].map(|b| Layout { is_a_transposed: a, is_b_transposed: b }));
        let input = inputs.into_iter().find(|e| e.name() == a && a == b).ok_or_else(unknown)?;
        let output = outputs.into_iter().find(|e| e.name() == output).ok_or_else(unknown)?;
        let layout = layouts.into_iter().flatten().find(|l| l.name() == layout).ok_or_else(unknown)?;
        Ok(Self { input, output, layout })
    }
}

impl Problem {
    /// Refuses what is no product, naming what is wrong.
    pub fn check(&self) -> Checked<()> {
        let Self { m, n, k, batches, .. } = *self;
        if m == 0 || n == 0 || k == 0 || batches == 0 {
            return Err(KernelError::shape(format!(
                "{batches} products of {m} x {k} by {k} x {n} hold nothing"
            )));
        }
        let limit = i32::MAX as usize / 2;
        if [m, n, k, batches].iter().any(|v| *v > limit) {
            return Err(KernelError::shape(format!(
                "an extent of {m} x {n} x {k}, {batches} times, exceeds {limit}"
            )));
        }
        if self.kind.output == Result::I32
            && (self.kind.input != Element::S8 || self.epilogue != Epilogue::default())
        {
            return Err(KernelError::parameter("i32 results are plain sums of s8 products"));
        }
        let Epilogue { activation, alpha, .. } = self.epilogue;
        let alone = Epilogue { is_gated: true, activation, alpha, ..Epilogue::default() };
        if self.epilogue.is_gated && (self.epilogue != alone || activation == Activation::None) {
            return Err(KernelError::parameter("a gate has an activation, and nothing follows it"));
        }
        let layout = self.kind.layout;
        if self.kind.input.has_blocks() && (layout != Layout::NT || !k.is_multiple_of(BLOCK)) {
            return Err(KernelError::parameter(format!(
                "{} operands are m x k and n x k with K a multiple of {BLOCK}, found {} and {k}",
                self.kind.input.name(),
                layout.name()
            )));
        }
        let k = k / self.kind.input.values();
        let (a_rows, a_columns) = if layout.is_a_transposed { (k, m) } else { (m, k) };
        let (b_rows, b_columns) = if layout.is_b_transposed { (n, k) } else { (k, n) };
        check_matrix("A", &self.a, a_rows, a_columns)?;
        check_matrix("B", &self.b, b_rows, b_columns)?;
        check_matrix("D", &self.d, m, n)?;
        self.epilogue.residual.map_or(Ok(()), |residual| check_matrix("the residual", &residual, m, n))
    }

    /// Refuses the epilogues of convolutions, for main loops that do not have them.
    pub(super) fn check_plain_epilogue(&self) -> Checked<()> {
        if self.epilogue.is_bias_along_rows || self.epilogue.is_residual_first {
            return Err(KernelError::parameter(
                "this family has no bias along rows and no residual before the activation",
            ));
        }
        Ok(())
    }

    /// Refuses what copies of 16 bytes cannot address, naming what is wrong.
    pub(super) fn check_copies(&self) -> Checked<()> {
        let Self { m, n, k, .. } = *self;
        if self.kind.input.bytes() != 2 && self.kind.layout != Layout::NT {
            return Err(KernelError::parameter(format!(
                "{} operands must be m x k and n x k, found layout {}",
                self.kind.input.name(),
                self.kind.layout.name()
            )));
        }
        let layout = self.kind.layout;
        check_aligned("A", &self.a, if layout.is_a_transposed { k } else { m }, self.kind.input.bytes())?;
        check_aligned("B", &self.b, if layout.is_b_transposed { n } else { k }, self.kind.input.bytes())?;
        let has_rows_along_k = !layout.is_a_transposed || layout.is_b_transposed;
        if has_rows_along_k && !(k * self.kind.input.bytes()).is_multiple_of(16) {
            return Err(KernelError::shape(format!(
                "K of {k} elements is no multiple of 16 bytes: the copy engine would read on into the next row"
            )));
        }
        Ok(())
    }

    /// Batches that share one matrix of an operand, at most all of them.
    pub(super) fn share(&self, matrix: &Matrix) -> usize {
        matrix.share.clamp(1, self.batches)
    }

    /// D's rows can be written by the copy engine, which writes whole pieces of 16 bytes.
    pub(super) fn has_aligned_result(&self) -> bool {
        let bytes = self.kind.output.bytes();
        [self.n, self.d.row_stride, self.d.batch_stride].iter().all(|v| (v * bytes).is_multiple_of(16))
    }
}

fn check_matrix(name: &str, matrix: &Matrix, rows: usize, columns: usize) -> Checked<()> {
    if rows > 1 && matrix.row_stride < columns {
        return Err(KernelError::shape(format!(
            "{name} has rows {} elements apart, fewer than its {columns} columns",
            matrix.row_stride
        )));
    }
    Ok(())
}

fn check_aligned(name: &str, matrix: &Matrix, rows: usize, element_bytes: usize) -> Checked<()> {
    let strides = [if rows > 1 { matrix.row_stride } else { 0 }, matrix.batch_stride];
    for stride in strides.map(|stride| stride * element_bytes) {
        if !stride.is_multiple_of(16) || stride >= 1 << 40 {
            return Err(KernelError::shape(format!(
                "{name} has rows or matrices {stride} bytes apart: the copy engine needs a multiple of 16 bytes below 2^40"
            )));
        }
    }
    Ok(())
}
