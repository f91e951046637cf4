//! A reader of the plugin header: structs, their members as Rust types, and constants.

/// A member of a struct.
pub struct Member {
    pub name: String,
    kind: Kind,
}

enum Kind {
    Plain(String),
    Function { returns: String, arguments: Vec<String> },
}

impl Member {
    /// The member's type as the mirror should spell it.
    pub fn rust_type(&self) -> String {
        match &self.kind {
            // The one function type with a name of its own.
            Kind::Plain(c) if c == "tenon_allocate_output" => "Option<AllocateOutput>".into(),
            Kind::Plain(c) => rust_type(c),
            Kind::Function { returns, arguments } => {
                let arguments: Vec<String> = arguments.iter().map(|argument| rust_type(argument)).collect();
                let returns = match returns.as_str() {
                    "void" => String::new(),
                    other => format!(" -> {}", rust_type(other)),
                };
                format!("Option<unsafe extern \"C\" fn({}){returns}>", arguments.join(", "))
            }
        }
    }
}

/// Every struct with members, in the order of the header.
pub fn structs(header: &str) -> Vec<(String, Vec<Member>)> {
    let text = without_comments(header);
    let mut found = Vec::new();
    let mut rest = text.as_str();
    while let Some(start) = rest.find("struct tenon_") {
        rest = &rest[start + "struct ".len()..];
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let after = rest[name.len()..].trim_start();
        let Some(body) = after.strip_prefix('{') else { continue };
        let (body, tail) = body.split_once('}').expect("a struct ends");
        found.push((name, body.split(';').map(str::trim).filter(|m| !m.is_empty()).map(member).collect()));
        rest = tail;
    }
    found
}

fn member(declaration: &str) -> Member {
    if let Some((returns, rest)) = declaration.split_once("(*") {
        let (name, arguments) = rest.split_once(')').expect("a function pointer's name ends");
        let arguments = arguments.trim().trim_start_matches('(').trim_end_matches(')');
        let arguments = arguments.split(',').map(|argument| split_name(argument).0).collect();
        let kind = Kind::Function { returns: returns.trim().to_string(), arguments };
        return Member { name: name.to_string(), kind };
    }
    let (c_type, name) = split_name(declaration);
    Member { name, kind: Kind::Plain(c_type) }
}

/// `const char* data` is (`const char*`, `data`).
fn split_name(declaration: &str) -> (String, String) {
    let declaration = declaration.trim();
    let start = declaration.rfind(|c: char| !(c.is_alphanumeric() || c == '_')).map_or(0, |at| at + 1);
    (declaration[..start].trim().to_string(), declaration[start..].to_string())
}

/// Every constant of the header: enumerators and the numeric macros.
pub fn constants(header: &str) -> Vec<String> {
    let text = without_comments(header);
    let mut names: Vec<String> = Vec::new();
    for (start, _) in text.match_indices("enum {") {
        let body = text[start + "enum {".len()..].split('}').next().expect("an enum ends");
        names.extend(body.split(',').filter_map(|item| Some(item.split_once('=')?.0.trim().to_string())));
    }
    for line in text.lines().filter_map(|line| line.strip_prefix("#define ")) {
        let mut words = line.split_whitespace();
        let (Some(name), Some(value)) = (words.next(), words.next()) else { continue };
        let is_number = value.starts_with(|c: char| c.is_ascii_digit()) || value == "UINT32_MAX";
        if is_number && !name.contains('(') {
            names.push(name.to_string());
        }
    }
    names
}

/// `tenon_device_info` is `DeviceInfo`.
pub fn rust_type_name(c: &str) -> String {
    match c {
        "tenon_option" => return "KeyValue".into(),
        // Numbers of element types stay plain numbers in the mirror.
        "tenon_dtype" => return "u32".into(),
        _ => {}
    }
    let words = c.trim_start_matches("tenon_").split('_');
    words.map(|word| word[..1].to_uppercase() + &word[1..]).collect()
}

/// `const tenon_option* const*` is `*const *const KeyValue`.
fn rust_type(c: &str) -> String {
    let spaced = c.replace('*', " * ");
    let mut constant = false;
    let mut rust = String::new();
    for word in spaced.split_whitespace() {
        match word {
            "const" => constant = true,
            "*" => {
                rust = format!("*{} {rust}", if constant { "const" } else { "mut" });
                constant = false;
            }
            base => rust = base_type(base),
        }
    }
    rust
}

fn base_type(c: &str) -> String {
    match c {
        "void" => "c_void".into(),
        "char" => "c_char".into(),
        "size_t" => "usize".into(),
        "uint32_t" => "u32".into(),
        "int32_t" => "i32".into(),
        "uint64_t" => "u64".into(),
        "int64_t" => "i64".into(),
        "float" => "f32".into(),
        "double" => "f64".into(),
        other => rust_type_name(other),
    }
}

fn without_comments(header: &str) -> String {
    let mut text = String::new();
    let mut rest = header;
    while let Some((before, after)) = rest.split_once("/*") {
        text += before;
        rest = after.split_once("*/").expect("a comment ends").1;
    }
    text + rest
}
