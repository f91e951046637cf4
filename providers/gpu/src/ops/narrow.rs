//! Elements of 8 bits and less that no kernel computes with: which operators take them, and casts from and to them.

use tenon_kernels::gpu::cast;
use tenon_kernels::gpu::quantize::{self, PowerRounding, Rules};
use tenon_kernels::gpu::scalar::Scalar;
use tenon_plugin_api::Result;

use crate::operator::{Decline, Expansion, Lowered, Lowering, Operator, scalar_of};

/// Operators that give the same bytes another shape.
const VIEWS: &[&str] = &["Identity", "Dropout", "Reshape", "Flatten", "Squeeze", "Unsqueeze"];

/// Operators that move whole bytes without looking at them.
const MOVES: &[&str] = &[
    "Transpose",
    "Slice",
    "Concat",
    "Split",
    "Expand",
    "Tile",
    "Gather",
    "GatherElements",
    "GatherND",
    "ReverseSequence",
    "DepthToSpace",
    "SpaceToDepth",
];

/// Operators that convert, and products of codes.
const CONVERSIONS: &[&str] =
    &["Cast", "CastLike", "QuantizeLinear", "DequantizeLinear", "QuantizedMatMul", "GemmFloat8"];

/// Operators with caches of codes.
const CACHES: &[&str] = &["GroupQueryAttention", "PagedAttention"];

/// Declines nodes that read or write elements of few bits with kernels that do not know them.
pub(super) fn check(l: &Lowering<'_>) -> std::result::Result<(), Decline> {
    let (node, op_type) = (l.node, l.node.op_type());
    let inputs = (0..node.inputs().len()).filter_map(|index| node.input(index));
    let outputs = (0..node.outputs().len()).filter_map(|index| node.output(index));
    for value in inputs.chain(outputs) {
        let Ok(scalar) = scalar_of(value.dtype()) else { continue };
        let is_standard = node.domain().is_empty();
        let is_known = !scalar.is_narrow()
            || CONVERSIONS.contains(&op_type)
            || CACHES.contains(&op_type)
            || is_standard && VIEWS.contains(&op_type)
            || is_standard && MOVES.contains(&op_type) && !scalar.is_packed();
        if !is_known {
            return Err(Decline(format!(
                "elements of type {} have no GPU kernel for {op_type}",
                value.dtype()
            )));
        }
    }
    Ok(())
}

/// True for a cast from or to elements of few bits.
pub(super) fn is_cast(l: &Lowering<'_>) -> bool {
    let is_narrow = |scalar: std::result::Result<Scalar, Decline>| scalar.is_ok_and(Scalar::is_narrow);
    matches!(l.node.op_type(), "Cast" | "CastLike")
        && (is_narrow(l.scalar(0)) || is_narrow(l.output_scalar(0)))
}

struct Cast {
    output: Scalar,
    rules: Rules,
}

impl Operator for Cast {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (input, from, dims) = (cx.input(0)?, cx.scalar(0)?, cx.dims(0)?);
        if from == self.output {
            return cx.view(0, input, 0, &dims);
        }
        let output = cx.output(0, self.output, &dims)?;
        let total = dims.iter().product();
        let own = match self.rules.saturate {
            true => cast::plan_for(cx.builder.target.arch, from, self.output, total),
            false => Ok(None),
        };
        let plan = own.map_or_else(Err, |own| {
            own.map_or_else(|| quantize::cast(from, self.output, total, self.rules), Ok)
        });
        cx.run(plan, &[Some(output), Some(input)])
    }
}

/// What `saturate` and `round_mode` of the node say.
pub(super) fn rules(l: &Lowering<'_>) -> std::result::Result<Rules, Decline> {
    Ok(Rules {
        saturate: l.node.int_or("saturate", 1)? != 0,
        power_rounding: match l.node.text_or("round_mode", "up")? {
            "up" => PowerRounding::Up,
            "down" => PowerRounding::Down,
            "nearest" => PowerRounding::Nearest,
            other => return Err(Decline(format!("rounding '{other}': up, down or nearest"))),
        },
    })
}

pub(super) fn cast(l: &Lowering<'_>) -> Lowered {
    l.scalar(0)?;
    Ok(Box::new(Cast { output: l.output_scalar(0)?, rules: rules(l)? }))
}
