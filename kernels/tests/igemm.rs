//! 8-bit products are exact on every tier.

mod support;

use support::{Rng, for_each_context};
use tenon_kernels::cpu::Matrix;
use tenon_kernels::cpu::igemm::*;

const SHAPES: [[usize; 3]; 9] = [
    [1, 1, 1],
    [1, 70, 33],
    [2, 5, 3],
    [13, 32, 64],
    [15, 33, 65],
    [29, 100, 255],
    [100, 7, 90],
    [3, 16, 0],
    [1, 500, 401],
];

#[test]
fn sums_are_exact_for_all_signs_zero_points_and_layouts() {
    let mut rng = Rng::new(1);
    for [m, n, k] in SHAPES {
        // Every eighth byte is extreme, where saturating products would show.
        let mut extreme = |len: usize| {
            let mut bytes = rng.bytes(len);
            bytes.iter_mut().step_by(8).for_each(|v| *v = if *v & 1 == 0 { 0x80 } else { 0xff });
            bytes
        };
        let (a, b) = (extreme(m * k * 2 + 1), extreme(k * n));
        let signed = |bytes: &[u8]| bytes.iter().map(|&v| v as i8).collect::<Vec<i8>>();
        let (a_signed, b_signed) = (signed(&a), signed(&b));
        let zeros_a: Vec<i32> = (0..m).map(|_| rng.below(256) as i32 - 64).collect();
        let zeros_b: Vec<i32> = (0..n).map(|_| rng.below(256) as i32 - 64).collect();
        for form in 0..16 {
            let (ta, tb) = (form & 4 != 0, form & 8 != 0);
            let (rs, cs) = if ta { (2, 2 * m) } else { (k, 1) };
            let a_matrix = |i: usize, j: usize| i * rs + j * cs;
            let (brs, bcs) = if tb { (1, k) } else { (n, 1) };
            let zeros = match form % 3 {
                0 => ZeroPoints::default(),
                1 => ZeroPoints { a: &zeros_a[..1], b: &zeros_b[..1] },
                _ => ZeroPoints { a: &zeros_a, b: &zeros_b },
            };
            let zero = |zeros: &[i32], at: usize| {
                zeros.get(if zeros.len() == 1 { 0 } else { at }).copied().unwrap_or(0)
            };
            let value_a = |at: usize| if form & 1 == 0 { i32::from(a[at]) } else { i32::from(a_signed[at]) };
            let value_b = |at: usize| if form & 2 == 0 { i32::from(b[at]) } else { i32::from(b_signed[at]) };
            let mut expected = vec![0i32; m * n];
            for i in 0..m {
                for j in 0..n {
                    expected[i * n + j] = (0..k)
                        .map(|x| {
                            (value_a(a_matrix(i, x)) - zero(zeros.a, i))
                                * (value_b(x * brs + j * bcs) - zero(zeros.b, j))
                        })
                        .sum();
                }
            }
            let (scales_a, scales_b) = (vec![0.5f32; m], (0..n).map(|j| j as f32).collect::<Vec<f32>>());
            for_each_context(|ctx| {
                let lhs = if form & 1 == 0 {
                    ByteMatrix::Unsigned(Matrix {
                        data: &a,
                        rows: m,
                        cols: k,
                        row_stride: rs,
                        col_stride: cs,
                    })
                } else {
                    ByteMatrix::Signed(Matrix {
                        data: &a_signed,
                        rows: m,
                        cols: k,
                        row_stride: rs,
                        col_stride: cs,
                    })
                };
                let rhs = if form & 2 == 0 {
                    ByteMatrix::Unsigned(Matrix {
                        data: &b,
                        rows: k,
                        cols: n,
                        row_stride: brs,
                        col_stride: bcs,
                    })
                } else {
                    ByteMatrix::Signed(Matrix {
                        data: &b_signed,
                        rows: k,
                        cols: n,
                        row_stride: brs,
                        col_stride: bcs,
                    })
                };
                let packed = PackedBytes::pack(ctx, rhs).unwrap();
                let mut c = vec![i32::MIN; m * n];
                gemm_bytes(ctx, lhs, &packed, zeros, &mut c, n).unwrap();
                assert_eq!(c, expected, "{m}x{n}x{k} form {form} {:?}", ctx.features);
                let mut c = vec![f32::NAN; m * n];
                let scales = Dequantize { a: &scales_a, b: &scales_b, bias: &scales_b };
                gemm_bytes_f32(ctx, lhs, &packed, zeros, scales, &mut c, n).unwrap();
                for (at, (&c, &e)) in c.iter().zip(&expected).enumerate() {
                    let column = (at % n) as f32;
                    assert_eq!(c, e as f32 * (0.5 * column) + column);
                }
            });
        }
    }
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    for_each_context(|ctx| {
        let data = [0u8; 6];
        let a = ByteMatrix::Unsigned(Matrix::row_major(&data, 2, 3));
        let b = PackedBytes::pack(ctx, ByteMatrix::Unsigned(Matrix::row_major(&data, 3, 2))).unwrap();
        let none = ZeroPoints::default();
        assert!(gemm_bytes(ctx, a, &b, none, &mut [0; 3], 2).is_err(), "C too short");
        assert!(gemm_bytes(ctx, a, &b, ZeroPoints { a: &[1, 2, 3], b: &[] }, &mut [0; 4], 2).is_err());
        let wrong = ByteMatrix::Unsigned(Matrix::row_major(&data, 3, 2));
        assert!(gemm_bytes(ctx, wrong, &b, none, &mut [0; 6], 2).is_err(), "inner extents differ");
    });
}
