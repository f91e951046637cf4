//! The kernel of `device/append.cu`: new queries, keys and values with a bias, a norm and a rotation on their way into
//! attention and its cache.

use tenon_kernels::gpu::attention::Strides;
use tenon_kernels::gpu::attention::append::{self, Append, Part, Past, Positions, Target, Turn, operand};
use tenon_kernels::gpu::scalar::Scalar;

use crate::device::{download, random, rounding, upload};
use crate::harness::{Machine, assert_close};
use crate::rotary::turned;

const BATCH: usize = 2;
const ROWS: usize = 3;
const HEADS: [usize; 3] = [4, 2, 2];
const ROOM: usize = 19;
const LENGTHS: [i32; BATCH] = [3, 17];
const EPSILON: f32 = 1e-5;

fn append_once(machine: &Machine, scalar: Scalar, columns: usize, turned_columns: usize) {
    let half = turned_columns / 2;
    let part = |number: usize| {
        let heads = HEADS[number];
        let dense = Strides {
            batch: (ROWS * heads * columns) as u64,
            row: (heads * columns) as u64,
            head: columns as u64,
        };
        let cache = Strides {
            batch: (heads * ROOM * columns) as u64,
            row: columns as u64,
            head: (ROOM * columns) as u64,
        };
        Part {
            heads: heads as u32,
            from: dense,
            to: if number == 0 { dense } else { cache },
            target: if number == 0 { Target::Rows } else { Target::Cache },
            is_turned: number < 2,
            bias_offset: Some((HEADS[..number].iter().sum::<usize>() * columns) as u64),
            norm_epsilon: (number == 1).then_some(EPSILON),
            ..Part::default()
        }
    };
    let turn = Turn {
        turned: turned_columns as u32,
        offset: 0,
        is_interleaved: false,
        angles: 23,
        angle_scalar: scalar,
        positions: Positions::BehindPast,
    };
    let problem = Append {
        scalar,
        batch: BATCH as u32,
        rows: ROWS as u32,
        is_ragged: false,
        columns: columns as u32,
        turn: Some(turn),
        past: Past::Total { bias: 0 },
        room: ROOM as u32,
        pages: None,
        parts: [0, 1, 2].map(part),
    };
    let tokens = BATCH * ROWS;
    let given = |seed, count, low| upload(machine, scalar, &random(seed, count, low, 2.0));
    let inputs = [0, 1, 2].map(|number| given(111 + number as u64, tokens * HEADS[number] * columns, -2.0));
    let (b, bias) = given(114, HEADS.iter().sum::<usize>() * columns, -2.0);
    let (n, norm) = given(115, columns, 0.5);
    let [(c, cosines), (s, sines)] = [116, 117].map(|seed| given(seed, 23 * half, -2.0));
    let counts =
        [tokens * HEADS[0], BATCH * HEADS[1] * ROOM, BATCH * HEADS[2] * ROOM].map(|rows| rows * columns);
    let outputs = counts.map(|count| machine.poisoned(count * scalar.bytes()));
    let mut operands = [0u64; 18];
    operands[..3].copy_from_slice(&outputs);
    (0..3).for_each(|number| operands[operand::Q + number] = inputs[number].0);
    (operands[operand::BIAS], operands[operand::K_NORM]) = (b, n);
    (operands[operand::COSINES], operands[operand::SINES]) = (c, s);
    operands[operand::LENGTHS] = machine.upload(&LENGTHS);
    let what = format!("{scalar:?} of {columns} columns on {}", machine.family.name);
    let plan = append::plan(&problem).expect("few heads");
    machine.run(&plan, &operands).unwrap_or_else(|error| panic!("{what}: {error}"));

    // NaN where nothing is stored, as the memory was before.
    let mut wanted = counts.map(|count| vec![f64::NAN; count]);
    for (number, (_, values)) in inputs.iter().enumerate() {
        let heads = HEADS[number];
        for line in 0..tokens * heads {
            let (head, token) = (line % heads, line / heads);
            let (sequence, row) = (token / ROWS, token % ROWS);
            let place = LENGTHS[sequence] as usize - ROWS + row;
            let first = (HEADS[..number].iter().sum::<usize>() + head) * columns;
            let mut own: Vec<f64> =
                (0..columns).map(|i| values[line * columns + i] + bias[first + i]).collect();
            if number == 1 {
                let mean = own.iter().map(|v| v * v).sum::<f64>() / columns as f64;
                let scale = 1.0 / (mean + f64::from(EPSILON)).sqrt();
                own.iter_mut().zip(&norm).for_each(|(v, weight)| *v *= scale * weight);
            }
            let angle = place * half..(place + 1) * half;
            if number < 2 {
                own = turned(&own, &cosines[angle.clone()], &sines[angle], false);
            }
            let at = if number == 0 { line } else { (sequence * heads + head) * ROOM + place };
            wanted[number][at * columns..][..columns].copy_from_slice(&own);
        }
    }
    // What is rounded between bias, norm and rotation is a few times as large as the result.
    let tolerance = 4e-6 + 12.0 * rounding(scalar);
    for (address, wanted) in outputs.into_iter().zip(&wanted) {
        let found = download(machine, scalar, address, wanted.len());
        assert_close(&what, &found, wanted, tolerance, tolerance);
    }
}

#[test]
fn new_rows_reach_their_places() {
    for machine in Machine::all() {
        for scalar in [Scalar::F32, Scalar::F16, Scalar::BF16] {
            for [columns, turned_columns] in [[64, 64], [96, 32], [42, 20]] {
                append_once(&machine, scalar, columns, turned_columns);
            }
        }
    }
}
