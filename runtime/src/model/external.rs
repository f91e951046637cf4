//! Tensor contents in files beside the model. A location is a relative path that stays inside the model's folder.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;

use super::proto::TensorProto;
use super::tensor::shape_of;
use crate::error::{Error, Result};
use crate::mapping::map_file;
use crate::tensor::byte_len;

/// The external files of one model, each mapped once.
pub(super) struct Files {
    folder: Option<PathBuf>,
    /// Canonical folders that a file may lie in: the model's, and the one of the file that a link to the model leads to.
    allowed: Vec<PathBuf>,
    mapped: HashMap<String, Bytes>,
}

impl Files {
    /// The files beside the model file `path`.
    pub(super) fn beside(path: &Path) -> Self {
        let parent = |p: &Path| match p.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        let folder = parent(path);
        let mut allowed: Vec<PathBuf> = folder.canonicalize().into_iter().collect();
        allowed.extend(path.canonicalize().ok().as_deref().map(parent));
        Files { folder: Some(folder), allowed, mapped: HashMap::new() }
    }

    /// The files in `folder`; none when it is not given.
    pub(super) fn in_folder(folder: Option<&Path>) -> Self {
        let allowed = folder.and_then(|f| f.canonicalize().ok()).into_iter().collect();
        Files { folder: folder.map(Path::to_owned), allowed, mapped: HashMap::new() }
    }

    /// Makes the external data of `tensor` its raw data, sharing the mapped file.
    pub(super) fn resolve(&mut self, tensor: &mut TensorProto) -> Result<()> {
        let place = Place::of(tensor)?;
        let (dtype, dims) = shape_of(tensor)?;
        if dtype.bits() == 0 {
            return Err(fault(tensor, format!("{dtype} elements cannot be stored in an external file")));
        }
        let needed = byte_len(dtype, &dims)?;
        if place.length.is_some_and(|n| n != needed as u64) {
            return Err(fault(
                tensor,
                format!(
                    "a {dtype} tensor of shape {dims:?} needs {needed} bytes, its external data has {}",
                    place.length.unwrap_or_default()
                ),
            ));
        }
        let file = self.open(tensor, place.location)?;
        let range =
            usize::try_from(place.offset).ok().and_then(|start| Some(start..start.checked_add(needed)?));
        let Some(range) = range.filter(|r| r.end <= file.len()) else {
            return Err(fault(
                tensor,
                format!(
                    "{needed} bytes at offset {} lie outside external file '{}' of {} bytes",
                    place.offset,
                    place.location,
                    file.len()
                ),
            ));
        };
        tensor.raw_data = file.slice(range);
        tensor.data_location = 0;
        tensor.external_data.clear();
        Ok(())
    }

    fn open(&mut self, tensor: &TensorProto, location: &str) -> Result<Bytes> {
        if let Some(bytes) = self.mapped.get(location) {
            return Ok(bytes.clone());
        }
        let Some(folder) = &self.folder else {
            return Err(fault(
                tensor,
                format!(
                    "its data is in external file '{location}', but the model was not loaded from a folder"
                ),
            ));
        };
        let relative = Path::new(location);
        let plain = |c: Component<'_>| matches!(c, Component::Normal(_) | Component::CurDir);
        if location.is_empty() || location.contains('\0') || !relative.components().all(plain) {
            return Err(escape(tensor, location));
        }
        let path = folder.join(relative);
        let canonical = path.canonicalize().map_err(|e| {
            let error = Error::io("open external file", &path, e);
            fault(tensor, error.message().to_owned())
        })?;
        if !self.allowed.iter().any(|folder| canonical.starts_with(folder)) {
            return Err(escape(tensor, location));
        }
        if !canonical.is_file() {
            return Err(fault(tensor, format!("external file '{location}' is not a regular file")));
        }
        let bytes = map_file(&canonical)?;
        self.mapped.insert(location.to_owned(), bytes.clone());
        Ok(bytes)
    }
}

/// Where the model says that a tensor's contents are.
struct Place<'a> {
    location: &'a str,
    offset: u64,
    length: Option<u64>,
}

impl<'a> Place<'a> {
    fn of(tensor: &'a TensorProto) -> Result<Self> {
        let find = |key: &str| tensor.external_data.iter().find(|e| e.key == key).map(|e| e.value.as_str());
        let number = |key: &str| {
            let parse = |text: &str| {
                let wrong = || fault(tensor, format!("external data {key} '{text}' is not a byte count"));
                text.trim().parse::<u64>().map_err(|_| wrong())
            };
            find(key).map(parse).transpose()
        };
        let location =
            find("location").ok_or_else(|| fault(tensor, "its external data has no location".into()))?;
        Ok(Place { location, offset: number("offset")?.unwrap_or(0), length: number("length")? })
    }
}

fn fault(tensor: &TensorProto, message: String) -> Error {
    Error::invalid_model(format!("tensor '{}': {message}", tensor.name))
}

fn escape(tensor: &TensorProto, location: &str) -> Error {
    fault(
        tensor,
        format!(
            "external file '{location}' is outside the model's folder; it must be a relative path inside it"
        ),
    )
}
