//! Which kernels serve which AMD device, and which chip it is where its driver does not say.

use tenon_kernels::gpu::arch::{self, Vendor};

/// The kernels' folder for a device's `gcnArchName` (`gfx950:sramecc+:xnack-`); empty when there is none.
pub(crate) fn arch_of_name(gcn: &str) -> String {
    let target = gcn.split(':').next().unwrap_or_default();
    let found = arch::all().iter().find(|arch| arch.vendor == Vendor::Amd && arch.target == target);
    found.map_or_else(String::new, |arch| arch.name.to_owned())
}

/// Data-centre chips by target, compute units and the least memory in GB, larger memory first.
const CHIPS: [(&str, u32, u64, &str); 3] = [
    ("gfx942", 304, 220, "AMD Instinct MI325X"),
    ("gfx942", 304, 0, "AMD Instinct MI300X"),
    ("gfx950", 256, 0, "AMD Instinct MI355X"),
];

/// The device's name. Systems without a table of marketing names report none or a generic one: there it is the name of
/// the chip with the device's target, compute units and memory.
pub(crate) fn name(reported: &str, gcn: &str, compute_units: u32, memory_bytes: u64) -> String {
    let reported = reported.trim();
    if reported.contains("MI3") {
        return reported.to_owned();
    }
    let target = gcn.split(':').next().unwrap_or_default();
    let fits = |&&(chip, units, gigabytes, _): &&(&str, u32, u64, &str)| {
        chip == target && units == compute_units && memory_bytes >= gigabytes << 30
    };
    match (CHIPS.iter().find(fits), reported) {
        (Some((.., name)), _) => (*name).to_owned(),
        (None, "") => target.to_owned(),
        (None, reported) => reported.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_without_kernels_have_no_arch() {
        assert_eq!(arch_of_name("gfx1030"), "");
        assert_eq!(arch_of_name(""), "");
        for arch in arch::all().iter().filter(|arch| arch.vendor == Vendor::Amd) {
            assert_eq!(arch_of_name(&format!("{}:sramecc+:xnack-", arch.target)), arch.name);
        }
    }

    #[test]
    fn a_chip_without_a_name_is_known_by_its_facts() {
        let gcn = "gfx942:sramecc+:xnack-";
        assert_eq!(name("AMD Instinct MI300X VF", gcn, 304, 192 << 30), "AMD Instinct MI300X VF");
        assert_eq!(name("", gcn, 304, 191 << 30), "AMD Instinct MI300X");
        assert_eq!(name("AMD Radeon Graphics", gcn, 304, 255 << 30), "AMD Instinct MI325X");
        assert_eq!(name("", "gfx950", 256, 287 << 30), "AMD Instinct MI355X");
        assert_eq!(name("AMD Radeon Graphics", gcn, 228, 128 << 30), "AMD Radeon Graphics");
        assert_eq!(name("", "gfx1100", 96, 24 << 30), "gfx1100");
    }
}
