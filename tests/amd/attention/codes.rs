//! Caches of codes: random ones with their numbers, and the matrix-unit kernels that read them.

use tenon_emulator::{Class, Mutation};
use tenon_kernels::cpu::minifloat::Float8;
use tenon_kernels::gpu::attention::{Causal, Code, Codes, Lengths, Problem, Scales, Strides, mfma, operand};
use tenon_kernels::gpu::launch::Element as Kind;

use super::{Case, download, is_caught, laid_out, problem, variants};
use crate::harness::{Machine, assert_close};

/// The number of a code without its scale.
fn number(code: Code, bits: u8) -> f64 {
    match code {
        Code::E4M3 => f64::from(Float8::E4M3Fn.decode(bits)),
        Code::I8 => f64::from(bits as i8),
        Code::I4 => f64::from(bits) - 8.0,
    }
}

/// Random codes and scales of `values`, `[.., heads, columns]`, which become their numbers.
pub fn draw(
    values: &mut [f64],
    kind: Codes,
    [heads, columns]: [usize; 2],
    random: &mut fastrand::Rng,
) -> (Vec<u8>, Vec<f32>) {
    let (largest, codes) = match kind.code {
        Code::E4M3 => (448.0, 256),
        Code::I8 => (128.0, 256),
        Code::I4 => (8.0, 16),
    };
    let count = match kind.scales {
        Scales::One => 1,
        Scales::Head => heads,
        Scales::Channel => heads * columns,
    };
    // Neighbours differ by a third at least.
    let scale = |at: usize| (0.5 + 0.5 * (at % 3) as f32 + 0.25 * random.f32()) / largest;
    let scales: Vec<f32> = (0..count).map(scale).collect();
    let codes = values.iter_mut().enumerate().map(|(at, value)| {
        let scale = scales[match kind.scales {
            Scales::One => 0,
            Scales::Head => at / columns % heads,
            Scales::Channel => at % count,
        }];
        loop {
            let code = random.u16(..codes) as u8;
            *value = number(kind.code, code) * f64::from(scale);
            if !value.is_nan() {
                return code;
            }
        }
    });
    let codes = codes.collect();
    (codes, scales)
}

/// Codes as a cache holds them; where a kernel must not look, what is no number or the furthest there is.
pub fn memory(code: Code, codes: &[Option<u8>]) -> Vec<u8> {
    match code {
        Code::E4M3 => codes.iter().map(|code| code.unwrap_or(0xff)).collect(),
        Code::I8 => codes.iter().map(|code| code.unwrap_or(0x80)).collect(),
        Code::I4 => codes
            .chunks(2)
            .map(|pair| pair.iter().rev().fold(0, |byte, code| byte << 4 | code.unwrap_or(15)))
            .collect(),
    }
}

const KINDS: [Codes; 5] = [
    Codes { code: Code::E4M3, scales: Scales::One },
    Codes { code: Code::E4M3, scales: Scales::Head },
    Codes { code: Code::E4M3, scales: Scales::Channel },
    Codes { code: Code::I8, scales: Scales::Head },
    Codes { code: Code::I8, scales: Scales::Channel },
];

/// The problem over a cache of codes, with rows and heads that begin at multiples of 16 codes.
fn coded(p: Problem, codes: Codes) -> Problem {
    let whole = |s: Strides| Strides {
        batch: s.batch.next_multiple_of(16),
        row: s.row.next_multiple_of(16),
        head: s.head.next_multiple_of(16),
    };
    Problem {
        codes: Some(codes),
        head_qk: p.head_qk.next_multiple_of(16),
        k: whole(p.k),
        v: whole(p.v),
        // Most codes are far below the largest. Queries that take scales are rounded, which larger scores would magnify.
        scale: if codes.scales == Scales::Channel { p.scale } else { p.scale * 4.0 },
        ..p
    }
}

#[test]
fn masks_layouts_and_lengths_over_codes_agree_with_the_reference() {
    for machine in Machine::all() {
        for (q_len, codes) in [1, 3, 75].into_iter().flat_map(|q_len| KINDS.map(|codes| (q_len, codes))) {
            for p in variants(q_len) {
                let case = Case::new(coded(p, codes));
                let plan = case.plan(&machine);
                assert!(plan.launches[0].symbol.contains("_bf16_"), "{case}");
                case.check_plan(&machine, &plan);
            }
        }
    }
}

#[test]
fn random_problems_over_codes_agree_with_the_reference() {
    let mut random = fastrand::Rng::new();
    for machine in Machine::all() {
        for _ in 0..12 {
            let (group, kv_heads) = (random.u32(1..=5), random.u32(1..=3));
            let most_rows = [8, 300][random.usize(..2)];
            let [q_len, kv_len] = [random.u32(1..=most_rows), random.u32(1..=400)];
            let kind = [Kind::BF16, Kind::F16][random.usize(..2)];
            let heads = [random.u32(1..=3), group * kv_heads, kv_heads];
            let mut p = problem(kind, heads, [q_len, kv_len], 16 * random.u32(1..=16));
            p.causal =
                [None, Some(Causal::Appended), Some(Causal::Past(random.i32(0..100)))][random.usize(..3)];
            p.window_left = random.bool().then(|| random.u32(0..100));
            p.soft_cap = (random.u8(..4) == 0).then_some(1.5);
            p.has_sinks = random.bool();
            let p = laid_out(p, &mut random);
            Case::new(coded(p, KINDS[random.usize(..KINDS.len())])).check(&machine);
        }
    }
}

/// One key, whose values are all codes there are, each the result of a column.
#[test]
fn every_code_of_a_value_becomes_its_number() {
    for machine in Machine::all() {
        for (kind, q_len, code) in [Kind::BF16, Kind::F16]
            .into_iter()
            .flat_map(|kind| [1, 40].map(|q_len| (kind, q_len)))
            .flat_map(|(kind, q_len)| [Code::E4M3, Code::I8].map(|code| (kind, q_len, code)))
        {
            let codes = Some(Codes { code, scales: Scales::One });
            let mut case = Case::new(Problem { codes, ..problem(kind, [4, 1, 1], [q_len, 1], 64) });
            case.codes = [vec![0; 256], (0..=255).collect()];
            case.scales = [vec![1.0], vec![0.5]];
            let operands = case.operands(&machine);
            let plan = case.plan(&machine);
            machine.run(&plan, &operands).unwrap_or_else(|error| panic!("{case}: {error}"));
            let rows = q_len as usize;
            let found = download(&machine, kind, operands[operand::OUT], 4 * rows * 64);
            let wanted: Vec<f64> = (0..4 * rows * 64)
                .map(|at| 0.5 * number(code, (at / (rows * 64) * 64 + at % 64) as u8))
                .collect();
            assert_close(&format!("{code:?} in {}", plan.launches[0].symbol), &found, &wanted, 0.0, 0.0);
        }
    }
}

/// Codes reach LDS without bank conflicts, and a block of them costs what its counts say.
#[test]
fn a_block_of_codes_costs_what_its_counts_say_and_no_bank_conflicts() {
    for mut machine in Machine::all() {
        machine.options.bank_conflicts = true;
        let (row, element) = mfma::rows(machine.family.name)
            .expect("the table is read")
            .into_iter()
            .find(|(row, _)| matches!(row, mfma::Row::Forward(p) if p.code == Some(Code::E4M3) && p.head_qk == 128))
            .expect("a row of codes");
        let mfma::Row::Forward(params) = row else { unreachable!("the row was just found to be one") };
        let reports = [2, 3].map(|blocks| {
            let mut p = problem(element, [1, 1, 1], [params.bm(), params.bn * blocks], 128);
            p.scale = 1e-3;
            let case = Case::new(coded(p, KINDS[0]));
            let (plan, operands) = (case.plan(&machine), case.operands(&machine));
            machine.run(&plan, &operands).unwrap_or_else(|error| panic!("{case}: {error}"))
        });
        let has = mfma::instructions(machine.family.name, &row, element).expect("the table has them");
        let counts = params.block_counts(element, has);
        let more =
            |class: Class| (reports[1].count(class) - reports[0].count(class)) / u64::from(params.waves);
        let what = format!("{params:?} on {}: {:?}", machine.family.name, reports[1]);
        assert_eq!(more(Class::Matrix), u64::from(counts.matrix), "{what}");
        assert_eq!(more(Class::Barrier), u64::from(counts.barriers), "{what}");
        assert!(more(Class::Vector) >= u64::from(counts.vector), "{what}");
        assert_eq!(reports[1].lds_conflict_cycles, 0, "{what}");
    }
}

/// Faults of the machine and of the conversions are noticed.
#[test]
fn planted_faults_over_codes_are_caught() {
    for mut machine in Machine::all() {
        for q_len in [2, 70] {
            let case = Case::new(coded(problem(Kind::BF16, [1, 2, 1], [q_len, 900], 64), KINDS[1]));
            machine.options.mutation = None;
            assert!(!is_caught(&machine, &case), "{case}");
            for fault in [Mutation::BarrierIgnored, Mutation::WaitIgnored, Mutation::OperandOrder] {
                machine.options.mutation = Some(fault);
                assert!(is_caught(&machine, &case), "{fault:?} in {case} on {}", machine.family.name);
            }
        }
    }
}

#[test]
fn mistakes_in_texts_of_codes_are_noticed() {
    let mistakes = [
        ("k[kind == kScaleHead ? head : 0]", "k[0]"),
        ("v[kind == kScaleHead ? head : 0]", "v[0]"),
        ("lane % 4 * 16;", "lane % 4 * 8;"),
        ("const i32 rows = max(0, min(place.left, count));", "const i32 rows = count;"),
    ];
    for family in Machine::all().iter().map(|machine| machine.family) {
        for (from, to) in mistakes {
            let mut machine = Machine::new(family).expect("there was one before");
            let case = Case::new(Problem {
                lengths: Some(Lengths::default()),
                ..coded(problem(Kind::F16, [2, 4, 2], [70, 300], 128), KINDS[1])
            });
            let symbol = case.plan(&machine).launches[0].symbol.clone();
            machine.plant(&symbol, from, to);
            assert!(is_caught(&machine, &case), "{to} on {}", family.name);
        }
    }
}
