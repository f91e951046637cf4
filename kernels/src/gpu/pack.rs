//! The container of a family's compiled kernels: what the build writes and providers embed.
//!
//! The line `TENONKERNELS 2`, a line with the manifest's length in bytes, the manifest (the table format of
//! [`crate::table`]), then one zstd frame for each unit at the offset that its row gives, counted from the end of the
//! manifest.

use crate::error::{KernelError, Result};
use crate::table::{self, Row};

const MAGIC: &str = "TENONKERNELS 2";

/// A container's contents; the images stay compressed.
#[derive(Clone, Debug, Default)]
pub struct Pack<'a> {
    pub units: Vec<PackedUnit<'a>>,
}

/// One compiled unit.
#[derive(Clone, Debug)]
pub struct PackedUnit<'a> {
    pub name: String,
    /// A zstd frame of the image that a driver loads.
    pub stored: &'a [u8],
    /// Length of the image.
    pub raw_bytes: usize,
    pub kernels: Vec<PackedKernel>,
}

/// An entry point and what the compiler gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedKernel {
    pub symbol: String,
    /// Threads of a block at most.
    pub threads: u32,
    /// Registers of a thread when a block starts.
    pub registers: u32,
    pub static_shared_bytes: u32,
    /// Dynamic shared memory that the planner asks for at most.
    pub shared_bytes: u32,
}

/// Reads a container.
pub fn parse(bytes: &[u8]) -> Result<Pack<'_>> {
    let (magic, rest) = line(bytes)?;
    if magic != MAGIC {
        return Err(KernelError::table(format!(
            "a container of kernels starts with '{MAGIC}', found '{magic}'"
        )));
    }
    let (length, rest) = line(rest)?;
    let length: usize =
        length.parse().map_err(|_| KernelError::table(format!("'{length}' is no manifest length")))?;
    let (manifest, images) = rest.split_at_checked(length).ok_or_else(short)?;
    let manifest =
        std::str::from_utf8(manifest).map_err(|_| KernelError::table("the manifest is no text"))?;
    let mut pack = Pack::default();
    for row in table::parse(manifest)? {
        match row.name.as_str() {
            "unit" => pack.units.push(unit(&row, images)?),
            "kernel" => {
                let unit = pack.units.last_mut();
                unit.ok_or_else(|| KernelError::table("a kernel before the first unit"))?
                    .kernels
                    .push(kernel(&row)?);
            }
            other => return Err(KernelError::table(format!("a manifest has no [[{other}]]"))),
        }
    }
    Ok(pack)
}

fn line(bytes: &[u8]) -> Result<(&str, &[u8])> {
    let end = bytes.iter().take(64).position(|byte| *byte == b'\n').ok_or_else(short)?;
    let text = std::str::from_utf8(&bytes[..end]).map_err(|_| short())?;
    Ok((text, &bytes[end + 1..]))
}

fn short() -> KernelError {
    KernelError::table("the container of kernels is cut short or is none")
}

fn unit<'a>(row: &Row, images: &'a [u8]) -> Result<PackedUnit<'a>> {
    let (start, length) = (row.size("offset_bytes")?, row.size("stored_bytes")?);
    let stored = start.checked_add(length).and_then(|end| images.get(start..end)).ok_or_else(short)?;
    Ok(PackedUnit {
        name: row.text("name")?.to_owned(),
        stored,
        raw_bytes: row.size("raw_bytes")?,
        kernels: Vec::new(),
    })
}

fn kernel(row: &Row) -> Result<PackedKernel> {
    let count = |key| row.size(key).map(|v| u32::try_from(v).unwrap_or(u32::MAX));
    Ok(PackedKernel {
        symbol: row.text("symbol")?.to_owned(),
        threads: count("threads")?,
        registers: count("registers")?,
        static_shared_bytes: count("static_shared_bytes")?,
        shared_bytes: count("shared_bytes")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(manifest: &str, images: &[u8]) -> Vec<u8> {
        let mut bytes = format!("{MAGIC}\n{}\n{manifest}", manifest.len()).into_bytes();
        bytes.extend_from_slice(images);
        bytes
    }

    const UNIT: &str = "[[unit]]\nname = \"u\"\noffset_bytes = 1\nstored_bytes = 2\nraw_bytes = 9\n";
    const KERNEL: &str = "[[kernel]]\nsymbol = \"k\"\nthreads = 128\nregisters = 40\nstatic_shared_bytes = 0\nshared_bytes = 7\n";

    #[test]
    fn units_hold_their_streams_and_kernels() {
        let bytes = container(&format!("{UNIT}{KERNEL}"), &[1, 2, 3, 4]);
        let pack = parse(&bytes).unwrap();
        assert_eq!((pack.units[0].stored, pack.units[0].raw_bytes), (&[2, 3][..], 9));
        assert_eq!((pack.units[0].kernels[0].symbol.as_str(), pack.units[0].kernels[0].registers), ("k", 40));
    }

    #[test]
    fn damaged_containers_are_refused() {
        let good = container(UNIT, &[1, 2, 3]);
        assert!(parse(&good).is_ok());
        assert!(parse(&good[..good.len() - 1]).is_err());
        assert!(parse(&good[1..]).is_err());
        assert!(parse(b"").is_err());
        assert!(parse(&container(KERNEL, &[])).is_err());
    }
}
