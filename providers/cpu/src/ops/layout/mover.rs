//! Copies an N-dimensional box of cells between two strided memories: the one loop under Transpose, Concat, Slice,
//! Expand, Tile and every other operator that only moves elements.
//!
//! Strides are turned to bytes, dimensions that both sides step through evenly are merged, and what is left is either
//! runs of contiguous bytes or a two-dimensional tile walked so that both sides stay in the cache.

use smallvec::SmallVec;
use tenon_kernels::parallel::{Parallel, SharedMut, for_each_range};

use crate::error::{OpError, Result};

/// Work given to one thread at least, in bytes.
const GRAIN_BYTES: usize = 64 << 10;

/// Side of the square tile in which a transposition is done.
const TILE: usize = 16;

/// Most cells of a source line that are read while its page is at hand.
const BAND: usize = 4 * TILE;

/// Signed strides in cells, outermost first.
pub type Strides = SmallVec<[isize; 6]>;

/// Where a box lies in a memory: the cell of its first element and the step of each dimension, in cells.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    pub start: usize,
    pub strides: &'a [isize],
}

/// Row-major strides of a tensor, signed.
pub fn strides_of(dims: &[usize]) -> Strides {
    let mut strides = Strides::from_elem(0, dims.len());
    let mut step = 1isize;
    for (stride, &dim) in strides.iter_mut().zip(dims).rev() {
        *stride = step;
        step = step.wrapping_mul(dim as isize);
    }
    strides
}

#[derive(Clone, Copy, Debug)]
struct Axis {
    len: usize,
    from: isize,
    to: isize,
}

type Axes = SmallVec<[Axis; 6]>;

/// Copies a box of shape `dims` with cells of `cell` bytes from `source` to `destination`. Errors when either side
/// leaves its memory. Every cell of the destination box must be a different one.
pub fn copy(
    parallel: &dyn Parallel,
    cell: usize,
    dims: &[usize],
    from: Side<'_>,
    source: &[u8],
    to: Side<'_>,
    destination: &mut [u8],
) -> Result<()> {
    if dims.contains(&0) {
        return Ok(());
    }
    let mut axes = merged(cell, dims, from.strides, to.strides);
    let (from_start, to_start) = (from.start * cell, to.start * cell);
    let inside = |start: usize, memory: usize, step: fn(&Axis) -> isize| {
        let reach = axes.iter().map(|axis| (axis.len - 1) as isize * step(axis));
        let low: isize = reach.clone().filter(|&r| r < 0).sum();
        let high: isize = reach.filter(|&r| r > 0).sum();
        start as isize + low >= 0 && (start as isize + high) as usize + cell <= memory
    };
    if !inside(from_start, source.len(), |axis| axis.from)
        || !inside(to_start, destination.len(), |axis| axis.to)
    {
        return Err(OpError::invalid(format!("a copy of shape {dims:?} leaves its tensor")));
    }
    let mut run = cell;
    if let Some(last) = axes.last().copied()
        && last.from == cell as isize
        && last.to == cell as isize
    {
        run = cell * last.len;
        axes.pop();
    }
    let shared = SharedMut::new(destination);
    // SAFETY: every offset the box reaches was checked above to stay inside the slices.
    let (source, target) =
        unsafe { (Pointer(source.as_ptr().add(from_start)), Target(shared.pointer().add(to_start))) };
    match run {
        1 => tiles::<u8>(parallel, axes, source, target),
        2 => tiles::<u16>(parallel, axes, source, target),
        4 => tiles::<u32>(parallel, axes, source, target),
        8 => tiles::<u64>(parallel, axes, source, target),
        16 => tiles::<u128>(parallel, axes, source, target),
        _ => runs(parallel, axes, run, source, target),
    }
    Ok(())
}

/// Copies rows: row `i` of `destination` is row `index(i)` of `source`, each of `row` bytes.
pub fn copy_rows(
    parallel: &dyn Parallel,
    row: usize,
    source: &[u8],
    destination: &mut [u8],
    index: impl Fn(usize) -> usize + Sync,
) {
    if row == 0 || destination.is_empty() {
        return;
    }
    let rows = destination.len() / row;
    let shared = SharedMut::new(destination);
    for_each_range(parallel, rows, GRAIN_BYTES.div_ceil(row.max(16)), 1, &|range| {
        // SAFETY: ranges of rows are disjoint.
        let part = unsafe { shared.slice(range.start * row..range.end * row) };
        let rows = range.clone().zip(part.chunks_exact_mut(row));
        match row {
            1 => rows.for_each(|(i, to)| copy_fixed::<1>(source, index(i), to)),
            2 => rows.for_each(|(i, to)| copy_fixed::<2>(source, index(i), to)),
            4 => rows.for_each(|(i, to)| copy_fixed::<4>(source, index(i), to)),
            8 => rows.for_each(|(i, to)| copy_fixed::<8>(source, index(i), to)),
            _ => rows.for_each(|(i, to)| to.copy_from_slice(&source[index(i) * row..][..row])),
        }
    });
}

/// Writes `pattern` (1, 2, 4, 8 or 16 bytes) over and over.
pub fn fill(destination: &mut [u8], pattern: &[u8]) {
    if pattern.iter().all(|&byte| byte == pattern[0]) {
        return destination.fill(pattern[0]);
    }
    match pattern.len() {
        2 => fill_fixed::<2>(destination, pattern),
        4 => fill_fixed::<4>(destination, pattern),
        8 => fill_fixed::<8>(destination, pattern),
        _ => destination.chunks_exact_mut(pattern.len()).for_each(|cell| cell.copy_from_slice(pattern)),
    }
}

#[inline]
fn copy_fixed<const N: usize>(source: &[u8], index: usize, to: &mut [u8]) {
    to[..N].copy_from_slice(&source[index * N..index * N + N]);
}

fn fill_fixed<const N: usize>(destination: &mut [u8], pattern: &[u8]) {
    let pattern: [u8; N] = pattern.try_into().expect("the caller matched the length");
    destination.as_chunks_mut::<N>().0.fill(pattern);
}

#[derive(Clone, Copy)]
struct Pointer(*const u8);
#[derive(Clone, Copy)]
struct Target(*mut u8);

// SAFETY: tasks only read through it, and the slice it came from is borrowed for the whole copy.
unsafe impl Sync for Pointer {}
// SAFETY: tasks write disjoint cells, and the slice it came from is borrowed mutably for the whole copy.
unsafe impl Sync for Target {}

/// The box's dimensions with byte strides; size-1 dimensions dropped and evenly stepped neighbours merged.
fn merged(cell: usize, dims: &[usize], from: &[isize], to: &[isize]) -> Axes {
    let mut axes = Axes::new();
    for (i, &len) in dims.iter().enumerate() {
        if len == 1 {
            continue;
        }
        let next = Axis { len, from: from[i] * cell as isize, to: to[i] * cell as isize };
        match axes.last_mut() {
            Some(last) if last.from == next.from * len as isize && last.to == next.to * len as isize => {
                *last = Axis { len: last.len * len, ..next };
            }
            _ => axes.push(next),
        }
    }
    axes
}

/// Byte offsets of the `flat`-th position of `axes`, counted row by row.
fn offsets(axes: &[Axis], mut flat: usize) -> (isize, isize) {
    let (mut from, mut to) = (0, 0);
    for axis in axes.iter().rev() {
        let position = (flat % axis.len) as isize;
        flat /= axis.len;
        from += position * axis.from;
        to += position * axis.to;
    }
    (from, to)
}

/// Copies contiguous runs of `run` bytes, one at each position of `axes`.
fn runs(parallel: &dyn Parallel, axes: Axes, run: usize, source: Pointer, target: Target) {
    let (outer, inner) = match axes.split_last() {
        Some((inner, outer)) => (outer, *inner),
        None => return long_run(parallel, run, source, target),
    };
    let count: usize = outer.iter().map(|axis| axis.len).product();
    // Blocks of the inner axis are tasks of their own, so that few long rows still spread over the threads.
    let block = (GRAIN_BYTES / run).clamp(1, inner.len);
    let blocks = inner.len.div_ceil(block);
    for_each_range(parallel, count * blocks, GRAIN_BYTES.div_ceil(block * run), 1, &|range| {
        let (source, target) = (&source, &target);
        for task in range {
            let (from, to) = offsets(outer, task / blocks);
            let first = task % blocks * block;
            for i in first..inner.len.min(first + block) {
                let (from, to) = (from + i as isize * inner.from, to + i as isize * inner.to);
                // SAFETY: `copy` checked that the whole box lies inside both memories, which do not overlap.
                unsafe { std::ptr::copy_nonoverlapping(source.0.offset(from), target.0.offset(to), run) };
            }
        }
    });
}

fn long_run(parallel: &dyn Parallel, run: usize, source: Pointer, target: Target) {
    for_each_range(parallel, run, 4 * GRAIN_BYTES, 64, &|range| {
        let (source, target) = (&source, &target);
        // SAFETY: `copy` checked that the run lies inside both memories, and ranges are disjoint.
        unsafe {
            std::ptr::copy_nonoverlapping(source.0.add(range.start), target.0.add(range.start), range.len());
        }
    });
}

/// Copies single cells of type `T`. The last axis is the inner loop; the axis along which the source is most nearly
/// contiguous, when it is another one, is walked in tiles with it.
fn tiles<T: Copy>(parallel: &dyn Parallel, mut axes: Axes, source: Pointer, target: Target) {
    let Some(inner) = axes.pop() else {
        // SAFETY: `copy` checked that the one cell lies inside both memories.
        return unsafe { target.0.cast::<T>().write_unaligned(source.0.cast::<T>().read_unaligned()) };
    };
    let nearest = (0..axes.len()).filter(|&i| axes[i].from != 0).min_by_key(|&i| axes[i].from.abs());
    let crossing = nearest.filter(|&i| inner.from != 0 && axes[i].from.abs() < inner.from.abs());
    let across = crossing.map_or(Axis { len: 1, from: 0, to: 0 }, |i| axes.remove(i));
    let count: usize = axes.iter().map(|axis| axis.len).product();
    // Long pieces on the side whose lines lie farther apart.
    let width = if across.to.abs() > inner.from.abs() { TILE } else { BAND };
    let bands = across.len.div_ceil(width);
    let band_bytes = across.len.min(width) * inner.len * size_of::<T>();
    for_each_range(parallel, count * bands, GRAIN_BYTES.div_ceil(band_bytes), 1, &|range| {
        let (source, target) = (&source, &target);
        for task in range {
            let (from, to) = offsets(&axes, task / bands);
            let first = task % bands * width;
            let band = Axis { len: (across.len - first).min(width), ..across };
            let (from, to) = (from + first as isize * across.from, to + first as isize * across.to);
            // SAFETY: `copy` checked that the whole box lies inside both memories.
            unsafe { copy_band::<T>(band, inner, source.0.offset(from), target.0.offset(to)) };
        }
    });
}

/// Copies `across.len <= BAND` rows of `inner.len` cells, a tile at a time.
///
/// # Safety
/// Every cell of the two axes must lie inside the memories behind the pointers.
unsafe fn copy_band<T: Copy>(across: Axis, inner: Axis, source: *const u8, target: *mut u8) {
    if across.len == 1 {
        // SAFETY: the caller's contract.
        return unsafe { copy_line::<T>(inner, source, target) };
    }
    let size = size_of::<T>() as isize;
    let is_contiguous = across.from == size && inner.to == size;
    for left in (0..inner.len).step_by(TILE) {
        let line = Axis { len: (inner.len - left).min(TILE), ..inner };
        for top in (0..across.len).step_by(TILE) {
            let rows = (across.len - top).min(TILE);
            // SAFETY: the caller's contract; the offsets are positions of the two axes.
            unsafe {
                let from = source.offset(top as isize * across.from + left as isize * inner.from);
                let to = target.offset(top as isize * across.to + left as isize * inner.to);
                if is_contiguous && rows == TILE && line.len == TILE {
                    transpose_tile::<T>(across, inner, from, to);
                    continue;
                }
                for row in 0..rows as isize {
                    copy_line::<T>(line, from.offset(row * across.from), to.offset(row * across.to));
                }
            }
        }
    }
}

/// Transposes a full tile whose source lines and target lines are contiguous. Going through a buffer reads each line
/// once, also where the lines fall into the same set of the cache.
///
/// # Safety
/// `TILE` lines of `TILE` cells must lie inside the memories behind the pointers.
unsafe fn transpose_tile<T: Copy>(across: Axis, inner: Axis, source: *const u8, target: *mut u8) {
    // SAFETY: the caller's contract; arrays of cells have no padding between them.
    unsafe {
        let line = |i: usize| source.offset(i as isize * inner.from).cast::<[T; TILE]>().read_unaligned();
        let tile: [[T; TILE]; TILE] = std::array::from_fn(line);
        for row in 0..TILE as isize {
            let turned: [T; TILE] = std::array::from_fn(|i| tile[i][row as usize]);
            target.offset(row * across.to).cast::<[T; TILE]>().write_unaligned(turned);
        }
    }
}

/// Copies one line of cells.
///
/// # Safety
/// Every cell of the axis must lie inside the memories behind the pointers.
#[inline]
unsafe fn copy_line<T: Copy>(line: Axis, source: *const u8, target: *mut u8) {
    let size = size_of::<T>() as isize;
    // SAFETY: the caller's contract.
    unsafe {
        if line.from == 0 && line.to == size {
            let value = source.cast::<T>().read_unaligned();
            for i in 0..line.len {
                target.cast::<T>().add(i).write_unaligned(value);
            }
        } else if line.to == size {
            for i in 0..line.len {
                let value = source.offset(i as isize * line.from).cast::<T>().read_unaligned();
                target.cast::<T>().add(i).write_unaligned(value);
            }
        } else {
            for i in 0..line.len as isize {
                let value = source.offset(i * line.from).cast::<T>().read_unaligned();
                target.offset(i * line.to).cast::<T>().write_unaligned(value);
            }
        }
    }
}
