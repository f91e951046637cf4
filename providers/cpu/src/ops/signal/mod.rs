//! Signal operators: Fourier transforms, windows and mel filters.

pub mod dft;
pub mod fourier;
pub mod mel;
pub mod stft;
pub mod window;

use crate::error::{OpError, Result};
use crate::kernel::Context;

/// The integer in a one-element int32 or int64 input, `None` when it is omitted.
fn optional_int(cx: &Context<'_>, index: usize) -> Result<Option<i64>> {
    let Some(input) = cx.optional(index) else {
        return Ok(None);
    };
    match input.to_i64s()?.as_slice() {
        &[value] => Ok(Some(value)),
        other => {
            Err(OpError::invalid(format!("input {index} must be one integer, got {} of them", other.len())))
        }
    }
}
