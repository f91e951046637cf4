//! The attention planner for CDNA: rows are legal, problems find a kernel or a reason, and launches fit what the device
//! text reads.

mod attention_frame;

use std::collections::HashSet;

use attention_frame::{assert_sound, pointers, problem, structure_bytes, structures, with_all_operands};
use tenon_kernels::gpu::attention::{
    Code, Codes, MaskKind, MaskOperand, Problem, Queries, Scales, Strides, mfma, operand, plan, units,
};
use tenon_kernels::gpu::launch::{Element, Plan};
use tenon_kernels::gpu::{Chip, arch};

const FAMILIES: [&str; 2] = ["gfx942", "gfx950"];

fn chips(family: &str) -> Vec<Chip> {
    arch::find(family).and_then(|arch| arch.chips()).expect("the family's chips")
}

fn planned(family: &str, problem: &Problem) -> Plan {
    plan(family, problem, &chips(family)[0]).expect("a kernel for the problem")
}

fn message(problem: &Problem) -> String {
    plan("gfx950", problem, &chips("gfx950")[0]).expect_err("no kernel for the problem").to_string()
}

#[test]
fn every_row_is_legal_on_every_chip() {
    for family in FAMILIES {
        for chip in chips(family) {
            for (row, element) in mfma::rows(family).unwrap() {
                match row {
                    mfma::Row::Forward(params) => params.check(element, &chip).unwrap(),
                    mfma::Row::Decode(params) => params.check(element, &chip).unwrap(),
                }
            }
        }
    }
}

#[test]
fn parameters_that_do_not_fit_are_refused_with_the_reason() {
    let (small, large) = (&chips("gfx942")[0], &chips("gfx950")[0]);
    let forward =
        mfma::ForwardParams { head_qk: 128, head_v: 128, bn: 128, waves: 8, has_mask: false, code: None };
    let message = |chip: &Chip| forward.check(Element::BF16, chip).unwrap_err().to_string();
    assert!(message(small).contains("registers") || message(small).contains("shared memory"));
    let wide =
        mfma::ForwardParams { head_qk: 256, head_v: 256, bn: 64, waves: 8, has_mask: false, code: None };
    assert!(wide.check(Element::BF16, large).unwrap_err().to_string().contains("registers"));
    let odd = mfma::ForwardParams { head_qk: 80, ..forward };
    assert!(odd.check(Element::BF16, large).unwrap_err().to_string().contains("multiples of 32"));
    let decode = mfma::DecodeParams {
        head_qk: 256,
        head_v: 256,
        rows: 32,
        waves: 4,
        stages: 1,
        has_mask: false,
        code: None,
    };
    assert!(decode.check(Element::BF16, small).unwrap_err().to_string().contains("shared memory"));
}

#[test]
fn every_planned_symbol_is_compiled() {
    for family in FAMILIES {
        let units = units(family).unwrap();
        let compiled: HashSet<&str> = units.iter().map(|unit| unit.kernels[0].symbol.as_str()).collect();
        assert_eq!(compiled.len(), units.len());
        for element in [Element::BF16, Element::F16, Element::F32] {
            // f32 has fewer rows of the table: narrower heads, and tiles of 16 packed rows.
            let (widest, few) = if element == Element::F32 { (128, 4) } else { (256, 8) };
            for head in (8..=widest).step_by(8) {
                for (q_len, window_left) in [(1, None), (8, Some(3)), (9, None), (300, Some(9))] {
                    let p = Problem { element, head_qk: head, head_v: head, q_len, window_left, ..problem() };
                    let plan = planned(family, &p);
                    let symbol = &plan.launches[0].symbol;
                    assert!(compiled.contains(symbol.as_str()), "{symbol}");
                    assert_eq!(symbol.contains("decode"), q_len <= few, "{symbol}");
                }
            }
        }
    }
}

#[test]
fn masks_in_memory_have_kernels() {
    let strides = Strides { batch: 150_000, row: 500, head: 0 };
    for family in FAMILIES {
        let compiled: HashSet<String> = units(family).unwrap().into_iter().map(|unit| unit.name).collect();
        for kind in [MaskKind::Element, MaskKind::Bool, MaskKind::F32] {
            for (element, widest) in [(Element::BF16, 256), (Element::F16, 256), (Element::F32, 128)] {
                for (q_len, head) in
                    [1, 300].into_iter().flat_map(|q| (8..=widest).step_by(8).map(move |h| (q, h)))
                {
                    let mask = Some(MaskOperand { kind, strides, columns: 500 });
                    let p = Problem { element, head_qk: head, head_v: head, q_len, mask, ..problem() };
                    let plan = planned(family, &p);
                    let symbol = &plan.launches[0].symbol;
                    assert!(symbol.contains("_memory_") && compiled.contains(symbol), "{symbol}");
                    assert!(pointers(&plan).contains(&operand::MASK));
                }
            }
        }
    }
}

#[test]
fn caches_of_codes_have_kernels() {
    for family in FAMILIES {
        let compiled: HashSet<String> = units(family).unwrap().into_iter().map(|unit| unit.name).collect();
        for code in [Code::E4M3, Code::I8] {
            for (scales, element) in
                [(Scales::One, Element::BF16), (Scales::Head, Element::F16), (Scales::Channel, Element::BF16)]
            {
                for (q_len, head) in
                    [1, 8, 300].into_iter().flat_map(|q| (16..=256).step_by(16).map(move |h| (q, h)))
                {
                    let codes = Some(Codes { code, scales });
                    let p = Problem { codes, element, head_qk: head, head_v: head, q_len, ..problem() };
                    let plan = planned(family, &p);
                    let symbol = &plan.launches[0].symbol;
                    assert!(symbol.contains(["_e4m3_", "_i8_"][usize::from(code == Code::I8)]), "{symbol}");
                    assert!(compiled.contains(symbol), "{symbol}");
                    let found = pointers(&plan);
                    assert!(found.contains(&operand::K_SCALES) && found.contains(&operand::V_SCALES));
                    assert_sound(&plan);
                }
            }
        }
    }
    let codes = Some(Codes { code: Code::E4M3, scales: Scales::One });
    let coded = Problem { codes, ..problem() };
    assert!(message(&Problem { head_qk: 72, ..coded.clone() }).contains("multiple of 16"));
    assert!(message(&Problem { element: Element::F32, ..coded.clone() }).contains("no attention kernel"));
    let codes = Some(Codes { code: Code::I4, scales: Scales::One });
    assert!(message(&Problem { codes, ..coded }).contains("8 bits"));
}

#[test]
fn ragged_rows_choose_the_kernel_by_their_average() {
    let few = Problem { batch: 64, q_len: 64, queries: Queries::Ragged { rows: 64 }, ..with_all_operands() };
    let many = Problem { q_len: 9000, queries: Queries::Ragged { rows: 9000 }, ..few.clone() };
    for family in FAMILIES {
        assert!(planned(family, &few).launches[0].symbol.contains("decode"));
        assert!(!planned(family, &many).launches[0].symbol.contains("decode"));
    }
}

#[test]
fn structures_have_the_layout_of_the_device_text() {
    let shared = include_str!("../device/attention_shape.cuh");
    let texts = [
        ("AttentionShape", shared),
        ("CacheShape", include_str!("../arch/cdna/attention_cache.h")),
        ("MaskShape", shared),
    ];
    let sizes = texts.map(|(name, text)| structure_bytes(text, name));
    for q_len in [1, 300] {
        assert_eq!(structures(&planned("gfx950", &Problem { q_len, ..problem() })), sizes);
    }
}

#[test]
fn launches_stay_inside_the_workspace_and_name_what_is_there() {
    let four = HashSet::from([operand::OUT, operand::Q, operand::K, operand::V]);
    for family in FAMILIES {
        for q_len in [2, 300] {
            for (p, count) in [(problem(), 4), (with_all_operands(), 8)] {
                let plan = planned(family, &Problem { q_len, ..p });
                let found = pointers(&plan);
                assert!(found.is_superset(&four) && found.len() == count, "{found:?}");
                assert_sound(&plan);
            }
        }
    }
}

#[test]
fn a_long_cache_is_dealt_to_all_compute_units_and_a_short_one_is_not_cut() {
    let long = Problem { batch: 1, q_len: 1, kv_len: 100_000, ..problem() };
    let short = Problem { kv_len: 200, ..long.clone() };
    for family in FAMILIES {
        let chip = &chips(family)[0];
        let groups = planned(family, &long).launches[0].grid[0];
        assert!(groups > chip.compute_units && groups <= 4 * chip.compute_units, "{groups}");
        let plan = planned(family, &short);
        assert_eq!((plan.launches[0].grid[0], plan.workspace_bytes), (2, 0));
    }
}

#[test]
fn what_no_kernel_does_is_refused_with_the_reason() {
    assert!(message(&Problem { element: Element::U8, ..problem() }).contains("f32 only"));
    let f32_wide = Problem { element: Element::F32, head_qk: 256, head_v: 256, ..problem() };
    assert!(message(&f32_wide).contains("no attention kernel"));
    assert!(message(&Problem { kv_heads: 3, ..problem() }).contains("multiple"));
    assert!(message(&Problem { head_v: 264, ..problem() }).contains("up to 256"));
    let far = Strides { row: 1 << 27, ..problem().k };
    assert!(message(&Problem { k: far, ..problem() }).contains("128 MiB"));
}

#[test]
fn an_empty_problem_launches_nothing() {
    for p in [Problem { batch: 0, ..problem() }, Problem { q_len: 0, ..problem() }] {
        assert_eq!(planned("gfx950", &p), Plan::default());
    }
}
