//! The units under `device/` that every GPU family compiles, each after the family's own scalar primitives.

use super::unit::{Text, Unit};
use super::{elementwise, layout, pool, product, reduce, rows};

/// Units of all device kernels; `primitives` is the arch's `scalar_primitives` file.
pub(super) fn units(primitives: Text) -> Vec<Unit> {
    let mut units = vec![
        elementwise::unit(primitives),
        layout::unit(primitives),
        reduce::unit(primitives),
        pool::unit(primitives),
    ];
    units.extend(rows::units(primitives));
    units.extend(product::units(primitives));
    units
}
