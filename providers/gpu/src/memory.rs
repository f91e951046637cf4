//! Device memory that outlives its owners: freed blocks are kept and given out again, because the driver's own
//! allocation stops the device.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use tenon_plugin_api::{Code, Result};

use crate::driver::{Context, Driver};

/// Blocks are multiples of this.
const STEP: usize = 512;

/// A cache of device memory blocks.
pub(crate) struct Pool {
    driver: Arc<dyn Driver>,
    context: Context,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Address of each block that is in use, and its size.
    used: HashMap<u64, usize>,
    /// Free blocks by size.
    free: BTreeMap<usize, Vec<u64>>,
    used_bytes: u64,
    peak_bytes: u64,
}

impl Pool {
    pub fn new(driver: Arc<dyn Driver>, context: Context) -> Pool {
        Pool { driver, context, state: Mutex::default() }
    }

    /// A block of at least `bytes` bytes, aligned to 256. Its content is whatever was there.
    pub fn allocate(&self, bytes: usize) -> Result<u64> {
        let size = bytes.max(1).next_multiple_of(STEP);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // A block a quarter too large is still a fit; a larger one would be missed elsewhere.
        let fit = state.free.range(size..=size + size / 4).find(|(_, list)| !list.is_empty());
        let found = fit.map(|(&found, _)| found);
        let (size, address) = match found.and_then(|found| Some((found, state.free.get_mut(&found)?.pop()?)))
        {
            Some(block) => block,
            None => (size, self.fresh(&mut state, size)?),
        };
        state.used.insert(address, size);
        state.used_bytes += size as u64;
        state.peak_bytes = state.peak_bytes.max(state.used_bytes);
        Ok(address)
    }

    fn fresh(&self, state: &mut State, size: usize) -> Result<u64> {
        match self.driver.allocate(self.context, size) {
            Err(error) if error.code == Code::OutOfMemory => {
                self.release(state);
                self.driver.allocate(self.context, size)
            }
            result => result,
        }
    }

    /// Takes a block back.
    ///
    /// # Safety
    /// `address` came from [`Pool::allocate`], and no queued work uses it.
    pub unsafe fn free(&self, address: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(size) = state.used.remove(&address) {
            state.used_bytes -= size as u64;
            state.free.entry(size).or_default().push(address);
        }
    }

    /// Bytes in use now and at most.
    pub fn usage(&self) -> (u64, u64) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.used_bytes, state.peak_bytes)
    }

    fn release(&self, state: &mut State) {
        for address in std::mem::take(&mut state.free).into_values().flatten() {
            // SAFETY: a free block is used by nobody.
            unsafe { self.driver.free(self.context, address) };
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut state = std::mem::take(&mut *self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.release(&mut state);
        for &address in state.used.keys() {
            // SAFETY: the device is closed last, so nobody uses the block.
            unsafe { self.driver.free(self.context, address) };
        }
    }
}
