//! The provider's driver over the stand-in library, which Cargo puts on the library path of tests.

use std::sync::OnceLock;

use tenon_gpu::driver::{Arguments, Context, Driver, Function, LaunchConfig, Queue, Side};
use tenon_plugin_api::Result;
use tenon_provider_rocm::Hip;

/// Opens the driver once, with what the stand-in reads from the environment.
pub fn open(environment: &[(&str, &str)]) -> &'static Hip {
    static HIP: OnceLock<Hip> = OnceLock::new();
    HIP.get_or_init(|| {
        for (name, value) in environment {
            // SAFETY: no other thread reads the environment yet: all tests open the driver first.
            unsafe { std::env::set_var(name, value) };
        }
        Hip::load().expect("the stand-in driver was built with the tests and starts")
    })
}

/// Copies values to fresh memory of the device.
pub fn upload<T>(hip: &Hip, context: Context, queue: Queue, values: &[T]) -> u64 {
    let address = hip.allocate(context, size_of_val(values)).expect("there is memory");
    let from = Side::Host(values.as_ptr().cast_mut().cast());
    // SAFETY: both ends hold the values until the queue is synchronised.
    unsafe { hip.copy(context, queue, Side::Device(context, address), from, size_of_val(values)) }
        .expect("the copy is queued");
    hip.synchronize(context, queue).expect("the copy is done");
    address
}

/// Copies values from the device.
pub fn download<T: Default + Clone>(
    hip: &Hip,
    context: Context,
    queue: Queue,
    address: u64,
    count: usize,
) -> Vec<T> {
    let mut values = vec![T::default(); count];
    let to = Side::Host(values.as_mut_ptr().cast());
    // SAFETY: both ends hold the values until the queue is synchronised.
    unsafe { hip.copy(context, queue, to, Side::Device(context, address), count * size_of::<T>()) }
        .expect("the copy is queued");
    hip.synchronize(context, queue).expect("the copy is done");
    values
}

/// Queues `copy(from, to, count)` of 64 work-items a workgroup.
pub fn launch_copy(
    hip: &Hip,
    context: Context,
    queue: Queue,
    function: Function,
    (from, to, count): (u64, u64, u32),
) -> Result<()> {
    let mut bytes = [from.to_le_bytes(), to.to_le_bytes()].concat();
    bytes.extend(count.to_le_bytes());
    let args = Arguments { bytes: &bytes, places: &[(0, 8), (8, 8), (16, 4)] };
    let config = LaunchConfig {
        grid: [count.div_ceil(64), 1, 1],
        block: [64, 1, 1],
        cluster: [1, 1, 1],
        shared_bytes: 0,
        is_dependent: false,
    };
    // SAFETY: the parameters are the kernel's; a test that names too little memory wants the fault.
    unsafe { hip.launch(context, function, &config, args, queue) }
}
