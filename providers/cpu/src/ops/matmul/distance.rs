//! CDist: Euclidean distances between the rows of two matrices.

use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::real::{self, Output, Real, with_real};
use crate::ops::rows::for_rows;

struct Distance {
    squared: bool,
}

pub fn build(node: &Node) -> Result<Box<dyn Kernel>> {
    real::check(node.input_dtype(0))?;
    match node.string("metric", "sqeuclidean")? {
        "sqeuclidean" => Ok(Box::new(Distance { squared: true })),
        "euclidean" => Ok(Box::new(Distance { squared: false })),
        other => Err(OpError::unsupported(format!("CDist has no kernel for metric '{other}'"))),
    }
}

impl Kernel for Distance {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        with_real!(cx.input(0)?.dtype(), T => self.run_typed::<T>(cx))
    }
}

impl Distance {
    fn run_typed<T: Real>(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype = cx.input(0)?.dtype();
        let (a, b) = (real::load_input::<T>(cx, 0)?, real::load_input::<T>(cx, 1)?);
        let (&[m, width], &[n, b_width]) = (a.dims(), b.dims()) else {
            return Err(OpError::invalid(format!(
                "CDist takes matrices, got {:?} and {:?}",
                a.dims(),
                b.dims()
            )));
        };
        if width != b_width {
            return Err(OpError::invalid(format!("rows of {width} and {b_width} elements have no distance")));
        }
        let mut y = Output::new::<T>(cx, 0, dtype, &[m, n])?;
        let (a, b) = (a.as_slice::<T>()?, b.as_slice::<T>()?);
        for_rows(cx.parallel(), y.slice::<T>()?, n, n * width, &|i, row| {
            for (j, out) in row.iter_mut().enumerate() {
                let pairs = a[i * width..][..width].iter().zip(&b[j * width..][..width]);
                let sum = pairs.map(|(&a, &b)| (a - b) * (a - b)).sum::<T>();
                *out = if self.squared { sum } else { sum.sqrt() };
            }
        });
        y.finish(cx)
    }
}
