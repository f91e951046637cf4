//! com.microsoft GatherBlockQuantized: Gather from a block-quantized table, dequantized on the way.

use smallvec::SmallVec;
use tenon_kernels::cpu::minifloat::{Float8, decode_e2m1};

use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::Operator;
use crate::ops::real::{self, Output};
use crate::ops::rows::for_rows;
use crate::shape;
use crate::tensor::{DType, Dims, Tensor};

pub const OPERATORS: &[Operator] =
    &[Operator::of("com.microsoft", "GatherBlockQuantized", gather_block_quantized)];

struct GatherBlockQuantized {
    bits: usize,
    /// 0: the whole axis is one block.
    block: usize,
    quantize_axis: i64,
    gather_axis: i64,
}

fn gather_block_quantized(node: &Node) -> Result<Box<dyn Kernel>> {
    let (bits, block) = (node.int("bits", 4)?, node.int("block_size", 128)?);
    if !matches!(bits, 2 | 4 | 8) {
        return Err(OpError::invalid(format!("attribute 'bits' must be 2, 4 or 8, got {bits}")));
    }
    let block =
        usize::try_from(block).ok().filter(|&block| block == 0 || (block >= 16 && block.is_power_of_two()));
    Ok(Box::new(GatherBlockQuantized {
        bits: bits as usize,
        block: block.ok_or_else(|| {
            OpError::invalid("attribute 'block_size' must be 0 or a power of two from 16 on")
        })?,
        quantize_axis: node.int("quantize_axis", 1)?,
        gather_axis: node.int("gather_axis", 0)?,
    }))
}

/// The quantized table: codes, what each means, and where its scale is.
struct Table<'a> {
    codes: &'a [u8],
    bits: usize,
    /// The number behind every code, before zero point and scale.
    values: Vec<f32>,
    dims: Dims,
    scale_strides: Dims,
    quantize_axis: usize,
    block: usize,
}

impl Table<'_> {
    /// Element `index`, counted row-major.
    fn code(&self, index: usize) -> u8 {
        code(self.codes, self.bits, index)
    }

    /// The part of the scale's index that coordinate `at` of `axis` decides.
    fn scale_part(&self, axis: usize, at: usize) -> usize {
        let at = if axis == self.quantize_axis { at / self.block } else { at };
        at * self.scale_strides[axis]
    }

    /// The scale index of a position given by a flat index over the axes `first ..`.
    fn scale_offset(&self, axes: std::ops::Range<usize>, mut flat: usize) -> usize {
        let mut offset = 0;
        for axis in axes.rev() {
            offset += self.scale_part(axis, flat % self.dims[axis]);
            flat /= self.dims[axis];
        }
        offset
    }
}

/// Code `index` of a packed list, low bits first.
fn code(packed: &[u8], bits: usize, index: usize) -> u8 {
    let per_byte = 8 / bits;
    let mask = (0xFF_u16 >> (8 - bits)) as u8;
    packed[index / per_byte] >> (index % per_byte * bits) & mask
}

/// Bits of a code, and the number that each code stands for.
fn code_values(dtype: DType, bits: usize) -> Result<(usize, Vec<f32>)> {
    let float8 = |format: Float8| (8, (0..=255).map(|code| format.decode(code)).collect());
    Ok(match dtype {
        DType::U8 => (bits, (0..1u32 << bits).map(|code| code as f32).collect()),
        DType::U4 => (4, (0..16u8).map(f32::from).collect()),
        DType::I4 => (4, (0..16u8).map(|code| f32::from((code << 4) as i8 >> 4)).collect()),
        DType::F4E2M1 => (4, (0..16u8).map(decode_e2m1).collect()),
        DType::F8E4M3FN => float8(Float8::E4M3Fn),
        DType::F8E4M3FNUZ => float8(Float8::E4M3FnUz),
        DType::F8E5M2 => float8(Float8::E5M2),
        DType::F8E5M2FNUZ => float8(Float8::E5M2FnUz),
        other => return Err(OpError::unsupported(format!("GatherBlockQuantized of {other}"))),
    })
}

impl Kernel for GatherBlockQuantized {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let (data, indices, scales) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
        let table = self.table(data, scales)?;
        let gather_axis = shape::axis(self.gather_axis, table.dims.len())?;
        let zeros = cx
            .optional(3)
            .map(|zeros| self.zero_points(data.dtype(), &table, zeros, scales.dims()))
            .transpose()?;
        let default_zero = if data.dtype() == DType::U8 { (1 << (table.bits - 1)) as f32 } else { 0.0 };
        let mut dims: Dims = table.dims[..gather_axis].into();
        dims.extend_from_slice(indices.dims());
        dims.extend_from_slice(&table.dims[gather_axis + 1..]);
        let (len, rank) = (table.dims[gather_axis], table.dims.len());
        let inner: usize = table.dims[gather_axis + 1..].iter().product();
        let chosen = indices.to_i64s()?;
        let loaded = real::load::<f32>(cx, scales)?;
        let scale_values = loaded.as_slice::<f32>()?;
        let within: Vec<u32> =
            (0..inner).map(|i| table.scale_offset(gather_axis + 1..rank, i) as u32).collect();
        let mut output = Output::new::<f32>(cx, 0, scales.dtype(), &dims)?;
        for_rows(cx.parallel(), output.slice::<f32>()?, inner, inner * 4, &|row, to| {
            let (outer, index) = (row / chosen.len(), chosen[row % chosen.len()]);
            let at = if index < 0 { index.wrapping_add(len as i64) } else { index };
            if !(0..len as i64).contains(&at) {
                return to.fill(0.0);
            }
            let first = (outer * len + at as usize) * inner;
            let base = table.scale_offset(0..gather_axis, outer) + table.scale_part(gather_axis, at as usize);
            for (i, (to, &within)) in to.iter_mut().zip(&within).enumerate() {
                let scale_index = base + within as usize;
                let zero = zeros.as_ref().map_or(default_zero, |zeros| zeros[scale_index]);
                *to = (table.values[usize::from(table.code(first + i))] - zero) * scale_values[scale_index];
            }
        });
        output.finish(cx)
    }
}

impl GatherBlockQuantized {
    fn table<'a>(&self, data: &'a Tensor, scales: &Tensor) -> Result<Table<'a>> {
        let (bits, values) = code_values(data.dtype(), self.bits)?;
        let mut dims: Dims = data.dims().into();
        let Some(last) = dims.last_mut() else {
            return Err(OpError::invalid("data must have at least one dimension"));
        };
        if data.dtype() == DType::U8 {
            *last *= 8 / bits;
        }
        let quantize_axis = shape::axis(self.quantize_axis, dims.len())?;
        let block = if self.block == 0 { dims[quantize_axis].max(1) } else { self.block };
        let blocks =
            |axis: usize| if axis == quantize_axis { dims[axis].div_ceil(block) } else { dims[axis] };
        let given = scales.dims();
        let fits =
            given.len() == dims.len() && (0..dims.len()).all(|i| given[i] == blocks(i) || given[i] == 1);
        if !fits {
            return Err(OpError::invalid(format!(
                "scales of shape {given:?} do not fit a table of {dims:?} in blocks of {block}"
            )));
        }
        let mut scale_strides = shape::strides(given);
        (0..given.len()).filter(|&i| given[i] == 1).for_each(|i| scale_strides[i] = 0);
        Ok(Table { codes: data.as_bytes(), bits, values, dims, scale_strides, quantize_axis, block })
    }

    /// One zero point a scale. Those of a uint8 table are packed along the last dimension as its codes are.
    fn zero_points(
        &self,
        dtype: DType,
        table: &Table<'_>,
        zeros: &Tensor,
        scales: &[usize],
    ) -> Result<Vec<f32>> {
        let count: usize = scales.iter().product();
        let row = scales.last().copied().unwrap_or(1).max(1);
        let packed_row = if dtype == DType::U8 { (row * table.bits).div_ceil(8) } else { row };
        let mut expected: SmallVec<[usize; 6]> = scales.into();
        if let Some(last) = expected.last_mut() {
            *last = packed_row;
        }
        if zeros.dtype() != dtype || zeros.dims() != expected.as_slice() {
            return Err(OpError::invalid(format!(
                "expected zero points {dtype} {expected:?}, got {zeros:?}"
            )));
        }
        let per_byte = 8 / table.bits;
        let packed_index =
            |i: usize| if dtype == DType::U8 { i / row * packed_row * per_byte + i % row } else { i };
        let value = |i: usize| table.values[usize::from(code(zeros.as_bytes(), table.bits, packed_index(i)))];
        Ok((0..count).map(value).collect())
    }
}

#[cfg(test)]
mod tests {
    use crate::node::Attribute;
    use crate::tensor::DType;
    use crate::testing::{blank, node, run, tensor};

    #[test]
    fn packed_rows_are_dequantized_and_indices_outside_give_zeros() {
        let codes: Vec<u8> = (0..16).map(|i| (i % 4) << 4 | i).collect();
        let attributes = [("block_size", Attribute::Int(16))];
        let inputs = [
            Some(tensor(&[2, 8], &codes)),
            Some(tensor(&[3], &[1i64, -2, 7])),
            Some(tensor(&[2, 1], &[2f32, 0.5])),
        ];
        let output = run(&node("com.microsoft", "GatherBlockQuantized", 1, &attributes, 1), &inputs)
            .unwrap()
            .remove(0);
        assert_eq!(output.dims(), [3, 16]);
        let values = output.as_slice::<f32>().unwrap();
        assert_eq!(values[..4], [0.0, -4.0, 0.5, -3.5]);
        assert_eq!(values[16..20], [-16.0, -16.0, -14.0, -14.0]);
        assert_eq!(values[32..], [0.0; 16]);
    }

    #[test]
    fn signed_nibbles_have_zero_points_of_their_own() {
        let (mut data, mut zeros) = (blank(DType::I4, &[1, 16]), blank(DType::I4, &[1, 1]));
        data.as_bytes_mut().fill(0x7F);
        zeros.as_bytes_mut().fill(0x0E);
        let inputs = [Some(data), Some(tensor(&[1], &[0i32])), Some(tensor(&[1, 1], &[10f32])), Some(zeros)];
        let attributes = [("block_size", Attribute::Int(16))];
        let output = run(&node("com.microsoft", "GatherBlockQuantized", 1, &attributes, 1), &inputs).unwrap();
        assert_eq!(output[0].as_slice::<f32>().unwrap()[..2], [10.0, 90.0]);
    }
}
