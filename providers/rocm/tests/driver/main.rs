//! The driver trait over AMD's driver: devices, memory, launches, events, graphs, copies between devices, refusals.

mod standin;
#[path = "../../../../tests/emulator/tests/kernel/toolchain.rs"]
#[expect(dead_code, reason = "these tests load the file, not the parsed code object")]
mod toolchain;

use standin::{download, launch_copy, open, upload};
use tenon_emulator::Target;
use tenon_gpu::driver::{Context, Driver, Function, Queue, Side};
use tenon_plugin_api::Code;
use tenon_provider_rocm::Hip;

/// An MI300X, then an MI355X, with 1 GiB each.
fn hip() -> &'static Hip {
    open(&[("TENON_HIP_DEVICES", "MI300X,MI355X"), ("TENON_HIP_MEMORY", "1073741824")])
}

/// Device 1 with a queue and the copy kernel; `None` where there is no kernel compiler.
fn copy_kernel(hip: &Hip) -> Option<(Context, Queue, Function)> {
    let image = toolchain::compile_bytes("memory.cpp", Target::Gfx950)?;
    let context = hip.open(1).expect("device 1 opens");
    let module = hip.load(context, &image).expect("the image is for the device");
    let function = hip.function(context, module, "copy", 0).expect("the image holds the kernel");
    Some((context, hip.queue(context).expect("a queue"), function))
}

#[test]
fn devices_say_what_they_are() {
    let devices = hip().devices().unwrap();
    assert_eq!(devices.len(), 2);
    let [first, second] = [&devices[0], &devices[1]];
    assert_eq!((first.name.as_str(), first.compute_units), ("AMD Instinct MI300X", 304));
    assert_eq!((second.name.as_str(), second.compute_units), ("AMD Instinct MI355X", 256));
    assert_eq!((second.memory_bytes, second.pci.as_str()), (1 << 30, "0000:11:00.0"));
}

#[test]
fn a_kernel_runs_and_events_tell_its_time() {
    let hip = hip();
    let Some((context, queue, function)) = copy_kernel(hip) else { return };
    let values: Vec<u32> = (0..1000).map(|value| value * 7).collect();
    let from = upload(hip, context, queue, &values);
    let to = hip.allocate(context, 4000).unwrap();
    let [start, stop] = [0, 1].map(|_| hip.mark(context, true).unwrap());
    hip.record(context, queue, start).unwrap();
    launch_copy(hip, context, queue, function, (from, to, 1000)).unwrap();
    hip.record(context, queue, stop).unwrap();
    hip.synchronize_mark(context, stop).unwrap();
    assert!(hip.is_reached(context, stop).unwrap());
    assert!(hip.elapsed_ms(context, start, stop).unwrap() > 0.0);
    assert_eq!(download::<u32>(hip, context, queue, to, 1000), values);
}

#[test]
fn a_captured_graph_runs_when_it_is_started_and_as_often() {
    let hip = hip();
    let Some((context, queue, function)) = copy_kernel(hip) else { return };
    let from = upload(hip, context, queue, &[3u32; 64]);
    let to = upload(hip, context, queue, &[0u32; 64]);
    hip.capture_begin(context, queue).unwrap();
    launch_copy(hip, context, queue, function, (from, to, 64)).unwrap();
    let graph = hip.capture_end(context, queue).unwrap();
    assert_eq!(download::<u32>(hip, context, queue, to, 64), [0; 64]);
    for _ in 0..2 {
        // SAFETY: the memory holds 256 bytes.
        unsafe { hip.zero(context, queue, to, 256) }.unwrap();
        hip.start(context, graph, queue).unwrap();
        assert_eq!(download::<u32>(hip, context, queue, to, 64), [3; 64]);
    }
    hip.destroy_graph(context, graph);
}

#[test]
fn ordered_memory_serves_the_work_between() {
    let hip = hip();
    let context = hip.open(0).unwrap();
    let queue = hip.queue(context).unwrap();
    let before = hip.memory(context).unwrap();
    let address = hip.allocate_ordered(context, queue, 256).unwrap();
    // SAFETY: the memory holds 256 bytes and is freed once.
    unsafe {
        hip.zero(context, queue, address, 256).unwrap();
        assert_eq!(download::<u32>(hip, context, queue, address, 64), [0; 64]);
        hip.free_ordered(context, queue, address).unwrap();
    }
    hip.synchronize(context, queue).unwrap();
    assert_eq!(hip.memory(context).unwrap(), before);
}

#[test]
fn memory_of_one_device_is_copied_to_another() {
    let hip = hip();
    let [a, b] = [0, 1].map(|ordinal| hip.open(ordinal).unwrap());
    let [on_a, on_b] = [a, b].map(|context| hip.queue(context).unwrap());
    let from = upload(hip, a, on_a, &[5u32, 6, 7, 8]);
    let to = upload(hip, b, on_b, &[0u32; 4]);
    // SAFETY: both blocks hold 16 bytes.
    unsafe { hip.copy(b, on_b, Side::Device(b, to), Side::Device(a, from), 16) }.unwrap();
    assert_eq!(download::<u32>(hip, b, on_b, to, 4), [5, 6, 7, 8]);
}

#[test]
fn more_memory_than_there_is_carries_the_drivers_number_and_name() {
    let hip = hip();
    let context = hip.open(0).unwrap();
    let error = hip.allocate(context, 2 << 30).unwrap_err();
    assert_eq!((error.code, error.provider_code), (Code::OutOfMemory, 2));
    assert!(error.message.contains("2147483648 bytes: hipErrorOutOfMemory"), "{error}");
}

#[test]
fn a_code_object_for_another_chip_is_refused() {
    let hip = hip();
    let Some(image) = toolchain::compile_bytes("memory.cpp", Target::Gfx942) else { return };
    let error = hip.load(hip.open(1).unwrap(), &image).unwrap_err();
    assert_eq!((error.code, error.provider_code), (Code::Unsupported, 209));
    assert!(error.message.contains("hipErrorNoBinaryForGpu"), "{error}");
    let context = hip.open(0).unwrap();
    let module = hip.load(context, &image).unwrap();
    let error = hip.function(context, module, "no_such_kernel", 0).unwrap_err();
    assert_eq!((error.provider_code, error.message.contains("'no_such_kernel'")), (500, true));
    // An MI300X has 64 KiB of LDS.
    let error = hip.function(context, module, "copy", 100_000).unwrap_err();
    assert!(error.message.contains("100000 bytes of LDS; a workgroup has 65536"), "{error}");
}
