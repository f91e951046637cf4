//! Col2Im: sums sliding blocks back into images.

use smallvec::SmallVec;

use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::layout::number;
use crate::ops::layout::window::sizes;
use crate::ops::real::Real;
use crate::ops::{NEWEST, Operator};
use crate::shape;
use crate::tensor::{DType, Dims};

pub const OPERATORS: &[Operator] = &[Operator::onnx("Col2Im", 18, NEWEST, col2im)];

type Ints = SmallVec<[i64; 6]>;

struct Col2Im {
    dilations: Option<Ints>,
    pads: Option<Ints>,
    strides: Option<Ints>,
}

fn col2im(node: &Node) -> Result<Box<dyn Kernel>> {
    let list = |name: &str| Ok::<_, OpError>(node.ints(name)?.map(Ints::from_slice));
    Ok(Box::new(Col2Im { dilations: list("dilations")?, pads: list("pads")?, strides: list("strides")? }))
}

/// Where the blocks of one call lie.
struct Blocks {
    image: Dims,
    block: Dims,
    /// Blocks along each dimension.
    counts: Dims,
    strides: Ints,
    dilations: Ints,
    pads: Ints,
}

impl Kernel for Col2Im {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        match cx.input(0)?.dtype() {
            DType::F32 | DType::F16 | DType::BF16 => self.compute::<f32>(cx),
            _ => self.compute::<f64>(cx),
        }
    }
}

impl Col2Im {
    fn blocks(&self, image: Dims, block: Dims) -> Result<Blocks> {
        let rank = image.len();
        let or = |list: &Option<Ints>, len: usize, default: i64, least: i64| {
            let list = list.clone().unwrap_or_else(|| Ints::from_elem(default, len));
            let valid = list.len() == len && list.iter().all(|&v| v >= least);
            if valid {
                Ok(list)
            } else {
                Err(OpError::invalid(format!("expected {len} numbers of at least {least}, got {list:?}")))
            }
        };
        let (strides, dilations) = (or(&self.strides, rank, 1, 1)?, or(&self.dilations, rank, 1, 1)?);
        let pads = or(&self.pads, 2 * rank, 0, 0)?;
        if block.len() != rank || block.contains(&0) {
            return Err(OpError::invalid(format!(
                "block_shape {block:?} does not fit image_shape {image:?}"
            )));
        }
        let mut counts = Dims::new();
        for i in 0..rank {
            let span = dilations[i] * (block[i] as i64 - 1) + 1;
            let room = image[i] as i64 + pads[i] + pads[i + rank] - span;
            if room < 0 {
                return Err(OpError::invalid(format!(
                    "blocks of {block:?} do not fit an image of {image:?}"
                )));
            }
            counts.push((room / strides[i]) as usize + 1);
        }
        Ok(Blocks { image, block, counts, strides, dilations, pads })
    }

    fn compute<T: Real>(&self, cx: &mut Context<'_>) -> Result<()> {
        let input = cx.input(0)?;
        let blocks = self.blocks(sizes(&cx.input(1)?.to_i64s()?)?, sizes(&cx.input(2)?.to_i64s()?)?)?;
        let (taps, positions): (usize, usize) =
            (blocks.block.iter().product(), blocks.counts.iter().product());
        let &[batches, rows, columns] = input.dims() else {
            return Err(OpError::invalid(format!(
                "expected input of shape [N, C * block, blocks], got {:?}",
                input.dims()
            )));
        };
        if rows % taps != 0 || columns != positions {
            return Err(OpError::invalid(format!(
                "input of shape {:?} does not hold {positions} blocks of {taps} elements",
                input.dims()
            )));
        }
        let mut dims: Dims = [batches, rows / taps].as_slice().into();
        dims.extend_from_slice(&blocks.image);
        let columns = number::to_vec::<T>(input)?;
        let plane: usize = blocks.image.iter().product();
        let mut values = vec![T::ZERO; dims.iter().product()];
        for (row, column) in columns.chunks_exact(positions).enumerate() {
            let image = &mut values[row / taps * plane..][..plane];
            for (position, &value) in column.iter().enumerate() {
                if let Some(pixel) = blocks.pixel(row % taps, position) {
                    image[pixel] += value;
                }
            }
        }
        let output = number::store(cx, 0, input.dtype(), &dims, &values)?;
        cx.set(0, output);
        Ok(())
    }
}

impl Blocks {
    /// The pixel under element `tap` of block `position`; `None` in the padding.
    fn pixel(&self, mut tap: usize, mut position: usize) -> Option<usize> {
        let strides = shape::strides(&self.image);
        let mut pixel = 0;
        for i in (0..self.image.len()).rev() {
            let at = (position % self.counts[i]) as i64 * self.strides[i] - self.pads[i]
                + (tap % self.block[i]) as i64 * self.dilations[i];
            position /= self.counts[i];
            tap /= self.block[i];
            pixel += usize::try_from(at).ok().filter(|&at| at < self.image[i])? * strides[i];
        }
        Some(pixel)
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{node, run, tensor};

    #[test]
    fn overlapping_blocks_add_up() {
        let x = tensor(&[1, 2, 2], &[1i32, 2, 10, 20]);
        let inputs = [Some(x), Some(tensor(&[1], &[3i64])), Some(tensor(&[1], &[2i64]))];
        let output = run(&node("", "Col2Im", 18, &[], 1), &inputs).unwrap();
        assert_eq!(output[0].dims(), [1, 1, 3]);
        assert_eq!(output[0].as_slice::<i32>().unwrap(), [1, 12, 20]);
    }
}
