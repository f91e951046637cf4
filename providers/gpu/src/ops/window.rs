//! Operators whose elements come from those around a place: GridSample, LRN, Col2Im.

use tenon_kernels::gpu::window::{self, FoldDim, GridMode, GridPadding, GridSample};
use tenon_plugin_api::{Error, Result};

use super::Family;
use crate::operator::{Decline, Expansion, Lowered, Lowering, Operator};

pub(super) const FAMILIES: &[Family] = &[
    Family { domain: "", op_types: &["GridSample"], lower: grid_sample },
    Family { domain: "com.microsoft", op_types: &["GridSample"], lower: grid_sample },
    Family { domain: "", op_types: &["LRN"], lower: local_response },
    Family { domain: "", op_types: &["Col2Im"], lower: col2im },
];

struct Grid {
    mode: GridMode,
    padding: GridPadding,
    aligns_corners: bool,
}

impl Operator for Grid {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (x, grid, scalar) = (cx.dims(0)?, cx.dims(1)?, cx.scalar(0)?);
        let wrong = || Error::invalid(format!("a grid of shape {grid:?} for images of shape {x:?}"));
        let [batch, channels, spatial @ ..] = x.as_slice() else { return Err(wrong()) };
        let rank = spatial.len();
        if grid.len() != rank + 2 || grid[0] != *batch || grid[rank + 1] != rank {
            return Err(wrong());
        }
        let shape: Vec<usize> = x[..2].iter().chain(&grid[1..=rank]).copied().collect();
        let problem = GridSample {
            scalar,
            grid: cx.scalar(1)?,
            batch: *batch,
            channels: *channels,
            spatial: spatial.to_vec(),
            points: grid[1..=rank].iter().product(),
            mode: self.mode,
            padding: self.padding,
            aligns_corners: self.aligns_corners,
        };
        let operands = [Some(cx.output(0, scalar, &shape)?), Some(cx.input(0)?), Some(cx.input(1)?)];
        cx.run(problem.plan(), &operands)
    }
}

fn grid_sample(l: &Lowering<'_>) -> Lowered {
    l.half_or_single(0)?;
    l.half_or_single(1)?;
    let mode = match l.node.text_or("mode", "linear")? {
        "nearest" => GridMode::Nearest,
        "linear" | "bilinear" => GridMode::Linear,
        "cubic" | "bicubic" => GridMode::Cubic,
        other => return Err(Decline(format!("sampling of mode '{other}' has no GPU kernel"))),
    };
    let padding = match l.node.text_or("padding_mode", "zeros")? {
        "zeros" => GridPadding::Zeros,
        "border" => GridPadding::Border,
        "reflection" => GridPadding::Reflection,
        other => return Err(Decline(format!("padding of mode '{other}' has no GPU kernel"))),
    };
    if !(3..=5).contains(&l.rank(0)?) {
        return Err(Decline::new("images of one to three dimensions are expected"));
    }
    Ok(Box::new(Grid { mode, padding, aligns_corners: l.node.int_or("align_corners", 0)? != 0 }))
}

struct LocalResponse {
    size: usize,
    /// alpha, beta, bias.
    factors: [f32; 3],
}

impl Operator for LocalResponse {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (input, scalar, dims) = (cx.input(0)?, cx.scalar(0)?, cx.dims(0)?);
        let [batch, channels, rest @ ..] = dims.as_slice() else {
            return Err(Error::invalid(format!("{dims:?} has no batch and channels")));
        };
        let extents = [*batch, *channels, rest.iter().product()];
        let output = cx.output(0, scalar, &dims)?;
        cx.run(window::local_response(scalar, extents, self.size, self.factors), &[Some(output), Some(input)])
    }
}

fn local_response(l: &Lowering<'_>) -> Lowered {
    l.half_or_single(0)?;
    let size = usize::try_from(l.node.int_or("size", 0)?).ok().filter(|&size| size > 0 && size < 1 << 30);
    let size = size.ok_or_else(|| Decline::new("attribute 'size' is not positive"))?;
    let number = |name, default| l.node.float_or(name, default);
    Ok(Box::new(LocalResponse {
        size,
        factors: [number("alpha", 1e-4)?, number("beta", 0.75)?, number("bias", 1.0)?],
    }))
}

struct Fold {
    /// All but the counts.
    dims: Vec<FoldDim>,
    /// Behind each dimension.
    ends: Vec<usize>,
}

impl Operator for Fold {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let (input, scalar, x) = (cx.input(0)?, cx.scalar(0)?, cx.dims(0)?);
        let mut dims = self.dims.clone();
        for (dim, end) in dims.iter_mut().zip(&self.ends) {
            let reach = (dim.block - 1) * dim.dilation + 1;
            let room = (dim.image + dim.pad + end).checked_sub(reach);
            let room = room.ok_or_else(|| Error::invalid(format!("a block of {reach} in {}", dim.image)))?;
            dim.count = room / dim.stride + 1;
        }
        let size: usize = dims.iter().map(|dim| dim.block).product();
        let count: usize = dims.iter().map(|dim| dim.count).product();
        let &[batch, width, blocks] = x.as_slice() else {
            return Err(Error::invalid(format!("blocks of shape {x:?}, expected three dimensions")));
        };
        if blocks != count || !width.is_multiple_of(size) {
            return Err(Error::invalid(format!(
                "blocks of shape {x:?}, expected {count} of {size} elements"
            )));
        }
        let shape: Vec<usize> =
            [batch, width / size].into_iter().chain(dims.iter().map(|dim| dim.image)).collect();
        let output = cx.output(0, scalar, &shape)?;
        cx.run(window::fold_blocks(scalar, batch * (width / size), &dims), &[Some(output), Some(input)])
    }
}

fn col2im(l: &Lowering<'_>) -> Lowered {
    l.half_or_single(0)?;
    let sizes = |values: Vec<i64>, least: i64| -> std::result::Result<Vec<usize>, Decline> {
        let size = |value: i64| usize::try_from(value).ok().filter(|_| value >= least && value < 1 << 30);
        values.iter().map(|&value| size(value)).collect::<Option<_>>().ok_or_else(|| {
            Decline(format!("sizes {values:?} of images and blocks: at least {least} is expected"))
        })
    };
    let (image, block) = (sizes(l.ints(1)?, 0)?, sizes(l.ints(2)?, 1)?);
    let rank = image.len();
    let list = |name: &str, len: usize, default: i64, least: i64| {
        let values = l.node.ints(name)?.map_or_else(|| vec![default; len], <[i64]>::to_vec);
        if values.len() != len {
            return Err(Decline(format!("attribute '{name}' has not {len} numbers")));
        }
        sizes(values, least)
    };
    if rank == 0 || rank > 3 || block.len() != rank {
        return Err(Decline::new("images of one to three dimensions are expected"));
    }
    let (strides, dilations) = (list("strides", rank, 1, 1)?, list("dilations", rank, 1, 1)?);
    let pads = list("pads", 2 * rank, 0, 0)?;
    let dim = |i: usize| FoldDim {
        image: image[i],
        block: block[i],
        count: 0,
        stride: strides[i],
        dilation: dilations[i],
        pad: pads[i],
    };
    Ok(Box::new(Fold { dims: (0..rank).map(dim).collect(), ends: pads[rank..].to_vec() }))
}
