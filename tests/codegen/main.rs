//! GPU kernels are compiled and their machine code is held to facts, with no GPU.
//!
//! The compiler is the pinned one of `tools/python/requirements-kernels.txt`; `cargo xtask kernels` installs it. Without it
//! the tests that compile say so and pass.

mod amd;
mod bank;
mod compiler;
mod fixture;
mod listing;

use compiler::Compiler;
use fixture::{fixture, refusal};
use tenon_kernels::gpu::unit::{Kernel, Planned, Text, Unit};
use tenon_kernels::gpu::{arch, matmul, pack};

const COMMON: Text = Text {
    path: "arch/nvidia/primitives.cuh",
    text: include_str!("../../kernels/arch/nvidia/primitives.cuh"),
};
const PRIMITIVES: Text =
    Text { path: "arch/sm90/primitives.cuh", text: include_str!("../../kernels/arch/sm90/primitives.cuh") };

fn kernel(symbol: &str, threads: u32) -> Kernel {
    Kernel {
        symbol: symbol.to_owned(),
        threads,
        shared_bytes: 0,
        required: Vec::new(),
        forbidden: Vec::new(),
        planned: Planned::default(),
    }
}

/// A unit of the matrix product that compiles quickly.
fn small_product() -> Unit {
    let units = matmul::units("sm90").expect("the table is tested");
    units.into_iter().find(|unit| unit.name.contains("bm64_bn8")).expect("a product for single tokens")
}

#[test]
fn units_and_symbols_of_a_family_are_unique_and_fit_its_chips() {
    for family in arch::all() {
        let units = family.units().expect("units are listed");
        let mut names: Vec<&str> = units.iter().map(|unit| unit.name.as_str()).collect();
        let mut symbols: Vec<&str> =
            units.iter().flat_map(|unit| &unit.kernels).map(|kernel| kernel.symbol.as_str()).collect();
        for list in [&mut names, &mut symbols] {
            let count = list.len();
            list.sort_unstable();
            list.dedup();
            assert_eq!(list.len(), count, "{}", family.name);
        }
        // Planners hold each launch to its chip; a kernel that fits none would never be chosen.
        let chips = family.chips().expect("chips are listed");
        for kernel in units.iter().flat_map(|unit| &unit.kernels) {
            assert!(chips.iter().any(|chip| kernel.shared_bytes <= chip.shared_bytes), "{}", kernel.symbol);
            assert!((1..=1024).contains(&kernel.threads), "{}", kernel.symbol);
        }
    }
}

#[test]
fn every_kernel_of_every_family_passes_its_gates() {
    let Some(compiler) = Compiler::find() else { return };
    for family in arch::all() {
        let units = family.units().expect("units are listed");
        let container = compiler.build(family.name, family, &units).unwrap_or_else(|log| panic!("{log}"));
        let pack = pack::parse(&container).expect("the container reads back");
        let wanted: Vec<&str> = units.iter().map(|unit| unit.name.as_str()).collect();
        let found: Vec<&str> = pack.units.iter().map(|unit| unit.name.as_str()).collect();
        assert_eq!(found, wanted);
        for (unit, packed) in units.iter().zip(&pack.units) {
            assert!(packed.raw_bytes > packed.stored.len(), "{} is not compressed", unit.name);
            let symbols: Vec<&str> = packed.kernels.iter().map(|kernel| kernel.symbol.as_str()).collect();
            assert_eq!(symbols, unit.kernels.iter().map(|kernel| kernel.symbol.as_str()).collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_serialised_matrix_pipeline_fails_the_gate() {
    let Some(compiler) = Compiler::find() else { return };
    let log =
        refusal(&compiler, "sm90", fixture(&[COMMON, PRIMITIVES], "serialised", kernel("serialised", 128)));
    assert!(log.contains("C7511"), "{log}");
}

#[test]
fn spills_fail_the_gate() {
    let Some(compiler) = Compiler::find() else { return };
    let log = refusal(&compiler, "sm90", fixture(&[], "spilling", kernel("spilling", 1024)));
    assert!(log.contains("bytes of spills") && log.contains("STL in the machine code"), "{log}");
}

#[test]
fn shared_memory_that_differs_from_the_planners_estimate_does_not_compile() {
    let Some(compiler) = Compiler::find() else { return };
    let mut unit = small_product();
    let define =
        unit.defines.iter_mut().find(|(name, _)| name == "SHARED_BYTES").expect("the planner's estimate");
    define.1 = "1024".to_owned();
    let log = refusal(&compiler, "sm90", unit);
    assert!(log.contains("the planner counts shared memory otherwise"), "{log}");
}

#[test]
fn mnemonics_and_symbols_are_checked_for_every_kernel() {
    let Some(compiler) = Compiler::find() else { return };
    let refuse = |change: &dyn Fn(&mut Kernel)| {
        let mut unit = small_product();
        change(&mut unit.kernels[0]);
        refusal(&compiler, "sm90", unit)
    };
    assert!(refuse(&|kernel| kernel.required.push("UTCHMMA")).contains("no UTCHMMA in the machine code"));
    assert!(refuse(&|kernel| kernel.forbidden.push("HGMMA")).contains("HGMMA in the machine code"));
    assert!(refuse(&|kernel| kernel.symbol.push('x')).contains("defines no such kernel"));
    assert!(refuse(&|kernel| kernel.threads = 4096).contains("do not fit"));
}
