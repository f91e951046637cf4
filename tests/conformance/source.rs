//! Where a case's files are: a folder, or a folder inside a zip archive.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use zip::ZipArchive;

use crate::case::Case;

/// The place of one case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Folder(PathBuf),
    Archive { archive: PathBuf, folder: String },
}

/// Between an archive and the folder inside it, in the text form.
const INSIDE: &str = ".zip!";

impl Source {
    /// Reads the text form.
    pub fn from_line(line: &str) -> Source {
        match line.rsplit_once(INSIDE) {
            None => Source::Folder(line.into()),
            Some((archive, folder)) => {
                Source::Archive { archive: format!("{archive}.zip").into(), folder: folder.into() }
            }
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Folder(folder) => write!(f, "{}", folder.display()),
            Source::Archive { archive, folder } => write!(f, "{}!{folder}", archive.display()),
        }
    }
}

/// Every case of `root`: the folders of its folders and of its archives that hold a model.
pub fn all(root: &Path) -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    for path in entries(root)? {
        let kind = path.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        if path.is_dir() {
            let folders = entries(&path)?.into_iter().filter(|folder| folder.join("model.onnx").exists());
            cases.extend(folders.map(|folder| {
                let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
                Case { kind: kind.clone(), name, source: Source::Folder(folder) }
            }));
        } else if path.extension().is_some_and(|extension| extension == "zip") {
            let archive = open_archive(&path)?;
            let names = archive.file_names().filter_map(Result::ok);
            let folders: BTreeSet<String> =
                names.filter_map(|name| Some(name.strip_suffix("/model.onnx")?.to_owned())).collect();
            cases.extend(folders.into_iter().map(|folder| Case {
                kind: kind.clone(),
                name: folder.clone(),
                source: Source::Archive { archive: path.clone(), folder },
            }));
        }
    }
    Ok(cases)
}

fn entries(path: &Path) -> Result<Vec<PathBuf>, String> {
    let entries =
        std::fs::read_dir(path).map_err(|error| format!("cannot list {}: {error}", path.display()))?;
    let mut entries: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    entries.sort();
    Ok(entries)
}

type Archive = ZipArchive<BufReader<File>>;

fn open_archive(path: &Path) -> Result<Archive, String> {
    let file = File::open(path).map_err(|error| error.to_string());
    file.and_then(|file| ZipArchive::new(BufReader::new(file)).map_err(|error| error.to_string()))
        .map_err(|error| format!("cannot open {}: {error}", path.display()))
}

/// Opens the files of cases; keeps archives open.
#[derive(Default)]
pub struct Reader {
    archives: BTreeMap<PathBuf, Archive>,
}

impl Reader {
    /// The files of one case.
    pub fn open(&mut self, source: &Source) -> Result<Files<'_>, String> {
        Ok(match source {
            Source::Folder(folder) => Files::Folder(folder.clone()),
            Source::Archive { archive, folder } => {
                if !self.archives.contains_key(archive) {
                    self.archives.clear();
                    self.archives.insert(archive.clone(), open_archive(archive)?);
                }
                let archive = self.archives.get_mut(archive).ok_or("the archive was just opened")?;
                Files::Archive(archive, folder.clone())
            }
        })
    }
}

/// The files of one case, by path below its folder.
pub enum Files<'a> {
    Folder(PathBuf),
    Archive(&'a mut Archive, String),
}

impl Files<'_> {
    /// The contents of a file, if there is one.
    pub fn get(&mut self, name: &str) -> Option<Vec<u8>> {
        match self {
            Files::Folder(folder) => std::fs::read(folder.join(name)).ok(),
            Files::Archive(archive, folder) => {
                let mut file = archive.by_name(&format!("{folder}/{name}")).ok()?;
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes).ok()?;
                Some(bytes)
            }
        }
    }

    /// Whether there is a file.
    pub fn has(&self, name: &str) -> bool {
        match self {
            Files::Folder(folder) => folder.join(name).is_file(),
            Files::Archive(archive, folder) => archive.index_for_name(&format!("{folder}/{name}")).is_some(),
        }
    }

    /// The contents of a file that the case must have.
    pub fn require(&mut self, name: &str) -> Result<Vec<u8>, String> {
        self.get(name).ok_or_else(|| format!("the case has no {name}"))
    }
}
