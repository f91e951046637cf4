//! What tests of the attention planners share: a problem, what a plan names, and what holds of every plan.

use std::collections::HashSet;

use tenon_kernels::gpu::attention::{Causal, Keys, Lengths, Problem, Queries};
use tenon_kernels::gpu::launch::{Arg, Element, Plan};

/// Grouped heads over a square cache with fewer rows than keys; tests change what they are about.
pub fn problem() -> Problem {
    Problem {
        scale: 0.125,
        causal: Some(Causal::BottomRight),
        ..Problem::dense(Element::BF16, [2, 8, 2], [300, 500], [128, 128])
    }
}

/// The same with every operand but a mask.
pub fn with_all_operands() -> Problem {
    Problem {
        queries: Queries::Ragged { rows: 310 },
        keys: Keys::Paged { pages: 9, page_rows: 64, columns: 8 },
        lengths: Some(Lengths { is_i64: true, bias: 1, adds_queries: true }),
        has_sinks: true,
        ..problem()
    }
}

/// Operands that a plan names.
pub fn pointers(plan: &Plan) -> HashSet<usize> {
    let of = |arg: &Arg| match arg {
        Arg::Pointer { operand, .. } => Some(*operand),
        Arg::TensorMap(map) => Some(map.operand),
        _ => None,
    };
    plan.launches.iter().flat_map(|launch| launch.args.iter().filter_map(of)).collect()
}

/// Sizes of the structures that a plan passes by value.
pub fn structures(plan: &Plan) -> Vec<usize> {
    let of = |arg: &Arg| match arg {
        Arg::Bytes { bytes, .. } => Some(bytes.len()),
        _ => None,
    };
    plan.launches[0].args.iter().filter_map(of).collect()
}

/// Bytes of a structure of device text.
pub fn structure_bytes(text: &str, name: &str) -> usize {
    let body = text.split(&format!("struct {name} {{")).nth(1).expect("the text defines the structure");
    let body = body.split("};").next().expect("the structure ends");
    let mut bytes = 0usize;
    for line in body.lines() {
        let line = line.split("//").next().expect("a line has a beginning").trim();
        let Some((kind, names)) = line.split_once(' ') else { continue };
        let size: usize = if kind == "i64" { 8 } else { 4 };
        bytes = bytes.next_multiple_of(size) + size * names.split(',').count();
    }
    bytes.next_multiple_of(4)
}

/// Launches have blocks, and what they find in the workspace is in it and aligned.
#[track_caller]
pub fn assert_sound(plan: &Plan) {
    assert!(plan.zeroed_bytes <= plan.workspace_bytes);
    for launch in &plan.launches {
        assert!(launch.grid[0] > 0);
        for arg in &launch.args {
            if let Arg::Workspace { offset_bytes } = arg {
                assert!(*offset_bytes < plan.workspace_bytes && offset_bytes % 256 == 0);
            }
        }
    }
}
