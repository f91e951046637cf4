//! Cutting and joining host tensors along an axis: what Loop, Scan and the sequence operators do with them.

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::{Buffer, Dims, Tensor, byte_len};

/// Elements of any type as a run of bits: strings are handled apart.
#[derive(Clone, Copy)]
struct Layout {
    /// Product of the dimensions before the axis.
    outer: usize,
    /// Elements of one step along the axis.
    inner: usize,
}

fn layout(dims: &[usize], axis: usize) -> Layout {
    Layout { outer: dims[..axis].iter().product(), inner: dims[axis + 1..].iter().product() }
}

/// A possibly negative axis of a tensor of `rank` dimensions.
pub(super) fn axis(axis: i64, rank: usize) -> Result<usize> {
    let adjusted = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(adjusted).ok().filter(|&axis| axis < rank).ok_or_else(|| {
        Error::invalid_input(format!("axis {axis} is outside the {rank} dimensions of the tensor"))
    })
}

/// The part `start .. start + len` of `tensor` along `axis`.
pub(super) fn slice(tensor: &Tensor, axis: usize, start: usize, len: usize) -> Result<Tensor> {
    let size = tensor.dims()[axis];
    if start.checked_add(len).is_none_or(|end| end > size) {
        return Err(Error::invalid_input(format!(
            "part {start}..{start}+{len} is outside a dimension of {size}"
        )));
    }
    let mut dims: Dims = tensor.dims().into();
    dims[axis] = len;
    let Layout { outer, inner } = layout(tensor.dims(), axis);
    let runs = (0..outer).map(|o| ((o * size + start) * inner, len * inner));
    collect(tensor.dtype(), &dims, runs.map(|(first, count)| (tensor, first, count)))
}

/// Entry `index` of `tensor` along `axis`, with the axis removed.
pub(super) fn select(tensor: &Tensor, axis: usize, index: usize) -> Result<Tensor> {
    let part = slice(tensor, axis, index, 1)?;
    let mut dims: Dims = part.dims().into();
    dims.remove(axis);
    part.reshaped(&dims)
}

/// Joins tensors along `axis`; all other dimensions and the types must agree.
pub(super) fn concat(tensors: &[Tensor], axis: usize) -> Result<Tensor> {
    let first =
        tensors.first().ok_or_else(|| Error::invalid_input("cannot join an empty list of tensors"))?;
    let mut dims: Dims = first.dims().into();
    if axis >= dims.len() {
        return Err(Error::invalid_input(format!("cannot join tensors of shape {dims:?} along axis {axis}")));
    }
    dims[axis] = 0;
    for tensor in tensors {
        let same = tensor.rank() == dims.len()
            && tensor.dtype() == first.dtype()
            && (0..dims.len()).all(|i| i == axis || tensor.dims()[i] == dims[i]);
        if !same {
            return Err(Error::invalid_input(format!(
                "cannot join {}{:?} and {}{:?} along axis {axis}: types and other dimensions must be equal",
                first.dtype(),
                first.dims(),
                tensor.dtype(),
                tensor.dims()
            )));
        }
        dims[axis] += tensor.dims()[axis];
    }
    let outer = layout(&dims, axis).outer;
    let run = |tensor: &Tensor| tensor.len().checked_div(outer).unwrap_or(0);
    let runs =
        (0..outer).flat_map(|o| tensors.iter().map(move |tensor| (tensor, o * run(tensor), run(tensor))));
    collect(first.dtype(), &dims, runs)
}

/// Joins tensors of one shape along a new axis.
pub(super) fn stack(tensors: &[Tensor], axis: usize) -> Result<Tensor> {
    let widened: Vec<Tensor> = tensors
        .iter()
        .map(|tensor| {
            let mut dims: Dims = tensor.dims().into();
            if axis > dims.len() {
                return Err(Error::invalid_input(format!(
                    "cannot stack tensors of shape {dims:?} along axis {axis}"
                )));
            }
            dims.insert(axis, 1);
            tensor.reshaped(&dims)
        })
        .collect::<Result<_>>()?;
    concat(&widened, axis)
}

/// A tensor made of runs of elements: (source, first element, count).
fn collect<'a>(
    dtype: DType,
    dims: &[usize],
    runs: impl Iterator<Item = (&'a Tensor, usize, usize)>,
) -> Result<Tensor> {
    if dtype == DType::String {
        return collect_strings(dims, runs);
    }
    let bits = dtype.bits();
    let mut buffer = Buffer::zeroed(byte_len(dtype, dims)?);
    let bytes = buffer.as_bytes_mut().ok_or_else(|| Error::internal("a new buffer has one owner"))?;
    let mut at = 0;
    for (tensor, first, count) in runs {
        if bits >= 8 {
            let width = bits / 8;
            let source = &tensor.as_bytes()[first * width..(first + count) * width];
            bytes[at * width..(at + count) * width].copy_from_slice(source);
        } else {
            (0..count).for_each(|i| copy_bits(tensor.as_bytes(), first + i, bytes, at + i, bits));
        }
        at += count;
    }
    Tensor::from_buffer(dtype, dims, buffer)
}

/// Copies one packed element; `to` is still zero there.
fn copy_bits(from: &[u8], source: usize, to: &mut [u8], target: usize, bits: usize) {
    for bit in 0..bits {
        let (s, t) = (source * bits + bit, target * bits + bit);
        to[t / 8] |= (from[s / 8] >> (s % 8) & 1) << (t % 8);
    }
}

fn collect_strings<'a>(
    dims: &[usize],
    runs: impl Iterator<Item = (&'a Tensor, usize, usize)>,
) -> Result<Tensor> {
    let mut elements: Vec<&str> = Vec::new();
    for (tensor, first, count) in runs {
        elements.extend(tensor.strings()?.skip(first).take(count));
    }
    Tensor::from_strings(dims, &elements)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(dims: &[usize]) -> Tensor {
        let elements: Vec<i64> = (0..dims.iter().product::<usize>() as i64).collect();
        Tensor::from_slice(dims, &elements).unwrap()
    }

    #[test]
    fn slices_join_back_to_the_whole_on_every_axis() {
        let whole = ramp(&[3, 4, 5]);
        for axis in 0..3 {
            let size = whole.dims()[axis];
            let parts: Vec<Tensor> = (0..size).map(|i| slice(&whole, axis, i, 1).unwrap()).collect();
            assert_eq!(concat(&parts, axis).unwrap(), whole);
            let entries: Vec<Tensor> = (0..size).map(|i| select(&whole, axis, i).unwrap()).collect();
            assert_eq!(stack(&entries, axis).unwrap(), whole);
        }
    }

    #[test]
    fn strings_and_nibbles_are_cut_by_element() {
        let words = Tensor::from_strings(&[4], &["a", "", "ccc", "dd"]).unwrap();
        let part = slice(&words, 0, 1, 2).unwrap();
        assert_eq!(part.strings().unwrap().collect::<Vec<_>>(), ["", "ccc"]);
        let nibbles = Tensor::copy_from_bytes(DType::U4, &[5], &[0x21, 0x43, 0x05]).unwrap();
        assert_eq!(slice(&nibbles, 0, 1, 3).unwrap().as_bytes(), [0x32, 0x04]);
    }

    #[test]
    fn parts_outside_the_tensor_are_refused() {
        assert!(slice(&ramp(&[3]), 0, 2, 2).is_err());
        assert!(concat(&[ramp(&[2, 2]), ramp(&[2, 3])], 0).is_err());
        assert!(concat(&[], 0).is_err());
    }
}
