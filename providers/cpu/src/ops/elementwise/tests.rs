//! Elementwise operators against element-by-element references: shapes, element types, legacy broadcasting, in place.

use half::{bf16, f16};
use tenon_kernels::cpu::Features;
use tenon_kernels::parallel::Serial;

use crate::buffer::Pool;
use crate::error::{OpError, Result};
use crate::kernel::{Context, Machine, OutputMemory};
use crate::node::{Attribute, Node, ValueInfo};
use crate::shape;
use crate::tensor::{Bool, DType, Tensor};
use crate::testing::{blank, node, random, run, strings, tensor};

fn op(op_type: &str, version: u32, attributes: &[(&str, Attribute)]) -> Node {
    node("", op_type, version, attributes, 1)
}

fn run_one(node: &Node, inputs: &[Tensor]) -> Result<Tensor> {
    let inputs: Vec<Option<Tensor>> = inputs.iter().cloned().map(Some).collect();
    run(node, &inputs).map(|mut outputs| outputs.remove(0))
}

fn broadcast_reference(a: &Tensor, b: &Tensor, f: impl Fn(f32, f32) -> f32) -> (Vec<usize>, Vec<f32>) {
    let dims = shape::broadcast(a.dims(), b.dims()).unwrap();
    let strides = [a, b].map(|t| shape::broadcast_strides(t.dims(), &dims));
    let (x, y) = (a.as_slice::<f32>().unwrap(), b.as_slice::<f32>().unwrap());
    let own = shape::strides(&dims);
    let at = |index: usize, strides: &[usize]| -> usize {
        (0..dims.len()).map(|axis| index / own[axis] % dims[axis] * strides[axis]).sum()
    };
    let values =
        (0..dims.iter().product()).map(|i| f(x[at(i, &strides[0])], y[at(i, &strides[1])])).collect();
    (dims.to_vec(), values)
}

const SHAPES: [[&[usize]; 2]; 9] = [
    [&[3, 5, 7], &[3, 5, 7]],
    [&[2, 130, 3], &[3]],
    [&[17], &[40, 17]],
    [&[2, 3, 50], &[3, 1]],
    [&[2, 3, 50], &[2, 1, 50]],
    [&[4, 1, 6], &[1, 5, 1]],
    [&[33], &[]],
    [&[], &[]],
    [&[0, 4], &[4]],
];

#[test]
fn arithmetic_follows_broadcasting_for_every_float_type() {
    let operators: [(&str, fn(f32, f32) -> f32); 5] = [
        ("Add", |a, b| a + b),
        ("Sub", |a, b| a - b),
        ("Mul", |a, b| a * b),
        ("Div", |a, b| a / b),
        ("Max", f32::max),
    ];
    for (name, f) in operators {
        for [a, b] in SHAPES {
            let (a, b) = (random(a), random(b));
            let (dims, expected) = broadcast_reference(&a, &b, f);
            let y = run_one(&op(name, 14, &[]), &[a.clone(), b.clone()]).unwrap();
            assert_eq!(y.dims(), dims, "{name}");
            assert_eq!(y.as_slice::<f32>().unwrap(), expected, "{name} {a:?} {b:?}");
        }
    }
    let halves: Vec<f16> = (0..300).map(|i| f16::from_f32(i as f32 / 7.0)).collect();
    let y =
        run_one(&op("Add", 14, &[]), &[tensor(&[300], &halves), tensor(&[], &[f16::from_f32(0.1)])]).unwrap();
    for (y, x) in y.as_slice::<f16>().unwrap().iter().zip(&halves) {
        assert_eq!(*y, f16::from_f32(x.to_f32() + f16::from_f32(0.1).to_f32()));
    }
    let less =
        run_one(&op("Less", 13, &[]), &[tensor(&[2], &[bf16::ONE, bf16::ZERO]), tensor(&[1], &[bf16::ONE])]);
    assert_eq!(less.unwrap().as_slice::<Bool>().unwrap(), [Bool(0), Bool(1)]);
}

#[test]
fn integers_wrap_and_never_trap() {
    let a = tensor(&[4], &[i32::MIN, i32::MIN, 7, -7]);
    let b = tensor(&[4], &[-1, 0, 0, 3]);
    let all = |name: &str, attributes: &[(&str, Attribute)]| {
        let y = run_one(&op(name, 14, attributes), &[a.clone(), b.clone()]).unwrap();
        y.as_slice::<i32>().unwrap().to_vec()
    };
    assert_eq!(all("Div", &[]), [i32::MIN, 0, 0, -2]);
    assert_eq!(all("Mod", &[]), [0, 0, 0, 2]);
    assert_eq!(all("Mod", &[("fmod", Attribute::Int(1))]), [0, 0, 0, -1]);
    assert_eq!(all("Add", &[])[0], i32::MAX);
    let shifted = run_one(
        &op("BitShift", 28, &[("direction", Attribute::String("RIGHT".into()))]),
        &[tensor(&[3], &[-8i8, 100, -1]), tensor(&[3], &[1i8, 9, -3])],
    );
    assert_eq!(shifted.unwrap().as_slice::<i8>().unwrap(), [-4, 0, -1]);
    let power = run_one(&op("Pow", 15, &[]), &[tensor(&[3], &[-2i32, 3, 2]), tensor(&[3], &[3i64, 0, -1])]);
    assert_eq!(power.unwrap().as_slice::<i32>().unwrap(), [-8, 1, 0]);
}

#[test]
fn broadcasting_before_opset_7_places_the_second_operand_at_an_axis() {
    let (a, b) = (random(&[2, 3, 4]), random(&[3]));
    let attributes = [("broadcast", Attribute::Int(1)), ("axis", Attribute::Int(1))];
    let y = run_one(&op("Add", 6, &attributes), &[a.clone(), b.clone()]).unwrap();
    let (_, expected) = broadcast_reference(&a, &b.clone().reshaped(&[3, 1]).unwrap(), |a, b| a + b);
    assert_eq!(y.as_slice::<f32>().unwrap(), expected);
    let misplaced = [("broadcast", Attribute::Int(1)), ("axis", Attribute::Int(2))];
    assert!(run_one(&op("Add", 6, &misplaced), &[a.clone(), random(&[3, 4])]).is_err());
    let slopes = run_one(&op("PRelu", 6, &[]), &[a.clone(), b.clone()]).unwrap();
    let (_, expected) =
        broadcast_reference(
            &a,
            &b.reshaped(&[3, 1]).unwrap(),
            |x, slope| if x < 0.0 { x * slope } else { x },
        );
    assert_eq!(slopes.as_slice::<f32>().unwrap(), expected);
}

#[test]
fn mismatched_operands_are_errors() {
    for (a, b) in [(random(&[2, 3]), random(&[2])), (random(&[2]), tensor(&[2], &[1i32, 2]))] {
        for name in ["Add", "Less", "Max"] {
            assert!(run_one(&op(name, 14, &[]), &[a.clone(), b.clone()]).is_err(), "{name}");
        }
    }
    assert!(run_one(&op("Not", 1, &[]), &[random(&[2])]).is_err());
    assert!(run_one(&op("Exp", 13, &[]), &[tensor(&[1], &[1i64])]).is_err());
    assert!(run_one(&op("Where", 16, &[]), &[blank(DType::Bool, &[2]), random(&[3]), random(&[3])]).is_err());
}

#[test]
fn where_picks_elements_of_every_width() {
    let flags = tensor(&[2, 1], &[Bool(1), Bool(0)]);
    let wide = run_one(&op("Where", 16, &[]), &[flags.clone(), random(&[3]), random(&[2, 3])]).unwrap();
    assert_eq!(wide.dims(), [2, 3]);
    let bytes = [flags.clone(), tensor(&[3], &[1u8, 2, 3]), tensor(&[], &[9u8])];
    let picked = run_one(&op("Where", 16, &[]), &bytes).unwrap();
    assert_eq!(picked.as_slice::<u8>().unwrap(), [1, 2, 3, 9, 9, 9]);
    let texts = [flags, strings(&[1, 2], &["a", "b"]), strings(&[], &["z"])];
    let same = run_one(&op("Where", 16, &[]), &texts).unwrap();
    let expected = strings(&[2, 2], &["a", "b", "z", "z"]);
    assert_eq!(same.as_bytes(), expected.as_bytes());
}

struct Anywhere;

impl OutputMemory for Anywhere {
    fn is_external(&self, _index: usize) -> bool {
        false
    }

    fn allocate(&self, _index: usize, _dtype: DType, _dims: &[usize], _bytes: usize) -> Result<*mut u8> {
        Err(OpError::invalid("no output is external"))
    }
}

/// Runs a kernel that owns its inputs, so that it may compute in place.
fn run_owned(node: &Node, inputs: Vec<Tensor>) -> (Tensor, bool) {
    let described =
        inputs.iter().map(|t| Some(ValueInfo { dtype: t.dtype(), ..ValueInfo::default() })).collect();
    let kernel = crate::ops::build(&Node { inputs: described, ..node.clone() }).unwrap();
    let addresses: Vec<*const u8> = inputs.iter().map(Tensor::as_ptr).collect();
    let machine = Machine { parallel: &Serial, features: Features::detect() };
    let pool = Pool::new();
    let mut inputs: Vec<Option<Tensor>> = inputs.into_iter().map(Some).collect();
    let mut outputs = Vec::new();
    let mut cx = Context {
        inputs: &mut inputs,
        outputs: &mut outputs,
        wanted: 1,
        pool: &pool,
        machine: &machine,
        memory: &Anywhere,
    };
    kernel.run(&mut cx).unwrap();
    let output = outputs.remove(0).unwrap();
    let reused = addresses.contains(&output.as_ptr());
    (output, reused)
}

#[test]
fn computing_in_place_gives_the_same_values() {
    let shapes: [[&[usize]; 2]; 5] =
        [[&[3, 37], &[3, 37]], [&[3, 37], &[37]], [&[37], &[3, 37]], [&[3, 37], &[]], [&[3, 37], &[3, 1]]];
    for name in ["Add", "Sub", "Mul", "Div", "Min", "Max"] {
        for [a, b] in shapes {
            let (a, b) = (random(a), random(b));
            let expected = run_one(&op(name, 14, &[]), &[a.clone(), b.clone()]).unwrap();
            let copies = vec![
                tensor(a.dims(), a.as_slice::<f32>().unwrap()),
                tensor(b.dims(), b.as_slice::<f32>().unwrap()),
            ];
            let (y, reused) = run_owned(&op(name, 14, &[]), copies);
            assert_eq!(
                y.as_slice::<f32>().unwrap(),
                expected.as_slice::<f32>().unwrap(),
                "{name} {a:?} {b:?}"
            );
            assert!(reused || a.dims() == [37], "{name} {a:?} {b:?} did not reuse memory");
        }
    }
    for name in ["Relu", "Sigmoid", "Exp", "Neg"] {
        let x = random(&[1003]);
        let expected = run_one(&op(name, 14, &[]), std::slice::from_ref(&x)).unwrap();
        let (y, reused) = run_owned(&op(name, 14, &[]), vec![tensor(&[1003], x.as_slice::<f32>().unwrap())]);
        assert_eq!(y.as_slice::<f32>().unwrap(), expected.as_slice::<f32>().unwrap(), "{name}");
        assert!(reused);
    }
}

#[test]
fn functions_agree_with_double_precision() {
    let functions: [(&str, fn(f64) -> f64); 12] = [
        ("Exp", f64::exp),
        ("Tanh", f64::tanh),
        ("Sigmoid", |x| 1.0 / (1.0 + (-x).exp())),
        ("Erf", libm::erf),
        ("Softplus", |x| x.exp().ln_1p()),
        ("Softsign", |x| x / (1.0 + x.abs())),
        ("HardSwish", |x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0)),
        ("Mish", |x| x * x.exp().ln_1p().tanh()),
        ("Gelu", |x| 0.5 * x * (1.0 + libm::erf(x / 2f64.sqrt()))),
        ("Atan", f64::atan),
        ("Atanh", |x| 0.5 * ((1.0 + x) / (1.0 - x)).ln()),
        ("Elu", |x| if x < 0.0 { x.exp_m1() } else { x }),
    ];
    for (name, f) in functions {
        let x = random(&[517]);
        let y = run_one(&op(name, 22, &[]), std::slice::from_ref(&x)).unwrap();
        for (&x, &y) in x.as_slice::<f32>().unwrap().iter().zip(y.as_slice::<f32>().unwrap()) {
            let expected = f(f64::from(x));
            let error = (f64::from(y) - expected).abs();
            assert!(error <= 4e-6 * expected.abs().max(0.1), "{name}({x}) = {y}, expected {expected}");
        }
    }
}
