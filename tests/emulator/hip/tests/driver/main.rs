//! The stand-in driver through dlopen: two devices, modules, launches, streams, events, graphs, copies.

mod library;
#[path = "../../../tests/kernel/toolchain.rs"]
#[expect(dead_code, reason = "these tests load the file, not the parsed code object")]
mod toolchain;

use library::{Driver, call, open, pointer};
use std::ffi::{CStr, c_char, c_int, c_uint};
use tenon_emulator::Target;

fn driver() -> Driver {
    Driver(open(&[("TENON_HIP_DEVICES", "MI300X,MI355X"), ("TENON_HIP_MEMORY", "1073741824")]))
}

/// The copy kernel on device 1, which is an MI355X.
fn copy_kernel(driver: &Driver) -> Option<usize> {
    let image = toolchain::compile_bytes("memory.cpp", Target::Gfx950)?;
    assert_eq!(driver.set_device(1), 0);
    let (status, module) = driver.load(&image);
    assert_eq!(status, 0);
    let (status, function) = driver.function(module, c"copy");
    assert_eq!(status, 0);
    Some(function)
}

#[test]
fn devices_say_what_they_are() {
    let driver = driver();
    let mut count = 0;
    assert_eq!(call!(driver.0, hipGetDeviceCount, &mut count => *mut c_int), 0);
    assert_eq!(count, 2);
    let attribute = |attribute: c_int, device: c_int| {
        let mut value = 0;
        let status = call!(
            driver.0, hipDeviceGetAttribute, &mut value => *mut c_int, attribute => c_int, device => c_int
        );
        (status, value)
    };
    // Compute units, LDS of a workgroup, lanes of a wave; an unknown attribute; an unknown device.
    assert_eq!([attribute(63, 0), attribute(63, 1)], [(0, 304), (0, 256)]);
    assert_eq!([attribute(74, 0), attribute(74, 1)], [(0, 65536), (0, 163840)]);
    assert_eq!([attribute(87, 1), attribute(12345, 1), attribute(63, 2)], [(0, 64), (1, 0), (101, 0)]);
    let mut properties = [0u8; 1472];
    let status = call!(driver.0, hipGetDevicePropertiesR0600, properties.as_mut_ptr() => *mut u8, 1 => c_int);
    assert_eq!(status, 0);
    let text =
        |at: usize| CStr::from_bytes_until_nul(&properties[at..]).expect("it ends").to_str().expect("ASCII");
    assert_eq!((text(0), text(1160)), ("AMD Instinct MI355X", "gfx950:sramecc+:xnack-"));
    let mut name = [0 as c_char; 8];
    let status = call!(
        driver.0, hipDeviceGetName, name.as_mut_ptr() => *mut c_char, 8 => c_int, 0 => c_int
    );
    assert_eq!((status, name[6], name[7]), (0, b's' as c_char, 0));
}

#[test]
fn errors_have_names() {
    let driver = driver();
    // SAFETY: the type is that of the HIP interface, and the texts are static.
    let name = |code: c_int| unsafe {
        let function = driver.0.get::<extern "C" fn(c_int) -> *const c_char>(b"hipGetErrorName\0");
        CStr::from_ptr(function.expect("it exists")(code)).to_str().expect("ASCII")
    };
    assert_eq!(
        [name(0), name(209), name(700)],
        ["hipSuccess", "hipErrorNoBinaryForGpu", "hipErrorIllegalAddress"]
    );
}

#[test]
fn both_forms_of_arguments_launch() {
    let driver = driver();
    let Some(function) = copy_kernel(&driver) else { return };
    let values: Vec<u32> = (0..1000).map(|value| value * 7).collect();
    let (mut from, mut count) = (driver.upload(&values), values.len() as u32);
    for packed in [false, true] {
        let (_, mut to) = driver.malloc(4000);
        let stream = driver.stream();
        let status = if packed {
            let mut bytes = [from.to_le_bytes(), to.to_le_bytes()].concat();
            bytes.extend(count.to_le_bytes());
            driver.launch_packed(function, 16, 64, stream, &bytes)
        } else {
            let mut arguments = [pointer(&mut from), pointer(&mut to), pointer(&mut count)];
            driver.launch(function, 16, 64, stream, &mut arguments)
        };
        assert_eq!((status, driver.synchronize(stream)), (0, 0));
        assert_eq!(driver.download::<u32>(to, 1000), values);
    }
}

#[test]
fn a_code_object_for_another_chip_is_refused() {
    let driver = driver();
    let Some(image) = toolchain::compile_bytes("memory.cpp", Target::Gfx942) else { return };
    driver.set_device(1);
    assert_eq!(driver.load(&image).0, 209);
    driver.set_device(0);
    let (status, module) = driver.load(&image);
    assert_eq!((status, driver.function(module, c"no such kernel").0), (0, 500));
    assert_eq!(driver.load(&[0; 64]).0, 200);
}

#[test]
fn more_memory_than_there_is_is_refused() {
    let driver = driver();
    driver.set_device(0);
    assert_eq!(driver.malloc(2 << 30).0, 2);
    let info = || {
        let (mut free, mut total) = (0usize, 0usize);
        let status = call!(driver.0, hipMemGetInfo, &mut free => *mut usize, &mut total => *mut usize);
        assert_eq!((status, total), (0, 1 << 30));
        free
    };
    let before = info();
    let (_, address) = driver.malloc(1 << 20);
    assert_eq!(info(), before - (1 << 20));
    assert_eq!(call!(driver.0, hipFree, address => u64), 0);
    assert_eq!(call!(driver.0, hipFree, address => u64), 1);
    assert_eq!(info(), before);
}

#[test]
fn a_launch_that_no_device_accepts_fails_at_once() {
    let driver = driver();
    let Some(function) = copy_kernel(&driver) else { return };
    let stream = driver.stream();
    let arguments = [0u8; 20];
    assert_eq!(driver.launch_packed(function, 1, 65, stream, &arguments), 9);
    assert_eq!(driver.launch_packed(function, 0, 64, stream, &arguments), 9);
    assert_eq!(driver.launch_packed(12345, 1, 64, stream, &arguments), 400);
    assert_eq!(driver.synchronize(stream), 0);
}

#[test]
fn events_measure_the_emulated_time_of_a_stream() {
    let driver = driver();
    let Some(function) = copy_kernel(&driver) else { return };
    let values = vec![1u32; 1 << 16];
    let (from, (_, to)) = (driver.upload(&values), driver.malloc(4 << 16));
    let stream = driver.stream();
    let elapsed = |count: u32| {
        let (start, stop) = (driver.event(), driver.event());
        assert_eq!(call!(driver.0, hipEventRecord, start => usize, stream => usize), 0);
        let mut count = count;
        let (mut from, mut to) = (from, to);
        let mut arguments = [pointer(&mut from), pointer(&mut to), pointer(&mut count)];
        assert_eq!(driver.launch(function, count.div_ceil(64), 64, stream, &mut arguments), 0);
        assert_eq!(call!(driver.0, hipEventRecord, stop => usize, stream => usize), 0);
        let mut time = 0f32;
        let status = call!(
            driver.0, hipEventElapsedTime, &mut time => *mut f32, start => usize, stop => usize
        );
        assert_eq!(status, 0);
        time
    };
    let (short, long) = (elapsed(64), elapsed(1 << 16));
    assert!(short > 0.0 && long > short, "{short} {long}");
}

#[test]
fn a_captured_graph_runs_only_when_it_is_launched() {
    let driver = driver();
    let Some(function) = copy_kernel(&driver) else { return };
    let (mut a, (_, mut b), (_, mut c)) =
        (driver.upload(&[5u32; 64]), driver.malloc(256), driver.malloc(256));
    let (main, side) = (driver.stream(), driver.stream());
    let mut count = 64u32;
    assert_eq!(call!(driver.0, hipStreamBeginCapture, main => usize, 1 => c_int), 0);
    assert_eq!(driver.synchronize(main), 900);
    let mut first = [pointer(&mut a), pointer(&mut b), pointer(&mut count)];
    assert_eq!(driver.launch(function, 1, 64, main, &mut first), 0);
    // The second kernel runs on another stream, forked from the first and joined again.
    let (fork, join) = (driver.event(), driver.event());
    assert_eq!(call!(driver.0, hipEventRecord, fork => usize, main => usize), 0);
    assert_eq!(call!(driver.0, hipStreamWaitEvent, side => usize, fork => usize, 0 => c_uint), 0);
    let mut second = [pointer(&mut b), pointer(&mut c), pointer(&mut count)];
    assert_eq!(driver.launch(function, 1, 64, side, &mut second), 0);
    assert_eq!(call!(driver.0, hipEventRecord, join => usize, side => usize), 0);
    assert_eq!(call!(driver.0, hipStreamWaitEvent, main => usize, join => usize, 0 => c_uint), 0);
    let (mut graph, mut executable) = (0usize, 0usize);
    assert_eq!(call!(driver.0, hipStreamEndCapture, main => usize, &mut graph => *mut usize), 0);
    let status = call!(
        driver.0, hipGraphInstantiate,
        &mut executable => *mut usize, graph => usize, std::ptr::null_mut() => *mut usize,
        std::ptr::null_mut() => *mut c_char, 0 => usize
    );
    assert_eq!(status, 0);
    assert_eq!(driver.download::<u32>(c, 64), [u32::MAX; 64]);
    for value in [6u32, 7] {
        let values = [value; 64];
        assert_eq!(driver.copy(a, values.as_ptr() as u64, 256, 1), 0);
        assert_eq!(call!(driver.0, hipGraphLaunch, executable => usize, main => usize), 0);
        assert_eq!(driver.synchronize(main), 0);
        assert_eq!(driver.download::<u32>(c, 64), values);
    }
    assert_eq!(call!(driver.0, hipGraphExecDestroy, executable => usize), 0);
    assert_eq!(call!(driver.0, hipGraphDestroy, graph => usize), 0);
}

#[test]
fn memory_moves_between_devices_and_pinned_memory() {
    let driver = driver();
    driver.set_device(0);
    let from = driver.upload(&[1u32, 2, 3, 4]);
    driver.set_device(1);
    let (_, to) = driver.malloc(16);
    let stream = driver.stream();
    let peer = |to_device: c_int| {
        call!(
            driver.0, hipMemcpyPeerAsync,
            to => u64, to_device => c_int, from => u64, 0 => c_int, 16 => usize, stream => usize
        )
    };
    assert_eq!([peer(1), peer(0)], [0, 1]);
    assert_eq!(driver.download::<u32>(to, 4), [1, 2, 3, 4]);
    let mut host = 0u64;
    assert_eq!(call!(driver.0, hipHostMalloc, &mut host => *mut u64, 16 => usize, 0 => c_uint), 0);
    assert_eq!(driver.copy(host, to, 16, 2), 0);
    // SAFETY: the driver gave 16 bytes at this address.
    assert_eq!(unsafe { *(host as *const [u32; 4]) }, [1, 2, 3, 4]);
    assert_eq!(call!(driver.0, hipHostFree, host => u64), 0);
    // A copy past the end of an allocation, and one whose kind is wrong.
    assert_eq!([driver.copy(to, from, 17, 3), driver.copy(to, from, 16, 1)], [1, 1]);
    let mut ordered = 0u64;
    assert_eq!(call!(driver.0, hipMallocAsync, &mut ordered => *mut u64, 64 => usize, stream => usize), 0);
    assert_eq!(call!(driver.0, hipMemsetAsync, ordered => u64, 7 => c_int, 64 => usize, stream => usize), 0);
    assert_eq!(driver.download::<u8>(ordered, 64), [7; 64]);
    assert_eq!(call!(driver.0, hipFreeAsync, ordered => u64, stream => usize), 0);
}
