//! Names the kernels that ran, for those who look for the ones that never do.

use crate::object::Kernel;
use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

/// The environment variable that names the file of [`Kernel::record`].
pub const EXECUTED_VARIABLE: &str = "TENON_EMULATOR_EXECUTED";

impl Kernel {
    /// Adds the line `target symbol` to the file that [`EXECUTED_VARIABLE`] names, once a process and kernel; without the
    /// variable it does nothing. Processes may share the file. Those who launch call it for results that somebody checks.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn record(&self) -> io::Result<()> {
        static KNOWN: Mutex<Option<HashSet<String>>> = Mutex::new(None);
        let Some(file) = std::env::var_os(EXECUTED_VARIABLE) else { return Ok(()) };
        let line = format!("{} {}\n", self.target().name(), self.name());
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get_or_insert_default();
        if !known.contains(&line) {
            // A line is one write, which appending keeps in one piece.
            OpenOptions::new().create(true).append(true).open(file)?.write_all(line.as_bytes())?;
            known.insert(line);
        }
        Ok(())
    }
}
