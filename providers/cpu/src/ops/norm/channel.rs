//! BatchNormalization in all its versions.

use tenon_kernels::cpu::Context as Cpu;
use tenon_kernels::cpu::norm::scale_channels;

use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::real::{self, Output, Real, with_real};
use crate::ops::rows::for_rows;
use crate::tensor::Tensor;

struct BatchNormalization {
    epsilon: f32,
    momentum: f32,
    training: bool,
    /// Statistics of each feature over the batch instead of each channel (versions before 9).
    per_feature: bool,
}

/// Versions 1 to 13: more than one output means training.
pub fn build_batch_old(node: &Node) -> Result<Box<dyn Kernel>> {
    let training = (1..5).any(|index| node.has_output(index));
    build(node, training, !node.flag("spatial", true)?)
}

pub fn build_batch(node: &Node) -> Result<Box<dyn Kernel>> {
    build(node, node.flag("training_mode", false)?, false)
}

fn build(node: &Node, training: bool, per_feature: bool) -> Result<Box<dyn Kernel>> {
    (0..5).try_for_each(|index| real::check(node.input_dtype(index)))?;
    Ok(Box::new(BatchNormalization {
        epsilon: node.float("epsilon", 1e-5)?,
        momentum: node.float("momentum", 0.9)?,
        training,
        per_feature,
    }))
}

/// A float type with `y = x * scale[c] + shift[c]`.
trait ScaleChannels: Real {
    fn scale(
        cpu: &Cpu<'_>,
        x: &[Self],
        extents: [usize; 3],
        scale: &[Self],
        shift: &[Self],
        y: &mut [Self],
    ) -> Result<()>;
}

impl ScaleChannels for f32 {
    fn scale(
        cpu: &Cpu<'_>,
        x: &[f32],
        extents: [usize; 3],
        scale: &[f32],
        shift: &[f32],
        y: &mut [f32],
    ) -> Result<()> {
        Ok(scale_channels(*cpu, x, extents, scale, shift, y)?)
    }
}

impl ScaleChannels for f64 {
    fn scale(
        cpu: &Cpu<'_>,
        x: &[f64],
        [_, channels, len]: [usize; 3],
        scale: &[f64],
        shift: &[f64],
        y: &mut [f64],
    ) -> Result<()> {
        for_rows(cpu.parallel, y, len, len, &|index, row| {
            let (scale, shift) = (scale[index % channels], shift[index % channels]);
            row.iter_mut().zip(&x[index * len..]).for_each(|(y, &x)| *y = x * scale + shift);
        });
        Ok(())
    }
}

impl Kernel for BatchNormalization {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        with_real!(cx.input(0)?.dtype(), T => self.run_typed::<T>(cx))
    }
}

impl BatchNormalization {
    /// Batch, channels and elements a channel, as the statistics see them.
    fn extents(&self, x: &Tensor) -> [usize; 3] {
        match *x.dims() {
            [] => [1, 1, 1],
            [len] => [len, 1, 1],
            [batch, ref rest @ ..] if self.per_feature => [batch, rest.iter().product(), 1],
            [batch, channels, ref rest @ ..] => [batch, channels, rest.iter().product()],
        }
    }

    fn run_typed<T: ScaleChannels>(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype = cx.input(0)?.dtype();
        let x = real::load_input::<T>(cx, 0)?;
        let extents = self.extents(&x);
        let channels = extents[1];
        let mut parameters = Vec::with_capacity(4);
        for (index, name) in [(1, "scale"), (2, "bias"), (3, "mean"), (4, "variance")] {
            let values = real::to_vec::<f64>(cx.input(index)?)?;
            if values.len() != channels {
                return Err(OpError::invalid(format!(
                    "{name} has {} values for {channels} channels",
                    values.len()
                )));
            }
            parameters.push(values);
        }
        let [gamma, beta, mean, variance] = &mut parameters[..] else {
            return Err(OpError::invalid("BatchNormalization takes five inputs"));
        };
        if self.training {
            self.update(cx, &x, extents, mean, variance, &real::to_vec::<T>(&x)?)?;
        }
        let mut scale = Vec::with_capacity(channels);
        let mut shift = Vec::with_capacity(channels);
        for c in 0..channels {
            let factor = gamma[c] / (variance[c] + f64::from(self.epsilon)).sqrt();
            scale.push(T::from_f64(factor));
            shift.push(T::from_f64(beta[c] - mean[c] * factor));
        }
        let cpu = cx.cpu();
        let mut y = Output::new::<T>(cx, 0, dtype, x.dims())?;
        T::scale(&cpu, x.as_slice::<T>()?, extents, &scale, &shift, y.slice::<T>()?)?;
        y.finish(cx)
    }

    /// Replaces the running statistics by those of this batch and hands out their updated running values.
    fn update<T: Real>(
        &self,
        cx: &mut Context<'_>,
        x: &Tensor,
        [batch, channels, len]: [usize; 3],
        mean: &mut [f64],
        variance: &mut [f64],
        values: &[T],
    ) -> Result<()> {
        let count = (batch * len).max(1) as f64;
        let momentum = f64::from(self.momentum);
        let dims = if x.rank() < 2 { vec![channels] } else { cx.input(3)?.dims().to_vec() };
        let mut outputs = Vec::new();
        for index in 1..5 {
            outputs.push(if cx.wants(index) {
                let dtype = cx.input(if index % 2 == 1 { 3 } else { 4 })?.dtype();
                Some(Output::new::<f64>(cx, index, dtype, &dims)?)
            } else {
                None
            });
        }
        for c in 0..channels {
            let channel = || {
                (0..batch)
                    .flat_map(|n| &values[(n * channels + c) * len..][..len])
                    .map(|&value| value.to_f64())
            };
            let average = channel().sum::<f64>() / count;
            let spread = channel().map(|value| (value - average) * (value - average)).sum::<f64>() / count;
            let running = [
                mean[c] * momentum + average * (1.0 - momentum),
                variance[c] * momentum + spread * (1.0 - momentum),
            ];
            (mean[c], variance[c]) = (average, spread);
            for (output, value) in outputs.iter_mut().zip([running[0], running[1], average, spread]) {
                if let Some(output) = output {
                    output.slice::<f64>()?[c] = value;
                }
            }
        }
        outputs.into_iter().flatten().try_for_each(|output| output.finish(cx))
    }
}
