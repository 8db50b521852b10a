//! Facts and their renderings.
//!
//! Facts are plain structures that serialize; a [`Table`] is what people read of them, as text or as Markdown.
//! [`number`] writes every number; [`json`] writes the facts themselves.

pub mod number;
mod table;

use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};

pub use table::{Align, Cell, Column, Table, printable};

/// Tables as text, one below the other, for a terminal of that many columns or, without a width, as wide as they are.
pub fn text(tables: &[Table], width: Option<usize>) -> String {
    tables.iter().map(|t| t.text(width)).collect::<Vec<_>>().join("\n")
}

/// Tables as Markdown, each with its title as a heading of level 2.
pub fn markdown(tables: &[Table]) -> String {
    tables.iter().map(Table::markdown).collect::<Vec<_>>().join("\n")
}

/// Facts as indented JSON with a line end. Numbers that JSON does not know, NaN and the infinities, become `null`.
///
/// Errors when the facts hold a map whose keys are not strings.
pub fn json(facts: &impl Serialize) -> Result<String> {
    serde_json::to_string_pretty(facts)
        .map(|mut text| {
            text.push('\n');
            text
        })
        .map_err(|e| Error::new(ErrorKind::Unsupported, "facts that JSON cannot express").caused_by(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_knows_no_infinity() {
        let text = json(&[f64::INFINITY, f64::NAN, 0.5]).unwrap();
        assert_eq!(text, "[\n  null,\n  null,\n  0.5\n]\n");
    }
}
