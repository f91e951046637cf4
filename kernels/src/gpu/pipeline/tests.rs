//! What holds for every estimate, and how near the model comes to what was measured.

use super::fit::{self, Effort};
use super::machine::Machine;
use super::product::{Shape, Tile, mfma_product, product, work};
use super::published::{self, Role};
use super::{Limiter, attention, estimate, stream};
use crate::estimate::Cost;
use crate::gpu::matmul::{Epilogue, Kind, Layout, Matrix, Problem, mfma};

fn chip(name: &str) -> Machine {
    Machine::find(name).unwrap()
}

/// Every chip with a model: those of the families that have one.
fn chips() -> Vec<Machine> {
    ["h100", "h200", "mi300x", "mi325x", "mi355x"].map(chip).to_vec()
}

#[test]
fn parts_sum_to_the_time_and_none_is_negative() {
    for machine in chips() {
        for extent in [64, 512, 1000, 4096, 16384] {
            let estimate = product(&Shape::square16(extent), &Tile::ping_pong(32), &machine);
            let sum: f64 = estimate.components.iter().map(|part| part.seconds).sum();
            assert!(
                (sum / estimate.seconds - 1.0).abs() < 1e-9,
                "{} {extent}: {estimate:?}",
                machine.chip.name
            );
            for part in &estimate.components {
                assert!(part.seconds >= -1e-12, "{} {extent}: {part:?}", machine.chip.name);
            }
        }
    }
}

#[test]
fn no_estimate_is_below_the_data_sheet() {
    for machine in chips() {
        let peak = machine.chip.bf16_peak();
        for extent in [128, 1024, 8192] {
            let estimate = product(&Shape::square16(extent), &Tile::ping_pong(32), &machine);
            let least = Cost { flops: estimate.flops, bytes: estimate.bytes }.seconds(peak);
            assert!(estimate.seconds > least, "{} {extent}", machine.chip.name);
        }
        let copy = stream::stream(Cost { flops: 1e6, bytes: 1e9 }, &machine);
        let share = copy.bytes_per_second() / machine.chip.bytes_per_second;
        assert!((0.6..0.96).contains(&share), "{}: copies at {share} of the data sheet", machine.chip.name);
        assert_eq!(copy.limiter, Limiter::Memory);
    }
}

#[test]
fn more_work_takes_longer() {
    for machine in chips() {
        let seconds = |m, n, k| product(&Shape::new([m, n, k], 16), &Tile::ping_pong(32), &machine).seconds;
        assert!(seconds(4096, 4096, 8192) > seconds(4096, 4096, 4096));
        assert!(seconds(8192, 4096, 4096) > seconds(4096, 4096, 4096));
        assert!(seconds(4096, 4097, 4096) >= seconds(4096, 4096, 4096));
        let narrow = product(&Shape::new([8192; 3], 8), &Tile::ping_pong(64), &machine).seconds;
        assert!(narrow < 0.7 * seconds(8192, 8192, 8192), "8-bit operands run faster");
    }
}

#[test]
fn a_tile_too_many_costs_a_round() {
    let machine = chip("mi355x");
    let at = |tiles: usize| Shape::new([256 * tiles, 256, 8192], 16);
    let one = product(&at(256), &Tile::ping_pong(64), &machine);
    let more = product(&at(257), &Tile::ping_pong(64), &machine);
    // Twice the rounds, at the higher clock that half of the activity allows.
    assert!(more.clock_hz > one.clock_hz);
    assert!(more.seconds > 1.3 * one.seconds, "{} s and {} s", one.seconds, more.seconds);
    let few = product(&Shape::square16(1024), &Tile::ping_pong(64), &machine);
    assert_eq!(few.limiter, Limiter::Rounds, "16 tiles for 256 units");
}

#[test]
fn limiters_are_what_they_should_be() {
    let machine = chip("mi355x");
    let large = product(&Shape::square16(8192), &Tile::ping_pong(64), &machine);
    assert_eq!(large.limiter, Limiter::Clock);
    assert!(large.clock_hz < machine.chip.clock_hz);
    let one_row = product(
        &Shape::new([16, 28672, 4096], 16),
        &Tile { bm: 16, bn: 64, ahead: 8, ..Tile::ping_pong(64) },
        &machine,
    );
    assert_eq!(one_row.limiter, Limiter::Memory);
    assert_eq!(one_row.clock_hz.round(), machine.chip.clock_hz, "nothing heats the chip");
    let starved = Tile { ahead: 0, ..Tile::ping_pong(64) };
    let mut counts = work(&Shape::square16(8192), &starved, &machine);
    counts.bytes_in_flight = 1024.0;
    assert_eq!(estimate(&counts, &machine).limiter, Limiter::Latency);
    let mut reads = work(&Shape::square16(8192), &Tile::ping_pong(64), &machine);
    reads.iteration.shared_read_bytes *= 8.0;
    assert_eq!(estimate(&reads, &machine).limiter, Limiter::Shared);
}

#[test]
fn a_die_aware_order_moves_fewer_bytes_between_dies() {
    let machine = chip("mi355x");
    let bytes = |is_die_aware| {
        let tile = Tile { is_die_aware, ..Tile::ping_pong(64) };
        work(&Shape::square16(8192), &tile, &machine).iteration.fabric_bytes_per_die
    };
    // 32 units a die: about 6 x 6 tiles of 256, against 8 rows by all 32 columns.
    assert!(bytes(true) < 400_000.0 && bytes(true) > 300_000.0, "{}", bytes(true));
    assert!(bytes(false) > 2.0 * bytes(true));
}

#[test]
fn causal_attention_takes_about_half() {
    let machine = chip("mi355x");
    let tile = attention::Tile { bm: 256, bn: 64, readers: 8, ahead: 1, resident: 1, barriers: 8.0 };
    let seconds = |is_causal| {
        attention::forward(&attention::Shape::own(4, 32, 8, 16384, 128, is_causal), &tile, &machine).seconds
    };
    let share = seconds(true) / seconds(false);
    assert!((0.5..0.56).contains(&share), "{share}");
    let decode = attention::Shape { q_len: 1, ..attention::Shape::own(64, 32, 8, 4096, 128, false) };
    let estimate = attention::decode(&decode, 131_072.0, &machine);
    assert_eq!(estimate.limiter, Limiter::Memory);
}

#[test]
fn a_cache_of_codes_is_read_in_about_half_the_time() {
    for name in ["mi300x", "mi355x"] {
        let machine = chip(name);
        let elements = attention::Shape { q_len: 1, ..attention::Shape::own(64, 32, 8, 4096, 128, false) };
        let coded = Some(attention::Coded { bits: 8, ops: 4.0 });
        let codes = attention::Shape { coded, ..elements };
        let seconds = |shape: &attention::Shape| attention::decode(shape, 131_072.0, &machine).seconds;
        let share = seconds(&codes) / seconds(&elements);
        assert!((0.5..0.65).contains(&share), "{name}: {share}");
    }
}

/// The errors that `pipeline.toml` states are those that its constants have.
#[test]
fn the_model_explains_what_was_measured() {
    for (name, rows_at_least) in [("h100", 80), ("mi355x", 18), ("mi325x", 4)] {
        let machine = chip(name);
        let rows = published::on_chip(name).unwrap();
        let fitted = fit::fitted_rows(&rows, &machine);
        assert!(fitted.len() >= rows_at_least, "{name}: {} rows", fitted.len());
        let error = fit::mean_error(&fitted, &machine);
        assert!(error <= 0.06, "{name}: mean error {error} on the fitted rows");
        assert!(machine.model.error >= error, "{name} states {} and has {error}", machine.model.error);
    }
}

#[test]
fn kernels_of_known_structure_that_no_fit_saw_are_within_a_tenth() {
    let machine = chip("mi355x");
    let rows = published::on_chip("mi355x").unwrap();
    let held_out: Vec<_> = rows.iter().filter(|row| row.role == Role::HeldOut).collect();
    assert!(held_out.len() >= 6);
    let error = fit::mean_error(&held_out, &machine);
    assert!(error <= 0.10, "{error}");
}

/// Leaving rows out one at a time, for each chip of AMD that others measured, with fewer steps than the tool takes.
#[test]
fn left_out_rows_are_within_a_tenth_on_average() {
    let effort = Effort { steps: 200, left_out_steps: 100 };
    for name in ["mi355x", "mi325x"] {
        let machine = chip(name);
        let rows = published::on_chip(name).unwrap();
        let (_, accuracy) =
            fit::cross_validate(&machine, &fit::fitted_rows(&rows, &machine), effort).unwrap();
        assert!(accuracy.left_out <= 0.10, "{name}: {accuracy:?}");
    }
}

/// A product of one matrix by another in rows without gaps.
fn packed(kind: &str, [m, n, k]: [usize; 3]) -> Problem {
    let kind = Kind::parse(kind).unwrap();
    let Layout { is_a_transposed, is_b_transposed } = kind.layout;
    Problem {
        kind,
        m,
        n,
        k,
        batches: 1,
        a: Matrix::packed(if is_a_transposed { m } else { k }),
        b: Matrix::packed(if is_b_transposed { k } else { n }),
        d: Matrix::packed(n),
        epilogue: Epilogue::default(),
    }
}

/// In four phases the kernel has the published kernel's structure, and its estimate is that kernel's rate; in two it passes
/// fewer barriers.
#[test]
fn the_largest_product_is_as_fast_as_the_published_kernel() {
    let machine = chip("mi355x");
    let problem = packed("bf16_bf16_bf16_nt", [8192; 3]);
    let params = mfma::select(machine.arch, &problem, &machine.chip).unwrap();
    let rate =
        |phases| mfma_product(&problem, &mfma::Params { phases, ..params }, &machine).flops_per_second();
    assert!((1610e12..1.01 * 1610e12).contains(&rate(4)), "{}", rate(4));
    assert!(params.phases == 2 && rate(2) > rate(4), "{params:?}: {}", rate(2));
}

/// Operands whose rows run along M or N go straight into LDS: they cost what others cost, and no more than through registers.
#[test]
fn transposed_operands_are_as_fast_as_others() {
    let machine = chip("mi355x");
    let rate =
        |problem: &Problem, params: &mfma::Params| mfma_product(problem, params, &machine).flops_per_second();
    let chosen = |kind, extent| {
        let problem = packed(kind, [extent; 3]);
        (problem, mfma::select(machine.arch, &problem, &machine.chip).unwrap())
    };
    for extent in [2048, 4096, 8192, 16384] {
        let (plain, params) = chosen("bf16_bf16_bf16_nt", extent);
        let wanted = rate(&plain, &params);
        for kind in ["bf16_bf16_bf16_nn", "bf16_bf16_bf16_tn", "f16_f16_f16_tt"] {
            let (problem, params) = chosen(kind, extent);
            assert!(params.schedule.is_direct(), "{kind} {extent}: {params:?}");
            let found = rate(&problem, &params);
            assert!((found / wanted - 1.0).abs() < 0.02, "{kind} {extent}: {found} for {wanted}");
            let staged = mfma::Params {
                schedule: mfma::Schedule::Staged,
                stages: 2,
                bm: 128,
                bn: 128,
                waves_m: 2,
                waves_n: 2,
                ..params
            };
            staged.check(problem.kind, &machine.chip).unwrap();
            let through = rate(&problem, &staged);
            assert!(found > through, "{kind} {extent}: {found}, through registers {through}");
        }
    }
}

#[test]
fn a_search_finds_a_constant_again() {
    let truth = chip("mi355x");
    let rows = published::on_chip("mi355x").unwrap();
    let mut rows: Vec<_> = rows.into_iter().filter(|row| row.role == Role::Fit).collect();
    for row in &mut rows {
        row.seconds = row.estimate(&truth).seconds;
    }
    let rows: Vec<_> = rows.iter().collect();
    let mut wrong = truth.clone();
    wrong.sustained_hz *= 0.8;
    wrong.model.fitted = vec!["sustained".to_owned()];
    let found = fit::fit(&wrong, &rows, 300).unwrap();
    assert!((found.sustained_hz / truth.sustained_hz - 1.0).abs() < 0.005);
    wrong.model.fitted = vec!["colour".to_owned()];
    assert!(fit::fit(&wrong, &rows, 50).unwrap_err().to_string().contains("colour"));
}
