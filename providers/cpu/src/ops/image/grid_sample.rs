//! GridSample: values of a tensor at given positions, in one to three spatial dimensions.

use smallvec::SmallVec;
use tenon_kernels::parallel::{SharedMut, for_each_range};

use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::layout::cells::rearrange;
use crate::ops::layout::number;
use crate::ops::real::Real;
use crate::ops::{NEWEST, Operator};
use crate::tensor::{DType, Dims};

pub const OPERATORS: &[Operator] = &[
    Operator::onnx("GridSample", 16, NEWEST, grid_sample),
    Operator::of("com.microsoft", "GridSample", grid_sample),
];

/// Points whose taps are held at once.
const BLOCK: usize = 256;

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Nearest,
    Linear,
    Cubic,
}

#[derive(Clone, Copy, PartialEq)]
enum Padding {
    Zeros,
    Border,
    Reflection,
}

struct GridSample {
    mode: Mode,
    padding: Padding,
    align_corners: bool,
}

fn grid_sample(node: &Node) -> Result<Box<dyn Kernel>> {
    let mode = match node.string("mode", "linear")? {
        "nearest" => Mode::Nearest,
        "linear" | "bilinear" => Mode::Linear,
        "cubic" | "bicubic" => Mode::Cubic,
        other => return Err(OpError::invalid(format!("attribute 'mode' of GridSample is unknown: {other}"))),
    };
    let padding = match node.string("padding_mode", "zeros")? {
        "zeros" => Padding::Zeros,
        "border" => Padding::Border,
        "reflection" => Padding::Reflection,
        other => return Err(OpError::invalid(format!("attribute 'padding_mode' is unknown: {other}"))),
    };
    Ok(Box::new(GridSample { mode, padding, align_corners: node.int("align_corners", 0)? != 0 }))
}

/// Pixels and their weights.
type Taps<T> = SmallVec<[(usize, T); 16]>;

/// The shapes of one call.
struct Shapes {
    batches: usize,
    channels: usize,
    /// Input sizes of the spatial dimensions, outermost first.
    spatial: SmallVec<[usize; 3]>,
    /// Elements of one channel of the input and of the output.
    plane: usize,
    points: usize,
    result: Dims,
}

impl Shapes {
    fn of(cx: &Context<'_>) -> Result<Shapes> {
        let (x, grid) = (cx.input(0)?.dims(), cx.input(1)?.dims());
        let rank = x.len().saturating_sub(2);
        let fits =
            (1..=3).contains(&rank) && grid.len() == rank + 2 && grid[0] == x[0] && grid[rank + 1] == rank;
        if !fits {
            return Err(OpError::invalid(format!(
                "a grid of shape {grid:?} does not fit X of shape {x:?}: expected [N, spatial.., {rank}]"
            )));
        }
        let spatial: SmallVec<[usize; 3]> = x[2..].into();
        let mut result: Dims = x[..2].into();
        result.extend_from_slice(&grid[1..=rank]);
        let points = grid[1..=rank].iter().product();
        let plane = spatial.iter().product();
        if plane == 0 && points > 0 {
            return Err(OpError::invalid(format!("cannot sample an empty image of shape {x:?}")));
        }
        Ok(Shapes { batches: x[0], channels: x[1], spatial, plane, points, result })
    }
}

impl Kernel for GridSample {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let shapes = Shapes::of(cx)?;
        let dtype = cx.input(0)?.dtype();
        if self.mode == Mode::Nearest {
            let wide = cx.input(1)?.dtype() == DType::F64;
            return if wide { self.nearest::<f64>(cx, &shapes) } else { self.nearest::<f32>(cx, &shapes) };
        }
        match dtype {
            DType::F32 | DType::F16 | DType::BF16 => self.interpolate::<f32>(cx, &shapes, dtype),
            _ => self.interpolate::<f64>(cx, &shapes, dtype),
        }
    }
}

impl GridSample {
    /// Copies the nearest element: any element type.
    fn nearest<T: Real>(&self, cx: &mut Context<'_>, shapes: &Shapes) -> Result<()> {
        let grid = number::to_vec::<T>(cx.input(1)?)?;
        let rank = shapes.spatial.len();
        let from: Vec<Option<usize>> =
            grid.chunks_exact(rank).map(|point| self.nearest_pixel(shapes, point)).collect();
        rearrange(cx, &[0], 0, &shapes.result, |sources, destination, cell| {
            if destination.is_empty() {
                return Ok(());
            }
            for (index, to) in destination.chunks_exact_mut(cell).enumerate() {
                let plane = index / shapes.points;
                match from[plane / shapes.channels * shapes.points + index % shapes.points] {
                    Some(pixel) => {
                        to.copy_from_slice(&sources[0][(plane * shapes.plane + pixel) * cell..][..cell])
                    }
                    None => to.fill(0),
                }
            }
            Ok(())
        })
    }

    fn nearest_pixel<T: Real>(&self, shapes: &Shapes, point: &[T]) -> Option<usize> {
        let mut pixel = 0;
        for (&len, &n) in shapes.spatial.iter().zip(point.iter().rev()) {
            let x = T::from_f64(self.denormalize(n, len).to_f64().round_ties_even());
            let at = self.pixel(self.bring_inside(x, len).to_f64() as i64, len)?;
            pixel = pixel * len + at;
        }
        Some(pixel)
    }

    fn interpolate<T: Real>(&self, cx: &mut Context<'_>, shapes: &Shapes, dtype: DType) -> Result<()> {
        let image = number::to_vec::<T>(cx.input(0)?)?;
        let grid = number::to_vec::<T>(cx.input(1)?)?;
        let mut values = vec![T::ZERO; shapes.result.iter().product()];
        let rank = shapes.spatial.len();
        let shared = SharedMut::new(&mut values);
        let work =
            shapes.channels.max(1) * if self.mode == Mode::Cubic { 4usize } else { 2 }.pow(rank as u32);
        for_each_range(
            cx.parallel(),
            shapes.batches * shapes.points,
            16384usize.div_ceil(work),
            1,
            &|range| {
                let (mut taps, mut ends, mut own) = (Vec::new(), Vec::new(), Taps::new());
                let mut start = range.start;
                while start < range.end {
                    // A block of points of one image shares its taps between the channels.
                    let (batch, point) = (start / shapes.points, start % shapes.points);
                    let count = BLOCK.min(range.end - start).min(shapes.points - point);
                    taps.clear();
                    ends.clear();
                    for index in start..start + count {
                        self.taps(shapes, &grid[index * rank..][..rank], &mut own);
                        taps.extend_from_slice(&own);
                        ends.push(taps.len());
                    }
                    for channel in batch * shapes.channels..(batch + 1) * shapes.channels {
                        let plane = &image[channel * shapes.plane..][..shapes.plane];
                        let at = channel * shapes.points + point;
                        // SAFETY: every point of every channel is written by the one task that has its index.
                        let to = unsafe { shared.slice(at..at + count) };
                        let mut first = 0;
                        for (to, &end) in to.iter_mut().zip(&ends) {
                            *to = taps[first..end].iter().map(|&(pixel, weight)| plane[pixel] * weight).sum();
                            first = end;
                        }
                    }
                    start += count;
                }
            },
        );
        let output = number::store(cx, 0, dtype, &shapes.result, &values)?;
        cx.set(0, output);
        Ok(())
    }

    /// The pixels around a point of the grid and their weights.
    fn taps<T: Real>(&self, shapes: &Shapes, point: &[T], taps: &mut Taps<T>) {
        taps.clear();
        taps.push((0, T::ONE));
        for (&len, &n) in shapes.spatial.iter().zip(point.iter().rev()) {
            // The cubic kernel reaches over the border: only its pixels are brought inside.
            let x = self.denormalize(n, len);
            let x = if self.mode == Mode::Cubic { x } else { self.bring_inside(x, len) };
            let floor = x.to_f64().floor();
            let weights = self.weights(x - T::from_f64(floor));
            let first =
                if self.mode == Mode::Cubic { (floor as i64).saturating_sub(1) } else { floor as i64 };
            let mut next = Taps::new();
            for &(pixel, weight) in taps.iter() {
                for (i, &own) in weights.iter().enumerate() {
                    if let Some(at) = self.pixel(first.saturating_add(i as i64), len) {
                        next.push((pixel * len + at, weight * own));
                    }
                }
            }
            *taps = next;
        }
    }

    /// The weights of the pixels around a point `t` after a pixel.
    fn weights<T: Real>(&self, t: T) -> SmallVec<[T; 4]> {
        if self.mode != Mode::Cubic {
            return SmallVec::from_slice(&[T::ONE - t, t]);
        }
        let a = T::from_f64(-0.75);
        let number = T::from_f64;
        let near = |x: T| ((a + number(2.0)) * x - (a + number(3.0))) * x * x + T::ONE;
        let far = |x: T| ((a * x - number(5.0) * a) * x + number(8.0) * a) * x - number(4.0) * a;
        SmallVec::from_slice(&[far(t + T::ONE), near(t), near(T::ONE - t), far(number(2.0) - t)])
    }

    /// The pixel coordinate of a normalised one.
    fn denormalize<T: Real>(&self, n: T, len: usize) -> T {
        let (len, two) = (T::from_f64(len as f64), T::from_f64(2.0));
        if self.align_corners {
            (n + T::ONE) / two * (len - T::ONE)
        } else {
            ((n + T::ONE) * len - T::ONE) / two
        }
    }

    /// Lowest and highest coordinate of an axis.
    fn borders<T: Real>(&self, len: usize) -> (T, T) {
        let margin = if self.align_corners { 0.0 } else { 0.5 };
        (T::from_f64(-margin), T::from_f64(len as f64 - 1.0 + margin))
    }

    fn bring_inside<T: Real>(&self, x: T, len: usize) -> T {
        let (low, high) = self.borders::<T>(len);
        if x >= low && x <= high {
            return x;
        }
        match self.padding {
            Padding::Zeros => x,
            Padding::Border => x.maximum(T::ZERO).minimum(T::from_f64(len as f64 - 1.0)),
            Padding::Reflection => reflect(x, low, high),
        }
    }

    /// The pixel that a pixel coordinate means; `None` where zeros surround the image.
    fn pixel(&self, at: i64, len: usize) -> Option<usize> {
        if (0..len as i64).contains(&at) {
            return Some(at as usize);
        }
        match self.padding {
            Padding::Zeros => None,
            Padding::Border => Some(at.clamp(0, len as i64 - 1) as usize),
            Padding::Reflection => {
                let (low, high) = self.borders::<f64>(len);
                Some((reflect(at as f64, low, high) as i64).clamp(0, len as i64 - 1) as usize)
            }
        }
    }
}

/// Mirrors a coordinate at the borders until it lies between them.
fn reflect<T: Real>(x: T, low: T, high: T) -> T {
    let (x, low, high) = (x.to_f64(), low.to_f64(), high.to_f64());
    let range = high - low;
    if range <= 0.0 || !x.is_finite() {
        return T::from_f64(low);
    }
    let phase = (x - low).rem_euclid(2.0 * range);
    T::from_f64(low + phase.min(2.0 * range - phase))
}

#[cfg(test)]
mod tests {
    use crate::node::Attribute;
    use crate::testing::{node, run, strings, tensor};

    fn sampled(mode: &str, padding: &str, grid: &[f32]) -> Vec<f32> {
        let attributes =
            [("mode", Attribute::String(mode.into())), ("padding_mode", Attribute::String(padding.into()))];
        let inputs = [
            Some(tensor(&[1, 1, 2, 2], &[1f32, 2.0, 3.0, 4.0])),
            Some(tensor(&[1, 1, grid.len() / 2, 2], grid)),
        ];
        run(&node("", "GridSample", 20, &attributes, 1), &inputs).unwrap()[0]
            .as_slice::<f32>()
            .unwrap()
            .to_vec()
    }

    #[test]
    fn the_outside_follows_the_padding_mode() {
        let grid = [0.0, 0.0, -1.0, -1.0, 5.0, 0.5, f32::NAN, 0.0, 1e30, -1e30];
        let zeros = sampled("linear", "zeros", &grid);
        assert_eq!(zeros[..3], [2.5, 0.25, 0.0]);
        assert_eq!(sampled("linear", "border", &grid)[..3], [2.5, 1.0, 4.0]);
        assert_eq!(sampled("nearest", "reflection", &grid)[1..3], [1.0, 4.0]);
        sampled("cubic", "reflection", &grid);
    }

    #[test]
    fn nearest_moves_strings() {
        let attributes = [("mode", Attribute::String("nearest".into()))];
        let inputs =
            [Some(strings(&[1, 1, 1, 2], &["a", "bc"])), Some(tensor(&[1, 1, 2, 2], &[0.5f32, 0., 9., 0.]))];
        let output = run(&node("", "GridSample", 20, &attributes, 1), &inputs).unwrap();
        assert_eq!(output[0].as_bytes(), strings(&[1, 1, 1, 2], &["bc", ""]).as_bytes());
    }
}
