//! Matrix products of integers of 8 bits: with i32, quantised and float results.

use tenon_kernels::gpu::scalar::Scalar;
use tenon_plugin_api::{Error, NodeView, Result};

use super::super::Family;
use super::super::extents::Extents;
use super::super::tail::Tail;
use super::{Behind, Dynamic, Ending, Factor, Rows, Weight, multiply};
use crate::operator::{Decline, Derived, Expansion, Lowered, Lowering, Operator};
use crate::schedule::ValueId;

pub(in super::super) const FAMILIES: &[Family] = &[
    Family { domain: "", op_types: &["MatMulInteger", "QLinearMatMul", "DynamicQuantizeLinear"], lower },
    Family {
        domain: "com.microsoft",
        op_types: &["QLinearMatMul", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QGemm"],
        lower,
    },
];

fn lower(l: &Lowering<'_>) -> Lowered {
    match l.node.op_type() {
        "DynamicQuantizeLinear" => dynamic(l),
        "QLinearMatMul" => qlinear(l),
        "MatMulIntegerToFloat" => to_float(l),
        "DynamicQuantizeMatMul" => dynamic_product(l),
        "QGemm" => qgemm(l),
        _ => {
            let product = IntegerProduct::read(l, (0, 2), (1, 3), (false, false))?;
            Ok(Box::new(Product { product, ..PLAIN }))
        }
    }
}

/// The exact part of a product: which inputs are multiplied.
#[derive(Clone, Copy)]
pub(in super::super) struct IntegerProduct {
    a: Factor,
    a_input: usize,
    b: Factor,
    b_input: usize,
    transposes: (bool, bool),
    /// B is a constant matrix, made rows when the graph is compiled.
    has_weight: bool,
}

impl IntegerProduct {
    /// Inputs of A and B, each with that of its zero points.
    pub fn read(
        l: &Lowering<'_>,
        (a, a_zero): (usize, usize),
        (b, b_zero): (usize, usize),
        transposes: (bool, bool),
    ) -> std::result::Result<IntegerProduct, Decline> {
        let factor = Factor::read(l, a, a_zero)?;
        IntegerProduct { a: factor, a_input: a, ..IntegerProduct::of(l, (b, b_zero), transposes)? }.checked(l)
    }

    /// The same with an A that is made on the device.
    fn of(
        l: &Lowering<'_>,
        (b, b_zero): (usize, usize),
        transposes: (bool, bool),
    ) -> std::result::Result<IntegerProduct, Decline> {
        let has_weight = Weight::read(l.node, b, !transposes.1).is_some();
        if has_weight {
            l.leave_on_host(b);
        }
        let factor = Factor::read(l, b, b_zero)?;
        Ok(IntegerProduct { a: Factor::made(), a_input: 0, b: factor, b_input: b, transposes, has_weight })
    }

    fn checked(self, l: &Lowering<'_>) -> std::result::Result<IntegerProduct, Decline> {
        let (a, b) = (l.rank(self.a_input)?, l.rank(self.b_input)?);
        if a == 0 || b == 0 {
            return Err(Decline::new("a product with a number that is no matrix"));
        }
        Ok(self)
    }

    /// Neither side has zero points, once its elements are signed.
    pub fn is_centred(&self) -> bool {
        self.a.is_centred && self.b.is_centred
    }

    fn derived<'a>(&self, node: NodeView<'a>) -> Vec<Derived<'a>> {
        match self.has_weight {
            true => Weight::derived(node, self.b_input, !self.transposes.1, true),
            false => Vec::new(),
        }
    }

    /// Shapes of a product with an A of `a`.
    fn shape(&self, cx: &Expansion<'_, '_>, a: &[usize]) -> Result<Extents> {
        Extents::new(a, &cx.dims(self.b_input)?, self.transposes)
    }

    /// The sums of signed products, with what is to be taken from them. `a`: A's bytes and zero point.
    fn run(
        &self,
        cx: &mut Expansion<'_, '_>,
        shape: &Extents,
        (a, a_zero): (ValueId, Option<ValueId>),
        product: ValueId,
    ) -> Result<(Behind, Behind)> {
        let Extents { m, n, k, batches, a_batches, b_batches, .. } = *shape;
        let a_extents = [a_batches, m, k];
        let left = Rows::new(cx, a, a_extents, self.transposes.0, self.a.is_unsigned, !self.b.is_centred)?;
        let right = if self.has_weight {
            Rows::derived(cx, n, k, true)?
        } else {
            let b = cx.input(self.b_input)?;
            let extents = [b_batches, n, k];
            Rows::new(cx, b, extents, !self.transposes.1, self.b.is_unsigned, !self.a.is_centred)?
        };
        multiply(cx, product, &left, &right, [m, n, k], batches)?;
        let sums =
            |side: &Rows, is_needed: bool| side.sums.filter(|_| is_needed).map(|sums| (sums, side.count));
        Ok((
            Behind { zeros: self.a.zeros(cx, a_zero)?, sums: sums(&left, !self.b.is_centred), scale: None },
            Behind { zeros: self.b.zeros(cx, None)?, sums: sums(&right, !self.a.is_centred), scale: None },
        ))
    }
}

/// A product and what follows it, by inputs of the node.
pub(in super::super) struct Product {
    pub product: IntegerProduct,
    pub a_scale: Option<usize>,
    pub b_scale: Option<usize>,
    pub alpha: f32,
    /// Scale and zero point of a result that is quantised again.
    pub result: Option<(usize, Option<usize>)>,
    pub bias: Option<usize>,
    pub output: Scalar,
    /// What follows a float result.
    pub tail: Tail,
    /// A is quantised here from input 0.
    pub is_dynamic: bool,
}

const NO_FACTOR: Factor = Factor { is_unsigned: false, zero: None, is_centred: true };
pub(in super::super) const PLAIN: Product = Product {
    product: IntegerProduct {
        a: NO_FACTOR,
        a_input: 0,
        b: NO_FACTOR,
        b_input: 1,
        transposes: (false, false),
        has_weight: false,
    },
    a_scale: None,
    b_scale: None,
    alpha: 1.0,
    result: None,
    bias: None,
    output: Scalar::I32,
    tail: Tail::NONE,
    is_dynamic: false,
};

impl Operator for Product {
    fn derived<'a>(&self, node: NodeView<'a>, _arch: &'a str) -> Vec<Derived<'a>> {
        self.product.derived(node)
    }

    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let a_dims = cx.dims(self.product.a_input)?;
        let shape = self.product.shape(cx, &a_dims)?;
        let output = cx.output(0, self.output, &shape.dims)?;
        if shape.is_empty() {
            return Ok(());
        }
        if shape.k == 0 {
            return Err(Error::unsupported("sums of nothing have no GPU kernel"));
        }
        let (a, zero, scale) = if self.is_dynamic {
            let made = Dynamic {
                codes: cx.scratch(Scalar::U8, &a_dims)?,
                scale: cx.scratch(Scalar::F32, &[])?,
                zero: cx.scratch(Scalar::U8, &[])?,
            };
            let x = cx.input(0)?;
            made.run(cx, x)?;
            (made.codes, Some(made.zero), Some(made.scale))
        } else {
            (cx.input(self.product.a_input)?, None, self.a_scale.map(|index| cx.input(index)).transpose()?)
        };
        let is_exact = self.product.is_centred() && self.output == Scalar::I32;
        let product =
            if is_exact { output } else { cx.scratch(Scalar::I32, &[shape.batches, shape.m, shape.n])? };
        let (mut rows, mut columns) = self.product.run(cx, &shape, (a, zero), product)?;
        if is_exact {
            return Ok(());
        }
        rows.scale = scale;
        columns.scale = self.b_scale.map(|index| cx.input(index)).transpose()?;
        let input =
            |cx: &Expansion<'_, '_>, index: Option<usize>| index.map(|index| cx.input(index)).transpose();
        let result = match self.result {
            Some((scale, zero)) => Some((cx.input(scale)?, input(cx, zero)?)),
            None => None,
        };
        let bias = match input(cx, self.bias)? {
            Some(value) => Some((value, bias_strides(cx.builder.dims(value), &shape)?)),
            None => None,
        };
        let ending = Ending {
            product,
            extents: shape.result(),
            depth: shape.k,
            rows,
            columns,
            alpha: self.alpha,
            result,
            bias,
        };
        if self.tail.is_empty() {
            return ending.run(cx, output);
        }
        let before = cx.scratch(self.output, &shape.dims)?;
        ending.run(cx, before)?;
        self.tail.run(cx, before, output, &shape.dims, &[])
    }
}

/// The strides over rows and columns of an addend that broadcasts to a matrix.
fn bias_strides(dims: &[usize], shape: &Extents) -> Result<[usize; 2]> {
    let (rows, columns) = match *dims {
        [] => (1, 1),
        [columns] => (1, columns),
        [rows, columns] => (rows, columns),
        _ => return Err(Error::unsupported(format!("an addend of shape {dims:?} has no GPU kernel"))),
    };
    let fits = (rows == 1 || rows == shape.m && shape.batches == 1) && (columns == 1 || columns == shape.n);
    match fits {
        true => Ok([if rows == 1 { 0 } else { columns }, usize::from(columns != 1)]),
        false => Err(Error::invalid(format!("an addend of shape {dims:?} for {} columns", shape.n))),
    }
}

/// Declines scales that are neither one nor one for each of `count` rows or columns, where that is known.
fn scales(l: &Lowering<'_>, index: usize) -> std::result::Result<usize, Decline> {
    match l.scalar(index)? {
        scalar if scalar.is_float() => Ok(index),
        other => Err(Decline(format!("scales of type {} have no GPU kernel", other.suffix()))),
    }
}

fn qlinear(l: &Lowering<'_>) -> Lowered {
    let product = IntegerProduct::read(l, (0, 2), (3, 5), (false, false))?;
    Ok(Box::new(Product {
        product,
        a_scale: Some(scales(l, 1)?),
        b_scale: Some(scales(l, 4)?),
        result: Some((scales(l, 6)?, Some(7))),
        output: byte(l, 7)?,
        ..PLAIN
    }))
}

/// The type of input `index`, an integer of 8 bits.
fn byte(l: &Lowering<'_>, index: usize) -> std::result::Result<Scalar, Decline> {
    match l.scalar(index)? {
        scalar @ (Scalar::U8 | Scalar::I8) => Ok(scalar),
        other => Err(Decline(format!("input {index} of type {} is no byte", other.suffix()))),
    }
}

fn to_float(l: &Lowering<'_>) -> Lowered {
    let product = IntegerProduct::read(l, (0, 4), (1, 5), (false, false))?;
    let output = l.half_or_single(2)?;
    Ok(Box::new(Product {
        product,
        a_scale: Some(scales(l, 2)?),
        b_scale: Some(scales(l, 3)?),
        bias: l.has_input(6).then_some(6),
        output,
        ..PLAIN
    }))
}

fn dynamic_product(l: &Lowering<'_>) -> Lowered {
    let output = l.half_or_single(0)?;
    let product = IntegerProduct::of(l, (1, 3), (false, false))?.checked(l)?;
    Ok(Box::new(Product {
        product,
        b_scale: Some(scales(l, 2)?),
        bias: l.has_input(4).then_some(4),
        output,
        is_dynamic: true,
        ..PLAIN
    }))
}

fn qgemm(l: &Lowering<'_>) -> Lowered {
    let transposes = (l.node.int_or("transA", 0)? != 0, l.node.int_or("transB", 0)? != 0);
    let product = IntegerProduct::read(l, (0, 2), (3, 5), transposes)?;
    if l.rank(0)? != 2 || l.rank(3)? != 2 {
        return Err(Decline::new("QGemm takes matrices"));
    }
    let result = l.has_input(7).then(|| scales(l, 7)).transpose()?;
    let output = match result {
        None => Scalar::F32,
        Some(_) if l.has_input(8) => byte(l, 8)?,
        Some(_) => l.scalar(0)?,
    };
    if l.has_input(6) && l.scalar(6)? != Scalar::I32 {
        return Err(Decline::new("an addend that is not int32 has no GPU kernel"));
    }
    Ok(Box::new(Product {
        product,
        a_scale: Some(scales(l, 1)?),
        b_scale: Some(scales(l, 4)?),
        alpha: l.node.float_or("alpha", 1.0)?,
        result: result.map(|scale| (scale, l.has_input(8).then_some(8))),
        bias: l.has_input(6).then_some(6),
        output,
        ..PLAIN
    }))
}

/// DynamicQuantizeLinear.
struct DynamicQuantize;

impl Operator for DynamicQuantize {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (x, dims) = (cx.input(0)?, cx.dims(0)?);
        let made = Dynamic {
            codes: cx.output(0, Scalar::U8, &dims)?,
            scale: cx.output(1, Scalar::F32, &[])?,
            zero: cx.output(2, Scalar::U8, &[])?,
        };
        made.run(cx, x)
    }
}

fn dynamic(l: &Lowering<'_>) -> Lowered {
    match l.scalar(0)? {
        Scalar::F32 => Ok(Box::new(DynamicQuantize)),
        other => Err(Decline(format!("elements of type {} have no range kernel", other.suffix()))),
    }
}
