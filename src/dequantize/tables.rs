//! What people read of the way back.

use super::Report;
use crate::inspect::style_words;
use crate::report::{Cell, Column, Table, number};
use crate::validate::output_table;

impl Report {
    /// What was done, the drift of the outputs, what is left and why.
    pub fn tables(&self) -> Vec<Table> {
        let mut tables = vec![self.summary()];
        tables.extend(self.verified.iter().map(|v| output_table(&v.outputs)));
        if !self.left.is_empty() {
            tables.push(self.still_quantized());
        }
        tables
    }

    fn summary(&self) -> Table {
        let mut t = Table::facts("Dequantized");
        t.fact("style", style_words(&self.styles));
        let bytes = |n: usize| number::bytes(n as u64);
        t.fact("size", format!("{} -> {}", bytes(self.size.0), bytes(self.size.1)));
        t.fact("nodes", format!("{} -> {}", self.nodes.0, self.nodes.1));
        let c = &self.counts;
        t.fact("to float", format!("{} operators, {} constants, {} activations", c.operators, c.constants, c.pairs));
        t.fact("ends of ranges", format!("{} kept as Relu or Clip", c.ends));
        t.fact("left", format!("{} nodes", self.left.len()));
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

    fn still_quantized(&self) -> Table {
        let mut t = Table::new("Still quantized", vec![Column::left("node"), Column::left("why")]);
        t.rows = self.left.iter().map(|l| vec![Cell::Name(l.node.clone()), Cell::Text(l.reason.clone())]).collect();
        t
    }
}
