//! The facts as tables.

use std::collections::HashSet;

use super::{ActivationRow, Coding, Coverage, FormatTotal, Grain, HeadRange, Inspection, MethodRange, ModelFacts};
use super::{Quantization, QuantizedActivation, Span, StyleCount, ValueFact, WeightRow};
use crate::error::listed;
use crate::report::{Cell, Column, Table, number};

impl Inspection {
    /// The facts as tables: the model, its weights or what they would lose in other formats, the quantized activations if there are any, and what was seen of
    /// the activations.
    pub fn tables(&self) -> Vec<Table> {
        let mut tables =
            vec![model(&self.model, self.quantization.as_ref()), weights(&self.weights, self.weights_total)];
        if !self.formats.is_empty() {
            tables[1] = formats(&self.weights, &self.formats, self.weights_total);
        }
        let quantized = self.quantization.iter().filter(|q| !q.activations.is_empty());
        tables.extend(quantized.map(|q| quantized_activations(&q.activations, q.activations_total)));
        if let Some(rows) = &self.activations {
            tables.push(activations(rows, self.activations_total));
            tables.extend(heads(rows));
            tables.extend(ranges(rows, self.activations_total));
        }
        tables
    }
}

fn model(facts: &ModelFacts, quantization: Option<&Quantization>) -> Table {
    let mut t = Table::facts("Model");
    t.fact("format", format!("IR version {}, opset {}", facts.ir_version, opsets(facts)));
    let producer = format!("{} {}", facts.producer, facts.producer_version);
    if !producer.trim().is_empty() {
        t.fact("producer", producer.trim());
    }
    values(&mut t, "inputs", &facts.inputs);
    values(&mut t, "outputs", &facts.outputs);
    let (parameters, bytes) = (number::count(facts.parameters), number::bytes(facts.constant_bytes));
    t.fact("parameters", format!("{parameters}, constants of {bytes}"));
    let operators: Vec<String> = facts.operators.iter().map(|o| format!("{} {}", o.operator, o.count)).collect();
    t.fact("operators", format!("{} nodes: {}", facts.nodes, operators.join(", ")));
    if !facts.functions.is_empty() {
        t.fact("functions", facts.functions.join(", "));
    }
    if let Some(q) = quantization {
        t.fact("quantized", format!("{}; {}", coverage("layers", &q.layers), coverage("other nodes", &q.others)));
        let mut nodes = format!("{} QuantizeLinear, {} DequantizeLinear", q.quantize_linear, q.dequantize_linear);
        if q.dynamic_quantize_linear > 0 {
            nodes += &format!(", {} DynamicQuantizeLinear", q.dynamic_quantize_linear);
        }
        t.fact("", nodes);
        t.fact("style", style_words(&q.styles));
    }
    for (key, value) in &facts.metadata {
        t.fact(key, value);
    }
    t
}

/// The operator sets that nodes belong to, and how many more are imported.
fn opsets(facts: &ModelFacts) -> String {
    let domains: HashSet<&str> = facts.operators.iter().filter_map(|n| Some(n.operator.rsplit_once('.')?.0)).collect();
    let (used, unused): (Vec<_>, Vec<_>) =
        facts.opsets.iter().partition(|o| o.domain == "ai.onnx" || domains.contains(&*o.domain));
    let mut words: Vec<String> = used.iter().map(|o| format!("{} {}", o.domain, o.version)).collect();
    if !unused.is_empty() {
        words.push(format!("{} more without a node", unused.len()));
    }
    words.join(", ")
}

fn values(t: &mut Table, name: &str, values: &[ValueFact]) {
    for (i, value) in values.iter().enumerate() {
        t.fact(if i == 0 { name } else { "" }, value.to_string());
    }
}

fn coverage(what: &str, c: &Coverage) -> String {
    let mut text = format!("{} of {} {what}", c.quantized, c.total());
    if c.weight_only > 0 {
        text += &format!(" ({} more in their weights only)", c.weight_only);
    }
    text
}

/// The styles in words: `QDQ in 12 layers and 4 other nodes; weight-only in 1 layer`.
pub fn style_words(styles: &[StyleCount]) -> String {
    let some = |n: usize, what: &str| (n > 0).then(|| format!("{n} {what}{}", if n == 1 { "" } else { "s" }));
    let places = |s: &StyleCount| {
        let parts = [some(s.layers, "layer"), some(s.others, if s.layers > 0 { "other node" } else { "node" })];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" and ")
    };
    match styles.is_empty() {
        true => "none that is known".to_owned(),
        false => styles.iter().map(|s| format!("{} in {}", s.style.name(), places(s))).collect::<Vec<_>>().join("; "),
    }
}

fn weights(rows: &[WeightRow], total: usize) -> Table {
    type Show = fn(&WeightRow) -> Cell;
    let coded = rows.iter().any(|w| w.coding.is_some() || w.sparse);
    let dead = rows.iter().any(|w| w.statistics.dead_channels.is_some_and(|n| n > 0));
    let poisoned = rows.iter().any(|w| w.statistics.non_finite > 0);
    let mut columns: Vec<(Column, Show)> = vec![
        (Column::left("node"), |w| Cell::Name(w.node.clone())),
        (Column::left("operator"), |w| Cell::Text(w.operator.clone())),
        (Column::left("weight").spare(9), |w| Cell::Name(w.weight.clone())),
        (Column::left("shape").spare(4), |w| shape(&w.shape)),
    ];
    if coded {
        columns.push((Column::left("stored as"), |w| Cell::Text(storage(w))));
    }
    columns.extend::<[(Column, Show); 8]>([
        (Column::right("scale"), |w| Cell::of(w.coding.as_ref().and_then(|c| c.scale), reals)),
        (Column::right("zero point").spare(5), |w| Cell::of(w.coding.as_ref().and_then(|c| c.zero_point), whole)),
        (Column::right("min").spare(7), |w| Cell::of(w.statistics.min, |x| Cell::Real(x.into()))),
        (Column::right("max").spare(7), |w| Cell::of(w.statistics.max, |x| Cell::Real(x.into()))),
        (Column::right("spread").spare(2), |w| Cell::of(w.statistics.spread, Cell::Ratio)),
        (Column::right("kurtosis").spare(3), |w| Cell::of(w.statistics.kurtosis, Cell::Ratio)),
        (Column::right("tensor dB"), |w| Cell::of(w.statistics.sqnr_tensor_db, Cell::Decibels)),
        (Column::right("channel dB"), |w| Cell::of(w.statistics.sqnr_channel_db, Cell::Decibels)),
    ]);
    columns.extend::<[(Column, Show); 2]>([
        (Column::right("clip dB"), |w| Cell::of(w.diagnosis.and_then(|d| d.sqnr_clip_db), Cell::Decibels)),
        (Column::right("equalize gains"), |w| Cell::of(w.diagnosis.and_then(|d| d.equalize_gain_db), Cell::Decibels)),
    ]);
    if dead {
        columns.push((Column::right("dead").spare(6), |w| {
            Cell::of(w.statistics.dead_channels, |n| Cell::Count(n as u64))
        }));
    }
    if poisoned {
        columns.push((Column::right("NaN or inf"), |w| Cell::Count(w.statistics.non_finite)));
    }
    // A column without anything in it says nothing.
    columns.retain(|(_, show)| rows.iter().any(|w| show(w) != Cell::None));
    let (columns, shows): (Vec<Column>, Vec<Show>) = columns.into_iter().unzip();
    let has = |name: &str| columns.iter().any(|c| c.name == name);
    let mut words = Vec::new();
    if total == 0 {
        words.push("No weight in the places where quantization looks for one.");
    }
    if has("tensor dB") {
        words.push(
            "tensor dB, channel dB: SQNR of the weight in symmetric INT8, with one scale, and with one a channel.",
        );
    }
    if has("clip dB") {
        words.push("clip dB: with one scale at the clip of least squared error.");
    }
    if has("equalize gains") {
        words.push("equalize gains: what scaling channels alike would add to tensor dB, batch normalizations folded.");
    }
    if has("spread") {
        words.push("spread: range of the widest channel over that of the narrowest.");
    }
    if has("kurtosis") {
        words.push("kurtosis: 3 for a Gauss distribution, more with outliers.");
    }
    if dead {
        words.push("dead: channels that are all zero.");
    }
    let mut t = Table::new(titled("Weights", rows.len(), total), columns);
    t.rows = rows.iter().map(|w| shows.iter().map(|show| show(w)).collect()).collect();
    t.notes.extend((!words.is_empty()).then(|| words.join(" ")));
    t
}

/// What weights would lose in other formats; in each row the nearest of several formats of as many bits is marked.
fn formats(rows: &[WeightRow], total: &[FormatTotal], count: usize) -> Table {
    let mut columns = vec![Column::left("node"), Column::left("operator").spare(2), Column::left("shape").spare(1)];
    columns.extend(total.iter().map(|t| Column::right(&t.format)));
    let mut t = Table::new(titled("Weights in formats, SQNR in dB", rows.len(), count), columns);
    let cells = |found: Vec<Option<f64>>| -> Vec<Cell> {
        let rivals = |i: usize| (0..total.len()).filter(move |&j| j != i && total[j].bits == total[i].bits);
        let best = |i: usize| rivals(i).next().is_some() && rivals(i).all(|j| found[i] >= found[j]);
        let marked = |i: usize, db| format!("{}{}", if best(i) { "*" } else { "" }, number::decibels(db));
        found.iter().enumerate().map(|(i, db)| Cell::of(*db, |db| Cell::Text(marked(i, db)))).collect()
    };
    for w in rows.iter().filter(|w| !w.formats.is_empty()) {
        let mut row = vec![Cell::Name(w.node.clone()), Cell::Text(w.operator.clone()), shape(&w.shape)];
        row.extend(cells(w.formats.iter().map(|c| c.sqnr_db).collect()));
        t.rows.push(row);
    }
    let blank = || Cell::Text(String::new());
    let mut all = vec![Cell::Text("all weights".to_owned()), blank(), blank()];
    all.extend(cells(total.iter().map(|t| t.sqnr_db).collect()));
    let mut bits = vec![Cell::Text("bits a weight".to_owned()), blank(), blank()];
    bits.extend(total.iter().map(|t| Cell::Text(format!("{:.2}", t.bits_per_weight))));
    t.rows.extend([all, bits]);
    t.notes.push(
        "Rounded to the nearest at the clip of least squared error, by the weights alone; *: the nearest of its row among \
         formats of as many bits. \
         all weights: their noise together. bits a weight: with scales, zero points and tables."
            .to_owned(),
    );
    t
}

fn quantized_activations(rows: &[QuantizedActivation], total: usize) -> Table {
    let mut t = Table::new(
        titled("Quantized activations", rows.len(), total),
        vec![
            Column::left("value"),
            Column::left("type"),
            Column::right("scale"),
            Column::right("zero point"),
            Column::right("lowest real").spare(1),
            Column::right("highest real").spare(1),
        ],
    );
    t.rows = rows
        .iter()
        .map(|a| {
            vec![
                Cell::Name(a.value.clone()),
                Cell::of(a.dtype.clone(), Cell::Text),
                a.scale.map_or(Cell::Text("computed".to_owned()), reals),
                Cell::of(a.zero_point, whole),
                Cell::of(a.range, |r| Cell::Real(r.min.into())),
                Cell::of(a.range, |r| Cell::Real(r.max.into())),
            ]
        })
        .collect();
    t
}

fn activations(rows: &[ActivationRow], total: usize) -> Table {
    let poisoned = rows.iter().any(|a| a.non_finite > 0);
    let mut columns = vec![
        Column::left("value"),
        Column::left("node").spare(2),
        Column::left("operator"),
        Column::left("shape").spare(1),
        Column::right("min"),
        Column::right("max"),
        Column::right("99.9 %"),
        Column::right("kurtosis"),
    ];
    columns.extend(poisoned.then(|| Column::right("NaN or inf")));
    let mut t = Table::new(titled("Activations", rows.len(), total), columns);
    for a in rows {
        let of = |s: &str, cell: fn(String) -> Cell| if s.is_empty() { Cell::None } else { cell(s.to_owned()) };
        let mut row = vec![
            Cell::Name(a.value.clone()),
            of(&a.node, Cell::Name),
            of(&a.operator, Cell::Text),
            sizes(&a.shape),
            Cell::of(a.min, |x| Cell::Real(x.into())),
            Cell::of(a.max, |x| Cell::Real(x.into())),
            Cell::of(a.magnitude_999, |x| Cell::Real(x.into())),
            Cell::of(a.kurtosis, Cell::Ratio),
        ];
        row.extend(poisoned.then_some(Cell::Count(a.non_finite)));
        t.rows.push(row);
    }
    let words = "99.9 %: of the magnitudes are no larger. kurtosis: 3 for a Gauss distribution, more with outliers.";
    t.notes.extend((!rows.is_empty()).then(|| words.to_owned()));
    t
}

/// How far each head of attentions reaches; nothing where there are none.
fn heads(rows: &[ActivationRow]) -> Option<Table> {
    let columns = vec![
        Column::left("value"),
        Column::left("operator").spare(1),
        Column::right("heads"),
        Column::right("spread"),
        Column::left("largest magnitude of each"),
    ];
    let mut t = Table::new("Heads", columns);
    for a in rows.iter().filter(|a| !a.heads.is_empty()) {
        let sizes: Vec<f32> = a.heads.iter().map(HeadRange::magnitude).collect();
        let (least, most) = sizes.iter().fold((f32::INFINITY, 0f32), |(l, m), &x| (l.min(x), m.max(x)));
        let shown: Vec<String> = sizes.iter().map(|&x| number::real(x.into())).collect();
        t.rows.push(vec![
            Cell::Name(a.value.clone()),
            if a.operator.is_empty() { Cell::None } else { Cell::Text(a.operator.clone()) },
            Cell::Count(sizes.len() as u64),
            Cell::of((least > 0.0).then(|| f64::from(most) / f64::from(least)), Cell::Ratio),
            Cell::Text(shown.join(" ")),
        ]);
    }
    let words = "spread: the largest magnitude of the widest head over that of the narrowest; all have one scale.";
    t.notes.push(words.to_owned());
    (!t.rows.is_empty()).then_some(t)
}

/// What each method makes of the activations; nothing if no number was seen.
fn ranges(rows: &[ActivationRow], total: usize) -> Option<Table> {
    let methods = rows.iter().map(|a| &a.ranges).find(|r| !r.is_empty())?;
    let columns = methods.iter().enumerate().map(|(i, m)| {
        let column = Column::right(&m.method);
        if i == 0 { column } else { column.spare(i as u8) }
    });
    let columns = [Column::left("value")].into_iter().chain(columns).collect();
    let mut t = Table::new(titled("Ranges by method, in affine uint8", rows.len(), total), columns);
    for a in rows {
        let shown = |r: &MethodRange| {
            let (min, max) = (number::real(r.min.into()), number::real(r.max.into()));
            Cell::Text(format!("{min} .. {max} ({})", number::decibels(r.sqnr_db)))
        };
        let cells = (0..methods.len()).map(|i| a.ranges.get(i).map_or(Cell::None, shown));
        t.rows.push([Cell::Name(a.value.clone())].into_iter().chain(cells).collect());
    }
    t.notes.push("In brackets the SQNR in dB that the histogram predicts for the range.".to_owned());
    Some(t)
}

fn titled(what: &str, shown: usize, total: usize) -> String {
    if shown == total { format!("{what} ({total})") } else { format!("{what} ({shown} of {total})") }
}

/// `3x3`-like shapes do not say which dimension is which: sizes in brackets, as everywhere in ONNX.
fn shape(shape: &[usize]) -> Cell {
    Cell::Text(listed(shape))
}

/// As [`shape`], with `?` for sizes that change from sample to sample.
fn sizes(shape: &[Option<usize>]) -> Cell {
    let size = |d: &Option<usize>| d.map_or("?".to_owned(), |d| d.to_string());
    Cell::Text(listed(&shape.iter().map(size).collect::<Vec<_>>()))
}

fn storage(w: &WeightRow) -> String {
    let sparse = if w.sparse { ", sparse" } else { "" };
    let Some(Coding { storage, grain, block_size, .. }) = &w.coding else { return format!("{}{sparse}", w.dtype) };
    let shared = match (grain, block_size) {
        (Some(Grain::Block), Some(n)) => format!("{storage} / block of {n}"),
        (Some(Grain::Channel), _) => format!("{storage} / channel"),
        (Some(Grain::Tensor), _) => format!("{storage} / tensor"),
        _ => storage.clone(),
    };
    shared + sparse
}

fn reals(s: Span<f32>) -> Cell {
    Cell::Span(s.min.into(), s.max.into())
}

fn whole(s: Span<i64>) -> Cell {
    Cell::Text(if s.min == s.max { s.min.to_string() } else { format!("{} .. {}", s.min, s.max) })
}
