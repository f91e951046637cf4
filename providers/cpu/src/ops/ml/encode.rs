//! Encoders that map single values: LabelEncoder and CategoryMapper.

use std::collections::HashMap;

use super::DOMAIN;
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::Operator;
use crate::ops::layout::text::{Strings, write};
use crate::tensor::{DType, Tensor};

/// The values of one element type, as bytes: of strings their UTF-8, of numbers their bits.
struct Column {
    dtype: DType,
    values: Vec<Vec<u8>>,
}

impl Column {
    fn of_tensor(tensor: &Tensor) -> Result<Column> {
        let dtype = tensor.dtype();
        let values = if dtype == DType::String {
            let strings = Strings::new(tensor)?;
            (0..strings.len()).map(|i| strings.get(i).to_vec()).collect()
        } else {
            if dtype.bits() < 8 {
                return Err(OpError::unsupported(format!("values of element type {dtype} cannot be mapped")));
            }
            tensor.as_bytes().chunks_exact(dtype.bits() / 8).map(<[u8]>::to_vec).collect()
        };
        Ok(Column { dtype, values })
    }

    /// Reads `{kind}_tensor`, `{kind}_strings`, `{kind}_int64s` or `{kind}_floats`, whichever is given.
    fn of_attributes(node: &Node, kind: &str) -> Result<Option<Column>> {
        if let Some(tensor) = node.tensor(&format!("{kind}_tensor"))? {
            return Column::of_tensor(tensor).map(Some);
        }
        if let Some(strings) = node.strings(&format!("{kind}_strings"))? {
            return Ok(Some(Column::of_strings(strings)));
        }
        if let Some(ints) = node.ints(&format!("{kind}_int64s"))? {
            return Ok(Some(Column::of_ints(ints)));
        }
        let floats = node.floats(&format!("{kind}_floats"))?;
        Ok(floats.map(|floats| Column {
            dtype: DType::F32,
            values: floats.iter().map(|value| value.to_ne_bytes().to_vec()).collect(),
        }))
    }

    fn of_strings(strings: &[String]) -> Column {
        Column {
            dtype: DType::String,
            values: strings.iter().map(|value| value.as_bytes().to_vec()).collect(),
        }
    }

    fn of_ints(ints: &[i64]) -> Column {
        Column { dtype: DType::I64, values: ints.iter().map(|value| value.to_ne_bytes().to_vec()).collect() }
    }
}

/// The bytes under which a key is found: all NaN are one key, and so are both zeros.
fn key(dtype: DType, bytes: &[u8]) -> Vec<u8> {
    let float = match (dtype, bytes) {
        (DType::F32, &[a, b, c, d]) => f64::from(f32::from_ne_bytes([a, b, c, d])),
        (DType::F64, bytes) if bytes.len() == 8 => f64::from_ne_bytes(bytes.try_into().expect("eight bytes")),
        _ => return bytes.to_vec(),
    };
    if float.is_nan() {
        return b"nan".to_vec();
    }
    if float == 0.0 { b"0".to_vec() } else { bytes.to_vec() }
}

/// A map from values of one type to values of another.
struct Encoder {
    from: DType,
    to: DType,
    map: HashMap<Vec<u8>, Vec<u8>>,
    default: Vec<u8>,
}

impl Encoder {
    fn new(keys: &Column, values: Column, default: Vec<u8>) -> Result<Encoder> {
        if keys.values.len() != values.values.len() {
            return Err(OpError::invalid(format!(
                "there are {} keys but {} values",
                keys.values.len(),
                values.values.len()
            )));
        }
        let map = keys.values.iter().map(|bytes| key(keys.dtype, bytes)).zip(values.values).collect();
        Ok(Encoder { from: keys.dtype, to: values.dtype, map, default })
    }
}

impl Kernel for Encoder {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let input = cx.input(0)?;
        if input.dtype() != self.from {
            return Err(OpError::invalid(format!(
                "the keys are {} but the input is {}",
                self.from,
                input.dtype()
            )));
        }
        let column = Column::of_tensor(input)?;
        let find = |bytes: &[u8]| self.map.get(&key(self.from, bytes)).unwrap_or(&self.default).as_slice();
        let out = if self.to == DType::String {
            write(cx, 0, input.dims(), |i| find(&column.values[i]))?
        } else {
            let mut out = cx.output(0, self.to, input.dims())?;
            for (cell, bytes) in out.as_bytes_mut().chunks_exact_mut(self.to.bits() / 8).zip(&column.values) {
                cell.copy_from_slice(find(bytes));
            }
            out
        };
        cx.set(0, out);
        Ok(())
    }
}

/// The default of type `to`: `default_tensor`, or the attribute or ONNX's default for the type.
fn default_value(node: &Node, to: DType) -> Result<Vec<u8>> {
    if let Some(tensor) = node.tensor("default_tensor")? {
        let column = Column::of_tensor(tensor)?;
        return match column.values.into_iter().next() {
            Some(value) if column.dtype == to => Ok(value),
            _ => Err(OpError::invalid(format!("default_tensor must hold one value of type {to}"))),
        };
    }
    let int = node.int("default_int64", -1)?;
    let float = node.float("default_float", -0.0)?;
    Ok(match to {
        DType::String => node.string("default_string", "_Unused")?.as_bytes().to_vec(),
        DType::I64 => int.to_ne_bytes().to_vec(),
        DType::I32 => (int as i32).to_ne_bytes().to_vec(),
        DType::I16 => (int as i16).to_ne_bytes().to_vec(),
        DType::F32 => float.to_ne_bytes().to_vec(),
        DType::F64 => f64::from(float).to_ne_bytes().to_vec(),
        other => {
            return Err(OpError::unsupported(format!("values of element type {other} cannot be mapped to")));
        }
    })
}

fn build_label_encoder(node: &Node) -> Result<Box<dyn Kernel>> {
    let missing = |kind: &str| OpError::invalid(format!("one of the attributes '{kind}_*' must be given"));
    let keys = Column::of_attributes(node, "keys")?.ok_or_else(|| missing("keys"))?;
    let values = Column::of_attributes(node, "values")?.ok_or_else(|| missing("values"))?;
    let default = default_value(node, values.dtype)?;
    Ok(Box::new(Encoder::new(&keys, values, default)?))
}

/// Version 1 maps strings to their positions in `classes_strings` and back.
fn build_label_encoder_1(node: &Node) -> Result<Box<dyn Kernel>> {
    let classes = node.strings("classes_strings")?.unwrap_or(&[]);
    let positions: Vec<i64> = (0..classes.len() as i64).collect();
    positional(node, Column::of_strings(classes), Column::of_ints(&positions))
}

fn build_category_mapper(node: &Node) -> Result<Box<dyn Kernel>> {
    let strings = Column::of_strings(node.strings("cats_strings")?.unwrap_or(&[]));
    let ints = Column::of_ints(node.ints("cats_int64s")?.unwrap_or(&[]));
    positional(node, strings, ints)
}

/// The encoder from `strings` to `ints` or, for integer inputs, the other way.
fn positional(node: &Node, strings: Column, ints: Column) -> Result<Box<dyn Kernel>> {
    match node.input_dtype(0) {
        DType::String => {
            let default = default_value(node, DType::I64)?;
            Ok(Box::new(Encoder::new(&strings, ints, default)?))
        }
        DType::I64 => {
            let default = default_value(node, DType::String)?;
            Ok(Box::new(Encoder::new(&ints, strings, default)?))
        }
        other => {
            Err(OpError::unsupported(format!("{} needs to know its input's type, got {other}", node.op_type)))
        }
    }
}

pub const OPERATORS: &[Operator] = &[
    Operator { domain: DOMAIN, op_type: "LabelEncoder", since: 1, until: 1, build: build_label_encoder_1 },
    Operator {
        domain: DOMAIN,
        op_type: "LabelEncoder",
        since: 2,
        until: u32::MAX,
        build: build_label_encoder,
    },
    Operator::of(DOMAIN, "CategoryMapper", build_category_mapper),
];
