//! AffineGrid: the sampling positions of an affine transformation, as GridSample takes them.

use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::layout::number;
use crate::ops::layout::window::sizes;
use crate::ops::{NEWEST, Operator};
use crate::tensor::Dims;

pub const OPERATORS: &[Operator] = &[Operator::onnx("AffineGrid", 20, NEWEST, affine_grid)];

struct AffineGrid {
    align_corners: bool,
}

fn affine_grid(node: &Node) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(AffineGrid { align_corners: node.int("align_corners", 0)? != 0 }))
}

impl Kernel for AffineGrid {
    /// theta `[N, D, D + 1]` and size `[N, C, spatial..]` give a grid `[N, spatial.., D]`, x before y before z.
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let theta = cx.input(0)?;
        let size = sizes(&cx.input(1)?.to_i64s()?)?;
        let rank = size.len().saturating_sub(2);
        if !(1..=3).contains(&rank) || theta.dims() != [size[0], rank, rank + 1] {
            return Err(OpError::invalid(format!(
                "theta of shape {:?} does not fit size {size:?}",
                theta.dims()
            )));
        }
        let matrices = number::to_vec::<f64>(theta)?;
        let spatial = &size[2..];
        let mut dims: Dims = [size[0]].as_slice().into();
        dims.extend_from_slice(spatial);
        dims.push(rank);
        let points: usize = spatial.iter().product();
        let mut grid = Vec::with_capacity(size[0] * points * rank);
        for matrix in matrices.chunks_exact(rank * (rank + 1)) {
            for point in 0..points {
                let position = self.position(point, spatial);
                for row in matrix.chunks_exact(rank + 1) {
                    let moved: f64 = row.iter().zip(&position).map(|(a, b)| a * b).sum();
                    grid.push(moved + row[rank]);
                }
            }
        }
        let output = number::store(cx, 0, theta.dtype(), &dims, &grid)?;
        cx.set(0, output);
        Ok(())
    }
}

impl AffineGrid {
    /// The normalised coordinates of a point of the output, innermost dimension first.
    fn position(&self, mut point: usize, spatial: &[usize]) -> [f64; 3] {
        let mut position = [0.0; 3];
        for (coordinate, &dim) in position.iter_mut().zip(spatial.iter().rev()) {
            let (i, n) = ((point % dim) as f64, dim as f64);
            point /= dim;
            *coordinate = match self.align_corners {
                true if dim == 1 => -1.0,
                true => 2.0 * i / (n - 1.0) - 1.0,
                false => (2.0 * i + 1.0) / n - 1.0,
            };
        }
        position
    }
}

#[cfg(test)]
mod tests {
    use crate::node::Attribute;
    use crate::testing::{node, run, tensor};

    #[test]
    fn the_identity_gives_pixel_centres_or_corners() {
        let theta = || Some(tensor(&[1, 2, 3], &[1f32, 0., 0., 0., 1., 0.]));
        let case = |align: i64| {
            let attributes = [("align_corners", Attribute::Int(align))];
            let inputs = [theta(), Some(tensor(&[4], &[1i64, 1, 1, 2]))];
            run(&node("", "AffineGrid", 20, &attributes, 1), &inputs).unwrap()[0]
                .as_slice::<f32>()
                .unwrap()
                .to_vec()
        };
        assert_eq!(case(0), [-0.5, 0., 0.5, 0.]);
        assert_eq!(case(1), [-1., -1., 1., -1.]);
    }
}
