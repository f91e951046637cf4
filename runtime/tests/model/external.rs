//! External data: several files, ranges, and paths that leave the model's folder.

use std::path::{Path, PathBuf};

use prost::Message;
use tenon_runtime::error::{ErrorKind, Result};
use tenon_runtime::graph::{self, Graph};
use tenon_runtime::model::{self, Limits, proto::*};

use crate::make::*;
use crate::wire::tempfile;

fn entry(key: &str, value: &str) -> StringStringEntryProto {
    StringStringEntryProto { key: key.into(), value: value.into() }
}

fn external(name: &str, dims: &[i64], entries: &[(&str, &str)]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: 1,
        data_location: 1,
        external_data: entries.iter().map(|(k, v)| entry(k, v)).collect(),
        ..Default::default()
    }
}

struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let root = tempfile();
        std::fs::create_dir(root.join("model")).unwrap();
        let floats: Vec<u8> = (0..1000).flat_map(|i| (i as f32).to_le_bytes()).collect();
        std::fs::write(root.join("model/weights.bin"), &floats).unwrap();
        std::fs::write(root.join("secret.bin"), &floats).unwrap();
        Folder(root)
    }

    fn load(&self, tensors: Vec<TensorProto>) -> Result<Graph> {
        let names: Vec<String> = tensors.iter().map(|t| t.name.clone()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut g = graph(vec![node("Sum", &names, &["y"])], &[], &["y"]);
        g.initializer = tensors;
        let path = self.0.join("model/m.onnx");
        std::fs::write(&path, model(g).encode_to_vec()).unwrap();
        graph::build(&model::load(path)?)
    }

    #[track_caller]
    fn refuse(&self, tensor: TensorProto, words: &[&str]) {
        let e = self.load(vec![tensor]).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidModel, "{e}");
        assert_mentions(&e.to_string(), words);
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn contents(g: &Graph, name: &str) -> Vec<f32> {
    g.constant(g.find_value(name).unwrap()).unwrap().to_vec().unwrap()
}

#[test]
fn ranges_of_several_files_are_read_in_place() {
    let folder = Folder::new();
    std::fs::create_dir(folder.0.join("model/more")).unwrap();
    std::fs::write(folder.0.join("model/more/odd.bin"), [&[7u8][..], &2.5f32.to_le_bytes()].concat())
        .unwrap();
    let g = folder
        .load(vec![
            external("a", &[900], &[("location", "weights.bin"), ("length", "3600")]),
            external("b", &[2], &[("location", "./weights.bin"), ("offset", "3992")]),
            external(
                "c",
                &[1],
                &[("location", "more/odd.bin"), ("offset", "1"), ("length", "4"), ("checksum", "x")],
            ),
        ])
        .unwrap();
    assert_eq!(contents(&g, "a")[899], 899.0);
    assert_eq!(contents(&g, "b"), [998.0, 999.0]);
    assert_eq!(contents(&g, "c"), [2.5]);
}

#[test]
fn paths_that_leave_the_folder_are_refused() {
    let folder = Folder::new();
    let absolute = folder.0.join("secret.bin");
    for location in ["../secret.bin", "x/../../secret.bin", absolute.to_str().unwrap(), "", ".."] {
        folder.refuse(external("w", &[2], &[("location", location)]), &["'w'", "outside the model's folder"]);
    }
}

#[cfg(unix)]
#[test]
fn links_that_leave_the_folder_are_refused_and_links_beside_a_linked_model_work() {
    let folder = Folder::new();
    let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, folder.0.join(name)).unwrap();
    link("../secret.bin", "model/link.bin");
    folder.refuse(external("w", &[2], &[("location", "link.bin")]), &["outside the model's folder"]);
    link("..", "model/up");
    folder.refuse(external("w", &[2], &[("location", "up/secret.bin")]), &["outside the model's folder"]);
    // A download cache: the model and its data are links into one folder of blobs.
    folder.load(vec![external("w", &[2], &[("location", "data.bin")])]).unwrap_err();
    std::fs::create_dir(folder.0.join("snapshot")).unwrap();
    link("../model/m.onnx", "snapshot/m.onnx");
    link("../model/weights.bin", "snapshot/data.bin");
    let g = graph::build(&model::load(folder.0.join("snapshot/m.onnx")).unwrap()).unwrap();
    assert_eq!(contents(&g, "w"), [0.0, 1.0]);
}

#[test]
fn ranges_outside_the_file_are_refused() {
    let folder = Folder::new();
    let at = |offset: &str| external("w", &[2], &[("location", "weights.bin"), ("offset", offset)]);
    folder.refuse(at("3996"), &["'w'", "8 bytes at offset 3996", "4000 bytes"]);
    folder.refuse(at("18446744073709551615"), &["offset 18446744073709551615"]);
    folder.refuse(at("-1"), &["'-1'", "not a byte count"]);
    folder.refuse(at("ten"), &["'ten'"]);
    let short = external("w", &[2], &[("location", "weights.bin"), ("length", "7")]);
    folder.refuse(short, &["needs 8 bytes", "has 7"]);
    folder.refuse(external("w", &[2], &[("offset", "0")]), &["no location"]);
    folder.refuse(external("w", &[2], &[("location", "absent.bin")]), &["absent.bin", "open"]);
    folder.refuse(external("w", &[2], &[("location", ".")]), &["not a regular file"]);
}

#[test]
fn a_model_from_memory_has_no_external_files_unless_a_folder_is_given() {
    let folder = Folder::new();
    let mut g = graph(vec![node("Neg", &["w"], &["y"])], &[], &["y"]);
    g.initializer = vec![external("w", &[2], &[("location", "weights.bin")])];
    let bytes = model(g).encode_to_vec();
    let load = |folder: Option<&Path>| model::load_bytes(bytes.clone(), folder, &Limits::default());
    assert_mentions(
        &load(None).unwrap_err().to_string(),
        &["'w'", "weights.bin", "not loaded from a folder"],
    );
    load(Some(&folder.0.join("model"))).unwrap();
}
