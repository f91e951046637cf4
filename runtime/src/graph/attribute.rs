//! Attributes of a node: an ordered map from name to a typed value.

use std::fmt;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::graph::TypeInfo;
use crate::tensor::Tensor;

/// The value of an attribute. Graph attributes are not here: they are the bodies of a node.
#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    Int(i64),
    Float(f32),
    String(String),
    /// A string attribute that is not UTF-8.
    Bytes(Vec<u8>),
    Tensor(Tensor),
    Type(TypeInfo),
    Ints(Vec<i64>),
    Floats(Vec<f32>),
    Strings(Vec<String>),
    Tensors(Vec<Tensor>),
    Types(Vec<TypeInfo>),
}

impl Attribute {
    /// The kind of this value, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Attribute::Int(_) => "an integer",
            Attribute::Float(_) => "a float",
            Attribute::String(_) => "a string",
            Attribute::Bytes(_) => "a byte string",
            Attribute::Tensor(_) => "a tensor",
            Attribute::Type(_) => "a type",
            Attribute::Ints(_) => "a list of integers",
            Attribute::Floats(_) => "a list of floats",
            Attribute::Strings(_) => "a list of strings",
            Attribute::Tensors(_) => "a list of tensors",
            Attribute::Types(_) => "a list of types",
        }
    }
}

macro_rules! attribute_from {
    ($($ty:ty => $variant:ident),* $(,)?) => {$(
        impl From<$ty> for Attribute {
            fn from(value: $ty) -> Self {
                Attribute::$variant(value.into())
            }
        }
    )*};
}

attribute_from! {
    i64 => Int, f32 => Float, String => String, &str => String, Tensor => Tensor, TypeInfo => Type,
    Vec<i64> => Ints, &[i64] => Ints, Vec<f32> => Floats, &[f32] => Floats, Vec<String> => Strings,
}

/// The attributes of one node, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attributes(Vec<(Arc<str>, Attribute)>);

macro_rules! typed_getter {
    ($(#[$doc:meta])* $name:ident, $variant:ident, $out:ty, $wanted:literal, |$v:ident| $expr:expr) => {
        $(#[$doc])*
        pub fn $name(&self, name: &str) -> Result<Option<$out>> {
            match self.get(name) {
                None => Ok(None),
                Some(Attribute::$variant($v)) => Ok(Some($expr)),
                Some(other) => Err(mismatch(name, $wanted, other)),
            }
        }
    };
}

impl Attributes {
    /// No attributes.
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of attributes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of an attribute.
    pub fn get(&self, name: &str) -> Option<&Attribute> {
        self.0.iter().find(|(n, _)| **n == *name).map(|(_, a)| a)
    }

    /// True when the attribute is set.
    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Sets an attribute, replacing its value or appending it.
    pub fn set(&mut self, name: impl Into<Arc<str>>, value: impl Into<Attribute>) {
        let (name, value) = (name.into(), value.into());
        match self.0.iter_mut().find(|(n, _)| *n == name) {
            Some(slot) => slot.1 = value,
            None => self.0.push((name, value)),
        }
    }

    /// Removes an attribute and returns its value.
    pub fn remove(&mut self, name: &str) -> Option<Attribute> {
        let index = self.0.iter().position(|(n, _)| **n == *name)?;
        Some(self.0.remove(index).1)
    }

    /// The attributes in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Attribute)> {
        self.0.iter().map(|(n, a)| (&**n, a))
    }

    typed_getter!(
        /// An integer; an error when the attribute has another type.
        int, Int, i64, "an integer", |v| *v
    );
    typed_getter!(
        /// A float; an error when the attribute has another type.
        float, Float, f32, "a float", |v| *v
    );
    typed_getter!(
        /// A string; an error when the attribute has another type or is not UTF-8.
        string, String, &str, "a string", |v| v
    );
    typed_getter!(
        /// A tensor; an error when the attribute has another type.
        tensor, Tensor, &Tensor, "a tensor", |v| v
    );
    typed_getter!(
        /// A type; an error when the attribute has another type.
        type_info, Type, &TypeInfo, "a type", |v| v
    );
    typed_getter!(
        /// A list of integers; an error when the attribute has another type.
        ints, Ints, &[i64], "a list of integers", |v| v
    );
    typed_getter!(
        /// A list of floats; an error when the attribute has another type.
        floats, Floats, &[f32], "a list of floats", |v| v
    );
    typed_getter!(
        /// A list of strings; an error when the attribute has another type.
        strings, Strings, &[String], "a list of strings", |v| v
    );

    /// An integer that is used as a truth value, with ONNX's default spelled by the caller.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool> {
        Ok(self.int(name)?.map_or(default, |v| v != 0))
    }
}

fn mismatch(name: &str, wanted: &str, found: &Attribute) -> Error {
    Error::invalid_model(format!("attribute '{name}' must be {wanted}, the model has {}", found.kind()))
}

impl<N: Into<Arc<str>>> FromIterator<(N, Attribute)> for Attributes {
    fn from_iter<I: IntoIterator<Item = (N, Attribute)>>(items: I) -> Self {
        let mut attributes = Attributes::new();
        for (name, value) in items {
            attributes.set(name, value);
        }
        attributes
    }
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Attribute::Int(v) => write!(f, "{v}"),
            Attribute::Float(v) => write!(f, "{v:?}"),
            Attribute::String(v) => abbreviated(f, v),
            Attribute::Bytes(v) => write!(f, "<{} bytes>", v.len()),
            Attribute::Tensor(v) => write!(f, "{v:?}"),
            Attribute::Type(v) => write!(f, "{v}"),
            Attribute::Ints(v) => list(f, v, |f, x| write!(f, "{x}")),
            Attribute::Floats(v) => list(f, v, |f, x| write!(f, "{x:?}")),
            Attribute::Strings(v) => list(f, v, |f, x| abbreviated(f, x)),
            Attribute::Tensors(v) => list(f, v, |f, x| write!(f, "{x:?}")),
            Attribute::Types(v) => list(f, v, |f, x| write!(f, "{x}")),
        }
    }
}

fn abbreviated(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    const SHOWN: usize = 40;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => write!(f, "{:?}..", &text[..end]),
        None => write!(f, "{text:?}"),
    }
}

fn list<T>(
    f: &mut fmt::Formatter<'_>,
    items: &[T],
    mut item: impl FnMut(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    const SHOWN: usize = 12;
    f.write_str("[")?;
    for (i, x) in items.iter().take(SHOWN).enumerate() {
        if i > 0 {
            f.write_str(",")?;
        }
        item(f, x)?;
    }
    if items.len() > SHOWN {
        write!(f, ",..{} in all", items.len())?;
    }
    f.write_str("]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn getters_check_the_type_and_keep_the_order() {
        let mut a = Attributes::new();
        a.set("axis", 1);
        a.set("alpha", 0.5f32);
        a.set("axis", 2);
        assert_eq!(a.iter().map(|(n, _)| n).collect::<Vec<_>>(), ["axis", "alpha"]);
        assert_eq!(a.int("axis").unwrap(), Some(2));
        assert_eq!(a.int("none").unwrap(), None);
        let e = a.ints("alpha").unwrap_err();
        assert_eq!(e.message(), "attribute 'alpha' must be a list of integers, the model has a float");
    }
}
