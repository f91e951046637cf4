//! NumPy's `.npz` format: a zip archive of named `.npy` arrays.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use tenon_runtime::dtype::DType;
use tenon_runtime::tensor::Tensor;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::npy;

/// The arrays of the archive at `path`, in its order; `expected` gives the dtype the model wants for a name.
pub fn read(path: &Path, expected: impl Fn(&str) -> Option<DType>) -> Result<Vec<(String, Tensor)>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut archive = ZipArchive::new(BufReader::new(file))
        .with_context(|| format!("{} is not an .npz archive", path.display()))?;
    let mut arrays = Vec::with_capacity(archive.len());
    for i in 0..archive.len() {
        let entry = archive.by_index(i).with_context(|| format!("cannot read {}", path.display()))?;
        let file_name = entry.name()?.into_owned();
        let name = file_name.strip_suffix(".npy").unwrap_or(&file_name).to_owned();
        let tensor = npy::read(entry, expected(&name))
            .with_context(|| format!("cannot read array '{name}' of {}", path.display()))?;
        arrays.push((name, tensor));
    }
    Ok(arrays)
}

/// Writes `arrays` to `path`, compressed.
pub fn write<'a>(path: &Path, arrays: impl IntoIterator<Item = (&'a str, &'a Tensor)>) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    let mut archive = ZipWriter::new(BufWriter::new(file));
    let options =
        SimpleFileOptions::default().compression_method(CompressionMethod::Deflated).large_file(true);
    for (name, tensor) in arrays {
        let mut bytes = Vec::new();
        npy::write(&mut bytes, tensor).with_context(|| format!("cannot write '{name}'"))?;
        archive.start_file(format!("{name}.npy"), options)?;
        archive.write_all(&bytes)?;
    }
    archive.finish()?.flush().with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_keep_names_with_any_character() {
        let path = std::env::temp_dir().join(format!("tenon-npz-{}.npz", std::process::id()));
        let x = Tensor::from_slice(&[2], &[1.0f32, 2.0]).unwrap();
        let y = Tensor::scalar(3i64);
        write(&path, [("serving_default:0", &x), ("a b", &y)]).unwrap();
        let arrays = read(&path, |_| None).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(arrays, [("serving_default:0".to_owned(), x), ("a b".to_owned(), y)]);
    }

    #[test]
    fn a_file_that_is_no_archive_is_named() {
        let path = std::env::temp_dir().join(format!("tenon-not-{}.npz", std::process::id()));
        std::fs::write(&path, b"hello").unwrap();
        let message = read(&path, |_| None).unwrap_err().to_string();
        std::fs::remove_file(&path).unwrap();
        assert!(message.contains("is not an .npz archive"), "{message}");
    }
}
