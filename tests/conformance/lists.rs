//! A provider's two lists: cases it does not support, and cases that are expected to fail, each with a reason.

use std::collections::BTreeMap;
use std::path::Path;

/// Case name to reason.
#[derive(Debug, Default)]
pub struct Lists {
    pub unsupported: BTreeMap<String, String>,
    pub expected_failures: BTreeMap<String, String>,
}

impl Lists {
    /// Reads `unsupported.toml` and `expected_failures.toml` of a folder: lines `case = "reason"`. Without a folder the
    /// lists are empty.
    pub fn read(folder: Option<&Path>) -> Result<Lists, String> {
        let Some(folder) = folder else { return Ok(Lists::default()) };
        Ok(Lists {
            unsupported: read(&folder.join("unsupported.toml"))?,
            expected_failures: read(&folder.join("expected_failures.toml"))?,
        })
    }

    /// The reason why a case need not pass.
    pub fn excuse(&self, case: &str) -> Option<&str> {
        self.unsupported.get(case).or_else(|| self.expected_failures.get(case)).map(String::as_str)
    }
}

fn read(path: &Path) -> Result<BTreeMap<String, String>, String> {
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
}
