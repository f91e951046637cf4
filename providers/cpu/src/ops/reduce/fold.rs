//! Folding a tensor along any set of axes, for element types without a vector kernel.

use smallvec::SmallVec;

use crate::tensor::Dims;

/// How the elements of a tensor map to those of its reduction: runs of kept and reduced axes merged.
pub struct Plan {
    /// Outermost first; never empty. Each group is (size, step in the output, 0 where reduced).
    groups: SmallVec<[(usize, usize); 6]>,
    /// Elements of the input.
    len: usize,
    /// Elements of the output.
    kept: usize,
}

impl Plan {
    /// The reduction of `dims` along `axes`.
    pub fn new(dims: &[usize], axes: &[usize]) -> Plan {
        let mut merged: SmallVec<[(usize, bool); 6]> = SmallVec::new();
        for (axis, &size) in dims.iter().enumerate() {
            let reduced = axes.contains(&axis);
            match merged.last_mut() {
                Some(last) if last.1 == reduced => last.0 *= size,
                _ => merged.push((size, reduced)),
            }
        }
        if merged.is_empty() {
            merged.push((1, false));
        }
        let mut kept = 1;
        let mut groups: SmallVec<[(usize, usize); 6]> = merged
            .iter()
            .rev()
            .map(|&(size, reduced)| {
                let step = if reduced { 0 } else { kept };
                kept *= if reduced { 1 } else { size };
                (size, step)
            })
            .collect();
        groups.reverse();
        Plan { len: merged.iter().map(|group| group.0).product(), groups, kept }
    }

    /// Elements of the output.
    pub fn kept(&self) -> usize {
        self.kept
    }

    /// Input elements behind each output element.
    pub fn depth(&self) -> usize {
        self.len.checked_div(self.kept).unwrap_or(0)
    }

    /// Folds `x` into `y`, which holds the start values.
    pub fn fold<T: Copy, A: Copy>(&self, x: &[T], y: &mut [A], step: impl Fn(A, T) -> A) {
        self.for_each_row(|at, len, target, reduced| {
            let row = &x[at..at + len];
            if reduced {
                y[target] = row.iter().fold(y[target], |total, &x| step(total, x));
            } else {
                for (total, &x) in y[target..target + len].iter_mut().zip(row) {
                    *total = step(*total, x);
                }
            }
        });
    }

    /// Like [`Plan::fold`] with a second value that belongs to each output element.
    pub fn fold_with<T: Copy, A: Copy, B: Copy>(
        &self,
        x: &[T],
        with: &[B],
        y: &mut [A],
        step: impl Fn(A, T, B) -> A,
    ) {
        self.for_each_row(|at, len, target, reduced| {
            for (i, &x) in x[at..at + len].iter().enumerate() {
                let target = if reduced { target } else { target + i };
                y[target] = step(y[target], x, with[target]);
            }
        });
    }

    /// Calls `body(at, target)` for every input element and the output element it belongs to.
    pub fn for_each(&self, mut body: impl FnMut(usize, usize)) {
        self.for_each_row(|at, len, target, reduced| {
            (0..len).for_each(|i| body(at + i, if reduced { target } else { target + i }));
        });
    }

    /// Calls `body(at, len, target, reduced)` for each innermost run of input elements `at .. at + len`, which belongs
    /// to the output element `target` when reduced, otherwise to the elements from `target` on.
    fn for_each_row(&self, mut body: impl FnMut(usize, usize, usize, bool)) {
        if self.len == 0 {
            return;
        }
        let (&(inner, step), outer) = self.groups.split_last().expect("a plan has a group");
        let mut counters: Dims = outer.iter().map(|_| 0).collect();
        let mut target = 0;
        let mut at = 0;
        while at < self.len {
            body(at, inner, target, step == 0);
            at += inner;
            for (counter, &(size, step)) in counters.iter_mut().zip(outer).rev() {
                *counter += 1;
                target += step;
                if *counter < size {
                    break;
                }
                target -= step * size;
                *counter = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_agree_with_index_arithmetic() {
        let dims = [2usize, 3, 4, 5];
        let x: Vec<i64> = (0..120).map(|i| i * i % 37).collect();
        for mask in 0..16usize {
            let axes: Vec<usize> = (0..4).filter(|axis| mask >> axis & 1 == 1).collect();
            let plan = Plan::new(&dims, &axes);
            let mut expected = vec![0i64; plan.kept()];
            for (at, &value) in x.iter().enumerate() {
                let index = [at / 60, at / 20 % 3, at / 5 % 4, at % 5];
                let target = (0..4)
                    .filter(|axis| !axes.contains(axis))
                    .fold(0, |t, axis| t * dims[axis] + index[axis]);
                expected[target] += value;
            }
            let mut y = vec![0; plan.kept()];
            plan.fold(&x, &mut y, |total, x| total + x);
            assert_eq!(y, expected, "axes {axes:?}");
        }
        assert_eq!(Plan::new(&[], &[]).kept(), 1);
        assert_eq!(Plan::new(&[0, 3], &[0]).kept(), 3);
    }
}
