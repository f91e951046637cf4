//! Inputs written as JSON: nested lists take the dtype that the model wants, and an object can state its own.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value as Json;
use tenon_runtime::dtype::DType;
use tenon_runtime::graph::TypeInfo;
use tenon_runtime::tensor::{Tensor, Value};

use super::element::{self, Number};

/// The value that `json` writes down for an input of type `ty`.
///
/// A tensor is a nested list, a single number or string, or `{"dtype": "float", "shape": [2, 3], "data": [..]}` of which
/// `dtype` and `shape` may be left out. A sequence is a list of such values, an empty optional is `null`.
pub fn value(json: &Json, ty: Option<&TypeInfo>) -> Result<Value> {
    match ty {
        Some(TypeInfo::Sequence(item)) => {
            let items = json.as_array().context("a sequence input is a list of its items")?;
            Ok(Value::Sequence(items.iter().map(|i| value(i, Some(item))).collect::<Result<_>>()?))
        }
        Some(TypeInfo::Optional(_)) if json.is_null() => Ok(Value::Optional(None)),
        Some(TypeInfo::Optional(item)) => Ok(Value::Optional(Some(Box::new(value(json, Some(item))?)))),
        Some(TypeInfo::Map { .. }) => bail!("map inputs cannot be written as JSON: give a .pb file"),
        Some(TypeInfo::Tensor(t)) => Ok(tensor(json, Some(t.dtype))?.into()),
        None => Ok(tensor(json, None)?.into()),
    }
}

fn tensor(json: &Json, wanted: Option<DType>) -> Result<Tensor> {
    let Json::Object(fields) = json else { return list(json, wanted, None) };
    if let Some(key) = fields.keys().find(|k| !matches!(k.as_str(), "dtype" | "shape" | "data")) {
        bail!("unknown field '{key}' of a tensor: it has \"dtype\", \"shape\" and \"data\"");
    }
    let data = fields.get("data").context("a tensor written as an object needs a field \"data\"")?;
    let dtype = match fields.get("dtype") {
        Some(name) => Some(dtype_named(name.as_str().context("\"dtype\" is a string")?)?),
        None => wanted,
    };
    let shape = match fields.get("shape") {
        Some(shape) => Some(
            serde_json::from_value::<Vec<usize>>(shape.clone()).context("\"shape\" is a list of sizes")?,
        ),
        None => None,
    };
    list(data, dtype, shape.as_deref())
}

fn dtype_named(name: &str) -> Result<DType> {
    let spelled = match name {
        "float32" => "float",
        "float64" => "double",
        other => other,
    };
    DType::ALL.into_iter().find(|d| d.name() == spelled).with_context(|| {
        let names: Vec<&str> = DType::ALL.iter().map(|d| d.name()).collect();
        format!("unknown dtype '{name}': one of {}", names.join(", "))
    })
}

fn list(json: &Json, wanted: Option<DType>, shape: Option<&[usize]>) -> Result<Tensor> {
    let mut dims = Vec::new();
    let mut leaves = Vec::new();
    flatten(json, 0, &mut dims, &mut leaves)?;
    let dims = shape.unwrap_or(&dims);
    let dtype = wanted.filter(|d| *d != DType::Undefined).unwrap_or_else(|| natural_dtype(&leaves));
    if dtype == DType::String {
        let strings = leaves.iter().map(|l| l.as_str().context("a string input needs strings"));
        return Ok(Tensor::from_strings(dims, &strings.collect::<Result<Vec<_>>>()?)?);
    }
    let numbers = leaves.iter().map(|l| number(l)).collect::<Result<Vec<_>>>()?;
    element::tensor(dtype, dims, &numbers)
}

/// Appends the leaves of `json` in row-major order and finds its dims; every list of one depth must be as long.
fn flatten<'a>(
    json: &'a Json,
    depth: usize,
    dims: &mut Vec<usize>,
    leaves: &mut Vec<&'a Json>,
) -> Result<()> {
    let Json::Array(items) = json else {
        ensure!(depth == dims.len(), "lists of the same depth must all hold lists or all hold elements");
        leaves.push(json);
        return Ok(());
    };
    if depth == dims.len() {
        ensure!(leaves.is_empty(), "lists of the same depth must all hold lists or all hold elements");
        dims.push(items.len());
    }
    ensure!(
        dims[depth] == items.len(),
        "a list has {} items where the first has {}",
        items.len(),
        dims[depth]
    );
    items.iter().try_for_each(|item| flatten(item, depth + 1, dims, leaves))
}

/// The dtype of a list when neither the model nor the file gives one.
fn natural_dtype(leaves: &[&Json]) -> DType {
    let all = |test: fn(&Json) -> bool| !leaves.is_empty() && leaves.iter().all(|l| test(l));
    if all(Json::is_string) {
        DType::String
    } else if all(Json::is_boolean) {
        DType::Bool
    } else if all(|l| l.is_i64()) {
        DType::I64
    } else {
        DType::F32
    }
}

/// JSON has no NaN and no infinity: the strings "nan", "inf" and "-inf" stand for them.
fn number(leaf: &Json) -> Result<Number> {
    match leaf {
        Json::Bool(b) => Ok(Number::Integer(i128::from(*b))),
        Json::Number(n) => Ok(match (n.as_i64(), n.as_u64(), n.as_f64()) {
            (Some(i), _, _) => Number::Integer(i.into()),
            (_, Some(u), _) => Number::Integer(u.into()),
            (_, _, real) => Number::Real(real.context("a number exceeds the range of double")?),
        }),
        Json::String(s) => match s.to_ascii_lowercase().as_str() {
            "nan" => Ok(Number::Real(f64::NAN)),
            "inf" | "infinity" => Ok(Number::Real(f64::INFINITY)),
            "-inf" | "-infinity" => Ok(Number::Real(f64::NEG_INFINITY)),
            _ => bail!("\"{s}\" is not a number"),
        },
        Json::Null => bail!("null is not a number"),
        Json::Array(_) | Json::Object(_) => bail!("a tensor's elements are numbers, booleans or strings"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenon_runtime::graph::Shape;

    fn parse(text: &str, dtype: Option<DType>) -> Result<Tensor> {
        let ty = dtype.map(|d| TypeInfo::tensor(d, Shape::known(&[])));
        value(&serde_json::from_str(text).unwrap(), ty.as_ref()).map(|v| v.into_tensor().unwrap())
    }

    #[test]
    fn nested_lists_take_the_dtype_of_the_model() {
        let t = parse("[[1, 2.5], [3, \"nan\"]]", Some(DType::F32)).unwrap();
        assert_eq!(t.dims(), [2, 2]);
        let values = t.to_vec::<f32>().unwrap();
        assert_eq!(values[..3], [1.0, 2.5, 3.0]);
        assert!(values[3].is_nan());
        assert_eq!(parse("16000", Some(DType::I64)).unwrap(), Tensor::scalar(16000i64));
        assert_eq!(parse("[]", Some(DType::F32)).unwrap().dims(), [0]);
        assert_eq!(parse("[[], []]", Some(DType::F32)).unwrap().dims(), [2, 0]);
    }

    #[test]
    fn without_a_model_dtype_the_elements_decide() {
        assert_eq!(parse("[1, 2]", None).unwrap().dtype(), DType::I64);
        assert_eq!(parse("[1, 2.0]", None).unwrap().dtype(), DType::F32);
        assert_eq!(parse("[true]", None).unwrap().dtype(), DType::Bool);
        assert_eq!(parse("[\"a\"]", None).unwrap().dtype(), DType::String);
    }

    #[test]
    fn objects_state_dtype_and_shape() {
        let text = r#"{"dtype": "float16", "shape": [2, 1], "data": [1, 2]}"#;
        let t = parse(text, Some(DType::F32)).unwrap();
        assert_eq!((t.dtype(), t.dims()), (DType::F16, &[2usize, 1][..]));
        assert!(parse(r#"{"data": [1], "dims": [1]}"#, None).unwrap_err().to_string().contains("'dims'"));
        assert!(parse(r#"{"data": [1], "dtype": "f99"}"#, None).unwrap_err().to_string().contains("'f99'"));
    }

    #[test]
    fn ragged_and_mistyped_lists_are_errors() {
        for text in ["[[1, 2], [3]]", "[[1], 2]", "[1, [2]]", "[null]", "[\"x\"]"] {
            assert!(parse(text, Some(DType::F32)).is_err(), "{text}");
        }
    }

    #[test]
    fn sequences_and_optionals_follow_the_type() {
        let item = TypeInfo::tensor(DType::I64, Shape::known(&[1]));
        let sequence = TypeInfo::Sequence(Box::new(item.clone()));
        let json = serde_json::from_str("[[1], [2]]").unwrap();
        let Value::Sequence(items) = value(&json, Some(&sequence)).unwrap() else { panic!("not a sequence") };
        assert_eq!(items.len(), 2);
        let optional = TypeInfo::Optional(Box::new(item));
        assert_eq!(value(&Json::Null, Some(&optional)).unwrap(), Value::Optional(None));
    }
}
