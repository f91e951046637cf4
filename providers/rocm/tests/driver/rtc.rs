//! The run-time compiler over the stand-in for AMD's: units of the families are compiled, kept, loaded and run.

#[expect(dead_code, reason = "these tests copy with a kernel of their own")]
mod standin;

use std::path::Path;
use std::sync::Arc;

use standin::{download, open, upload};
use tenon_gpu::driver::{Arguments, Driver, LaunchConfig};
use tenon_gpu::{Compiler, Installation, Packs, Vendor};
use tenon_kernels::gpu::arch;
use tenon_plugin_api::provider::Score;
use tenon_provider_rocm::{Amd, Hip};

/// AMD's provider as a build without compiled kernels has it.
struct Bare;

impl Vendor for Bare {
    const NAME: &'static str = "rocm";
    const BUILD_INFO: &'static str = "without kernels";
    const VENDOR: arch::Vendor = arch::Vendor::Amd;
    const PACKS: Packs = Packs(&[]);

    type Driver = Hip;

    fn load() -> Result<Hip, String> {
        Hip::load()
    }

    fn compiler() -> Option<Arc<dyn Compiler>> {
        Amd::compiler()
    }
}

/// The same where no compiler is installed.
struct Alone;

impl Vendor for Alone {
    const NAME: &'static str = "rocm";
    const BUILD_INFO: &'static str = "without kernels and compiler";
    const VENDOR: arch::Vendor = arch::Vendor::Amd;
    const PACKS: Packs = Packs(&[]);

    type Driver = Hip;

    fn load() -> Result<Hip, String> {
        Hip::load()
    }
}

/// An MI355X and the stand-in compiler; `None`, saying so, where the build's compiler is not installed.
fn compiler() -> Option<(&'static Hip, Arc<dyn Compiler>)> {
    let program = std::env::current_exe().expect("a test has a path");
    // target/<profile>/deps/<test>
    let target = program.ancestors().nth(3).expect("tests are built into a target folder");
    let python = target.join("kernels/venv/bin/python");
    if !python.exists() {
        assert!(std::env::var_os("CI").is_none(), "{}: `cargo xtask kernels` comes first", python.display());
        eprintln!("skipped: no compiler of GPU kernels: run `cargo xtask kernels` once");
        return None;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/python/amdgcn.py");
    let words = std::env::join_paths([python, script]).expect("paths without colons");
    let words = words.to_str().expect("paths are UTF-8");
    let hip = open(&[("TENON_HIP_DEVICES", "MI355X"), ("TENON_HIPRTC_COMPILER", words)]);
    Some((hip, Amd::compiler().expect("the stand-in was built with the tests")))
}

#[test]
fn a_cast_compiled_at_run_time_computes() {
    let Some((hip, compiler)) = compiler() else { return };
    assert_eq!(compiler.identity(), "hiprtc 7.1");
    let family = arch::find("gfx950").unwrap();
    let units = family.units().unwrap();
    let unit = units.iter().find(|unit| unit.name == "cast__gfx950").unwrap();
    let text: String = unit.texts.iter().map(|part| part.text).collect();
    let image = compiler.compile(&unit.name, &text, &unit.defines, family.target).unwrap();

    let context = hip.open(0).unwrap();
    let queue = hip.queue(context).unwrap();
    let module = hip.load(context, &image).unwrap();
    let values: Vec<f32> = (0..1003).map(|at| at as f32 * 0.37 - 100.0).collect();
    let from = upload(hip, context, queue, &values);
    let to = hip.allocate(context, values.len() * 2).unwrap();
    let function = hip.function(context, module, "cast_f32_bf16__gfx950", 0).unwrap();
    let count = values.len() as u32;
    let mut bytes = [to.to_le_bytes(), from.to_le_bytes()].concat();
    bytes.extend(count.to_le_bytes());
    let args = Arguments { bytes: &bytes, places: &[(0, 8), (8, 8), (16, 4)] };
    let config = LaunchConfig {
        grid: [1, 1, 1],
        block: [256, 1, 1],
        cluster: [1, 1, 1],
        shared_bytes: 0,
        is_dependent: false,
    };
    // SAFETY: the arguments are the kernel's, and the memory holds as many elements.
    unsafe { hip.launch(context, function, &config, args, queue) }.unwrap();
    let found: Vec<u16> = download(hip, context, queue, to, values.len());
    // To nearest, ties to even: none of the values is one.
    let rounded = |v: f32| ((v.to_bits() + 0x7fff + (v.to_bits() >> 16 & 1)) >> 16) as u16;
    assert_eq!(found, values.into_iter().map(rounded).collect::<Vec<_>>());
}

#[test]
fn mistakes_and_unknown_targets_are_told_with_the_compilers_words() {
    let Some((_, compiler)) = compiler() else { return };
    let text = "extern \"C\" __attribute__((global)) void k(float* x) { x[0] = MISSING; }";
    let error = compiler.compile("unit", text, &[], "gfx950").unwrap_err();
    assert!(error.message.contains("unit.cu:1") && error.message.contains("MISSING"), "{error}");
    assert_eq!(error.provider_code, 6);
    assert!(compiler.compile("unit", text, &[], "gfx90a").is_err());
}

#[test]
fn a_build_without_kernels_serves_devices_where_the_compiler_is() {
    let Some(_) = compiler() else { return };
    let with = Installation::<Bare>::find().score();
    assert!(matches!(with, Score::Usable(_)), "{with:?}");
    let Score::Unusable(reason) = Installation::<Alone>::find().score() else { panic!("it has no kernels") };
    assert!(reason.contains("run-time compiler"), "{reason}");
}
