//! Mistakes planted in the text of matrix products, each of which must be noticed on the emulator.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tenon_emulator::Mutation;
use tenon_kernels::gpu::matmul::{Activation, Kind, Output, mfma};

use crate::harness::Machine;
use crate::matmul::{full_epilogue, odd_depth, problem, run};

const PLAIN: &str = "bf16_bf16_bf16_nt";

/// A row of `mistakes.toml`.
struct Mistake {
    schedule: mfma::Schedule,
    kind: Kind,
    stages: Option<u32>,
    phases: Option<u32>,
    what: String,
    from: String,
    to: String,
}

fn mistakes() -> Vec<Mistake> {
    let rows: toml::Table = toml::from_str(include_str!("mistakes.toml")).expect("the table is TOML");
    let rows = rows["mistake"].as_array().expect("rows of mistakes");
    let text =
        |row: &toml::Value, key: &str| row.get(key).map(|text| text.as_str().expect("a text").to_owned());
    let number =
        |row: &toml::Value, key: &str| row.get(key).map(|value| value.as_integer().expect("a number") as u32);
    let read = |row: &toml::Value| Mistake {
        schedule: schedule(&text(row, "schedule").expect("each has one")),
        kind: Kind::parse(text(row, "kind").as_deref().unwrap_or(PLAIN)).expect("a kind"),
        stages: number(row, "stages"),
        phases: number(row, "phases"),
        what: text(row, "what").expect("each has one"),
        from: text(row, "from").expect("each has one"),
        to: text(row, "to").expect("each has one"),
    };
    rows.iter().map(read).collect()
}

fn schedule(name: &str) -> mfma::Schedule {
    let mut all = mfma::Schedule::ALL.into_iter();
    all.find(|schedule| schedule.name() == name).unwrap_or_else(|| panic!("no schedule {name}"))
}

/// A machine's candidate of a schedule, with a problem that uses everything it has.
fn is_noticed(machine: &Machine, params: &mfma::Params, kind: Kind) -> bool {
    let shape = [params.bm as usize + 3, params.bn as usize + 5, odd_depth(kind, params)];
    let mut problem = problem(kind, shape, 1, 2);
    if kind.output != Output::I32 {
        problem.epilogue = full_epilogue(&problem, Activation::Relu);
    }
    let plan = mfma::plan(machine.family.name, &problem, params, &machine.chip()).expect("a plan");
    let outcome = catch_unwind(AssertUnwindSafe(|| run(machine, "a mistake", &problem, &plan)));
    !matches!(outcome, Ok(Ok(_)))
}

/// The first candidate of a schedule for a kind that `is_meant` holds of.
fn candidate(
    machine: &Machine,
    schedule: mfma::Schedule,
    kind: Kind,
    is_meant: impl Fn(&mfma::Params) -> bool,
) -> Option<mfma::Params> {
    let table = mfma::table(machine.family.name).expect("the table is embedded");
    let usable = table.candidates.iter().filter(|candidate| candidate.kinds.contains(&kind));
    usable
        .map(|candidate| candidate.params)
        .find(|params| params.schedule == schedule && !params.is_gated && is_meant(params))
}

/// Plants every mistake of the kinds that `is_meant` names.
fn plant(is_meant: impl Fn(Kind) -> bool) {
    let mut mistakes = mistakes();
    mistakes.retain(|mistake| is_meant(mistake.kind));
    let mut planted = vec![false; mistakes.len()];
    let mut sound = Vec::new();
    for family in Machine::all().iter().map(|machine| machine.family) {
        for (mistake, planted) in mistakes.iter().zip(&mut planted) {
            let Mistake { schedule, kind, what, from, to, .. } = mistake;
            let mut machine = Machine::new(family).expect("there was one before");
            let is_meant = |params: &mfma::Params| {
                mistake.stages.is_none_or(|stages| params.stages == stages)
                    && mistake.phases.is_none_or(|phases| params.phases == phases)
            };
            let Some(params) = candidate(&machine, *schedule, *kind, is_meant) else { continue };
            let symbol = params.symbol(family.name, *kind);
            if !sound.contains(&symbol) {
                assert!(!is_noticed(&machine, &params, *kind), "{symbol} without a mistake");
                sound.push(symbol.clone());
            }
            machine.plant(&symbol, from, to);
            assert!(is_noticed(&machine, &params, *kind), "{what}, {symbol}");
            *planted = true;
        }
    }
    assert!(
        !planted.is_empty() && (Machine::all().is_empty() || planted.iter().all(|planted| *planted)),
        "{planted:?}"
    );
}

#[test]
fn every_planted_mistake_is_noticed() {
    plant(|kind| !kind.input.has_blocks());
}

#[test]
fn every_mistake_with_block_scales_is_noticed() {
    plant(|kind| kind.input.has_blocks());
}

/// Ignored waits and barriers of the machine, other layouts of its matrix instructions, and reads and exchanges that leave
/// transposed operands as they are.
#[test]
fn a_machine_with_faults_computes_no_product() {
    use Mutation::{BarrierIgnored, OperandOrder, RowOrder, SwapIgnored, TransposeIgnored, WaitIgnored};
    let every: &[Mutation] = &[BarrierIgnored, WaitIgnored, RowOrder, OperandOrder];
    let transposed: &[Mutation] = &[BarrierIgnored, WaitIgnored, TransposeIgnored, SwapIgnored];
    let cases = [
        (PLAIN, every),
        ("f16_f16_f16_nn", transposed),
        ("bf16_bf16_bf16_tn", transposed),
        ("e4m3_e4m3_bf16_nn", transposed),
    ];
    for mut machine in Machine::all() {
        for (name, faults) in cases {
            let kind = Kind::parse(name).expect("a kind");
            for (schedule, phases) in mfma::Schedule::ALL.into_iter().flat_map(|s| [2, 4].map(|p| (s, p))) {
                let found = candidate(&machine, schedule, kind, |params| params.phases == phases);
                // Transposed in registers, operands are read and exchanged as others are.
                let Some(params) = found.filter(|_| name == PLAIN || schedule.is_direct()) else { continue };
                for &fault in faults {
                    machine.options.mutation = Some(fault);
                    let symbol = params.symbol(machine.family.name, kind);
                    assert!(is_noticed(&machine, &params, kind), "{fault:?}, {symbol}");
                }
            }
        }
    }
}
