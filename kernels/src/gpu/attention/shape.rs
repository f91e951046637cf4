//! What an attention problem is, and its form that the device text reads.

use super::super::launch::Element;
use super::MaskOperand;
use crate::error::{KernelError, Result};
use crate::estimate::Cost;

/// Distances in elements between neighbours; columns are next to each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Strides {
    /// Between sequences, or between pages of a paged cache. Unused for ragged queries.
    pub batch: u64,
    pub row: u64,
    pub head: u64,
}

impl Strides {
    /// `[batch, rows, heads, columns]`, dense.
    pub fn rows_first(rows: u32, heads: u32, columns: u32) -> Self {
        let [rows, heads, columns] = [rows, heads, columns].map(u64::from);
        Self { batch: rows * heads * columns, row: heads * columns, head: columns }
    }

    /// `[batch, heads, rows, columns]`, dense.
    pub fn heads_first(rows: u32, heads: u32, columns: u32) -> Self {
        let [rows, heads, columns] = [rows, heads, columns].map(u64::from);
        Self { batch: rows * heads * columns, row: columns, head: rows * columns }
    }
}

/// Which keys row i of a sequence may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Causal {
    /// Keys up to i + (number of keys - number of rows): the last row sees all.
    BottomRight,
    /// The same for sequences with at least as many keys as rows; others are padded behind, and row i sees keys up to i.
    Appended,
    /// Keys up to i + this many.
    Past(i32),
}

/// Where a sequence's query rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queries {
    /// `q_len` rows for each.
    Batched,
    /// Between neighbouring offsets of one run of `rows` rows; `q_len` is the most any sequence has.
    Ragged { rows: u32 },
}

/// Where a sequence's keys and values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    Contiguous,
    /// In pages of a pool; `columns` is the row length of the page table.
    Paged {
        pages: u32,
        page_rows: u32,
        columns: u32,
    },
}

/// What the numbers of a cache are stored as where not in the element type of the queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// Floats of 8 bits without infinities.
    E4M3,
    I8,
    /// Two to a byte, the even column in the low half, 8 added.
    I4,
}

impl Code {
    pub const fn bits(self) -> u64 {
        match self {
            Code::E4M3 | Code::I8 => 8,
            Code::I4 => 4,
        }
    }

    /// Part of a symbol, and as tables spell it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Code::E4M3 => "e4m3",
            Code::I8 => "i8",
            Code::I4 => "i4",
        }
    }
}

/// How many scales, of f32, the codes of keys have, and as many of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scales {
    One,
    /// `[k/v heads]`.
    Head,
    /// `[k/v heads, columns]`.
    Channel,
}

/// A cache of codes: a number is a code times its scale. Strides of the cache count codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Codes {
    pub code: Code,
    pub scales: Scales,
}

/// How the lengths operand is read: a sequence has `lengths[b] + bias (+ its query rows)` keys, at most `kv_len`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lengths {
    pub is_i64: bool,
    pub bias: i32,
    pub adds_queries: bool,
}

/// `softmax(mask(cap(scale Q K^T))) V` for every sequence and head. Query head h uses key/value head h / (heads / kv_heads).
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// Of all four tensors: bf16 or f16; f32 where the family's table has it.
    pub element: Element,
    /// What keys and values are stored as instead.
    pub codes: Option<Codes>,
    pub batch: u32,
    pub heads: u32,
    pub kv_heads: u32,
    /// Rows of a sequence at most.
    pub q_len: u32,
    /// Keys of a sequence at most.
    pub kv_len: u32,
    /// Columns of queries and keys.
    pub head_qk: u32,
    /// Columns of values and of the result.
    pub head_v: u32,
    /// Positive.
    pub scale: f32,
    pub causal: Option<Causal>,
    /// Keys more than this many before the last one that the causal rule would allow are hidden.
    pub window_left: Option<u32>,
    /// Scores become `cap * tanh(score / cap)` after scaling.
    pub soft_cap: Option<f32>,
    pub has_sinks: bool,
    /// On the scores after the soft cap, beside the rules above.
    pub mask: Option<MaskOperand>,
    pub queries: Queries,
    pub keys: Keys,
    pub lengths: Option<Lengths>,
    pub q: Strides,
    pub k: Strides,
    pub v: Strides,
    pub out: Strides,
}

impl Problem {
    /// Every row sees all keys: contiguous tensors, rows first, scale 1. Others begin here and change what they are about.
    pub fn dense(
        element: Element,
        [batch, heads, kv_heads]: [u32; 3],
        [q_len, kv_len]: [u32; 2],
        [head_qk, head_v]: [u32; 2],
    ) -> Problem {
        Problem {
            element,
            codes: None,
            batch,
            heads,
            kv_heads,
            q_len,
            kv_len,
            head_qk,
            head_v,
            scale: 1.0,
            causal: None,
            window_left: None,
            soft_cap: None,
            has_sinks: false,
            mask: None,
            queries: Queries::Batched,
            keys: Keys::Contiguous,
            lengths: None,
            q: Strides::rows_first(q_len, heads, head_qk),
            k: Strides::rows_first(kv_len, kv_heads, head_qk),
            v: Strides::rows_first(kv_len, kv_heads, head_v),
            out: Strides::rows_first(q_len, heads, head_v),
        }
    }

    /// Refuses what no kernel does, with the reason.
    pub fn check(&self) -> Result<()> {
        if !matches!(self.element, Element::BF16 | Element::F16 | Element::F32) {
            let element = self.element;
            return Err(KernelError::parameter(format!("attention of {element:?}: bf16, f16 and f32 only")));
        }
        if self.kv_heads == 0 || !self.heads.is_multiple_of(self.kv_heads) || self.heads == 0 {
            return Err(KernelError::shape(format!(
                "{} query heads over {} key/value heads: must be a multiple",
                self.heads, self.kv_heads
            )));
        }
        for (what, columns) in [("query/key", self.head_qk), ("value", self.head_v)] {
            if columns == 0 || columns % 8 != 0 || columns > 256 {
                return Err(KernelError::shape(format!(
                    "{columns} {what} columns of a head: must be a multiple of 8 up to 256"
                )));
            }
        }
        if !(self.scale > 0.0 && self.scale.is_finite()) {
            return Err(KernelError::parameter(format!("scale {}: must be positive", self.scale)));
        }
        if self.soft_cap.is_some_and(|cap| !(cap > 0.0 && cap.is_finite())) {
            return Err(KernelError::parameter(format!("soft cap {:?}: must be positive", self.soft_cap)));
        }
        let cached = if self.codes.is_some() { 16 } else { 8 };
        for (what, s, step) in
            [("q", self.q, 8), ("k", self.k, cached), ("v", self.v, cached), ("out", self.out, 8)]
        {
            if [s.batch, s.row, s.head].iter().any(|stride| stride % step != 0) {
                return Err(KernelError::shape(format!(
                    "{what} has {s:?}: must be multiples of {step} elements"
                )));
            }
        }
        if let Some(codes) = self.codes
            && codes.code == Code::I4
        {
            return Err(KernelError::parameter(format!("a cache of {codes:?}: codes of 8 bits only")));
        }
        if let Keys::Paged { page_rows, .. } = self.keys
            && page_rows % 16 != 0
        {
            return Err(KernelError::shape(format!("pages of {page_rows} rows: must be a multiple of 16")));
        }
        if self.mask.is_some() && self.queries != Queries::Batched {
            return Err(KernelError::parameter("a mask over ragged queries: batched only"));
        }
        self.check_extents()
    }

    pub(super) fn check_extents(&self) -> Result<()> {
        for (what, extent) in [("query rows", self.q_rows()), ("keys", self.kv_len), ("batch", self.batch)] {
            if extent >= 1 << 30 {
                return Err(KernelError::shape(format!("{extent} {what}: at most 2^30 - 1")));
            }
        }
        let Keys::Paged { pages, page_rows, columns } = self.keys else {
            return Ok(());
        };
        if self.lengths.is_none() {
            return Err(KernelError::parameter("a paged cache needs the lengths of its sequences"));
        }
        if page_rows == 0 || pages == 0 {
            return Err(KernelError::shape(format!("{pages} pages of {page_rows} rows: one at least")));
        }
        if u64::from(columns) * u64::from(page_rows) < u64::from(self.kv_len) {
            return Err(KernelError::shape(format!(
                "a page table with {columns} columns of {page_rows} rows holds fewer than {} keys",
                self.kv_len
            )));
        }
        Ok(())
    }

    /// Query rows of all sequences.
    pub fn q_rows(&self) -> u32 {
        match self.queries {
            Queries::Batched => self.batch.saturating_mul(self.q_len),
            Queries::Ragged { rows } => rows,
        }
    }

    /// Query rows of a sequence as kernels are chosen for them: the average where they are ragged.
    pub fn typical_rows(&self) -> u32 {
        match self.queries {
            Queries::Batched => self.q_len,
            Queries::Ragged { rows } => self.q_len.min(rows.div_ceil(self.batch.max(1))),
        }
    }

    /// Query heads that share a key/value head.
    pub fn group(&self) -> u32 {
        self.heads / self.kv_heads
    }

    /// Arithmetic and traffic with every sequence at its longest.
    pub fn cost(&self) -> Cost {
        let [batch, heads, kv_heads, q_len, kv_len] =
            [self.batch, self.heads, self.kv_heads, self.q_len, self.kv_len].map(f64::from);
        let offset = match self.causal {
            None => None,
            Some(Causal::BottomRight | Causal::Appended) => Some(kv_len - q_len),
            Some(Causal::Past(past)) => Some(f64::from(past)),
        };
        // A row sees offset + 1 to offset + q_len keys, on average the middle of the two.
        let mut seen = offset.map_or(kv_len, |o| (o + (q_len + 1.0) / 2.0).clamp(1.0, kv_len.max(1.0)));
        if let Some(window) = self.window_left {
            seen = seen.min(f64::from(window) + 1.0);
        }
        let columns = f64::from(self.head_qk + self.head_v);
        let read = if self.window_left.is_some() { (seen + q_len).min(kv_len) } else { kv_len };
        let bytes = self.element.bytes() as f64;
        let cached_bytes = self.codes.map_or(bytes, |codes| codes.code.bits() as f64 / 8.0);
        Cost {
            flops: 2.0 * batch * heads * q_len * seen * columns,
            bytes: batch * (q_len * heads * bytes + read * kv_heads * cached_bytes) * columns,
        }
    }

    /// `AttentionShape` of the device text, with the work counts of a launch.
    pub(super) fn device_shape(&self, piece_rows: u32, [tiles, row_tiles, section]: [u32; 3]) -> Vec<u8> {
        let (is_causal, is_bottom_right, offset) = match self.causal {
            None => (0, 1, 0),
            Some(Causal::BottomRight) => (1, 1, 0),
            Some(Causal::Appended) => (1, 2, 0),
            Some(Causal::Past(past)) => (1, 0, past),
        };
        let (page_rows, columns) = match self.keys {
            Keys::Contiguous => (0, 0),
            Keys::Paged { page_rows, columns, .. } => (page_rows, columns),
        };
        let lengths = self.lengths.unwrap_or_default();
        let size = |extent: u32| extent as i32;
        let integers = [
            size(self.batch),
            size(self.heads),
            size(self.kv_heads),
            size(self.group()),
            size(self.q_len),
            size(self.kv_len),
            is_causal,
            is_bottom_right,
            offset,
            self.window_left.map_or(-1, |left| left.min(1 << 30) as i32),
            1 + i32::from(lengths.is_i64),
            lengths.bias,
            lengths.adds_queries.into(),
            size(page_rows),
            size(piece_rows),
            size(columns),
            size(self.head_qk),
            size(self.head_v),
            size(tiles),
            size(row_tiles),
            size(section),
            self.mask.map_or(i32::MAX, |mask| size(mask.columns.min(1 << 30))),
        ];
        let log2_e = std::f32::consts::LOG2_E;
        let scales = match self.soft_cap {
            None => [self.scale * log2_e, 0.0],
            Some(cap) => [cap * log2_e, self.scale / cap],
        };
        let strides = [self.q, self.out].into_iter().flat_map(|s| [s.batch, s.row, s.head]);
        let mut bytes: Vec<u8> = integers.iter().flat_map(|v| v.to_le_bytes()).collect();
        bytes.extend(scales.iter().flat_map(|v| v.to_le_bytes()));
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes.extend(strides.flat_map(|v| v.to_le_bytes()));
        bytes
    }
}
