//! Packs buffers with known lifetimes into one block of memory.

/// A buffer: when it is alive (first and last step, both inclusive) and its size in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    pub first: u32,
    pub last: u32,
    pub bytes: usize,
}

/// Alignment of every offset, in bytes.
pub const ALIGN: usize = 256;

/// Gives each buffer an offset so that buffers alive at the same time do not overlap; returns the offsets and the size of
/// the block. Larger buffers are placed first, each at the lowest offset that fits (greedy by size; Pisarchyk and Lee,
/// "Efficient Memory Management for Deep Neural Net Inference").
pub fn pack(buffers: &[Lifetime]) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..buffers.len()).collect();
    order.sort_by_key(|&index| (std::cmp::Reverse(buffers[index].bytes), buffers[index].first));
    let mut offsets = vec![0; buffers.len()];
    let mut placed: Vec<usize> = Vec::with_capacity(buffers.len());
    let mut total = 0;
    for index in order {
        let buffer = buffers[index];
        let size = rounded(buffer.bytes);
        let mut offset = 0;
        // `placed` is sorted by offset: take the first gap among the buffers that are alive at the same time.
        for &other in &placed {
            let (start, end) = (offsets[other], offsets[other] + rounded(buffers[other].bytes));
            let together = buffers[other].first <= buffer.last && buffer.first <= buffers[other].last;
            if together && offset < end {
                if start >= offset + size {
                    break;
                }
                offset = end;
            }
        }
        offsets[index] = offset;
        total = total.max(offset + size);
        let position = placed.partition_point(|&other| offsets[other] <= offset);
        placed.insert(position, index);
    }
    (offsets, total)
}

fn rounded(bytes: usize) -> usize {
    bytes.max(1).next_multiple_of(ALIGN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn buffer(first: u32, last: u32, bytes: usize) -> Lifetime {
        Lifetime { first, last, bytes }
    }

    #[test]
    fn a_chain_needs_two_buffers() {
        let chain: Vec<_> = (0..10).map(|i| buffer(i, i + 1, 1000)).collect();
        assert_eq!(pack(&chain).1, 2048);
    }

    #[test]
    fn a_gap_between_placed_buffers_is_used() {
        let (offsets, total) =
            pack(&[buffer(0, 9, 2048), buffer(0, 2, 1024), buffer(3, 9, 1024), buffer(4, 5, 256)]);
        assert_eq!(total, 2048 + 1024 + 256);
        assert_eq!(offsets[1], offsets[2]);
    }

    proptest! {
        #[test]
        fn buffers_alive_together_never_overlap(
            lives in proptest::collection::vec((0u32..20, 0u32..8, 0usize..5000), 0..40)
        ) {
            let buffers: Vec<_> = lives.iter().map(|&(first, len, bytes)| buffer(first, first + len, bytes)).collect();
            let (offsets, total) = pack(&buffers);
            for (i, a) in buffers.iter().enumerate() {
                prop_assert!(offsets[i] + a.bytes <= total || a.bytes == 0);
                prop_assert_eq!(offsets[i] % ALIGN, 0);
                for (j, b) in buffers.iter().enumerate().skip(i + 1) {
                    let together = a.first <= b.last && b.first <= a.last;
                    let apart = offsets[i] + a.bytes <= offsets[j] || offsets[j] + b.bytes <= offsets[i];
                    prop_assert!(!together || apart);
                }
            }
        }
    }
}
