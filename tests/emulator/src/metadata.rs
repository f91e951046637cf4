//! The metadata note of a code object: MessagePack with the place of every kernel argument.

use crate::error::{Error, Kind, Result};
use std::collections::BTreeMap;

/// A kernel argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument {
    /// Bytes from the start of the argument segment.
    pub offset: u32,
    /// Size in bytes.
    pub size: u32,
    /// `global_buffer`, `by_value`, `dynamic_shared_pointer`, or `hidden_...` for those the runtime fills in.
    pub kind: String,
    pub name: String,
}

impl Argument {
    /// True for arguments that the runtime fills in.
    pub fn is_hidden(&self) -> bool {
        self.kind.starts_with("hidden_")
    }
}

/// What the note says of one kernel.
pub(crate) struct KernelMetadata {
    pub arguments: Vec<Argument>,
    pub max_block: u32,
}

/// A MessagePack value.
enum Value {
    Nil,
    Integer(u64),
    Text(String),
    List(Vec<Value>),
    Map(Vec<(Value, Value)>),
}

/// Kernels by the name of their function.
pub(crate) fn parse(bytes: &[u8]) -> Result<BTreeMap<String, KernelMetadata>> {
    let mut reader = Reader { bytes, depth: 0 };
    let root = reader.value()?;
    let mut found = BTreeMap::new();
    for kernel in root.get("amdhsa.kernels").map(Value::items).unwrap_or_default() {
        let mut arguments = Vec::new();
        for argument in kernel.get(".args").map(Value::items).unwrap_or_default() {
            arguments.push(Argument {
                offset: argument.integer(".offset") as u32,
                size: argument.integer(".size") as u32,
                kind: argument.text(".value_kind"),
                name: argument.text(".name"),
            });
        }
        let max_block = match kernel.integer(".max_flat_workgroup_size") {
            0 => 1024,
            most => most as u32,
        };
        found.insert(kernel.text(".name"), KernelMetadata { arguments, max_block });
    }
    Ok(found)
}

impl Value {
    fn get(&self, key: &str) -> Option<&Value> {
        let Value::Map(entries) = self else { return None };
        let is_key = |name: &Value| matches!(name, Value::Text(text) if text == key);
        entries.iter().find(|(name, _)| is_key(name)).map(|(_, value)| value)
    }

    fn items(&self) -> &[Value] {
        if let Value::List(items) = self { items } else { &[] }
    }

    fn integer(&self, key: &str) -> u64 {
        if let Some(Value::Integer(value)) = self.get(key) { *value } else { 0 }
    }

    fn text(&self, key: &str) -> String {
        if let Some(Value::Text(text)) = self.get(key) { text.clone() } else { String::new() }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    depth: u32,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (head, rest) = self
            .bytes
            .split_at_checked(len)
            .ok_or_else(|| Error::new(Kind::Object, "the metadata note ends inside a value"))?;
        self.bytes = rest;
        Ok(head)
    }

    /// A big-endian integer of `len` bytes.
    fn unsigned(&mut self, len: usize) -> Result<u64> {
        Ok(self.take(len)?.iter().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    fn value(&mut self) -> Result<Value> {
        const DEEPEST: u32 = 32;
        if self.depth == DEEPEST {
            return Err(Error::new(Kind::Object, "the metadata note nests too deep"));
        }
        self.depth += 1;
        let value = self.value_inside();
        self.depth -= 1;
        value
    }

    fn value_inside(&mut self) -> Result<Value> {
        let tag = self.take(1)?[0];
        Ok(match tag {
            0x00..=0x7f => Value::Integer(u64::from(tag)),
            0xe0..=0xff => Value::Integer(tag as i8 as u64),
            0x80..=0x8f => self.map(usize::from(tag & 15))?,
            0x90..=0x9f => self.list(usize::from(tag & 15))?,
            0xa0..=0xbf => self.text(usize::from(tag & 31))?,
            0xc0 => Value::Nil,
            0xc2 | 0xc3 => Value::Integer(u64::from(tag & 1)),
            0xc4 | 0xd9 => {
                let len = self.unsigned(1)? as usize;
                self.text(len)?
            }
            0xc5 | 0xda => {
                let len = self.unsigned(2)? as usize;
                self.text(len)?
            }
            0xca | 0xcb => {
                self.take(if tag == 0xca { 4 } else { 8 })?;
                Value::Nil
            }
            0xcc..=0xcf => Value::Integer(self.unsigned(1 << (tag - 0xcc))?),
            0xd0..=0xd3 => Value::Integer(self.unsigned(1 << (tag - 0xd0))?),
            0xdc => {
                let count = self.unsigned(2)? as usize;
                self.list(count)?
            }
            0xdd => {
                let count = self.unsigned(4)? as usize;
                self.list(count)?
            }
            0xde => {
                let count = self.unsigned(2)? as usize;
                self.map(count)?
            }
            _ => return Err(Error::new(Kind::Object, format!("metadata note: value of type {tag:#x}"))),
        })
    }

    fn text(&mut self, len: usize) -> Result<Value> {
        Ok(Value::Text(String::from_utf8_lossy(self.take(len)?).into_owned()))
    }

    // Counts come from the file: nothing is reserved for them, so a wrong one ends at the note's end.
    fn list(&mut self, count: usize) -> Result<Value> {
        (0..count).map(|_| self.value()).collect::<Result<_>>().map(Value::List)
    }

    fn map(&mut self, count: usize) -> Result<Value> {
        (0..count).map(|_| Ok((self.value()?, self.value()?))).collect::<Result<_>>().map(Value::Map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_truncated_note_is_an_error() {
        assert_eq!(parse(&[0x81, 0xa5, b'a']).err().map(|error| error.kind()), Some(Kind::Object));
    }

    #[test]
    fn values_nested_without_end_are_an_error() {
        assert_eq!(parse(&[0x91; 4096]).err().map(|error| error.kind()), Some(Kind::Object));
    }
}
