//! Products with block-quantised weights against a binary64 reference on every tier.

mod support;

use support::{Rng, assert_close, for_each_context};
use tenon_kernels::cpu::elementwise::Unary;
use tenon_kernels::cpu::nbits::*;

struct Case {
    bits: u32,
    block: usize,
    n: usize,
    k: usize,
    codes: Vec<u8>,
    scales: Vec<f32>,
    packed_zeros: Vec<u8>,
    float_zeros: Vec<f32>,
}

impl Case {
    fn new(rng: &mut Rng, bits: u32, block: usize, n: usize, k: usize) -> Self {
        let blocks = k.div_ceil(block);
        Self {
            bits,
            block,
            n,
            k,
            codes: rng.bytes(n * blocks * block * bits as usize / 8),
            scales: rng.floats(n * blocks),
            packed_zeros: rng.bytes(n * (blocks * bits as usize).div_ceil(8)),
            float_zeros: (0..n * blocks).map(|_| rng.uniform(0.0, 12.0)).collect(),
        }
    }

    fn weights(&self, form: usize) -> BlockWeights<'_> {
        let zero_points = match form {
            0 => None,
            1 => Some(BlockZeros::Packed(&self.packed_zeros)),
            _ => Some(BlockZeros::Float(&self.float_zeros)),
        };
        let Case { bits, block, n, k, .. } = *self;
        BlockWeights { bits, block, n, k, codes: &self.codes, scales: &self.scales, zero_points }
    }

    fn value(&self, form: usize, row: usize, at: usize) -> f64 {
        let (bits, blocks) = (self.bits as usize, self.k.div_ceil(self.block));
        let read = |bytes: &[u8], index: usize| {
            u32::from(bytes[index * bits / 8]) >> (index * bits % 8) & ((1 << bits) - 1)
        };
        let code = read(&self.codes[row * blocks * self.block * bits / 8..], at);
        let block = at / self.block;
        let zero = match form {
            0 => f64::from(1u32 << (bits - 1)),
            1 => f64::from(read(&self.packed_zeros[row * (blocks * bits).div_ceil(8)..], block)),
            _ => f64::from(self.float_zeros[row * blocks + block]),
        };
        (f64::from(code) - zero) * f64::from(self.scales[row * blocks + block])
    }
}

#[test]
fn products_agree_for_all_widths_zero_points_and_row_counts() {
    let mut rng = Rng::new(1);
    for (bits, block, n, k) in [
        (4, 32, 70, 100),
        (4, 16, 33, 16),
        (4, 128, 5, 700),
        (2, 32, 40, 96),
        (2, 64, 7, 130),
        (8, 32, 50, 75),
        (8, 16, 33, 40),
    ] {
        let case = Case::new(&mut rng, bits, block, n, k);
        for form in 0..3 {
            let values: Vec<f64> = (0..n * k).map(|i| case.value(form, i / k, i % k)).collect();
            for m in [1, 2, 3, 4, 5, 17] {
                let (a, bias) = (rng.floats(m * k), rng.floats(n));
                let size = k as f64 * f64::from(1u32 << bits);
                let expected: Vec<f64> = (0..m * n)
                    .map(|at| {
                        let (i, j) = (at / n, at % n);
                        let sum: f64 = (0..k).map(|x| f64::from(a[i * k + x]) * values[j * k + x]).sum();
                        (sum + f64::from(bias[j])).max(0.0)
                    })
                    .collect();
                for_each_context(|ctx| {
                    let weights = case.weights(form);
                    let mut all = vec![f32::NAN; n * k];
                    weights.dequantize(ctx, &mut all).unwrap();
                    assert_close(&all, &values, 1e-6, "decoded weights");
                    let packed = PackedBlocks::pack(ctx, &weights).unwrap();
                    let mut c = vec![f32::NAN; m * n];
                    matmul_blocks(ctx, &a, m, &packed, Some(&bias), Unary::Relu, &mut c).unwrap();
                    let what =
                        format!("{bits} bits, block {block}, form {form}, {m} rows, {:?}", ctx.features);
                    assert_close(&c, &expected, 1e-6 * size.sqrt(), &what);
                    c.fill(f32::NAN);
                    let int8 = Activations::Int8;
                    matmul_blocks_with(ctx, int8, &a, m, &packed, Some(&bias), Unary::Relu, &mut c).unwrap();
                    // Rows are rounded to 1/254 of their largest value: errors add up as a random walk.
                    assert_close(&c, &expected, 0.004 * size.sqrt() * f64::from(1u32 << bits).sqrt(), &what);
                });
            }
        }
    }
}

#[test]
fn integer_rows_that_are_exact_give_exact_products() {
    let mut rng = Rng::new(2);
    let mut case = Case::new(&mut rng, 4, 32, 64, 256);
    case.scales.fill(1.0);
    let m = 13;
    // Every block holds 127, so its scale is one and nothing is rounded.
    let a: Vec<f32> =
        (0..m * 256).map(|i| if i % 32 == 0 { 127.0 } else { rng.below(255) as f32 - 127.0 }).collect();
    for_each_context(|ctx| {
        let packed = PackedBlocks::pack(ctx, &case.weights(1)).unwrap();
        let mut c = vec![f32::NAN; m * 64];
        matmul_blocks_with(ctx, Activations::Int8, &a, m, &packed, None, Unary::Identity, &mut c).unwrap();
        for (at, &c) in c.iter().enumerate() {
            let (i, j) = (at / 64, at % 64);
            let sum: f64 = (0..256).map(|x| f64::from(a[i * 256 + x]) * case.value(1, j, x)).sum();
            assert_eq!(f64::from(c), sum);
        }
    });
}

#[test]
fn malformed_weights_are_refused() {
    let mut rng = Rng::new(3);
    let case = Case::new(&mut rng, 4, 32, 4, 64);
    for_each_context(|ctx| {
        let good = case.weights(0);
        assert!(PackedBlocks::pack(ctx, &good).is_ok());
        assert!(PackedBlocks::pack(ctx, &BlockWeights { bits: 3, ..good }).is_err());
        assert!(PackedBlocks::pack(ctx, &BlockWeights { block: 24, ..good }).is_err());
        assert!(PackedBlocks::pack(ctx, &BlockWeights { k: 65, ..good }).is_err());
        assert!(PackedBlocks::pack(ctx, &BlockWeights { scales: &[], ..good }).is_err());
    });
}
