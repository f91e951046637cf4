//! What the compiling script reads in listings for AMD GPUs: waits that are missing, and main loops.

use std::process::Output;
use std::sync::atomic::{AtomicUsize, Ordering};

use tenon_kernels::gpu::arch::Vendor;

use crate::compiler::Compiler;

const BARRIER: &str = include_str!("fixtures/barrier.s");
const LOOPS: &str = include_str!("fixtures/loops.s");

/// What a command of the script says of a listing.
pub fn ask(compiler: &Compiler, command: &str, listing: &str) -> Output {
    // Tests run side by side, in threads or in processes.
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let file = std::env::temp_dir().join(format!("listing_{}_{count}.s", std::process::id()));
    std::fs::write(&file, listing).expect("the temporary folder can be written");
    let output = compiler.script(Vendor::Amd).arg(command).arg(&file).output().expect("the script starts");
    std::fs::remove_file(&file).expect("it was just written");
    output
}

#[test]
fn a_barrier_ahead_of_the_wait_for_writes_to_lds_is_found() {
    let Some(compiler) = Compiler::find() else { return };
    let refused = |listing: &str| {
        let output = ask(&compiler, "waits", listing);
        (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).trim().to_owned())
    };
    let fault = "handed_on: `s_barrier` before the wait for writes to LDS".to_owned();
    assert_eq!(refused(BARRIER), Some(fault.clone()));
    let wait = "\ts_waitcnt lgkmcnt(0)\n";
    // Behind the write, or ahead of the barrier that the loop goes back to.
    for place in ["\ts_add_i32 s0", "\ts_barrier\n\tds_read_b32 v2, v1 offset:4\n\ts_waitcnt"] {
        assert_eq!(refused(&BARRIER.replacen(place, &format!("{wait}{place}"), 1)), None, "{place}");
    }
    // A wait that leaves one access under way, and one for other memory.
    for weak in ["\ts_waitcnt lgkmcnt(1)\n", "\ts_waitcnt vmcnt(0)\n"] {
        let listing = BARRIER.replacen("\ts_add_i32 s0", &format!("{weak}\ts_add_i32 s0"), 1);
        assert_eq!(refused(&listing), Some(fault.clone()), "{weak}");
    }
    // Reads may be under way.
    let reading = BARRIER.replace("ds_write_b32 v1, v2", "ds_read_b32 v3, v1");
    assert_eq!(refused(&reading), None);
}

#[test]
fn main_loops_are_natural_loops() {
    let Some(compiler) = Compiler::find() else { return };
    let output = ask(&compiler, "loop", LOOPS);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).expect("listings are text");
    let mut kernels: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in printed.lines() {
        match (line.strip_prefix("    "), kernels.last_mut()) {
            (Some(code), Some((_, loop_lines))) => {
                loop_lines.push(code.split(' ').next().expect("a mnemonic"))
            }
            _ => kernels.push((line, Vec::new())),
        }
    }
    const MATRIX: &str = "v_mfma_f32_16x16x16_f16";
    let counted = ["s_add_i32", "s_cmp_lg_u32", "s_cbranch_scc1"];
    let wanted = [
        // Both halves, and nothing of the ways out.
        (
            "scattered:",
            vec![
                MATRIX,
                "s_branch",
                "s_cmp_eq_u32",
                "s_cbranch_scc1",
                "s_branch",
                "s_add_i32",
                "s_cbranch_vccnz",
                "s_branch",
            ],
        ),
        // Once, not the outer loop's other instructions.
        ("nested:", [&[MATRIX], &counted[..]].concat()),
        ("crossed:", vec![]),
        ("plain:", vec!["v_add_u32_e32", "v_add_u32_e32", "s_cbranch_scc1"]),
    ];
    assert_eq!(kernels, wanted);
}
