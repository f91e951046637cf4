//! A fault of a kernel: the launch succeeds, and everything after it reports the fault.

#[expect(dead_code, reason = "other tests use the rest")]
mod library;
#[path = "../../../tests/kernel/toolchain.rs"]
#[expect(dead_code, reason = "these tests load the file, not the parsed code object")]
mod toolchain;

use library::{Driver, call, open, pointer};
use std::ffi::{c_char, c_int};
use tenon_emulator::Target;

#[test]
fn an_access_outside_every_allocation_is_reported_by_the_next_call() {
    let driver = Driver(open(&[("TENON_HIP_DEVICES", "MI355X")]));
    let Some(image) = toolchain::compile_bytes("memory.cpp", Target::Gfx950) else { return };
    let (_, module) = driver.load(&image);
    let (_, function) = driver.function(module, c"copy");
    let (mut from, (_, mut to), mut count) = (driver.upload(&[1u32; 64]), driver.malloc(256), 65u32);
    let stream = driver.stream();
    let mut arguments = [pointer(&mut from), pointer(&mut to), pointer(&mut count)];
    assert_eq!(driver.launch(function, 2, 64, stream, &mut arguments), 0);
    assert_eq!(driver.synchronize(stream), 700);
    assert_eq!(driver.malloc(16).0, 700);
    assert_eq!(driver.launch(function, 1, 64, stream, &mut arguments), 700);
    let mut text = [0 as c_char; 1024];
    let len = call!(driver.0, tenonHipLastFault, text.as_mut_ptr() => *mut c_char, text.len() => usize);
    let text: String = text[..len as c_int as usize].iter().map(|&c| char::from(c as u8)).collect();
    for part in ["kernel copy", "global_load_dword", "workgroup (1, 0, 0)", "lane 0", "256 bytes into"] {
        assert!(text.contains(part), "{text}");
    }
}
