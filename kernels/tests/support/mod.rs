//! Random data, tiers and comparison for the kernel tests.
#![allow(dead_code, reason = "each test binary uses its own part")]

use tenon_kernels::Parallel;
use tenon_kernels::cpu::{Context, Features, Isa};

/// A small xorshift generator.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Uniform in 0..n.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n
    }

    /// Uniform in low..high.
    pub fn uniform(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * ((self.next() >> 40) as f32 / (1u64 << 24) as f32)
    }

    pub fn floats(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.uniform(-1.0, 1.0)).collect()
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| (self.next() >> 32) as u8).collect()
    }
}

/// Every tier this machine has.
pub fn tiers() -> Vec<Features> {
    let best = Features::detect();
    let mut tiers: Vec<Features> =
        [Isa::Scalar, Isa::Avx2, Isa::Avx512].map(|isa| best.at_most(isa)).into_iter().collect();
    tiers.push(best.without_dot_products());
    tiers.dedup();
    tiers
}

/// Claims several threads and runs tasks backwards on the calling one: catches tasks that depend on order.
pub struct Backwards(pub usize);

impl Parallel for Backwards {
    fn threads(&self) -> usize {
        self.0
    }

    fn for_each(&self, tasks: usize, body: &(dyn Fn(usize) + Sync)) {
        (0..tasks).rev().for_each(body);
    }
}

/// Spawns a thread per task group: catches shared state between tasks.
pub struct Threads(pub usize);

impl Parallel for Threads {
    fn threads(&self) -> usize {
        self.0
    }

    fn for_each(&self, tasks: usize, body: &(dyn Fn(usize) + Sync)) {
        let next = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..self.0.min(tasks) {
                scope.spawn(|| {
                    loop {
                        let task = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        if task >= tasks {
                            break;
                        }
                        body(task);
                    }
                });
            }
        });
    }
}

/// Calls `body` on one thread and on several, for every tier.
pub fn for_each_context(mut body: impl FnMut(Context<'_>)) {
    for features in tiers() {
        body(Context::serial(features));
        body(Context::new(features, &Backwards(3)));
    }
}

/// Panics unless every element is within `tolerance` times (1 + |expected|) of the reference.
#[track_caller]
pub fn assert_close(actual: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}: lengths differ");
    for (i, (&a, &e)) in actual.iter().zip(expected).enumerate() {
        let same = f64::from(a) == e || (a.is_nan() && e.is_nan());
        let error = (f64::from(a) - e).abs();
        assert!(
            same || error <= tolerance * (1.0 + e.abs()),
            "{what}: element {i} is {a}, expected {e}, error {error:e}"
        );
    }
}
