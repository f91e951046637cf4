//! Scales of block-scaled operands (MXFP8, MXFP4) in the order that the main loops of CDNA4 read them: `arch/cdna/matmul_blocks.h`
//! says which. [`pack`] is the host's way there, for constant operands; [`pack_plan`] the device's.

use super::params::{Params, Schedule};
use crate::error::{KernelError, Result};
use crate::estimate::Cost;
use crate::gpu::arch::{self, Arch};
use crate::gpu::launch::{Arg, Launch, Plan};
use crate::gpu::matmul::{BLOCK, Element, Kind, Layout, Output};
use crate::gpu::unit::{Kernel, Unit};

/// Rows of an operand whose scales lie together.
const UNIT_ROWS: usize = 32;

/// Which operand of a product scales belong to: columns of B are permuted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    A,
    B,
}

/// Bytes of a unit of 32 rows and one step: 64 lanes with a byte for each of two tiles and each part of the step; 0 for an
/// element without block scales.
pub(super) fn unit_bytes(element: Element) -> u32 {
    if element.has_blocks() { 128 * parts(element) as u32 } else { 0 }
}

/// Matrix instructions' worth of K in a step.
fn parts(element: Element) -> usize {
    element.values()
}

/// Bytes of the packed scales of one matrix of `rows` rows and `k` values along K.
pub fn packed_bytes(element: Element, rows: usize, k: usize) -> usize {
    rows.div_ceil(UNIT_ROWS) * k.div_ceil(4 * BLOCK * parts(element)) * unit_bytes(element) as usize
}

/// Column of 32 that LDS row `row` of B holds.
fn column_of(row: usize) -> usize {
    (row >> 2 & 3) << 3 | (row >> 4 & 1) << 2 | (row & 3)
}

/// Row and block whose scale is byte `at` of the packed scales.
fn source(element: Element, side: Side, units: usize, at: usize) -> (usize, usize) {
    let (parts, unit_bytes) = (parts(element), unit_bytes(element) as usize);
    let (tile, part, lane) = (at % 2, at / 2 % parts, at / (2 * parts) % 64);
    let (unit, step) = (at / unit_bytes % units, at / unit_bytes / units);
    let inside = tile * 16 + lane % 16;
    let row = unit * UNIT_ROWS + if side == Side::B { column_of(inside) } else { inside };
    (row, (step * parts + part) * 4 + lane / 16)
}

/// Packs scales given as `rows` rows of a byte for each block of `k` values. What lies outside is 0, a number.
pub fn pack(element: Element, side: Side, [rows, k]: [usize; 2], scales: &[u8]) -> Vec<u8> {
    let (blocks, units) = (k.div_ceil(BLOCK), rows.div_ceil(UNIT_ROWS));
    let byte = |at| {
        let (row, block) = source(element, side, units, at);
        if row < rows && block < blocks { scales[row * blocks + block] } else { 0 }
    };
    (0..packed_bytes(element, rows, k)).map(byte).collect()
}

/// The launch that packs the scales of `matrices` matrices. Operands: 0 packed, 1 rows of a byte for each block.
pub fn pack_plan(arch: &str, element: Element, side: Side, [matrices, rows, k]: [usize; 3]) -> Result<Plan> {
    if !is_supported(arch::find(arch)?, element)? {
        return Err(KernelError::parameter(format!("arch '{arch}' has no products of {}", element.name())));
    }
    let words = packed_bytes(element, rows, k) / 4;
    let blocks = k.div_ceil(BLOCK);
    let too_many = || KernelError::shape(format!("{matrices} x {rows} x {blocks} scales are too many"));
    let grid = [u32::try_from(words.div_ceil(256)), u32::try_from(matrices)];
    let [Ok(x), Ok(y)] = grid else { return Err(too_many()) };
    if words >= 1 << 30 || y >= 1 << 16 {
        return Err(too_many());
    }
    let launch = Launch {
        symbol: symbol(arch, element, side),
        grid: [x, y, 1],
        block: [256, 1, 1],
        cluster: [1, 1, 1],
        shared_bytes: 0,
        args: vec![
            Arg::Pointer { operand: 0, offset_bytes: 0 },
            Arg::Pointer { operand: 1, offset_bytes: 0 },
            Arg::U32(rows as u32),
            Arg::U32(blocks as u32),
        ],
        is_dependent_launch: false,
        cost: Cost { flops: 0.0, bytes: (matrices * (4 * words + rows * blocks)) as f64 },
    };
    Ok(Plan { launches: vec![launch], ..Plan::default() })
}

fn symbol(arch: &str, element: Element, side: Side) -> String {
    format!("pack_scales_{side:?}_{}__{arch}", element.name()).to_lowercase()
}

/// Whether the family's table has products of the element.
pub fn is_supported(arch: &Arch, element: Element) -> Result<bool> {
    if arch.operator("matmul")?.mainloop != arch::Mainloop::Mfma {
        return Ok(false);
    }
    let candidates = &super::table(arch.name)?.candidates;
    Ok(candidates.iter().flat_map(|candidate| &candidate.kinds).any(|kind| kind.input == element))
}

/// What the build compiles: a unit for each block-scaled element of the family's table.
pub(super) fn units(arch: &Arch) -> Result<Vec<Unit>> {
    let mut units = Vec::new();
    for element in [Element::MXFP8, Element::MXFP4] {
        if is_supported(arch, element)? {
            units.push(unit(arch, element)?);
        }
    }
    Ok(units)
}

fn unit(arch: &Arch, element: Element) -> Result<Unit> {
    // The smallest tile that the shared text describes.
    let params = Params {
        schedule: Schedule::Ring,
        bm: 32,
        bn: 32,
        waves_m: 1,
        waves_n: 1,
        mma: 16,
        stages: 2,
        phases: 4,
        group: 1,
        chunk: 0,
        splits: 1,
        is_gated: false,
    };
    let kind = Kind { input: element, output: Output::F32, layout: Layout::NT };
    let texts = arch.operator("matmul")?.texts("scales")?;
    let mut unit = params.unit(arch.name, kind, &texts, &arch.chip_of("")?);
    unit.name = format!("pack_scales_{}__{}", element.name(), arch.name);
    unit.defines.retain(|(name, _)| name != "SYMBOL");
    unit.kernels.clear();
    for side in [Side::A, Side::B] {
        let symbol = symbol(arch.name, element, side);
        unit.defines.push((format!("SCALES_{side:?}"), symbol.clone()));
        unit.kernels.push(Kernel {
            symbol,
            threads: 256,
            shared_bytes: 0,
            required: Vec::new(),
            forbidden: vec!["scratch_"],
            planned: Default::default(),
        });
    }
    Ok(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scale_has_one_place_and_the_rest_are_numbers() {
        for element in [Element::MXFP8, Element::MXFP4] {
            for side in [Side::A, Side::B] {
                for [rows, k] in [[1, 32], [33, 96], [64, 256], [95, 800]] {
                    let blocks = k / BLOCK;
                    let scales: Vec<u8> = (0..rows * blocks).map(|at| (at % 250) as u8 + 1).collect();
                    let mut packed = pack(element, side, [rows, k], &scales);
                    assert!(packed.iter().all(|byte| *byte != 255));
                    packed.retain(|byte| *byte != 0);
                    packed.sort_unstable();
                    let mut wanted = scales;
                    wanted.sort_unstable();
                    assert_eq!(packed, wanted, "{element:?} {side:?} {rows} x {k}");
                }
            }
        }
    }

    #[test]
    fn a_lane_finds_the_scales_of_its_rows_and_blocks() {
        // MXFP8, second of two units, second step: lane 21 is row 5 of each tile and block 1.
        let at = (2 + 1) * 128 + 21 * 2;
        assert_eq!(source(Element::MXFP8, Side::A, 2, at), (32 + 5, 4 + 1));
        assert_eq!(source(Element::MXFP8, Side::A, 2, at + 1), (32 + 16 + 5, 4 + 1));
        // Row 21 of B's tile is column 12 of its 32.
        assert_eq!(source(Element::MXFP8, Side::B, 2, at + 1), (32 + 12 + 1, 4 + 1));
        // MXFP4, first unit and step, lane 50, second part: block 4 + 3.
        assert_eq!(source(Element::MXFP4, Side::A, 1, 50 * 4 + 2), (2, 7));
    }
}
