//! Which operators became which others, and which stay.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::pass::Skipped;
use crate::report::{Cell, Column, Table};

/// So many names stand beside a reason.
const NAMES: usize = 3;

/// Nodes of one operator that became another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reformed {
    /// The operator before, with its domain unless that is ONNX's own; `MaxPool on codes` for what moves codes.
    pub from: String,
    /// The operator after.
    pub into: String,
    /// How many nodes.
    pub nodes: usize,
}

/// What a pass counted, by the operators before and after.
pub(crate) fn reformed(counts: &BTreeMap<(String, String), usize>) -> Vec<Reformed> {
    let one = |((from, into), &nodes): (&(String, String), &usize)| Reformed {
        from: from.clone(),
        into: into.clone(),
        nodes,
    };
    counts.iter().map(one).collect()
}

/// How many nodes became what.
pub(crate) fn reformed_table(title: &str, rows: &[Reformed]) -> Table {
    let mut t = Table::new(title, vec![Column::left("operator"), Column::left("becomes"), Column::right("nodes")]);
    let row = |r: &Reformed| vec![Cell::Text(r.from.clone()), Cell::Text(r.into.clone()), Cell::Count(r.nodes as u64)];
    t.rows = rows.iter().map(row).collect();
    t
}

/// The nodes that stay, by reason.
pub(crate) fn staying_table<'a>(title: &str, skipped: impl Iterator<Item = &'a Skipped>) -> Table {
    let columns = vec![Column::right("nodes"), Column::left("why"), Column::left("which").spare(1)];
    let mut t = Table::new(title, columns);
    // A name in a reason is that of one node: reasons that differ in names only are one.
    let plain = |reason: &str| reason.split('`').step_by(2).collect::<Vec<_>>().join("..");
    let mut groups: Vec<(String, Vec<&Skipped>)> = Vec::new();
    for s in skipped {
        let reason = plain(&s.reason);
        match groups.iter_mut().find(|(why, _)| *why == reason) {
            Some((_, nodes)) => nodes.push(s),
            None => groups.push((reason, vec![s])),
        }
    }
    groups.sort_by_key(|(_, nodes)| std::cmp::Reverse(nodes.len()));
    for (reason, nodes) in groups {
        let name = |s: &Skipped| s.node.trim_start_matches("node ").replace('`', "");
        let mut which: Vec<String> = nodes.iter().take(NAMES).map(|s| name(s)).collect();
        if nodes.len() > NAMES {
            which.push("..".to_owned());
        }
        let why = if let [only] = nodes[..] { only.reason.clone() } else { reason };
        t.rows.push(vec![Cell::Count(nodes.len() as u64), Cell::Text(why), Cell::Name(which.join(", "))]);
    }
    t
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_that_stay_for_one_reason_share_a_row() {
        let skipped = |node: &str, reason: &str| Skipped { pass: "p", node: node.into(), reason: reason.into() };
        let all = [
            skipped("node `a` (Conv)", "`x` is wide"),
            skipped("node `b` (Conv)", "`y` is not there"),
            skipped("node `c` (Add)", "`z` is wide"),
        ];
        let table = staying_table("Stay", all.iter());
        let text = crate::report::text(&[table], None);
        let rows: Vec<Vec<&str>> = text.lines().skip(3).map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["2", "..", "is", "wide", "a", "(Conv),", "c", "(Add)"]);
        assert_eq!(rows[1], ["1", "`y`", "is", "not", "there", "b", "(Conv)"]);
    }
}
