//! `docs/failure-matrix.md`: its tables lie between markers, and are written by the runs.

use std::fs::{self, File};
use std::path::PathBuf;

use anyhow::{Context, Result};

const HEAD: &str = "\
| fault | who leads meanwhile | term | payload | objects in two clusters | pods in two clusters | payload created elsewhere after s | announced s | no payload anywhere s | payload in two clusters s |
|---|---|---|---|---|---|---|---|---|---|";

/// A line of a table.
#[derive(Debug)]
pub(crate) struct Row {
    /// What may not drift. The first cell names the row.
    pub(crate) outcome: Vec<String>,
    /// What differs from run to run.
    pub(crate) times: Vec<String>,
}

/// The document, for one test at a time.
pub(crate) struct Document {
    path: PathBuf,
    _lock: File,
}

impl Document {
    pub(crate) fn open() -> Result<Self> {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
        let path = root.join("docs/failure-matrix.md");
        // A test of another fleet may end now, too.
        let lock = File::open(root.join("docs")).context("open docs")?;
        lock.lock().context("lock docs")?;
        Ok(Self { path, _lock: lock })
    }

    /// Replaces the table of a fleet.
    pub(crate) fn write(&self, section: &str, rows: &[Row]) -> Result<()> {
        let text = fs::read_to_string(&self.path).context("read the matrix")?;
        let (before, _, after) = split(&text, section)?;
        let lines: Vec<String> = rows.iter().map(line).collect();
        let text = format!("{before}\n{HEAD}\n{}\n{after}", lines.join("\n"));
        fs::write(&self.path, text).context("write the matrix")
    }

    /// What differs from the document, in words.
    pub(crate) fn drift(&self, section: &str, rows: &[Row]) -> Vec<String> {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        drift(&text, section, rows)
    }
}

fn drift(text: &str, section: &str, rows: &[Row]) -> Vec<String> {
    let table = match split(text, section) {
        Ok((_, table, _)) => table,
        Err(error) => return vec![error.to_string()],
    };
    let stored: Vec<Vec<&str>> =
        table.lines().skip_while(|line| !line.starts_with("|---")).skip(1).map(cells).collect();
    let mut drift = Vec::new();
    for row in rows {
        let Some(found) =
            stored.iter().find(|cells| cells.first() == row.outcome.first().map(String::as_str).as_ref())
        else {
            drift.push(format!("{section}: not in the document: {}", row.outcome.join(" | ")));
            continue;
        };
        if found.iter().take(row.outcome.len()).ne(row.outcome.iter()) {
            let documented = found.iter().take(row.outcome.len()).copied().collect::<Vec<_>>().join(" | ");
            drift.push(format!("{section}: documented {documented}; came out {}", row.outcome.join(" | ")));
        }
    }
    for cells in &stored {
        let name = cells.first().copied().unwrap_or_default();
        if !rows.iter().any(|row| row.outcome.first().is_some_and(|first| first == name)) {
            drift.push(format!("{section}: documented but not run: {name}"));
        }
    }
    if !drift.is_empty() {
        drift.push(
            "if that is meant: UPDATE_MATRIX=1 cargo test -p flagship-e2e --features matrix --test matrix"
                .to_owned(),
        );
    }
    drift
}

/// Up to and with the first marker, the table, and the rest with the second marker.
fn split<'a>(text: &'a str, section: &str) -> Result<(&'a str, &'a str, &'a str)> {
    let (begin, end) = (format!("<!-- begin {section} -->"), format!("<!-- end {section} -->"));
    let from =
        text.find(&begin).with_context(|| format!("docs/failure-matrix.md has no {begin}"))? + begin.len();
    let to =
        from + text[from..].find(&end).with_context(|| format!("docs/failure-matrix.md has no {end}"))?;
    Ok((&text[..from], text[from..to].trim(), &text[to..]))
}

fn cells(line: &str) -> Vec<&str> {
    line.trim().trim_matches('|').split('|').map(str::trim).collect()
}

fn line(row: &Row) -> String {
    let cells: Vec<&str> = row.outcome.iter().chain(&row.times).map(String::as_str).collect();
    format!("| {} |", cells.join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: [&str; 3], time: &str) -> Row {
        Row { outcome: cells.map(str::to_owned).to_vec(), times: vec![time.to_owned()] }
    }

    fn text(lines: &str) -> String {
        format!("# T\n<!-- begin two -->\n{HEAD}\n{lines}\n<!-- end two -->\nend\n")
    }

    #[test]
    fn outcomes_may_not_drift_and_times_may() {
        let text = text("| killed | the standby | moved | 4.0 |\n| cut | both | moved | 5.1 |");
        let same = [row(["killed", "the standby", "moved"], "9.9"), row(["cut", "both", "moved"], "0")];
        assert_eq!(drift(&text, "two", &same), Vec::<String>::new());
        let other = [row(["killed", "the same", "moved"], "4.0"), row(["cut", "both", "moved"], "0")];
        assert!(
            drift(&text, "two", &other)[0]
                .contains("documented killed | the standby | moved; came out killed | the same")
        );
    }

    #[test]
    fn a_row_that_only_one_of_both_has_is_drift() {
        let text = text("| killed | the standby | moved | 4.0 |");
        assert!(drift(&text, "two", &[])[0].contains("documented but not run: killed"));
        let more = [row(["killed", "the standby", "moved"], "4"), row(["cut", "both", "moved"], "0")];
        assert!(drift(&text, "two", &more)[0].contains("not in the document: cut"));
        assert!(drift(&text, "three", &more)[0].contains("has no <!-- begin three -->"));
    }
}
