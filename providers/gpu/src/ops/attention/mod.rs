//! Attention and what surrounds it: rotary embeddings, key and value caches.

mod cache;
pub(super) mod group_query;
pub(super) mod multi_head;
pub(super) mod onnx;
pub(super) mod paged;
pub(super) mod projected;
mod quantized;
pub(super) mod rotary;

use tenon_kernels::KernelError;
use tenon_kernels::gpu::Plan;
use tenon_kernels::gpu::attention::plain::{self, PaddingOperand, Scores};
use tenon_kernels::gpu::attention::{self, Problem, operand};
use tenon_kernels::gpu::elementwise::MapOp;
use tenon_kernels::gpu::launch::{Arg, Element};
use tenon_kernels::gpu::layout::contiguous;
use tenon_kernels::gpu::scalar::Scalar;
use tenon_plugin_api::{Error, Result};

use crate::map::{Expr, Leaf, Map, MapInput, class_of};
use crate::operator::{Decline, Expansion, Lowering, refused};
use crate::schedule::ValueId;

/// What attention reads and writes.
#[derive(Clone, Copy)]
struct Operands {
    out: ValueId,
    q: ValueId,
    k: ValueId,
    v: ValueId,
    /// Bytes before the queries, keys and values in their operands.
    offsets: [u64; 3],
    lengths: Option<ValueId>,
    q_offsets: Option<ValueId>,
    page_table: Option<ValueId>,
    sinks: Option<ValueId>,
    /// Where the problem has one.
    mask: Option<ValueId>,
    padding: Option<(ValueId, PaddingOperand)>,
    /// Of the codes of keys and of values.
    scales: Option<[ValueId; 2]>,
}

impl Operands {
    /// Nothing beside queries, keys, values and the result.
    fn new(out: ValueId, [q, k, v]: [ValueId; 3]) -> Operands {
        Operands {
            out,
            q,
            k,
            v,
            offsets: [0; 3],
            lengths: None,
            q_offsets: None,
            page_table: None,
            sinks: None,
            mask: None,
            padding: None,
            scales: None,
        }
    }

    /// As [`operand`] numbers them.
    fn numbered(&self) -> [Option<ValueId>; 12] {
        [
            Some(self.out),
            Some(self.q),
            Some(self.k),
            Some(self.v),
            self.lengths,
            self.q_offsets,
            self.page_table,
            self.sinks,
            self.mask,
            self.scales.map(|[k, _]| k),
            self.scales.map(|[_, v]| v),
            self.padding.map(|(padding, _)| padding),
        ]
    }

    fn padding(&self) -> Option<&PaddingOperand> {
        self.padding.as_ref().map(|(_, padding)| padding)
    }

    /// The plan with its addresses moved to where the operands begin.
    fn placed(&self, mut plan: Plan) -> Plan {
        for arg in plan.launches.iter_mut().flat_map(|launch| &mut launch.args) {
            let (number, offset) = match arg {
                Arg::Pointer { operand, offset_bytes } => (*operand, offset_bytes),
                Arg::TensorMap(map) => (map.operand, &mut map.offset_bytes),
                _ => continue,
            };
            if (operand::Q..=operand::V).contains(&number) {
                *offset += self.offsets[number - operand::Q];
            }
        }
        plan
    }
}

/// Adds the work of a problem over elements of type `scalar`: on matrix units where the family has a kernel for it, else
/// without.
fn attend(cx: &mut Expansion<'_, '_>, scalar: Scalar, problem: &Problem, operands: &Operands) -> Result<()> {
    if let Some((_, padding)) = operands.padding
        && let Ok(joined) = plain::joined(problem, scalar, &padding)
        && let Some(plan) =
            tuned(cx, scalar, &Problem { mask: Some(joined.mask), ..problem.clone() }, operands)
    {
        // Matrix units take one mask: what is added to paddings is part of it.
        let one = cx.scratch(joined.scalar, &joined.dims.map(|extent| extent as usize))?;
        cx.run(Ok::<_, KernelError>(joined.plan), &Operands { out: one, ..*operands }.numbered())?;
        let operands = Operands { mask: Some(one), padding: None, ..*operands };
        return cx.run(Ok::<_, KernelError>(operands.placed(plan)), &operands.numbered());
    }
    let plan = match tuned(cx, scalar, problem, operands).filter(|_| operands.padding.is_none()) {
        Some(plan) => plan,
        None => plain::plan(problem, scalar, operands.padding()).map_err(refused)?,
    };
    cx.run(Ok::<_, KernelError>(operands.placed(plan)), &operands.numbered())
}

/// The launches on matrix units of a problem without paddings, where the family has a kernel for it.
fn tuned(cx: &Expansion<'_, '_>, scalar: Scalar, problem: &Problem, operands: &Operands) -> Option<Plan> {
    let target = cx.builder.target;
    let is_aligned = operands.offsets.iter().all(|offset| offset % 16 == 0);
    if !scalar.is_float() || !is_aligned {
        return None;
    }
    let plan = attention::plan(target.arch, problem, target.chip).ok()?;
    plan.launches.iter().all(|launch| (target.has)(&launch.symbol)).then_some(plan)
}

/// Adds the work that hands out scores of a problem, in place of its result.
fn hand_out(
    cx: &mut Expansion<'_, '_>,
    scalar: Scalar,
    problem: &Problem,
    operands: &Operands,
    scores: &Scores,
) -> Result<()> {
    let plan = plain::scores(problem, scalar, operands.padding(), scores).map_err(refused)?;
    cx.run(Ok::<_, KernelError>(operands.placed(plan)), &operands.numbered())
}

/// One number for each head in f32: `value`, where there is one, else zeros.
fn sinks_of(cx: &mut Expansion<'_, '_>, value: Option<ValueId>, heads: usize) -> Result<ValueId> {
    let mut inputs = Vec::new();
    let (mut class, mut leaf) = (class_of(Scalar::F32), Leaf::Number(0.0));
    if let Some(value) = value {
        let (scalar, dims) = (cx.builder.scalar(value), cx.builder.dims(value).to_vec());
        if dims != [heads] {
            return Err(Error::invalid(format!("head_sink of shape {dims:?} for {heads} heads")));
        }
        if scalar == Scalar::F32 {
            return Ok(value);
        }
        inputs.push(MapInput { value, scalar, strides: contiguous(&dims), offset: 0 });
        (class, leaf) = (class_of(scalar), Leaf::Operand(0));
    }
    let dims = vec![heads];
    let output = cx.scratch(Scalar::F32, &dims)?;
    let exprs = vec![Expr::unary(MapOp::Move, leaf)];
    cx.map(Map { class, output, scalar: Scalar::F32, dims, inputs, exprs });
    Ok(output)
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

/// The attributes `num_heads` and `kv_num_heads`, of which the first is a multiple of the second.
fn head_counts(l: &Lowering<'_>) -> std::result::Result<(usize, usize), Decline> {
    let count = |name: &str| -> std::result::Result<usize, Decline> {
        let count = l.node.int_or(name, 0)?;
        let positive = usize::try_from(count).ok().filter(|&count| count > 0);
        positive.ok_or_else(|| Decline(format!("attribute '{name}' is {count}")))
    };
    let (heads, kv_heads) = (count("num_heads")?, count("kv_num_heads")?);
    if !heads.is_multiple_of(kv_heads) {
        return Err(Decline(format!("{heads} query heads do not divide over {kv_heads} key heads")));
    }
    Ok((heads, kv_heads))
}
