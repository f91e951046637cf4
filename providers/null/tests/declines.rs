//! The template is a whole provider: it loads, lists its device, and declines every node with a reason.

use tenon_plugin_api::host::{CompileArgs, GraphBuilder, OwnedGraph, Provider};
use tenon_plugin_api::{Code, DType, ffi};

static HOST: ffi::HostApi = ffi::HostApi {
    struct_size: size_of::<ffi::HostApi>(),
    abi_major: ffi::ABI_MAJOR,
    abi_minor: ffi::ABI_MINOR,
    name: ffi::Str::new("test"),
    version: ffi::Str::new("1"),
    log: None,
    log_enabled: None,
};

fn provider() -> Provider {
    // SAFETY: the export macro made the table.
    let provider = unsafe { Provider::new(tenon_provider_null::table()) }.expect("the table is whole");
    provider.initialize(&HOST).expect("it starts");
    provider
}

fn graph() -> OwnedGraph {
    let mut graph = GraphBuilder::new();
    let x = graph.input("x", DType::F32, Some(&[2]));
    let (y, z) = (graph.value("y", DType::F32, Some(&[2])), graph.value("z", DType::F32, Some(&[2])));
    graph.node("Relu", 14, &[x], &[y]);
    graph.node("Add", 14, &[x, y], &[z]);
    graph.output(z);
    graph.build()
}

#[test]
fn it_lists_one_pretend_device() {
    let provider = provider();
    assert_eq!((provider.name(), provider.score().0), ("null", 1));
    let devices = provider.devices().expect("it lists devices");
    assert_eq!(devices.iter().map(|device| device.name.as_str()).collect::<Vec<_>>(), ["Null device"]);
    assert_eq!(
        provider.open(0, &[("fast", "yes")]).expect_err("there are no options").kind(),
        Code::InvalidArgument
    );
}

#[test]
fn it_declines_each_node_with_a_reason() {
    let expected = ["Relu", "Add"].map(|op| format!("the null provider has no kernel for {op}"));
    let graph = graph();
    let device = provider().open(0, &[]).expect("it opens");
    for claims in [device.claim(graph.graph(), ""), provider().claim_for("null", graph.graph())] {
        let claims = claims.expect("it answers");
        assert_eq!(claims.sets, []);
        assert_eq!(claims.declines.into_iter().map(|(_, reason)| reason).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn it_refuses_to_compile_what_it_did_not_claim() {
    let device = provider().open(0, &[]).expect("it opens");
    let error = device.compile(&CompileArgs::new(graph().graph())).expect_err("there is nothing to compile");
    assert_eq!(error.kind(), Code::Unsupported);
}

#[test]
fn its_memory_streams_and_events_are_those_of_the_host() {
    let device = provider().open(0, &[]).expect("it opens");
    let memory = device.allocate(ffi::MEMORY_HOST, 3).expect("it allocates");
    assert_eq!(memory.as_ptr().addr() % 64, 0);
    let (stream, event) = (device.stream().expect("a stream"), device.event().expect("an event"));
    stream.record(&event).expect("it records");
    stream.synchronize().expect("nothing is queued");
    assert!(event.query().expect("it answers"));
}
