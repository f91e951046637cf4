//! What the build compiles for an arch: texts, definitions, and what the machine code must and must not contain.

/// A translation unit: its texts in order, as one file.
#[derive(Clone, Debug)]
pub struct Unit {
    /// File name of the result without extension; unique in its arch.
    pub name: String,
    /// Paths from `kernels/` and texts, concatenated in order by the build.
    pub texts: Vec<Text>,
    /// Macros defined before the first text.
    pub defines: Vec<(String, String)>,
    /// The kernels that the unit defines.
    pub kernels: Vec<Kernel>,
}

/// A file that is part of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text {
    /// From `kernels/`, for messages of the compiler.
    pub path: &'static str,
    pub text: &'static str,
}

/// A kernel and the facts that its machine code is held to.
#[derive(Clone, Debug)]
pub struct Kernel {
    pub symbol: String,
    /// Threads of a block at most.
    pub threads: u32,
    /// Dynamic shared memory that the planner asks for at most.
    pub shared_bytes: u32,
    /// Mnemonics, or starts of mnemonics, that must occur.
    pub required: Vec<&'static str>,
    /// Mnemonics, or starts of mnemonics, that must not occur.
    pub forbidden: Vec<&'static str>,
    pub planned: Planned,
}

/// What a planner counts on beyond that, where the compiler's output tells (AMD).
#[derive(Clone, Debug, Default)]
pub struct Planned {
    /// Shared memory that the text itself declares, exactly.
    pub static_shared_bytes: Option<u32>,
    /// Waves of a SIMD that registers and shared memory must leave room for.
    pub waves_per_simd: Option<u32>,
    /// What must and must not occur in the main loop, the innermost one with matrix instructions: starts of mnemonics, or
    /// with a blank or bracket a piece of an instruction, such as `vmcnt(0)`.
    pub loop_required: Vec<&'static str>,
    pub loop_forbidden: Vec<&'static str>,
    /// The main loop loads ahead, so it never waits for all of its loads.
    pub prefetches: bool,
}

/// The units of a family as one JSON object, for the compiling script: arch, target, and every unit with its texts.
pub fn listing(arch: &str, target: &str, units: &[Unit]) -> String {
    let units = list(units.iter().map(|unit| {
        let texts =
            list(unit.texts.iter().map(|t| object(&[("path", quote(t.path)), ("text", quote(t.text))])));
        let defines =
            list(unit.defines.iter().map(|(name, value)| format!("[{}, {}]", quote(name), quote(value))));
        let kernels = list(unit.kernels.iter().map(|kernel| {
            object(&[
                ("symbol", quote(&kernel.symbol)),
                ("threads", kernel.threads.to_string()),
                ("shared_bytes", kernel.shared_bytes.to_string()),
                ("required", list(kernel.required.iter().map(|name| quote(name)))),
                ("forbidden", list(kernel.forbidden.iter().map(|name| quote(name)))),
                ("static_shared_bytes", number(kernel.planned.static_shared_bytes)),
                ("waves_per_simd", number(kernel.planned.waves_per_simd)),
                ("loop_required", list(kernel.planned.loop_required.iter().map(|name| quote(name)))),
                ("loop_forbidden", list(kernel.planned.loop_forbidden.iter().map(|name| quote(name)))),
                ("prefetches", kernel.planned.prefetches.to_string()),
            ])
        }));
        object(&[("name", quote(&unit.name)), ("texts", texts), ("defines", defines), ("kernels", kernels)])
    }));
    object(&[("arch", quote(arch)), ("target", quote(target)), ("units", units)])
}

fn number(value: Option<u32>) -> String {
    value.map_or_else(|| "null".to_owned(), |value| value.to_string())
}

fn object(fields: &[(&str, String)]) -> String {
    let fields: Vec<String> =
        fields.iter().map(|(name, value)| format!("{}: {value}", quote(name))).collect();
    format!("{{{}}}", fields.join(", "))
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            c if c < ' ' => quoted.push_str(&format!("\\u{:04x}", c as u32)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_escapes_what_json_requires() {
        let unit = Unit {
            name: "u".into(),
            texts: vec![Text { path: "p.cu", text: "a \"b\"\n\\" }],
            defines: vec![("N".into(), "1".into())],
            kernels: Vec::new(),
        };
        let wanted = r#"{"arch": "x", "target": "y", "units": [{"name": "u", "texts": [{"path": "p.cu", "text": "a \"b\"\u000a\\"}], "defines": [["N", "1"]], "kernels": []}]}"#;
        assert_eq!(listing("x", "y", &[unit]), wanted);
    }
}
