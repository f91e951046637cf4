//! A provider with every feature: `Identity` on host memory, and the graph as text for its serialised form.

use std::ffi::c_void;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tenon_plugin_api::provider::{
    ByteSink, ClaimSink, CompileRequest, Device, Event, Executable, Features, Group, Host, KvPool, Provider,
    RunRequest, Score, Stream, host_memory,
};
use tenon_plugin_api::{
    Code, DType, DeviceInfo, DeviceKind, Error, GraphView, MemoryInfo, Options, Result, TensorView,
    TimelineEntry, ffi,
};

/// A first element that makes a run panic.
pub const PANIC: f32 = 666.0;

pub const FEATURES: Features = Features {
    ordered_allocation: true,
    wrap_stream: true,
    capture: true,
    attention: true,
    compile_cache: true,
    released: true,
    workspace: true,
    kv_pool: true,
    sampling: true,
    collectives: true,
    timeline: true,
    extension: true,
};

static OPEN: AtomicUsize = AtomicUsize::new(0);

pub fn open_devices() -> usize {
    OPEN.load(Ordering::SeqCst)
}

pub struct Echo;

tenon_plugin_api::export_provider!(Echo, no_symbol);

impl Provider for Echo {
    const NAME: &'static str = "echo";
    const VENDOR: &'static str = "tests";
    const VERSION: &'static str = "0.1";
    const BUILD_INFO: &'static str = "none";
    const FEATURES: Features = FEATURES;

    type Device = EchoDevice;

    fn initialize(host: Host) -> Result<Echo> {
        assert!(host.log_enabled(ffi::LOG_INFO) && !host.log_enabled(ffi::LOG_TRACE));
        host.log(ffi::LOG_INFO, "echo", &format!("hello {} {}", host.name(), host.version()));
        Ok(Echo)
    }

    fn score(&self) -> Score {
        Score::USABLE
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        Ok(vec![DeviceInfo {
            kind: DeviceKind::Npu,
            name: "Echo 9".into(),
            arch: "echo9".into(),
            memory_bytes: 1 << 30,
            shares_host_memory: true,
            ..DeviceInfo::default()
        }])
    }

    fn open(&self, _index: u32, options: &Options<'_>) -> Result<EchoDevice> {
        options.check_keys(&["speed"])?;
        match options.get("speed") {
            Some("11") => Err(Error::new(Code::DeviceLost, "too fast").with_provider_code(-11)),
            speed => Ok(EchoDevice::new(speed.is_some())),
        }
    }

    fn claim_for(&self, target: &str, graph: GraphView<'_>, sink: &mut ClaimSink<'_>) -> Result<()> {
        if target != "echo9" {
            return Err(Error::unsupported(format!("no target '{target}'")));
        }
        EchoDevice::new(false).claim(graph, sink)
    }

    fn compile_for(&self, request: &CompileRequest<'_>) -> Result<EchoExecutable> {
        Ok(EchoExecutable { text: describe(request.graph) })
    }

    fn group(&self, devices: &[&EchoDevice]) -> Result<Box<dyn Group<EchoStream>>> {
        assert_eq!(devices.len(), 1);
        Ok(Box::new(EchoGroup))
    }

    fn extension(&self, name: &str) -> *const c_void {
        if name == "echo" { (&raw const OPEN).cast() } else { std::ptr::null() }
    }
}

/// A device; only counted when opened with an option, so that tests that run beside each other do not disturb the count.
pub struct EchoDevice {
    counted: bool,
}

impl EchoDevice {
    fn new(counted: bool) -> EchoDevice {
        OPEN.fetch_add(counted.into(), Ordering::SeqCst);
        EchoDevice { counted }
    }
}

impl Drop for EchoDevice {
    fn drop(&mut self) {
        OPEN.fetch_sub(self.counted.into(), Ordering::SeqCst);
    }
}

impl Device for EchoDevice {
    type Stream = EchoStream;
    type Executable = EchoExecutable;

    fn claim(&self, graph: GraphView<'_>, sink: &mut ClaimSink<'_>) -> Result<()> {
        for node in graph.nodes() {
            match (node.domain(), node.op_type()) {
                ("", "Identity") => {
                    sink.claim(&[node.index()], ffi::Cost { time_ns: 5.0, flops: -1.0, bytes: 16.0 });
                }
                (domain, op_type) => {
                    sink.decline(node.index(), &format!("no kernel for {domain}::{op_type}"))
                }
            }
        }
        Ok(())
    }

    fn compile(&self, request: &CompileRequest<'_>) -> Result<EchoExecutable> {
        Ok(EchoExecutable { text: describe(request.graph) })
    }

    fn deserialize(&self, request: &CompileRequest<'_>, bytes: &[u8]) -> Result<EchoExecutable> {
        let text = describe(request.graph);
        match bytes == text.as_bytes() {
            true => Ok(EchoExecutable { text }),
            false => Err(Error::unsupported("another graph")),
        }
    }

    fn memory_info(&self) -> Result<MemoryInfo> {
        Ok(MemoryInfo { total_bytes: 1 << 30, ..MemoryInfo::default() })
    }

    fn stream(&self) -> Result<EchoStream> {
        Ok(EchoStream)
    }

    unsafe fn wrap_stream(&self, _native: *mut c_void) -> Result<EchoStream> {
        Ok(EchoStream)
    }

    fn event(&self) -> Result<EchoEvent> {
        Ok(EchoEvent::default())
    }

    fn attention_caps(&self) -> Result<ffi::AttentionCaps> {
        Ok(ffi::AttentionCaps { max_head_size: 256, ..ffi::AttentionCaps::NONE })
    }

    fn kv_pool(&self, args: &ffi::KvPoolArgs) -> Result<Box<dyn KvPool<EchoStream>>> {
        Ok(Box::new(EchoPool(vec![0; args.pages as usize])))
    }

    fn timeline_start(&self) -> Result<()> {
        Ok(())
    }

    fn timeline_stop(&self) -> Result<Vec<TimelineEntry>> {
        let entry = |symbol: &str, start_ns| TimelineEntry {
            symbol: symbol.into(),
            node: String::new(),
            op_type: String::new(),
            parameters: String::new(),
            start_ns,
            duration_ns: 1,
            stream: 0,
            flops: -1.0,
            bytes: -1.0,
        };
        Ok(vec![entry("b", 20), entry("a", 10)])
    }
}

fn describe(graph: GraphView<'_>) -> String {
    let mut text = String::new();
    for node in graph.nodes() {
        write!(text, "{} {node:?} {}::{} in", node.index(), node.domain(), node.version()).unwrap();
        for position in 0..node.inputs().len() {
            match node.input(position) {
                Some(value) => write!(text, " {value:?}").unwrap(),
                None => text += " _",
            }
            if let Some(constant) = node.input(position).and_then(|value| value.constant()) {
                write!(text, " = {:?}", constant.to_i64s().unwrap()).unwrap();
            }
        }
        write!(text, " out {:?}", node.output(0).unwrap()).unwrap();
        for (name, value) in node.attributes() {
            write!(text, " {name}={value:?}").unwrap();
        }
        text += "\n";
    }
    text
}

pub struct EchoExecutable {
    text: String,
}

impl Executable for EchoExecutable {
    type Stream = EchoStream;

    fn run(&self, request: &RunRequest<'_, EchoStream>) -> Result<()> {
        let input = &request.inputs[0];
        let bytes = input.host_bytes().ok_or_else(|| Error::invalid("the input is not in host memory"))?;
        if bytes.starts_with(&PANIC.to_le_bytes()) {
            panic!("{PANIC} was asked for");
        }
        let output = request.allocate_output(0, input.dtype(), input.dims(), bytes.len())?;
        // SAFETY: the host gave as many bytes as were asked for.
        unsafe { output.cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    fn workspace_bytes(&self, inputs: &[TensorView<'_>]) -> Result<usize> {
        Ok(inputs[0].element_count().unwrap() * 4)
    }

    fn serialize(&self, sink: &mut ByteSink<'_>) -> Result<()> {
        let (first, second) = self.text.split_at(self.text.len() / 2);
        sink.write(first.as_bytes())?;
        sink.write(second.as_bytes())
    }

    fn released(&self, value: u32) -> bool {
        value == 3
    }
}

pub struct EchoStream;

#[derive(Default)]
pub struct EchoEvent(AtomicBool);

impl Stream for EchoStream {
    type Event = EchoEvent;
    type Recording = String;

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    unsafe fn copy(&self, copies: &[ffi::Copy]) -> Result<()> {
        // SAFETY: the caller vouches for the addresses.
        unsafe { host_memory::copy(copies) };
        Ok(())
    }

    fn record(&self, event: &EchoEvent) -> Result<()> {
        event.0.store(true, Ordering::SeqCst);
        Ok(())
    }

    fn wait(&self, _event: &EchoEvent) -> Result<()> {
        Ok(())
    }

    fn allocate(&self, bytes: usize) -> Result<*mut c_void> {
        host_memory::allocate(bytes)
    }

    unsafe fn free(&self, data: *mut c_void) -> Result<()> {
        // SAFETY: the caller vouches for the origin.
        unsafe { host_memory::free(data) };
        Ok(())
    }

    fn capture_begin(&self) -> Result<()> {
        Ok(())
    }

    fn capture_end(&self) -> Result<String> {
        Ok("recorded".into())
    }

    fn launch(&self, recording: &String) -> Result<()> {
        assert_eq!(recording, "recorded");
        Ok(())
    }
}

impl Event for EchoEvent {
    fn query(&self) -> Result<bool> {
        Ok(self.0.load(Ordering::SeqCst))
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }
}

struct EchoPool(Vec<u8>);

impl KvPool<EchoStream> for EchoPool {
    fn data(&self) -> (*mut c_void, usize) {
        (self.0.as_ptr().cast_mut().cast(), self.0.len())
    }

    fn copy_pages(&self, stream: Option<&EchoStream>, pairs: &[[u64; 2]]) -> Result<()> {
        assert!(stream.is_some());
        match pairs.iter().flatten().find(|&&page| page as usize >= self.0.len()) {
            Some(page) => Err(Error::invalid(format!("page {page} of {}", self.0.len()))),
            None => Ok(()),
        }
    }
}

struct EchoGroup;

impl Group<EchoStream> for EchoGroup {
    unsafe fn all_reduce(
        &self,
        _rank: u32,
        _stream: Option<&EchoStream>,
        src: *const c_void,
        dst: *mut c_void,
        count: usize,
        dtype: DType,
        _reduction: ffi::Reduction,
    ) -> Result<()> {
        let bytes = dtype.byte_len(count).unwrap();
        // SAFETY: the caller vouches for both buffers; a group of one copies.
        unsafe { src.cast::<u8>().copy_to(dst.cast(), bytes) };
        Ok(())
    }

    unsafe fn all_gather(
        &self,
        rank: u32,
        stream: Option<&EchoStream>,
        src: *const c_void,
        dst: *mut c_void,
        count: usize,
        dtype: DType,
    ) -> Result<()> {
        // SAFETY: the caller vouches for both buffers.
        unsafe { self.all_reduce(rank, stream, src, dst, count, dtype, ffi::REDUCE_SUM) }
    }
}
