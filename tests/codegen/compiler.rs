//! The pinned compiler of GPU kernels, as `cargo xtask kernels` installs it.

use std::path::{Path, PathBuf};
use std::process::Command;

use tenon_kernels::gpu::arch::{Arch, Vendor};
use tenon_kernels::gpu::unit::{Unit, listing};

pub struct Compiler {
    python: PathBuf,
    /// Holds the results of earlier runs, by content.
    folder: PathBuf,
}

impl Compiler {
    /// The compiler, or nothing and the reason on standard error; where `CI` is set, its absence is a failure.
    pub fn find() -> Option<Self> {
        let program = std::env::current_exe().expect("a test has a path");
        // target/<profile>/deps/<test>
        let target = program.ancestors().nth(3).expect("tests are built into a target folder");
        let folder = target.join("kernels");
        let python = folder.join("venv/bin/python");
        if python.exists() {
            return Some(Self { python, folder });
        }
        assert!(std::env::var_os("CI").is_none(), "{}: `cargo xtask kernels` comes first", folder.display());
        eprintln!(
            "skipped: no compiler of GPU kernels in {}: run `cargo xtask kernels` once",
            folder.display()
        );
        None
    }

    /// The command of a vendor's compiling script.
    pub fn script(&self, vendor: Vendor) -> Command {
        let script = match vendor {
            Vendor::Nvidia => "../tools/python/nvrtc.py",
            Vendor::Amd => "../tools/python/amdgcn.py",
        };
        let mut command = Command::new(&self.python);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(script));
        command
    }

    /// The container of units of a family, or what failed. `name` is unique among all that run at a time.
    pub fn build(&self, name: &str, family: &Arch, units: &[Unit]) -> Result<Vec<u8>, String> {
        let scratch = self.folder.join("codegen");
        std::fs::create_dir_all(&scratch).expect("the target folder can be written");
        let (list, container) = (scratch.join(format!("{name}.json")), scratch.join(format!("{name}.pack")));
        std::fs::write(&list, listing(name, family.target, units)).expect("the target folder can be written");
        let mut command = self.script(family.vendor);
        command.arg("build").arg(&list).arg("--cache").arg(self.folder.join("cache"));
        let output = command.arg("--out").arg(&container).output().expect("the compiler's Python starts");
        // The listing repeats every text of the family.
        std::fs::remove_file(&list).expect("it was just written");
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let bytes = std::fs::read(&container).expect("the container was written");
        std::fs::remove_file(&container).expect("it was just read");
        Ok(bytes)
    }
}
