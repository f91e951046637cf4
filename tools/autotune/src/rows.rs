//! Rows of a `matmul.toml` as text: printing them, and putting them into a table beside what is there.

use std::fmt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use tenon_kernels::gpu::matmul::{mfma, wgmma};

/// Where a time comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Evidence {
    /// The time model.
    Estimate,
    /// A device, with the vendor's library in the same process.
    Measured { peer_microseconds: Option<f64>, commit: Option<String> },
}

/// A choice for one shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub kind: String,
    /// M, N, K.
    pub extents: [usize; 3],
    pub candidate: String,
    /// Parts of K.
    pub splits: usize,
    pub chip: String,
    pub microseconds: f64,
    pub evidence: Evidence,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [m, n, k] = self.extents;
        writeln!(
            f,
            "[[row]]\nkind = \"{}\"\nm = {m}\nn = {n}\nk = {k}\ncandidate = \"{}\"",
            self.kind, self.candidate
        )?;
        if self.splits > 1 {
            writeln!(f, "splits = {}", self.splits)?;
        }
        writeln!(f, "chip = \"{}\"", self.chip)?;
        match &self.evidence {
            Evidence::Estimate => {
                writeln!(f, "evidence = \"estimate\"\nestimate_us = {:.1}", self.microseconds)?
            }
            Evidence::Measured { peer_microseconds, commit } => {
                writeln!(f, "evidence = \"measured\"\nus = {:.1}", self.microseconds)?;
                if let Some(peer) = peer_microseconds {
                    writeln!(f, "peer_us = {peer:.1}")?;
                }
                if let Some(commit) = commit {
                    writeln!(f, "commit = \"{commit}\"")?;
                }
            }
        }
        writeln!(f, "date = \"{}\"", today())
    }
}

/// Puts `rows` into the table at `path`: a row of the same kind, shape and chip is replaced, others go before the first
/// row, so that a range does not hide them.
pub fn write(path: &Path, rows: &[Row]) -> Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| format!("--write {}", path.display()))?;
    let merged = merge(&text, rows);
    // The families' readers ask for different evidence.
    if let (Err(one), Err(other)) = (wgmma::Table::parse(&merged), mfma::Table::parse(&merged)) {
        bail!("{}: with these rows the table would not load: {one}; {other}", path.display());
    }
    let temporary = path.with_extension("toml.new");
    std::fs::write(&temporary, merged).with_context(|| format!("cannot write {}", temporary.display()))?;
    std::fs::rename(&temporary, path).with_context(|| format!("cannot replace {}", path.display()))
}

fn merge(text: &str, rows: &[Row]) -> String {
    let mut blocks = blocks(text);
    let mut first = blocks.iter().position(|block| starts_row(block)).unwrap_or(blocks.len());
    for row in rows {
        match blocks.iter_mut().find(|block| is_same(block, row)) {
            Some(block) => {
                // Remarks before the next block belong to that one and stay.
                let tail = block.find("\n#").map_or(String::new(), |at| block[at..].to_owned());
                *block = format!("{row}{}", if tail.is_empty() { "\n".to_owned() } else { tail });
            }
            None => {
                blocks.insert(first, format!("{row}\n"));
                first += 1;
            }
        }
    }
    blocks.concat()
}

/// The text cut before every `[[`.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks = vec![String::new()];
    for line in text.split_inclusive('\n') {
        if line.starts_with("[[") {
            blocks.push(String::new());
        }
        blocks.last_mut().expect("there is a first block").push_str(line);
    }
    blocks
}

fn starts_row(block: &str) -> bool {
    block.starts_with("[[row]]")
}

fn is_same(block: &str, row: &Row) -> bool {
    let [m, n, k] = row.extents;
    let lines: Vec<&str> = block.lines().map(str::trim).collect();
    let wanted = [
        format!("kind = \"{}\"", row.kind),
        format!("m = {m}"),
        format!("n = {n}"),
        format!("k = {k}"),
        format!("chip = \"{}\"", row.chip),
    ];
    starts_row(block) && wanted.iter().all(|line| lines.contains(&line.as_str()))
}

/// The date in UTC, `2026-01-31`.
fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let (year, month, day) = civil(seconds / 86_400);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Year, month and day of a number of days since 1970.
fn civil(days: u64) -> (u64, u64, u64) {
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (mut year, mut left) = (1970, days);
    while left >= 365 + u64::from(is_leap(year)) {
        left -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let months = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in months {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1)
}

#[cfg(test)]
mod tests {
    use tenon_kernels::table;

    use super::*;

    fn row(candidate: &str, m: usize) -> Row {
        Row {
            kind: "bf16_bf16_bf16_nt".to_owned(),
            extents: [m, 64, 32],
            candidate: candidate.to_owned(),
            splits: 1,
            chip: "h100".to_owned(),
            microseconds: 12.34,
            evidence: Evidence::Measured { peer_microseconds: Some(13.0), commit: Some("abc".to_owned()) },
        }
    }

    #[test]
    fn rows_replace_their_like_and_others_come_first() {
        let text = format!(
            "# head\n[[model]]\nx = 1\n\n{}\n# of the range\n[[row]]\nkind = \"k\"\nm_min = 1\n",
            row("old", 8)
        );
        let merged = merge(&text, &[row("new", 8), row("other", 16)]);
        assert!(!merged.contains("\"old\"") && merged.contains("\"new\""));
        let at = |part: &str| merged.find(part).unwrap();
        assert!(at("[[model]]") < at("\"other\"") && at("\"other\"") < at("m_min"));
        assert!(at("# of the range") < at("m_min") && merged.contains("peer_us = 13.0"));
        let parsed = table::parse(&merged).unwrap();
        assert_eq!(parsed.iter().filter(|block| block.name == "row").count(), 3);
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(19_782), (2024, 2, 29));
        assert_eq!(civil(20_454), (2026, 1, 1));
    }
}
