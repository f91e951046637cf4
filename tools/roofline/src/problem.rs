//! Problems by name: what `--operator`, `--shape`, `--dtype` and `--llm` ask for.

use std::fmt;

use anyhow::{Context, Result, bail, ensure};
use tenon_kernels::estimate::Cost;
use tenon_kernels::gpu::launch;
use tenon_kernels::gpu::matmul::{Element, Epilogue, Kind, Layout, Matrix, Output, Problem as Product};
use tenon_kernels::gpu::pipeline::attention::Shape as Attention;

/// Kinds of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Operator {
    /// C[M,N] = A[M,K] B[N,K], as a linear layer: --shape MxNxK, with :nn for B[K,N], :tn and :tt for A[K,M]
    Matmul,
    /// softmax(Q K) V: --shape BATCHxHEADS/KV_HEADSxROWSxKEYSxHEAD, with :causal
    Attention,
    /// f32 to the narrow type: --shape ELEMENTS
    Cast,
    /// RMS norm of rows: --shape ROWSxCOLUMNS
    Norm,
}

/// Element types by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Dtype {
    Bf16,
    F16,
    /// fp8 operands, bf16 results
    E4m3,
    /// int8 operands, int32 results
    S8,
    Tf32,
    /// E4M3 with a scale for each 32 values along K
    Mxfp8,
    /// E2M1 with a scale for each 32 values along K
    Mxfp4,
}

impl Dtype {
    /// As tables print it.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::Bf16 => "bf16",
            Dtype::F16 => "f16",
            Dtype::E4m3 => "e4m3",
            Dtype::S8 => "s8",
            Dtype::Tf32 => "tf32",
            Dtype::Mxfp8 => "mxfp8",
            Dtype::Mxfp4 => "mxfp4",
        }
    }

    /// The kind of product with the weights `N x K`.
    pub fn kind(self) -> Kind {
        let (input, output) = match self {
            Dtype::Bf16 => (Element::BF16, Output::BF16),
            Dtype::F16 => (Element::F16, Output::F16),
            Dtype::E4m3 => (Element::E4M3, Output::BF16),
            Dtype::S8 => (Element::S8, Output::I32),
            Dtype::Tf32 => (Element::TF32, Output::F32),
            Dtype::Mxfp8 => (Element::MXFP8, Output::BF16),
            Dtype::Mxfp4 => (Element::MXFP4, Output::BF16),
        };
        Kind { input, output, layout: Layout::NT }
    }

    fn bytes(self) -> usize {
        self.kind().input.bytes()
    }

    fn launch_element(self) -> Result<launch::Element> {
        match self {
            Dtype::Bf16 => Ok(launch::Element::BF16),
            Dtype::F16 => Ok(launch::Element::F16),
            other => bail!("attention of {}: bf16 and f16 only", other.name()),
        }
    }
}

/// What a kernel is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Problem {
    Matmul { m: usize, n: usize, k: usize, layout: Layout, dtype: Dtype },
    Attention { shape: Attention, dtype: Dtype },
    Cast { elements: usize, dtype: Dtype },
    Norm { rows: usize, columns: usize, dtype: Dtype },
}

/// Output and input columns of the linear layers of an 8-billion-parameter llama.
pub const LLM_LAYERS: [[usize; 2]; 5] =
    [[6144, 4096], [4096, 4096], [28672, 4096], [4096, 14336], [128_256, 4096]];

/// Tokens in a step: decoding of growing batches, then prefill.
pub const LLM_TOKENS: [usize; 8] = [1, 4, 16, 64, 128, 512, 2048, 4096];

impl Problem {
    /// Reads what `--shape` gives for an operator.
    pub fn parse(operator: Operator, shape: &str, dtype: Dtype) -> Result<Self> {
        let numbers = |text: &str| -> Result<Vec<usize>> {
            let parts = text.split(['x', '/']);
            let numbers =
                parts.map(|part| part.parse().with_context(|| format!("--shape {shape}: '{part}'")));
            numbers.collect()
        };
        let problem = match operator {
            Operator::Matmul => {
                let (extents, layout) = shape.split_once(':').unwrap_or((shape, Layout::NT.name()));
                let known = [false, true]
                    .map(|a| [false, true].map(|b| Layout { is_a_transposed: a, is_b_transposed: b }));
                let layout = known.into_iter().flatten().find(|known| known.name() == layout);
                let layout =
                    layout.with_context(|| format!("--shape {shape}: the layout is nt, nn, tn or tt"))?;
                let [m, n, k] = numbers(extents)?[..] else {
                    bail!("--shape {shape}: a product is MxNxK, with the layout if it is not nt")
                };
                Problem::Matmul { m, n, k, layout, dtype }
            }
            Operator::Attention => {
                let (extents, mask) = shape.split_once(':').unwrap_or((shape, "full"));
                ensure!(["full", "causal"].contains(&mask), "--shape {shape}: the mask is full or causal");
                let [batch, heads, kv_heads, q_len, kv_len, head] = numbers(extents)?[..] else {
                    bail!(
                        "--shape {shape}: attention is BATCHxHEADS/KV_HEADSxROWSxKEYSxHEAD, with :causal if it is"
                    )
                };
                let [batch, heads, kv_heads, q_len, kv_len, head] =
                    [batch, heads, kv_heads, q_len, kv_len, head]
                        .map(|v| u32::try_from(v).unwrap_or(u32::MAX));
                let shape = Attention {
                    batch,
                    heads,
                    kv_heads,
                    q_len,
                    kv_len,
                    head_qk: head,
                    head_v: head,
                    is_causal: mask == "causal",
                    bits: 16,
                    coded: None,
                };
                Problem::Attention { shape, dtype }
            }
            Operator::Cast => {
                let [elements] = numbers(shape)?[..] else { bail!("--shape {shape}: a cast is ELEMENTS") };
                Problem::Cast { elements, dtype }
            }
            Operator::Norm => {
                let [rows, columns] = numbers(shape)?[..] else {
                    bail!("--shape {shape}: a norm is ROWSxCOLUMNS")
                };
                Problem::Norm { rows, columns, dtype }
            }
        };
        Ok(problem)
    }

    /// What is shown when no shape is given.
    pub fn usual(operator: Operator, dtype: Dtype) -> Vec<Self> {
        let attention = |batch, heads, kv_heads, q_len, kv_len, head, is_causal| Problem::Attention {
            shape: Attention {
                batch,
                heads,
                kv_heads,
                q_len,
                kv_len,
                head_qk: head,
                head_v: head,
                is_causal,
                bits: 16,
                coded: None,
            },
            dtype,
        };
        match operator {
            Operator::Matmul => {
                let square = |e| Problem::Matmul { m: e, n: e, k: e, layout: Layout::NT, dtype };
                [1024, 2048, 4096, 8192, 16384].map(square).to_vec()
            }
            Operator::Attention => {
                let mut problems = Vec::new();
                for is_causal in [true, false] {
                    problems.extend(
                        [1024, 4096, 16384].map(|len| attention(16, 64, 8, len, len, 128, is_causal)),
                    );
                }
                problems.extend([16, 64].map(|batch| attention(batch, 32, 8, 1, 4096, 128, false)));
                problems
            }
            Operator::Cast => vec![Problem::Cast { elements: 64 << 20, dtype }],
            Operator::Norm => [8192, 65536].map(|rows| Problem::Norm { rows, columns: 4096, dtype }).to_vec(),
        }
    }

    /// The linear layers of an 8-billion-parameter llama at 1 to 4096 tokens.
    pub fn llm(dtype: Dtype) -> Vec<Self> {
        let layers =
            |m: usize| LLM_LAYERS.map(|[n, k]| Problem::Matmul { m, n, k, layout: Layout::NT, dtype });
        LLM_TOKENS.into_iter().flat_map(layers).collect()
    }

    pub fn operator(&self) -> Operator {
        match self {
            Problem::Matmul { .. } => Operator::Matmul,
            Problem::Attention { .. } => Operator::Attention,
            Problem::Cast { .. } => Operator::Cast,
            Problem::Norm { .. } => Operator::Norm,
        }
    }

    pub fn dtype(&self) -> Dtype {
        match self {
            Problem::Matmul { dtype, .. }
            | Problem::Attention { dtype, .. }
            | Problem::Cast { dtype, .. }
            | Problem::Norm { dtype, .. } => *dtype,
        }
    }

    /// Arithmetic and bytes of an operator that reads and writes memory once.
    pub fn stream_cost(&self) -> Option<Cost> {
        match *self {
            Problem::Cast { elements, dtype } => {
                Some(Cost { flops: elements as f64, bytes: (elements * (4 + dtype.bytes())) as f64 })
            }
            Problem::Norm { rows, columns, dtype } => {
                let elements = rows * columns;
                Some(Cost { flops: 8.0 * elements as f64, bytes: (2 * elements * dtype.bytes()) as f64 })
            }
            _ => None,
        }
    }

    /// The planner's form of attention.
    pub fn attention(&self) -> Result<Option<tenon_kernels::gpu::attention::Problem>> {
        use tenon_kernels::gpu::attention::{Causal, Problem as Planned};
        let Problem::Attention { shape, dtype } = self else { return Ok(None) };
        let heads = [shape.batch, shape.heads, shape.kv_heads];
        let lengths = [shape.q_len, shape.kv_len];
        let dense = Planned::dense(dtype.launch_element()?, heads, lengths, [shape.head_qk, shape.head_v]);
        Ok(Some(Planned { causal: shape.is_causal.then_some(Causal::BottomRight), ..dense }))
    }

    /// The planner's form of a product with constant weights.
    pub fn product(&self) -> Option<Product> {
        let Problem::Matmul { layout, .. } = *self else { return None };
        self.product_in(layout)
    }

    /// The planner's form of a product with constant weights in a layout.
    pub fn product_in(&self, layout: Layout) -> Option<Product> {
        let Problem::Matmul { m, n, k, dtype, .. } = *self else { return None };
        let stored = k / dtype.kind().input.values();
        Some(Product {
            kind: Kind { layout, ..dtype.kind() },
            m,
            n,
            k,
            batches: 1,
            a: Matrix::packed(if layout.is_a_transposed { m } else { stored }),
            b: Matrix::constant(if layout.is_b_transposed { stored } else { n }),
            d: Matrix::packed(n),
            epilogue: Epilogue::default(),
        })
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operator::Matmul => "matmul",
            Operator::Attention => "attention",
            Operator::Cast => "cast",
            Operator::Norm => "norm",
        })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Matmul { m, n, k, layout: Layout::NT, .. } => write!(f, "{m}x{n}x{k}"),
            Problem::Matmul { m, n, k, layout, .. } => write!(f, "{m}x{n}x{k}:{}", layout.name()),
            Problem::Attention { shape: s, .. } => {
                let mask = if s.is_causal { ":causal" } else { "" };
                write!(
                    f,
                    "{}x{}/{}x{}x{}x{}{mask}",
                    s.batch, s.heads, s.kv_heads, s.q_len, s.kv_len, s.head_v
                )
            }
            Problem::Cast { elements, .. } => write!(f, "{elements}"),
            Problem::Norm { rows, columns, .. } => write!(f, "{rows}x{columns}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_read_what_they_print() {
        for (operator, shape) in [
            (Operator::Matmul, "8192x4096x1024"),
            (Operator::Matmul, "8192x4096x1024:tn"),
            (Operator::Attention, "16x64/8x4096x4096x128:causal"),
            (Operator::Attention, "1x32/8x1x8192x128"),
            (Operator::Cast, "1048576"),
            (Operator::Norm, "8192x4096"),
        ] {
            assert_eq!(Problem::parse(operator, shape, Dtype::Bf16).unwrap().to_string(), shape);
        }
    }

    #[test]
    fn wrong_shapes_say_what_they_should_be() {
        let message = |operator, shape| Problem::parse(operator, shape, Dtype::Bf16).unwrap_err().to_string();
        assert!(message(Operator::Matmul, "8x8").contains("MxNxK"));
        assert!(message(Operator::Matmul, "8x8xk").contains("'k'"));
        assert!(message(Operator::Matmul, "8x8x8:nk").contains("nt, nn, tn or tt"));
        assert!(message(Operator::Attention, "1x2/1x8x8x64:half").contains("full or causal"));
    }
}
