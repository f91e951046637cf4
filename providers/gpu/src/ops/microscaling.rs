//! Products of MXFP8 and MXFP4 operands, both of codes with a power of two for each 32 along K: DequantizeLinear in front of
//! a product, as `tenon.QuantizedMatMul` joins them. B is a constant; A is what the graph computes or is given.

use tenon_kernels::gpu::matmul::mfma::blocks::{self, Side};
use tenon_kernels::gpu::matmul::{
    self, BLOCK, Bias, Element, Epilogue, Kind, Layout, Matrix, Output, Problem,
};
use tenon_kernels::gpu::scalar::Scalar;
use tenon_plugin_api::{Error, NodeView, Result};

use super::axis_of;
use super::tail::Tail;
use crate::operator::{Decline, Derived, Expansion, Lowered, Lowering, Operator, refused};
use crate::schedule::Target;

/// Inputs of the node, beside the tail's.
const A: usize = 0;
const B: usize = 1;
const A_SCALE: usize = 4;
const B_SCALE: usize = 6;

struct Microscaled {
    element: Element,
    output: Scalar,
    n: usize,
    k: usize,
    /// B is n x k in memory, else k x n.
    has_rows: bool,
    alpha: f32,
    tail: Tail,
}

/// Declines what is not two operands of one such type with blocks along K.
pub(super) fn lower(l: &Lowering<'_>, transposes: (bool, bool)) -> Lowered {
    let element = match (l.scalar(A)?, l.scalar(B)?) {
        (Scalar::F8E4M3FN, Scalar::F8E4M3FN) => Element::MXFP8,
        (Scalar::F4E2M1, Scalar::F4E2M1) => Element::MXFP4,
        (a, b) => {
            let (a, b) = (a.suffix(), b.suffix());
            return Err(Decline(format!("products of {a} by {b} with block scales have no GPU kernel")));
        }
    };
    if l.scalar(A_SCALE)? != Scalar::F8E8M0 || l.scalar(B_SCALE)? != Scalar::F8E8M0 {
        return Err(Decline::new("both operands need scales that are powers of two"));
    }
    if l.has_input(A_SCALE + 1) || l.has_input(B_SCALE + 1) {
        return Err(Decline::new("codes of block-scaled floats have no zero point"));
    }
    let (a_rank, b_rank) = (l.rank(A)?, l.rank(B)?);
    let along_k = |name: &str, rank: usize, wanted: usize| -> std::result::Result<bool, Decline> {
        let axis = axis_of(l.node.int_or(&format!("{name}_axis"), 1)?, rank)?;
        Ok(axis == wanted && l.node.int_or(&format!("{name}_block_size"), 0)? == BLOCK as i64)
    };
    let has_rows = transposes.1;
    if transposes.0 || a_rank < 2 || b_rank != 2 {
        return Err(Decline::new("block-scaled products take rows along K and one matrix of weights"));
    }
    if !along_k("a", a_rank, a_rank - 1)? || !along_k("b", 2, usize::from(has_rows))? {
        return Err(Decline(format!("block scales are those of {BLOCK} values along K")));
    }
    let constant = |index| l.input(index).ok().and_then(|value| value.constant()).is_some();
    if !constant(B) || !constant(B_SCALE) {
        return Err(Decline::new("the right operand of a block-scaled product is no constant"));
    }
    let dims: Vec<usize> = match l.input(B)?.dims() {
        Some(dims) => dims.iter().map(|&dim| usize::try_from(dim).unwrap_or(0)).collect(),
        None => return Err(Decline::new("the shape of the weights is not known")),
    };
    let (n, k) = if has_rows { (dims[0], dims[1]) } else { (dims[1], dims[0]) };
    if n == 0 || k == 0 || !k.is_multiple_of(BLOCK) {
        return Err(Decline(format!("{k} values along K are no multiple of {BLOCK}")));
    }
    l.leave_on_host(B);
    l.leave_on_host(B_SCALE);
    let output = l.output_scalar(0)?;
    output_of(output)?;
    let alpha = l.node.float_or("alpha", 1.0)?;
    Ok(Box::new(Microscaled { element, output, n, k, has_rows, alpha, tail: Tail::read(l)? }))
}

fn output_of(scalar: Scalar) -> std::result::Result<Output, Decline> {
    match scalar {
        Scalar::BF16 => Ok(Output::BF16),
        Scalar::F16 => Ok(Output::F16),
        Scalar::F32 => Ok(Output::F32),
        other => Err(Decline(format!("block-scaled products give no {}", other.suffix()))),
    }
}

impl Microscaled {
    fn problem(&self, rows: usize) -> Result<Problem> {
        let output = output_of(self.output).map_err(|Decline(reason)| Error::unsupported(reason))?;
        let stored = self.k / self.element.values();
        Ok(Problem {
            kind: Kind { input: self.element, output, layout: Layout::NT },
            m: rows,
            n: self.n,
            k: self.k,
            batches: 1,
            a: Matrix::packed(stored),
            b: Matrix::constant(stored),
            d: Matrix::packed(self.n),
            epilogue: Epilogue { alpha: self.alpha, ..Epilogue::default() },
        })
    }
}

impl Operator for Microscaled {
    fn supports(&self, target: Target<'_>) -> Result<()> {
        let plan = matmul::plan_for(target.arch, &self.problem(64)?, target.chip).map_err(refused)?;
        if plan.launches.iter().all(|launch| (target.has)(&launch.symbol)) {
            return Ok(());
        }
        Err(Error::unsupported("block-scaled products have no kernel on this device"))
    }

    fn derived<'a>(&self, node: NodeView<'a>, _arch: &'a str) -> Vec<Derived<'a>> {
        let (element, [n, k], has_rows) = (self.element, [self.n, self.k], self.has_rows);
        let bytes = move |index: usize| {
            let tensor = node.input(index).and_then(|value| value.constant());
            let bytes = tensor.and_then(|tensor| tensor.host_bytes());
            bytes.ok_or_else(|| Error::unsupported(format!("input {index} is no constant in host memory")))
        };
        let codes = Derived {
            bytes: n * k / element.values(),
            fill: Box::new(move |out| {
                let given = bytes(B)?;
                if given.len() != out.len() && has_rows || given.len() < out.len() {
                    return Err(Error::invalid(format!("weights of {} bytes for {n} x {k}", given.len())));
                }
                match has_rows {
                    true => out.copy_from_slice(given),
                    false => turn(element, [n, k], given, out),
                }
                Ok(())
            }),
        };
        let scales = Derived {
            bytes: blocks::packed_bytes(element, n, k),
            fill: Box::new(move |out| {
                let (given, blocks) = (bytes(B_SCALE)?, k / BLOCK);
                if given.len() != n * blocks {
                    return Err(Error::invalid(format!("{} scales for {n} x {blocks} blocks", given.len())));
                }
                let rows: Vec<u8> = match has_rows {
                    true => given.to_vec(),
                    false => (0..n * blocks).map(|at| given[at % blocks * n + at / blocks]).collect(),
                };
                out.copy_from_slice(&blocks::pack(element, Side::B, [n, k], &rows));
                Ok(())
            }),
        };
        vec![codes, scales]
    }

    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (mut dims, scale_dims) = (cx.dims(A)?, cx.dims(A_SCALE)?);
        let Self { element, n, k, .. } = *self;
        let rows: usize = dims.iter().rev().skip(1).product();
        if dims.last() != Some(&k) || scale_dims.iter().product::<usize>() != rows * (k / BLOCK) {
            return Err(Error::invalid(format!(
                "an operand of {dims:?} with scales of {scale_dims:?}, expected rows of {k} and {} scales",
                k / BLOCK
            )));
        }
        if let Some(last) = dims.last_mut() {
            *last = n;
        }
        let output = cx.output(0, self.output, &dims)?;
        if rows == 0 {
            return Ok(());
        }
        let arch = cx.builder.target.arch;
        let scales = cx.scratch(Scalar::U8, &[blocks::packed_bytes(element, rows, k)])?;
        let given = cx.input(A_SCALE)?;
        cx.run(blocks::pack_plan(arch, element, Side::A, [1, rows, k]), &[Some(scales), Some(given)])?;

        let (within, left) = self.tail.split(cx, &dims, n)?;
        let mut problem = self.problem(rows)?;
        problem.epilogue = Epilogue {
            bias: within.bias.map(|_| Bias::Output),
            activation: within.activation,
            residual: within.residual.map(|_| problem.d),
            ..problem.epilogue
        };
        let product = if left.is_empty() { output } else { cx.scratch(self.output, &dims)? };
        let mut operands = vec![None; matmul::B_BLOCKS + 1];
        operands[matmul::A] = Some(cx.input(A)?);
        operands[matmul::B] = Some(cx.derived(0, n * k / element.values())?);
        operands[matmul::D] = Some(product);
        operands[matmul::A_BLOCKS] = Some(scales);
        operands[matmul::B_BLOCKS] = Some(cx.derived(1, blocks::packed_bytes(element, n, k))?);
        (operands[matmul::BIAS], operands[matmul::RESIDUAL]) = (within.bias, within.residual);
        cx.run(matmul::plan_for(arch, &problem, cx.chip()), &operands)?;
        if !left.is_empty() {
            left.run(cx, product, output, &dims, &[])?;
        }
        Ok(())
    }
}

/// Codes of k x n as those of n x k; of two that share a byte the first is low.
fn turn(element: Element, [n, k]: [usize; 2], from: &[u8], to: &mut [u8]) {
    if element.values() == 1 {
        for (row, codes) in to.chunks_exact_mut(k).enumerate() {
            codes.iter_mut().enumerate().for_each(|(at, code)| *code = from[at * n + row]);
        }
        return;
    }
    let code = |at: usize, row: usize| from[(at * n + row) / 2] >> ((at * n + row) % 2 * 4) & 15;
    for (row, pairs) in to.chunks_exact_mut(k / 2).enumerate() {
        pairs
            .iter_mut()
            .enumerate()
            .for_each(|(at, pair)| *pair = code(2 * at, row) | code(2 * at + 1, row) << 4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_codes_become_rows() {
        // Three columns of four codes; the last byte is full.
        let from = [0x21, 0x43, 0x65, 0x87, 0xa9, 0xcb];
        let mut to = [0; 6];
        turn(Element::MXFP4, [3, 4], &from, &mut to);
        assert_eq!(to, [0x41, 0xa7, 0x52, 0xb8, 0x63, 0xc9]);
        let mut to = [0; 6];
        turn(Element::MXFP8, [3, 2], &[1, 2, 3, 4, 5, 6], &mut to);
        assert_eq!(to, [1, 4, 2, 5, 3, 6]);
    }
}
