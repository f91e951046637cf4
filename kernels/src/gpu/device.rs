//! The units under `device/` that every GPU family compiles, each after the family's own scalar primitives.

use super::unit::{Text, Unit};
use super::{
    attention, elementwise, index, layout, pool, product, recurrent, reduce, rotary, rows, sampling,
};

/// Units of all device kernels; `texts` are the arch's own scalar primitives, in order.
pub(super) fn units(texts: &[Text]) -> Vec<Unit> {
    let Some((&primitives, before)) = texts.split_last() else { return Vec::new() };
    let mut units = vec![
        index::unit(primitives),
        layout::unit(primitives),
        reduce::unit(primitives),
        pool::unit(primitives),
        recurrent::unit(primitives),
        attention::plain::unit(primitives),
        rotary::unit(primitives),
        sampling::unit(primitives),
    ];
    units.extend(elementwise::units(primitives));
    units.extend(rows::units(primitives));
    units.extend(product::units(primitives));
    for unit in &mut units {
        unit.texts.splice(0..0, before.iter().copied());
    }
    units
}
