//! Sessions: opening models and describing their inputs and outputs.

use std::path::Path;
use std::sync::Arc;

use tenon_plugin_api::ffi::Str;
use tenon_runtime::dtype::DType;
use tenon_runtime::error::{Error, Result};
use tenon_runtime::graph::{Dim, TypeInfo};
use tenon_runtime::session::{Session, SessionOptions, ValueSpec};

use crate::argument::{self, Versioned};
use crate::environment::CEnvironment;
use crate::error::{CError, guard, shielded};

/// `tenon_session`.
pub struct CSession {
    pub session: Arc<Session>,
    inputs: Box<[Described]>,
    outputs: Box<[Described]>,
}

/// `tenon_dim_override`.
#[repr(C)]
pub struct CDimOverride {
    name: Str,
    size: usize,
}

/// `tenon_session_options`.
#[repr(C)]
pub struct CSessionOptions {
    struct_size: usize,
    providers: *const Str,
    provider_count: usize,
    strict: u32,
    threads: u32,
    disable_optimization: u32,
    disable_fusion: u32,
    dims: *const CDimOverride,
    dim_count: usize,
}

/// `tenon_value_info`.
#[repr(C)]
pub struct CValueInfo {
    struct_size: usize,
    name: Str,
    kind: u32,
    dtype: u32,
    rank: i32,
    has_default: u32,
    dims: *const i64,
    dim_symbols: *const Str,
}

const _: () = assert!(size_of::<CDimOverride>() == 24);
const _: () = assert!(size_of::<CSessionOptions>() == 56);
const _: () = assert!(size_of::<CValueInfo>() == 56);

// SAFETY: plain data that starts with its size; NULL pointers are valid.
unsafe impl Versioned for CSessionOptions {}
// SAFETY: as above.
unsafe impl Versioned for CValueInfo {}

/// What the session lends out about one input or output.
struct Described {
    name: String,
    kind: u32,
    dtype: DType,
    has_default: bool,
    /// `None` when the rank is not known.
    dims: Option<Box<[i64]>>,
    /// One for each of `dims`, pointing into `names`.
    symbols: Box<[Str]>,
    /// What `symbols` points into.
    _names: Box<[Arc<str>]>,
}

// SAFETY: `symbols` points into `_names`, which is `Send + Sync` and never changed.
unsafe impl Send for Described {}
// SAFETY: as for `Send`.
unsafe impl Sync for Described {}

impl Described {
    fn new(spec: &ValueSpec) -> Described {
        let kind = match &spec.ty {
            None => 0,
            Some(TypeInfo::Tensor(_)) => 1,
            Some(TypeInfo::Sequence(_)) => 2,
            Some(TypeInfo::Optional(_)) => 3,
            Some(TypeInfo::Map { .. }) => 4,
        };
        let tensor = match &spec.ty {
            Some(TypeInfo::Optional(inner)) => inner.as_tensor(),
            ty => ty.as_ref().and_then(TypeInfo::as_tensor),
        };
        let shape = tensor.and_then(|tensor| tensor.shape.as_ref());
        let size = |dim: &Dim| dim.known().and_then(|n| i64::try_from(n).ok()).unwrap_or(-1);
        let names: Box<[Arc<str>]> =
            shape.map_or_else(Box::default, |shape| shape.iter().map(symbol).collect());
        Described {
            name: spec.name.clone(),
            kind,
            dtype: tensor.map_or(DType::Undefined, |tensor| tensor.dtype),
            has_default: spec.optional,
            dims: shape.map(|shape| shape.iter().map(size).collect()),
            symbols: names.iter().map(|name| Str::new(name)).collect(),
            _names: names,
        }
    }

    fn info(&self) -> CValueInfo {
        let (rank, dims) = match &self.dims {
            None => (-1, std::ptr::null()),
            Some(dims) => (i32::try_from(dims.len()).unwrap_or(-1), dims.as_ptr()),
        };
        CValueInfo {
            struct_size: size_of::<CValueInfo>(),
            name: Str::new(&self.name),
            kind: self.kind,
            dtype: self.dtype as u32,
            rank,
            has_default: u32::from(self.has_default),
            dims,
            dim_symbols: if dims.is_null() { std::ptr::null() } else { self.symbols.as_ptr() },
        }
    }
}

fn symbol(dim: &Dim) -> Arc<str> {
    match dim {
        Dim::Symbol(name) => name.clone(),
        Dim::Expr(expr) => expr.to_string().into(),
        _ => "".into(),
    }
}

impl CSession {
    fn new(session: Session) -> CSession {
        CSession {
            inputs: session.inputs().iter().map(Described::new).collect(),
            outputs: session.outputs().iter().map(Described::new).collect(),
            session: Arc::new(session),
        }
    }
}

/// The options of the caller; defaults when there are none.
///
/// # Safety
/// `options` is NULL or valid with everything it points at.
unsafe fn options(options: *const CSessionOptions) -> Result<SessionOptions> {
    let mut parsed = SessionOptions::default();
    // SAFETY: promised by the caller.
    let Some(given) = (unsafe { argument::read(options, "options") })? else { return Ok(parsed) };
    // SAFETY: promised by the caller.
    let providers = unsafe { argument::slice(given.providers, given.provider_count, "options.providers") }?;
    for &request in providers {
        // SAFETY: promised by the caller.
        parsed.providers.push(unsafe { argument::text(request, "options.providers") }?.parse()?);
    }
    // SAFETY: promised by the caller.
    for dim in unsafe { argument::slice(given.dims, given.dim_count, "options.dims") }? {
        // SAFETY: promised by the caller.
        let name = unsafe { argument::text(dim.name, "options.dims") }?;
        parsed.dims.insert(name.to_string(), dim.size);
    }
    parsed.strict = given.strict != 0;
    parsed.threads = (given.threads != 0).then_some(given.threads as usize);
    parsed.optimize = given.disable_optimization == 0;
    parsed.fuse = given.disable_fusion == 0;
    Ok(parsed)
}

/// See `tenon.h`.
///
/// # Safety
/// Pointers are NULL or valid as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenon_session_create(
    environment: *const CEnvironment,
    path: Str,
    session_options: *const CSessionOptions,
    session: *mut *mut CSession,
) -> *mut CError {
    guard(|| {
        // SAFETY: promised by the caller.
        let (environment, out) = unsafe {
            (argument::reference(environment, "environment")?, argument::exclusive(session, "session")?)
        };
        // SAFETY: promised by the caller.
        let (path, options) = unsafe { (argument::text(path, "path")?, options(session_options)?) };
        let opened = Session::open(&environment.environment, Path::new(path), &options)?;
        *out = Box::into_raw(Box::new(CSession::new(opened)));
        Ok(())
    })
}

/// See `tenon.h`.
///
/// # Safety
/// Pointers are NULL or valid as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenon_session_create_from_memory(
    environment: *const CEnvironment,
    data: *const u8,
    bytes: usize,
    session_options: *const CSessionOptions,
    session: *mut *mut CSession,
) -> *mut CError {
    guard(|| {
        // SAFETY: promised by the caller.
        let (environment, out) = unsafe {
            (argument::reference(environment, "environment")?, argument::exclusive(session, "session")?)
        };
        // SAFETY: promised by the caller.
        let (model, options) = unsafe { (argument::slice(data, bytes, "data")?, options(session_options)?) };
        let opened = Session::from_bytes(&environment.environment, model.to_vec(), &options)?;
        *out = Box::into_raw(Box::new(CSession::new(opened)));
        Ok(())
    })
}

/// See `tenon.h`.
///
/// # Safety
/// `session` is NULL or a session that was not destroyed, and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenon_session_destroy(session: *mut CSession) {
    if !session.is_null() {
        // SAFETY: every session comes from a create function.
        shielded((), || drop(unsafe { Box::from_raw(session) }));
    }
}

/// See `tenon.h`.
///
/// # Safety
/// `session` is NULL or a session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenon_session_input_count(session: *const CSession) -> usize {
    // SAFETY: promised by the caller.
    unsafe { session.as_ref() }.map_or(0, |session| session.inputs.len())
}

/// See `tenon.h`.
///
/// # Safety
/// `session` is NULL or a session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenon_session_output_count(session: *const CSession) -> usize {
    // SAFETY: promised by the caller.
    unsafe { session.as_ref() }.map_or(0, |session| session.outputs.len())
}

/// See `tenon.h`.
///
/// # Safety
/// `session` is NULL or a session; `info` is NULL or as long as its first member says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenon_session_input(
    session: *const CSession,
    index: usize,
    info: *mut CValueInfo,
) -> *mut CError {
    // SAFETY: promised by the caller.
    guard(|| unsafe { describe(&argument::reference(session, "session")?.inputs, "input", index, info) })
}

/// See `tenon.h`.
///
/// # Safety
/// `session` is NULL or a session; `info` is NULL or as long as its first member says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenon_session_output(
    session: *const CSession,
    index: usize,
    info: *mut CValueInfo,
) -> *mut CError {
    // SAFETY: promised by the caller.
    guard(|| unsafe { describe(&argument::reference(session, "session")?.outputs, "output", index, info) })
}

/// Fills in the caller's struct.
///
/// # Safety
/// `info` is NULL or as long as its first member says.
unsafe fn describe(list: &[Described], what: &str, index: usize, info: *mut CValueInfo) -> Result<()> {
    let described = list.get(index).ok_or_else(|| {
        Error::invalid_input(format!("the model has no {what} {index}; it has {}", list.len()))
    })?;
    // SAFETY: promised by the caller.
    unsafe { argument::write(info, &described.info(), "info") }
}
