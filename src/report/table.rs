//! Tables for people, as text and as Markdown.

use std::collections::HashSet;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement, LineStyle};

use super::number;

/// A table: what reports show to people.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// The title, a line above the table.
    pub title: String,
    /// The columns. Where all names are empty there is no head: a list of facts.
    pub columns: Vec<Column>,
    /// The rows, a cell a column.
    pub rows: Vec<Vec<Cell>>,
    /// Sentences below the table.
    pub notes: Vec<String>,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its head.
    pub name: String,
    /// On which side its cells stand.
    pub align: Align,
    /// Columns with a number are left out where the width does not suffice, those of the highest number first, and
    /// the table says so; `None` always stays.
    pub spare: Option<u8>,
}

/// On which side the cells of a column stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Left: words.
    Left,
    /// Right: numbers.
    Right,
}

/// What stands in a cell. Numbers are written by [`number`].
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// Nothing to say: `-`.
    None,
    /// Words, wrapped where the width does not suffice.
    Text(String),
    /// A name, shortened in its middle where the width does not suffice; code in Markdown.
    Name(String),
    /// A real number, four significant digits.
    Real(f64),
    /// Two real numbers, from and to; one where they are equal.
    Span(f64, f64),
    /// How often one number is in the other.
    Ratio(f64),
    /// A ratio in dB.
    Decibels(f64),
    /// A number of things.
    Count(u64),
    /// A number of bytes.
    Bytes(u64),
    /// A part of one.
    Percent(f64),
}

impl Column {
    /// A column of words.
    pub fn left(name: &str) -> Column {
        Column { name: name.to_owned(), align: Align::Left, spare: None }
    }

    /// A column of numbers.
    pub fn right(name: &str) -> Column {
        Column { align: Align::Right, ..Column::left(name) }
    }

    /// The column, left out among the first where `rank` is high.
    #[must_use]
    pub fn spare(mut self, rank: u8) -> Column {
        self.spare = Some(rank);
        self
    }
}

impl Cell {
    /// The cell of a value that may be missing.
    pub fn of<T>(value: Option<T>, cell: impl FnOnce(T) -> Cell) -> Cell {
        value.map_or(Cell::None, cell)
    }

    /// As it is shown. Control characters, which names in files may hold, are written as escapes.
    fn shown(&self) -> String {
        match self {
            Cell::None => "-".to_owned(),
            Cell::Text(s) | Cell::Name(s) => printable(s),
            Cell::Real(x) => number::real(*x),
            Cell::Span(a, b) if a == b => number::real(*a),
            Cell::Span(a, b) => format!("{} .. {}", number::real(*a), number::real(*b)),
            Cell::Ratio(x) => number::ratio(*x),
            Cell::Decibels(x) => number::decibels(*x),
            Cell::Count(n) => number::count(*n),
            Cell::Bytes(n) => number::bytes(*n),
            Cell::Percent(x) => number::percent(*x),
        }
    }
}

/// Spaces between two columns.
const GAP: usize = 2;
/// Names are not shortened below this many characters, nor below what keeps them apart.
const SHORTEST: usize = 12;
/// From this many characters on, names are not kept longer so that they differ.
const DISTINCT: usize = 32;
/// No name is shown longer than this.
const LONGEST: usize = 400;

impl Table {
    /// A table without rows.
    pub fn new(title: impl Into<String>, columns: Vec<Column>) -> Table {
        Table { title: title.into(), columns, rows: Vec::new(), notes: Vec::new() }
    }

    /// A list of facts: names and what is to be said of each.
    pub fn facts(title: impl Into<String>) -> Table {
        Table::new(title, vec![Column::left(""), Column::left("")])
    }

    /// Adds a fact.
    pub fn fact(&mut self, name: &str, value: impl Into<String>) {
        self.rows.push(vec![Cell::Text(name.to_owned()), Cell::Text(value.into())]);
    }

    /// The table as lines of text that end in line ends: no colour, no line ends in a space.
    ///
    /// In a width that does not suffice, names are shortened, spare columns left out, and at last cells are wrapped.
    pub fn text(&self, width: Option<usize>) -> String {
        let mut cells: Vec<Vec<String>> = self.rows.iter().map(|r| r.iter().map(Cell::shown).collect()).collect();
        let mut elastic = vec![false; self.columns.len()];
        for (row, shown) in self.rows.iter().zip(&mut cells) {
            for (c, cell) in row.iter().enumerate().filter(|(_, cell)| matches!(cell, Cell::Name(_))) {
                shown[c] = shorten(&shown[c], LONGEST);
                elastic[c] |= matches!(cell, Cell::Name(_));
            }
        }
        let natural: Vec<usize> = (0..self.columns.len())
            .map(|c| {
                let head = self.columns[c].name.chars().count();
                cells.iter().map(|row| row[c].chars().count()).fold(head, usize::max)
            })
            .collect();
        let (kept, widths) = match width {
            Some(width) => {
                let floor = |c: usize| elastic[c].then(|| shortest(cells.iter().map(|row| &row[c][..]).collect()));
                self.fit(width, &natural, &(0..elastic.len()).map(floor).collect::<Vec<_>>())
            }
            None => ((0..self.columns.len()).collect(), natural.clone()),
        };
        for row in &mut cells {
            for c in (0..self.columns.len()).filter(|&c| elastic[c]) {
                row[c] = shorten(&row[c], widths[c]);
            }
        }
        let mut text = printable(&self.title) + "\n";
        if !self.rows.is_empty() {
            text += &self.draw(&kept, &cells, width);
            text.push('\n');
        }
        let left_out: Vec<&str> =
            (0..self.columns.len()).filter(|c| !kept.contains(c)).map(|c| &self.columns[c].name[..]).collect();
        let narrow = (!left_out.is_empty()).then(|| format!("Not shown in this width: {}.", left_out.join(", ")));
        for note in self.notes.iter().chain(&narrow) {
            text += &wrapped(&printable(note), width);
        }
        text
    }

    /// Which columns are shown, and how wide each column may be.
    fn fit(&self, width: usize, natural: &[usize], floors: &[Option<usize>]) -> (Vec<usize>, Vec<usize>) {
        let mut kept: Vec<usize> = (0..self.columns.len()).collect();
        loop {
            let gaps = GAP * kept.len().saturating_sub(1);
            let widths = |limit: usize| -> Vec<usize> {
                let width = |c: usize| floors[c].map_or(natural[c], |floor| natural[c].min(limit.max(floor)));
                (0..natural.len()).map(width).collect()
            };
            let needed = |limit: usize| gaps + kept.iter().map(|&c| widths(limit)[c]).sum::<usize>();
            let longest = kept.iter().map(|&c| natural[c]).max().unwrap_or(0);
            // The greatest width for all names that fits; names that are shorter keep theirs.
            let limit = (0..=longest).rev().find(|&limit| needed(limit) <= width);
            let first = kept.iter().filter_map(|&c| self.columns[c].spare).max();
            match (limit, first) {
                (None, Some(rank)) => kept.retain(|&c| self.columns[c].spare != Some(rank)),
                (limit, _) => {
                    let widths = widths(limit.unwrap_or(0));
                    return (kept, widths);
                }
            }
        }
    }

    fn draw(&self, kept: &[usize], cells: &[Vec<String>], width: Option<usize>) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(NOTHING);
        if kept.iter().any(|&c| !self.columns[c].name.is_empty()) {
            table.style_mut().header_separator = LineStyle::none().fill('─');
            table.set_header(kept.iter().map(|&c| self.columns[c].name.as_str()));
        }
        table.add_rows(cells.iter().map(|row| kept.iter().map(|&c| row[c].as_str()).collect::<Vec<_>>()));
        for (place, &c) in kept.iter().enumerate() {
            if let Some(column) = table.column_mut(place) {
                let gap = if place + 1 < kept.len() { GAP as u16 } else { 0 };
                column.set_padding((0, gap));
                column.set_cell_alignment(match self.columns[c].align {
                    Align::Left => CellAlignment::Left,
                    Align::Right => CellAlignment::Right,
                });
            }
        }
        if let Some(width) = width {
            table.set_content_arrangement(ContentArrangement::Dynamic);
            table.set_width(u16::try_from(width).unwrap_or(u16::MAX));
        }
        table.trim_fmt()
    }

    /// The table as Markdown, with its title as a heading and its notes as paragraphs.
    ///
    /// Names are code, and what has a meaning in Markdown is escaped.
    pub fn markdown(&self) -> String {
        let mut text = format!("## {}\n", escaped(&self.title));
        if !self.rows.is_empty() {
            let heads = self.columns.iter().map(|c| escaped(&c.name));
            let rules = self.columns.iter().map(|c| match c.align {
                Align::Left => "---".to_owned(),
                Align::Right => "--:".to_owned(),
            });
            text += "\n";
            text += &line(heads);
            text += &line(rules);
            for row in &self.rows {
                text += &line(row.iter().map(|cell| match cell {
                    Cell::Name(name) => code(&printable(name)),
                    cell => escaped(&cell.shown()),
                }));
            }
        }
        for note in &self.notes {
            text += &format!("\n{}\n", escaped(note));
        }
        text
    }
}

fn line(cells: impl Iterator<Item = String>) -> String {
    format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
}

/// Text as it may reach a terminal: control characters, which names in files may hold, are written as escapes.
pub fn printable(s: &str) -> String {
    s.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// The beginning and the end, `…` between them.
fn shorten(s: &str, width: usize) -> String {
    let len = s.chars().count();
    if len <= width || width == 0 {
        return s.to_owned();
    }
    // The end of a name tells more than its beginning.
    let tail = (width - 1).div_ceil(2);
    let head = width - 1 - tail;
    s.chars().take(head).chain(['…']).chain(s.chars().skip(len - tail)).collect()
}

/// The least width from [`SHORTEST`] to [`DISTINCT`] in which names that differ still do.
fn shortest(names: Vec<&str>) -> usize {
    let distinct: HashSet<&str> = names.into_iter().collect();
    let differ = |width: &usize| distinct.iter().map(|s| shorten(s, *width)).collect::<HashSet<_>>().len();
    (SHORTEST..DISTINCT).find(|width| differ(width) == distinct.len()).unwrap_or(DISTINCT)
}

/// A sentence as lines of at most that width, broken at spaces.
fn wrapped(s: &str, width: Option<usize>) -> String {
    let mut text = String::new();
    let mut column = 0;
    for word in s.split(' ') {
        let len = word.chars().count();
        if column > 0 && width.is_some_and(|w| column + 1 + len > w) {
            text.push('\n');
            column = 0;
        } else if column > 0 {
            text.push(' ');
            column += 1;
        }
        text += word;
        column += len;
    }
    text + "\n"
}

/// Text with everything escaped that Markdown would read as something else.
fn escaped(s: &str) -> String {
    let mut text = String::with_capacity(s.len());
    for c in printable(s).chars() {
        if matches!(c, '\\' | '|' | '`' | '*' | '_' | '<' | '>' | '#' | '~') {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

/// A code span. A name that holds a backtick is escaped text, and pipes are escaped in both.
fn code(name: &str) -> String {
    if name.is_empty() || name.contains('`') { escaped(name) } else { format!("`{}`", name.replace('|', "\\|")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut t = Table::new(
            "Weights",
            vec![Column::left("node"), Column::left("weight").spare(1), Column::right("max"), Column::right("SQNR dB")],
        );
        t.rows = vec![
            vec![
                Cell::Name("/encoder/layer.0/attention/query/MatMul".into()),
                Cell::Name("onnx::MatMul_1234".into()),
                Cell::Real(0.25),
                Cell::Decibels(f64::INFINITY),
            ],
            vec![Cell::Name("a|b_c".into()), Cell::None, Cell::Real(-3.0), Cell::Decibels(31.26)],
        ];
        t.notes.push("One note of a few words.".into());
        t
    }

    #[test]
    fn without_a_width_nothing_is_shortened() {
        assert_eq!(
            table().text(None),
            "\
Weights
node                                     weight                max  SQNR dB
───────────────────────────────────────────────────────────────────────────
/encoder/layer.0/attention/query/MatMul  onnx::MatMul_1234  0.2500    exact
a|b_c                                    -                  -3.000     31.3
One note of a few words.
"
        );
    }

    #[test]
    fn a_width_shortens_names_then_leaves_out_columns() {
        assert_eq!(
            table().text(Some(56)),
            "\
Weights
node                  weight                max  SQNR dB
────────────────────────────────────────────────────────
/encoder/…ery/MatMul  onnx::MatMul_1234  0.2500    exact
a|b_c                 -                  -3.000     31.3
One note of a few words.
"
        );
        assert_eq!(
            table().text(Some(40)),
            "\
Weights
node                        max  SQNR dB
────────────────────────────────────────
/encoder/la…uery/MatMul  0.2500    exact
a|b_c                    -3.000     31.3
One note of a few words.
Not shown in this width: weight.
"
        );
    }

    #[test]
    fn no_line_is_wider_than_asked() {
        for width in 30..120 {
            let text = table().text(Some(width));
            assert!(text.lines().all(|l| l.chars().count() <= width), "{width}:\n{text}");
        }
        for width in 0..30 {
            table().text(Some(width));
        }
    }

    #[test]
    fn markdown_escapes_pipes() {
        assert_eq!(
            table().markdown(),
            "\
## Weights

| node | weight | max | SQNR dB |
| --- | --- | --: | --: |
| `/encoder/layer.0/attention/query/MatMul` | `onnx::MatMul_1234` | 0.2500 | exact |
| `a\\|b_c` | - | -3.000 | 31.3 |

One note of a few words.
"
        );
        assert_eq!(code("a`b|c"), "a\\`b\\|c");
    }

    #[test]
    fn facts_have_no_head() {
        let mut t = Table::facts("Model");
        t.fact("inputs", "x: float32 [1, 3]\u{1b}[2J");
        assert_eq!(t.text(None), "Model\ninputs  x: float32 [1, 3]\\u{1b}[2J\n");
        assert_eq!(t.markdown(), "## Model\n\n|  |  |\n| --- | --- |\n| inputs | x: float32 [1, 3]\\\\u{1b}[2J |\n");
    }

    #[test]
    fn a_table_without_rows_is_its_title_and_notes() {
        let mut t = Table::new("Weights", vec![Column::left("node")]);
        t.notes.push("None.".into());
        assert_eq!(t.text(Some(80)), "Weights\nNone.\n");
        assert_eq!(t.markdown(), "## Weights\n\nNone.\n");
    }

    #[test]
    fn long_names_do_not_break_the_table() {
        let mut t = Table::new("T", vec![Column::left("n")]);
        t.rows.push(vec![Cell::Name("x".repeat(100_000))]);
        assert!(t.text(None).lines().all(|l| l.chars().count() <= LONGEST));
    }
}
