//! Providers of every released minor version: they load, run and fail as their version says.

use crate::{header, stub};
use std::ffi::c_void;
use std::path::Path;
use tenon_plugin_api::host::{self, CompileArgs, GraphBuilder, OwnedGraph};
use tenon_plugin_api::{Code, DType, ffi};

fn graph(op_type: &str) -> OwnedGraph {
    let mut graph = GraphBuilder::new();
    let (x, y) = (graph.input("x", DType::I64, Some(&[-1])), graph.value("y", DType::I64, Some(&[-1])));
    graph.node(op_type, 21, &[x], &[y]);
    graph.output(y);
    graph.build()
}

unsafe extern "C" fn allocate(
    context: *mut c_void,
    index: u32,
    dtype: u32,
    dims: *const i64,
    rank: u32,
    bytes: usize,
    data: *mut *mut c_void,
) -> *mut ffi::Status {
    if index != 0 {
        return host::status(ffi::CODE_INVALID_ARGUMENT, "there is only output 0");
    }
    // SAFETY: `run` passes its output and does not touch it during the call; dims holds rank entries.
    unsafe {
        assert_eq!((dtype, rank, *dims), (DType::I64 as u32, 1, (bytes / 8) as i64));
        let output = &mut *context.cast::<Vec<i64>>();
        output.resize(bytes / 8, -1);
        *data = output.as_mut_ptr().cast();
    }
    std::ptr::null_mut()
}

#[test]
fn the_1_0_stub_runs_identity_and_declines_the_rest() {
    let provider = stub::start(&stub::frozen("1.0"));
    assert_eq!((provider.name(), provider.abi_version()), ("stub", (1, 0)));
    assert_eq!(provider.score(), (1, String::new()));
    let device = provider.open(0, &[]).expect("device 0 opens");
    assert_eq!((device.info().name.as_str(), device.info().arch.as_str()), ("C stub", "stub"));
    assert_eq!(device.memory_info().expect("the stub knows").total_bytes, 1 << 20);

    let other = graph("Relu");
    let answer = device.claim(other.graph(), "").expect("the stub answers");
    assert_eq!(answer.declines, [(0, "the C stub runs nothing but Identity".to_string())]);
    let identity = graph("Identity");
    let answer = device.claim(identity.graph(), "").expect("the stub answers");
    assert_eq!(answer.sets, [(vec![0], ffi::Cost { time_ns: 100.0, flops: 0.0, bytes: -1.0 })]);

    let executable = device.compile(&CompileArgs::new(identity.graph())).expect("the stub compiles");
    for len in [0usize, 1, 1000] {
        let mut values: Vec<i64> = (0..len as i64).map(|v| v * v - 7).collect();
        let (mut output, dims) = (vec![5i64], [len as i64]);
        let input = ffi::Tensor {
            data: values.as_mut_ptr().cast(),
            bytes: len * 8,
            dims: dims.as_ptr(),
            rank: 1,
            dtype: DType::I64 as u32,
            memory: ffi::MEMORY_HOST,
            reserved: 0,
        };
        let context = (&raw mut output).cast();
        // SAFETY: the input lives for the call, which is synchronous, and the callback gets the context it expects.
        unsafe { executable.run(None, &[input], (std::ptr::null_mut(), 0), context, allocate) }
            .expect("it runs");
        assert_eq!(output, values);
    }
    assert!(!executable.released(0));
    assert_eq!(executable.serialize().expect_err("the stub has no cache").kind(), Code::Unsupported);
}

#[test]
fn the_1_0_stub_serves_memory_streams_and_events() {
    let device = stub::start(&stub::frozen("1.0")).open(0, &[]).expect("device 0 opens");
    let memory = device.allocate(ffi::MEMORY_DEVICE, 100).expect("it allocates");
    assert_eq!(memory.as_ptr().addr() % 256, 0);
    let (stream, event) = (device.stream().expect("a stream"), device.event().expect("an event"));
    let source: Vec<u8> = (0..100).collect();
    let mut target = vec![0u8; 100];
    let copy = host::Copy {
        dst: memory.as_ptr(),
        src: source.as_ptr().cast(),
        bytes: 100,
        dst_memory: ffi::MEMORY_DEVICE,
        src_memory: ffi::MEMORY_HOST,
        dst_device: Some(&device),
        src_device: None,
    };
    let back = host::Copy {
        dst: target.as_mut_ptr().cast(),
        src: memory.as_ptr(),
        dst_memory: ffi::MEMORY_HOST,
        src_memory: ffi::MEMORY_DEVICE,
        dst_device: None,
        src_device: Some(&device),
        ..copy
    };
    // SAFETY: all three buffers have 100 bytes and live until the stream is synchronised.
    unsafe { stream.copy(&[copy, back]) }.expect("it copies");
    stream.record(&event).expect("it records");
    stream.wait(&event).expect("it waits");
    stream.synchronize().expect("it synchronises");
    assert!(event.query().expect("it answers"));
    assert_eq!(target, source);
    assert_eq!(stream.capture_begin().expect_err("the stub cannot capture").kind(), Code::Unsupported);
}

#[test]
fn a_status_keeps_its_numbers_and_is_released() {
    let provider = stub::start(&stub::frozen("1.0"));
    let error = provider.open(0, &[("fail", "1")]).expect_err("it was told to fail");
    assert_eq!((error.kind(), error.provider_code()), (Code::DeviceLost, -77));
    assert_eq!(error.to_string(), "provider 'stub': the stub was told to fail (driver error -77)");
    // SAFETY: the stub documents this extension as an int32_t that lives on.
    assert_eq!(unsafe { *provider.extension("live_statuses").cast::<i32>() }, 0);
}

/// Struct members may only be appended, value structs not even that, and constants keep their names.
#[test]
fn the_current_header_only_adds_to_every_frozen_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read =
        |path: &Path| std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let current = read(&root.join("../plugin-api/include/tenon_plugin.h"));
    let (structs, constants) = (header::structs(&current), header::constants(&current));
    for version in std::fs::read_dir(root.join("abi/stubs")).expect("the stubs are there") {
        let path = version.expect("a readable folder").path().join("tenon_plugin.h");
        if !path.exists() {
            continue;
        }
        let frozen = read(&path);
        for (name, members) in header::structs(&frozen) {
            let (_, now) =
                structs.iter().find(|(n, _)| *n == name).unwrap_or_else(|| panic!("{name} is gone"));
            for (index, old) in members.iter().enumerate() {
                let new = now.get(index).map(|new| (new.name.as_str(), new.rust_type()));
                assert_eq!(
                    new,
                    Some((old.name.as_str(), old.rust_type())),
                    "{name}: member {index} has changed"
                );
            }
            if members[0].name != "struct_size" {
                assert_eq!(members.len(), now.len(), "{name} is frozen and must not grow");
            }
        }
        for name in header::constants(&frozen) {
            assert!(constants.contains(&name), "the constant {name} is gone");
        }
    }
}

#[test]
fn the_current_minor_version_has_a_frozen_stub_and_a_changelog_entry() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let version = format!("{}.{}", ffi::ABI_MAJOR, ffi::ABI_MINOR);
    assert!(
        root.join("abi/stubs").join(&version).join("provider.c").exists(),
        "freeze a stub of version {version} in tests/abi/stubs/{version}"
    );
    let changelog = std::fs::read_to_string(root.join("../plugin-api/CHANGELOG.md")).expect("a changelog");
    assert!(
        changelog.contains(&format!("\n## {version}\n")),
        "plugin-api/CHANGELOG.md has no entry '## {version}'"
    );
}
