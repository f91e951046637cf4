//! The arithmetic of sliding windows that convolution and pooling share.

use crate::error::{Error, Result};
use crate::graph::{Dim, Shape};
use crate::shape::dim;
use crate::shape::site::Site;

/// Windows over the spatial axes of one node.
pub struct Window {
    pub kernel: Vec<Dim>,
    pub strides: Vec<i64>,
    pub dilations: Vec<i64>,
    /// All beginnings, then all ends.
    pub pads: Vec<i64>,
    pub mode: Padding,
    pub ceil: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    Explicit,
    Same,
    Valid,
}

/// A list attribute of `len` values, `default` for each where it is absent.
pub fn list(s: &Site<'_>, name: &str, len: usize, default: i64, least: i64) -> Result<Vec<i64>> {
    let Some(values) = s.ints(name)? else { return Ok(vec![default; len]) };
    if values.len() != len {
        return Err(Error::invalid_model(format!(
            "attribute '{name}' has {} values; the spatial axes of {} need {len}",
            values.len(),
            s.describe(0)
        )));
    }
    if let Some(bad) = values.iter().find(|v| **v < least) {
        return Err(Error::invalid_model(format!(
            "attribute '{name}' holds {bad}; it must be at least {least}"
        )));
    }
    Ok(values.to_vec())
}

impl Window {
    /// The attributes for `kernel`.
    pub fn read(s: &Site<'_>, kernel: Vec<Dim>) -> Result<Window> {
        let n = kernel.len();
        let mode = match s.string("auto_pad", "NOTSET")? {
            "" | "NOTSET" => Padding::Explicit,
            "SAME_UPPER" | "SAME_LOWER" => Padding::Same,
            "VALID" => Padding::Valid,
            other => {
                return Err(Error::invalid_model(format!(
                    "auto_pad is '{other}'; it must be NOTSET, SAME_UPPER, SAME_LOWER or VALID"
                )));
            }
        };
        let pads =
            if mode == Padding::Explicit { list(s, "pads", 2 * n, 0, i64::MIN)? } else { vec![0; 2 * n] };
        Ok(Window {
            strides: list(s, "strides", n, 1, 1)?,
            dilations: list(s, "dilations", n, 1, 1)?,
            ceil: s.flag("ceil_mode", false)?,
            kernel,
            pads,
            mode,
        })
    }

    /// The window's extent along spatial axis `i`: `dilation * (kernel - 1) + 1`.
    fn extent(&self, i: usize) -> Dim {
        dim::plus(&dim::times(&dim::plus(&self.kernel[i], -1), self.dilations[i]), 1)
    }

    /// The number of positions of the window along spatial axis `i` of size `size`.
    pub fn positions(&self, i: usize, size: &Dim) -> Result<Dim> {
        let stride = self.strides[i];
        if self.mode == Padding::Same {
            return Ok(dim::over_up(size, stride));
        }
        let (begin, end) = (self.pads[i], self.pads[i + self.kernel.len()]);
        let extent = self.extent(i);
        let padded = dim::plus(size, begin.saturating_add(end));
        let room = dim::sub(&padded, &extent);
        if let (Dim::Known(p), Dim::Known(e)) = (&padded, &extent)
            && e > p
            && *size != Dim::Known(0)
        {
            return Err(Error::invalid_model(format!(
                "the window covers {e} elements along spatial axis {i}, but the padded input has only {p}"
            )));
        }
        if !self.ceil {
            return Ok(dim::plus(&dim::over(&room, stride), 1));
        }
        let positions = dim::plus(&dim::over_up(&room, stride), 1);
        match (&positions, size, &extent) {
            // A window that would start in the end padding is left out.
            (Dim::Known(n), Dim::Known(d), _) => {
                let starts_outside = (*n as i64 - 1) * stride >= *d as i64 + begin;
                Ok(Dim::Known(if starts_outside { n - 1 } else { *n }))
            }
            (_, _, Dim::Known(e)) if *e as i64 > stride - 1 + end => Ok(positions),
            _ => Ok(Dim::Unknown),
        }
    }

    /// All spatial sizes of the output.
    pub fn output(&self, spatial: &[Dim]) -> Result<Vec<Dim>> {
        spatial.iter().enumerate().map(|(i, d)| self.positions(i, d)).collect()
    }
}

/// The spatial dimensions of a shape: all after batch and channels.
pub fn spatial(shape: &Shape) -> &[Dim] {
    shape.get(2..).unwrap_or(&[])
}

/// The attribute `kernel_shape`.
pub fn kernel_attribute(s: &Site<'_>, n: usize) -> Result<Option<Vec<Dim>>> {
    if s.ints("kernel_shape")?.is_none_or(|k| k.is_empty()) {
        return Ok(None);
    }
    let sizes = list(s, "kernel_shape", n, 1, 1)?;
    Ok(Some(sizes.into_iter().map(|k| Dim::Known(k as usize)).collect()))
}
