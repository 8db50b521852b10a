//! What of a graph is quantized already, and stays as it is.

use std::collections::BTreeMap;

use crate::integer::{Source, code_type, handles_codes, moves, scaling_nodes, source};
use crate::model::{Graph, Linear, NodeExt, NodeId, NodeProto, format_of};
use crate::number::QuantParams;
use crate::rule::{OpRule, Role};

/// What is there before anything is decided. All of it is empty for a float model.
#[derive(Default)]
pub(super) struct Present {
    /// The values that come out of DequantizeLinear, with their parameters: `None` where these are not one constant
    /// scale, or of a kind that is not supported.
    pub dequantized: BTreeMap<String, Option<QuantParams>>,
    /// The values that go into QuantizeLinear, with the first such node and its parameters, as above.
    pub quantized: BTreeMap<String, (NodeId, Option<QuantParams>)>,
    /// The nodes that are quantized already, and in what way.
    pub nodes: BTreeMap<NodeId, &'static str>,
}

impl Present {
    /// Looks at a graph inside another one in which that is there.
    pub fn of(graph: &Graph, around: &Present) -> Present {
        let captured = graph.captured_values().filter_map(|v| Some((v.to_owned(), around.dequantized.get(v)?.clone())));
        let mut present = Present { dequantized: captured.collect(), ..Present::default() };
        if present.dequantized.is_empty() && !graph.nodes().any(|(_, n)| handles_codes(n)) {
            return present;
        }
        for (id, node) in graph.nodes() {
            let params = || Linear::read(graph, node).and_then(|l| l.params(0)).ok().filter(|p| p.axis().is_none());
            if Linear::dequantizes(node) {
                present.dequantized.extend(node.output_at(0).map(|value| (value.to_owned(), params())));
            } else if Linear::quantizes(node)
                && let Some(value) = node.input_at(0)
            {
                present.quantized.entry(value.to_owned()).or_insert_with(|| (id, params()));
            }
        }
        for (id, node) in graph.nodes() {
            present.nodes.extend(present.already(graph, node).map(|reason| (id, reason)));
            for part in scaling_nodes(graph, node) {
                present.nodes.insert(part, "scales the sums of an operator on codes");
            }
        }
        present
    }

    /// In what way a node is quantized already.
    fn already(&self, graph: &Graph, node: &NodeProto) -> Option<&'static str> {
        if handles_codes(node) {
            let between = Linear::quantizes(node) || Linear::dequantizes(node);
            return Some(if between { "stands between codes and floats" } else { "computes on codes" });
        }
        let rule = OpRule::of(node)?;
        let inputs: Vec<&str> = rule.data_slots(node).filter_map(|slot| node.input_at(slot)).collect();
        if moves_codes(graph, node) {
            return Some("moves codes");
        }
        let from_codes = |name: &&str| self.dequantized.contains_key(*name);
        let all = !inputs.is_empty() && inputs.iter().all(from_codes);
        let weight = rule.weight_slot().and_then(|slot| node.input_at(slot));
        match rule.role {
            Role::Compute if all => Some("reads codes through DequantizeLinear"),
            Role::Compute if weight.is_some_and(|w| from_codes(&w)) => Some("its weight is stored as codes"),
            Role::Glue | Role::Pass | Role::Bound if all && self.goes_into_codes(graph, node) => {
                Some("stands between DequantizeLinear and QuantizeLinear")
            }
            _ => None,
        }
    }

    /// Whether nothing but QuantizeLinear reads what the node makes.
    fn goes_into_codes(&self, graph: &Graph, node: &NodeProto) -> bool {
        node.output.iter().filter(|o| !o.is_empty()).all(|o| self.goes_into_codes_only(graph, o))
    }

    /// Whether nothing but QuantizeLinear reads the value.
    pub fn goes_into_codes_only(&self, graph: &Graph, value: &str) -> bool {
        let uses = graph.uses(value);
        !uses.is_empty()
            && !graph.is_pinned(value)
            && uses.iter().all(|u| graph.node(u.node).is_some_and(Linear::quantizes))
    }
}

/// Whether the node moves codes: such that are made in the graph, or such that the next node reads.
fn moves_codes(graph: &Graph, node: &NodeProto) -> bool {
    let Some(codes) = node.input_at(0).filter(|_| moves(node)) else { return false };
    let typed = || code_type(graph, codes).is_some_and(|dtype| format_of(dtype).is_some());
    match source(graph, codes) {
        Source::Quantize(_) | Source::Dynamic(_) => true,
        Source::Node(id) => graph.node(id).is_some_and(|n| handles_codes(n) && !Linear::dequantizes(n)) && typed(),
        Source::Constant | Source::Input => {
            let mut readers = node.output.iter().flat_map(|o| graph.uses(o)).filter_map(|u| graph.node(u.node));
            readers.any(handles_codes) && typed()
        }
        Source::Outside => false,
    }
}
