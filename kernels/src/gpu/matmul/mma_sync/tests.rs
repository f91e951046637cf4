//! The planner of products by warps: candidates fit, shapes are served, splits cover the depth.

use super::*;
use crate::gpu::launch::Arg;
use crate::gpu::matmul::problem::{Epilogue, Kind, Matrix};

fn problem(kind: &str, m: usize, n: usize, k: usize) -> Problem {
    let kind = Kind::parse(kind).unwrap();
    let columns = |is_transposed, own, other| if is_transposed { other } else { own };
    Problem {
        kind,
        m,
        n,
        k,
        batches: 1,
        a: Matrix::packed(columns(kind.layout.is_a_transposed, k, m)),
        b: Matrix::packed(columns(kind.layout.is_b_transposed, n, k)),
        d: Matrix::packed(n),
        epilogue: Epilogue::default(),
    }
}

#[test]
fn every_candidate_fits_a_chip_and_every_chip_has_one_for_every_kind() {
    let chips = arch::find("sm80").unwrap().chips().unwrap();
    let table = table("sm80").unwrap();
    for candidate in &table.candidates {
        for &kind in &candidate.kinds {
            let fits = |chip| candidate.params.check(kind, chip).is_ok();
            assert!(chips.iter().any(fits), "{} {}", candidate.name, kind.name());
            assert!(chips.iter().all(|chip| table.select(&problem(&kind.name(), 64, 64, 64), chip).is_ok()));
        }
    }
}

#[test]
fn the_parts_of_a_split_cover_the_depth_and_are_summed() {
    let chip = &arch::find("sm80").unwrap().chips().unwrap()[0];
    let long = problem("bf16_bf16_bf16_nt", 16, 256, 65_536);
    let plan = plan_for("sm80", &long, chip).unwrap();
    assert_eq!(plan.launches.len(), 2);
    let Some(Arg::Bytes { bytes, .. }) = plan.launches[0].args.last() else { panic!("the problem is last") };
    let part_blocks = u32::from_le_bytes(bytes[24..28].try_into().unwrap());
    let parts = plan.launches[0].grid[2];
    assert!(parts * part_blocks >= 1024 && (parts - 1) * part_blocks < 1024, "{parts} {part_blocks}");
    assert_eq!(plan.workspace_bytes, u64::from(parts) * 16 * 256 * 4);
    let exact = plan_for("sm80", &problem("s8_s8_i32_nt", 16, 256, 65_536), chip).unwrap();
    assert_eq!(exact.launches.len(), 1);
}

#[test]
fn gated_products_are_refused() {
    let chip = &arch::find("sm80").unwrap().chips().unwrap()[0];
    let mut gated = problem("bf16_bf16_bf16_nt", 16, 256, 512);
    gated.epilogue.is_gated = true;
    gated.epilogue.activation = crate::gpu::matmul::Activation::Silu;
    assert!(plan_for("sm80", &gated, chip).unwrap_err().to_string().contains("gated"));
}

#[test]
fn what_copies_of_16_bytes_cannot_address_is_refused_with_the_reason() {
    let chip = &arch::find("sm80").unwrap().chips().unwrap()[0];
    let refused = |problem: &Problem| plan_for("sm80", problem, chip).unwrap_err().to_string();
    assert!(refused(&problem("bf16_bf16_bf16_nn", 2, 4, 3)).contains("multiple of 16 bytes"));
    assert!(refused(&problem("tf32_tf32_f32_nt", 64, 64, 30)).contains("multiple of 16 bytes"));
    let mut sliced = problem("f16_f16_f16_nt", 64, 64, 64);
    sliced.b.row_stride = 65;
    assert!(refused(&sliced).contains("B has rows"));
}
