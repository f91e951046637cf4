//! The units under `device/` that every GPU family compiles, each after the family's own scalar primitives.

use super::unit::{Text, Unit};
use super::{
    attention, elementwise, index, integer, layout, loss, order, pool, product, quantize, recurrent, reduce,
    region, rotary, rows, sampling, scatter, signal, state, window,
};

/// Units of all device kernels; `texts` are the arch's own scalar primitives, in order, `atomics` those for updates, `numbers`
/// those of single numbers.
pub(super) fn units(texts: &[Text], atomics: Text, numbers: Text) -> Vec<Unit> {
    let Some((&primitives, before)) = texts.split_last() else { return Vec::new() };
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
    units.extend(rows::units(primitives, numbers));
    units.extend(product::units(primitives));
    for unit in &mut units {
        unit.texts.splice(0..0, before.iter().copied());
    }
    units
}
