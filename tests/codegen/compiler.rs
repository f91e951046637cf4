//! The pinned compiler of GPU kernels, as `cargo xtask kernels` installs it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use tenon_kernels::gpu::unit::{Kernel, Text, Unit, listing};

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

    /// The container of a family's units, or what failed.
    pub fn build(&self, name: &str, target: &str, units: &[Unit]) -> Result<Vec<u8>, String> {
        let scratch = self.folder.join("codegen");
        std::fs::create_dir_all(&scratch).expect("the target folder can be written");
        let (list, container) = (scratch.join(format!("{name}.json")), scratch.join(format!("{name}.pack")));
        std::fs::write(&list, listing(name, target, units)).expect("the target folder can be written");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/python/nvrtc.py");
        let mut command = Command::new(&self.python);
        command.arg(script).arg("build").arg(&list).arg("--cache").arg(self.folder.join("cache"));
        let output = command.arg("--out").arg(&container).output().expect("the compiler's Python starts");
        // The listing repeats every text of the family.
        std::fs::remove_file(&list).expect("it was just written");
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(std::fs::read(&container).expect("the container was written"))
    }

    /// What the gates say of a unit that they must refuse.
    #[track_caller]
    pub fn refusal(&self, unit: Unit) -> String {
        // Tests run side by side, in threads or in processes.
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("refused_{}_{}_{count}", unit.name, std::process::id());
        match self.build(&name, "sm_90a", std::slice::from_ref(&unit)) {
            Ok(_) => panic!("{} passed the gates", unit.name),
            Err(log) => log,
        }
    }
}

/// A unit of `before` and a text of this folder.
pub fn fixture(before: &[Text], name: &'static str, kernel: Kernel) -> Unit {
    let text = match name {
        "serialised" => include_str!("fixtures/serialised.cu"),
        "spilling" => include_str!("fixtures/spilling.cu"),
        _ => panic!("there is no fixture {name}"),
    };
    let mut texts = before.to_vec();
    texts.push(Text { path: "tests/codegen/fixtures", text });
    Unit { name: name.to_owned(), texts, defines: Vec::new(), kernels: vec![kernel] }
}
