//! Discrete Fourier transforms of any length, along any axis or of overlapping frames. The kernels are `device/signal.cu`.
//!
//! Lengths that have no prime factor above 7 are transformed in shared memory, long ones in two passes (Bailey's
//! four-step method); all others as a convolution with a chirp (Bluestein's method). Signals of f32 and f64 are transformed
//! in double precision, those of 16 bits in single precision where no chirp is needed.

use super::launch::{Arg, Launch, Plan};
use super::scalar::{self, Scalar, Structure, kernel, launch, pointer};
use super::unit::{Kernel, Planned, Text, Unit};
use crate::error::{KernelError, Result};
use crate::estimate::Cost;

/// Stages of a pass at most.
const STAGES: usize = 12;
/// Lines that few blocks have when there are fewer than blocks to fill a device.
const FEW_LINES: usize = 8;
/// Blocks that fill a device.
const MANY_BLOCKS: usize = 256;

/// Where the elements of signals are in a tensor. Distances are in samples, complex ones counting once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Of signals whose number differs by `group`.
    pub outer: usize,
    /// Of signals with neighbouring numbers, inside a group.
    pub inner: usize,
    pub group: usize,
    /// Of an element of a signal and the next one.
    pub step: usize,
    /// Elements of a signal; a longer signal goes on with zeros.
    pub count: usize,
    pub is_complex: bool,
}

/// Signals and their transforms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transform {
    /// f32, f16, bf16 or f64, of the signals and of the transforms.
    pub scalar: Scalar,
    pub signals: usize,
    /// Samples that are transformed, and bins.
    pub size: usize,
    pub from: Place,
    pub to: Place,
    /// From bins to samples, divided by their number.
    pub is_inverse: bool,
    /// The bins given are the first half; the others are their conjugates.
    pub mirrors: bool,
    /// A factor for each sample comes as operand 2.
    pub has_window: bool,
}

/// What a pass reads or writes, numbered as in the text.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum End {
    Tensor,
    Work,
    Product,
    Chirp,
}

/// The type that a transform is computed in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Precision {
    Single,
    Double,
}

impl Precision {
    /// Complex numbers of a block.
    fn capacity(self) -> usize {
        match self {
            Precision::Single => 2048,
            Precision::Double => 1024,
        }
    }

    fn complex_bytes(self) -> usize {
        match self {
            Precision::Single => 8,
            Precision::Double => 16,
        }
    }

    fn symbol(self) -> &'static str {
        match self {
            Precision::Single => "fourier_f32",
            Precision::Double => "fourier_f64",
        }
    }
}

/// Transforms of `whole` samples between two ends; `sizes` multiply to it.
#[derive(Clone, Copy)]
struct Chain<'a> {
    sizes: &'a [usize],
    whole: usize,
    signals: usize,
    ends: [End; 2],
    /// Real and imaginary parts change places before and after, which makes it the inverse.
    swaps: bool,
    scale: f64,
    /// Samples of the signals that are convolved with a chirp, 0 where they are not.
    chirp: usize,
}

/// Addresses of a chain's ends, and of the numbers between two passes.
struct Operands {
    to: Arg,
    from: Arg,
    window: Arg,
    filter: Arg,
    between: Arg,
}

impl Transform {
    /// Operands: 0 the transforms, 1 the signals, 2 the window.
    ///
    /// # Errors
    /// Types without kernels, and lengths beyond those of two passes.
    pub fn plan(&self) -> Result<Plan> {
        let precision = match self.scalar {
            Scalar::F16 | Scalar::BF16 => Precision::Single,
            // The rounding errors of sums in f32 would show in bins that are 0.
            Scalar::F32 | Scalar::F64 => Precision::Double,
            other => return Err(KernelError::parameter(format!("transforms of type {}", other.suffix()))),
        };
        if self.signals == 0 || self.to.count == 0 {
            return Ok(Plan::default());
        }
        let too_long = || KernelError::shape(format!("a transform of {} samples", self.size));
        if self.size == 0 || self.size >= 1 << 24 || self.signals >= 1 << 31 {
            return Err(too_long());
        }
        if let Some(sizes) = passes(self.size, precision.capacity()) {
            return self.direct(precision, &sizes);
        }
        let whole = (2 * self.size - 1).next_power_of_two();
        let sizes = passes(whole, Precision::Double.capacity()).ok_or_else(too_long)?;
        self.convolved(&sizes, whole)
    }

    fn scale(&self) -> f64 {
        if self.is_inverse { 1.0 / self.size as f64 } else { 1.0 }
    }

    fn window(&self) -> Arg {
        // An operand that no caller has is NULL.
        pointer(if self.has_window { 2 } else { 3 })
    }

    fn direct(&self, precision: Precision, sizes: &[usize]) -> Result<Plan> {
        let chain = Chain {
            sizes,
            whole: self.size,
            signals: self.signals,
            ends: [End::Tensor, End::Tensor],
            swaps: false,
            scale: self.scale(),
            chirp: 0,
        };
        let operands = Operands {
            to: pointer(0),
            from: pointer(1),
            window: self.window(),
            filter: pointer(3),
            between: Arg::Workspace { offset_bytes: 0 },
        };
        let between = if sizes.len() > 1 { self.signals * self.size * precision.complex_bytes() } else { 0 };
        Ok(Plan {
            launches: self.launches(precision, chain, operands)?,
            workspace_bytes: between as u64,
            zeroed_bytes: 0,
        })
    }

    /// The transform as a convolution of the signal and a chirp, both weighted by its conjugate.
    fn convolved(&self, sizes: &[usize], whole: usize) -> Result<Plan> {
        let precision = Precision::Double;
        let one = (whole * precision.complex_bytes()) as u64;
        let all = self.signals as u64 * one;
        let place = |offset_bytes| Arg::Workspace { offset_bytes };
        let (filter, work, between) = (place(0), place(one), place(one + all));
        let chain = Chain {
            sizes,
            whole,
            signals: self.signals,
            ends: [End::Tensor, End::Work],
            swaps: false,
            scale: 1.0,
            chirp: self.size,
        };
        let operands = |to: &Arg, from: &Arg| Operands {
            to: to.clone(),
            from: from.clone(),
            window: self.window(),
            filter: filter.clone(),
            between: between.clone(),
        };
        let none = pointer(3);
        let made = Chain { signals: 1, ends: [End::Chirp, End::Work], ..chain };
        let back = Chain {
            ends: [End::Product, End::Tensor],
            swaps: true,
            scale: self.scale() / whole as f64,
            ..chain
        };
        let mut launches = self.launches(precision, made, operands(&filter, &none))?;
        launches.extend(self.launches(precision, chain, operands(&work, &pointer(1)))?);
        launches.extend(self.launches(precision, back, operands(&pointer(0), &work))?);
        let workspace_bytes = one + all + if sizes.len() > 1 { all } else { 0 };
        Ok(Plan { launches, workspace_bytes, zeroed_bytes: 0 })
    }

    fn launches(&self, precision: Precision, chain: Chain<'_>, operands: Operands) -> Result<Vec<Launch>> {
        let Operands { to, from, window, filter, between } = operands;
        let [load, store] = chain.ends;
        match *chain.sizes {
            [size] => Ok(vec![self.pass(precision, chain, [1, size], 0, [to, from, window, filter])?]),
            [first, second] => {
                let none = || pointer(3);
                let ahead = Chain { ends: [load, End::Work], ..chain };
                let behind = Chain { ends: [End::Work, store], ..chain };
                let args = [between.clone(), from, window, filter];
                Ok(vec![
                    self.pass(precision, ahead, [second, first], 0, args)?,
                    self.pass(precision, behind, [first, second], 1, [to, between, none(), none()])?,
                ])
            }
            _ => Err(KernelError::shape(format!("a transform in {} passes", chain.sizes.len()))),
        }
    }

    /// One pass over `parts` lines of `size` samples of each signal.
    fn pass(
        &self,
        precision: Precision,
        chain: Chain<'_>,
        [parts, size]: [usize; 2],
        number: u32,
        args: [Arg; 4],
    ) -> Result<Launch> {
        let lines = chain.signals * parts;
        if lines >= 1 << 31 {
            return Err(KernelError::shape(format!("transforms of {lines} lines: at most 2^31 - 1")));
        }
        let fits = precision.capacity() / size;
        let block_lines = lines.div_ceil(MANY_BLOCKS).max(FEW_LINES).min(fits).min(lines);
        let radices = radices(size).unwrap_or_default();
        let [load, store] = chain.ends;
        let (is_second, is_last) = (number == 1, number + 1 == chain.sizes.len() as u32);
        let by_line = |place: &Place| parts > 1 || (place.inner < place.step && chain.signals > 1);
        let places = self.place(self.place(Structure::default(), &self.from), &self.to);
        let parameters = places
            .u64(chain.scale.to_bits())
            .u32s::<4>([chain.signals, parts, size, chain.whole].map(|n| n as u32), 0)
            .u32s::<2>([block_lines as u32, radices.len() as u32], 0)
            .u32s::<STAGES>(radices.iter().map(|&radix| radix as u32), 1)
            .u32s::<5>(
                [
                    load as u32,
                    store as u32,
                    chain.chirp as u32,
                    is_second.into(),
                    (number == 0 && chain.sizes.len() > 1).into(),
                ],
                0,
            )
            .u32s::<4>(
                [
                    (chain.swaps && number == 0).into(),
                    (chain.swaps && is_last).into(),
                    self.is_inverse.into(),
                    self.mirrors.into(),
                ],
                0,
            )
            .u32((load == End::Tensor && by_line(&self.from) || !is_second && parts > 1).into())
            .u32((store == End::Tensor && by_line(&self.to) || parts > 1).into())
            .finish();
        let elements = (lines * size) as f64;
        let end_bytes = |end: End, place: &Place| match end {
            End::Tensor => {
                (chain.signals * place.count * (1 + usize::from(place.is_complex))) as f64
                    * self.scalar.bytes() as f64
            }
            End::Chirp => 0.0,
            _ => elements * precision.complex_bytes() as f64,
        };
        let cost = Cost {
            flops: 5.0 * elements * (size as f64).log2().max(1.0),
            bytes: end_bytes(load, &self.from) + end_bytes(store, &self.to),
        };
        let grid = [lines.div_ceil(block_lines) as u32, 1, 1];
        let args = args.into_iter().chain([parameters]).collect();
        let mut plan = launch(precision.symbol().into(), grid, args, cost);
        plan.launches.pop().map_or_else(
            || Err(KernelError::shape("a pass without a launch")),
            |launch| Ok(Launch { is_dependent_launch: true, ..launch }),
        )
    }

    fn place(&self, structure: Structure, place: &Place) -> Structure {
        structure.i64s::<3>([place.outer, place.inner, place.step].map(|distance| distance as i64)).u32s::<4>(
            [
                place.group.max(1) as u32,
                1 + u32::from(place.is_complex),
                place.count as u32,
                self.scalar as u32,
            ],
            0,
        )
    }
}

/// The radices of a line's stages; `None` where a prime factor has none.
fn radices(size: usize) -> Option<Vec<usize>> {
    let (mut rest, mut radices) = (size, Vec::new());
    for radix in [4, 2, 3, 5, 7] {
        while rest.is_multiple_of(radix) && rest > 0 {
            rest /= radix;
            radices.push(radix);
        }
    }
    (rest == 1 && radices.len() <= STAGES).then_some(radices)
}

/// The lines that signals of `size` are transformed in, at most `capacity` long: themselves, or the two nearest factors.
fn passes(size: usize, capacity: usize) -> Option<Vec<usize>> {
    radices(size)?;
    if size <= capacity {
        return Some(vec![size]);
    }
    let root = size.isqrt();
    let first = (1..=root).rev().find(|&divisor| size.is_multiple_of(divisor))?;
    (size / first <= capacity).then(|| vec![first, size / first])
}

/// What the build compiles.
pub fn unit(arch: Text) -> Unit {
    let own = Text { path: "device/signal.cu", text: include_str!("../../device/signal.cu") };
    let of = |precision: Precision| Kernel {
        planned: Planned {
            static_shared_bytes: Some((3 * precision.capacity() * precision.complex_bytes()) as u32),
            ..Planned::default()
        },
        ..kernel(precision.symbol())
    };
    Unit {
        name: "signal".into(),
        texts: vec![arch, scalar::TEXT, own],
        defines: Vec::new(),
        kernels: [Precision::Single, Precision::Double].map(of).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_split_into_lines_that_fit() {
        assert_eq!(passes(400, 2048), Some(vec![400]));
        assert_eq!(passes(4096, 2048), Some(vec![64, 64]));
        assert_eq!(passes(2 * 2187, 2048), Some(vec![54, 81]));
        assert_eq!(passes(11, 2048), None);
        assert_eq!(passes(1, 2048), Some(vec![1]));
        for size in 1..3000 {
            if let Some(radices) = radices(size) {
                assert_eq!(radices.iter().product::<usize>(), size);
            }
        }
    }
}
