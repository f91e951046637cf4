//! Cycles an LDS instruction takes: lanes are served in phases, and in each phase a bank serves one word.
//!
//! The phases of wide accesses are measurements on CDNA4 that others published (HipKittens); CDNA3 has 32 banks for
//! all instructions and phases of consecutive lanes.

use crate::target::Target;
use crate::wave::{LANES, Register};

/// Cycles of one instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cycles {
    pub total: u32,
    /// The part that conflicts add to one cycle a phase.
    pub conflicts: u32,
}

/// The phase of a lane for 16-byte reads of CDNA4.
fn wide_read_phase(lane: usize) -> usize {
    let first = matches!(lane % 32, 0..=3 | 12..=15 | 20..=27);
    lane / 32 * 2 + usize::from(!first)
}

/// The cycles of an access of `bytes` bytes a lane at `addresses`.
pub(crate) fn cycles(target: Target, addresses: &Register, exec: u64, bytes: u32, writes: bool) -> Cycles {
    let modern = target == Target::Gfx950;
    let (banks, lanes_a_phase) = match (bytes, writes) {
        (16, false) if modern => (64, 16),
        (8, false) if modern => (64, 32),
        (16, _) => (32, 8),
        (12, _) => (32, 8),
        (8, _) => (32, 16),
        _ => (32, 32),
    };
    let phase = |lane: usize| {
        if bytes == 16 && modern && !writes { wide_read_phase(lane) } else { lane / lanes_a_phase }
    };
    let words = bytes.div_ceil(4);
    let phases = LANES / lanes_a_phase;
    let mut total = 0;
    for current in 0..phases {
        // Lanes that touch the same word share it.
        let mut touched: Vec<u32> = Vec::with_capacity(128);
        for lane in (0..LANES).filter(|&lane| exec >> lane & 1 == 1 && phase(lane) == current) {
            touched.extend((0..words).map(|word| addresses[lane] / 4 + word));
        }
        touched.sort_unstable();
        touched.dedup();
        let mut load = [0u32; 64];
        touched.iter().for_each(|word| load[(word % banks) as usize] += 1);
        total += load.into_iter().max().unwrap_or(0).max(1);
    }
    Cycles { total, conflicts: total - phases as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consecutive_words_do_not_conflict_and_equal_banks_do() {
        for target in Target::ALL {
            let consecutive: Register = std::array::from_fn(|lane| 4 * lane as u32);
            assert_eq!(cycles(target, &consecutive, u64::MAX, 4, false), Cycles { total: 2, conflicts: 0 });
            let column: Register = std::array::from_fn(|lane| 128 * lane as u32);
            assert_eq!(cycles(target, &column, u64::MAX, 4, false), Cycles { total: 64, conflicts: 62 });
            let same = [16; LANES];
            assert_eq!(cycles(target, &same, u64::MAX, 4, false).conflicts, 0);
        }
    }

    #[test]
    fn rows_of_64_bytes_need_a_swizzle() {
        // Sixteen rows of 32 bfloat16 read by columns of eight.
        let plain: Register = std::array::from_fn(|lane| (lane % 16 * 64 + lane / 16 * 16) as u32);
        assert!(cycles(Target::Gfx950, &plain, u64::MAX, 16, false).conflicts > 0);
    }
}
