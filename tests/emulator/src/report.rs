//! What a launch did: instructions by kind, bytes moved, LDS cycles and an estimate of time.

use crate::inst::Class;
use crate::target::Target;

/// Counts of one launch, summed over its waves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Instructions a wave executed, by [`Class`].
    pub instructions: [u64; Class::COUNT],
    /// Cycles that matrix instructions hold a matrix core.
    pub matrix_cycles: u64,
    /// Cycles that LDS instructions hold the LDS, bank conflicts included.
    pub lds_cycles: u64,
    /// The part of `lds_cycles` that bank conflicts add.
    pub lds_conflict_cycles: u64,
    /// Bytes lanes read from global memory, caches disregarded.
    pub bytes_read: u64,
    /// Bytes lanes wrote to global memory.
    pub bytes_written: u64,
    pub workgroups: u64,
    pub waves: u64,
}

impl Report {
    pub fn count(&self, class: Class) -> u64 {
        self.instructions[class as usize]
    }

    /// All instructions of all waves.
    pub fn total(&self) -> u64 {
        self.instructions.iter().sum()
    }

    pub(crate) fn add(&mut self, other: &Report) {
        for (sum, count) in self.instructions.iter_mut().zip(other.instructions) {
            *sum += count;
        }
        self.matrix_cycles += other.matrix_cycles;
        self.lds_cycles += other.lds_cycles;
        self.lds_conflict_cycles += other.lds_conflict_cycles;
        self.bytes_read += other.bytes_read;
        self.bytes_written += other.bytes_written;
        self.workgroups += other.workgroups;
        self.waves += other.waves;
    }

    /// A lower bound of the time on a whole chip in seconds: the busiest of matrix cores, LDS, vector issue and HBM.
    /// An estimate: latency, caches and clocks under load are not in it.
    pub fn estimated_seconds(&self, target: Target) -> f64 {
        let (units, clock, bytes_per_second) = match target {
            Target::Gfx942 => (304, 2.1e9, 5.3e12),
            Target::Gfx950 => (256, 2.4e9, 8.0e12),
        };
        // A workgroup stays on one compute unit.
        let units = f64::from(units).min(self.workgroups.max(1) as f64);
        let issue = [Class::Vector, Class::Transcendental].map(|class| self.count(class)).iter().sum::<u64>();
        // A compute unit has four matrix cores and issues a vector instruction of 64 lanes every cycle.
        let cycles = [self.matrix_cycles as f64 / 4.0, self.lds_cycles as f64, issue as f64];
        let busiest = cycles.into_iter().fold(0.0, f64::max) / units / clock;
        busiest.max((self.bytes_read + self.bytes_written) as f64 / bytes_per_second)
    }
}
