//! The files of the repository, and Rust source without comments and texts.

use std::fs;
use std::path::{Path, PathBuf};

/// A file with its path relative to the root, with forward slashes.
pub struct File {
    pub path: String,
    pub text: String,
}

impl File {
    pub fn extension(&self) -> &str {
        Path::new(&self.path).extension().and_then(|e| e.to_str()).unwrap_or_default()
    }

    /// The file's name without its extension.
    pub fn stem(&self) -> &str {
        Path::new(&self.path).file_stem().and_then(|s| s.to_str()).unwrap_or_default()
    }

    /// True for code that a program wrote and that says so in its first lines.
    pub fn is_generated(&self) -> bool {
        self.text.lines().take(5).any(|line| line.contains(concat!("@", "generated")))
    }

    /// Lines with their numbers.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    /// A violation at a line of this file.
    pub fn at(&self, line: usize, message: &str) -> String {
        format!("{}:{line}: {message}", self.path)
    }
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests is a folder of the root").to_path_buf()
}

/// Every text file of the repository, except dot files, build output and what git ignores by name.
pub fn files() -> Vec<File> {
    let mut found = Vec::new();
    walk(&root(), "", &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// Every Rust file.
pub fn rust_files() -> Vec<File> {
    files().into_iter().filter(|file| file.extension() == "rs").collect()
}

/// Every file under `folder`, which ends with a slash.
pub fn files_under(folder: &str) -> Vec<File> {
    files().into_iter().filter(|file| file.path.starts_with(folder)).collect()
}

/// Names of the folders directly in `folder`, sorted; empty when it does not exist.
pub fn folders(folder: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(root().join(folder)) else { return Vec::new() };
    let entries = entries.filter_map(Result::ok).filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn walk(folder: &Path, prefix: &str, found: &mut Vec<File>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') || name == "target" || name == "__pycache__" {
            continue;
        }
        let path = format!("{prefix}{name}");
        if entry.path().is_dir() {
            walk(&entry.path(), &format!("{path}/"), found);
        } else if let Ok(text) = fs::read_to_string(entry.path()) {
            // What is not UTF-8 is data.
            found.push(File { path, text });
        }
    }
}

/// Rust source with comments and the insides of texts replaced by spaces; lines keep their numbers.
pub fn code(source: &str) -> String {
    let bytes: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = token_end(&bytes, at);
        if end == at + 1 {
            out.push(bytes[at]);
        } else {
            out.extend(bytes[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
        }
        at = end;
    }
    out
}

/// How many lines of a Rust file come before its `#[cfg(test)]` module, which is the last thing in a file.
pub fn product_line_count(file: &File) -> usize {
    let code = code(&file.text);
    let inline = code.match_indices("#[cfg(test)]").find(|(at, mark)| {
        let next = code[at + mark.len()..].trim_start();
        next.starts_with("mod ") && next.find('{') < next.find(';')
    });
    let end = inline.map_or(code.len(), |(at, _)| at);
    code[..end].lines().count()
}

/// The end of the comment or text that starts at `at`, or `at + 1` when none does.
fn token_end(source: &[char], at: usize) -> usize {
    let rest = &source[at..];
    match rest {
        ['/', '/', ..] => at + rest.iter().position(|&c| c == '\n').unwrap_or(rest.len()),
        ['/', '*', ..] => at + block_comment_len(rest),
        ['"', ..] => at + quoted_len(rest, '"'),
        // A character, not a lifetime: 'x' or '\..'.
        ['\'', '\\', ..] => at + quoted_len(rest, '\''),
        ['\'', _, '\'', ..] => at + 3,
        ['r', '"' | '#', ..] if at == 0 || !is_word(source[at - 1]) || source[at - 1] == 'b' => {
            raw_len(rest).map_or(at + 1, |len| at + len)
        }
        _ => at + 1,
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn block_comment_len(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn quoted_len(rest: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

fn raw_len(rest: &[char]) -> Option<usize> {
    let hashes = rest[1..].iter().take_while(|&&c| c == '#').count();
    if rest.get(1 + hashes) != Some(&'"') {
        return None;
    }
    let closes = |at: usize| {
        rest[at] == '"' && rest[at + 1..].iter().take(hashes).filter(|&&c| c == '#').count() == hashes
    };
    let start = 2 + hashes;
    (start..rest.len()).find(|&at| closes(at)).map(|at| at + 1 + hashes)
}

#[test]
fn comments_and_texts_are_blanked_and_the_rest_is_kept() {
    let source =
        "let a = \"x // y\"; // z\nlet b = 'c'; /* d /* e */ f */ g::<'h>(r#\"i\"j\"#, b'\\'', \"\\\"k\");";
    let blanked = code(source);
    assert_eq!(blanked.len(), source.len());
    let words: String = blanked.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(words, "let a = ; let b = ; g::<'h>( , b , );");
}
