//! Operators on strings: StringConcat, StringSplit, StringNormalizer and RegexFullMatch.

pub mod tfidf;

use regex::Regex;

use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::elementwise::broadcast::Broadcast;
use crate::ops::layout::text::{Strings, write};
use crate::ops::{NEWEST, Operator};
use crate::tensor::{Bool, DType, Dims};

struct Concat;

impl Kernel for Concat {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let (x, y) = (cx.input(0)?, cx.input(1)?);
        let dims = cx.broadcast(0, 1)?;
        let plan = Broadcast::new([x.dims(), y.dims()], &dims)?;
        let (x, y) = (Strings::new(x)?, Strings::new(y)?);
        let mut joined: Vec<Vec<u8>> = Vec::with_capacity(plan.len());
        plan.for_each_row(0..plan.len(), |_, len, [at_x, at_y]| {
            for k in 0..len {
                let first = x.get(at_x + if plan.repeats(0) { 0 } else { k });
                let second = y.get(at_y + if plan.repeats(1) { 0 } else { k });
                joined.push([first, second].concat());
            }
        });
        let out = write(cx, 0, &dims, |i| &joined[i])?;
        cx.set(0, out);
        Ok(())
    }
}

/// Element `index` as text. Errors when it is not UTF-8.
fn text<'a>(strings: &Strings<'a>, index: usize) -> Result<&'a str> {
    std::str::from_utf8(strings.get(index))
        .map_err(|_| OpError::invalid(format!("the string at position {index} is not UTF-8")))
}

/// Splits strings at a delimiter, or at runs of white space when it is empty.
struct Split {
    delimiter: String,
    /// `None`: as often as possible.
    max_splits: Option<usize>,
}

impl Split {
    fn split<'a>(&self, text: &'a str) -> Vec<&'a str> {
        let limit = self.max_splits.map_or(usize::MAX, |splits| splits.saturating_add(1));
        if !self.delimiter.is_empty() {
            return text.splitn(limit, self.delimiter.as_str()).collect();
        }
        let mut parts = Vec::new();
        let mut rest = text.trim_start();
        while !rest.is_empty() {
            if parts.len() + 1 == limit {
                parts.push(rest);
                break;
            }
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            parts.push(&rest[..end]);
            rest = rest[end..].trim_start();
        }
        parts
    }
}

impl Kernel for Split {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let input = cx.input(0)?;
        let strings = Strings::new(input)?;
        let parts: Vec<Vec<&str>> =
            (0..strings.len()).map(|i| Ok(self.split(text(&strings, i)?))).collect::<Result<_>>()?;
        let width = parts.iter().map(Vec::len).max().unwrap_or(0);
        let mut dims: Dims = input.dims().into();
        let mut counts = cx.output(1, DType::I64, &dims)?;
        for (count, parts) in counts.as_mut_slice::<i64>()?.iter_mut().zip(&parts) {
            *count = parts.len() as i64;
        }
        dims.push(width);
        let part = |i: usize| parts[i / width].get(i % width).map_or(&[][..], |part| part.as_bytes());
        let out = write(cx, 0, &dims, part)?;
        cx.set(0, out);
        cx.set(1, counts);
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum CaseChange {
    None,
    Lower,
    Upper,
}

/// Removes stop words and changes case.
struct Normalizer {
    change: CaseChange,
    case_sensitive: bool,
    /// In lower case unless `case_sensitive`.
    stop_words: Vec<String>,
}

impl Normalizer {
    fn normalize(&self, text: &str) -> Option<String> {
        let compared = if self.case_sensitive { text.to_string() } else { text.to_lowercase() };
        if self.stop_words.contains(&compared) {
            return None;
        }
        Some(match self.change {
            CaseChange::None => text.to_string(),
            CaseChange::Lower => text.to_lowercase(),
            CaseChange::Upper => text.to_uppercase(),
        })
    }
}

impl Kernel for Normalizer {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let input = cx.input(0)?;
        let mut dims: Dims = input.dims().into();
        if !matches!(input.dims(), [_] | [1, _]) {
            return Err(OpError::invalid(format!("expected shape [C] or [1, C], got {:?}", input.dims())));
        }
        let strings = Strings::new(input)?;
        let mut kept = Vec::new();
        for i in 0..strings.len() {
            kept.extend(self.normalize(text(&strings, i)?));
        }
        if kept.is_empty() {
            kept.push(String::new());
        }
        if let Some(last) = dims.last_mut() {
            *last = kept.len();
        }
        let out = write(cx, 0, &dims, |i| kept[i].as_bytes())?;
        cx.set(0, out);
        Ok(())
    }
}

struct FullMatch {
    pattern: Regex,
}

impl Kernel for FullMatch {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let input = cx.input(0)?;
        let strings = Strings::new(input)?;
        let mut out = cx.output(0, DType::Bool, input.dims())?;
        for (i, flag) in out.as_mut_slice::<Bool>()?.iter_mut().enumerate() {
            *flag = Bool(u8::from(self.pattern.is_match(text(&strings, i)?)));
        }
        cx.set(0, out);
        Ok(())
    }
}

fn build_split(node: &Node) -> Result<Box<dyn Kernel>> {
    let max_splits = node.optional_int("maxsplit")?.and_then(|count| usize::try_from(count).ok());
    Ok(Box::new(Split { delimiter: node.string("delimiter", "")?.to_string(), max_splits }))
}

fn build_normalizer(node: &Node) -> Result<Box<dyn Kernel>> {
    let change = match node.string("case_change_action", "NONE")? {
        "NONE" => CaseChange::None,
        "LOWER" => CaseChange::Lower,
        "UPPER" => CaseChange::Upper,
        other => {
            return Err(OpError::invalid(format!(
                "case_change_action must be NONE, LOWER or UPPER, got '{other}'"
            )));
        }
    };
    let case_sensitive = node.flag("is_case_sensitive", false)?;
    let words = node.strings("stopwords")?.unwrap_or(&[]).iter();
    let stop_words =
        words.map(|word| if case_sensitive { word.clone() } else { word.to_lowercase() }).collect();
    Ok(Box::new(Normalizer { change, case_sensitive, stop_words }))
}

fn build_full_match(node: &Node) -> Result<Box<dyn Kernel>> {
    let pattern = node.string("pattern", "")?;
    let anchored = Regex::new(&format!(r"\A(?:{pattern})\z")).map_err(|error| {
        OpError::invalid(format!("attribute 'pattern' is not a regular expression: {error}"))
    })?;
    Ok(Box::new(FullMatch { pattern: anchored }))
}

pub const OPERATORS: &[Operator] = &[
    Operator::onnx("StringConcat", 20, NEWEST, |_| Ok(Box::new(Concat))),
    Operator::onnx("StringSplit", 20, NEWEST, build_split),
    Operator::onnx("StringNormalizer", 10, NEWEST, build_normalizer),
    Operator::onnx("RegexFullMatch", 20, NEWEST, build_full_match),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_splits_like_words() {
        let split = |delimiter: &str, max_splits| Split { delimiter: delimiter.into(), max_splits };
        assert_eq!(split("", None).split("  a \t b c "), ["a", "b", "c"]);
        assert_eq!(split("", Some(1)).split(" a  b c "), ["a", "b c "]);
        assert_eq!(split("--", None).split("a--b----c"), ["a", "b", "", "c"]);
        assert_eq!(split(",", Some(0)).split("a,b"), ["a,b"]);
        assert!(split("", None).split("   ").is_empty());
    }
}
