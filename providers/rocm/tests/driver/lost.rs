//! A device that is lost in the middle of work: every call from then on says so.

mod standin;
#[path = "../../../../tests/emulator/tests/kernel/toolchain.rs"]
#[expect(dead_code, reason = "these tests load the file, not the parsed code object")]
mod toolchain;

use standin::{download, launch_copy, open, upload};
use tenon_emulator::Target;
use tenon_gpu::driver::Driver;
use tenon_plugin_api::Code;

#[test]
fn a_lost_device_fails_every_call_from_then_on() {
    let hip = open(&[("TENON_HIP_DEVICES", "MI300X"), ("TENON_HIP_LOSE_AFTER", "1")]);
    let Some(image) = toolchain::compile_bytes("memory.cpp", Target::Gfx942) else { return };
    let context = hip.open(0).unwrap();
    let module = hip.load(context, &image).unwrap();
    let function = hip.function(context, module, "copy", 0).unwrap();
    let queue = hip.queue(context).unwrap();
    let [from, to] = [[1u32; 64], [0; 64]].map(|values| upload(hip, context, queue, &values));
    launch_copy(hip, context, queue, function, (from, to, 64)).unwrap();
    assert_eq!(download::<u32>(hip, context, queue, to, 64), [1; 64]);
    launch_copy(hip, context, queue, function, (from, to, 64)).unwrap();
    for error in [hip.synchronize(context, queue).unwrap_err(), hip.queue(context).unwrap_err()] {
        assert_eq!((error.code, error.provider_code), (Code::DeviceLost, 719), "{error}");
        assert!(error.message.contains("hipErrorLaunchFailure"), "{error}");
    }
    // The device is still counted.
    assert_eq!(hip.devices().unwrap().len(), 1);
}
