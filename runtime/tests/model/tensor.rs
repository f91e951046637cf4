//! Tensors: contents of every dtype from messages, checked construction, and test data files.

use std::sync::Arc;

use bytes::Bytes;
use tenon_runtime::dtype::DType;
use tenon_runtime::error::{ErrorKind, Result};
use tenon_runtime::graph::TypeInfo;
use tenon_runtime::model::{self, proto::*};
use tenon_runtime::tensor::{ALIGNMENT, Buffer, Map, Tensor, Value, byte_len, element_count};

use crate::make::*;

fn load(tensor: TensorProto) -> Result<Tensor> {
    let mut g = graph(vec![node("Neg", &["w"], &["y"])], &[], &["y"]);
    g.initializer = vec![TensorProto { name: "w".into(), ..tensor }];
    let g = build(&model(g))?;
    Ok(g.constant(g.find_value("w").unwrap()).unwrap().clone())
}

fn ints(dtype: DType, dims: &[i64], values: &[i32]) -> TensorProto {
    TensorProto {
        data_type: dtype.onnx(),
        dims: dims.to_vec(),
        int32_data: values.to_vec(),
        ..Default::default()
    }
}

fn raw(dtype: DType, dims: &[i64], bytes: &[u8]) -> TensorProto {
    TensorProto {
        data_type: dtype.onnx(),
        dims: dims.to_vec(),
        raw_data: bytes.to_vec().into(),
        ..Default::default()
    }
}

#[test]
fn typed_fields_of_every_dtype_are_decoded() {
    let f64s = |t: TensorProto| load(t).unwrap().to_f64_vec().unwrap();
    let base =
        |dtype: DType, n: i64| TensorProto { data_type: dtype.onnx(), dims: vec![n], ..Default::default() };
    assert_eq!(f64s(TensorProto { float_data: vec![1.5, -2.0], ..base(DType::F32, 2) }), [1.5, -2.0]);
    assert_eq!(f64s(TensorProto { double_data: vec![1e300], ..base(DType::F64, 1) }), [1e300]);
    assert_eq!(f64s(TensorProto { int64_data: vec![-7], ..base(DType::I64, 1) }), [-7.0]);
    assert_eq!(f64s(TensorProto { uint64_data: vec![1 << 40], ..base(DType::U64, 1) }), [2f64.powi(40)]);
    assert_eq!(f64s(TensorProto { uint64_data: vec![4_000_000_000], ..base(DType::U32, 1) }), [4e9]);
    assert_eq!(
        f64s(TensorProto { float_data: vec![1.0, 2.0, 3.0, 4.0], ..base(DType::Complex64, 2) }),
        [1.0, 3.0]
    );
    assert_eq!(f64s(TensorProto { double_data: vec![5.0, 6.0], ..base(DType::Complex128, 1) }), [5.0]);
    assert_eq!(f64s(ints(DType::I32, &[2], &[i32::MIN, 3])), [f64::from(i32::MIN), 3.0]);
    assert_eq!(f64s(ints(DType::I16, &[2], &[-32768, 32767])), [-32768.0, 32767.0]);
    assert_eq!(f64s(ints(DType::U16, &[1], &[65535])), [65535.0]);
    assert_eq!(f64s(ints(DType::I8, &[2], &[-128, 127])), [-128.0, 127.0]);
    assert_eq!(f64s(ints(DType::U8, &[1], &[255])), [255.0]);
    assert_eq!(f64s(ints(DType::Bool, &[2], &[1, 0])), [1.0, 0.0]);
    assert_eq!(f64s(ints(DType::F16, &[2], &[0x3c00, 0xc000])), [1.0, -2.0]);
    assert_eq!(f64s(ints(DType::BF16, &[1], &[0x3fc0])), [1.5]);
    assert_eq!(f64s(ints(DType::F8E4M3FN, &[1], &[0x7e])), [448.0]);
    assert_eq!(f64s(ints(DType::I4, &[3], &[0x8f, 0x07])), [-1.0, -8.0, 7.0]);
    assert_eq!(f64s(ints(DType::U4, &[3], &[0x8f, 0x07])), [15.0, 8.0, 7.0]);
    assert_eq!(f64s(ints(DType::F4E2M1, &[2], &[0xf7])), [6.0, -6.0]);
    assert_eq!(f64s(ints(DType::U2, &[5], &[0b11_10_01_00, 2])), [0.0, 1.0, 2.0, 3.0, 2.0]);
    assert_eq!(f64s(ints(DType::I2, &[4], &[0b11_10_01_00])), [0.0, 1.0, -2.0, -1.0]);
    assert_eq!(f64s(ints(DType::F6E2M3, &[5], &[8, 40, 1, 31, 16])), [1.0, -1.0, 0.125, 7.5, 2.0]);
}

#[test]
fn raw_data_is_shared_with_the_file_when_it_is_large() {
    let floats: Vec<u8> = (0..200).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let tensor = load(raw(DType::F32, &[10, 20], &floats)).unwrap();
    assert_eq!(tensor.dims(), [10, 20]);
    assert_eq!(tensor.to_vec::<f32>().unwrap()[199], 199.0);
    let small = load(raw(DType::I64, &[1], &5i64.to_le_bytes())).unwrap();
    assert!(small.is_aligned(ALIGNMENT));
    assert_eq!(small.as_slice::<i64>().unwrap(), [5]);
    assert_eq!(load(raw(DType::F32, &[0, 1 << 40, 1 << 40], &[])).unwrap().len(), 0);
}

#[test]
fn wrong_contents_are_refused_with_what_is_needed() {
    let refuse = |t: TensorProto, kind: ErrorKind, words: &[&str]| {
        let e = load(t).unwrap_err();
        assert_eq!(e.kind(), kind, "{e}");
        assert_mentions(&e.to_string(), words);
    };
    use ErrorKind::{InvalidModel, Limit, Unsupported};
    refuse(raw(DType::F32, &[3], &[0; 11]), InvalidModel, &["'w'", "float[3]", "12 bytes", "11"]);
    refuse(raw(DType::F32, &[3], &[]), InvalidModel, &["12 bytes", "has 0"]);
    refuse(raw(DType::F32, &[1 << 31, 1 << 31], &[0; 4]), Limit, &["'w'"]);
    refuse(raw(DType::F32, &[1 << 62], &[0; 4]), Limit, &["'w'"]);
    refuse(raw(DType::F32, &[-1], &[0; 4]), InvalidModel, &["'w'", "negative"]);
    let unknown = TensorProto { data_type: 77, dims: vec![1], ..Default::default() };
    refuse(unknown, Unsupported, &["'w'", "77"]);
    refuse(TensorProto::default(), InvalidModel, &["'w'", "no data type"]);
    refuse(ints(DType::U8, &[1], &[300]), InvalidModel, &["300", "uint8"]);
    refuse(ints(DType::I4, &[3], &[1]), InvalidModel, &["2 bytes", "has 1"]);
    refuse(ints(DType::F6E3M2, &[1], &[64]), InvalidModel, &["64"]);
    let segmented = TensorProto { segment: Some(Default::default()), ..raw(DType::U8, &[1], &[1]) };
    refuse(segmented, Unsupported, &["segments"]);
    let text = TensorProto {
        data_type: DType::String.onnx(),
        dims: vec![2],
        string_data: vec![b"a".to_vec()],
        ..Default::default()
    };
    refuse(text.clone(), InvalidModel, &["2 strings", "has 1"]);
    refuse(
        TensorProto { string_data: vec![b"a".to_vec(), vec![0xff]], ..text },
        InvalidModel,
        &["string 1", "UTF-8"],
    );
}

fn sparse(dims: &[i64], indices: &[i64], index_dims: &[i64], values: &[f32]) -> Result<Tensor> {
    let mut g = graph(vec![node("Neg", &["s"], &["y"])], &[], &["y"]);
    let indices = TensorProto {
        data_type: 7,
        dims: index_dims.to_vec(),
        int64_data: indices.to_vec(),
        ..Default::default()
    };
    g.sparse_initializer = vec![SparseTensorProto {
        values: Some(floats("s", values)),
        indices: Some(indices),
        dims: dims.to_vec(),
    }];
    let g = build(&model(g))?;
    Ok(g.constant(g.find_value("s").unwrap()).unwrap().clone())
}

#[test]
fn sparse_initializers_become_dense_within_their_limit() {
    let linear = sparse(&[2, 3], &[1, 5], &[2], &[7.0, 8.0]).unwrap();
    assert_eq!(linear.to_vec::<f32>().unwrap(), [0.0, 7.0, 0.0, 0.0, 0.0, 8.0]);
    let coordinates = sparse(&[2, 3], &[0, 1, 1, 2], &[2, 2], &[7.0, 8.0]).unwrap();
    assert_eq!(coordinates, linear);
    assert_mentions(
        &sparse(&[2, 3], &[6], &[1], &[1.0]).unwrap_err().to_string(),
        &["'s'", "outside shape [2, 3]"],
    );
    assert_mentions(&sparse(&[2, 3], &[-1], &[1], &[1.0]).unwrap_err().to_string(), &["outside"]);
    assert_mentions(
        &sparse(&[2, 3], &[0, 0, 0], &[1, 3], &[1.0]).unwrap_err().to_string(),
        &["[1, 2]", "[1, 3]"],
    );
    assert_eq!(sparse(&[1 << 40], &[0], &[1], &[1.0]).unwrap_err().kind(), ErrorKind::Limit);
}

#[test]
fn construction_checks_sizes() {
    assert_eq!(element_count(&[usize::MAX, 0]).unwrap(), 0);
    assert!(element_count(&[1 << 62, 4]).is_err());
    assert!(byte_len(DType::F64, &[1 << 61]).is_err());
    assert_eq!(byte_len(DType::I4, &[3, 3]).unwrap(), 5);
    assert!(Tensor::from_slice(&[3], &[1f32]).is_err());
    assert!(Tensor::from_bytes(DType::F32, &[2], Bytes::from_static(&[0; 7])).is_err());
    let e = Tensor::zeros(DType::F32, &[1 << 44]).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Limit);
}

#[test]
fn owned_memory_is_aligned_and_written_only_when_unique() {
    for n in [0usize, 1, 15, 16, 17, 64, 1000] {
        let mut t = Tensor::zeros(DType::U8, &[n]).unwrap();
        assert!(t.is_aligned(ALIGNMENT));
        t.as_mut_slice::<u8>().unwrap().fill(3);
        assert!(t.as_bytes().iter().all(|b| *b == 3));
        let copy = t.clone();
        assert!(t.as_mut_slice::<u8>().is_err() && !t.is_unique());
        drop(copy);
        assert!(t.is_unique());
    }
    let mut buffer = Buffer::copied(&[1, 2, 3]);
    buffer.as_bytes_mut().unwrap()[0] = 9;
    assert_eq!(buffer.as_bytes(), [9, 2, 3]);
}

#[test]
fn unaligned_bytes_can_be_copied_but_not_viewed() {
    let bytes = Bytes::from((0..9u8).collect::<Vec<_>>());
    let odd = if bytes.as_ptr().addr() % 4 == 0 { bytes.slice(1..9) } else { bytes.slice(0..8) };
    let t = Tensor::from_bytes(DType::I32, &[2], odd).unwrap();
    assert!(t.as_slice::<i32>().is_err());
    assert_eq!(t.to_vec::<i32>().unwrap().len(), 2);
    assert_eq!(t.to_aligned().as_slice::<i32>().unwrap(), t.to_vec::<i32>().unwrap());
    assert!(t.as_slice::<f32>().is_err() && t.to_vec::<f32>().is_err());
}

#[test]
fn foreign_memory_lives_as_long_as_a_clone_does() {
    let owner = Arc::new(vec![1.0f32, 2.0]);
    let ptr = std::ptr::NonNull::new(owner.as_ptr().cast_mut().cast()).unwrap();
    // SAFETY: the vector is never written and the guard keeps it alive.
    let t = unsafe { Tensor::from_foreign(DType::F32, &[2], ptr, 8, owner.clone()) }.unwrap();
    let copy = t.clone();
    drop(t);
    assert_eq!(Arc::strong_count(&owner), 2);
    assert_eq!(copy.as_slice::<f32>().unwrap(), [1.0, 2.0]);
    drop(copy);
    assert_eq!(Arc::strong_count(&owner), 1);
}

#[test]
fn string_tensors_are_one_checked_buffer() {
    let t = Tensor::from_strings(&[3], &["a", "", "über"]).unwrap();
    assert_eq!(t.strings().unwrap().collect::<Vec<_>>(), ["a", "", "über"]);
    let again = Tensor::from_bytes(DType::String, &[3], Bytes::copy_from_slice(t.as_bytes())).unwrap();
    assert_eq!(t, again);
    let mut broken = t.as_bytes().to_vec();
    broken[8] = 200;
    assert!(Tensor::copy_from_bytes(DType::String, &[3], &broken).is_err());
    let mut split = t.as_bytes().to_vec();
    split[16] = 2; // The second string would end inside the two bytes of 'ü'.
    assert!(Tensor::copy_from_bytes(DType::String, &[3], &split).is_err());
    let long = [t.as_bytes(), b"x"].concat();
    assert!(Tensor::copy_from_bytes(DType::String, &[3], &long).is_err());
    assert!(Tensor::copy_from_bytes(DType::String, &[3], &t.as_bytes()[..20]).is_err());
    assert_eq!(Tensor::zeros(DType::String, &[2]).unwrap().strings().unwrap().collect::<Vec<_>>(), ["", ""]);
    assert_eq!(Tensor::from_strings::<&str>(&[0], &[]).unwrap().strings().unwrap().len(), 0);
}

#[test]
fn test_data_of_every_kind_survives_writing_and_reading() {
    let t = |v: f32| Value::Tensor(Tensor::from_slice(&[1, 2], &[v, -v]).unwrap());
    let strings = Tensor::from_strings(&[2], &["a", "b"]).unwrap();
    let values = Tensor::from_slice(&[2], &[1.0f32, 2.0]).unwrap();
    let map = Value::Map(Box::new(Map { keys: strings.clone(), values }));
    let tensor = TypeInfo::unranked(DType::F32);
    let seq = |t: &TypeInfo| TypeInfo::Sequence(Box::new(t.clone()));
    let opt = |t: &TypeInfo| TypeInfo::Optional(Box::new(t.clone()));
    let map_type = TypeInfo::Map { key: DType::String, value: Box::new(tensor.clone()) };
    let some = |v: Value| Value::Optional(Some(Box::new(v)));
    for (value, ty) in [
        (t(1.0), tensor.clone()),
        (Value::Tensor(strings), TypeInfo::unranked(DType::String)),
        (Value::Sequence(vec![t(1.0), t(2.0)]), seq(&tensor)),
        (Value::Sequence(vec![]), seq(&tensor)),
        (Value::Sequence(vec![Value::Sequence(vec![t(3.0)])]), seq(&seq(&tensor))),
        (Value::Sequence(vec![map.clone()]), seq(&map_type)),
        (some(t(4.0)), opt(&tensor)),
        (some(Value::Sequence(vec![t(5.0)])), opt(&seq(&tensor))),
        (Value::Optional(None), opt(&tensor)),
        (Value::Optional(None), opt(&seq(&tensor))),
        (map, map_type),
    ] {
        let bytes = model::value_to_bytes("v", &value).unwrap();
        let (name, again) = model::value_from_bytes(bytes, Some(&ty)).unwrap();
        assert_eq!((name.as_str(), &again), ("v", &value));
    }
    // A bare value where an optional is expected.
    let bytes = model::value_to_bytes("v", &t(6.0)).unwrap();
    assert_eq!(model::value_from_bytes(bytes, Some(&opt(&tensor))).unwrap().1, some(t(6.0)));
    let bare = Value::Sequence(vec![t(7.0)]);
    let bytes = model::value_to_bytes("v", &bare).unwrap();
    assert_eq!(model::value_from_bytes(bytes, Some(&opt(&seq(&tensor)))).unwrap().1, some(bare));
}
