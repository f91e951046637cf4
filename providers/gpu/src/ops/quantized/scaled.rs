//! Products of codes of 8 bits on matrix units with scales and float results: of dequantised operands, and
//! `com.microsoft.GemmFloat8`.

use tenon_kernels::gpu::elementwise::{Class, MapOp};
use tenon_kernels::gpu::integer::pitch;
use tenon_kernels::gpu::matmul::{self, Bias, Element, Epilogue, Kind, Layout, Matrix, Problem};
use tenon_kernels::gpu::product::{self, Activation};
use tenon_kernels::gpu::quantize::{self, Rules};
use tenon_kernels::gpu::scalar::Scalar;
use tenon_kernels::gpu::{Plan, layout};
use tenon_plugin_api::{Error, NodeView, Result};

use super::super::Family;
use super::super::extents::Extents;
use super::super::integer::product::Product;
use super::super::integer::{Rows, Weight};
use super::super::tail::{Tail, Within};
use super::{A_SCALE, A_ZERO, B_SCALE, B_ZERO, scales_lie_across};
use crate::map::{Expr, Leaf, Map, MapInput};
use crate::operator::{Decline, Derived, Expansion, Lowered, Lowering, Operator};
use crate::schedule::{Target, ValueId};

pub(in super::super) const FAMILIES: &[Family] =
    &[Family { domain: "com.microsoft", op_types: &["GemmFloat8"], lower: gemm }];

/// The scales of an operand.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scale {
    Known(f32),
    /// One number in this input.
    Stored(usize),
    /// One for each row of A or column of B.
    Across(usize),
}

struct Scaled {
    element: Element,
    /// Operands that become signed first.
    is_unsigned: [bool; 2],
    transposes: (bool, bool),
    alpha: f32,
    a_scale: Scale,
    b_scale: Scale,
    tail: Tail,
    output: Scalar,
    /// Factor of a result of 8 bits, in an input.
    y_scale: Option<usize>,
    /// B is a constant matrix, made rows when the graph is compiled.
    has_weight: bool,
    /// What computes it where the family has no kernel.
    otherwise: Otherwise,
}

enum Otherwise {
    Nothing,
    /// In bf16 or f32.
    Plain,
    Exact(Box<Product>),
}

/// A product of floats of 8 bits.
pub(super) fn floats(l: &Lowering<'_>, transposes: (bool, bool)) -> Lowered {
    for zero in [A_ZERO, B_ZERO] {
        if !l.has_input(zero) {
            continue;
        }
        let bytes = l.input(zero)?.constant().and_then(|tensor| tensor.host_bytes());
        if !bytes.is_some_and(|bytes| bytes.iter().all(|&byte| byte & 0x7f == 0)) {
            return Err(Decline::new("zero points of floats that are not 0 have no GPU kernel"));
        }
        l.leave_on_host(zero);
    }
    scaled(l, transposes, Element::E4M3, Otherwise::Nothing)
}

/// A product of integers of 8 bits without zero points, which `exact` computes otherwise.
pub(super) fn integers(l: &Lowering<'_>, transposes: (bool, bool), exact: Product) -> Lowered {
    scaled(l, transposes, Element::S8, Otherwise::Exact(Box::new(exact)))
}

fn scaled(l: &Lowering<'_>, transposes: (bool, bool), element: Element, otherwise: Otherwise) -> Lowered {
    // The exact product reads scales on the device.
    let reads_numbers = !matches!(otherwise, Otherwise::Exact(_));
    let scale = |index: usize, input: usize, is_last: bool| -> std::result::Result<Scale, Decline> {
        let is_across = scales_lie_across(l, index, input, is_last)?;
        l.half_or_single(input)?;
        let number = if reads_numbers { l.numbers(input, 1) } else { number(l, input) };
        Ok(match number {
            _ if is_across => Scale::Across(input),
            Some(numbers) => Scale::Known(numbers.first().map_or(1.0, |&number| number as f32)),
            None => Scale::Stored(input),
        })
    };
    let has_weight = Weight::read(l.node, 1, !transposes.1).is_some();
    if has_weight {
        l.leave_on_host(1);
    }
    let is_unsigned = |index: usize| Ok::<_, Decline>(l.scalar(index)? == Scalar::U8);
    Ok(Box::new(Scaled {
        element,
        is_unsigned: [is_unsigned(0)?, is_unsigned(1)?],
        transposes,
        alpha: l.node.float_or("alpha", 1.0)?,
        a_scale: scale(0, A_SCALE, transposes.0)?,
        b_scale: scale(1, B_SCALE, !transposes.1)?,
        tail: Tail::read(l)?,
        output: l.output_scalar(0)?,
        y_scale: None,
        has_weight,
        otherwise,
    }))
}

/// The number in constant input `index`, which stays on the device too.
fn number(l: &Lowering<'_>, index: usize) -> Option<Vec<f64>> {
    Lowering::new(l.node).numbers(index, 1)
}

/// `activation(alpha scaleA scaleB A B + beta C)`, times scaleY where the result has 8 bits, as cuBLASLt has it.
fn gemm(l: &Lowering<'_>) -> Lowered {
    let (a, b, output) = (l.scalar(0)?, l.scalar(1)?, l.output_scalar(0)?);
    let is_float8 = |scalar: Scalar| scalar.is_narrow() && !scalar.is_packed() && scalar != Scalar::F8E8M0;
    for scalar in [a, b, output] {
        if !is_float8(scalar) && !scalar.is_float() {
            return Err(Decline(format!("a product with {} has no GPU kernel", scalar.suffix())));
        }
    }
    if l.rank(0)? != 2 || l.rank(1)? != 2 {
        return Err(Decline::new("GemmFloat8 takes matrices"));
    }
    let transposes = (l.node.int_or("transA", 0)? != 0, l.node.int_or("transB", 0)? != 0);
    let activation = match l.node.text_or("activation", "NONE")? {
        "" | "NONE" => Activation::None,
        "RELU" => Activation::Relu,
        "GELU" => Activation::GeluTanh,
        other => return Err(Decline(format!("activation '{other}': NONE, RELU or GELU"))),
    };
    let scale = |input: usize| -> std::result::Result<Scale, Decline> {
        if !l.has_input(input) {
            return Ok(Scale::Known(1.0));
        }
        if l.half_or_single(input)? != Scalar::F32 {
            return Err(Decline::new("scales that are not float32 have no GPU kernel"));
        }
        Ok(match l.numbers(input, 1) {
            Some(numbers) => Scale::Known(numbers.first().map_or(1.0, |&number| number as f32)),
            None => Scale::Stored(input),
        })
    };
    let beta = l.node.float_or("beta", 0.0)?;
    let bias = (l.has_input(2) && beta != 0.0).then_some(2);
    let is_native = a == Scalar::F8E4M3FN && b == Scalar::F8E4M3FN;
    let has_weight = is_native && Weight::read(l.node, 1, !transposes.1).is_some();
    Ok(Box::new(Scaled {
        element: Element::E4M3,
        is_unsigned: [false; 2],
        transposes,
        alpha: l.node.float_or("alpha", 1.0)?,
        a_scale: scale(3)?,
        b_scale: scale(4)?,
        tail: Tail { bias, beta, residual: None, activation },
        output,
        y_scale: (is_float8(output) && l.has_input(5)).then_some(5),
        has_weight,
        otherwise: Otherwise::Plain,
    }))
}

/// The type that sums are stored in on the way to `output`.
fn stored(output: Scalar) -> Scalar {
    if output.is_float() { output } else { Scalar::F32 }
}

/// The product of rows on matrix units with results of type `scalar`.
fn problem(input: Element, scalar: Scalar, [m, n, k]: [usize; 3], batches: usize) -> Problem {
    let output = match scalar {
        Scalar::BF16 => matmul::Output::BF16,
        Scalar::F16 => matmul::Output::F16,
        _ => matmul::Output::F32,
    };
    let rows = |count: usize, columns: usize| Matrix {
        row_stride: columns,
        batch_stride: if batches == 1 { 0 } else { count * columns },
        share: if batches == 1 { usize::MAX } else { 1 },
        is_constant: false,
    };
    Problem {
        kind: Kind { input, output, layout: Layout::NT },
        m,
        n,
        k: pitch(k),
        batches,
        a: rows(m, pitch(k)),
        b: rows(n, pitch(k)),
        d: rows(m, n),
        epilogue: Epilogue::default(),
    }
}

/// The family's plan, where the build holds its kernels.
fn tuned(target: Target<'_>, problem: &Problem) -> Option<Plan> {
    let plan = matmul::plan_for(target.arch, problem, target.chip).ok()?;
    plan.launches.iter().all(|launch| (target.has)(&launch.symbol)).then_some(plan)
}

impl Operator for Scaled {
    fn supports(&self, target: Target<'_>) -> Result<()> {
        let any = problem(self.element, stored(self.output), [64, 64, 64], 1);
        if !matches!(self.otherwise, Otherwise::Nothing) || tuned(target, &any).is_some() {
            return Ok(());
        }
        Err(Error::unsupported("products of float8e4m3fn have no kernel on this device"))
    }

    fn derived<'a>(&self, node: NodeView<'a>, _arch: &'a str) -> Vec<Derived<'a>> {
        let has_sums = matches!(self.otherwise, Otherwise::Exact(_));
        if self.has_weight { Weight::derived(node, 1, !self.transposes.1, has_sums) } else { Vec::new() }
    }

    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (a, b) = (cx.dims(0)?, cx.dims(1)?);
        let extents = Extents::new(&a, &b, self.transposes)?;
        let output = cx.output(0, self.output, &extents.dims)?;
        if extents.is_empty() {
            return Ok(());
        }
        if extents.k == 0 {
            return Err(Error::unsupported("sums of nothing have no GPU kernel"));
        }
        let is_native = self.element == Element::S8
            || cx.scalar(0)? == Scalar::F8E4M3FN && cx.scalar(1)? == Scalar::F8E4M3FN;
        if is_native && self.on_matrix_units(cx, &extents, output)? {
            return Ok(());
        }
        match &self.otherwise {
            Otherwise::Plain if self.in_bf16(cx, &extents, output)? => Ok(()),
            Otherwise::Plain => self.plain(cx, &extents, output),
            Otherwise::Exact(product) => product.expand(cx),
            Otherwise::Nothing => Err(Error::unsupported(format!(
                "a product of shapes {a:?} and {b:?} has no kernel on this device"
            ))),
        }
    }
}

impl Scaled {
    /// False, and nothing done, where the family has no kernel.
    fn on_matrix_units(
        &self,
        cx: &mut Expansion<'_, '_>,
        extents: &Extents,
        output: ValueId,
    ) -> Result<bool> {
        let Extents { m, n, k, batches, a_batches, b_batches, ref dims, .. } = *extents;
        let scalar = stored(self.output);
        let (within, left) = match self.output == scalar && self.has_typed_addends(cx)? {
            true => self.tail.split(cx, dims, n)?,
            false => (Within::default(), self.tail),
        };
        let mut problem = problem(self.element, scalar, [m, n, k], batches);
        for (matrix, count) in [(&mut problem.a, a_batches), (&mut problem.b, b_batches)] {
            if count == 1 {
                (matrix.batch_stride, matrix.share) = (0, usize::MAX);
            }
        }
        problem.b.is_constant = self.has_weight;
        let m_factors: Vec<Scale> =
            [self.a_scale, self.b_scale].into_iter().filter(|scale| self.is_for_rows(*scale)).collect();
        let has_n_scale = matches!(self.b_scale, Scale::Across(_));
        problem.epilogue = Epilogue {
            alpha: self.factor(),
            has_m_scale: !m_factors.is_empty(),
            has_n_scale,
            bias: within.bias.map(|_| Bias::Output),
            activation: within.activation,
            residual: within.residual.map(|_| problem.d),
            ..Epilogue::default()
        };
        let Some(plan) = tuned(cx.builder.target, &problem) else { return Ok(false) };
        let is_done = left.is_empty() && self.output == scalar;
        let mut operands = vec![None; matmul::N_SCALE + 1];
        if !m_factors.is_empty() {
            operands[matmul::M_SCALE] = Some(vector(cx, &m_factors, m)?);
        }
        if has_n_scale {
            operands[matmul::N_SCALE] = Some(vector(cx, &[self.b_scale], n)?);
        }
        let a = cx.input(0)?;
        let rows = Rows::new(cx, a, [a_batches, m, k], self.transposes.0, self.is_unsigned[0], false)?;
        let columns = match self.has_weight {
            true => Rows::derived(cx, n, k, false)?,
            false => {
                let b = cx.input(1)?;
                Rows::new(cx, b, [b_batches, n, k], !self.transposes.1, self.is_unsigned[1], false)?
            }
        };
        let product = if is_done { output } else { cx.scratch(scalar, dims)? };
        operands[matmul::A] = Some(rows.bytes);
        operands[matmul::B] = Some(columns.bytes);
        operands[matmul::D] = Some(product);
        (operands[matmul::BIAS], operands[matmul::RESIDUAL]) = (within.bias, within.residual);
        cx.run(Ok(plan), &operands)?;
        if !is_done {
            self.finish(cx, left, product, output, dims, &[])?;
        }
        Ok(true)
    }

    /// Factors that rows are multiplied by: those of A that are not known, and a number in memory of B.
    fn is_for_rows(&self, scale: Scale) -> bool {
        matches!(scale, Scale::Stored(_)) || scale == self.a_scale && matches!(scale, Scale::Across(_))
    }

    /// Addends have the type of the result.
    fn has_typed_addends(&self, cx: &Expansion<'_, '_>) -> Result<bool> {
        for index in [self.tail.bias, self.tail.residual].into_iter().flatten() {
            if cx.scalar(index)? != self.output {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// From sums to the result: factors, the tail, the scale and type of the result.
    fn finish(
        &self,
        cx: &mut Expansion<'_, '_>,
        tail: Tail,
        product: ValueId,
        output: ValueId,
        dims: &[usize],
        factors: &[ValueId],
    ) -> Result<()> {
        if self.output.is_float() {
            return tail.run(cx, product, output, dims, factors);
        }
        let mut value = cx.scratch(Scalar::F32, dims)?;
        tail.run(cx, product, value, dims, factors)?;
        if let Some(index) = self.y_scale {
            let (scaled, factor) = (cx.scratch(Scalar::F32, dims)?, cx.input(index)?);
            Tail::NONE.run(cx, value, scaled, dims, &[factor])?;
            value = scaled;
        }
        let plan = quantize::cast(Scalar::F32, self.output, dims.iter().product(), Rules::default());
        cx.run(plan, &[Some(output), Some(value)])
    }

    /// Both sides in bf16, which holds every float of 8 bits, and their product with f32 sums on matrix units. False, and
    /// nothing done, for rows that do not lie as it reads them and where the family has no kernel.
    fn in_bf16(&self, cx: &mut Expansion<'_, '_>, extents: &Extents, output: ValueId) -> Result<bool> {
        let Extents { m, n, k, ref dims, .. } = *extents;
        if self.transposes != (false, true) || !cx.scalar(0)?.is_narrow() || !cx.scalar(1)?.is_narrow() {
            return Ok(false);
        }
        let problem = Problem {
            k,
            a: Matrix { share: usize::MAX, batch_stride: 0, ..Matrix::packed(k) },
            b: Matrix { share: usize::MAX, batch_stride: 0, ..Matrix::packed(k) },
            epilogue: Epilogue { alpha: self.factor(), ..Epilogue::default() },
            ..problem(Element::BF16, Scalar::F32, [m, n, k], 1)
        };
        let Some(plan) = tuned(cx.builder.target, &problem) else { return Ok(false) };
        let mut operands = vec![None; matmul::N_SCALE + 1];
        for (index, operand) in [(0, matmul::A), (1, matmul::B)] {
            let (value, scalar, dims) = (cx.input(index)?, cx.scalar(index)?, cx.dims(index)?);
            let wide = cx.scratch(Scalar::BF16, &dims)?;
            let plan = quantize::cast(scalar, Scalar::BF16, dims.iter().product(), Rules::default());
            cx.run(plan, &[Some(wide), Some(value)])?;
            operands[operand] = Some(wide);
        }
        let sums = cx.scratch(Scalar::F32, dims)?;
        operands[matmul::D] = Some(sums);
        cx.run(Ok(plan), &operands)?;
        let factors = self.factors(cx)?;
        self.finish(cx, self.tail, sums, output, dims, &factors)?;
        Ok(true)
    }

    /// What all sums are multiplied by, as far as it is known.
    fn factor(&self) -> f32 {
        let known = |scale| if let Scale::Known(factor) = scale { factor } else { 1.0 };
        self.alpha * known(self.a_scale) * known(self.b_scale)
    }

    /// The rest of it, in memory.
    fn factors(&self, cx: &Expansion<'_, '_>) -> Result<Vec<ValueId>> {
        let stored = |scale| if let Scale::Stored(index) = scale { Some(cx.input(index)) } else { None };
        [self.a_scale, self.b_scale].into_iter().filter_map(stored).collect()
    }

    /// Both sides in f32, and a product of them.
    fn plain(&self, cx: &mut Expansion<'_, '_>, extents: &Extents, output: ValueId) -> Result<()> {
        let (a, b) = (widened(cx, 0)?, widened(cx, 1)?);
        let Extents { m, n, k, ref dims, .. } = *extents;
        let strides = |is_transposed: bool, rows: usize, columns: usize| match is_transposed {
            false => (columns as i64, 1),
            true => (1, rows as i64),
        };
        let problem = product::Product {
            scalar: Scalar::F32,
            m,
            n,
            k,
            a_strides: strides(self.transposes.0, m, k),
            b_strides: strides(self.transposes.1, k, n),
            bias_strides: None,
            batch: Vec::new(),
            alpha: self.factor(),
            beta: 1.0,
            activation: Activation::None,
        };
        let sums = cx.scratch(Scalar::F32, dims)?;
        let plan = product::matmul(&problem, cx.chip().compute_units);
        cx.run(plan, &[Some(sums), Some(a), Some(b), None])?;
        let factors = self.factors(cx)?;
        self.finish(cx, self.tail, sums, output, dims, &factors)
    }
}

/// Input `index` as f32.
fn widened(cx: &mut Expansion<'_, '_>, index: usize) -> Result<ValueId> {
    let (value, scalar, dims) = (cx.input(index)?, cx.scalar(index)?, cx.dims(index)?);
    if scalar == Scalar::F32 {
        return Ok(value);
    }
    let wide = cx.scratch(Scalar::F32, &dims)?;
    if scalar.is_narrow() {
        let plan = quantize::cast(scalar, Scalar::F32, dims.iter().product(), Rules::default());
        cx.run(plan, &[Some(wide), Some(value)])?;
        return Ok(wide);
    }
    let strides = layout::contiguous(&dims);
    let inputs = vec![MapInput { value, scalar, strides, offset: 0 }];
    let exprs = vec![Expr::unary(MapOp::Move, Leaf::Operand(0))];
    cx.map(Map { class: Class::F32, output: wide, scalar: Scalar::F32, dims, inputs, exprs });
    Ok(wide)
}

/// The product of `scales` for each of `count` rows or columns, in f32.
fn vector(cx: &mut Expansion<'_, '_>, scales: &[Scale], count: usize) -> Result<ValueId> {
    let mut inputs = Vec::new();
    for scale in scales {
        let (index, stride) = match *scale {
            Scale::Known(_) => continue,
            Scale::Stored(index) => (index, 0),
            Scale::Across(index) => (index, 1),
        };
        let (value, scalar) = (cx.input(index)?, cx.scalar(index)?);
        let given = cx.builder.dims(value).iter().product::<usize>();
        if stride == 1 && given != count {
            return Err(Error::invalid(format!("{given} scales for {count} rows or columns")));
        }
        if stride == 1 && scales.len() == 1 && scalar == Scalar::F32 {
            return Ok(value);
        }
        inputs.push(MapInput { value, scalar, strides: vec![stride], offset: 0 });
    }
    let all = cx.scratch(Scalar::F32, &[count])?;
    let mut exprs = vec![Expr::unary(MapOp::Move, Leaf::Operand(0))];
    for operand in 1..inputs.len() {
        exprs.push(Expr::binary(MapOp::Multiply, Leaf::Node(operand - 1), Leaf::Operand(operand)));
    }
    cx.map(Map { class: Class::F32, output: all, scalar: Scalar::F32, dims: vec![count], inputs, exprs });
    Ok(all)
}
