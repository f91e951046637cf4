//! Convolutions over two spatial dimensions as matrix products that never store their patches: `Y = F X`, where F is the
//! filter, a row for each output channel, and X has a column for each window, gathered from the image by the main loop.

use super::problem::{Epilogue, Kind, Layout, Matrix, Problem};
use crate::error::{KernelError, Result};

/// A convolution of one group. Arrays: rows (height), then columns (width).
///
/// Operands, numbered as those of a product: `A` the filter as [`Convolution::pack`] makes it, `B` the image with channels
/// last, `[batch][height][width][in_channels]`, `D` the result with channels first, `[batch][out_channels][positions]`;
/// `BIAS` one for each output channel, `RESIDUAL` as D.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Convolution {
    /// Element types; the layout is NT.
    pub kind: Kind,
    pub batch: usize,
    pub in_channels: usize,
    pub out_channels: usize,
    pub input: [usize; 2],
    pub output: [usize; 2],
    pub kernel: [usize; 2],
    pub steps: [usize; 2],
    pub dilations: [usize; 2],
    /// Zeros in front of the image.
    pub pads: [usize; 2],
    /// Bias, activation and residual; a bias is along rows.
    pub epilogue: Epilogue,
}

/// Bytes of the channels of one tap that the main loop takes at a time.
const BLOCK_BYTES: usize = 128;
/// Padded channels at most for each real one.
const MOST_PADDING: usize = 2;

impl Convolution {
    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    pub fn positions(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// Blocks of channels of one tap.
    pub fn channel_blocks(&self) -> usize {
        channel_blocks(self.in_channels, self.kind)
    }

    /// Elements along K of the packed filter: every tap's channels, zeros up to whole blocks.
    pub fn depth(&self) -> usize {
        self.taps() * self.channel_blocks() * BLOCK_BYTES / self.kind.input.bytes()
    }

    /// Refuses what no main loop gathers, naming what is wrong.
    pub fn check(&self) -> Result<()> {
        let element = self.kind.input.bytes();
        if self.kind.layout != Layout::NT || self.epilogue.is_gated {
            return Err(KernelError::parameter("a convolution's product is NT and not gated"));
        }
        let extents = [self.input, self.output, self.kernel, self.steps, self.dilations];
        if self.batch == 0 || self.out_channels == 0 || extents.as_flattened().contains(&0) {
            return Err(KernelError::shape(format!("{self:?} computes nothing")));
        }
        if !fits(self.in_channels, self.kind) {
            return Err(KernelError::shape(format!(
                "{} channels of {element} bytes: whole 16-byte pieces that fill half of a block of {BLOCK_BYTES} bytes",
                self.in_channels
            )));
        }
        for axis in 0..2 {
            let furthest = (self.kernel[axis] - 1) * self.dilations[axis];
            if self.steps[axis] > 8
                || furthest > 255
                || self.corners(axis).iter().any(|at| !(-128..128).contains(at))
            {
                return Err(KernelError::shape(format!(
                    "windows of {:?} with steps {:?}, dilations {:?} and padding {:?} reach further than the copy engine",
                    self.kernel, self.steps, self.dilations, self.pads
                )));
            }
        }
        Ok(())
    }

    /// Where the first window of an axis begins, and the last one counted from the image's last element.
    pub(super) fn corners(&self, axis: usize) -> [i64; 2] {
        let first = -(self.pads[axis] as i64);
        let last = first + ((self.output[axis] - 1) * self.steps[axis]) as i64;
        [first, last - (self.input[axis] as i64 - 1)]
    }

    /// The product that the main loop computes for every image: M output channels, N positions, K the packed depth.
    pub fn product(&self) -> Problem {
        let (n, k) = (self.positions(), self.depth());
        let d = Matrix { batch_stride: self.out_channels * n, share: 1, ..Matrix::packed(n) };
        Problem {
            kind: self.kind,
            m: self.out_channels,
            n,
            k,
            batches: self.batch,
            a: Matrix::constant(k),
            // Of memory, a tap reads what its neighbours read: an image's share of all taps.
            b: Matrix { batch_stride: n * k, share: self.taps(), ..Matrix::packed(k) },
            d,
            epilogue: Epilogue { residual: self.epilogue.residual.map(|_| d), ..self.epilogue },
        }
    }
}

fn channel_blocks(channels: usize, kind: Kind) -> usize {
    (channels * kind.input.bytes()).div_ceil(BLOCK_BYTES)
}

/// Whether the channels of an image can be gathered without wasting most of the work.
pub fn fits(channels: usize, kind: Kind) -> bool {
    let bytes = channels * kind.input.bytes();
    bytes > 0
        && bytes.is_multiple_of(16)
        && bytes * MOST_PADDING >= channel_blocks(channels, kind) * BLOCK_BYTES
}

/// Bytes of a packed filter of `out_channels` rows.
pub fn packed_bytes(out_channels: usize, in_channels: usize, taps: usize, kind: Kind) -> usize {
    out_channels * taps * channel_blocks(in_channels, kind) * BLOCK_BYTES
}

/// Packs a filter `[out_channels][in_channels][taps]` as `[out_channels][taps][channels, zeros up to whole blocks]`. `out`
/// has [`packed_bytes`].
pub fn pack(filter: &[u8], in_channels: usize, taps: usize, kind: Kind, out: &mut [u8]) -> Result<()> {
    let (element, row) = (kind.input.bytes(), channel_blocks(in_channels, kind) * BLOCK_BYTES);
    let rows = filter.len() / (in_channels * taps * element).max(1);
    if filter.len() != rows * in_channels * taps * element || out.len() != rows * taps * row {
        return Err(KernelError::shape(format!(
            "a filter of {} bytes is no whole rows of {in_channels} channels and {taps} taps",
            filter.len()
        )));
    }
    out.fill(0);
    let sources = filter.chunks_exact(in_channels * taps * element);
    for (source, target) in sources.zip(out.chunks_exact_mut(taps * row)) {
        for (at, value) in source.chunks_exact(element).enumerate() {
            let (channel, tap) = (at / taps, at % taps);
            let to = tap * row + channel * element;
            target[to..to + element].copy_from_slice(value);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::matmul::{Element, Output};

    const KIND: Kind = Kind { input: Element::BF16, output: Output::BF16, layout: Layout::NT };

    #[test]
    fn channels_go_to_blocks_of_their_tap() {
        let (channels, taps) = (40, 3);
        let filter: Vec<u8> = (0..2 * channels * taps).flat_map(|at| (at as u16 + 1).to_le_bytes()).collect();
        let mut packed = vec![0xff; packed_bytes(2, channels, taps, KIND)];
        pack(&filter, channels, taps, KIND, &mut packed).unwrap();
        let packed: Vec<u16> = packed.as_chunks().0.iter().map(|&b| u16::from_le_bytes(b)).collect();
        assert_eq!(packed.len(), 2 * taps * 64);
        for (row, tap, channel) in [(0, 0, 0), (0, 2, 39), (1, 1, 7), (1, 2, 39)] {
            let expected = (row * channels + channel) * taps + tap + 1;
            assert_eq!(packed[(row * taps + tap) * 64 + channel], expected as u16);
        }
        assert!(packed.chunks(64).all(|block| block[40..].iter().all(|&v| v == 0)));
        assert!(pack(&filter[2..], channels, taps, KIND, &mut [0; 8]).is_err());
    }

    #[test]
    fn thin_images_are_left_to_other_kernels() {
        assert!(fits(64, KIND) && fits(32, KIND) && fits(96, KIND) && fits(40, KIND));
        assert!(!fits(3, KIND) && !fits(16, KIND) && !fits(36, KIND) && !fits(0, KIND));
    }

    #[test]
    fn the_last_window_ends_in_the_padding() {
        let convolution = Convolution {
            kind: KIND,
            batch: 2,
            in_channels: 64,
            out_channels: 96,
            input: [15, 14],
            output: [8, 7],
            kernel: [3, 3],
            steps: [2, 2],
            dilations: [1, 1],
            pads: [1, 1],
            epilogue: Epilogue::default(),
        };
        convolution.check().unwrap();
        assert_eq!((convolution.corners(0), convolution.corners(1)), ([-1, -1], [-1, -2]));
        let product = convolution.product();
        assert_eq!((product.m, product.n, product.k, product.batches), (96, 56, 576, 2));
        assert!(Convolution { steps: [9, 1], ..convolution }.check().is_err());
    }
}
