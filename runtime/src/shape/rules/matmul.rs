//! Matrix products: MatMul, Gemm, Einsum, their fused, quantised and block-quantised forms.

use super::Rule;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::graph::{Dim, Shape};
use crate::shape::dim;
use crate::shape::site::Site;

pub const RULES: &[Rule] = &[
    Rule::onnx("Einsum", 1, einsum),
    Rule::onnx("Gemm", 2, gemm),
    Rule::onnx("MatMul", 2, matmul),
    Rule::onnx("MatMulInteger", 2, matmul_integer),
    Rule::onnx("QLinearMatMul", 8, qlinear_matmul),
    Rule::of("tenon", "FusedMatMul", 2, fused_matmul),
    Rule::of("tenon", "QuantizedMatMul", 2, quantized_matmul),
    Rule::of("com.microsoft", "FusedMatMul", 2, fused_matmul),
    Rule::of("com.microsoft", "FusedMatMulActivation", 2, fused_matmul),
    Rule::of("com.microsoft", "TransposeMatMul", 2, fused_matmul),
    Rule::of("com.microsoft", "FusedGemm", 2, gemm),
    Rule::of("com.microsoft", "GemmFloat8", 2, gemm_float8),
    Rule::of("com.microsoft", "QGemm", 6, qgemm),
    Rule::of("com.microsoft", "MatMulNBits", 3, matmul_n_bits),
    Rule::of("com.microsoft", "MatMulBnb4", 3, matmul_n_bits),
    Rule::of("com.microsoft", "MatMulNBitsMlp", 3, unknown_width),
    Rule::of("com.microsoft", "MatMulNBitsQkv", 3, unknown_width),
    Rule::of("com.microsoft", "MatMulBlockQuantizedFp8Weight", 3, transposed_weight),
    Rule::of("com.microsoft", "MatMulBlockQuantizedFp4Weight", 3, transposed_weight),
    Rule::of("com.microsoft", "DynamicQuantizeMatMul", 3, matmul),
    Rule::of("com.microsoft", "MatMulIntegerToFloat", 4, matmul_integer_to_float),
    Rule::of("com.microsoft", "MatMulInteger16", 2, matmul_integer),
    Rule::of("com.microsoft", "QLinearMatMul", 8, qlinear_matmul),
];

/// The shape of the product of inputs `a` and `b` with numpy's rules for rank 1 and for the outer dimensions.
/// `swap` transposes the last two dimensions of an operand of rank 2 or more.
fn product(s: &Site<'_>, (a, b): (usize, usize), swap: (bool, bool)) -> Result<Option<Shape>> {
    s.expect_rank_from(a, 1)?;
    s.expect_rank_from(b, 1)?;
    let (Some(left), Some(right)) = (s.shape(a), s.shape(b)) else { return Ok(None) };
    let arrange = |shape: &Shape, swap: bool| {
        let mut dims: Vec<Dim> = shape.to_vec();
        if let (true, [.., x, y]) = (swap, dims.as_mut_slice()) {
            std::mem::swap(x, y);
        }
        dims
    };
    let (mut x, mut y) = (arrange(left, swap.0), arrange(right, swap.1));
    let (row, column) = (x.len() == 1, y.len() == 1);
    if row {
        x.insert(0, Dim::Known(1));
    }
    if column {
        y.push(Dim::Known(1));
    }
    let (m, k) = (x[x.len() - 2].clone(), &x[x.len() - 1]);
    let (inner, n) = (&y[y.len() - 2], y[y.len() - 1].clone());
    if dim::differ(k, inner) {
        return Err(Error::invalid_model(format!(
            "{} and {} cannot be multiplied: the inner sizes are {k} and {inner}; they must be equal",
            s.describe(a),
            s.describe(b)
        )));
    }
    let (outer_x, outer_y) = (&x[..x.len() - 2], &y[..y.len() - 2]);
    let rank = outer_x.len().max(outer_y.len());
    let at = |t: &[Dim], i: usize| (i + t.len()).checked_sub(rank).map_or(Dim::Known(1), |i| t[i].clone());
    let mut dims = Vec::with_capacity(rank + 2);
    for i in 0..rank {
        let size = dim::broadcast(&at(outer_x, i), &at(outer_y, i)).map_err(|e| {
            Error::invalid_model(format!("{} times {}: {}", s.describe(a), s.describe(b), e.message()))
        })?;
        dims.push(size.unwrap_or_default());
    }
    dims.extend((!row).then_some(m));
    dims.extend((!column).then_some(n));
    Ok(Some(dims.into_iter().collect()))
}

fn matmul(s: &mut Site<'_>) -> Result<()> {
    let shape = product(s, (0, 1), (false, false))?;
    s.set_tensor(0, s.dtype(0), shape);
    Ok(())
}

fn matmul_integer(s: &mut Site<'_>) -> Result<()> {
    let shape = product(s, (0, 1), (false, false))?;
    s.set_tensor(0, DType::I32, shape);
    Ok(())
}

fn matmul_integer_to_float(s: &mut Site<'_>) -> Result<()> {
    let shape = product(s, (0, 1), (false, false))?;
    s.set_tensor(0, s.dtype(2), shape);
    Ok(())
}

fn qlinear_matmul(s: &mut Site<'_>) -> Result<()> {
    let shape = product(s, (0, 3), (false, false))?;
    s.set_tensor(0, s.dtype(7), shape);
    Ok(())
}

fn fused_matmul(s: &mut Site<'_>) -> Result<()> {
    let batched = s.flag("transBatchA", false)? || s.flag("transBatchB", false)?;
    let shape = if batched {
        s.rank(0).zip(s.rank(1)).map(|(a, b)| dim::unknown(a.max(b)))
    } else {
        product(s, (0, 1), (s.flag("transA", false)?, s.flag("transB", false)?))?
    };
    s.set_tensor(0, s.dtype(0), shape);
    Ok(())
}

fn quantized_matmul(s: &mut Site<'_>) -> Result<()> {
    let shape = product(s, (0, 1), (s.flag("transA", false)?, s.flag("transB", false)?))?;
    s.set_tensor(0, s.dtype_attribute("dtype")?.unwrap_or(DType::F32), shape);
    Ok(())
}

fn gemm_shape(s: &Site<'_>, a: usize, b: usize) -> Result<Option<Shape>> {
    // Versions before 7 flatten operands of higher rank.
    if s.node.domain.is_empty() && s.version() >= 7 {
        s.expect_rank(a, 2)?;
        s.expect_rank(b, 2)?;
    }
    let swap = (s.flag("transA", false)?, s.flag("transB", false)?);
    match (s.rank(a), s.rank(b)) {
        (Some(2), Some(2)) => product(s, (a, b), swap),
        _ => Ok(Some(dim::unknown(2))),
    }
}

fn gemm(s: &mut Site<'_>) -> Result<()> {
    s.expect_same_dtype(0, 1)?;
    let shape = gemm_shape(s, 0, 1)?;
    s.set_tensor(0, s.first_dtype(&[0, 1]), shape);
    Ok(())
}

fn gemm_float8(s: &mut Site<'_>) -> Result<()> {
    let shape = gemm_shape(s, 0, 1)?;
    s.set_tensor(0, s.dtype_attribute("dtype")?.unwrap_or(DType::F32), shape);
    Ok(())
}

/// a, a_scale, a_zero_point, b, b_scale, b_zero_point, c, y_scale, y_zero_point.
fn qgemm(s: &mut Site<'_>) -> Result<()> {
    let shape = gemm_shape(s, 0, 3)?;
    let dtype = if s.has(8) { s.dtype(8) } else { DType::F32 };
    s.set_tensor(0, dtype, shape);
    Ok(())
}

/// The shape of input 0 with another last dimension.
fn with_width(s: &Site<'_>, width: Dim) -> Option<Shape> {
    let mut dims = s.shape(0)?.clone();
    *dims.0.last_mut()? = width;
    Some(dims)
}

fn matmul_n_bits(s: &mut Site<'_>) -> Result<()> {
    let (k, n) = (s.required_int("K")?, s.size_attribute("N", -1)?);
    if let Some(found) = s.shape(0).and_then(|x| x.last()?.known())
        && found as i64 != k
    {
        return Err(Error::invalid_model(format!("{} must have K = {k} columns", s.describe(0))));
    }
    let shape = with_width(s, Dim::Known(n));
    s.set_tensor(0, s.dtype(0), shape);
    Ok(())
}

fn unknown_width(s: &mut Site<'_>) -> Result<()> {
    let shape = with_width(s, Dim::Unknown);
    for output in 0..s.node.outputs().len() {
        s.set_tensor(output, s.dtype(0), shape.clone());
    }
    Ok(())
}

/// The weight is `[N, K]`, perhaps with packed columns.
fn transposed_weight(s: &mut Site<'_>) -> Result<()> {
    let shape = with_width(s, s.dim(1, 0));
    s.set_tensor(0, s.dtype(0), shape);
    Ok(())
}

/// The dimensions an equation gives each letter, and those that an ellipsis stands for.
#[derive(Default)]
struct Letters {
    named: Vec<(char, Dim)>,
    ellipsis: Vec<Dim>,
}

impl Letters {
    fn read(&mut self, s: &Site<'_>, i: usize, term: &str) -> Result<()> {
        let Some(shape) = s.shape(i) else {
            term.chars().filter(|c| c.is_alphabetic()).for_each(|c| self.meet(c, Dim::Unknown));
            return Ok(());
        };
        let letters = term.chars().filter(|c| c.is_alphabetic()).count();
        let mismatch =
            || Error::invalid_model(format!("term '{term}' of the equation does not fit {}", s.describe(i)));
        let hidden = shape.rank().checked_sub(letters).ok_or_else(mismatch)?;
        if hidden > 0 && !term.contains("...") {
            return Err(mismatch());
        }
        let mut dims = shape.iter();
        let mut rest = term;
        while let Some(c) = rest.chars().next() {
            if let Some(after) = rest.strip_prefix("...") {
                let covered: Vec<Dim> = dims.by_ref().take(hidden).cloned().collect();
                self.cover(covered)?;
                rest = after;
                continue;
            }
            if c.is_alphabetic() {
                self.meet(c, dims.next().cloned().unwrap_or_default());
            }
            rest = &rest[c.len_utf8()..];
        }
        Ok(())
    }

    fn meet(&mut self, letter: char, dim: Dim) {
        match self.named.iter_mut().find(|(c, _)| *c == letter) {
            Some((_, old)) if *old == Dim::Known(1) => *old = dim,
            Some((_, old)) => *old = dim::tighter(old, &dim),
            None => self.named.push((letter, dim)),
        }
    }

    fn cover(&mut self, dims: Vec<Dim>) -> Result<()> {
        let rank = dims.len().max(self.ellipsis.len());
        let at =
            |t: &[Dim], i: usize| (i + t.len()).checked_sub(rank).map_or(Dim::Known(1), |i| t[i].clone());
        self.ellipsis = (0..rank)
            .map(|i| Ok(dim::broadcast(&at(&self.ellipsis, i), &at(&dims, i))?.unwrap_or_default()))
            .collect::<Result<_>>()?;
        Ok(())
    }
}

fn einsum(s: &mut Site<'_>) -> Result<()> {
    let equation: String = match s.node.attributes.string("equation")? {
        Some(text) => text.chars().filter(|c| !c.is_whitespace()).collect(),
        None => return Err(s.missing("equation")),
    };
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left, Some(right)),
        None => (equation.as_str(), None),
    };
    let terms: Vec<&str> = left.split(',').collect();
    if terms.len() != s.input_count() {
        return Err(Error::invalid_model(format!(
            "equation '{equation}' has {} terms for {} inputs",
            terms.len(),
            s.input_count()
        )));
    }
    let inputs: Vec<usize> = (0..terms.len()).collect();
    let dtype = s.first_dtype(&inputs);
    let mut letters = Letters::default();
    for (i, term) in terms.iter().enumerate() {
        letters.read(s, i, term)?;
    }
    if left.contains("...") && inputs.iter().any(|i| s.shape(*i).is_none()) {
        s.set_tensor(0, dtype, None);
        return Ok(());
    }
    let right = match right {
        Some(right) => right.to_owned(),
        None => {
            let once = |c: &char| left.chars().filter(|d| d == c).count() == 1;
            let mut kept: Vec<char> = letters.named.iter().map(|l| l.0).filter(once).collect();
            kept.sort_unstable();
            let ellipsis = if left.contains("...") { "..." } else { "" };
            format!("{ellipsis}{}", kept.into_iter().collect::<String>())
        }
    };
    let mut dims = Vec::new();
    let mut rest = right.as_str();
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("...") {
            dims.extend(letters.ellipsis.iter().cloned());
            rest = after;
            continue;
        }
        let found = letters.named.iter().find(|(l, _)| *l == c).ok_or_else(|| {
            Error::invalid_model(format!("equation '{equation}' uses '{c}' in its result only"))
        })?;
        dims.push(found.1.clone());
        rest = &rest[c.len_utf8()..];
    }
    s.set_tensor(0, dtype, Some(dims.into_iter().collect()));
    Ok(())
}
