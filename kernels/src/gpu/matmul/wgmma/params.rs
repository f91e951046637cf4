//! Parameters of the tensor-core product: which are legal, how much shared memory they take, what their kernel is called.

use crate::error::{KernelError, Result};
use crate::gpu::chip::Chip;
use crate::gpu::matmul::nbits;
use crate::gpu::matmul::problem::{Element, Kind, Result as Output};
use crate::gpu::unit::{Kernel, Planned, Text, Unit};

/// Bytes along K of one stage of the ring.
pub const STAGE_ROW_BYTES: u32 = 128;

/// Tile sizes and the shape of the pipeline. They change speed, never which products are summed.
///
/// The matrix units compute R = P Q^T in tiles of `bm` x `bn`. R is D, or, swapped, D transposed: then P is B.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Params {
    pub bm: u32,
    pub bn: u32,
    /// Stages of the ring, each [`STAGE_ROW_BYTES`] along K.
    pub stages: u32,
    /// Blocks along R's rows that share Q's loads.
    pub cluster_m: u32,
    /// Blocks along R's columns that share P's loads.
    pub cluster_n: u32,
    /// Blocks that split K and sum their parts in shared memory.
    pub cluster_k: u32,
    /// Groups of four warps that compute.
    pub warpgroups: u32,
    /// Buffers of 64 rows (or all tokens) that each of them has for the way out.
    pub panels: u32,
    /// Weights go to R's rows: for few rows of A.
    pub is_swapped: bool,
    /// Row tiles of clusters that are walked together, so that their columns stay in the second-level cache.
    pub group: u32,
    /// The next kernel may be started as soon as this one runs.
    pub is_early: bool,
    /// A tile holds as much of a gate as of what it lets through, and half as much of D.
    pub is_gated: bool,
    /// 4 or 8 where P is packed weights ([`crate::gpu::matmul::nbits`]), else 0.
    pub weight_bits: u32,
    /// Q's rows are windows over an image, gathered by the copy engine.
    pub is_windows: bool,
}

impl Params {
    /// Blocks of a cluster.
    pub fn cluster(&self) -> u32 {
        self.cluster_m * self.cluster_n * self.cluster_k
    }

    pub fn threads(&self) -> u32 {
        (self.warpgroups + 1) * 128
    }

    /// K elements of one stage.
    pub fn bk(&self, kind: Kind) -> u32 {
        self.halves() * STAGE_ROW_BYTES / kind.input.bytes() as u32
    }

    /// Copies of [`STAGE_ROW_BYTES`] along K of one stage.
    fn halves(&self) -> u32 {
        if self.weight_bits > 0 { 2 } else { 1 }
    }

    /// Rows of R that a tile covers.
    pub fn rows(&self) -> u32 {
        if self.is_gated && self.is_swapped { self.bm / 2 } else { self.bm }
    }

    /// Columns of R that a tile covers.
    pub fn columns(&self) -> u32 {
        if self.is_gated && !self.is_swapped { self.bn / 2 } else { self.bn }
    }

    /// Bytes of a stage's P and Q.
    pub fn stage_bytes(&self) -> (u32, u32) {
        let p = match self.weight_bits {
            0 => self.bm * STAGE_ROW_BYTES,
            bits => self.bm / 64 * nbits::largest_record_bytes(bits) as u32,
        };
        (p, self.bn * STAGE_ROW_BYTES * self.halves())
    }

    /// Elements of D along the rows of a buffer on the way out: 128 bytes of them where the tile's width allows.
    pub fn panel_columns(&self, kind: Kind) -> u32 {
        let mut columns = 128 / kind.output.bytes() as u32;
        while !self.is_swapped && !self.columns().is_multiple_of(columns) {
            columns /= 2;
        }
        columns
    }

    /// Buffers' worth of data that a warpgroup writes for one tile.
    fn tile_panels(&self, kind: Kind) -> u32 {
        let width = if self.is_swapped { 64 } else { self.columns() };
        self.rows() / (64 * self.warpgroups) * (width / self.panel_columns(kind))
    }

    /// Dynamic shared memory of a block: the ring, the buffers on the way out, and the barriers.
    pub fn shared_bytes(&self, kind: Kind) -> u32 {
        let (p, q) = self.stage_bytes();
        let ring = (self.stages * p).next_multiple_of(1024) + self.stages * q;
        let panel_rows = if self.is_swapped { self.bn } else { 64 };
        let panel = panel_rows * self.panel_columns(kind) * kind.output.bytes() as u32;
        let out = if self.cluster_k > 1 { 0 } else { self.warpgroups * self.panels * panel };
        ring + out + 1024
    }

    /// Blocks that share a compute unit. Where two fit, one loads while the other ends.
    pub fn resident(&self, kind: Kind, chip: &Chip) -> u32 {
        // Every block also takes 1 KiB that the system keeps, and a unit has 1 KiB more than one block can have.
        if 2 * (self.shared_bytes(kind) + 1024) <= chip.shared_bytes + 1024 { 2 } else { 1 }
    }

    /// P, Q: whether the operand's rows run along R instead of along K.
    pub fn transposed_operands(&self, kind: Kind) -> (bool, bool) {
        let (a, b) = (kind.layout.is_a_transposed, !kind.layout.is_b_transposed);
        if self.is_swapped { (b, a) } else { (a, b) }
    }

    /// Refuses parameters that the kernel cannot be compiled for or that do not fit the chip.
    pub fn check(&self, kind: Kind, chip: &Chip) -> Result<()> {
        let refuse =
            |what: String| Err(KernelError::parameter(format!("{self:?} for {}: {what}", kind.name())));
        let Self { bm, bn, stages, cluster_m, cluster_n, cluster_k, warpgroups, panels, group, .. } = *self;
        let counts = [bm, bn, cluster_m, cluster_n, cluster_k, warpgroups, panels, group];
        if counts.contains(&0) || !(2..=60).contains(&stages) {
            return refuse("a count is 0, or the ring has fewer than 2 or more than 60 stages".into());
        }
        if (warpgroups > 2 && self.weight_bits == 0) || warpgroups > 4 || !bm.is_multiple_of(64 * warpgroups)
        {
            return refuse("one or two warpgroups take multiples of 64 rows each".into());
        }
        if bn > 256
            || !bn.is_multiple_of(if self.is_swapped || bn < 16 { 8 } else { 16 })
            || (bn > 48 && bn % 16 != 0)
        {
            return refuse(
                "columns must be a multiple of 16 up to 256, or of 8 up to 48 where swapped".into(),
            );
        }
        let accumulators = bm / (64 * warpgroups) * bn / 2;
        if accumulators > 192 {
            return refuse(format!("{accumulators} accumulators a thread leave too few registers"));
        }
        if self.cluster() > 8 || (cluster_k > 1 && cluster_m * cluster_n > 1) {
            return refuse("a cluster has at most 8 blocks, which share loads or split K".into());
        }
        if cluster_k > 1 && kind.output == Output::I32 {
            return refuse("the parts of a split are summed as f32".into());
        }
        if self.is_gated
            && (cluster_k > 1 || !bm.is_multiple_of(if self.is_swapped { 128 * warpgroups } else { 1 }))
        {
            return refuse("a gate needs two matrix instructions of each warpgroup and a whole depth".into());
        }
        let (p, q) = self.transposed_operands(kind);
        if self.weight_bits > 0 && (!self.is_swapped || self.is_gated || p || q || cluster_n > 1) {
            return refuse("packed weights go to R's rows and are not shared by loads".into());
        }
        if self.is_windows
            && (self.is_swapped
                || self.is_gated
                || self.weight_bits > 0
                || p
                || q
                || cluster_m * cluster_n > 1)
        {
            return refuse("windows are gathered for one block's columns of R".into());
        }
        if warpgroups > 2 && accumulators > 32 {
            return refuse("four warpgroups have 112 registers a thread".into());
        }
        if self.weight_bits > 0 && (kind.input.bytes() != 2 || bm > 64 * warpgroups) {
            return refuse(
                "packed weights are decoded to one 16-bit tile of 64 rows for each warpgroup".into(),
            );
        }
        let whole = |is_transposed| if is_transposed { 64 } else { 8 };
        if !(bm / cluster_n).is_multiple_of(whole(p)) || !(bn / cluster_m).is_multiple_of(whole(q)) {
            return refuse("a block's share of a load is no whole number of panels".into());
        }
        if cluster_k == 1 && !self.tile_panels(kind).is_multiple_of(panels) {
            return refuse(format!(
                "{} panels of a tile do not go round {panels} buffers",
                self.tile_panels(kind)
            ));
        }
        let (rows, columns, pad) = if self.is_swapped { (bn, bm, 4) } else { (bm, bn, 8) };
        let (p_bytes, q_bytes) = self.stage_bytes();
        if cluster_k > 1 && rows * (columns + pad) * 4 > stages * (p_bytes + q_bytes) {
            return refuse("the split's tile does not fit the ring".into());
        }
        let shared_bytes = self.shared_bytes(kind);
        if shared_bytes > chip.shared_bytes {
            return refuse(format!(
                "{shared_bytes} bytes of shared memory, {} has {}",
                chip.name, chip.shared_bytes
            ));
        }
        Ok(())
    }

    /// The kernel's name: a pure function of what it is compiled for.
    pub fn symbol(&self, arch: &str, kind: Kind) -> String {
        let Self { bm, bn, stages, cluster_m, cluster_n, cluster_k, warpgroups, panels, .. } = *self;
        let swapped = if self.is_swapped { "_sw" } else { "" };
        let gated = if self.is_gated { "_gate" } else { "" };
        let packed = if self.weight_bits > 0 { format!("_w{}", self.weight_bits) } else { String::new() };
        let windows = if self.is_windows { "_windows" } else { "" };
        format!(
            "matmul_{}__{arch}__bm{bm}_bn{bn}_bk{}_st{stages}_cl{cluster_m}x{cluster_n}x{cluster_k}_wg{warpgroups}_pn{panels}{swapped}{gated}{packed}{windows}",
            kind.name(),
            self.bk(kind)
        )
    }

    /// What the build compiles.
    pub(super) fn unit(&self, arch: &str, kind: Kind, texts: &[Text]) -> Unit {
        let symbol = self.symbol(arch, kind);
        let (p_transposed, q_transposed) = self.transposed_operands(kind);
        let numbers = [
            ("BM", self.bm),
            ("BN", self.bn),
            ("STAGES", self.stages),
            ("CLUSTER_M", self.cluster_m),
            ("CLUSTER_N", self.cluster_n),
            ("CLUSTER_K", self.cluster_k),
            ("WARPGROUPS", self.warpgroups),
            ("PANELS", self.panels),
            ("SWAP", self.is_swapped.into()),
            ("P_TRANSPOSED", p_transposed.into()),
            ("Q_TRANSPOSED", q_transposed.into()),
            ("SHARED_BYTES", self.shared_bytes(kind)),
            ("GATED", self.is_gated.into()),
            ("WEIGHT_BITS", self.weight_bits),
            ("WINDOWS", self.is_windows.into()),
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
                shared_bytes: self.shared_bytes(kind),
                required: self.required(kind),
                forbidden: vec!["HMMA", "IMMA"],
                planned: Planned::default(),
            }],
        }
    }

    fn required(&self, kind: Kind) -> Vec<&'static str> {
        let product = match kind.input {
            Element::S8 => "IGMMA",
            Element::E4M3 => "QGMMA",
            _ => "HGMMA",
        };
        let mut required = vec![product, "SYNCS", "ACQBULK"];
        required.push(if self.cluster_m * self.cluster_n > 1 {
            "UTMALDG.3D.MULTICAST"
        } else {
            "UTMALDG.3D"
        });
        if self.weight_bits > 0 {
            required.push("UBLKCP");
        }
        if self.is_windows {
            required.push("UTMALDG.4D.IM2COL");
        }
        if self.cluster_k == 1 {
            required.push("UTMASTG.3D");
            if kind.output.bytes() == 2 {
                required.push("STSM");
            }
        }
        required
    }
}
