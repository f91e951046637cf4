//! Language models drive themselves: the best token of each step is the input of the next, and all of them are the
//! reference's, which the cases' later data sets feed.

use std::path::Path;

use libtest_mimic::Failed;
use serde_json::Value as Json;
use tenon_runtime::model;
use tenon_runtime::session::{Environment, Session, SessionOptions};
use tenon_runtime::tensor::{Tensor, Value};

use crate::Zoo;

/// True for cases that feed caches of keys and values back.
pub fn is_language_model(case: &Json) -> bool {
    case["carry"].as_array().is_some_and(|rows| rows.iter().any(|row| row == "present.*:past_key_values.*"))
}

/// Generates as many tokens as the case has data sets after the first, and compares each with the reference's.
pub fn follows_the_reference(zoo: &Zoo, id: &str) -> Result<(), Failed> {
    let folder = zoo.folder.join("cases").join(id);
    let session = open(zoo, &folder.join("model.onnx"))?;
    let mut inputs = data_set(&folder.join("test_data_set_0"))?;
    let mut step = 0;
    loop {
        let given: Vec<(&str, Value)> = inputs.iter().map(|(name, value)| (&**name, value.clone())).collect();
        let outputs = session.run(&given)?;
        let names = session.outputs().iter().map(|spec| spec.name.clone());
        let outputs: Vec<(String, Value)> = names.zip(outputs).collect();
        let logits = &outputs.iter().find(|(name, _)| name == "logits").ok_or("no output 'logits'")?.1;
        let token = best(logits.as_tensor().ok_or("logits are no tensor")?)?;
        step += 1;
        let next = folder.join(format!("test_data_set_{step}"));
        if !next.is_dir() {
            return if step > 1 { Ok(()) } else { Err("the case has no step after the first".into()) };
        }
        inputs = data_set(&next)?;
        let ids = inputs.iter_mut().find(|(name, _)| name == "input_ids").ok_or("no input 'input_ids'")?;
        let wanted = ids.1.as_tensor().ok_or("ids are no tensor")?.to_i64_vec()?;
        if wanted != [token] {
            return Err(format!("token {step} is {token}, the reference has {wanted:?}").into());
        }
        ids.1 = Value::Tensor(Tensor::from_slice(&[1, 1], &[token])?);
        let caches = outputs.into_iter().filter(|(name, _)| name.starts_with("present."));
        inputs.extend(caches.map(|(name, value)| (name.replacen("present", "past_key_values", 1), value)));
    }
}

fn open(zoo: &Zoo, model: &Path) -> Result<Session, Failed> {
    let environment = Environment::new();
    environment.register(tenon_provider_cpu::table())?;
    let mut options = SessionOptions { balance: false, ..SessionOptions::default() };
    if let Some(provider) = &zoo.provider {
        let name = provider.split([':', ',']).next().unwrap_or_default();
        let library = zoo.runner.with_file_name(format!("libtenon_provider_{name}.so"));
        environment.load_library(&library)?;
        options.providers = vec![provider.parse()?];
    }
    Ok(Session::open(&environment, model, &options)?)
}

/// The inputs of a data set by name.
fn data_set(folder: &Path) -> Result<Vec<(String, Value)>, Failed> {
    let mut inputs = Vec::new();
    for index in 0.. {
        let file = folder.join(format!("input_{index}.pb"));
        if !file.exists() {
            break;
        }
        inputs.push(model::read_value(&file, None)?);
    }
    Ok(inputs)
}

/// The token with the highest score after the last position.
fn best(logits: &Tensor) -> Result<i64, Failed> {
    let width = *logits.dims().last().filter(|&&width| width > 0).ok_or("logits have no classes")?;
    let scores = logits.to_f64_vec()?;
    let last = scores.rchunks_exact(width).next().ok_or("logits are empty")?;
    let best = (0..width).max_by(|&a, &b| last[a].total_cmp(&last[b])).unwrap_or(0);
    Ok(best as i64)
}
