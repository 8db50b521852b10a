//! What in a quantized graph will keep a runtime from computing in integers, or cost accuracy.
//!
//! [`RULES`] is the list, one file each. A rule looks at a graph with QuantizeLinear and DequantizeLinear: a model as it was
//! found, or what a plan makes of a float one. It changes nothing and runs nothing.

mod bias_overflow;
mod bias_scale;
mod double_rounding;
mod float_island;
mod int16_sum;
mod mixed_widths;
mod old_opset;
mod one_sided;
mod pair_before_bound;
mod per_channel_activation;
mod scene;
mod shared_dequantize;
mod tiny_scale;
mod unfused_bound;

use std::collections::HashMap;

use serde::Serialize;

use crate::error::Result;
use crate::model::{Graph, NodeExt, NodeId};
use crate::plan::Plan;

pub use scene::{Scene, Stored};

/// Something to look for.
#[derive(Clone, Copy)]
pub struct Rule {
    /// Its name.
    pub name: &'static str,
    /// What it costs.
    pub costs: Cost,
    /// Why it matters.
    pub why: &'static str,
    /// What to do.
    pub way_out: &'static str,
    /// Finds the nodes, and says what is there.
    pub look: fn(&Scene<'_>) -> Vec<(NodeId, String)>,
}

/// What a finding costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Cost {
    /// Nodes compute in float that could compute in integers.
    Speed,
    /// The outputs are further from those of the float model than they need be.
    Accuracy,
    /// Some runtimes refuse it, or compute something else.
    Portability,
}

/// What was found, one node a finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The rule's name.
    pub rule: &'static str,
    /// What it costs.
    pub costs: Cost,
    /// The node, behind the nodes around it: `If_0 > then_branch > Conv_3`.
    pub node: String,
    /// Its operator.
    pub operator: String,
    /// What is there.
    pub what: String,
    /// Why it matters.
    pub why: &'static str,
    /// What to do.
    pub way_out: &'static str,
}

/// The rules: first what keeps nodes in float, then what costs accuracy, then what only some runtimes take.
pub const RULES: [Rule; 13] = [
    unfused_bound::RULE,
    pair_before_bound::RULE,
    one_sided::RULE,
    float_island::RULE,
    per_channel_activation::RULE,
    mixed_widths::RULE,
    bias_scale::RULE,
    bias_overflow::RULE,
    tiny_scale::RULE,
    double_rounding::RULE,
    int16_sum::RULE,
    old_opset::RULE,
    shared_dequantize::RULE,
];

/// Looks at a quantized graph and the bodies in it, in the graph's order; `opset` is that of the model.
///
/// `plan` says why nodes compute in float: with `planned`, it is the plan that was inserted into the graph, else one of the
/// graph as it is. Errors when a body breaks the rules of graphs.
pub fn lint(graph: &Graph, opset: i64, plan: &Plan, planned: bool) -> Result<Vec<Finding>> {
    let scene = Scene::new(graph, opset, plan, planned);
    let mut found: HashMap<NodeId, Vec<Finding>> = HashMap::new();
    for rule in &RULES {
        for (id, what) in (rule.look)(&scene) {
            let Some(node) = graph.node(id) else { continue };
            let (name, operator) = (graph.path(node), node.operator());
            let Rule { name: rule, costs, why, way_out, .. } = *rule;
            found.entry(id).or_default().push(Finding { rule, costs, node: name, operator, what, why, way_out });
        }
    }
    let (mut all, none) = (Vec::new(), Plan::default());
    // In the graph's order, as the nodes.
    let mut bodies = graph.bodies().into_iter().peekable();
    for (id, _) in graph.nodes() {
        all.extend(found.remove(&id).into_iter().flatten());
        while let Some(body) = bodies.next_if(|b| b.node == id) {
            let inner = plan.bodies.get(&body).unwrap_or(&none);
            all.extend(lint(&graph.body(body)?, opset, inner, planned)?);
        }
    }
    Ok(all)
}
