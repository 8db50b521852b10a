//! Gather picks codes, and what it picked is dequantized.

use crate::error::{Error, ErrorKind, Result};
use crate::model::{At, AttributeProto, DataType, Graph, Linear, NodeExt, NodeId, NodeProto, Tensor, attribute};
use crate::number::Granularity;
use crate::plan::Plan;

/// Lets codes be dequantized behind the Gather that picks rows of a table, as the plan stores it, and not ahead of it, where each
/// run would dequantize the whole table.
///
/// - **Does**: exact. With one scale, or one a column, DequantizeLinear changes places with Gather: columns stay columns. Scales and
///   zero points of rows are picked beside the codes, and multiplied in float32, which gives what DequantizeLinear gives.
/// - **Skips when** the table is not stored by the plan, its codes are not of 8 bits, or its scales are not of float32.
///
/// ```text
/// before:  y = Gather(DequantizeLinear(table, scale, zero), i)
/// columns: y = DequantizeLinear(Gather(table, i), scale, zero)
/// rows:    y = Mul(Sub(Cast(Gather(table, i)), Unsqueeze(Cast(Gather(zero, i)))), Unsqueeze(Gather(scale, i)))
/// ```
///
/// - **Source**: ai.onnx Gather-13, DequantizeLinear-13, Unsqueeze-13.
pub(super) fn gather_codes(graph: &mut Graph, plan: &Plan) -> Result<()> {
    for (at, decision) in &plan.constants {
        let params = &decision.params;
        let gathers = graph.node(at.node).is_some_and(|n| n.is("Gather"));
        if !gathers || params.format().storage.bits() != 8 {
            continue;
        }
        match params.granularity() {
            Granularity::Tensor | Granularity::Channel { axis: 1 } => columns(graph, at.node)?,
            Granularity::Channel { .. } => rows(graph, at.node)?,
            Granularity::Block { .. } => {}
        }
    }
    Ok(())
}

/// A Gather behind DequantizeLinear.
struct Site {
    /// The DequantizeLinear.
    ahead: NodeId,
    linear: NodeProto,
    /// What it makes, and the Gather reads.
    table: String,
    /// What the Gather makes.
    y: String,
}

fn site(graph: &Graph, id: NodeId) -> Option<Site> {
    let (table, y) = graph.node(id).and_then(|n| n.input_at(0).zip(n.output_at(0)))?;
    let (ahead, _) = graph.producer(table)?;
    let linear = graph.node(ahead).filter(|n| Linear::dequantizes(n))?.clone();
    Some(Site { ahead, linear, table: table.to_owned(), y: y.to_owned() })
}

/// Lets the Gather read the codes, and write them under that name.
fn pick(graph: &mut Graph, id: NodeId, site: &Site, picked: &str) -> Result<()> {
    graph.edit(id, |n| {
        n.input[0] = site.linear.input[0].clone();
        n.output[0] = picked.to_owned();
    })
}

fn drop_unread(graph: &mut Graph, site: &Site) {
    if graph.uses(&site.table).is_empty() && !graph.is_pinned(&site.table) {
        graph.remove(site.ahead);
    }
}

fn columns(graph: &mut Graph, id: NodeId) -> Result<()> {
    let Some(site) = site(graph, id) else { return Ok(()) };
    let (y, linear) = (&site.y, &site.linear);
    let picked = graph.fresh_name(&format!("{y}_quantized"));
    // The columns are the last axis, however many the indices have.
    let axis = linear.int("axis").map(|_| attribute::int("axis", -1));
    let behind = NodeProto {
        name: Some(graph.fresh_name(&format!("{y}_DequantizeLinear"))),
        input: linear.input.iter().enumerate().map(|(i, n)| if i == 0 { &picked } else { n }.clone()).collect(),
        output: vec![y.clone()],
        attribute: axis.into_iter().collect(),
        ..linear.clone()
    };
    pick(graph, id, &site, &picked)?;
    graph.insert(At::After(id), behind)?;
    drop_unread(graph, &site);
    Ok(())
}

fn rows(graph: &mut Graph, id: NodeId) -> Result<()> {
    let Some(site) = site(graph, id) else { return Ok(()) };
    let missing = || Error::new(ErrorKind::InvalidModel, "it has no indices, or its table no scales");
    let indices = graph.node(id).and_then(|n| n.input_at(1)).ok_or_else(missing)?.to_owned();
    let scale = site.linear.input_at(1).ok_or_else(missing)?.to_owned();
    if graph.stated_dtype(&scale) != Some(DataType::Float) {
        return Ok(());
    }
    let zeros = Linear::read(graph, &site.linear)?.zero_points.iter().any(|&z| z != 0);
    let zero = site.linear.input_at(2).filter(|_| zeros).map(str::to_owned);

    let base = format!("{}_quantized", site.y);
    let picked = graph.fresh_name(&base);
    pick(graph, id, &site, &picked)?;
    let float = || vec![attribute::int("to", DataType::Float as i64)];
    let mut behind = Behind { graph, at: id, base };
    let last = behind.graph.add_constant(&format!("{}_axis", behind.base), &Tensor::from_i64(vec![1], vec![-1]));
    let mut real = behind.add("Cast", &[&picked], float(), "numbers")?;
    if let Some(zero) = zero {
        let zeros = behind.add("Gather", &[&zero, &indices], vec![], "zero_points")?;
        let zeros = behind.add("Cast", &[&zeros], float(), "zeros")?;
        let zeros = behind.add("Unsqueeze", &[&zeros, &last], vec![], "zero_column")?;
        real = behind.add("Sub", &[&real, &zeros], vec![], "steps")?;
    }
    let scales = behind.add("Gather", &[&scale, &indices], vec![], "scales")?;
    let scales = behind.add("Unsqueeze", &[&scales, &last], vec![], "scale_column")?;
    behind.write("Mul", &[&real, &scales], vec![], site.y.clone())?;
    drop_unread(graph, &site);
    Ok(())
}

/// Nodes behind one another.
struct Behind<'a> {
    graph: &'a mut Graph,
    at: NodeId,
    base: String,
}

impl Behind<'_> {
    /// Adds a node behind the last one; returns its output, which is named after what it holds.
    fn add(&mut self, op: &str, inputs: &[&str], attribute: Vec<AttributeProto>, end: &str) -> Result<String> {
        let output = self.graph.fresh_name(&format!("{}_{end}", self.base));
        self.write(op, inputs, attribute, output)
    }

    fn write(&mut self, op: &str, inputs: &[&str], attribute: Vec<AttributeProto>, output: String) -> Result<String> {
        let node = NodeProto {
            name: Some(self.graph.fresh_name(&format!("{output}_{op}"))),
            op_type: Some(op.to_owned()),
            input: inputs.iter().map(|&i| i.to_owned()).collect(),
            output: vec![output.clone()],
            attribute,
            ..Default::default()
        };
        self.at = self.graph.insert(At::After(self.at), node)?;
        Ok(output)
    }
}
