//! Parameters of the product by warps: which are legal, what their kernel is called, what it is compiled from.

use crate::error::{KernelError, Result};
use crate::gpu::chip::Chip;
use crate::gpu::matmul::problem::{Element, Kind, Result as Output};
use crate::gpu::unit::{Kernel, Planned, Text, Unit};

/// Bytes along K of one stage of the ring.
pub const STAGE_ROW_BYTES: u32 = 128;
/// Shared memory of a compute unit up to which two blocks of 128 threads are planned on it.
const PAIRED_SHARED_BYTES: u32 = 166_912;

/// Tile sizes and the shape of the pipeline. They change speed, never which products are summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Params {
    pub bm: u32,
    pub bn: u32,
    /// Stages of the ring, each [`STAGE_ROW_BYTES`] along K.
    pub stages: u32,
    /// Warps along the tile's rows and columns.
    pub warps_m: u32,
    pub warps_n: u32,
    /// Row tiles that are walked together, so that their columns stay in the second-level cache.
    pub group: u32,
}

impl Params {
    pub fn threads(&self) -> u32 {
        self.warps_m * self.warps_n * 32
    }

    /// K elements of one stage.
    pub fn bk(kind: Kind) -> u32 {
        STAGE_ROW_BYTES / kind.input.bytes() as u32
    }

    /// Dynamic shared memory of a block: the ring, which the tile's sums take over.
    pub fn shared_bytes(&self) -> u32 {
        self.stages * (self.bm + self.bn) * STAGE_ROW_BYTES
    }

    /// Blocks that share a compute unit.
    pub fn resident(&self, chip: &Chip) -> u32 {
        let fits = 2 * (self.shared_bytes() + 1024);
        if fits <= PAIRED_SHARED_BYTES.min(chip.shared_bytes + 1024) && self.threads() <= 128 { 2 } else { 1 }
    }

    /// Refuses parameters that the kernel cannot be compiled for or that do not fit the chip.
    pub fn check(&self, kind: Kind, chip: &Chip) -> Result<()> {
        let refuse =
            |what: String| Err(KernelError::parameter(format!("{self:?} for {}: {what}", kind.name())));
        let Self { bm, bn, stages, warps_m, warps_n, group, .. } = *self;
        if [bm, bn, warps_m, warps_n, group].contains(&0) || !(2..=8).contains(&stages) {
            return refuse("a count is 0, or the ring has fewer than 2 or more than 8 stages".into());
        }
        if !bm.is_multiple_of(16 * warps_m) || !bn.is_multiple_of(16 * warps_n) {
            return refuse("warps take multiples of 16 rows and columns".into());
        }
        if bm / warps_m * (bn / warps_n) > 64 * 64 {
            return refuse("more than 64 x 64 sums of a warp leave too few registers".into());
        }
        let threads = self.threads();
        let has_shares = (bm * 8).is_multiple_of(threads) && (bn * 8).is_multiple_of(threads);
        if !(threads == 64 || threads == 128 || threads == 256) || !has_shares {
            return refuse("2, 4 or 8 warps copy equal shares of both tiles".into());
        }
        if (kind.layout.is_a_transposed && !bm.is_multiple_of(64))
            || (!kind.layout.is_b_transposed && !bn.is_multiple_of(64))
        {
            return refuse("transposed operands come in panels of 64".into());
        }
        if bm * (bn * 4 + 16) > self.shared_bytes() {
            return refuse("the tile's sums do not fit the ring".into());
        }
        if self.shared_bytes() > chip.shared_bytes {
            return refuse(format!(
                "{} bytes of shared memory, {} has {}",
                self.shared_bytes(),
                chip.name,
                chip.shared_bytes
            ));
        }
        Ok(())
    }

    /// The kernel's name: a pure function of what it is compiled for.
    pub fn symbol(&self, arch: &str, kind: Kind) -> String {
        let Self { bm, bn, stages, warps_m, warps_n, .. } = *self;
        let bk = Self::bk(kind);
        format!("matmul_{}__{arch}__bm{bm}_bn{bn}_bk{bk}_st{stages}_w{warps_m}x{warps_n}", kind.name())
    }

    /// The name of the kernel that sums the parts of a split.
    pub fn reduce_symbol(&self, arch: &str, kind: Kind) -> String {
        format!("{}_reduce", self.symbol(arch, kind))
    }

    /// What the build compiles.
    pub(super) fn unit(&self, arch: &str, kind: Kind, texts: &[Text]) -> Unit {
        let (symbol, reduce) = (self.symbol(arch, kind), self.reduce_symbol(arch, kind));
        let numbers = [
            ("BM", self.bm),
            ("BN", self.bn),
            ("STAGES", self.stages),
            ("WARPS_M", self.warps_m),
            ("WARPS_N", self.warps_n),
            ("A_TRANSPOSED", kind.layout.is_a_transposed.into()),
            // The kernel names operands as the matrix instruction does: its B has rows along K.
            ("B_TRANSPOSED", (!kind.layout.is_b_transposed).into()),
            ("SHARED_BYTES", self.shared_bytes()),
        ];
        let mut defines = vec![
            ("SYMBOL".to_owned(), symbol.clone()),
            ("REDUCE".to_owned(), reduce.clone()),
            ("IN".to_owned(), kind.input.name().to_uppercase()),
            ("OUT".to_owned(), kind.output.name().to_uppercase()),
        ];
        defines.extend(numbers.map(|(name, value)| (name.to_owned(), value.to_string())));
        let product = match kind.input {
            Element::S8 => "IMMA.16832.S8.S8",
            Element::TF32 => "HMMA.1688.F32.TF32",
            _ => "HMMA.16816.F32",
        };
        let mut required = vec![product, "LDGSTS.E.BYPASS", "LDSM.16.M"];
        if kind.layout.is_a_transposed || !kind.layout.is_b_transposed {
            required.push("LDSM.16.MT88.4");
        }
        let own = Kernel {
            symbol: symbol.clone(),
            threads: self.threads(),
            shared_bytes: self.shared_bytes(),
            required,
            forbidden: Vec::new(),
            planned: Planned::default(),
        };
        let reduce = Kernel {
            symbol: reduce,
            threads: 256,
            shared_bytes: 0,
            required: Vec::new(),
            forbidden: Vec::new(),
            planned: Planned::default(),
        };
        Unit { name: symbol, texts: texts.to_vec(), defines, kernels: vec![own, reduce] }
    }

    /// Parts of the depth may be summed in f32.
    pub fn splits(kind: Kind) -> bool {
        kind.output != Output::I32
    }
}
