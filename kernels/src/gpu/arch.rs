//! The GPU families: one entry for each folder under `arch/` that holds device text.

use super::chip::{self, Chip};
use super::unit::{Text, Unit};
use super::{attention, device, matmul};
use crate::error::{KernelError, Result};

/// A GPU family.
#[derive(Debug)]
pub struct Arch {
    /// The folder's name.
    pub name: &'static str,
    /// What the compiler calls it.
    pub target: &'static str,
    /// Threads that run in step.
    pub wave: u32,
    chips: &'static str,
    units: fn() -> Result<Vec<Unit>>,
}

const SM90_SCALAR: Text = Text {
    path: "arch/sm90/scalar_primitives.cuh",
    text: include_str!("../../arch/sm90/scalar_primitives.cuh"),
};

/// Every family, newest of a vendor last.
pub const ARCHS: &[Arch] = &[Arch {
    name: "sm90",
    target: "sm_90a",
    wave: 32,
    chips: include_str!("../../arch/sm90/chips.toml"),
    units: sm90_units,
}];

/// One operator after the other.
fn sm90_units() -> Result<Vec<Unit>> {
    let mut units = device::units(SM90_SCALAR);
    units.extend(matmul::units("sm90")?);
    units.extend(attention::units()?);
    Ok(units)
}

/// The family called `name`.
pub fn find(name: &str) -> Result<&'static Arch> {
    ARCHS.iter().find(|arch| arch.name == name).ok_or_else(|| {
        let known: Vec<&str> = ARCHS.iter().map(|arch| arch.name).collect();
        KernelError::parameter(format!("there is no arch '{name}': one of {}", known.join(", ")))
    })
}

impl Arch {
    /// The chips of the family.
    pub fn chips(&self) -> Result<Vec<Chip>> {
        chip::parse(self.chips)
    }

    /// The chip whose `device_name` the driver's name contains; else the first one of the family.
    pub fn chip_of(&self, device_name: &str) -> Result<Chip> {
        let chips = self.chips()?;
        let found = chips.iter().find(|chip| device_name.contains(&chip.device_name)).or(chips.first());
        found.cloned().ok_or_else(|| KernelError::table(format!("arch '{}' has no chip", self.name)))
    }

    /// What the build compiles for the family.
    pub fn units(&self) -> Result<Vec<Unit>> {
        (self.units)()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_has_chips() {
        for arch in ARCHS {
            assert!(!arch.chips().unwrap().is_empty(), "{}", arch.name);
        }
        assert!(find("sm_90").unwrap_err().to_string().contains("sm90"));
    }
}
