//! Functions of the table about key-value pools, sampling and collectives.

use super::{destroy, hand_out, null, object, put, status};
use crate::provider::{Device, Export, Group, KvPool, StreamOf};
use crate::view::{covers, slice_at};
use crate::{DType, Error, Result, ffi};
use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;
use core::ffi::c_void;

type BoxedPool<P> = Box<dyn KvPool<StreamOf<P>>>;
type BoxedGroup<P> = Box<dyn Group<StreamOf<P>>>;

pub unsafe extern "C" fn kv_pool_create<P: Export>(
    device: *mut ffi::Device,
    args: *const ffi::KvPoolArgs,
    pool: *mut *mut ffi::KvPool,
) -> *mut ffi::Status {
    // SAFETY: the header: the device lives, args is readable, pool is writable.
    status::<P>(|| unsafe {
        let device: &P::Device = object(device, "device")?;
        let args = args.as_ref().ok_or_else(|| null("kv_pool_create: args"))?;
        covers::<ffi::KvPoolArgs>(args.struct_size, "key-value pool args")?;
        hand_out(pool, "kv_pool_create: pool", || device.kv_pool(args))
    })
}

pub unsafe extern "C" fn kv_pool_destroy<P: Export>(pool: *mut ffi::KvPool) {
    // SAFETY: the header: the caller gives the pool up.
    unsafe { destroy::<P, BoxedPool<P>, _>(pool) }
}

pub unsafe extern "C" fn kv_pool_data<P: Export>(
    pool: *mut ffi::KvPool,
    data: *mut *mut c_void,
    bytes: *mut usize,
) -> *mut ffi::Status {
    // SAFETY: the header: the pool lives and both out pointers are writable.
    status::<P>(|| unsafe {
        let (address, len) = object::<BoxedPool<P>, _>(pool, "pool")?.data();
        put(data, "kv_pool_data: data", address)?;
        put(bytes, "kv_pool_data: bytes", len)
    })
}

pub unsafe extern "C" fn kv_pool_copy_pages<P: Export>(
    pool: *mut ffi::KvPool,
    stream: *mut ffi::Stream,
    pairs: *const u64,
    count: usize,
) -> *mut ffi::Status {
    // SAFETY: the header: pool and stream live, and pairs holds two numbers a pair.
    status::<P>(|| unsafe {
        let pairs = slice_at(pairs.cast::<[u64; 2]>(), count);
        object::<BoxedPool<P>, _>(pool, "pool")?.copy_pages(stream.cast::<StreamOf<P>>().as_ref(), pairs)
    })
}

pub unsafe extern "C" fn sample<P: Export>(
    device: *mut ffi::Device,
    args: *const ffi::SampleArgs,
) -> *mut ffi::Status {
    // SAFETY: the header: device and stream live, and args names device buffers of the sizes it says.
    status::<P>(|| unsafe {
        let device: &P::Device = object(device, "device")?;
        let args = args.as_ref().ok_or_else(|| null("sample: args"))?;
        covers::<ffi::SampleArgs>(args.struct_size, "sample args")?;
        device.sample(args.stream.cast::<StreamOf<P>>().as_ref(), args)
    })
}

pub unsafe extern "C" fn group_create<P: Export>(
    devices: *const *mut ffi::Device,
    count: usize,
    group: *mut *mut ffi::Group,
) -> *mut ffi::Status {
    // SAFETY: the header: the devices live and group is writable.
    status::<P>(|| unsafe {
        let devices: Vec<&P::Device> =
            slice_at(devices, count).iter().map(|&device| object(device, "device")).collect::<Result<_>>()?;
        hand_out(group, "group_create: group", || P::state().provider()?.group(&devices))
    })
}

pub unsafe extern "C" fn group_destroy<P: Export>(group: *mut ffi::Group) {
    // SAFETY: the header: the caller gives the group up.
    unsafe { destroy::<P, BoxedGroup<P>, _>(group) }
}

pub unsafe extern "C" fn all_reduce<P: Export>(
    group: *mut ffi::Group,
    rank: u32,
    stream: *mut ffi::Stream,
    src: *const c_void,
    dst: *mut c_void,
    count: usize,
    dtype: u32,
    reduction: ffi::Reduction,
) -> *mut ffi::Status {
    // SAFETY: the header: group and stream live, and src and dst hold count elements on the member's device.
    status::<P>(|| unsafe {
        let group: &BoxedGroup<P> = object(group, "group")?;
        group.all_reduce(
            rank,
            stream.cast::<StreamOf<P>>().as_ref(),
            src,
            dst,
            count,
            element_type(dtype)?,
            reduction,
        )
    })
}

pub unsafe extern "C" fn all_gather<P: Export>(
    group: *mut ffi::Group,
    rank: u32,
    stream: *mut ffi::Stream,
    src: *const c_void,
    dst: *mut c_void,
    count: usize,
    dtype: u32,
) -> *mut ffi::Status {
    // SAFETY: the header: group and stream live, and src and dst hold their elements on the member's device.
    status::<P>(|| unsafe {
        let group: &BoxedGroup<P> = object(group, "group")?;
        group.all_gather(rank, stream.cast::<StreamOf<P>>().as_ref(), src, dst, count, element_type(dtype)?)
    })
}

fn element_type(number: u32) -> Result<DType> {
    let dtype = i32::try_from(number).ok().and_then(DType::from_onnx);
    dtype.ok_or_else(|| Error::invalid(format!("element type {number} is not known to this provider")))
}
