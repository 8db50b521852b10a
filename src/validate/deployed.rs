//! What the engine that a model is deployed on makes of it, beside what the specification says.

use std::collections::BTreeMap;

use serde::Serialize;

use super::outputs::InOther;
use super::{Accuracy, OutputDrift};
use crate::error::Result;
use crate::exec::Executor;
use crate::model::{Model, NodeExt};
use crate::report::{Cell, Column, Table};

/// The quantized model in the engine that it is deployed on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Deployed {
    /// The engine.
    pub engine: String,
    /// Drift of each output against the float model.
    pub outputs: Vec<OutputDrift>,
    /// Accuracy of the float model and of the quantized one in this engine, where labels were given.
    pub accuracy: Option<Accuracy>,
    /// How far each output is from what the specification says of the quantized model: `sqnr_db` has that as the signal.
    pub departures: Vec<OutputDrift>,
    /// Operators of which the engine runs more or fewer nodes than are written, where it tells: those outside of
    /// subgraphs, by name.
    pub rewrites: Vec<Rewrite>,
    /// How many nodes round what they read to 8 bits, which is not written: MatMulNBits with `accuracy_level` 4
    /// (com.microsoft, MatMulNBits-1).
    pub rounding_inputs: usize,
}

/// How many nodes of an operator there are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rewrite {
    /// The operator, with its domain unless that is ONNX's own.
    pub operator: String,
    /// In the model.
    pub written: usize,
    /// In what the engine runs.
    pub run: usize,
}

impl Deployed {
    pub(super) fn new(engine: &dyn Executor, found: InOther, written: &Model) -> Result<Deployed> {
        let run = engine.rewritten(written)?;
        Ok(Deployed {
            engine: engine.name(),
            outputs: found.outputs,
            accuracy: found.accuracy,
            departures: found.departures,
            rewrites: run.as_ref().map_or_else(Vec::new, |run| rewrites(written, run)),
            rounding_inputs: run.as_ref().map_or(0, rounding_inputs),
        })
    }

    /// Of the noise that quantization adds to an output, how much the engine adds to it: a ratio of powers. `written` is
    /// the drift of the outputs in the engine that follows the specification. `None` where there is nothing to compare.
    pub fn share_of_noise(&self, output: usize, written: &[OutputDrift]) -> Option<f64> {
        let departure = self.departures.get(output)?;
        let noise = written.get(output)?.sqnr_db?;
        match departure.exact {
            true => Some(0.0),
            // The signal is the float model's output in the one, the quantized model's in the other: as loud, but for the
            // noise itself.
            false => Some(10f64.powf((noise - departure.sqnr_db?) / 10.0)),
        }
    }

    /// How the engine departs from the specification, and what it runs in place of what is written.
    pub(super) fn tables(&self, written: &[OutputDrift]) -> Vec<Table> {
        let columns = vec![
            Column::left("output"),
            Column::right("SQNR dB"),
            Column::right("deployed dB"),
            Column::right("departure dB"),
            Column::right("max difference"),
            Column::right("same top-1"),
        ];
        let mut t = Table::new(format!("Departure of {}", self.engine), columns);
        for (i, ((spec, deployed), departure)) in written.iter().zip(&self.outputs).zip(&self.departures).enumerate() {
            t.rows.push(vec![
                Cell::Name(spec.name.clone()),
                decibels(spec),
                decibels(deployed),
                decibels(departure),
                Cell::of(departure.max_abs, Cell::Real),
                Cell::of(departure.top1_agreement, Cell::Percent),
            ]);
            t.notes.push(self.sentence(i, departure, written));
        }
        if self.rounding_inputs > 0 {
            t.notes.push(format!(
                "It runs MatMulNBits with accuracy_level 4 ({}), which rounds what it reads to 8 bits: nothing in the model \
                 says so.",
                self.rounding_inputs
            ));
        }
        let mut tables = vec![t];
        if !self.rewrites.is_empty() {
            let columns = vec![Column::left("operator"), Column::right("written"), Column::right("run")];
            let mut t = Table::new("Nodes that it runs in place of those written", columns);
            let count = |n: usize| Cell::Count(n as u64);
            t.rows = self
                .rewrites
                .iter()
                .map(|r| vec![Cell::Name(r.operator.clone()), count(r.written), count(r.run)])
                .collect();
            tables.push(t);
        }
        tables
    }

    fn sentence(&self, i: usize, departure: &OutputDrift, written: &[OutputDrift]) -> String {
        let name = &departure.name;
        if departure.exact {
            return format!("`{name}` is what the specification says, in every element.");
        }
        if departure.broken {
            return format!("`{name}` is not finite where the specification gives numbers.");
        }
        if departure.other_shape > 0 {
            let samples = departure.other_shape;
            return format!("`{name}` has another shape than the specification says in {samples} samples.");
        }
        if let Some(equal) = departure.equal {
            return format!("`{name}` is what the specification says in {:.1} % of its elements.", equal * 100.0);
        }
        match self.share_of_noise(i, written) {
            Some(share) => format!(
                "`{name}` departs from the specification by {} % of the noise that quantization adds.",
                percent(share)
            ),
            None => format!("`{name}` departs from the specification; quantization itself changes nothing there."),
        }
    }
}

/// A share as percent, two significant digits.
fn percent(share: f64) -> String {
    let x = share * 100.0;
    match x {
        _ if x >= 10.0 => format!("{x:.0}"),
        _ if x >= 1.0 => format!("{x:.1}"),
        _ if x >= 0.01 => format!("{x:.2}"),
        _ => "less than 0.01".to_owned(),
    }
}

fn decibels(o: &OutputDrift) -> Cell {
    match o {
        _ if o.broken => Cell::Text("not finite".into()),
        _ if o.exact && o.equal.is_none() => Cell::Decibels(f64::INFINITY),
        _ => Cell::of(o.sqnr_db, Cell::Decibels),
    }
}

/// The operators of which the two models have another number of nodes, by name.
fn rewrites(written: &Model, run: &Model) -> Vec<Rewrite> {
    let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    written.graph.nodes().for_each(|(_, n)| counts.entry(n.operator()).or_default().0 += 1);
    run.graph.nodes().for_each(|(_, n)| counts.entry(n.operator()).or_default().1 += 1);
    let changed = counts.into_iter().filter(|(_, (written, run))| written != run);
    changed.map(|(operator, (written, run))| Rewrite { operator, written, run }).collect()
}

fn rounding_inputs(run: &Model) -> usize {
    let rounds = |op: &str, level: Option<i64>| op == "MatMulNBits" && level == Some(4);
    run.graph.nodes().filter(|(_, n)| rounds(n.op_type(), n.int("accuracy_level"))).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drift(name: &str, sqnr_db: Option<f64>, exact: bool) -> OutputDrift {
        OutputDrift {
            name: name.into(),
            sqnr_db,
            cosine: None,
            max_abs: Some(if exact { 0.0 } else { 0.5 }),
            top1_agreement: None,
            equal: None,
            other_shape: 0,
            exact,
            broken: false,
        }
    }

    #[test]
    fn departures_are_told_in_parts_of_the_noise_of_quantization() {
        let cases = [
            (Some(20.0), drift("y", Some(30.0), false), "by 10 % of the noise"),
            (Some(20.0), drift("y", Some(20.0), false), "by 100 % of the noise"),
            (Some(20.0), drift("y", Some(40.0), false), "by 1.0 % of the noise"),
            (Some(20.0), drift("y", Some(99.0), false), "by less than 0.01 % of the noise"),
            (None, drift("y", Some(40.0), false), "quantization itself changes nothing"),
            (Some(20.0), drift("y", None, true), "is what the specification says, in every element"),
            (Some(20.0), OutputDrift { broken: true, ..drift("y", None, false) }, "is not finite"),
            (Some(20.0), OutputDrift { other_shape: 3, ..drift("y", None, false) }, "another shape than"),
            (None, OutputDrift { equal: Some(0.5), ..drift("y", None, false) }, "in 50.0 % of its elements"),
        ];
        for (noise, departure, expected) in cases {
            let written = [drift("y", noise, false)];
            let deployed = Deployed {
                engine: "the runtime".into(),
                outputs: vec![drift("y", noise, false)],
                accuracy: None,
                departures: vec![departure],
                rewrites: Vec::new(),
                rounding_inputs: 0,
            };
            let tables = deployed.tables(&written);
            assert!(tables[0].notes[0].contains(expected), "{} lacks {expected}", tables[0].notes[0]);
        }
    }
}
