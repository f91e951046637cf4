//! The instruction sets of the processor, detected once and passed to every kernel.

use crate::parallel::{Parallel, Serial};

/// The vector instruction tiers that kernels are compiled for, from slowest to fastest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Baseline instructions of the target; the reference.
    Scalar,
    /// AVX2 with FMA and F16C: 256-bit vectors.
    Avx2,
    /// AVX-512 F, BW, CD, DQ and VL: 512-bit vectors.
    Avx512,
}

impl Isa {
    /// Name of the `kernels/arch` folder that holds the tables of the tier.
    pub fn arch(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "x86_64_avx2",
            Isa::Avx512 => "x86_64_avx512",
        }
    }
}

/// What the processor can do. A value never claims more than was detected, so holding one is the proof that the
/// instructions exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    isa: Isa,
    vnni: bool,
    bf16: bool,
}

impl Features {
    /// No vector extensions: every kernel takes its portable path.
    pub const fn scalar() -> Self {
        Self { isa: Isa::Scalar, vnni: false, bf16: false }
    }

    /// Asks the processor.
    #[cfg(target_arch = "x86_64")]
    pub fn detect() -> Self {
        let avx2 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        if !avx2 {
            return Self::scalar();
        }
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512cd")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        if !avx512 {
            return Self { isa: Isa::Avx2, vnni: false, bf16: false };
        }
        Self {
            isa: Isa::Avx512,
            vnni: is_x86_feature_detected!("avx512vnni"),
            bf16: is_x86_feature_detected!("avx512bf16"),
        }
    }

    /// Asks the processor.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn detect() -> Self {
        Self::scalar()
    }

    /// The same processor restricted to `isa`; never raises the tier.
    pub fn at_most(self, isa: Isa) -> Self {
        if isa >= self.isa {
            return self;
        }
        Self { isa, vnni: false, bf16: false }
    }

    /// The same processor without the dot-product extensions.
    pub fn without_dot_products(self) -> Self {
        Self { vnni: false, bf16: false, ..self }
    }

    /// The vector tier.
    pub fn isa(self) -> Isa {
        self.isa
    }

    /// AVX512-VNNI: 8-bit dot products into 32-bit lanes.
    pub fn vnni(self) -> bool {
        self.vnni
    }

    /// AVX512-BF16: bfloat16 dot products into 32-bit lanes.
    pub fn bf16(self) -> bool {
        self.bf16
    }
}

/// What every kernel call needs beside its operands.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Instructions that may be used.
    pub features: Features,
    /// Threads that may be used.
    pub parallel: &'a dyn Parallel,
}

impl<'a> Context<'a> {
    /// A context over a thread pool.
    pub fn new(features: Features, parallel: &'a dyn Parallel) -> Self {
        Self { features, parallel }
    }

    /// A context that stays on the calling thread.
    pub fn serial(features: Features) -> Context<'static> {
        Context { features, parallel: &Serial }
    }
}
