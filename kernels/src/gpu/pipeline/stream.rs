//! Work of operators that read and write memory once: casts, norms, softmax, element-wise chains.

use super::machine::Machine;
use super::work::{Iteration, Schedule, Work};
use super::{Estimate, estimate};
use crate::estimate::Cost;

/// Bytes of a unit's loads under way: enough waves with 16 bytes a lane each.
const BYTES_IN_FLIGHT: f64 = 32.0 * 1024.0;

/// Expected time of an operator that moves `cost.bytes` and does `cost.flops` with vector instructions.
pub fn stream(cost: Cost, machine: &Machine) -> Estimate {
    let units = f64::from(machine.chip.compute_units);
    let work = Work {
        schedule: Schedule::Product,
        element_bits: 16,
        groups: units,
        resident: 1,
        iterations: 1.0,
        iteration: Iteration { vector_ops: cost.flops / units, ..Iteration::default() },
        unevenness: None,
        bytes_in_flight: BYTES_IN_FLIGHT,
        store_bytes: 0.0,
        end_seconds: 0.0,
        memory_bytes: cost.bytes,
        extra_seconds: 0.0,
        useful_flops: cost.flops,
        useful_bytes: cost.bytes,
    };
    estimate(&work, machine)
}
