//! The classical machine-learning operators of `ai.onnx.ml`.

use super::Rule;
use super::elementwise::same;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::graph::{Dim, Shape, TypeInfo};
use crate::shape::dim;
use crate::shape::site::Site;

const ML: &str = "ai.onnx.ml";

pub const RULES: &[Rule] = &[
    Rule::of(ML, "ArrayFeatureExtractor", 2, array_feature),
    Rule::of(ML, "Binarizer", 1, same),
    Rule::of(ML, "CastMap", 1, cast_map),
    Rule::of(ML, "CategoryMapper", 1, category),
    Rule::of(ML, "DictVectorizer", 1, dictionary),
    Rule::of(ML, "FeatureVectorizer", 1, features),
    Rule::of(ML, "Imputer", 1, same),
    Rule::of(ML, "LabelEncoder", 1, label),
    Rule::of(ML, "LinearClassifier", 1, linear_classifier),
    Rule::of(ML, "LinearRegressor", 1, regressor),
    Rule::of(ML, "Normalizer", 1, floats_like),
    Rule::of(ML, "OneHotEncoder", 1, one_hot),
    Rule::of(ML, "SVMClassifier", 1, classifier),
    Rule::of(ML, "SVMRegressor", 1, regressor),
    Rule::of(ML, "Scaler", 1, floats_like),
    Rule::of(ML, "TreeEnsemble", 1, tree_ensemble),
    Rule::of(ML, "TreeEnsembleClassifier", 1, classifier),
    Rule::of(ML, "TreeEnsembleRegressor", 1, regressor),
    Rule::of(ML, "ZipMap", 1, zip_map),
];

/// The number of rows: one for a single feature vector.
fn rows(s: &Site<'_>) -> Dim {
    match s.rank(0) {
        Some(0 | 1) => Dim::Known(1),
        _ => s.dim(0, 0),
    }
}

fn floats_like(s: &mut Site<'_>) -> Result<()> {
    s.set_tensor(0, DType::F32, s.shape(0).cloned());
    Ok(())
}

fn array_feature(s: &mut Site<'_>) -> Result<()> {
    let dtype = s.dtype(0);
    let picked = dim::product(s.shape(1).into_iter().flat_map(|y| y.iter()));
    let picked = if s.shape(1).is_some() { picked } else { Dim::Unknown };
    let shape = s.shape(0).map(|x| match x.dims() {
        [] | [_] => [Dim::Known(1), picked].into_iter().collect(),
        [outer @ .., _] => outer.iter().cloned().chain([picked]).collect::<Shape>(),
    });
    s.set_tensor(0, dtype, shape);
    Ok(())
}

fn cast_map(s: &mut Site<'_>) -> Result<()> {
    let dtype = match s.string("cast_to", "TO_FLOAT")? {
        "TO_FLOAT" => DType::F32,
        "TO_STRING" => DType::String,
        "TO_INT64" => DType::I64,
        other => {
            return Err(Error::invalid_model(format!(
                "cast_to is '{other}'; it must be TO_FLOAT, TO_STRING or TO_INT64"
            )));
        }
    };
    let width = match s.string("map_form", "DENSE")? {
        "SPARSE" => usize::try_from(s.int("max_map", 1)?).map_or(Dim::Unknown, Dim::Known),
        _ => Dim::Unknown,
    };
    s.set_tensor(0, dtype, Some([Dim::Known(1), width].into_iter().collect()));
    Ok(())
}

fn category(s: &mut Site<'_>) -> Result<()> {
    let dtype = match s.dtype(0) {
        DType::String => DType::I64,
        DType::I64 => DType::String,
        _ => DType::Undefined,
    };
    s.copy_shape(0, 0, dtype);
    Ok(())
}

fn dictionary(s: &mut Site<'_>) -> Result<()> {
    let attributes = &s.node.attributes;
    let strings = attributes.strings("string_vocabulary")?.map(<[String]>::len);
    let width = strings.or(s.ints("int64_vocabulary")?.map(<[i64]>::len));
    let Some(TypeInfo::Map { value, .. }) = s.input(0) else { return Ok(()) };
    let dtype = value.dtype().unwrap_or_default();
    s.set_tensor(
        0,
        dtype,
        Some([Dim::Known(1), width.map_or(Dim::Unknown, Dim::Known)].into_iter().collect()),
    );
    Ok(())
}

fn features(s: &mut Site<'_>) -> Result<()> {
    let widths = s.ints("inputdimensions")?;
    let total = match widths {
        Some(widths) => Dim::Known(widths.iter().filter_map(|w| usize::try_from(*w).ok()).sum()),
        None => (0..s.input_count()).fold(Dim::Known(0), |total, i| dim::add(&total, &s.dim(i, 1))),
    };
    s.set_tensor(0, DType::F32, Some([rows(s), total].into_iter().collect()));
    Ok(())
}

fn label(s: &mut Site<'_>) -> Result<()> {
    let attributes = &s.node.attributes;
    let dtype = if s.version() < 2 {
        if s.dtype(0) == DType::String { DType::I64 } else { DType::String }
    } else if let Some(values) = attributes.tensor("values_tensor")? {
        values.dtype()
    } else if attributes.contains("values_strings") {
        DType::String
    } else if attributes.contains("values_int64s") {
        DType::I64
    } else if attributes.contains("values_floats") {
        DType::F32
    } else {
        DType::Undefined
    };
    s.copy_shape(0, 0, dtype);
    Ok(())
}

/// Labels `[rows]` and scores `[rows, classes]`.
fn classified(s: &mut Site<'_>, classes: Option<usize>) -> Result<()> {
    let strings = s.node.attributes.strings("classlabels_strings")?.filter(|l| !l.is_empty());
    let dtype = if strings.is_some() { DType::String } else { DType::I64 };
    let rows = rows(s);
    s.set_tensor(0, dtype, Some([rows.clone()].into_iter().collect()));
    let classes = classes.map_or(Dim::Unknown, Dim::Known);
    s.set_tensor(1, DType::F32, Some([rows, classes].into_iter().collect()));
    Ok(())
}

fn label_count(s: &Site<'_>) -> Result<Option<usize>> {
    let strings = s.node.attributes.strings("classlabels_strings")?.map(<[String]>::len).filter(|n| *n > 0);
    let ints = |name: &str| Ok::<_, Error>(s.ints(name)?.map(<[i64]>::len).filter(|n| *n > 0));
    Ok(strings.or(ints("classlabels_ints")?).or(ints("classlabels_int64s")?))
}

fn classifier(s: &mut Site<'_>) -> Result<()> {
    let classes = label_count(s)?;
    classified(s, classes)
}

/// One row of scores for two classes has one or two columns, as the labels say.
fn linear_classifier(s: &mut Site<'_>) -> Result<()> {
    let labels = label_count(s)?;
    let scores = s.node.attributes.floats("intercepts")?.map(<[f32]>::len).filter(|n| *n > 0);
    let classes = match (labels, scores) {
        (Some(labels), Some(1)) => Some(labels.max(1)),
        (labels, scores) => scores.or(labels),
    };
    classified(s, classes)
}

fn regressor(s: &mut Site<'_>) -> Result<()> {
    let count = match &*s.node.op_type {
        "TreeEnsembleRegressor" => s.node.attributes.int("n_targets")?,
        "LinearRegressor" => Some(s.int("targets", 1)?),
        _ => Some(1),
    };
    let width = count.and_then(|n| usize::try_from(n).ok()).map_or(Dim::Unknown, Dim::Known);
    s.set_tensor(0, DType::F32, Some([rows(s), width].into_iter().collect()));
    Ok(())
}

fn tree_ensemble(s: &mut Site<'_>) -> Result<()> {
    let width = s.node.attributes.int("n_targets")?.and_then(|n| usize::try_from(n).ok());
    let shape = [rows(s), width.map_or(Dim::Unknown, Dim::Known)];
    s.set_tensor(0, s.dtype(0), Some(shape.into_iter().collect()));
    Ok(())
}

fn one_hot(s: &mut Site<'_>) -> Result<()> {
    let strings = s.node.attributes.strings("cats_strings")?.map(<[String]>::len).filter(|n| *n > 0);
    let width = strings.or(s.ints("cats_int64s")?.map(<[i64]>::len)).map_or(Dim::Unknown, Dim::Known);
    let shape = s.shape(0).map(|x| x.iter().cloned().chain([width]).collect());
    s.set_tensor(0, DType::F32, shape);
    Ok(())
}

fn zip_map(s: &mut Site<'_>) -> Result<()> {
    let strings = s.node.attributes.strings("classlabels_strings")?.is_some_and(|l| !l.is_empty());
    let key = if strings { DType::String } else { DType::I64 };
    let value = Box::new(TypeInfo::tensor(DType::F32, Shape::scalar()));
    s.set(0, TypeInfo::Sequence(Box::new(TypeInfo::Map { key, value })));
    Ok(())
}
