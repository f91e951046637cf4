//! The kernels of `device/rotary.cu`: rotary position embedding, and new rows on their way into a cache.

use tenon_kernels::gpu::attention::Strides;
use tenon_kernels::gpu::rotary::{self, Part, Positions, Rotary};
use tenon_kernels::gpu::scalar::Scalar;

use crate::device::{download, random, rounding, upload};
use crate::harness::{Machine, assert_close};

const BATCH: usize = 2;
const ROWS: usize = 3;
const ANGLES: usize = 23;
/// Rows of a sequence with the new ones.
const LENGTHS: [i32; BATCH] = [3, 17];
/// Rows of the cache.
const ROOM: usize = 19;

/// A line turned by the angles of a position.
pub fn turned(line: &[f64], cosines: &[f64], sines: &[f64], is_interleaved: bool) -> Vec<f64> {
    let (half, mut turned) = (cosines.len(), line.to_vec());
    for pair in 0..half {
        let (first, second) = if is_interleaved { (2 * pair, 2 * pair + 1) } else { (pair, pair + half) };
        turned[first] = line[first] * cosines[pair] - line[second] * sines[pair];
        turned[second] = line[first] * sines[pair] + line[second] * cosines[pair];
    }
    turned
}

/// Queries turned in their place, keys turned and values moved into a cache `[batch, heads, room, columns]`.
fn rotate_once(
    machine: &Machine,
    scalar: Scalar,
    [columns, turned_columns]: [usize; 2],
    is_interleaved: bool,
) {
    let (heads, kv_heads, half) = (4, 2, turned_columns / 2);
    let dense = |heads: usize| Strides {
        batch: (ROWS * heads * columns) as u64,
        row: (heads * columns) as u64,
        head: columns as u64,
    };
    let cache = Strides {
        batch: (kv_heads * ROOM * columns) as u64,
        row: columns as u64,
        head: (ROOM * columns) as u64,
    };
    let stored = |is_turned| Part {
        heads: kv_heads as u32,
        from: dense(kv_heads),
        to: cache,
        is_turned,
        room: Some(ROOM as u32),
        ..Part::default()
    };
    let queries = Part {
        heads: heads as u32,
        from: dense(heads),
        to: dense(heads),
        is_turned: true,
        ..Part::default()
    };
    let problem = Rotary {
        scalar,
        batch: BATCH as u32,
        rows: ROWS as u32,
        columns: columns as u32,
        turned: turned_columns as u32,
        is_interleaved,
        angles: ANGLES as u32,
        angle_scalar: scalar,
        positions: Positions::BehindPast,
        length_bias: Some(0),
        parts: [queries, stored(true), stored(false)],
    };
    let tokens = BATCH * ROWS;
    let (q, q_values) = upload(machine, scalar, &random(61, tokens * heads * columns, -2.0, 2.0));
    let (k, k_values) = upload(machine, scalar, &random(62, tokens * kv_heads * columns, -2.0, 2.0));
    let (v, v_values) = upload(machine, scalar, &random(63, tokens * kv_heads * columns, -2.0, 2.0));
    let (c, cosines) = upload(machine, scalar, &random(64, ANGLES * half, -1.0, 1.0));
    let (s, sines) = upload(machine, scalar, &random(65, ANGLES * half, -1.0, 1.0));
    let cached = BATCH * kv_heads * ROOM * columns;
    let outputs = [q_values.len(), cached, cached].map(|count| machine.poisoned(count * scalar.bytes()));
    let operands = [&outputs[..], &[q, k, v, c, s, 0, machine.upload(&LENGTHS)]].concat();
    let plan = rotary::plan(&problem).expect("even columns");
    let what = format!("{} interleaved {is_interleaved} on {}", plan.launches[0].symbol, machine.family.name);
    machine.run(&plan, &operands).unwrap_or_else(|error| panic!("{what}: {error}"));

    // NaN where nothing is stored, as the memory was before.
    let mut wanted = [vec![0.0; q_values.len()], vec![f64::NAN; cached], vec![f64::NAN; cached]];
    for (part, (values, count)) in
        [(&q_values, heads), (&k_values, kv_heads), (&v_values, kv_heads)].into_iter().enumerate()
    {
        for line in 0..tokens * count {
            let (head, token) = (line % count, line / count);
            let (sequence, row) = (token / ROWS, token % ROWS);
            let place = LENGTHS[sequence] as usize - ROWS + row;
            let own = &values[line * columns..][..columns];
            let angle = place * half..(place + 1) * half;
            let new = match part {
                2 => own.to_vec(),
                _ => turned(own, &cosines[angle.clone()], &sines[angle], is_interleaved),
            };
            let at = if part == 0 { line } else { (sequence * kv_heads + head) * ROOM + place };
            wanted[part][at * columns..][..columns].copy_from_slice(&new);
        }
    }
    let tolerance = 2.0 * rounding(scalar);
    for (address, wanted) in outputs.into_iter().zip(&wanted) {
        let found = download(machine, scalar, address, wanted.len());
        assert_close(&what, &found, wanted, tolerance, tolerance);
    }
}

#[test]
fn rows_are_turned_and_stored_behind_their_past() {
    for machine in Machine::all() {
        for scalar in [Scalar::F32, Scalar::F16, Scalar::BF16] {
            for is_interleaved in [false, true] {
                // Whole vectors, columns that are not turned, and vectors of one.
                for columns in [[32, 32], [64, 24], [22, 22], [26, 6]] {
                    rotate_once(&machine, scalar, columns, is_interleaved);
                }
            }
        }
    }
}
