//! Machine code to text, by the libLLVM that ships in the Rust toolchain.

use crate::error::{Error, Kind, Result};
use crate::target::Target;
use libloading::{Library, Symbol};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The environment variable that names a libLLVM to use instead of the toolchain's.
pub const LIBRARY_VARIABLE: &str = "TENON_LIBLLVM";

/// One instruction as the disassembler prints it.
pub(crate) struct Line {
    /// Byte address in the code object's address space.
    pub address: u64,
    /// Encoded size in bytes.
    pub bytes: u8,
    pub text: String,
}

/// Bytes of the longest instruction, rounded up.
const LONGEST: usize = 32;

type Create = unsafe extern "C" fn(
    *const c_char,
    *const c_char,
    *const c_char,
    *mut c_void,
    c_int,
    *mut c_void,
    *mut c_void,
) -> *mut c_void;
type Decode = unsafe extern "C" fn(*mut c_void, *const u8, u64, u64, *mut c_char, usize) -> usize;
type Dispose = unsafe extern "C" fn(*mut c_void);

/// The entry points of libLLVM that disassemble; the library is never unloaded.
struct Llvm {
    create: Create,
    decode: Decode,
    dispose: Dispose,
}

/// Disassembles `code`, whose first byte is at `address`.
///
/// # Errors
/// [`Kind::Disassembler`] when libLLVM cannot be opened. Bytes that are no instruction become a line that
/// says so, since alignment gaps between functions may hold any bytes.
pub(crate) fn disassemble(code: &[u8], address: u64, target: Target) -> Result<Vec<Line>> {
    let llvm = llvm()?;
    let cpu = CString::new(target.name()).expect("target names hold no zero byte");
    let null = std::ptr::null_mut();
    // SAFETY: the strings are zero-terminated and outlive the call; null callbacks mean no symbolic operands.
    let context = unsafe {
        (llvm.create)(c"amdgcn-amd-amdhsa".as_ptr(), cpu.as_ptr(), c"".as_ptr(), null, 0, null, null)
    };
    if context.is_null() {
        return Err(Error::new(Kind::Disassembler, format!("libLLVM does not know {}", target.name())));
    }
    let mut lines = Vec::with_capacity(code.len() / 6);
    // libLLVM crashes on an instruction that the end of the code cuts off, so zeros follow it.
    let padded = [code, &[0; LONGEST]].concat();
    let mut at = 0;
    while at < code.len() {
        let rest = &padded[at..];
        let mut buffer = [0 as c_char; 512];
        let bytes = if is_malformed(rest) {
            0
        } else {
            let place = address + at as u64;
            // SAFETY: `rest` and `buffer` are valid for the lengths passed; the context was created above.
            unsafe {
                (llvm.decode)(
                    context,
                    rest.as_ptr(),
                    rest.len() as u64,
                    place,
                    buffer.as_mut_ptr(),
                    buffer.len(),
                )
            }
        };
        // SAFETY: the disassembler terminates the text it wrote; the buffer starts as zeros.
        let text = unsafe { CStr::from_ptr(buffer.as_ptr()) }.to_string_lossy();
        let text = if bytes == 0 { "not an instruction" } else { text.trim() };
        lines.push(Line { address: address + at as u64, bytes: bytes.max(4) as u8, text: text.to_string() });
        at += bytes.max(4);
    }
    // SAFETY: the context was created above and is not used afterwards.
    unsafe { (llvm.dispose)(context) };
    Ok(lines)
}

/// True for a vector instruction of 64 bits with a literal for a source, which these targets do not have and which
/// libLLVM crashes on.
fn is_malformed(code: &[u8]) -> bool {
    const LITERAL: u32 = 255;
    let word = |at: usize| u32::from_le_bytes([code[at], code[at + 1], code[at + 2], code[at + 3]]);
    let is_vop3 = word(0) >> 26 == 0b11_0100;
    is_vop3 && [0, 9, 18].iter().any(|shift| word(4) >> shift & 511 == LITERAL)
}

fn llvm() -> Result<&'static Llvm> {
    static LLVM: OnceLock<std::result::Result<Llvm, String>> = OnceLock::new();
    let loaded = LLVM.get_or_init(|| find().and_then(|path| open(&path)));
    loaded.as_ref().map_err(|message| Error::new(Kind::Disassembler, message.clone()))
}

/// The library named by the environment, else the one in the Rust toolchain's `lib` folder.
fn find() -> std::result::Result<PathBuf, String> {
    if let Some(path) = std::env::var_os(LIBRARY_VARIABLE) {
        return Ok(PathBuf::from(path));
    }
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(&rustc).args(["--print", "sysroot"]).output().map_err(|error| {
        format!(
            "cannot ask {} for its folder: {error}; set {LIBRARY_VARIABLE} to a libLLVM",
            rustc.to_string_lossy()
        )
    })?;
    let folder = Path::new(String::from_utf8_lossy(&output.stdout).trim()).join("lib");
    let entries =
        std::fs::read_dir(&folder).map_err(|error| format!("cannot read {}: {error}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    let is_llvm = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libLLVM.so"))
    };
    paths.into_iter().find(is_llvm).ok_or_else(|| {
        format!(
            "no libLLVM.so* in {}; set {LIBRARY_VARIABLE} to one with the AMDGPU target",
            folder.display()
        )
    })
}

fn open(path: &Path) -> std::result::Result<Llvm, String> {
    let failed = |error: libloading::Error| format!("cannot use {} as libLLVM: {error}", path.display());
    // SAFETY: libLLVM's initialisers have no preconditions.
    let library = unsafe { Library::new(path) }.map_err(failed)?;
    // Leaked: its functions are used until the process ends.
    let library: &'static Library = Box::leak(Box::new(library));
    for part in ["TargetInfo", "Target", "TargetMC", "Disassembler"] {
        let name = format!("LLVMInitializeAMDGPU{part}\0");
        // SAFETY: the LLVM-C API declares these functions without parameters and result.
        unsafe {
            let initialize: Symbol<'_, unsafe extern "C" fn()> =
                library.get(name.as_bytes()).map_err(failed)?;
            initialize();
        }
    }
    // SAFETY: the types are those of the LLVM-C header `llvm-c/Disassembler.h`.
    unsafe {
        Ok(Llvm {
            create: *library.get::<Create>(b"LLVMCreateDisasmCPUFeatures\0").map_err(failed)?,
            decode: *library.get::<Decode>(b"LLVMDisasmInstruction\0").map_err(failed)?,
            dispose: *library.get::<Dispose>(b"LLVMDisasmDispose\0").map_err(failed)?,
        })
    }
}
