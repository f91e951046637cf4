//! What a session is opened with.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::error::{Error, Result};

/// A provider to use, with one of its devices and options for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProviderRequest {
    pub name: String,
    /// `None` is the provider's first device.
    pub device: Option<u32>,
    pub options: Vec<(String, String)>,
}

impl FromStr for ProviderRequest {
    type Err = Error;

    /// Parses `name[:device][,key=value]...`, such as `fast:1,cache=off`.
    fn from_str(text: &str) -> Result<ProviderRequest> {
        let bad = |what: String| {
            Error::invalid_input(format!("provider '{text}': {what}; expected name[:device][,key=value]..."))
        };
        let mut parts = text.split(',');
        let head = parts.next().unwrap_or_default();
        let (name, device) = match head.split_once(':') {
            None => (head, None),
            Some((name, device)) => {
                let number = device.parse().map_err(|_| bad(format!("'{device}' is no device number")))?;
                (name, Some(number))
            }
        };
        if name.is_empty() {
            return Err(bad("the name is empty".into()));
        }
        let options = parts
            .map(|part| match part.split_once('=') {
                Some((key, value)) => Ok((key.trim().to_string(), value.trim().to_string())),
                None => Err(bad(format!("option '{part}' has no value"))),
            })
            .collect::<Result<_>>()?;
        Ok(ProviderRequest { name: name.trim().to_string(), device, options })
    }
}

/// How a session is opened.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// In order of preference; empty: every usable provider, best first. The fallback provider ends any list
    /// unless `strict`.
    pub providers: Vec<ProviderRequest>,
    /// A node that none of `providers` takes is an error with every reason, instead of running on the fallback.
    pub strict: bool,
    /// Threads of the fallback provider; `None`: one a processor.
    pub threads: Option<usize>,
    /// Rewrite the graph before it is run.
    pub optimize: bool,
    /// Fuse operators; off leaves the clean-up rewrites on.
    pub fuse: bool,
    /// Move groups of nodes to the device where they are estimated to finish first, transfers included. Off: every node
    /// stays with the first provider that takes it.
    pub balance: bool,
    /// Sizes for symbolic dimensions of the inputs, by name.
    pub dims: BTreeMap<String, usize>,
    /// Keep a timeline of kernels for [`crate::session::Session::take_timeline`].
    pub profile: bool,
    /// Keep the text form of every stage for [`crate::session::Session::inspect`].
    pub inspect: bool,
}

impl Default for SessionOptions {
    fn default() -> SessionOptions {
        SessionOptions {
            providers: Vec::new(),
            strict: false,
            threads: None,
            optimize: true,
            fuse: true,
            balance: true,
            dims: BTreeMap::new(),
            profile: false,
            inspect: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_parse_and_explain_what_is_wrong() {
        let request: ProviderRequest = "cuda:1,cache=off, x = y".parse().unwrap();
        assert_eq!((request.name.as_str(), request.device), ("cuda", Some(1)));
        assert_eq!(request.options, [("cache".into(), "off".into()), ("x".into(), "y".into())]);
        for bad in ["", ":0", "name:x", "name,threads"] {
            assert!(bad.parse::<ProviderRequest>().is_err(), "{bad}");
        }
    }
}
