//! Input values made from declared types: seeded random numbers, zeros or ones, with sizes for symbolic dimensions.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use tenon_runtime::dtype::DType;
use tenon_runtime::graph::{Bindings, Dim, TensorType, TypeInfo};
use tenon_runtime::tensor::{Tensor, Value, element_count};

use super::element::{self, Number};

/// The most elements one generated input may have.
const MAX_ELEMENTS: usize = 1 << 31;

/// What an input is filled with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fill {
    /// Uniform in the range, or in one that suits dtype and name.
    Random {
        range: Option<(f64, f64)>,
    },
    Zeros,
    Ones,
}

impl Default for Fill {
    fn default() -> Self {
        Fill::Random { range: None }
    }
}

impl Fill {
    /// `random`, `random:LO..HI`, `zeros` or `ones`; `None` for any other text.
    pub fn parse(text: &str) -> Result<Option<Fill>, String> {
        Ok(Some(match text {
            "zeros" => Fill::Zeros,
            "ones" => Fill::Ones,
            "random" => Fill::default(),
            _ => match text.strip_prefix("random:") {
                Some(range) => Fill::Random { range: Some(parse_range(range)?) },
                None => return Ok(None),
            },
        }))
    }
}

fn parse_range(text: &str) -> Result<(f64, f64), String> {
    let wrong = || format!("'{text}' is not a range LO..HI, for example 0..1 or -2.5..2.5");
    let (low, high) = text.split_once("..").ok_or_else(wrong)?;
    let (low, high) = (low.parse::<f64>().map_err(|_| wrong())?, high.parse::<f64>().map_err(|_| wrong())?);
    if low.is_finite() && high.is_finite() && low <= high { Ok((low, high)) } else { Err(wrong()) }
}

/// `ty` with the symbolic dimensions that `sizes` names made known.
pub fn with_fixed_dims(ty: &TypeInfo, sizes: &BTreeMap<String, usize>) -> TypeInfo {
    let TypeInfo::Tensor(TensorType { dtype, shape: Some(shape) }) = ty else { return ty.clone() };
    let fixed = shape.iter().map(|dim| match dim {
        Dim::Symbol(name) => sizes.get(name.as_ref()).map_or_else(|| dim.clone(), |n| Dim::Known(*n)),
        other => other.clone(),
    });
    TypeInfo::tensor(*dtype, fixed.collect())
}

/// Makes values, and remembers the sizes it had to assume.
pub struct Generator {
    random: fastrand::Rng,
    bindings: Bindings,
    assumed: BTreeMap<String, usize>,
}

impl Generator {
    /// Values from `seed`; `bindings` are the sizes already fixed.
    pub fn new(seed: u64, bindings: Bindings) -> Self {
        Generator { random: fastrand::Rng::with_seed(seed), bindings, assumed: BTreeMap::new() }
    }

    /// The sizes assumed for dimensions that nothing fixed, by symbol or by `input[axis]`.
    pub fn into_assumed(self) -> BTreeMap<String, usize> {
        self.assumed
    }

    /// A value of type `ty` for the input `name`.
    pub fn value(&mut self, name: &str, ty: Option<&TypeInfo>, fill: Fill) -> Result<Value> {
        match ty {
            Some(TypeInfo::Tensor(t)) => Ok(self.tensor(name, t, fill)?.into()),
            Some(TypeInfo::Sequence(item)) => {
                Ok(Value::Sequence(vec![self.value(name, Some(item), fill)?]))
            }
            Some(TypeInfo::Optional(item)) => {
                Ok(Value::Optional(Some(Box::new(self.value(name, Some(item), fill)?))))
            }
            Some(TypeInfo::Map { .. }) => bail!("maps are not generated: give a .pb file"),
            None => bail!("the model does not declare its type: give a value"),
        }
    }

    fn tensor(&mut self, name: &str, ty: &TensorType, fill: Fill) -> Result<Tensor> {
        ensure!(ty.dtype != DType::Undefined, "the model does not declare its dtype: give a value");
        let shape = ty.shape.as_ref().context("the model does not declare its shape: give a value")?;
        let dims: Vec<usize> =
            shape.iter().enumerate().map(|(axis, dim)| self.size(name, axis, dim)).collect();
        let count = element_count(&dims)?;
        ensure!(
            count <= MAX_ELEMENTS,
            "shape {dims:?} has {count} elements: make it smaller with --dim NAME=SIZE"
        );
        if ty.dtype == DType::String {
            let strings: Vec<String> = (0..count).map(|i| format!("text {i}")).collect();
            return Ok(Tensor::from_strings(&dims, &strings)?);
        }
        if fill == Fill::Zeros {
            return Ok(Tensor::zeros(ty.dtype, &dims)?);
        }
        if let (Fill::Random { range: None }, true) = (fill, ty.dtype.is_integer()) {
            if name.contains("position_ids") {
                return positions(ty.dtype, &dims);
            }
            if name.contains("mask") {
                return element::tensor(ty.dtype, &dims, &vec![Number::Integer(1); count]);
            }
        }
        let numbers: Vec<Number> = (0..count).map(|_| self.number(ty.dtype, fill)).collect();
        element::tensor(ty.dtype, &dims, &numbers)
    }

    /// Integers default to 0 and 1, valid as indices, labels and flags alike; real numbers to the range 0..1.
    fn number(&mut self, dtype: DType, fill: Fill) -> Number {
        let range = match fill {
            Fill::Zeros => return Number::Integer(0),
            Fill::Ones => return Number::Integer(1),
            Fill::Random { range } => range,
        };
        let (low, high) = range.unwrap_or((0.0, 1.0));
        if dtype.is_integer() || dtype == DType::Bool {
            return Number::Integer(self.random.i64(low as i64..=(high as i64).max(low as i64)).into());
        }
        Number::Real(low + (high - low) * self.random.f64())
    }

    fn size(&mut self, name: &str, axis: usize, dim: &Dim) -> usize {
        if let Some(size) = dim.eval(&self.bindings) {
            return size;
        }
        let (key, size) = match dim {
            // A cache that holds nothing yet fits a sequence of any length.
            Dim::Symbol(symbol) if symbol.starts_with("past") => (symbol.to_string(), 0),
            Dim::Symbol(symbol) => (symbol.to_string(), 1),
            _ => (format!("{name}[{axis}]"), 1),
        };
        if let Dim::Symbol(symbol) = dim {
            self.bindings.insert(symbol.clone(), size as i64);
        }
        self.assumed.insert(key, size);
        size
    }
}

/// 0, 1, 2, .. along the last axis.
fn positions(dtype: DType, dims: &[usize]) -> Result<Tensor> {
    let last = dims.last().copied().unwrap_or(1).max(1);
    let numbers: Vec<Number> =
        (0..element_count(dims)?).map(|i| Number::Integer((i % last) as i128)).collect();
    element::tensor(dtype, dims, &numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenon_runtime::graph::Shape;

    fn tensor(generator: &mut Generator, name: &str, dtype: DType, dims: &[Dim], fill: Fill) -> Tensor {
        let ty = TypeInfo::tensor(dtype, dims.iter().cloned().collect::<Shape>());
        generator.value(name, Some(&ty), fill).unwrap().into_tensor().unwrap()
    }

    #[test]
    fn the_same_seed_gives_the_same_values_in_range() {
        let make = |seed| {
            let fill = Fill::Random { range: Some((-2.0, 3.0)) };
            tensor(&mut Generator::new(seed, Bindings::new()), "x", DType::F32, &[Dim::Known(100)], fill)
        };
        assert_eq!(make(1), make(1));
        assert_ne!(make(1), make(2));
        let values = make(1).to_vec::<f32>().unwrap();
        assert!(values.iter().all(|v| (-2.0..=3.0).contains(v)));
        assert!(values.iter().any(|v| *v < 0.0) && values.iter().any(|v| *v > 2.0));
    }

    #[test]
    fn unknown_sizes_are_assumed_once_and_reported() {
        let mut g = Generator::new(0, Bindings::from([("batch".into(), 4)]));
        let dims = ["batch".into(), "n".into(), Dim::Unknown, "past_length".into()];
        assert_eq!(tensor(&mut g, "x", DType::F32, &dims, Fill::default()).dims(), [4, 1, 1, 0]);
        let assumed = g.into_assumed();
        let expected = [("n".to_owned(), 1), ("past_length".into(), 0), ("x[2]".into(), 1)];
        assert_eq!(assumed, BTreeMap::from(expected));
    }

    #[test]
    fn masks_are_ones_positions_count_and_other_integers_are_bits() {
        let mut g = Generator::new(0, Bindings::new());
        let dims = [Dim::Known(2), Dim::Known(3)];
        let mask = tensor(&mut g, "attention_mask", DType::I64, &dims, Fill::default());
        assert_eq!(mask.to_vec::<i64>().unwrap(), [1; 6]);
        let positions = tensor(&mut g, "position_ids", DType::I32, &dims, Fill::default());
        assert_eq!(positions.to_vec::<i32>().unwrap(), [0, 1, 2, 0, 1, 2]);
        let ids = tensor(&mut g, "ids", DType::I64, &[Dim::Known(64)], Fill::default());
        assert!(ids.to_vec::<i64>().unwrap().iter().all(|v| (0..=1).contains(v)));
    }

    #[test]
    fn every_dtype_is_generated() {
        let mut g = Generator::new(0, Bindings::new());
        for dtype in DType::ALL {
            for fill in [Fill::default(), Fill::Zeros, Fill::Ones] {
                if dtype != DType::F8E8M0 {
                    assert_eq!(tensor(&mut g, "x", dtype, &[Dim::Known(3)], fill).dtype(), dtype);
                }
            }
        }
    }

    #[test]
    fn undeclared_types_and_huge_sizes_are_errors() {
        let mut g = Generator::new(0, Bindings::new());
        assert!(g.value("x", None, Fill::Zeros).is_err());
        assert!(g.value("x", Some(&TypeInfo::unranked(DType::F32)), Fill::Zeros).is_err());
        let huge = TypeInfo::tensor(DType::F32, Shape::known(&[1 << 40]));
        assert!(g.value("x", Some(&huge), Fill::Zeros).unwrap_err().to_string().contains("--dim"));
    }
}
