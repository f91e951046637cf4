//! Strings.

use super::Rule;
use super::elementwise::{binary, predicate};
use crate::dtype::DType;
use crate::error::Result;
use crate::graph::Dim;
use crate::shape::dim;
use crate::shape::site::Site;

pub const RULES: &[Rule] = &[
    Rule::onnx("RegexFullMatch", 1, predicate),
    Rule::onnx("StringConcat", 2, binary),
    Rule::onnx("StringNormalizer", 1, normalizer),
    Rule::onnx("StringSplit", 1, split),
    Rule::onnx("TfIdfVectorizer", 1, tf_idf),
    Rule::of("com.microsoft", "MurmurHash3", 1, hash),
    Rule::of("com.microsoft", "Tokenizer", 1, tokenizer),
];

fn normalizer(s: &mut Site<'_>) -> Result<()> {
    let filters = s.node.attributes.strings("stopwords")?.is_some_and(|w| !w.is_empty());
    let shape = match s.shape(0) {
        Some(shape) if filters => {
            let mut dims = shape.clone();
            if let Some(last) = dims.0.last_mut() {
                *last = Dim::Unknown;
            }
            Some(dims)
        }
        other => other.cloned(),
    };
    s.set_tensor(0, DType::String, shape);
    Ok(())
}

fn split(s: &mut Site<'_>) -> Result<()> {
    let shape = s.shape(0).map(|shape| shape.iter().cloned().chain([Dim::Unknown]).collect());
    s.set_tensor(0, DType::String, shape);
    s.copy_shape(0, 1, DType::I64);
    Ok(())
}

fn tf_idf(s: &mut Site<'_>) -> Result<()> {
    let width = match s.ints("ngram_indexes")? {
        Some(indexes) => {
            indexes.iter().max().and_then(|m| usize::try_from(m + 1).ok()).map_or(Dim::Unknown, Dim::Known)
        }
        None => return Err(s.missing("ngram_indexes")),
    };
    let shape = match s.rank(0) {
        Some(0 | 1) => Some([width].into_iter().collect()),
        Some(2) => Some([s.dim(0, 0), width].into_iter().collect()),
        _ => None,
    };
    s.set_tensor(0, DType::F32, shape);
    Ok(())
}

fn hash(s: &mut Site<'_>) -> Result<()> {
    let dtype = if s.flag("positive", true)? { DType::U32 } else { DType::I32 };
    s.copy_shape(0, 0, dtype);
    Ok(())
}

fn tokenizer(s: &mut Site<'_>) -> Result<()> {
    s.set_tensor(0, DType::String, s.rank(0).map(|r| dim::unknown(r + 1)));
    Ok(())
}
