//! Functions of an opened device: modules are loaded when the first of their kernels is needed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tenon_plugin_api::{Error, Result};

use crate::driver::{Context, Driver, Function, Module};
use crate::pack::Images;

/// The kernels of a device.
pub(crate) struct Kernels {
    driver: Arc<dyn Driver>,
    context: Context,
    images: Images,
    loaded: Mutex<Loaded>,
}

#[derive(Default)]
struct Loaded {
    modules: HashMap<usize, Module>,
    functions: HashMap<(String, u32), Function>,
}

impl Kernels {
    pub fn new(driver: Arc<dyn Driver>, context: Context, images: Images) -> Kernels {
        Kernels { driver, context, images, loaded: Mutex::default() }
    }

    /// True when the build holds a kernel of this name.
    pub fn has(&self, symbol: &str) -> bool {
        self.images.find(symbol).is_some()
    }

    /// The kernel `symbol`, allowed to use `shared_bytes` of dynamic shared memory.
    pub fn function(&self, symbol: &str, shared_bytes: u32) -> Result<Function> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&function) = loaded.functions.get(&(symbol.to_owned(), shared_bytes)) {
            return Ok(function);
        }
        let image = self.images.find(symbol).ok_or_else(|| {
            Error::unsupported(format!("this build holds no kernel '{symbol}': build the kernels anew"))
        })?;
        let module = match loaded.modules.get(&image) {
            Some(&module) => module,
            None => {
                let module = self.driver.load(self.context, &self.images.read(image)?)?;
                loaded.modules.insert(image, module);
                module
            }
        };
        let function = self.driver.function(self.context, module, symbol, shared_bytes)?;
        loaded.functions.insert((symbol.to_owned(), shared_bytes), function);
        Ok(function)
    }
}

impl Drop for Kernels {
    fn drop(&mut self) {
        let loaded = std::mem::take(&mut *self.loaded.lock().unwrap_or_else(PoisonError::into_inner));
        loaded.modules.into_values().for_each(|module| self.driver.unload(self.context, module));
    }
}
