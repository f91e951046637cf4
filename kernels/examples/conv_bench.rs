//! Prints the speed of f32 convolutions of common networks on one thread.

use std::time::Instant;

use tenon_kernels::cpu::conv::{ConvEpilogue, ConvShape, PackedFilter, conv};
use tenon_kernels::cpu::pool::Window;
use tenon_kernels::cpu::{Context, Features};

/// (groups, input channels, output channels, side, kernel, stride)
const SHAPES: [[usize; 6]; 18] = [
    [1, 3, 64, 224, 7, 2],
    [1, 64, 64, 56, 1, 1],
    [1, 64, 64, 56, 3, 1],
    [1, 64, 256, 56, 1, 1],
    [1, 128, 128, 56, 3, 2],
    [1, 128, 128, 28, 3, 1],
    [1, 256, 512, 56, 1, 2],
    [1, 512, 128, 28, 1, 1],
    [1, 256, 256, 14, 3, 1],
    [1, 1024, 256, 14, 1, 1],
    [1, 512, 512, 7, 3, 1],
    [1, 2048, 512, 7, 1, 1],
    [1, 16, 16, 112, 3, 1],
    [32, 32, 32, 112, 3, 1],
    [96, 96, 96, 112, 3, 2],
    [192, 192, 192, 28, 3, 1],
    [576, 576, 576, 14, 5, 1],
    [960, 960, 960, 7, 5, 1],
];

/// Seconds this thread has spent on a core, or wall time where the system does not say.
#[cfg(target_os = "linux")]
fn thread_time(_: Instant) -> f64 {
    #[repr(C)]
    struct Timespec {
        seconds: i64,
        nanoseconds: i64,
    }
    unsafe extern "C" {
        fn clock_gettime(clock: i32, time: *mut Timespec) -> i32;
    }
    const THREAD_CPUTIME: i32 = 3;
    let mut time = Timespec { seconds: 0, nanoseconds: 0 };
    // SAFETY: the structure has the layout of a 64-bit system's timespec.
    unsafe { clock_gettime(THREAD_CPUTIME, &mut time) };
    time.seconds as f64 + time.nanoseconds as f64 / 1e9
}

/// Wall time since `start` in seconds.
#[cfg(not(target_os = "linux"))]
fn thread_time(start: Instant) -> f64 {
    start.elapsed().as_secs_f64()
}

fn main() {
    let ctx = Context::serial(Features::detect());
    for [groups, cin, cout, side, kernel, stride] in SHAPES {
        let two = |v: usize| [v, v];
        let pad = two(kernel / 2);
        let window = Window::new(&two(side), &two(kernel), &two(stride), &two(1), &pad, &pad, false);
        let shape =
            ConvShape::new(1, groups, cin, cout, window.expect("a valid window")).expect("channels divide");
        let fill = |len: usize| (0..len).map(|i| (i % 17) as f32 - 8.0).collect::<Vec<f32>>();
        let x = fill(shape.input_len().expect("small"));
        let filter = fill(shape.filter_len().expect("small"));
        let mut y = vec![0.0f32; shape.output_len().expect("small")];
        let packed = PackedFilter::pack(ctx, &shape, &filter).expect("lengths agree");
        let mut shortest = f64::INFINITY;
        let start = Instant::now();
        while start.elapsed().as_secs_f64() < 0.3 {
            let before = thread_time(start);
            for _ in 0..4 {
                conv(ctx, &shape, &x, &packed, &ConvEpilogue::default(), &mut y).expect("lengths agree");
            }
            shortest = shortest.min((thread_time(start) - before) / 4.0);
        }
        let flops = 2.0 * (y.len() * shape.group_in() * shape.taps()) as f64;
        println!(
            "{cin:>5} -> {cout:>5}, groups {groups:>4}, {side:>3} x {side:<3}, kernel {kernel}, stride {stride}: {:>8.1} us {:>6.1} GFLOP/s",
            shortest * 1e6,
            flops / shortest / 1e9
        );
    }
}
