//! Matrix products on the emulator: every compiled candidate and the planner's choices against float64 references, with
//! poison in every gap between rows, behind K, and in results.

use half::{bf16, f16};
use tenon_emulator::{Class, Error, Report};
use tenon_kernels::gpu::launch::Plan;
use tenon_kernels::gpu::matmul::{
    A, A_BLOCKS, Activation, B, B_BLOCKS, BIAS, BLOCK, Bias, D, Element, Epilogue, Kind, Layout, M_SCALE,
    Matrix, N_SCALE, Output, Problem, RESIDUAL, UP, mfma, nbits, plan_for,
};
use tenon_kernels::gpu::scalar::Scalar;

use crate::harness::{Machine, assert_close};
use mfma::blocks::{self, Side};

/// A matrix in device memory, and what it holds by batch, row and column.
struct Operand {
    address: u64,
    values: Vec<f64>,
}

pub fn e4m3(bits: u8) -> f64 {
    let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f64::from(bits & 7));
    let magnitude = match (exponent, bits & 7) {
        (15, 7) => f64::NAN,
        (0, _) => mantissa / 8.0 * 2f64.powi(-6),
        _ => (1.0 + mantissa / 8.0) * 2f64.powi(exponent - 7),
    };
    if bits & 0x80 != 0 { -magnitude } else { magnitude }
}

pub fn e2m1(code: u8) -> f64 {
    let magnitude = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][usize::from(code & 7)];
    if code & 8 != 0 { -magnitude } else { magnitude }
}

fn number(element: Element, bytes: &[u8]) -> f64 {
    match element {
        Element::BF16 => bf16::from_le_bytes([bytes[0], bytes[1]]).to_f64(),
        Element::F16 => f16::from_le_bytes([bytes[0], bytes[1]]).to_f64(),
        Element::E4M3 => e4m3(bytes[0]),
        Element::S8 => f64::from(bytes[0] as i8),
        _ => f64::from(f32::from_le_bytes(bytes.try_into().expect("four bytes"))),
    }
}

/// Bytes of a random element below one in magnitude, or of any integer.
fn random_element(random: &mut fastrand::Rng, element: Element) -> Vec<u8> {
    let value = random.f32() * 2.0 - 1.0;
    match element {
        Element::BF16 => bf16::from_f32(value).to_le_bytes().to_vec(),
        Element::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
        // Every magnitude below one, zeros of both signs among them.
        Element::E4M3 => vec![random.u8(0..0x38) | random.u8(..) & 0x80],
        Element::S8 => vec![random.u8(..)],
        _ => value.to_le_bytes().to_vec(),
    }
}

/// `count` matrices as `matrix` lays them, with poison between rows and matrices.
fn operand(
    machine: &Machine,
    random: &mut fastrand::Rng,
    element: Element,
    [count, rows, columns]: [usize; 3],
    matrix: &Matrix,
) -> Operand {
    let bytes = element.bytes();
    let elements = (count - 1) * matrix.batch_stride + (rows - 1) * matrix.row_stride + columns;
    let mut memory = vec![0xffu8; elements * bytes];
    let mut values = Vec::with_capacity(count * rows * columns);
    for at in 0..count * rows * columns {
        let (index, row, column) = (at / columns / rows, at / columns % rows, at % columns);
        let place = (index * matrix.batch_stride + row * matrix.row_stride + column) * bytes;
        let fresh = random_element(random, element);
        values.push(number(element, &fresh));
        memory[place..place + bytes].copy_from_slice(&fresh);
    }
    memory.resize(memory.len().next_multiple_of(4), 0xff);
    Operand { address: machine.upload(&memory), values }
}

/// The same with a random scale for each block along K, whose products stay near one. `values` are scaled ones; the second
/// result is the address of the packed scales, which the device packs as the host does.
fn scaled_operand(
    machine: &Machine,
    random: &mut fastrand::Rng,
    (element, side): (Element, Side),
    [count, rows, k]: [usize; 3],
    matrix: &Matrix,
) -> (Operand, u64) {
    let (per_byte, blocks) = (element.values(), k / BLOCK);
    let elements = (count - 1) * matrix.batch_stride + (rows - 1) * matrix.row_stride + k / per_byte;
    let mut memory = vec![0xffu8; elements.next_multiple_of(4)];
    let highest = if element == Element::MXFP4 { 125 } else { 127 };
    let scales: Vec<u8> = (0..count * rows * blocks).map(|_| random.u8(highest - 8..=highest)).collect();
    let mut values = Vec::with_capacity(count * rows * k);
    for at in 0..count * rows * k / per_byte {
        let (row, column) = (at / (k / per_byte), at % (k / per_byte));
        let place = row / rows * matrix.batch_stride + row % rows * matrix.row_stride + column;
        let scale = 2f64.powi(i32::from(scales[row * blocks + column * per_byte / BLOCK]) - 127);
        memory[place] = match element {
            Element::MXFP4 => random.u8(..),
            _ => random_element(random, Element::E4M3)[0],
        };
        match element {
            Element::MXFP4 => {
                values.extend([memory[place] & 15, memory[place] >> 4].map(|code| e2m1(code) * scale));
            }
            _ => values.push(e4m3(memory[place]) * scale),
        }
    }
    let packed_bytes = blocks::packed_bytes(element, rows, k);
    let packed = machine.poisoned(count * packed_bytes);
    let plan = blocks::pack_plan(machine.family.name, element, side, [count, rows, k]).expect("a plan");
    machine.run(&plan, &[packed, machine.upload(&scales)]).expect("scales are packed");
    let on_host = scales.chunks(rows * blocks);
    let on_host: Vec<u8> =
        on_host.flat_map(|scales| blocks::pack(element, side, [rows, k], scales)).collect();
    assert_eq!(machine.download::<u8>(packed, on_host.len()), on_host, "{element:?} {side:?} {rows} x {k}");
    (Operand { address: machine.upload(&memory), values }, packed)
}

/// The type of operands with the elements of a result.
fn as_element(output: Output) -> Element {
    match output {
        Output::BF16 => Element::BF16,
        Output::F16 => Element::F16,
        _ => Element::F32,
    }
}

fn activate(activation: Activation, v: f64) -> f64 {
    let tanh = 2.0 / (1.0 + (-2.0 * 0.797_884_560_802_865_4 * (v + 0.044_715 * v * v * v)).exp()) - 1.0;
    match activation {
        Activation::None => v,
        Activation::Relu => v.max(0.0),
        Activation::GeluTanh => 0.5 * v * (1.0 + tanh),
        Activation::Silu => v / (1.0 + (-v).exp()),
        Activation::Gelu => {
            // The error function by its series: arguments are small.
            let x = v / std::f64::consts::SQRT_2;
            let (mut term, mut sum) = (x, x);
            for n in 1..120 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            let erf = if x.abs() > 5.0 { x.signum() } else { sum * std::f64::consts::FRAC_2_SQRT_PI };
            0.5 * v * (1.0 + erf)
        }
    }
}

/// A problem whose rows and matrices have gaps of a few elements.
pub fn problem(kind: Kind, [m, n, k]: [usize; 3], batches: usize, gap: usize) -> Problem {
    let words = 4 / kind.input.bytes().min(4);
    let spaced = |rows: usize, columns: usize, unit: usize, is_shared: bool| {
        let row_stride = (columns + gap).next_multiple_of(unit);
        let batch_stride = if is_shared || batches == 1 { 0 } else { rows * row_stride + unit };
        let share = if is_shared { usize::MAX } else { 1 };
        Matrix { row_stride, batch_stride, share, is_constant: false }
    };
    let Layout { is_a_transposed, is_b_transposed } = kind.layout;
    let stored = k / kind.input.values();
    Problem {
        kind,
        m,
        n,
        k,
        batches,
        a: if is_a_transposed { spaced(k, m, words, false) } else { spaced(m, stored, words, false) },
        b: if is_b_transposed { spaced(n, stored, words, true) } else { spaced(k, n, words, true) },
        d: spaced(m, n, 1, false),
        epilogue: Epilogue::default(),
    }
}

/// Everything that can follow a product.
pub fn full_epilogue(problem: &Problem, activation: Activation) -> Epilogue {
    Epilogue {
        alpha: 0.5,
        has_m_scale: true,
        has_n_scale: true,
        bias: Some(if problem.n.is_multiple_of(2) { Bias::F32 } else { Bias::Output }),
        activation,
        residual: Some(Matrix {
            row_stride: problem.d.row_stride + 8,
            batch_stride: problem.d.batch_stride + 8 * problem.m,
            ..problem.d
        }),
        beta: 0.25,
        ..Epilogue::default()
    }
}

/// Runs a plan on fresh data and holds all results to the reference; an error of the emulator is returned.
pub fn run(machine: &Machine, what: &str, problem: &Problem, plan: &Plan) -> Result<Report, Error> {
    let mut random = fastrand::Rng::with_seed(problem.m as u64 * 31 + problem.k as u64);
    let Problem { kind, m, n, k, batches, epilogue, .. } = *problem;
    let Layout { is_a_transposed, is_b_transposed } = kind.layout;
    let count = |matrix: &Matrix| batches.div_ceil(matrix.share.clamp(1, batches));
    let a_shape = if is_a_transposed { [k, m] } else { [m, k] };
    let b_shape = if is_b_transposed { [n, k] } else { [k, n] };
    let mut upload = |element: Element, shape: [usize; 2], matrix: &Matrix| {
        operand(machine, &mut random, element, [count(matrix), shape[0], shape[1]], matrix)
    };
    let ((a, a_blocks), (b, b_blocks)) = if kind.input.has_blocks() {
        let mut random = fastrand::Rng::with_seed(problem.n as u64 * 31 + problem.k as u64);
        let mut upload = |side, rows, matrix: &Matrix| {
            scaled_operand(machine, &mut random, (kind.input, side), [count(matrix), rows, k], matrix)
        };
        (upload(Side::A, m, &problem.a), upload(Side::B, n, &problem.b))
    } else {
        ((upload(kind.input, a_shape, &problem.a), 0), (upload(kind.input, b_shape, &problem.b), 0))
    };
    let up = match epilogue.is_gated {
        true => upload(kind.input, b_shape, &problem.b),
        false => upload(Element::F32, [1, 1], &Matrix::packed(1)),
    };
    let vector = |length: usize| Matrix::packed(length);
    let output = as_element(kind.output);
    let (m_scale, n_scale) =
        (upload(Element::F32, [1, m], &vector(m)), upload(Element::F32, [1, n], &vector(n)));
    let bias_type = if epilogue.bias == Some(Bias::F32) { Element::F32 } else { output };
    let bias = upload(bias_type, [1, n], &vector(n));
    let residual = epilogue.residual.map(|matrix| upload(output, [m, n], &matrix));
    let bytes = kind.output.bytes();
    let elements = (batches - 1) * problem.d.batch_stride + (m - 1) * problem.d.row_stride + n;
    let result = machine.poisoned(elements * bytes);

    let mut operands = [0u64; 10];
    (operands[A_BLOCKS], operands[B_BLOCKS]) = (a_blocks, b_blocks);
    (operands[A], operands[B], operands[D]) = (a.address, b.address, result);
    (operands[BIAS], operands[M_SCALE], operands[N_SCALE]) = (bias.address, m_scale.address, n_scale.address);
    operands[UP] = up.address;
    operands[RESIDUAL] = residual.as_ref().map_or(0, |residual| residual.address);
    let report = machine.run(plan, &operands)?;

    let mut memory: Vec<u8> = machine.download(result, elements * bytes);
    let (mut found, mut wanted) = (Vec::new(), Vec::new());
    for at in 0..batches * m * n {
        let (batch, row, column) = (at / n / m, at / n % m, at % n);
        let place = (batch * problem.d.batch_stride + row * problem.d.row_stride + column) * bytes;
        let taken: Vec<u8> = memory[place..place + bytes].to_vec();
        found.push(match kind.output {
            Output::I32 => f64::from(i32::from_le_bytes(taken.try_into().expect("four bytes"))),
            _ => number(output, &taken),
        });
        memory[place..place + bytes].fill(0xff);
        let a_matrix = batch / problem.a.share.clamp(1, batches) * m * k;
        let b_matrix = batch / problem.b.share.clamp(1, batches) * n * k;
        let product = |right: &[f64]| {
            let term = |x: usize| {
                let left = if is_a_transposed { x * m + row } else { row * k + x };
                let at = if is_b_transposed { column * k + x } else { x * n + column };
                a.values[a_matrix + left] * right[b_matrix + at]
            };
            (0..k).map(term).sum::<f64>() * f64::from(epilogue.alpha)
        };
        let mut sum = product(&b.values);
        sum *= if epilogue.has_m_scale { m_scale.values[row] } else { 1.0 };
        sum *= if epilogue.has_n_scale { n_scale.values[column] } else { 1.0 };
        sum += if epilogue.bias.is_some() { bias.values[column] } else { 0.0 };
        sum = activate(epilogue.activation, sum);
        sum *= if epilogue.is_gated { product(&up.values) } else { 1.0 };
        if let Some(residual) = &residual {
            sum += f64::from(epilogue.beta) * residual.values[(batch * m + row) * n + column];
        }
        wanted.push(sum);
    }
    assert!(memory.iter().all(|byte| *byte == 0xff), "{what}: something was written between rows");
    // Sums in f32 of values around one, then half of the result's last place.
    let rounding = match kind.output {
        Output::BF16 => 1.0 / 256.0,
        Output::F16 => 1.0 / 2048.0,
        _ => 0.0,
    };
    let exact = match kind.input {
        Element::S8 => 0.0,
        // Values of up to 1.5.
        Element::MXFP4 => 5e-6 * (k as f64).sqrt() + 1e-6,
        _ => 2e-6 * (k as f64).sqrt() + 1e-6,
    };
    // Both factors are of the size of their sums.
    let exact = if epilogue.is_gated { exact * (k as f64).sqrt() } else { exact };
    assert_close(what, &found, &wanted, exact, rounding);
    Ok(report)
}

/// Two steps and a part of K whose rows still start at words.
pub fn odd_depth(kind: Kind, params: &mfma::Params) -> usize {
    let behind = if kind.input.has_blocks() { BLOCK } else { 3 };
    2 * params.bk(kind) as usize + params.bk(kind) as usize / 2 + behind
}

/// The end of a gated layer.
fn gated(activation: Activation) -> Epilogue {
    Epilogue { is_gated: true, alpha: 0.5, activation, ..Epilogue::default() }
}

#[test]
fn every_candidate_agrees_with_the_reference_for_each_of_its_kinds() {
    let activations =
        [Activation::None, Activation::Relu, Activation::GeluTanh, Activation::Silu, Activation::Gelu];
    for machine in Machine::all() {
        let arch = machine.family.name;
        let table = mfma::table(arch).expect("the table is embedded");
        let mut turn = 0;
        for candidate in &table.candidates {
            for &kind in &candidate.kinds {
                turn += 1;
                let base = candidate.params;
                let is_integer = kind.output == Output::I32;
                // One row of tiles or two, columns that can be stored in eights or not.
                let m = if turn % 2 == 0 { base.bm as usize + 3 } else { base.bm as usize - 5 };
                let n = base.columns() as usize + if turn % 3 == 0 { 8 } else { 5 };
                let k = odd_depth(kind, &base);
                let mut problem = problem(kind, [m, n, k], 1 + usize::from(base.bm < 200), turn % 4 * 2);
                let mut params = base;
                if base.is_gated {
                    problem.epilogue = gated(activations[1 + turn % 4]);
                    params.splits = 1 + (turn % 3 == 1) as u32;
                } else if !is_integer {
                    problem.epilogue = full_epilogue(&problem, activations[turn % 5]);
                    params.splits = 1 + (turn % 3 == 1) as u32;
                }
                let what = format!("{} {}x{} on {arch}", params.symbol(arch, kind), m, n);
                let plan = mfma::plan(arch, &problem, &params, &machine.chip())
                    .unwrap_or_else(|error| panic!("{what}: {error}"));
                run(&machine, &what, &problem, &plan).unwrap_or_else(|error| panic!("{what}: {error}"));
            }
        }
    }
}

#[test]
fn the_planners_choice_serves_any_shape() {
    let kinds =
        ["bf16_bf16_bf16_nt", "f32_f32_f32_nt", "f32_f32_f32_nn", "f16_f16_f16_nn", "bf16_bf16_bf16_tn"];
    let shapes = [[1, 1, 1], [1, 130, 257], [3, 5, 7], [17, 40, 1030], [65, 129, 64], [200, 33, 96]];
    for machine in Machine::all() {
        for name in kinds {
            let kind = Kind::parse(name).expect("a kind");
            for shape in shapes {
                let problem = problem(kind, shape, 1, 0);
                let plan = plan_for(machine.family.name, &problem, &machine.chip());
                let what = format!("{name} {shape:?} on {}", machine.family.name);
                let plan = plan.unwrap_or_else(|error| panic!("{what}: {error}"));
                run(&machine, &what, &problem, &plan).unwrap_or_else(|error| panic!("{what}: {error}"));
            }
        }
    }
}

/// Rows of K of operands that go straight into LDS transposed: extents of any remainder, parts of K, gaps, batches.
#[test]
fn transposed_operands_of_random_shapes_agree_with_the_reference() {
    let mut random = fastrand::Rng::with_seed(29);
    for machine in Machine::all() {
        let arch = machine.family.name;
        for candidate in &mfma::table(arch).expect("the table is embedded").candidates {
            let base = candidate.params;
            for &kind in candidate.kinds.iter().filter(|kind| kind.layout != Layout::NT) {
                if !base.schedule.is_direct() {
                    continue;
                }
                for _ in 0..2 {
                    let [m, n] = [base.bm, base.columns()].map(|tile| random.usize(1..tile as usize + 40));
                    let steps = random.u32(1..5);
                    let k = (steps * base.bk(kind)) as usize - random.usize(..base.bk(kind) as usize);
                    let mut problem = problem(kind, [m, n, k], random.usize(1..3), random.usize(..4));
                    let mut params = mfma::Params { group: random.u32(1..4), ..base };
                    if base.is_gated {
                        problem.epilogue = gated(Activation::GeluTanh);
                    } else if kind.output != Output::I32 {
                        params.splits = random.u32(1..=steps.min(3));
                        problem.epilogue = full_epilogue(&problem, Activation::Silu);
                    }
                    let what = format!("{} {m}x{n}x{k} of {problem:?} on {arch}", params.symbol(arch, kind));
                    let plan = mfma::plan(arch, &problem, &params, &machine.chip())
                        .unwrap_or_else(|error| panic!("{what}: {error}"));
                    run(&machine, &what, &problem, &plan).unwrap_or_else(|error| panic!("{what}: {error}"));
                }
            }
        }
    }
}

#[test]
fn the_planners_choice_serves_gated_layers_of_any_shape() {
    for machine in Machine::all() {
        for name in ["bf16_bf16_bf16_nt", "f16_f16_f16_nn"] {
            let kind = Kind::parse(name).expect("a kind");
            for shape in [[1, 130, 258], [17, 40, 1030], [150, 200, 96]] {
                let mut problem = problem(kind, shape, 1, 2);
                problem.epilogue = gated(Activation::Silu);
                let plan = plan_for(machine.family.name, &problem, &machine.chip());
                let what = format!("gated {name} {shape:?} on {}", machine.family.name);
                let plan = plan.unwrap_or_else(|error| panic!("{what}: {error}"));
                run(&machine, &what, &problem, &plan).unwrap_or_else(|error| panic!("{what}: {error}"));
            }
        }
    }
}

/// The tile order is a permutation whatever dies, chunks and groups are.
#[test]
fn every_order_of_tiles_computes_every_tile() {
    for machine in Machine::all() {
        let arch = machine.family.name;
        let table = mfma::table(arch).expect("the table is embedded");
        let kind = Kind::parse("f32_f32_f32_nt").expect("a kind");
        let small = table.candidates.iter().filter(|candidate| candidate.kinds.contains(&kind));
        let small =
            small.min_by_key(|candidate| candidate.params.bm * candidate.params.bn).expect("one of them");
        for (chunk, group) in [(0, 1), (1, 3), (2, 8), (3, 2), (64, 4)] {
            let params = mfma::Params { chunk, group, ..small.params };
            let problem = problem(kind, [5 * params.bm as usize - 9, 6 * params.bn as usize + 1, 8], 2, 0);
            let plan = mfma::plan(arch, &problem, &params, &machine.chip()).expect("a plan");
            let what = format!("chunk {chunk}, group {group} on {arch}");
            run(&machine, &what, &problem, &plan).unwrap_or_else(|error| panic!("{what}: {error}"));
        }
    }
}

/// Reads of columns and writes of rows never meet in a bank, by the phase tables of the emulator; the counts of the
/// planner's step are those of the machine code.
#[test]
fn main_loops_have_no_bank_conflicts_and_the_planned_counts() {
    let kinds = ["bf16_bf16_bf16_nt", "bf16_bf16_bf16_nn", "bf16_bf16_bf16_tn", "bf16_bf16_bf16_tt"];
    let kinds = kinds.into_iter().chain(["e4m3_e4m3_bf16_nn", "s8_s8_i32_nn"]);
    let kinds: Vec<Kind> = kinds.map(|name| Kind::parse(name).expect("a kind")).collect();
    for mut machine in Machine::all() {
        machine.options.bank_conflicts = true;
        let arch = machine.family.name;
        let candidates = &mfma::table(arch).expect("the table is embedded").candidates;
        for (candidate, &kind) in
            candidates.iter().flat_map(|candidate| kinds.iter().map(move |k| (candidate, k)))
        {
            let params = candidate.params;
            // The waves of a stream take steps in turn: no step is one wave's. Transposed in registers, rows are written in
            // blocks that meet in banks.
            let is_meant = match params.schedule {
                mfma::Schedule::Stream => false,
                mfma::Schedule::Staged => kind.layout == Layout::NT,
                _ => true,
            };
            if !candidate.kinds.contains(&kind) || !is_meant || params.is_gated {
                continue;
            }
            let [m, n] = [params.bm as usize, params.bn as usize];
            let reports = [2, 4].map(|steps| {
                let problem = problem(kind, [m, n, steps * params.bk(kind) as usize], 1, 0);
                let plan = mfma::plan(arch, &problem, &params, &machine.chip()).expect("a plan");
                run(&machine, &candidate.name, &problem, &plan).unwrap_or_else(|error| panic!("{error}"))
            });
            assert_eq!(reports[1].lds_conflict_cycles, 0, "{} on {arch}", candidate.name);
            let step = params.step(kind, &machine.chip());
            let waves = u64::from(params.threads() / 64);
            let of = |class: Class| (reports[1].count(class) - reports[0].count(class)) / (2 * waves);
            assert_eq!(of(Class::Matrix), u64::from(step.products), "{} on {arch}", candidate.name);
            assert_eq!(of(Class::Barrier), u64::from(step.barriers), "{} on {arch}", candidate.name);
            assert_eq!(of(Class::DirectToLds), u64::from(step.direct_loads), "{} on {arch}", candidate.name);
        }
    }
}

/// Zeros of both signs, the largest magnitudes and NaN, in the encoding of ONNX, whatever that of the matrix units is.
#[test]
fn e4m3_is_read_as_onnx_encodes_it() {
    for machine in Machine::all() {
        let kind = Kind::parse("e4m3_e4m3_bf16_nt").expect("a kind");
        let (m, n, k) = (256, 8, 16);
        let problem = problem(kind, [m, n, k], 1, 0);
        let plan = plan_for(machine.family.name, &problem, &machine.chip()).expect("a plan");
        // Row r of A is the byte r and zeros of one sign; B is the identity.
        let a: Vec<u8> = (0..m * k).map(|at| if at % k == 0 { (at / k) as u8 } else { 0x80 }).collect();
        let b: Vec<u8> = (0..n * k).map(|at| if at / k == at % k { 0x38 } else { 0 }).collect();
        let result = machine.poisoned(m * n * 2);
        let operands = [machine.upload(&a), machine.upload(&b), result, 0, 0, 0, 0];
        machine.run(&plan, &operands).unwrap_or_else(|error| panic!("{error}"));
        for (row, values) in machine.download::<bf16>(result, m * n).chunks(n).enumerate() {
            let wanted = e4m3(row as u8);
            assert!(
                values[0].to_f64() == wanted || wanted.is_nan() && values[0].is_nan(),
                "byte {row:#x} on {}: {} for {wanted}",
                machine.family.name,
                values[0]
            );
        }
    }
}

/// A block's scale may be any power of two, or NaN, which reaches its own row alone; every value of E2M1 counts.
#[test]
fn block_scales_of_any_byte_reach_their_own_block() {
    for machine in Machine::all() {
        for name in ["mxfp4_mxfp4_f32_nt", "mxfp8_mxfp8_f32_nt"] {
            let kind = Kind::parse(name).expect("a kind");
            if !blocks::is_supported(machine.family, kind.input).expect("a table") {
                continue;
            }
            // Row r of A has in block r % 3 the value r and the scale of byte r, else zeros; B is ones.
            let (m, n, k, per_byte) = (256, 32, 96, kind.input.values());
            let problem = problem(kind, [m, n, k], 1, 0);
            let plan = plan_for(machine.family.name, &problem, &machine.chip()).expect("a plan");
            let code = |row: usize| if per_byte == 2 { row as u8 & 15 } else { (row as u8 & 0x80) | 0x38 };
            let a: Vec<u8> = (0..m * k / per_byte)
                .map(|at| (at / (k / per_byte), at % (k / per_byte) * per_byte))
                .map(|(row, column)| if column == row % 3 * BLOCK + row % 16 * 2 { code(row) } else { 0 })
                .collect();
            let b = vec![if per_byte == 2 { 0x22 } else { 0x38u8 }; n * k / per_byte];
            let a_scales: Vec<u8> =
                (0..m * 3).map(|at| if at % 3 == at / 3 % 3 { (at / 3) as u8 } else { 200 }).collect();
            let pack = |side, rows, scales: &[u8]| blocks::pack(kind.input, side, [rows, k], scales);
            let result = machine.poisoned(m * n * 4);
            let mut operands = [0u64; 10];
            (operands[A], operands[B], operands[D]) = (machine.upload(&a), machine.upload(&b), result);
            operands[A_BLOCKS] = machine.upload(&pack(Side::A, m, &a_scales));
            operands[B_BLOCKS] = machine.upload(&pack(Side::B, n, &[127; 96]));
            machine.run(&plan, &operands).unwrap_or_else(|error| panic!("{error}"));
            for (row, values) in machine.download::<f32>(result, m * n).chunks(n).enumerate() {
                let value = if per_byte == 2 { e2m1(code(row)) } else { e4m3(code(row)) };
                // Past the range of the result it is infinite.
                let wanted = (value * 2f64.powi(row as i32 - 127)) as f32;
                let is_right = |found: &f32| if row == 255 { found.is_nan() } else { *found == wanted };
                assert!(values.iter().all(is_right), "{name}, scale {row}: {values:?} for {wanted}");
            }
        }
    }
}

/// Weights whose codes, scales and zero points are random.
struct Random {
    weights: nbits::Weights,
    codes: Vec<u8>,
    scales: Vec<f64>,
    zeros: Vec<u8>,
}

impl Random {
    fn new(random: &mut fastrand::Rng, weights: nbits::Weights) -> Self {
        let groups = weights.n * weights.k.div_ceil(weights.group);
        let top = (1u32 << weights.bits) as u8;
        let mut below = |count: usize| (0..count).map(|_| random.u8(..top.wrapping_sub(1))).collect();
        let (codes, zeros) = (below(weights.n * weights.k), below(groups));
        // Powers of two, which every type holds.
        let scales = (0..groups).map(|_| 2f64.powi(random.i32(-6..0))).collect();
        Self { weights, codes, scales, zeros }
    }

    fn value(&self, row: usize, k: usize) -> f64 {
        let group = row * self.weights.k.div_ceil(self.weights.group) + k / self.weights.group;
        let middle = 1u8 << (self.weights.bits - 1);
        let zero = if self.weights.has_zeros { self.zeros[group] } else { middle };
        (f64::from(self.codes[row * self.weights.k + k]) - f64::from(zero)) * self.scales[group]
    }
}

impl nbits::Source for Random {
    fn codes(&self, row: usize, codes: &mut [u8]) {
        codes.copy_from_slice(&self.codes[row * self.weights.k..][..self.weights.k]);
    }
    fn scales(&self, row: usize, scales: &mut [u8]) {
        let groups = self.weights.k.div_ceil(self.weights.group);
        let bytes = self.weights.scalar.bytes();
        for (to, scale) in scales.chunks_mut(bytes).zip(&self.scales[row * groups..][..groups]) {
            match self.weights.scalar {
                Scalar::BF16 => to.copy_from_slice(&bf16::from_f64(*scale).to_le_bytes()),
                Scalar::F16 => to.copy_from_slice(&f16::from_f64(*scale).to_le_bytes()),
                _ => to.copy_from_slice(&(*scale as f32).to_le_bytes()),
            }
        }
    }
    fn zeros(&self, row: usize, zeros: &mut [u8]) {
        let groups = self.weights.k.div_ceil(self.weights.group);
        zeros.copy_from_slice(&self.zeros[row * groups..][..groups]);
    }
}

#[test]
fn packed_weights_agree_with_the_reference() {
    let mut random = fastrand::Rng::with_seed(7);
    let forms = [
        (4, 32, true, Scalar::F16, 130, 296),
        (4, 16, false, Scalar::BF16, 33, 160),
        (4, 128, true, Scalar::F32, 64, 258),
        (4, 256, false, Scalar::F16, 100, 600),
        (8, 32, false, Scalar::F32, 70, 130),
        (8, 64, true, Scalar::BF16, 64, 192),
    ];
    // A block and a bit of every form that has a kernel, for one row and for so many that weights are unpacked.
    let every = [4, 8].into_iter().flat_map(|bits| {
        let scalars = [Scalar::F16, Scalar::BF16, Scalar::F32];
        let groups = scalars.into_iter().flat_map(|scalar| [16, 32, 64, 128].map(|group| (scalar, group)));
        groups.flat_map(move |(scalar, group)| {
            [false, true].map(|has_zeros| (bits, group, has_zeros, scalar, 34, group + 16))
        })
    });
    let every = every.flat_map(|form| [3, 70].map(|m| (form, m)));
    // So few tiles of such depth that workgroups share them, in parts of different length.
    let long = [(8, 64, true, Scalar::BF16, 64, 16_456), (4, 32, false, Scalar::F16, 34, 33_000)];
    let long = long.into_iter().flat_map(|form| [3, 17].map(|m| (form, m)));
    let cases: Vec<_> =
        forms.into_iter().flat_map(|form| [1, 21, 61].map(|m| (form, m))).chain(every).chain(long).collect();
    for machine in Machine::all() {
        for &((bits, group, has_zeros, scalar, n, k), m) in &cases {
            let weights = nbits::Weights { n, k, bits, group, has_zeros, scalar };
            let source = Random::new(&mut random, weights);
            let mut packed = vec![0; weights.packed_bytes()];
            let order = nbits::order(machine.family.name).expect("an order");
            nbits::pack(&weights, order, &source, &mut packed).expect("the weights fit");
            let element = match scalar {
                Scalar::BF16 => Element::BF16,
                Scalar::F16 => Element::F16,
                _ => Element::F32,
            };
            let a = operand(&machine, &mut random, element, [1, m, k], &Matrix::packed(k));
            let bias = operand(&machine, &mut random, element, [1, 1, n], &Matrix::packed(n));
            let bytes = scalar.bytes();
            let result = machine.poisoned(m * n * bytes);
            let epilogue = Epilogue { bias: Some(Bias::Output), ..Epilogue::default() };
            let problem = nbits::NBits { weights, m, epilogue };
            let plan = nbits::plan_for(machine.family.name, &problem, &machine.chip()).expect("a plan");
            assert!(k < 1 << 14 || plan.launches[0].grid[2] > 1, "K of {k} is not split");
            let operands = [a.address, machine.upload(&packed), result, bias.address];
            let what = format!("{m} rows of {weights:?} on {}", machine.family.name);
            machine.run(&plan, &operands).unwrap_or_else(|error| panic!("{what}: {error}"));
            let found: Vec<u8> = machine.download(result, m * n * bytes);
            let found: Vec<f64> = found.chunks(bytes).map(|value| number(element, value)).collect();
            let term = |row: usize, column: usize, x: usize| a.values[row * k + x] * source.value(column, x);
            let wanted: Vec<f64> = (0..m * n)
                .map(|at| {
                    let (row, column) = (at / n, at % n);
                    (0..k).map(|x| term(row, column, x)).sum::<f64>() + bias.values[column]
                })
                .collect();
            let rounding = if bytes == 4 { 0.0 } else { 1.0 / 256.0 };
            assert_close(&what, &found, &wanted, 1e-4 * f64::from(1u32 << bits), rounding);
        }
    }
}
