//! Which input of an Add becomes one with the convolution that makes it, and which is the residual.

use std::collections::HashMap;

use super::select::Selection;
use crate::model::{Graph, NodeExt, NodeId};
use crate::rule::{OpRule, Role};

/// The input of an Add of two activations that a quantized convolution makes, up to what is fused with it: it stays float,
/// and the other one is the residual. `None` where no convolution takes the Add in.
///
/// Where convolutions make both, it is the one with the longer path to the lowest common ancestor. One whose convolution the
/// other input hangs on has to be written anyway, and takes nothing in. Source: `build_non_residual_input_map` in
/// modelopt.onnx.quantization.graph_utils.
pub(super) fn fused_input(graph: &Graph, s: &Selection, add: NodeId) -> Option<usize> {
    let node = graph.node(add)?;
    let producer = |slot: usize| Some(graph.producer(node.input_at(slot)?)?.0);
    let ends = [producer(0)?, producer(1)?];
    let convolutions = ends.map(|end| convolution(graph, s, end));
    if convolutions == [None; 2] {
        return None;
    }
    let [left, right] = ends.map(|end| distances(graph, end));
    let common = left.iter().filter_map(|(id, a)| Some((a + right.get(id)?, *id))).min().map(|(_, id)| id);
    match convolutions {
        [Some(a), Some(b)] => {
            let operator = |id| graph.node(id).map(|n| n.op_type());
            if a == b || operator(a) != operator(b) {
                return None;
            }
            let far = |distances: &HashMap<NodeId, usize>| common.and_then(|c| distances.get(&c).copied());
            Some(if far(&left) > far(&right) { 0 } else { 1 })
        }
        [Some(a), None] => (common != Some(a)).then_some(0),
        [None, Some(b)] => (common != Some(b)).then_some(1),
        [None, None] => None,
    }
}

/// The chosen convolution that a node is fused with: what it is, or what it activates, bounds, pools, or adds to or
/// multiplies by a constant.
fn convolution(graph: &Graph, s: &Selection, end: NodeId) -> Option<NodeId> {
    let mut id = end;
    loop {
        let node = graph.node(id)?;
        if node.is("Conv") || node.is("ConvTranspose") {
            return s.chosen.contains_key(&id).then_some(id);
        }
        let activates = OpRule::of(node).is_some_and(|r| r.role == Role::Bound) || node.is("MaxPool");
        let constant = (0..2).find(|&slot| node.input_at(slot).is_some_and(|n| graph.is_constant(n)));
        let scales = (node.is("Add") || node.is("Mul")) && constant.is_some();
        let slot = if scales { 1 - constant.unwrap_or(1) } else { 0 };
        id = graph.producer(node.input_at(slot).filter(|_| activates || scales)?)?.0;
    }
}

/// The nodes that a node hangs on, itself among them, and the fewest steps to each.
fn distances(graph: &Graph, end: NodeId) -> HashMap<NodeId, usize> {
    let mut found = HashMap::from([(end, 0)]);
    let (mut edge, mut steps) = (vec![end], 0);
    while !edge.is_empty() {
        steps += 1;
        let mut next = Vec::new();
        for node in edge.iter().filter_map(|&id| graph.node(id)) {
            for (id, _) in node.input.iter().filter_map(|i| graph.producer(i)) {
                if let std::collections::hash_map::Entry::Vacant(new) = found.entry(id) {
                    new.insert(steps);
                    next.push(id);
                }
            }
        }
        edge = next;
    }
    found
}
