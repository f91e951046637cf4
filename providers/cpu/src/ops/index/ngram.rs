//! com.microsoft NGramRepeatBlock: forbids tokens that would repeat an n-gram.

use super::position;
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::Operator;
use crate::ops::layout::cells::copy_or_reuse;

pub const OPERATORS: &[Operator] = &[Operator::of("com.microsoft", "NGramRepeatBlock", ngram_repeat_block)];

struct NGramRepeatBlock {
    size: usize,
}

fn ngram_repeat_block(node: &Node) -> Result<Box<dyn Kernel>> {
    match usize::try_from(node.required_int("ngram_size")?) {
        Ok(size) if size > 0 => Ok(Box::new(NGramRepeatBlock { size })),
        _ => Err(OpError::invalid("attribute 'ngram_size' must be positive")),
    }
}

impl Kernel for NGramRepeatBlock {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let (&[batches, length], &[rows, vocabulary]) = (cx.input(0)?.dims(), cx.input(1)?.dims()) else {
            return Err(OpError::invalid(
                "expected input_ids of shape [batch, length] and scores of shape [batch, vocabulary]",
            ));
        };
        if rows != batches {
            return Err(OpError::invalid(format!("{batches} sequences but {rows} rows of scores")));
        }
        let ids = cx.input(0)?.to_i64s()?;
        let mut output = copy_or_reuse(cx, 1, 0)?;
        let scores = output.as_mut_slice::<f32>()?;
        for (batch, ids) in ids.chunks_exact(length.max(1)).enumerate().take(batches) {
            if length < self.size {
                continue;
            }
            let tail = &ids[length + 1 - self.size..];
            for ngram in ids.windows(self.size).filter(|ngram| ngram[..self.size - 1] == *tail) {
                let token = position(ngram[self.size - 1].max(-1), vocabulary)?;
                scores[batch * vocabulary + token] = f32::NEG_INFINITY;
            }
        }
        cx.set(0, output);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::node::Attribute;
    use crate::testing::{node, run, tensor};

    #[test]
    fn a_token_that_completes_a_seen_bigram_is_forbidden() {
        let inputs = [Some(tensor(&[1, 4], &[1i64, 2, 3, 1])), Some(tensor(&[1, 4], &[0f32, 1.0, 2.0, 3.0]))];
        let size = [("ngram_size", Attribute::Int(2))];
        let outputs = run(&node("com.microsoft", "NGramRepeatBlock", 1, &size, 1), &inputs).unwrap();
        assert_eq!(outputs[0].as_slice::<f32>().unwrap(), [0.0, 1.0, f32::NEG_INFINITY, 3.0]);
    }
}
