//! Prints the speed of f32 convolutions of common networks on one thread.

mod clock;

use std::time::Instant;

use tenon_kernels::cpu::conv::{ConvEpilogue, ConvShape, PackedFilter, conv};
use tenon_kernels::cpu::pool::Window;
use tenon_kernels::cpu::{Context, Features};

use clock::thread_time;

/// Groups, input channels, output channels, input, kernel, strides and pads (before and after alike).
type Case = (usize, usize, usize, [usize; 2], [usize; 2], [usize; 2], [usize; 2]);

const CASES: [Case; 34] = [
    (1, 3, 64, [224, 224], [7, 7], [2, 2], [3, 3]),
    (1, 64, 64, [56, 56], [1, 1], [1, 1], [0, 0]),
    (1, 64, 64, [56, 56], [3, 3], [1, 1], [1, 1]),
    (1, 64, 256, [56, 56], [1, 1], [1, 1], [0, 0]),
    (1, 128, 128, [56, 56], [3, 3], [2, 2], [1, 1]),
    (1, 128, 128, [28, 28], [3, 3], [1, 1], [1, 1]),
    (1, 256, 512, [56, 56], [1, 1], [2, 2], [0, 0]),
    (1, 512, 128, [28, 28], [1, 1], [1, 1], [0, 0]),
    (1, 256, 256, [14, 14], [3, 3], [1, 1], [1, 1]),
    (1, 1024, 256, [14, 14], [1, 1], [1, 1], [0, 0]),
    (1, 512, 512, [7, 7], [3, 3], [1, 1], [1, 1]),
    (1, 2048, 512, [7, 7], [1, 1], [1, 1], [0, 0]),
    (1, 16, 16, [112, 112], [3, 3], [1, 1], [1, 1]),
    (1, 1, 32, [900, 120], [3, 3], [1, 1], [1, 1]),
    (1, 32, 32, [450, 60], [3, 3], [1, 1], [1, 1]),
    (1, 32, 64, [112, 15], [3, 3], [1, 1], [1, 1]),
    (1, 128, 64, [90, 161], [3, 3], [1, 1], [1, 1]),
    (1, 256, 512, [512, 1], [5, 1], [1, 1], [0, 0]),
    (1, 64, 128, [396, 16], [3, 3], [1, 1], [0, 1]),
    (1, 3, 32, [500, 160], [3, 3], [1, 1], [1, 1]),
    (1, 8, 8, [172, 264], [3, 39], [1, 1], [1, 19]),
    (1, 8, 1, [172, 264], [5, 5], [1, 1], [2, 2]),
    (1, 32, 1, [172, 88], [7, 3], [1, 1], [3, 1]),
    (1, 1, 36, [1, 22178], [1, 256], [1, 128], [0, 0]),
    (1, 3, 24, [256, 256], [5, 5], [2, 2], [2, 2]),
    (1, 24, 24, [128, 128], [1, 1], [1, 1], [0, 0]),
    (1, 128, 32, [28, 28], [3, 3], [1, 1], [1, 1]),
    (1, 128, 16, [55, 55], [1, 1], [1, 1], [0, 0]),
    (1, 16, 64, [55, 55], [3, 3], [1, 1], [1, 1]),
    (32, 32, 32, [112, 112], [3, 3], [1, 1], [1, 1]),
    (96, 96, 96, [112, 112], [3, 3], [2, 2], [1, 1]),
    (192, 192, 192, [28, 28], [3, 3], [1, 1], [1, 1]),
    (576, 576, 576, [14, 14], [5, 5], [1, 1], [2, 2]),
    (960, 960, 960, [7, 7], [5, 5], [1, 1], [2, 2]),
];

fn main() {
    let ctx = Context::serial(Features::detect());
    for (groups, cin, cout, input, kernel, strides, pads) in CASES {
        let window = Window::new(&input, &kernel, &strides, &[1, 1], &pads, &pads, false);
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
        let pair = |[y, x]: [usize; 2]| format!("{y} x {x}");
        println!(
            "{cin:>5} -> {cout:>5}, groups {groups:>4}, {:>10}, kernel {:>6}, strides {:>6}: {:>8.1} us {:>6.1} GFLOP/s",
            pair(input),
            pair(kernel),
            pair(strides),
            shortest * 1e6,
            flops / shortest / 1e9
        );
    }
}
