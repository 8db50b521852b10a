//! What people read of a validation.

use super::{OutputDrift, Validation};
use crate::report::{Cell, Column, Table};

/// The drift of outputs.
pub fn output_table(outputs: &[OutputDrift]) -> Table {
    let mut columns = vec![
        Column::left("output"),
        Column::right("SQNR dB"),
        Column::right("cosine"),
        Column::right("max abs error"),
        Column::right("same top-1"),
    ];
    let integers = outputs.iter().any(|o| o.equal.is_some());
    columns.extend(integers.then(|| Column::right("equal")));
    let mut t = Table::new("Drift against the float model", columns);
    for o in outputs {
        let sqnr = if o.exact && o.equal.is_none() { Some(f64::INFINITY) } else { o.sqnr_db };
        let mut row = vec![
            Cell::Name(o.name.clone()),
            if o.broken { Cell::Text("not finite".into()) } else { Cell::of(sqnr, Cell::Decibels) },
            Cell::of(o.cosine, |c| Cell::Text(format!("{c:.6}"))),
            Cell::of(o.max_abs, Cell::Real),
            Cell::of(o.top1_agreement, Cell::Percent),
        ];
        row.extend(integers.then(|| Cell::of(o.equal, Cell::Percent)));
        t.rows.push(row);
        if o.other_shape > 0 {
            t.notes
                .push(format!("`{}` has another shape in {} samples; those are not compared.", o.name, o.other_shape));
        }
    }
    t
}

impl Validation {
    /// Drift of the outputs, accuracy, what the engine deployed on makes of the model, drift of the layers.
    pub fn tables(&self) -> Vec<Table> {
        let mut facts = Table::facts("Validated");
        facts.fact("samples", format!("{} ({})", self.samples, self.source));
        facts.fact("engine", self.engine.clone());
        let mut tables = vec![facts, output_table(&self.outputs)];
        if let Some(a) = &self.accuracy {
            let columns = vec![Column::left("model"), Column::right("top-1"), Column::right("top-5")];
            let mut t = Table::new(format!("Accuracy by `{}`", a.output), columns);
            let row = |name: &str, top1: f64, top5: Option<f64>| {
                vec![Cell::Text(name.into()), Cell::Percent(top1), Cell::of(top5, Cell::Percent)]
            };
            t.rows =
                vec![row("float", a.float_top1, a.float_top5), row("quantized", a.quantized_top1, a.quantized_top5)];
            if let Some(a) = self.deployed.as_ref().and_then(|d| d.accuracy.as_ref()) {
                t.rows.push(row("deployed", a.quantized_top1, a.quantized_top5));
            }
            tables.push(t);
        }
        if let Some(deployed) = &self.deployed {
            tables.extend(deployed.tables(&self.outputs));
        }
        if let Some(layers) = &self.layers {
            let columns = vec![
                Column::left("node"),
                Column::left("operator"),
                Column::left("value").spare(1),
                Column::right("local dB"),
                Column::right("accumulated dB"),
            ];
            let mut t = Table::new("Drift of the layers", columns);
            let db = |x: Option<f64>| Cell::Decibels(x.unwrap_or(f64::INFINITY));
            t.rows = layers
                .iter()
                .map(|l| {
                    vec![
                        Cell::Name(l.node.clone()),
                        Cell::Text(l.operator.clone()),
                        Cell::Name(l.value.clone()),
                        db(l.local_sqnr_db),
                        db(l.accumulated_sqnr_db),
                    ]
                })
                .collect();
            t.notes
                .push("Local is this layer's quantization alone; accumulated is everything up to and with it.".into());
            tables.push(t);
        }
        tables
    }

    /// Puts the layers with the largest error of their own first, and keeps at most `top`.
    pub fn worst_first(&mut self, top: Option<usize>) {
        let Some(layers) = &mut self.layers else { return };
        layers.sort_by(|a, b| {
            let db = |x: Option<f64>| x.unwrap_or(f64::INFINITY);
            db(a.local_sqnr_db).total_cmp(&db(b.local_sqnr_db))
        });
        layers.truncate(top.unwrap_or(usize::MAX));
    }
}
