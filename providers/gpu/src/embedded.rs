//! The compiled kernels embedded in a provider's library: one pack for each arch.

use std::fmt::Display;
use std::io::Read;

use ruzstd::decoding::StreamingDecoder;
use tenon_kernels::gpu::pack;
use tenon_plugin_api::{Error, Result};

use crate::pack::Images;

/// Packs by the name of their arch, as the build script lists them.
#[derive(Clone, Copy, Debug)]
pub struct Packs(pub &'static [(&'static str, &'static [u8])]);

impl Packs {
    /// The archs there are kernels for.
    pub fn archs(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|&(arch, _)| arch)
    }

    /// The images of an arch. `Unsupported`, saying what to do, when this build has none.
    pub fn images(&self, arch: &str) -> Result<Images> {
        let found = self.0.iter().find(|(name, _)| *name == arch);
        let Some((_, bytes)) = found else {
            return Err(Error::unsupported(format!(
                "this build holds no kernels for {arch}: run `cargo xtask kernels --arch {arch}`, then build the \
                 provider again"
            )));
        };
        let pack =
            pack::parse(bytes).map_err(|error| Error::internal(format!("the kernels of {arch}: {error}")))?;
        let mut images = Images::new();
        for unit in pack.units {
            let symbols = unit.kernels.into_iter().map(|kernel| kernel.symbol);
            let (stored, length, name) = (unit.stored, unit.raw_bytes, unit.name);
            images.add(symbols, move || unpack(stored, length, &name));
        }
        Ok(images)
    }
}

fn unpack(stored: &[u8], length: usize, name: &str) -> Result<Vec<u8>> {
    let mut image = Vec::with_capacity(length);
    let broken = |error: &dyn Display| Error::internal(format!("unit '{name}' does not unpack: {error}"));
    let mut frame = StreamingDecoder::new(stored).map_err(|error| broken(&error))?;
    let read = frame.read_to_end(&mut image).map_err(|error| broken(&error))?;
    if read != length {
        return Err(Error::internal(format!("unit '{name}' holds {read} bytes, not {length}")));
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_arch_says_what_to_run() {
        let error = Packs(&[]).images("gfx950").err().expect("there are no packs");
        assert!(error.message.contains("cargo xtask kernels --arch gfx950"), "{error}");
    }

    #[test]
    fn a_stream_that_is_cut_short_is_an_error() {
        assert!(unpack(&[0x28, 0xb5], 4, "u").is_err());
        assert!(unpack(&[], 4, "u").unwrap_err().message.contains("'u'"));
    }
}
