//! Why a pass leaves a node alone.

use super::{Context, Pass};
use crate::error::Result;
use crate::model::{Graph, Model, NodeExt, NodeId, NodeProto, Tensor};

pub(super) use crate::error::{Refusal, no};

/// Counts a rewrite that happened, notes the reason of one that did not.
pub(super) fn settle(
    outcome: Result<(), Refusal>,
    pass: &dyn Pass,
    model: &Model,
    node: NodeId,
    cx: &mut Context<'_>,
) -> Result<()> {
    match outcome {
        Ok(()) => cx.changed += 1,
        Err(Refusal::Skip(reason)) => cx.skip(pass, model, node, reason),
        Err(Refusal::Fail(e)) => return Err(e.at(model.graph.label(node))),
    }
    Ok(())
}

/// The float constant that a node reads in that slot; `what` is how reasons name it.
pub(super) fn float_constant(graph: &Graph, node: &NodeProto, slot: usize, what: &str) -> Result<Tensor, Refusal> {
    let Some(name) = node.input_at(slot) else { return no(format!("it has no {what}")) };
    if graph.is_input(name) {
        return no(format!("its {what} `{name}` is a graph input"));
    }
    if graph.sparse_initializer(name).is_some() {
        return no(format!("its {what} `{name}` is sparse"));
    }
    let Some(tensor) = graph.constant(name)? else { return no(format!("its {what} `{name}` is not a constant")) };
    if !tensor.is_float() {
        return no(format!("its {what} `{name}` does not hold floats"));
    }
    Ok(tensor)
}

/// Why the value cannot vanish: somebody beside its only reader holds on to it. `None` when it can.
pub(super) fn held(graph: &Graph, value: &str) -> Option<String> {
    if graph.is_output(value) {
        return Some(format!("`{value}` is a graph output"));
    }
    if let Some(&node) = graph.captured_by(value).first() {
        return Some(format!("`{value}` is captured by a subgraph of {}", graph.label(node)));
    }
    match graph.uses(value) {
        [_] => None,
        uses => Some(format!("`{value}` is read in {} places", uses.len())),
    }
}
