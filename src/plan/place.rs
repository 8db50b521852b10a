//! Which values carry Q/DQ, and who reads the dequantized side.

use std::collections::{BTreeMap, BTreeSet};

use super::{Policy, Present, select::Selection};
use crate::model::{Graph, Linear, NodeExt, NodeId, NodeProto, Use};
use crate::rule::{OpRule, Role};
use crate::target::Placement;

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
    /// The QuantizeLinear that is there already.
    pub present: Option<NodeId>,
}

/// Places pairs: on every value that a chosen node reads as data, and on what a chosen node must write as integers.
///
/// Where the producer must write integers, every reader gets the dequantized side, since the float one does not exist
/// in an integer kernel. Where it may write float, float readers, graph outputs and subgraphs keep the exact value.
///
/// What comes out of DequantizeLinear needs no pair, and what goes into QuantizeLinear has one: readers of that value
/// read its dequantized side.
pub(super) fn place(graph: &Graph, selection: &Selection, policy: &Policy, present: &Present) -> Places {
    let mut wanted: BTreeMap<String, Vec<Use>> = BTreeMap::new();
    let mut operands = BTreeSet::new();
    let mut weights = BTreeSet::new();
    for (&id, rule) in &selection.chosen {
        let Some(node) = graph.node(id) else { continue };
        for slot in selection.data_slots(id, rule, node) {
            let Some(name) = node.input_at(slot) else { continue };
            let at = Use { node: id, slot };
            if present.dequantized.contains_key(name) {
                continue;
            }
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
        .filter_map(|(value, readers)| {
            let integers = graph.producer(&value).is_some_and(|(id, _)| {
                selection.chosen.contains_key(&id)
                    && graph.node(id).is_some_and(|n| must_write_integers(graph, n, policy))
            });
            let readers = if integers { graph.uses(&value).to_vec() } else { readers };
            let Some((quantize, params)) = present.quantized.get(&value) else {
                let at_output = integers && (graph.is_output(&value) || !graph.captured_by(&value).is_empty());
                return Some((value, Pair { readers, at_output, present: None }));
            };
            let floats = |u: &Use| graph.node(u.node).is_some_and(|n| !Linear::quantizes(n));
            let readers: Vec<Use> = readers.into_iter().filter(floats).collect();
            let wanted = params.is_some() && !readers.is_empty();
            wanted.then_some((value, Pair { readers, at_output: false, present: Some(*quantize) }))
        })
        .collect();
    Places { pairs, operands, weights }
}

/// Whether the node's integer kernel can only write integers. A Gather from a constant table is none: its output is
/// on the table's grid as it is. No kernel must where Q/DQ stand at inputs alone.
pub(super) fn must_write_integers(graph: &Graph, node: &NodeProto, policy: &Policy) -> bool {
    let table = node.is("Gather") && node.input_at(0).is_some_and(|n| graph.initializer(n).is_some());
    policy.target.placement == Placement::Around && !table && !policy.target.writes_float(node.op_type())
}

/// The ReLU or Clip behind `value` that the pair on its output can replace: it is the only reader, and everything
/// that reads its output reads the dequantized side, or is the one QuantizeLinear that was there before.
pub(super) fn absorbable(graph: &Graph, places: &Places, present: &Present, value: &str) -> Option<NodeId> {
    let bound = super::bound_behind(graph, value)?;
    let output = graph.node(bound)?.output_at(0)?;
    if present.quantized.contains_key(output) {
        let one = graph.uses(output).len() == 1 && present.goes_into_codes_only(graph, output);
        return one.then_some(bound);
    }
    let pair = places.pairs.get(output)?;
    let all = pair.readers.len() == graph.uses(output).len();
    (all && (pair.at_output || !graph.is_pinned(output))).then_some(bound)
}

/// The value that `value` is passed on from unchanged, by nodes that are quantized or, where Q/DQ stand at inputs alone, that
/// Q/DQ are moved past: the nearest one that has parameters, or a constant table.
pub(super) fn passed_from<'a>(
    graph: &'a Graph,
    selection: &Selection,
    places: &Places,
    policy: &Policy,
    present: &Present,
    value: &'a str,
) -> Option<&'a str> {
    let mut value = value;
    loop {
        let (id, _) = graph.producer(value)?;
        let node = graph.node(id)?;
        let past = policy.target.placement == Placement::Inputs && super::select::special(graph, node).is_none();
        let rule = match selection.chosen.get(&id) {
            Some(rule) => *rule,
            None => OpRule::of(node).filter(|_| past)?,
        };
        value = node.input_at(0).filter(|_| rule.role == Role::Pass)?;
        let table = graph.is_constant(value);
        if table || places.pairs.contains_key(value) || present.dequantized.contains_key(value) {
            // The rows that are taken from a table that stays float have a range of their own.
            return Some(value).filter(|_| !table || selection.chosen.contains_key(&id));
        }
    }
}
