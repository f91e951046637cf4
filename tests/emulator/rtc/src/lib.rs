//! A stand-in for AMD's `libhiprtc.so`: the functions of a provider that compiles at run time, over the compiler that the
//! build uses.
//!
//! `TENON_HIPRTC_COMPILER` names that compiler as a list of paths: a Python interpreter that has it, and
//! `tools/python/amdgcn.py`. Without the variable programs are made and do not compile, with the reason as their log.
//!
//! As AMD's library does, it puts declarations of the language ahead of every text (`builtins.h`), and refuses options it
//! does not know.

mod compile;
mod status;

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int};
use std::sync::{Mutex, MutexGuard, PoisonError};

use compile::Program;
pub use status::Status;

/// Programs by handle, and the next handle.
static PROGRAMS: Mutex<(Option<HashMap<usize, Program>>, usize)> = Mutex::new((None, 1));

type Programs = (Option<HashMap<usize, Program>>, usize);

fn programs() -> MutexGuard<'static, Programs> {
    PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does `f` with a program.
fn with<T>(handle: usize, f: impl FnOnce(&mut Program) -> Result<T, Status>) -> Result<T, Status> {
    let mut programs = programs();
    let program = programs.0.as_mut().and_then(|known| known.get_mut(&handle));
    f(program.ok_or(Status::INVALID_PROGRAM)?)
}

fn answer(result: Result<(), Status>) -> Status {
    result.err().unwrap_or(Status::SUCCESS)
}

/// # Safety
/// `text` must be null or zero-terminated.
unsafe fn text(text: *const c_char) -> Result<String, Status> {
    if text.is_null() {
        return Err(Status::INVALID_INPUT);
    }
    // SAFETY: the caller vouches for the terminator.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map(str::to_owned).map_err(|_| Status::INVALID_INPUT)
}

#[unsafe(no_mangle)]
pub extern "C" fn hiprtcVersion(major: Option<&mut c_int>, minor: Option<&mut c_int>) -> Status {
    let (Some(major), Some(minor)) = (major, minor) else { return Status::INVALID_INPUT };
    (*major, *minor) = (7, 1);
    Status::SUCCESS
}

/// # Safety
/// `source` and `name` must be zero-terminated; there are no headers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hiprtcCreateProgram(
    program: Option<&mut usize>,
    source: *const c_char,
    name: *const c_char,
    header_count: c_int,
    _headers: *const *const c_char,
    _include_names: *const *const c_char,
) -> Status {
    let Some(program) = program else { return Status::INVALID_INPUT };
    if header_count != 0 {
        return Status::INVALID_INPUT;
    }
    // SAFETY: the caller vouches for both texts.
    let (Ok(source), Ok(name)) = (unsafe { text(source) }, unsafe { text(name) }) else {
        return Status::INVALID_INPUT;
    };
    let mut programs = programs();
    let handle = programs.1;
    programs.1 += 1;
    programs.0.get_or_insert_default().insert(handle, Program::new(source, name));
    *program = handle;
    Status::SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn hiprtcDestroyProgram(program: Option<&mut usize>) -> Status {
    let Some(handle) = program else { return Status::INVALID_INPUT };
    let removed = programs().0.as_mut().and_then(|known| known.remove(handle));
    *handle = 0;
    if removed.is_some() { Status::SUCCESS } else { Status::INVALID_PROGRAM }
}

/// # Safety
/// `options` must point to `count` zero-terminated texts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hiprtcCompileProgram(
    program: usize,
    count: c_int,
    options: *const *const c_char,
) -> Status {
    let count = usize::try_from(count).unwrap_or(0);
    // SAFETY: the caller vouches for as many texts.
    let options = (0..count).map(|at| unsafe { text(*options.add(at)) }).collect::<Result<Vec<_>, _>>();
    answer(options.and_then(|options| with(program, |program| program.compile(&options))))
}

#[unsafe(no_mangle)]
pub extern "C" fn hiprtcGetProgramLogSize(program: usize, size: Option<&mut usize>) -> Status {
    answer(with(program, |program| put(size, program.log().len())))
}

/// # Safety
/// `log` must have room for what [`hiprtcGetProgramLogSize`] tells.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hiprtcGetProgramLog(program: usize, log: *mut c_char) -> Status {
    // SAFETY: the caller vouches for the room.
    answer(with(program, |program| unsafe { copy(program.log(), log) }))
}

#[unsafe(no_mangle)]
pub extern "C" fn hiprtcGetCodeSize(program: usize, size: Option<&mut usize>) -> Status {
    answer(with(program, |program| put(size, program.code()?.len())))
}

/// # Safety
/// `code` must have room for what [`hiprtcGetCodeSize`] tells.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hiprtcGetCode(program: usize, code: *mut c_char) -> Status {
    // SAFETY: the caller vouches for the room.
    answer(with(program, |program| unsafe { copy(program.code()?, code) }))
}

fn put(target: Option<&mut usize>, value: usize) -> Result<(), Status> {
    *target.ok_or(Status::INVALID_INPUT)? = value;
    Ok(())
}

/// # Safety
/// `to` must be null or have room for the bytes.
unsafe fn copy(bytes: &[u8], to: *mut c_char) -> Result<(), Status> {
    if to.is_null() {
        return Err(Status::INVALID_INPUT);
    }
    // SAFETY: the caller vouches for the room.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.cast(), bytes.len()) };
    Ok(())
}
