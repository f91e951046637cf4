//! A borrowed view of a node's attribute.

use super::{TensorView, slice_at};
use crate::ffi;

/// An attribute's value. Texts are bytes, because ONNX lets a string attribute hold any bytes.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum AttributeView<'a> {
    Int(i64),
    Float(f32),
    String(&'a [u8]),
    /// In host memory, perhaps unaligned.
    Tensor(TensorView<'a>),
    Ints(&'a [i64]),
    Floats(&'a [f32]),
    Strings(Texts<'a>),
}

impl<'a> AttributeView<'a> {
    /// Views a checked attribute.
    ///
    /// # Safety
    /// `raw` passed [`super::check`] and stays readable and unchanged for `'a`.
    pub(super) unsafe fn new(raw: &'a ffi::Attribute) -> AttributeView<'a> {
        // SAFETY: the caller vouches for every pointer that the kind says is in use.
        unsafe {
            match raw.kind {
                ffi::ATTRIBUTE_INT => AttributeView::Int(raw.i),
                ffi::ATTRIBUTE_FLOAT => AttributeView::Float(raw.f),
                ffi::ATTRIBUTE_TENSOR => AttributeView::Tensor(TensorView::new(*raw.tensor)),
                ffi::ATTRIBUTE_INTS => AttributeView::Ints(slice_at(raw.ints, raw.count)),
                ffi::ATTRIBUTE_FLOATS => AttributeView::Floats(slice_at(raw.floats, raw.count)),
                ffi::ATTRIBUTE_STRINGS => AttributeView::Strings(Texts(slice_at(raw.strings, raw.count))),
                // The check lets no other kind pass.
                _ => AttributeView::String(raw.s.as_bytes()),
            }
        }
    }

    /// What the attribute holds, in ONNX's words.
    pub const fn kind_name(&self) -> &'static str {
        match self {
            AttributeView::Int(_) => "INT",
            AttributeView::Float(_) => "FLOAT",
            AttributeView::String(_) => "STRING",
            AttributeView::Tensor(_) => "TENSOR",
            AttributeView::Ints(_) => "INTS",
            AttributeView::Floats(_) => "FLOATS",
            AttributeView::Strings(_) => "STRINGS",
        }
    }
}

/// The texts of a STRINGS attribute.
#[derive(Clone, Copy)]
pub struct Texts<'a>(&'a [ffi::Str]);

impl<'a> Texts<'a> {
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Text `index`, or `None` behind the end.
    pub fn get(&self, index: usize) -> Option<&'a [u8]> {
        // SAFETY: views are made only over checked attributes whose texts live for 'a.
        self.0.get(index).map(|text| unsafe { text.as_bytes() })
    }

    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        // SAFETY: as in `get`.
        self.0.iter().map(|text| unsafe { text.as_bytes() })
    }
}

impl core::fmt::Debug for Texts<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.iter().map(alloc::string::String::from_utf8_lossy)).finish()
    }
}
