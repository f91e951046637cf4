//! The kernels that tests run, each with fresh data and a reference in double precision.

use crate::device::{Device, largest_error, pointers, uniform_bf16};
use half::{bf16, f16};
use tenon_emulator::{CodeObject, Error, Report};

/// A kernel run: its counts, or how wrong the result is.
pub struct Outcome {
    pub report: Report,
    /// Time of the launch, where it matters.
    pub seconds: f64,
    /// The largest difference from the reference, in units of the tolerance of the kernel.
    pub error: f64,
}

impl Outcome {
    pub fn is_right(&self) -> bool {
        self.error <= 1.0
    }
}

/// A workload runs on a device with a code object.
pub type Workload = fn(&Device, &CodeObject) -> Result<Outcome, Error>;

/// Name, source file and function of every workload that any target runs.
pub const ALL: &[(&str, &str, Workload)] = &[
    ("matmul", "matmul.cpp", matmul),
    ("softmax", "row.cpp", softmax),
    ("rmsnorm", "row.cpp", rmsnorm),
    ("cast to bf16", "row.cpp", cast_bf16),
    ("cast to f16", "row.cpp", cast_f16),
    ("attention", "attention.cpp", attention),
    ("chained 32x32 products", "layout.cpp", chain_32),
    ("chained 16x16 products", "layout.cpp", chain_16),
];

fn random() -> fastrand::Rng {
    fastrand::Rng::new()
}

fn doubles(values: &[bf16]) -> Vec<f64> {
    values.iter().map(|value| value.to_f64()).collect()
}

/// The reference of A B^T in double precision.
pub fn product_nt(a: &[f64], b: &[f64], m: usize, n: usize, k: usize) -> Vec<f64> {
    let mut c = vec![0.0; m * n];
    for row in 0..m {
        for column in 0..n {
            c[row * n + column] = (0..k).map(|at| a[row * k + at] * b[column * k + at]).sum();
        }
    }
    c
}

pub fn matmul(device: &Device, code: &CodeObject) -> Result<Outcome, Error> {
    matmul_of(device, code, 256, 128, 192)
}

/// A product of M x K and N x K; the tolerance is half a unit in the last place of bf16 at the largest value.
pub fn matmul_of(device: &Device, code: &CodeObject, m: usize, n: usize, k: usize) -> Result<Outcome, Error> {
    let mut random = random();
    let (a, b) = (uniform_bf16(&mut random, m * k), uniform_bf16(&mut random, n * k));
    let addresses = [device.upload(&a), device.upload(&b), device.results::<bf16>(m * n)];
    let arguments = pointers(&addresses).with(m as u32).with(n as u32).with(k as u32);
    let grid = [n as u32 / 128, m as u32 / 128, 1];
    let start = std::time::Instant::now();
    let report = device.launch(code, "matmul", grid, [256, 1, 1], arguments)?;
    let seconds = start.elapsed().as_secs_f64();
    let expected = product_nt(&doubles(&a), &doubles(&b), m, n, k);
    let found = device.download::<bf16>(addresses[2], m * n);
    let largest = expected.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
    let error = largest_error(found.iter().map(|value| value.to_f64()), &expected);
    Ok(Outcome { report, seconds, error: error / (largest / 200.0) })
}

pub fn softmax(device: &Device, code: &CodeObject) -> Result<Outcome, Error> {
    let (rows, n) = (3, 1000 + usize::from(random().u8(..)));
    let x: Vec<bf16> =
        uniform_bf16(&mut random(), rows * n).iter().map(|v| bf16::from_f32(v.to_f32() * 6.0)).collect();
    let addresses = [device.upload(&x), device.results::<bf16>(rows * n)];
    let arguments = pointers(&addresses).with(n as u32);
    let report = device.launch(code, "softmax", [rows as u32, 1, 1], [256, 1, 1], arguments)?;
    let mut expected = Vec::new();
    for row in doubles(&x).chunks_exact(n) {
        let sum: f64 = row.iter().map(|value| value.exp()).sum();
        expected.extend(row.iter().map(|value| value.exp() / sum));
    }
    let found = device.download::<bf16>(addresses[1], rows * n);
    let largest = expected.iter().fold(0.0f64, |largest, &value| largest.max(value));
    let error = largest_error(found.iter().map(|value| value.to_f64()), &expected);
    Ok(Outcome { report, seconds: 0.0, error: error / (largest / 200.0) })
}

pub fn rmsnorm(device: &Device, code: &CodeObject) -> Result<Outcome, Error> {
    let (rows, n) = (2, 2056);
    let mut random = random();
    let (x, weight) = (uniform_bf16(&mut random, rows * n), uniform_bf16(&mut random, n));
    let addresses = [device.upload(&x), device.upload(&weight), device.results::<bf16>(rows * n)];
    let arguments = pointers(&addresses).with(n as u32).with(1e-5f32);
    let report = device.launch(code, "rmsnorm", [rows as u32, 1, 1], [256, 1, 1], arguments)?;
    let (weight, mut expected) = (doubles(&weight), Vec::new());
    for row in doubles(&x).chunks_exact(n) {
        let mean = row.iter().map(|value| value * value).sum::<f64>() / n as f64;
        let scale = 1.0 / (mean + 1e-5).sqrt();
        expected.extend(row.iter().zip(&weight).map(|(value, weight)| value * scale * weight));
    }
    let found = device.download::<bf16>(addresses[2], rows * n);
    let error = largest_error(found.iter().map(|value| value.to_f64()), &expected);
    Ok(Outcome { report, seconds: 0.0, error: error / 8e-3 })
}

pub fn cast_bf16(device: &Device, code: &CodeObject) -> Result<Outcome, Error> {
    let mut random = random();
    // Every bit pattern may occur, so infinities, NaN and denormals do too.
    let x: Vec<f32> = (0..4 * 600).map(|_| f32::from_bits(random.u32(..))).collect();
    let addresses = [device.upload(&x), device.results::<bf16>(x.len())];
    let arguments = pointers(&addresses).with(x.len() as u32 / 4);
    let report = device.launch(code, "cast_f32_bf16", [3, 1, 1], [256, 1, 1], arguments)?;
    let found = device.download::<bf16>(addresses[1], x.len());
    let same = |(x, y): (&f32, &bf16)| {
        let expected = bf16::from_f32(*x);
        expected.to_bits() == y.to_bits() || expected.is_nan() && y.is_nan()
    };
    let wrong = x.iter().zip(&found).filter(|pair| !same(*pair)).count();
    Ok(Outcome { report, seconds: 0.0, error: 2.0 * wrong as f64 })
}

pub fn cast_f16(device: &Device, code: &CodeObject) -> Result<Outcome, Error> {
    let mut random = random();
    let x: Vec<f32> = (0..1000).map(|_| (random.f32() - 0.5) * 2f32.powi(random.i32(-30..20))).collect();
    let addresses = [device.upload(&x), device.results::<f16>(x.len())];
    let arguments = pointers(&addresses).with(x.len() as u32);
    let report = device.launch(code, "cast_f32_f16", [4, 1, 1], [256, 1, 1], arguments)?;
    let found = device.download::<f16>(addresses[1], x.len());
    let wrong = x.iter().zip(&found).filter(|(x, y)| f16::from_f32(**x) != **y).count();
    Ok(Outcome { report, seconds: 0.0, error: 2.0 * wrong as f64 })
}

pub fn attention(device: &Device, code: &CodeObject) -> Result<Outcome, Error> {
    const WIDTH: usize = 64;
    let n = 128;
    let mut random = random();
    let inputs: [Vec<bf16>; 3] = std::array::from_fn(|_| uniform_bf16(&mut random, n * WIDTH));
    let [q, k, v] = inputs.each_ref().map(|values| doubles(values));
    let [q_at, k_at, v_at] = inputs.each_ref().map(|values| device.upload(values));
    let out = device.results::<bf16>(n * WIDTH);
    let scale = 0.125;
    let exponent_scale = (scale * std::f64::consts::LOG2_E) as f32;
    let arguments = pointers(&[q_at, k_at, v_at, out]).with(n as u32).with(exponent_scale);
    let report = device.launch(code, "attention", [n as u32 / 128, 1, 1], [256, 1, 1], arguments)?;
    let scores = product_nt(&q, &k, n, n, WIDTH);
    let mut expected = Vec::new();
    for row in scores.chunks_exact(n) {
        let weights: Vec<f64> = row.iter().map(|score| (score * scale).exp()).collect();
        let sum: f64 = weights.iter().sum();
        for column in 0..WIDTH {
            let total: f64 =
                weights.iter().enumerate().map(|(key, weight)| weight * v[key * WIDTH + column]).sum();
            expected.push(total / sum);
        }
    }
    let found = device.download::<bf16>(out, n * WIDTH);
    let error = largest_error(found.iter().map(|value| value.to_f64()), &expected);
    Ok(Outcome { report, seconds: 0.0, error: error / 4e-3 })
}

fn chain_32(device: &Device, code: &CodeObject) -> Result<Outcome, Error> {
    chain(device, code, "chain_32", 32, 8)
}

fn chain_16(device: &Device, code: &CodeObject) -> Result<Outcome, Error> {
    chain(device, code, "chain_16", 16, 16)
}

/// E = P (A B^T) with the inner product rounded to bf16; integers keep every step exact.
fn chain(device: &Device, code: &CodeObject, kernel: &str, n: usize, k: usize) -> Result<Outcome, Error> {
    let mut random = random();
    let mut small = |count: usize| -> Vec<bf16> {
        (0..count).map(|_| bf16::from_f32(random.i32(-3..=3) as f32)).collect()
    };
    let (a, b, p) = (small(n * k), small(n * k), small(n * n));
    let out = device.results::<f32>(n * n);
    let arguments = pointers(&[device.upload(&a), device.upload(&b), device.upload(&p), out]);
    let report = device.launch(code, kernel, [1, 1, 1], [64, 1, 1], arguments)?;
    let inner = product_nt(&doubles(&a), &doubles(&b), n, n, k);
    let transposed: Vec<f64> = (0..n * n).map(|at| inner[at % n * n + at / n]).collect();
    let expected = product_nt(&doubles(&p), &transposed, n, n, n);
    let found = device.download::<f32>(out, n * n);
    let error = largest_error(found.iter().map(|&value| f64::from(value)), &expected);
    Ok(Outcome { report, seconds: 0.0, error: 2.0 * error })
}

/// Workloads of gfx950 only.
pub const MODERN: &[(&str, &str, Workload)] = &[
    ("transposed LDS read", "modern.cpp", transpose),
    ("row swaps", "modern.cpp", swaps),
    ("block-scaled E2M1", "modern.cpp", mxfp4),
    ("block-scaled E4M3 and E5M2", "modern.cpp", mxfp8),
];

/// The outcome of a kernel whose result must be exact.
fn exact<T: PartialEq>(report: Report, found: &[T], expected: &[T]) -> Outcome {
    Outcome { report, seconds: 0.0, error: if found == expected { 0.0 } else { 2.0 } }
}

fn transpose(device: &Device, code: &CodeObject) -> Result<Outcome, Error> {
    let mut random = random();
    let x: Vec<u16> = (0..256).map(|_| random.u16(..)).collect();
    let y = device.results::<u16>(256);
    let report = device.launch(code, "transpose", [1; 3], [64, 1, 1], pointers(&[device.upload(&x), y]))?;
    let expected: Vec<u16> = (0..256).map(|at| x[at % 16 * 16 + at / 16]).collect();
    Ok(exact(report, &device.download::<u16>(y, 256), &expected))
}

fn swaps(device: &Device, code: &CodeObject) -> Result<Outcome, Error> {
    let (a, b): (Vec<u32>, Vec<u32>) = ((0..64).collect(), (100..164).collect());
    let y = device.results::<u32>(256);
    let arguments = pointers(&[device.upload(&a), device.upload(&b), y]);
    let report = device.launch(code, "swaps", [1; 3], [64, 1, 1], arguments)?;
    let mut expected = Vec::new();
    for size in [32, 16] {
        let (mut first, mut second) = (a.clone(), b.clone());
        for lane in (0..64).filter(|lane| lane / size % 2 == 0) {
            std::mem::swap(&mut first[lane + size], &mut second[lane]);
        }
        expected.extend([first, second].concat());
    }
    Ok(exact(report, &device.download::<u32>(y, 256), &expected))
}

/// The value of a small float without special patterns: sign, exponent, mantissa.
pub fn small_float(pattern: u8, exponent_bits: u32, mantissa_bits: u32) -> f64 {
    let bias = (1 << (exponent_bits - 1)) - 1;
    let exponent = i32::from(pattern >> mantissa_bits) & ((1 << exponent_bits) - 1);
    let mantissa = f64::from(pattern & ((1 << mantissa_bits) - 1)) / f64::from(1 << mantissa_bits);
    let negative = pattern >> (exponent_bits + mantissa_bits) & 1 == 1;
    let magnitude = if exponent == 0 {
        mantissa * 2f64.powi(1 - bias)
    } else {
        (1.0 + mantissa) * 2f64.powi(exponent - bias)
    };
    if negative { -magnitude } else { magnitude }
}

/// Random scale bytes around one, and the factors they stand for.
fn scales(random: &mut fastrand::Rng, count: usize) -> (Vec<u8>, Vec<f64>) {
    let bytes: Vec<u8> = (0..count).map(|_| random.u8(124..131)).collect();
    let factors = bytes.iter().map(|&byte| 2f64.powi(i32::from(byte) - 127)).collect();
    (bytes, factors)
}

/// Launches a block-scaled product of n x k matrices and compares with the product of the scaled values.
fn scaled_product(
    device: &Device,
    code: &CodeObject,
    kernel: &str,
    (n, k): (usize, usize),
    bytes: [Vec<u8>; 2],
    values: [Vec<f64>; 2],
) -> Result<Outcome, Error> {
    let mut random = random();
    let [(a_scale, a_factor), (b_scale, b_factor)] = std::array::from_fn(|_| scales(&mut random, n * k / 32));
    let out = device.results::<f32>(n * n);
    let addresses = [&bytes[0], &bytes[1], &a_scale, &b_scale].map(|bytes| device.upload(bytes));
    let arguments = pointers(&addresses).with(out);
    let report = device.launch(code, kernel, [1; 3], [64, 1, 1], arguments)?;
    let scaled = |values: &[f64], factors: &[f64]| -> Vec<f64> {
        values.iter().enumerate().map(|(at, value)| value * factors[at / 32]).collect()
    };
    let expected = product_nt(&scaled(&values[0], &a_factor), &scaled(&values[1], &b_factor), n, n, k);
    let found = device.download::<f32>(out, n * n);
    let largest = expected.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
    let error = largest_error(found.iter().map(|&value| f64::from(value)), &expected);
    Ok(Outcome { report, seconds: 0.0, error: error / (largest * 1e-5) })
}

fn mxfp4(device: &Device, code: &CodeObject) -> Result<Outcome, Error> {
    let mut random = random();
    let bytes: [Vec<u8>; 2] = std::array::from_fn(|_| (0..16 * 64).map(|_| random.u8(..)).collect());
    let values = bytes.each_ref().map(|bytes| {
        bytes
            .iter()
            .flat_map(|byte| [byte & 15, byte >> 4].map(|pattern| small_float(pattern, 2, 1)))
            .collect()
    });
    scaled_product(device, code, "mxfp4_16", (16, 128), bytes, values)
}

fn mxfp8(device: &Device, code: &CodeObject) -> Result<Outcome, Error> {
    let mut random = random();
    // Below the patterns that are no numbers.
    let mut draw =
        |limit: u8| -> Vec<u8> { (0..32 * 64).map(|_| random.u8(..limit) | random.u8(..2) << 7).collect() };
    let bytes = [draw(0x7f), draw(0x7c)];
    let decode = |bytes: &[u8], exponent, mantissa| {
        bytes.iter().map(|&b| small_float(b, exponent, mantissa)).collect()
    };
    let values = [decode(&bytes[0], 4, 3), decode(&bytes[1], 5, 2)];
    scaled_product(device, code, "mxfp8_32", (32, 64), bytes, values)
}
