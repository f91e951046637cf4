//! The negative log-likelihood of targets. The kernels are `device/loss.cu`.

use super::launch::{Arg, Plan};
use super::scalar::{self, Structure, blocks, kernel, launch, overlapping, pointer};
use super::unit::{Text, Unit};
use crate::error::{KernelError, Result};
use crate::estimate::Cost;

/// Logs of probabilities `[batch, classes, inner]` in f32, and targets `[batch, inner]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    pub batch: usize,
    pub classes: usize,
    pub inner: usize,
    /// Targets of 64 bits, else 32.
    pub is_wide: bool,
    /// A target that counts nothing.
    pub ignored: Option<i64>,
}

impl Loss {
    /// The loss of each target. Operands: 0 the losses, 1 their weights or absent, 2 the logs, 3 the targets, 4 weights of
    /// the classes or absent.
    pub fn each(&self) -> Result<Plan> {
        let targets = self.batch * self.inner;
        if targets * self.classes.max(1) >= 1 << 31 {
            return Err(KernelError::shape(format!(
                "losses of {targets} targets of {} classes",
                self.classes
            )));
        }
        if targets == 0 {
            return Ok(Plan::default());
        }
        let sizes = [targets, self.classes, self.inner].map(|size| size as u32);
        let parameters = Structure::default()
            .u32s::<3>(sizes, 0)
            .u32(self.is_wide.into())
            .u32(self.ignored.is_some().into())
            .i64s::<1>(self.ignored)
            .finish();
        let args = (0..5).map(pointer).chain([parameters]).collect();
        let cost = Cost { flops: targets as f64, bytes: 48.0 * targets as f64 };
        Ok(overlapping(launch("loss_each".into(), [blocks(targets), 1, 1], args, cost)))
    }

    /// The sum of all losses, or their mean by weight. Operands: 0 the result, 1 the losses, 2 their weights or absent.
    pub fn total(&self, is_mean: bool) -> Plan {
        let targets = self.batch * self.inner;
        let args = [0, 1, 2].map(pointer).into_iter();
        let args = args.chain([targets as u32, is_mean.into()].map(Arg::U32)).collect();
        let cost = Cost { flops: targets as f64, bytes: 8.0 * targets as f64 };
        overlapping(launch("loss_total".into(), [1, 1, 1], args, cost))
    }
}

/// What the build compiles.
pub fn unit(arch: Text) -> Unit {
    let own = Text { path: "device/loss.cu", text: include_str!("../../device/loss.cu") };
    Unit {
        name: "loss".into(),
        texts: vec![arch, scalar::TEXT, own],
        defines: Vec::new(),
        kernels: ["loss_each", "loss_total"].map(kernel).to_vec(),
    }
}
