//! A kernel that leaves its memory: the launch succeeds, and the next wait says that the device is lost.

mod standin;
#[path = "../../../../tests/emulator/tests/kernel/toolchain.rs"]
#[expect(dead_code, reason = "these tests load the file, not the parsed code object")]
mod toolchain;

use standin::{download, launch_copy, open, upload};
use tenon_emulator::Target;
use tenon_gpu::driver::Driver;
use tenon_plugin_api::Code;

#[test]
fn an_access_outside_every_allocation_loses_the_device() {
    let hip = open(&[("TENON_HIP_DEVICES", "MI355X")]);
    let Some(image) = toolchain::compile_bytes("memory.cpp", Target::Gfx950) else { return };
    let context = hip.open(0).unwrap();
    let module = hip.load(context, &image).unwrap();
    let function = hip.function(context, module, "copy", 0).unwrap();
    let queue = hip.queue(context).unwrap();
    let [from, to] = [[1u32; 64], [0; 64]].map(|values| upload(hip, context, queue, &values));
    launch_copy(hip, context, queue, function, (from, to, 64)).unwrap();
    assert_eq!(download::<u32>(hip, context, queue, to, 64), [1; 64]);
    launch_copy(hip, context, queue, function, (from, to, 65)).unwrap();
    let error = hip.synchronize(context, queue).unwrap_err();
    assert_eq!((error.code, error.provider_code), (Code::DeviceLost, 700));
    assert!(error.message.contains("hipStreamSynchronize: hipErrorIllegalAddress"), "{error}");
    let error = hip.allocate(context, 16).unwrap_err();
    assert_eq!((error.code, error.provider_code), (Code::DeviceLost, 700));
}
