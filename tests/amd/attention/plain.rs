//! Attention without matrix units on the emulator, of every element type and code: results, scores and joined masks.

use tenon_kernels::gpu::attention::plain::{self, PaddingKind, PaddingOperand, Scores, Stage};
use tenon_kernels::gpu::attention::{
    Causal, Code, Codes, Lengths, MaskKind, MaskOperand, Problem, Queries, Scales, Strides, operand,
};
use tenon_kernels::gpu::launch::Element as Kind;
use tenon_kernels::gpu::scalar::Scalar;

use super::{Case, download, masked, paged, problem, rounded};
use crate::harness::{Machine, assert_close};

const TYPES: [(Kind, Scalar); 3] =
    [(Kind::F32, Scalar::F32), (Kind::F16, Scalar::F16), (Kind::BF16, Scalar::BF16)];

/// Caches in the element type and in every code, with as many scales as there can be.
const CACHES: [Option<Codes>; 7] = [
    None,
    codes(Code::E4M3, Scales::One),
    codes(Code::E4M3, Scales::Channel),
    codes(Code::I8, Scales::Head),
    codes(Code::I8, Scales::Channel),
    codes(Code::I4, Scales::One),
    codes(Code::I4, Scales::Head),
];

const fn codes(code: Code, scales: Scales) -> Option<Codes> {
    Some(Codes { code, scales })
}

/// Heads that no matrix unit takes, and values of other columns than the keys.
fn odd(kind: Kind, [q_len, kv_len]: [u32; 2]) -> Problem {
    Problem {
        head_v: 30,
        v: Strides::rows_first(kv_len, 2, 30),
        out: Strides::rows_first(q_len, 4, 30),
        ..problem(kind, [2, 4, 2], [q_len, kv_len], 22)
    }
}

fn variants(kind: Kind) -> Vec<Problem> {
    let base = odd(kind, [3, 70]);
    let square = Problem { causal: Some(Causal::BottomRight), ..base.clone() };
    let lengths = Some(Lengths { is_i64: true, bias: 2, adds_queries: false });
    let columns = 66;
    let rows = Strides { batch: 4 * 3 * 67, row: 67, head: 3 * 67 };
    vec![
        Problem { window_left: Some(20), soft_cap: Some(3.0), has_sinks: true, ..square.clone() },
        Problem { queries: Queries::Ragged { rows: 0 }, has_sinks: true, ..paged(square.clone(), 7) },
        Problem {
            k: Strides::heads_first(70, 2, 22),
            v: Strides { batch: 70 * 2 * 38, row: 2 * 38, head: 38 },
            out: Strides { batch: 3 * 4 * 34, row: 4 * 34, head: 34 },
            mask: Some(MaskOperand { kind: MaskKind::Element, strides: rows, columns }),
            lengths,
            ..base
        },
        // More keys than threads, the last run not whole.
        Problem { causal: Some(Causal::Past(290)), lengths, ..odd(kind, [2, 300]) },
    ]
}

#[test]
fn every_type_and_cache_agrees_with_the_reference() {
    for machine in Machine::all() {
        for (kind, scalar) in TYPES {
            for (codes, p) in
                CACHES.into_iter().flat_map(|codes| variants(kind).into_iter().map(move |p| (codes, p)))
            {
                let case = Case::new(Problem { codes, ..p });
                let plan = plain::plan(&case.problem, scalar, None)
                    .unwrap_or_else(|error| panic!("{case}: {error}"));
                case.check_plan(&machine, &plan);
            }
        }
    }
}

/// What is handed out of a row of a head.
fn wanted_scores(case: &Case, handed: &Scores, [b, row, head]: [usize; 3]) -> Vec<f64> {
    let p = &case.problem;
    let seen = case.seen(b, row);
    let score = |key: usize| match seen.contains(&key) {
        true => case.capped([b, row, head, key]) + case.added(b, row, head, key),
        false => f64::NEG_INFINITY,
    };
    let sink = if p.has_sinks { f64::from(case.sinks[head]).exp() } else { 0.0 };
    let sum = sink + (0..p.kv_len as usize).map(|key| score(key).exp()).sum::<f64>();
    let at_key = |key: usize| match handed.stage {
        Stage::Raw | Stage::Capped if key >= p.kv_len as usize => 0.0,
        Stage::Raw => case.product([b, row, head, key]),
        Stage::Capped => case.capped([b, row, head, key]),
        Stage::Masked if score(key) == f64::NEG_INFINITY => f64::from(handed.hidden),
        Stage::Masked => score(key),
        Stage::Weights if sum == 0.0 => 0.0,
        Stage::Weights => score(key).exp() / sum,
    };
    (0..handed.keys as usize).map(at_key).collect()
}

#[track_caller]
fn check_scores(machine: &Machine, case: &Case, scalar: Scalar, handed: &Scores) {
    let p = &case.problem;
    let what = format!("{handed:?} for {case}");
    let plan = plain::scores(p, scalar, None, handed).unwrap_or_else(|error| panic!("{what}: {error}"));
    let mut operands = case.operands(machine);
    let count = (p.batch * p.heads * p.q_len * handed.keys) as usize;
    operands[operand::OUT] = machine.poisoned(count * scalar.bytes());
    machine.run(&plan, &operands).unwrap_or_else(|error| panic!("{what}: {error}"));
    let found = download(machine, p.element, operands[operand::OUT], count);
    let wanted: Vec<f64> = (0..p.batch as usize)
        .flat_map(|b| (0..p.heads as usize).map(move |head| (b, head)))
        .flat_map(|(b, head)| (0..p.q_len as usize).map(move |row| [b, row, head]))
        .flat_map(|place| wanted_scores(case, handed, place))
        .collect();
    assert_close(&what, &found, &wanted, case.tolerance(), case.tolerance());
}

#[test]
fn scores_of_every_stage_are_handed_out() {
    for machine in Machine::all() {
        for (kind, scalar) in TYPES {
            for codes in CACHES {
                let base = Problem { codes, ..odd(kind, [3, 70]) };
                let capped = Problem { soft_cap: Some(2.0), ..base };
                let masked = Problem {
                    causal: Some(Causal::Appended),
                    window_left: Some(30),
                    lengths: Some(Lengths::default()),
                    has_sinks: true,
                    mask: Some(MaskOperand {
                        kind: MaskKind::Element,
                        strides: Strides { row: 67, ..Strides::default() },
                        columns: 67,
                    }),
                    ..capped.clone()
                };
                for (stage, p, keys) in [
                    (Stage::Raw, &capped, 72),
                    (Stage::Capped, &capped, 61),
                    (Stage::Masked, &masked, 73),
                    (Stage::Weights, &masked, 70),
                ] {
                    let handed = Scores { stage, keys, hidden: -7.0 };
                    check_scores(&machine, &Case::new(p.clone()), scalar, &handed);
                }
            }
        }
    }
}

#[test]
fn masks_and_paddings_join_into_one_mask() {
    let (batch, keys, past) = (2usize, 205usize, 5u32);
    for (machine, (kind, scalar)) in
        Machine::all().iter().flat_map(|machine| TYPES.map(|kind| (machine, kind)))
    {
        for (p, filter) in [(0, -10000.0f32), (1, -10000.0), (2, f32::MIN)].map(|(index, filter)| {
            let mask = [None, Some(0), Some(4)][index];
            let base = problem(kind, [2, 4, 2], [3, 205], 64);
            let mask = mask.and_then(|at: usize| masked(kind, 3, 64).swap_remove(at).mask);
            (Problem { mask, ..base }, filter)
        }) {
            let mut case = Case::new(p);
            let row_keys = keys - past as usize;
            let words: Vec<i32> = (0..batch * row_keys).map(|_| fastrand::i32(0..3)).collect();
            let kinds = [
                (
                    PaddingKind::Rows {
                        strides: Strides { batch: row_keys as u64, ..Strides::default() },
                        past,
                        offset: 0,
                    },
                    words.clone(),
                ),
                (PaddingKind::Ends, vec![70, 205]),
                (PaddingKind::Ranges, vec![70, 200, 3, 0]),
            ];
            let own = case.mask.clone();
            let original = case.problem.clone();
            for (padded, values) in kinds {
                let padding = PaddingOperand { kind: padded, filter };
                let joined = plain::joined(&original, scalar, &padding).expect("the problem is joined");
                let count: u32 = joined.dims.iter().product();
                case.problem = original.clone();
                case.mask.clone_from(&own);
                let mut operands = case.operands(machine);
                let result = operands[operand::OUT];
                let memory = machine.poisoned(count as usize * joined.scalar.bytes());
                operands[operand::OUT] = memory;
                operands[operand::PADDING] = machine.upload(&values);
                machine.run(&joined.plan, &operands).unwrap_or_else(|error| panic!("{case}: {error}"));
                (operands[operand::OUT], operands[operand::MASK]) = (result, memory);
                let is_padding = |b: usize, key: usize| match padded {
                    PaddingKind::Rows { .. } => {
                        key >= past as usize && values[b * row_keys + key - past as usize] == 0
                    }
                    PaddingKind::Ends => key as i32 >= values[b],
                    PaddingKind::Ranges => key as i32 >= values[b] || (key as i32) < values[b + batch],
                };
                // The reference reads the mask that is expected.
                let [_, heads, rows, width] = joined.dims.map(|extent| extent as usize);
                let expected = |at: usize| {
                    let (b, h, r, key) =
                        (at / width / rows / heads, at / width / rows % heads, at / width % rows, at % width);
                    (key < keys).then(|| {
                        let filtered = if is_padding(b, key) { f64::from(filter) } else { 0.0 };
                        let added = case.added(b, r, h, key) + filtered;
                        if joined.scalar == Scalar::F32 {
                            f64::from(added as f32)
                        } else {
                            rounded(kind, added)
                        }
                    })
                };
                let expected = (0..count as usize).map(expected).collect();
                case.mask = expected;
                case.problem.mask = Some(joined.mask);
                let plan = case.plan(machine);
                machine.run(&plan, &operands).unwrap_or_else(|error| panic!("{case}: {error}"));
                let memory = download(machine, kind, result, case.extent(case.problem.out));
                let (mut found, mut wanted) = (Vec::new(), Vec::new());
                case.each_row(|b, row, head| {
                    let at = case.place(case.problem.out, b, row, head);
                    found.extend_from_slice(&memory[at..at + 64]);
                    wanted.extend(case.row(b, row, head));
                });
                assert_close(
                    &format!("{padded:?} for {case}"),
                    &found,
                    &wanted,
                    case.tolerance(),
                    case.tolerance(),
                );
            }
        }
    }
}
