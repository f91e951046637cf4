//! Functions of the table about the provider itself: initialize, score, devices, extension.

use super::super::{Export, Score};
use super::{put, status};
use crate::view::covers;
use crate::{Error, Options, ffi};
use core::ffi::c_void;

pub unsafe extern "C" fn initialize<P: Export>(host: *const ffi::HostApi) -> *mut ffi::Status {
    // SAFETY: the header: the table is valid for the life of the process.
    status::<P>(|| unsafe { P::state().initialize(host) })
}

pub unsafe extern "C" fn score<P: Export>(reason: *mut ffi::Str) -> u32 {
    let answer = P::guard(|| match P::state().score() {
        Ok(Score::Usable(score)) => (score.get(), ffi::Str::EMPTY),
        Ok(Score::Unusable(reason)) => (0, ffi::Str::new(reason)),
        Err(_) => (0, ffi::Str::new("initialize was not called")),
    });
    let (score, text) =
        answer.unwrap_or((0, ffi::Str::new("the provider panicked while it looked at the machine")));
    if !reason.is_null() {
        // SAFETY: the header: reason is writable.
        unsafe { reason.write(text) };
    }
    score
}

pub unsafe extern "C" fn enumerate_devices<P: Export>(
    infos: *mut *const *const ffi::DeviceInfo,
    count: *mut usize,
) -> *mut ffi::Status {
    status::<P>(|| {
        let devices = P::state().devices()?;
        // SAFETY: the header: both out pointers are writable.
        unsafe {
            put(infos, "enumerate_devices: infos", devices.as_ptr())?;
            put(count, "enumerate_devices: count", devices.len())
        }
    })
}

pub unsafe extern "C" fn open_device<P: Export>(
    args: *const ffi::OpenArgs,
    device: *mut *mut ffi::Device,
) -> *mut ffi::Status {
    // SAFETY: the header: args is readable and device is writable.
    status::<P>(|| unsafe {
        let args = args.as_ref().ok_or_else(|| Error::invalid("open_device: args is NULL"))?;
        covers::<ffi::OpenArgs>(args.struct_size, "open args")?;
        let options = Options::new(args.options, args.option_count)?;
        super::hand_out(device, "open_device: device", || P::state().provider()?.open(args.index, &options))
    })
}

pub unsafe extern "C" fn extension<P: Export>(name: ffi::Str) -> *const c_void {
    let answer = P::guard(|| {
        // SAFETY: the header: the text is readable for the call.
        let name = unsafe { name.as_str() }?;
        Some(P::state().provider().ok()?.extension(name))
    });
    answer.ok().flatten().unwrap_or(core::ptr::null())
}
