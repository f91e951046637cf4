//! What the host hands in: its log, where claims go, where serialised bytes go.

use crate::{Error, Result, ffi};
use core::ffi::c_void;

/// The host's table, valid for the life of the process.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    api: &'static ffi::HostApi,
}

impl Host {
    /// Wraps the table that `initialize` received.
    ///
    /// # Safety
    /// The table is as the header says for the life of the process.
    pub(super) unsafe fn new(api: *const ffi::HostApi) -> Result<Host> {
        // SAFETY: the caller vouches for the table.
        let api =
            unsafe { api.as_ref() }.ok_or_else(|| Error::invalid("initialize: the host's table is NULL"))?;
        crate::view::covers::<ffi::HostApi>(api.struct_size, "host table")?;
        Ok(Host { api })
    }

    /// `tenon`, or the name of the program that hosts the provider.
    pub fn name(&self) -> &'static str {
        // SAFETY: the table's texts live as long as the process.
        unsafe { self.api.name.as_str() }.unwrap_or_default()
    }

    pub fn version(&self) -> &'static str {
        // SAFETY: the table's texts live as long as the process.
        unsafe { self.api.version.as_str() }.unwrap_or_default()
    }

    /// True when lines of `level` (a `LOG_` constant) are kept; ask before building a costly message.
    pub fn log_enabled(&self, level: ffi::LogLevel) -> bool {
        // SAFETY: the function lives as long as the process and takes any level.
        self.api.log_enabled.is_some_and(|enabled| unsafe { enabled(level) } != 0)
    }

    /// Writes a line to the host's log; `target` names the part of the provider that speaks.
    pub fn log(&self, level: ffi::LogLevel, target: &str, message: &str) {
        if let Some(log) = self.api.log {
            // SAFETY: the function lives as long as the process; the texts outlive the call.
            unsafe { log(level, ffi::Str::new(target), ffi::Str::new(message)) };
        }
    }
}

/// Where a device says what it can run.
pub struct ClaimSink<'a> {
    context: *mut c_void,
    claim: unsafe extern "C" fn(*mut c_void, *const u32, usize, ffi::Cost),
    decline: unsafe extern "C" fn(*mut c_void, u32, ffi::Str),
    _host: core::marker::PhantomData<&'a mut ffi::ClaimSink>,
}

impl<'a> ClaimSink<'a> {
    /// # Safety
    /// `sink` is NULL or as the header says for `'a`.
    pub(super) unsafe fn new(sink: *const ffi::ClaimSink) -> Result<ClaimSink<'a>> {
        // SAFETY: the caller vouches for the sink.
        let sink = unsafe { sink.as_ref() }.ok_or_else(|| Error::invalid("claim: the sink is NULL"))?;
        crate::view::covers::<ffi::ClaimSink>(sink.struct_size, "claim sink")?;
        match (sink.claim, sink.decline) {
            (Some(claim), Some(decline)) => {
                Ok(ClaimSink { context: sink.context, claim, decline, _host: core::marker::PhantomData })
            }
            _ => Err(Error::invalid("claim: a function of the sink is NULL")),
        }
    }

    /// The device would run these nodes (indices into the graph's nodes) together. A node may be claimed once.
    pub fn claim(&mut self, nodes: &[u32], cost: ffi::Cost) {
        // SAFETY: function and context come from one sink; the indices outlive the call.
        unsafe { (self.claim)(self.context, nodes.as_ptr(), nodes.len(), cost) };
    }

    /// The device will not run `node`, and why: a sentence a user understands.
    pub fn decline(&mut self, node: u32, reason: &str) {
        // SAFETY: function and context come from one sink; the text outlives the call.
        unsafe { (self.decline)(self.context, node, ffi::Str::new(reason)) };
    }
}

/// Where serialised bytes go, in order, in pieces.
pub struct ByteSink<'a> {
    context: *mut c_void,
    write: unsafe extern "C" fn(*mut c_void, *const c_void, usize) -> *mut ffi::Status,
    _host: core::marker::PhantomData<&'a mut ffi::ByteSink>,
}

impl<'a> ByteSink<'a> {
    /// # Safety
    /// `sink` is NULL or as the header says for `'a`.
    pub(super) unsafe fn new(sink: *const ffi::ByteSink) -> Result<ByteSink<'a>> {
        // SAFETY: the caller vouches for the sink.
        let sink = unsafe { sink.as_ref() }.ok_or_else(|| Error::invalid("serialize: the sink is NULL"))?;
        crate::view::covers::<ffi::ByteSink>(sink.struct_size, "byte sink")?;
        match sink.write {
            Some(write) => Ok(ByteSink { context: sink.context, write, _host: core::marker::PhantomData }),
            None => Err(Error::invalid("serialize: the sink's write is NULL")),
        }
    }

    /// Appends `bytes`; a failure is the host's and is to be handed back to it.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        // SAFETY: function and context come from one sink; the bytes outlive the call; the status is ours.
        unsafe { Error::check((self.write)(self.context, bytes.as_ptr().cast(), bytes.len())) }
    }
}
