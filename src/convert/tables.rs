//! What people read of a conversion.

use super::Report;
use crate::dequantize::Verified;
use crate::inspect::style_words;
use crate::quantize::{reformed_table, staying_table};
use crate::report::{Table, number};
use crate::validate::output_table;

impl Report {
    /// What was done, how many nodes became what, the drift of the outputs, what stays and why.
    pub fn tables(&self) -> Vec<Table> {
        let mut tables = vec![self.summary(), reformed_table("Nodes", &self.converted)];
        let drift =
            |v: &Verified| Table { title: "Drift against the given model".to_owned(), ..output_table(&v.outputs) };
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
        match &self.verified {
            Some(v) => {
                t.fact("samples", v.source.clone());
                t.fact("engine", v.engine.clone());
            }
            None => t.fact("samples", "none: neither model was run"),
        }
        let times: Vec<String> = self.stages.iter().map(|s| format!("{} {:.2} s", s.name, s.seconds)).collect();
        t.fact("time", times.join(", "));
        if let Some(peak) = self.peak_memory {
            t.fact("peak memory", number::bytes(peak));
        }
        t
    }
}
