//! Read-only memory maps of files.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use bytes::Bytes;

use crate::error::{Error, Result};

/// The largest pipe or device that is read into memory, in bytes: the largest size of a protobuf message.
const MAX_STREAM_BYTES: u64 = 1 << 31;

/// The contents of a file without reading it: pages are loaded when they are touched.
///
/// The file must not shrink while the bytes live, or touching them ends the process; a program that writes a model
/// must write a new file and rename it. Pipes and devices are read into memory.
pub fn map_file(path: &Path) -> Result<Bytes> {
    let mut file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    let metadata = file.metadata().map_err(|e| Error::io("read the size of", path, e))?;
    if metadata.is_dir() {
        return Err(Error::invalid_input(format!("{} is a folder, a file is expected", path.display())));
    }
    if !metadata.is_file() {
        return read_stream(&mut file, path);
    }
    if metadata.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the map is read-only and private. What cannot be ruled out is another program changing the file; the
    // documentation above forbids it, and every parser of mapped bytes checks each length and offset it reads.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io("map", path, e))?;
    Ok(Bytes::from_owner(map))
}

fn read_stream(file: &mut File, path: &Path) -> Result<Bytes> {
    let mut bytes = Vec::new();
    file.take(MAX_STREAM_BYTES + 1).read_to_end(&mut bytes).map_err(|e| Error::io("read", path, e))?;
    if bytes.len() as u64 > MAX_STREAM_BYTES {
        return Err(Error::limit(format!("{} gives more than {MAX_STREAM_BYTES} bytes", path.display())));
    }
    Ok(bytes.into())
}
