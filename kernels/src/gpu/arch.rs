//! The GPU families: one for each folder under `arch/` that holds an `arch.toml`.
//!
//! The file says who compiles for the family, and for each tuned operator which main loop serves it, from which table
//! and texts. Texts are named from the folder; families may share them (`../cdna/matmul.hip`, `../../device/shape.cuh`).

use std::sync::OnceLock;

use super::archs;
use super::chip::{self, Chip};
use super::unit::Text;
use crate::error::{KernelError, Result};
use crate::table::{self, Row};

/// Whose compiler and driver serve a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    Nvidia,
    Amd,
}

/// How tuned kernels are built; each has a planner of its own under every operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mainloop {
    /// Hopper: bulk copies into a ring, products by warpgroups.
    Wgmma,
    /// CDNA: matrix instructions of a wave of 64, operands through LDS.
    Mfma,
    /// Ampere and later: asynchronous copies, products by warps.
    MmaSync,
}

/// A GPU family.
#[derive(Debug)]
pub struct Arch {
    /// The folder's name.
    pub name: &'static str,
    pub vendor: Vendor,
    /// What the compiler calls it.
    pub target: &'static str,
    /// Threads that run in step.
    pub wave: u32,
    /// Kernels may be started before the one ahead of them has ended: they wait for it themselves.
    pub overlaps_launches: bool,
    /// Primitives that every unit under `device/` starts with.
    pub(super) scalar: Vec<Text>,
    /// Primitives that come behind them where threads update one place.
    pub(super) atomics: Text,
    /// And where threads compute much with few numbers.
    pub(super) numbers: Text,
    /// And where blocks run together, in families that can.
    pub(super) clusters: Option<Text>,
    operators: Vec<Operator>,
}

/// A tuned operator of a family.
#[derive(Debug)]
pub(super) struct Operator {
    name: &'static str,
    pub mainloop: Mainloop,
    /// Contents of its parameter table.
    pub table: &'static str,
    row: Row,
    arch: &'static str,
}

impl Operator {
    /// The texts that `key` of the operator's row lists, in order.
    pub fn texts(&self, key: &str) -> Result<Vec<Text>> {
        self.row.text(key)?.split_whitespace().map(|name| file(self.arch, name)).collect()
    }
}

/// Every family, by name.
pub fn all() -> &'static [Arch] {
    static ALL: OnceLock<Vec<Arch>> = OnceLock::new();
    let read = |name: &&'static str| {
        read(name).unwrap_or_else(|error| panic!("kernels/arch/{name}/arch.toml, embedded at build: {error}"))
    };
    ALL.get_or_init(|| archs::ARCHS.iter().map(read).collect())
}

/// The family called `name`.
pub fn find(name: &str) -> Result<&'static Arch> {
    all().iter().find(|arch| arch.name == name).ok_or_else(|| {
        KernelError::parameter(format!("there is no arch '{name}': one of {}", archs::ARCHS.join(", ")))
    })
}

impl Arch {
    /// The chips of the family.
    pub fn chips(&self) -> Result<Vec<Chip>> {
        chip::parse(file(self.name, "chips.toml")?.text)
    }

    /// The chip whose `device_name` the driver's name contains; else the first one of the family.
    pub fn chip_of(&self, device_name: &str) -> Result<Chip> {
        let chips = self.chips()?;
        let found = chips.iter().find(|chip| device_name.contains(&chip.device_name)).or(chips.first());
        found.cloned().ok_or_else(|| KernelError::table(format!("arch '{}' has no chip", self.name)))
    }

    /// A table of the family's folder; `None` where it has none of this name.
    pub(super) fn table(&self, name: &str) -> Option<&'static str> {
        file(self.name, name).ok().map(|file| file.text)
    }

    pub(super) fn has(&self, operator: &str) -> bool {
        self.operators.iter().any(|known| known.name == operator)
    }

    /// A tuned operator; an error where the family has none.
    pub(super) fn operator(&self, name: &str) -> Result<&Operator> {
        self.operators.iter().find(|operator| operator.name == name).ok_or_else(|| {
            KernelError::parameter(format!("arch '{}' has no {name} kernels of its own", self.name))
        })
    }
}

/// Tables of one operator, read once for every family.
pub(super) struct Tables<T>(OnceLock<Vec<(&'static str, Result<T>)>>);

impl<T> Tables<T> {
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// The table of `arch` as `read` makes it from the family.
    pub fn get(&'static self, arch: &str, read: fn(&Arch) -> Result<T>) -> Result<&'static T> {
        let tables = self.0.get_or_init(|| all().iter().map(|arch| (arch.name, read(arch))).collect());
        let known = find(arch)?.name;
        match tables.iter().find(|(name, _)| *name == known) {
            Some((_, Ok(table))) => Ok(table),
            Some((_, Err(error))) => Err(error.clone()),
            None => Err(KernelError::parameter(format!("arch '{arch}' has no table"))),
        }
    }
}

fn read(name: &'static str) -> Result<Arch> {
    let rows = table::parse(file(name, "arch.toml")?.text)?;
    let mut arch = rows.iter().filter(|row| row.name == "arch");
    let (Some(row), None) = (arch.next(), arch.next()) else {
        return Err(KernelError::table("expected one [[arch]] block"));
    };
    let operators = rows.iter().filter(|row| row.name == "operator");
    Ok(Arch {
        name,
        vendor: match row.text("vendor")? {
            "nvidia" => Vendor::Nvidia,
            "amd" => Vendor::Amd,
            other => return Err(KernelError::table(format!("vendor '{other}': nvidia or amd"))),
        },
        target: leaked(row.text("target")?),
        wave: u32::try_from(row.size("wave")?).unwrap_or(u32::MAX),
        overlaps_launches: row.size_or("overlaps_launches", Some(0))? != 0,
        scalar: row.text("scalar")?.split_whitespace().map(|text| file(name, text)).collect::<Result<_>>()?,
        atomics: file(name, row.text("atomics")?)?,
        numbers: file(name, row.text("numbers")?)?,
        clusters: row.get("clusters").map(|_| file(name, row.text("clusters")?)).transpose()?,
        operators: operators.map(|row| operator(name, row)).collect::<Result<_>>()?,
    })
}

fn operator(arch: &'static str, row: &Row) -> Result<Operator> {
    Ok(Operator {
        name: leaked(row.text("name")?),
        mainloop: match row.text("mainloop")? {
            "wgmma" => Mainloop::Wgmma,
            "mfma" => Mainloop::Mfma,
            "mma_sync" => Mainloop::MmaSync,
            other => {
                return Err(KernelError::table(format!("mainloop '{other}': wgmma, mfma or mma_sync")));
            }
        },
        table: file(arch, row.text("table")?)?.text,
        row: row.clone(),
        arch,
    })
}

/// Families are read once and live as long as the process.
fn leaked(text: &str) -> &'static str {
    Box::leak(text.to_owned().into_boxed_str())
}

/// A file named from the folder of `arch`.
fn file(arch: &str, name: &str) -> Result<Text> {
    let path = match (name.strip_prefix("../../"), name.strip_prefix("../")) {
        (Some(shared), _) => shared.to_owned(),
        (None, Some(other)) => format!("arch/{other}"),
        (None, None) => format!("arch/{arch}/{name}"),
    };
    let found = archs::FILES.iter().find(|(known, _)| *known == path);
    found.map(|&(path, text)| Text { path, text }).ok_or_else(|| {
        KernelError::table(format!("there is no kernels/{path}, or `cargo xtask gen` was not run since"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_has_chips() {
        for arch in all() {
            assert!(!arch.chips().unwrap().is_empty(), "{}", arch.name);
        }
        assert!(find("sm_90").unwrap_err().to_string().contains("sm90"));
    }
}
