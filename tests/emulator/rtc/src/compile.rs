//! A program: its text, and what the compiler makes of it in a process of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::status::Status;

/// The variable that names the compiler.
const COMPILER_VARIABLE: &str = "TENON_HIPRTC_COMPILER";
const BUILTINS: &str = include_str!("builtins.h");
/// Options without a value that say what the compiler does anyway.
const KNOWN: [&str; 3] = ["-std=c++20", "-std=c++17", "-O3"];

pub struct Program {
    source: String,
    name: String,
    /// Messages, ending in a zero.
    log: Vec<u8>,
    code: Option<Vec<u8>>,
}

impl Program {
    pub fn new(source: String, name: String) -> Program {
        Program { source, name, log: vec![0], code: None }
    }

    pub fn log(&self) -> &[u8] {
        &self.log
    }

    pub fn code(&self) -> Result<&[u8], Status> {
        self.code.as_deref().ok_or(Status::INVALID_PROGRAM)
    }

    pub fn compile(&mut self, options: &[String]) -> Result<(), Status> {
        let outcome = self.outcome(options);
        let (status, log) = match outcome {
            Ok(code) => {
                self.code = Some(code);
                (Ok(()), String::new())
            }
            Err((status, log)) => (Err(status), log),
        };
        self.log = log.into_bytes();
        self.log.push(0);
        status
    }

    fn outcome(&self, options: &[String]) -> Result<Vec<u8>, (Status, String)> {
        let failed = |log: String| (Status::COMPILATION, log);
        let mut arch = None;
        let mut arguments = Vec::new();
        for option in options {
            let of_arch =
                ["--offload-arch=", "--gpu-architecture="].iter().find_map(|o| option.strip_prefix(o));
            match (of_arch, option.strip_prefix("-D")) {
                (Some(name), _) => arch = Some(name.split(':').next().unwrap_or(name).to_owned()),
                (None, Some(define)) => arguments.extend(["--define".to_owned(), define.to_owned()]),
                (None, None) if KNOWN.contains(&option.as_str()) => {}
                _ => return Err((Status::INVALID_OPTION, format!("unknown option: {option}"))),
            }
        }
        let arch = arch.ok_or_else(|| (Status::INVALID_OPTION, "no --offload-arch".to_owned()))?;
        let compiler = std::env::var_os(COMPILER_VARIABLE)
            .ok_or_else(|| failed(format!("{COMPILER_VARIABLE} names no compiler")))?;
        let folder = Folder::new().map_err(|error| failed(error.to_string()))?;
        // Messages name the program, as if the text lay in a file of its name.
        let file = Path::new(&self.name).file_name().unwrap_or("program".as_ref());
        let (text, image) = (folder.0.join(file), folder.0.join("image"));
        let whole = format!("#define __HIPCC_RTC__ 1\n{BUILTINS}{}", self.source);
        std::fs::write(&text, whole).map_err(|error| failed(error.to_string()))?;
        let mut words = std::env::split_paths(&compiler);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).args(["check", "--arch", &arch, "--out"]).arg(&image).args(arguments).arg(&text);
        let output = command.output().map_err(|error| failed(format!("{command:?}: {error}")))?;
        if !output.status.success() {
            return Err(failed(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        std::fs::read(&image).map_err(|error| failed(error.to_string()))
    }
}

/// A folder for one compilation, which goes with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> std::io::Result<Folder> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("tenon-hiprtc-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        Ok(Folder(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
