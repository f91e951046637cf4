//! Matrix instructions of all types and shapes on raw registers, against the layouts of the ISA manuals.

use crate::device::{Device, Value, pointers};
use crate::toolchain;
use half::f16;
use tenon_emulator::{CodeObject, Target};

const LANES: usize = 64;

/// A shape: columns n, length k, independent blocks.
#[derive(Clone, Copy)]
struct Shape {
    n: usize,
    k: usize,
    blocks: usize,
}

impl Shape {
    /// Lane and element of A at a row and k, and of B at a column and k.
    fn input(self, block: usize, row: usize, k: usize) -> (usize, usize) {
        let elements = self.n * self.k * self.blocks / LANES;
        (row + self.n * (block + self.blocks * (k / elements)), k % elements)
    }

    /// Lane and register of C and D at a row and column.
    fn output(self, block: usize, row: usize, column: usize) -> (usize, usize) {
        match self.n {
            32 => (column + 32 * (row / 4 % 2), 16 * block + row / 8 * 4 + row % 4),
            16 => (column + 16 * (row / 4), 4 * block + row % 4),
            _ => (column + 4 * block, row),
        }
    }
}

/// Runs one instruction on random registers and compares every element of D with the sum it stands for.
fn check<A: Value, C: Value>(
    code: &CodeObject,
    kernel: &str,
    shape: Shape,
    mut draw: impl FnMut() -> A,
    (decode_a, decode_b): (impl Fn(A) -> f64, impl Fn(A) -> f64),
    (encode, decode): (impl Fn(f64) -> C, impl Fn(C) -> f64),
) {
    let Shape { n, k, blocks } = shape;
    let elements = n * k * blocks / LANES;
    let registers = n * n * blocks / LANES;
    let [a, b]: [Vec<A>; 2] = std::array::from_fn(|_| (0..LANES * elements).map(|_| draw()).collect());
    let c: Vec<C> = (0..LANES * registers).map(|at| encode((at % 17) as f64 - 8.0)).collect();
    let device = Device::new();
    let result = device.results::<C>(c.len());
    let addresses = [device.upload(&a), device.upload(&b), device.upload(&c), result];
    device
        .launch(code, kernel, [1; 3], [64, 1, 1], pointers(&addresses))
        .unwrap_or_else(|error| panic!("{kernel}: {error}"));
    let found = device.download::<C>(result, c.len());
    for block in 0..blocks {
        for row in 0..n {
            for column in 0..n {
                let at = |(lane, element): (usize, usize), count: usize| lane * count + element;
                let place = at(shape.output(block, row, column), registers);
                let sum: f64 = (0..k)
                    .map(|k| {
                        let left = a[at(shape.input(block, row, k), elements)];
                        decode_a(left) * decode_b(b[at(shape.input(block, column, k), elements)])
                    })
                    .sum();
                let (found, expected) = (decode(found[place]), decode(c[place]) + sum);
                let fine = (found - expected).abs() <= 1e-5 * expected.abs().max(100.0);
                assert!(
                    fine,
                    "{kernel} block {block} row {row} column {column}: {found}, expected {expected}"
                );
            }
        }
    }
}

const SINGLE: (fn(f64) -> f32, fn(f32) -> f64) = (|value| value as f32, |value| value as f64);

fn each_target(test: impl Fn(&CodeObject, Target)) {
    for target in Target::ALL {
        let Some(code) = toolchain::compile("instruction.cpp", target) else { return };
        test(&code, target);
    }
}

#[test]
fn single_and_half_matrices_of_all_shapes() {
    each_target(|code, _| {
        let single = |kernel, n, k, blocks| {
            let mut random = fastrand::Rng::new();
            let decode = |value: f32| f64::from(value);
            check(code, kernel, Shape { n, k, blocks }, move || random.f32() - 0.5, (decode, decode), SINGLE);
        };
        single("mfma_f32_32x32x2", 32, 2, 1);
        single("mfma_f32_16x16x4", 16, 4, 1);
        single("mfma_f32_16x16x1_4b", 16, 1, 4);
        single("mfma_f32_4x4x1_16b", 4, 1, 16);
        let half = |kernel, n, k, blocks| {
            let mut random = fastrand::Rng::new();
            let draw = move || f16::from_f32(random.f32() - 0.5);
            check(code, kernel, Shape { n, k, blocks }, draw, (f16::to_f64, f16::to_f64), SINGLE);
        };
        half("mfma_f16_32x32x4_2b", 32, 4, 2);
        half("mfma_f16_16x16x16", 16, 16, 1);
    });
}

#[test]
fn integer_matrices_are_exact() {
    each_target(|code, _| {
        for (kernel, n, k) in [("mfma_i8_32x32x16", 32, 16), ("mfma_i8_16x16x32", 16, 32)] {
            let mut random = fastrand::Rng::new();
            let decode = |byte: u8| f64::from(byte as i8);
            let output = (|value: f64| value as i32, |value: i32| f64::from(value));
            check(code, kernel, Shape { n, k, blocks: 1 }, move || random.u8(..), (decode, decode), output);
        }
    });
}

#[test]
fn eight_bit_float_matrices_use_the_formats_of_the_target() {
    each_target(|code, target| {
        let (fp8_bias, bf8_bias) = if target == Target::Gfx942 { (8, 16) } else { (7, 15) };
        let value = |pattern: u8, mantissa: u32, bias: i32| {
            let exponent = i32::from(pattern << 1 >> (mantissa + 1));
            let fraction = f64::from(pattern & ((1 << mantissa) - 1)) / f64::from(1 << mantissa);
            let scale = 2f64.powi(exponent.max(1) - bias);
            let magnitude = if exponent == 0 { fraction } else { 1.0 + fraction } * scale;
            if pattern >= 128 { -magnitude } else { magnitude }
        };
        let fp8 = |pattern: u8| value(pattern, 3, fp8_bias);
        let bf8 = |pattern: u8| value(pattern, 2, bf8_bias);
        // Magnitudes near one, so that sums of products stay comparable.
        let draw = |random: &mut fastrand::Rng| random.u8(0x30..0x44) | random.u8(..2) << 7;
        let mut random = fastrand::Rng::new();
        let shape = Shape { n: 32, k: 16, blocks: 1 };
        check(code, "mfma_fp8_32x32x16", shape, || draw(&mut random), (fp8, bf8), SINGLE);
        let shape = Shape { n: 16, k: 32, blocks: 1 };
        check(code, "mfma_fp8_16x16x32", shape, || draw(&mut random), (bf8, fp8), SINGLE);
    });
}

#[test]
fn double_matrices() {
    each_target(|code, _| {
        let mut random = fastrand::Rng::new();
        let mut draw = || -> Vec<f64> { (0..LANES).map(|_| random.f64() - 0.5).collect() };
        let (a, b) = (draw(), draw());
        let run = |kernel: &str, registers: usize| {
            let device = Device::new();
            let c = device.upload(&vec![0.25f64; LANES * registers]);
            let result = device.results::<f64>(LANES * registers);
            let arguments = pointers(&[device.upload(&a), device.upload(&b), c, result]);
            device.launch(code, kernel, [1; 3], [64, 1, 1], arguments).expect("the kernel runs");
            device.download::<f64>(result, LANES * registers)
        };
        // Row r of D lies in register r / 4 of the lanes 16 (r % 4) and on.
        let found = run("mfma_f64_16x16x4", 4);
        for (row, column) in (0..16).flat_map(|row| (0..16).map(move |column| (row, column))) {
            let sum: f64 = (0..4).map(|k| a[row + 16 * k] * b[column + 16 * k]).sum();
            let place = (column + 16 * (row % 4)) * 4 + row / 4;
            assert!((found[place] - sum - 0.25).abs() < 1e-12, "row {row} column {column}");
        }
        let found = run("mfma_f64_4x4x4", 1);
        for (lane, found) in found.into_iter().enumerate() {
            let (column, block, row) = (lane % 4, lane / 4 % 4, lane / 16);
            let sum: f64 = (0..4).map(|k| a[row + 4 * block + 16 * k] * b[column + 4 * block + 16 * k]).sum();
            assert!((found - sum - 0.25).abs() < 1e-12, "lane {lane}");
        }
    });
}
