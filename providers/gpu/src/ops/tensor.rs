//! Products on matrix units: which of them the family's tuned kernels take, and how they are told about them.

use tenon_kernels::gpu::matmul::{self, Activation, Bias, Element, Epilogue, Kind, Layout, Matrix, Problem};
use tenon_kernels::gpu::product::{self, Product};
use tenon_kernels::gpu::scalar::Scalar;
use tenon_kernels::gpu::{Arg, Plan};

use crate::operator::Expansion;
use crate::schedule::ValueId;

/// The plan of a product on matrix units, operands numbered as for [`product::matmul`]; `None` where another kernel must
/// compute it. `b` is the right operand; `residual`: operand 4 is added after the activation.
pub(super) fn plan(
    cx: &Expansion<'_, '_>,
    product: &Product,
    b: ValueId,
    has_residual: bool,
) -> Option<Plan> {
    let target = cx.builder.target;
    let problem = problem(product, cx.builder.is_constant(b), has_residual, target.allows_tf32)?;
    problem.check().ok()?;
    let planned = match target.matmul {
        Some(symbol) => matmul::plan_symbol(target.arch, &problem, symbol, target.chip),
        None => matmul::plan_for(target.arch, &problem, target.chip),
    };
    let mut plan = planned.ok()?;
    if !plan.launches.iter().all(|launch| (target.has)(&launch.symbol)) {
        return None;
    }
    for launch in &mut plan.launches {
        launch.args.iter_mut().for_each(renumber);
    }
    Some(plan)
}

/// From the numbers of the tuned kernels to those of the plain ones.
fn renumber(arg: &mut Arg) {
    let number = |operand: usize| match operand {
        matmul::A => 1,
        matmul::B => 2,
        matmul::D => 0,
        matmul::BIAS => 3,
        // Operands that these products do not have come behind.
        other => other,
    };
    match arg {
        Arg::Pointer { operand, .. } => *operand = number(*operand),
        Arg::TensorMap(map) => map.operand = number(map.operand),
        _ => {}
    }
}

/// The product as the tuned kernels know it; `None` for forms that they do not have.
pub(super) fn describe(
    cx: &Expansion<'_, '_>,
    product: &Product,
    b: ValueId,
    has_residual: bool,
) -> Option<Problem> {
    problem(product, cx.builder.is_constant(b), has_residual, cx.builder.target.allows_tf32)
}

fn problem(product: &Product, is_weight: bool, has_residual: bool, allows_tf32: bool) -> Option<Problem> {
    let (input, output) = match product.scalar {
        Scalar::BF16 => (Element::BF16, matmul::Output::BF16),
        Scalar::F16 => (Element::F16, matmul::Output::F16),
        Scalar::F32 if allows_tf32 => (Element::TF32, matmul::Output::F32),
        _ => return None,
    };
    let (m, n, k) = (product.m, product.n, product.k);
    let (batches, strides) = match product.batch[..] {
        [] => (1, [0; 3]),
        [(batches, strides)] => (batches, strides),
        _ => return None,
    };
    let bias = match product.bias_strides {
        None => None,
        Some((0, 1)) if strides[2] == 0 && product.beta == 1.0 => Some(Bias::Output),
        Some(_) => return None,
    };
    let activation = match product.activation {
        product::Activation::None => Activation::None,
        product::Activation::Relu => Activation::Relu,
        product::Activation::Silu => Activation::Silu,
        product::Activation::Gelu => Activation::Gelu,
        product::Activation::GeluTanh => Activation::GeluTanh,
        _ => return None,
    };
    let (is_a_transposed, a) = side(product.a_strides, (m, k), strides[0], batches)?;
    let (is_b_transposed, b) = side(product.b_strides, (k, n), strides[1], batches)?;
    let whole = Matrix { batch_stride: if batches > 1 { m * n } else { 0 }, share: 1, ..Matrix::packed(n) };
    Some(Problem {
        kind: Kind { input, output, layout: Layout { is_a_transposed, is_b_transposed } },
        m,
        n,
        k,
        batches,
        a,
        b: Matrix { is_constant: is_weight, ..b },
        d: whole,
        epilogue: Epilogue {
            alpha: product.alpha,
            bias,
            activation,
            residual: has_residual.then_some(whole),
            ..Epilogue::default()
        },
    })
}

/// Whether an operand of these strides and extents is transposed in memory, and where its matrices lie.
fn side(strides: (i64, i64), extents: (usize, usize), batch: i64, batches: usize) -> Option<(bool, Matrix)> {
    let (is_transposed, row) = match strides {
        (row, 1) if extents.1 == 1 || row >= extents.1 as i64 => (false, row),
        (1, row) => (true, row),
        _ => return None,
    };
    let is_shared = batch == 0 || batches == 1;
    Some((
        is_transposed,
        Matrix {
            row_stride: usize::try_from(row).ok()?,
            batch_stride: if is_shared { 0 } else { usize::try_from(batch).ok()? },
            share: if is_shared { usize::MAX } else { 1 },
            is_constant: false,
        },
    ))
}
