//! Prints the speed of the f32 product beside the measured peak of the multiply-add units.
//!
//! Usage: `gemm_bench [threads]`. Threads are spawned per product, so small shapes are only meaningful with one.

mod clock;

use std::hint::black_box;
use std::time::Instant;

use tenon_kernels::Parallel;
use tenon_kernels::cpu::gemm::{Epilogue, Lhs, PackedB, Rhs, gemm};
use tenon_kernels::cpu::{Context, Features, Kernel, Matrix, Simd};

use clock::thread_time;

/// Independent multiply-adds that never leave the registers; returns the operations done.
struct Peak(usize);

impl Kernel for Peak {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let mut acc = [s.splat(1.0); 12];
        let (x, y) = (s.splat(black_box(0.999)), s.splat(black_box(0.001)));
        for _ in 0..self.0 {
            for a in &mut acc {
                *a = s.fma(*a, x, y);
            }
        }
        black_box(acc.iter().map(|&a| s.reduce_sum(a)).sum::<f32>());
        (self.0 * acc.len() * S::LANES * 2) as f64
    }
}

struct Threads(usize);

impl Parallel for Threads {
    fn threads(&self) -> usize {
        self.0
    }

    fn for_each(&self, tasks: usize, body: &(dyn Fn(usize) + Sync)) {
        let next = std::sync::atomic::AtomicUsize::new(0);
        let work = || {
            loop {
                let task = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if task >= tasks {
                    return;
                }
                body(task);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.0.min(tasks) {
                scope.spawn(work);
            }
            work();
        });
    }
}

/// Shortest time of a run in seconds, each measured over at least a millisecond; core time on one thread.
fn best(threads: usize, mut run: impl FnMut()) -> f64 {
    let start = Instant::now();
    run();
    let count = (2e-3 / start.elapsed().as_secs_f64()).ceil().max(1.0) as usize;
    let clock = || if threads == 1 { thread_time(start) } else { start.elapsed().as_secs_f64() };
    let mut shortest = f64::INFINITY;
    while shortest.is_infinite() || start.elapsed().as_secs_f64() < 0.4 {
        let before = clock();
        (0..count).for_each(|_| run());
        shortest = shortest.min((clock() - before) / count as f64);
    }
    shortest
}

fn random(len: usize) -> Vec<f32> {
    let mut state = 0x1234_5678_9abc_def1u64;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        })
        .collect()
}

fn main() {
    let threads = std::env::args().nth(1).and_then(|v| v.parse().ok()).unwrap_or(1);
    let best_features = Features::detect();
    let pool = Threads(threads);
    for isa in
        [tenon_kernels::cpu::Isa::Avx512, tenon_kernels::cpu::Isa::Avx2, tenon_kernels::cpu::Isa::Scalar]
    {
        let features = best_features.at_most(isa);
        if features.isa() != isa {
            continue;
        }
        let steps = 4_000_000;
        let flops = features.dispatch(Peak(1)) * f64::from(steps);
        let peak = flops
            / best(1, || {
                black_box(features.dispatch(Peak(steps as usize)));
            })
            / 1e9
            * threads as f64;
        println!("{isa:?}: peak {peak:.0} GFLOP/s on {threads} threads");
        let ctx = Context::new(features, &pool);
        let squares = [64, 128, 256, 512, 1024, 2048].map(|s| [s, s, s]);
        let skinny = [1, 2, 4, 8, 16, 32, 64, 128].map(|m| [m, 2048, 2048]);
        for [m, n, k] in squares.into_iter().chain(skinny) {
            let (a, b) = (random(m * k), random(k * n));
            let (a, b) = (Matrix::row_major(&a, m, k), Matrix::row_major(&b, k, n));
            let packed = PackedB::pack(ctx, b).expect("B is contiguous");
            let mut c = vec![0.0f32; m * n];
            let mut time = |rhs| {
                best(threads, || {
                    gemm(ctx, Lhs::Plain(a), rhs, &mut c, n, &Epilogue::default()).expect("shapes agree")
                })
            };
            let (t_packed, t_plain) = (time(Rhs::Packed(&packed)), time(Rhs::Plain(b)));
            let gflops = |t: f64| 2.0 * (m * n * k) as f64 / t / 1e9;
            println!(
                "  {m:>5} x {n:>5} x {k:>5}: packed {:>6.1} ({:>3.0} %), {:>5.1} GB/s of B; plain {:>6.1} ({:>3.0} %)",
                gflops(t_packed),
                100.0 * gflops(t_packed) / peak,
                (n * k * 4) as f64 / t_packed / 1e9,
                gflops(t_plain),
                100.0 * gflops(t_plain) / peak,
            );
        }
    }
}
