//! Collects what a provider claims and declines, and checks that it keeps to the rules.

use super::Graph;
use super::error::{Error, Result};
use super::provider::ProviderInner;
use super::table::mandatory;
use crate::ffi;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::ffi::c_void;

/// A provider's answer about a graph: every node is in exactly one set or has at least one decline.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claims {
    /// Nodes that the device would run together, with the cost of doing so.
    pub sets: Vec<(Vec<u32>, ffi::Cost)>,
    /// Nodes that it will not run, and why.
    pub declines: Vec<(u32, String)>,
}

/// What the callbacks fill in.
struct Collector {
    claims: Claims,
    /// For each node whether it was claimed, and whether anything was said about it.
    claimed: Vec<bool>,
    answered: Vec<bool>,
    /// The first breach of the rules.
    breach: Option<String>,
}

/// Asks about `graph`; `device` may be NULL when `target` is not empty.
pub(super) fn claim(
    provider: &ProviderInner,
    device: *mut ffi::Device,
    target: &str,
    graph: Graph<'_>,
) -> Result<Claims> {
    let nodes = graph.raw().node_count;
    let mut collector = Collector {
        claims: Claims::default(),
        claimed: vec![false; nodes],
        answered: vec![false; nodes],
        breach: None,
    };
    let sink = ffi::ClaimSink {
        struct_size: size_of::<ffi::ClaimSink>(),
        context: (&raw mut collector).cast(),
        claim: Some(on_claim),
        decline: Some(on_decline),
    };
    // SAFETY: the graph, the target and the sink are valid for the call; the context is what the callbacks expect.
    unsafe {
        provider.check(mandatory!(provider.table, claim)(
            device,
            ffi::Str::new(target),
            graph.raw(),
            &sink,
        ))?;
    }
    if let Some(breach) = collector.breach {
        let error = crate::Error::internal(format!("it broke the rules of claim: {breach}"));
        return Err(Error::new(&provider.name, error));
    }
    let silent = collector.answered.iter().enumerate().filter(|&(_, answered)| !answered);
    let silent =
        silent.map(|(node, _)| (node as u32, format!("provider '{}' gave no answer", provider.name)));
    collector.claims.declines.extend(silent);
    Ok(collector.claims)
}

unsafe extern "C" fn on_claim(context: *mut c_void, nodes: *const u32, node_count: usize, cost: ffi::Cost) {
    // SAFETY: `claim` passed its collector and does not touch it during the call.
    let collector = unsafe { &mut *context.cast::<Collector>() };
    // SAFETY: the provider passes node_count indices, valid for the call.
    let nodes = unsafe { crate::view::slice_at(nodes, node_count) };
    for &node in nodes {
        match collector.claimed.get_mut(node as usize) {
            None => return collector.note(format!("it claimed node {node} of {}", collector.claimed.len())),
            Some(true) => return collector.note(format!("it claimed node {node} twice")),
            Some(claimed) => *claimed = true,
        }
        collector.answered[node as usize] = true;
    }
    if !nodes.is_empty() {
        collector.claims.sets.push((nodes.into(), cost));
    }
}

unsafe extern "C" fn on_decline(context: *mut c_void, node: u32, reason: ffi::Str) {
    // SAFETY: `claim` passed its collector and does not touch it during the call.
    let collector = unsafe { &mut *context.cast::<Collector>() };
    match collector.answered.get_mut(node as usize) {
        None => collector.note(format!("it declined node {node} of {}", collector.answered.len())),
        Some(answered) => {
            *answered = true;
            // SAFETY: the provider passes a text that is valid for the call.
            let reason = String::from_utf8_lossy(unsafe { reason.as_bytes() }).into_owned();
            collector.claims.declines.push((node, reason));
        }
    }
}

impl Collector {
    fn note(&mut self, breach: String) {
        self.breach.get_or_insert(breach);
    }
}
