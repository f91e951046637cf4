//! Operators that make tensors from a shape, and others that need few words: constants of a shape, identity matrices,
//! bits read as another type, centred crops, the gate of two projections.

use tenon_kernels::gpu::elementwise::MapOp;
use tenon_kernels::gpu::index;
use tenon_kernels::gpu::layout::{self, StridedCopy, contiguous};
use tenon_kernels::gpu::scalar::Scalar;
use tenon_plugin_api::{AttributeView, DType, Error, Result};

use super::elementwise::Formula;
use super::{Family, axis_of};
use crate::map::Leaf::Number;
use crate::operator::{Decline, Expansion, Lowered, Lowering, Operator, scalar_of};

pub(super) const FAMILIES: &[Family] = &[
    Family { domain: "", op_types: &["ConstantOfShape"], lower: constant_of_shape },
    Family { domain: "", op_types: &["EyeLike"], lower: eye_like },
    Family { domain: "", op_types: &["BitCast"], lower: bit_cast },
    Family { domain: "", op_types: &["CenterCropPad"], lower: center_crop_pad },
    Family { domain: "", op_types: &["SwiGLU"], lower: swiglu },
];

struct Filled {
    scalar: Scalar,
    bits: u64,
    /// `None`: as the graph declares the result.
    shape: Option<Vec<usize>>,
}

impl Operator for Filled {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let declared = || cx.declared_output(0).and_then(|dims| dims.into_iter().collect());
        let shape: Option<Vec<usize>> = self.shape.clone().or_else(declared);
        let shape = shape.ok_or_else(|| Error::unsupported("the shape is not known before the run"))?;
        let output = cx.output(0, self.scalar, &shape)?;
        let plan = layout::fill(self.scalar.bytes(), shape.iter().product(), self.bits);
        cx.run(plan, &[Some(output)])
    }
}

fn constant_of_shape(l: &Lowering<'_>) -> Lowered {
    let (scalar, bits) = match l.node.attribute("value") {
        Some(AttributeView::Tensor(value)) => {
            let bytes = value.host_bytes().ok_or_else(|| Decline::new("the value is not on the host"))?;
            let mut word = [0; 8];
            let count = bytes.len().min(8);
            word[..count].copy_from_slice(&bytes[..count]);
            (scalar_of(value.dtype())?, u64::from_le_bytes(word))
        }
        _ => (Scalar::F32, 0),
    };
    if scalar.is_packed() {
        return Err(Decline(format!("elements of type {}", scalar.suffix())));
    }
    if let Ok(shape) = l.ints(0) {
        let shape: Option<Vec<usize>> = shape.iter().map(|&dim| usize::try_from(dim).ok()).collect();
        let shape = shape.ok_or_else(|| Decline::new("a dimension is negative"))?;
        return Ok(Box::new(Filled { scalar, bits, shape: Some(shape) }));
    }
    let output = l.node.output(0).ok_or_else(|| Decline::new("nobody reads the result"))?;
    if output.dims().is_none_or(|dims| dims.iter().any(|&dim| dim < 0)) {
        return Err(Decline::new("the shape is computed during the run"));
    }
    // The numbers are those that the graph declares already.
    l.leave_on_host(0);
    Ok(Box::new(Filled { scalar, bits, shape: None }))
}

struct Identity {
    scalar: Scalar,
    bits: u64,
    k: i32,
}

impl Operator for Identity {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let dims = cx.dims(0)?;
        let &[rows, columns] = dims.as_slice() else {
            return Err(Error::invalid(format!("{dims:?} is no matrix")));
        };
        let output = cx.output(0, self.scalar, &dims)?;
        let plan = index::diagonal(self.scalar.bytes(), [rows, columns], self.k, self.bits);
        cx.run(plan, &[Some(output)])
    }
}

fn eye_like(l: &Lowering<'_>) -> Lowered {
    l.rank(0)?;
    let scalar = match l.node.int_or("dtype", 0)? {
        0 => l.scalar(0)?,
        number => {
            let dtype = i32::try_from(number).ok().and_then(DType::from_onnx);
            scalar_of(dtype.ok_or_else(|| Decline(format!("element type {number} is not known")))?)?
        }
    };
    let bits = match scalar {
        Scalar::F32 => u64::from(1f32.to_bits()),
        Scalar::F64 => 1f64.to_bits(),
        Scalar::F16 => u64::from(half::f16::ONE.to_bits()),
        Scalar::BF16 => u64::from(half::bf16::ONE.to_bits()),
        scalar if scalar.is_narrow() => return Err(Decline(format!("elements of type {}", scalar.suffix()))),
        _ => 1,
    };
    let bound = i64::from(i32::MAX);
    Ok(Box::new(Identity { scalar, bits, k: l.node.int_or("k", 0)?.clamp(-bound, bound) as i32 }))
}

struct BitCast(Scalar);

impl Operator for BitCast {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (input, dims) = (cx.input(0)?, cx.dims(0)?);
        if cx.has_output(0) {
            let output = cx.output(0, self.0, &dims)?;
            cx.builder.view(cx.node, output, input, 0)?;
        }
        Ok(())
    }
}

fn bit_cast(l: &Lowering<'_>) -> Lowered {
    let (from, to) = (l.scalar(0)?, l.output_scalar(0)?);
    if from.bits() != to.bits() || from.is_packed() {
        return Err(Decline(format!("bits of {} as {} have no GPU kernel", from.suffix(), to.suffix())));
    }
    Ok(Box::new(BitCast(to)))
}

/// Sizes along some axes; what is left of the input lies in the middle.
struct Centered(Vec<(usize, usize)>);

impl Operator for Centered {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (input, scalar, dims) = (cx.input(0)?, cx.scalar(0)?, cx.dims(0)?);
        let mut shape = dims.clone();
        self.0.iter().for_each(|&(axis, size)| shape[axis] = size);
        let (own, strides) = (contiguous(&dims), contiguous(&shape));
        let (mut from, mut to, mut inner) = (0, 0, dims.clone());
        for axis in 0..dims.len() {
            inner[axis] = dims[axis].min(shape[axis]);
            from += ((dims[axis] - inner[axis]) / 2) as i64 * own[axis];
            to += ((shape[axis] - inner[axis]) / 2) as i64 * strides[axis];
        }
        let output = cx.output(0, scalar, &shape)?;
        if inner != shape {
            cx.run(layout::fill(scalar.bytes(), shape.iter().product(), 0), &[Some(output)])?;
        }
        let copy = StridedCopy {
            element_bytes: scalar.bytes(),
            dims: inner,
            from_strides: own,
            from_offset: from,
            to_strides: strides,
            to_offset: to,
        };
        cx.run(layout::strided_copy(&copy), &[Some(output), Some(input)])
    }
}

fn center_crop_pad(l: &Lowering<'_>) -> Lowered {
    let (scalar, rank) = (l.scalar(0)?, l.rank(0)?);
    if scalar.is_packed() {
        return Err(Decline(format!("elements of type {}", scalar.suffix())));
    }
    let sizes = l.ints(1)?;
    let axes: Vec<usize> = match l.node.ints("axes")? {
        Some(axes) => axes.iter().map(|&axis| axis_of(axis, rank)).collect::<std::result::Result<_, _>>()?,
        None => (0..rank).collect(),
    };
    let sizes: Option<Vec<usize>> = sizes.iter().map(|&size| usize::try_from(size).ok()).collect();
    match sizes {
        Some(sizes) if sizes.len() == axes.len() => {
            Ok(Box::new(Centered(axes.into_iter().zip(sizes).collect())))
        }
        _ => Err(Decline::new("there is not one size for each axis")),
    }
}

fn swiglu(l: &Lowering<'_>) -> Lowered {
    let mut f = Formula::real(l)?;
    let (gate, value) = (f.input(0)?, f.input(1)?);
    let alpha = Number(f64::from(l.node.float_or("alpha", 1.0)?));
    let gated = f.binary(MapOp::Silu, gate, alpha);
    f.binary(MapOp::Multiply, gated, value);
    f.finish()
}
