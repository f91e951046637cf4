//! Moving elements: strided copies, transposes, gathers, fills.

use super::launch::{Arg, Plan};
use super::scalar::{self, Structure, blocks, division, kernel, launch, overlapping, pointer};
use super::unit::{Text, Unit};
use crate::error::{KernelError, Result};
use crate::estimate::Cost;

/// Dimensions of a copy after neighbours have been joined.
pub const RANK: usize = 8;
/// Dimensions of a permutation through tiles, beside the two that change places.
const BATCH_RANK: usize = 6;

/// A copy of a block: for every position, `to[to_offset + position · to_strides] = from[..]`, in elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StridedCopy {
    pub element_bytes: usize,
    /// Outermost first.
    pub dims: Vec<usize>,
    pub from_strides: Vec<i64>,
    pub from_offset: i64,
    pub to_strides: Vec<i64>,
    pub to_offset: i64,
}

/// Row-major strides of `dims`, in elements.
pub fn contiguous(dims: &[usize]) -> Vec<i64> {
    let mut strides = vec![1i64; dims.len()];
    for axis in (0..dims.len().saturating_sub(1)).rev() {
        strides[axis] = strides[axis + 1] * dims[axis + 1].max(1) as i64;
    }
    strides
}

/// The same, for dimensions innermost first.
pub(super) fn contiguous_inner_first(dims: &[usize]) -> Vec<i64> {
    let products = dims.iter().scan(1i64, |product, &dim| {
        let own = *product;
        *product *= dim as i64;
        Some(own)
    });
    products.collect()
}

/// Operands: 0 the target, 1 the source.
pub fn strided_copy(copy: &StridedCopy) -> Result<Plan> {
    let total: usize = copy.dims.iter().product();
    if total == 0 {
        return Ok(Plan::default());
    }
    let bytes = 2.0 * (total * copy.element_bytes) as f64;
    let joined = Joined::new(copy);
    if let Some(plan) = joined.through_tiles(Cost { flops: 0.0, bytes }) {
        return Ok(plan);
    }
    let (word, joined) = joined.widest(copy.element_bytes);
    let total: usize = joined.dims.iter().product();
    let strides = joined.from.iter().chain(&joined.to);
    if joined.dims.len() > RANK || total >= 1 << 31 || strides.clone().any(|&s| i32::try_from(s).is_err()) {
        return Err(KernelError::shape(format!(
            "a copy of {:?}: at most {RANK} dimensions that cannot be joined and 2^31 elements",
            copy.dims
        )));
    }
    let divisions: Vec<(u32, u32)> = joined.dims.iter().map(|&dim| division(dim as u32)).collect();
    let parameters = Structure::default()
        .u32(total as u32)
        .u32(joined.dims.len() as u32)
        .u32s::<RANK>(joined.dims.iter().map(|&dim| dim as u32), 1)
        .u32s::<RANK>(divisions.iter().map(|division| division.0), 0)
        .u32s::<RANK>(divisions.iter().map(|division| division.1), 0)
        .i32s::<RANK>(joined.from.iter().map(|&stride| stride as i32))
        .i32s::<RANK>(joined.to.iter().map(|&stride| stride as i32))
        .i64s::<2>([joined.from_offset, joined.to_offset])
        .finish();
    let args = vec![pointer(0), pointer(1), parameters];
    Ok(overlapping(launch(
        format!("strided_copy_b{word}"),
        [blocks(total), 1, 1],
        args,
        Cost { flops: 0.0, bytes },
    )))
}

/// A copy with 1s dropped and neighbours joined; innermost first.
#[derive(Clone)]
struct Joined {
    element_bytes: usize,
    dims: Vec<usize>,
    from: Vec<i64>,
    to: Vec<i64>,
    from_offset: i64,
    to_offset: i64,
}

impl Joined {
    fn new(copy: &StridedCopy) -> Joined {
        let mut joined = Joined {
            element_bytes: copy.element_bytes,
            dims: Vec::new(),
            from: Vec::new(),
            to: Vec::new(),
            from_offset: copy.from_offset,
            to_offset: copy.to_offset,
        };
        for axis in (0..copy.dims.len()).rev().filter(|&axis| copy.dims[axis] != 1) {
            let (dim, from, to) = (copy.dims[axis], copy.from_strides[axis], copy.to_strides[axis]);
            match (joined.dims.last_mut(), joined.from.last(), joined.to.last()) {
                (Some(inner), Some(&f), Some(&t)) if from == f * *inner as i64 && to == t * *inner as i64 => {
                    *inner *= dim;
                }
                _ => {
                    joined.dims.push(dim);
                    joined.from.push(from);
                    joined.to.push(to);
                }
            }
        }
        joined
    }

    /// A copy whose source and target have different dimensions innermost, when it is worth going through tiles.
    fn through_tiles(&self, cost: Cost) -> Option<Plan> {
        let column_axis = self.from.iter().position(|&stride| stride == 1)?;
        if self.to.first() != Some(&1) || column_axis == 0 || self.dims.len() > BATCH_RANK + 2 {
            return None;
        }
        let (rows, columns) = (self.dims[0], self.dims[column_axis]);
        let (from_row, to_column) = (self.from[0], self.to[column_axis]);
        let batch: Vec<usize> = (1..self.dims.len()).filter(|&axis| axis != column_axis).collect();
        // Words of several elements need every run to begin and to end with one.
        let divides = |factor: i64| {
            let strides = |list: &[i64]| batch.iter().all(|&axis| list[axis] % factor == 0);
            [rows as i64, columns as i64, from_row, to_column, self.from_offset, self.to_offset]
                .iter()
                .all(|value| value % factor == 0)
                && strides(&self.from)
                && strides(&self.to)
        };
        let (symbol, side) = match self.element_bytes {
            1 if divides(4) && rows.min(columns) >= 64 => ("permute_b1_x4", 128),
            1 => ("permute_b1", 64),
            2 if divides(2) => ("permute_b2_x2", 64),
            2 => ("permute_b2", 64),
            4 => ("permute_b4", 64),
            8 => ("permute_b8", 32),
            _ => return None,
        };
        let (row_tiles, column_tiles) = (rows.div_ceil(side), columns.div_ceil(side));
        let copies: usize = batch.iter().map(|&axis| self.dims[axis]).product();
        let tiles = row_tiles * column_tiles * copies;
        let fits = [rows, columns, tiles].iter().all(|&count| count < 1 << 31);
        if rows.min(columns) < 8 || !fits {
            return None;
        }
        let parameters = Structure::default()
            .u32(rows as u32)
            .u32(columns as u32)
            .u32(row_tiles as u32)
            .u32(column_tiles as u32)
            .i64s::<2>([from_row, to_column])
            .u32(batch.len() as u32)
            .u32s::<BATCH_RANK>(batch.iter().map(|&axis| self.dims[axis] as u32), 1)
            .i64s::<BATCH_RANK>(batch.iter().map(|&axis| self.from[axis]))
            .i64s::<BATCH_RANK>(batch.iter().map(|&axis| self.to[axis]))
            .i64s::<2>([self.from_offset, self.to_offset])
            .finish();
        let args = vec![pointer(0), pointer(1), parameters];
        Some(overlapping(launch(symbol.into(), [tiles as u32, 1, 1], args, cost)))
    }

    /// The same copy in the widest word that divides every run, and that word's size in bytes.
    fn widest(mut self, element_bytes: usize) -> (usize, Joined) {
        let is_run = self.from.first() == Some(&1) && self.to.first() == Some(&1);
        if !is_run {
            return (element_bytes, self);
        }
        let mut factor = 16 / element_bytes;
        let divides = |joined: &Joined, factor: i64| {
            (joined.dims[0] as i64) % factor == 0
                && joined.from[1..].iter().chain(&joined.to[1..]).all(|stride| stride % factor == 0)
                && joined.from_offset % factor == 0
                && joined.to_offset % factor == 0
        };
        while factor > 1 && !divides(&self, factor as i64) {
            factor /= 2;
        }
        self.dims[0] /= factor;
        let narrow = |stride: &mut i64| *stride /= factor as i64;
        self.from[1..].iter_mut().chain(&mut self.to[1..]).for_each(narrow);
        self.from_offset /= factor as i64;
        self.to_offset /= factor as i64;
        // A run of one word is no dimension: kernels divide by every extent but the last.
        if self.dims[0] == 1 && self.dims.len() > 1 {
            self.dims.remove(0);
            self.from.remove(0);
            self.to.remove(0);
        }
        (element_bytes * factor, self)
    }
}

/// `to[o][i][n] = from[o][indices[i]][n]`. Operands: 0 the target, 1 the source, 2 the indices (i64 when `is_wide`, else
/// i32; negative ones count from the end).
pub fn gather_rows(
    element_bytes: usize,
    [outer, axis, count, inner]: [usize; 4],
    is_wide: bool,
) -> Result<Plan> {
    let mut word = 16;
    while !(inner * element_bytes).is_multiple_of(word) {
        word /= 2;
    }
    let words = inner * element_bytes / word;
    let total = outer * count * words;
    if total == 0 {
        return Ok(Plan::default());
    }
    if total >= 1 << 31 || axis >= 1 << 31 {
        return Err(KernelError::shape(format!("gathering {total} words: at most 2^31 - 1")));
    }
    let sizes = [usize::from(is_wide), outer, axis, count, words].map(|size| Arg::U32(size as u32));
    let args = [pointer(0), pointer(1), pointer(2)].into_iter().chain(sizes).collect();
    let bytes = 2.0 * (total * word) as f64;
    let cost = Cost { flops: 0.0, bytes };
    Ok(overlapping(launch(format!("gather_rows_b{word}"), [blocks(total), 1, 1], args, cost)))
}

/// `to[position] = from[position with axis replaced by indices[position]]`. Operands as [`gather_rows`].
pub fn gather_elements(
    element_bytes: usize,
    data: &[usize],
    indices: &[usize],
    axis: usize,
    is_wide: bool,
) -> Result<Plan> {
    let total: usize = indices.iter().product();
    if total == 0 {
        return Ok(Plan::default());
    }
    let strides = contiguous(data);
    if data.len() > RANK || total >= 1 << 31 || strides.iter().any(|&stride| i32::try_from(stride).is_err()) {
        return Err(KernelError::shape(format!("gathering from {data:?}: at most {RANK} dimensions")));
    }
    let parameters = Structure::default()
        .u32(total as u32)
        .u32(data.len() as u32)
        .u32s::<RANK>(indices.iter().rev().map(|&dim| dim as u32), 1)
        .i32s::<RANK>(strides.iter().rev().map(|&stride| stride as i32))
        .u32((data.len() - 1 - axis) as u32)
        .u32(data[axis] as u32)
        .u32(is_wide.into())
        .finish();
    let args = vec![pointer(0), pointer(1), pointer(2), parameters];
    let bytes = total as f64 * (2 * element_bytes + if is_wide { 8 } else { 4 }) as f64;
    let cost = Cost { flops: 0.0, bytes };
    let symbol = format!("gather_elements_b{element_bytes}");
    Ok(overlapping(launch(symbol, [blocks(total), 1, 1], args, cost)))
}

/// Writes `bits` to `count` elements of operand 0.
pub fn fill(element_bytes: usize, count: usize, bits: u64) -> Result<Plan> {
    if count == 0 {
        return Ok(Plan::default());
    }
    if count >= 1 << 31 {
        return Err(KernelError::shape(format!("filling {count} elements: at most 2^31 - 1")));
    }
    let args = vec![pointer(0), Arg::U32(count as u32), Arg::I64(bits as i64)];
    let bytes = (count * element_bytes) as f64;
    let cost = Cost { flops: 0.0, bytes };
    Ok(overlapping(launch(format!("fill_b{element_bytes}"), [blocks(count), 1, 1], args, cost)))
}

/// What the build compiles.
pub fn unit(arch: Text) -> Unit {
    let own = Text { path: "device/layout.cu", text: include_str!("../../device/layout.cu") };
    let sized = |name: &str, sizes: &[usize]| -> Vec<_> {
        sizes.iter().map(|size| kernel(format!("{name}_b{size}"))).collect()
    };
    let words = [1, 2, 4, 8, 16];
    let kernels = [("strided_copy", 5), ("gather_rows", 5), ("gather_elements", 4), ("fill", 4)];
    let permutes = ["b1", "b1_x4", "b2", "b2_x2", "b4", "b8"].map(|name| kernel(format!("permute_{name}")));
    Unit {
        name: "layout".into(),
        texts: vec![arch, scalar::TEXT, own],
        defines: vec![
            ("COPY_RANK".into(), RANK.to_string()),
            ("PERMUTE_BATCH".into(), BATCH_RANK.to_string()),
        ],
        kernels: kernels
            .iter()
            .flat_map(|(name, sizes)| sized(name, &words[..*sizes]))
            .chain(permutes)
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(dims: &[usize], from: &[i64], to: &[i64]) -> StridedCopy {
        StridedCopy {
            element_bytes: 4,
            dims: dims.into(),
            from_strides: from.into(),
            from_offset: 0,
            to_strides: to.into(),
            to_offset: 0,
        }
    }

    #[test]
    fn rows_are_copied_in_wide_words_and_matrices_through_tiles() {
        let symbol = |copy: &StridedCopy| strided_copy(copy).unwrap().launches[0].symbol.clone();
        assert_eq!(symbol(&copy(&[3, 8], &[16, 1], &[8, 1])), "strided_copy_b16");
        assert_eq!(symbol(&copy(&[3, 6], &[16, 1], &[6, 1])), "strided_copy_b8");
        assert_eq!(symbol(&copy(&[3, 7], &[16, 1], &[7, 1])), "strided_copy_b4");
        assert_eq!(symbol(&copy(&[40, 50], &[1, 40], &[50, 1])), "permute_b4");
        let heads = copy(&[2, 9, 50, 70], &[31500, 50, 1, 450], &[31500, 3500, 70, 1]);
        assert_eq!(symbol(&heads), "permute_b4");
        // One wide word a row: the only dimension left is the rows.
        let rows = strided_copy(&copy(&[2, 2], &[2, 1], &[4, 1])).unwrap();
        let Arg::Bytes { bytes, .. } = &rows.launches[0].args[2] else { panic!("parameters come last") };
        assert_eq!(
            (rows.launches[0].symbol.as_str(), &bytes[..12]),
            ("strided_copy_b8", &[2, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0][..])
        );
        assert!(strided_copy(&copy(&[0, 5], &[5, 1], &[5, 1])).unwrap().launches.is_empty());
    }
}
