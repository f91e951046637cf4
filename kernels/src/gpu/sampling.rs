//! Choosing tokens from rows of scores. The kernels are `device/sampling.cu` and `device/sample.cu`.

use super::launch::{Arg, Launch, Plan};
use super::scalar::{self, Scalar, kernel, launch, overlapping, pointer};
use super::unit::{Kernel, Text, Unit};
use crate::error::{KernelError, Result};
use crate::estimate::Cost;

/// Elements that a block looks through at least.
const SLICE: usize = 1024;
/// Blocks of a row at most.
const SLICES: usize = 256;
/// Columns of a row that a token is drawn from at most: sums of 40-bit weights fit 64 bits.
const MAX_COLUMNS: usize = 1 << 20;
/// Threads of a block that draws at most.
const DRAW_THREADS: u32 = 1024;
/// A score and its position.
const CANDIDATE_BYTES: u64 = 8;

/// The position of the largest score of every row, the first of equals. Operands: 0 the positions, i64 `[rows]`; 1 the
/// scores `[rows, columns]`.
pub fn largest(scalar: Scalar, rows: usize, columns: usize) -> Result<Plan> {
    if !scalar.is_float() {
        return Err(KernelError::parameter(format!("scores of type {}", scalar.suffix())));
    }
    if rows == 0 {
        return Ok(Plan::default());
    }
    if columns == 0 || columns >= 1 << 31 || rows > 65_535 {
        return Err(KernelError::shape(format!(
            "{rows} rows of {columns} scores: at most 65535 of 1 to 2^31 - 1"
        )));
    }
    let slice = columns.div_ceil(SLICES).max(SLICE).next_multiple_of(SLICE);
    let slices = columns.div_ceil(slice);
    let vector = if columns.is_multiple_of(4) { 4 } else { 1 };
    let elements = (rows * columns) as f64;
    let own = Arg::Workspace { offset_bytes: 0 };
    let args = vec![own.clone(), pointer(1), Arg::U32(columns as u32), Arg::U32(slice as u32)];
    let symbol = format!("largest_of_slice_{}_v{vector}", scalar.suffix());
    let cost = Cost { flops: elements, bytes: elements * scalar.bytes() as f64 };
    let mut plan = launch(symbol, [slices as u32, rows as u32, 1], args, cost);
    let args = vec![pointer(0), own, Arg::U32(slices as u32)];
    let bytes = (rows * slices) as f64 * CANDIDATE_BYTES as f64;
    let last =
        launch("largest_of_row".into(), [rows as u32, 1, 1], args, Cost { flops: 0.0, bytes }).launches;
    plan.launches.extend::<Vec<Launch>>(last);
    plan.workspace_bytes = (rows * slices) as u64 * CANDIDATE_BYTES;
    Ok(overlapping(plan))
}

/// Operands of [`draw`]: the tokens, i32 `[rows]`; the scores; temperatures, top_k, top_p, min_p and seeds, one a row; the
/// log-probabilities, f32 `[rows]`, or absent.
pub const DRAW_OPERANDS: usize = 8;

/// Draws one token from each row of scores `[rows, columns]` as [`crate::cpu::sampling`] does. `is_aligned`: the scores
/// begin at a multiple of four elements' bytes.
///
/// # Errors
/// Scores of another type than f32, f16 and bf16; no columns, or more than 2^20.
pub fn draw(scalar: Scalar, rows: usize, columns: usize, is_aligned: bool) -> Result<Plan> {
    if !scalar.is_float() {
        return Err(KernelError::parameter(format!("scores of type {}", scalar.suffix())));
    }
    if columns == 0 || columns > MAX_COLUMNS || rows >= 1 << 31 {
        return Err(KernelError::shape(format!(
            "{rows} rows of {columns} scores: 1 to {MAX_COLUMNS} of them"
        )));
    }
    if rows == 0 {
        return Ok(Plan::default());
    }
    let vector = if is_aligned && columns.is_multiple_of(4) { 4 } else { 1 };
    let threads = match columns {
        0..=1024 => 128,
        1025..=16_384 => 256,
        _ => DRAW_THREADS,
    };
    let bytes = (rows * columns * scalar.bytes()) as f64;
    // The row is read two to four times, from the cache but for the first.
    let cost = Cost { flops: 40.0 * (rows * columns) as f64, bytes: 1.5 * bytes };
    let mut args: Vec<Arg> = (0..DRAW_OPERANDS).map(pointer).collect();
    args.push(Arg::U32(columns as u32));
    let symbol = format!("sample_{}_v{vector}", scalar.suffix());
    let mut plan = launch(symbol, [rows as u32, 1, 1], args, cost);
    for launch in &mut plan.launches {
        launch.block = [threads, 1, 1];
    }
    Ok(overlapping(plan))
}

/// What the build compiles for [`draw`]: `atomics` are the arch's primitives for updates of one place.
pub fn draw_unit(arch: Text, atomics: Text) -> Unit {
    let own = Text { path: "device/sample.cu", text: include_str!("../../device/sample.cu") };
    let symbols = ["f32", "f16", "bf16"].map(|suffix| [1, 4].map(|v| format!("sample_{suffix}_v{v}")));
    let kernel = |symbol| Kernel { threads: DRAW_THREADS, ..kernel(symbol) };
    Unit {
        name: "sample".into(),
        texts: vec![arch, atomics, scalar::TEXT, own],
        defines: Vec::new(),
        kernels: symbols.into_iter().flatten().map(kernel).collect(),
    }
}

/// What the build compiles.
pub fn unit(arch: Text) -> Unit {
    let own = Text { path: "device/sampling.cu", text: include_str!("../../device/sampling.cu") };
    let slices = ["f32", "f16", "bf16"]
        .map(|suffix| [1, 4].map(|vector| kernel(format!("largest_of_slice_{suffix}_v{vector}"))));
    Unit {
        name: "sampling".into(),
        texts: vec![arch, scalar::TEXT, own],
        defines: Vec::new(),
        kernels: slices.into_iter().flatten().chain([kernel("largest_of_row")]).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_cover_a_row_and_their_winners_fit_the_workspace() {
        for columns in [1, 1023, 1024, 1025, 128_256, 1 << 20] {
            let plan = largest(Scalar::BF16, 3, columns).unwrap();
            let [slices, rows, _] = plan.launches[0].grid;
            let Arg::U32(slice) = plan.launches[0].args[3] else { panic!("the slice is a number") };
            assert!(slices * slice >= columns as u32 && (slices - 1) * slice < columns as u32, "{columns}");
            assert_eq!((rows, plan.workspace_bytes), (3, u64::from(slices) * 24));
            assert!(slices as usize <= SLICES);
        }
    }

    #[test]
    fn integers_and_empty_rows_are_refused() {
        assert!(largest(Scalar::I32, 1, 8).is_err());
        assert!(largest(Scalar::F32, 1, 0).is_err());
        assert!(largest(Scalar::F32, 0, 8).unwrap().launches.is_empty());
    }
}
