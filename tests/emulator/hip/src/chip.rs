//! The chips that can be emulated and the facts the driver tells of them.

use std::ffi::c_int;
use tenon_emulator::Target;

/// A chip.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chip {
    /// As users name it.
    pub short: &'static str,
    pub name: &'static str,
    pub target: Target,
    pub compute_units: c_int,
    /// Bytes of HBM.
    pub memory: u64,
    pub clock_khz: c_int,
    /// Bytes of HBM a second.
    pub bandwidth: f64,
    pub pci_chip: c_int,
}

const CHIPS: [Chip; 3] = [
    Chip {
        short: "MI300X",
        name: "AMD Instinct MI300X",
        target: Target::Gfx942,
        compute_units: 304,
        memory: 192 << 30,
        clock_khz: 2_100_000,
        bandwidth: 5.3e12,
        pci_chip: 0x74a1,
    },
    Chip {
        short: "MI325X",
        name: "AMD Instinct MI325X",
        target: Target::Gfx942,
        compute_units: 304,
        memory: 256 << 30,
        clock_khz: 2_100_000,
        bandwidth: 6.0e12,
        pci_chip: 0x74a5,
    },
    Chip {
        short: "MI355X",
        name: "AMD Instinct MI355X",
        target: Target::Gfx950,
        compute_units: 256,
        memory: 288 << 30,
        clock_khz: 2_400_000,
        bandwidth: 8.0e12,
        pci_chip: 0x75a3,
    },
];

impl Chip {
    pub fn from_name(name: &str) -> Option<Chip> {
        CHIPS.into_iter().find(|chip| chip.short.eq_ignore_ascii_case(name.trim()))
    }

    /// The name that code objects are chosen by.
    pub fn architecture(&self) -> String {
        format!("{}:sramecc+:xnack-", self.target.name())
    }

    /// A `hipDeviceAttribute_t`; `None` for those that are not modelled.
    pub fn attribute(&self, attribute: c_int, ordinal: c_int, memory: u64) -> Option<c_int> {
        let lds = self.target.lds_bytes() as c_int;
        Some(match attribute {
            // Clock rate, wall clock rate.
            5 => self.clock_khz,
            10017 => 100_000,
            // Host mapping, concurrent kernels, cooperative launch, unified addressing, stream-ordered allocation.
            3 | 8 | 10 | 85 | 88 => 1,
            // Engines for copies.
            2 => 8,
            // Managed memory with and without concurrent access, integrated.
            9 | 16 | 24 => 0,
            // L2 of one die.
            19 => 4 << 20,
            // The version of the architecture.
            23 => 9,
            61 => {
                if self.target == Target::Gfx942 {
                    4
                } else {
                    5
                }
            }
            // Workgroups and work-items.
            25 => 2,
            26..=28 | 55 | 56 => 1024,
            29 => i32::MAX,
            30 | 31 => 65_535,
            57 => 2048,
            // Memory: bus width in bits, clock in kHz with two transfers a cycle.
            59 => 8192,
            60 => (self.bandwidth / (2.0 * 1024.0) / 1e3) as c_int,
            63 | 10015 => self.compute_units,
            // PCI bus, device, domain, chip.
            67 => 0x10 + ordinal,
            68 | 69 => 0,
            10020 => self.pci_chip,
            71 | 72 => 65_536,
            // LDS of a workgroup and of a compute unit.
            74 | 75 | 76 | 10002 => lds,
            84 => memory.min(i32::MAX as u64) as c_int,
            // Lanes of a wave.
            87 => 64,
            _ => return None,
        })
    }
}
