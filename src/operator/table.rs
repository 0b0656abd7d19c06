//! Columns of text for people, as wide as they need to be; coloured on a terminal only.

use super::{coloured, say};

/// Rows of cells.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with a row of headings.
    pub fn headed(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|heading| (*heading).to_owned()).collect()] }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// Adds a row of a name and a value, unless there is no value.
    pub fn fact(&mut self, name: &str, value: impl Into<String>) {
        let value = value.into();
        if !value.is_empty() {
            self.row([name.to_owned(), value]);
        }
    }

    /// Its lines.
    pub fn lines(&self) -> Vec<String> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width =
            |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
        let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{:<width$}", plain(cell)));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        self.rows.iter().map(line).collect()
    }

    /// Prints it.
    pub fn print(&self) {
        for line in self.lines() {
            say(&paint(&line));
        }
    }
}

/// Text of a repository on an operator's terminal: without what could steer the terminal.
fn plain(text: &str) -> String {
    text.replace(char::is_control, " ")
}

pub fn bold(text: &str) -> String {
    if coloured() { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
}

/// A line that nobody should miss.
pub fn alarm(line: &str) -> String {
    let line = plain(line);
    if coloured() { format!("\x1b[31m{line}\x1b[0m") } else { line }
}

/// The words that say how it is, in the colour of how it is.
fn paint(line: &str) -> String {
    if !coloured() {
        return line.to_owned();
    }
    let mut line = line.to_owned();
    for (word, colour) in
        [("Synced", 32), ("Healthy", 32), ("Progressing", 33), ("Unknown", 33), ("Degraded", 31), ("failed", 31)]
    {
        // `OutOfSync` holds no `Synced`, so a word is itself.
        line = line.replace(word, &format!("\x1b[{colour}m{word}\x1b[0m"));
    }
    line.replace("OutOfSync", "\x1b[33mOutOfSync\x1b[0m")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_need_to_be() {
        let mut table = Table::headed(&["MODEL", "VERSION"]);
        table.row(["pred-main".to_owned(), "1.0.0".to_owned()]);
        table.row(["é".to_owned(), "\u{1b}[31m".to_owned()]);
        table.fact("nothing", "");
        assert_eq!(table.lines(), ["MODEL      VERSION", "pred-main  1.0.0", "é           [31m"]);
    }
}
