//! Discrete Fourier transforms of many lines of equal length, of any length in `O(n log n)`, computed in double
//! precision.

use std::sync::{Arc, Mutex, PoisonError};

use rustfft::num_complex::Complex;
use rustfft::{Fft, FftDirection, FftPlanner};
use tenon_kernels::parallel::{Parallel, for_each_range};

/// Elements that one thread transforms at least.
const GRAIN: usize = 4 << 10;

/// Plans by length and direction, made once.
pub struct Plans {
    planner: Mutex<FftPlanner<f64>>,
}

impl Plans {
    pub fn new() -> Plans {
        Plans { planner: Mutex::new(FftPlanner::new()) }
    }

    /// The plan for lines of `len` elements.
    pub fn get(&self, len: usize, inverse: bool) -> Arc<dyn Fft<f64>> {
        let direction = if inverse { FftDirection::Inverse } else { FftDirection::Forward };
        // A planner that a panicking thread left behind is still a valid cache.
        self.planner.lock().unwrap_or_else(PoisonError::into_inner).plan_fft(len, direction)
    }
}

/// Transforms `lines` complex lines: `read(line, buffer)` fills a zeroed buffer, `write(line, result)` takes the
/// unscaled result.
pub fn complex_lines(
    parallel: &dyn Parallel,
    plan: &dyn Fft<f64>,
    lines: usize,
    read: &(dyn Fn(usize, &mut [Complex<f64>]) + Sync),
    write: &(dyn Fn(usize, &[Complex<f64>]) + Sync),
) {
    for_each_range(parallel, lines, GRAIN.div_ceil(plan.len()), 1, &|range| {
        let (mut buffer, mut scratch) = buffers(plan);
        for line in range {
            buffer.fill(Complex::ZERO);
            read(line, &mut buffer);
            plan.process_with_scratch(&mut buffer, &mut scratch);
            write(line, &buffer);
        }
    });
}

/// Transforms `lines` real lines forward, two at a time as the parts of one complex line. `read(line, set)` calls
/// `set(position, value)` for what is not zero; `write(line, result)` takes the first `len / 2 + 1` coefficients (the
/// others are their conjugates).
pub fn real_lines(
    parallel: &dyn Parallel,
    plan: &dyn Fft<f64>,
    lines: usize,
    read: &(dyn Fn(usize, &mut dyn FnMut(usize, f64)) + Sync),
    write: &(dyn Fn(usize, &[Complex<f64>]) + Sync),
) {
    let len = plan.len();
    for_each_range(parallel, lines.div_ceil(2), GRAIN.div_ceil(len), 1, &|range| {
        let (mut buffer, mut scratch) = buffers(plan);
        let mut half = vec![Complex::ZERO; len / 2 + 1];
        for pair in range {
            let (first, second) = (2 * pair, 2 * pair + 1);
            buffer.fill(Complex::ZERO);
            read(first, &mut |at, value| buffer[at].re = value);
            if second < lines {
                read(second, &mut |at, value| buffer[at].im = value);
            }
            plan.process_with_scratch(&mut buffer, &mut scratch);
            let mirror = |k: usize| buffer[(len - k) % len].conj();
            half.iter_mut().enumerate().for_each(|(k, value)| *value = (buffer[k] + mirror(k)) * 0.5);
            write(first, &half);
            if second < lines {
                let minus_half_i = Complex::new(0.0, -0.5);
                half.iter_mut()
                    .enumerate()
                    .for_each(|(k, value)| *value = (buffer[k] - mirror(k)) * minus_half_i);
                write(second, &half);
            }
        }
    });
}

fn buffers(plan: &dyn Fft<f64>) -> (Vec<Complex<f64>>, Vec<Complex<f64>>) {
    (vec![Complex::ZERO; plan.len()], vec![Complex::ZERO; plan.get_inplace_scratch_len()])
}
