//! What was found of the models, and the tables that say so.

use std::collections::BTreeMap;

use qdq::report::{self, Cell, Column, Table};

/// What was found of one model.
#[derive(Default)]
pub struct Found {
    /// The rows that count it.
    pub rows: Vec<String>,
    /// What it was left out of, for which reason, because of which operator.
    pub left_out: Vec<(String, String, String)>,
    /// What must not be.
    pub faults: Vec<String>,
}

impl Found {
    /// Counts the model in a row.
    pub fn count(&mut self, row: impl Into<String>) {
        self.rows.push(row.into());
    }

    /// Counts the model in a row where that holds; it is a fault where not.
    pub fn hold(&mut self, row: &str, holds: bool) {
        match holds {
            true => self.count(row),
            false => self.faults.push(format!("not {row}")),
        }
    }

    /// Notes that the model is left out of something.
    pub fn leave_out(&mut self, of: impl Into<String>, why: impl Into<String>, operator: impl Into<String>) {
        self.left_out.push((of.into(), why.into(), operator.into()));
    }
}

/// How many models each row counts.
pub fn counts(found: &[Found]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for row in found.iter().flat_map(|f| &f.rows) {
        *counts.entry(row.as_str()).or_default() += 1;
    }
    counts
}

/// The counts in that order of rows, and what was left out, grouped by reason and operator.
pub fn text(title: &str, order: &[String], found: &[Found]) -> String {
    let counts = counts(found);
    assert!(counts.keys().all(|row| order.iter().any(|o| o == row)), "every row has its place");
    let mut summary = Table::facts(title);
    for row in order {
        summary.fact(row, report::number::count(counts.get(row.as_str()).copied().unwrap_or(0) as u64));
    }
    let mut reasons: BTreeMap<(&str, &str), BTreeMap<&str, usize>> = BTreeMap::new();
    for (of, why, operator) in found.iter().flat_map(|f| &f.left_out) {
        *reasons.entry((of, why)).or_default().entry(operator).or_default() += 1;
    }
    let columns =
        vec![Column::left("left out of"), Column::left("why"), Column::right("models"), Column::left("operators")];
    let mut table = Table::new("Left out".to_owned(), columns);
    for ((of, why), operators) in reasons {
        let mut list: Vec<_> = operators.iter().collect();
        list.sort_by_key(|&(name, n)| (std::cmp::Reverse(n), name));
        let names: Vec<String> = list.iter().map(|(name, n)| format!("{name} {n}")).collect();
        table.rows.push(vec![
            Cell::Text(of.to_owned()),
            Cell::Text(why.to_owned()),
            Cell::Count(operators.values().sum::<usize>() as u64),
            Cell::Text(names.join(", ")),
        ]);
    }
    report::text(&[summary, table], Some(160))
}
