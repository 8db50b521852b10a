//! The facts as tables.

use super::{About, ConstantFact, Explanation, How, ValueFact};
use crate::error::listed;
use crate::inspect::Span;
use crate::quantize::NodeRow;
use crate::report::{Cell, Column, Table, number};

/// What stands below tables with parameters that are not known.
const OPEN: &str =
    "Ranges are not known: samples, or a file of ranges, tell the scales and zero points that are missing.";

impl Explanation {
    /// The facts as tables: nodes, values, constants.
    pub fn tables(&self) -> Vec<Table> {
        let mut tables = vec![nodes(&self.nodes), values(&self.values), constants(&self.constants)];
        tables.last_mut().into_iter().filter(|_| !self.ranges_known).for_each(|t| t.notes.push(OPEN.to_owned()));
        tables
    }
}

fn nodes(rows: &[NodeRow]) -> Table {
    let columns = vec![Column::left("node"), Column::left("operator"), Column::left("verdict"), Column::left("why")];
    let mut t = Table::new(format!("Nodes ({})", rows.len()), columns);
    let row = |n: &NodeRow| {
        let text = |s: &str| Cell::Text(s.to_owned());
        vec![Cell::Name(n.node.clone()), text(&n.operator), text(n.verdict), text(&n.reason)]
    };
    t.rows = rows.iter().map(row).collect();
    t
}

fn values(rows: &[ValueFact]) -> Table {
    let columns = vec![
        Column::left("value"),
        Column::left("quantized"),
        Column::right("scale"),
        Column::right("zero point"),
        Column::right("range").spare(1),
        Column::left("why"),
    ];
    let mut t = Table::new(format!("Values ({})", rows.len()), columns);
    let row = |v: &ValueFact| {
        let range = Cell::of(v.range, |r| Cell::Span(r.min.into(), r.max.into()));
        let [how, scale, zero] = parts(v.how.as_ref());
        vec![Cell::Name(v.value.clone()), how, scale, zero, range, Cell::Text(v.reason.clone())]
    };
    t.rows = rows.iter().map(row).collect();
    t
}

fn constants(rows: &[ConstantFact]) -> Table {
    let columns = vec![
        Column::left("constant"),
        Column::left("node"),
        Column::left("is"),
        Column::left("shape").spare(1),
        Column::left("quantized"),
        Column::right("scale"),
        Column::right("zero point"),
        Column::left("why"),
    ];
    let mut t = Table::new(format!("Weights and other constants ({})", rows.len()), columns);
    let row = |c: &ConstantFact| {
        let [how, scale, zero] = parts(c.how.as_ref());
        let node = if c.node.is_empty() { Cell::None } else { Cell::Name(c.node.clone()) };
        let (kind, shape) = (Cell::Text(c.kind.name().to_owned()), Cell::Text(listed(&c.shape)));
        vec![Cell::Name(c.constant.clone()), node, kind, shape, how, scale, zero, Cell::Text(c.reason.clone())]
    };
    t.rows = rows.iter().map(row).collect();
    t
}

/// In what way, scale, zero point.
fn parts(how: Option<&How>) -> [Cell; 3] {
    let Some(how) = how else { return [Cell::Text("no".to_owned()), Cell::None, Cell::None] };
    let scale = Cell::of(how.scale, |s| Cell::Span(s.min.into(), s.max.into()));
    [Cell::Text(how.to_string()), scale, Cell::of(how.zero_point, |z| Cell::Text(whole(z)))]
}

fn whole(z: Span<i64>) -> String {
    if z.min == z.max { z.min.to_string() } else { format!("{} .. {}", z.min, z.max) }
}

fn real(s: Span<f32>) -> String {
    let (min, max) = (number::real(s.min.into()), number::real(s.max.into()));
    if s.min == s.max { min } else { format!("{min} .. {max}") }
}

impl About {
    /// The facts as tables, one for each thing that has the name.
    pub fn tables(&self) -> Vec<Table> {
        let nodes = self.nodes.iter().filter(|n| n.node == self.name).map(|n| self.node(n));
        let values = self.values.iter().filter(|v| v.value == self.name).map(|v| self.value(v));
        let constants = self.constants.iter().filter(|c| c.constant == self.name).map(|c| self.constant(c));
        nodes.chain(values).chain(constants).collect()
    }

    /// `block1.add (Add), quantized: stands between quantized nodes`.
    fn described(&self, name: &str) -> String {
        let node = self.nodes.iter().find(|n| n.node == name);
        node.map_or(name.to_owned(), |n| format!("{} ({}), {}: {}", n.node, n.operator, n.verdict, n.reason))
    }

    fn node(&self, node: &NodeRow) -> Table {
        let mut t = Table::facts(format!("Node {}", node.node));
        t.fact("operator", &node.operator);
        t.fact("verdict", node.verdict);
        t.fact("why", &node.reason);
        let mut inputs: Vec<(usize, String)> = Vec::new();
        for value in &self.values {
            let slots =
                value.readers.iter().filter(|r| r.node == node.node).filter_map(|r| Some((r.slot?, r.dequantized)));
            inputs.extend(slots.map(|(slot, dequantized)| (slot, state(value, dequantized))));
        }
        for c in self.constants.iter().filter(|c| c.node == node.node) {
            let how = c.how.as_ref().map_or("not quantized".to_owned(), described);
            inputs.extend(c.slot.map(|slot| (slot, format!("{}, {}: {how}; {}", c.constant, c.kind.name(), c.reason))));
        }
        inputs.sort();
        inputs.iter().for_each(|(slot, text)| t.fact(&format!("input {slot}"), text));
        let outputs = self.values.iter().filter(|v| v.node.as_deref() == Some(&node.node));
        outputs.for_each(|v| t.fact("output", state(v, true)));
        self.close(t)
    }

    fn value(&self, v: &ValueFact) -> Table {
        let mut t = Table::facts(format!("Value {}", v.value));
        t.fact("made by", v.node.as_ref().map_or("the graph takes it".to_owned(), |n| self.described(n)));
        t.fact("quantized", v.how.as_ref().map_or("no".to_owned(), described));
        t.fact("why", &v.reason);
        let of = v.range_of.as_deref().unwrap_or_default();
        let origin = match v.origin {
            Some("seen") if of.is_empty() => "seen in calibration".to_owned(),
            Some("seen") => {
                format!("that of {of}, seen in calibration: what the nodes up to there cut off is lost anyway")
            }
            Some("unseen") if of.is_empty() => "samples will tell".to_owned(),
            Some("unseen") => {
                format!("samples will tell that of {of}: what the nodes up to there cut off is lost anyway")
            }
            Some("fixed") => "fixed by the operator".to_owned(),
            Some("passed") => format!("that of {of}, which is passed on"),
            Some("present") => "what the codes of the given model reach".to_owned(),
            _ => String::new(),
        };
        match v.range {
            Some(range) => t.fact("range", format!("{}; {origin}", real(range))),
            None if !origin.is_empty() => t.fact("range", origin),
            None => {}
        }
        for (i, r) in v.readers.iter().enumerate() {
            let place = r.slot.map_or("in a subgraph".to_owned(), |slot| format!("input {slot}"));
            let side = if r.dequantized { "quantized" } else { "float" };
            t.fact(if i == 0 { "read by" } else { "" }, format!("{place}, {side}: {}", self.described(&r.node)));
        }
        if v.output {
            t.fact(if v.readers.is_empty() { "read by" } else { "" }, "an output of the graph");
        }
        if !v.shares.is_empty() {
            t.fact("shares", format!("scale and zero point with {}", v.shares.join(", ")));
        }
        self.close(t)
    }

    fn constant(&self, c: &ConstantFact) -> Table {
        let mut t = Table::facts(format!("Constant {}", c.constant));
        t.fact("holds", format!("{} {}", c.dtype, listed(&c.shape)));
        if let Some(slot) = c.slot {
            t.fact("read by", format!("{} of {}", c.kind.name(), self.described(&c.node)));
            t.fact("", format!("in input {slot}"));
        }
        t.fact("quantized", c.how.as_ref().map_or("no".to_owned(), described));
        t.fact("why", &c.reason);
        if !c.shares.is_empty() {
            t.fact("shares", format!("its codes with {}", c.shares.join(", ")));
        }
        self.close(t)
    }

    fn close(&self, mut t: Table) -> Table {
        t.notes.extend((!self.ranges_known).then(|| OPEN.to_owned()));
        t
    }
}

/// `uint8 affine per tensor, scale 0.0123, zero point 128`.
fn described(how: &How) -> String {
    let scale = how.scale.map(|s| format!(", scale {}", real(s)));
    let zero = how.zero_point.map(|z| format!(", zero point {}", whole(z)));
    format!("{how}{}{}", scale.unwrap_or_default(), zero.unwrap_or_default())
}

/// What a node reads or makes.
fn state(v: &ValueFact, quantized: bool) -> String {
    match v.how.as_ref().filter(|_| quantized) {
        Some(how) => format!("{}: {}; {}", v.value, described(how), v.reason),
        None if v.how.is_some() => format!("{}: read in float; {}", v.value, v.reason),
        None => format!("{}: not quantized; {}", v.value, v.reason),
    }
}
