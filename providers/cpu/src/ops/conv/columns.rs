//! Convolution as a matrix product: the column matrix of an image (one row a channel and window element, one column an
//! output position) and its inverse, the scattered sum.

use crate::ops::real::Real;
use crate::ops::window::Geometry;

/// Writes columns `from .. from + columns` of the column matrix of `channels` input planes into `out`, row-major.
pub fn gather<T: Real>(
    geometry: &Geometry,
    planes: &[T],
    channels: usize,
    from: usize,
    columns: usize,
    out: &mut [T],
) {
    let (plane_len, kernel_len) = (geometry.input_len(), geometry.kernel_len());
    for channel in 0..channels {
        let plane = &planes[channel * plane_len..][..plane_len];
        for element in 0..kernel_len {
            let row = &mut out[(channel * kernel_len + element) * columns..][..columns];
            gather_row(geometry, plane, element, from, row);
        }
    }
}

/// One row of the column matrix: window element `element` of every output position from `from` on.
fn gather_row<T: Real>(geometry: &Geometry, plane: &[T], element: usize, from: usize, out: &mut [T]) {
    let last = geometry.input.len() - 1;
    let (width, stride) = (geometry.output[last], geometry.strides[last]);
    let (kernel_row, k) = (element / geometry.kernel[last], element % geometry.kernel[last]);
    let (valid, first) = geometry.columns(k);
    let mut done = 0;
    while done < out.len() {
        let (row, column) = ((from + done) / width, (from + done) % width);
        let len = (width - column).min(out.len() - done);
        let part = &mut out[done..done + len];
        done += len;
        let Some(start) = geometry.input_row(row, kernel_row) else {
            part.fill(T::ZERO);
            continue;
        };
        let begin = valid.start.clamp(column, column + len);
        let end = valid.end.clamp(begin, column + len);
        part[..begin - column].fill(T::ZERO);
        part[end - column..].fill(T::ZERO);
        if begin == end {
            continue;
        }
        let line = &plane[start + first + (begin - valid.start) * stride..];
        let part = &mut part[begin - column..end - column];
        match stride {
            1 => part.copy_from_slice(&line[..part.len()]),
            _ => part.iter_mut().zip(line.iter().step_by(stride)).for_each(|(out, &x)| *out = x),
        }
    }
}

/// Adds the rows of one channel of a column matrix (`kernel_len` rows of all output positions) into its plane.
pub fn scatter<T: Real>(geometry: &Geometry, columns: &[T], plane: &mut [T]) {
    let last = geometry.input.len() - 1;
    let (width, stride, size) = (geometry.output[last], geometry.strides[last], geometry.input[last]);
    let positions = geometry.output_len();
    if width == 0 {
        return;
    }
    for (element, row) in columns.chunks_exact(positions).enumerate().take(geometry.kernel_len()) {
        let (kernel_row, k) = (element / geometry.kernel[last], element % geometry.kernel[last]);
        let (valid, first) = geometry.columns(k);
        for (index, line) in row.chunks_exact(width).enumerate() {
            let Some(start) = geometry.input_row(index, kernel_row) else { continue };
            let out = &mut plane[start..start + size];
            let out = &mut out[first.min(size)..];
            let line = &line[valid.clone()];
            match stride {
                1 => out.iter_mut().zip(line).for_each(|(out, &x)| *out += x),
                _ => out.iter_mut().step_by(stride).zip(line).for_each(|(out, &x)| *out += x),
            }
        }
    }
}
