//! Kernels compiled from C++ run on the emulator: right results, and errors where a device would go wrong.

mod device;
mod instruction;
mod matrix;
mod memory;
mod mutation;
mod toolchain;
mod triton;
mod workload;

use device::Device;
use tenon_emulator::{Class, Target};

#[test]
fn compiled_kernels_agree_with_double_precision_references() {
    for target in Target::ALL {
        let modern: &[_] = if target == Target::Gfx950 { workload::MODERN } else { &[] };
        for (name, source, workload) in workload::ALL.iter().chain(modern) {
            let Some(code) = toolchain::compile(source, target) else { return };
            let outcome =
                workload(&Device::new(), &code).unwrap_or_else(|e| panic!("{name} {}: {e}", target.name()));
            assert!(
                outcome.is_right(),
                "{name} on {}: error {} of the tolerance",
                target.name(),
                outcome.error
            );
        }
    }
}

/// Prints how fast the emulator runs; the limit is generous, since machines and builds differ.
#[test]
fn a_matmul_of_256_runs_in_milliseconds() {
    for target in Target::ALL {
        let Some(code) = toolchain::compile("matmul.cpp", target) else { return };
        let mut device = Device::new();
        device.options.threads = 1;
        let mut best = f64::INFINITY;
        for _ in 0..5 {
            let outcome = workload::matmul_of(&device, &code, 256, 256, 256).expect("the kernel runs");
            assert!(outcome.is_right());
            best = best.min(outcome.seconds);
            assert!(outcome.report.count(Class::Matrix) > 0);
        }
        eprintln!("{}: 256 x 256 x 256 in {:.1} ms on one thread", target.name(), best * 1e3);
        assert!(best < 1.0, "{best} s");
    }
}

/// Far below what one processor reaches, since tests share theirs.
#[test]
fn vector_code_runs_at_millions_of_lane_instructions() {
    for target in Target::ALL {
        let Some(code) = toolchain::compile("row.cpp", target) else { return };
        let mut device = Device::new();
        device.options.threads = 1;
        let x = vec![0.5f32; 1 << 18];
        let addresses = [device.upload(&x), device.results::<u16>(x.len())];
        let arguments = device::pointers(&addresses).with(x.len() as u32);
        // The first launch decodes.
        let first = device::pointers(&addresses).with(x.len() as u32);
        device.launch(&code, "cast_f32_f16", [1; 3], [256, 1, 1], first).expect("it runs");
        let start = std::time::Instant::now();
        let report =
            device.launch(&code, "cast_f32_f16", [1 << 10, 1, 1], [256, 1, 1], arguments).expect("it runs");
        let rate = report.total() as f64 * 64.0 / start.elapsed().as_secs_f64() / 1e6;
        eprintln!("{}: {rate:.0} million lane-instructions a second on one thread", target.name());
        assert!(rate > 20.0, "{rate}");
    }
}

#[test]
fn a_report_counts_instructions_bytes_and_bank_conflicts() {
    for target in Target::ALL {
        let Some(code) = toolchain::compile("matmul.cpp", target) else { return };
        let mut device = Device::new();
        device.options.bank_conflicts = true;
        let report = workload::matmul_of(&device, &code, 128, 128, 128).expect("it runs").report;
        // Two tiles of K, four waves, four products of 32 x 32 each.
        let depth = if target == Target::Gfx942 { 8 } else { 16 };
        assert_eq!(report.count(Class::Matrix), 2 * 4 * 4 * 64 / depth);
        assert_eq!(report.count(Class::Barrier), 4 * 4);
        // A and B once, the result once.
        assert_eq!((report.bytes_read, report.bytes_written), (4 * 128 * 128, 2 * 128 * 128));
        assert!(report.lds_cycles > 0 && report.estimated_seconds(target) > 0.0);
        eprintln!(
            "{}: {} of {} LDS cycles are conflicts",
            target.name(),
            report.lds_conflict_cycles,
            report.lds_cycles
        );
    }
}
