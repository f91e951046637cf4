//! The messages against an independent decoder, on committed models that the saver writes.

use std::path::PathBuf;

use onnx_protobuf as other;
use prost::Message;
use protobuf::Message as _;
use tenon_runtime::dtype::DType;
use tenon_runtime::model::{self, proto::*};
use tenon_runtime::tensor::Tensor;

use crate::make::*;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/data/model")
}

/// Every dtype as an initializer of three elements, returned as outputs.
fn every_dtype() -> ModelProto {
    let mut g = graph(vec![node("Neg", &["x"], &["y"])], &["x"], &["y"]);
    for dtype in DType::ALL {
        let tensor = match dtype {
            DType::String => Tensor::from_strings(&[3], &["a", "", "ß"]).unwrap(),
            _ => {
                let bytes: Vec<u8> = (0..dtype.byte_len(3).unwrap() as u8).map(|b| b % 2).collect();
                Tensor::copy_from_bytes(dtype, &[3], &bytes).unwrap()
            }
        };
        let bytes = model::value_to_bytes(dtype.name(), &tensor.into()).unwrap();
        g.initializer.push(TensorProto::decode(&bytes[..]).unwrap());
        let three =
            tensor_shape_proto::Dimension { value: Some(tensor_shape_proto::dimension::Value::DimValue(3)) };
        let shape = Some(TensorShapeProto { dim: vec![three] });
        let ty = type_proto::Tensor { elem_type: dtype.onnx(), shape };
        let ty = TypeProto { value: Some(type_proto::Value::TensorType(ty)) };
        g.output.push(ValueInfoProto { name: dtype.name().into(), r#type: Some(Box::new(ty)) });
    }
    model(g)
}

/// Bodies, captures, attributes of every kind, and a function.
fn every_structure() -> ModelProto {
    let list = |name: &str, kind, fill: fn(&mut AttributeProto)| {
        let mut a = AttributeProto { name: name.into(), r#type: kind, ..Default::default() };
        fill(&mut a);
        a
    };
    let mut odd = node("Odd", &["s", "", "x"], &["o"]);
    odd.domain = "vendor.ops".into();
    odd.attribute = vec![
        int("i", -3),
        float("f", 0.5),
        list("s", 3, |a| a.s = Some(b"text".to_vec())),
        list("ints", 7, |a| a.ints = vec![1, -2]),
        list("floats", 6, |a| a.floats = vec![1.5]),
        list("strings", 8, |a| a.strings = vec![b"p".to_vec(), b"q".to_vec()]),
        list("t", 4, |a| a.t = Some(Box::new(floats("", &[2.5])))),
        list("tp", 13, |a| a.tp = info("").r#type),
    ];
    let body_graph = graph(vec![node("Add", &["v", "x"], &["sum"])], &["i", "keep", "v"], &["keep", "sum"]);
    let looped = with(node("Loop", &["n", "c", "x"], &["last"]), body("body", body_graph));
    let nodes = vec![node("SequenceConstruct", &["x", "x"], &["s"]), looped, odd];
    let mut m = model(graph(nodes, &["n", "c", "x"], &["o", "last"]));
    m.opset_import.push(OperatorSetIdProto { domain: "vendor.ops".into(), version: 2 });
    m.metadata_props = vec![StringStringEntryProto { key: "k".into(), value: "v".into() }];
    m
}

/// The committed file, which `TENON_UPDATE=1` writes anew.
fn committed(name: &str, source: &ModelProto) -> Vec<u8> {
    let written = model::to_proto(&build(source).unwrap()).unwrap().encode_to_vec();
    let path = folder().join(name);
    if std::env::var_os("TENON_UPDATE").is_some() {
        std::fs::create_dir_all(folder()).unwrap();
        std::fs::write(&path, &written).unwrap();
    }
    let found = std::fs::read(&path).unwrap();
    assert!(found == written, "{} is not what the saver writes; TENON_UPDATE=1 updates it", path.display());
    found
}

#[test]
fn the_saver_writes_the_committed_models_and_two_decoders_read_the_same() {
    for (name, source) in [("every_dtype.onnx", every_dtype()), ("every_structure.onnx", every_structure())] {
        let bytes = committed(name, &source);
        same_model(
            &ModelProto::decode(&bytes[..]).unwrap(),
            &other::ModelProto::parse_from_bytes(&bytes).unwrap(),
        );
    }
}

#[test]
fn fields_that_only_foreign_files_have_are_read_the_same() {
    let typed = TensorProto {
        name: "typed".into(),
        dims: vec![1, 2],
        data_type: 7,
        segment: Some(tensor_proto::Segment { begin: 1, end: 5 }),
        float_data: vec![1.0],
        int32_data: vec![-2, 300],
        int64_data: vec![i64::MIN],
        double_data: vec![0.1],
        uint64_data: vec![u64::MAX],
        string_data: vec![b"x".to_vec()],
        external_data: vec![StringStringEntryProto { key: "location".into(), value: "f".into() }],
        data_location: 1,
        ..Default::default()
    };
    let sparse =
        SparseTensorProto { values: Some(typed.clone()), indices: Some(floats("i", &[])), dims: vec![9] };
    let all = AttributeProto {
        sparse_tensor: Some(Box::new(sparse.clone())),
        sparse_tensors: vec![sparse.clone()],
        tensors: vec![typed.clone()],
        graphs: vec![graph(vec![], &["a"], &["b"])],
        type_protos: vec![*info("").r#type.unwrap()],
        ..reference("all", "outer", 11)
    };
    let mut g = graph(vec![with(node("Any", &[], &[]), all.clone())], &["x"], &["y"]);
    g.initializer = vec![typed];
    g.sparse_initializer = vec![sparse];
    g.value_info = vec![info("between")];
    let function = FunctionProto {
        name: "F".into(),
        domain: "d".into(),
        input: vec!["a".into()],
        output: vec!["b".into()],
        attribute: vec!["p".into()],
        attribute_proto: vec![all],
        node: vec![node("Neg", &["a"], &["b"])],
        opset_import: vec![OperatorSetIdProto { domain: "q".into(), version: 3 }],
        overload: "v".into(),
    };
    let m = ModelProto { functions: vec![function], domain: "here".into(), model_version: 4, ..model(g) };
    same_model(&m, &other::ModelProto::parse_from_bytes(&m.encode_to_vec()).unwrap());
}

fn same_model(a: &ModelProto, b: &other::ModelProto) {
    assert_eq!(
        (a.ir_version, &a.producer_name, &a.domain, a.model_version, &a.doc_string),
        (b.ir_version, &b.producer_name, &b.domain, b.model_version, &b.doc_string)
    );
    same_opsets(&a.opset_import, &b.opset_import);
    let metadata = |p: &other::StringStringEntryProto| (p.key.clone(), p.value.clone());
    assert!(
        a.metadata_props
            .iter()
            .map(|p| (p.key.clone(), p.value.clone()))
            .eq(b.metadata_props.iter().map(metadata))
    );
    same_graph(a.graph.as_ref().unwrap(), &b.graph);
    assert_eq!(a.functions.len(), b.functions.len());
    for (a, b) in a.functions.iter().zip(&b.functions) {
        assert_eq!((&a.name, &a.domain, &a.input, &a.output), (&b.name, &b.domain, &b.input, &b.output));
        assert_eq!((&a.attribute, &a.overload), (&b.attribute, &b.overload));
        same_opsets(&a.opset_import, &b.opset_import);
        same_nodes(&a.node, &b.node);
        same_attributes(&a.attribute_proto, &b.attribute_proto);
    }
}

fn same_opsets(a: &[OperatorSetIdProto], b: &[other::OperatorSetIdProto]) {
    assert!(a.iter().map(|o| (&o.domain, o.version)).eq(b.iter().map(|o| (&o.domain, o.version))));
}

fn same_graph(a: &GraphProto, b: &other::GraphProto) {
    assert_eq!((&a.name, &a.doc_string), (&b.name, &b.doc_string));
    same_nodes(&a.node, &b.node);
    for (a, b) in [(&a.input, &b.input), (&a.output, &b.output), (&a.value_info, &b.value_info)] {
        assert_eq!(a.len(), b.len());
        for (a, b) in a.iter().zip(b) {
            assert_eq!((&a.name, a.r#type.is_some()), (&b.name, b.type_.is_some()));
            if let Some(ty) = &a.r#type {
                same_type(ty, &b.type_);
            }
        }
    }
    assert_eq!(
        (a.initializer.len(), a.sparse_initializer.len()),
        (b.initializer.len(), b.sparse_initializer.len())
    );
    a.initializer.iter().zip(&b.initializer).for_each(|(a, b)| same_tensor(a, b));
    a.sparse_initializer.iter().zip(&b.sparse_initializer).for_each(|(a, b)| same_sparse(a, b));
}

fn same_nodes(a: &[NodeProto], b: &[other::NodeProto]) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert_eq!(
            (&a.name, &a.op_type, &a.domain, &a.overload),
            (&b.name, &b.op_type, &b.domain, &b.overload)
        );
        assert_eq!((&a.input, &a.output), (&b.input, &b.output));
        same_attributes(&a.attribute, &b.attribute);
    }
}

fn same_attributes(a: &[AttributeProto], b: &[other::AttributeProto]) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert_eq!((&a.name, &a.ref_attr_name, a.r#type), (&b.name, &b.ref_attr_name, b.type_.value()));
        assert_eq!(
            (a.i.unwrap_or(0), a.f.unwrap_or(0.0), a.s.as_deref().unwrap_or(&[])),
            (b.i, b.f, &b.s[..])
        );
        assert_eq!((&a.ints, &a.floats, &a.strings), (&b.ints, &b.floats, &b.strings));
        assert_eq!(
            (a.t.is_some(), a.g.is_some(), a.tp.is_some(), a.sparse_tensor.is_some()),
            (b.t.is_some(), b.g.is_some(), b.tp.is_some(), b.sparse_tensor.is_some())
        );
        a.t.iter().for_each(|t| same_tensor(t, &b.t));
        a.g.iter().for_each(|g| same_graph(g, &b.g));
        a.tp.iter().for_each(|t| same_type(t, &b.tp));
        a.sparse_tensor.iter().for_each(|s| same_sparse(s, &b.sparse_tensor));
        assert_eq!(
            (a.tensors.len(), a.graphs.len(), a.type_protos.len(), a.sparse_tensors.len()),
            (b.tensors.len(), b.graphs.len(), b.type_protos.len(), b.sparse_tensors.len())
        );
        a.tensors.iter().zip(&b.tensors).for_each(|(a, b)| same_tensor(a, b));
        a.graphs.iter().zip(&b.graphs).for_each(|(a, b)| same_graph(a, b));
        a.type_protos.iter().zip(&b.type_protos).for_each(|(a, b)| same_type(a, b));
        a.sparse_tensors.iter().zip(&b.sparse_tensors).for_each(|(a, b)| same_sparse(a, b));
    }
}

fn same_tensor(a: &TensorProto, b: &other::TensorProto) {
    assert_eq!((&a.name, &a.dims, a.data_type), (&b.name, &b.dims, b.data_type));
    assert_eq!((&a.raw_data[..], &a.string_data), (&b.raw_data[..], &b.string_data));
    assert_eq!((&a.float_data, &a.double_data), (&b.float_data, &b.double_data));
    assert_eq!(
        (&a.int32_data, &a.int64_data, &a.uint64_data),
        (&b.int32_data, &b.int64_data, &b.uint64_data)
    );
    assert_eq!((a.data_location, a.external_data.len()), (b.data_location.value(), b.external_data.len()));
    for (a, b) in a.external_data.iter().zip(&b.external_data) {
        assert_eq!((&a.key, &a.value), (&b.key, &b.value));
    }
    assert_eq!(a.segment.as_ref().map(|s| (s.begin, s.end)), b.segment.as_ref().map(|s| (s.begin, s.end)));
}

fn same_sparse(a: &SparseTensorProto, b: &other::SparseTensorProto) {
    assert_eq!(a.dims, b.dims);
    same_tensor(a.values.as_ref().unwrap(), &b.values);
    same_tensor(a.indices.as_ref().unwrap(), &b.indices);
}

/// Both print their shapes and nested types through the runtime's own types, read from each decoder's bytes.
fn same_type(a: &TypeProto, b: &other::TypeProto) {
    let again = TypeProto::decode(&b.write_to_bytes().unwrap()[..]).unwrap();
    assert_eq!(*a, again);
    let Some(type_proto::Value::TensorType(t)) = &a.value else { return };
    assert_eq!(t.elem_type, b.tensor_type().elem_type);
    assert_eq!(t.shape.as_ref().map(|s| s.dim.len()), b.tensor_type().shape.as_ref().map(|s| s.dim.len()));
    for (a, b) in t.shape.iter().flat_map(|s| &s.dim).zip(&b.tensor_type().shape.dim) {
        match &a.value {
            Some(tensor_shape_proto::dimension::Value::DimValue(n)) => assert_eq!(*n, b.dim_value()),
            Some(tensor_shape_proto::dimension::Value::DimParam(name)) => assert_eq!(name, b.dim_param()),
            None => assert!(b.value.is_none()),
        }
    }
}
