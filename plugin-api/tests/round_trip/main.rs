//! Author side and host side meet in one process: what a provider's traits return arrives at the host through the table.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod echo;

use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard};
use tenon_plugin_api::host::{self, AttributeValue, CompileArgs, GraphBuilder, OwnedGraph};
use tenon_plugin_api::{Code, DType, ffi};

static HOST: ffi::HostApi = ffi::HostApi {
    struct_size: size_of::<ffi::HostApi>(),
    abi_major: ffi::ABI_MAJOR,
    abi_minor: ffi::ABI_MINOR,
    name: ffi::Str::new("test"),
    version: ffi::Str::new("1"),
    log: Some(log),
    log_enabled: Some(log_enabled),
};

static LOG: Mutex<Vec<(u32, String)>> = Mutex::new(Vec::new());

unsafe extern "C" fn log(level: u32, target: ffi::Str, message: ffi::Str) {
    // SAFETY: the provider passes texts that are valid for the call.
    let text = unsafe { format!("{}: {}", target.as_str().unwrap(), message.as_str().unwrap()) };
    LOG.lock().unwrap().push((level, text));
}

unsafe extern "C" fn log_enabled(level: u32) -> u32 {
    (level <= ffi::LOG_INFO).into()
}

fn provider() -> host::Provider {
    // SAFETY: the export macro made the table.
    let provider = unsafe { host::Provider::new(echo::table()) }.unwrap();
    provider.initialize(&HOST).unwrap();
    provider
}

fn device() -> Arc<host::Device> {
    provider().open(0, &[]).unwrap()
}

/// Opened devices count, so tests that look at the count run one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// `y = Identity(x)` with an attribute of each kind, then a node that nobody knows.
fn graph() -> OwnedGraph {
    let mut graph = GraphBuilder::new();
    let x = graph.input("x", DType::F32, Some(&[-1, 2]));
    let y = graph.value("y", DType::F32, Some(&[-1, 2]));
    let z = graph.value("z", DType::Undefined, None);
    let k = graph.constant(
        "k",
        DType::I64,
        &[2],
        &[7, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255],
    );
    let node = graph.node("Identity", 21, &[x, ffi::NO_VALUE, k], &[y]);
    graph
        .attribute(node, "axis", AttributeValue::Int(-1))
        .attribute(node, "alpha", AttributeValue::Float(0.5))
        .attribute(node, "mode", AttributeValue::String(b"linear".to_vec()))
        .attribute(node, "perm", AttributeValue::Ints(vec![1, 0]))
        .attribute(node, "scales", AttributeValue::Floats(vec![2.0, 4.0]))
        .attribute(node, "names", AttributeValue::Strings(vec![b"a".to_vec(), Vec::new()]))
        .attribute(node, "value", AttributeValue::Tensor(DType::U8, vec![3], vec![1, 2, 3]));
    let unknown = graph.node("Mystery", 1, &[y], &[z]);
    graph.domain(unknown, "com.example").output(z);
    graph.build()
}

fn tensor(values: &mut [f32], dims: &[i64]) -> ffi::Tensor {
    ffi::Tensor {
        data: values.as_mut_ptr().cast(),
        bytes: size_of_val(values),
        dims: dims.as_ptr(),
        rank: dims.len() as u32,
        dtype: DType::F32 as u32,
        memory: ffi::MEMORY_HOST,
        reserved: 0,
    }
}

/// Where outputs go: the callback's context.
#[derive(Default)]
struct Outputs {
    made: Vec<(u32, Vec<i64>, Vec<f32>)>,
    refuse: bool,
}

unsafe extern "C" fn allocate(
    context: *mut c_void,
    index: u32,
    _dtype: u32,
    dims: *const i64,
    rank: u32,
    bytes: usize,
    data: *mut *mut c_void,
) -> *mut ffi::Status {
    // SAFETY: `run` passes its outputs and does not touch them during the call; dims holds rank entries.
    let (outputs, dims) =
        unsafe { (&mut *context.cast::<Outputs>(), std::slice::from_raw_parts(dims, rank as usize)) };
    if outputs.refuse {
        return host::status(ffi::CODE_OUT_OF_MEMORY, "the host has no room");
    }
    outputs.made.push((index, dims.to_vec(), vec![f32::NAN; bytes / 4]));
    // SAFETY: data is the provider's out argument.
    unsafe { *data = outputs.made.last_mut().unwrap().2.as_mut_ptr().cast() };
    std::ptr::null_mut()
}

fn run(executable: &host::Executable, values: &mut [f32], outputs: &mut Outputs) -> host::Result<()> {
    let dims = [values.len() as i64 / 2, 2];
    let inputs = [tensor(values, &dims)];
    let context = std::ptr::from_mut(outputs).cast();
    // SAFETY: the inputs live for the call, which is synchronous, and the callback gets the context it expects.
    unsafe { executable.run(None, &inputs, (std::ptr::null_mut(), 0), context, allocate) }
}

#[test]
fn identity_and_facts_arrive() {
    let provider = provider();
    assert_eq!((provider.name(), provider.vendor(), provider.version()), ("echo", "tests", "0.1"));
    assert_eq!(provider.build_info(), "none");
    assert_eq!(provider.score().0, 1);
    assert_eq!(provider.features(), echo::FEATURES);
    let devices = provider.devices().unwrap();
    assert_eq!(devices[0].name, "Echo 9");
    assert_eq!(devices[0].memory_bytes, 1 << 30);
    assert!(devices[0].shares_host_memory);
    assert_eq!(device().memory_info().unwrap().total_bytes, 1 << 30);
    assert_eq!(device().attention_caps().unwrap().max_head_size, 256);
    assert!(LOG.lock().unwrap().contains(&(ffi::LOG_INFO, "echo: hello test 1".to_string())));
}

#[test]
fn opening_reports_bad_indices_and_options() {
    let error = provider().open(7, &[]).unwrap_err();
    assert_eq!((error.kind(), error.message()), (Code::NotFound, "it has no device 7"));
    let error = provider().open(0, &[("sped", "1")]).unwrap_err();
    assert_eq!(error.to_string(), "provider 'echo': unknown option 'sped': known options are speed");
    let error = provider().open(0, &[("speed", "11")]).unwrap_err();
    assert_eq!((error.kind(), error.provider_code()), (Code::DeviceLost, -11));
}

#[test]
fn claims_and_declines_arrive() {
    let graph = graph();
    let claims = device().claim(graph.graph(), "").unwrap();
    assert_eq!(claims.sets, [(vec![0], ffi::Cost { time_ns: 5.0, flops: -1.0, bytes: 16.0 })]);
    assert_eq!(claims.declines, [(1, "no kernel for com.example::Mystery".to_string())]);
    assert_eq!(provider().claim_for("echo9", graph.graph()).unwrap(), claims);
    let error = provider().claim_for("moon", graph.graph()).unwrap_err();
    assert_eq!(error.kind(), Code::Unsupported);
}

#[test]
fn the_provider_sees_the_graph_as_it_is() {
    let text = device().compile(&CompileArgs::new(graph().graph())).unwrap().serialize().unwrap();
    assert_eq!(
        String::from_utf8(text).unwrap(),
        "0 Identity(Identity_0) ::21 in x: floatSome([-1, 2]) _ k: int64Some([2]) = [7, -1] out y: floatSome([-1, 2]) \
         axis=Int(-1) alpha=Float(0.5) mode=String([108, 105, 110, 101, 97, 114]) perm=Ints([1, 0]) \
         scales=Floats([2.0, 4.0]) names=Strings([\"a\", \"\"]) value=Tensor(uint8[3] in Host memory)\n\
         1 Mystery(Mystery_1) com.example::1 in y: floatSome([-1, 2]) out z: undefinedNone\n"
    );
}

#[test]
fn a_run_fills_outputs_of_the_shape_found_at_run_time() {
    let graph = graph();
    let executable = device().compile(&CompileArgs::new(graph.graph())).unwrap();
    for rows in [0, 1, 3] {
        let mut values: Vec<f32> = (0..rows * 2).map(|v| v as f32).collect();
        let mut outputs = Outputs::default();
        run(&executable, &mut values, &mut outputs).unwrap();
        assert_eq!(outputs.made, [(0, vec![rows, 2], values)]);
    }
    assert!(executable.released(3) && !executable.released(0));
    let dims = [3, 2];
    // SAFETY: dims lives for the call.
    assert_eq!(unsafe { executable.workspace_bytes(&[tensor(&mut [], &dims)]) }.unwrap(), 24);
}

#[test]
fn a_refusal_of_the_host_comes_back_to_the_host() {
    let executable = device().compile(&CompileArgs::new(graph().graph())).unwrap();
    let error =
        run(&executable, &mut [1.0, 2.0], &mut Outputs { refuse: true, ..Outputs::default() }).unwrap_err();
    assert_eq!((error.kind(), error.message()), (Code::OutOfMemory, "the host has no room"));
}

#[test]
fn a_panic_becomes_a_status() {
    let executable = device().compile(&CompileArgs::new(graph().graph())).unwrap();
    let error = run(&executable, &mut [echo::PANIC, 0.0], &mut Outputs::default()).unwrap_err();
    assert_eq!(
        (error.kind(), error.message()),
        (Code::Internal, "provider 'echo' panicked: 666 was asked for")
    );
    run(&executable, &mut [1.0, 2.0], &mut Outputs::default()).expect("the executable still works");
}

#[test]
fn a_compile_cache_round_trips() {
    let graph = graph();
    let args = CompileArgs::new(graph.graph());
    let bytes = device().compile(&args).unwrap().serialize().unwrap();
    let restored = device().deserialize(&args, &bytes).unwrap();
    assert_eq!(restored.serialize().unwrap(), bytes);
    assert_eq!(device().deserialize(&args, b"other").unwrap_err().kind(), Code::Unsupported);
    let absent = provider().compile_for(&CompileArgs { target: "echo9", ..args }).unwrap();
    assert_eq!(absent.serialize().unwrap(), bytes);
    assert!(absent.device().is_none());
}

#[test]
fn everything_keeps_its_device_open() {
    let _alone = alone();
    let before = echo::open_devices();
    let device = provider().open(0, &[("speed", "2")]).unwrap();
    let memory = device.allocate(ffi::MEMORY_DEVICE, 100).unwrap();
    assert_eq!(memory.as_ptr().addr() % 256, 0);
    assert_eq!((memory.len(), memory.kind()), (100, ffi::MEMORY_DEVICE));
    drop(device);
    assert_eq!(echo::open_devices(), before + 1);
    drop(memory);
    assert_eq!(echo::open_devices(), before);
}

#[test]
fn streams_events_and_recordings_work() {
    let device = device();
    let (stream, event) = (device.stream().unwrap(), device.event().unwrap());
    assert!(!event.query().unwrap());
    stream.record(&event).unwrap();
    stream.wait(&event).unwrap();
    assert!(event.query().unwrap());
    event.synchronize().unwrap();
    stream.capture_begin().unwrap();
    let recording = stream.capture_end().unwrap();
    // SAFETY: the recording names no memory.
    unsafe { stream.launch(&recording).unwrap() };
    stream.synchronize().unwrap();
    let block = stream.allocate(64).unwrap();
    // SAFETY: the block came from this stream.
    unsafe { stream.free(block).unwrap() };
    // SAFETY: the provider ignores native queues.
    unsafe { device.wrap_stream(std::ptr::null_mut()).unwrap().synchronize().unwrap() };
}

#[test]
fn copies_go_through_stream_device_or_memcpy() {
    let device = device();
    let source: Vec<u8> = (0..20).collect();
    for (with_stream, on_device) in [(true, true), (false, true), (false, false)] {
        let mut target = [0u8; 20];
        let start = target.as_mut_ptr();
        let copies: Vec<host::Copy<'_>> = (0..20)
            .map(|at| host::Copy {
                // SAFETY: both addresses are inside their buffers.
                dst: unsafe { start.add(at) }.cast(),
                src: source[at..].as_ptr().cast(),
                bytes: 1,
                dst_memory: ffi::MEMORY_HOST,
                src_memory: ffi::MEMORY_HOST,
                dst_device: on_device.then_some(&*device),
                src_device: None,
            })
            .collect();
        // SAFETY: every copy stays inside its buffers, which live until the work is done.
        unsafe {
            match with_stream {
                true => device.stream().unwrap().copy(&copies).unwrap(),
                false => device.copy(&copies).unwrap(),
            }
        }
        assert_eq!(target[..], source[..]);
    }
}

#[test]
fn the_timeline_arrives_in_order() {
    let device = device();
    device.timeline_start().unwrap();
    let entries = device.timeline_stop().unwrap();
    assert_eq!(
        entries.iter().map(|e| (e.symbol.as_str(), e.start_ns)).collect::<Vec<_>>(),
        [("a", 10), ("b", 20)]
    );
}

#[test]
fn pools_sampling_and_groups_work() {
    let device = device();
    let stream = device.stream().unwrap();
    let args = ffi::KvPoolArgs {
        struct_size: size_of::<ffi::KvPoolArgs>(),
        layers: 1,
        kv_heads: 2,
        head_size: 4,
        page_tokens: 16,
        pages: 3,
        dtype: DType::F32 as u32,
        reserved: 0,
    };
    let pool = device.kv_pool(&args).unwrap();
    let (data, bytes) = pool.data().unwrap();
    assert!(!data.is_null());
    assert_eq!(bytes, 3);
    pool.copy_pages(&stream, &[[0, 2]]).unwrap();
    assert_eq!(pool.copy_pages(&stream, &[[0, 3]]).unwrap_err().kind(), Code::InvalidArgument);

    let group = host::Group::new(std::slice::from_ref(&device)).unwrap();
    let (src, mut dst) = ([1.5f32, 2.5], [0f32; 2]);
    // SAFETY: both buffers hold two elements.
    unsafe {
        group
            .all_reduce(
                0,
                &stream,
                src.as_ptr().cast(),
                dst.as_mut_ptr().cast(),
                2,
                DType::F32,
                ffi::REDUCE_SUM,
            )
            .unwrap();
    }
    assert_eq!(dst, src);
    assert!(!provider().extension("echo").is_null());
    assert!(provider().extension("other").is_null());
}

#[test]
fn objects_of_two_providers_do_not_mix() {
    let ours = device().stream().unwrap();
    ours.record(&device().event().unwrap()).expect("another device of the same provider is fine");
    static OTHER: ffi::ProviderApi = tenon_plugin_api::provider::table::<echo::Echo>();
    // SAFETY: a second table over a good provider is a good table.
    let other = unsafe { host::Provider::new(&OTHER) }.unwrap();
    let event = other.open(0, &[]).unwrap().event().unwrap();
    assert_eq!(ours.record(&event).unwrap_err().kind(), Code::InvalidArgument);
}
