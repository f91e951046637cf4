//! What an output holds, in a few numbers: type, range, first elements, and the best classes where it looks like scores.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use tenon_runtime::dtype::DType;
use tenon_runtime::tensor::{Tensor, Value};

use crate::quantity;

/// Elements shown of an output.
const SHOWN: usize = 6;
/// Classes shown of scores.
const BEST: usize = 5;
/// Rows of a batch whose classes are shown.
const ROWS: usize = 8;

/// The facts about one output.
#[derive(Debug, Serialize)]
pub struct Summary {
    pub name: String,
    #[serde(rename = "type")]
    pub ty: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shape: Option<Vec<usize>>,
    /// Of the finite elements; `None` without any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<Range>,
    /// NaN and infinite elements.
    pub not_finite: usize,
    /// The first elements, as text.
    pub first: Vec<String>,
    /// For each row of a batch of scores, the best classes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub best: Vec<Vec<Class>>,
}

/// The smallest, largest and mean finite element.
#[derive(Debug, PartialEq, Serialize)]
pub struct Range {
    pub min: f64,
    pub max: f64,
    pub mean: f64,
}

/// One class of a row of scores.
#[derive(Debug, PartialEq, Serialize)]
pub struct Class {
    pub index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    pub score: f64,
}

/// Summarises `value`; `labels` are the names of the model's classes, if known.
pub fn summarise(name: &str, value: &Value, labels: Option<&[String]>) -> Summary {
    let mut summary = Summary {
        name: name.to_owned(),
        ty: value.type_info().map_or_else(|| value.description(), |t| t.to_string()),
        dtype: None,
        shape: None,
        range: None,
        not_finite: 0,
        first: Vec::new(),
        best: Vec::new(),
    };
    let Value::Tensor(tensor) = value else {
        summary.ty = value.description();
        return summary;
    };
    summary.dtype = Some(tensor.dtype().name().to_owned());
    summary.shape = Some(tensor.dims().to_vec());
    if let Ok(strings) = tensor.strings() {
        summary.first = strings.take(SHOWN).map(|s| format!("{s:?}")).collect();
        return summary;
    }
    let Ok(values) = tensor.to_f64_vec() else { return summary };
    summary.first = values.iter().take(SHOWN).map(|v| quantity::element(*v)).collect();
    let finite: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    summary.not_finite = values.len() - finite.len();
    summary.range = range(&finite);
    summary.best = best_classes(tensor, &values, labels);
    summary
}

fn range(values: &[f64]) -> Option<Range> {
    let mut sorted = values.iter().copied();
    let first = sorted.next()?;
    let (min, max) = sorted.fold((first, first), |(min, max), v| (v.min(min), v.max(max)));
    Some(Range { min, max, mean: values.iter().sum::<f64>() / values.len() as f64 })
}

/// The best classes of each row when the tensor holds scores: floats, one row of classes for each of a batch, with as
/// many classes as there are labels, or with rows that sum to one.
fn best_classes(tensor: &Tensor, values: &[f64], labels: Option<&[String]>) -> Vec<Vec<Class>> {
    let sizes: Vec<usize> = tensor.dims().iter().copied().filter(|d| *d != 1).collect();
    let classes = match sizes.as_slice() {
        [classes] => *classes,
        [_, classes] => *classes,
        _ => return Vec::new(),
    };
    let float = matches!(tensor.dtype(), DType::F32 | DType::F64 | DType::F16 | DType::BF16);
    if !float || classes < 2 || values.iter().any(|v| v.is_nan()) {
        return Vec::new();
    }
    let labels = labels.filter(|l| l.len() == classes);
    let rows = || values.chunks_exact(classes);
    let adds_to_one =
        |row: &[f64]| (row.iter().sum::<f64>() - 1.0).abs() < 1e-2 && row.iter().all(|v| *v >= 0.0);
    if labels.is_none() && (classes < 3 || !rows().all(adds_to_one)) {
        return Vec::new();
    }
    rows().take(ROWS).map(|row| best_of_row(row, labels)).collect()
}

fn best_of_row(row: &[f64], labels: Option<&[String]>) -> Vec<Class> {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
    let class = |i: usize| Class { index: i, label: labels.map(|l| l[i].clone()), score: row[i] };
    order.into_iter().take(BEST).map(class).collect()
}

/// Reads class names, one a line.
pub fn labels_file(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.lines().map(|l| l.trim().to_owned()).collect())
}

/// Class names in a model's metadata: a JSON list, a JSON or Python dictionary from index to name, or one a line.
pub fn labels_metadata<'a>(
    metadata: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Option<Vec<String>> {
    const KEYS: [&str; 4] = ["labels", "classes", "class_names", "names"];
    let text = metadata.into_iter().find(|(k, _)| KEYS.contains(&k.as_str())).map(|(_, v)| v.trim())?;
    if let Ok(list) = serde_json::from_str::<Vec<String>>(text) {
        return Some(list);
    }
    if text.starts_with('{') {
        return dictionary(text);
    }
    let separator = if text.contains('\n') { '\n' } else { ',' };
    Some(text.split(separator).map(|l| l.trim().to_owned()).collect())
}

/// `{0: 'person', 1: "bicycle"}`: the names in the order of their indices, which must be 0, 1, 2, ..
fn dictionary(text: &str) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut rest = text.strip_prefix('{')?.trim_start();
    while !rest.starts_with('}') {
        let (key, after) = rest.split_once(':')?;
        let index: usize = key.trim().trim_matches(['"', '\'']).parse().ok()?;
        let after = after.trim_start();
        let quote = after.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        let (name, after) = after[1..].split_once(quote)?;
        names.push((index, name.to_owned()));
        rest = after.trim_start().trim_start_matches(',').trim_start();
    }
    names.sort();
    let complete = names.iter().enumerate().all(|(i, (index, _))| i == *index);
    (complete && !names.is_empty()).then(|| names.into_iter().map(|(_, name)| name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(dims: &[usize], values: &[f32]) -> Value {
        Tensor::from_slice(dims, values).unwrap().into()
    }

    #[test]
    fn numbers_that_are_not_finite_are_counted_apart() {
        let s = summarise("y", &floats(&[4], &[1.0, f32::NAN, 3.0, f32::INFINITY]), None);
        assert_eq!(s.range, Some(Range { min: 1.0, max: 3.0, mean: 2.0 }));
        assert_eq!(s.not_finite, 2);
        assert_eq!(s.first, ["1", "nan", "3", "inf"]);
        assert_eq!(summarise("y", &floats(&[0], &[]), None).range, None);
    }

    #[test]
    fn rows_that_sum_to_one_are_classes() {
        let s = summarise("p", &floats(&[2, 3], &[0.2, 0.7, 0.1, 0.0, 0.0, 1.0]), None);
        let winners: Vec<usize> = s.best.iter().map(|row| row[0].index).collect();
        assert_eq!(winners, [1, 2]);
        assert!(summarise("x", &floats(&[2, 3], &[5.0, -1.0, 2.0, 0.0, 0.0, 1.0]), None).best.is_empty());
    }

    #[test]
    fn scores_with_labels_need_not_be_probabilities() {
        let labels = ["cat".to_owned(), "dog".to_owned()];
        let s = summarise("logits", &floats(&[1, 2, 1, 1], &[-3.0, 4.5]), Some(&labels));
        assert_eq!(s.best[0][0], Class { index: 1, label: Some("dog".into()), score: 4.5 });
    }

    #[test]
    fn labels_are_found_in_the_forms_that_exporters_write() {
        let find = |key: &str, text: &str| {
            labels_metadata(&std::collections::BTreeMap::from([(key.to_owned(), text.to_owned())]))
        };
        let expected = Some(vec!["a".to_owned(), "b c".to_owned()]);
        assert_eq!(find("labels", r#"["a", "b c"]"#), expected);
        assert_eq!(find("names", "{0: 'a', 1: \"b c\"}"), expected);
        assert_eq!(find("names", r#"{"1": "b c", "0": "a"}"#), expected);
        assert_eq!(find("classes", "a\nb c"), expected);
        assert_eq!(find("classes", "a, b c"), expected);
        assert_eq!(find("author", "a"), None);
        assert_eq!(find("names", "{0: 'a', 2: 'b'}"), None);
    }
}
