//! Bank conflicts of LDS accesses, from tables of which lanes are served together, and the swizzles that avoid them.
//!
//! CDNA4's tables are measurements that others published (HipKittens): a phase of a wide read is no run of lanes. CDNA3
//! serves runs of lanes from 32 banks.

use tenon_kernels::gpu::matmul::mfma::swizzle;

/// An access of LDS by all lanes of a wave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read(u32),
    Write(u32),
}

/// Four-byte banks, and the lanes of each phase.
fn phases(is_cdna4: bool, access: Access) -> (u32, Vec<Vec<usize>>) {
    let runs =
        |lanes: usize| (0..64 / lanes).map(|phase| (phase * lanes..(phase + 1) * lanes).collect()).collect();
    match (is_cdna4, access) {
        (true, Access::Read(16)) => {
            let first: Vec<usize> = (0..4).chain(12..16).chain(20..28).collect();
            let second: Vec<usize> = (4..12).chain(16..20).chain(28..32).collect();
            let both = [0, 32]
                .map(|base| [&first, &second].map(|lanes| lanes.iter().map(|lane| lane + base).collect()));
            (64, both.into_iter().flatten().collect())
        }
        (true, Access::Read(8)) => (64, runs(32)),
        (_, Access::Read(12 | 16) | Access::Write(12 | 16)) => (32, runs(8)),
        (_, Access::Read(8) | Access::Write(8)) => (32, runs(16)),
        _ => (32, runs(32)),
    }
}

/// Cycles beyond one a phase.
fn conflicts(is_cdna4: bool, access: Access, address: impl Fn(usize) -> u32) -> u32 {
    let (Access::Read(bytes) | Access::Write(bytes)) = access;
    let (banks, phases) = phases(is_cdna4, access);
    let mut extra = 0;
    for lanes in phases {
        // Lanes that touch the same word share it.
        let mut words: Vec<u32> = lanes
            .into_iter()
            .flat_map(|lane| (0..bytes.div_ceil(4)).map(|w| address(lane) / 4 + w).collect::<Vec<_>>())
            .collect();
        words.sort_unstable();
        words.dedup();
        let load = (0..banks).map(|bank| words.iter().filter(|word| *word % banks == bank).count());
        extra += load.max().unwrap_or(0).max(1) as u32 - 1;
    }
    extra
}

#[test]
fn phases_cover_every_lane_once() {
    for is_cdna4 in [false, true] {
        for access in [4, 8, 12, 16].into_iter().flat_map(|bytes| [Access::Read(bytes), Access::Write(bytes)])
        {
            let mut lanes: Vec<usize> = phases(is_cdna4, access).1.concat();
            lanes.sort_unstable();
            assert_eq!(lanes, (0..64).collect::<Vec<_>>(), "{access:?}");
        }
    }
}

#[test]
fn neighbours_do_not_conflict_and_equal_banks_do() {
    for is_cdna4 in [false, true] {
        for bytes in [4, 8, 12, 16] {
            for access in [Access::Read(bytes), Access::Write(bytes)] {
                assert_eq!(conflicts(is_cdna4, access, |lane| lane as u32 * bytes), 0, "{access:?}");
                assert_eq!(conflicts(is_cdna4, access, |_| 64), 0, "{access:?}");
                let (_, phases) = phases(is_cdna4, access);
                let expected: u32 = phases.iter().map(|lanes| lanes.len() as u32 - 1).sum();
                // A column of rows of 1 KiB lies in the same banks.
                assert_eq!(conflicts(is_cdna4, access, |lane| lane as u32 * 1024), expected, "{access:?}");
            }
        }
    }
}

#[test]
fn what_a_wide_read_of_cdna4_serves_together_is_no_run_of_lanes() {
    // Lanes 0 and 4 are in different phases, lanes 0 and 12 in the same.
    let pair = |other: usize| {
        move |lane: usize| if lane == 0 || lane == other { (lane as u32 + 1) * 4096 } else { 0 }
    };
    let clash = |other| {
        let address = pair(other);
        conflicts(true, Access::Read(16), |lane| {
            if lane == other || lane == 0 { address(lane) } else { 64 + lane as u32 % 2 * 16 }
        })
    };
    assert_eq!((clash(4), clash(12)), (0, 1));
}

/// Conflicts of all reads of a fragment's pieces, at any place of `place`.
fn fragment(is_cdna4: bool, mma: u32, place: impl Fn(u32, u32) -> u32) -> u32 {
    (0..swizzle::ROW_BYTES / 16 / (64 / mma))
        .map(|index| {
            conflicts(is_cdna4, Access::Read(16), |lane| {
                let lane = lane as u32;
                place(lane % mma, index * (64 / mma) + lane / mma)
            })
        })
        .sum()
}

#[test]
fn the_swizzle_of_products_and_keys_has_no_conflicts_and_others_do() {
    for is_cdna4 in [false, true] {
        let shift = swizzle::shift(is_cdna4);
        for mma in [16, 32] {
            assert_eq!(fragment(is_cdna4, mma, |row, piece| swizzle::place(shift, row, piece)), 0, "{mma}");
            // The read that kernels do, at other rows of the tile.
            for first in [0, 32, 96] {
                let read = |lane: usize| swizzle::read_address(shift, mma, first, 1, lane as u32);
                assert_eq!(conflicts(is_cdna4, Access::Read(16), read), 0, "{mma} from row {first}");
            }
            // Without a swizzle, and with one that leaves out the rows that are served together.
            assert!(fragment(is_cdna4, mma, |row, piece| row * 128 + piece * 16) > 0, "{mma}");
            assert!(fragment(is_cdna4, mma, |row, piece| swizzle::place(3, row, piece)) > 0, "{mma}");
        }
        // A row of eight pieces is written by eight neighbouring lanes.
        let write = |lane: usize| swizzle::place(shift, lane as u32 / 8, lane as u32 % 8);
        assert_eq!(conflicts(is_cdna4, Access::Write(16), write), 0);
    }
}

#[test]
fn transposing_reads_have_no_conflicts_and_those_of_unturned_rows_do() {
    for bytes in [1, 2] {
        for (tile, index, half) in [(0, 0, 0), (1, 1, 0), (3, 0, 1), (5, 1, 1)] {
            let read = |lane: usize| swizzle::transposed_address(bytes, tile, index, half, lane as u32);
            assert_eq!(conflicts(true, Access::Read(8), read), 0, "{bytes} bytes, tile {tile}");
            let unturned = |lane: usize| {
                let address = read(lane);
                let k = address / swizzle::ROW_BYTES % (swizzle::ROW_BYTES / bytes);
                address ^ swizzle::turn(bytes, k) << 4
            };
            assert!(conflicts(true, Access::Read(8), unturned) > 0, "{bytes} bytes, tile {tile}");
        }
    }
}

#[test]
fn a_swizzle_of_one_family_is_not_that_of_the_other() {
    let swapped = |is_cdna4: bool| {
        let shift = swizzle::shift(!is_cdna4);
        fragment(is_cdna4, 16, |row, piece| swizzle::place(shift, row, piece))
            + fragment(is_cdna4, 32, |row, piece| swizzle::place(shift, row, piece))
    };
    assert!(swapped(false) > 0, "CDNA3 reads with CDNA4's swizzle");
}
