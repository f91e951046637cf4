//! Tables for people: columns as wide as their longest cell, numbers to the right; bars; times.

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

/// A bar of `width` cells, `share` of it filled in eighths of a cell.
pub fn bar(share: f64, width: usize) -> String {
    const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let filled = (share.clamp(0.0, 1.0) * (8 * width) as f64).round() as usize;
    let mut bar = "█".repeat(filled / 8);
    if !filled.is_multiple_of(8) {
        bar.push(EIGHTHS[filled % 8]);
    }
    bar
}

/// Three significant digits and a unit: `1.23 ms`.
pub fn time(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{} µs", significant(s * 1e6)),
        s if s < 1.0 => format!("{} ms", significant(s * 1e3)),
        s => format!("{} s", significant(s)),
    }
}

/// A number with about three significant digits.
pub fn significant(value: f64) -> String {
    match value {
        v if v >= 99.95 => format!("{v:.0}"),
        v if v >= 9.995 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_bars_have_their_length() {
        let mut table = Table::new(&["name", ">time"]);
        table.row(["a".to_owned(), time(1.25e-3)]);
        table.row(["longer name".to_owned(), time(12.34e-6)]);
        table.row(["alone"]);
        let text = anstream::adapter::strip_str(&table.to_string()).to_string();
        let expected = "  name            time\n  a            1.25 ms\n  longer name  12.3 µs\n  alone\n";
        assert_eq!(text, expected);
        assert_eq!(bar(0.5, 4), "██");
        assert_eq!(bar(0.28125, 4), "█▏");
        assert_eq!(bar(7.0, 2), "██");
    }
}
