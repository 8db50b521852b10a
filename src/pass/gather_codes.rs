//! Gather picks codes, and what it picked is dequantized.

use crate::error::Result;
use crate::model::{At, Graph, Linear, NodeExt, NodeId, NodeProto, attribute};
use crate::number::Granularity;
use crate::plan::Plan;

/// Lets DequantizeLinear stand behind the Gather that picks rows of a table of codes, as the plan stores them, and not
/// ahead of it, where each run would dequantize the whole table.
///
/// - **Does**: exact: scales are one for the table or one a column, and columns stay columns.
/// - **Skips when** the table is not stored by the plan, or its codes have less than 8 bits, which Gather does not
///   take.
/// - **Before**: `y = Gather(DequantizeLinear(table, scale), i)`.
///   **After**: `y = DequantizeLinear(Gather(table, i), scale)`.
/// - **Source**: ai.onnx Gather-13, DequantizeLinear-13.
pub(super) fn gather_codes(graph: &mut Graph, plan: &Plan) -> Result<()> {
    for (at, decision) in &plan.constants {
        let params = &decision.params;
        let columns = matches!(params.granularity(), Granularity::Tensor | Granularity::Channel { axis: 1 });
        if columns && params.format().storage.bits() == 8 && graph.node(at.node).is_some_and(|n| n.is("Gather")) {
            swap(graph, at.node)?;
        }
    }
    Ok(())
}

fn swap(graph: &mut Graph, id: NodeId) -> Result<()> {
    let Some((table, y)) = graph.node(id).and_then(|n| n.input_at(0).zip(n.output_at(0))) else { return Ok(()) };
    let (table, y) = (table.to_owned(), y.to_owned());
    let Some((ahead, _)) = graph.producer(&table) else { return Ok(()) };
    let Some(linear) = graph.node(ahead).filter(|n| Linear::dequantizes(n)).cloned() else { return Ok(()) };
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
    graph.edit(id, |n| {
        n.input[0] = linear.input[0].clone();
        n.output[0] = picked;
    })?;
    graph.insert(At::After(id), behind)?;
    if graph.uses(&table).is_empty() && !graph.is_pinned(&table) {
        graph.remove(ahead);
    }
    Ok(())
}
