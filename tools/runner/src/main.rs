//! runner: run, inspect and measure ONNX models.

mod args;
mod bench;
mod compare;
mod doctor;
mod drawing;
mod inputs;
mod inspect;
mod open;
mod output;
mod partition;
mod profile;
mod progress;
mod providers;
mod quantity;
mod run;
mod summary;
mod testdata;
mod verify;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::args::{Args, Command, TalkArgs};

fn main() -> ExitCode {
    let args = Args::parse();
    match dispatch(&args) {
        Ok(code) => code,
        Err(error) => {
            let style = anstyle::AnsiColor::Red.on_default().bold();
            anstream::eprintln!("{style}error:{style:#} {}", message(&error));
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &Args) -> Result<ExitCode> {
    match &args.command {
        None => {
            listen(&args.run.talk)?;
            run::run(&args.run)
        }
        Some(Command::Inspect(args)) => {
            listen(&args.talk)?;
            inspect::run(args).map(|()| ExitCode::SUCCESS)
        }
        Some(Command::Providers(args)) => {
            listen(&args.talk)?;
            providers::run(args).map(|()| ExitCode::SUCCESS)
        }
        Some(Command::Doctor(args)) => {
            listen(&args.talk)?;
            doctor::run(args)
        }
    }
}

/// Sends the runtime's messages to standard error.
fn listen(talk: &TalkArgs) -> Result<()> {
    let filter = EnvFilter::try_new(&talk.log).with_context(|| format!("--log {}: not a level", talk.log))?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
    Ok(())
}

/// The error and its causes, one a line; a cause whose text its effect already holds is left out.
fn message(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push_str("\n  because: ");
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_that_repeat_the_message_are_left_out() {
        let error = anyhow::anyhow!("disk full").context("cannot write x: disk full").context("cannot save");
        assert_eq!(message(&error), "cannot save\n  because: cannot write x: disk full");
    }
}
