//! Parameters, choices and plans of the tensor-core products.

use super::*;
use crate::gpu::launch::Arg;
use crate::gpu::launch::Windows;
use crate::gpu::matmul::{A, Activation, B, Bias, Convolution, Epilogue, Kind, Matrix, Problem, Shapes};

fn chip() -> Chip {
    arch::find("sm90").unwrap().chip_of("NVIDIA H100 80GB HBM3").unwrap()
}

fn linear(m: usize, n: usize, k: usize) -> Problem {
    let kind = Kind::parse("bf16_bf16_bf16_nt").unwrap();
    Problem {
        kind,
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
fn every_candidate_is_legal_on_every_chip() {
    for chip in arch::find("sm90").unwrap().chips().unwrap() {
        for candidate in &table("sm90").unwrap().candidates {
            for kind in &candidate.kinds {
                candidate.params.check(*kind, &chip).unwrap_or_else(|e| panic!("{}: {e}", candidate.name));
            }
        }
    }
}

#[test]
fn symbols_are_unique_and_name_the_parameters() {
    let units = units("sm90").unwrap();
    let mut symbols: Vec<&str> = units.iter().map(|unit| unit.kernels[0].symbol.as_str()).collect();
    let count = symbols.len();
    symbols.sort_unstable();
    symbols.dedup();
    assert_eq!(symbols.len(), count);
    let wanted = "matmul_bf16_bf16_bf16_nt__sm90__bm128_bn256_bk64_st4_cl1x1x1_wg2_pn2";
    assert!(symbols.contains(&wanted), "{symbols:?}");
}

#[test]
fn few_rows_put_the_weights_on_the_matrix_rows() {
    for m in [1, 4, 16, 64] {
        let params = select("sm90", &linear(m, 4096, 4096), &chip()).unwrap();
        assert!(params.is_swapped && params.bn as usize >= m, "{m}: {params:?}");
    }
    let params = select("sm90", &linear(4096, 4096, 4096), &chip()).unwrap();
    assert!(!params.is_swapped && params.bm * params.bn >= 128 * 256, "{params:?}");
}

#[test]
fn a_selected_plan_covers_the_result_with_a_grid_that_fits_the_chip() {
    for (m, n, k) in [(1, 16, 8), (3, 1000, 72), (100, 250, 4096), (512, 4096, 14336), (8192, 8192, 8192)] {
        let problem = linear(m, n, k);
        let params = select("sm90", &problem, &chip()).unwrap();
        let plan = plan("sm90", &problem, &params, &chip()).unwrap();
        let launch = &plan.launches[0];
        assert!(launch.grid[0] >= 1 && launch.grid[0] <= 132, "{m}x{n}x{k}: {:?}", launch.grid);
        assert_eq!(launch.grid[0] % launch.cluster[0], 0);
        assert_eq!(launch.args.len(), 9);
        let Arg::TensorMap(map) = &launch.args[0] else { panic!("the first argument is a tensor map") };
        assert_eq!(map.operand, if params.is_swapped { B } else { A });
        assert_eq!(map.dims[..2], [k as u64, if params.is_swapped { n as u64 } else { m as u64 }]);
    }
}

#[test]
fn the_kernel_reads_eighty_bytes_with_the_problem() {
    let problem = Problem {
        epilogue: Epilogue { activation: Activation::Silu, ..Epilogue::default() },
        ..linear(5, 24, 64)
    };
    let params = select("sm90", &problem, &chip()).unwrap();
    let plan = plan("sm90", &problem, &params, &chip()).unwrap();
    let Some(Arg::Bytes { bytes, align: 8 }) = plan.launches[0].args.last() else {
        panic!("bytes come last")
    };
    assert_eq!(bytes.len(), 80);
    let word = |at: usize| u32::from_le_bytes(bytes[at * 4..at * 4 + 4].try_into().unwrap());
    assert_eq!(
        (word(0), word(1), word(2)),
        (24, 5, 1),
        "rows and columns of the transposed result, blocks of K"
    );
    assert_eq!(word(9) & 7, 3, "SiLU");
    assert_eq!(f32::from_bits(word(10)), 1.0, "alpha");
}

#[test]
fn results_without_whole_pieces_are_stored_by_element() {
    let flags = |problem: &Problem| {
        let params = select("sm90", problem, &chip()).unwrap();
        let plan = plan("sm90", problem, &params, &chip()).unwrap();
        let Some(Arg::Bytes { bytes, .. }) = plan.launches[0].args.last() else { panic!("bytes come last") };
        u32::from_le_bytes(bytes[36..40].try_into().unwrap())
    };
    assert_eq!(flags(&linear(8, 24, 64)) & 64, 0);
    assert_eq!(flags(&linear(8, 25, 64)) & 64, 64);
    assert_eq!(flags(&Problem { d: Matrix::packed(32), ..linear(8, 25, 64) }) & 64, 64);
}

#[test]
fn rows_of_the_table_are_chosen_for_their_shapes() {
    let table = table("sm90").unwrap();
    for row in &table.rows {
        let chips = arch::find("sm90").unwrap().chips().unwrap();
        let chip = chips.into_iter().find(|chip| chip.name == row.chip).unwrap_or_else(|| panic!("{row:?}"));
        assert!(row.microseconds > 0.0 && row.peer_microseconds > 0.0);
        let Shapes { kind, m, n, k } = row.shapes.clone();
        let (m, n, k) = (m.0.max(1), n.0.max(1), k.0.max(1));
        let mut problem = Problem { kind, ..linear(m, n, k) };
        if !kind.layout.is_b_transposed {
            problem.b = Matrix::constant(n);
        }
        assert_eq!(
            select("sm90", &problem, &chip).unwrap(),
            table.candidates[row.candidate].params,
            "{row:?}"
        );
    }
}

#[test]
fn a_matrix_that_batches_share_is_one_matrix_of_the_map() {
    let mut problem = linear(128, 256, 64);
    problem.batches = 6;
    problem.a = Matrix { row_stride: 64, batch_stride: 128 * 64, share: 1, is_constant: false };
    problem.b = Matrix { row_stride: 64, batch_stride: 256 * 64, share: 3, is_constant: false };
    problem.d = Matrix { row_stride: 256, batch_stride: 128 * 256, share: 1, is_constant: false };
    let params = table("sm90").unwrap().candidates[0].params;
    let plan = plan("sm90", &problem, &params, &chip()).unwrap();
    let depth = |at: usize| match &plan.launches[0].args[at] {
        Arg::TensorMap(map) => map.dims[2],
        other => panic!("{other:?}"),
    };
    assert_eq!((depth(0), depth(1), depth(2)), (6, 2, 6));
}

#[test]
fn problems_that_the_copy_engine_cannot_address_are_refused_with_the_reason() {
    let refused = |problem: Problem| select("sm90", &problem, &chip()).unwrap_err().to_string();
    assert!(refused(linear(16, 16, 7)).contains("16 bytes"));
    let padded = Matrix::packed(8);
    assert!(refused(Problem { a: padded, b: padded, ..linear(16, 16, 7) }).contains("next row"));
    assert!(refused(linear(0, 16, 8)).contains("nothing"));
    let kind = Kind::parse("tf32_tf32_f32_nn").unwrap();
    let nn = Problem { kind, b: Matrix::packed(16), ..linear(16, 16, 8) };
    assert!(refused(nn).contains("n x k"));
    let kind = Kind::parse("s8_s8_i32_nt").unwrap();
    let scaled = Epilogue { alpha: 0.5, ..Epilogue::default() };
    assert!(refused(Problem { kind, epilogue: scaled, ..linear(16, 16, 16) }).contains("plain sums"));
    let kind = Kind::parse("bf16_bf16_bf16_tn").unwrap();
    let tn = Problem { kind, a: Matrix::packed(16), b: Matrix::packed(16), ..linear(16, 16, 8) };
    assert!(refused(tn).contains("compiled"));
}

#[test]
fn parameters_that_do_not_fit_are_refused() {
    let table = table("sm90").unwrap();
    let good = table.candidates[0].params;
    let kind = Kind::parse("bf16_bf16_bf16_nt").unwrap();
    let bad = [
        Params { stages: 5, ..good },
        Params { bn: 264, ..good },
        Params { bm: 96, ..good },
        Params { bm: 256, ..good },
        Params { cluster_m: 16, ..good },
        Params { cluster_m: 2, cluster_k: 2, ..good },
        Params { panels: 3, ..good },
    ];
    for params in bad {
        assert!(params.check(kind, &chip()).is_err(), "{params:?}");
    }
}

#[test]
fn a_name_of_a_kind_reads_back() {
    for candidate in &table("sm90").unwrap().candidates {
        for kind in &candidate.kinds {
            assert_eq!(Kind::parse(&kind.name()).unwrap(), *kind);
        }
    }
    assert!(Kind::parse("bf16_f16_f32_nt").is_err());
}

#[test]
fn a_convolution_is_one_launch_that_gathers_its_windows() {
    let convolution = Convolution {
        kind: Kind::parse("f16_f16_f16_nt").unwrap(),
        batch: 4,
        in_channels: 96,
        out_channels: 200,
        input: [30, 21],
        output: [15, 21],
        kernel: [3, 5],
        steps: [2, 1],
        dilations: [1, 1],
        pads: [1, 2],
        epilogue: Epilogue { bias: Some(Bias::Output), is_bias_along_rows: true, ..Epilogue::default() },
    };
    let plan = plan_convolution("sm90", &convolution, &chip()).unwrap();
    let [launch] = &plan.launches[..] else { panic!("{plan:?}") };
    assert!(launch.symbol.ends_with("_windows"), "{}", launch.symbol);
    let maps: Vec<_> = launch
        .args
        .iter()
        .filter_map(|arg| match arg {
            Arg::TensorMap(map) => Some(map),
            _ => None,
        })
        .collect();
    assert_eq!((maps[0].operand, &maps[0].dims[..2]), (A, &[15 * 128, 200][..]));
    assert_eq!((maps[1].operand, &maps[1].dims[..]), (B, &[96, 21, 30, 4][..]));
    assert_eq!(maps[1].windows, Some(Windows { first: [-2, -1], last: [-2, -2], steps: [1, 2] }));
    assert_eq!(launch.cost.flops, 2.0 * 4.0 * 200.0 * (15.0 * 21.0) * (96.0 * 15.0));
    let params = table("sm90").unwrap().candidates[0].params;
    assert!(plan_windows("sm90", &convolution, &params, &chip()).is_err());
    let product = Problem { epilogue: convolution.epilogue, ..linear(64, 64, 64) };
    assert!(
        crate::gpu::matmul::plan_for("sm80", &product, &chip()).unwrap_err().to_string().contains("rows")
    );
}
