//! Mistakes planted in the text of matrix products, each of which must be noticed on the emulator.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tenon_emulator::Mutation;
use tenon_kernels::gpu::matmul::{Activation, Kind, mfma};

use crate::harness::Machine;
use crate::matmul::{full_epilogue, odd_depth, problem, run};

const PLAIN: &str = "bf16_bf16_bf16_nt";

/// A row of `mistakes.toml`.
struct Mistake {
    schedule: mfma::Schedule,
    kind: Kind,
    stages: Option<u32>,
    what: String,
    from: String,
    to: String,
}

fn mistakes() -> Vec<Mistake> {
    let rows: toml::Table = toml::from_str(include_str!("mistakes.toml")).expect("the table is TOML");
    let rows = rows["mistake"].as_array().expect("rows of mistakes");
    let text =
        |row: &toml::Value, key: &str| row.get(key).map(|text| text.as_str().expect("a text").to_owned());
    let read = |row: &toml::Value| Mistake {
        schedule: schedule(&text(row, "schedule").expect("each has one")),
        kind: Kind::parse(text(row, "kind").as_deref().unwrap_or(PLAIN)).expect("a kind"),
        stages: row.get("stages").map(|stages| stages.as_integer().expect("a number") as u32),
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
    problem.epilogue = full_epilogue(&problem, Activation::Relu);
    let plan = mfma::plan(machine.family.name, &problem, params, &machine.chip()).expect("a plan");
    let outcome = catch_unwind(AssertUnwindSafe(|| run(machine, "a mistake", &problem, &plan)));
    !matches!(outcome, Ok(Ok(_)))
}

/// The first candidate of a schedule for a kind, of these stages where they matter.
fn candidate(
    machine: &Machine,
    schedule: mfma::Schedule,
    kind: Kind,
    stages: Option<u32>,
) -> Option<mfma::Params> {
    let table = mfma::table(machine.family.name).expect("the table is embedded");
    let usable = table.candidates.iter().filter(|candidate| candidate.kinds.contains(&kind));
    usable
        .map(|candidate| candidate.params)
        .find(|params| params.schedule == schedule && stages.is_none_or(|stages| params.stages == stages))
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
            let Some(params) = candidate(&machine, *schedule, *kind, mistake.stages) else { continue };
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

/// Ignored waits and barriers of the machine, and other layouts of its matrix instructions.
#[test]
fn a_machine_with_faults_computes_no_product() {
    let kind = Kind::parse(PLAIN).expect("a kind");
    for fault in [Mutation::BarrierIgnored, Mutation::WaitIgnored, Mutation::RowOrder, Mutation::OperandOrder]
    {
        for mut machine in Machine::all() {
            machine.options.mutation = Some(fault);
            for schedule in mfma::Schedule::ALL {
                let Some(params) = candidate(&machine, schedule, kind, None) else { continue };
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
