//! A spinner on standard error for what takes longer than a second, when a person is watching.

use std::io::IsTerminal;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

const PATIENCE: Duration = Duration::from_secs(1);

/// Shows what is going on until it is dropped.
pub struct Progress {
    /// Dropped to end the spinner.
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Starts; nothing shows when `quiet`, when standard error is no terminal, or within the first second.
    pub fn start(message: impl Into<String>, quiet: bool) -> Progress {
        if quiet || !std::io::stderr().is_terminal() {
            return Progress { end: None, thread: None };
        }
        let message = message.into();
        let (end, ended) = channel();
        let thread = std::thread::spawn(move || {
            if ended.recv_timeout(PATIENCE) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}");
            let spinner = ProgressBar::new_spinner().with_message(message);
            let spinner = spinner.with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            spinner.enable_steady_tick(Duration::from_millis(100));
            // Ends with an error when the sender is dropped, and nobody ever sends.
            let _ended = ended.recv();
            spinner.finish_and_clear();
        });
        Progress { end: Some(end), thread: Some(thread) }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // A spinner that failed is not worth an error of its own.
            let _finished = thread.join();
        }
    }
}
