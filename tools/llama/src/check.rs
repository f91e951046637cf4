//! Tokens and scores of the bound loop beside those of a provider that gets everything from the host in every step.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};
use tenon_runtime::session::{Environment, ProviderRequest, Session};
use tenon_runtime::tensor::{Tensor, Value};

use crate::Args;
use crate::decode::{State, prompt};
use crate::weights::Description;

/// Scores may differ by this part of the largest one: accumulation and intermediate rounding differ.
const TOLERANCE: f64 = 0.05;

/// The reference: caches on the host.
struct Reference<'a> {
    session: &'a Session,
    weights: &'a BTreeMap<String, Tensor>,
    caches: Vec<Tensor>,
    length: i32,
}

impl Reference<'_> {
    /// Runs tokens `[batch, rows]`; gives the chosen ones and the scores.
    fn step(&mut self, model: &Description, tokens: &Tensor) -> Result<(Tensor, Tensor)> {
        let (batch, rows) = (tokens.dims()[0], tokens.dims()[1] as i32);
        self.length += rows;
        let lengths = Tensor::from_slice(&[batch], &vec![self.length - 1; batch])?;
        let names: Vec<String> = (0..model.layers)
            .flat_map(|layer| ["key", "value"].map(|kind| format!("past_key_values.{layer}.{kind}")))
            .collect();
        let mut inputs: Vec<(&str, Value)> = vec![
            ("input_ids", tokens.clone().into()),
            ("seqlens_k", lengths.into()),
            ("total_sequence_length", Tensor::scalar(self.length).into()),
        ];
        let caches = std::mem::take(&mut self.caches);
        inputs.extend(names.iter().map(String::as_str).zip(caches.into_iter().map(Value::from)));
        inputs.extend(self.weights.iter().map(|(name, weight)| (name.as_str(), weight.clone().into())));
        let mut outputs = self.session.run(&inputs)?.into_iter();
        let mut next = || -> Result<Tensor> {
            match outputs.next() {
                Some(value) => Ok(value.into_tensor()?),
                None => bail!("an output is missing"),
            }
        };
        let (ids, _, logits) = (next()?, next()?, next()?);
        self.caches = (0..names.len()).map(|_| next()).collect::<Result<_>>()?;
        Ok((ids, logits))
    }
}

pub fn run(environment: &Environment, args: &Args, reference: &ProviderRequest) -> Result<()> {
    let model = Description::read(&args.model)?;
    ensure!(model.logits, "the model has no output for the scores: write it with --logits");
    ensure!(args.prompt + args.steps <= args.length, "{} positions are too few", args.length);
    let host_fill = args.open(environment, "fill.onnx", reference, false)?;
    let host_weights = model.on_host(&host_fill)?;
    let session = args.open(environment, "model.onnx", &args.provider, false)?;
    let mut weights = BTreeMap::new();
    for (name, tensor) in &host_weights {
        weights.insert(name.clone(), session.upload(tensor)?);
    }
    let host = args.open(environment, "model.onnx", reference, false)?;
    let shape = [args.batch, model.kv_heads, args.length, model.head];
    let empty = Tensor::zeros(model.dtype(), &shape)?;
    let mut expected = Reference {
        session: &host,
        weights: &host_weights,
        caches: vec![empty; 2 * model.layers],
        length: 0,
    };
    let state = State::new(&session, &model, args.batch, args.length)?;
    let tokens = prompt(args.batch, args.prompt, model.vocab)?;
    let mut prefill = state.prefill(&session, &weights, &tokens)?;
    let mut steps = state.steps(&session, &weights)?;
    let (mut ids, mut scores) = expected.step(&model, &tokens)?;
    prefill.run()?;
    prefill.synchronize()?;
    let top = scores.to_f64_vec()?.into_iter().fold(0.0, f64::max);
    let mut worst: f64 = compare(&state, &scores, 0)?;
    for number in 0..args.steps {
        // The reference's choice is what both go on with, so that near ties do not lead apart.
        state.tokens(number).write(&ids)?;
        (ids, scores) = expected.step(&model, &ids)?;
        let run = &mut steps[number % 2];
        run.run()?;
        run.synchronize()?;
        worst = worst.max(compare(&state, &scores, number + 1)?);
        check_choice(&state, state.tokens(number + 1).read()?, number + 1)?;
    }
    println!(
        "{} steps of {} sequences agree; scores up to {top:.2} differ by {worst:.2e} of the largest at most",
        args.steps, args.batch
    );
    Ok(())
}

/// The largest difference of scores, as a part of the largest score.
fn compare(state: &State, expected: &Tensor, step: usize) -> Result<f64> {
    let Some(logits) = &state.logits else { bail!("no scores to compare") };
    let (got, expected) = (logits.read()?.to_f64_vec()?, expected.to_f64_vec()?);
    ensure!(got.len() == expected.len(), "step {step}: {} scores, not {}", got.len(), expected.len());
    let scale = expected.iter().fold(0.0f64, |top, score| top.max(score.abs()));
    let mut worst = 0.0f64;
    for (index, (got, wanted)) in got.iter().zip(&expected).enumerate() {
        let difference = (got - wanted).abs() / scale;
        // Also true for what is not a number.
        ensure!(difference <= TOLERANCE, "step {step}, score {index}: {got}, expected {wanted}");
        worst = worst.max(difference);
    }
    Ok(worst)
}

/// The token chosen on the device has the largest score on the device.
fn check_choice(state: &State, chosen: Tensor, step: usize) -> Result<()> {
    let Some(logits) = &state.logits else { bail!("no scores to compare") };
    let (scores, chosen) = (logits.read()?.to_f64_vec()?, chosen.to_i64_vec()?);
    let columns = scores.len() / chosen.len().max(1);
    for (row, &id) in scores.chunks(columns.max(1)).zip(&chosen) {
        let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let wanted = row.iter().position(|&score| score == top);
        ensure!(wanted == usize::try_from(id).ok(), "step {step}: token {id} was chosen, not {wanted:?}");
    }
    Ok(())
}
