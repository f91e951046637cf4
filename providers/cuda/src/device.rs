//! Which kernels serve which CUDA device.

/// The kernels' folder for a compute capability: its own, or the portable tier; empty when there is none.
pub(crate) fn arch_of_capability(major: i32, minor: i32) -> String {
    match (major, minor) {
        (9, 0) => "sm90".into(),
        (8.., _) => "sm80".into(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_have_kernels_or_none() {
        assert_eq!(arch_of_capability(9, 0), "sm90");
        for newer in [(8, 0), (8, 9), (10, 0), (12, 1)] {
            assert_eq!(arch_of_capability(newer.0, newer.1), "sm80");
        }
        assert_eq!(arch_of_capability(7, 5), "");
    }
}
