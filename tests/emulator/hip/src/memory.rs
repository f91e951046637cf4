//! Memory: device, pinned host, stream-ordered; copies and fills.

use crate::state::{Allocation, Handle, State, current, state};
use crate::status::{Result, Status, answer, put};
use crate::work::{Side, Work, perform, submit};
use std::ffi::{c_int, c_uint, c_void};

#[unsafe(no_mangle)]
pub extern "C" fn hipMemGetInfo(free: Option<&mut usize>, total: Option<&mut usize>) -> Status {
    answer(|| {
        let state = state();
        state.healthy(current())?;
        let device = &state.devices[current()];
        put(free, (device.capacity - device.used) as usize)?;
        put(total, device.capacity as usize)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hipMalloc(address: Option<&mut u64>, bytes: usize) -> Status {
    answer(|| {
        let found = if bytes == 0 { 0 } else { state().allocate(current(), bytes as u64)? };
        put(address, found)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hipFree(address: u64) -> Status {
    answer(|| state().free(address))
}

#[unsafe(no_mangle)]
pub extern "C" fn hipMallocAsync(address: Option<&mut u64>, bytes: usize, stream: Handle) -> Status {
    answer(|| {
        let mut state = state();
        let device = state.stream(stream)?.device;
        let found = if bytes == 0 { 0 } else { state.allocate(device, bytes as u64)? };
        put(address, found)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hipFreeAsync(address: u64, stream: Handle) -> Status {
    answer(|| submit(stream, Work::Free { address }))
}

/// Pinned host memory, which kernels may use at its own address.
#[unsafe(no_mangle)]
pub extern "C" fn hipHostMalloc(address: Option<&mut u64>, bytes: usize, _flags: c_uint) -> Status {
    answer(|| {
        let mut state = state();
        state.healthy(current())?;
        let mut host = Vec::new();
        host.try_reserve_exact(bytes.div_ceil(8)).map_err(|_| Status::OUT_OF_MEMORY)?;
        host.resize(bytes.div_ceil(8).max(1), 0u64);
        let at = host.as_mut_ptr();
        // SAFETY: the allocation is kept until `hipHostFree`, which forgets the range first; the host's own use of it
        // while a kernel runs is the caller's to order, as with the real driver.
        unsafe { state.memory.register(at.cast(), bytes as u64) };
        let allocation = Allocation { device: None, bytes: bytes as u64, host: Some(host) };
        state.allocations.insert(at as u64, allocation);
        put(address, at as u64)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hipHostFree(address: u64) -> Status {
    answer(|| {
        let mut state = state();
        if address == 0 {
            return Ok(());
        }
        let is_host = state.allocations.get(&address).is_some_and(|allocation| allocation.host.is_some());
        if !is_host {
            return Err(Status::INVALID_VALUE);
        }
        state.memory.free(address);
        state.allocations.remove(&address);
        Ok(())
    })
}

/// Device memory has addresses of its own; every other address is the host's.
fn side(state: &State, address: u64) -> Side {
    match state.memory.range_of(address) {
        Some(_) => Side::Device(address),
        None => Side::Host(address as usize),
    }
}

/// The work of a copy whose `kind` says which sides are the device's.
fn copy(to: u64, from: u64, bytes: usize, kind: c_int) -> Result<Work> {
    const DEFAULT: c_int = 4;
    let state = state();
    let (to, from) = (side(&state, to), side(&state, from));
    // The bits of the kind: 1 to the device from the host, 2 the other way round, 3 both the device's.
    let agrees = |side: Side, is_device: bool| match side {
        // Pinned host memory may be named as either.
        Side::Device(address) => {
            is_device || state.allocations.get(&address).is_none_or(|a| a.host.is_some())
        }
        Side::Host(_) => !is_device,
    };
    let right = match kind {
        0..=3 => agrees(to, kind == 1 || kind == 3) && agrees(from, kind == 2 || kind == 3),
        DEFAULT => true,
        _ => false,
    };
    if right { Ok(Work::Copy { to, from, bytes }) } else { Err(Status::INVALID_VALUE) }
}

/// # Safety
/// Host ranges must be valid for `bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipMemcpy(to: u64, from: u64, bytes: usize, kind: c_int) -> Status {
    answer(|| {
        if bytes == 0 {
            return Ok(());
        }
        let work = copy(to, from, bytes, kind)?;
        let mut state = state();
        if state.stream(0)?.capture.is_some() {
            return Err(Status::CAPTURE_UNSUPPORTED);
        }
        perform(&mut state, 0, &work)
    })
}

/// # Safety
/// Host ranges must be valid for `bytes` bytes until the stream has done the work.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipMemcpyAsync(
    to: u64,
    from: u64,
    bytes: usize,
    kind: c_int,
    stream: Handle,
) -> Status {
    answer(|| {
        if bytes == 0 {
            return Ok(());
        }
        let work = copy(to, from, bytes, kind)?;
        submit(stream, work)
    })
}

macro_rules! directed {
    ($($name:ident = $kind:literal;)*) => {$(
        /// # Safety
        /// The host range must be valid for `bytes` bytes until the stream has done the work.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(to: u64, from: u64, bytes: usize, stream: Handle) -> Status {
            // SAFETY: the caller's promise is the same.
            unsafe { hipMemcpyAsync(to, from, bytes, $kind, stream) }
        }
    )*};
}

directed! {
    hipMemcpyHtoDAsync = 1;
    hipMemcpyDtoHAsync = 2;
    hipMemcpyDtoDAsync = 3;
}

#[unsafe(no_mangle)]
pub extern "C" fn hipMemcpyPeerAsync(
    to: u64,
    to_device: c_int,
    from: u64,
    from_device: c_int,
    bytes: usize,
    stream: Handle,
) -> Status {
    answer(|| {
        let owns = |address: u64, device: c_int| {
            let state = state();
            state.device(device)?;
            let base = state.memory.range_of(address).ok_or(Status::INVALID_VALUE)?.0;
            let owner = state.allocations.get(&base).and_then(|allocation| allocation.device);
            if owner == Some(device as usize) { Ok(()) } else { Err(Status::INVALID_VALUE) }
        };
        if bytes == 0 {
            return Ok(());
        }
        owns(to, to_device)?;
        owns(from, from_device)?;
        submit(stream, Work::Copy { to: Side::Device(to), from: Side::Device(from), bytes })
    })
}

fn fill(address: u64, pattern: [u8; 4], width: usize, count: usize) -> Result<Option<Work>> {
    if count == 0 {
        return Ok(None);
    }
    state().memory.range_of(address).ok_or(Status::INVALID_VALUE)?;
    Ok(Some(Work::Fill { address, pattern, width, count }))
}

#[unsafe(no_mangle)]
pub extern "C" fn hipMemset(address: u64, value: c_int, bytes: usize) -> Status {
    answer(|| match fill(address, [value as u8; 4], 1, bytes)? {
        Some(work) => perform(&mut state(), 0, &work),
        None => Ok(()),
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hipMemsetAsync(address: u64, value: c_int, bytes: usize, stream: Handle) -> Status {
    answer(|| match fill(address, [value as u8; 4], 1, bytes)? {
        Some(work) => submit(stream, work),
        None => Ok(()),
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hipMemsetD32Async(address: u64, value: c_int, count: usize, stream: Handle) -> Status {
    answer(|| match fill(address, value.to_le_bytes(), 4, count)? {
        Some(work) => submit(stream, work),
        None => Ok(()),
    })
}

/// The device address of pinned host memory is its own.
#[unsafe(no_mangle)]
pub extern "C" fn hipHostGetDevicePointer(
    device: Option<&mut u64>,
    host: *mut c_void,
    _flags: c_uint,
) -> Status {
    answer(|| {
        state().memory.range_of(host as u64).ok_or(Status::INVALID_VALUE)?;
        put(device, host as u64)
    })
}
