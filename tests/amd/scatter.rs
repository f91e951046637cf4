//! The kernels of `device/scatter.cu`: updates of places that indices name, and rows put into caches.

use tenon_kernels::gpu::scalar::Scalar;
use tenon_kernels::gpu::scatter::{self, Reduction, Scatter};

use crate::device::{download, random, rounding, upload};
use crate::harness::{Machine, assert_close};

use Scalar::{BF16, Bool, F16, F32, F64, I8, I16, I32, I64, U8, U16, U32};

fn combine(reduction: Option<Reduction>, held: f64, value: f64) -> f64 {
    match reduction {
        None => value,
        Some(Reduction::Add) => held + value,
        Some(Reduction::Multiply) => held * value,
        Some(Reduction::Max) => held.max(value),
        Some(Reduction::Min) => held.min(value),
    }
}

fn scatter_once(machine: &Machine, scalar: Scalar, reduction: Option<Reduction>) {
    let (data, updates) = ([37usize, 5], [90usize, 4]);
    let [count, total] = [data, updates].map(|dims| dims.iter().product::<usize>());
    let rows: Vec<f64> = random(33, total, -37.0, 36.9).into_iter().map(f64::floor).collect();
    let (indices, places) = upload(machine, I64, &rows);
    let (low, high) = match scalar {
        Bool | U8 | U16 | U32 => (0.0, 1.9),
        _ => (-2.0, 2.0),
    };
    let (from, values) = upload(machine, scalar, &random(34, total, low, high));
    let (to, mut wanted) = upload(machine, scalar, &random(35, count, low, high));
    let scatter = Scatter::elements(&data, &updates, 0, true).expect("updates inside the data");
    let what = format!("{reduction:?} of {scalar:?} on {}", machine.family.name);
    match reduction {
        None => {
            let marks = machine.upload(&vec![0u32; scatter.marks()]);
            machine.run(&scatter.write(scalar.bytes()), &[to, marks, indices, from])
        }
        Some(reduction) => {
            machine.run(&scatter.reduce(scalar, reduction).expect("a reduced type"), &[to, indices, from])
        }
    }
    .unwrap_or_else(|error| panic!("{what}: {error}"));
    for (at, (&place, &value)) in places.iter().zip(&values).enumerate() {
        let row = if place < 0.0 { place as i64 + 37 } else { place as i64 } as usize;
        let held = &mut wanted[row * data[1] + at % updates[1]];
        *held = combine(reduction, *held, value);
    }
    // Sums of a few values of up to two, each rounded.
    let tolerance = if scalar.is_float() { 8.0 * rounding(scalar) } else { 0.0 };
    assert_close(&what, &download(machine, scalar, to, count), &wanted, tolerance, tolerance);
}

#[test]
fn updates_combine_in_their_order() {
    use Reduction::{Add, Max, Min, Multiply};
    for machine in Machine::all() {
        for scalar in [F32, F16, BF16, F64, I64, I32, I16, I8, U32, U16, U8] {
            for reduction in [Add, Multiply, Max, Min] {
                scatter_once(&machine, scalar, Some(reduction));
            }
        }
        scatter_once(&machine, Bool, Some(Max));
        for scalar in [U8, F16, F32, F64] {
            scatter_once(&machine, scalar, None);
        }
    }
}

#[test]
fn rows_go_behind_their_starts_in_a_cache() {
    let [batch, lines, length, row, capacity] = [3, 2, 4, 5, 11];
    let starts = [0i64, 7, 9];
    for machine in Machine::all() {
        for scalar in [U8, F16, F32, F64] {
            // The last start leads out of the cache, where it does not go round.
            for is_circular in [true, false] {
                let cached = batch * lines * capacity * row;
                let (cache, mut wanted) = upload(&machine, scalar, &random(36, cached, 0.0, 90.0));
                let count = batch * lines * length * row;
                let (update, values) = upload(&machine, scalar, &random(37, count, 0.0, 90.0));
                let starts = if is_circular { starts } else { starts.map(|start| start.min(7)) };
                let sizes = [batch, lines, length, row];
                let plan =
                    scatter::rows(scalar.bytes(), sizes, capacity, is_circular).expect("rows that fit");
                let outcome = machine.run(&plan, &[cache, update, machine.upload(&starts)]);
                outcome.unwrap_or_else(|error| panic!("{scalar:?}: {error}"));
                for (at, value) in values.into_iter().enumerate() {
                    let (column, step) = (at % row, at / row % length);
                    let line = at / row / length;
                    let place = (starts[line / lines] as usize + step) % capacity;
                    wanted[(line * capacity + place) * row + column] = value;
                }
                let what = format!("{scalar:?}, circular {is_circular}, on {}", machine.family.name);
                assert_close(&what, &download(&machine, scalar, cache, cached), &wanted, 0.0, 0.0);
            }
        }
    }
}
