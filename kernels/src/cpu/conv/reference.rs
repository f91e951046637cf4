//! The convolution as its definition says, for any rank; the reference for the fast paths.

use super::shape::{ConvEpilogue, ConvShape};
use crate::cpu::elementwise::unary_in_place;
use crate::cpu::features::Context;
use crate::error::{Result, expect_len};
use crate::parallel::SharedMut;

/// `y = activation(conv(x, filter) + bias + residual)` with unpacked filters `[out, in / groups, kernel...]`.
pub fn conv_reference(
    ctx: Context<'_>,
    shape: &ConvShape,
    x: &[f32],
    filter: &[f32],
    epilogue: &ConvEpilogue<'_>,
    y: &mut [f32],
) -> Result<()> {
    shape.check(x, epilogue, y)?;
    expect_len("filter", filter.len(), shape.filter_len()?)?;
    let (in_plane, out_plane) = (shape.in_plane(), shape.out_plane());
    let (group_in, group_out) = (shape.group_in(), shape.group_out());
    let filter_len = group_in * shape.taps();
    let out = SharedMut::new(y);
    ctx.parallel.for_each(shape.batch * shape.out_channels, &|plane| {
        let (n, o) = (plane / shape.out_channels, plane % shape.out_channels);
        // SAFETY: planes are disjoint.
        let y = unsafe { out.slice(plane * out_plane..(plane + 1) * out_plane) };
        let channel0 = n * shape.in_channels + o / group_out * group_in;
        let x = &x[channel0 * in_plane..(channel0 + group_in) * in_plane];
        let filter = &filter[o * filter_len..(o + 1) * filter_len];
        let bias = epilogue.bias.map_or(0.0, |bias| bias[o]);
        let mut index = vec![0; shape.window.rank()];
        for (flat, y) in y.iter_mut().enumerate() {
            shape.window.unflatten(flat, &mut index);
            let mut sum = 0.0f32;
            for c in 0..group_in {
                let x = &x[c * in_plane..(c + 1) * in_plane];
                let filter = &filter[c * shape.taps()..(c + 1) * shape.taps()];
                shape.window.for_taps(&index, &mut |at, tap| sum += x[at] * filter[tap]);
            }
            *y = sum + bias + epilogue.residual.map_or(0.0, |residual| residual[plane * out_plane + flat]);
        }
    });
    unary_in_place(ctx, epilogue.activation, y);
    Ok(())
}
