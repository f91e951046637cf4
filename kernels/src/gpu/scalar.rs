//! Element types of the device kernels, the text that every unit of them starts with, and structures passed by value.

use super::launch::{Arg, Launch, Plan};
use super::unit::{Kernel, Planned, Text};
use crate::estimate::Cost;

/// An element type, with ONNX's number for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Scalar {
    F32 = 1,
    U8 = 2,
    I8 = 3,
    U16 = 4,
    I16 = 5,
    I32 = 6,
    I64 = 7,
    Bool = 9,
    F16 = 10,
    F64 = 11,
    U32 = 12,
    U64 = 13,
    BF16 = 16,
    F8E4M3FN = 17,
    F8E4M3FNUZ = 18,
    F8E5M2 = 19,
    F8E5M2FNUZ = 20,
    U4 = 21,
    I4 = 22,
    F4E2M1 = 23,
    /// Powers of two.
    F8E8M0 = 24,
    U2 = 25,
    I2 = 26,
}

impl Scalar {
    const ALL: [Scalar; 23] = [
        Scalar::F32,
        Scalar::U8,
        Scalar::I8,
        Scalar::U16,
        Scalar::I16,
        Scalar::I32,
        Scalar::I64,
        Scalar::Bool,
        Scalar::F16,
        Scalar::F64,
        Scalar::U32,
        Scalar::U64,
        Scalar::BF16,
        Scalar::F8E4M3FN,
        Scalar::F8E4M3FNUZ,
        Scalar::F8E5M2,
        Scalar::F8E5M2FNUZ,
        Scalar::U4,
        Scalar::I4,
        Scalar::F4E2M1,
        Scalar::F8E8M0,
        Scalar::U2,
        Scalar::I2,
    ];

    /// The type with ONNX's number, when device kernels know it.
    pub fn from_onnx(number: u32) -> Option<Scalar> {
        Scalar::ALL.into_iter().find(|&scalar| scalar as u32 == number)
    }

    /// Bits of an element.
    pub const fn bits(self) -> usize {
        match self {
            Scalar::U2 | Scalar::I2 => 2,
            Scalar::U4 | Scalar::I4 | Scalar::F4E2M1 => 4,
            Scalar::U8 | Scalar::I8 | Scalar::Bool => 8,
            Scalar::F8E4M3FN | Scalar::F8E4M3FNUZ | Scalar::F8E5M2 | Scalar::F8E5M2FNUZ | Scalar::F8E8M0 => 8,
            Scalar::U16 | Scalar::I16 | Scalar::F16 | Scalar::BF16 => 16,
            Scalar::F32 | Scalar::I32 | Scalar::U32 => 32,
            Scalar::I64 | Scalar::F64 | Scalar::U64 => 64,
        }
    }

    /// Bytes of an element; of the byte that several share where they are packed.
    pub const fn bytes(self) -> usize {
        self.bits().div_ceil(8)
    }

    /// Bytes of `count` elements one behind the other; `None` beyond the range of a size.
    pub const fn byte_len(self, count: usize) -> Option<usize> {
        match self.is_packed() {
            true => Some(count.div_ceil(8 / self.bits())),
            false => count.checked_mul(self.bytes()),
        }
    }

    /// Several elements share a byte.
    pub const fn is_packed(self) -> bool {
        self.bits() < 8
    }

    /// Types that only conversions read, and what moves bytes: all other kernels must be kept from them.
    pub const fn is_narrow(self) -> bool {
        self as u8 >= Scalar::F8E4M3FN as u8
    }

    /// As symbols spell it.
    pub const fn suffix(self) -> &'static str {
        match self {
            Scalar::F32 => "f32",
            Scalar::U8 => "u8",
            Scalar::I8 => "i8",
            Scalar::U16 => "u16",
            Scalar::I16 => "i16",
            Scalar::I32 => "i32",
            Scalar::I64 => "i64",
            Scalar::Bool => "bool",
            Scalar::F16 => "f16",
            Scalar::F64 => "f64",
            Scalar::U32 => "u32",
            Scalar::U64 => "u64",
            Scalar::BF16 => "bf16",
            Scalar::F8E4M3FN => "f8e4m3fn",
            Scalar::F8E4M3FNUZ => "f8e4m3fnuz",
            Scalar::F8E5M2 => "f8e5m2",
            Scalar::F8E5M2FNUZ => "f8e5m2fnuz",
            Scalar::U4 => "u4",
            Scalar::I4 => "i4",
            Scalar::F4E2M1 => "f4e2m1",
            Scalar::F8E8M0 => "f8e8m0",
            Scalar::U2 => "u2",
            Scalar::I2 => "i2",
        }
    }

    /// f16, bf16 and f32, which kernels compute in f32.
    pub const fn is_float(self) -> bool {
        matches!(self, Scalar::F32 | Scalar::F16 | Scalar::BF16)
    }

    pub const fn is_integer(self) -> bool {
        !self.is_narrow()
            && !matches!(self, Scalar::F32 | Scalar::F16 | Scalar::BF16 | Scalar::F64 | Scalar::Bool)
    }
}

/// The text every unit of device kernels starts with, after the arch's own.
pub(super) const TEXT: Text = Text { path: "device/scalar.cu", text: include_str!("../../device/scalar.cu") };

/// A kernel of 256 threads at most and no dynamic shared memory.
pub(super) fn kernel(symbol: impl Into<String>) -> Kernel {
    Kernel {
        symbol: symbol.into(),
        threads: THREADS,
        shared_bytes: 0,
        required: Vec::new(),
        forbidden: Vec::new(),
        planned: Planned::default(),
    }
}

/// Threads of a block.
pub(super) const THREADS: u32 = 256;

/// Blocks for one thread an item.
pub(super) fn blocks(items: usize) -> u32 {
    items.div_ceil(THREADS as usize).max(1) as u32
}

/// The address of an operand.
pub(super) fn pointer(operand: usize) -> Arg {
    Arg::Pointer { operand, offset_bytes: 0 }
}

/// One kernel of [`THREADS`] threads a block that needs nothing beside its arguments.
pub(super) fn launch(symbol: String, grid: [u32; 3], args: Vec<Arg>, cost: Cost) -> Plan {
    Plan {
        launches: vec![Launch {
            symbol,
            grid,
            block: [THREADS, 1, 1],
            cluster: [1, 1, 1],
            shared_bytes: 0,
            args,
            is_dependent_launch: false,
            cost,
        }],
        ..Plan::default()
    }
}

/// The same plan of kernels that begin with `begin_kernel`: each may be started while the one ahead of it still runs.
pub(super) fn overlapping(mut plan: Plan) -> Plan {
    plan.launches.iter_mut().for_each(|launch| launch.is_dependent_launch = true);
    plan
}

/// A C structure under construction, members aligned as C aligns them.
#[derive(Default)]
pub(super) struct Structure {
    bytes: Vec<u8>,
    align: usize,
}

impl Structure {
    fn put(mut self, bytes: &[u8]) -> Structure {
        self.bytes.resize(self.bytes.len().next_multiple_of(bytes.len()), 0);
        self.align = self.align.max(bytes.len());
        self.bytes.extend_from_slice(bytes);
        self
    }

    pub fn u8(self, value: u8) -> Structure {
        self.put(&[value])
    }

    pub fn u32(self, value: u32) -> Structure {
        self.put(&value.to_le_bytes())
    }

    pub fn f32(self, value: f32) -> Structure {
        self.put(&value.to_le_bytes())
    }

    pub fn u64(self, value: u64) -> Structure {
        self.put(&value.to_le_bytes())
    }

    /// An array of `N` members from `values`, the rest `fill`.
    pub fn u32s<const N: usize>(mut self, values: impl IntoIterator<Item = u32>, fill: u32) -> Structure {
        let mut values = values.into_iter();
        for _ in 0..N {
            self = self.u32(values.next().unwrap_or(fill));
        }
        self
    }

    pub fn i32s<const N: usize>(self, values: impl IntoIterator<Item = i32>) -> Structure {
        self.u32s::<N>(values.into_iter().map(|value| value as u32), 0)
    }

    pub fn f32s<const N: usize>(self, values: impl IntoIterator<Item = f32>) -> Structure {
        self.u32s::<N>(values.into_iter().map(f32::to_bits), 0)
    }

    pub fn i64s<const N: usize>(mut self, values: impl IntoIterator<Item = i64>) -> Structure {
        let mut values = values.into_iter();
        for _ in 0..N {
            self = self.u64(values.next().unwrap_or(0) as u64);
        }
        self
    }

    /// The argument, its size a multiple of its alignment.
    pub fn finish(mut self) -> Arg {
        self.bytes.resize(self.bytes.len().next_multiple_of(self.align), 0);
        Arg::Bytes { bytes: self.bytes, align: self.align }
    }
}

/// Magic number and shift with which a kernel divides numbers below 2^31 by `divisor`:
/// `n / divisor = (n * magic) >> (32 + shift)`. For divisors above 1.
pub(super) fn division(divisor: u32) -> (u32, u32) {
    let divisor = u64::from(divisor.max(2));
    let log = 64 - (divisor - 1).leading_zeros();
    let magic = (1u64 << (31 + log)) / divisor + 1;
    (magic as u32, log - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magic_division_is_exact() {
        for divisor in (2..2000).chain([4095, 4096, 65_537, 1 << 30, (1 << 31) - 1]) {
            let (magic, shift) = division(divisor);
            let edges = (1..40u64).flat_map(|i| {
                let multiple = u64::from(divisor) * (i * i * 1000 + i);
                [multiple - 1, multiple, multiple + 1]
            });
            for n in edges.chain([0, 1, (1 << 31) - 1, (1 << 31) - 2]).filter(|&n| n < 1 << 31) {
                let quotient = ((n * u64::from(magic)) >> 32) >> shift;
                assert_eq!(quotient, n / u64::from(divisor), "{n} / {divisor}");
            }
        }
    }

    #[test]
    fn structures_are_laid_out_as_c_does() {
        let Arg::Bytes { bytes, align } = Structure::default().u32(1).u64(2).u8(3).finish() else {
            panic!("a structure is passed by value")
        };
        assert_eq!((bytes.len(), align), (24, 8));
        assert_eq!((bytes[0], bytes[8], bytes[16]), (1, 2, 3));
    }
}
