//! `--test-data`: feeds stored inputs, and compares what comes out with stored outputs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anstream::println;
use anyhow::{Context, Result, bail};
use serde_json::{Value as Json, json};
use tenon_roofline::table::Table;
use tenon_runtime::session::{Session, ValueSpec};
use tenon_runtime::tensor::Value;

use crate::args::Carry;
use crate::compare::{self, Comparison, Tolerance};
use crate::inputs::protobuf;
use crate::progress::Progress;

/// The comparison of one output of one data set.
struct Checked {
    set: String,
    output: String,
    comparison: Comparison,
}

/// Every output that was compared.
pub struct Verdict {
    checked: Vec<Checked>,
    sets: usize,
}

/// Runs every data set of `folder` in order.
pub fn check(
    session: &Session,
    folder: &Path,
    carry: &[Carry],
    tolerance: Tolerance,
    quiet: bool,
) -> Result<Verdict> {
    let sets = data_sets(folder)?;
    let _progress = Progress::start(format!("checking {} data sets", sets.len()), quiet);
    let mut checked = Vec::new();
    let mut carried: BTreeMap<String, Value> = BTreeMap::new();
    for set in &sets {
        let name =
            set.file_name().map_or_else(|| set.display().to_string(), |n| n.to_string_lossy().into_owned());
        let compared =
            check_set(session, set, &mut carried, carry, tolerance).with_context(|| name.clone())?;
        let named = compared.into_iter().map(|(output, comparison)| Checked {
            set: name.clone(),
            output,
            comparison,
        });
        checked.extend(named);
    }
    Ok(Verdict { checked, sets: sets.len() })
}

/// `folder` itself when it holds `.pb` files, otherwise its folders `test_data_set_<i>` by their number.
fn data_sets(folder: &Path) -> Result<Vec<PathBuf>> {
    if !protobuf::numbered(folder, "input")?.is_empty() || !protobuf::numbered(folder, "output")?.is_empty() {
        return Ok(vec![folder.to_owned()]);
    }
    let mut sets = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if let Some(number) = name.strip_prefix("test_data_set_") {
            sets.push((number.parse::<usize>().unwrap_or(usize::MAX), path));
        }
    }
    if sets.is_empty() {
        bail!("{} holds neither input_i.pb and output_i.pb nor folders test_data_set_i", folder.display());
    }
    sets.sort();
    Ok(sets.into_iter().map(|(_, path)| path).collect())
}

fn check_set(
    session: &Session,
    set: &Path,
    carried: &mut BTreeMap<String, Value>,
    carry: &[Carry],
    tolerance: Tolerance,
) -> Result<Vec<(String, Comparison)>> {
    let mut inputs = std::mem::take(carried);
    inputs.extend(read(set, "input", session.inputs())?);
    let expected = read(set, "output", session.outputs())?;
    let feeds: Vec<(&str, Value)> = inputs.iter().map(|(n, v)| (n.as_str(), v.clone())).collect();
    let got = session.run(&feeds)?;
    let named: Vec<(&str, &Value)> = session.outputs().iter().map(|s| s.name.as_str()).zip(&got).collect();
    for (name, value) in &named {
        let inputs = carry.iter().filter_map(|c| c.input_for(name));
        carried.extend(inputs.map(|input| (input, (*value).clone())));
    }
    let find = |name: &str| named.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
    let compared = expected.into_iter().map(|(name, value)| {
        let got = find(&name).with_context(|| format!("the run gave no output '{name}'"))?;
        let comparison = compare::values(got, &value, tolerance);
        Ok((name, comparison))
    });
    compared.collect()
}

/// The stored values with the names of the inputs or outputs they belong to.
fn read(set: &Path, stem: &str, specs: &[ValueSpec]) -> Result<Vec<(String, Value)>> {
    let files = protobuf::numbered(set, stem)?;
    let names: Vec<&str> = specs.iter().map(|s| s.name.as_str()).collect();
    let types: Vec<_> = specs.iter().map(|s| s.ty.as_ref()).collect();
    let values = protobuf::read_matched(&files, &names, &types)?;
    Ok(values.into_iter().map(|(i, value)| (names[i].to_owned(), value)).collect())
}

impl Verdict {
    /// True when every output agrees.
    pub fn agrees(&self) -> bool {
        self.checked.iter().all(|c| c.comparison.agrees())
    }

    /// The output furthest outside its tolerance, or nearest to it.
    fn worst(&self) -> Option<&Checked> {
        self.checked.iter().max_by(|a, b| a.comparison.badness().total_cmp(&b.comparison.badness()))
    }

    /// The last line: the verdict, the worst output and its element.
    fn last_line(&self) -> String {
        let verdict = if self.agrees() { "agrees" } else { "DISAGREES" };
        let Some(worst) = self.worst() else { return format!("{verdict}: no outputs to compare") };
        let set = if self.sets > 1 { format!(" of {}", worst.set) } else { String::new() };
        format!("{verdict}: worst output '{}'{set}, {}", worst.output, worst.comparison)
    }

    /// Prints a row for each output, unless `quiet`, and the verdict last.
    pub fn print(&self, quiet: bool) {
        if !quiet {
            let mut table =
                Table::new(&["data set", "output", "verdict", ">elements", ">outside", ">of tolerance"]);
            for c in &self.checked {
                table.row([
                    c.set.clone(),
                    c.output.clone(),
                    if c.comparison.agrees() { "agrees".into() } else { "DISAGREES".to_owned() },
                    c.comparison.elements.to_string(),
                    c.comparison.outside.to_string(),
                    format!("{:.3}", c.comparison.badness()),
                ]);
            }
            println!("{table}");
        }
        println!("{}", self.last_line());
    }

    /// The verdict as JSON.
    pub fn to_json(&self) -> Json {
        let finite = |v: f64| if v.is_finite() { json!(v) } else { json!(v.to_string()) };
        let outputs = self.checked.iter().map(|c| {
            let worst = c.comparison.worst.as_ref().map(|w| {
                json!({ "element": w.place, "got": w.got, "expected": w.expected,
                        "difference": finite(w.difference), "of_tolerance": finite(w.excess) })
            });
            json!({ "set": c.set, "output": c.output, "agrees": c.comparison.agrees(),
                    "elements": c.comparison.elements, "outside": c.comparison.outside,
                    "mismatch": c.comparison.mismatch, "worst": worst })
        });
        let outputs: Vec<Json> = outputs.collect();
        json!({ "agrees": self.agrees(), "sets": self.sets, "outputs": outputs, "summary": self.last_line() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_sets_are_found_in_the_order_of_their_numbers() {
        let folder = std::env::temp_dir().join(format!("tenon-sets-{}", std::process::id()));
        for n in [10, 2, 0] {
            std::fs::create_dir_all(folder.join(format!("test_data_set_{n}"))).unwrap();
        }
        let names: Vec<String> = data_sets(&folder)
            .unwrap()
            .iter()
            .map(|p| p.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["test_data_set_0", "test_data_set_2", "test_data_set_10"]);
        let single = folder.join("test_data_set_2");
        std::fs::write(single.join("output_0.pb"), b"").unwrap();
        assert_eq!(data_sets(&single).unwrap(), std::slice::from_ref(&single));
        assert!(data_sets(&folder.join("test_data_set_0")).unwrap_err().to_string().contains("neither"));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn the_last_line_names_the_worst_output_and_element() {
        let t = |v: &[f32]| Value::from(tenon_runtime::tensor::Tensor::from_slice(&[2], v).unwrap());
        let tolerance = Tolerance { relative: 1e-3, absolute: 0.0, scaled: 0.0 };
        let checked = |output: &str, got: &[f32]| Checked {
            set: "s".into(),
            output: output.into(),
            comparison: compare::values(&t(got), &t(&[1.0, 2.0]), tolerance),
        };
        let mut verdict =
            Verdict { checked: vec![checked("a", &[1.0, 2.001]), checked("b", &[1.0, 2.0])], sets: 1 };
        assert!(verdict.agrees());
        assert!(
            verdict.last_line().starts_with("agrees: worst output 'a', element [1]"),
            "{}",
            verdict.last_line()
        );
        verdict.checked.push(checked("c", &[f32::NAN, 2.0]));
        let line = verdict.last_line();
        assert!(line.starts_with("DISAGREES: worst output 'c', element [0]: got nan, expected 1"), "{line}");
        assert_eq!(verdict.to_json()["outputs"][2]["worst"]["difference"], "inf");
    }
}
