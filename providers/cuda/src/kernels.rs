//! The compiled kernels embedded in this library.

use std::io::Read;

use flate2::read::ZlibDecoder;
use tenon_gpu::Images;
use tenon_kernels::gpu::pack;
use tenon_plugin_api::{Error, Result};

mod embedded {
    include!(concat!(env!("OUT_DIR"), "/packs.rs"));
}

/// The images of an arch. `Unsupported`, saying what to do, when this build has none.
pub(crate) fn images(arch: &str) -> Result<Images> {
    if arch.is_empty() {
        return Err(Error::unsupported("there are no kernels for this GPU's compute capability"));
    }
    let found = embedded::PACKS.iter().find(|(name, _)| *name == arch);
    let Some((_, bytes)) = found else {
        return Err(Error::unsupported(format!(
            "this build holds no kernels for {arch}: run `cargo xtask kernels`, then build the provider again"
        )));
    };
    let pack =
        pack::parse(bytes).map_err(|error| Error::internal(format!("the kernels of {arch}: {error}")))?;
    let mut images = Images::new();
    for unit in pack.units {
        let symbols = unit.kernels.into_iter().map(|kernel| kernel.symbol);
        let (stored, length, name) = (unit.stored, unit.raw_bytes, unit.name);
        images.add(symbols, move || {
            let mut image = Vec::with_capacity(length);
            let read = ZlibDecoder::new(stored).read_to_end(&mut image);
            match read {
                Ok(read) if read == length => Ok(image),
                Ok(read) => Err(Error::internal(format!("unit '{name}' holds {read} bytes, not {length}"))),
                Err(error) => Err(Error::internal(format!("unit '{name}' does not unpack: {error}"))),
            }
        });
    }
    Ok(images)
}
