//! Copies of a device: to and from the host, inside it, and to the provider's other devices. Each is checked byte by byte,
//! then timed.

use std::ffi::c_void;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::{Value as Json, json};
use tenon_autotune::tune::median;
use tenon_plugin_api::ffi;
use tenon_plugin_api::host::{Copy, Device, Memory, Provider};

/// No multiple of any vector.
const CHECKED_BYTES: usize = (1 << 20) + 3;
const TIMED_BYTES: usize = 256 << 20;
const RUNS: usize = 7;

/// One way of a copy.
pub struct Transfer {
    /// From where to where.
    pub what: String,
    /// Bytes a second: of what is copied, not what memory reads and writes.
    pub bytes_per_second: Option<f64>,
    /// What went wrong.
    pub failure: Option<String>,
}

impl Transfer {
    pub fn to_json(&self) -> Json {
        json!({ "what": self.what, "bytes_per_second": self.bytes_per_second, "failure": self.failure })
    }
}

/// All copies that device `index` takes part in; without times where `is_check`.
pub fn run(provider: &Provider, index: u32, seed: u64, is_check: bool) -> Result<Vec<Transfer>> {
    let infos = provider.devices()?;
    let own = provider.open(index, &[]).with_context(|| format!("opening device {index}"))?;
    let bytes = if is_check { CHECKED_BYTES } else { TIMED_BYTES };
    let room = Room::new(&own, bytes, seed)?;
    let mut found = vec![
        room.transfer("host to device", &room.host, &room.device, is_check),
        room.transfer("device to host", &room.device, &room.back, is_check),
        room.transfer("inside the device", &room.device, &room.copy, is_check),
    ];
    for info in infos.iter().filter(|info| info.index != index) {
        let what = format!("to device {} ({})", info.index, info.name);
        found.push(
            match provider.open(info.index, &[]).and_then(|other| other.allocate(ffi::MEMORY_DEVICE, bytes)) {
                Ok(there) => room.transfer(&what, &room.device, &there, is_check),
                Err(error) => Transfer { what, bytes_per_second: None, failure: Some(error.to_string()) },
            },
        );
    }
    Ok(found)
}

/// Memory on both sides: `host` holds a pattern, `device` the same once the room is made.
struct Room {
    own: Arc<Device>,
    host: Memory,
    back: Memory,
    device: Memory,
    copy: Memory,
}

impl Room {
    fn new(own: &Arc<Device>, bytes: usize, seed: u64) -> Result<Room> {
        let pinned = || own.allocate(ffi::MEMORY_PINNED, bytes).context("pinned host memory");
        let device = || own.allocate(ffi::MEMORY_DEVICE, bytes).context("device memory");
        let room =
            Room { own: own.clone(), host: pinned()?, back: pinned()?, device: device()?, copy: device()? };
        // SAFETY: the memory is the host's, of this size, and nothing else uses it yet.
        let pattern = unsafe { std::slice::from_raw_parts_mut(room.host.as_ptr().cast::<u8>(), bytes) };
        fastrand::Rng::with_seed(seed).fill(pattern);
        room.copied(&room.host, &room.device, bytes)?;
        Ok(room)
    }

    /// Checks a copy whose source holds the pattern, and times it.
    fn transfer(&self, what: &str, from: &Memory, to: &Memory, is_check: bool) -> Transfer {
        let mut found = Transfer { what: what.to_owned(), bytes_per_second: None, failure: None };
        match self.examine(from, to, is_check) {
            Ok(rate) => found.bytes_per_second = rate,
            Err(error) => found.failure = Some(format!("{error:#}")),
        }
        found
    }

    fn examine(&self, from: &Memory, to: &Memory, is_check: bool) -> Result<Option<f64>> {
        let bytes = CHECKED_BYTES;
        self.poison_back(bytes);
        self.copied(from, to, bytes)?;
        if to.kind() == ffi::MEMORY_DEVICE {
            self.copied(to, &self.back, bytes)?;
        }
        let read = |memory: &Memory| {
            // SAFETY: the memory is the host's, at least this large, and no copy is under way.
            unsafe { std::slice::from_raw_parts(memory.as_ptr().cast::<u8>(), bytes) }
        };
        let (sent, got) = (read(&self.host), read(&self.back));
        if let Some(at) = sent.iter().zip(got).position(|(a, b)| a != b) {
            bail!("byte {at} of {bytes} is {:#04x} instead of {:#04x}", got[at], sent[at]);
        }
        if is_check {
            return Ok(None);
        }
        let times = (0..RUNS).map(|_| {
            let start = Instant::now();
            self.copied(from, to, from.len())?;
            Ok(start.elapsed().as_secs_f64())
        });
        Ok(Some(from.len() as f64 / median(times.collect::<Result<_>>()?)?))
    }

    fn poison_back(&self, bytes: usize) {
        // SAFETY: the memory is the host's, at least this large, and no copy is under way.
        unsafe { self.back.as_ptr().write_bytes(0xee, bytes) };
    }

    /// Copies on a stream of the device, to the end.
    fn copied(&self, from: &Memory, to: &Memory, bytes: usize) -> Result<()> {
        let device = |memory: &Memory| (memory.kind() == ffi::MEMORY_DEVICE).then(|| memory.device().clone());
        let (src_device, dst_device) = (device(from), device(to));
        let copy = Copy {
            dst: to.as_ptr(),
            src: from.as_ptr().cast_const().cast::<c_void>(),
            bytes,
            dst_memory: to.kind(),
            src_memory: from.kind(),
            dst_device: dst_device.as_deref(),
            src_device: src_device.as_deref(),
        };
        let stream = self.own.stream()?;
        // SAFETY: both sides live and have at least `bytes` bytes until the stream has done its work.
        unsafe { stream.copy(std::slice::from_ref(&copy)) }?;
        stream.synchronize()?;
        Ok(())
    }
}
