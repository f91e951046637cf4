//! Pooling of 8-bit tensors (com.microsoft): QLinearAveragePool and QLinearGlobalAveragePool.

use super::value::{Affine, Codes, check};
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::Operator;
use crate::ops::window::{Geometry, Window};
use crate::tensor::Dims;

/// Where the channels are: `[N, C, spatial...]` or `[N, spatial..., C]`.
#[derive(Clone, Copy)]
struct Layout {
    channels_last: bool,
}

impl Layout {
    /// Batch, channels and spatial sizes.
    fn split(self, dims: &[usize]) -> Result<(usize, usize, Dims)> {
        if dims.len() < 3 {
            return Err(OpError::invalid(format!(
                "pooling needs at least one spatial axis, got shape {dims:?}"
            )));
        }
        let last = dims.len() - 1;
        Ok(match self.channels_last {
            true => (dims[0], dims[last], dims[1..last].into()),
            false => (dims[0], dims[1], dims[2..].into()),
        })
    }

    fn join(self, batch: usize, channels: usize, spatial: &[usize]) -> Dims {
        let mut dims = Dims::from_slice(&[batch]);
        if !self.channels_last {
            dims.push(channels);
        }
        dims.extend_from_slice(spatial);
        if self.channels_last {
            dims.push(channels);
        }
        dims
    }

    /// The first element of a plane and the distance between its elements.
    fn plane(self, batch: usize, channel: usize, channels: usize, len: usize) -> (usize, usize) {
        match self.channels_last {
            true => (batch * len * channels + channel, channels),
            false => ((batch * channels + channel) * len, 1),
        }
    }
}

struct GlobalAverage {
    layout: Layout,
}

impl Kernel for GlobalAverage {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let (from, to) = (Affine::read(cx, 1, 2)?, Affine::read(cx, 3, 4)?);
        let input = cx.input(0)?;
        let codes = Codes::of(input.dtype())?;
        let (batch, channels, spatial) = self.layout.split(input.dims())?;
        let len: usize = spatial.iter().product();
        let ones: Dims = spatial.iter().map(|_| 1).collect();
        let mut out = cx.output(0, input.dtype(), &self.layout.join(batch, channels, &ones))?;
        let (x, y) = (input.as_bytes(), out.as_bytes_mut());
        for (at, y) in y.iter_mut().enumerate() {
            let (first, step) = self.layout.plane(at / channels, at % channels, channels, len);
            let sum: i64 = (0..len).map(|i| i64::from(codes.load(x[first + i * step]) - from.zero)).sum();
            *y = to.code(sum as f32 * from.scale / len as f32, codes) as u8;
        }
        cx.set(0, out);
        Ok(())
    }
}

struct Average {
    layout: Layout,
    window: Window,
    count_padding: bool,
}

impl Kernel for Average {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let (from, to) = (Affine::read(cx, 1, 2)?, Affine::read(cx, 3, 4)?);
        let input = cx.input(0)?;
        let codes = Codes::of(input.dtype())?;
        let (batch, channels, spatial) = self.layout.split(input.dims())?;
        let geometry = self.window.fit(&spatial, &self.window.kernel)?;
        let mut out = cx.output(0, input.dtype(), &self.layout.join(batch, channels, &geometry.output))?;
        let (x, y) = (input.as_bytes(), out.as_bytes_mut());
        let (len, out_len) = (geometry.input_len(), geometry.output_len());
        for plane in 0..batch * channels {
            let (n, c) = (plane / channels, plane % channels);
            let (first, step) = self.layout.plane(n, c, channels, len);
            let (out_first, out_step) = self.layout.plane(n, c, channels, out_len);
            for o in 0..out_len {
                let mut sum = 0i64;
                let inside = for_each_covered(&geometry, o, |at| {
                    sum += i64::from(codes.load(x[first + at * step]) - from.zero);
                });
                let coordinates = unravel(o, &geometry.output);
                let covered = |axis: usize| geometry.covered(axis, coordinates[axis], self.count_padding);
                let count =
                    if self.count_padding { (0..spatial.len()).map(covered).product() } else { inside };
                y[out_first + o * out_step] = to.code(sum as f32 * from.scale / count as f32, codes) as u8;
            }
        }
        cx.set(0, out);
        Ok(())
    }
}

/// Calls `body` with each input element under the window of output `o`; returns how many there are.
fn for_each_covered(geometry: &Geometry, o: usize, mut body: impl FnMut(usize)) -> usize {
    let place = unravel(o, &geometry.output);
    let mut count = 0;
    for k in 0..geometry.kernel_len() {
        let offset = unravel(k, &geometry.kernel);
        let at = (0..place.len()).try_fold(0, |at, axis| {
            let position = usize::try_from(geometry.position(axis, place[axis], offset[axis])).ok()?;
            (position < geometry.input[axis]).then(|| at * geometry.input[axis] + position)
        });
        if let Some(at) = at {
            body(at);
            count += 1;
        }
    }
    count
}

/// The coordinates of element `index` of a contiguous tensor.
fn unravel(mut index: usize, dims: &[usize]) -> Dims {
    let mut coordinates: Dims = dims.into();
    for (coordinate, &size) in coordinates.iter_mut().zip(dims).rev() {
        *coordinate = index % size.max(1);
        index /= size.max(1);
    }
    coordinates
}

fn layout(node: &Node) -> Result<Layout> {
    check(node.input_dtype(0))?;
    Ok(Layout { channels_last: node.flag("channels_last", false)? })
}

pub const OPERATORS: &[Operator] = &[
    Operator::of("com.microsoft", "QLinearGlobalAveragePool", |node| {
        Ok(Box::new(GlobalAverage { layout: layout(node)? }))
    }),
    Operator::of("com.microsoft", "QLinearAveragePool", |node| {
        let count_padding = node.flag("count_include_pad", false)?;
        Ok(Box::new(Average { layout: layout(node)?, window: Window::of(node)?, count_padding }))
    }),
];
