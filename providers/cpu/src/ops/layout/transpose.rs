//! Transpose and the operators that are a transposition of a split shape: DepthToSpace and SpaceToDepth.

use smallvec::SmallVec;

use super::cells::rearrange;
use super::mover::{self, Side, strides_of};
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::{NEWEST, Operator};
use crate::shape;
use crate::tensor::Dims;

pub const OPERATORS: &[Operator] = &[
    Operator::onnx("Transpose", 1, NEWEST, transpose),
    Operator::onnx("DepthToSpace", 1, NEWEST, depth_to_space),
    Operator::onnx("SpaceToDepth", 1, NEWEST, space_to_depth),
];

struct Transpose {
    /// `None` reverses the dimensions.
    permutation: Option<SmallVec<[i64; 8]>>,
}

fn transpose(node: &Node) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(Transpose { permutation: node.ints("perm")?.map(SmallVec::from_slice) }))
}

impl Kernel for Transpose {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let dims: Dims = cx.input(0)?.dims().into();
        let permutation: Dims = match &self.permutation {
            Some(permutation) if permutation.len() != dims.len() => {
                let message =
                    format!("perm {permutation:?} does not name each of the {} dimensions", dims.len());
                return Err(OpError::invalid(message));
            }
            Some(permutation) => shape::axes(permutation, dims.len())?,
            None => (0..dims.len()).rev().collect(),
        };
        permute(cx, &dims, &permutation, None)
    }
}

/// Sets output 0 to input 0, seen with shape `dims`, with its dimensions reordered by `permutation` and then viewed as
/// `result` (by default the permuted shape).
fn permute(
    cx: &mut Context<'_>,
    dims: &[usize],
    permutation: &[usize],
    result: Option<&[usize]>,
) -> Result<()> {
    let permuted: Dims = permutation.iter().map(|&axis| dims[axis]).collect();
    let result = result.unwrap_or(&permuted);
    // Dimensions of size 1 may move freely: when the others keep their order the bytes do too.
    let mut moving = permutation.iter().filter(|&&axis| dims[axis] != 1);
    let mut last = None;
    if moving.all(|&axis| last.replace(axis).is_none_or(|last| last < axis)) {
        return cx.forward(0, 0, result);
    }
    let parallel = cx.parallel();
    rearrange(cx, &[0], 0, result, |sources, destination, cell| {
        let own = strides_of(dims);
        let from: mover::Strides = permutation.iter().map(|&axis| own[axis]).collect();
        let (from, to) =
            (Side { start: 0, strides: &from }, Side { start: 0, strides: &strides_of(&permuted) });
        mover::copy(parallel, cell, &permuted, from, sources[0], to, destination)
    })
}

/// Which part of the channel index counts the position in a block: the slower one (depth-column-row) or the faster.
#[derive(Clone, Copy, PartialEq)]
enum Order {
    DepthColumnRow,
    ColumnRowDepth,
}

struct Blocks {
    size: usize,
    order: Order,
    to_space: bool,
}

fn depth_to_space(node: &Node) -> Result<Box<dyn Kernel>> {
    blocks(node, true)
}

fn space_to_depth(node: &Node) -> Result<Box<dyn Kernel>> {
    blocks(node, false)
}

fn blocks(node: &Node, to_space: bool) -> Result<Box<dyn Kernel>> {
    let size = node.required_int("blocksize")?;
    let order = match node.string("mode", "DCR")? {
        "DCR" => Order::DepthColumnRow,
        "CRD" => Order::ColumnRowDepth,
        other => return Err(OpError::invalid(format!("attribute 'mode' must be DCR or CRD, got {other}"))),
    };
    match usize::try_from(size) {
        Ok(size) if size > 0 => Ok(Box::new(Blocks { size, order, to_space })),
        _ => Err(OpError::invalid(format!("attribute 'blocksize' must be positive, got {size}"))),
    }
}

impl Kernel for Blocks {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let b = self.size;
        let &[n, c, h, w] = cx.input(0)?.dims() else {
            return Err(OpError::invalid(format!(
                "expected four dimensions (NCHW), got shape {:?}",
                cx.input(0)?.dims()
            )));
        };
        let area = b.checked_mul(b).ok_or_else(|| OpError::invalid("attribute 'blocksize' is too large"))?;
        if self.to_space {
            if c % area != 0 {
                return Err(OpError::invalid(format!(
                    "{c} channels are not a multiple of blocksize {b} squared"
                )));
            }
            let depth = c / area;
            let result = [n, depth, h * b, w * b];
            return match self.order {
                Order::DepthColumnRow => {
                    permute(cx, &[n, b, b, depth, h, w], &[0, 3, 4, 1, 5, 2], Some(&result))
                }
                Order::ColumnRowDepth => {
                    permute(cx, &[n, depth, b, b, h, w], &[0, 1, 4, 2, 5, 3], Some(&result))
                }
            };
        }
        if h % b != 0 || w % b != 0 {
            return Err(OpError::invalid(format!(
                "height {h} and width {w} are not multiples of blocksize {b}"
            )));
        }
        let result = [n, c * area, h / b, w / b];
        let split = [n, c, h / b, b, w / b, b];
        match self.order {
            Order::DepthColumnRow => permute(cx, &split, &[0, 3, 5, 1, 2, 4], Some(&result)),
            Order::ColumnRowDepth => permute(cx, &split, &[0, 1, 3, 5, 2, 4], Some(&result)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Attribute;
    use crate::tensor::{Element, Tensor};
    use crate::testing::{node, run, strings, tensor};

    fn transposed(x: Tensor, permutation: &[i64]) -> Tensor {
        let attributes = [("perm", Attribute::Ints(permutation.to_vec()))];
        run(&node("", "Transpose", 13, &attributes, 1), &[Some(x)]).unwrap().remove(0)
    }

    fn check<T: Element + PartialEq + std::fmt::Debug>(
        dims: &[usize],
        permutation: &[i64],
        make: fn(usize) -> T,
    ) {
        let x: Vec<T> = (0..dims.iter().product()).map(make).collect();
        let output = transposed(tensor(dims, &x), permutation);
        let own = shape::strides(dims);
        let values = output.as_slice::<T>().unwrap();
        let out_strides = shape::strides(output.dims());
        for (flat, value) in values.iter().enumerate() {
            let from: usize = (0..dims.len())
                .map(|i| flat / out_strides[i] % output.dims()[i] * own[permutation[i] as usize])
                .sum();
            assert_eq!(*value, x[from], "{dims:?} {permutation:?} at {flat}");
        }
    }

    #[test]
    fn every_permutation_and_cell_size_moves_each_element_to_its_place() {
        for permutation in
            [[0i64, 1, 2, 3], [3, 2, 1, 0], [0, 2, 1, 3], [0, 3, 1, 2], [2, 3, 0, 1], [1, 0, 3, 2]]
        {
            for dims in [[2, 17, 3, 37], [1, 5, 1, 7], [33, 1, 19, 2], [3, 0, 2, 2]] {
                check::<u8>(&dims, &permutation, |i| i as u8);
                check::<u16>(&dims, &permutation, |i| i as u16);
                check::<f32>(&dims, &permutation, |i| i as f32);
                check::<i64>(&dims, &permutation, |i| i as i64);
            }
        }
        check::<f32>(&[130, 70], &[1, 0], |i| i as f32);
    }

    #[test]
    fn strings_are_transposed() {
        let output = transposed(strings(&[2, 2], &["a", "bc", "", "def"]), &[1, 0]);
        assert_eq!(output.as_bytes(), strings(&[2, 2], &["a", "", "bc", "def"]).as_bytes());
    }

    #[test]
    fn a_bad_permutation_is_an_error() {
        let attributes = [("perm", Attribute::Ints(vec![0, 0]))];
        assert!(
            run(&node("", "Transpose", 13, &attributes, 1), &[Some(tensor(&[1, 2], &[1f32, 2.0]))]).is_err()
        );
    }
}
