//! Scatter, ScatterElements, ScatterND and TensorScatter.

use half::{bf16, f16};

use super::gather::{Slices, element_positions};
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::layout::cells::{copy_or_reuse, rearrange_onto};
use crate::ops::{NEWEST, Operator};
use crate::shape;
use crate::tensor::{Bool, DType, Dims, Element, Tensor};

pub const OPERATORS: &[Operator] = &[
    Operator::onnx("Scatter", 9, NEWEST, scatter_elements),
    Operator::onnx("ScatterElements", 11, NEWEST, scatter_elements),
    Operator::onnx("ScatterND", 11, NEWEST, scatter_nd),
    Operator::onnx("TensorScatter", 24, NEWEST, tensor_scatter),
];

#[derive(Clone, Copy, PartialEq)]
enum Reduction {
    None,
    Add,
    Mul,
    Max,
    Min,
}

impl Reduction {
    fn of(node: &Node) -> Result<Reduction> {
        match node.string("reduction", "none")? {
            "none" => Ok(Reduction::None),
            "add" => Ok(Reduction::Add),
            "mul" => Ok(Reduction::Mul),
            "max" => Ok(Reduction::Max),
            "min" => Ok(Reduction::Min),
            other => Err(OpError::invalid(format!("attribute 'reduction' is unknown: {other}"))),
        }
    }
}

struct ScatterElements {
    axis: i64,
    reduction: Reduction,
}

fn scatter_elements(node: &Node) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(ScatterElements { axis: node.int("axis", 0)?, reduction: Reduction::of(node)? }))
}

impl Kernel for ScatterElements {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let (data, indices, updates) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
        if indices.dims() != updates.dims() {
            return Err(OpError::invalid(format!(
                "indices of shape {:?} and updates of shape {:?} must agree",
                indices.dims(),
                updates.dims()
            )));
        }
        let starts = element_positions(indices, data.dims(), self.axis)?;
        scatter(cx, self.reduction, &starts, 1)
    }
}

struct ScatterNd {
    reduction: Reduction,
}

fn scatter_nd(node: &Node) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(ScatterNd { reduction: Reduction::of(node)? }))
}

impl Kernel for ScatterNd {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let (data, indices, updates) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
        let slices = Slices::new(data.dims(), indices, 0)?;
        let mut expected: Dims = indices.dims()[..indices.rank() - 1].into();
        expected.extend_from_slice(&data.dims()[slices.named_dims..]);
        if updates.dims() != expected.as_slice() {
            let message = format!("updates must have shape {expected:?}, got {:?}", updates.dims());
            return Err(OpError::invalid(message));
        }
        scatter(cx, self.reduction, &slices.starts, slices.len)
    }
}

/// Puts the slices of input 2, of `len` elements each, over those of input 0 that start at `starts` (in slices).
fn scatter(cx: &mut Context<'_>, reduction: Reduction, starts: &[usize], len: usize) -> Result<()> {
    if reduction == Reduction::None {
        return rearrange_onto(cx, 0, &[2], 0, |sources, cells, cell| {
            let slice = len * cell;
            if slice > 0 {
                for (&start, update) in starts.iter().zip(sources[0].chunks_exact(slice)) {
                    cells[start * slice..][..slice].copy_from_slice(update);
                }
            }
            Ok(())
        });
    }
    let dtype = cx.input(0)?.dtype();
    if cx.input(2)?.dtype() != dtype {
        return Err(OpError::invalid(format!("data is {dtype} but updates are {}", cx.input(2)?.dtype())));
    }
    let mut output = copy_or_reuse(cx, 0, 0)?;
    let updates = cx.input(2)?;
    match dtype {
        DType::F32 => reduce::<f32>(reduction, &mut output, updates, starts, len)?,
        DType::F64 => reduce::<f64>(reduction, &mut output, updates, starts, len)?,
        DType::F16 => reduce::<f16>(reduction, &mut output, updates, starts, len)?,
        DType::BF16 => reduce::<bf16>(reduction, &mut output, updates, starts, len)?,
        DType::I8 => reduce::<i8>(reduction, &mut output, updates, starts, len)?,
        DType::I16 => reduce::<i16>(reduction, &mut output, updates, starts, len)?,
        DType::I32 => reduce::<i32>(reduction, &mut output, updates, starts, len)?,
        DType::I64 => reduce::<i64>(reduction, &mut output, updates, starts, len)?,
        DType::U8 => reduce::<u8>(reduction, &mut output, updates, starts, len)?,
        DType::U16 => reduce::<u16>(reduction, &mut output, updates, starts, len)?,
        DType::U32 => reduce::<u32>(reduction, &mut output, updates, starts, len)?,
        DType::U64 => reduce::<u64>(reduction, &mut output, updates, starts, len)?,
        DType::Bool => reduce::<Bool>(reduction, &mut output, updates, starts, len)?,
        other => return Err(OpError::unsupported(format!("a reduction of {other} while scattering"))),
    }
    cx.set(0, output);
    Ok(())
}

/// An element type that can be reduced.
trait Number: Element {
    fn add(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn is_greater(self, other: Self) -> bool;
    /// True for the one value that is not ordered.
    fn is_nan(self) -> bool {
        false
    }
}

macro_rules! integers {
    ($($t:ty),*) => {$(
        impl Number for $t {
            fn add(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
            fn mul(self, other: Self) -> Self {
                self.wrapping_mul(other)
            }
            fn is_greater(self, other: Self) -> bool {
                self > other
            }
        }
    )*};
}
integers!(i8, i16, i32, i64, u8, u16, u32, u64);

macro_rules! floats {
    ($($t:ty),*) => {$(
        impl Number for $t {
            fn add(self, other: Self) -> Self {
                self + other
            }
            fn mul(self, other: Self) -> Self {
                self * other
            }
            fn is_greater(self, other: Self) -> bool {
                self > other
            }
            fn is_nan(self) -> bool {
                <$t>::is_nan(self)
            }
        }
    )*};
}
floats!(f32, f64, f16, bf16);

impl Number for Bool {
    fn add(self, other: Self) -> Self {
        Bool(u8::from(self.0 != 0 || other.0 != 0))
    }
    fn mul(self, other: Self) -> Self {
        Bool(u8::from(self.0 != 0 && other.0 != 0))
    }
    fn is_greater(self, other: Self) -> bool {
        self.0 != 0 && other.0 == 0
    }
}

fn reduce<T: Number>(
    reduction: Reduction,
    output: &mut Tensor,
    updates: &Tensor,
    starts: &[usize],
    len: usize,
) -> Result<()> {
    let (output, updates) = (output.as_mut_slice::<T>()?, updates.as_slice::<T>()?);
    match reduction {
        Reduction::Add => each(output, updates, starts, len, T::add),
        Reduction::Mul => each(output, updates, starts, len, T::mul),
        Reduction::Max => {
            each(output, updates, starts, len, |a, b| if b.is_greater(a) || b.is_nan() { b } else { a })
        }
        Reduction::Min => {
            each(output, updates, starts, len, |a, b| if a.is_greater(b) || b.is_nan() { b } else { a })
        }
        Reduction::None => {}
    }
    Ok(())
}

fn each<T: Copy>(output: &mut [T], updates: &[T], starts: &[usize], len: usize, f: impl Fn(T, T) -> T) {
    if len == 0 {
        return;
    }
    for (&start, updates) in starts.iter().zip(updates.chunks_exact(len)) {
        for (value, &update) in output[start * len..][..len].iter_mut().zip(updates) {
            *value = f(*value, update);
        }
    }
}

struct TensorScatter {
    axis: i64,
    circular: bool,
}

fn tensor_scatter(node: &Node) -> Result<Box<dyn Kernel>> {
    let circular = match node.string("mode", "linear")? {
        "linear" => false,
        "circular" => true,
        other => {
            return Err(OpError::invalid(format!(
                "attribute 'mode' must be linear or circular, got {other}"
            )));
        }
    };
    Ok(Box::new(TensorScatter { axis: node.int("axis", -2)?, circular }))
}

impl Kernel for TensorScatter {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let (cache, update) = (cx.input(0)?.dims(), cx.input(1)?.dims());
        let axis = shape::axis(self.axis, cache.len())?;
        let fits = update.len() == cache.len()
            && (0..cache.len())
                .all(|i| if i == axis { update[i] <= cache[i] } else { update[i] == cache[i] });
        if !fits || axis == 0 {
            return Err(OpError::invalid(format!(
                "an update of shape {update:?} does not fit a cache of shape {cache:?} along axis {axis}"
            )));
        }
        let (capacity, length, batches) = (cache[axis], update[axis], cache[0]);
        let rows_per_batch: usize = cache[1..axis].iter().product();
        let row: usize = cache[axis + 1..].iter().product();
        let at = match cx.optional(2) {
            Some(indices) => indices.to_i64s()?,
            None => smallvec::smallvec![0; batches],
        };
        let free =
            |start: i64| start >= 0 && (self.circular || start as u64 + length as u64 <= capacity as u64);
        if at.len() != batches || !at.iter().all(|&start| free(start)) {
            return Err(OpError::invalid(format!(
                "{batches} write indices must leave room for {length} entries in a cache of {capacity}, got {at:?}"
            )));
        }
        rearrange_onto(cx, 0, &[1], 0, |sources, cells, cell| {
            let row = row * cell;
            for outer in 0..batches * rows_per_batch {
                let start = at[outer / rows_per_batch] as usize % capacity.max(1);
                let before_end = length.min(capacity - start);
                let from = &sources[0][outer * length * row..][..length * row];
                let to = &mut cells[outer * capacity * row..][..capacity * row];
                let (first, wrapped) = from.split_at(before_end * row);
                to[start * row..][..first.len()].copy_from_slice(first);
                to[..wrapped.len()].copy_from_slice(wrapped);
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::node::Attribute;
    use crate::testing::{node, run, strings, tensor};

    fn reduction(name: &str) -> Vec<(&'static str, Attribute)> {
        vec![("reduction", Attribute::String(name.into()))]
    }

    #[test]
    fn repeated_positions_are_reduced_in_order() {
        let case = |name: &str| {
            let inputs = [
                Some(tensor(&[3], &[1f32, 2.0, 3.0])),
                Some(tensor(&[4], &[1i64, -1, 1, 1])),
                Some(tensor(&[4], &[5f32, -4.0, 0.5, 3.0])),
            ];
            let outputs = run(&node("", "ScatterElements", 18, &reduction(name), 1), &inputs).unwrap();
            outputs[0].as_slice::<f32>().unwrap().to_vec()
        };
        assert_eq!(case("none"), [1., 3., -4.]);
        assert_eq!(case("add"), [1., 10.5, -1.]);
        assert_eq!(case("mul"), [1., 15., -12.]);
        assert_eq!(case("max"), [1., 5., 3.]);
        assert_eq!(case("min"), [1., 0.5, -4.]);
    }

    #[test]
    fn slices_are_scattered_and_data_stays_untouched() {
        let data = tensor(&[2, 2], &[1i8, 2, 3, 4]);
        let inputs = [
            Some(data.clone()),
            Some(tensor(&[2, 1], &[1i64, 1])),
            Some(tensor(&[2, 2], &[100i8, 10, 100, 20])),
        ];
        let output = run(&node("", "ScatterND", 18, &reduction("add"), 1), &inputs).unwrap();
        assert_eq!(output[0].as_slice::<i8>().unwrap(), [1, 2, -53, 34]);
        assert_eq!(data.as_slice::<i8>().unwrap(), [1, 2, 3, 4]);
        let bad = [Some(data), Some(tensor(&[1, 1], &[2i64])), Some(tensor(&[1, 2], &[0i8, 0]))];
        assert!(run(&node("", "ScatterND", 18, &[], 1), &bad).is_err());
    }

    #[test]
    fn strings_are_scattered() {
        let inputs =
            [Some(strings(&[2], &["a", "b"])), Some(tensor(&[1], &[0i64])), Some(strings(&[1], &["longer"]))];
        let output = run(&node("", "ScatterElements", 18, &[], 1), &inputs).unwrap();
        assert_eq!(output[0].as_bytes(), strings(&[2], &["longer", "b"]).as_bytes());
    }

    #[test]
    fn a_circular_cache_wraps_around() {
        let inputs = [
            Some(tensor(&[1, 3, 1], &[1f32, 2.0, 3.0])),
            Some(tensor(&[1, 2, 1], &[8f32, 9.0])),
            Some(tensor(&[1], &[2i64])),
        ];
        let circular = [("mode", Attribute::String("circular".into()))];
        let output = run(&node("", "TensorScatter", 24, &circular, 1), &inputs).unwrap();
        assert_eq!(output[0].as_slice::<f32>().unwrap(), [9., 2., 8.]);
        assert!(run(&node("", "TensorScatter", 24, &[], 1), &inputs).is_err());
    }
}
