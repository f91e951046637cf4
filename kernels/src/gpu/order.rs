//! Work along one axis that depends on order: running sums, the best k elements, norms, the place of the largest element.
//! The kernels are `device/order.cu`.

use super::launch::{Arg, Plan};
use super::scalar::{self, Scalar, Structure, THREADS, blocks, kernel, launch, overlapping, pointer};
use super::unit::{Kernel, Text, Unit};
use crate::error::{KernelError, Result};
use crate::estimate::Cost;

/// Elements that are kept at most of a line that is longer than [`LIST`].
const KEPT: usize = 1024;
/// Threads of a block that looks through a long line.
const TOP_K_THREADS: u32 = 1024;
/// Elements of a round of a block that scans, as in the device text.
const SCAN_ROUND: usize = 2048;
/// Blocks that scan, if there is enough to do.
const SCAN_BLOCKS: usize = 512;
/// Elements of a line that are sorted as a whole.
const LIST: usize = 2048;

/// Types of running sums.
const SCANNED: [Scalar; 8] =
    [Scalar::F32, Scalar::F16, Scalar::BF16, Scalar::F64, Scalar::I32, Scalar::I64, Scalar::U32, Scalar::U64];
/// Types that are ordered.
const ORDERED: [Scalar; 12] = [
    Scalar::F32,
    Scalar::F16,
    Scalar::BF16,
    Scalar::F64,
    Scalar::I64,
    Scalar::I32,
    Scalar::I16,
    Scalar::I8,
    Scalar::U64,
    Scalar::U32,
    Scalar::U16,
    Scalar::U8,
];
const REAL: [Scalar; 4] = [Scalar::F32, Scalar::F16, Scalar::BF16, Scalar::F64];

/// A tensor seen along one axis: `[outer, size, inner]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lines {
    pub outer: usize,
    pub size: usize,
    pub inner: usize,
}

impl Lines {
    pub fn new(dims: &[usize], axis: usize) -> Lines {
        Lines {
            outer: dims[..axis].iter().product(),
            size: dims[axis],
            inner: dims[axis + 1..].iter().product(),
        }
    }

    fn count(self) -> usize {
        self.outer * self.inner
    }

    fn elements(self) -> usize {
        self.count() * self.size
    }

    fn check(self, name: &str, scalar: Scalar, known: &[Scalar]) -> Result<()> {
        if !known.contains(&scalar) {
            return Err(KernelError::parameter(format!("{name} of type {}", scalar.suffix())));
        }
        if self.count() >= 1 << 31 || self.size >= 1 << 31 {
            return Err(KernelError::shape(format!(
                "{name} of {self:?}: at most 2^31 - 1 lines and elements of one"
            )));
        }
        Ok(())
    }

    /// Three sizes as numbers.
    fn args(self) -> [Arg; 3] {
        [self.count(), self.size, self.inner].map(|size| Arg::U32(size as u32))
    }
}

/// How sums or products run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    pub is_product: bool,
    /// Without the element itself.
    pub is_exclusive: bool,
    /// From the end.
    pub is_reverse: bool,
}

/// Running sums or products along an axis. Operands: 0 the result, 1 the input.
pub fn scan(scalar: Scalar, lines: Lines, scan: Scan) -> Result<Plan> {
    lines.check("running sums", scalar, &SCANNED)?;
    if lines.elements() == 0 {
        return Ok(Plan::default());
    }
    // A thread a line where there are enough of them, or little to do for each.
    let by_thread = lines.size <= 32 || lines.count() >= 1 << 14;
    let part = if by_thread { lines.size } else { part(lines) };
    let parts = lines.size.div_ceil(part);
    let parameters = Structure::default()
        .u32s::<3>([lines.count(), lines.size, lines.inner].map(|size| size as u32), 0)
        .u32s::<3>([scan.is_product, scan.is_exclusive, scan.is_reverse].map(u32::from), 0)
        .u32s::<2>([parts, part].map(|size| size as u32), 1)
        .finish();
    let elements = lines.elements() as f64;
    let bytes = elements * scalar.bytes() as f64;
    let cost = Cost { flops: elements, bytes: 2.0 * bytes };
    let symbol = |kind: &str| format!("scan_{kind}_{}", scalar.suffix());
    if by_thread {
        let args = vec![pointer(0), pointer(1), parameters];
        return Ok(overlapping(launch(symbol("lines"), [blocks(lines.count()), 1, 1], args, cost)));
    }
    let (grid, totals) = ([(lines.count() * parts) as u32, 1, 1], Arg::Workspace { offset_bytes: 0 });
    let mut plan = Plan::default();
    if parts > 1 {
        plan.workspace_bytes = (8 * lines.count() * parts) as u64;
        let cost = Cost { flops: elements, bytes };
        let args = vec![pointer(1), totals.clone(), parameters.clone()];
        plan.launches.extend(launch(symbol("totals"), grid, args, cost).launches);
    }
    // One part has no totals to read.
    let totals = if parts > 1 { totals } else { pointer(1) };
    let args = vec![pointer(0), pointer(1), totals, parameters];
    plan.launches.extend(launch(symbol("rows"), grid, args, cost).launches);
    Ok(overlapping(plan))
}

/// Elements of the parts that lines are cut into, so that there are blocks for every compute unit: whole rounds of a block,
/// and no more parts than it sums up quickly.
fn part(lines: Lines) -> usize {
    let wanted = SCAN_BLOCKS.div_ceil(lines.count());
    lines.size.div_ceil(wanted).next_multiple_of(SCAN_ROUND)
}

/// The largest or smallest `k` elements of each line, the best first and equal ones by position; NaN is above everything.
/// Operands: 0 the values `[outer, k, inner]`, 1 their positions as i64, 2 the input.
///
/// # Errors
/// More than 1024 of lines that are longer than 2048.
pub fn top_k(scalar: Scalar, lines: Lines, k: usize, is_largest: bool) -> Result<Plan> {
    lines.check("the largest elements", scalar, &ORDERED)?;
    if k > lines.size {
        return Err(KernelError::shape(format!("the top {k} of {} elements", lines.size)));
    }
    if k > KEPT && lines.size > LIST {
        return Err(KernelError::shape(format!("the top {k} of {} elements: at most {KEPT}", lines.size)));
    }
    if k == 0 || lines.count() == 0 {
        return Ok(Plan::default());
    }
    let parameters = Structure::default()
        .u32(lines.size as u32)
        .u32(lines.inner as u32)
        .u32(k as u32)
        .u32(is_largest.into())
        .u32(scalar as u32)
        .u32(scalar.bytes() as u32)
        .finish();
    let bytes = lines.elements() * scalar.bytes() + lines.count() * k * (8 + scalar.bytes());
    let cost = Cost { flops: 4.0 * lines.elements() as f64, bytes: bytes as f64 };
    let args = vec![pointer(0), pointer(1), pointer(2), parameters];
    let mut plan = launch("top_k".into(), [lines.count() as u32, 1, 1], args, cost);
    let threads = if lines.size > 2 * LIST { TOP_K_THREADS } else { THREADS };
    plan.launches.iter_mut().for_each(|launch| launch.block = [threads, 1, 1]);
    Ok(overlapping(plan))
}

/// Each line divided by its norm of order 1 or 2. Operands: 0 the result, 1 the input.
pub fn normalize(scalar: Scalar, lines: Lines, order: u32) -> Result<Plan> {
    let symbol = format!("normalize_lp_{}", scalar.suffix());
    each_line("norms", symbol, scalar, lines, vec![Arg::U32(order)])
}

/// 1 at the first of the largest elements of each line, 0 elsewhere. Operands: 0 the result, 1 the input.
pub fn hardmax(scalar: Scalar, lines: Lines) -> Result<Plan> {
    each_line("largest places", format!("hardmax_{}", scalar.suffix()), scalar, lines, Vec::new())
}

fn each_line(name: &str, symbol: String, scalar: Scalar, lines: Lines, more: Vec<Arg>) -> Result<Plan> {
    lines.check(name, scalar, &REAL)?;
    if lines.elements() == 0 {
        return Ok(Plan::default());
    }
    let elements = lines.elements() as f64;
    let cost = Cost { flops: 2.0 * elements, bytes: 3.0 * elements * scalar.bytes() as f64 };
    let args = [pointer(0), pointer(1)].into_iter().chain(lines.args()).chain(more).collect();
    Ok(overlapping(launch(symbol, [blocks(lines.count()), 1, 1], args, cost)))
}

/// What the build compiles; `atomics` are the arch's primitives for updates of one place.
pub fn unit(arch: Text, atomics: Text) -> Unit {
    let own = Text { path: "device/order.cu", text: include_str!("../../device/order.cu") };
    let mut symbols = Vec::new();
    for scalar in SCANNED {
        symbols.extend(["lines", "totals", "rows"].map(|kind| format!("scan_{kind}_{}", scalar.suffix())));
    }
    for scalar in REAL {
        symbols.extend(["normalize_lp", "hardmax"].map(|name| format!("{name}_{}", scalar.suffix())));
    }
    let top_k = Kernel { threads: TOP_K_THREADS, ..kernel("top_k") };
    Unit {
        name: "order".into(),
        texts: vec![arch, atomics, scalar::TEXT, own],
        defines: Vec::new(),
        kernels: symbols.into_iter().map(kernel).chain([top_k]).collect(),
    }
}
