//! Providers with one thing wrong: each is refused, or fails later, with a sentence that names it.

use crate::stub;
use tenon_plugin_api::host::{GraphBuilder, OwnedGraph};
use tenon_plugin_api::{Code, DType};

/// What the runtime says about a library that it refuses, behind the library's path.
fn refusal(variant: &str) -> String {
    let path = stub::variant(variant);
    let error = stub::load(&path).expect_err("the host refuses it");
    let (_, reason) =
        error.split_once(&format!("{}: ", path.display())).expect("the error names the library");
    reason.to_string()
}

fn graph() -> OwnedGraph {
    let mut graph = GraphBuilder::new();
    let (x, y) = (graph.input("x", DType::F32, None), graph.value("y", DType::F32, None));
    graph.node("Identity", 21, &[x], &[y]);
    graph.build()
}

#[test]
fn another_major_version_is_refused_with_both_versions() {
    let error = refusal("WRONG_MAJOR");
    assert!(error.ends_with(
        "the provider was built for version 2.3 of the plugin contract, this host has 1.0: use a provider built for \
         version 1"
    ), "{error}");
}

#[test]
fn a_library_without_the_symbol_is_refused() {
    let error = refusal("NO_SYMBOL");
    assert!(error.contains("tenon_provider_entry"), "{error}");
}

#[test]
fn an_entry_that_returns_nothing_is_refused() {
    let error = refusal("NULL_TABLE");
    assert!(error.ends_with("the provider's entry returned no table"), "{error}");
}

#[test]
fn a_missing_mandatory_function_is_named() {
    for (variant, function) in [
        ("NULL_FUNCTION", "stream_synchronize"),
        ("TOO_SHORT_TABLE", "compile"),
        ("HALF_FAMILY", "capture_end"),
    ] {
        let error = refusal(variant);
        assert!(error.contains("provider 'stub' (contract 1.0): its table lacks "), "{error}");
        assert!(error.contains(function), "{error}");
    }
}

#[test]
fn a_table_that_ends_before_its_name_is_refused() {
    assert!(refusal("TINY_TABLE").contains("struct_size 8"));
    assert!(refusal("NO_NAME").contains("name is empty"));
}

#[test]
fn a_table_that_lacks_trailing_optional_members_loads_without_them() {
    let provider = stub::start(&stub::variant("SHORT_TABLE"));
    assert_eq!(provider.features(), tenon_plugin_api::host::Features::NONE);
    assert!(provider.extension("live_statuses").is_null());
    let device = provider.open(0, &[]).expect("device 0 opens");
    assert_eq!(device.timeline_start().expect_err("there is none").kind(), Code::Unsupported);
    assert_eq!(device.claim(graph().graph(), "").expect("the stub answers").sets.len(), 1);
}

#[test]
fn a_newer_minor_version_loads() {
    let provider = stub::start(&stub::variant("LONGER_TABLE"));
    assert_eq!(provider.abi_version(), (1, 7));
    assert_eq!(provider.open(0, &[]).expect("device 0 opens").info().name, "C stub");
}

#[test]
fn an_unusable_provider_says_why() {
    let provider = stub::start(&stub::variant("SCORE_ZERO"));
    assert_eq!(provider.score(), (0, "no stub hardware on this machine".to_string()));
}

#[test]
fn breaches_of_the_claim_rules_are_errors() {
    for (variant, breach) in
        [("CLAIMS_TWICE", "it claimed node 0 twice"), ("CLAIMS_OUTSIDE", "it claimed node 1 of 1")]
    {
        let device = stub::start(&stub::variant(variant)).open(0, &[]).expect("device 0 opens");
        let error = device.claim(graph().graph(), "").expect_err("the claim is wrong");
        assert_eq!(error.message(), format!("it broke the rules of claim: {breach}"));
    }
}

#[test]
fn a_node_without_an_answer_counts_as_declined() {
    let device = stub::start(&stub::variant("CLAIMS_NOTHING")).open(0, &[]).expect("device 0 opens");
    let claims = device.claim(graph().graph(), "").expect("silence is allowed");
    assert_eq!(claims.declines, [(0, "provider 'stub' gave no answer".to_string())]);
}

#[test]
fn a_device_that_opens_as_null_is_an_error() {
    let error = stub::start(&stub::variant("OPENS_NULL")).open(0, &[]).expect_err("NULL is no device");
    assert_eq!(error.kind(), Code::Internal);
}
