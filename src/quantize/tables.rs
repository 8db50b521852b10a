//! What people read of a quantization.

use super::{Counts, KeptReport, NodeRow, Report, RoundRow, Split, reformed_table, staying_table};
use crate::number::decibels;
use crate::pass::{Pass, ToQOperator};
use crate::report::{Cell, Column, Table, number};
use crate::validate::output_table;

/// So many weights are shown.
const WORST: usize = 10;

/// So many names stand beside a reason.
const NAMES: usize = 3;

/// How a size changed, in words.
fn change(before: f64, after: f64) -> String {
    match before >= after {
        true => format!("{:.1} times smaller", before / after),
        false => format!("{:.1} times larger", after / before),
    }
}

impl Split {
    fn in_words(&self) -> String {
        if self.calibration == 0 {
            format!("all {} verify", self.verification)
        } else if self.before {
            match self.verification {
                0 => format!("{} calibrated before", self.calibration),
                n => format!("{} calibrated before, all {n} verify", self.calibration),
            }
        } else if self.shared {
            format!(
                "all {} calibrate and verify: too few to hold any back, so the drift below may be too good",
                self.calibration
            )
        } else {
            format!("{} calibrate, {} others verify", self.calibration, self.verification)
        }
    }
}

impl KeptReport {
    fn in_words(&self) -> String {
        let (lost, all) = self.products;
        match self.gain_db {
            None => format!("all {} groups of values keep their format", self.groups),
            Some(gain) if self.taken => format!(
                "{} of {} groups of values kept out of their format, with {lost} of {all} products, {gain:+.1} dB in trial",
                self.values.len(),
                self.groups
            ),
            Some(gain) => format!("not taken: {gain:+.1} dB"),
        }
    }
}

impl Report {
    /// What was done, the drift of the outputs, what stayed float and why.
    pub fn tables(&self) -> Vec<Table> {
        let on_codes = reformed_table("Operators on codes", &self.reformed);
        let in_qdq = self.skipped.iter().filter(|s| s.pass == ToQOperator { contrib: false }.name());
        let in_qdq = staying_table("Left between DequantizeLinear and QuantizeLinear", in_qdq);
        let others = [
            output_table(&self.outputs),
            self.kept_out(),
            self.rounded(),
            self.operators(),
            on_codes,
            in_qdq,
            self.reasons(),
        ];
        let mut tables = vec![self.summary()];
        tables.extend(others.into_iter().filter(|t| !t.rows.is_empty()));
        tables
    }

    fn summary(&self) -> Table {
        let mut t = Table::facts("Quantized");
        let bytes = |n: usize| number::bytes(n as u64);
        let (before, after) = self.size;
        t.fact("target", &self.target);
        t.fact("size", format!("{} -> {} ({})", bytes(before), bytes(after), change(before as f64, after as f64)));
        t.fact(
            "opset",
            if self.opset.0 == self.opset.1 {
                self.opset.0.to_string()
            } else {
                format!("{} -> {}", self.opset.0, self.opset.1)
            },
        );
        if let Some(s) = &self.samples {
            t.fact("samples", s.source.clone());
            t.fact("split", s.in_words());
        }
        let c = &self.counts;
        let already = match c.already {
            0 => String::new(),
            n => format!(", {n} quantized before and left as they are"),
        };
        match (c.dynamic, c.weight_only) {
            (_, n) if c.by_ranges() => {
                let Counts { quantized, absorbed, float, .. } = c;
                let stored = if n > 0 { format!("{n} with a quantized weight, ") } else { String::new() };
                let nodes = format!("{quantized} quantized, {absorbed} absorbed into ranges, {stored}{float} float");
                t.fact("nodes", nodes + &already);
                t.fact("stored as codes", format!("{} constants, {} biases", c.constants, c.biases));
                t.fact("Q/DQ pairs", c.pairs.to_string());
            }
            (dynamic, n) => {
                let integer = if dynamic > 0 { format!("{dynamic} dynamic, ") } else { String::new() };
                t.fact("nodes", format!("{integer}{n} with a quantized weight, {} float", c.float) + &already);
                t.fact("stored as codes", format!("{} weights", c.constants));
            }
        }
        if let Some(bits) = self.weights.bits_per_weight {
            let form = if self.weights.storage == "native" { "" } else { ", stored portably" };
            t.fact("weights", format!("{}, {bits:.2} bits each with scales{form}", self.weights.format));
        }
        for step in &self.steps {
            let gain = step.gain_db.map(|g| format!("{g:+.1} dB in trial"));
            let text = match (step.taken, step.places) {
                (true, n) => [Some(format!("{n} places")), gain].into_iter().flatten().collect::<Vec<_>>().join(", "),
                (false, _) => gain.map_or("nothing to do".to_owned(), |gain| format!("not taken: {gain}")),
            };
            t.fact(step.step, text);
        }
        if let Some(kept) = &self.kept {
            t.fact("activations", kept.in_words());
        }
        let gains: Vec<f64> = self.rounding.iter().filter_map(RoundRow::gain_db).filter(|g| g.is_finite()).collect();
        if !gains.is_empty() {
            let mean = gains.iter().sum::<f64>() / gains.len() as f64;
            let weights = self.rounding.len();
            t.fact("round", format!("{weights} weights, outputs of layers {mean:.1} dB nearer in the mean"));
        }
        let times: Vec<String> = self.stages.iter().map(|s| format!("{} {:.2} s", s.name, s.seconds)).collect();
        t.fact("time", times.join(", "));
        if let Some(peak) = self.peak_memory {
            t.fact("peak memory", number::bytes(peak));
        }
        match &self.engine {
            Some(engine) => t.fact("engine", engine.clone()),
            None => t.fact("not verified", "no samples were given to run the two models with"),
        }
        t
    }

    /// The values that were kept out of the format of activations.
    fn kept_out(&self) -> Table {
        let columns = ["alone dB", "of the noise"].map(Column::right).into_iter();
        let names = [Column::left("value"), Column::left("made by").spare(2), Column::left("kept as")];
        let columns = names.into_iter().chain([Column::right("values").spare(1)]).chain(columns).collect();
        let mut t = Table::new("Activations that lose too much", columns);
        for row in self.kept.iter().filter(|k| k.taken).flat_map(|k| &k.values) {
            let made = if row.node.is_empty() { Cell::None } else { Cell::Name(row.node.clone()) };
            let (value, format) = (Cell::Name(row.value.clone()), Cell::Text(row.format.to_owned()));
            let numbers = [Cell::Decibels(row.alone_db), Cell::Percent(row.share)];
            t.rows.push([value, made, format, Cell::Count(row.values as u64)].into_iter().chain(numbers).collect());
        }
        t
    }

    /// The weights that cost their layers most.
    fn rounded(&self) -> Table {
        let mut columns = vec![Column::left("layer").spare(1), Column::left("operator"), Column::left("codes")];
        columns.extend(["shrinkage", "nearest dB", "chosen dB"].map(Column::right));
        let title = match self.rounding.len() {
            n if n > WORST => format!("Rounding ({WORST} of {n})"),
            _ => "Rounding".to_owned(),
        };
        let mut t = Table::new(title, columns);
        let mut rows: Vec<&RoundRow> = self.rounding.iter().collect();
        rows.sort_by(|a, b| b.after.unwrap_or(0.0).total_cmp(&a.after.unwrap_or(0.0)));
        let db = |part: Option<f64>| part.map_or(Cell::None, |part| Cell::Decibels(decibels(1.0, part)));
        for row in rows.into_iter().take(WORST) {
            let (layer, operator) = (Cell::Name(row.node.clone()), Cell::Text(row.operator.clone()));
            let method = Cell::Text(row.method.to_owned());
            t.rows.push(vec![layer, operator, method, Cell::Percent(row.shrinkage), db(row.before), db(row.after)]);
        }
        t
    }

    fn operators(&self) -> Table {
        let mut columns = match (self.counts.dynamic, self.counts.weight_only) {
            (_, 0) if self.counts.by_ranges() => vec!["quantized", "absorbed", "float"],
            _ if self.counts.by_ranges() => vec!["quantized", "absorbed", "weight-only", "float"],
            (0, _) => vec!["weight-only", "float"],
            _ => vec!["dynamic", "weight-only", "float"],
        };
        columns.extend((self.counts.already > 0).then_some("already"));
        let heads = columns.iter().map(|c| Column::right(c));
        let mut t = Table::new("Nodes", std::iter::once(Column::left("operator")).chain(heads).collect());
        let mut counts: Vec<(&str, Vec<u64>)> = Vec::new();
        for node in &self.nodes {
            let Some(column) = columns.iter().position(|c| *c == node.verdict) else { continue };
            match counts.iter_mut().find(|(op, _)| *op == node.operator) {
                Some((_, n)) => n[column] += 1,
                None => {
                    let mut n = vec![0; columns.len()];
                    n[column] = 1;
                    counts.push((&node.operator, n));
                }
            }
        }
        counts.sort();
        let cell = |n: u64| if n == 0 { Cell::None } else { Cell::Count(n) };
        t.rows = counts
            .into_iter()
            .map(|(op, n)| std::iter::once(Cell::Text(op.to_owned())).chain(n.into_iter().map(cell)).collect())
            .collect();
        t
    }

    fn reasons(&self) -> Table {
        let columns =
            vec![Column::left("operator"), Column::right("nodes"), Column::left("why"), Column::left("which").spare(1)];
        let mut t = Table::new("Left float", columns);
        // A name in a reason is that of one node: reasons that differ in names only are one.
        let plain = |reason: &str| reason.split('`').step_by(2).collect::<Vec<_>>().join("..");
        let mut groups: Vec<(&str, String, Vec<&NodeRow>)> = Vec::new();
        for node in self.nodes.iter().filter(|n| n.verdict == "float") {
            let reason = plain(&node.reason);
            match groups.iter_mut().find(|(op, why, _)| *op == node.operator && *why == reason) {
                Some((_, _, nodes)) => nodes.push(node),
                None => groups.push((&node.operator, reason, vec![node])),
            }
        }
        groups.sort_by_key(|(op, _, nodes)| (std::cmp::Reverse(nodes.len()), *op));
        for (op, reason, nodes) in groups {
            let mut which: Vec<&str> = nodes.iter().take(NAMES).map(|n| n.node.as_str()).collect();
            if nodes.len() > NAMES {
                which.push("..");
            }
            let why = if let [only] = nodes[..] { only.reason.clone() } else { reason };
            t.rows.push(vec![
                Cell::Text(op.to_owned()),
                Cell::Count(nodes.len() as u64),
                Cell::Text(why),
                Cell::Name(which.join(", ")),
            ]);
        }
        t
    }
}
