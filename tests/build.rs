//! Lets a test link the rlibs of several providers, each of which holds the symbol `tenon_provider_entry`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Nothing inside a provider refers to the symbol, so any of the definitions will do.
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo::rustc-link-arg-tests=-Wl,-z,muldefs");
    }
}
