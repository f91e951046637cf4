//! Products against a binary64 reference on every tier.

mod support;

use half::{bf16, f16};
use support::{Rng, Threads, assert_close, for_each_context};
use tenon_kernels::cpu::elementwise::Unary;
use tenon_kernels::cpu::gemm::*;
use tenon_kernels::cpu::{Context, Features, Float, Matrix};

const SHAPES: [[usize; 3]; 15] = [
    [4, 1030, 9],
    [1, 1, 1],
    [1, 33, 7],
    [1, 64, 130],
    [2, 5, 3],
    [3, 32, 1],
    [7, 17, 40],
    [14, 32, 64],
    [15, 33, 65],
    [16, 100, 9],
    [28, 31, 500],
    [29, 96, 801],
    [67, 130, 33],
    [100, 7, 450],
    [5, 16, 0],
];

fn reference(a: Matrix<'_, f32>, b: Matrix<'_, f32>) -> Vec<f64> {
    let mut c = vec![0.0; a.rows * b.cols];
    for i in 0..a.rows {
        for j in 0..b.cols {
            for k in 0..a.cols {
                let x = f64::from(a.data[i * a.row_stride + k * a.col_stride]);
                c[i * b.cols + j] += x * f64::from(b.data[k * b.row_stride + j * b.col_stride]);
            }
        }
    }
    c
}

/// A random matrix, row-major, transposed or with gaps.
fn operand<'a>(
    rng: &mut Rng,
    rows: usize,
    cols: usize,
    layout: usize,
    data: &'a mut Vec<f32>,
) -> Matrix<'a, f32> {
    let (row_stride, col_stride) = match layout {
        0 => (cols, 1),
        1 => (1, rows),
        2 => (cols + 3, 1),
        _ => (2 * cols + 1, 2),
    };
    *data = rng.floats(rows * row_stride + cols * col_stride + 1);
    Matrix { data, rows, cols, row_stride, col_stride }
}

#[test]
fn products_agree_for_all_layouts_packed_or_not() {
    let mut rng = Rng::new(1);
    for [m, n, k] in SHAPES {
        for layout in 0..4 {
            let (mut a_data, mut b_data) = (Vec::new(), Vec::new());
            let a = operand(&mut rng, m, k, layout, &mut a_data);
            let b = operand(&mut rng, k, n, (layout + m) % 4, &mut b_data);
            let expected = reference(a, b);
            for_each_context(|ctx| {
                let packed_b = PackedB::pack(ctx, b).unwrap();
                let packed_a = PackedA::pack(ctx, a).unwrap();
                for lhs in [Lhs::Plain(a), Lhs::Packed(&packed_a)] {
                    for rhs in [Rhs::Plain(b), Rhs::Packed(&packed_b)] {
                        let mut c = vec![f32::NAN; m * n];
                        gemm(ctx, lhs, rhs, &mut c, n, &Epilogue::default()).unwrap();
                        assert_close(&c, &expected, 1e-4, &format!("{m}x{n}x{k} {:?}", ctx.features.isa()));
                    }
                }
            });
        }
    }
}

#[test]
fn the_epilogue_scales_accumulates_adds_and_activates() {
    let mut rng = Rng::new(2);
    let acts = [Unary::Identity, Unary::Relu, Unary::Clip { min: -0.5, max: 0.7 }, Unary::Gelu, Unary::Tanh];
    for [m, n, k] in SHAPES {
        let (mut a_data, mut b_data) = (Vec::new(), Vec::new());
        let a = operand(&mut rng, m, k, 0, &mut a_data);
        let b = operand(&mut rng, k, n, 0, &mut b_data);
        let product = reference(a, b);
        let (rows, cols, full) = (rng.floats(m), rng.floats(n), rng.floats(m * n * 2));
        let residual = Addend { data: &full, row_stride: 2 * n, col_stride: 2, scale: 0.5 };
        let old = rng.floats(m * (n + 2));
        for (case, activation) in acts.into_iter().enumerate() {
            let bias =
                [Addend::per_row(&rows), Addend::per_column(&cols), Addend::scalar(&cols[..1])][case % 3];
            let beta = if case % 2 == 0 { 0.0 } else { 0.25 };
            let epilogue =
                Epilogue { alpha: 1.5, beta, bias: Some(bias), residual: Some(residual), activation };
            let expected: Vec<f64> = (0..m * n)
                .map(|at| {
                    let (i, j) = (at / n, at % n);
                    let bias = bias.data[i * bias.row_stride + j * bias.col_stride];
                    let mut v =
                        1.5 * product[at] + f64::from(bias) + 0.5 * f64::from(full[i * 2 * n + j * 2]);
                    v += f64::from(beta) * f64::from(old[i * (n + 2) + j]);
                    match activation {
                        Unary::Relu => v.max(0.0),
                        Unary::Clip { min, max } => v.clamp(f64::from(min), f64::from(max)),
                        Unary::Gelu => v * 0.5 * libm_erfc(-v / std::f64::consts::SQRT_2),
                        Unary::Tanh => v.tanh(),
                        _ => v,
                    }
                })
                .collect();
            for_each_context(|ctx| {
                let mut c = if beta == 0.0 { vec![f32::NAN; m * (n + 2)] } else { old.clone() };
                let before = c.clone();
                gemm(ctx, Lhs::Plain(a), Rhs::Plain(b), &mut c, n + 2, &epilogue).unwrap();
                let rows: Vec<f32> = (0..m).flat_map(|i| c[i * (n + 2)..i * (n + 2) + n].to_vec()).collect();
                assert_close(&rows, &expected, 1e-4, &format!("{m}x{n}x{k} case {case}"));
                for i in 0..m {
                    for gap in i * (n + 2) + n..(i + 1) * (n + 2) {
                        assert_eq!(
                            c[gap].to_bits(),
                            before[gap].to_bits(),
                            "the gap after row {i} was written"
                        );
                    }
                }
            });
        }
    }
}

/// erfc by its integral: a composite Simpson rule over the tail.
fn libm_erfc(x: f64) -> f64 {
    if x < 0.0 {
        return 2.0 - libm_erfc(-x);
    }
    let (steps, end) = (4000, x + 8.0);
    let h = (end - x) / f64::from(steps);
    let f = |t: f64| (-t * t).exp();
    let inner: f64 = (1..steps).map(|i| f(x + f64::from(i) * h) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
    (f(x) + inner + f(end)) * h / 3.0 * 2.0 / std::f64::consts::PI.sqrt()
}

fn half_products<T: Float>(tolerance: f64) {
    let mut rng = Rng::new(3);
    for [m, n, k] in SHAPES {
        let a: Vec<T> = rng.floats(m * k).into_iter().map(T::from_f32).collect();
        let b: Vec<T> = rng.floats(k * n).into_iter().map(T::from_f32).collect();
        let (a32, b32): (Vec<f32>, Vec<f32>) =
            (a.iter().map(|v| v.to_f32()).collect(), b.iter().map(|v| v.to_f32()).collect());
        let expected = reference(Matrix::row_major(&a32, m, k), Matrix::row_major(&b32, k, n));
        for_each_context(|ctx| {
            let (a, b) = (Matrix::row_major(&a, m, k), Matrix::row_major(&b, k, n));
            let packed = PackedB::pack(ctx, b).expect("arguments agree");
            for rhs in [Rhs::Plain(b), Rhs::Packed(&packed)] {
                let mut c = vec![T::from_f32(f32::NAN); m * n];
                gemm(ctx, Lhs::Plain(a), rhs, &mut c, n, &Epilogue::default()).expect("arguments agree");
                let c: Vec<f32> = c.iter().map(|v| v.to_f32()).collect();
                assert_close(&c, &expected, tolerance, &format!("{m}x{n}x{k}"));
            }
            let mut wide = vec![f32::NAN; m * n];
            gemm(ctx, Lhs::Plain(a), Rhs::Packed(&packed), &mut wide, n, &Epilogue::default())
                .expect("arguments agree");
            assert_close(&wide, &expected, 1e-4, &format!("{m}x{n}x{k} into f32"));
        });
    }
}

#[test]
fn half_precision_products_are_summed_in_f32_and_rounded_once() {
    half_products::<f16>(6e-4);
    half_products::<bf16>(5e-3);
}

#[test]
fn batches_broadcast_through_offsets() {
    let mut rng = Rng::new(4);
    let (m, n, k) = (9, 37, 21);
    let (a, b) = (rng.floats(3 * m * k), rng.floats(2 * k * n));
    let residual = rng.floats(6 * m * n);
    let mut batches = Vec::new();
    let mut expected = Vec::new();
    for i in 0..6 {
        let (pa, pb) = (i / 2 * m * k, i % 2 * k * n);
        batches.push(BatchOffsets { a: pa, b: pb, c: i * m * n, residual: i * m * n });
        let product = reference(Matrix::row_major(&a[pa..], m, k), Matrix::row_major(&b[pb..], k, n));
        expected.extend(product.iter().zip(&residual[i * m * n..]).map(|(p, &r)| p + f64::from(r)));
    }
    for_each_context(|ctx| {
        let mut c = vec![f32::NAN; 6 * m * n];
        let epilogue = Epilogue { residual: Some(Addend::full(&residual, n)), ..Epilogue::default() };
        let (a, b) = (Matrix::row_major(&a, m, k), Matrix::row_major(&b, k, n));
        gemm_batched(ctx, a, b, &mut c, n, &batches, &epilogue).unwrap();
        assert_close(&c, &expected, 1e-4, "batch");
    });
}

#[test]
fn threads_share_no_state() {
    let mut rng = Rng::new(5);
    let (m, n, k) = (131, 200, 777);
    let (a, b) = (rng.floats(m * k), rng.floats(k * n));
    let (a, b) = (Matrix::row_major(&a, m, k), Matrix::row_major(&b, k, n));
    let expected = reference(a, b);
    for features in support::tiers() {
        let pool = Threads(4);
        let ctx = Context::new(features, &pool);
        let mut c = vec![f32::NAN; m * n];
        gemm(ctx, Lhs::Plain(a), Rhs::Plain(b), &mut c, n, &Epilogue::default()).unwrap();
        assert_close(&c, &expected, 1e-3, "threads");
    }
}

#[test]
fn numbers_of_other_types_multiply_exactly() {
    let mut rng = Rng::new(6);
    for [m, n, k] in SHAPES {
        let a: Vec<i32> = (0..m * k).map(|_| rng.next() as i32).collect();
        let b: Vec<i32> = (0..k * n).map(|_| rng.next() as i32).collect();
        let mut expected = vec![0i32; m * n];
        for i in 0..m {
            for j in 0..n {
                expected[i * n + j] =
                    (0..k).fold(0, |s: i32, x| s.wrapping_add(a[i * k + x].wrapping_mul(b[x * n + j])));
            }
        }
        let (af, bf): (Vec<f64>, Vec<f64>) = (
            a.iter().map(|&v| f64::from(v % 1000)).collect(),
            b.iter().map(|&v| f64::from(v % 1000)).collect(),
        );
        for_each_context(|ctx| {
            let mut c = vec![-1; m * n];
            gemm_number(ctx, Matrix::row_major(&a, m, k), Matrix::row_major(&b, k, n), &mut c, n).unwrap();
            assert_eq!(c, expected);
            let mut c = vec![f64::NAN; m * n];
            gemm_number(ctx, Matrix::row_major(&af, m, k), Matrix::row_major(&bf, k, n), &mut c, n).unwrap();
            for i in 0..m {
                for j in 0..n {
                    let sum: f64 = (0..k).map(|x| af[i * k + x] * bf[x * n + j]).sum();
                    assert_eq!(c[i * n + j], sum, "integers below 2^53 sum exactly");
                }
            }
        });
    }
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let ctx = Context::serial(Features::detect());
    let data = [0.0f32; 6];
    let (a, b) = (Matrix::row_major(&data, 2, 3), Matrix::row_major(&data, 3, 2));
    let mut c = [0.0f32; 4];
    let plain = Epilogue::default();
    assert!(gemm(ctx, Lhs::Plain(a), Rhs::Plain(a), &mut c, 2, &plain).is_err(), "inner extents differ");
    assert!(gemm(ctx, Lhs::Plain(a), Rhs::Plain(b), &mut c[..3], 2, &plain).is_err(), "C too short");
    assert!(gemm(ctx, Lhs::Plain(a), Rhs::Plain(b), &mut c, 1, &plain).is_err(), "rows of C overlap");
    let long = Matrix { row_stride: usize::MAX, ..a };
    assert!(gemm(ctx, Lhs::Plain(long), Rhs::Plain(b), &mut c, 2, &plain).is_err(), "stride overflows");
    let bias = [0.0f32; 1];
    let short = Epilogue::with_bias(Addend::per_column(&bias));
    assert!(gemm(ctx, Lhs::Plain(a), Rhs::Plain(b), &mut c, 2, &short).is_err(), "bias too short");
    let twice = [BatchOffsets::default(); 2];
    assert!(gemm_batched(ctx, a, b, &mut c, 2, &twice, &plain).is_err(), "batches overlap in C");
}
