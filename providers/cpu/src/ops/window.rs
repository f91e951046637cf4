//! The geometry of sliding windows over any number of spatial dimensions: what convolutions and pools share.

use std::ops::Range;

use tenon_kernels::cpu::pool;

use crate::error::{OpError, Result};
use crate::node::Node;
use crate::tensor::Dims;

/// How the padding of a window is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoPad {
    /// By the attribute `pads`.
    Explicit,
    /// So that the output is the input divided by the stride, the odd element at the end.
    SameUpper,
    /// As above, the odd element at the beginning.
    SameLower,
    /// None.
    Valid,
}

impl AutoPad {
    pub fn of(node: &Node) -> Result<AutoPad> {
        Ok(match node.string("auto_pad", "NOTSET")? {
            "NOTSET" | "" => AutoPad::Explicit,
            "SAME_UPPER" => AutoPad::SameUpper,
            "SAME_LOWER" => AutoPad::SameLower,
            "VALID" => AutoPad::Valid,
            other => return Err(OpError::invalid(format!("auto_pad '{other}' is not one of ONNX's"))),
        })
    }
}

/// The attributes of a window, not yet fitted to an input.
#[derive(Clone, Debug)]
pub struct Window {
    /// `kernel_shape`; empty when the weights tell.
    pub kernel: Dims,
    strides: Dims,
    dilations: Dims,
    /// Begins, then ends.
    pads: Vec<i64>,
    auto_pad: AutoPad,
    ceil: bool,
}

impl Window {
    /// Reads `kernel_shape`, `strides`, `dilations`, `pads`, `auto_pad` and `ceil_mode`.
    pub fn of(node: &Node) -> Result<Window> {
        let positive = |name: &str| -> Result<Dims> {
            let values = node.ints(name)?.unwrap_or(&[]);
            if let Some(value) = values.iter().find(|&&value| value < 1) {
                return Err(OpError::invalid(format!(
                    "attribute '{name}' holds {value}, expected at least 1"
                )));
            }
            Ok(values.iter().map(|&value| value as usize).collect())
        };
        Ok(Window {
            kernel: positive("kernel_shape")?,
            strides: positive("strides")?,
            dilations: positive("dilations")?,
            pads: node.ints("pads")?.unwrap_or(&[]).to_vec(),
            auto_pad: AutoPad::of(node)?,
            ceil: node.flag("ceil_mode", false)?,
        })
    }

    /// True when a negative padding crops the input.
    pub fn crops(&self) -> bool {
        self.pads.iter().any(|&pad| pad < 0)
    }

    /// Fits the window of size `kernel` to an input of spatial size `input`.
    pub fn fit(&self, input: &[usize], kernel: &[usize]) -> Result<Geometry> {
        let rank = input.len();
        let or_ones = |values: &Dims, name: &str| -> Result<Dims> {
            match values.len() {
                0 => Ok(Dims::from_elem(1, rank)),
                len if len == rank => Ok(values.clone()),
                len => Err(OpError::invalid(format!(
                    "attribute '{name}' has {len} values for {rank} spatial axes"
                ))),
            }
        };
        if kernel.len() != rank {
            return Err(OpError::invalid(format!(
                "a window of shape {kernel:?} does not fit {rank} spatial axes"
            )));
        }
        let strides = or_ones(&self.strides, "strides")?;
        let dilations = or_ones(&self.dilations, "dilations")?;
        if !self.pads.is_empty() && self.pads.len() != 2 * rank {
            return Err(OpError::invalid(format!(
                "attribute 'pads' has {} values, expected {}",
                self.pads.len(),
                2 * rank
            )));
        }
        let mut geometry = Geometry {
            input: input.into(),
            output: Dims::with_capacity(rank),
            kernel: kernel.into(),
            strides,
            dilations,
            begins: Vec::with_capacity(rank),
            ends: Vec::with_capacity(rank),
        };
        for axis in 0..rank {
            self.fit_axis(axis, &mut geometry)?;
        }
        Ok(geometry)
    }

    fn fit_axis(&self, axis: usize, geometry: &mut Geometry) -> Result<()> {
        let size = geometry.input[axis] as i64;
        let stride = geometry.strides[axis] as i64;
        let extent = ((geometry.kernel[axis].max(1) - 1) * geometry.dilations[axis] + 1) as i64;
        let (begin, end) = match self.auto_pad {
            AutoPad::Explicit if self.pads.is_empty() => (0, 0),
            AutoPad::Explicit => (self.pads[axis], self.pads[axis + geometry.input.len()]),
            AutoPad::Valid => (0, 0),
            AutoPad::SameUpper | AutoPad::SameLower => {
                let total = (((size + stride - 1) / stride - 1) * stride + extent - size).max(0);
                let (small, large) = (total / 2, total - total / 2);
                if self.auto_pad == AutoPad::SameUpper { (small, large) } else { (large, small) }
            }
        };
        let room = size + begin + end - extent;
        if room < 0 {
            if size == 0 {
                geometry.output.push(0);
                geometry.begins.push(begin);
                geometry.ends.push(end);
                return Ok(());
            }
            return Err(OpError::invalid(format!(
                "a window that spans {extent} elements is larger than the padded input of {} on spatial axis {axis}",
                size + begin + end
            )));
        }
        let mut count = room / stride + 1;
        if self.ceil && room % stride != 0 && count * stride < size + begin {
            count += 1;
        }
        geometry.output.push(count as usize);
        geometry.begins.push(begin);
        geometry.ends.push(end);
        Ok(())
    }
}

/// A window fitted to an input: sizes along each spatial axis.
#[derive(Clone, Debug)]
pub struct Geometry {
    pub input: Dims,
    pub output: Dims,
    pub kernel: Dims,
    pub strides: Dims,
    pub dilations: Dims,
    /// Padding before and after; negative crops.
    pub begins: Vec<i64>,
    pub ends: Vec<i64>,
}

impl Geometry {
    /// The same geometry as the kernels describe it; `None` when a negative padding crops the input.
    pub fn kernel_window(&self) -> Option<pool::Window> {
        let padding =
            |values: &[i64]| values.iter().map(|&pad| usize::try_from(pad).ok()).collect::<Option<Vec<_>>>();
        Some(pool::Window {
            input: self.input.to_vec(),
            kernel: self.kernel.to_vec(),
            strides: self.strides.to_vec(),
            dilations: self.dilations.to_vec(),
            pads_begin: padding(&self.begins)?,
            pads_end: padding(&self.ends)?,
            output: self.output.to_vec(),
        })
    }

    /// Elements of one input plane.
    pub fn input_len(&self) -> usize {
        self.input.iter().product()
    }

    /// Elements of one output plane.
    pub fn output_len(&self) -> usize {
        self.output.iter().product()
    }

    /// Elements of the window.
    pub fn kernel_len(&self) -> usize {
        self.kernel.iter().product()
    }

    /// Output rows (runs along the last axis) in a plane.
    pub fn output_rows(&self) -> usize {
        self.output[..self.output.len() - 1].iter().product()
    }

    /// Window rows (runs along the last axis).
    pub fn kernel_rows(&self) -> usize {
        self.kernel[..self.kernel.len() - 1].iter().product()
    }

    /// Where window row `kernel_row` of output row `output_row` starts in the input plane; `None` in the padding.
    pub fn input_row(&self, mut output_row: usize, mut kernel_row: usize) -> Option<usize> {
        let last = self.input.len() - 1;
        let (mut start, mut step) = (0, self.input[last]);
        for axis in (0..last).rev() {
            let o = output_row % self.output[axis];
            let k = kernel_row % self.kernel[axis];
            output_row /= self.output[axis];
            kernel_row /= self.kernel[axis];
            let position = self.position(axis, o, k);
            if position < 0 || position >= self.input[axis] as i64 {
                return None;
            }
            start += position as usize * step;
            step *= self.input[axis];
        }
        Some(start)
    }

    /// The input coordinate that window element `k` of output `o` reads on an axis; outside the input in the padding.
    pub fn position(&self, axis: usize, o: usize, k: usize) -> i64 {
        (o * self.strides[axis] + k * self.dilations[axis]) as i64 - self.begins[axis]
    }

    /// The outputs of a row whose window element `k` (on the last axis) lies inside the input, and the input
    /// coordinate of the first of them.
    pub fn columns(&self, k: usize) -> (Range<usize>, usize) {
        let axis = self.input.len() - 1;
        let stride = self.strides[axis] as i64;
        let offset = self.position(axis, 0, k);
        let first = if offset < 0 { (-offset + stride - 1) / stride } else { 0 };
        let limit = self.input[axis] as i64 - offset;
        let end = if limit <= 0 { 0 } else { (limit + stride - 1) / stride };
        let end = end.min(self.output[axis] as i64);
        if first >= end {
            return (0..0, 0);
        }
        (first as usize..end as usize, (offset + first * stride) as usize)
    }

    /// How many elements of the window at output `o` of an axis lie inside the input, or inside the padded input.
    pub fn covered(&self, axis: usize, o: usize, with_padding: bool) -> usize {
        let (low, high) = if with_padding {
            (-self.begins[axis], self.input[axis] as i64 + self.ends[axis])
        } else {
            (0, self.input[axis] as i64)
        };
        (0..self.kernel[axis]).filter(|&k| (low..high).contains(&self.position(axis, o, k))).count()
    }
}
