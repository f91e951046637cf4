//! Compiled kernels as a provider hands them in: which image holds which symbol.

use std::collections::HashMap;
use std::sync::Arc;

use tenon_plugin_api::{Error, Result};

/// The images of one arch.
#[derive(Clone, Default)]
pub struct Images {
    images: Vec<Arc<dyn Fn() -> Result<Vec<u8>> + Send + Sync>>,
    symbols: Arc<HashMap<String, usize>>,
}

impl Images {
    /// No image at all.
    pub fn new() -> Images {
        Images::default()
    }

    /// Adds an image with its entry points; `read` is called when one of them is first needed.
    pub fn add(
        &mut self,
        symbols: impl IntoIterator<Item = String>,
        read: impl Fn() -> Result<Vec<u8>> + Send + Sync + 'static,
    ) {
        let index = self.images.len();
        self.images.push(Arc::new(read));
        Arc::make_mut(&mut self.symbols).extend(symbols.into_iter().map(|symbol| (symbol, index)));
    }

    /// The number of the image that holds `symbol`.
    pub fn find(&self, symbol: &str) -> Option<usize> {
        self.symbols.get(symbol).copied()
    }

    /// How many entry points there are.
    pub fn symbol_count(&self) -> usize {
        self.symbols.len()
    }

    /// The bytes of an image.
    pub(crate) fn read(&self, index: usize) -> Result<Vec<u8>> {
        let read = self.images.get(index).ok_or_else(|| Error::internal("there is no such image"))?;
        read()
    }
}
