//! Everything the library knows: devices, streams, events, modules, graphs, by handle.

use crate::chip::Chip;
use crate::status::{Result, Status};
use crate::work::Work;
use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::c_int;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use tenon_emulator::{Kernel, Memory};

/// A number that callers hold as a pointer; 0 is never one.
pub(crate) type Handle = usize;

pub(crate) struct Device {
    pub chip: Chip,
    /// Bytes in all and in use.
    pub capacity: u64,
    pub used: u64,
    /// The error that every later call reports.
    pub fault: Option<Status>,
    pub launches: u64,
}

pub(crate) struct Stream {
    pub device: usize,
    /// Emulated seconds.
    pub clock: f64,
    pub capture: Option<Handle>,
}

#[derive(Clone, Copy, Default)]
pub(crate) struct Event {
    pub timed: bool,
    /// The stream's clock when it was recorded.
    pub time: Option<f64>,
    /// The capture that recorded it.
    pub capture: Option<Handle>,
}

/// A capture in progress.
#[derive(Default)]
pub(crate) struct Capture {
    pub origin: Handle,
    pub work: Vec<Work>,
    /// Streams that took part and have work that the origin did not wait for.
    pub unjoined: Vec<Handle>,
}

/// An allocation of a device.
pub(crate) struct Allocation {
    pub device: Option<usize>,
    pub bytes: u64,
    /// Host memory that this library owns.
    pub host: Option<Vec<u64>>,
}

pub(crate) struct Function {
    pub kernel: Kernel,
    pub module: Handle,
}

pub(crate) struct State {
    pub devices: Vec<Device>,
    pub memory: Arc<Memory>,
    pub allocations: HashMap<u64, Allocation>,
    pub streams: HashMap<Handle, Stream>,
    pub events: HashMap<Handle, Event>,
    pub modules: HashMap<Handle, tenon_emulator::CodeObject>,
    pub functions: HashMap<Handle, Function>,
    pub captures: HashMap<Handle, Capture>,
    pub graphs: HashMap<Handle, Arc<Vec<Work>>>,
    pub executables: HashMap<Handle, Arc<Vec<Work>>>,
    pub peers: Vec<(usize, usize)>,
    pub last_fault: String,
    /// Launches after which a device is lost.
    pub lose_after: Option<u64>,
    next: Handle,
}

thread_local! {
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// The one state of the process.
pub(crate) fn state() -> MutexGuard<'static, State> {
    static STATE: OnceLock<Mutex<State>> = OnceLock::new();
    let state = STATE.get_or_init(|| Mutex::new(State::from_environment()));
    state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The calling thread's device.
pub(crate) fn current() -> usize {
    CURRENT.get()
}

pub(crate) fn set_current(device: usize) {
    CURRENT.set(device);
}

impl State {
    fn from_environment() -> State {
        let names = std::env::var("TENON_HIP_DEVICES").unwrap_or_default();
        let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
        let capacity = number("TENON_HIP_MEMORY");
        let mut devices = Vec::new();
        for name in names.split(',').filter(|name| !name.trim().is_empty()) {
            match Chip::from_name(name) {
                Some(chip) => {
                    let capacity = capacity.unwrap_or(chip.memory);
                    devices.push(Device { chip, capacity, used: 0, fault: None, launches: 0 });
                }
                None => eprintln!(
                    "TENON_HIP_DEVICES: no chip is called '{name}'; expected MI300X, MI325X or MI355X"
                ),
            }
        }
        State {
            devices,
            // Each device counts its own bytes.
            memory: Arc::new(Memory::new(u64::MAX / 2)),
            allocations: HashMap::new(),
            streams: HashMap::new(),
            events: HashMap::new(),
            modules: HashMap::new(),
            functions: HashMap::new(),
            captures: HashMap::new(),
            graphs: HashMap::new(),
            executables: HashMap::new(),
            peers: Vec::new(),
            last_fault: String::new(),
            lose_after: number("TENON_HIP_LOSE_AFTER"),
            next: 0x1000,
        }
    }

    pub fn handle(&mut self) -> Handle {
        self.next += 0x10;
        self.next
    }

    pub fn device(&self, ordinal: c_int) -> Result<&Device> {
        let ordinal = usize::try_from(ordinal).map_err(|_| Status::INVALID_DEVICE)?;
        self.devices.get(ordinal).ok_or(Status::INVALID_DEVICE)
    }

    /// Fails as the driver does once a device has faulted.
    pub fn healthy(&self, device: usize) -> Result<()> {
        let device = self.devices.get(device).ok_or(Status::NO_DEVICE)?;
        device.fault.map_or(Ok(()), Err)
    }

    /// A stream by its handle; 0 is the device's default stream.
    pub fn stream(&mut self, handle: Handle) -> Result<&mut Stream> {
        if handle <= 2 {
            let device = current();
            self.healthy(device)?;
            // Default streams have handles below all others.
            let default = Stream { device, clock: 0.0, capture: None };
            return Ok(self.streams.entry(0x100 + device).or_insert(default));
        }
        let device = self.streams.get(&handle).ok_or(Status::INVALID_HANDLE)?.device;
        self.healthy(device)?;
        self.streams.get_mut(&handle).ok_or(Status::INVALID_HANDLE)
    }

    /// Records a fault that all later calls on the device report.
    pub fn fail(&mut self, device: usize, status: Status, text: String) {
        eprintln!("device {device}: {text}");
        self.last_fault = text;
        if let Some(device) = self.devices.get_mut(device) {
            device.fault.get_or_insert(status);
        }
    }

    /// Allocates on a device.
    pub fn allocate(&mut self, device: usize, bytes: u64) -> Result<u64> {
        self.healthy(device)?;
        let owner = &mut self.devices[device];
        if bytes > owner.capacity - owner.used {
            return Err(Status::OUT_OF_MEMORY);
        }
        let address = self.memory.allocate(bytes).map_err(|error| Status::of(&error))?;
        owner.used += bytes;
        self.allocations.insert(address, Allocation { device: Some(device), bytes, host: None });
        Ok(address)
    }

    /// Frees what [`State::allocate`] gave; nothing for 0.
    pub fn free(&mut self, address: u64) -> Result<()> {
        if address == 0 {
            return Ok(());
        }
        let is_device = self.allocations.get(&address).is_some_and(|allocation| allocation.device.is_some());
        if !is_device {
            return Err(Status::INVALID_VALUE);
        }
        let allocation = self.allocations.remove(&address).ok_or(Status::INVALID_VALUE)?;
        if let Some(device) = allocation.device {
            self.devices[device].used -= allocation.bytes;
        }
        self.memory.free(address);
        Ok(())
    }
}
