//! What the doctor runs: one small graph for each class of kernels, with random data.

use std::sync::Arc;

use anyhow::{Context, Result};
use half::{bf16, f16};
use tenon_runtime::dtype::DType;
use tenon_runtime::graph::{Graph, Node, TypeInfo, ValueId};
use tenon_runtime::tensor::{Tensor, Value};

use crate::compare::Tolerance;

/// The operator set that the graphs import.
const OPSET: i64 = 23;

/// A product `[m, k] x [k, n]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    pub m: usize,
    pub n: usize,
    pub k: usize,
}

/// A graph to check and to time.
pub struct Probe {
    /// Kernels that share code, such as `matmul bf16`.
    pub class: String,
    /// Shapes, as text.
    pub shape: String,
    pub graph: Graph,
    pub inputs: Vec<(String, Value)>,
    pub tolerance: Tolerance,
    /// Set for products, which vendors' libraries have too.
    pub product: Option<(Product, DType)>,
    /// The graph's first inputs cut down to a few rows, and which rows these are: the reference computes only them.
    pub sample: Option<Sample>,
}

/// Rows of a product that stand for all.
pub struct Sample {
    pub graph: Graph,
    pub inputs: Vec<(String, Value)>,
    pub rows: Vec<usize>,
}

/// How much is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Shapes that an emulated device computes in seconds.
    Small,
    /// Shapes that fill a device.
    Full,
}

/// Makes graphs and data.
pub struct Maker {
    random: fastrand::Rng,
}

/// Rows of a product that the reference computes.
const SAMPLED_ROWS: usize = 16;

impl Maker {
    pub fn new(seed: u64) -> Maker {
        Maker { random: fastrand::Rng::with_seed(seed) }
    }

    /// Every probe of an extent.
    pub fn probes(&mut self, extent: Extent) -> Result<Vec<Probe>> {
        let mut probes = self.products(extent)?;
        probes.extend(self.attention(extent)?);
        probes.extend(self.rows(extent)?);
        probes.extend(self.images(extent)?);
        Ok(probes)
    }

    /// Products: the types that kernels differ in, square and as language models have them.
    fn products(&mut self, extent: Extent) -> Result<Vec<Probe>> {
        let shapes: &[[usize; 3]] = match extent {
            Extent::Small => &[[33, 40, 96], [1, 64, 64]],
            Extent::Full => &[
                [1024, 1024, 1024],
                [2048, 2048, 2048],
                [4096, 4096, 4096],
                [8192, 8192, 8192],
                [1, 6144, 4096],
                [1, 4096, 14336],
                [16, 6144, 4096],
                [128, 4096, 4096],
                [2048, 28672, 4096],
            ],
        };
        let mut probes = Vec::new();
        for dtype in [DType::BF16, DType::F16, DType::F32] {
            // Single precision serves few: three shapes tell enough.
            let count = if dtype == DType::F32 { shapes.len().min(3) } else { shapes.len() };
            for &[m, n, k] in &shapes[..count] {
                probes.push(self.product(dtype, Product { m, n, k })?);
            }
        }
        let quantised: &[[usize; 3]] = match extent {
            Extent::Small => &[[5, 64, 64]],
            Extent::Full => &[[1, 4096, 4096], [16, 4096, 4096], [1024, 4096, 4096]],
        };
        let gated: &[[usize; 3]] = match extent {
            Extent::Small => &[[33, 40, 96], [1, 64, 64]],
            Extent::Full => &[[1, 14336, 4096], [16, 14336, 4096], [2048, 14336, 4096]],
        };
        for &[m, n, k] in quantised {
            probes.push(self.integer_product(Product { m, n, k })?);
            probes.push(self.four_bit_product(Product { m, n, k })?);
            probes.push(self.eight_bit_product(Product { m, n, k })?);
        }
        for &[m, n, k] in gated {
            for dtype in [DType::BF16, DType::F16] {
                probes.push(self.gated_products(dtype, Product { m, n, k })?);
            }
        }
        let scaled = if extent == Extent::Small { [33, 40, 96] } else { [4096, 4096, 4096] };
        for (dtype, name) in [(DType::F8E4M3FN, "mxfp8"), (DType::F4E2M1, "mxfp4")] {
            probes.push(self.block_scaled_product(dtype, name, scaled)?);
        }
        Ok(probes)
    }

    /// `MatMul` with a constant weight.
    fn product(&mut self, dtype: DType, product: Product) -> Result<Probe> {
        let Product { m, n, k } = product;
        let weight = self.tensor(dtype, &[k, n])?;
        let make = |a: Tensor| {
            let mut graph = Sketch::new();
            let a = graph.input("a", a)?;
            let b = graph.graph.add_constant("b", weight.clone());
            graph.node(Node::new("", "MatMul", OPSET), &[a, b], 1)?;
            Ok::<_, anyhow::Error>(graph)
        };
        let a = self.tensor(dtype, &[m, k])?;
        let rows: Vec<usize> = match m <= SAMPLED_ROWS {
            true => Vec::new(),
            false => (0..SAMPLED_ROWS).map(|row| row * (m - 1) / (SAMPLED_ROWS - 1)).collect(),
        };
        let sample = match rows.is_empty() {
            true => None,
            false => {
                let sketch = make(pick_rows(&a, &rows)?)?;
                Some(Sample { graph: sketch.graph, inputs: sketch.inputs, rows })
            }
        };
        let mut probe =
            make(a)?.probe(format!("matmul {}", short(dtype)), format!("{m}x{n}x{k}"), accuracy(dtype));
        probe.product = Some((product, dtype));
        probe.sample = sample;
        Ok(probe)
    }

    fn integer_product(&mut self, Product { m, n, k }: Product) -> Result<Probe> {
        let mut graph = Sketch::new();
        let a: Vec<u8> = (0..m * k).map(|_| self.random.u8(..)).collect();
        let b: Vec<i8> = (0..k * n).map(|_| self.random.i8(..)).collect();
        let a = graph.input("a", Tensor::from_slice(&[m, k], &a)?)?;
        let b = graph.graph.add_constant("b", Tensor::from_slice(&[k, n], &b)?);
        let zero = graph.graph.add_constant("a_zero_point", Tensor::scalar(128u8));
        graph.node(Node::new("", "MatMulInteger", OPSET), &[a, b, zero], 1)?;
        let exact = Tolerance { relative: 0.0, absolute: 0.0, scaled: 0.0 };
        Ok(graph.probe("matmul int8".into(), format!("{m}x{n}x{k}"), exact))
    }

    /// Weights of four bits in blocks of 32 with a scale each, activations f16.
    fn four_bit_product(&mut self, Product { m, n, k }: Product) -> Result<Probe> {
        const BLOCK: usize = 32;
        let mut graph = Sketch::new();
        let a = graph.input("a", self.tensor(DType::F16, &[m, k])?)?;
        let packed: Vec<u8> = (0..n * k / 2).map(|_| self.random.u8(..)).collect();
        let b = graph.graph.add_constant("b", Tensor::from_slice(&[n, k / BLOCK, BLOCK / 2], &packed)?);
        let scales = self.tensor(DType::F16, &[n * k / BLOCK])?;
        let scales = graph.graph.add_constant("scales", scales);
        let node = Node::new("com.microsoft", "MatMulNBits", 1)
            .with_attribute("K", k as i64)
            .with_attribute("N", n as i64)
            .with_attribute("bits", 4i64)
            .with_attribute("block_size", BLOCK as i64);
        graph.node(node, &[a, b, scales], 1)?;
        Ok(graph.probe("matmul int4".into(), format!("{m}x{n}x{k}"), accuracy(DType::F16)))
    }

    /// Floats of 8 bits with a scale for all of A and one for each column of B, as quantised models have them.
    fn eight_bit_product(&mut self, Product { m, n, k }: Product) -> Result<Probe> {
        let mut graph = Sketch::new();
        let [a, b] = [[m, k], [k, n]].map(|dims| self.codes(DType::F8E4M3FN, dims));
        let (a, b) = (graph.input("a", a?)?, graph.graph.add_constant("b", b?));
        let a_scale = graph.graph.add_constant("a_scale", Tensor::scalar(bf16::from_f32(0.03125)));
        let b_scale = graph.graph.add_constant("b_scale", self.tensor(DType::BF16, &[n])?);
        let node = Node::new("tenon", "QuantizedMatMul", 1)
            .with_attribute("b_axis", 1i64)
            .with_attribute("dtype", i64::from(DType::BF16.onnx()));
        let inputs = [Some(a), Some(b), None, None, Some(a_scale), None, Some(b_scale)];
        let (_, outputs) = graph.graph.append(node, &inputs, 1)?;
        graph.graph.add_output("y", outputs[0], None);
        Ok(graph.probe("matmul fp8".into(), format!("{m}x{n}x{k}"), accuracy(DType::BF16)))
    }

    /// Two products of the same rows, of which one, as `x sigmoid(x)`, lets the other through (SwiGLU).
    fn gated_products(&mut self, dtype: DType, Product { m, n, k }: Product) -> Result<Probe> {
        let mut graph = Sketch::new();
        let a = graph.input("a", self.tensor(dtype, &[m, k])?)?;
        let gate = graph.graph.add_constant("gate", self.tensor(dtype, &[k, n])?);
        let up = graph.graph.add_constant("up", self.tensor(dtype, &[k, n])?);
        let node = |op_type: &str| Node::new("", op_type, OPSET);
        let gate = graph.value(node("MatMul"), &[a, gate])?;
        let up = graph.value(node("MatMul"), &[a, up])?;
        let share = graph.value(node("Sigmoid"), &[gate])?;
        let gate = graph.value(node("Mul"), &[gate, share])?;
        graph.node(node("Mul"), &[gate, up], 1)?;
        Ok(graph.probe(format!("gated matmul {}", short(dtype)), format!("{m}x{n}x{k}"), accuracy(dtype)))
    }

    /// Floats of 8 or 4 bits with a power of two for each 32 along K, both operands.
    fn block_scaled_product(&mut self, dtype: DType, name: &str, [m, n, k]: [usize; 3]) -> Result<Probe> {
        const BLOCK: usize = 32;
        let (a, b) = (self.codes(dtype, [m, k])?, self.codes(dtype, [n, k])?);
        let mut scales = |rows: usize| {
            let bytes: Vec<u8> = (0..rows * k / BLOCK).map(|_| self.random.u8(110..118)).collect();
            Tensor::copy_from_bytes(DType::F8E8M0, &[rows, k / BLOCK], &bytes)
        };
        let (a_scale, b_scale) = (scales(m)?, scales(n)?);
        let mut graph = Sketch::new();
        let (a, a_scale) = (graph.input("a", a)?, graph.input("a_scale", a_scale)?);
        let b = graph.graph.add_constant("b", b);
        let b_scale = graph.graph.add_constant("b_scale", b_scale);
        let mut node = Node::new("tenon", "QuantizedMatMul", 1)
            .with_attribute("transB", 1i64)
            .with_attribute("dtype", i64::from(DType::BF16.onnx()));
        for side in ["a", "b"] {
            node = node
                .with_attribute(&format!("{side}_axis"), 1i64)
                .with_attribute(&format!("{side}_block_size"), BLOCK as i64);
        }
        let inputs = [Some(a), Some(b), None, None, Some(a_scale), None, Some(b_scale)];
        let (_, outputs) = graph.graph.append(node, &inputs, 1)?;
        graph.graph.add_output("y", outputs[0], None);
        Ok(graph.probe(format!("matmul {name}"), format!("{m}x{n}x{k}"), accuracy(DType::BF16)))
    }

    /// Prefill and decode with grouped heads of 128.
    fn attention(&mut self, extent: Extent) -> Result<Vec<Probe>> {
        let [prefill, cached] = match extent {
            Extent::Small => [17, 40],
            Extent::Full => [1024, 4096],
        };
        let (heads, kv_heads, size) = if extent == Extent::Small { (2, 1, 64) } else { (32, 8, 128) };
        let mut probes = Vec::new();
        for dtype in [DType::BF16, DType::F16] {
            for (name, queries, keys) in [("prefill", prefill, prefill), ("decode", 1, cached)] {
                let mut graph = Sketch::new();
                let q = graph.input("q", self.tensor(dtype, &[1, heads, queries, size])?)?;
                let k = graph.input("k", self.tensor(dtype, &[1, kv_heads, keys, size])?)?;
                let v = graph.input("v", self.tensor(dtype, &[1, kv_heads, keys, size])?)?;
                // The one query of a decode step follows all keys.
                let node = Node::new("", "Attention", OPSET);
                let node = if queries > 1 { node.with_attribute("is_causal", 1i64) } else { node };
                graph.node(node, &[q, k, v], 1)?;
                let shape = format!("{heads}/{kv_heads} x {queries} x {keys} x {size}");
                probes.push(graph.probe(
                    format!("attention {name} {}", short(dtype)),
                    shape,
                    accuracy(dtype),
                ));
            }
        }
        Ok(probes)
    }

    /// Kernels that go over rows: casts, norms, softmax, reductions, element-wise chains, copies.
    fn rows(&mut self, extent: Extent) -> Result<Vec<Probe>> {
        let [rows, columns] = if extent == Extent::Small { [5, 130] } else { [4096, 8192] };
        let shape = format!("{rows}x{columns}");
        let node = |op_type: &str| Node::new("", op_type, OPSET);
        let mut probes = Vec::new();
        for (from, to) in [(DType::F32, DType::BF16), (DType::F32, DType::F16), (DType::BF16, DType::F32)] {
            let mut graph = Sketch::new();
            let x = graph.input("x", self.tensor(from, &[rows, columns])?)?;
            graph.node(node("Cast").with_attribute("to", to as i64), &[x], 1)?;
            let exact = Tolerance { relative: 0.0, absolute: 0.0, scaled: 0.0 };
            probes.push(graph.probe(format!("cast {} to {}", short(from), short(to)), shape.clone(), exact));
        }
        for dtype in [DType::F32, DType::BF16] {
            for (class, op_type, has_weight) in [
                ("layer norm", "LayerNormalization", true),
                ("RMS norm", "RMSNormalization", true),
                ("softmax", "Softmax", false),
                ("element-wise", "Gelu", false),
                ("reduce", "ReduceMean", false),
                ("transpose", "Transpose", false),
            ] {
                let mut graph = Sketch::new();
                let mut inputs = vec![graph.input("x", self.tensor(dtype, &[rows, columns])?)?];
                if has_weight {
                    inputs.push(graph.graph.add_constant("weight", self.tensor(dtype, &[columns])?));
                }
                if op_type == "ReduceMean" {
                    inputs.push(graph.graph.add_constant("axes", Tensor::from_slice(&[1], &[1i64])?));
                }
                graph.node(node(op_type), &inputs, 1)?;
                probes.push(graph.probe(format!("{class} {}", short(dtype)), shape.clone(), accuracy(dtype)));
            }
        }
        Ok(probes)
    }

    /// Convolution and pooling.
    fn images(&mut self, extent: Extent) -> Result<Vec<Probe>> {
        let (channels, size) = if extent == Extent::Small { (3, 9) } else { (64, 112) };
        let mut probes = Vec::new();
        for dtype in [DType::F32, DType::F16] {
            let mut graph = Sketch::new();
            let x = graph.input("x", self.tensor(dtype, &[1, channels, size, size])?)?;
            let w = graph.graph.add_constant("w", self.tensor(dtype, &[channels, channels, 3, 3])?);
            let node = Node::new("", "Conv", OPSET).with_attribute("pads", vec![1i64; 4]);
            graph.node(node, &[x, w], 1)?;
            let shape = format!("{channels}x{size}x{size}, 3x3");
            probes.push(graph.probe(format!("convolution {}", short(dtype)), shape.clone(), accuracy(dtype)));
            let mut graph = Sketch::new();
            let x = graph.input("x", self.tensor(dtype, &[1, channels, size, size])?)?;
            let node = Node::new("", "MaxPool", OPSET)
                .with_attribute("kernel_shape", vec![3i64; 2])
                .with_attribute("strides", vec![2i64; 2]);
            graph.node(node, &[x], 1)?;
            probes.push(graph.probe(format!("pooling {}", short(dtype)), shape, accuracy(dtype)));
        }
        Ok(probes)
    }

    /// Codes of 8 or 4 bits, all but those of NaN.
    fn codes(&mut self, dtype: DType, dims: [usize; 2]) -> Result<Tensor> {
        let bytes = dims[0] * dims[1] * dtype.bits() / 8;
        let bytes: Vec<u8> = (0..bytes).map(|_| self.random.u8(..) & 0xf7).collect();
        Ok(Tensor::copy_from_bytes(dtype, &dims, &bytes)?)
    }

    /// Elements between -1 and 1.
    fn tensor(&mut self, dtype: DType, dims: &[usize]) -> Result<Tensor> {
        let count = dims.iter().product::<usize>();
        let mut value = || self.random.f32() * 2.0 - 1.0;
        let tensor = match dtype {
            DType::F32 => Tensor::from_slice(dims, &(0..count).map(|_| value()).collect::<Vec<f32>>()),
            DType::F16 => {
                Tensor::from_slice(dims, &(0..count).map(|_| f16::from_f32(value())).collect::<Vec<_>>())
            }
            DType::BF16 => {
                Tensor::from_slice(dims, &(0..count).map(|_| bf16::from_f32(value())).collect::<Vec<_>>())
            }
            other => anyhow::bail!("no random data of type {other}"),
        };
        Ok(tensor?)
    }
}

/// The type's name in kernels and tables.
fn short(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "f32",
        DType::F16 => "f16",
        DType::BF16 => "bf16",
        other => other.name(),
    }
}

/// Allowed differences: a few roundings of the result's type, and for sums of many products a part of their size.
fn accuracy(dtype: DType) -> Tolerance {
    match dtype {
        DType::F32 => Tolerance { relative: 1e-4, absolute: 1e-6, scaled: 1e-5 },
        DType::F16 => Tolerance { relative: 2e-3, absolute: 1e-5, scaled: 1e-3 },
        _ => Tolerance { relative: 1.6e-2, absolute: 1e-5, scaled: 8e-3 },
    }
}

/// Rows of a matrix, packed.
pub fn pick_rows(matrix: &Tensor, rows: &[usize]) -> Result<Tensor> {
    let [count, width] = *matrix.dims() else {
        anyhow::bail!("a tensor of rank {} has no rows", matrix.rank())
    };
    let row_bytes = matrix.byte_len() / count.max(1);
    let bytes = matrix.as_bytes();
    let picked: Vec<u8> =
        rows.iter().flat_map(|row| &bytes[row * row_bytes..][..row_bytes]).copied().collect();
    Ok(Tensor::copy_from_bytes(matrix.dtype(), &[rows.len(), width], &picked)?)
}

/// A graph in the making, with what its inputs are fed.
struct Sketch {
    graph: Graph,
    inputs: Vec<(String, Value)>,
}

impl Sketch {
    fn new() -> Sketch {
        let opsets =
            [("", OPSET), ("com.microsoft", 1)].map(|(domain, version)| (Arc::from(domain), version));
        Sketch { graph: Graph::new("probe", Arc::new(opsets.into())), inputs: Vec::new() }
    }

    fn input(&mut self, name: &str, tensor: Tensor) -> Result<ValueId> {
        let shape = tensor.dims().iter().copied().collect();
        let value = self.graph.add_input(name, Some(TypeInfo::tensor(tensor.dtype(), shape)))?;
        self.inputs.push((name.to_owned(), Value::Tensor(tensor)));
        Ok(value)
    }

    /// Appends a node and gives its only output.
    fn value(&mut self, node: Node, inputs: &[ValueId]) -> Result<ValueId> {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        let (_, outputs) = self.graph.append(node, &inputs, 1)?;
        outputs.first().copied().context("a node has an output")
    }

    /// Appends a node whose first output is the graph's.
    fn node(&mut self, node: Node, inputs: &[ValueId], outputs: usize) -> Result<()> {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        let (_, outputs) = self.graph.append(node, &inputs, outputs)?;
        let first = *outputs.first().context("a node has an output")?;
        self.graph.add_output("y", first, None);
        Ok(())
    }

    fn probe(self, class: String, shape: String, tolerance: Tolerance) -> Probe {
        let Sketch { graph, inputs } = self;
        Probe { class, shape, graph, inputs, tolerance, product: None, sample: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picked_rows_are_those_of_the_matrix() {
        let matrix = Tensor::from_slice(&[3, 2], &[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        let picked = pick_rows(&matrix, &[2, 0]).unwrap();
        assert_eq!((picked.dims(), picked.to_vec::<f32>().unwrap()), (&[2, 2][..], vec![5.0, 6.0, 1.0, 2.0]));
    }

    #[test]
    fn the_small_extent_covers_every_class() {
        let probes = Maker::new(1).probes(Extent::Small).unwrap();
        let products = ["matmul bf16", "matmul int8", "matmul int4", "matmul fp8", "gated matmul f16"];
        for class in products.into_iter().chain(["softmax f32", "convolution f16"]) {
            assert!(probes.iter().any(|probe| probe.class == class), "{class}");
        }
        assert!(probes.iter().any(|probe| probe.sample.is_some()));
    }
}
