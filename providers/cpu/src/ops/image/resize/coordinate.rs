//! From positions of the output to positions of the input, and the weights of the pixels around them.

use super::{Interpolation, Rounding};
use crate::ops::real::Real;

/// The coordinate transformations of ONNX Resize.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Transform {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    CropAndResize,
}

impl Transform {
    /// The transformation that the attribute `coordinate_transformation_mode` names. `tf_half_pixel_for_nn` is of
    /// opset 11 and 12 only.
    pub fn parse(name: &str) -> Option<Transform> {
        Some(match name {
            "half_pixel" | "tf_half_pixel_for_nn" => Transform::HalfPixel,
            "half_pixel_symmetric" => Transform::HalfPixelSymmetric,
            "pytorch_half_pixel" => Transform::PytorchHalfPixel,
            "align_corners" => Transform::AlignCorners,
            "asymmetric" => Transform::Asymmetric,
            "tf_crop_and_resize" => Transform::CropAndResize,
            _ => return None,
        })
    }
}

/// How one axis is resampled.
#[derive(Clone, Copy, Debug)]
pub struct AxisPlan {
    pub input: usize,
    pub output: usize,
    pub scale: f64,
    pub transform: Transform,
    /// Start and end of the region of interest, as fractions of the axis.
    pub region: (f64, f64),
}

/// One output position: the first input pixel it reads (which may lie outside) and where its weights are.
pub struct Taps {
    /// Pixels that every output position reads.
    pub width: usize,
    /// `width` input positions an output position, inside the axis.
    pub from: Vec<u32>,
    /// `width` weights an output position.
    pub weights: Vec<f64>,
    /// Output positions that lie outside the region and take the extrapolation value.
    pub outside: Vec<bool>,
}

impl AxisPlan {
    pub fn identity(dim: usize, transform: Transform) -> AxisPlan {
        AxisPlan { input: dim, output: dim, scale: 1.0, transform, region: (0.0, 1.0) }
    }

    /// True when the axis comes out as it went in.
    pub fn is_identity(&self) -> bool {
        let whole = self.transform != Transform::CropAndResize || self.region == (0.0, 1.0);
        self.input == self.output && (self.scale - 1.0).abs() < 1e-9 && whole
    }

    /// The input coordinate of output position `x`. Single precision decides ties between pixels the way exporters and
    /// other runtimes do.
    fn coordinate<T: Real>(&self, x: usize) -> T {
        let of = |value: f64| T::from_f64(value);
        let (x, scale, input, half) = (of(x as f64), of(self.scale), of(self.input as f64), of(0.5));
        match self.transform {
            Transform::PytorchHalfPixel if self.output == 1 => T::ZERO,
            Transform::HalfPixel | Transform::PytorchHalfPixel => (x + half) / scale - half,
            Transform::HalfPixelSymmetric => {
                let adjustment = of(self.output as f64) / (scale * input);
                input * half * (T::ONE - adjustment) + ((x + half) / scale - half)
            }
            Transform::AlignCorners if scale * input == T::ONE => T::ZERO,
            Transform::AlignCorners => x * (input - T::ONE) / (scale * input - T::ONE),
            Transform::Asymmetric => x / scale,
            Transform::CropAndResize => {
                let (start, end) = (of(self.region.0), of(self.region.1));
                let (first, last) = (input - T::ONE, of(self.output as f64 - 1.0));
                if last > T::ZERO {
                    start * first + x * (end - start) * first / last
                } else {
                    half * (start + end) * first
                }
            }
        }
    }

    fn is_outside(&self, coordinate: f64) -> bool {
        self.transform == Transform::CropAndResize
            && !(coordinate >= 0.0 && coordinate <= self.input as f64 - 1.0)
    }

    /// The input position that each output position copies; `None` takes the extrapolation value.
    pub fn nearest(&self, rounding: Rounding) -> Vec<Option<u32>> {
        let pick = |x: usize| {
            let at = self.coordinate::<f32>(x);
            if self.is_outside(at.into()) {
                return None;
            }
            let nearest = match rounding {
                Rounding::RoundPreferFloor => (on_tie(at) - 0.5).ceil(),
                Rounding::RoundPreferCeil => (on_tie(at) + 0.5).floor(),
                Rounding::Floor => at.floor(),
                Rounding::Ceil => at.ceil(),
                Rounding::BySize if self.scale < 1.0 => at.ceil(),
                Rounding::BySize => at.floor(),
            };
            Some((nearest.max(0.0) as u32).min(self.input as u32 - 1))
        };
        (0..self.output).map(pick).collect()
    }

    /// The weighted pixels behind each output position.
    pub fn taps(&self, interpolation: Interpolation, antialias: bool, exclude_outside: bool) -> Taps {
        // Antialiasing widens the kernel when shrinking.
        let shrink = if antialias { self.scale.min(1.0) } else { 1.0 };
        let reach = match interpolation {
            Interpolation::Cubic(_) => 2.0,
            _ => 1.0,
        };
        let before = (-reach / shrink).floor() as i64 + 1;
        let width = (2 - 2 * before) as usize;
        let mut taps = Taps { width, from: Vec::new(), weights: Vec::new(), outside: Vec::new() };
        for x in 0..self.output {
            let at = self.coordinate::<f64>(x);
            let first = at.floor() as i64 + before;
            let start = taps.weights.len();
            for pixel in first..first + width as i64 {
                let inside = (0..self.input as i64).contains(&pixel);
                let distance = (pixel as f64 - at).abs() * shrink;
                let weight = if exclude_outside && !inside { 0.0 } else { kernel(interpolation, distance) };
                taps.weights.push(weight);
                taps.from.push(pixel.clamp(0, self.input as i64 - 1) as u32);
            }
            let own = &mut taps.weights[start..];
            let sum: f64 = own.iter().sum();
            if (antialias || exclude_outside) && sum != 0.0 {
                own.iter_mut().for_each(|weight| *weight /= sum);
            }
            taps.outside.push(self.is_outside(at));
        }
        taps
    }
}

/// A coordinate that rounding errors have moved from half-way between two pixels, moved back.
fn on_tie(at: f32) -> f32 {
    let tie = at.floor() + 0.5;
    if (at - tie).abs() <= at.abs().max(1.0) * 1e-6 { tie } else { at }
}

/// The interpolation kernel at a distance in pixels.
fn kernel(interpolation: Interpolation, x: f64) -> f64 {
    match interpolation {
        Interpolation::Cubic(a) => {
            let a = f64::from(a);
            if x <= 1.0 {
                ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
            } else if x < 2.0 {
                ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
            } else {
                0.0
            }
        }
        _ => (1.0 - x).max(0.0),
    }
}
