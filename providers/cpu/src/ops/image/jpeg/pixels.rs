//! Coefficients to pixels: inverse DCT, chroma upsampling, colour conversion.

use super::{Component, Frame, Tables, broken};
use crate::error::Result;

/// Samples of one component, or of one component brought to the size of the image.
struct Plane {
    width: usize,
    height: usize,
    samples: Vec<u8>,
}

impl Plane {
    fn row(&self, y: usize) -> &[u8] {
        &self.samples[y * self.width..][..self.width]
    }
}

/// The pixels of a decoded frame, interleaved RGB.
pub fn to_rgb(frame: &Frame, tables: &Tables) -> Result<Vec<u8>> {
    let mut planes = Vec::with_capacity(3);
    for component in &frame.components {
        let table = tables.quantization[component.quantization].as_ref();
        let table = table.ok_or_else(|| broken("a quantization table is missing"))?;
        planes.push(upsampled(frame, component, samples(component, table)));
    }
    let ids = frame.components.iter().map(|component| component.id);
    let is_rgb = tables.adobe_transform == Some(0) || (tables.adobe_transform.is_none() && ids.eq(*b"RGB"));
    let mut rgb = Vec::with_capacity(frame.width * frame.height * 3);
    for y in 0..frame.height {
        let rows: Vec<&[u8]> = planes.iter().map(|plane| &plane.row(y)[..frame.width]).collect();
        match rows.as_slice() {
            &[luma, cb, cr] => {
                for ((&luma, &cb), &cr) in luma.iter().zip(cb).zip(cr) {
                    rgb.extend(if is_rgb { [luma, cb, cr] } else { from_ycc(luma, cb, cr) });
                }
            }
            other => rgb.extend(other.iter().flat_map(|row| row.iter()).flat_map(|&gray| [gray; 3])),
        }
    }
    Ok(rgb)
}

/// A number in 16-bit fixed point.
const fn fixed(x: f64) -> i32 {
    (x * 65536.0 + 0.5) as i32
}

/// ITU-R BT.601 full range to RGB.
fn from_ycc(luma: u8, cb: u8, cr: u8) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    let (y, cb, cr) = (i32::from(luma), i32::from(cb) - 128, i32::from(cr) - 128);
    let red = y + ((fixed(1.402) * cr + HALF) >> 16);
    let green = y + ((HALF - fixed(0.34414) * cb - fixed(0.71414) * cr) >> 16);
    let blue = y + ((fixed(1.772) * cb + HALF) >> 16);
    [red, green, blue].map(|value| value.clamp(0, 255) as u8)
}

/// The samples of a component that hold pixels.
fn samples(component: &Component, table: &[u16; 64]) -> Plane {
    let [width, height] = component.size;
    let mut samples = vec![0; width * height];
    for (index, coefficients) in component.coefficients.iter().enumerate() {
        let (left, top) = (index % component.blocks[0] * 8, index / component.blocks[0] * 8);
        if left >= width || top >= height {
            continue;
        }
        let block = inverse_dct(coefficients, table);
        let columns = (width - left).min(8);
        for (y, row) in block.chunks_exact(8).enumerate().take(height - top) {
            samples[(top + y) * width + left..][..columns].copy_from_slice(&row[..columns]);
        }
    }
    Plane { width, height, samples }
}

/// Fraction bits of the constants of the transform.
const FRACTION: u32 = 13;
/// Fraction bits kept between its two passes.
const KEPT: u32 = 2;

const fn constant(x: f64) -> i32 {
    (x * (1 << FRACTION) as f64 + 0.5) as i32
}

/// The inverse DCT of a block in 13-bit fixed point, columns then rows, by the eleven-multiplication flow graph of
/// Loeffler, Ligtenberg and Moschytz ("Practical fast 1-D DCT algorithms with 11 multiplications", 1989).
fn inverse_dct(coefficients: &[i16; 64], table: &[u16; 64]) -> [u8; 64] {
    let mut middle = [0i32; 64];
    for x in 0..8 {
        let input = std::array::from_fn(|y| i32::from(coefficients[y * 8 + x]) * i32::from(table[y * 8 + x]));
        for (y, value) in transform(input).into_iter().enumerate() {
            middle[y * 8 + x] = round_shift(value, FRACTION - KEPT);
        }
    }
    let mut samples = [0; 64];
    for (to, row) in samples.as_chunks_mut::<8>().0.iter_mut().zip(middle.as_chunks::<8>().0) {
        // The two passes together scale by 8.
        let level = |value: i32| (round_shift(value, FRACTION + KEPT + 3) + 128).clamp(0, 255) as u8;
        *to = transform(*row).map(level);
    }
    samples
}

fn round_shift(value: i32, bits: u32) -> i32 {
    value.wrapping_add(1 << (bits - 1)) >> bits
}

/// One dimension, scaled by `2^FRACTION * sqrt(8)`.
fn transform(x: [i32; 8]) -> [i32; 8] {
    let times = |value: i32, factor: i32| value.wrapping_mul(factor);
    let sum = |a: i32, b: i32| a.wrapping_add(b);
    // Even half: a rotation of 2 and 6, a butterfly of 0 and 4.
    let turn = times(sum(x[2], x[6]), constant(0.541196100));
    let low = sum(turn, -times(x[6], constant(1.847759065)));
    let high = sum(turn, times(x[2], constant(0.765366865)));
    let (add, subtract) = (sum(x[0], x[4]).wrapping_shl(FRACTION), sum(x[0], -x[4]).wrapping_shl(FRACTION));
    let even = [sum(add, high), sum(subtract, low), sum(subtract, -low), sum(add, -high)];
    // Odd half: two rotations that share one product.
    let shared = times(sum(sum(x[7], x[3]), sum(x[5], x[1])), constant(1.175875602));
    let z1 = -times(sum(x[7], x[1]), constant(0.899976223));
    let z2 = -times(sum(x[5], x[3]), constant(2.562915447));
    let z3 = sum(shared, -times(sum(x[7], x[3]), constant(1.961570560)));
    let z4 = sum(shared, -times(sum(x[5], x[1]), constant(0.390180644)));
    let odd = [
        sum(times(x[1], constant(1.501321110)), sum(z1, z4)),
        sum(times(x[3], constant(3.072711026)), sum(z2, z3)),
        sum(times(x[5], constant(2.053119869)), sum(z2, z4)),
        sum(times(x[7], constant(0.298631336)), sum(z1, z3)),
    ];
    std::array::from_fn(|i| if i < 4 { sum(even[i], odd[i]) } else { sum(even[7 - i], -odd[7 - i]) })
}

/// A component at the size of the image: by a triangle filter for ratios of two, else by repetition.
fn upsampled(frame: &Frame, component: &Component, plane: Plane) -> Plane {
    let ratio = [0, 1].map(|i| frame.max_sampling[i] as f64 / component.sampling[i] as f64);
    let smooth = plane.width > 2;
    if ratio == [1.0, 1.0] {
        plane
    } else if ratio == [2.0, 1.0] && smooth {
        let rows = (0..plane.height).flat_map(|y| widened(plane.row(y))).collect();
        Plane { width: 2 * plane.width, height: plane.height, samples: rows }
    } else if ratio == [1.0, 2.0] {
        let rows = (0..2 * plane.height).flat_map(|y| {
            let bias = if y % 2 == 0 { 1 } else { 2 };
            blended(&plane, y).into_iter().map(move |sum| ((sum + bias) >> 2) as u8)
        });
        Plane { width: plane.width, height: 2 * plane.height, samples: rows.collect() }
    } else if ratio == [2.0, 2.0] && smooth {
        let rows = (0..2 * plane.height).flat_map(|y| widened_sums(&blended(&plane, y))).collect();
        Plane { width: 2 * plane.width, height: 2 * plane.height, samples: rows }
    } else {
        let at = |i: usize, x: usize, len: usize| ((x as f64 / ratio[i]) as usize).min(len - 1);
        let pixel = |x: usize, y: usize| plane.row(at(1, y, plane.height))[at(0, x, plane.width)];
        let samples = (0..frame.height).flat_map(|y| (0..frame.width).map(move |x| (x, y)));
        Plane {
            width: frame.width,
            height: frame.height,
            samples: samples.map(|(x, y)| pixel(x, y)).collect(),
        }
    }
}

/// Row `y` of twice the height: three parts of the nearer row and one of the farther, not yet divided by four.
fn blended(plane: &Plane, y: usize) -> Vec<i32> {
    let near = y / 2;
    let far = if y.is_multiple_of(2) { near.saturating_sub(1) } else { (near + 1).min(plane.height - 1) };
    plane
        .row(near)
        .iter()
        .zip(plane.row(far))
        .map(|(&near, &far)| 3 * i32::from(near) + i32::from(far))
        .collect()
}

/// A row at twice its width, ends repeated. The rounding alternates so that no drift builds up.
fn widened(row: &[u8]) -> Vec<u8> {
    let last = row.len() - 1;
    let at = |i: usize| i32::from(row[i]);
    let pair = |i: usize| {
        let left = if i == 0 { at(0) } else { (3 * at(i) + at(i - 1) + 1) >> 2 };
        let right = if i == last { at(last) } else { (3 * at(i) + at(i + 1) + 2) >> 2 };
        [left as u8, right as u8]
    };
    (0..=last).flat_map(pair).collect()
}

/// The same for sums of four, so that both filters are rounded once.
fn widened_sums(row: &[i32]) -> Vec<u8> {
    let last = row.len() - 1;
    let pair = |i: usize| {
        let left = if i == 0 { 4 * row[0] } else { 3 * row[i] + row[i - 1] };
        let right = if i == last { 4 * row[last] } else { 3 * row[i] + row[i + 1] };
        [((left + 8) >> 4) as u8, ((right + 7) >> 4) as u8]
    };
    (0..=last).flat_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transform_is_within_one_level_of_the_exact_one() {
        let mut seed = 7u32;
        for _ in 0..50 {
            let coefficients: [i16; 64] = std::array::from_fn(|i| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ((seed >> 20) as i16 % 200 - 100) / (1 + i as i16 / 8)
            });
            let got = inverse_dct(&coefficients, &[1; 64]);
            for (at, &got) in got.iter().enumerate() {
                let cosine = |i: usize, x: usize| {
                    let scale = if i == 0 { std::f64::consts::FRAC_1_SQRT_2 } else { 1.0 };
                    scale * ((2 * x + 1) as f64 * i as f64 * std::f64::consts::PI / 16.0).cos() / 2.0
                };
                let exact: f64 = (0..64)
                    .map(|i| f64::from(coefficients[i]) * cosine(i / 8, at / 8) * cosine(i % 8, at % 8))
                    .sum();
                assert!((f64::from(got) - (exact + 128.0).clamp(0.0, 255.0)).abs() <= 1.0);
            }
        }
    }
}
