//! Prints the speed of attention, byte and block-quantised products, softmax, casts and elementwise functions on one
//! thread, in time the thread spent on a core where the system tells it.

mod clock;

use std::time::Instant;

use half::{bf16, f16};
use tenon_kernels::cpu::attention::{AttentionShape, HeadStrides, Options, attention};
use tenon_kernels::cpu::cast::convert_float;
use tenon_kernels::cpu::elementwise::{Binary, Unary, binary, unary};
use tenon_kernels::cpu::igemm::{ByteMatrix, PackedBytes, ZeroPoints, gemm_bytes};
use tenon_kernels::cpu::nbits::{Activations, BlockWeights, PackedBlocks, matmul_blocks_with};
use tenon_kernels::cpu::quantize::{Scales, quantize};
use tenon_kernels::cpu::softmax::softmax;
use tenon_kernels::cpu::transpose::permute;
use tenon_kernels::cpu::{Context, Features, Matrix};

use clock::thread_time;

/// Shortest time of a run in seconds, each measured over at least a millisecond.
fn best(mut run: impl FnMut()) -> f64 {
    let start = Instant::now();
    run();
    let one = start.elapsed().as_secs_f64();
    let count = (2e-3 / one).ceil().max(1.0) as usize;
    let mut shortest = f64::INFINITY;
    while shortest.is_infinite() || start.elapsed().as_secs_f64() < 0.4 {
        let before = thread_time(start);
        (0..count).for_each(|_| run());
        shortest = shortest.min((thread_time(start) - before) / count as f64);
    }
    shortest
}

fn floats(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i * 7919 % 1000) as f32 / 500.0 - 1.0).collect()
}

fn main() {
    let ctx = Context::serial(Features::detect());
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let groups: [(&str, fn(Context<'_>)); 5] = [
        ("attention", bench_attention),
        ("bytes", bench_bytes),
        ("blocks", bench_blocks),
        ("rows", bench_rows),
        ("casts", bench_casts),
    ];
    groups.iter().filter(|(name, _)| name.contains(&wanted)).for_each(|(_, run)| run(ctx));
}

fn bench_attention(ctx: Context<'_>) {
    let cases = [[9, 3, 64, 128], [9, 3, 64, 1024], [9, 9, 64, 1024], [32, 8, 128, 512], [32, 32, 128, 512]];
    for [heads, kv_heads, dim, len] in cases {
        for q_len in [len, 1] {
            let kv_len = if q_len == 1 { len * 4 } else { len };
            let shape =
                AttentionShape { batch: 1, q_heads: heads, kv_heads, q_len, kv_len, qk_dim: dim, v_dim: dim };
            let q_strides = HeadStrides::heads_first(heads, q_len, dim);
            let kv = HeadStrides::heads_first(kv_heads, kv_len, dim);
            let (q, k, v) = (floats(q_strides.batch), floats(kv.batch), floats(kv.batch));
            let mut y = vec![0.0f32; q_strides.batch];
            let options = Options { scale: 0.125, causal: true, ..Options::default() };
            let time = best(|| {
                attention(ctx, &shape, (&q, q_strides), (&k, kv), (&v, kv), &options, (&mut y, q_strides))
                    .expect("shapes agree")
            });
            let flops = 4.0 * (heads * dim * q_len * kv_len) as f64 / if q_len > 1 { 2.0 } else { 1.0 };
            println!(
                "attention {heads}/{kv_heads} x {dim}, {q_len} queries, {kv_len} keys: {:>9.1} us {:>6.1} GFLOP/s {:>5.1} GB/s",
                time * 1e6,
                flops / time / 1e9,
                (2 * kv.batch * 4) as f64 / time / 1e9
            );
        }
    }
}

fn bench_bytes(ctx: Context<'_>) {
    for [m, n, k] in [[1, 2048, 2048], [8, 2048, 2048], [128, 2048, 2048], [1024, 1024, 1024]] {
        let (a, b) = (vec![3u8; m * k], vec![-2i8; k * n]);
        let b = PackedBytes::pack(ctx, ByteMatrix::Signed(Matrix::row_major(&b, k, n))).expect("fits");
        let a = ByteMatrix::Unsigned(Matrix::row_major(&a, m, k));
        let mut c = vec![0i32; m * n];
        let time = best(|| gemm_bytes(ctx, a, &b, ZeroPoints::default(), &mut c, n).expect("shapes agree"));
        println!(
            "bytes {m} x {n} x {k}: {:>9.1} us {:>6.1} GOP/s",
            time * 1e6,
            2.0 * (m * n * k) as f64 / time / 1e9
        );
    }
}

fn bench_blocks(ctx: Context<'_>) {
    for [n, k] in [[576, 576], [2048, 2048], [4096, 4096], [14336, 4096]] {
        let (block, blocks) = (32, k / 32);
        let codes = vec![0x7bu8; n * blocks * 16];
        let scales = vec![0.01f32; n * blocks];
        let weights =
            BlockWeights { bits: 4, block, n, k, codes: &codes, scales: &scales, zero_points: None };
        let packed = PackedBlocks::pack(ctx, &weights).expect("fits");
        for m in [1, 2, 4, 8, 32, 128] {
            let a = floats(m * k);
            let mut c = vec![0.0f32; m * n];
            for form in [Activations::Float, Activations::Int8] {
                let time = best(|| {
                    matmul_blocks_with(ctx, form, &a, m, &packed, None, Unary::Identity, &mut c)
                        .expect("fits")
                });
                println!(
                    "4-bit {m:>3} x {n} x {k} {form:?}: {:>9.1} us {:>6.1} GOP/s {:>5.1} GB/s of codes and scales",
                    time * 1e6,
                    2.0 * (m * n * k) as f64 / time / 1e9,
                    (codes.len() + scales.len() * 4) as f64 / time / 1e9
                );
            }
        }
    }
}

fn bench_rows(ctx: Context<'_>) {
    let x = floats(1 << 18);
    let mut y = vec![0.0f32; x.len()];
    for cols in [64, 1024, 1 << 15] {
        let time = best(|| softmax(ctx, &x, x.len() / cols, cols, &mut y).expect("fits"));
        println!("softmax rows of {cols}: {:.2} ns an element", time * 1e9 / x.len() as f64);
    }
    for op in [
        Unary::Exp,
        Unary::Tanh,
        Unary::Sigmoid,
        Unary::Erf,
        Unary::Gelu,
        Unary::Silu,
        Unary::Log,
        Unary::Relu,
    ] {
        let time = best(|| unary(ctx, op, &x, &mut y).expect("fits"));
        println!("{op:?}: {:.2} ns an element", time * 1e9 / x.len() as f64);
    }
    let time = best(|| binary(ctx, Binary::Add, &x, &x, &mut y).expect("fits"));
    println!("add: {:.1} GB/s", 12.0 * x.len() as f64 / time / 1e9);
    for shape in [[512, 512, 1], [64, 64, 64], [128, 2048, 1]] {
        let len = shape.iter().product::<usize>();
        let time = best(|| permute(ctx, &x[..len], &shape, &[1, 0, 2], &mut y[..len]).expect("fits"));
        println!("transpose {shape:?}: {:.1} GB/s", 8.0 * len as f64 / time / 1e9);
    }
}

fn bench_casts(ctx: Context<'_>) {
    for len in [1 << 14, 1 << 18, 1 << 24] {
        let x = floats(len);
        let (mut h, mut b, mut y) = (vec![f16::ZERO; len], vec![bf16::ZERO; len], vec![0.0f32; len]);
        let rate = |bytes: usize, time: f64| (bytes * len) as f64 / time / 1e9;
        println!("{len} values, GB/s read and written:");
        println!("  f32 to f16 {:.1}", rate(6, best(|| convert_float(ctx, &x, &mut h).expect("fits"))));
        println!("  f32 to bf16 {:.1}", rate(6, best(|| convert_float(ctx, &x, &mut b).expect("fits"))));
        println!("  f16 to bf16 {:.1}", rate(4, best(|| convert_float(ctx, &h, &mut b).expect("fits"))));
        println!("  f16 to f32 {:.1}", rate(6, best(|| convert_float(ctx, &h, &mut y).expect("fits"))));
        println!("  bf16 to f32 {:.1}", rate(6, best(|| convert_float(ctx, &b, &mut y).expect("fits"))));
        let mut q = vec![0i8; len];
        let scales = Scales::tensor(len, &[0.01], None);
        println!("  f32 to i8 {:.1}", rate(5, best(|| quantize(ctx, &x, scales, &mut q).expect("fits"))));
    }
}
