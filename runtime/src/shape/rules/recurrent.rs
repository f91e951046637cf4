//! RNN, GRU, LSTM and the quantised LSTM.

use super::Rule;
use crate::error::{Error, Result};
use crate::graph::{Dim, Shape};
use crate::shape::dim;
use crate::shape::site::Site;

pub const RULES: &[Rule] = &[
    Rule::onnx("GRU", 3, recurrent),
    Rule::onnx("LSTM", 3, recurrent),
    Rule::onnx("RNN", 3, recurrent),
    Rule::of("com.microsoft", "DynamicQuantizeLSTM", 3, recurrent),
];

/// Y `[seq, directions, batch, hidden]`, then one final state `[directions, batch, hidden]` an output; with layout 1 the
/// batch comes first.
fn recurrent(s: &mut Site<'_>) -> Result<()> {
    s.expect_rank(0, 3)?;
    s.expect_rank(1, 3)?;
    s.expect_rank(2, 3)?;
    let directions = match s.string("direction", "forward")? {
        "forward" | "reverse" => 1,
        "bidirectional" => 2,
        other => {
            return Err(Error::invalid_model(format!(
                "direction is '{other}'; it must be forward, reverse or bidirectional"
            )));
        }
    };
    if dim::differ(&s.dim(1, 0), &Dim::Known(directions)) {
        return Err(Error::invalid_model(format!(
            "{} must have {directions} as its first size for this direction",
            s.describe(1)
        )));
    }
    let hidden = match s.node.attributes.int("hidden_size")? {
        Some(_) => Dim::Known(s.size_attribute("hidden_size", 0)?),
        None => s.dim(2, 2),
    };
    let batch_first = s.version() >= 14 && s.flag("layout", false)?;
    let (sequence, batch) = if batch_first { (s.dim(0, 1), s.dim(0, 0)) } else { (s.dim(0, 0), s.dim(0, 1)) };
    let directions = Dim::Known(directions);
    let (all, last): (Shape, Shape) = if batch_first {
        let last = [batch.clone(), directions.clone(), hidden.clone()];
        ([batch, sequence, directions, hidden].into_iter().collect(), last.into_iter().collect())
    } else {
        let last = [directions.clone(), batch.clone(), hidden.clone()];
        ([sequence, directions, batch, hidden].into_iter().collect(), last.into_iter().collect())
    };
    let dtype = s.dtype(0);
    s.set_tensor(0, dtype, Some(all));
    for output in 1..s.node.outputs().len() {
        s.set_tensor(output, dtype, Some(last.clone()));
    }
    Ok(())
}
