//! Binaries of an independent compiler, which is meant for the hardware, give right results on the emulator.
//!
//! Runs where `TENON_TRITON_PYTHON` names a Python interpreter with triton 3.9.0 (`pip install triton==3.9.0`,
//! 286 MB); skipped elsewhere.

use crate::device::{Arguments, Device, largest_error, pointers, uniform_bf16};
use crate::workload::{product_nt, small_float};
use half::bf16;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use tenon_emulator::{CodeObject, Launch, Mutation, Target};

/// The folder with the compiled kernels; `None`, with the reason printed, without Triton.
fn folder() -> Option<&'static Path> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    let compile = || {
        let Some(python) = std::env::var_os("TENON_TRITON_PYTHON") else {
            eprintln!("skipped: TENON_TRITON_PYTHON names no interpreter with triton");
            return None;
        };
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("triton-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("the target folder can be written");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/triton_kernels.py");
        let output = Command::new(python).arg(script).arg(&folder).output().expect("the interpreter runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(folder)
    };
    FOLDER.get_or_init(compile).as_deref()
}

/// A compiled kernel with what its launches need.
struct Binary {
    code: CodeObject,
    symbol: String,
    dynamic_lds: u32,
    threads: u32,
}

impl Binary {
    fn open(name: &str, target: Target) -> Option<Binary> {
        let stem = folder()?.join(format!("{name}-{}", target.name()));
        let code = CodeObject::load(&std::fs::read(stem.with_extension("hsaco")).expect("it was compiled"));
        let about = std::fs::read_to_string(stem.with_extension("txt")).expect("it was compiled");
        let mut words = about.split_whitespace();
        let symbol = words.next().expect("a symbol").to_string();
        let mut number = || words.next().expect("a number").parse::<u32>().expect("a number");
        let (dynamic_lds, waves) = (number(), number());
        Some(Binary { code: code.expect("a code object"), symbol, dynamic_lds, threads: 64 * waves })
    }

    fn run(
        &self,
        device: &Device,
        grid: [u32; 3],
        arguments: Arguments,
    ) -> Result<(), tenon_emulator::Error> {
        // Two pointers to memory of the compiler's own follow; these kernels do not use it.
        let arguments = arguments.with(0u64).with(0u64).into_bytes();
        let launch = Launch { grid, block: [self.threads, 1, 1], dynamic_lds: self.dynamic_lds, arguments };
        let kernel = self.code.kernel(&self.symbol).expect("the kernel");
        kernel.launch(&device.memory, &launch, &device.options).map(|_| ())
    }
}

fn doubles(values: &[bf16]) -> Vec<f64> {
    values.iter().map(|value| value.to_f64()).collect()
}

/// The error of a product of 256 x 256 x 192, relative to the largest element.
fn matmul_error(device: &Device, binary: &Binary) -> f64 {
    let (m, n, k) = (256, 256, 192);
    let mut random = fastrand::Rng::new();
    let (a, b) = (uniform_bf16(&mut random, m * k), uniform_bf16(&mut random, k * n));
    let c = device.results::<bf16>(m * n);
    let arguments = pointers(&[device.upload(&a), device.upload(&b), c]);
    let arguments = arguments.with(m as u32).with(n as u32).with(k as u32);
    if let Err(error) = binary.run(device, [2, 2, 1], arguments) {
        eprintln!("{error}");
        return f64::INFINITY;
    }
    let b = doubles(&b);
    let transposed: Vec<f64> = (0..n * k).map(|at| b[at % k * n + at / k]).collect();
    let expected = product_nt(&doubles(&a), &transposed, m, n, k);
    let largest = expected.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
    largest_error(device.download::<bf16>(c, m * n).iter().map(|value| value.to_f64()), &expected) / largest
}

#[test]
fn its_matmul_is_right_and_notices_wrong_layouts() {
    for target in Target::ALL {
        let Some(binary) = Binary::open("matmul", target) else { return };
        let error = matmul_error(&Device::new(), &binary);
        assert!(error < 5e-3, "{}: {error}", target.name());
        let mut faults = vec![Mutation::RowOrder, Mutation::BarrierIgnored, Mutation::WaitIgnored];
        if target == Target::Gfx950 {
            faults.push(Mutation::TransposeIgnored);
        }
        for fault in faults {
            let mut device = Device::new();
            device.options.mutation = Some(fault);
            assert!(matmul_error(&device, &binary) > 5e-3, "{fault:?} on {}", target.name());
        }
    }
}

#[test]
fn its_softmax_is_right() {
    for target in Target::ALL {
        let Some(binary) = Binary::open("softmax", target) else { return };
        let (rows, n, device) = (2, 4000, Device::new());
        let x = uniform_bf16(&mut fastrand::Rng::new(), rows * n);
        let y = device.results::<bf16>(rows * n);
        let arguments = pointers(&[device.upload(&x), y]).with(n as u32);
        binary.run(&device, [rows as u32, 1, 1], arguments).unwrap_or_else(|error| panic!("{error}"));
        let mut expected = Vec::new();
        for row in doubles(&x).chunks(n) {
            let sum: f64 = row.iter().map(|value| value.exp()).sum();
            expected.extend(row.iter().map(|value| value.exp() / sum));
        }
        let error = largest_error(device.download::<bf16>(y, rows * n).iter().map(|v| v.to_f64()), &expected);
        assert!(error < 5e-6, "{}: {error}", target.name());
    }
}

#[test]
fn its_attention_reuses_results_as_operands() {
    for target in Target::ALL {
        let Some(binary) = Binary::open("attention", target) else { return };
        let (n, width, device) = (256, 64, Device::new());
        let mut random = fastrand::Rng::new();
        let inputs: [Vec<bf16>; 3] = std::array::from_fn(|_| uniform_bf16(&mut random, n * width));
        let out = device.results::<bf16>(n * width);
        let [q, k, v] = inputs.each_ref().map(|values| device.upload(values));
        let scale = (0.125 * std::f64::consts::LOG2_E) as f32;
        let arguments = pointers(&[q, k, v, out]).with(n as u32).with(scale);
        binary.run(&device, [2, 1, 1], arguments).unwrap_or_else(|error| panic!("{error}"));
        let [q, k, v] = inputs.each_ref().map(|values| doubles(values));
        let mut expected = Vec::new();
        for row in product_nt(&q, &k, n, n, width).chunks(n) {
            let weights: Vec<f64> = row.iter().map(|score| (score * 0.125).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for column in 0..width {
                expected.push((0..n).map(|key| weights[key] * v[key * width + column]).sum::<f64>() / sum);
            }
        }
        let error =
            largest_error(device.download::<bf16>(out, n * width).iter().map(|v| v.to_f64()), &expected);
        assert!(error < 4e-3, "{}: {error}", target.name());
    }
}

/// Formats that differ in width show how the k of both operands and of their scales lie.
#[test]
fn its_scaled_products_mix_formats() {
    for (left, right) in [("e2m1", "e2m1"), ("e4m3", "e5m2"), ("e4m3", "e2m1"), ("e2m1", "e4m3")] {
        let Some(binary) = Binary::open(&format!("{left}-{right}"), Target::Gfx950) else { return };
        let (n, k, device) = (64, 256, Device::new());
        let mut random = fastrand::Rng::new();
        let mut draw = |format: &str| -> (Vec<u8>, Vec<f64>) {
            let random_bytes = |random: &mut fastrand::Rng, count: usize, limit: u8| -> Vec<u8> {
                (0..count).map(|_| random.u8(..limit) | random.u8(..2) << 7).collect()
            };
            match format {
                "e2m1" => {
                    let bytes: Vec<u8> = (0..n * k / 2).map(|_| random.u8(..)).collect();
                    let values =
                        bytes.iter().flat_map(|byte| [byte & 15, byte >> 4].map(|p| small_float(p, 2, 1)));
                    (bytes.clone(), values.collect())
                }
                "e4m3" => {
                    let bytes = random_bytes(&mut random, n * k, 0x60);
                    (bytes.clone(), bytes.iter().map(|&byte| small_float(byte, 4, 3)).collect())
                }
                _ => {
                    let bytes = random_bytes(&mut random, n * k, 0x50);
                    (bytes.clone(), bytes.iter().map(|&byte| small_float(byte, 5, 2)).collect())
                }
            }
        };
        let (a, b) = (draw(left), draw(right));
        let mut scales = || -> Vec<u8> { (0..n * k / 32).map(|_| random.u8(120..134)).collect() };
        let (sa, sb) = (scales(), scales());
        let c = device.results::<f32>(n * n);
        let addresses = [&a.0, &b.0, &sa, &sb].map(|bytes| device.upload(bytes));
        let arguments = pointers(&addresses).with(c).with(n as u32).with(k as u32);
        binary.run(&device, [1; 3], arguments).unwrap_or_else(|error| panic!("{left} {right}: {error}"));
        let scaled = |values: &[f64], scales: &[u8]| -> Vec<f64> {
            values.iter().enumerate().map(|(at, v)| v * 2f64.powi(i32::from(scales[at / 32]) - 127)).collect()
        };
        let expected = product_nt(&scaled(&a.1, &sa), &scaled(&b.1, &sb), n, n, k);
        let largest = expected.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
        let found = device.download::<f32>(c, n * n);
        let error = largest_error(found.iter().map(|&value| f64::from(value)), &expected);
        assert!(error < 1e-5 * largest, "{left} {right}: {error} of {largest}");
    }
}
