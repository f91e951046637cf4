//! Checks a provider's table and fetches it whole: a table that is shorter than ours reads as NULL behind its end.

use super::error::{Result, unnamed};
use crate::ffi;
use crate::provider::Features;
use alloc::format;
use alloc::string::String;
use core::mem::{MaybeUninit, offset_of};

/// A copy of a checked table: every mandatory function is there.
pub(super) struct Table {
    pub(super) api: ffi::ProviderApi,
    /// Where the table was copied from: what makes two providers the same.
    pub(super) address: *const ffi::ProviderApi,
}

/// The member `$name` of a checked table.
macro_rules! mandatory {
    ($table:expr, $name:ident) => {
        $table.api.$name.expect(concat!("the table was checked to have ", stringify!($name)))
    };
}
pub(super) use mandatory;

impl Table {
    /// Checks version, size and mandatory members.
    ///
    /// # Safety
    /// `table` is NULL or a provider's table that lives as long as the process.
    pub(super) unsafe fn new(table: *const ffi::ProviderApi) -> Result<Table> {
        if table.is_null() {
            return Err(unnamed("the provider's entry returned no table".into()));
        }
        // SAFETY: the caller vouches for the table; size and versions come first in every version of the contract.
        let (size, major, minor) = unsafe { ((*table).struct_size, (*table).abi_major, (*table).abi_minor) };
        if major != ffi::ABI_MAJOR {
            return Err(unnamed(format!(
                "the provider was built for version {major}.{minor} of the plugin contract, this host has {}.{}: use a \
                 provider built for version {}",
                ffi::ABI_MAJOR,
                ffi::ABI_MINOR,
                ffi::ABI_MAJOR,
            )));
        }
        if size < offset_of!(ffi::ProviderApi, initialize) {
            return Err(unnamed(format!(
                "the provider's table has struct_size {size}, which does not even cover its name: expected about {}",
                size_of::<ffi::ProviderApi>()
            )));
        }
        // SAFETY: the caller vouches for struct_size bytes.
        let table = Table { api: unsafe { read_sized(table, size) }, address: table };
        // SAFETY: texts of the table live as long as the process.
        let name = unsafe { table.api.name.as_str() }.filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| unnamed("the provider's name is empty or not UTF-8".into()))?;
        match table.missing() {
            None => Ok(table),
            Some(what) => Err(unnamed(format!(
                "provider '{name}' (contract {major}.{minor}): its table lacks {what}, which version {}.0 requires",
                ffi::ABI_MAJOR
            ))),
        }
    }

    /// The first mandatory function that is NULL, or the first function of an optional family that is only partly there.
    fn missing(&self) -> Option<String> {
        let api = &self.api;
        macro_rules! check {
            ($($name:ident),*) => {
                $(if api.$name.is_none() { return Some(stringify!($name).into()); })*
            };
        }
        check!(
            initialize,
            score,
            enumerate_devices,
            open_device,
            close_device,
            memory_info,
            allocate,
            free,
            copy
        );
        check!(stream_create, stream_destroy, stream_synchronize, event_create, event_destroy, event_record);
        check!(event_wait, event_query, event_synchronize, claim, compile, executable_destroy, run);
        macro_rules! families {
            ($([$first:ident $(, $name:ident)*])*) => {
                $($(if api.$first.is_some() != api.$name.is_some() {
                    let (has, lacks) = if api.$first.is_some() {
                        (stringify!($first), stringify!($name))
                    } else {
                        (stringify!($name), stringify!($first))
                    };
                    return Some(format!("{lacks} (it has {has})"));
                })*)*
            };
        }
        families! {
            [allocate_ordered, free_ordered]
            [capture_begin, capture_end, recording_launch, recording_destroy]
            [executable_serialize, executable_deserialize]
            [kv_pool_create, kv_pool_destroy, kv_pool_data, kv_pool_copy_pages]
            [group_create, group_destroy, all_reduce, all_gather]
            [timeline_start, timeline_stop]
        }
        None
    }

    /// Which optional functions are there.
    pub(super) fn features(&self) -> Features {
        let api = &self.api;
        Features {
            ordered_allocation: api.allocate_ordered.is_some(),
            wrap_stream: api.stream_wrap.is_some(),
            capture: api.capture_begin.is_some(),
            attention: api.attention_caps.is_some(),
            compile_cache: api.executable_serialize.is_some(),
            released: api.executable_released.is_some(),
            workspace: api.workspace_bytes.is_some(),
            kv_pool: api.kv_pool_create.is_some(),
            sampling: api.sample.is_some(),
            collectives: api.group_create.is_some(),
            timeline: api.timeline_start.is_some(),
            extension: api.extension.is_some(),
        }
    }
}

/// Copies a struct whose creator knew `size` bytes of it; what lies behind them is zero.
///
/// # Safety
/// `source` points at `size` readable bytes that start a `T`, zero bytes are a valid tail of `T`, and `size` does not end
/// inside a member.
pub(super) unsafe fn read_sized<T: core::marker::Copy>(source: *const T, size: usize) -> T {
    let mut whole = MaybeUninit::<T>::zeroed();
    let len = size.min(size_of::<T>());
    // SAFETY: the caller vouches for the source, and the copy is not longer than T.
    unsafe {
        core::ptr::copy_nonoverlapping(source.cast::<u8>(), whole.as_mut_ptr().cast::<u8>(), len);
        whole.assume_init()
    }
}
