//! Units that the gates must refuse.

use std::sync::atomic::{AtomicUsize, Ordering};

use tenon_kernels::gpu::arch;
use tenon_kernels::gpu::unit::{Kernel, Text, Unit};

use crate::compiler::Compiler;

/// What the gates say of a unit of `family` that they must refuse.
#[track_caller]
pub fn refusal(compiler: &Compiler, family: &str, unit: Unit) -> String {
    // Tests run side by side, in threads or in processes.
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("refused_{}_{}_{count}", unit.name, std::process::id());
    let family = arch::find(family).expect("the family exists");
    match compiler.build(&name, family, std::slice::from_ref(&unit)) {
        Ok(_) => panic!("{} passed the gates", unit.name),
        Err(log) => log,
    }
}

/// A unit of `before` and a text of this folder.
pub fn fixture(before: &[Text], name: &'static str, kernel: Kernel) -> Unit {
    let text = match name {
        "serialised" => include_str!("fixtures/serialised.cu"),
        "spilling" => include_str!("fixtures/spilling.cu"),
        "scratch" => include_str!("fixtures/scratch.hip"),
        "looped" => include_str!("fixtures/looped.hip"),
        _ => panic!("there is no fixture {name}"),
    };
    let mut texts = before.to_vec();
    texts.push(Text { path: "tests/codegen/fixtures", text });
    Unit { name: name.to_owned(), texts, defines: Vec::new(), kernels: vec![kernel] }
}
