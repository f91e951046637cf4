//! Casts between floats for families that have a text of their own for them, with a row of `cast.toml` for each pair of types.
//! Other families and pairs run on element-wise programs and on [`super::quantize`].

use super::arch::{Arch, Tables};
use super::launch::{Arg, Plan};
use super::scalar::{self, Scalar, pointer};
use super::unit::{Kernel, Unit};
use crate::error::{KernelError, Result};
use crate::estimate::Cost;
use crate::table;

/// A pair of types, and what its kernel must consist of.
#[derive(Clone, Debug)]
struct Row {
    from: Scalar,
    to: Scalar,
    required: Vec<&'static str>,
}

/// The cast of `total` elements, numbers beyond the range of 8 and 4 bits becoming the largest. `None`: the family has no
/// kernel of its own for the pair. Operands: 0 the result, 1 the input.
pub fn plan_for(arch: &str, from: Scalar, to: Scalar, total: usize) -> Result<Option<Plan>> {
    if !rows(arch)?.iter().any(|row| row.from == from && row.to == to) {
        return Ok(None);
    }
    if total == 0 {
        return Ok(Some(Plan::default()));
    }
    let count = u32::try_from(total).ok().filter(|total| *total < 1 << 31);
    let count =
        count.ok_or_else(|| KernelError::shape(format!("a cast of {total} elements: at most 2^31 - 1")))?;
    let cost = Cost { flops: 0.0, bytes: (total * (from.bits() + to.bits())) as f64 / 8.0 };
    let each = elements(from, to);
    // Runs, and a thread for each of the elements behind them.
    let threads = total / each + total % each;
    let args = vec![pointer(0), pointer(1), Arg::U32(count)];
    Ok(Some(scalar::launch(symbol(arch, from, to), [scalar::blocks(threads), 1, 1], args, cost)))
}

/// Elements of a thread: 16 bytes of the narrower side, and at least eight.
fn elements(from: Scalar, to: Scalar) -> usize {
    128 / from.bits().min(to.bits()).min(16)
}

fn symbol(arch: &str, from: Scalar, to: Scalar) -> String {
    format!("cast_{}_{}__{arch}", from.suffix(), to.suffix())
}

/// What the build compiles: one unit, where the family has the operator.
pub(super) fn units(arch: &Arch) -> Result<Vec<Unit>> {
    let rows = rows(arch.name)?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let calls = rows.iter().map(|row| {
        format!("CAST({},{},{})", symbol(arch.name, row.from, row.to), codec(row.from), codec(row.to))
    });
    let kernels = rows.iter().map(|row| Kernel {
        required: row.required.clone(),
        forbidden: vec!["scratch_"],
        ..scalar::kernel(symbol(arch.name, row.from, row.to))
    });
    Ok(vec![Unit {
        name: format!("cast__{}", arch.name),
        texts: arch.operator("cast")?.texts("texts")?,
        defines: vec![("KERNELS".into(), calls.collect::<Vec<_>>().join(" "))],
        kernels: kernels.collect(),
    }])
}

/// As the text calls a type.
fn codec(scalar: Scalar) -> &'static str {
    match scalar {
        Scalar::F16 => "F16",
        Scalar::BF16 => "BF16",
        Scalar::F8E4M3FN => "E4M3",
        Scalar::F8E5M2 => "E5M2",
        Scalar::F4E2M1 => "E2M1",
        _ => "F32",
    }
}

fn rows(arch: &str) -> Result<&'static [Row]> {
    static TABLES: Tables<Vec<Row>> = Tables::new();
    let read = |arch: &Arch| match arch.operator("cast") {
        Ok(operator) => table::parse(operator.table)?.iter().map(row).collect(),
        Err(_) => Ok(Vec::new()),
    };
    TABLES.get(arch, read).map(Vec::as_slice)
}

fn row(block: &table::Row) -> Result<Row> {
    let known = [Scalar::F32, Scalar::F16, Scalar::BF16, Scalar::F8E4M3FN, Scalar::F8E5M2, Scalar::F4E2M1];
    let scalar = |key: &str| {
        let name = block.text(key)?;
        let found = known.into_iter().find(|scalar| scalar.suffix() == name);
        found.ok_or_else(|| KernelError::table(format!("[[cast]]: '{name}' has no codec")))
    };
    let required: Vec<&'static str> =
        block.text("required")?.split_whitespace().map(|name| &*name.to_owned().leak()).collect();
    Ok(Row { from: scalar("from")?, to: scalar("to")?, required })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_takes_sixteen_bytes_and_one_more_takes_each_element_behind() {
        let plan = plan_for("gfx950", Scalar::F32, Scalar::F8E4M3FN, 16 * 300 + 5).unwrap().unwrap();
        assert_eq!(plan.launches[0].grid, [2, 1, 1]);
        assert_eq!(plan.launches[0].cost.bytes, 4805.0 * 5.0);
        assert_eq!(elements(Scalar::F4E2M1, Scalar::F32), 32);
        assert_eq!(elements(Scalar::F32, Scalar::BF16), 8);
    }

    #[test]
    fn pairs_without_a_row_are_left_to_others() {
        assert!(plan_for("gfx942", Scalar::F32, Scalar::F8E4M3FN, 8).unwrap().is_none());
        assert!(plan_for("sm90", Scalar::F32, Scalar::BF16, 8).unwrap().is_none());
        assert!(plan_for("gfx942", Scalar::F32, Scalar::BF16, 0).unwrap().unwrap().launches.is_empty());
    }
}
