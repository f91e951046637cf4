//! Borrowed, checked views of what crosses the C boundary: tensors, values, attributes, nodes, graphs, options.

mod attribute;
mod check;
mod graph;
mod options;
mod tensor;

pub(crate) use check::covers;

pub use attribute::{AttributeView, Texts};
pub use graph::{GraphView, NodeView, ValueView};
pub use options::Options;
pub use tensor::TensorView;

use core::slice;

/// The slice of `len` elements at `data`; empty when `len` is 0 or `data` is NULL.
///
/// # Safety
/// `data` is NULL or points at `len` readable elements that stay unchanged for `'a`.
#[inline]
pub(crate) unsafe fn slice_at<'a, T>(data: *const T, len: usize) -> &'a [T] {
    if data.is_null() || len == 0 {
        return &[];
    }
    // SAFETY: the caller vouches for the elements; the pointer was just checked.
    unsafe { slice::from_raw_parts(data, len) }
}
