//! Prints, as JSON lines, launches of the device kernels for a GPU to run: small ones to be checked against float64 and
//! large ones to be timed. `tools/python/gpu_kernels.py` runs them.
//!
//! Usage: `gpu_cases [FAMILY]`, sm90 where none is named; plans use the kernels that the family has.
//!
//! A line: name, what is computed (for the reference), operands as [ONNX type, elements], launches, bytes moved, and
//! whether it is timed.

use std::collections::HashSet;

use tenon_kernels::Result;
use tenon_kernels::gpu::elementwise::{self, Class, Instruction, MapOp, MapOperand, Program, Source};
use tenon_kernels::gpu::layout::{self, StridedCopy, contiguous};
use tenon_kernels::gpu::order::{self, Lines, Scan};
use tenon_kernels::gpu::product::{self, Activation, Conv};
use tenon_kernels::gpu::quantize::{Granularity, Linear, Rules, Sharing};
use tenon_kernels::gpu::reduce::{self, Reduction};
use tenon_kernels::gpu::rows::{self, RowNorm, RowNormOperands};
use tenon_kernels::gpu::scalar::Scalar;
use tenon_kernels::gpu::signal::{Place, Transform};
use tenon_kernels::gpu::{Arg, Plan, arch};

/// Bytes of the largest operand of a timed case.
const LARGE_BYTES: usize = 256 << 20;
const FLOATS: [Scalar; 3] = [Scalar::F32, Scalar::F16, Scalar::BF16];
/// The compute units that plans are made for.
const COMPUTE_UNITS: u32 = 132;

fn main() -> Result<()> {
    let family = arch::find(&std::env::args().nth(1).unwrap_or_else(|| "sm90".into()))?;
    let symbols: HashSet<String> =
        family.units()?.into_iter().flat_map(|unit| unit.kernels).map(|kernel| kernel.symbol).collect();
    for is_timed in [false, true] {
        let cases = Cases { is_timed, symbols: &symbols };
        cases.maps()?;
        cases.rows()?;
        cases.reductions()?;
        cases.layouts()?;
        cases.convolutions()?;
        cases.signals()?;
        cases.scans()?;
        cases.codes()?;
    }
    Ok(())
}

struct Cases<'a> {
    is_timed: bool,
    /// The kernels that there are.
    symbols: &'a HashSet<String>,
}

/// An operand: its type and how many elements it has.
type Operand = (Scalar, usize);

impl Cases<'_> {
    /// Elements of a large operand, at least `per_row` times `rows` of a small one.
    fn large(&self, scalar: Scalar, small: usize, unit: usize) -> usize {
        if self.is_timed { LARGE_BYTES / scalar.bytes() / unit * unit } else { small }
    }

    fn print(&self, name: String, what: &str, operands: &[Operand], plan: &Plan) {
        // What has to be moved, however often the kernels do.
        let all: usize = operands.iter().map(|(scalar, count)| scalar.bytes() * count).sum();
        let planned: f64 = plan.launches.iter().map(|launch| launch.cost.bytes).sum();
        let bytes = planned.min(all as f64);
        let operands: Vec<String> =
            operands.iter().map(|(scalar, count)| format!("[{}, {count}]", *scalar as u8)).collect();
        let launches: Vec<String> = plan.launches.iter().map(launch).collect();
        let flops: f64 = plan.launches.iter().map(|launch| launch.cost.flops).sum();
        println!(
            "{{\"name\": \"{name}\", \"what\": {{{what}}}, \"operands\": [{}], \"launches\": [{}], \"bytes\": {bytes}, \
             \"flops\": {flops}, \"workspace\": {}, \"zeroed\": {}, \"timed\": {}}}",
            operands.join(", "),
            launches.join(", "),
            plan.workspace_bytes,
            plan.zeroed_bytes,
            self.is_timed
        );
    }

    fn maps(&self) -> Result<()> {
        use MapOp::*;
        let operand = |index| (Move, Source::Operand(index));
        let programs: [(&str, usize, Vec<(MapOp, Source)>); 9] = [
            ("copy", 1, vec![operand(0)]),
            ("relu", 1, vec![operand(0), (Max, Source::Constant(0))]),
            ("gelu", 1, vec![operand(0), (Gelu, Source::None)]),
            ("exp", 1, vec![operand(0), (Exp, Source::None)]),
            ("add", 2, vec![operand(0), (Add, Source::Operand(1))]),
            ("divide", 2, vec![operand(0), (Divide, Source::Operand(1))]),
            ("swiglu", 2, vec![operand(0), (Silu, Source::Constant(1)), (Multiply, Source::Operand(1))]),
            ("scale_shift", 3, vec![operand(0), (Multiply, Source::Operand(1)), (Add, Source::Operand(2))]),
            (
                "chain",
                3,
                vec![
                    operand(0),
                    (Subtract, Source::Operand(1)),
                    (Multiply, Source::Constant(2)),
                    (Add, Source::Operand(2)),
                    (Max, Source::Constant(0)),
                ],
            ),
        ];
        for (name, count, code) in &programs {
            for from in FLOATS {
                let outputs = if *name == "copy" { FLOATS.to_vec() } else { vec![from] };
                for to in outputs.into_iter().filter(|&to| *name != "copy" || to != from) {
                    self.map(name, *count, code, from, to)?;
                }
            }
        }
        Ok(())
    }

    fn map(
        &self,
        name: &str,
        count: usize,
        code: &[(MapOp, Source)],
        from: Scalar,
        to: Scalar,
    ) -> Result<()> {
        // Dense operands, or behind the first ones that are broadcast along rows or columns.
        let wider = if from.bytes() > to.bytes() { from } else { to };
        // Few elements and many are started differently.
        let small: &[usize] = if self.is_timed { &[0] } else { &[37, 401] };
        let shapes = [("dense", 4096), ("row", 4096), ("column", 3136), ("odd", 4095)];
        for ((shape, columns), rows) in
            shapes.iter().flat_map(|&shape| small.iter().map(move |&rows| (shape, rows)))
        {
            if (count == 1 && matches!(shape, "row" | "column")) || (self.is_timed && shape == "odd") {
                continue;
            }
            let total = self.large(wider, rows * columns, columns);
            let dims = vec![total / columns, columns];
            let operands: Vec<MapOperand> = (0..count)
                .map(|k| {
                    let strides = match (k, shape) {
                        (0, _) | (_, "dense" | "odd") => contiguous(&dims),
                        (_, "row") => vec![0, 1],
                        _ => vec![1, 0],
                    };
                    MapOperand { scalar: from, strides, offset: 0 }
                })
                .collect();
            let count_of = |operand: &MapOperand| match operand.strides[..] {
                [0, 1] => columns,
                [1, 0] => dims[0],
                _ => total,
            };
            let bits = |value: f32| u64::from(value.to_bits());
            let program = Program {
                class: Class::F32,
                dims: dims.clone(),
                output: to,
                operands: operands.clone(),
                constants: vec![bits(0.0), bits(1.0), bits(2.0)],
                code: code.iter().map(|&(op, source)| Instruction { op, source, temp: 0 }).collect(),
            };
            let all: Vec<Operand> = std::iter::once((to, total))
                .chain(operands.iter().map(|operand| (from, count_of(operand))))
                .collect();
            let plan = elementwise::plan(&program)?;
            let what = format!("\"op\": \"{name}\", \"dims\": {dims:?}, \"shape\": \"{shape}\"");
            let types =
                if from == to { from.suffix().into() } else { format!("{}_{}", from.suffix(), to.suffix()) };
            self.print(format!("{name} {shape} {types}"), &what, &all, &plan);
        }
        Ok(())
    }

    fn rows(&self) -> Result<()> {
        let widths: &[usize] = match self.is_timed {
            true => &[49, 64, 197, 256, 1024, 4096, 8192, 16_384, 32_000, 128_256],
            false => &[
                1, 7, 49, 64, 120, 197, 255, 1000, 1024, 1025, 4096, 5003, 8192, 16_384, 20_000, 16_388,
                40_961,
            ],
        };
        for scalar in FLOATS {
            for &columns in widths {
                let total = self.large(scalar, 19 * columns, columns);
                let rows = total / columns;
                self.softmax(scalar, [rows, columns, 1])?;
                let norms = [("layer", true, false), ("rms", false, false), ("skip_rms", false, true)];
                let is_usual = !self.is_timed || (256..32_000).contains(&columns);
                for (name, is_centred, with_skip) in norms.into_iter().filter(|_| is_usual) {
                    self.norm(name, scalar, [rows, columns], [1, 0, 1], is_centred, with_skip)?;
                }
            }
            for (groups, span) in if self.is_timed {
                vec![(1, 12_544), (4, 4096)]
            } else {
                vec![(1, 49), (2, 64), (4, 4096), (1, 3137)]
            } {
                let columns = groups * span;
                let rows = self.large(scalar, 6 * columns, 3 * columns) / columns;
                self.norm("group", scalar, [rows, columns], [3, groups, span], true, false)?;
            }
            // Few long rows; rows that a block holds, and clusters of more and larger ones; rows that are too long for any.
            let long: &[[usize; 2]] = match self.is_timed {
                true => &[[8, 128_256], [512, 262_144]],
                false => {
                    &[[3, 128_256], [256, 16_384], [130, 50_000], [64, 128_256], [33, 262_144], [7, 600_000]]
                }
            };
            for &[rows, columns] in long {
                self.softmax(scalar, [rows, columns, 1])?;
            }
            if !self.is_timed && scalar.bytes() == 2 {
                self.softmax(scalar, [37, 400_000, 1])?;
            }
            let inner: &[[usize; 2]] = match self.is_timed {
                true => &[[64, 1000], [256, 64], [21, 4096], [1000, 128], [64, 49]],
                false => &[[64, 1000], [300, 9], [5, 16], [1000, 24]],
            };
            for &[axis, inner] in inner {
                let outer = self.large(scalar, 3 * axis * inner, axis * inner) / (axis * inner);
                self.softmax(scalar, [outer, axis, inner])?;
            }
        }
        Ok(())
    }

    fn softmax(&self, scalar: Scalar, extents: [usize; 3]) -> Result<()> {
        let [outer, axis, inner] = extents;
        let total = outer * axis * inner;
        for is_log in if self.is_timed || axis > 100_000 { vec![false] } else { vec![false, true] } {
            let plan = rows::softmax(scalar, extents, is_log, &|symbol| self.symbols.contains(symbol))?;
            let what =
                format!("\"op\": \"softmax\", \"dims\": [{outer}, {axis}, {inner}], \"log\": {is_log}");
            let name = format!(
                "softmax{} {outer}x{axis}x{inner} {}",
                if is_log { "_log" } else { "" },
                scalar.suffix()
            );
            self.print(name, &what, &[(scalar, total), (scalar, total)], &plan);
        }
        Ok(())
    }

    fn norm(
        &self,
        name: &str,
        scalar: Scalar,
        [rows, columns]: [usize; 2],
        [period, group, span]: [usize; 3],
        is_centred: bool,
        with_skip: bool,
    ) -> Result<()> {
        let has = RowNormOperands {
            sum: with_skip,
            skip: with_skip,
            bias: with_skip,
            gamma: true,
            beta: is_centred,
            ..RowNormOperands::default()
        };
        let problem = RowNorm { scalar, rows, columns, is_centred, epsilon: 1e-5, period, group, span, has };
        let plan = rows::norm(&problem)?;
        let (total, channels) = (rows * columns, if group == 0 { columns } else { period * group });
        let given = |is_there: bool, count: usize| (scalar, if is_there { count } else { 0 });
        let operands = [
            (scalar, total),
            given(has.sum, total),
            (Scalar::F32, 0),
            (Scalar::F32, 0),
            (scalar, total),
            given(has.skip, total),
            given(has.bias, columns),
            given(true, channels),
            given(has.beta, channels),
        ];
        let what = format!(
            "\"op\": \"norm\", \"dims\": [{rows}, {columns}], \"channels\": [{period}, {group}, {span}], \"centred\": {is_centred}"
        );
        self.print(format!("{name} {rows}x{columns} {}", scalar.suffix()), &what, &operands, &plan);
        Ok(())
    }

    fn reductions(&self) -> Result<()> {
        let ops = [
            (Reduction::Sum, "sum"),
            (Reduction::Mean, "mean"),
            (Reduction::Max, "max"),
            (Reduction::L2, "l2"),
            (Reduction::LogSumExp, "log_sum_exp"),
        ];
        let small: [[usize; 3]; 8] = [
            [3, 1000, 1],
            [5, 64, 48],
            [2, 300, 1024],
            [1, 500_001, 1],
            [40, 49, 1],
            [1, 3000, 257],
            [7, 4096, 1],
            [1, 65_536, 8],
        ];
        let large: [[usize; 3]; 5] = [[0, 4096, 1], [0, 49, 1], [1, 0, 4096], [1, 0, 1], [0, 512, 512]];
        for scalar in FLOATS {
            for dims in if self.is_timed { large.to_vec() } else { small.to_vec() } {
                let unit: usize = dims.iter().filter(|&&dim| dim > 0).product();
                let dims = dims.map(|dim| if dim == 0 { LARGE_BYTES / scalar.bytes() / unit } else { dim });
                for &(op, name) in &ops[..if self.is_timed { 1 } else { ops.len() }] {
                    let plan = reduce::plan(op, scalar, &dims, &[1])?;
                    let what = format!("\"op\": \"reduce\", \"kind\": \"{name}\", \"dims\": {dims:?}");
                    let operands = [(scalar, dims[0] * dims[2]), (scalar, dims.iter().product())];
                    self.print(format!("{name} {dims:?} {}", scalar.suffix()), &what, &operands, &plan);
                }
            }
            let [rows, columns] = if self.is_timed { [512, 128_256] } else { [9, 5000] };
            let plan = reduce::extreme(true, scalar, &[rows, columns], 1, false)?;
            let what = format!("\"op\": \"argmax\", \"dims\": [{rows}, {columns}]");
            let operands = [(Scalar::I64, rows), (scalar, rows * columns)];
            self.print(format!("argmax {rows}x{columns} {}", scalar.suffix()), &what, &operands, &plan);
        }
        Ok(())
    }

    fn layouts(&self) -> Result<()> {
        for scalar in [Scalar::F32, Scalar::BF16, Scalar::U8, Scalar::F64] {
            let side = if self.is_timed { 8192 } else { 200 };
            let large: &[(&[usize], &[usize])] = &[
                (&[side, side], &[1, 0]),
                (&[16, 128, 56, 56], &[0, 2, 3, 1]),
                (&[16, 56, 56, 128], &[0, 3, 1, 2]),
                (&[8, 1024, 32, 128], &[0, 2, 1, 3]),
                (&[8, 32, 1024, 128], &[0, 1, 3, 2]),
            ];
            let small: &[(&[usize], &[usize])] = &[
                (&[200, 72], &[1, 0]),
                (&[7, 33, 65], &[0, 2, 1]),
                (&[2, 12, 9, 5, 16], &[4, 1, 0, 3, 2]),
                (&[3, 5, 64, 72], &[1, 3, 0, 2]),
                (&[2, 40, 6, 8], &[0, 2, 1, 3]),
                (&[130, 4, 131], &[2, 1, 0]),
            ];
            for (dims, order) in if self.is_timed { large } else { small } {
                let mut dims = dims.to_vec();
                let volume: usize = dims.iter().product::<usize>() * scalar.bytes();
                if self.is_timed && dims.len() > 2 {
                    dims[0] *= LARGE_BYTES / volume;
                }
                let own = contiguous(&dims);
                let shape: Vec<usize> = order.iter().map(|&axis| dims[axis]).collect();
                let copy = StridedCopy {
                    element_bytes: scalar.bytes(),
                    to_strides: contiguous(&shape),
                    dims: shape,
                    from_strides: order.iter().map(|&axis| own[axis]).collect(),
                    from_offset: 0,
                    to_offset: 0,
                };
                let total = dims.iter().product();
                let what = format!("\"op\": \"transpose\", \"dims\": {dims:?}, \"order\": {order:?}");
                let name = format!("transpose {dims:?} {order:?} {}", scalar.suffix());
                self.print(name, &what, &[(scalar, total), (scalar, total)], &layout::strided_copy(&copy)?);
            }
            // A slice of columns, and rows picked by index.
            let columns = if self.is_timed { 4096 } else { 24 };
            let rows = self.large(scalar, 50 * columns, columns) / columns;
            let copy = StridedCopy {
                element_bytes: scalar.bytes(),
                dims: vec![rows, columns / 2],
                from_strides: vec![columns as i64, 1],
                from_offset: columns as i64 / 4,
                to_strides: vec![columns as i64 / 2, 1],
                to_offset: 0,
            };
            let what = format!("\"op\": \"slice\", \"dims\": [{rows}, {columns}]");
            let operands = [(scalar, rows * columns / 2), (scalar, rows * columns)];
            self.print(
                format!("slice {rows}x{columns} {}", scalar.suffix()),
                &what,
                &operands,
                &layout::strided_copy(&copy)?,
            );
            let plan = layout::gather_rows(scalar.bytes(), [1, rows, rows, columns], true)?;
            let what = format!("\"op\": \"gather\", \"dims\": [{rows}, {columns}]");
            let operands = [(scalar, rows * columns), (scalar, rows * columns), (Scalar::I64, rows)];
            self.print(format!("gather {rows}x{columns} {}", scalar.suffix()), &what, &operands, &plan);
        }
        Ok(())
    }

    fn convolutions(&self) -> Result<()> {
        // batch, groups, in and out channels of a group, height and width, kernel, stride, padding
        let small: [[usize; 9]; 9] = [
            [1, 1, 3, 16, 23, 23, 3, 2, 1],
            [2, 1, 19, 33, 14, 9, 3, 1, 1],
            [1, 1, 64, 40, 7, 7, 3, 1, 1],
            [1, 1, 300, 64, 5, 5, 1, 1, 0],
            [3, 2, 20, 24, 10, 11, 5, 1, 2],
            [1, 32, 1, 1, 29, 31, 3, 1, 1],
            [2, 24, 1, 1, 20, 20, 5, 2, 2],
            [1, 16, 1, 2, 13, 13, 3, 2, 1],
            [1, 8, 4, 4, 12, 12, 3, 1, 1],
        ];
        let large: [[usize; 9]; 11] = [
            [1, 1, 3, 64, 224, 224, 7, 2, 3],
            [1, 1, 64, 64, 56, 56, 3, 1, 1],
            [1, 1, 64, 256, 56, 56, 1, 1, 0],
            [1, 1, 128, 128, 28, 28, 3, 1, 1],
            [1, 1, 256, 256, 14, 14, 3, 1, 1],
            [1, 1, 512, 512, 7, 7, 3, 1, 1],
            [1, 1, 2048, 512, 7, 7, 1, 1, 0],
            [16, 1, 256, 256, 14, 14, 3, 1, 1],
            [32, 1, 64, 64, 56, 56, 3, 1, 1],
            [1, 144, 1, 1, 56, 56, 3, 1, 1],
            [32, 144, 1, 1, 56, 56, 3, 1, 1],
        ];
        for scalar in FLOATS {
            for row in if self.is_timed { large.to_vec() } else { small.to_vec() } {
                let [batch, groups, in_channels, out_channels, height, width, kernel, stride, pad] = row;
                let out = |size: usize| (size + 2 * pad - kernel) / stride + 1;
                let problem = Conv {
                    scalar,
                    batch,
                    groups,
                    in_channels,
                    out_channels,
                    input: [1, height, width],
                    output: [1, out(height), out(width)],
                    kernel: [1, kernel, kernel],
                    strides: [1, stride, stride],
                    dilations: [1, 1, 1],
                    pads: [0, pad as i64, pad as i64],
                    has_bias: true,
                    has_residual: !self.is_timed,
                    activation: Activation::Relu,
                    is_transposed: false,
                };
                let depth = in_channels * kernel * kernel;
                if scalar.bytes() == 2 && groups == 1 && depth % 2 == 0 {
                    let columns = batch * out(height) * out(width);
                    let operands =
                        [(scalar, columns * depth), (scalar, batch * in_channels * height * width)];
                    let what = format!("\"op\": \"patches\", \"dims\": {row:?}");
                    let name = format!("patches {row:?} {}", scalar.suffix());
                    self.print(name, &what, &operands, &product::conv_patches(&problem)?);
                }
                let plan = product::conv(&problem, COMPUTE_UNITS)?;
                let outputs = batch * groups * out_channels * out(height) * out(width);
                let operands = [
                    (scalar, outputs),
                    (scalar, batch * groups * in_channels * height * width),
                    (scalar, groups * out_channels * in_channels * kernel * kernel),
                    (scalar, groups * out_channels),
                    (scalar, if self.is_timed { 0 } else { outputs }),
                ];
                let what = format!("\"op\": \"conv\", \"dims\": {row:?}");
                self.print(format!("conv {row:?} {}", scalar.suffix()), &what, &operands, &plan);
            }
        }
        Ok(())
    }

    /// Half the spectra of frames that begin a quarter of their length apart.
    fn signals(&self) -> Result<()> {
        let small = [(5usize, 400usize), (3, 1), (4, 97), (2, 4096), (7, 360), (1, 6000), (2, 1021)];
        let large = [(3000, 400), (1 << 15, 512), (1 << 14, 2048), (64, 1 << 16), (1000, 1021)];
        let sizes = if self.is_timed { large.to_vec() } else { small.to_vec() };
        for (scalar, (frames, size)) in [Scalar::F32, Scalar::F64, Scalar::F16]
            .into_iter()
            .flat_map(|scalar| sizes.iter().map(move |&size| (scalar, size)))
        {
            let (step, bins) = (size.div_ceil(4), size / 2 + 1);
            let place = |inner, count, is_complex| Place {
                outer: 0,
                inner,
                group: frames,
                step: 1,
                count,
                is_complex,
            };
            let transform = Transform {
                scalar,
                signals: frames,
                size,
                from: place(step, size, false),
                to: place(bins, bins, true),
                is_inverse: false,
                mirrors: false,
                has_window: true,
            };
            let samples = (frames - 1) * step + size;
            let operands = [(scalar, 2 * frames * bins), (scalar, samples), (scalar, size), (scalar, 0)];
            let what = format!("\"op\": \"spectra\", \"dims\": [{frames}, {size}, {step}]");
            self.print(
                format!("spectra {frames}x{size} {}", scalar.suffix()),
                &what,
                &operands,
                &transform.plan()?,
            );
        }
        Ok(())
    }

    fn scans(&self) -> Result<()> {
        let small = [[1usize, 20_001, 1], [3, 700, 5], [2, 9000, 1], [70, 33, 2], [1, 1, 4]];
        let large = [[1, 1 << 20, 1], [1, 1 << 26, 1], [4096, 16_384, 1], [64, 1024, 1024]];
        for (scalar, dims) in [Scalar::F32, Scalar::F16].into_iter().flat_map(|scalar| {
            if self.is_timed { large.to_vec() } else { small.to_vec() }
                .into_iter()
                .map(move |dims| (scalar, dims))
        }) {
            let plan = order::scan(scalar, Lines::new(&dims, 1), Scan::default())?;
            let (what, total) = (format!("\"op\": \"scan\", \"dims\": {dims:?}"), dims.iter().product());
            let operands = [(scalar, total), (scalar, total)];
            self.print(format!("scan {dims:?} {}", scalar.suffix()), &what, &operands, &plan);
        }
        Ok(())
    }

    /// Integers of 8 bits from floats with one scale for all, or one for each row.
    fn codes(&self) -> Result<()> {
        for (real, rows) in FLOATS.into_iter().flat_map(|real| [1usize, 37].map(|rows| (real, rows))) {
            let columns = self.large(real, 37 * 4096, 37 * 4096) / rows;
            let linear = Linear {
                real,
                code: Scalar::U8,
                scale: Scalar::F32,
                precision: Scalar::F32,
                has_zero: true,
                rules: Rules::default(),
                granularity: Granularity { extents: [1, rows, columns], sharing: Sharing::Axis },
            };
            let total = rows * columns;
            let operands = [(Scalar::U8, total), (real, total), (Scalar::F32, rows), (Scalar::U8, rows)];
            let what = format!("\"op\": \"codes\", \"dims\": [{rows}, {columns}]");
            self.print(
                format!("codes {rows}x{columns} {}", real.suffix()),
                &what,
                &operands,
                &linear.quantize()?,
            );
        }
        Ok(())
    }
}

fn launch(launch: &tenon_kernels::gpu::Launch) -> String {
    let args: Vec<String> = launch.args.iter().map(argument).collect();
    format!(
        "{{\"symbol\": \"{}\", \"grid\": {:?}, \"block\": {:?}, \"cluster\": {:?}, \"shared\": {}, \"dependent\": {}, \"args\": [{}]}}",
        launch.symbol,
        launch.grid,
        launch.block,
        launch.cluster,
        launch.shared_bytes,
        launch.is_dependent_launch,
        args.join(", ")
    )
}

/// `["p", operand, offset]`, `["w", offset]` or `["b", bytes in hexadecimal]`.
fn argument(arg: &Arg) -> String {
    let bytes = |bytes: &[u8]| {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("[\"b\", \"{hex}\"]")
    };
    match arg {
        Arg::Pointer { operand, offset_bytes } => format!("[\"p\", {operand}, {offset_bytes}]"),
        Arg::Workspace { offset_bytes } => format!("[\"w\", {offset_bytes}]"),
        Arg::TensorMap(_) => panic!("device kernels take no tensor maps"),
        Arg::U32(value) => bytes(&value.to_le_bytes()),
        Arg::I32(value) => bytes(&value.to_le_bytes()),
        Arg::I64(value) => bytes(&value.to_le_bytes()),
        Arg::F32(value) => bytes(&value.to_le_bytes()),
        Arg::Bytes { bytes: all, .. } => bytes(all),
    }
}
