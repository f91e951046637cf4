//! Which kernels serve which CUDA device.

use tenon_kernels::gpu::arch::ARCHS;
use tenon_plugin_api::{Error, Result};

/// The kernels' folder for a compute capability; empty when there is none.
pub(crate) fn arch(major: i32, minor: i32) -> String {
    match (major, minor) {
        (9, 0) => "sm90".into(),
        _ => String::new(),
    }
}

/// The arch that `target` names itself or through one of its chips.
pub(crate) fn arch_of_target(target: &str) -> Result<&'static str> {
    for arch in ARCHS.iter().filter(|arch| arch.target.starts_with("sm_")) {
        let chips = arch.chips().map_err(|error| Error::internal(error.to_string()))?;
        if arch.name == target || chips.iter().any(|chip| chip.name == target) {
            return Ok(arch.name);
        }
    }
    Err(Error::unsupported(format!("target '{target}' is no NVIDIA chip or arch with kernels")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_archs_and_chips() {
        assert_eq!(arch_of_target("sm90").unwrap(), "sm90");
        assert_eq!(arch_of_target("h100").unwrap(), "sm90");
        assert!(arch_of_target("gfx950").is_err());
        assert_eq!(arch(7, 5), "");
    }
}
