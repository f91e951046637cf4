//! The weights of a model: the same numbers for the same name, made on the host or on the device.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use half::{bf16, f16};
use serde::Deserialize;
use tenon_runtime::dtype::DType;
use tenon_runtime::session::{DeviceTensor, Given, Session};
use tenon_runtime::tensor::{Tensor, Value};

/// `model.json`.
#[derive(Deserialize)]
pub struct Description {
    pub layers: usize,
    pub kv_heads: usize,
    pub head: usize,
    pub vocab: usize,
    pub theta: f64,
    pub dtype: String,
    pub logits: bool,
    pub weights: BTreeMap<String, Weight>,
}

/// A weight and what it holds.
#[derive(Deserialize)]
pub struct Weight {
    pub shape: Vec<usize>,
    #[serde(flatten)]
    pub fill: Fill,
}

#[derive(Deserialize)]
#[serde(tag = "fill", rename_all = "lowercase")]
pub enum Fill {
    Uniform { scale: f32 },
    Constant { value: f32 },
    Cosines,
    Sines,
}

impl Description {
    pub fn read(folder: &Path) -> Result<Description> {
        let path = folder.join("model.json");
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("cannot read {}", path.display()))
    }

    pub fn dtype(&self) -> DType {
        match self.dtype.as_str() {
            "bf16" => DType::BF16,
            "f16" => DType::F16,
            _ => DType::F32,
        }
    }

    /// Bytes of weights that a step reads whole: everything but the embedding, of which it reads a row.
    pub fn step_bytes(&self) -> f64 {
        let read = self.weights.iter().filter(|(name, _)| !name.contains("embed_tokens"));
        let elements: usize = read.map(|(_, weight)| weight.shape.iter().product::<usize>()).sum();
        elements as f64 * (self.dtype().bits() / 8) as f64
    }

    /// Every weight on the host; `fill` is a session of `fill.onnx`.
    pub fn on_host(&self, fill: &Session) -> Result<BTreeMap<String, Tensor>> {
        let make = |(name, weight): (&String, &Weight)| {
            let tensor = match (&weight.fill, vectors(name, &weight.shape)) {
                (Fill::Uniform { scale }, Ok([rows, columns])) => {
                    let inputs = fill_inputs(rows, columns, *scale)?;
                    let inputs: Vec<(&str, Value)> =
                        inputs.iter().map(|(name, tensor)| (*name, Value::from(tensor.clone()))).collect();
                    fill.run(&inputs)?.remove(0).into_tensor()?
                }
                (Fill::Uniform { .. }, Err(error)) => return Err(error),
                _ => self.small(weight)?,
            };
            Ok((name.clone(), tensor))
        };
        self.weights.iter().map(make).collect()
    }

    /// Every weight in device memory; `fill` is a session of `fill.onnx` there.
    pub fn on_device(&self, fill: &Session) -> Result<BTreeMap<String, DeviceTensor>> {
        let mut weights = BTreeMap::new();
        for (name, weight) in &self.weights {
            let tensor = match weight.fill {
                Fill::Uniform { scale } => {
                    let target = fill.device_tensor(self.dtype(), &weight.shape)?;
                    let [rows, columns] = vectors(name, &weight.shape)?;
                    let inputs = fill_inputs(rows, columns, scale)?;
                    let inputs: Vec<(&str, Given)> =
                        inputs.iter().map(|(name, t)| (*name, Given::Host(Value::from(t.clone())))).collect();
                    let mut run = fill.bind(&inputs, &[("weight", target.clone())])?;
                    run.run()?;
                    run.synchronize()?;
                    target
                }
                _ => fill.upload(&self.small(weight)?)?,
            };
            weights.insert(name.clone(), tensor);
        }
        Ok(weights)
    }

    /// A weight that is computed on the host.
    fn small(&self, weight: &Weight) -> Result<Tensor> {
        let count: usize = weight.shape.iter().product();
        let half = weight.shape.last().copied().unwrap_or(1).max(1);
        let angle = |i: usize| {
            let frequency = self.theta.powf(-((i % half) as f64) / half as f64);
            (i / half) as f64 * frequency
        };
        let value = |i: usize| match weight.fill {
            Fill::Uniform { .. } => 0.0,
            Fill::Constant { value } => f64::from(value),
            Fill::Cosines => angle(i).cos(),
            Fill::Sines => angle(i).sin(),
        };
        let bytes: Vec<u8> = match self.dtype() {
            DType::BF16 => (0..count).flat_map(|i| bf16::from_f64(value(i)).to_le_bytes()).collect(),
            DType::F16 => (0..count).flat_map(|i| f16::from_f64(value(i)).to_le_bytes()).collect(),
            _ => (0..count).flat_map(|i| (value(i) as f32).to_le_bytes()).collect(),
        };
        Ok(Tensor::copy_from_bytes(self.dtype(), &weight.shape, &bytes)?)
    }
}

/// Two pseudo-random vectors that belong to a name: what the matrix of that name is computed from.
fn vectors(name: &str, shape: &[usize]) -> Result<[Tensor; 2]> {
    ensure!(shape.len() == 2, "weight '{name}' of shape {shape:?} is no matrix");
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mut random = fastrand::Rng::with_seed(seed);
    let mut vector = |size: usize| -> Vec<f32> { (0..size).map(|_| random.f32() * 60.0 + 1.0).collect() };
    let (rows, columns) = (vector(shape[0]), vector(shape[1]));
    Ok([Tensor::from_slice(&[shape[0], 1], &rows)?, Tensor::from_slice(&[1, shape[1]], &columns)?])
}

fn fill_inputs(rows: Tensor, columns: Tensor, scale: f32) -> Result<[(&'static str, Tensor); 3]> {
    let scale = Tensor::from_slice(&[1], &[scale])?;
    Ok([("rows", rows), ("columns", columns), ("scale", scale)])
}
