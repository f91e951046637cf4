//! InstanceNormalization, GroupNormalization and com.microsoft's GroupNorm and SkipGroupNorm.

use super::row::{Norm, Normalize};
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::real::{self, Output, Real, with_real};
use crate::ops::rows::for_rows;
use crate::tensor::{Dims, Tensor};

/// How many channels share their statistics.
#[derive(Clone, Copy)]
enum Groups {
    /// Each channel has its own.
    Instance,
    Count(usize),
}

struct GroupNormalization {
    groups: Groups,
    epsilon: f32,
    channels_last: bool,
    silu: bool,
    /// Inputs 3 and 4 are added first, and their sum is output 1.
    skip: bool,
}

pub fn build_instance(node: &Node) -> Result<Box<dyn Kernel>> {
    build(node, Groups::Instance, false)
}

pub fn build_group(node: &Node) -> Result<Box<dyn Kernel>> {
    build(node, Groups::Count(count(node, "num_groups")?), false)
}

pub fn build_contrib(node: &Node) -> Result<Box<dyn Kernel>> {
    build(node, Groups::Count(count(node, "groups")?), false)
}

pub fn build_skip(node: &Node) -> Result<Box<dyn Kernel>> {
    build(node, Groups::Count(count(node, "groups")?), true)
}

fn count(node: &Node, name: &str) -> Result<usize> {
    match node.required_int(name)? {
        groups if groups > 0 => Ok(groups as usize),
        groups => Err(OpError::invalid(format!("attribute '{name}' is {groups}, expected at least 1"))),
    }
}

fn build(node: &Node, groups: Groups, skip: bool) -> Result<Box<dyn Kernel>> {
    real::check(node.input_dtype(0))?;
    let contrib = node.domain == "com.microsoft";
    Ok(Box::new(GroupNormalization {
        groups,
        epsilon: node.float("epsilon", 1e-5)?,
        channels_last: contrib && node.flag("channels_last", true)?,
        silu: contrib && node.flag("activation", false)?,
        skip,
    }))
}

impl Kernel for GroupNormalization {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        with_real!(cx.input(0)?.dtype(), T => self.run_typed::<T>(cx))
    }
}

impl GroupNormalization {
    fn run_typed<T: Normalize>(&self, cx: &mut Context<'_>) -> Result<()> {
        let dtype = cx.input(0)?.dtype();
        let mut x = real::load_input::<T>(cx, 0)?;
        let rank = x.rank();
        if rank < 2 {
            return Err(OpError::invalid(format!(
                "group normalisation takes batch and channels, got shape {:?}",
                x.dims()
            )));
        }
        let channels = x.dims()[if self.channels_last { rank - 1 } else { 1 }];
        let groups = match self.groups {
            Groups::Instance => channels,
            Groups::Count(groups) => groups,
        };
        if !channels.is_multiple_of(groups.max(1)) {
            return Err(OpError::invalid(format!("{channels} channels do not divide into {groups} groups")));
        }
        if self.skip {
            x = self.add_skip::<T>(cx, &x, channels)?;
            if cx.wants(1) {
                let mut sum = Output::new::<T>(cx, 1, dtype, x.dims())?;
                sum.slice::<T>()?.copy_from_slice(x.as_slice::<T>()?);
                sum.finish(cx)?;
            }
        }
        let scale = per_channel(&real::load_input::<T>(cx, 1)?, channels, groups)?;
        let bias = per_channel(&real::load_input::<T>(cx, 2)?, channels, groups)?;
        let last_dims: Dims = x.dims().into();
        let first = if self.channels_last { self.turn::<T>(cx, &x)? } else { x };
        let batch = last_dims[0];
        let len = first.len().checked_div(batch * channels).unwrap_or(0);
        let cpu = cx.cpu();
        let mut y = Output::new::<T>(cx, 0, dtype, &last_dims)?;
        let mut turned = if self.channels_last { Some(cx.scratch(T::DTYPE, first.dims())?) } else { None };
        let out = match &mut turned {
            Some(turned) => turned.as_mut_slice::<T>()?,
            None => y.slice::<T>()?,
        };
        let norm = Norm { epsilon: self.epsilon, centred: true };
        let extents = [batch * groups, channels / groups.max(1) * len];
        T::normalize(&cpu, norm, first.as_slice::<T>()?, extents, [None, None], out, [None, None])?;
        for_rows(cx.parallel(), out, len, len * 2, &|index, plane| {
            let (scale, bias) = (scale[index % channels], bias[index % channels]);
            plane.iter_mut().for_each(|value| *value = *value * scale + bias);
            if self.silu {
                plane.iter_mut().for_each(|value| *value *= value.sigmoid());
            }
        });
        if let Some(turned) = turned {
            let from = turned.as_slice::<T>()?;
            for_rows(cx.parallel(), y.slice::<T>()?, channels, channels, &|index, pixel| {
                let (image, position) = (index / len, index % len);
                for (channel, value) in pixel.iter_mut().enumerate() {
                    *value = from[(image * channels + channel) * len + position];
                }
            });
        }
        y.finish(cx)
    }

    /// A channels-last tensor with its channels second.
    fn turn<T: Real>(&self, cx: &Context<'_>, x: &Tensor) -> Result<Tensor> {
        let mut dims: Dims = x.dims().into();
        dims[1..].rotate_right(1);
        let (channels, len) = (dims[1], dims[2..].iter().product::<usize>());
        let mut turned = cx.scratch(T::DTYPE, &dims)?;
        let from = x.as_slice::<T>()?;
        for_rows(cx.parallel(), turned.as_mut_slice::<T>()?, len, len, &|index, plane| {
            let (image, channel) = (index / channels, index % channels);
            for (position, value) in plane.iter_mut().enumerate() {
                *value = from[(image * len + position) * channels + channel];
            }
        });
        Ok(turned)
    }

    /// `x + skip + bias` with a skip of the input's shape or one value a channel of each image.
    fn add_skip<T: Real>(&self, cx: &Context<'_>, x: &Tensor, channels: usize) -> Result<Tensor> {
        let skip = real::load_input::<T>(cx, 3)?;
        let bias = real::load_optional::<T>(cx, 4)?;
        let whole = skip.dims() == x.dims();
        if !whole && skip.len() != x.dims()[0] * channels
            || bias.as_ref().is_some_and(|bias| bias.len() != channels)
        {
            return Err(OpError::invalid(format!(
                "skip {:?} or bias do not fit the input {:?}",
                skip.dims(),
                x.dims()
            )));
        }
        let mut sum = cx.scratch(T::DTYPE, x.dims())?;
        let image = x.len().checked_div(x.dims()[0]).unwrap_or(0);
        let len = image.checked_div(channels).unwrap_or(0);
        let (x, skip) = (x.as_slice::<T>()?, skip.as_slice::<T>()?);
        let bias = bias.as_ref().map(|bias| bias.as_slice::<T>()).transpose()?;
        for (index, sum) in sum.as_mut_slice::<T>()?.iter_mut().enumerate() {
            let channel = if self.channels_last { index % channels } else { index / len % channels };
            let skip = if whole { skip[index] } else { skip[index / image * channels + channel] };
            *sum = x[index] + skip + bias.map_or(T::ZERO, |bias| bias[channel]);
        }
        Ok(sum)
    }
}

/// One value a channel, from one a channel or one a group.
fn per_channel<T: Real>(values: &Tensor, channels: usize, groups: usize) -> Result<Vec<T>> {
    let values = values.as_slice::<T>()?;
    match values.len() {
        len if len == channels => Ok(values.to_vec()),
        len if len == groups => {
            Ok((0..channels).map(|channel| values[channel / (channels / groups)]).collect())
        }
        len => Err(OpError::invalid(format!("{len} parameters for {channels} channels in {groups} groups"))),
    }
}
