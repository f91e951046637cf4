//! Compiles the kernels under `kernels/` for a target: clang from PyPI's ziglang package, linked by the Rust
//! toolchain's rust-lld. Results are kept under `target/`.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use tenon_emulator::{CodeObject, Target};

/// A Python interpreter that has ziglang, instead of the environment under `target/`.
const PYTHON_VARIABLE: &str = "TENON_KERNEL_PYTHON";

/// The code object of a source file, or `None`, with the reason printed, where the compiler cannot be had.
///
/// On continuous integration the compiler must be there, so its absence is a failure.
pub fn compile(source: &str, target: Target) -> Option<CodeObject> {
    let bytes = compile_bytes(source, target)?;
    Some(CodeObject::load(&bytes).expect("the compiler's output is a code object"))
}

/// Like [`compile`] with a macro defined.
pub fn compile_with(source: &str, target: Target, define: &str) -> Option<CodeObject> {
    let bytes = build_cached(source, target, define)?;
    Some(CodeObject::load(&bytes).expect("the compiler's output is a code object"))
}

/// Like [`compile`], giving the ELF file.
pub fn compile_bytes(source: &str, target: Target) -> Option<Vec<u8>> {
    build_cached(source, target, "")
}

fn build_cached(source: &str, target: Target, define: &str) -> Option<Vec<u8>> {
    let python = match python() {
        Ok(python) => python,
        Err(reason) if std::env::var_os("CI").is_none() => {
            eprintln!("skipped: no kernel compiler: {reason}");
            return None;
        }
        Err(reason) => panic!("no kernel compiler: {reason}"),
    };
    let object = cached(source, target, define);
    if !object.exists() {
        build(&python, source, target, define, &object);
    }
    Some(std::fs::read(&object).expect("the code object was written"))
}

/// The folder of the sources, which the stand-in driver's tests and the provider's use too.
fn folder() -> PathBuf {
    let places = ["kernels", "../kernels", "../../tests/emulator/kernels"];
    let mut places = places.iter().map(|place| Path::new(env!("CARGO_MANIFEST_DIR")).join(place));
    places
        .find(|place| place.join("device.hpp").exists())
        .expect("the kernels' sources are in the repository")
}

fn output() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulator");
    std::fs::create_dir_all(&folder).expect("the target folder can be written");
    folder
}

/// The file of a code object, named by what it is made from.
fn cached(source: &str, target: Target, define: &str) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    for file in [source, "device.hpp", "requirements.txt"] {
        std::fs::read(folder().join(file)).expect("the source can be read").hash(&mut hasher);
    }
    define.hash(&mut hasher);
    let stem = source.trim_end_matches(".cpp");
    output().join(format!("{stem}-{}-{:016x}.hsaco", target.name(), hasher.finish()))
}

fn build(python: &Path, source: &str, target: Target, define: &str, object: &Path) {
    // Other threads and processes may build the same file.
    let unique = format!("{}-{:?}", std::process::id(), std::thread::current().id());
    let unique = unique.replace(['(', ')'], "");
    let relocatable = object.with_extension(format!("{unique}.o"));
    let linked = object.with_extension(format!("{unique}.new"));
    let processor = format!("-mcpu={}", target.name());
    let mut compiler = Command::new(python);
    compiler.args(["-m", "ziglang", "clang", "--target=amdgcn-amd-amdhsa", &processor]);
    compiler.args(["-mcode-object-version=5", "-nogpulib", "-ffreestanding", "-O3", "-std=c++20"]);
    if !define.is_empty() {
        compiler.arg(format!("-D{define}"));
    }
    run(compiler.arg("-c").arg(folder().join(source)).arg("-o").arg(&relocatable));
    let mut linker = Command::new(rust_lld());
    linker.args(["-flavor", "gnu", "-shared", "--no-undefined"]);
    run(linker.arg(&relocatable).arg("-o").arg(&linked));
    std::fs::rename(&linked, object).expect("the code object can be renamed");
    // Left over only on a failure, which its name then helps to find.
    let _ = std::fs::remove_file(&relocatable);
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
}

fn rust_lld() -> PathBuf {
    let output = Command::new("rustc").args(["--print", "sysroot"]).output().expect("rustc runs");
    let sysroot = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    let hosts = std::fs::read_dir(sysroot.join("lib/rustlib")).expect("the toolchain's folder can be read");
    let candidates = hosts.filter_map(|host| Some(host.ok()?.path().join("bin/rust-lld")));
    candidates.into_iter().find(|path| path.exists()).expect("the Rust toolchain has rust-lld")
}

/// An interpreter with ziglang: the one the environment names, else one made under `target/`.
fn python() -> Result<PathBuf, String> {
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    PYTHON.get_or_init(find_python).clone()
}

fn find_python() -> Result<PathBuf, String> {
    if let Some(named) = std::env::var_os(PYTHON_VARIABLE) {
        return Ok(PathBuf::from(named));
    }
    let environment = output().join("venv");
    let python = environment.join("bin/python");
    let requirements = folder().join("requirements.txt");
    let wanted = std::fs::read_to_string(&requirements).map_err(|error| error.to_string())?;
    // Tests run in several processes: one installs, the others wait for it.
    let lock = std::fs::File::create(output().join("venv.lock")).map_err(|error| error.to_string())?;
    lock.lock().map_err(|error| error.to_string())?;
    let stamp = environment.join("installed.txt");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    let base = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
    attempt(Command::new(base).args(["-m", "venv"]).arg(&environment))?;
    let quiet = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
    attempt(Command::new(&python).args(quiet).arg(&requirements))?;
    std::fs::write(&stamp, wanted).map_err(|error| error.to_string())?;
    Ok(python)
}

fn attempt(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)))
}
