//! The attention planner: rows are legal, problems find a kernel or a reason, and launches fit what the device text reads.

mod attention_frame;

use std::collections::HashSet;

use attention_frame::{assert_sound, pointers, problem, structure_bytes, structures, with_all_operands};
use tenon_kernels::gpu::attention::wgmma::{Row, plan_with, rows};
use tenon_kernels::gpu::attention::{
    Causal, Code, Codes, Keys, Lengths, Mask, MaskKind, MaskOperand, Problem, Queries, Scales, Strides,
    mma_sync, operand, plan, units,
};
use tenon_kernels::gpu::launch::{Arg, Element, Plan};
use tenon_kernels::gpu::{Chip, arch};

/// Of all heads, with rows of their own.
const MASK: MaskOperand = MaskOperand {
    kind: MaskKind::Element,
    strides: Strides { batch: 150_000, row: 500, head: 0 },
    columns: 500,
};

fn chips() -> Vec<Chip> {
    arch::find("sm90").and_then(|arch| arch.chips()).expect("the family's chips")
}

const CODES: Codes = Codes { code: Code::E4M3, scales: Scales::Head };

fn symbol(problem: &Problem) -> String {
    plan("sm90", problem, &chips()[0]).expect("a kernel for the problem").launches[0].symbol.clone()
}

fn message(problem: &Problem) -> String {
    plan("sm90", problem, &chips()[0]).expect_err("no kernel for the problem").to_string()
}

#[test]
fn every_row_is_legal_on_every_chip() {
    for chip in chips() {
        for row in rows("sm90").unwrap() {
            match row {
                Row::Forward(params) => params.check(&chip).unwrap(),
                Row::Decode(params) => params.check(&chip).unwrap(),
                Row::CodedForward(params) => params.check(&chip).unwrap(),
            }
        }
    }
}

#[test]
fn parameters_that_do_not_fit_are_refused_with_the_reason() {
    let chip = &chips()[0];
    for row in rows("sm90").unwrap() {
        match row {
            Row::Forward(mut params) => {
                params.stages = 40;
                assert!(params.check(chip).unwrap_err().to_string().contains("shared memory"));
                params.stages = 2;
                params.bn = 256;
                params.head_v = 256;
                assert!(params.check(chip).unwrap_err().to_string().contains("registers"));
            }
            Row::Decode(mut params) => {
                params.stages = 99;
                assert!(params.check(chip).unwrap_err().to_string().contains("shared memory"));
            }
            Row::CodedForward(mut params) => {
                params.head_v = 512;
                assert!(params.check(chip).unwrap_err().to_string().contains("up to 256"));
            }
        }
    }
}

#[test]
fn units_have_one_kernel_each_under_a_name_of_its_own() {
    let units = units("sm90").unwrap();
    let names: HashSet<&str> = units.iter().map(|unit| unit.kernels[0].symbol.as_str()).collect();
    assert_eq!(names.len(), units.len());
    for unit in &units {
        assert_eq!(unit.kernels.len(), 1);
        assert_eq!(unit.name, unit.kernels[0].symbol);
    }
}

#[test]
fn every_planned_symbol_is_compiled() {
    let compiled: HashSet<String> = units("sm90").unwrap().into_iter().map(|unit| unit.name).collect();
    for element in [Element::BF16, Element::F16] {
        for head in (8..=256).step_by(8) {
            for (q_len, window, causal) in [
                (1, None, true),
                (8, Some(3), true),
                (300, None, true),
                (300, None, false),
                (300, Some(9), true),
            ] {
                let causal = causal.then_some(Causal::Past(7));
                let p = Problem {
                    element,
                    head_qk: head,
                    head_v: head,
                    q_len,
                    window_left: window,
                    causal,
                    ..problem()
                };
                assert!(compiled.contains(&symbol(&p)), "{}", symbol(&p));
            }
        }
    }
}

#[test]
fn few_rows_take_the_decode_kernel_and_masks_the_kernel_that_knows_them() {
    let few = Problem { q_len: 8, ..problem() };
    assert!(symbol(&few).starts_with("attention_decode_bf16_d128__sm90__rows32"));
    assert!(symbol(&Problem { q_len: 1, ..problem() }).contains("rows16"));
    assert!(symbol(&problem()).starts_with("attention_bf16_d128_causal__sm90__"));
    assert!(symbol(&Problem { causal: None, ..problem() }).contains("_full__"));
    assert!(symbol(&Problem { soft_cap: Some(30.0), ..problem() }).contains("_general__"));
    assert_eq!(Mask::of(&Problem { window_left: Some(4), ..problem() }), Mask::General);
    assert!(symbol(&Problem { head_qk: 80, head_v: 80, ..problem() }).contains("_d96_"));
    assert!(symbol(&Problem { head_qk: 192, ..problem() }).contains("_d192_dv128_"));
}

#[test]
fn absent_operands_are_null_and_present_ones_are_passed() {
    let four = HashSet::from([operand::OUT, operand::Q, operand::K, operand::V]);
    for q_len in [2, 300] {
        let chip = &chips()[0];
        assert_eq!(pointers(&plan("sm90", &Problem { q_len, ..problem() }, chip).unwrap()), four);
        assert_eq!(
            pointers(&plan("sm90", &Problem { q_len, ..with_all_operands() }, chip).unwrap()).len(),
            8
        );
        let masked = plan("sm90", &Problem { q_len, mask: Some(MASK), ..problem() }, chip).unwrap();
        assert!(pointers(&masked).contains(&operand::MASK) && pointers(&masked).len() == 5);
    }
}

#[test]
fn structures_have_the_layout_of_the_device_text() {
    let text = include_str!("../device/attention_shape.cuh");
    let own = ["AttentionShape", "MaskShape"].map(|name| structure_bytes(text, name));
    for q_len in [1, 300] {
        let plan = plan("sm90", &Problem { q_len, ..problem() }, &chips()[0]).unwrap();
        assert_eq!(structures(&plan), own);
    }
}

#[test]
fn masks_in_memory_have_kernels_for_heads_up_to_128() {
    for arch in ["sm90", "sm80"] {
        let compiled: HashSet<String> = units(arch).unwrap().into_iter().map(|unit| unit.name).collect();
        for kind in [MaskKind::Element, MaskKind::Bool, MaskKind::F32] {
            for head in (8..=128).step_by(8) {
                for q_len in [1, 8, 300] {
                    let mask = Some(MaskOperand { kind, ..MASK });
                    let p = Problem { head_qk: head, head_v: head, q_len, mask, ..problem() };
                    let plan = plan(arch, &p, &arch::find(arch).unwrap().chips().unwrap()[0]).unwrap();
                    let symbol = &plan.launches[0].symbol;
                    assert!(compiled.contains(symbol), "{symbol}");
                    assert!(
                        symbol.contains("_memory_") || (q_len <= 8 && symbol.contains("decode")),
                        "{symbol}"
                    );
                }
            }
        }
    }
    assert!(
        message(&Problem { head_qk: 256, head_v: 256, mask: Some(MASK), ..problem() })
            .contains("no attention kernel")
    );
    let coded = Problem { codes: Some(CODES), mask: Some(MASK), ..problem() };
    assert!(message(&coded).contains("no attention kernel"));
    assert!(message(&Problem { q_len: 1, ..coded }).contains("no attention kernel"));
    let ragged = Problem { mask: Some(MASK), queries: Queries::Ragged { rows: 600 }, ..problem() };
    assert!(message(&ragged).contains("batched only"));
    let strides = Strides { batch: 1 << 40, ..MASK.strides };
    let far = Problem { q_len: 1, mask: Some(MaskOperand { strides, ..MASK }), ..problem() };
    assert!(message(&far).contains("2^32"));
}

#[test]
fn narrow_heads_beside_each_other_are_read_in_pairs() {
    let narrow = Problem { q_len: 1, head_qk: 64, head_v: 64, ..problem() };
    assert!(symbol(&narrow).contains("rows32_h2"));
    let apart = Strides::heads_first(500, 2, 64);
    assert!(symbol(&Problem { k: apart, v: apart, ..narrow.clone() }).contains("rows16_st"));
    assert!(symbol(&Problem { heads: 9, kv_heads: 3, ..narrow.clone() }).contains("rows16_st"));
    assert!(symbol(&Problem { q_len: 5, ..narrow }).contains("rows32_st"));
}

#[test]
fn launches_stay_inside_the_chip_and_the_workspace() {
    for chip in chips() {
        for batch in [1, 3, 700] {
            for (q_len, lengths) in [(1, None), (5, Some(Lengths::default())), (300, None)] {
                let p = Problem { batch, q_len, lengths, ..problem() };
                let plan = plan("sm90", &p, &chip).unwrap();
                let launch = &plan.launches[0];
                assert!(launch.grid[0] <= chip.compute_units && launch.shared_bytes <= chip.shared_bytes);
                assert_sound(&plan);
            }
        }
    }
}

#[test]
fn pieces_of_pages_fill_blocks_of_keys() {
    for page_rows in [16, 48, 64, 256] {
        let p = Problem {
            keys: Keys::Paged { pages: 90, page_rows, columns: 500_u32.div_ceil(page_rows) },
            lengths: Some(Lengths::default()),
            ..problem()
        };
        for row in rows("sm90").unwrap() {
            let (block, is_coded) = match row {
                Row::Forward(params) => (params.bn, false),
                Row::Decode(params) => (64, params.is_coded),
                Row::CodedForward(_) => continue,
            };
            let mask = matches!(row, Row::Forward(params) if params.mask == Mask::Memory).then_some(MASK);
            let p = Problem { codes: is_coded.then_some(CODES), mask, ..p.clone() };
            let plan = plan_with("sm90", &p, &row, &chips()[0]).unwrap();
            let piece = plan.launches[0].args.iter().find_map(|arg| match arg {
                Arg::TensorMap(map) if map.operand == operand::K => Some(map.box_dims[1]),
                _ => None,
            });
            let piece = piece.unwrap();
            assert!(block % piece == 0 && page_rows % piece == 0, "{page_rows} {row:?} {piece}");
        }
    }
}

#[test]
fn what_no_kernel_does_is_refused_with_the_reason() {
    assert!(message(&Problem { element: Element::F32, ..problem() }).contains("bf16 and f16"));
    assert!(message(&Problem { kv_heads: 3, ..problem() }).contains("multiple"));
    assert!(message(&Problem { head_qk: 100, ..problem() }).contains("multiple of 8"));
    assert!(message(&Problem { head_v: 264, ..problem() }).contains("up to 256"));
    assert!(message(&Problem { scale: 0.0, ..problem() }).contains("positive"));
    assert!(message(&Problem { soft_cap: Some(-1.0), ..problem() }).contains("positive"));
    let odd = Strides { row: 1028, ..problem().k };
    assert!(message(&Problem { k: odd, ..problem() }).contains("multiples of 8"));
    let paged = Keys::Paged { pages: 4, page_rows: 64, columns: 2 };
    assert!(message(&Problem { keys: paged, ..problem() }).contains("lengths"));
    let lengths = Some(Lengths::default());
    assert!(message(&Problem { keys: paged, lengths, ..problem() }).contains("fewer than 500"));
}

#[test]
fn caches_of_codes_are_read_by_kernels_that_know_them() {
    for arch in ["sm90", "sm80"] {
        let compiled: HashSet<String> = units(arch).unwrap().into_iter().map(|unit| unit.name).collect();
        for q_len in [1, 5, 300] {
            let p = Problem { codes: Some(CODES), q_len, ..problem() };
            let plan = plan(arch, &p, &arch::find(arch).unwrap().chips().unwrap()[0]).unwrap();
            let symbol = &plan.launches[0].symbol;
            assert!(symbol.contains("_e4m3_") && compiled.contains(symbol), "{symbol}");
            let found = pointers(&plan);
            assert!(found.contains(&operand::K_SCALES) && found.contains(&operand::V_SCALES));
        }
    }
    let other = Codes { code: Code::I8, ..CODES };
    assert!(message(&Problem { codes: Some(other), ..problem() }).contains("e4m3"));
    let channel = Codes { scales: Scales::Channel, ..CODES };
    assert!(message(&Problem { codes: Some(channel), ..problem() }).contains("head"));
}

#[test]
fn the_portable_tier_has_legal_rows_and_a_kernel_for_every_head() {
    let compiled: HashSet<String> = units("sm80").unwrap().into_iter().map(|unit| unit.name).collect();
    for chip in arch::find("sm80").unwrap().chips().unwrap() {
        for head in (8..=256).step_by(8) {
            for (q_len, window_left, causal) in [(1, None, true), (8, Some(3), true), (300, None, false)] {
                let causal = causal.then_some(Causal::Past(7));
                let p = Problem { head_qk: head, head_v: head, q_len, window_left, causal, ..problem() };
                let plan = plan("sm80", &p, &chip).unwrap();
                let launch = &plan.launches[0];
                assert!(compiled.contains(&launch.symbol), "{}", launch.symbol);
                assert!(launch.shared_bytes <= chip.shared_bytes);
                assert_sound(&plan);
            }
        }
        for row in mma_sync::rows("sm80").unwrap() {
            if let mma_sync::Row::Forward(mut params) = row {
                params.bm = 24;
                assert!(params.check(&chip).unwrap_err().to_string().contains("16 rows"));
            }
        }
    }
}

#[test]
fn ragged_rows_choose_the_kernel_by_their_average() {
    let p = Problem {
        batch: 64,
        q_len: 64,
        queries: Queries::Ragged { rows: 64 },
        keys: Keys::Paged { pages: 900, page_rows: 64, columns: 8 },
        lengths: Some(Lengths { adds_queries: true, ..Lengths::default() }),
        ..problem()
    };
    assert!(symbol(&p).starts_with("attention_decode_"));
    let many = Problem { q_len: 9000, queries: Queries::Ragged { rows: 9000 }, ..p };
    assert!(symbol(&many).starts_with("attention_bf16_d128_causal"));
}

#[test]
fn an_empty_problem_launches_nothing() {
    for p in [Problem { batch: 0, ..problem() }, Problem { q_len: 0, ..problem() }] {
        assert_eq!(plan("sm90", &p, &chips()[0]).unwrap(), Plan::default());
    }
}

#[test]
fn the_cost_of_a_causal_square_is_half_of_the_full_one() {
    let square = Problem { q_len: 4096, kv_len: 4096, ..problem() };
    let full = Problem { causal: None, ..square.clone() };
    let ratio = square.cost().flops / full.cost().flops;
    assert!((ratio - 0.5).abs() < 1e-3, "{ratio}");
    assert_eq!(full.cost().flops, 4.0 * 2.0 * 8.0 * 4096.0 * 4096.0 * 128.0);
}
