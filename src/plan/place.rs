//! Which values carry Q/DQ, and who reads the dequantized side.

use std::collections::{BTreeMap, BTreeSet};

use super::{Policy, select::Selection};
use crate::model::{Graph, NodeExt, NodeId, NodeProto, Use};

/// Where Q/DQ pairs go.
pub(super) struct Places {
    /// The activations that carry a pair, with the uses that read its dequantized side.
    pub pairs: BTreeMap<String, Pair>,
    /// The constants that stand where activations stand, by where they are read.
    pub operands: BTreeSet<Use>,
    /// The weights of nodes that compute, by where they are read.
    pub weights: BTreeSet<Use>,
}

pub(super) struct Pair {
    pub readers: Vec<Use>,
    pub at_output: bool,
}

/// Places pairs: on every value that a chosen node reads as data, and on what a chosen node must write as integers.
///
/// Where the producer must write integers, every reader gets the dequantized side, since the float one does not exist
/// in an integer kernel. Where it may write float, float readers, graph outputs and subgraphs keep the exact value.
pub(super) fn place(graph: &Graph, selection: &Selection, policy: &Policy) -> Places {
    let mut wanted: BTreeMap<String, Vec<Use>> = BTreeMap::new();
    let mut operands = BTreeSet::new();
    let mut weights = BTreeSet::new();
    for (&id, rule) in &selection.chosen {
        let Some(node) = graph.node(id) else { continue };
        for slot in rule.data_slots(node) {
            let Some(name) = node.input_at(slot) else { continue };
            let at = Use { node: id, slot };
            if graph.initializer(name).is_none() {
                wanted.entry(name.to_owned()).or_default().push(at);
            } else if rule.weight_slot() == Some(slot) {
                weights.insert(at);
            } else {
                operands.insert(at);
            }
        }
        if must_write_integers(graph, node, policy) {
            for output in node.output.iter().filter(|o| !o.is_empty()) {
                wanted.entry(output.clone()).or_default();
            }
        }
    }
    let pairs = wanted
        .into_iter()
        .map(|(value, readers)| {
            let integers = graph.producer(&value).is_some_and(|(id, _)| {
                selection.chosen.contains_key(&id)
                    && graph.node(id).is_some_and(|n| must_write_integers(graph, n, policy))
            });
            let readers = if integers { graph.uses(&value).to_vec() } else { readers };
            let at_output = integers && (graph.is_output(&value) || !graph.captured_by(&value).is_empty());
            (value, Pair { readers, at_output })
        })
        .collect();
    Places { pairs, operands, weights }
}

/// Whether the node's integer kernel can only write integers. A Gather from a constant table is none: its output is
/// on the table's grid as it is.
fn must_write_integers(graph: &Graph, node: &NodeProto, policy: &Policy) -> bool {
    let table = node.is("Gather") && node.input_at(0).is_some_and(|n| graph.initializer(n).is_some());
    !table && !policy.target.float_output.contains(&node.op_type())
}

/// The ReLU or Clip behind `value` that the pair on its output can replace: it is the only reader, and everything
/// that reads its output reads the dequantized side.
pub(super) fn absorbable(graph: &Graph, places: &Places, value: &str) -> Option<NodeId> {
    let bound = super::bound_behind(graph, value)?;
    let output = graph.node(bound)?.output_at(0)?;
    let pair = places.pairs.get(output)?;
    let all = pair.readers.len() == graph.uses(output).len();
    (all && (pair.at_output || !graph.is_pinned(output))).then_some(bound)
}
