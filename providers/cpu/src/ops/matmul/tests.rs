//! Products against float64 sums: shapes, types and quantised forms.

use crate::node::{Attribute, Node};
use crate::tensor::{DType, Tensor};
use crate::testing::{blank, node, random, run, run_with, tensor};

fn matmul() -> Node {
    node("", "MatMul", 13, &[], 1)
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.as_slice::<f32>().unwrap().iter().map(|&v| f64::from(v)).collect()
}

/// `a · b` of row-major matrices in f64.
fn product(a: &[f64], b: &[f64], m: usize, k: usize, n: usize) -> Vec<f64> {
    (0..m * n).map(|i| (0..k).map(|p| a[i / n * k + p] * b[p * n + i % n]).sum()).collect()
}

fn assert_close(got: &[f64], expected: &[f64]) {
    assert_eq!(got.len(), expected.len());
    for (index, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!(
            (got - expected).abs() <= 1e-4 * (1.0 + expected.abs()),
            "element {index}: {got} against {expected}"
        );
    }
}

#[test]
fn products_of_odd_shapes_agree_with_double_precision_packed_or_not() {
    for (m, k, n) in [(1, 1, 1), (1, 17, 33), (5, 3, 2), (31, 64, 47), (2, 0, 3), (0, 4, 3), (3, 4, 0)] {
        let (a, b) = (random(&[m, k]), random(&[k, n]));
        let expected = product(&values(&a), &values(&b), m, k, n);
        for constant in [false, true] {
            let y = run_with(&matmul(), &[Some(a.clone()), Some(b.clone())], &[false, constant]).unwrap();
            assert_eq!(y[0].dims(), [m, n]);
            assert_close(&values(&y[0]), &expected);
        }
    }
}

#[test]
fn vectors_and_batches_follow_numpy() {
    let shapes: [(&[usize], &[usize], &[usize]); 7] = [
        (&[3], &[3], &[]),
        (&[3], &[3, 2], &[2]),
        (&[4, 3], &[3], &[4]),
        (&[2, 1, 4, 3], &[5, 3, 2], &[2, 5, 4, 2]),
        (&[2, 4, 3], &[3, 2], &[2, 4, 2]),
        (&[3], &[2, 3, 4], &[2, 4]),
        (&[0, 4, 3], &[3, 2], &[0, 4, 2]),
    ];
    for (a, b, y) in shapes {
        let out = run(&matmul(), &[Some(random(a)), Some(random(b))]).unwrap();
        assert_eq!(out[0].dims(), y, "{a:?} {b:?}");
    }
    let (a, b) = (random(&[2, 1, 4, 3]), random(&[5, 3, 2]));
    let out = run(&matmul(), &[Some(a.clone()), Some(b.clone())]).unwrap();
    let (a, b, y) = (values(&a), values(&b), values(&out[0]));
    for i in 0..2 {
        for j in 0..5 {
            let expected = product(&a[i * 12..i * 12 + 12], &b[j * 6..j * 6 + 6], 4, 3, 2);
            assert_close(&y[(i * 5 + j) * 8..][..8], &expected);
        }
    }
}

#[test]
fn shapes_that_do_not_multiply_are_refused() {
    for (a, b) in [(&[2, 3][..], &[2, 3][..]), (&[], &[3]), (&[2, 2, 3], &[3, 3, 2])] {
        assert!(run(&matmul(), &[Some(random(a)), Some(random(b))]).is_err(), "{a:?} {b:?}");
    }
    assert!(run(&matmul(), &[Some(random(&[2, 2])), Some(blank(DType::F64, &[2, 2]))]).is_err());
}

#[test]
fn integer_products_wrap() {
    let a = tensor::<i32>(&[1, 2], &[i32::MAX, 2]);
    let b = tensor::<i32>(&[2, 1], &[2, 3]);
    let y = run(&matmul(), &[Some(a), Some(b)]).unwrap();
    assert_eq!(y[0].as_slice::<i32>().unwrap(), [4]);
}

#[test]
fn the_fused_product_adds_bias_and_residual_before_its_activation() {
    let attributes = [("activation", Attribute::String("Relu".into())), ("transB", Attribute::Int(1))];
    let fused = node("tenon", "FusedMatMul", 1, &attributes, 1);
    let (a, b) = (random(&[2, 3, 5]), random(&[4, 5]));
    for bias in [random(&[4]), random(&[1, 1, 4]), random(&[1]), random(&[2, 1, 4])] {
        let residual = random(&[2, 3, 4]);
        let inputs = [Some(a.clone()), Some(b.clone()), Some(bias.clone()), Some(residual.clone())];
        let y = run_with(&fused, &inputs, &[false, true]).unwrap();
        let (a, b, bias_values, residual) = (values(&a), values(&b), values(&bias), values(&residual));
        let expected: Vec<f64> = (0..24)
            .map(|i| {
                let (row, column) = (i / 4, i % 4);
                let sum: f64 = (0..5).map(|p| a[row * 5 + p] * b[column * 5 + p]).sum();
                let bias = match bias_values.len() {
                    1 => bias_values[0],
                    4 => bias_values[column],
                    _ => bias_values[row / 3 * 4 + column],
                };
                (sum + bias + residual[i]).max(0.0)
            })
            .collect();
        assert_close(&values(&y[0]), &expected);
    }
}

#[test]
fn gemm_scales_both_terms_and_broadcasts_c() {
    let attributes =
        [("alpha", Attribute::Float(0.5)), ("beta", Attribute::Float(2.0)), ("transA", Attribute::Int(1))];
    let gemm = node("", "Gemm", 13, &attributes, 1);
    let (a, b) = (random(&[5, 3]), random(&[5, 4]));
    for c in [random(&[3, 4]), random(&[4]), random(&[3, 1]), random(&[])] {
        let y = run(&gemm, &[Some(a.clone()), Some(b.clone()), Some(c.clone())]).unwrap();
        let (a, b, c_values) = (values(&a), values(&b), values(&c));
        let expected: Vec<f64> = (0..12)
            .map(|i| {
                let sum: f64 = (0..5).map(|p| a[p * 3 + i / 4] * b[p * 4 + i % 4]).sum();
                let c = match c.dims() {
                    [3, 4] => c_values[i],
                    [4] => c_values[i % 4],
                    [3, 1] => c_values[i / 4],
                    _ => c_values[0],
                };
                0.5 * sum + 2.0 * c
            })
            .collect();
        assert_close(&values(&y[0]), &expected);
    }
    assert!(run(&gemm, &[Some(a), Some(b), Some(random(&[2, 4]))]).is_err());
}

#[test]
fn integer_products_take_zero_points_by_row_and_column() {
    let matmul = node("", "MatMulInteger", 10, &[], 1);
    let a = tensor::<u8>(&[2, 3], &[1, 200, 3, 4, 5, 255]);
    let b = tensor::<i8>(&[3, 2], &[-128, 2, 3, -4, 5, 127]);
    let a_zero = tensor::<u8>(&[2], &[1, 100]);
    let b_zero = tensor::<i8>(&[2], &[-3, 7]);
    let inputs = [Some(a), Some(b), Some(a_zero), Some(b_zero)];
    let expected: Vec<i32> = {
        let (a, b) = ([[0, 199, 2], [-96, -95, 155]], [[-125, -5], [6, -11], [8, 120]]);
        (0..4).map(|i| (0..3).map(|p| a[i / 2][p] * b[p][i % 2]).sum()).collect()
    };
    for constant in [false, true] {
        let y = run_with(&matmul, &inputs, &[false, constant]).unwrap();
        assert_eq!(y[0].as_slice::<i32>().unwrap(), expected);
    }
    let short = [inputs[0].clone(), inputs[1].clone(), Some(tensor::<u8>(&[3], &[1, 2, 3]))];
    assert!(run(&matmul, &short).is_err());
}

#[test]
fn three_bit_weights_are_read_across_byte_borders() {
    let attributes = [("bits", 3), ("block_size", 16), ("K", 16), ("N", 1)]
        .map(|(name, value)| (name, Attribute::Int(value)));
    let matmul = node("com.microsoft", "MatMulNBits", 1, &attributes, 1);
    let codes: Vec<u8> = (0..16).map(|i| (i * 5 % 8) as u8).collect();
    let mut packed = [0u8; 6];
    for (i, &code) in codes.iter().enumerate() {
        for bit in 0..3 {
            packed[(i * 3 + bit) / 8] |= (code >> bit & 1) << ((i * 3 + bit) % 8);
        }
    }
    let a = random(&[2, 16]);
    let inputs =
        [Some(a.clone()), Some(tensor::<u8>(&[1, 1, 6], &packed)), Some(tensor::<f32>(&[1, 1], &[0.5]))];
    let y = run(&matmul, &inputs).unwrap();
    let weights: Vec<f64> = codes.iter().map(|&code| (f64::from(code) - 4.0) * 0.5).collect();
    assert_close(&values(&y[0]), &product(&values(&a), &weights, 2, 16, 1));
}
