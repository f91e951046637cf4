//! A device that is lost in the middle of work.

#[expect(dead_code, reason = "other tests use the rest")]
mod library;
#[path = "../../../tests/kernel/toolchain.rs"]
#[expect(dead_code, reason = "these tests load the file, not the parsed code object")]
mod toolchain;

use library::{Driver, call, open, pointer};
use std::ffi::c_int;
use tenon_emulator::Target;

#[test]
fn a_lost_device_fails_every_call_from_then_on() {
    let driver = Driver(open(&[("TENON_HIP_DEVICES", "MI300X"), ("TENON_HIP_LOSE_AFTER", "1")]));
    let Some(image) = toolchain::compile_bytes("memory.cpp", Target::Gfx942) else { return };
    let (_, module) = driver.load(&image);
    let (_, function) = driver.function(module, c"copy");
    let (mut from, (_, mut to), mut count) = (driver.upload(&[1u32; 64]), driver.malloc(256), 64u32);
    let stream = driver.stream();
    let mut arguments = [pointer(&mut from), pointer(&mut to), pointer(&mut count)];
    assert_eq!(driver.launch(function, 1, 64, stream, &mut arguments), 0);
    assert_eq!(driver.synchronize(stream), 0);
    assert_eq!(driver.launch(function, 1, 64, stream, &mut arguments), 0);
    assert_eq!(driver.synchronize(stream), 719);
    assert_eq!(driver.copy(to, from, 16, 3), 719);
    assert_eq!(call!(driver.0, hipDeviceSynchronize,), 719);
    // The device is still counted.
    let mut count = 0;
    assert_eq!(call!(driver.0, hipGetDeviceCount, &mut count => *mut c_int), 0);
    assert_eq!(count, 1);
}
