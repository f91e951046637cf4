//! Which row of a tuning table serves a shape: the first whose range holds it.

use std::sync::OnceLock;

use crate::cpu::Isa;
use crate::error::{KernelError, Result};
use crate::matmul::{MatmulParams, RegisterFile};
use crate::table::{self, Row};

/// A row of `matmul.toml`: a range of shapes and the parameters for it.
#[derive(Clone, Copy, Debug)]
pub struct MatmulRow {
    /// Inclusive bounds on the rows of C.
    pub m: (usize, usize),
    /// Inclusive bounds on the columns of C.
    pub n: (usize, usize),
    /// Inclusive bounds on the depth.
    pub k: (usize, usize),
    pub params: MatmulParams,
}

/// Block sizes of a convolution: `depth` rows of packed patches, and at most `patch_elems` of them at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvParams {
    pub depth: usize,
    pub patch_elems: usize,
}

fn conv_text(isa: Isa) -> &'static str {
    match isa {
        Isa::Scalar => include_str!("../arch/scalar/conv.toml"),
        Isa::Avx2 => include_str!("../arch/x86_64_avx2/conv.toml"),
        Isa::Avx512 => include_str!("../arch/x86_64_avx512/conv.toml"),
    }
}

/// The first row of a tier's `conv.toml`.
pub fn conv_row(isa: Isa) -> Result<ConvParams> {
    let rows = table::parse(conv_text(isa))?;
    let row = rows.first().ok_or_else(|| KernelError::table("conv.toml has no row"))?;
    let params = ConvParams { depth: row.size("depth")?, patch_elems: row.size("patch_elems")? };
    if params.depth == 0 || params.patch_elems < params.depth {
        return Err(KernelError::table(format!("{params:?} holds no block")));
    }
    Ok(params)
}

/// The parameters of a convolution.
pub fn conv(isa: Isa) -> ConvParams {
    static TABLES: OnceLock<[ConvParams; 3]> = OnceLock::new();
    let read = |isa| conv_row(isa).expect("the embedded tables are tested");
    TABLES.get_or_init(|| [Isa::Scalar, Isa::Avx2, Isa::Avx512].map(read))[isa as usize]
}

/// The registers of a CPU tier.
pub fn register_file(isa: Isa) -> RegisterFile {
    match isa {
        Isa::Scalar => RegisterFile { registers: 16, lanes: 4 },
        Isa::Avx2 => RegisterFile { registers: 16, lanes: 8 },
        Isa::Avx512 => RegisterFile { registers: 32, lanes: 16 },
    }
}

/// (rows, columns) of the register tile that the kernels of a tier are compiled for.
pub fn compiled_tile(isa: Isa) -> (usize, usize) {
    match isa {
        Isa::Scalar => (4, 8),
        Isa::Avx2 => (6, 16),
        Isa::Avx512 => (14, 32),
    }
}

fn table_text(isa: Isa) -> &'static str {
    match isa {
        Isa::Scalar => include_str!("../arch/scalar/matmul.toml"),
        Isa::Avx2 => include_str!("../arch/x86_64_avx2/matmul.toml"),
        Isa::Avx512 => include_str!("../arch/x86_64_avx512/matmul.toml"),
    }
}

fn bounds(row: &Row, key: &str) -> Result<(usize, usize)> {
    Ok((row.size_or(&format!("{key}_min"), Some(0))?, row.size_or(&format!("{key}_max"), Some(usize::MAX))?))
}

fn read_matmul(row: &Row) -> Result<MatmulRow> {
    let params = MatmulParams {
        mr: row.size("mr")?,
        nr: row.size("nr")?,
        kc: row.size("kc")?,
        mc: row.size("mc")?,
        nc: row.size("nc")?,
    };
    Ok(MatmulRow { m: bounds(row, "m")?, n: bounds(row, "n")?, k: bounds(row, "k")?, params })
}

/// All rows of a tier's `matmul.toml`, checked against its registers. The last row must hold every shape.
pub fn matmul_rows(isa: Isa) -> Result<Vec<MatmulRow>> {
    let rows: Vec<MatmulRow> =
        table::parse(table_text(isa))?.iter().map(read_matmul).collect::<Result<_>>()?;
    for row in &rows {
        row.params.check(register_file(isa))?;
        if (row.params.mr, row.params.nr) != compiled_tile(isa) {
            let tile = compiled_tile(isa);
            return Err(KernelError::table(format!(
                "{:?} differs from the compiled tile {tile:?}",
                row.params
            )));
        }
    }
    let all = (0, usize::MAX);
    match rows.last() {
        Some(last) if last.m == all && last.n == all && last.k == all => Ok(rows),
        _ => Err(KernelError::table("the last row of matmul.toml must be unbounded")),
    }
}

/// The parameters of a product of the given extents.
pub fn matmul(isa: Isa, m: usize, n: usize, k: usize) -> MatmulParams {
    static TABLES: OnceLock<[Vec<MatmulRow>; 3]> = OnceLock::new();
    let tables = TABLES.get_or_init(|| {
        [Isa::Scalar, Isa::Avx2, Isa::Avx512]
            .map(|isa| matmul_rows(isa).expect("the embedded tables are tested"))
    });
    let inside = |bounds: (usize, usize), v: usize| bounds.0 <= v && v <= bounds.1;
    let rows = &tables[isa as usize];
    let row = rows.iter().find(|row| inside(row.m, m) && inside(row.n, n) && inside(row.k, k));
    row.expect("the last row is unbounded").params
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_legal_and_some_row_holds_every_shape() {
        for isa in [Isa::Scalar, Isa::Avx2, Isa::Avx512] {
            assert!(!matmul_rows(isa).unwrap().is_empty());
            assert!(conv_row(isa).unwrap().depth > 0);
            for shape in [1, 7, 1000, usize::MAX] {
                assert!(matmul(isa, shape, shape, shape).mr > 0);
            }
        }
    }

    #[test]
    fn the_kernels_have_the_tile_that_the_tables_assume() {
        for isa in [Isa::Scalar, Isa::Avx2, Isa::Avx512] {
            let features = crate::cpu::Features::detect().at_most(isa);
            assert_eq!(crate::cpu::gemm::tile_shape(features), compiled_tile(features.isa()));
        }
    }

    #[test]
    fn a_tile_that_spills_is_refused() {
        let params = MatmulParams { mr: 16, nr: 32, kc: 256, mc: 256, nc: 512 };
        assert!(params.check(register_file(Isa::Avx512)).is_err());
    }
}
