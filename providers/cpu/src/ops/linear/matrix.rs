//! Det and com.microsoft Inverse, by elimination with partial pivoting in double precision.

use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::real::{self, Output, Real, with_real};
use crate::ops::{NEWEST, Operator};
use crate::tensor::Dims;

pub const OPERATORS: &[Operator] = &[
    Operator::onnx("Det", 11, NEWEST, det),
    Operator::of("com.microsoft", "Inverse", |_| Ok(Box::new(Inverse))),
];

struct Det;

fn det(node: &Node) -> Result<Box<dyn Kernel>> {
    real::check(node.input_dtype(0))?;
    Ok(Box::new(Det))
}

struct Inverse;

/// The rows of the square matrices in a tensor. Errors on other shapes.
fn square(dims: &[usize]) -> Result<usize> {
    match dims {
        &[.., rows, columns] if rows == columns => Ok(rows),
        _ => Err(OpError::invalid(format!("expected square matrices [.., n, n], got shape {dims:?}"))),
    }
}

impl Kernel for Det {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype = cx.input(0)?.dtype();
        with_real!(dtype, T => {
            let dims: Dims = cx.input(0)?.dims().into();
            let n = square(&dims)?;
            let x = real::load_input::<T>(cx, 0)?;
            let mut output = Output::new::<T>(cx, 0, dtype, &dims[..dims.len() - 2])?;
            let x = x.as_slice::<T>()?;
            for (i, value) in output.slice::<T>()?.iter_mut().enumerate() {
                let mut matrix: Vec<f64> = x[i * n * n..][..n * n].iter().map(|v| v.to_f64()).collect();
                *value = T::from_f64(eliminate(&mut matrix, n, n));
            }
            output.finish(cx)
        })
    }
}

impl Kernel for Inverse {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype = cx.input(0)?.dtype();
        with_real!(dtype, T => {
            let dims: Dims = cx.input(0)?.dims().into();
            let n = square(&dims)?;
            let x = real::load_input::<T>(cx, 0)?;
            let x = x.as_slice::<T>()?;
            let mut output = Output::new::<T>(cx, 0, dtype, &dims)?;
            for (i, to) in output.slice::<T>()?.chunks_exact_mut((n * n).max(1)).enumerate() {
                invert(&x[i * n * n..][..n * n], n, to)?;
            }
            output.finish(cx)
        })
    }
}

/// Writes the inverse of an `n` by `n` matrix.
fn invert<T: Real>(matrix: &[T], n: usize, to: &mut [T]) -> Result<()> {
    // The matrix beside the identity.
    let mut wide = vec![0.0; 2 * n * n];
    for (i, row) in wide.chunks_exact_mut(2 * n).enumerate() {
        row[..n].iter_mut().zip(&matrix[i * n..]).for_each(|(to, from)| *to = from.to_f64());
        row[n + i] = 1.0;
    }
    if eliminate(&mut wide, n, 2 * n) == 0.0 {
        return Err(OpError::invalid("a singular matrix has no inverse"));
    }
    for i in (0..n).rev() {
        let (above, rest) = wide.split_at_mut(i * 2 * n);
        let row = &mut rest[..2 * n];
        let pivot = row[i];
        row.iter_mut().for_each(|value| *value /= pivot);
        for other in above.chunks_exact_mut(2 * n) {
            let factor = other[i];
            other.iter_mut().zip(&*row).for_each(|(value, own)| *value -= factor * own);
        }
        to[i * n..][..n].iter_mut().zip(&row[n..]).for_each(|(to, &value)| *to = T::from_f64(value));
    }
    Ok(())
}

/// Brings the first `n` columns of `n` rows of `width` elements to upper triangular form and returns their determinant.
fn eliminate(matrix: &mut [f64], n: usize, width: usize) -> f64 {
    let mut determinant = 1.0;
    for column in 0..n {
        let size = |row: usize| matrix[row * width + column].abs();
        let pivot = (column..n).max_by(|&a, &b| size(a).total_cmp(&size(b))).unwrap_or(column);
        if matrix[pivot * width + column] == 0.0 {
            return 0.0;
        }
        if pivot != column {
            (0..width).for_each(|i| matrix.swap(pivot * width + i, column * width + i));
            determinant = -determinant;
        }
        let (above, below) = matrix.split_at_mut((column + 1) * width);
        let row = &above[column * width..];
        determinant *= row[column];
        for other in below.chunks_exact_mut(width) {
            let factor = other[column] / row[column];
            other[column..].iter_mut().zip(&row[column..]).for_each(|(value, own)| *value -= factor * own);
        }
    }
    determinant
}

#[cfg(test)]
mod tests {
    use crate::testing::{node, random, run, tensor};

    #[test]
    fn determinants_of_a_batch() {
        let x = tensor(&[3, 2, 2], &[0f32, 2., 3., 4., 1., 2., 2., 4., 5., 0., 0., 1.]);
        let output = run(&node("", "Det", 22, &[], 1), &[Some(x)]).unwrap();
        assert_eq!(output[0].as_slice::<f32>().unwrap(), [-6., 0., 5.]);
        let output = run(&node("", "Det", 22, &[], 1), &[Some(tensor::<f64>(&[0, 0], &[]))]).unwrap();
        assert_eq!(output[0].as_slice::<f64>().unwrap(), [1.0]);
        assert!(run(&node("", "Det", 22, &[], 1), &[Some(random(&[2, 3]))]).is_err());
    }

    #[test]
    fn a_matrix_times_its_inverse_is_the_identity() {
        let n = 7;
        let x = random(&[n, n]);
        let inverse =
            run(&node("com.microsoft", "Inverse", 1, &[], 1), &[Some(x.clone())]).unwrap().remove(0);
        let (a, b) = (x.as_slice::<f32>().unwrap(), inverse.as_slice::<f32>().unwrap());
        for (i, j) in (0..n).flat_map(|i| (0..n).map(move |j| (i, j))) {
            let sum: f64 = (0..n).map(|k| f64::from(a[i * n + k]) * f64::from(b[k * n + j])).sum();
            assert!((sum - f64::from(u8::from(i == j))).abs() < 1e-3);
        }
        assert!(
            run(&node("com.microsoft", "Inverse", 1, &[], 1), &[Some(tensor(&[1, 1], &[0f32]))]).is_err()
        );
    }
}
