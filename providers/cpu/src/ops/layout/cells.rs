//! Presents the elements of any type as cells of 1, 2, 4, 8 or 16 bytes, so that operators which only move elements
//! are written once: packed types are unpacked to a byte an element, strings become numbers of strings.

use smallvec::SmallVec;

use super::text::{self, Strings};
use crate::error::{OpError, Result};
use crate::kernel::Context;
use crate::tensor::{DType, Dims, Tensor};

/// The cells a movement reads, one slice an input.
pub type Sources<'a> = [&'a [u8]];

type Scratches = SmallVec<[Tensor; 4]>;
type Slices<'a> = SmallVec<[&'a [u8]; 4]>;

/// Bytes of a cell that holds one element of `dtype`.
pub fn cell_bytes(dtype: DType) -> usize {
    match dtype {
        DType::String => 4,
        _ => dtype.bits().div_ceil(8),
    }
}

/// Makes output `output` of shape `dims` by moving elements of `inputs`, which share one type. `body` gets the cells
/// of the inputs, the cells of the output (to be written entirely) and the bytes of a cell. An all-zero cell is the
/// element 0, false or "".
pub fn rearrange<F>(
    cx: &mut Context<'_>,
    inputs: &[usize],
    output: usize,
    dims: &[usize],
    body: F,
) -> Result<()>
where
    F: FnOnce(&Sources<'_>, &mut [u8], usize) -> Result<()>,
{
    let dtype = shared_dtype(cx, inputs)?;
    if dtype.bits() >= 8 {
        let mut destination = cx.output(output, dtype, dims)?;
        let sources: Slices<'_> =
            inputs.iter().map(|&i| cx.input(i).map(Tensor::as_bytes)).collect::<Result<_>>()?;
        body(&sources, destination.as_bytes_mut(), dtype.bits() / 8)?;
        drop(sources);
        cx.set(output, destination);
        return Ok(());
    }
    let opened = open_all(cx, inputs)?;
    let mut cells = cx.scratch(cell_dtype(dtype), dims)?;
    body(&slices(&opened), cells.as_bytes_mut(), cell_bytes(dtype))?;
    let tensor = close(cx, inputs, output, dtype, &cells)?;
    cx.set(output, tensor);
    Ok(())
}

/// Like [`rearrange`] for an output that starts as a copy of input `base`, in its memory when nobody else needs it.
pub fn rearrange_onto<F>(
    cx: &mut Context<'_>,
    base: usize,
    inputs: &[usize],
    output: usize,
    body: F,
) -> Result<()>
where
    F: FnOnce(&Sources<'_>, &mut [u8], usize) -> Result<()>,
{
    let mut all: SmallVec<[usize; 4]> = inputs.into();
    all.push(base);
    let dtype = shared_dtype(cx, &all)?;
    if dtype.bits() >= 8 {
        let mut destination = copy_or_reuse(cx, base, output)?;
        let sources: Slices<'_> =
            inputs.iter().map(|&i| cx.input(i).map(Tensor::as_bytes)).collect::<Result<_>>()?;
        body(&sources, destination.as_bytes_mut(), dtype.bits() / 8)?;
        drop(sources);
        cx.set(output, destination);
        return Ok(());
    }
    let mut opened = open_all(cx, &all)?;
    let mut cells = opened.pop().expect("the base was opened last");
    body(&slices(&opened), cells.as_bytes_mut(), cell_bytes(dtype))?;
    let tensor = close(cx, &all, output, dtype, &cells)?;
    cx.set(output, tensor);
    Ok(())
}

/// Input `input` as the writable tensor of output `output`: taken over where possible, else copied.
pub fn copy_or_reuse(cx: &mut Context<'_>, input: usize, output: usize) -> Result<Tensor> {
    if let Some(tensor) = cx.reuse(input, output) {
        return Ok(tensor);
    }
    let source = cx.input(input)?;
    let mut copy = cx.output_of_bytes(output, source.dtype(), source.dims(), source.as_bytes().len())?;
    copy.as_bytes_mut().copy_from_slice(source.as_bytes());
    Ok(copy)
}

/// The codes of a packed tensor, one a byte, not sign-extended.
pub fn unpack(dtype: DType, packed: &[u8], codes: &mut [u8]) {
    let bits = dtype.bits();
    let mask = (1u16 << bits) - 1;
    for (i, code) in codes.iter_mut().enumerate() {
        let (byte, shift) = (i * bits / 8, i * bits % 8);
        let next = packed.get(byte + 1).copied().unwrap_or(0);
        *code = (u16::from_le_bytes([packed[byte], next]) >> shift & mask) as u8;
    }
}

/// Packs codes of one byte each; the inverse of [`unpack`].
pub fn pack(dtype: DType, codes: &[u8], packed: &mut [u8]) {
    let bits = dtype.bits();
    let mask = (1u16 << bits) - 1;
    packed.fill(0);
    for (i, &code) in codes.iter().enumerate() {
        let (byte, shift) = (i * bits / 8, i * bits % 8);
        let [low, high] = ((u16::from(code) & mask) << shift).to_le_bytes();
        packed[byte] |= low;
        if high != 0 {
            packed[byte + 1] |= high;
        }
    }
}

fn shared_dtype(cx: &Context<'_>, inputs: &[usize]) -> Result<DType> {
    let mut dtype = DType::Undefined;
    for &index in inputs {
        let own = cx.input(index)?.dtype();
        if dtype != DType::Undefined && own != dtype {
            return Err(OpError::invalid(format!("inputs must share one type, got {dtype} and {own}")));
        }
        dtype = own;
    }
    Ok(dtype)
}

fn cell_dtype(dtype: DType) -> DType {
    if dtype == DType::String { DType::U32 } else { DType::U8 }
}

fn open_all(cx: &Context<'_>, inputs: &[usize]) -> Result<Scratches> {
    let mut opened = Scratches::new();
    let mut first = 1u32;
    for &index in inputs {
        let tensor = cx.input(index)?;
        let dims: Dims = tensor.dims().into();
        let mut cells = cx.scratch(cell_dtype(tensor.dtype()), &dims)?;
        if tensor.dtype() == DType::String {
            let len = u32::try_from(tensor.len()).ok();
            let end = len.and_then(|len| first.checked_add(len));
            let end = end.ok_or_else(|| OpError::unsupported("more than four billion strings"))?;
            cells.as_mut_slice::<u32>()?.iter_mut().zip(first..end).for_each(|(cell, number)| *cell = number);
            first = end;
        } else {
            unpack(tensor.dtype(), tensor.as_bytes(), cells.as_bytes_mut());
        }
        opened.push(cells);
    }
    Ok(opened)
}

fn slices(opened: &Scratches) -> Slices<'_> {
    opened.iter().map(Tensor::as_bytes).collect()
}

/// The output tensor for finished cells. String number 0 is the empty string, the others count through `inputs`.
fn close(cx: &Context<'_>, inputs: &[usize], output: usize, dtype: DType, cells: &Tensor) -> Result<Tensor> {
    if dtype != DType::String {
        let mut tensor = cx.output(output, dtype, cells.dims())?;
        pack(dtype, cells.as_bytes(), tensor.as_bytes_mut());
        return Ok(tensor);
    }
    let mut strings: Vec<&[u8]> = vec![b""];
    for &index in inputs {
        let source = Strings::new(cx.input(index)?)?;
        strings.extend((0..source.len()).map(|i| source.get(i)));
    }
    let numbers = cells.as_slice::<u32>()?;
    text::write(cx, output, cells.dims(), |i| strings[numbers[i] as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_codes_round_trip_at_every_width_and_odd_count() {
        for dtype in [DType::U2, DType::I4, DType::F6E2M3] {
            for len in [0usize, 1, 3, 8, 13] {
                let codes: Vec<u8> =
                    (0..len).map(|i| (i * 37 + 11) as u8 & ((1 << dtype.bits()) - 1) as u8).collect();
                let mut packed = vec![0xFF; dtype.byte_len(len).unwrap()];
                pack(dtype, &codes, &mut packed);
                let mut back = vec![0xFF; len];
                unpack(dtype, &packed, &mut back);
                assert_eq!(codes, back, "{dtype} x {len}");
            }
        }
    }
}
