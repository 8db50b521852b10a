//! What people read of a conversion.

use super::{NarrowReport, Report};
use crate::dequantize::Verified;
use crate::inspect::style_words;
use crate::pass::Rounded;
use crate::quantize::{Stage, reformed_table, staying_table};
use crate::report::{Cell, Column, Table, number};
use crate::validate::output_table;

impl Report {
    /// What was done, how many nodes became what, the drift of the outputs, what stays and why.
    pub fn tables(&self) -> Vec<Table> {
        let mut tables = vec![self.summary(), reformed_table("Nodes", &self.converted)];
        tables.extend(self.verified.iter().map(drift));
        if !self.left.is_empty() {
            tables.push(staying_table("As they were", self.left.iter()));
        }
        tables
    }

    fn summary(&self) -> Table {
        let mut t = Table::facts("Converted");
        t.fact("form", self.to);
        t.fact("before", style_words(&self.styles.0));
        t.fact("after", style_words(&self.styles.1));
        let bytes = |n: usize| number::bytes(n as u64);
        t.fact("size", format!("{} -> {}", bytes(self.size.0), bytes(self.size.1)));
        t.fact("nodes", format!("{} -> {}", self.nodes.0, self.nodes.1));
        let converted: usize = self.converted.iter().map(|c| c.nodes).sum();
        t.fact("converted", format!("{converted} nodes, {} stay as they were", self.left.len()));
        last_facts(&mut t, self.verified.as_ref(), &self.stages, self.peak_memory);
        t
    }
}

fn drift(v: &Verified) -> Table {
    Table { title: "Drift against the given model".to_owned(), ..output_table(&v.outputs) }
}

/// What both conversions say last: samples, times, memory.
fn last_facts(t: &mut Table, verified: Option<&Verified>, stages: &[Stage], peak: Option<u64>) {
    match verified {
        Some(v) => {
            t.fact("samples", v.source.clone());
            t.fact("engine", v.engine.clone());
        }
        None => t.fact("samples", "none: neither model was run"),
    }
    let times: Vec<String> = stages.iter().map(|s| format!("{} {:.2} s", s.name, s.seconds)).collect();
    t.fact("time", times.join(", "));
    if let Some(peak) = peak {
        t.fact("peak memory", number::bytes(peak));
    }
}

impl NarrowReport {
    /// What was done, the drift of the outputs, the constants that were past the range, what stays float32 and why.
    pub fn tables(&self) -> Vec<Table> {
        let mut tables = vec![self.summary()];
        tables.extend(self.verified.iter().map(drift));
        if !self.overflowed.is_empty() {
            let columns = vec![
                Column::left("constant"),
                Column::right("numbers"),
                Column::right("past"),
                Column::right("largest"),
            ];
            let mut t = Table::new("Past the range", columns);
            let row = |r: &Rounded| {
                let count = |n: usize| Cell::Count(n as u64);
                vec![Cell::Name(r.name.clone()), count(r.numbers), count(r.overflowed), Cell::Real(r.largest.into())]
            };
            t.rows = self.overflowed.iter().map(row).collect();
            tables.push(t);
        }
        if !self.left.is_empty() {
            tables.push(staying_table("Float32 still", self.left.iter()));
        }
        tables
    }

    fn summary(&self) -> Table {
        let mut t = Table::facts("Converted");
        t.fact("type", self.to);
        let (before, after) = self.size;
        let times = after as f64 / before.max(1) as f64;
        let bytes = |n: usize| number::bytes(n as u64);
        t.fact("size", format!("{} -> {} ({})", bytes(before), bytes(after), number::percent(times)));
        let span = |a: i64, b: i64| if a == b { a.to_string() } else { format!("{a} -> {b}") };
        t.fact("opset", span(self.opset.0, self.opset.1));
        let nodes: usize = self.converted.values().sum();
        t.fact("nodes", format!("{nodes} in {}, {} stay float32", self.to, self.left.len()));
        t.fact("casts", format!("{} put in, {} taken out", self.casts.0, self.casts.1));
        let (count, all) = &self.constants;
        let lost = format!(
            "{count}: of {} numbers {} past the range, {} below the normal numbers, {} of them zero now",
            all.numbers, all.overflowed, all.subnormal, all.zeroed
        );
        t.fact("constants", lost);
        last_facts(&mut t, self.verified.as_ref(), &self.stages, self.peak_memory);
        t
    }
}
