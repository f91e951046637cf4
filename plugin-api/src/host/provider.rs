//! A checked provider: identity, devices, compilation for absent targets.

use super::device::Device;
use super::error::{Error, Result};
use super::executable::{CompileArgs, Executable};
use super::table::{Table, mandatory, read_sized};
use super::{Claims, Graph};
use crate::provider::Features;
use crate::{DeviceInfo, ffi};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ffi::c_void;

/// A provider whose table has been checked. Cheap to clone.
#[derive(Clone)]
pub struct Provider {
    pub(super) inner: Arc<ProviderInner>,
}

pub(super) struct ProviderInner {
    pub(super) table: Table,
    pub(super) name: Arc<str>,
}

// SAFETY: a table is constant for the life of the process, and the wrappers keep to the header's thread rules.
unsafe impl Send for ProviderInner {}
// SAFETY: as for Send.
unsafe impl Sync for ProviderInner {}

impl ProviderInner {
    /// Reads and releases a status of this provider.
    ///
    /// # Safety
    /// `status` is NULL or a status that the caller owns.
    #[inline]
    pub(super) unsafe fn check(&self, status: *mut ffi::Status) -> Result<()> {
        // SAFETY: the caller vouches for the status.
        unsafe { crate::Error::check(status) }.map_err(|error| Error::new(&self.name, error))
    }

    pub(super) fn broken(&self, what: impl Into<String>) -> Error {
        Error::new(&self.name, crate::Error::internal(what))
    }

    pub(super) fn missing(&self, what: &str) -> Error {
        Error::new(&self.name, crate::Error::unsupported(format!("it has no {what}")))
    }
}

impl Provider {
    /// Checks a provider's table: version, size, mandatory functions.
    ///
    /// # Errors
    /// A sentence with both versions when the major versions differ, else with the first function that is missing.
    ///
    /// # Safety
    /// `table` is NULL or the table of a provider that keeps the header's contract for the life of the process.
    pub unsafe fn new(table: *const ffi::ProviderApi) -> Result<Provider> {
        // SAFETY: the caller vouches for the table.
        let table = unsafe { Table::new(table)? };
        // SAFETY: texts of the table live as long as the process; the check above saw the name.
        let name = unsafe { table.api.name.as_str() }.unwrap_or_default().into();
        Ok(Provider { inner: Arc::new(ProviderInner { table, name }) })
    }

    /// What users type: `cpu`, `cuda`, `rocm`.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    pub fn vendor(&self) -> &'static str {
        self.text(self.inner.table.api.vendor)
    }

    pub fn version(&self) -> &'static str {
        self.text(self.inner.table.api.version)
    }

    /// Compiler, features, embedded kernels.
    pub fn build_info(&self) -> &'static str {
        self.text(self.inner.table.api.build_info)
    }

    /// Major and minor version of the contract that the provider was built with.
    pub fn abi_version(&self) -> (u32, u32) {
        (self.inner.table.api.abi_major, self.inner.table.api.abi_minor)
    }

    /// Which optional functions the provider has.
    pub fn features(&self) -> Features {
        self.inner.table.features()
    }

    fn text(&self, text: ffi::Str) -> &'static str {
        // SAFETY: texts of the table live as long as the process.
        unsafe { text.as_str() }.unwrap_or("(not UTF-8)")
    }

    /// Hands the host's table in. Nothing else may be called before.
    pub fn initialize(&self, host: &'static ffi::HostApi) -> Result<()> {
        // SAFETY: the table lives as long as the process.
        unsafe { self.inner.check(mandatory!(self.inner.table, initialize)(host)) }
    }

    /// How well the library fits this machine; 0 when it is not usable here, and then why.
    pub fn score(&self) -> (u32, String) {
        let mut reason = ffi::Str::EMPTY;
        // SAFETY: reason is writable; the text it receives is borrowed from the provider.
        unsafe {
            let score = mandatory!(self.inner.table, score)(&mut reason);
            (score, String::from_utf8_lossy(reason.as_bytes()).into_owned())
        }
    }

    /// The devices present, in a fixed order.
    pub fn devices(&self) -> Result<Vec<DeviceInfo>> {
        let (mut infos, mut count) = (core::ptr::null(), 0);
        // SAFETY: both out pointers are writable.
        unsafe { self.inner.check(mandatory!(self.inner.table, enumerate_devices)(&mut infos, &mut count))? };
        // SAFETY: the provider says that infos holds count pointers.
        let infos = unsafe { crate::view::slice_at(infos, count) };
        infos.iter().map(|&info| self.device_info(info)).collect()
    }

    fn device_info(&self, info: *const ffi::DeviceInfo) -> Result<DeviceInfo> {
        if info.is_null() {
            return Err(self.inner.broken("it listed a NULL device"));
        }
        // SAFETY: infos are borrowed from the provider, with the size they say; members behind it read as zero.
        unsafe { Ok(DeviceInfo::from_ffi(&read_sized(info, (*info).struct_size))) }
    }

    /// Opens the device with the index `index`, with options as keys and values.
    pub fn open(&self, index: u32, options: &[(&str, &str)]) -> Result<Arc<Device>> {
        let infos = self.devices()?;
        let Some(info) = infos.into_iter().find(|info| info.index == index) else {
            let error = crate::Error::new(crate::Code::NotFound, format!("it has no device {index}"));
            return Err(Error::new(&self.inner.name, error));
        };
        let options = OptionList::new(options);
        let args = ffi::OpenArgs {
            struct_size: size_of::<ffi::OpenArgs>(),
            index,
            option_count: options.pointers.len() as u32,
            options: options.pointers.as_ptr(),
        };
        let mut handle = core::ptr::null_mut();
        // SAFETY: args is readable for the call and handle is writable.
        unsafe { self.inner.check(mandatory!(self.inner.table, open_device)(&args, &mut handle))? };
        if handle.is_null() {
            return Err(self.inner.broken(format!("it opened device {index} and returned NULL")));
        }
        // SAFETY: the handle was just opened and is owned here.
        Ok(Arc::new(unsafe { Device::new(handle, self.clone(), info) }))
    }

    /// What a device of `target`, an arch or chip that need not be present, would run.
    pub fn claim_for(&self, target: &str, graph: Graph<'_>) -> Result<Claims> {
        super::claim::claim(&self.inner, core::ptr::null_mut(), target, graph)
    }

    /// Compiles for `args.target`, an arch or chip that need not be present; the result can only be serialised.
    pub fn compile_for(&self, args: &CompileArgs<'_>) -> Result<Executable> {
        Executable::compile(self, None, args)
    }

    /// A named table outside the contract, or NULL; borrowed from the provider for the life of the process.
    pub fn extension(&self, name: &str) -> *const c_void {
        match self.inner.table.api.extension {
            // SAFETY: the name is readable for the call.
            Some(extension) => unsafe { extension(ffi::Str::new(name)) },
            None => core::ptr::null(),
        }
    }
}

impl core::fmt::Debug for Provider {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Provider({})", self.name())
    }
}

/// Options in the form that crosses the boundary.
pub(super) struct OptionList {
    pub(super) pointers: Vec<*const ffi::KeyValue>,
    _pairs: Vec<ffi::KeyValue>,
}

impl OptionList {
    /// Points at `options`, which must outlive the list.
    pub(super) fn new(options: &[(&str, &str)]) -> OptionList {
        let pair = |&(key, value): &(&str, &str)| ffi::KeyValue {
            struct_size: size_of::<ffi::KeyValue>(),
            key: ffi::Str::new(key),
            value: ffi::Str::new(value),
        };
        let pairs: Vec<ffi::KeyValue> = options.iter().map(pair).collect();
        OptionList {
            pointers: pairs.iter().map(|pair| pair as *const ffi::KeyValue).collect(),
            _pairs: pairs,
        }
    }
}
