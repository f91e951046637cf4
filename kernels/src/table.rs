//! Reader of tuning tables: `[[row]]` headers and `key = value` lines with integers, numbers and strings.
//!
//! The subset of TOML that the tables under `arch/` are written in; everything else is refused.

use crate::error::{KernelError, Result};

/// A value of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Integer(i64),
    Number(f64),
    Text(String),
}

/// One `[[name]]` block.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// The name between the brackets.
    pub name: String,
    entries: Vec<(String, Value)>,
}

impl Row {
    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// The non-negative integer `key`, an error where it is missing.
    pub fn size(&self, key: &str) -> Result<usize> {
        self.size_or(key, None)
    }

    /// The non-negative integer `key`, or `default` where it is missing.
    pub fn size_or(&self, key: &str, default: Option<usize>) -> Result<usize> {
        match (self.get(key), default) {
            (Some(Value::Integer(v)), _) if *v >= 0 => Ok(*v as usize),
            (None, Some(default)) => Ok(default),
            (found, _) => Err(KernelError::table(format!(
                "row [[{}]]: {key} must be a non-negative integer, found {found:?}",
                self.name
            ))),
        }
    }

    /// The number `key`, which may be written as an integer.
    pub fn number(&self, key: &str) -> Result<f64> {
        match self.get(key) {
            Some(Value::Number(v)) => Ok(*v),
            Some(Value::Integer(v)) => Ok(*v as f64),
            found => Err(KernelError::table(format!(
                "row [[{}]]: {key} must be a number, found {found:?}",
                self.name
            ))),
        }
    }

    /// The string `key`.
    pub fn text(&self, key: &str) -> Result<&str> {
        match self.get(key) {
            Some(Value::Text(text)) => Ok(text),
            found => Err(KernelError::table(format!(
                "row [[{}]]: {key} must be a string, found {found:?}",
                self.name
            ))),
        }
    }
}

/// Reads all rows of a table.
pub fn parse(text: &str) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let fail = |what: &str| KernelError::table(format!("line {}: {what}: {line}", index + 1));
        let line_text = strip_comment(line).trim();
        if line_text.is_empty() {
            continue;
        }
        if let Some(rest) = line_text.strip_prefix("[[") {
            let name = rest.strip_suffix("]]").ok_or_else(|| fail("unclosed header"))?;
            rows.push(Row { name: name.trim().to_owned(), entries: Vec::new() });
            continue;
        }
        let (key, value) = line_text.split_once('=').ok_or_else(|| fail("expected `key = value`"))?;
        let row = rows.last_mut().ok_or_else(|| fail("a value before the first [[row]]"))?;
        let key = key.trim();
        if row.get(key).is_some() {
            return Err(fail("duplicate key"));
        }
        let value = parse_value(value.trim()).ok_or_else(|| fail("expected an integer, number or string"))?;
        row.entries.push((key.to_owned(), value));
    }
    Ok(rows)
}

fn strip_comment(line: &str) -> &str {
    let mut quoted = false;
    for (at, ch) in line.char_indices() {
        match ch {
            '"' => quoted = !quoted,
            '#' if !quoted => return &line[..at],
            _ => {}
        }
    }
    line
}

fn parse_value(text: &str) -> Option<Value> {
    if let Some(rest) = text.strip_prefix('"') {
        let inner = rest.strip_suffix('"')?;
        return (!inner.contains(['"', '\\'])).then(|| Value::Text(inner.to_owned()));
    }
    let plain = text.replace('_', "");
    plain.parse().map(Value::Integer).or_else(|_| plain.parse().map(Value::Number)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_hold_integers_numbers_and_strings() {
        let rows = parse("# head\n[[a]]\nx = 1_024 # tail\ny = 2.5\nz = \"a # b\"\n[[b]]\n").unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].size("x").unwrap(), 1024);
        assert_eq!(rows[0].get("y"), Some(&Value::Number(2.5)));
        assert_eq!(rows[0].text("z").unwrap(), "a # b");
        assert_eq!((rows[0].number("x").unwrap(), rows[0].number("y").unwrap()), (1024.0, 2.5));
        assert!(rows[0].number("z").unwrap_err().to_string().contains("z must be a number"));
    }

    #[test]
    fn malformed_lines_are_refused_with_their_number() {
        for bad in ["x = 1", "[[a", "[[a]]\nx", "[[a]]\nx = 1\nx = 2", "[[a]]\nx = [1]"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse("[[a]]\nx = ?").unwrap_err().to_string().contains("line 2"));
    }
}
