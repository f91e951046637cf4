//! Device tensors of a session, and runs bound to them.

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::execute::{BoundRun, DeviceTensor, Given};
use crate::session::{Session, values};
use crate::tensor::Tensor;

impl Session {
    /// Memory for a tensor on the session's first device that has memory of its own; its content is whatever was there.
    pub fn device_tensor(&self, dtype: DType, dims: &[usize]) -> Result<DeviceTensor> {
        let device = self.devices.iter().find(|device| !device.cost.shares_host_memory);
        let device = device.ok_or_else(|| {
            Error::invalid_input("no device of this session has memory of its own; tensors are on the host")
        })?;
        DeviceTensor::allocate(&device.handle, dtype, dims)
    }

    /// A tensor copied to the device.
    pub fn upload(&self, tensor: &Tensor) -> Result<DeviceTensor> {
        let target = self.device_tensor(tensor.dtype(), tensor.dims())?;
        target.write(tensor)?;
        Ok(target)
    }

    /// A run over fixed memory, to be repeated. Every input without a default is given; outputs that are not bound are
    /// copied to the host.
    pub fn bind(&self, inputs: &[(&str, Given)], outputs: &[(&str, DeviceTensor)]) -> Result<BoundRun<'_>> {
        let mut given: Vec<Option<Given>> = vec![None; self.inputs.len()];
        for (name, value) in inputs {
            let index = self.inputs.iter().position(|spec| spec.name == *name);
            let index = index.ok_or_else(|| values::unknown("input", name, &self.inputs))?;
            given[index] = Some(value.clone());
        }
        let is_overridden =
            self.places.iter().zip(&given).any(|(place, given)| place.is_none() && given.is_some());
        let runner = match &self.overridable {
            Some(overridable) if is_overridden => overridable.runner()?,
            _ => &self.runner,
        };
        let mut checker = values::Checker::default();
        let mut all = Vec::with_capacity(given.len());
        let specs = self.inputs.iter().zip(&self.defaults).zip(&self.places);
        for (((spec, default), place), given) in specs.zip(given) {
            if place.is_none() && !is_overridden {
                continue;
            }
            all.push(match given {
                Some(Given::Device(tensor)) => {
                    checker.check_shape(spec, tensor.dtype(), tensor.dims())?;
                    Given::Device(tensor)
                }
                Some(Given::Host(value)) => Given::Host(checker.check(spec, None, Some(value))?),
                None => Given::Host(checker.check(spec, default.as_ref(), None)?),
            });
        }
        let outputs = outputs
            .iter()
            .map(|(name, tensor)| {
                let index = self.outputs.iter().position(|spec| spec.name == *name);
                let index = index.ok_or_else(|| values::unknown("output", name, &self.outputs))?;
                Ok((index, tensor.clone()))
            })
            .collect::<Result<Vec<_>>>()?;
        BoundRun::new(runner, all, outputs)
    }
}
