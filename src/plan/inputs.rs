//! What stands between quantized neighbours where Q/DQ stand at inputs alone: neighbours are looked for past what activates,
//! bounds or moves values, which stays float there.

use std::collections::HashSet;

use super::Present;
use super::select::{Selection, reads_integers};
use crate::model::{Graph, NodeExt, NodeProto};
use crate::rule::{OpRule, Role};

/// Why a chosen node that has no weight has no place: each input must come from a quantized node, and a quantized node must
/// want its output. With a constant it belongs to the node before it.
pub(super) fn misfit(
    graph: &Graph,
    present: &Present,
    s: &Selection,
    node: &NodeProto,
    rule: &OpRule,
) -> Option<String> {
    let inputs: Vec<&str> = rule.data_slots(node).filter_map(|slot| node.input_at(slot)).collect();
    if inputs.iter().any(|n| graph.is_constant(n)) {
        return Some("with a constant it is fused with what is before it".into());
    }
    if let Some(name) = inputs.iter().find(|n| !comes_from_quantized(graph, present, s, n)) {
        return Some(format!("its input `{name}` comes from no quantized node"));
    }
    let wanted = node.output.iter().any(|o| goes_into_quantized(graph, s, o));
    (!wanted).then(|| "no quantized node reads its output".into())
}

/// Whether Q/DQ are looked past at the node.
fn passes(node: &NodeProto) -> bool {
    OpRule::of(node).is_some_and(|r| matches!(r.role, Role::Bound | Role::Pass))
}

fn comes_from_quantized(graph: &Graph, present: &Present, s: &Selection, value: &str) -> bool {
    let mut value = value;
    loop {
        if present.dequantized.contains_key(value) {
            return true;
        }
        let Some((id, _)) = graph.producer(value) else { return false };
        if s.chosen.contains_key(&id) {
            return true;
        }
        match graph.node(id).filter(|n| passes(n)).and_then(|n| n.input_at(0)) {
            Some(input) => value = input,
            None => return false,
        }
    }
}

fn goes_into_quantized(graph: &Graph, s: &Selection, value: &str) -> bool {
    let (mut values, mut seen) = (vec![value], HashSet::from([value]));
    while let Some(value) = values.pop() {
        for &at in graph.uses(value) {
            if reads_integers(s, graph, at) {
                return true;
            }
            let Some(node) = graph.node(at.node).filter(|n| at.slot == 0 && passes(n)) else { continue };
            values.extend(node.output.iter().map(String::as_str).filter(|o| !o.is_empty() && seen.insert(o)));
        }
    }
    false
}
