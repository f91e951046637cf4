//! Elements of few bits: casts from and to them, and linear quantisation with scales and zero points of any granularity.

use super::launch::{Arg, Plan};
use super::scalar::{self, Scalar, Structure, blocks, division, kernel, launch, overlapping, pointer};
use super::unit::{Text, Unit};
use crate::error::{KernelError, Result};
use crate::estimate::Cost;

/// Elements of a pack, as in the device text.
const PACK: usize = 16;

/// How values are rounded to powers of two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum PowerRounding {
    #[default]
    Up,
    Down,
    /// Halfway upwards.
    Nearest,
}

/// How numbers become codes of few bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Beyond the range of a float of 8 bits: its largest number, not infinity or NaN.
    pub saturate: bool,
    pub power_rounding: PowerRounding,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules { saturate: true, power_rounding: PowerRounding::Up }
    }
}

/// Which elements of `[outer, axis, inner]` share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// All of them.
    Tensor,
    /// Those with one position along the axis.
    Axis,
    /// So many neighbours along the axis, the last ones perhaps fewer; scales are `[outer, blocks, inner]`.
    Block(usize),
}

/// The elements and their scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granularity {
    /// `[outer, axis, inner]`.
    pub extents: [usize; 3],
    pub sharing: Sharing,
}

impl Granularity {
    /// How many scales there are.
    pub fn scales(&self) -> usize {
        let [outer, axis, inner] = self.extents;
        match self.sharing {
            Sharing::Tensor => 1,
            Sharing::Axis => axis,
            Sharing::Block(size) => outer * axis.div_ceil(size) * inner,
        }
    }

    /// What the index of a scale grows by along each extent, and the size of a block.
    fn steps(&self) -> ([usize; 3], usize) {
        let [_, axis, inner] = self.extents;
        match self.sharing {
            Sharing::Tensor => ([0; 3], 1),
            Sharing::Axis => ([0, 1, 0], 1),
            Sharing::Block(size) => ([axis.div_ceil(size) * inner, inner, 1], size),
        }
    }

    /// What it grows by from one of `lanes` neighbours to the next; `None` where that differs.
    fn delta(&self, lanes: usize) -> Option<usize> {
        let [_, axis, inner] = self.extents;
        let ([_, axis_step, inner_step], block) = self.steps();
        match self.sharing {
            Sharing::Tensor => Some(0),
            _ if inner.is_multiple_of(lanes) => Some(inner_step),
            _ if inner != 1 || !axis.is_multiple_of(lanes) => None,
            _ if block.is_multiple_of(lanes) => Some(0),
            _ => (block == 1).then_some(axis_step),
        }
    }

    fn put(&self, structure: Structure, lanes: usize) -> Structure {
        let ([outer_step, axis_step, inner_step], block) = self.steps();
        let [_, axis, inner] = self.extents;
        let (sizes, divisions) =
            ([inner, axis, block], [inner, axis, block].map(|size| division(size as u32)));
        let structure = structure.u32s::<3>(sizes.map(|size| size as u32), 0);
        let structure =
            divisions.iter().fold(structure, |structure, &(magic, shift)| structure.u32(magic).u32(shift));
        structure
            .u32s::<3>([outer_step, axis_step, inner_step].map(|step| step as u32), 0)
            .i32s::<1>([self.delta(lanes).map_or(-1, |delta| delta as i32)])
    }
}

/// Between floats and codes: `code = round(x / scale) + zero`, `x = (code - zero) scale`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linear {
    /// f32, f16 or bf16.
    pub real: Scalar,
    /// An integer of 16 bits at most, or a float of 8 or 4; also the type of zero points.
    pub code: Scalar,
    /// f32, f16, bf16, or powers of two.
    pub scale: Scalar,
    /// What quotients are rounded to: f32, f16 or bf16.
    pub precision: Scalar,
    pub has_zero: bool,
    pub rules: Rules,
    pub granularity: Granularity,
}

impl Linear {
    /// Refuses types that the kernels do not convert.
    pub fn check(&self) -> Result<()> {
        let is_code = self.code.is_narrow() && self.code != Scalar::F8E8M0
            || matches!(self.code, Scalar::U8 | Scalar::I8 | Scalar::U16 | Scalar::I16);
        let is_scale = self.scale.is_float() || self.scale == Scalar::F8E8M0;
        if !self.real.is_float() || !is_code || !is_scale || !self.precision.is_float() {
            return Err(KernelError::parameter(format!(
                "quantisation of {} to {} with {} scales: there is no kernel",
                self.real.suffix(),
                self.code.suffix(),
                self.scale.suffix()
            )));
        }
        Ok(())
    }

    /// Codes from floats. Operands: 0 the codes, 1 the floats, 2 the scales, 3 the zero points.
    pub fn quantize(&self) -> Result<Plan> {
        let packs = self.has_packs().then_some(("narrow_quantize_packs".to_owned(), PACK));
        self.plan("narrow_quantize", packs)
    }

    /// Floats from codes. Operands: 0 the floats, 1 the codes, 2 the scales, 3 the zero points.
    pub fn dequantize(&self) -> Result<Plan> {
        self.plan("narrow_dequantize", None)
    }

    /// Whether elements come in packs that share a scale, and become bytes that a kernel for packs writes.
    fn has_packs(&self) -> bool {
        let total: usize = self.granularity.extents.iter().product();
        let is_known = match self.code {
            Scalar::U8 | Scalar::I8 => true,
            Scalar::F8E4M3FN | Scalar::F8E5M2 => self.rules.saturate,
            _ => false,
        };
        is_known && total.is_multiple_of(PACK) && self.granularity.delta(PACK) == Some(0)
    }

    fn plan(&self, name: &str, kernel: Option<(String, usize)>) -> Result<Plan> {
        self.check()?;
        let total: usize = self.granularity.extents.iter().product();
        let is_wide = total.is_multiple_of(8) && self.granularity.delta(8).is_some();
        let lanes = if is_wide { 8 } else { 4 };
        let (symbol, lanes) = kernel.unwrap_or_else(|| (format!("{name}_v{lanes}"), lanes));
        let structure = Structure::default()
            .u32(total as u32)
            .u32s::<4>([self.real, self.code, self.scale, self.precision].map(|scalar| scalar as u32), 0);
        let structure = self.granularity.put(put_rules(structure, self.rules), lanes);
        let zero = if self.has_zero { pointer(3) } else { Arg::I64(0) };
        let args = vec![pointer(0), pointer(1), pointer(2), zero, structure.finish()];
        each(&symbol, total, lanes, args, self.real.bits() + self.code.bits())
    }
}

fn put_rules(structure: Structure, rules: Rules) -> Structure {
    structure.u32(rules.saturate.into()).u32(rules.power_rounding as u32)
}

fn each(symbol: &str, total: usize, lanes: usize, args: Vec<Arg>, bits: usize) -> Result<Plan> {
    if total == 0 {
        return Ok(Plan::default());
    }
    if total >= 1 << 31 {
        return Err(KernelError::shape(format!("a conversion of {total} elements: at most 2^31 - 1")));
    }
    let cost = Cost { flops: 0.0, bytes: (total * bits) as f64 / 8.0 };
    Ok(overlapping(launch(symbol.into(), [blocks(total.div_ceil(lanes)), 1, 1], args, cost)))
}

/// A cast of `total` elements, one type or both narrow. Operands: 0 the result, 1 the input.
pub fn cast(from: Scalar, to: Scalar, total: usize, rules: Rules) -> Result<Plan> {
    if !from.is_narrow() && !to.is_narrow() {
        return Err(KernelError::parameter(format!(
            "a cast of {} to {}: element-wise programs compute it",
            from.suffix(),
            to.suffix()
        )));
    }
    let is_wide = total.is_multiple_of(8) && from.bits().max(to.bits()) < 64;
    let lanes = if is_wide { 8 } else { 4 };
    let structure = Structure::default().u32s::<3>([total as u32, from as u32, to as u32], 0);
    let args = vec![pointer(0), pointer(1), put_rules(structure, rules).finish()];
    each(&format!("narrow_cast_v{lanes}"), total, lanes, args, from.bits() + to.bits())
}

/// What the build compiles.
pub fn unit(arch: Text) -> Unit {
    let codecs = Text { path: "device/float8.cu", text: include_str!("../../device/float8.cu") };
    let own = Text { path: "device/quantize.cu", text: include_str!("../../device/quantize.cu") };
    let names = ["narrow_cast", "narrow_quantize", "narrow_dequantize"];
    Unit {
        name: "quantize".into(),
        texts: vec![arch, scalar::TEXT, codecs, own],
        defines: Vec::new(),
        kernels: names
            .iter()
            .flat_map(|name| [4, 8].map(|lanes| kernel(format!("{name}_v{lanes}"))))
            .chain([kernel("narrow_quantize_packs")])
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_share_scales_as_the_granularity_says() {
        let delta = |extents, sharing| Granularity { extents, sharing }.delta(8);
        assert_eq!(delta([1, 1, 7], Sharing::Tensor), Some(0));
        assert_eq!(delta([2, 3, 16], Sharing::Axis), Some(0));
        assert_eq!(delta([5, 16, 1], Sharing::Axis), Some(1));
        assert_eq!(delta([5, 9, 1], Sharing::Axis), None);
        assert_eq!(delta([5, 64, 1], Sharing::Block(32)), Some(0));
        assert_eq!(delta([5, 64, 1], Sharing::Block(20)), None);
        assert_eq!(delta([1, 64, 16], Sharing::Block(32)), Some(1));
        assert_eq!(Granularity { extents: [2, 7, 3], sharing: Sharing::Block(4) }.scales(), 12);
    }

    #[test]
    fn types_without_a_kernel_are_refused() {
        let linear = Linear {
            real: Scalar::F32,
            code: Scalar::F8E8M0,
            scale: Scalar::F32,
            precision: Scalar::F32,
            has_zero: false,
            rules: Rules::default(),
            granularity: Granularity { extents: [1, 1, 8], sharing: Sharing::Tensor },
        };
        assert!(linear.quantize().unwrap_err().to_string().contains("f8e8m0"));
        assert!(cast(Scalar::F32, Scalar::F16, 8, Rules::default()).is_err());
        assert!(cast(Scalar::F32, Scalar::I2, 0, Rules::default()).unwrap().launches.is_empty());
    }
}
