//! Tables for people: columns as wide as their longest cell, numbers to the right.

use std::fmt;

/// A table with a header row.
#[derive(Clone, Debug, Default)]
pub struct Table {
    header: Vec<String>,
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column titles; a title that starts with `>` aligns its column to the right.
    pub fn new(titles: &[&str]) -> Self {
        Table {
            header: titles.iter().map(|t| t.trim_start_matches('>').to_owned()).collect(),
            right: titles.iter().map(|t| t.starts_with('>')).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; missing cells are empty.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let mut row: Vec<String> = cells.into_iter().map(Into::into).collect();
        row.resize(self.header.len(), String::new());
        self.rows.push(row);
    }

    /// True when no row was added.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn line(&self, f: &mut fmt::Formatter<'_>, cells: &[String], widths: &[usize]) -> fmt::Result {
        let mut line = String::from(" ");
        for ((cell, width), right) in cells.iter().zip(widths).zip(&self.right) {
            let padding = " ".repeat(width - cell.chars().count());
            let (before, after) = if *right { (padding, String::new()) } else { (String::new(), padding) };
            line.push_str(&format!(" {before}{cell}{after} "));
        }
        writeln!(f, "{}", line.trim_end())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let longest = |column: usize| {
            let cells = self.rows.iter().map(|r| &r[column]).chain([&self.header[column]]);
            cells.map(|c| c.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.header.len()).map(longest).collect();
        let style = anstyle::Style::new().bold();
        write!(f, "{style}")?;
        self.line(f, &self.header, &widths)?;
        write!(f, "{style:#}")?;
        self.rows.iter().try_for_each(|row| self.line(f, row, &widths))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["name", ">time"]);
        table.row(["a", "1.25 ms"]);
        table.row(["longer name", "10 µs"]);
        table.row(["alone"]);
        let text = anstream::adapter::strip_str(&table.to_string()).to_string();
        let expected = "  name            time\n  a            1.25 ms\n  longer name    10 µs\n  alone\n";
        assert_eq!(text, expected);
    }
}
