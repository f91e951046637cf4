//! Products with packed weights of 4 or 8 bits on CDNA (`arch/cdna/matmul_packed.hip`): few rows of activations are multiplied
//! as weights stream by, for more rows the weights are unpacked once into the workspace.

use super::plan::{self, Meeting};
use super::select;
use crate::error::Result;
use crate::estimate::Cost;
use crate::gpu::arch;
use crate::gpu::chip::Chip;
use crate::gpu::launch::{Arg, Launch, Plan};
use crate::gpu::matmul::nbits::{self, NBits, Weights};
use crate::gpu::matmul::{A, B, BIAS, D, Element, Kind, Layout, Matrix, Output, Problem, RESIDUAL};
use crate::gpu::scalar::Scalar;
use crate::gpu::unit::{Kernel, Planned, Unit};

/// What a kernel is compiled for, beside type and bits.
const GROUPS: [usize; 4] = [16, 32, 64, 128];
/// Rows and columns of a workgroup, and its waves, which split K.
const ROWS: usize = 16;
const COLUMNS: usize = 32;
const WAVES: u32 = 8;
/// Rows of activations above which unpacking costs less than reading the weights for every 16 of them.
const STREAMED_ROWS: usize = 48;

fn symbol(what: &str, arch: &str, weights: &Weights) -> String {
    let (scalar, bits, group) = (weights.scalar.suffix(), weights.bits, weights.group.min(GROUPS[3]));
    let zeros = if weights.has_zeros { "_z" } else { "" };
    format!("{what}_{scalar}_w{bits}_g{group}{zeros}__{arch}__bm{ROWS}_bn{COLUMNS}_wv{WAVES}")
}

/// The launches of a product. Operands as [`crate::gpu::matmul::A`] documents; `B` is the packed weights.
pub fn packed(arch: &str, problem: &NBits, chip: &Chip) -> Result<Plan> {
    let dense = dense(problem);
    dense.check()?;
    plan::check_addresses(&dense)?;
    if problem.m <= STREAMED_ROWS {
        return stream(arch, problem, &dense, chip);
    }
    let mut plan = plan::plan(arch, &dense, &select(arch, &dense, chip)?, chip)?;
    let offset_bytes = plan.workspace_bytes.next_multiple_of(256);
    let weights = Arg::Workspace { offset_bytes };
    for arg in plan.launches.iter_mut().flat_map(|launch| &mut launch.args) {
        if matches!(arg, Arg::Pointer { operand: B, .. }) {
            *arg = weights.clone();
        }
    }
    plan.launches.insert(0, unpack(arch, &problem.weights, weights));
    let Weights { n, k, scalar, .. } = problem.weights;
    plan.workspace_bytes = offset_bytes + (n * k * scalar.bytes()).next_multiple_of(4) as u64;
    Ok(plan)
}

/// The problem with weights as they are after unpacking.
fn dense(problem: &NBits) -> Problem {
    let Weights { n, k, scalar, .. } = problem.weights;
    let (input, output) = match scalar {
        Scalar::BF16 => (Element::BF16, Output::BF16),
        Scalar::F16 => (Element::F16, Output::F16),
        _ => (Element::F32, Output::F32),
    };
    Problem {
        kind: Kind { input, output, layout: Layout::NT },
        m: problem.m,
        n,
        k,
        batches: 1,
        a: Matrix::packed(k),
        b: Matrix::packed(k),
        d: Matrix::packed(n),
        epilogue: problem.epilogue,
    }
}

fn stream(arch: &str, problem: &NBits, dense: &Problem, chip: &Chip) -> Result<Plan> {
    let NBits { weights, m, epilogue } = problem;
    let pointer = |operand| Arg::Pointer { operand, offset_bytes: 0 };
    let optional = |is_there: bool, operand| if is_there { pointer(operand) } else { Arg::I64(0) };
    let values = m * (weights.k + weights.n) * weights.scalar.bytes();
    let bytes = (weights.packed_bytes() + values) as f64;
    let tiles = [weights.n.div_ceil(COLUMNS) as u32, m.div_ceil(ROWS) as u32];
    let groups = tiles[0] * tiles[1];
    // Every wave of every part has records.
    let most = (weights.records() / WAVES as usize).clamp(1, 16) as u32;
    let splits = super::table(arch)?.stream_splits(groups, bytes, most, chip);
    let meeting = Meeting::new(groups.into(), splits, (ROWS * COLUMNS) as u32);
    let mut args = vec![
        pointer(D),
        pointer(B),
        pointer(A),
        optional(epilogue.bias.is_some(), BIAS),
        optional(epilogue.residual.is_some(), RESIDUAL),
    ];
    args.extend(meeting.args());
    args.push(Arg::Bytes { bytes: plan::tiled_bytes(dense, splits, [tiles[1], tiles[0]], chip), align: 8 });
    Ok(meeting.plan(Launch {
        symbol: symbol("packed", arch, weights),
        grid: [tiles[0], tiles[1], splits],
        block: [WAVES * 64, 1, 1],
        cluster: [1, 1, 1],
        shared_bytes: 0,
        args,
        is_dependent_launch: false,
        cost: Cost { flops: 2.0 * (m * weights.n) as f64 * weights.k as f64, bytes },
    }))
}

fn unpack(arch: &str, weights: &Weights, out: Arg) -> Launch {
    let bytes = weights.packed_bytes() + weights.n * weights.k * weights.scalar.bytes();
    Launch {
        symbol: symbol("unpack", arch, weights),
        grid: [weights.records() as u32, weights.slabs() as u32, 1],
        block: [256, 1, 1],
        cluster: [1, 1, 1],
        shared_bytes: 0,
        args: vec![
            out,
            Arg::Pointer { operand: B, offset_bytes: 0 },
            Arg::I32(weights.n as i32),
            Arg::I32(weights.k as i32),
        ],
        is_dependent_launch: false,
        cost: Cost { flops: 2.0 * (weights.n * weights.k) as f64, bytes: bytes as f64 },
    }
}

/// What the build compiles: a unit for each type and number of bits.
pub fn packed_units(arch: &str) -> Result<Vec<Unit>> {
    let texts = arch::find(arch)?.operator("packed_stream")?.texts("texts")?;
    let shared_bytes = WAVES * (ROWS * COLUMNS * 4) as u32;
    let mut units = Vec::new();
    for scalar in [Scalar::F32, Scalar::F16, Scalar::BF16] {
        for bits in [4, 8] {
            let (mut lines, mut kernels) = (String::new(), Vec::new());
            for group in GROUPS {
                for has_zeros in [false, true] {
                    let weights = Weights { n: 1, k: 1, bits, group, has_zeros, scalar };
                    let names = ["packed", "unpack"].map(|what| symbol(what, arch, &weights));
                    lines += &format!("PACKED({},{},{group},{has_zeros}) ", names[0], names[1]);
                    for (name, threads, lds) in names.into_iter().zip([WAVES * 64, 256]).map(|(n, t)| {
                        let lds = if t == 256 { 0 } else { shared_bytes };
                        (n, t, lds)
                    }) {
                        kernels.push(Kernel {
                            symbol: name,
                            threads,
                            shared_bytes: 0,
                            required: if lds > 0 { vec!["v_mfma_f32_16x16x"] } else { Vec::new() },
                            forbidden: vec!["scratch_"],
                            planned: Planned { static_shared_bytes: Some(lds), ..Planned::default() },
                        });
                    }
                }
            }
            let name = scalar.suffix().to_uppercase();
            let numbers = [
                ("BM", ROWS as u32),
                ("BN", COLUMNS as u32),
                ("WAVES_M", 1),
                ("WAVES_N", 1),
                ("K_WAVES", WAVES),
                ("MMA", 16),
                ("STAGES", 1),
                ("HALVES", 1),
                ("GATED", 0),
                ("A_TRANSPOSED", 0),
                ("B_TRANSPOSED", 0),
                ("DIRECT", 0),
                ("SWIZZLE_SHIFT", 0),
                ("SHARED_BYTES", shared_bytes),
                ("BITS", bits),
            ];
            let mut defines = vec![
                ("IN".to_owned(), name.clone()),
                ("OUT".to_owned(), name),
                ("KERNELS".to_owned(), lines),
            ];
            defines.extend(numbers.map(|(name, value)| (name.to_owned(), value.to_string())));
            units.push(Unit {
                name: format!("packed_{}_w{bits}", scalar.suffix()),
                texts: texts.clone(),
                defines,
                kernels,
            });
        }
    }
    Ok(units)
}

/// Output of a record that fragment `fragment` has at place `place`: the order of `column_of` in `arch/cdna/matmul_tile.h`.
pub(in crate::gpu::matmul) const fn output_of(fragment: usize, place: usize) -> usize {
    fragment / 2 * 32 + place / 4 * 8 + fragment % 2 * 4 + place % 4
}

/// The codes of a record, in the order that `arch/cdna/matmul_packed.hip` shows.
pub(in crate::gpu::matmul) fn pack_codes(
    bits: u32,
    codes: &[u8],
    depth: usize,
    first: usize,
    out: &mut [u8],
) {
    let words = bits as usize / 4;
    for fragment in 0..nbits::RECORD_ROWS / 16 {
        for lane in 0..64 {
            let row = output_of(fragment, lane % 16);
            for step in 0..4 {
                let at = row * depth + first + step * 32 + lane / 16 * 8;
                let eight = &codes[at..at + 8];
                let mut put = |word: usize, value: [u8; 4]| {
                    let place = ((fragment * words + word / 4) * 64 + lane) * 16 + word % 4 * 4;
                    out[place..place + 4].copy_from_slice(&value);
                };
                if bits == 4 {
                    let word = (0..4).fold(0u32, |word, i| {
                        let [low, high] = [eight[2 * i], eight[2 * i + 1]].map(|code| u32::from(code & 15));
                        word | low << (4 * i) | high << (4 * i + 16)
                    });
                    put(step, word.to_le_bytes());
                } else {
                    put(2 * step, [eight[0], eight[1], eight[2], eight[3]]);
                    put(2 * step + 1, [eight[4], eight[5], eight[6], eight[7]]);
                }
            }
        }
    }
}
