//! The standard's test data: one value in a `.pb` file, and folders of `input_0.pb`, `input_1.pb`, ...

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tenon_runtime::graph::TypeInfo;
use tenon_runtime::model;
use tenon_runtime::tensor::Value;

/// The name stored in the file at `path` and its value, read as a value of type `ty`, or as a tensor.
pub fn read(path: &Path, ty: Option<&TypeInfo>) -> Result<(String, Value)> {
    Ok(model::read_value(path, ty)?)
}

/// The files `<stem>_<i>.pb` of `folder` by their number.
pub fn numbered(folder: &Path, stem: &str) -> Result<BTreeMap<usize, PathBuf>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let number =
            name.strip_prefix(stem).and_then(|n| n.strip_prefix('_')).and_then(|n| n.strip_suffix(".pb"));
        if let Some(Ok(number)) = number.map(str::parse) {
            files.insert(number, path);
        }
    }
    Ok(files)
}

/// Reads numbered files and finds the place of each among `names`: by the name inside, otherwise by its own number,
/// otherwise the first place that is free. `types` are those of the places.
pub fn read_matched(
    files: &BTreeMap<usize, PathBuf>,
    names: &[&str],
    types: &[Option<&TypeInfo>],
) -> Result<Vec<(usize, Value)>> {
    ensure!(files.len() <= names.len(), "{} files for the model's {} values", files.len(), names.len());
    let first_look = files
        .iter()
        .map(|(number, path)| Ok((*number, path, read(path, types.get(*number).copied().flatten())?)))
        .collect::<Result<Vec<_>>>()?;
    let stored: Vec<(usize, &str)> = first_look.iter().map(|(n, _, (name, _))| (*n, name.as_str())).collect();
    let places = places(&stored, names);
    let mut values = Vec::with_capacity(places.len());
    for ((number, path, (_, value)), place) in first_look.into_iter().zip(places) {
        let same_type = types.get(number) == types.get(place);
        let value = if same_type { value } else { read(path, types[place])?.1 };
        values.push((place, value));
    }
    Ok(values)
}

/// The place of each (number, stored name).
fn places(stored: &[(usize, &str)], names: &[&str]) -> Vec<usize> {
    let mut taken = BTreeSet::new();
    let mut places: Vec<Option<usize>> = stored
        .iter()
        .map(|(_, name)| {
            names.iter().position(|n| !name.is_empty() && n == name).filter(|i| taken.insert(*i))
        })
        .collect();
    for (place, (number, _)) in places.iter_mut().zip(stored) {
        if place.is_none() && *number < names.len() && taken.insert(*number) {
            *place = Some(*number);
        }
    }
    let mut free = (0..names.len()).filter(|i| !taken.contains(i));
    places.into_iter().flat_map(|p| p.or_else(|| free.next())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_decide_then_numbers_then_free_places() {
        assert_eq!(places(&[(0, "b"), (1, "a")], &["a", "b"]), [1, 0]);
        assert_eq!(places(&[(0, ""), (1, "7")], &["a", "b"]), [0, 1]);
        assert_eq!(places(&[(0, "b"), (1, "?")], &["a", "b"]), [1, 0]);
        assert_eq!(places(&[(1, "x")], &["a", "b"]), [1]);
        assert_eq!(places(&[(0, "a"), (1, "a")], &["a", "b"]), [0, 1]);
    }

    #[test]
    fn only_numbered_files_are_found_in_order() {
        let folder = std::env::temp_dir().join(format!("tenon-numbered-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        for name in ["input_10.pb", "input_2.pb", "input_x.pb", "output_0.pb", "input_1.npy"] {
            std::fs::write(folder.join(name), b"").unwrap();
        }
        let files = numbered(&folder, "input").unwrap();
        assert_eq!(files.keys().copied().collect::<Vec<_>>(), [2, 10]);
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(numbered(&folder, "input").is_err());
    }
}
