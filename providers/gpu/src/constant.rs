//! Constants of an executable in device memory: one block, filled through pinned staging while the next piece is read.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

use tenon_plugin_api::{Error, GraphView, Result};

use crate::driver::{Mark, Queue, Side};
use crate::fixed::Results;
use crate::opened::Opened;
use crate::operator::Derived;

/// Bytes that are staged at a time.
const PIECE: usize = 8 << 20;

/// Device memory that is given back when it is dropped.
pub(crate) struct Block {
    opened: Arc<Opened>,
    pub address: u64,
}

impl Block {
    pub fn new(opened: &Arc<Opened>, bytes: usize) -> Result<Block> {
        Ok(Block { opened: opened.clone(), address: opened.pool.allocate(bytes)? })
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: the pool gave it, and an executable is not running when it is dropped.
        unsafe { self.opened.pool.free(self.address) };
    }
}

/// The device copies of a graph's constants.
#[derive(Default)]
pub(crate) struct Constants {
    blocks: Vec<Block>,
    addresses: HashMap<u32, u64>,
}

impl Constants {
    /// Uploads `values` (indices of constants of `graph`) and `derived` ones, and waits until that is done.
    pub fn upload(
        opened: &Arc<Opened>,
        graph: GraphView<'_>,
        values: &[u32],
        derived: Vec<(u32, Derived<'_>)>,
    ) -> Result<Constants> {
        let mut constants = Constants::default();
        let mut sources: Vec<(u64, &[u8])> = Vec::new();
        let mut total = 0u64;
        for &value in values {
            let tensor = graph.value(value).and_then(|value| value.constant());
            let bytes = tensor.and_then(|tensor| tensor.host_bytes());
            let bytes = bytes.ok_or_else(|| Error::internal("a constant is not in host memory"))?;
            constants.addresses.insert(value, total);
            sources.push((total, bytes));
            total += bytes.len().max(1).next_multiple_of(256) as u64;
        }
        let mut made = Vec::with_capacity(derived.len());
        for (value, derived) in derived {
            constants.addresses.insert(value, total);
            made.push((total, derived));
            total += made.last().map_or(0, |(_, derived)| derived.bytes).max(1).next_multiple_of(256) as u64;
        }
        if total == 0 {
            return Ok(constants);
        }
        let memory = Block::new(opened, total as usize)?;
        let block = memory.address;
        constants.blocks.push(memory);
        constants.addresses.values_mut().for_each(|address| *address += block);
        let mut staging = Staging::new(opened)?;
        for (offset, bytes) in sources {
            staging.send_all(block + offset, bytes)?;
        }
        // One at a time, so that the host holds one of them only.
        let mut buffer = Vec::new();
        for (offset, derived) in made {
            buffer.clear();
            buffer.resize(derived.bytes, 0);
            (derived.fill)(&mut buffer)?;
            staging.send_all(block + offset, &buffer)?;
        }
        staging.finish()?;
        Ok(constants)
    }

    /// Takes in what was computed of constants.
    pub fn adopt(&mut self, results: Results) {
        self.addresses.extend(results.addresses);
        self.blocks.push(results.block);
    }

    /// The device address of constant `value`.
    pub fn address(&self, value: u32) -> Option<u64> {
        self.addresses.get(&value).copied()
    }
}

/// Two pinned buffers: one is filled while the other is copied to the device.
struct Staging<'a> {
    opened: &'a Opened,
    queue: Queue,
    buffers: [(*mut c_void, Mark); 2],
    turn: usize,
}

impl<'a> Staging<'a> {
    fn new(opened: &'a Opened) -> Result<Staging<'a>> {
        let (driver, context) = (&opened.driver, opened.context);
        let buffer = || Ok((driver.allocate_pinned(context, PIECE)?, driver.mark(context, false)?));
        Ok(Staging { opened, queue: driver.queue(context)?, buffers: [buffer()?, buffer()?], turn: 0 })
    }

    fn send_all(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        let mut pieces = bytes.chunks(PIECE).enumerate();
        pieces.try_for_each(|(number, piece)| self.send(address + (number * PIECE) as u64, piece))
    }

    fn send(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        let (driver, context) = (&self.opened.driver, self.opened.context);
        let (buffer, mark) = self.buffers[self.turn];
        self.turn = 1 - self.turn;
        driver.synchronize_mark(context, mark)?;
        // SAFETY: the buffer holds PIECE bytes, of which no copy is under way; the target was allocated for the bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), buffer.cast(), bytes.len());
            let (to, from) = (Side::Device(context, address), Side::Host(buffer));
            driver.copy(context, self.queue, to, from, bytes.len())?;
        }
        driver.record(context, self.queue, mark)
    }

    fn finish(self) -> Result<()> {
        self.opened.driver.synchronize(self.opened.context, self.queue)
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        let (driver, context) = (&self.opened.driver, self.opened.context);
        driver.destroy_queue(context, self.queue);
        for (buffer, mark) in self.buffers {
            driver.destroy_mark(context, mark);
            // SAFETY: the driver gave the buffer, and the queue's work is done.
            unsafe { driver.free_pinned(context, buffer) };
        }
    }
}
