//! Files that are not what they should be: truncated, hostile, or something else.

use prost::Message;
use tenon_runtime::error::{ErrorKind, Stage};
use tenon_runtime::model::{self, Limits, proto::*};

use crate::make::*;

fn sample() -> ModelProto {
    let mut g = graph(vec![with(node("Softmax", &["x"], &["y"]), int("axis", 1))], &["x"], &["y"]);
    let raw = TensorProto {
        name: "w".into(),
        data_type: 1,
        dims: vec![100],
        raw_data: vec![0u8; 400].into(),
        ..Default::default()
    };
    g.initializer = vec![raw];
    model(g)
}

fn load(bytes: &[u8]) -> tenon_runtime::error::Result<model::Model> {
    model::load_bytes(bytes.to_vec(), None, &Limits::default())
}

#[test]
fn every_truncation_is_an_error_or_a_smaller_model_and_never_a_panic() {
    let bytes = sample().encode_to_vec();
    let mut refused = 0;
    for end in 0..bytes.len() {
        match load(&bytes[..end]).and_then(|m| tenon_runtime::graph::build(&m)) {
            Ok(_) => {}
            Err(e) => {
                assert!(!e.message().is_empty());
                refused += 1;
            }
        }
    }
    assert!(refused > bytes.len() * 9 / 10, "{refused} of {} were refused", bytes.len());
}

#[test]
fn a_truncated_file_is_named_with_the_field_that_breaks() {
    let bytes = sample().encode_to_vec();
    let graph_start = bytes.len() / 2;
    let e = load(&bytes[..graph_start]).unwrap_err();
    assert_eq!((e.kind(), e.stage()), (ErrorKind::InvalidModel, Some(Stage::Load)));
    assert_mentions(&e.to_string(), &["truncated", "graph[0]"]);
}

#[test]
fn flipped_bytes_never_panic() {
    let bytes = sample().encode_to_vec();
    for at in 0..bytes.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut broken = bytes.clone();
            broken[at] ^= flip;
            if let Ok(m) = load(&broken) {
                let _ = tenon_runtime::graph::build(&m).map(|g| g.to_string());
            }
        }
    }
}

#[test]
fn other_files_are_called_what_they_are() {
    let dir = tempfile();
    for (contents, words) in [
        (&b"<html><body>404"[..], &["web page"][..]),
        (b"version https://git-lfs.github.com/spec/v1\n", &["Git LFS", "git lfs pull"]),
        (b"", &["empty"]),
    ] {
        let path = dir.join("x.onnx");
        std::fs::write(&path, contents).unwrap();
        let e = model::load(&path).unwrap_err();
        assert_mentions(&e.to_string(), words);
        assert_mentions(&e.to_string(), &["x.onnx"]);
    }
    let missing = model::load(dir.join("none.onnx")).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Io);
    assert_mentions(&missing.to_string(), &["none.onnx", "open"]);
    assert_mentions(&model::load(&dir).unwrap_err().to_string(), &["is a folder"]);
    std::fs::remove_dir_all(dir).unwrap();
}

pub fn tempfile() -> std::path::PathBuf {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let name = format!("tenon-model-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let dir = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

#[test]
fn a_small_file_cannot_ask_for_much_memory() {
    // Empty nodes take two bytes each in the file and a hundred times as much in memory.
    let nodes = [0x0a, 0x00].repeat(1_000_000);
    let mut bytes = vec![0x3a];
    prost::encoding::encode_varint(nodes.len() as u64, &mut bytes);
    bytes.extend(nodes);
    let limits = Limits { max_decoded_bytes: 64 << 20, ..Limits::default() };
    let e = model::load_bytes(bytes.clone(), None, &limits).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Limit);
    assert_mentions(&e.to_string(), &["memory", "67108864"]);
    let limits = Limits { max_nodes: 1000, ..Limits::default() };
    let e = model::load_bytes(bytes, None, &limits).unwrap_err();
    assert_mentions(&e.to_string(), &["more nodes than the limit of 1000", "node[1000]"]);
}

#[test]
fn messages_nested_without_end_are_refused() {
    let mut bytes = Vec::new();
    for _ in 0..5000 {
        // A sequence type inside a type inside a sequence type.
        let mut outer = vec![0x0a];
        prost::encoding::encode_varint(bytes.len() as u64, &mut outer);
        outer.extend(&bytes);
        bytes = vec![0x22];
        prost::encoding::encode_varint(outer.len() as u64, &mut bytes);
        bytes.extend(outer);
        if bytes.len() > 20_000 {
            break;
        }
    }
    let wrap = |tag: u8, inner: &[u8]| {
        let mut out = vec![tag];
        prost::encoding::encode_varint(inner.len() as u64, &mut out);
        out.extend(inner);
        out
    };
    let file = wrap(0x3a, &wrap(0x5a, &wrap(0x12, &bytes)));
    let e = load(&file).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Limit);
    assert_mentions(&e.to_string(), &["nested deeper"]);
}

#[test]
fn training_information_is_ignored_with_a_note_and_metadata_kept() {
    let mut m = sample();
    m.training_info = vec![vec![1, 2, 3].into()];
    m.metadata_props = vec![StringStringEntryProto { key: "k".into(), value: "v".into() }];
    let loaded = load(&m.encode_to_vec()).unwrap();
    assert_eq!(loaded.info().metadata, [("k".to_owned(), "v".to_owned())]);
    assert!(loaded.info().notes.iter().any(|n| n.contains("training")));
}
