//! Runs, on the caller's thread or on one of their own.

use std::ffi::c_void;
use std::sync::Arc;

use smallvec::SmallVec;
use tenon_runtime::error::{Error, ErrorKind, Result};
use tenon_runtime::execute::Binding;
use tenon_runtime::session::Session;
use tenon_runtime::tensor::{Tensor, Value};

use crate::argument;
use crate::error::{CError, guard, guarded, into_raw, shielded};
use crate::session::CSession;
use crate::view::View;

type Inputs = SmallVec<[Option<Value>; 4]>;

/// See `tenon.h`.
///
/// # Safety
/// Pointers are NULL or valid as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenon_session_run(
    session: *const CSession,
    inputs: *const View,
    input_count: usize,
    outputs: *mut View,
    output_count: usize,
) -> *mut CError {
    guard(|| {
        // SAFETY: promised by the caller.
        let (session, inputs, outputs) = unsafe {
            (
                argument::reference(session, "session")?,
                argument::slice(inputs, input_count, "inputs")?,
                argument::slice_mut(outputs, output_count, "outputs")?,
            )
        };
        // SAFETY: promised by the caller; the values do not outlive the call.
        let values = inputs.iter().enumerate().map(|(index, view)| unsafe { view.input(index) });
        // SAFETY: promised by the caller.
        unsafe { run(&session.session, inputs, values, outputs) }
    })
}

/// The values of the inputs.
///
/// # Safety
/// As [`View::input`].
unsafe fn read(inputs: &[View]) -> Result<Inputs> {
    let mut values = Inputs::new();
    for (index, view) in inputs.iter().enumerate() {
        // SAFETY: promised by the caller.
        values.push(unsafe { view.input(index) }?);
    }
    Ok(values)
}

/// Runs, and fills in the outputs when all of it succeeded.
///
/// # Safety
/// `values` are those of `inputs`; the memory of `outputs` is writable.
unsafe fn run(
    session: &Session,
    inputs: &[View],
    values: impl Iterator<Item = Result<Option<Value>>>,
    outputs: &mut [View],
) -> Result<()> {
    let declared = session.outputs().len();
    if outputs.len() > declared {
        return Err(Error::invalid_input(format!(
            "the model has {declared} outputs, {} were asked for",
            outputs.len()
        )));
    }
    let mut bindings: SmallVec<[Option<Binding>; 4]> = SmallVec::new();
    for (index, view) in outputs.iter().enumerate() {
        bindings.push(view.binding(index)?);
    }
    let results = session.run_fallible(values, &bindings)?;
    for (index, (value, view)) in results.iter().zip(&*outputs).enumerate() {
        view.check(index, tensor(value, index)?)?;
    }
    for index in 0..outputs.len() {
        let tensor = tensor(&results[index], index)?;
        if outputs[index].is_owned() {
            // Memory of the caller ends with the caller's interest in it: views of it are copied.
            let borrows = inputs.iter().chain(&*outputs).any(|view| view.contains(tensor));
            let own = if borrows { copied(tensor)? } else { tensor.clone() };
            outputs[index].own(own);
        } else {
            // SAFETY: every view was checked above.
            unsafe { outputs[index].fill(tensor) };
        }
    }
    Ok(())
}

fn copied(tensor: &Tensor) -> Result<Tensor> {
    Tensor::copy_from_bytes(tensor.dtype(), tensor.dims(), tensor.as_bytes())
}

fn tensor(value: &Value, index: usize) -> Result<&Tensor> {
    match value {
        Value::Tensor(tensor) => Ok(tensor),
        Value::Optional(Some(inner)) => tensor(inner, index),
        other => Err(Error::unsupported(format!(
            "output {index} is {}; this interface returns tensors only, leave the output out",
            other.description()
        ))),
    }
}

type Callback = unsafe extern "C" fn(*mut c_void, *mut CError, *mut View, usize);

/// A run that waits for its thread.
struct Task {
    session: Arc<Session>,
    /// The data pointers of the caller, to tell outputs that are views of them.
    inputs: SmallVec<[View; 4]>,
    values: Inputs,
    callback: Callback,
    user: *mut c_void,
}

// SAFETY: the header tells callers that the input memory is read and the callback called on another thread.
unsafe impl Send for Task {}

impl Task {
    fn run(self) {
        let Task { session, inputs, values, callback, user } = self;
        let mut outputs: SmallVec<[View; 4]> = SmallVec::from_elem(View::EMPTY, session.outputs().len());
        let values = values.into_iter().map(Ok);
        // SAFETY: the values are those of the inputs; no output is in the caller's memory.
        let result = guarded(|| unsafe { run(&session, &inputs, values, &mut outputs) });
        // The callee may end the process or wait for the session to be gone.
        drop(session);
        let (error, data, count) = match &result {
            Ok(()) => (std::ptr::null_mut(), outputs.as_mut_ptr(), outputs.len()),
            Err(error) => (into_raw(error), std::ptr::null_mut(), 0),
        };
        // SAFETY: the caller gave a function of this type.
        unsafe { callback(user, error, data, count) };
    }
}

/// See `tenon.h`.
///
/// # Safety
/// Pointers are NULL or valid as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenon_session_run_async(
    session: *const CSession,
    inputs: *const View,
    input_count: usize,
    callback: Option<Callback>,
    user: *mut c_void,
) -> *mut CError {
    guard(|| {
        // SAFETY: promised by the caller.
        let (session, inputs) = unsafe {
            (argument::reference(session, "session")?, argument::slice(inputs, input_count, "inputs")?)
        };
        let callback = callback.ok_or_else(|| Error::invalid_input("argument 'callback' is NULL"))?;
        // SAFETY: the caller keeps the memory until the callback is called.
        let values = unsafe { read(inputs) }?;
        let session = session.session.clone();
        let task = Task { session, inputs: SmallVec::from_slice(inputs), values, callback, user };
        let thread = std::thread::Builder::new().name("tenon-run".into());
        let spawned = thread.spawn(move || shielded((), || task.run()));
        spawned
            .map(drop)
            .map_err(|error| Error::new(ErrorKind::Limit, format!("cannot start a thread: {error}")))
    })
}
