//! The report for a chip that nobody here has: its table as text, and what holds whatever the rows are.

use tenon_kernels::estimate::Bound;
use tenon_kernels::gpu::pipeline::{Limiter, Machine, published};
use tenon_roofline::problem::{Dtype, Operator, Problem};
use tenon_roofline::report::{self, Line};
use tenon_roofline::svg;

fn lines(chip: &str, problems: &[Problem]) -> Vec<Line> {
    let machine = Machine::find(chip).expect("the chip is known");
    let measured = published::on_chip(chip).expect("the table is well formed");
    problems
        .iter()
        .map(|problem| Line::of(problem, &machine, &measured).expect("the problem has a row"))
        .collect()
}

fn matmul(shape: &str) -> Problem {
    Problem::parse(Operator::Matmul, shape, Dtype::Bf16).expect("the shape is well formed")
}

/// Columns of the table that do not change with every tuned constant, cells separated by `|`.
#[test]
fn the_table_of_an_absent_chip_reads_so() {
    let problems = ["8192x8192x8192", "16384x16384x16384", "16x28672x4096"].map(matmul);
    let found: Vec<String> = lines("mi355x", &problems)
        .iter()
        .map(|line| {
            let best = line.others.first().map_or("-", |(kernel, _)| kernel.as_str());
            let (bound, limiter) = (report::bound_name(line.bound()), line.estimate.limiter.name());
            format!("{} | {} | {bound} | {limiter} | {best}", line.problem.operator(), line.problem)
        })
        .collect();
    let expected = [
        "matmul | 8192x8192x8192 | compute | matrix units, power-limited clock | HipKittens",
        "matmul | 16384x16384x16384 | compute | matrix units, power-limited clock | hipBLASLt",
        "matmul | 16x28672x4096 | memory | device memory | -",
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_large_product_is_where_the_best_published_kernels_are() {
    let line = &lines("mi355x", &[matmul("8192x8192x8192")])[0];
    let tflops = line.estimate.flops_per_second() / 1e12;
    assert!((1500.0..1800.0).contains(&tflops), "{tflops}");
    assert!(line.kernel.starts_with("256x256"), "{}", line.kernel);
    assert!(line.symbol.contains("__gfx950__"), "{}", line.symbol);
    assert!(line.estimate.error > 0.0 && line.estimate.error <= 0.10);
    let json = line.json();
    assert_eq!(json["kind"], "estimate");
    let parts = json["us_by_part"].as_object().unwrap().values().map(|v| v.as_f64().unwrap()).sum::<f64>();
    assert!((parts - json["us"].as_f64().unwrap()).abs() < 1e-6 * parts, "the parts are all of the time");
}

#[test]
fn every_line_is_below_its_roof() {
    for chip in ["h100", "h200", "mi300x", "mi355x"] {
        for operator in [Operator::Matmul, Operator::Attention, Operator::Cast, Operator::Norm] {
            for line in lines(chip, &Problem::usual(operator, Dtype::Bf16)) {
                assert!(line.share() > 0.0 && line.share() < 1.0, "{chip} {operator} {}", line.problem);
            }
        }
    }
}

#[test]
fn one_row_is_bound_by_memory_and_a_thousand_by_the_matrix_units() {
    for chip in ["h100", "mi355x"] {
        let found = lines(chip, &[matmul("1x28672x4096"), matmul("4096x28672x4096")]);
        assert_eq!(found[0].bound(), Bound::Memory);
        assert_eq!(found[0].estimate.limiter, Limiter::Memory, "{chip}");
        assert_eq!(found[1].bound(), Bound::Compute);
    }
}

#[test]
fn the_evidence_of_a_present_chip_has_ours_and_the_vendors() {
    let machine = Machine::find("h100").unwrap();
    let measured = published::on_chip("h100").unwrap();
    let text = report::evidence(&measured, &machine).to_string();
    assert!(measured.len() > 80 && text.contains("matmul.toml") && text.contains("attention.toml"));
    let with_peer = measured.iter().filter(|row| row.peer_seconds.is_some()).count();
    assert!(with_peer > 80, "{with_peer}");
}

#[test]
fn the_picture_is_well_formed_and_has_every_point() {
    let machine = Machine::find("mi355x").unwrap();
    let lines = lines("mi355x", &Problem::llm(Dtype::Bf16));
    let svg = svg::roofline(&lines, &machine);
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    assert_eq!(svg.matches("fill=\"#06c\"").count(), lines.len());
    assert_eq!(svg.matches("<title>").count(), svg.matches("</title>").count());
    assert!(svg.contains("estimate") && !svg.contains("NaN"));
}

#[test]
fn unknown_chips_and_shapes_without_a_kernel_say_so() {
    let error = Machine::find("mi999x").unwrap_err().to_string();
    assert!(error.contains("mi355x") && error.contains("h100"), "{error}");
    let machine = Machine::find("mi355x").unwrap();
    let problem = Problem::parse(Operator::Matmul, "64x64x64", Dtype::Tf32).unwrap();
    assert!(Line::of(&problem, &machine, &[]).unwrap_err().to_string().contains("64x64x64"));
}
