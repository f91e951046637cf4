//! Modules, functions and launches.

use crate::state::{Function, Handle, current, state};
use crate::status::{Result, Status, answer, put};
use crate::work::{Work, submit};
use std::ffi::{CStr, OsStr, c_char, c_int, c_uint, c_void};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, PoisonError};
use tenon_emulator::{CodeObject, Kernel, Launch};

/// A parsed image. Programs load the same images for every session, and a kernel is decoded once for each of them: the
/// last ones are kept, by their bytes.
fn parsed(bytes: &[u8]) -> tenon_emulator::Result<CodeObject> {
    const KEPT: usize = 256;
    static CACHE: Mutex<Vec<(Vec<u8>, CodeObject)>> = Mutex::new(Vec::new());
    let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, code)) = cache.iter().find(|(image, _)| image == bytes) {
        return Ok(code.clone());
    }
    let code = CodeObject::load(bytes)?;
    if cache.len() == KEPT {
        cache.remove(0);
    }
    cache.push((bytes.to_vec(), code.clone()));
    Ok(code)
}

fn load(target: Option<&mut Handle>, bytes: &[u8]) -> Result<()> {
    let code = parsed(bytes).map_err(|error| {
        eprintln!("hipModuleLoad: {error}");
        Status::of(&error)
    })?;
    let mut state = state();
    state.healthy(current())?;
    if state.devices[current()].chip.target != code.target() {
        return Err(Status::NO_BINARY_FOR_GPU);
    }
    let handle = state.handle();
    state.modules.insert(handle, code);
    put(target, handle)
}

/// # Safety
/// `image` must point to a complete ELF file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipModuleLoadData(module: Option<&mut Handle>, image: *const c_void) -> Status {
    answer(|| {
        if image.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: the caller vouches for a complete file, which is longer than its header.
        let header = unsafe { std::slice::from_raw_parts(image.cast::<u8>(), 64) };
        let len = CodeObject::elf_len(header).ok_or(Status::INVALID_IMAGE)?;
        // SAFETY: the section table, which ends the file, lies inside of it.
        load(module, unsafe { std::slice::from_raw_parts(image.cast::<u8>(), len) })
    })
}

/// # Safety
/// As [`hipModuleLoadData`]; options are not read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipModuleLoadDataEx(
    module: Option<&mut Handle>,
    image: *const c_void,
    _count: c_uint,
    _options: *mut c_void,
    _values: *mut *mut c_void,
) -> Status {
    // SAFETY: the caller's promise is the same.
    unsafe { hipModuleLoadData(module, image) }
}

/// # Safety
/// `path` must be zero-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipModuleLoad(module: Option<&mut Handle>, path: *const c_char) -> Status {
    answer(|| {
        if path.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: the caller vouches for the terminator.
        let path = OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes());
        load(module, &std::fs::read(path).map_err(|_| Status::FILE_NOT_FOUND)?)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hipModuleUnload(module: Handle) -> Status {
    answer(|| {
        let mut state = state();
        state.functions.retain(|_, function| function.module != module);
        state.modules.remove(&module).map(|_| ()).ok_or(Status::INVALID_HANDLE)
    })
}

/// # Safety
/// `name` must be zero-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipModuleGetFunction(
    function: Option<&mut Handle>,
    module: Handle,
    name: *const c_char,
) -> Status {
    answer(|| {
        if name.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: the caller vouches for the terminator.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        let mut state = state();
        let code = state.modules.get(&module).ok_or(Status::INVALID_HANDLE)?;
        let kernel = code.kernel(&name).ok_or(Status::NOT_FOUND)?.clone();
        let handle = state.handle();
        state.functions.insert(handle, Function { kernel, module });
        put(function, handle)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hipFuncSetAttribute(function: Handle, _attribute: c_int, value: c_int) -> Status {
    answer(|| {
        let state = state();
        let target = state.functions.get(&function).ok_or(Status::INVALID_VALUE)?.kernel.target();
        if i64::from(value) > i64::from(target.lds_bytes()) { Err(Status::INVALID_VALUE) } else { Ok(()) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hipFuncGetAttribute(
    value: Option<&mut c_int>,
    attribute: c_int,
    function: Handle,
) -> Status {
    answer(|| {
        let state = state();
        let kernel = &state.functions.get(&function).ok_or(Status::INVALID_VALUE)?.kernel;
        put(
            value,
            match attribute {
                // Threads a workgroup, static LDS, scratch, registers, the most dynamic LDS.
                0 => kernel.max_block() as c_int,
                1 => kernel.lds_bytes() as c_int,
                3 => kernel.scratch_bytes() as c_int,
                4 => kernel.vector_registers() as c_int,
                8 => (kernel.target().lds_bytes() - kernel.lds_bytes()) as c_int,
                2 | 5 | 6 | 7 | 9 => 0,
                _ => return Err(Status::INVALID_VALUE),
            },
        )
    })
}

/// Marks in the `extra` list of a launch.
const BUFFER_POINTER: usize = 1;
const BUFFER_SIZE: usize = 2;
const END: usize = 3;

/// # Safety
/// As [`hipModuleLaunchKernel`] for its `extra`.
unsafe fn packed_arguments(extra: *mut *mut c_void) -> Result<Vec<u8>> {
    let (mut data, mut size, mut entry) = (std::ptr::null::<u8>(), 0, extra);
    loop {
        // SAFETY: the caller vouches for a list of pairs that ends with the mark.
        let mark = unsafe { *entry } as usize;
        if mark == END {
            break;
        }
        // SAFETY: every mark but the last has a value after it.
        let value = unsafe { *entry.add(1) };
        match mark {
            BUFFER_POINTER => data = value.cast(),
            // SAFETY: the value of this mark points to the size.
            BUFFER_SIZE => size = unsafe { *value.cast::<usize>() },
            _ => return Err(Status::INVALID_VALUE),
        }
        // SAFETY: the list goes on until its end mark.
        entry = unsafe { entry.add(2) };
    }
    if data.is_null() && size > 0 {
        return Err(Status::INVALID_VALUE);
    }
    // SAFETY: the caller vouches for `size` bytes.
    Ok(if size == 0 { Vec::new() } else { unsafe { std::slice::from_raw_parts(data, size) }.to_vec() })
}

/// # Safety
/// `values` must hold a pointer to the value of each explicit argument.
unsafe fn listed_arguments(kernel: &Kernel, values: *mut *mut c_void) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for (index, argument) in kernel.arguments().iter().filter(|argument| !argument.is_hidden()).enumerate() {
        if values.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        let (offset, size) = (argument.offset as usize, argument.size as usize);
        if bytes.len() < offset + size {
            bytes.resize(offset + size, 0);
        }
        // SAFETY: the caller vouches for one pointer an argument, to a value of its size.
        unsafe {
            let value = *values.add(index);
            std::ptr::copy_nonoverlapping(value.cast::<u8>(), bytes[offset..].as_mut_ptr(), size);
        }
    }
    Ok(bytes)
}

/// # Safety
/// `params` must be null or hold a pointer to the value of each argument; `extra` must be null or a list of marks and
/// values that ends with the end mark.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipModuleLaunchKernel(
    function: Handle,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    dynamic_lds: c_uint,
    stream: Handle,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Status {
    answer(|| {
        let kernel = state().functions.get(&function).ok_or(Status::INVALID_HANDLE)?.kernel.clone();
        // SAFETY: the caller's promises are those of the two functions.
        let arguments = unsafe {
            if extra.is_null() { listed_arguments(&kernel, params)? } else { packed_arguments(extra)? }
        };
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let launch = Launch { grid, block, dynamic_lds, arguments };
        submit(stream, Work::Launch { kernel, launch: Arc::new(launch) })
    })
}
