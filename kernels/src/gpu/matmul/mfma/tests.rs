//! Parameters, choices and plans of the products on CDNA.

use super::*;
use crate::gpu::launch::Arg;
use crate::gpu::matmul::{Epilogue, Kind, Matrix, plan_for};

const ARCHS: [&str; 2] = ["gfx942", "gfx950"];

fn chip(arch: &str) -> Chip {
    arch::find(arch).unwrap().chip_of("").unwrap()
}

fn linear(kind: &str, m: usize, n: usize, k: usize) -> Problem {
    Problem {
        kind: Kind::parse(kind).unwrap(),
        m,
        n,
        k,
        batches: 1,
        a: Matrix::packed(k),
        b: Matrix::constant(k),
        d: Matrix::packed(n),
        epilogue: Epilogue::default(),
    }
}

#[test]
fn every_candidate_is_legal_on_every_chip_and_fits_its_estimate() {
    for arch in ARCHS {
        for chip in arch::find(arch).unwrap().chips().unwrap() {
            for candidate in &table(arch).unwrap().candidates {
                for kind in &candidate.kinds {
                    let params = &candidate.params;
                    params.check(*kind, &chip).unwrap_or_else(|e| panic!("{}: {e}", candidate.name));
                    let waves = params.waves_per_simd(*kind, &chip);
                    assert!(params.registers(*kind, &chip) <= 512 / waves, "{} {waves}", candidate.name);
                    assert!(
                        params.resident(*kind, &chip) * params.shared_bytes(*kind) <= chip.shared_bytes,
                        "{}",
                        candidate.name
                    );
                }
            }
        }
    }
}

#[test]
fn symbols_are_unique_and_name_the_parameters() {
    for arch in ARCHS {
        let units = units(arch).unwrap();
        let mut symbols: Vec<&str> = units.iter().map(|unit| unit.kernels[0].symbol.as_str()).collect();
        let count = symbols.len();
        symbols.sort_unstable();
        symbols.dedup();
        assert_eq!(symbols.len(), count);
    }
    let wanted = "matmul_bf16_bf16_bf16_nt__gfx950__bm256_bn256_bk64_st2_wv2x4_mma16_pingpong2";
    assert!(units("gfx950").unwrap().iter().any(|unit| unit.name == wanted));
}

#[test]
fn large_products_take_large_tiles_and_few_rows_are_streamed() {
    for arch in ARCHS {
        let large = select(arch, &linear("bf16_bf16_bf16_nt", 16384, 8192, 8192), &chip(arch)).unwrap();
        assert_eq!((large.bm, large.bn, large.splits), (256, 256, 1), "{arch}: {large:?}");
        assert!(large.chunk > 0, "{arch}: dies take runs of tiles");
        for m in [1, 4, 16] {
            let few = select(arch, &linear("bf16_bf16_bf16_nt", m, 4096, 4096), &chip(arch)).unwrap();
            assert_eq!(few.schedule, Schedule::Stream, "{arch} {m}: {few:?}");
        }
    }
}

#[test]
fn a_split_has_room_for_its_parts_and_zeroed_counters() {
    let problem = linear("bf16_bf16_bf16_nt", 3, 512, 16384);
    for arch in ARCHS {
        let params = select(arch, &problem, &chip(arch)).unwrap();
        assert!(params.splits > 1, "{arch}: {params:?}");
        let plan = plan(arch, &problem, &params, &chip(arch)).unwrap();
        let tiles = 512 / u64::from(params.bn);
        assert_eq!(u64::from(plan.launches[0].grid[0]), tiles * u64::from(params.splits));
        assert_eq!(plan.zeroed_bytes, (tiles * 4).next_multiple_of(256));
        let parts = tiles * u64::from(params.splits * params.bm * params.bn) * 4;
        assert_eq!(plan.workspace_bytes, plan.zeroed_bytes + parts);
    }
}

#[test]
fn the_kernel_reads_128_bytes_with_the_problem() {
    let problem = linear("f32_f32_f32_nt", 5, 24, 64);
    let plan = plan_for("gfx950", &problem, &chip("gfx950")).unwrap();
    assert_eq!(plan.launches[0].args.len(), 13);
    let Some(Arg::Bytes { bytes, align: 8 }) = plan.launches[0].args.last() else {
        panic!("bytes come last")
    };
    assert_eq!(bytes.len(), 128);
    let word = |at: usize| u32::from_le_bytes(bytes[at * 4..at * 4 + 4].try_into().unwrap());
    assert_eq!((word(0), word(1), word(2), word(7)), (5, 24, 64, 8), "extents and dies");
    assert_eq!(f32::from_bits(word(13)), 1.0, "alpha");
    assert_eq!((word(16), word(20)), (64, 64), "rows of A and B");
}

#[test]
fn what_loads_cannot_address_is_refused_with_the_reason() {
    let refused = |problem: Problem| select("gfx950", &problem, &chip("gfx950")).unwrap_err().to_string();
    assert!(refused(linear("bf16_bf16_bf16_nt", 16, 16, 7)).contains("multiple of 4 bytes"));
    assert!(refused(linear("e4m3_e4m3_bf16_nt", 16, 16, 18)).contains("multiple of 4 bytes"));
    assert!(refused(linear("bf16_bf16_bf16_nt", 0, 16, 8)).contains("nothing"));
    assert!(refused(linear("tf32_tf32_f32_nt", 16, 16, 8)).contains("no kernel"));
    let nn = Problem { b: Matrix::packed(16), ..linear("s8_s8_i32_nn", 16, 16, 16) };
    assert!(select("gfx950", &nn, &chip("gfx950")).is_ok());
    assert!(select("gfx942", &nn, &chip("gfx942")).unwrap_err().to_string().contains("no kernel"));
    let gated =
        Epilogue { is_gated: true, activation: crate::gpu::matmul::Activation::Silu, ..Epilogue::default() };
    assert!(refused(Problem { epilogue: gated, ..linear("f32_f32_f32_nt", 16, 16, 16) }).contains("gated"));
}

#[test]
fn parameters_that_do_not_fit_are_refused() {
    let kind = Kind::parse("bf16_bf16_bf16_nt").unwrap();
    let named = |arch: &str, name: &str| {
        let found = table(arch).unwrap().candidates.iter().find(|candidate| candidate.name == name);
        found.unwrap().params
    };
    let (pingpong, ring) = (named("gfx950", "256x256"), named("gfx950", "128x128"));
    assert!(pingpong.check(kind, &chip("gfx942")).unwrap_err().to_string().contains("straight into LDS"));
    for (params, kind, reason) in [
        (named("gfx950", "16x32"), "bf16_bf16_bf16_nn", "along K"),
        (named("gfx942", "64x64"), "s8_s8_i32_nn", "registers"),
        (ring, "f32_f32_f32_nn", "8 or 16 bits"),
        (Params { mma: 32, ..ring }, "f16_f16_f16_tt", "16 columns"),
        (Params { bm: 32, ..ring }, "f16_f16_f16_tn", "panels"),
        (Params { bn: 64, ..ring }, "s8_s8_i32_nn", "panels"),
        (Params { bn: 384, waves_n: 4, ..ring }, "bf16_bf16_bf16_nn", "panels"),
    ] {
        let refused = params.check(Kind::parse(kind).unwrap(), &chip("gfx950")).unwrap_err();
        assert!(refused.to_string().contains(reason), "{refused}");
    }
    for bad in [
        Params { stages: 3, ..pingpong },
        Params { phases: 3, ..pingpong },
        Params { bm: 512, ..pingpong },
        Params { bn: 64, ..pingpong },
        Params { mma: 8, ..pingpong },
        Params { stages: 1, ..ring },
        Params { stages: 6, ..ring },
        Params { bn: 96, ..ring },
        Params { splits: 0, ..ring },
    ] {
        assert!(bad.check(kind, &chip("gfx950")).is_err(), "{bad:?}");
    }
}

/// Lanes that a read of 16 bytes serves at a time: measured on CDNA4 (HipKittens), eight in turn on CDNA3.
fn phases(has_wide_reads: bool) -> Vec<Vec<u32>> {
    if !has_wide_reads {
        return (0..8).map(|phase| (8 * phase..8 * phase + 8).collect()).collect();
    }
    let first: Vec<u32> = (0..4).chain(12..16).chain(20..28).collect();
    let second: Vec<u32> = (4..12).chain(16..20).chain(28..32).collect();
    [0, 32]
        .into_iter()
        .flat_map(|base| [&first, &second].map(|lanes| lanes.iter().map(|l| l + base).collect()))
        .collect()
}

#[test]
fn reads_of_columns_meet_in_no_bank() {
    for (has_wide_reads, bank_bytes) in [(true, 256), (false, 128)] {
        for mma in [16, 32] {
            for index in 0..swizzle::ROW_BYTES / (1024 / mma) {
                for lanes in phases(has_wide_reads) {
                    let shift = swizzle::shift(has_wide_reads);
                    let mut banks: Vec<u32> = lanes
                        .iter()
                        .map(|lane| swizzle::read_address(shift, mma, 64, index, *lane) % bank_bytes)
                        .collect();
                    banks.sort_unstable();
                    banks.dedup();
                    assert_eq!(banks.len(), lanes.len(), "{mma} {index} {lanes:?}");
                }
            }
        }
    }
}

#[test]
fn transposing_reads_meet_in_no_bank_and_touch_every_byte_once() {
    for bytes in [1, 2] {
        let (tiles, depth) = (16 / bytes, swizzle::ROW_BYTES / bytes);
        let mut touched = vec![0; (tiles * 16 * swizzle::ROW_BYTES / 8) as usize];
        for (tile, index, half) in (0..tiles)
            .flat_map(|tile| [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(index, half)| (tile, index, half)))
        {
            let address = |lane| swizzle::transposed_address(bytes, tile, index, half, lane);
            // Reads of 8 bytes serve 32 lanes at a time from 64 banks.
            for lanes in [0..32, 32..64] {
                let mut banks: Vec<u32> = lanes.map(|lane| address(lane) % 256).collect();
                banks.sort_unstable();
                banks.dedup();
                assert_eq!(banks.len(), 32, "{bytes} bytes, tile {tile}, piece {index}, half {half}");
            }
            (0..64).for_each(|lane| touched[address(lane) as usize / 8] += 1);
            // Lanes of a piece hold the k of those that read rows along K.
            let row = |lane| address(lane) / swizzle::ROW_BYTES % depth;
            assert_eq!(row(16), row(0) + 16 / bytes);
        }
        assert!(touched.iter().all(|count| *count == 1), "{bytes} bytes");
    }
}

#[test]
fn a_steps_counts_follow_from_the_tile() {
    let kind = Kind::parse("bf16_bf16_bf16_nt").unwrap();
    let params = select("gfx950", &linear("bf16_bf16_bf16_nt", 8192, 8192, 8192), &chip("gfx950")).unwrap();
    let step = params.step(kind, &chip("gfx950"));
    assert_eq!((step.products, step.product_cycles), (64, 16));
    assert_eq!((step.lds_reads, step.direct_loads, step.barriers, step.vector), (24, 8, 4, 0));
    let kind = Kind::parse("f32_f32_f32_nt").unwrap();
    let f32s =
        Params { schedule: Schedule::Staged, bm: 128, bn: 128, waves_m: 2, waves_n: 2, stages: 1, ..params };
    let step = f32s.step(kind, &chip("gfx942"));
    assert_eq!((step.products, step.product_cycles), (128, 32));
    assert_eq!((step.lds_reads, step.lds_writes, step.loads, step.barriers), (16, 8, 8, 2));
}
