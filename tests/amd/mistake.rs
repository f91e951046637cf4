//! Mistakes planted in the text of matrix products, each of which must be noticed on the emulator.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tenon_emulator::Mutation;
use tenon_kernels::gpu::matmul::{Activation, Element, Kind, Layout, Output, mfma};

use crate::harness::Machine;
use crate::matmul::{full_epilogue, odd_depth, problem, run};

/// Schedule, what the mistake is, the text and what stands there instead.
type Mistake = (mfma::Schedule, &'static str, &'static str, &'static str);

const MISTAKES: &[Mistake] = &[
    (
        mfma::Schedule::PingPong,
        "a dropped wait for loads",
        "if constexpr (outstanding(PHASE) < 63) wait_loads<outstanding(PHASE)>();",
        "",
    ),
    (
        mfma::Schedule::PingPong,
        "a wait for one load too few",
        "wait_loads<outstanding(PHASE)>()",
        "wait_loads<outstanding(PHASE) + 1>()",
    ),
    (
        mfma::Schedule::PingPong,
        "a dropped barrier behind the products",
        "        priority<0>();\n        wave_barrier();",
        "        priority<0>();",
    ),
    (
        mfma::Schedule::PingPong,
        "another swizzle for loads than for reads",
        "const u32 piece = lane % 8 ^ (row >> SWIZZLE_SHIFT & 7);",
        "const u32 piece = lane % 8 ^ (row >> SWIZZLE_SHIFT & 3);",
    ),
    (mfma::Schedule::PingPong, "tiles one row late", "scalar(row * BM)", "scalar(row * BM + 1)"),
    (
        mfma::Schedule::PingPong,
        "what lies behind K is multiplied",
        "if constexpr (CUT && PHASE == 1) cut(b_pieces[1], bytes);",
        "",
    ),
    (
        mfma::Schedule::Ring,
        "a dropped wait for the next step",
        "wait_loads<kOutstanding>();\n                wave_barrier();",
        "wave_barrier();",
    ),
    (
        mfma::Schedule::Ring,
        "a dropped barrier",
        "wait_loads<kOutstanding>();\n                wave_barrier();",
        "wait_loads<kOutstanding>();",
    ),
    (
        mfma::Schedule::Staged,
        "a dropped barrier behind the writes",
        "            load();\n            lds_barrier();",
        "            load();",
    ),
    (
        mfma::Schedule::Staged,
        "columns in another order than the end expects",
        "return (column & ~31u)",
        "return column",
    ),
    (mfma::Schedule::Stream, "waves do not wait for each other's sums", "        lds_barrier();", ""),
];

/// Mistakes with block scales: the element, then as above.
const BLOCK_MISTAKES: &[(Element, Mistake)] = &[
    (
        Element::MXFP4,
        (
            mfma::Schedule::PingPong,
            "the scales of a step's first part for all of it",
            "i % 2 + 2 * s);",
            "i % 2);",
        ),
    ),
    (
        Element::MXFP8,
        (mfma::Schedule::PingPong, "the other tile's scale", "j % 2 + 2 * s,", "(j + 1) % 2 + 2 * s,"),
    ),
    (
        Element::MXFP8,
        (
            mfma::Schedule::PingPong,
            "a wait that forgets the scales",
            "half == kA0 ? kLoadsA + kScaleLoads",
            "half == kA0 ? kLoadsA + kScaleLoads + 1",
        ),
    ),
    (
        Element::MXFP8,
        (mfma::Schedule::Ring, "scales that do not move along K", "        scales.advance();\n", ""),
    ),
    (
        Element::MXFP4,
        (
            mfma::Schedule::Ring,
            "nibbles of one operand exchanged",
            "pick(d, join(a), join(b)",
            "pick(d, (join(a) >> 4 & 0x0f0f0f0f) | (join(a) << 4 & 0xf0f0f0f0), join(b)",
        ),
    ),
    (
        Element::MXFP4,
        (
            mfma::Schedule::Stream,
            "every wave with the first step's scales",
            "extent, p, min(tile.first + wave, tile.end - 1)",
            "extent, p, tile.first",
        ),
    ),
];

/// A machine's candidate of a schedule, with a problem that uses everything it has.
fn is_noticed(machine: &Machine, params: &mfma::Params, kind: Kind) -> bool {
    let shape = [params.bm as usize + 3, params.bn as usize + 5, odd_depth(kind, params)];
    let mut problem = problem(kind, shape, 1, 2);
    problem.epilogue = full_epilogue(&problem, Activation::Relu);
    let plan = mfma::plan(machine.family.name, &problem, params, &machine.chip()).expect("a plan");
    let outcome = catch_unwind(AssertUnwindSafe(|| run(machine, "a mistake", &problem, &plan)));
    !matches!(outcome, Ok(Ok(_)))
}

/// The first candidate of a schedule for a layout, and a kind of it.
fn candidate(machine: &Machine, schedule: mfma::Schedule, layout: &str) -> Option<(mfma::Params, Kind)> {
    let table = mfma::table(machine.family.name).expect("the table is embedded");
    let kind = Kind::parse(&format!("bf16_bf16_bf16_{layout}")).expect("a kind");
    let mut usable = table.candidates.iter().filter(|candidate| candidate.kinds.contains(&kind));
    usable.find(|candidate| candidate.params.schedule == schedule).map(|found| (found.params, kind))
}

#[test]
fn every_mistake_with_block_scales_is_noticed() {
    let mut count = 0;
    for family in Machine::all().iter().map(|machine| machine.family) {
        for &(element, (schedule, what, from, to)) in BLOCK_MISTAKES {
            let kind = Kind { input: element, output: Output::F32, layout: Layout::NT };
            let table = mfma::table(family.name).expect("the table is embedded");
            let mut usable = table.candidates.iter().filter(|candidate| candidate.kinds.contains(&kind));
            let Some(found) = usable.find(|candidate| candidate.params.schedule == schedule) else {
                continue;
            };
            let mut machine = Machine::new(family).expect("there was one before");
            assert!(!is_noticed(&machine, &found.params, kind), "without a mistake, {element:?}");
            machine.plant(&found.params.symbol(family.name, kind), from, to);
            assert!(is_noticed(&machine, &found.params, kind), "{what}, {element:?} {}", schedule.name());
            count += 1;
        }
    }
    assert!(Machine::all().is_empty() || count == BLOCK_MISTAKES.len(), "{count} were planted");
}

#[test]
fn every_planted_mistake_is_noticed() {
    let mut planted = vec![false; MISTAKES.len()];
    for family in Machine::all().iter().map(|machine| machine.family) {
        for (&(schedule, what, from, to), planted) in MISTAKES.iter().zip(&mut planted) {
            let layout = if to == "return column" { "nn" } else { "nt" };
            let mut machine = Machine::new(family).expect("there was one before");
            let Some((params, kind)) = candidate(&machine, schedule, layout) else { continue };
            // Two stages have one barrier of these, and one family has each form.
            if from.contains("load();\n            lds_barrier") && params.stages == 2 {
                continue;
            }
            machine.plant(&params.symbol(family.name, kind), from, to);
            assert!(is_noticed(&machine, &params, kind), "{what}, {} on {}", schedule.name(), family.name);
            *planted = true;
        }
    }
    assert!(Machine::all().is_empty() || planted.iter().all(|planted| *planted), "{planted:?}");
}

/// Ignored waits and barriers of the machine, and other layouts of its matrix instructions.
#[test]
fn a_machine_with_faults_computes_no_product() {
    for fault in [Mutation::BarrierIgnored, Mutation::WaitIgnored, Mutation::RowOrder, Mutation::OperandOrder]
    {
        for mut machine in Machine::all() {
            machine.options.mutation = Some(fault);
            for schedule in mfma::Schedule::ALL {
                let Some((params, kind)) = candidate(&machine, schedule, "nt") else { continue };
                // Both operands of a stream come from registers in the same order.
                assert!(
                    is_noticed(&machine, &params, kind),
                    "{fault:?}, {} on {}",
                    schedule.name(),
                    machine.family.name
                );
            }
        }
    }
}
