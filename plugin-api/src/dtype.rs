//! Element types of tensors: one Rust enum with the numbers that ONNX and the C ABI use.

/// The element type of a tensor. The discriminants are those of `onnx.TensorProto.DataType` and of `tenon_dtype`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum DType {
    /// Not known, or not a tensor.
    #[default]
    Undefined = 0,
    F32 = 1,
    U8 = 2,
    I8 = 3,
    U16 = 4,
    I16 = 5,
    I32 = 6,
    I64 = 7,
    /// UTF-8 strings in one flat buffer: `n + 1` little-endian `u64` offsets, then the bytes.
    String = 8,
    /// One byte an element, 0 or 1.
    Bool = 9,
    F16 = 10,
    F64 = 11,
    U32 = 12,
    U64 = 13,
    Complex64 = 14,
    Complex128 = 15,
    BF16 = 16,
    F8E4M3FN = 17,
    F8E4M3FNUZ = 18,
    F8E5M2 = 19,
    F8E5M2FNUZ = 20,
    U4 = 21,
    I4 = 22,
    F4E2M1 = 23,
    F8E8M0 = 24,
    U2 = 25,
    I2 = 26,
    F6E2M3 = 27,
    F6E3M2 = 28,
}

impl DType {
    /// Every type a tensor can have, in the order of the numbers.
    pub const ALL: [DType; 28] = [
        DType::F32,
        DType::U8,
        DType::I8,
        DType::U16,
        DType::I16,
        DType::I32,
        DType::I64,
        DType::String,
        DType::Bool,
        DType::F16,
        DType::F64,
        DType::U32,
        DType::U64,
        DType::Complex64,
        DType::Complex128,
        DType::BF16,
        DType::F8E4M3FN,
        DType::F8E4M3FNUZ,
        DType::F8E5M2,
        DType::F8E5M2FNUZ,
        DType::U4,
        DType::I4,
        DType::F4E2M1,
        DType::F8E8M0,
        DType::U2,
        DType::I2,
        DType::F6E2M3,
        DType::F6E3M2,
    ];

    /// The type with ONNX's number `number`, or `None` when ONNX defines none.
    pub const fn from_onnx(number: i32) -> Option<DType> {
        if number == 0 {
            return Some(DType::Undefined);
        }
        if number < 0 || number as usize > Self::ALL.len() {
            return None;
        }
        Some(Self::ALL[number as usize - 1])
    }

    /// ONNX's number of this type.
    pub const fn onnx(self) -> i32 {
        self as i32
    }

    /// Bits an element takes in a packed buffer; 0 for strings and [`DType::Undefined`], whose size is not fixed.
    pub const fn bits(self) -> usize {
        match self {
            DType::Undefined | DType::String => 0,
            DType::U2 | DType::I2 => 2,
            DType::U4 | DType::I4 | DType::F4E2M1 => 4,
            DType::F6E2M3 | DType::F6E3M2 => 6,
            DType::U8
            | DType::I8
            | DType::Bool
            | DType::F8E4M3FN
            | DType::F8E4M3FNUZ
            | DType::F8E5M2
            | DType::F8E5M2FNUZ
            | DType::F8E8M0 => 8,
            DType::U16 | DType::I16 | DType::F16 | DType::BF16 => 16,
            DType::F32 | DType::I32 | DType::U32 => 32,
            DType::F64 | DType::I64 | DType::U64 | DType::Complex64 => 64,
            DType::Complex128 => 128,
        }
    }

    /// Bytes that `elements` elements take packed, or `None` on overflow or when the size is not fixed.
    pub const fn byte_len(self, elements: usize) -> Option<usize> {
        match self.bits() {
            0 => None,
            bits if bits >= 8 => elements.checked_mul(bits / 8),
            bits => match elements.checked_mul(bits) {
                Some(total) => Some(total.div_ceil(8)),
                None => None,
            },
        }
    }

    /// The type's name as ONNX's textual form spells it: `float`, `int64`, `bfloat16`, `float8e4m3fn`, ...
    pub const fn name(self) -> &'static str {
        match self {
            DType::Undefined => "undefined",
            DType::F32 => "float",
            DType::U8 => "uint8",
            DType::I8 => "int8",
            DType::U16 => "uint16",
            DType::I16 => "int16",
            DType::I32 => "int32",
            DType::I64 => "int64",
            DType::String => "string",
            DType::Bool => "bool",
            DType::F16 => "float16",
            DType::F64 => "double",
            DType::U32 => "uint32",
            DType::U64 => "uint64",
            DType::Complex64 => "complex64",
            DType::Complex128 => "complex128",
            DType::BF16 => "bfloat16",
            DType::F8E4M3FN => "float8e4m3fn",
            DType::F8E4M3FNUZ => "float8e4m3fnuz",
            DType::F8E5M2 => "float8e5m2",
            DType::F8E5M2FNUZ => "float8e5m2fnuz",
            DType::U4 => "uint4",
            DType::I4 => "int4",
            DType::F4E2M1 => "float4e2m1",
            DType::F8E8M0 => "float8e8m0",
            DType::U2 => "uint2",
            DType::I2 => "int2",
            DType::F6E2M3 => "float6e2m3",
            DType::F6E3M2 => "float6e3m2",
        }
    }

    /// True for the IEEE-like types of 16 bits and more.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F64 | DType::F16 | DType::BF16)
    }

    /// True for signed and unsigned integers of any width; `Bool` is not one.
    pub const fn is_integer(self) -> bool {
        matches!(
            self,
            DType::U8
                | DType::I8
                | DType::U16
                | DType::I16
                | DType::I32
                | DType::I64
                | DType::U32
                | DType::U64
                | DType::U4
                | DType::I4
                | DType::U2
                | DType::I2
        )
    }
}

impl core::fmt::Display for DType {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip() {
        for dtype in DType::ALL {
            assert_eq!(DType::from_onnx(dtype.onnx()), Some(dtype));
        }
        assert_eq!(DType::from_onnx(0), Some(DType::Undefined));
        assert_eq!(DType::from_onnx(29), None);
        assert_eq!(DType::from_onnx(-1), None);
    }

    #[test]
    fn packed_sizes_round_up() {
        assert_eq!(DType::I4.byte_len(3), Some(2));
        assert_eq!(DType::U2.byte_len(5), Some(2));
        assert_eq!(DType::F32.byte_len(usize::MAX / 2), None);
        assert_eq!(DType::String.byte_len(1), None);
    }
}
