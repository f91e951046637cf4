//! Real models through the `runner` program: each agrees with its stored outputs, and the recogniser reads its text.
//!
//! `cargo xtask zoo` builds the cases and sets `TENON_ZOO_CASES` (their folder) and `TENON_RUNNER` (the program). Without
//! them the one test here is ignored, and its name says why. `TENON_ZOO_PROVIDER` names another provider than the CPU's,
//! whose library lies beside the program, and `TENON_ZOO_ONLY` the tests to run, separated by commas.

mod greedy;
mod recogniser;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value as Json;

/// The program under test and the folder with `cases.json`.
#[derive(Clone)]
struct Zoo {
    runner: PathBuf,
    folder: PathBuf,
    /// The provider that runs whatever it can; `None` leaves the choice to the program.
    provider: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = match find() {
        Ok(zoo) => match trials(&zoo) {
            Ok(trials) => trials,
            Err(why) => vec![Trial::test("the_zoo_is_readable", move || Err(Failed::from(why)))],
        },
        Err(why) => vec![Trial::test(format!("zoo: {why}"), || Ok(())).with_ignored_flag(true)],
    };
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn find() -> Result<Zoo, String> {
    let folder = |name: &str| {
        let value = std::env::var_os(name).ok_or(format!("{name} is not set, run cargo xtask zoo"))?;
        Ok::<_, String>(PathBuf::from(value))
    };
    let provider = std::env::var("TENON_ZOO_PROVIDER").ok();
    Ok(Zoo { folder: folder("TENON_ZOO_CASES")?, runner: folder("TENON_RUNNER")?, provider })
}

fn trials(zoo: &Zoo) -> Result<Vec<Trial>, String> {
    let index = zoo.folder.join("cases.json");
    let text = std::fs::read_to_string(&index).map_err(|e| format!("{}: {e}", index.display()))?;
    let index: Json = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    let mut trials = Vec::new();
    for case in index["cases"].as_array().ok_or("cases.json has no cases")? {
        let id = case["id"].as_str().ok_or("a case has no id")?.to_owned();
        let mut command = agreement(zoo, case)?;
        trials.push(Trial::test(id.clone(), move || succeed(&mut command)));
        if id == recogniser::CASE {
            let (runner, folder) = (zoo.runner.clone(), zoo.folder.clone());
            trials.push(Trial::test(format!("{id}_text"), move || {
                recogniser::reads_its_text(&runner, &folder)
            }));
        }
        if greedy::is_language_model(case) {
            let zoo = zoo.clone();
            trials
                .push(Trial::test(format!("{id}_greedy"), move || greedy::follows_the_reference(&zoo, &id)));
        }
    }
    for skipped in index["skipped"].as_array().into_iter().flatten() {
        let name = format!(
            "{}: {}",
            skipped["id"].as_str().unwrap_or("?"),
            skipped["reason"].as_str().unwrap_or("?")
        );
        trials.push(Trial::test(name, || Ok(())).with_ignored_flag(true));
    }
    if let Ok(only) = std::env::var("TENON_ZOO_ONLY") {
        let only: Vec<&str> = only.split(',').collect();
        trials.retain(|trial| only.contains(&trial.name()));
        if trials.len() < only.len() {
            return Err(format!("TENON_ZOO_ONLY={}: not every test is there", only.join(",")));
        }
    }
    Ok(trials)
}

/// `runner MODEL --test-data DIR` with the case's tolerances.
fn agreement(zoo: &Zoo, case: &Json) -> Result<Command, String> {
    let text = |key: &str| case[key].as_str().ok_or(format!("{case}: no {key}"));
    let mut command = Command::new(&zoo.runner);
    command
        .arg(zoo.folder.join(text("model")?))
        .arg("--test-data")
        .arg(zoo.folder.join(text("data")?))
        .arg("--quiet");
    if let Some(provider) = &zoo.provider {
        command.args(["--provider", provider, "--no-balance"]);
    }
    for key in ["rtol", "atol", "stol"] {
        let tolerance = case[key].as_f64().ok_or(format!("{case}: no {key}"))?;
        command.arg(format!("--{key}")).arg(tolerance.to_string());
    }
    for carry in case["carry"].as_array().into_iter().flatten() {
        command.arg("--carry").arg(carry.as_str().unwrap_or_default());
    }
    Ok(command)
}

/// Runs `command`; what it printed is the message of the failure.
fn succeed(command: &mut Command) -> Result<(), Failed> {
    let output = command.output().map_err(|e| format!("cannot start runner: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let printed = [output.stderr, output.stdout].concat();
    Err(format!("{}: {}", output.status, String::from_utf8_lossy(&printed).trim()).into())
}
