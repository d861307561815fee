//! Colours: on a terminal only, and never if NO_COLOR is set.

use std::fmt::Write as _;
use std::io::IsTerminal as _;

/// Whether and how text is marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Style {
    colours: bool,
}

/// What a piece of text means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As it is.
    Plain,
    /// Heads and the leader.
    Strong,
    /// All is well.
    Good,
    /// Worth a look.
    Warning,
    /// Wrong.
    Bad,
    /// Of little weight.
    Faint,
}

impl Style {
    /// No marks at all.
    #[cfg(test)]
    pub(crate) const PLAIN: Self = Self { colours: false };

    /// For standard output as it is now.
    pub(crate) fn detect() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let able = std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        Self { colours: wanted && able && std::io::stdout().is_terminal() }
    }

    #[cfg(test)]
    pub(crate) const COLOURED: Self = Self { colours: true };

    /// The text in its tone.
    pub(crate) fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Plain => return text.into(),
            Tone::Strong => "1",
            Tone::Good => "32",
            Tone::Warning => "33",
            Tone::Bad => "1;31",
            Tone::Faint => "2",
        };
        if self.colours && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.into() }
    }
}

/// One cell of a table.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    pub(crate) text: String,
    pub(crate) tone: Tone,
}

impl Cell {
    pub(crate) fn new(tone: Tone, text: impl Into<String>) -> Self {
        Self { text: printable(&text.into()), tone }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(Tone::Plain, text)
    }
}

/// What comes from objects of a cluster is not trusted with the terminal: no escapes, no line breaks.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// `1 object`, `2 objects`.
pub(crate) fn counted(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Breaks `text` into lines of at most `width` columns, the first of which begins at column `first`, all others after
/// `indent` blanks. A command to be typed stays in one line, however long, so that it can be copied.
pub(crate) fn wrap(text: &str, first: usize, indent: usize, width: usize) -> String {
    let mut out = String::new();
    let mut column = first;
    for piece in pieces(&printable(text)) {
        let length = piece.chars().count();
        let begun = !out.is_empty();
        if begun && column + 1 + length > width {
            let _ = write!(out, "\n{:indent$}{piece}", "");
            column = indent + length;
        } else {
            out.push_str(if begun { " " } else { "" });
            out.push_str(&piece);
            column += length + usize::from(begun);
        }
    }
    out
}

/// Words, and commands as a whole: from `flagship` or `kubectl` after a colon to the end of the clause.
fn pieces(text: &str) -> Vec<String> {
    let mut pieces: Vec<String> = Vec::new();
    let mut command = false;
    for word in text.split_whitespace() {
        match pieces.last_mut() {
            Some(last) if command => {
                last.push(' ');
                last.push_str(word);
            }
            last => {
                let after_colon = last.is_none_or(|last| last.ends_with(':'));
                command = after_colon && matches!(word, "flagship" | "kubectl");
                pieces.push(word.into());
            }
        }
        command &= !word.ends_with([';', ',', ')']);
    }
    pieces
}

/// Lines the rows up under their heads, indented by `indent`.
pub(crate) fn table(style: Style, indent: &str, head: &[&str], rows: &[Vec<Cell>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.chars().count());
        cells.chain([head[column].len()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut out = String::new();
    let heads: Vec<Cell> = head.iter().map(|text| Cell::new(Tone::Faint, *text)).collect();
    for row in std::iter::once(&heads).chain(rows) {
        let mut line = String::from(indent);
        for (column, cell) in row.iter().enumerate() {
            let padding = widths[column].saturating_sub(cell.text.chars().count()) + 2;
            // Writing to a String does not fail.
            let _ = write!(line, "{}{:padding$}", style.paint(cell.tone, &cell.text), "");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_wrapped_and_commands_stay_whole() {
        let text =
            "no certificate for it here; make one with: flagship pki init --fleet f --out d; then start it";
        let expected = "no certificate for\n  it here; make one\n  with:\n  flagship pki init --fleet f --out d;\n  \
                        then start it";
        assert_eq!(wrap(text, 1, 2, 20), expected);
        assert_eq!(wrap("a\x1b[2Jb\nc", 0, 2, 20), "a [2Jb c");
        assert_eq!(wrap("", 0, 2, 20), "");
        assert_eq!((counted(1, "object"), counted(0, "object")), ("1 object".into(), "0 objects".into()));
    }

    #[test]
    fn colours_do_not_move_columns_and_escapes_do_not_get_through() {
        let rows = vec![
            vec![Cell::new(Tone::Bad, "a\x1b[2Jb\n"), "x".into()],
            vec!["longer cell".into(), "y".into()],
        ];
        let plain = table(Style::PLAIN, "  ", &["ONE", "TWO"], &rows);
        assert_eq!(plain, "  ONE          TWO\n  a [2Jb       x\n  longer cell  y\n");
        let coloured = table(Style::COLOURED, "  ", &["ONE", "TWO"], &rows);
        assert!(coloured.contains("\x1b[1;31ma [2Jb \x1b[0m      x"), "{coloured:?}");
    }
}
