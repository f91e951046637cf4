//! The two targets and their fixed sizes.

use crate::error::{Error, Kind, Result};

/// A processor that code objects are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// CDNA3: MI300X, MI325X.
    Gfx942,
    /// CDNA4: MI355X.
    Gfx950,
}

impl Target {
    pub const ALL: [Target; 2] = [Target::Gfx942, Target::Gfx950];

    /// The name compilers use, e.g. `gfx942`.
    pub fn name(self) -> &'static str {
        match self {
            Target::Gfx942 => "gfx942",
            Target::Gfx950 => "gfx950",
        }
    }

    /// The target of a processor name; features after a colon are ignored.
    pub fn from_name(name: &str) -> Option<Target> {
        let processor = name.split(':').next().unwrap_or(name);
        Target::ALL.into_iter().find(|target| target.name() == processor)
    }

    /// The target of a code object by the machine number in its ELF flags.
    pub(crate) fn from_elf_flags(flags: u32) -> Result<Target> {
        match flags & 0xff {
            0x4c => Ok(Target::Gfx942),
            0x4f => Ok(Target::Gfx950),
            other => Err(Error::new(
                Kind::Target,
                format!("code object is for machine {other:#x}; expected gfx942 (0x4c) or gfx950 (0x4f)"),
            )),
        }
    }

    /// LDS a workgroup may use, in bytes.
    pub fn lds_bytes(self) -> u32 {
        match self {
            Target::Gfx942 => 64 << 10,
            Target::Gfx950 => 160 << 10,
        }
    }
}
