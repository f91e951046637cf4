//! Products with weights of 4 or 8 bits that have a scale, and perhaps a zero point, for each group of inputs:
//! `D = act(alpha A W^T + bias) + beta residual`, `W[n][k] = (code - zero) scale`.
//!
//! Weights are packed once into records of 64 outputs by 128 inputs, in the order in which a family's matrix instructions
//! read them ([`Order`]). Few rows of A are multiplied as they stream by; more are multiplied with decoded weights.

use std::num::NonZeroUsize;

use super::problem::{Element, Epilogue, Kind, Layout, Matrix, Problem, Result as Output};
use super::{mfma, mma_sync, wgmma};
use crate::error::{KernelError, Result};
use crate::gpu::arch::{self, Mainloop};
use crate::gpu::chip::Chip;
use crate::gpu::launch::Plan;
use crate::gpu::scalar::Scalar;
use crate::gpu::unit::Unit;

/// Outputs and inputs of a record.
pub const RECORD_ROWS: usize = 64;
pub const RECORD_DEPTH: usize = 128;

/// Rows of activations up to which weights stream through where matrix units could decode them too.
const STREAMED_ROWS: usize = 8;

/// The form of a matrix of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Weights {
    pub n: usize,
    pub k: usize,
    /// 4 or 8.
    pub bits: u32,
    /// Inputs that share a scale: 16, 32, 64, or a multiple of 128.
    pub group: usize,
    /// Without zero points the middle code stands for 0.
    pub has_zeros: bool,
    /// Type of the scales, of the activations and of the result: f32, f16 or bf16.
    pub scalar: Scalar,
}

/// A product. Operands are numbered as [`super::A`] documents; `B` is the packed weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NBits {
    pub weights: Weights,
    pub m: usize,
    /// Without scales of rows and columns, and ungated.
    pub epilogue: Epilogue,
}

/// The order of codes in a record for one kind of matrix instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// `mma.sync` and `wgmma` with their A operand in registers (`arch/sm80/nbits.cuh`).
    Warp16x16,
    /// Matrix instructions of a wave of 64 (`arch/cdna/matmul_packed.hip`).
    Wave16x16,
}

impl Order {
    /// Where a record has the scale, and where the zero point, of a group of an output.
    fn places(self, row: usize, groups: usize, group: usize) -> (usize, usize) {
        match self {
            Order::Warp16x16 => {
                let pair = row / 16 * 8 + row % 8;
                let place = (pair * groups + group) * 2 + row / 8 % 2;
                (place, place)
            }
            Order::Wave16x16 => {
                let at = (0..RECORD_ROWS).find(|at| mfma::output_of(at / 16, at % 16) == row);
                let at = at.expect("every output has a place");
                ((at / 4 * groups + group) * 4 + at % 4, at * groups + group)
            }
        }
    }
}

impl Weights {
    /// Refuses what no kernel reads.
    pub fn check(&self) -> Result<()> {
        let Self { n, k, bits, group, scalar, .. } = *self;
        let is_known = matches!(bits, 4 | 8)
            && (matches!(group, 16 | 32 | 64) || (group > 0 && group.is_multiple_of(RECORD_DEPTH)))
            && scalar.is_float();
        if !is_known {
            return Err(KernelError::parameter(format!(
                "weights of {bits} bits, {} scales, groups of {group}: 4 or 8 bits, floats, 16, 32, 64 or a multiple of {RECORD_DEPTH}",
                scalar.suffix()
            )));
        }
        let limit = i32::MAX as usize / 2;
        if n == 0 || k == 0 || n > limit || k > limit {
            return Err(KernelError::shape(format!("weights of {n} outputs and {k} inputs")));
        }
        Ok(())
    }

    /// Scales of a row in a record.
    pub fn groups(&self) -> usize {
        (RECORD_DEPTH / self.group).max(1)
    }

    pub fn slabs(&self) -> usize {
        self.n.div_ceil(RECORD_ROWS)
    }

    pub fn records(&self) -> usize {
        self.k.div_ceil(RECORD_DEPTH)
    }

    fn code_bytes(&self) -> usize {
        RECORD_ROWS * RECORD_DEPTH * self.bits as usize / 8
    }

    pub fn record_bytes(&self) -> usize {
        let group_bytes = self.scalar.bytes() + usize::from(self.has_zeros);
        self.code_bytes() + RECORD_ROWS * self.groups() * group_bytes
    }

    /// Bytes of all records.
    pub fn packed_bytes(&self) -> usize {
        self.slabs() * self.records() * self.record_bytes()
    }
}

/// Bytes of a record with 16-bit scales in groups of 16 and zero points.
pub fn largest_record_bytes(bits: u32) -> usize {
    RECORD_ROWS * RECORD_DEPTH * bits as usize / 8 + RECORD_ROWS * 8 * 3
}

/// Where weights come from, row by row.
pub trait Source: Sync {
    /// Writes the codes of output `row`, one a byte.
    fn codes(&self, row: usize, codes: &mut [u8]);
    /// Writes the scales of the groups of output `row`, as their type's bytes.
    fn scales(&self, row: usize, scales: &mut [u8]);
    /// Writes the zero points of the groups of output `row`.
    fn zeros(&self, row: usize, zeros: &mut [u8]);
}

/// Writes the records of `weights` to `out`, which has [`Weights::packed_bytes`], on all processors.
pub fn pack(weights: &Weights, order: Order, source: &dyn Source, out: &mut [u8]) -> Result<()> {
    weights.check()?;
    if out.len() != weights.packed_bytes() {
        return Err(KernelError::shape(format!(
            "{} bytes for packed weights of {}",
            out.len(),
            weights.packed_bytes()
        )));
    }
    let slab_bytes = weights.records() * weights.record_bytes();
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let share = weights.slabs().div_ceil(threads);
    std::thread::scope(|scope| {
        for (part, bytes) in out.chunks_mut(share * slab_bytes).enumerate() {
            scope.spawn(move || {
                for (slab, bytes) in bytes.chunks_mut(slab_bytes).enumerate() {
                    pack_slab(weights, order, source, part * share + slab, bytes);
                }
            });
        }
    });
    Ok(())
}

fn pack_slab(weights: &Weights, order: Order, source: &dyn Source, slab: usize, out: &mut [u8]) {
    let depth = weights.records() * RECORD_DEPTH;
    let row_groups = weights.k.div_ceil(weights.group);
    let scale_bytes = weights.scalar.bytes();
    // Codes, scales and zero points outside the matrix are 0: a scale of 0 makes them weights of 0.
    let mut codes = vec![0u8; RECORD_ROWS * depth];
    let mut scales = vec![0u8; RECORD_ROWS * row_groups * scale_bytes];
    let mut zeros = vec![0u8; RECORD_ROWS * row_groups];
    for row in 0..RECORD_ROWS.min(weights.n - slab * RECORD_ROWS) {
        let global = slab * RECORD_ROWS + row;
        source.codes(global, &mut codes[row * depth..][..weights.k]);
        let bytes = row_groups * scale_bytes;
        source.scales(global, &mut scales[row * bytes..][..bytes]);
        if weights.has_zeros {
            source.zeros(global, &mut zeros[row * row_groups..][..row_groups]);
        }
    }
    for (record, bytes) in out.chunks_mut(weights.record_bytes()).enumerate() {
        let (code_out, rest) = bytes.split_at_mut(weights.code_bytes());
        match order {
            Order::Warp16x16 => pack_codes(weights.bits, &codes, depth, record * RECORD_DEPTH, code_out),
            Order::Wave16x16 => {
                mfma::pack_codes(weights.bits, &codes, depth, record * RECORD_DEPTH, code_out);
            }
        }
        let (scale_out, zero_out) = rest.split_at_mut(RECORD_ROWS * weights.groups() * scale_bytes);
        for row in 0..RECORD_ROWS {
            for group in 0..weights.groups() {
                let from = (record * RECORD_DEPTH + group * weights.group) / weights.group;
                let (to, zero_to) = order.places(row, weights.groups(), group);
                // Groups behind the last input have no scale.
                let target = &mut scale_out[to * scale_bytes..][..scale_bytes];
                if from < row_groups {
                    let at = (row * row_groups + from) * scale_bytes;
                    target.copy_from_slice(&scales[at..at + scale_bytes]);
                } else {
                    target.fill(0);
                }
                if weights.has_zeros {
                    zero_out[zero_to] = if from < row_groups { zeros[row * row_groups + from] } else { 0 };
                }
            }
        }
    }
}

/// The codes of a record, in the order that `arch/sm80/nbits.cuh` shows.
fn pack_codes(bits: u32, codes: &[u8], depth: usize, first: usize, out: &mut [u8]) {
    let words = bits as usize / 4;
    for (number, fragment) in out.chunks_mut(4 * words * 4 * 32).enumerate() {
        let (half, warp) = (number / 4, number % 4);
        for step in 0..4 {
            for lane in 0..32 {
                let (g, j) = (lane / 4, lane % 4);
                let pair = |i: usize| {
                    let row = warp * 16 + g + i % 2 * 8;
                    let at = row * depth + first + half * 64 + step * 16 + 2 * j + i / 2 * 8;
                    [codes[at], codes[at + 1]]
                };
                let pairs = [pair(0), pair(1), pair(2), pair(3)];
                // The word's place among those that the lane reads 16 bytes at a time.
                let place = |word: usize| (word / 4 * 512) + lane * 16 + word % 4 * 4;
                if bits == 4 {
                    let word = pairs.iter().enumerate().fold(0u32, |word, (i, pair)| {
                        word | u32::from(pair[0] & 15) << (4 * i) | u32::from(pair[1] & 15) << (4 * i + 16)
                    });
                    fragment[place(step)..][..4].copy_from_slice(&word.to_le_bytes());
                } else {
                    let bytes = pairs.concat();
                    fragment[place(2 * step)..][..4].copy_from_slice(&bytes[..4]);
                    fragment[place(2 * step + 1)..][..4].copy_from_slice(&bytes[4..]);
                }
            }
        }
    }
}

/// How a family orders the codes; an error where it has no kernels for packed weights.
pub fn order(arch: &str) -> Result<Order> {
    match arch::find(arch)?.operator("packed_stream")?.mainloop {
        Mainloop::MmaSync => Ok(Order::Warp16x16),
        Mainloop::Mfma => Ok(Order::Wave16x16),
        other => {
            Err(KernelError::table(format!("arch '{arch}': packed weights have no main loop {other:?}")))
        }
    }
}

/// Every kernel for packed weights of a family.
pub fn units(arch: &str) -> Result<Vec<Unit>> {
    match order(arch)? {
        Order::Warp16x16 => mma_sync::stream_units(arch),
        Order::Wave16x16 => mfma::packed_units(arch),
    }
}

/// The launches of a product on a family.
pub fn plan_for(arch: &str, problem: &NBits, chip: &Chip) -> Result<Plan> {
    problem.check()?;
    if order(arch)? == Order::Wave16x16 {
        return mfma::packed(arch, problem, chip);
    }
    if problem.m > STREAMED_ROWS
        && let Some(dense) = problem.dense()
        && arch::find(arch)?.operator("matmul")?.mainloop == Mainloop::Wgmma
    {
        let params = wgmma::table(arch)?.select_packed(&dense, chip, problem.weights.bits)?;
        return wgmma::plan_packed(arch, &dense, &problem.weights, &params, chip);
    }
    mma_sync::stream(arch, problem, chip)
}

impl NBits {
    fn check(&self) -> Result<()> {
        self.weights.check()?;
        let epilogue = &self.epilogue;
        if self.m == 0 || self.m > i32::MAX as usize / 2 {
            return Err(KernelError::shape(format!("{} rows of activations", self.m)));
        }
        if epilogue.has_m_scale || epilogue.has_n_scale || epilogue.is_gated {
            return Err(KernelError::parameter("packed weights take a bias, an activation and a residual"));
        }
        if !self.weights.k.is_multiple_of(2) {
            return Err(KernelError::shape("activations are read in pairs: an odd number of inputs"));
        }
        Ok(())
    }

    /// The problem as matrix units see it, where activations can be copied in bulk.
    fn dense(&self) -> Option<Problem> {
        let (input, output) = match self.weights.scalar {
            Scalar::BF16 => (Element::BF16, Output::BF16),
            Scalar::F16 => (Element::F16, Output::F16),
            _ => return None,
        };
        let Weights { n, k, .. } = self.weights;
        let problem = Problem {
            kind: Kind { input, output, layout: Layout::NT },
            m: self.m,
            n,
            k,
            batches: 1,
            a: Matrix::packed(k),
            b: Matrix::constant(k),
            d: Matrix::packed(n),
            epilogue: self.epilogue,
        };
        (problem.check().is_ok() && problem.check_copies().is_ok()).then_some(problem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Codes, scales and zero points that tell where they came from.
    struct Numbered(Weights);

    impl Source for Numbered {
        fn codes(&self, row: usize, codes: &mut [u8]) {
            let mask = if self.0.bits == 4 { 15 } else { 255 };
            codes
                .iter_mut()
                .enumerate()
                .for_each(|(k, code)| *code = ((row * 7 + k * 3 + k / 16) & mask) as u8);
        }
        fn scales(&self, row: usize, scales: &mut [u8]) {
            for (group, scale) in scales.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                *scale = ((row * 100 + group) as u16).to_le_bytes();
            }
        }
        fn zeros(&self, row: usize, zeros: &mut [u8]) {
            zeros.iter_mut().enumerate().for_each(|(group, zero)| *zero = (row + group) as u8);
        }
    }

    fn weights(bits: u32, group: usize) -> Weights {
        Weights { n: 70, k: 200, bits, group, has_zeros: true, scalar: Scalar::BF16 }
    }

    #[test]
    fn every_code_is_where_its_lane_reads_it() {
        for (bits, group) in [(4, 16), (4, 32), (8, 64), (8, 128)] {
            let weights = weights(bits, group);
            let source = Numbered(weights);
            let mut out = vec![0xAA; weights.packed_bytes()];
            pack(&weights, Order::Warp16x16, &source, &mut out).unwrap();
            for row in 0..weights.n {
                let mut codes = vec![0; weights.k];
                source.codes(row, &mut codes);
                for (k, &code) in codes.iter().enumerate() {
                    let at = (row / 64 * weights.records() + k / 128) * weights.record_bytes();
                    let (warp, g, high) = (row % 64 / 16, row % 8, row / 8 % 2);
                    let (half, step, inside) = (k % 128 / 64, k % 64 / 16, k % 16);
                    let (lane, register) = (4 * g + inside % 8 / 2, high + inside / 8 * 2);
                    let block = at + (half * 4 + warp) * 128 * bits as usize;
                    let found = if bits == 4 {
                        let at = block + lane * 16 + step * 4;
                        let word = u32::from_le_bytes(out[at..at + 4].try_into().unwrap());
                        (word >> (4 * register + 16 * (k % 2)) & 15) as u8
                    } else {
                        let word = 2 * step + register / 2;
                        out[block + word / 4 * 512 + lane * 16 + word % 4 * 4 + register % 2 * 2 + k % 2]
                    };
                    assert_eq!(found, code, "{bits} bits, row {row}, input {k}");
                }
            }
        }
    }

    #[test]
    fn scales_and_zero_points_follow_the_codes_and_are_zero_outside() {
        let weights = weights(4, 32);
        let mut out = vec![0xAA; weights.packed_bytes()];
        pack(&weights, Order::Warp16x16, &Numbered(weights), &mut out).unwrap();
        let record = &out[weights.record_bytes()..][..weights.record_bytes()];
        // Row 20: warp 1, lane / 4 = 4, first of its pair; groups 4 to 7 are inputs 128 to 255, of which 200 are there.
        let pair = 8 + 4;
        for group in 0..4 {
            let to = (pair * 4 + group) * 2;
            let scale = u16::from_le_bytes(record[4096 + to * 2..][..2].try_into().unwrap());
            let zero = record[4096 + 64 * 4 * 2 + to];
            let expected = if group < 3 { (2004 + group as u16, 24 + group as u8) } else { (0, 0) };
            assert_eq!((scale, zero), expected);
        }
    }

    #[test]
    fn products_are_planned_for_every_number_of_rows() {
        let chip = &arch::find("sm90").unwrap().chips().unwrap()[0];
        for (scalar, k) in [(Scalar::BF16, 4096), (Scalar::F16, 200), (Scalar::F32, 4096), (Scalar::F16, 202)]
        {
            for m in [1, 8, 16, 17, 100, 1000] {
                let weights = Weights { n: 1000, k, bits: 4, group: 32, has_zeros: false, scalar };
                let problem = NBits { weights, m, epilogue: Epilogue::default() };
                let plan = plan_for("sm90", &problem, chip).unwrap();
                let is_streamed = plan.launches[0].symbol.starts_with("stream_");
                assert_eq!(is_streamed, m <= 8 || scalar == Scalar::F32 || k == 202, "{scalar:?} {m} {k}");
            }
        }
        let odd = NBits {
            weights: Weights { n: 8, k: 33, bits: 4, group: 32, has_zeros: false, scalar: Scalar::F16 },
            m: 1,
            epilogue: Epilogue::default(),
        };
        assert!(plan_for("sm90", &odd, chip).unwrap_err().to_string().contains("odd"));
    }
}
