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
            ])
        }));
        object(&[("name", quote(&unit.name)), ("texts", texts), ("defines", defines), ("kernels", kernels)])
    }));
    object(&[("arch", quote(arch)), ("target", quote(target)), ("units", units)])
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
