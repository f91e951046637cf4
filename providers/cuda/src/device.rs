//! Which kernels serve which CUDA device.

/// The kernels' folder for a compute capability; empty when there is none.
pub(crate) fn arch_of_capability(major: i32, minor: i32) -> String {
    match (major, minor) {
        (9, 0) => "sm90".into(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_have_kernels_or_none() {
        assert_eq!(arch_of_capability(9, 0), "sm90");
        assert_eq!(arch_of_capability(7, 5), "");
    }
}
