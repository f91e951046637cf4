//! The gates of AMD's listings refuse what they are for.

use tenon_kernels::gpu::arch::Vendor;
use tenon_kernels::gpu::unit::{Kernel, Text, Unit};

use crate::compiler::Compiler;
use crate::fixture::{fixture, refusal};
use crate::kernel;
use crate::listing::ask;

const HIP: Text = Text {
    path: "arch/cdna/hip_primitives.h",
    text: include_str!("../../kernels/arch/cdna/hip_primitives.h"),
};
const FAMILIES: [&str; 2] = ["gfx942", "gfx950"];
/// LDS of the fixture `looped`.
const LOOPED_BYTES: u32 = 2048;

/// The fixture `looped` with its kernel's facts changed.
fn looped(change: &dyn Fn(&mut Kernel)) -> Unit {
    let mut kernel = kernel("looped", 256);
    change(&mut kernel);
    fixture(&[HIP], "looped", kernel)
}

#[test]
fn scratch_memory_fails_the_gate() {
    let Some(compiler) = Compiler::find() else { return };
    for family in FAMILIES {
        let log = refusal(&compiler, family, fixture(&[HIP], "scratch", kernel("scratch", 256)));
        assert!(log.contains("bytes of scratch") && log.contains("scratch_ in the machine code"), "{log}");
    }
}

#[test]
fn shared_memory_and_occupancy_are_what_the_planner_counts() {
    let Some(compiler) = Compiler::find() else { return };
    for family in FAMILIES {
        let refuse = |change: &dyn Fn(&mut Kernel)| refusal(&compiler, family, looped(change));
        let log = refuse(&|kernel| kernel.planned.static_shared_bytes = Some(LOOPED_BYTES + 256));
        assert!(log.contains("2048 bytes of LDS, the planner counts 2304"), "{log}");
        let log = refuse(&|kernel| kernel.shared_bytes = 160 << 10);
        assert!(log.contains("bytes of LDS do not fit"), "{log}");
        // Three workgroups of four waves fit in the LDS, not four.
        let a_third = if family == "gfx950" { 50 << 10 } else { 19 << 10 };
        let log = refuse(&|kernel| {
            (kernel.shared_bytes, kernel.planned.waves_per_simd) = (a_third, Some(4));
        });
        assert!(log.contains("3 waves a SIMD fit by LDS"), "{log}");
        let unit = looped(&|kernel| {
            kernel.planned.static_shared_bytes = Some(LOOPED_BYTES);
            (kernel.shared_bytes, kernel.planned.waves_per_simd) = (a_third, Some(3));
            kernel.required.push("v_mfma_f32_16x16x16");
            kernel.planned.loop_required.extend(["v_mfma_", "ds_read_b64", "s_barrier"]);
            kernel.planned.loop_forbidden.extend(["v_accvgpr", "vmcnt(7)"]);
        });
        let name = format!("accepted_{family}_{}", std::process::id());
        let family = tenon_kernels::gpu::arch::find(family).expect("the family exists");
        compiler.build(&name, family, &[unit]).unwrap_or_else(|log| panic!("{log}"));
    }
}

#[test]
fn mnemonics_of_the_main_loop_are_checked() {
    let Some(compiler) = Compiler::find() else { return };
    let refuse = |change: &dyn Fn(&mut Kernel)| refusal(&compiler, "gfx950", looped(change));
    let log = refuse(&|kernel| kernel.required.push("v_mfma_f32_16x16x32_bf16"));
    assert!(log.contains("no v_mfma_f32_16x16x32_bf16 in the machine code"), "{log}");
    // The results are stored behind the loop.
    let log = refuse(&|kernel| kernel.planned.loop_required.push("global_store"));
    assert!(log.contains("no global_store in the main loop"), "{log}");
    let log = refuse(&|kernel| kernel.planned.loop_forbidden.push("s_barrier"));
    assert!(log.contains("s_barrier in the main loop"), "{log}");
    let log = refuse(&|kernel| kernel.planned.prefetches = true);
    assert!(log.contains("vmcnt(0)") && log.contains("in a main loop that prefetches"), "{log}");
    let log = refuse(&|kernel| kernel.symbol.push('x'));
    assert!(log.contains("defines no such kernel"), "{log}");
}

#[test]
fn a_dropped_or_weakened_wait_is_found_in_the_listing() {
    let Some(compiler) = Compiler::find() else { return };
    let unit = looped(&|_| ());
    for family in FAMILIES {
        let folder = std::env::temp_dir().join(format!("waits_{family}_{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("the temporary folder can be written");
        let source = folder.join("looped.hip");
        let text: String = unit.texts.iter().map(|text| text.text).collect();
        std::fs::write(&source, text).expect("the temporary folder can be written");
        let listing = folder.join("looped.s");
        let mut command = compiler.script(Vendor::Amd);
        command.args(["check", "--arch", family, "--asm"]).arg(&listing).arg(&source);
        let output = command.output().expect("the script starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let sound = std::fs::read_to_string(&listing).expect("the listing was written");
        assert!(ask(&compiler, "waits", &sound).status.success());

        let lines: Vec<&str> = sound.lines().collect();
        let waiting = lines.iter().enumerate().filter(|(_, line)| line.contains("s_waitcnt"));
        let mut count = 0;
        for (at, wait) in waiting {
            if lines[at + 1].contains("s_barrier") {
                // Behind a write it guards memory; elsewhere there is nothing left to wait for.
                if lines[at - 1].contains("ds_write") {
                    let changed = [&lines[..at], &lines[at + 1..]].concat().join("\n");
                    let log = ask(&compiler, "waits", &changed).stderr;
                    let log = String::from_utf8_lossy(&log);
                    assert!(log.contains("`s_barrier` before the wait for writes"), "{family}: {log}");
                    count += 1;
                }
                continue;
            }
            for other in [None, wait.contains("vmcnt(0)").then(|| wait.replace("vmcnt(0)", "vmcnt(63)"))] {
                let mut changed = lines.clone();
                match &other {
                    None => drop(changed.remove(at)),
                    Some(weaker) => changed[at] = weaker,
                }
                let output = ask(&compiler, "waits", &changed.join("\n"));
                let log = String::from_utf8_lossy(&output.stderr).into_owned();
                if other.is_some() || wait.contains("vmcnt(0)") || wait.contains("lgkmcnt(0)") {
                    assert!(log.contains("before the wait for its load"), "{family} without `{wait}`: {log}");
                    count += 1;
                }
                if other.is_none() && !wait.contains("vmcnt(0)") {
                    break;
                }
            }
        }
        assert!(count >= 4, "{family}: {count} faults were planted");
        std::fs::remove_dir_all(&folder).expect("the folder is this test's");
    }
}
