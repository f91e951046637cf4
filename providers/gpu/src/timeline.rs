//! Which kernels ran when: marks of the device's clock around each launch while the timeline is on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use tenon_kernels::estimate::Cost;
use tenon_plugin_api::{Result, TimelineEntry};

use crate::driver::{Mark, Queue};
use crate::opened::Opened;

/// What is known of a launch beforehand.
pub(crate) struct Span {
    pub symbol: String,
    pub node: String,
    pub op_type: String,
    pub parameters: String,
    pub stream: u64,
    pub cost: Option<Cost>,
}

/// The spans of a device.
#[derive(Default)]
pub(crate) struct Timeline {
    is_on: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// A mark at the start, and the host's clock then.
    origin: Option<(Mark, u64)>,
    spans: Vec<(Span, Mark, Mark)>,
}

impl Timeline {
    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// Starts keeping spans.
    pub fn start(&self, opened: &Opened) -> Result<()> {
        let queue = opened.driver.queue(opened.context)?;
        let origin = opened.driver.mark(opened.context, true)?;
        opened.driver.record(opened.context, queue, origin)?;
        opened.driver.synchronize(opened.context, queue)?;
        opened.driver.destroy_queue(opened.context, queue);
        self.state.lock().unwrap_or_else(PoisonError::into_inner).origin = Some((origin, monotonic_ns()));
        self.is_on.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Does `work` on `queue` between two marks.
    pub fn around(
        &self,
        opened: &Opened,
        queue: Queue,
        span: Span,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let mark = || opened.driver.mark(opened.context, true);
        let (from, to) = (mark()?, mark()?);
        opened.driver.record(opened.context, queue, from)?;
        work()?;
        opened.driver.record(opened.context, queue, to)?;
        self.state.lock().unwrap_or_else(PoisonError::into_inner).spans.push((span, from, to));
        Ok(())
    }

    /// Stops, waits for the work and gives what was kept.
    pub fn stop(&self, opened: &Opened) -> Result<Vec<TimelineEntry>> {
        self.is_on.store(false, Ordering::Relaxed);
        let state = std::mem::take(&mut *self.state.lock().unwrap_or_else(PoisonError::into_inner));
        let Some((origin, origin_ns)) = state.origin else { return Ok(Vec::new()) };
        let (driver, context) = (&opened.driver, opened.context);
        let mut entries = Vec::with_capacity(state.spans.len());
        for (span, from, to) in state.spans {
            driver.synchronize_mark(context, to)?;
            let start_ms = driver.elapsed_ms(context, origin, from)?;
            let length_ms = driver.elapsed_ms(context, from, to)?;
            driver.destroy_mark(context, from);
            driver.destroy_mark(context, to);
            entries.push(TimelineEntry {
                symbol: span.symbol,
                node: span.node,
                op_type: span.op_type,
                parameters: span.parameters,
                start_ns: origin_ns + nanoseconds(start_ms),
                duration_ns: nanoseconds(length_ms),
                stream: span.stream,
                flops: span.cost.map_or(-1.0, |cost| cost.flops),
                bytes: span.cost.map_or(-1.0, |cost| cost.bytes),
            });
        }
        driver.destroy_mark(context, origin);
        Ok(entries)
    }
}

fn nanoseconds(milliseconds: f32) -> u64 {
    (f64::from(milliseconds.max(0.0)) * 1e6) as u64
}

/// The system's monotonic clock, which every library of the process reads alike.
fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes the struct it is given.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
