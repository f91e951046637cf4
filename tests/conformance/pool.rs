//! Worker processes: each takes cases one by one; one that dies or stalls is replaced.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::Options;
use crate::case::Case;

/// How a case went.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub case: Case,
    /// `None` when it passed.
    pub failure: Option<String>,
    pub time: Duration,
}

/// Runs all cases and returns their outcomes in the order of the cases.
pub fn run(cases: &[Case], arguments: &[String], options: &Options) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(vec![None; cases.len()]);
    std::thread::scope(|scope| {
        for _ in 0..options.workers.clamp(1, cases.len().max(1)) {
            scope.spawn(|| {
                let mut worker: Option<Worker> = None;
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(index) else { break };
                    let start = Instant::now();
                    let answer = ask(&mut worker, arguments, case, options.limit);
                    let failure = match answer.as_deref() {
                        Ok("pass") => None,
                        Ok(line) => Some(line.strip_prefix("fail ").unwrap_or(line).to_string()),
                        Err(why) => Some(why.to_string()),
                    };
                    let outcome = Outcome { case: case.clone(), failure, time: start.elapsed() };
                    outcomes.lock().expect("no worker thread panics")[index] = Some(outcome);
                }
            });
        }
    });
    outcomes.into_inner().expect("no worker thread panics").into_iter().flatten().collect()
}

struct Worker {
    child: Child,
    stdin: ChildStdin,
    answers: Receiver<String>,
}

impl Worker {
    fn start(arguments: &[String]) -> Result<Worker, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut child = Command::new(program)
            .args(arguments)
            .arg("--worker")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("cannot start a worker: {error}"))?;
        let stdin = child.stdin.take().ok_or("a worker without input")?;
        let stdout = child.stdout.take().ok_or("a worker without output")?;
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Worker { child, stdin, answers })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ask(
    slot: &mut Option<Worker>,
    arguments: &[String],
    case: &Case,
    limit: Duration,
) -> Result<String, String> {
    let mut worker = match slot.take() {
        Some(worker) => worker,
        None => Worker::start(arguments)?,
    };
    writeln!(worker.stdin, "{}", case.source).map_err(|error| format!("CRASH {error}"))?;
    let deadline = Instant::now() + limit;
    match worker.answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(answer) => {
            *slot = Some(worker);
            Ok(answer)
        }
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => Err(format!("HANG: no answer within {limit:?}")),
        Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
            let status =
                worker.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
            Err(format!("CRASH: the worker ended with {status}"))
        }
    }
}
