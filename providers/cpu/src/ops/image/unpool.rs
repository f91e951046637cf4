//! MaxUnpool: puts pooled values back where a MaxPool found them.

use smallvec::SmallVec;

use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::layout::cells::rearrange;
use crate::ops::layout::window::sizes;
use crate::ops::{NEWEST, Operator};
use crate::shape;
use crate::tensor::{Dims, Tensor};

pub const OPERATORS: &[Operator] = &[Operator::onnx("MaxUnpool", 9, NEWEST, max_unpool)];

type Ints = SmallVec<[i64; 6]>;

struct MaxUnpool {
    kernel: Ints,
    strides: Ints,
    pads: Ints,
}

fn max_unpool(node: &Node) -> Result<Box<dyn Kernel>> {
    let kernel =
        node.ints("kernel_shape")?.ok_or_else(|| OpError::invalid("attribute 'kernel_shape' is missing"))?;
    let rank = kernel.len();
    let list = |name: &str, len: usize, default: i64| -> Result<Ints> {
        let list = node.ints(name)?.map_or_else(|| Ints::from_elem(default, len), Ints::from_slice);
        if list.len() == len {
            Ok(list)
        } else {
            Err(OpError::invalid(format!("attribute '{name}' must be {len} numbers")))
        }
    };
    let (strides, pads) = (list("strides", rank, 1)?, list("pads", 2 * rank, 0)?);
    Ok(Box::new(MaxUnpool { kernel: kernel.into(), strides, pads }))
}

impl Kernel for MaxUnpool {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let (x, indices) = (cx.input(0)?, cx.input(1)?);
        let rank = self.kernel.len();
        if x.rank() != rank + 2 || indices.dims() != x.dims() {
            return Err(OpError::invalid(format!(
                "X of shape {:?} and indices of shape {:?} must agree and have {rank} spatial dimensions",
                x.dims(),
                indices.dims()
            )));
        }
        let mut pooled: Dims = x.dims()[..2].into();
        for (i, &dim) in x.dims()[2..].iter().enumerate() {
            let size =
                (dim as i64 - 1) * self.strides[i] - self.pads[i] - self.pads[i + rank] + self.kernel[i];
            pooled.extend(sizes(&[size])?);
        }
        let given = cx.optional(2).map(Tensor::to_i64s).transpose()?;
        let result = given.map_or_else(|| Ok(pooled.clone()), |given| sizes(&given))?;
        let at = indices.to_i64s()?;
        let places = places(&at, &pooled, &result)?;
        rearrange(cx, &[0], 0, &result, |sources, cells, cell| {
            cells.fill(0);
            for (from, &place) in sources[0].chunks_exact(cell).zip(&places) {
                cells[place * cell..][..cell].copy_from_slice(from);
            }
            Ok(())
        })
    }
}

/// Where each index points in a tensor of shape `result`. Indices count through the pooled shape, whose elements keep
/// their coordinates in a larger result; an index beyond it counts through the result itself.
fn places(indices: &[i64], pooled: &[usize], result: &[usize]) -> Result<Vec<usize>> {
    if pooled.len() != result.len() {
        return Err(OpError::invalid(format!(
            "output_shape must have {} dimensions, got {}",
            pooled.len(),
            result.len()
        )));
    }
    let (within, total) = (pooled.iter().product::<usize>(), result.iter().product::<usize>());
    let is_larger = pooled.iter().zip(result).all(|(a, b)| a <= b);
    let maps = is_larger && indices.iter().all(|&index| index >= 0 && (index as u64) < within as u64);
    let (from, to) = (shape::strides(pooled), shape::strides(result));
    let place = |&index: &i64| {
        let flat = usize::try_from(index).ok().filter(|&flat| flat < if maps { within } else { total });
        let flat = flat
            .ok_or_else(|| OpError::invalid(format!("index {index} lies outside an output of {result:?}")))?;
        if !maps {
            return Ok(flat);
        }
        Ok((0..pooled.len()).map(|i| flat / from[i] % pooled[i] * to[i]).sum())
    };
    indices.iter().map(place).collect()
}

#[cfg(test)]
mod tests {
    use crate::node::Attribute;
    use crate::testing::{node, run, tensor};

    #[test]
    fn values_keep_their_coordinates_in_a_larger_output() {
        let attributes = [("kernel_shape", Attribute::Ints(vec![2])), ("strides", Attribute::Ints(vec![2]))];
        let x = || Some(tensor(&[1, 1, 2], &[5f32, 6.0]));
        let indices = |values: &[i64; 2]| Some(tensor(&[1, 1, 2], values));
        let output = run(&node("", "MaxUnpool", 11, &attributes, 1), &[x(), indices(&[1, 2])]).unwrap();
        assert_eq!(output[0].as_slice::<f32>().unwrap(), [0., 5., 6., 0.]);
        let shape = Some(tensor(&[3], &[1i64, 1, 5]));
        let output =
            run(&node("", "MaxUnpool", 11, &attributes, 1), &[x(), indices(&[1, 4]), shape]).unwrap();
        assert_eq!(output[0].as_slice::<f32>().unwrap(), [0., 5., 0., 0., 6.]);
        assert!(run(&node("", "MaxUnpool", 11, &attributes, 1), &[x(), indices(&[1, 4])]).is_err());
    }
}
