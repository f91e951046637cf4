//! What the build compiles for a GPU family: the units under `device/` that all share, each after the family's own scalar
//! primitives, and those of its tuned operators.

use super::arch::Arch;
use super::unit::Unit;
use super::{
    attention, cast, elementwise, index, integer, layout, loss, matmul, order, pool, product, quantize,
    recurrent, reduce, region, rotary, rows, sampling, scatter, signal, state, window,
};
use crate::error::Result;

impl Arch {
    /// Every unit of the family, with what each compiled result must contain.
    pub fn units(&self) -> Result<Vec<Unit>> {
        let mut units = shared(self);
        if self.has("matmul") {
            units.extend(matmul::units(self.name)?);
        }
        if self.has("packed_stream") {
            units.extend(matmul::nbits::units(self.name)?);
        }
        units.extend(cast::units(self)?);
        if self.has("attention") {
            units.extend(attention::units(self.name)?);
        }
        Ok(units)
    }
}

/// The units under `device/`.
fn shared(arch: &Arch) -> Vec<Unit> {
    let Some((&primitives, before)) = arch.scalar.split_last() else { return Vec::new() };
    let (atomics, numbers) = (arch.atomics, arch.numbers);
    let mut units = vec![
        index::unit(primitives),
        integer::unit(primitives),
        layout::unit(primitives),
        reduce::unit(primitives),
        pool::unit(primitives),
        region::unit(primitives),
        quantize::unit(primitives),
        recurrent::unit(primitives),
        attention::plain::unit(primitives),
        attention::append::unit(primitives),
        rotary::unit(primitives),
        sampling::unit(primitives),
        sampling::draw_unit(primitives, atomics),
        loss::unit(primitives),
        order::unit(primitives, atomics),
        scatter::unit(primitives, atomics),
        signal::unit(primitives),
        state::unit(primitives),
        window::unit(primitives),
    ];
    units.extend(elementwise::units(primitives, numbers));
    units.extend(rows::units(primitives, numbers, arch.clusters));
    units.extend(product::units(primitives));
    for unit in &mut units {
        unit.texts.splice(0..0, before.iter().copied());
    }
    units
}

#[cfg(test)]
mod tests {
    use crate::gpu::arch;

    #[test]
    fn every_family_has_units() {
        for arch in arch::all() {
            assert!(!arch.units().unwrap().is_empty(), "{}", arch.name);
        }
    }
}
