//! The kernels of `device/index.cu` and `device/layout.cu` that find elements by their index, for elements of every size.

use tenon_kernels::gpu::index::{self, PadMode};
use tenon_kernels::gpu::launch::Plan;
use tenon_kernels::gpu::layout;
use tenon_kernels::gpu::scalar::Scalar;

use crate::harness::Machine;

const SIZES: [usize; 4] = [1, 2, 4, 8];

/// Random elements of `bytes` bytes each.
fn elements(seed: u64, count: usize, bytes: usize) -> Vec<Vec<u8>> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..count).map(|_| (0..bytes).map(|_| random.u8(..)).collect()).collect()
}

/// Runs a plan on elements and further operands; the results are held to those that are wanted.
fn check(machine: &Machine, what: &str, plan: &Plan, input: &[Vec<u8>], others: &[u64], wanted: &[Vec<u8>]) {
    let bytes = wanted.concat();
    let y = machine.poisoned(bytes.len());
    let x = machine.upload(&input.concat());
    let operands: Vec<u64> = [y, x].into_iter().chain(others.iter().copied()).collect();
    machine.run(plan, &operands).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(machine.download::<u8>(y, bytes.len()), bytes, "{what} on {}", machine.family.name);
}

#[test]
fn padding_takes_elements_from_inside() {
    let (input, begins, ends) = ([5usize, 7], [2i64, -1], [3i64, 6]);
    let outputs = [10i64, 12];
    for machine in Machine::all() {
        for bytes in SIZES {
            let x = elements(1, 35, bytes);
            for mode in [PadMode::Edge, PadMode::Reflect, PadMode::Wrap] {
                let inside = |at: i64, size: i64| match mode {
                    PadMode::Edge => at.clamp(0, size - 1),
                    PadMode::Wrap => at.rem_euclid(size),
                    PadMode::Reflect => {
                        let phase = at.rem_euclid(2 * size - 2);
                        phase.min(2 * size - 2 - phase)
                    }
                };
                let place = |at: i64| {
                    let row = inside(at / outputs[1] - begins[0], 5);
                    let column = inside(at % outputs[1] - begins[1], 7);
                    (row * 7 + column) as usize
                };
                let wanted: Vec<_> = (0..120).map(|at| x[place(at)].clone()).collect();
                let plan = index::pad(bytes, &input, &begins, &ends, mode).expect("two dimensions");
                check(&machine, &format!("{mode:?} of {bytes} bytes"), &plan, &x, &[], &wanted);
            }
        }
    }
}

#[test]
fn triangles_diagonals_and_marks_are_where_they_belong() {
    for machine in Machine::all() {
        for bytes in SIZES {
            let zero = vec![0u8; bytes];
            let x = elements(2, 2 * 9 * 13, bytes);
            for (diagonal, is_upper) in [(0, true), (3, false), (-2, true), (-5, false)] {
                let keeps = |at: usize| {
                    let distance = (at % 13) as i32 - (at / 13 % 9) as i32;
                    if is_upper { distance >= diagonal } else { distance <= diagonal }
                };
                let wanted: Vec<_> =
                    (0..x.len()).map(|at| if keeps(at) { x[at].clone() } else { zero.clone() }).collect();
                let plan = index::triangle(bytes, [2, 9, 13], diagonal, is_upper).expect("matrices");
                check(&machine, &format!("triangle {diagonal} of {bytes} bytes"), &plan, &x, &[], &wanted);
            }
            let one = elements(3, 1, bytes).swap_remove(0);
            let mut bits = [0u8; 8];
            bits[..bytes].copy_from_slice(&one);
            let mark = |at: usize| if at % 11 == at / 11 + 2 { one.clone() } else { zero.clone() };
            let wanted: Vec<_> = (0..77).map(mark).collect();
            let plan = index::diagonal(bytes, [7, 11], 2, u64::from_le_bytes(bits)).expect("a matrix");
            check(&machine, &format!("diagonal of {bytes} bytes"), &plan, &x, &[], &wanted);

            // [3, depth 6, 4] from indices [3, 4]; negative ones count from the end, others mark nothing.
            let indices = [0i64, 5, -1, 2, -6, 6, 3, 1, 4, -7, 0, 5];
            let values = elements(4, 2, bytes);
            let chosen = |at: usize| {
                let index = indices[at / 24 * 4 + at % 4];
                let index = if index < 0 { index + 6 } else { index };
                values[usize::from(index == (at / 4 % 6) as i64)].clone()
            };
            let wanted: Vec<_> = (0..72).map(chosen).collect();
            let plan = index::one_hot(bytes, Scalar::I64, [3, 6, 4]).expect("few elements");
            let codes: Vec<Vec<u8>> = indices.iter().map(|index| index.to_le_bytes().to_vec()).collect();
            let both = machine.upload(&values.concat());
            check(&machine, &format!("one-hot rows of {bytes} bytes"), &plan, &codes, &[both], &wanted);
        }
    }
}

#[test]
fn sequences_are_reversed_and_slices_gathered() {
    for machine in Machine::all() {
        for bytes in SIZES {
            let (steps, batch, inner) = (7, 3, 5);
            let x = elements(5, steps * batch * inner, bytes);
            let lengths = [7i64, 1, 4];
            for is_time_first in [true, false] {
                let split = |at: usize| match is_time_first {
                    true => (at / batch, at % batch),
                    false => (at % steps, at / steps),
                };
                let place = |at: usize| {
                    let (step, sequence) = split(at / inner);
                    let length = lengths[sequence] as usize;
                    let from = if step < length { length - 1 - step } else { step };
                    let line = if is_time_first { from * batch + sequence } else { sequence * steps + from };
                    line * inner + at % inner
                };
                let wanted: Vec<_> = (0..x.len()).map(|at| x[place(at)].clone()).collect();
                let plan = index::reverse_sequence(bytes, [steps, batch, inner], is_time_first);
                let given = [machine.upload(&lengths)];
                let what = format!("sequences of {bytes} bytes");
                check(&machine, &what, &plan.expect("few elements"), &x, &given, &wanted);
            }
            // A batch of two, pairs of indices into [4, 3], slices of 5.
            let x = elements(6, 2 * 4 * 3 * 5, bytes);
            let pairs = [0i64, 2, 3, -1, -4, 0, 1, 1, 2, 2, -1, -3];
            let slice = |pair: usize| {
                let [row, column] = [(0, 4), (1, 3)].map(|(part, size)| {
                    let index = pairs[2 * pair + part];
                    (if index < 0 { index + size } else { index }) as usize
                });
                (pair / 3 * 12 + row * 3 + column) * 5
            };
            let wanted: Vec<_> = (0..30).map(|at| x[slice(at / 5) + at % 5].clone()).collect();
            let plan = index::gather_nd(bytes, &[2, 4, 3, 5], 1, 3, 2).expect("pairs of indices");
            let given = [machine.upload(&pairs)];
            check(&machine, &format!("slices of {bytes} bytes"), &plan, &x, &given, &wanted);
        }
    }
}

#[test]
fn rows_and_elements_of_every_size_are_gathered_and_filled() {
    for machine in Machine::all() {
        for bytes in SIZES {
            let (outer, axis, inner) = (3, 11, 5);
            let x = elements(7, outer * axis * inner, bytes);
            let indices = [0i32, 10, -1, 3, -11, 5, 5];
            let place = |index: i32| if index < 0 { index + axis as i32 } else { index } as usize;
            let wanted: Vec<_> = (0..outer * 7 * inner)
                .map(|at| {
                    x[(at / inner / 7 * axis + place(indices[at / inner % 7])) * inner + at % inner].clone()
                })
                .collect();
            let plan = layout::gather_rows(bytes, [outer, axis, 7, inner], false).expect("a gather");
            let given = [machine.upload(&indices)];
            check(&machine, &format!("rows of {bytes} bytes"), &plan, &x, &given, &wanted);

            // One index for each element of [3, 4, 5], along the middle.
            let each: Vec<i32> = (0..60).map(|at| at * 7 % 22 - 11).collect();
            let wanted: Vec<_> = (0..60)
                .map(|at| x[(at / 20 * axis + place(each[at])) * inner + at % inner].clone())
                .collect();
            let plan = layout::gather_elements(bytes, &[outer, axis, inner], &[3, 4, 5], 1, false);
            let given = [machine.upload(&each)];
            let what = format!("elements of {bytes} bytes");
            check(&machine, &what, &plan.expect("a gather"), &x, &given, &wanted);

            let one = elements(8, 1, bytes).swap_remove(0);
            let mut bits = [0u8; 8];
            bits[..bytes].copy_from_slice(&one);
            let y = machine.poisoned(1001 * bytes);
            let plan = layout::fill(bytes, 1001, u64::from_le_bytes(bits)).expect("a fill");
            machine.run(&plan, &[y]).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(machine.download::<u8>(y, 1001 * bytes), one.repeat(1001), "{bytes}");
        }
    }
}
