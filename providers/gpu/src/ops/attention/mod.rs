//! Attention and what surrounds it: rotary embeddings, key and value caches.

mod cache;
pub(super) mod group_query;
pub(super) mod onnx;
pub(super) mod rotary;

use tenon_kernels::KernelError;
use tenon_kernels::gpu::attention::plain::{self, MaskOperand};
use tenon_kernels::gpu::attention::{self, Problem};
use tenon_kernels::gpu::launch::Element;
use tenon_kernels::gpu::scalar::Scalar;
use tenon_plugin_api::{Error, Result};

use crate::operator::{Expansion, refused};
use crate::schedule::ValueId;

/// What attention reads and writes.
#[derive(Clone, Copy)]
struct Operands {
    out: ValueId,
    q: ValueId,
    k: ValueId,
    v: ValueId,
    lengths: Option<ValueId>,
    q_offsets: Option<ValueId>,
    page_table: Option<ValueId>,
    sinks: Option<ValueId>,
    mask: Option<(ValueId, MaskOperand)>,
}

/// Adds the work of a problem over elements of type `scalar`: on matrix units where the family has a kernel for it, else
/// without.
fn attend(cx: &mut Expansion<'_, '_>, scalar: Scalar, problem: &Problem, operands: &Operands) -> Result<()> {
    let target = cx.builder.target;
    let numbered = [
        Some(operands.out),
        Some(operands.q),
        Some(operands.k),
        Some(operands.v),
        operands.lengths,
        operands.q_offsets,
        operands.page_table,
        operands.sinks,
        operands.mask.map(|(mask, _)| mask),
    ];
    let may_be_tuned = matches!(scalar, Scalar::F16 | Scalar::BF16 | Scalar::F32);
    let tuned = match (may_be_tuned, operands.mask) {
        (true, None) => attention::plan(target.arch, problem, target.chip)
            .ok()
            .filter(|plan| plan.launches.iter().all(|launch| (target.has)(&launch.symbol))),
        _ => None,
    };
    let plan = match tuned {
        Some(plan) => plan,
        None => plain::plan(problem, scalar, operands.mask.map(|(_, mask)| mask)).map_err(refused)?,
    };
    cx.run(Ok::<_, KernelError>(plan), &numbered)
}

/// The element type as attention names it; other problems are told apart by their scalar.
fn element_of(scalar: Scalar) -> Element {
    match scalar {
        Scalar::F16 => Element::F16,
        Scalar::F32 => Element::F32,
        _ => Element::BF16,
    }
}

/// An extent as planners count it.
fn extent(size: usize) -> Result<u32> {
    u32::try_from(size).map_err(|_| Error::unsupported(format!("an extent of {size}")))
}
