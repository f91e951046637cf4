//! Roofline arithmetic: the time below which no kernel can finish.

/// What an operation must do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Floating-point operations; a multiply-add counts two.
    pub flops: f64,
    /// Bytes that must be read or written at least once.
    pub bytes: f64,
}

/// What limits an operation on a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    Compute,
    Memory,
}

/// Rates of a machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peak {
    /// Floating-point operations per second.
    pub flops_per_second: f64,
    /// Bytes per second from main memory.
    pub bytes_per_second: f64,
}

impl Cost {
    /// Shortest possible time in seconds.
    pub fn seconds(&self, peak: Peak) -> f64 {
        (self.flops / peak.flops_per_second).max(self.bytes / peak.bytes_per_second)
    }

    /// Which of the two rates sets that time.
    pub fn bound(&self, peak: Peak) -> Bound {
        if self.flops / peak.flops_per_second >= self.bytes / peak.bytes_per_second {
            return Bound::Compute;
        }
        Bound::Memory
    }
}
