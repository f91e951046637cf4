//! Kernels compiled at run time: a unit that the build does not hold is compiled from its text where the vendor's compiler
//! is installed, and kept on disk under the hash of everything it is made from.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tenon_kernels::gpu::{Arch, Unit};
use tenon_plugin_api::{Error, Result};

use crate::pack::Images;

/// A vendor's compiler of device text, as a library of this process.
pub trait Compiler: Send + Sync {
    /// Name and version: images of another compiler are not reused.
    fn identity(&self) -> String;

    /// The image of one text for `target`. The error holds the compiler's messages.
    fn compile(&self, name: &str, text: &str, defines: &[(String, String)], target: &str) -> Result<Vec<u8>>;
}

/// The folder of compiled units: `$XDG_CACHE_HOME/tenon/kernels`, or below `$HOME/.cache`; `None` where neither is set.
pub fn default_folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")))?;
    Some(cache.join("tenon/kernels"))
}

/// True when `images` lacks no kernel of `arch`.
pub fn is_complete(images: &Images, arch: &Arch) -> bool {
    let mut kernels = arch.units().into_iter().flatten().flat_map(|unit| unit.kernels);
    kernels.all(|kernel| images.find(&kernel.symbol).is_some())
}

/// Adds every unit of `arch` that `images` lacks; each is compiled, or read from `folder`, when one of its kernels is first
/// needed.
pub fn add_missing(
    images: &mut Images,
    arch: &'static Arch,
    compiler: &Arc<dyn Compiler>,
    folder: Option<&Path>,
) -> Result<()> {
    let units = arch.units().map_err(|error| Error::internal(error.to_string()))?;
    for unit in units {
        if unit.kernels.iter().all(|kernel| images.find(&kernel.symbol).is_some()) {
            continue;
        }
        let symbols: Vec<String> = unit.kernels.iter().map(|kernel| kernel.symbol.clone()).collect();
        let (compiler, folder) = (compiler.clone(), folder.map(Path::to_owned));
        images.add(symbols, move || image(&unit, arch.target, &*compiler, folder.as_deref()));
    }
    Ok(())
}

/// The image of a unit from the cache, else from the compiler; then it is kept. A cache that cannot be written costs time only.
fn image(unit: &Unit, target: &str, compiler: &dyn Compiler, folder: Option<&Path>) -> Result<Vec<u8>> {
    let text = source(unit);
    let place = folder.map(|folder| folder.join(key(unit, &text, target, compiler)));
    if let Some(image) = place.as_deref().and_then(read) {
        return Ok(image);
    }
    let image = compiler.compile(&unit.name, &text, &unit.defines, target)?;
    if let Some(place) = place {
        let _ = write(&place, &image);
    }
    Ok(image)
}

/// The texts as one, with markers for messages.
fn source(unit: &Unit) -> String {
    unit.texts.iter().map(|part| format!("#line 1 \"{}\"\n{}\n", part.path, part.text)).collect()
}

fn key(unit: &Unit, text: &str, target: &str, compiler: &dyn Compiler) -> String {
    let defines: Vec<u8> =
        unit.defines.iter().flat_map(|(name, value)| format!("{name}={value}\0").into_bytes()).collect();
    let identity = compiler.identity();
    let parts = [identity.as_bytes(), target.as_bytes(), &defines, text.as_bytes()];
    let [high, low] = [1, 2].map(|seed| hash(seed, &parts));
    format!("{high:016x}{low:016x}.kernel")
}

/// FNV-1a over the parts, each after its length.
fn hash(seed: u64, parts: &[&[u8]]) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let start = seed.to_le_bytes().into_iter().fold(0xcbf2_9ce4_8422_2325, step);
    parts.iter().fold(start, |hash, part| {
        let length = (part.len() as u64).to_le_bytes();
        part.iter().copied().fold(length.into_iter().fold(hash, step), step)
    })
}

/// An image whose checksum holds.
fn read(place: &Path) -> Option<Vec<u8>> {
    let bytes = std::fs::read(place).ok()?;
    let (checksum, image) = bytes.split_first_chunk::<8>()?;
    (u64::from_le_bytes(*checksum) == hash(0, &[image])).then(|| image.to_vec())
}

/// Complete or not there at all: written beside its place, then renamed.
fn write(place: &Path, image: &[u8]) -> std::io::Result<()> {
    let folder = place.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let own = place.with_extension(format!("{}.tmp", std::process::id()));
    let mut bytes = hash(0, &[image]).to_le_bytes().to_vec();
    bytes.extend_from_slice(image);
    std::fs::write(&own, bytes)?;
    std::fs::rename(own, place)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Gives the name of what it compiles, and counts.
    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl Compiler for Counting {
        fn identity(&self) -> String {
            "counting 1".into()
        }
        fn compile(&self, name: &str, _: &str, _: &[(String, String)], target: &str) -> Result<Vec<u8>> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(format!("{name} for {target}").into_bytes())
        }
    }

    #[test]
    fn units_that_a_build_lacks_are_compiled_once_and_damaged_files_again() {
        let folder = std::env::temp_dir().join(format!("tenon-compiler-test-{}", std::process::id()));
        let arch = tenon_kernels::gpu::arch::find("sm80").unwrap();
        let counting = Arc::new(Counting::default());
        let compiler: Arc<dyn Compiler> = counting.clone();
        let mut images = Images::new();
        images.add(["fill_b4".to_owned()], || Ok(Vec::new()));
        add_missing(&mut images, arch, &compiler, Some(&folder)).unwrap();
        let unit = arch.units().unwrap().into_iter().find(|unit| unit.name == "softmax").unwrap();
        let read_it = || images.read(images.find(&unit.kernels[0].symbol).unwrap()).unwrap();
        assert_eq!(read_it(), b"softmax for compute_80");
        assert_eq!(read_it(), b"softmax for compute_80");
        assert_eq!(counting.0.load(Ordering::Relaxed), 1);
        let place = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
        let mut bytes = std::fs::read(&place).unwrap();
        bytes[9] ^= 1;
        std::fs::write(&place, bytes).unwrap();
        assert_eq!(read_it(), b"softmax for compute_80");
        assert_eq!(counting.0.load(Ordering::Relaxed), 2);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
