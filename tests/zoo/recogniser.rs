//! The text recogniser's output, decoded: what a user sees must be the text that was rendered, letter for letter.

use std::path::Path;
use std::process::Command;

use libtest_mimic::Failed;
use tenon_runtime::model;
use tenon_runtime::tensor::Tensor;

/// The case that holds the recogniser.
pub const CASE: &str = "ppocr_rec";

/// What the two images of the stored input show.
const TEXTS: [&str; 2] = ["Hello World 123", "ONNX runtime"];

/// Runs the recogniser on its stored input and decodes the output.
pub fn reads_its_text(runner: &Path, folder: &Path) -> Result<(), Failed> {
    let case = folder.join("cases").join(CASE);
    let model_path = case.join("model.onnx");
    let outputs = folder.join("recogniser-outputs");
    let mut command = Command::new(runner);
    command.arg(&model_path).arg("--input").arg(case.join("test_data_set_0"));
    command.arg("--save-outputs").arg(&outputs).arg("--quiet");
    super::succeed(&mut command)?;
    let (_, value) = model::read_value(outputs.join("output_0.pb"), None)?;
    let alphabet = alphabet(&model_path)?;
    let texts = decode(&value.into_tensor()?, &alphabet)?;
    if texts == TEXTS { Ok(()) } else { Err(format!("read {texts:?}, expected {TEXTS:?}").into()) }
}

/// The characters of the classes: none for the blank, then the model's list, then the space.
fn alphabet(path: &Path) -> Result<Vec<String>, Failed> {
    let model = model::load(path)?;
    let list = model.info().metadata.iter().find(|(key, _)| key == "character");
    let (_, list) = list.ok_or("the model has no list of characters")?;
    let listed = list.lines().map(str::to_owned);
    Ok([String::new()].into_iter().chain(listed).chain([" ".to_owned()]).collect())
}

/// The best class of each step, repeats and blanks left out (connectionist temporal classification, greedy).
fn decode(scores: &Tensor, alphabet: &[String]) -> Result<Vec<String>, Failed> {
    let [_, steps, classes] = *scores.dims() else {
        return Err(format!("scores of shape {:?}", scores.dims()).into());
    };
    if classes != alphabet.len() {
        return Err(format!("{classes} classes, {} characters", alphabet.len()).into());
    }
    let scores = scores.to_f64_vec()?;
    let best = |row: &[f64]| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap_or(0);
    let texts = scores.chunks_exact(steps * classes).map(|image| {
        let mut previous = 0;
        let mut text = String::new();
        for class in image.chunks_exact(classes).map(best) {
            if class != previous {
                text.push_str(&alphabet[class]);
            }
            previous = class;
        }
        // The images end in white space, which the model reads as one.
        text.trim_end().to_owned()
    });
    Ok(texts.collect())
}
