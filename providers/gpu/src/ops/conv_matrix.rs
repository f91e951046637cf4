//! Convolutions of 16-bit floats on matrix units: windows that the main loop gathers from an image with channels last, plain
//! products for windows of one element, and products with stored patches where a family can do neither.

use tenon_kernels::gpu::elementwise::MapOp;
use tenon_kernels::gpu::layout::{self, StridedCopy, contiguous};
use tenon_kernels::gpu::matmul::{
    self, Bias, Convolution, Element, Epilogue, Kind, Layout, Output, convolution,
};
use tenon_kernels::gpu::product::{self, Activation, Conv, Product};
use tenon_kernels::gpu::scalar::Scalar;
use tenon_plugin_api::{Error, NodeView, Result};

use super::matmul::activation_exprs;
use super::tensor;
use crate::map::{Expr, Leaf, Map, MapInput, class_of};
use crate::operator::{Decline, Derived, Expansion, Lowering, refused};
use crate::schedule::ValueId;

/// Multiplications from which matrix units are worth their launches.
const WORTH_MATRIX_UNITS: usize = 1 << 24;

/// A constant filter that a main loop can take tap by tap.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filter {
    kind: Kind,
    out_channels: usize,
    in_channels: usize,
    taps: usize,
}

impl Filter {
    /// The filter of a node with one group; `None` where it is not constant or of a form without a kernel.
    pub fn of(l: &Lowering<'_>) -> std::result::Result<Option<Filter>, Decline> {
        let Some(kind) = kind_of(l.scalar(0)?) else { return Ok(None) };
        let Some(tensor) = l.input(1)?.constant() else { return Ok(None) };
        let dims: Option<Vec<usize>> = tensor.dims().iter().map(|&dim| usize::try_from(dim).ok()).collect();
        let Some(&[out_channels, in_channels, rows, columns]) = dims.as_deref() else {
            return Ok(None);
        };
        let filter = Filter { kind, out_channels, in_channels, taps: rows * columns };
        Ok((convolution::fits(in_channels, kind) && filter.bytes() > 0).then_some(filter))
    }

    fn bytes(&self) -> usize {
        convolution::packed_bytes(self.out_channels, self.in_channels, self.taps, self.kind)
    }

    /// The filter as the main loop reads it.
    pub fn derived<'a>(self, node: NodeView<'a>, arch: &str) -> Option<Derived<'a>> {
        matmul::has_convolutions(arch).then(|| Derived {
            bytes: self.bytes(),
            fill: Box::new(move |out| {
                let tensor = node.input(1).and_then(|value| value.constant());
                let bytes = tensor.and_then(|tensor| tensor.host_bytes());
                let bytes = bytes.ok_or_else(|| Error::internal("the filter is gone"))?;
                convolution::pack(bytes, self.in_channels, self.taps, self.kind, out).map_err(refused)
            }),
        })
    }
}

fn kind_of(scalar: Scalar) -> Option<Kind> {
    let (input, output) = match scalar {
        Scalar::BF16 => (Element::BF16, Output::BF16),
        Scalar::F16 => (Element::F16, Output::F16),
        _ => return None,
    };
    Some(Kind { input, output, layout: Layout::NT })
}

fn volume(extents: &[usize; 3]) -> usize {
    extents.iter().product()
}

/// Computes a convolution on matrix units. `operands`: Y, X, the filter; `addends`: bias, residual. False, and nothing done,
/// where the plain kernels must.
pub(super) fn expand(
    cx: &mut Expansion<'_, '_>,
    problem: &Conv,
    operands: [ValueId; 3],
    addends: [Option<ValueId>; 2],
    filter: Option<Filter>,
) -> Result<bool> {
    let depth = problem.in_channels * volume(&problem.kernel);
    let macs = problem.batch * problem.out_channels * volume(&problem.output) * depth;
    if problem.scalar.bytes() != 2 || problem.groups != 1 || macs < WORTH_MATRIX_UNITS {
        return Ok(false);
    }
    let on = OnMatrixUnits { problem, operands, addends };
    if on.is_product() && on.fused_product(cx)? {
        return Ok(true);
    }
    match filter {
        Some(filter) if on.gathered(cx, filter)? => Ok(true),
        _ => on.patched(cx),
    }
}

struct OnMatrixUnits<'a> {
    problem: &'a Conv,
    /// Y, X, the filter.
    operands: [ValueId; 3],
    /// Bias, residual.
    addends: [Option<ValueId>; 2],
}

impl OnMatrixUnits<'_> {
    fn depth(&self) -> usize {
        self.problem.in_channels * volume(&self.problem.kernel)
    }

    /// Whether every image is its own matrix of windows, transposed, with rows that copies can address.
    fn is_product(&self) -> bool {
        let problem = self.problem;
        volume(&problem.kernel) == 1
            && volume(&problem.strides) == 1
            && problem.input == problem.output
            && volume(&problem.output).is_multiple_of(8)
    }

    /// What follows the sums, where the main loop knows it.
    fn epilogue(&self) -> Option<Epilogue> {
        let activation = match self.problem.activation {
            Activation::None => matmul::Activation::None,
            Activation::Relu => matmul::Activation::Relu,
            Activation::Silu => matmul::Activation::Silu,
            Activation::Gelu => matmul::Activation::Gelu,
            Activation::GeluTanh => matmul::Activation::GeluTanh,
            _ => return None,
        };
        let [bias, residual] = self.addends;
        let positions = volume(&self.problem.output);
        let image = matmul::Matrix {
            batch_stride: self.problem.out_channels * positions,
            share: 1,
            ..matmul::Matrix::packed(positions)
        };
        Some(Epilogue {
            bias: bias.map(|_| Bias::Output),
            is_bias_along_rows: bias.is_some(),
            activation,
            residual: residual.map(|_| image),
            is_residual_first: residual.is_some() && activation != matmul::Activation::None,
            ..Epilogue::default()
        })
    }

    /// The product of the filter and the windows of each image, which lie as `right` strides say.
    fn product(&self, right_strides: (i64, i64)) -> Product {
        let (depth, positions) = (self.depth(), volume(&self.problem.output));
        Product {
            scalar: self.problem.scalar,
            m: self.problem.out_channels,
            n: positions,
            k: depth,
            a_strides: (depth as i64, 1),
            b_strides: right_strides,
            bias_strides: None,
            batch: match self.problem.batch {
                1 => Vec::new(),
                batch => vec![(batch, [0, (positions * depth) as i64, 0])],
            },
            alpha: 1.0,
            beta: 1.0,
            activation: Activation::None,
        }
    }

    /// Runs `plan`, whose operands are numbered as those of products on matrix units; false where the provider lacks a kernel.
    fn run(
        &self,
        cx: &mut Expansion<'_, '_>,
        plan: tenon_kernels::gpu::Plan,
        left: ValueId,
        right: ValueId,
    ) -> Result<bool> {
        let target = cx.builder.target;
        if !plan.launches.iter().all(|launch| (target.has)(&launch.symbol)) {
            return Ok(false);
        }
        let [y, ..] = self.operands;
        let [bias, residual] = self.addends;
        cx.run(Ok(plan), &[Some(left), Some(right), Some(y), bias, residual])?;
        Ok(true)
    }

    /// One product of the filter and the images themselves.
    fn fused_product(&self, cx: &mut Expansion<'_, '_>) -> Result<bool> {
        let [_, x, filter] = self.operands;
        let target = cx.builder.target;
        let described =
            tensor::describe(cx, &self.product((volume(&self.problem.output) as i64, 1)), x, false);
        let (Some(problem), Some(epilogue)) = (described, self.epilogue()) else { return Ok(false) };
        match matmul::plan_for(target.arch, &matmul::Problem { epilogue, ..problem }, target.chip) {
            Ok(plan) => self.run(cx, plan, filter, x),
            Err(_) => Ok(false),
        }
    }

    /// A product whose main loop gathers the windows, from a copy of the image with channels last.
    fn gathered(&self, cx: &mut Expansion<'_, '_>, filter: Filter) -> Result<bool> {
        let (problem, target) = (self.problem, cx.builder.target);
        let Some(epilogue) = self.epilogue().filter(|_| matmul::has_convolutions(target.arch)) else {
            return Ok(false);
        };
        let flat = |extents: [usize; 3]| [extents[1], extents[2]];
        let pads = [problem.pads[1], problem.pads[2]].map(usize::try_from);
        let [Ok(top), Ok(left)] = pads else { return Ok(false) };
        let convolution = Convolution {
            kind: filter.kind,
            batch: problem.batch,
            in_channels: problem.in_channels,
            out_channels: problem.out_channels,
            input: flat(problem.input),
            output: flat(problem.output),
            kernel: flat(problem.kernel),
            steps: flat(problem.strides),
            dilations: flat(problem.dilations),
            pads: [top, left],
            epilogue,
        };
        let Ok(plan) = matmul::plan_convolution(target.arch, &convolution, target.chip) else {
            return Ok(false);
        };
        if !plan.launches.iter().all(|launch| (target.has)(&launch.symbol)) {
            return Ok(false);
        }
        let [_, x, _] = self.operands;
        let packed = cx.derived(0, filter.bytes())?;
        let image = self.channels_last(cx, x)?;
        self.run(cx, plan, packed, image)
    }

    fn channels_last(&self, cx: &mut Expansion<'_, '_>, x: ValueId) -> Result<ValueId> {
        let (elements, channels) = (volume(&self.problem.input), self.problem.in_channels);
        let dims = [self.problem.batch, elements, channels];
        let image = cx.scratch(self.problem.scalar, &dims)?;
        let copy = StridedCopy {
            element_bytes: self.problem.scalar.bytes(),
            dims: dims.to_vec(),
            from_strides: vec![(channels * elements) as i64, 1, elements as i64],
            from_offset: 0,
            to_strides: contiguous(&dims),
            to_offset: 0,
        };
        cx.run(layout::strided_copy(&copy), &[Some(image), Some(x)])?;
        Ok(image)
    }

    /// A product with patches that are stored, and everything behind the sums as an element-wise program.
    fn patched(&self, cx: &mut Expansion<'_, '_>) -> Result<bool> {
        let problem = self.problem;
        let (depth, positions) = (self.depth(), volume(&problem.output));
        let Some(exprs) = self.program().filter(|_| depth.is_multiple_of(8)) else { return Ok(false) };
        let [y, x, filter] = self.operands;
        let is_product = self.is_product();
        let strides = if is_product { (positions as i64, 1) } else { (1, depth as i64) };
        let Some(plan) = tensor::plan(cx, &self.product(strides), x, false) else { return Ok(false) };
        let right = match is_product {
            true => x,
            false => {
                let patches = cx.scratch(problem.scalar, &[problem.batch * positions, depth])?;
                cx.run(product::conv_patches(problem), &[Some(patches), Some(x)])?;
                patches
            }
        };
        let dims = cx.builder.dims(y).to_vec();
        let sums = if exprs.is_empty() { y } else { cx.scratch(problem.scalar, &dims)? };
        cx.run(Ok(plan), &[Some(sums), Some(filter), Some(right), None, None])?;
        if !exprs.is_empty() {
            self.finish(cx, sums, dims, exprs);
        }
        Ok(true)
    }

    /// Bias, residual and activation as expressions; `None` for an activation that has none.
    fn program(&self) -> Option<Vec<Expr>> {
        let mut exprs = Vec::new();
        for index in 0..self.addends.iter().flatten().count() {
            let before = if index == 0 { Leaf::Operand(0) } else { Leaf::Node(index - 1) };
            exprs.push(Expr::binary(MapOp::Add, before, Leaf::Operand(1 + index)));
        }
        if exprs.is_empty() && self.problem.activation != Activation::None {
            exprs.push(Expr::unary(MapOp::Move, Leaf::Operand(0)));
        }
        let is_known = exprs.is_empty() || activation_exprs(self.problem.activation, &mut exprs).is_ok();
        is_known.then_some(exprs)
    }

    fn finish(&self, cx: &mut Expansion<'_, '_>, sums: ValueId, dims: Vec<usize>, exprs: Vec<Expr>) {
        let scalar = self.problem.scalar;
        let dense = contiguous(&dims);
        let channels: Vec<i64> = (0..dims.len()).map(|axis| i64::from(axis == 1)).collect();
        let input = |value, strides: &[i64]| MapInput { value, scalar, strides: strides.to_vec(), offset: 0 };
        let [bias, residual] = self.addends;
        let mut inputs = vec![input(sums, &dense)];
        inputs.extend(bias.map(|value| input(value, &channels)));
        inputs.extend(residual.map(|value| input(value, &dense)));
        let [y, ..] = self.operands;
        cx.map(Map { class: class_of(scalar), output: y, scalar, dims, inputs, exprs });
    }
}
