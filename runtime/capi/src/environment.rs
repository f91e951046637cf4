//! Environments: the providers that sessions can use.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use tenon_plugin_api::ffi::Str;
use tenon_runtime::error::{Error, Result};
use tenon_runtime::session::{Environment, ProviderInfo};

use crate::argument::{self, Versioned};
use crate::error::{CError, guard, shielded};

/// `tenon_environment`.
pub struct CEnvironment {
    pub environment: Environment,
    /// What callers were told; the last one holds now, the others because their strings are borrowed.
    told: Mutex<Vec<Box<[ProviderInfo]>>>,
}

/// `tenon_provider_info`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct CProviderInfo {
    struct_size: usize,
    name: Str,
    vendor: Str,
    version: Str,
    reason: Str,
    score: u32,
    device_count: u32,
}

const _: () = assert!(size_of::<CProviderInfo>() == 80);

// SAFETY: plain data that starts with its size.
unsafe impl Versioned for CProviderInfo {}

impl CEnvironment {
    fn new() -> Result<CEnvironment> {
        let environment = Environment::new();
        environment.register(tenon_provider_cpu::table())?;
        let told = Mutex::new(vec![environment.providers().into()]);
        Ok(CEnvironment { environment, told })
    }

    fn load(&self, path: &Path) -> Result<()> {
        self.environment.load_library(path)?;
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.push(self.environment.providers().into());
        Ok(())
    }

    fn count(&self) -> usize {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).last().map_or(0, |infos| infos.len())
    }

    fn describe(&self, index: usize) -> Result<CProviderInfo> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let infos: &[ProviderInfo] = told.last().map_or(&[], |infos| infos);
        let info = infos.get(index).ok_or_else(|| {
            Error::invalid_input(format!("there is no provider {index}; there are {}", infos.len()))
        })?;
        Ok(CProviderInfo {
            struct_size: size_of::<CProviderInfo>(),
            name: Str::new(&info.name),
            vendor: Str::new(&info.vendor),
            version: Str::new(&info.version),
            reason: Str::new(&info.reason),
            score: info.score,
            device_count: u32::try_from(info.devices.len()).unwrap_or(u32::MAX),
        })
    }
}

/// See `tenon.h`.
///
/// # Safety
/// `environment` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenon_environment_create(environment: *mut *mut CEnvironment) -> *mut CError {
    guard(|| {
        // SAFETY: promised by the caller.
        let out = unsafe { argument::exclusive(environment, "environment") }?;
        *out = Box::into_raw(Box::new(CEnvironment::new()?));
        Ok(())
    })
}

/// See `tenon.h`.
///
/// # Safety
/// `environment` is NULL or an environment that was not destroyed, and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenon_environment_destroy(environment: *mut CEnvironment) {
    if !environment.is_null() {
        // SAFETY: every environment comes from `tenon_environment_create`.
        shielded((), || drop(unsafe { Box::from_raw(environment) }));
    }
}

/// See `tenon.h`.
///
/// # Safety
/// `environment` is NULL or an environment, `path` is a valid string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenon_environment_load_provider(
    environment: *mut CEnvironment,
    path: Str,
) -> *mut CError {
    guard(|| {
        // SAFETY: promised by the caller.
        let (environment, path) =
            unsafe { (argument::reference(environment, "environment")?, argument::text(path, "path")?) };
        environment.load(Path::new(path))
    })
}

/// See `tenon.h`.
///
/// # Safety
/// `environment` is NULL or an environment.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenon_environment_provider_count(environment: *const CEnvironment) -> usize {
    // SAFETY: promised by the caller.
    shielded(0, || unsafe { environment.as_ref() }.map_or(0, CEnvironment::count))
}

/// See `tenon.h`.
///
/// # Safety
/// `environment` is NULL or an environment; `info` is NULL or as long as its first member says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenon_environment_provider(
    environment: *const CEnvironment,
    index: usize,
    info: *mut CProviderInfo,
) -> *mut CError {
    guard(|| {
        // SAFETY: promised by the caller.
        let described = unsafe { argument::reference(environment, "environment") }?.describe(index)?;
        // SAFETY: promised by the caller.
        unsafe { argument::write(info, &described, "info") }
    })
}
