//! Conversion between tensor messages and host tensors.

use bytes::Bytes;

use super::proto::TensorProto;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::{Dims, Tensor, byte_len, element_count};

/// Raw data up to this size is copied to aligned memory; larger data stays in the file's memory.
const COPIED_BYTES: usize = 256;

/// The dtype and dims of a tensor message; an error for unknown dtypes and negative dims.
pub(super) fn shape_of(proto: &TensorProto) -> Result<(DType, Dims)> {
    let dtype = match DType::from_onnx(proto.data_type) {
        Some(DType::Undefined) => return Err(fault(proto, "it has no data type")),
        Some(dtype) => dtype,
        None => {
            return Err(Error::unsupported(format!(
                "tensor '{}' has data type {}, which ONNX IR version 14 does not define; the model may be newer than this build",
                proto.name, proto.data_type
            )));
        }
    };
    Ok((dtype, dims_from_proto(&proto.dims, &proto.name)?))
}

/// Dims of a message; an error for a negative one.
pub(super) fn dims_from_proto(dims: &[i64], name: &str) -> Result<Dims> {
    let dim = |d: &i64| {
        usize::try_from(*d).map_err(|_| {
            Error::invalid_model(format!("tensor '{name}' has shape {dims:?}; sizes cannot be negative"))
        })
    };
    dims.iter().map(dim).collect()
}

/// The tensor of a message whose external data is resolved. Large raw data is shared, not copied.
pub(crate) fn tensor_from_proto(proto: &TensorProto) -> Result<Tensor> {
    let (dtype, dims) = shape_of(proto)?;
    if proto.segment.is_some() {
        return Err(Error::unsupported(format!(
            "tensor '{}' is stored in segments; store it in one piece or as external data",
            proto.name
        )));
    }
    let elements = element_count(&dims).map_err(|e| fault(proto, e.message()))?;
    if dtype == DType::String {
        return strings(proto, &dims, elements);
    }
    let needed = byte_len(dtype, &dims)
        .map_err(|e| Error::limit(format!("tensor '{}': {}", proto.name, e.message())))?;
    if !proto.raw_data.is_empty() {
        return raw(proto, dtype, &dims, needed);
    }
    let bytes = typed(proto, dtype, elements)?;
    if bytes.len() != needed {
        return Err(fault(
            proto,
            &format!("{dtype}{dims:?} needs {needed} bytes, the model has {}", bytes.len()),
        ));
    }
    Tensor::copy_from_bytes(dtype, &dims, &bytes)
}

fn raw(proto: &TensorProto, dtype: DType, dims: &[usize], needed: usize) -> Result<Tensor> {
    let found = proto.raw_data.len();
    if found != needed {
        return Err(fault(proto, &format!("{dtype}{dims:?} needs {needed} bytes, the model has {found}")));
    }
    if found <= COPIED_BYTES {
        return Tensor::copy_from_bytes(dtype, dims, &proto.raw_data);
    }
    Tensor::from_bytes(dtype, dims, proto.raw_data.clone())
}

fn strings(proto: &TensorProto, dims: &[usize], elements: usize) -> Result<Tensor> {
    let found = proto.string_data.len();
    if found != elements {
        return Err(fault(proto, &format!("string{dims:?} needs {elements} strings, the model has {found}")));
    }
    let text = |(i, s): (usize, &Vec<u8>)| {
        std::str::from_utf8(s)
            .map(str::to_owned)
            .map_err(|_| fault(proto, &format!("string {i} is not UTF-8")))
    };
    let strings = proto.string_data.iter().enumerate().map(text).collect::<Result<Vec<_>>>()?;
    Tensor::from_strings(dims, &strings)
}

/// The packed bytes of a typed data field; their count is checked by the caller.
fn typed(proto: &TensorProto, dtype: DType, elements: usize) -> Result<Vec<u8>> {
    fn bytes<T: Copy, const N: usize>(items: &[T], to_bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
        items.iter().flat_map(|v| to_bytes(*v)).collect()
    }
    Ok(match dtype {
        DType::F32 | DType::Complex64 => bytes(&proto.float_data, f32::to_le_bytes),
        DType::F64 | DType::Complex128 => bytes(&proto.double_data, f64::to_le_bytes),
        DType::I64 => bytes(&proto.int64_data, i64::to_le_bytes),
        DType::U64 => bytes(&proto.uint64_data, u64::to_le_bytes),
        DType::U32 => {
            let narrow = |v: &u64| u32::try_from(*v).map_err(|_| out_of_range(proto, i128::from(*v), dtype));
            bytes(&proto.uint64_data.iter().map(narrow).collect::<Result<Vec<_>>>()?, u32::to_le_bytes)
        }
        DType::I32 => bytes(&proto.int32_data, i32::to_le_bytes),
        DType::F6E2M3 | DType::F6E3M2 => six_bit_codes(proto, dtype, elements)?,
        _ => narrow_integers(proto, dtype)?,
    })
}

/// Elements of 8 and 16 bits, one an entry, and of 2 and 4 bits, one byte of them an entry.
fn narrow_integers(proto: &TensorProto, dtype: DType) -> Result<Vec<u8>> {
    let width = dtype.bits().div_ceil(8);
    let (low, high) = (-(1i32 << (8 * width - 1)), (1i32 << (8 * width)) - 1);
    let mut bytes = Vec::with_capacity(proto.int32_data.len() * width);
    for v in &proto.int32_data {
        if !(low..=high).contains(v) {
            return Err(out_of_range(proto, i128::from(*v), dtype));
        }
        bytes.extend_from_slice(&v.to_le_bytes()[..width]);
    }
    Ok(bytes)
}

/// One 6-bit code an entry, packed into a stream of bits, lowest first.
fn six_bit_codes(proto: &TensorProto, dtype: DType, elements: usize) -> Result<Vec<u8>> {
    if proto.int32_data.len() != elements {
        let found = proto.int32_data.len();
        return Err(fault(proto, &format!("{elements} {dtype} elements are needed, the model has {found}")));
    }
    let mut bytes = vec![0u8; (elements * 6).div_ceil(8)];
    for (i, v) in proto.int32_data.iter().enumerate() {
        if !(0..64).contains(v) {
            return Err(out_of_range(proto, i128::from(*v), dtype));
        }
        let shifted = (*v as u16) << (i * 6 % 8);
        bytes[i * 6 / 8] |= shifted as u8;
        if let Some(next) = bytes.get_mut(i * 6 / 8 + 1) {
            *next |= (shifted >> 8) as u8;
        }
    }
    Ok(bytes)
}

/// The message of a tensor: raw data, or string data for strings.
pub(super) fn tensor_to_proto(name: &str, tensor: &Tensor) -> TensorProto {
    let mut proto = TensorProto {
        name: name.to_owned(),
        data_type: tensor.dtype().onnx(),
        dims: tensor.dims().iter().map(|d| *d as i64).collect(),
        ..TensorProto::default()
    };
    match tensor.strings() {
        Ok(strings) => proto.string_data = strings.map(|s| s.as_bytes().to_vec()).collect(),
        Err(_) => proto.raw_data = tensor_bytes(tensor),
    }
    proto
}

fn tensor_bytes(tensor: &Tensor) -> Bytes {
    struct Held(Tensor);
    impl AsRef<[u8]> for Held {
        fn as_ref(&self) -> &[u8] {
            self.0.as_bytes()
        }
    }
    Bytes::from_owner(Held(tensor.clone()))
}

fn fault(proto: &TensorProto, message: &str) -> Error {
    Error::invalid_model(format!("tensor '{}': {message}", proto.name))
}

fn out_of_range(proto: &TensorProto, value: i128, dtype: DType) -> Error {
    fault(proto, &format!("{value} is not a value of {dtype}"))
}
