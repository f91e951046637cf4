//! Matrix multiplication: parameters of its kernels, which of them are legal, and what a product costs.

use crate::error::{KernelError, Result};
use crate::estimate::Cost;

/// Block sizes of a CPU product, in elements. See `cpu::gemm` for the loops they bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatmulParams {
    /// Rows of the register tile.
    pub mr: usize,
    /// Columns of the register tile and of a packed panel of B.
    pub nr: usize,
    /// Depth of a block: `kc * nr` of B stay in the first or second cache level.
    pub kc: usize,
    /// Rows of a block: `mc * kc` of A stay in the second cache level.
    pub mc: usize,
    /// Columns of a block.
    pub nc: usize,
}

/// The register file that a tile must fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegisterFile {
    /// Vector registers.
    pub registers: usize,
    /// f32 lanes of each.
    pub lanes: usize,
}

impl MatmulParams {
    /// Refuses parameters that the kernels cannot run or that would spill.
    pub fn check(&self, file: RegisterFile) -> Result<()> {
        let Self { mr, nr, kc, mc, nc } = *self;
        if mr == 0 || nr == 0 || kc == 0 || mc < mr || nc < nr {
            return Err(KernelError::parameter(format!(
                "{self:?} has an empty tile or a block smaller than it"
            )));
        }
        if nr % file.lanes != 0 {
            return Err(KernelError::parameter(format!("nr {nr} is not a multiple of {} lanes", file.lanes)));
        }
        let vectors = nr / file.lanes;
        let used = mr * vectors + vectors + 1;
        if used > file.registers {
            return Err(KernelError::parameter(format!(
                "a tile of {mr} x {nr} needs {used} registers of {}",
                file.registers
            )));
        }
        Ok(())
    }
}

/// Work of `C (m x n) = A (m x k) B (k x n)` with the given bytes per element.
pub fn cost(m: usize, n: usize, k: usize, a_bytes: usize, b_bytes: usize, c_bytes: usize) -> Cost {
    let [m, n, k] = [m, n, k].map(|v| v as f64);
    let bytes = m * k * a_bytes as f64 + k * n * b_bytes as f64 + m * n * c_bytes as f64;
    Cost { flops: 2.0 * m * n * k, bytes }
}
