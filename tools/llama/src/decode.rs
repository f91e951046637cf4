//! A model whose state is on the device: one bound run for the prompt, and two for single tokens that hand each other
//! tokens and lengths.

use std::collections::BTreeMap;

use anyhow::Result;
use tenon_runtime::dtype::DType;
use tenon_runtime::session::{BoundRun, DeviceTensor, Given, Session};
use tenon_runtime::tensor::Tensor;

use crate::weights::Description;

/// The state of a batch of sequences.
pub struct State {
    caches: Vec<(String, String, DeviceTensor)>,
    /// Tokens `[batch, 1]` and lengths `[batch]`, in turns what a step reads and what it writes.
    turns: [(DeviceTensor, DeviceTensor); 2],
    total: DeviceTensor,
    pub logits: Option<DeviceTensor>,
    batch: usize,
}

impl State {
    pub fn new(session: &Session, model: &Description, batch: usize, length: usize) -> Result<State> {
        let mut caches = Vec::new();
        let shape = [batch, model.kv_heads, length, model.head];
        let zeros = Tensor::zeros(model.dtype(), &shape)?;
        for layer in 0..model.layers {
            for kind in ["key", "value"] {
                let cache = session.upload(&zeros)?;
                let names = (format!("past_key_values.{layer}.{kind}"), format!("present.{layer}.{kind}"));
                caches.push((names.0, names.1, cache));
            }
        }
        let turn = || -> Result<(DeviceTensor, DeviceTensor)> {
            Ok((
                session.device_tensor(DType::I64, &[batch, 1])?,
                session.device_tensor(DType::I32, &[batch])?,
            ))
        };
        let logits = model.logits.then(|| session.device_tensor(model.dtype(), &[batch, 1, model.vocab]));
        Ok(State {
            caches,
            turns: [turn()?, turn()?],
            total: session.upload(&Tensor::scalar(length as i32))?,
            logits: logits.transpose()?,
            batch,
        })
    }

    /// The run that reads `prompt` of `[batch, rows]` into empty caches.
    pub fn prefill<'s>(
        &self,
        session: &'s Session,
        weights: &BTreeMap<String, DeviceTensor>,
        prompt: &Tensor,
    ) -> Result<BoundRun<'s>> {
        let rows = prompt.dims().get(1).copied().unwrap_or(1);
        let lengths = Tensor::from_slice(&[self.batch], &vec![rows as i32 - 1; self.batch])?;
        self.bind(session, weights, (session.upload(prompt)?, session.upload(&lengths)?), &self.turns[0])
    }

    /// The runs of one token for even and for odd steps.
    pub fn steps<'s>(
        &self,
        session: &'s Session,
        weights: &BTreeMap<String, DeviceTensor>,
    ) -> Result<[BoundRun<'s>; 2]> {
        let [a, b] = &self.turns;
        let even = self.bind(session, weights, a.clone(), b)?;
        let odd = self.bind(session, weights, b.clone(), a)?.behind(&even);
        Ok([even, odd])
    }

    /// What the step in front of step `number` chose.
    pub fn tokens(&self, number: usize) -> &DeviceTensor {
        &self.turns[number % 2].0
    }

    fn bind<'s>(
        &self,
        session: &'s Session,
        weights: &BTreeMap<String, DeviceTensor>,
        (tokens, lengths): (DeviceTensor, DeviceTensor),
        (next_tokens, next_lengths): &(DeviceTensor, DeviceTensor),
    ) -> Result<BoundRun<'s>> {
        let device = |tensor: &DeviceTensor| Given::Device(tensor.clone());
        let mut inputs = vec![
            ("input_ids", Given::Device(tokens)),
            ("seqlens_k", Given::Device(lengths)),
            ("total_sequence_length", device(&self.total)),
        ];
        let mut outputs = vec![("next_ids", next_tokens.clone()), ("next_seqlens_k", next_lengths.clone())];
        for (past, present, cache) in &self.caches {
            inputs.push((past, device(cache)));
            outputs.push((present, cache.clone()));
        }
        inputs.extend(weights.iter().map(|(name, weight)| (name.as_str(), device(weight))));
        outputs.extend(self.logits.iter().map(|logits| ("logits", logits.clone())));
        Ok(session.bind(&inputs, &outputs)?)
    }
}

/// The same pseudo-random prompt for everyone: `[batch, rows]`.
pub fn prompt(batch: usize, rows: usize, vocab: usize) -> Result<Tensor> {
    let mut random = fastrand::Rng::with_seed(7);
    let ids: Vec<i64> = (0..batch * rows).map(|_| random.i64(0..vocab as i64)).collect();
    Ok(Tensor::from_slice(&[batch, rows], &ids)?)
}
