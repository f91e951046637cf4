//! Parameters of the products on CDNA: which are legal, what they take of a compute unit, what their kernel is called.

use super::blocks;
use super::swizzle::{self, ROW_BYTES};
use crate::error::{KernelError, Result};
use crate::gpu::chip::Chip;
use crate::gpu::matmul::{Element, Kind, Output};
use crate::gpu::unit::{Kernel, Planned, Text, Unit};

/// How loads, LDS and products are laid over time; each is a text of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Schedule {
    /// Two groups of four waves, one of which multiplies while the other loads; straight into LDS.
    PingPong,
    /// A ring of stages, straight into LDS, loads and reads laid between the products of a wave.
    Ring,
    /// Through registers into LDS: any layout of elements of 16 and 32 bits.
    Staged,
    /// Few rows: operands straight from memory, the waves of a workgroup split K.
    Stream,
}

/// Tile sizes and the shape of the pipeline. They change speed, never which products are summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Params {
    pub schedule: Schedule,
    /// Rows and columns of D of a workgroup.
    pub bm: u32,
    pub bn: u32,
    /// Waves along M and N; those of [`Schedule::Stream`] split K and are counted as `waves_m`.
    pub waves_m: u32,
    pub waves_n: u32,
    /// Rows and columns of a matrix instruction: 16 or 32.
    pub mma: u32,
    /// Stages of LDS, each [`ROW_BYTES`] along K.
    pub stages: u32,
    /// Phases of a step of [`Schedule::PingPong`], 2 or 4: turns in which a group of waves loads and multiplies.
    pub phases: u32,
    /// Row tiles that are walked together, so that their columns stay in a die's cache.
    pub group: u32,
    /// Neighbouring tiles that one die computes; 0: as they come.
    pub chunk: u32,
    /// Workgroups that split K, the last of which adds up their parts.
    pub splits: u32,
    /// Two matrices of B's shape are multiplied, a gate and what it lets through: a tile has half as many columns of D.
    pub is_gated: bool,
}

/// What one wave does in one step of the main loop, counted from the parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Step {
    /// Matrix instructions, and the cycles that one holds its unit.
    pub products: u32,
    pub product_cycles: u32,
    /// LDS reads and writes of 16 bytes a lane; two transposing reads of 8 bytes count as one.
    pub lds_reads: u32,
    pub lds_writes: u32,
    /// Loads of 16 bytes a lane straight into LDS.
    pub direct_loads: u32,
    /// Loads into registers of 16 bytes a lane.
    pub loads: u32,
    /// Vector instructions beside those: conversions, transpositions.
    pub vector: u32,
    pub barriers: u32,
}

impl Schedule {
    pub const ALL: [Schedule; 4] = [Schedule::PingPong, Schedule::Ring, Schedule::Staged, Schedule::Stream];

    /// As tables and symbols spell it.
    pub fn name(self) -> &'static str {
        match self {
            Schedule::PingPong => "pingpong",
            Schedule::Ring => "ring",
            Schedule::Staged => "staged",
            Schedule::Stream => "stream",
        }
    }

    /// Whether it loads straight into LDS.
    pub fn is_direct(self) -> bool {
        matches!(self, Schedule::PingPong | Schedule::Ring)
    }
}

/// CDNA4 or later, by what distinguishes it: the larger LDS comes with wide reads, direct loads and doubled products.
fn is_cdna4(chip: &Chip) -> bool {
    chip.shared_bytes > 64 << 10
}

impl Params {
    pub fn threads(&self) -> u32 {
        self.waves_m * self.waves_n * 64
    }

    /// Columns of D of a workgroup.
    pub fn columns(&self) -> u32 {
        if self.is_gated { self.bn / 2 } else { self.bn }
    }

    /// K elements of one step.
    pub fn bk(&self, kind: Kind) -> u32 {
        ROW_BYTES * 8 / kind.input.bits() as u32
    }

    /// LDS that the text declares.
    pub fn shared_bytes(&self, kind: Kind) -> u32 {
        match self.schedule {
            // The sums of the waves that split K.
            Schedule::Stream => self.waves_m * self.bm * self.bn * 4,
            _ => {
                self.stages * ((self.bm + self.bn) * ROW_BYTES + self.scale_loads(kind) * self.threads() * 4)
            }
        }
    }

    /// Loads of 4 bytes a lane for the block scales of a step.
    fn scale_loads(&self, kind: Kind) -> u32 {
        let bytes = (self.bm + self.bn) / 32 * blocks::unit_bytes(kind.input);
        bytes.div_ceil(self.threads() * 4)
    }

    /// Tiles of matrix instructions of a wave along M and N.
    fn tiles(&self) -> (u32, u32) {
        match self.schedule {
            Schedule::Stream => (self.bm / self.mma, self.bn / self.waves_n / self.mma),
            _ => (self.bm / self.waves_m / self.mma, self.bn / self.waves_n / self.mma),
        }
    }

    /// 32-bit registers of a lane for sums.
    pub fn accumulators(&self) -> u32 {
        let (m, n) = self.tiles();
        m * n * self.mma * self.mma / 64
    }

    /// Registers of a lane, from above: sums, pieces of operands, what is carried to LDS, addresses and the rest.
    pub fn registers(&self, kind: Kind, chip: &Chip) -> u32 {
        let (m, n) = self.tiles();
        let steps_pieces = self.row_pieces();
        let pieces = steps_pieces / self.parts(kind, chip);
        let operands = match self.schedule {
            // Half of A's rows and both halves of B for a whole step.
            Schedule::PingPong => (m / 2 + n) * steps_pieces,
            Schedule::Ring => 2 * (m + n) * pieces,
            Schedule::Staged => (m + n) * pieces,
            Schedule::Stream => self.stages * (m + n) * steps_pieces,
        };
        let carried = self.carried();
        let loads = if self.schedule == Schedule::Staged { carried * 5 } else { carried };
        let scales = if kind.input.has_blocks() { self.scale_words() } else { 0 };
        self.accumulators() + operands * 4 + loads + scales + 40
    }

    /// Registers of a lane for block scales.
    fn scale_words(&self) -> u32 {
        let (m, n) = self.tiles();
        (m + n) / 2 * if self.schedule == Schedule::PingPong { 1 } else { 2 }
    }

    /// Waves that share a SIMD: those of the workgroups for which a compute unit has LDS and registers.
    pub fn waves_per_simd(&self, kind: Kind, chip: &Chip) -> u32 {
        let waves = self.threads().div_ceil(256);
        let by_lds = chip.shared_bytes / self.shared_bytes(kind).max(1);
        // 512 registers of 64 lanes a SIMD.
        let by_registers = 512 / (self.registers(kind, chip).next_multiple_of(8) * waves);
        waves * by_lds.min(by_registers).clamp(1, 2)
    }

    /// Workgroups that share a compute unit.
    pub fn resident(&self, kind: Kind, chip: &Chip) -> u32 {
        (self.waves_per_simd(kind, chip) * 4 / (self.threads() / 64)).max(1)
    }

    /// Refuses parameters that the kernel cannot be compiled for or that do not fit the chip.
    pub fn check(&self, kind: Kind, chip: &Chip) -> Result<()> {
        let refuse =
            |what: String| Err(KernelError::parameter(format!("{self:?} for {}: {what}", kind.name())));
        let Self { schedule, bm, bn, waves_m, waves_n, mma, stages, group, splits, .. } = *self;
        if [bm, bn, waves_m, waves_n, stages, group, splits].contains(&0) || !matches!(mma, 16 | 32) {
            return refuse("a count is 0, or matrix instructions have neither 16 nor 32 rows".into());
        }
        if self.threads() > 1024 {
            return refuse(format!("{} threads, a workgroup has 1024 at most", self.threads()));
        }
        let halves = self.halves();
        let along_m = if schedule == Schedule::Stream { 1 } else { waves_m };
        if !bm.is_multiple_of(halves * along_m * mma) || !bn.is_multiple_of(halves * waves_n * 32) {
            return refuse("waves take whole matrix instructions of rows and multiples of 32 columns".into());
        }
        if let Some(reason) = self.unreadable(kind) {
            return refuse(reason.into());
        }
        if kind.input == Element::TF32 {
            return refuse("CDNA4 has no products of 19-bit floats: f32 is exact".into());
        }
        if self.is_gated {
            let has_both = schedule == Schedule::PingPong || bn.is_multiple_of(64 * waves_n);
            let waves = waves_m * waves_n;
            let is_dealt = match schedule {
                Schedule::Ring => waves == 4,
                Schedule::Staged => waves == 4 || waves == 8,
                _ => true,
            };
            if mma != 16 || !has_both || !is_dealt || kind.output == Output::I32 || kind.input.has_blocks() {
                return refuse(
                    "a wave has both products of each column, and loads rows of one matrix".into(),
                );
            }
        }
        if kind.input.has_blocks() {
            if !is_cdna4(chip) {
                return refuse(format!("{} has no products with block scales", chip.name));
            }
            let (m, n) = self.tiles();
            let of_half = |tiles: u32| (tiles / halves).is_multiple_of(2);
            if mma != 16 || schedule == Schedule::Staged || !of_half(m) || !of_half(n) {
                return refuse("scales come in units of two tiles of 16 rows, past registers".into());
            }
            let loads = |rows: u32| (rows / 32 * blocks::unit_bytes(kind.input)).is_multiple_of(256);
            if schedule.is_direct() && (!loads(bm) || !loads(bn)) {
                return refuse("a wave loads 256 bytes of scales of one operand".into());
            }
        }
        if schedule.is_direct() && !is_cdna4(chip) {
            return refuse(format!("{} loads no 16 bytes straight into LDS", chip.name));
        }
        let whole = |rows: u32| (rows * ROW_BYTES).is_multiple_of(halves * self.threads() * 16);
        if schedule != Schedule::Stream && (!whole(bm) || !whole(bn)) {
            return refuse("threads carry no whole number of pieces of each operand".into());
        }
        match schedule {
            Schedule::Stream if waves_n != 1 => return refuse("the waves of a stream split K".into()),
            Schedule::PingPong if !matches!(self.phases, 2 | 4) => {
                return refuse("a step has two phases or four".into());
            }
            Schedule::PingPong if (waves_m, waves_n, stages) != (2, 4, 2) => {
                return refuse("the phases are made for 2 x 4 waves and two stages".into());
            }
            Schedule::Ring if stages < 2 || !(stages * self.parts(kind, chip)).is_multiple_of(2) => {
                return refuse("pieces are read into two sets of registers in turn".into());
            }
            Schedule::Staged if stages > 2 => return refuse("one stage or two".into()),
            _ => {}
        }
        if kind.output == Output::I32 && splits > 1 {
            return refuse("the parts of a split are summed as f32".into());
        }
        if self.shared_bytes(kind) > chip.shared_bytes {
            return refuse(format!(
                "{} bytes of LDS, {} has {}",
                self.shared_bytes(kind),
                chip.name,
                chip.shared_bytes
            ));
        }
        let registers = self.registers(kind, chip);
        let waves = self.threads().div_ceil(256);
        if registers > 512 / waves {
            return refuse(format!(
                "{registers} registers a lane, {waves} waves a SIMD leave {}",
                512 / waves
            ));
        }
        Ok(())
    }

    /// Parts of a tile along M and N that are loaded and read apart.
    fn halves(&self) -> u32 {
        if self.schedule == Schedule::PingPong { 2 } else { 1 }
    }

    /// Why operands of these layouts cannot be read, where they cannot.
    fn unreadable(&self, kind: Kind) -> Option<&'static str> {
        let is_a_transposed = kind.layout.is_a_transposed;
        // B's rows run along K where it is transposed as a matrix.
        let is_b_transposed = !kind.layout.is_b_transposed;
        if !is_a_transposed && !is_b_transposed {
            return None;
        }
        match self.schedule {
            Schedule::Stream => return Some("a stream reads rows along K"),
            Schedule::Staged if kind.input.bytes() == 1 => {
                return Some("bytes are not transposed in registers");
            }
            Schedule::Staged => return None,
            Schedule::PingPong | Schedule::Ring => {}
        }
        if self.mma != 16 || kind.input.bytes() > 2 || kind.input.has_blocks() {
            return Some("transposing reads give 16 columns of elements of 8 or 16 bits");
        }
        let (tiles_m, tiles_n) = self.tiles();
        let panel = ROW_BYTES / kind.input.bytes() as u32;
        let is_whole = |rows: u32, tiles: u32, parts: u32| {
            (rows / parts).is_multiple_of(panel) && (tiles / parts).is_power_of_two()
        };
        let of_b = if self.is_gated { 2 } else { self.halves() };
        if is_a_transposed && !is_whole(self.bm, tiles_m, self.halves())
            || is_b_transposed && !is_whole(self.bn, tiles_n, of_b)
        {
            return Some("rows along M or N come in panels of 128 bytes, which waves share evenly");
        }
        None
    }

    /// Pieces of 16 bytes that a lane reads of a row of LDS.
    fn row_pieces(&self) -> u32 {
        ROW_BYTES / (1024 / self.mma)
    }

    /// Parts of a step: as many as a matrix instruction takes of a lane's pieces.
    fn parts(&self, kind: Kind, chip: &Chip) -> u32 {
        if matches!(kind.input, Element::E4M3 | Element::MXFP8) && is_cdna4(chip) {
            self.row_pieces() / 2
        } else {
            self.row_pieces()
        }
    }

    /// Loads of 16 bytes a lane for one step of both operands.
    fn carried(&self) -> u32 {
        (self.bm + self.bn) * ROW_BYTES / (self.threads() * 16)
    }

    /// The kernel's name: a pure function of what it is compiled for.
    pub fn symbol(&self, arch: &str, kind: Kind) -> String {
        let Self { schedule, bm, bn, waves_m, waves_n, mma, stages, .. } = *self;
        let phases = match schedule {
            Schedule::PingPong => self.phases.to_string(),
            _ => String::new(),
        };
        format!(
            "matmul_{}__{arch}__bm{bm}_bn{bn}_bk{}_st{stages}_wv{waves_m}x{waves_n}_mma{mma}_{}{phases}{}",
            kind.name(),
            self.bk(kind),
            schedule.name(),
            if self.is_gated { "_gate" } else { "" }
        )
    }

    /// What a wave does in one step of the main loop on a chip.
    pub fn step(&self, kind: Kind, chip: &Chip) -> Step {
        let (m, n) = self.tiles();
        let is_cdna4 = is_cdna4(chip);
        let pieces = self.row_pieces();
        // Instructions for one piece of each operand, halved where one takes two.
        let per_two_pieces = match (kind.input, is_cdna4) {
            (Element::F32 | Element::TF32, _) => 8,
            (Element::E4M3 | Element::MXFP8, true) => 1,
            (_, true) => 2,
            (_, false) => 4,
        };
        let products = m * n * pieces * per_two_pieces / 2;
        let flops_per_unit = f64::from(2 * m * n * self.mma * self.mma * self.bk(kind));
        let cycles = flops_per_unit / f64::from(products) / (flops_per_cycle(kind.input, chip) / 4.0);
        let carried = self.carried();
        let through_registers = self.schedule == Schedule::Staged;
        let transposed = |is_transposed: bool, rows: u32| match (is_transposed, kind.input.bytes()) {
            (true, 2) if through_registers => rows * ROW_BYTES / (self.threads() * 16) * 4,
            _ => 0,
        };
        let converted = if kind.input == Element::E4M3 && !is_cdna4 { carried * 36 } else { 0 };
        Step {
            products,
            product_cycles: cycles.round() as u32,
            lds_reads: if self.schedule == Schedule::Stream { 0 } else { (m + n) * pieces },
            lds_writes: if through_registers { carried } else { 0 },
            direct_loads: if self.schedule.is_direct() { carried + self.scale_loads(kind) } else { 0 },
            loads: match self.schedule {
                Schedule::Staged => carried,
                Schedule::Stream => (m + n) * pieces,
                _ => 0,
            },
            vector: transposed(kind.layout.is_a_transposed, self.bm)
                + transposed(!kind.layout.is_b_transposed, self.bn)
                + converted,
            barriers: match self.schedule {
                Schedule::PingPong => 2 * self.phases,
                Schedule::Ring => 1,
                Schedule::Staged => 3 - self.stages,
                Schedule::Stream => 0,
            },
        }
    }

    /// What the build compiles.
    pub(super) fn unit(&self, arch: &str, kind: Kind, texts: &[Text], chip: &Chip) -> Unit {
        let symbol = self.symbol(arch, kind);
        let waves_per_simd = self.waves_per_simd(kind, chip);
        let is_stream = self.schedule == Schedule::Stream;
        let numbers = [
            ("BM", self.bm),
            ("BN", self.bn),
            ("WAVES_M", if is_stream { 1 } else { self.waves_m }),
            ("WAVES_N", if is_stream { 1 } else { self.waves_n }),
            ("K_WAVES", if is_stream { self.waves_m } else { 1 }),
            ("MMA", self.mma),
            ("STAGES", self.stages),
            ("PHASES", self.phases),
            ("HALVES", self.halves()),
            ("GATED", self.is_gated.into()),
            ("A_TRANSPOSED", kind.layout.is_a_transposed.into()),
            ("B_TRANSPOSED", (!kind.layout.is_b_transposed).into()),
            ("DIRECT", self.schedule.is_direct().into()),
            ("SWIZZLE_SHIFT", swizzle::shift(is_cdna4(chip))),
            ("SHARED_BYTES", self.shared_bytes(kind)),
            ("WAVES_PER_SIMD", waves_per_simd),
        ];
        let mut defines = vec![
            ("SYMBOL".to_owned(), symbol.clone()),
            ("IN".to_owned(), kind.input.name().to_uppercase()),
            ("OUT".to_owned(), kind.output.name().to_uppercase()),
        ];
        defines.extend(numbers.map(|(name, value)| (name.to_owned(), value.to_string())));
        Unit {
            name: symbol.clone(),
            texts: texts.to_vec(),
            defines,
            kernels: vec![Kernel {
                symbol,
                threads: self.threads(),
                shared_bytes: 0,
                required: self.required(kind, is_cdna4(chip)),
                forbidden: vec!["scratch_"],
                planned: Planned {
                    static_shared_bytes: Some(self.shared_bytes(kind)),
                    waves_per_simd: Some(waves_per_simd),
                    loop_required: self.loop_required(kind, is_cdna4(chip)),
                    loop_forbidden: self.loop_forbidden(),
                    // Two stages are filled in turn: a step waits for the loads that began a step before.
                    prefetches: self.schedule == Schedule::PingPong
                        || self.schedule == Schedule::Ring && self.stages > 2,
                },
            }],
        }
    }

    /// The matrix instruction of a kind.
    fn product(&self, kind: Kind, is_cdna4: bool) -> &'static str {
        match (kind.input, is_cdna4, self.mma) {
            (Element::BF16, true, 16) => "v_mfma_f32_16x16x32_bf16",
            (Element::BF16, true, _) => "v_mfma_f32_32x32x16_bf16",
            (Element::BF16, false, 16) => "v_mfma_f32_16x16x16_bf16",
            (Element::BF16, false, _) => "v_mfma_f32_32x32x8_bf16",
            (Element::F16, true, 16) => "v_mfma_f32_16x16x32_f16",
            (Element::F16, true, _) => "v_mfma_f32_32x32x16_f16",
            (Element::F16, false, 16) => "v_mfma_f32_16x16x16_f16",
            (Element::F16, false, _) => "v_mfma_f32_32x32x8_f16",
            (Element::F32 | Element::TF32, _, 16) => "v_mfma_f32_16x16x4_f32",
            (Element::F32 | Element::TF32, _, _) => "v_mfma_f32_32x32x2_f32",
            (Element::MXFP8 | Element::MXFP4, ..) => "v_mfma_scale_f32_16x16x128_f8f6f4",
            (Element::E4M3, true, 16) => "v_mfma_f32_16x16x128_f8f6f4",
            (Element::E4M3, true, _) => "v_mfma_f32_32x32x64_f8f6f4",
            (Element::E4M3, false, 16) => "v_mfma_f32_16x16x32_fp8_fp8",
            (Element::E4M3, false, _) => "v_mfma_f32_32x32x16_fp8_fp8",
            (Element::S8, true, 16) => "v_mfma_i32_16x16x64_i8",
            (Element::S8, true, _) => "v_mfma_i32_32x32x32_i8",
            (Element::S8, false, 16) => "v_mfma_i32_16x16x32_i8",
            (Element::S8, false, _) => "v_mfma_i32_32x32x16_i8",
        }
    }

    fn required(&self, kind: Kind, is_cdna4: bool) -> Vec<&'static str> {
        let mut required = vec![self.product(kind, is_cdna4)];
        match self.schedule {
            Schedule::PingPong => required.extend(["buffer_load_dwordx4", "s_setprio"]),
            Schedule::Ring => required.push("buffer_load_dwordx4"),
            Schedule::Staged => required.extend(["ds_write_b128", "ds_read_b128"]),
            Schedule::Stream => {}
        }
        if kind.output == Output::BF16 && is_cdna4 {
            required.push("v_cvt_pk_bf16_f32");
        }
        required
    }

    /// What the main loop multiplies with, and how it reads operands that come straight from memory.
    fn loop_required(&self, kind: Kind, is_cdna4: bool) -> Vec<&'static str> {
        let mut required = vec![self.product(kind, is_cdna4)];
        if self.schedule.is_direct() {
            let transposing =
                if kind.input.bytes() == 2 { "ds_read_b64_tr_b16" } else { "ds_read_b64_tr_b8" };
            let layouts = [kind.layout.is_a_transposed, !kind.layout.is_b_transposed];
            let reads = layouts.map(|is_transposed| if is_transposed { transposing } else { "ds_read_b128" });
            required.extend(reads);
            required.dedup();
        }
        required
    }

    fn loop_forbidden(&self) -> Vec<&'static str> {
        let mut forbidden = vec!["scratch_", "v_accvgpr"];
        if self.schedule.is_direct() {
            // Loads that pass through registers, addresses that change, and descriptors that come from lanes: loads of
            // inline assembly would read them too soon.
            forbidden.extend(["ds_write", "v_add", "v_lshl", "v_readfirstlane", "s_load"]);
        }
        forbidden
    }
}

/// Floating-point operations of a compute unit a cycle, from the chip's rates.
pub(super) fn flops_per_cycle(element: Element, chip: &Chip) -> f64 {
    let units = f64::from(chip.compute_units) * chip.clock_hz;
    let rate = match element {
        Element::BF16 | Element::F16 => chip.bf16_flops_per_second,
        Element::E4M3 | Element::S8 => chip.fp8_flops_per_second,
        Element::MXFP8 => chip.fp8_flops_per_second,
        // Four bits run at twice the rate of eight.
        Element::MXFP4 => 2.0 * chip.fp8_flops_per_second,
        // 256 a cycle on CDNA3 and CDNA4.
        Element::F32 | Element::TF32 => return 256.0,
    };
    (rate / units).round()
}
