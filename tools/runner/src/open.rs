//! From the command line to a session: providers to load, options, and the time it took.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tenon_runtime::session::{Environment, ProviderRequest, Session, SessionOptions};

use crate::args::{SessionArgs, TalkArgs};
use crate::progress::Progress;

/// The variable that holds folders of provider libraries, separated as in PATH.
const PROVIDER_PATH: &str = "TENON_PROVIDER_PATH";

/// A session and how long it took to open.
pub struct Opened {
    pub session: Session,
    pub load: Duration,
}

/// The CPU provider, the libraries beside this program, those in `TENON_PROVIDER_PATH`, and those in `folders`.
///
/// A broken library beside the program is only reported; a folder that the user names must load.
pub fn environment(folders: &[PathBuf]) -> Result<Environment> {
    let environment = Environment::new();
    environment.register(tenon_provider_cpu::table()).context("the built-in CPU provider does not load")?;
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_path_buf));
    let listed = std::env::var_os(PROVIDER_PATH);
    let listed = listed.iter().flat_map(std::env::split_paths).filter(|p| !p.as_os_str().is_empty());
    for folder in beside.into_iter().chain(listed) {
        if !folder.is_dir() {
            continue;
        }
        for (library, outcome) in environment.load_folder(&folder)? {
            if let Err(e) = outcome {
                eprintln!("warning: {} is not used: {e}", library.display());
            }
        }
    }
    for folder in folders {
        ensure!(folder.is_dir(), "--provider-dir {} is not a folder", folder.display());
        for (library, outcome) in environment.load_folder(folder)? {
            outcome.with_context(|| format!("cannot load the provider {}", library.display()))?;
        }
    }
    Ok(environment)
}

/// The session options that the command line asks for.
pub fn options(args: &SessionArgs) -> Result<SessionOptions> {
    Ok(SessionOptions {
        providers: args.provider.as_deref().map(provider_requests).transpose()?.unwrap_or_default(),
        strict: args.strict,
        balance: !args.no_balance,
        threads: args.threads,
        optimize: !args.no_optimize,
        fuse: !args.no_fuse,
        dims: dims(args),
        ..SessionOptions::default()
    })
}

/// The sizes of `--dim`.
pub fn dims(args: &SessionArgs) -> BTreeMap<String, usize> {
    args.dims.iter().map(|d| (d.name.clone(), d.size)).collect()
}

/// Opens `model`, timing it.
pub fn open(
    environment: &Environment,
    model: &Path,
    options: &SessionOptions,
    talk: &TalkArgs,
) -> Result<Opened> {
    let _progress = Progress::start(format!("loading {}", model.display()), talk.quiet);
    let start = Instant::now();
    let session = Session::open(environment, model, options)
        .with_context(|| format!("cannot load {}", model.display()))?;
    Ok(Opened { session, load: start.elapsed() })
}

/// Parses `cuda:0,graphs=1,cpu`: a part with `=` is an option of the provider before it.
fn provider_requests(text: &str) -> Result<Vec<ProviderRequest>> {
    let mut requests: Vec<String> = Vec::new();
    for part in text.split(',').map(str::trim) {
        match requests.last_mut() {
            _ if part.is_empty() => bail!("--provider {text}: empty name"),
            Some(last) if part.contains('=') => {
                last.push(',');
                last.push_str(part);
            }
            None if part.contains('=') => {
                bail!("--provider {text}: option '{part}' comes before any provider")
            }
            _ => requests.push(part.to_owned()),
        }
    }
    let parse = |r: &String| r.parse::<ProviderRequest>().with_context(|| format!("--provider {r}"));
    requests.iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_belong_to_the_provider_before_them() {
        let requests = provider_requests("cuda:1,graphs=1,tf32=0,cpu").unwrap();
        assert_eq!(requests.len(), 2);
        assert_eq!((requests[0].name.as_str(), requests[0].device), ("cuda", Some(1)));
        assert_eq!(requests[0].options, [("graphs".into(), "1".into()), ("tf32".into(), "0".into())]);
        assert_eq!((requests[1].name.as_str(), requests[1].device), ("cpu", None));
        assert!(provider_requests("a=1,cpu").is_err());
        assert!(provider_requests("cpu,,cuda").is_err());
    }
}
