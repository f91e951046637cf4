//! Devices: how many, what they are, which one a thread uses.

use crate::state::{current, set_current, state};
use crate::status::{Result, Status, answer, put};
use std::ffi::{c_char, c_int, c_uint, c_void};

/// HIP 7.1.
const VERSION: c_int = 70_100_000;

#[unsafe(no_mangle)]
pub extern "C" fn hipInit(_flags: c_uint) -> Status {
    answer(|| if state().devices.is_empty() { Err(Status::NO_DEVICE) } else { Ok(()) })
}

#[unsafe(no_mangle)]
pub extern "C" fn hipGetDeviceCount(count: Option<&mut c_int>) -> Status {
    answer(|| {
        let devices = state().devices.len() as c_int;
        put(count, devices)?;
        if devices == 0 { Err(Status::NO_DEVICE) } else { Ok(()) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hipSetDevice(device: c_int) -> Status {
    answer(|| {
        state().device(device)?;
        set_current(device as usize);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hipGetDevice(device: Option<&mut c_int>) -> Status {
    answer(|| put(device, current() as c_int))
}

#[unsafe(no_mangle)]
pub extern "C" fn hipDeviceGet(device: Option<&mut c_int>, ordinal: c_int) -> Status {
    answer(|| {
        state().device(ordinal)?;
        put(device, ordinal)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hipRuntimeGetVersion(version: Option<&mut c_int>) -> Status {
    answer(|| put(version, VERSION))
}

#[unsafe(no_mangle)]
pub extern "C" fn hipDriverGetVersion(version: Option<&mut c_int>) -> Status {
    answer(|| put(version, VERSION))
}

#[unsafe(no_mangle)]
pub extern "C" fn hipDeviceGetAttribute(
    value: Option<&mut c_int>,
    attribute: c_int,
    device: c_int,
) -> Status {
    answer(|| {
        let state = state();
        let found = state.device(device)?;
        let known = found.chip.attribute(attribute, device, found.capacity);
        put(value, known.ok_or(Status::INVALID_VALUE)?)
    })
}

/// # Safety
/// `name` must be valid for writes of `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipDeviceGetName(name: *mut c_char, len: c_int, device: c_int) -> Status {
    answer(|| {
        let text = state().device(device)?.chip.name;
        // SAFETY: the caller vouches for `len` bytes.
        unsafe { write_text(name, len, text) }
    })
}

/// # Safety
/// `id` must be valid for writes of `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipDeviceGetPCIBusId(id: *mut c_char, len: c_int, device: c_int) -> Status {
    answer(|| {
        state().device(device)?;
        let text = format!("0000:{:02x}:00.0", 0x10 + device);
        // SAFETY: the caller vouches for `len` bytes.
        unsafe { write_text(id, len, &text) }
    })
}

/// # Safety
/// `target` must be null or valid for writes of `len` bytes.
unsafe fn write_text(target: *mut c_char, len: c_int, text: &str) -> Result<()> {
    let room =
        usize::try_from(len).ok().filter(|&len| len > 0 && !target.is_null()).ok_or(Status::INVALID_VALUE)?;
    let kept = &text.as_bytes()[..text.len().min(room - 1)];
    // SAFETY: `kept` and its zero fit in `len` bytes.
    unsafe {
        std::ptr::copy_nonoverlapping(kept.as_ptr(), target.cast(), kept.len());
        *target.add(kept.len()) = 0;
    }
    Ok(())
}

/// Size of `hipDeviceProp_tR0600` and the places of its fields, from the HIP 7.1 header.
mod properties {
    pub const SIZE: usize = 1472;
    pub const TOTAL_MEMORY: usize = 288;
    pub const LDS: usize = 296;
    pub const REGISTERS: usize = 304;
    pub const WAVE: usize = 308;
    pub const BLOCK: usize = 320;
    pub const CLOCK: usize = 348;
    pub const MAJOR: usize = 360;
    pub const MINOR: usize = 364;
    pub const UNITS: usize = 388;
    pub const PCI_BUS: usize = 584;
    pub const ARCHITECTURE: usize = 1160;
}

/// # Safety
/// `target` must be valid for writes of a `hipDeviceProp_tR0600`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipGetDevicePropertiesR0600(target: *mut c_void, device: c_int) -> Status {
    answer(|| {
        let state = state();
        let found = state.device(device)?;
        if target.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        let mut bytes = [0u8; properties::SIZE];
        let mut set = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        let chip = found.chip;
        set(0, chip.name.as_bytes());
        set(properties::ARCHITECTURE, chip.architecture().as_bytes());
        set(properties::TOTAL_MEMORY, &found.capacity.to_le_bytes());
        set(properties::LDS, &u64::from(chip.target.lds_bytes()).to_le_bytes());
        let numbers = [
            (properties::REGISTERS, 71),
            (properties::WAVE, 87),
            (properties::BLOCK, 56),
            (properties::CLOCK, 5),
            (properties::MAJOR, 23),
            (properties::MINOR, 61),
            (properties::UNITS, 63),
            (properties::PCI_BUS, 67),
        ];
        for (at, attribute) in numbers {
            let value = chip.attribute(attribute, device, found.capacity).unwrap_or_default();
            set(at, &value.to_le_bytes());
        }
        // SAFETY: the caller vouches for a structure of this size.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target.cast(), bytes.len()) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hipDeviceTotalMem(bytes: Option<&mut usize>, device: c_int) -> Status {
    answer(|| put(bytes, state().device(device)?.capacity as usize))
}

/// The identity of a device: its chip and its number.
#[unsafe(no_mangle)]
pub extern "C" fn hipDeviceGetUuid(uuid: Option<&mut [u8; 16]>, device: c_int) -> Status {
    answer(|| {
        let chip = state().device(device)?.chip;
        let mut bytes = [0; 16];
        bytes[..chip.short.len()].copy_from_slice(chip.short.as_bytes());
        bytes[15] = device as u8;
        put(uuid, bytes)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hipDeviceSynchronize() -> Status {
    answer(|| {
        let state = state();
        let device = current();
        state.healthy(device)?;
        let captures =
            state.streams.values().any(|stream| stream.device == device && stream.capture.is_some());
        if captures { Err(Status::CAPTURE_UNSUPPORTED) } else { Ok(()) }
    })
}

/// The error that a device of the calling thread keeps, if any.
#[unsafe(no_mangle)]
pub extern "C" fn hipGetLastError() -> Status {
    answer(|| state().healthy(current()))
}

#[unsafe(no_mangle)]
pub extern "C" fn hipPeekAtLastError() -> Status {
    hipGetLastError()
}

#[unsafe(no_mangle)]
pub extern "C" fn hipDeviceCanAccessPeer(can: Option<&mut c_int>, device: c_int, peer: c_int) -> Status {
    answer(|| {
        let state = state();
        state.device(device)?;
        state.device(peer)?;
        put(can, c_int::from(device != peer))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hipDeviceEnablePeerAccess(peer: c_int, _flags: c_uint) -> Status {
    answer(|| {
        let mut state = state();
        state.device(peer)?;
        let pair = (current(), peer as usize);
        if state.peers.contains(&pair) {
            return Err(Status::PEER_ALREADY_ENABLED);
        }
        state.peers.push(pair);
        Ok(())
    })
}
