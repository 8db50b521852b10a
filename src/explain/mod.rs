//! What becomes of every node, value and constant of a model, and why: the plan in words.
//!
//! [`explain`] reads a [`Plan`] and the graph that it is for; nothing is decided here. [`Explanation::tables`] is what
//! people read of all of it, [`Explanation::about`] everything that is known of one name. [`Findings`] is what
//! [`lint`](crate::lint) says of it.

mod about;
mod constants;
mod findings;
mod how;
mod tables;
mod values;

use std::collections::HashMap;

use serde::Serialize;

use crate::error::Result;
use crate::model::{DataType, Graph, NodeExt, NodeId, Use};
use crate::plan::{ConstantDecision, Plan, Verdict, element_types};
use crate::quantize::NodeRow;

pub use about::About;
pub use constants::{ConstantFact, Kind};
pub use findings::Findings;
pub use how::How;
pub use values::{Reader, ValueFact};

/// What becomes of a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// Whether ranges are known. Without samples they are not: scales and zero points that hang on them are left out.
    pub ranges_known: bool,
    /// Every node, in the graph's order; those in a body stand behind the node that holds it.
    pub nodes: Vec<NodeRow>,
    /// Every value that a graph takes or a node makes, in the same order.
    pub values: Vec<ValueFact>,
    /// Every constant at each place where it is read, in the same order; those that nothing reads at the end.
    pub constants: Vec<ConstantFact>,
}

/// A graph, what is decided of it, and what else the facts are read from.
struct Scope<'a> {
    graph: &'a Graph,
    plan: &'a Plan,
    /// What is decided of each node.
    decisions: HashMap<NodeId, (Verdict, &'a str)>,
    /// Where each constant is stored as codes.
    stored: HashMap<&'a str, Vec<Use>>,
    types: HashMap<String, DataType>,
}

impl<'a> Scope<'a> {
    fn new(graph: &'a Graph, plan: &'a Plan, around: &HashMap<String, DataType>) -> Scope<'a> {
        let decisions = plan.nodes.iter().map(|d| (d.node, (d.verdict, d.reason.as_str()))).collect();
        let mut stored: HashMap<&str, Vec<Use>> = HashMap::new();
        for (&at, decision) in &plan.constants {
            let home = decision.twin.as_ref().map_or(&decision.initializer, |twin| &twin.table);
            stored.entry(home).or_default().push(at);
        }
        Scope { graph, plan, decisions, stored, types: element_types(graph, around) }
    }

    /// Where the codes of the constant that is read at a place are, and what they stand for.
    fn stored_as(&self, at: &Use) -> Option<ConstantDecision> {
        self.plan.constants.get(at).and_then(|d| d.stored(self.graph))
    }

    fn verdict(&self, node: NodeId) -> Option<Verdict> {
        self.decisions.get(&node).map(|(verdict, _)| *verdict)
    }

    fn reason(&self, node: NodeId) -> &'a str {
        self.decisions.get(&node).map_or("", |(_, reason)| reason)
    }

    /// How a sentence names a node: `` `block1.add` (Add) ``.
    fn named(&self, node: NodeId) -> String {
        self.graph.node(node).map_or_else(String::new, |n| format!("`{}` ({})", self.graph.path(n), n.operator()))
    }
}

/// Explains a plan of that graph. Errors when a body breaks the rules of graphs, and when scales of a quantized model do
/// not fit their codes.
pub fn explain(graph: &Graph, plan: &Plan) -> Result<Explanation> {
    let mut found = Explanation {
        ranges_known: !plan.has_unseen(),
        nodes: crate::quantize::node_rows(graph, plan)?,
        values: Vec::new(),
        constants: Vec::new(),
    };
    visit(graph, plan, &HashMap::new(), &mut found)?;
    constants::unread(graph, &mut found.constants);
    values::find_shares(&mut found.values);
    Ok(found)
}

fn visit(graph: &Graph, plan: &Plan, around: &HashMap<String, DataType>, found: &mut Explanation) -> Result<()> {
    let scope = Scope::new(graph, plan, around);
    values::inputs(&scope, &mut found.values);
    for (id, _) in graph.nodes() {
        values::outputs(&scope, id, &mut found.values);
        constants::read_by(&scope, id, &mut found.constants)?;
        for (&body, inner) in plan.bodies.iter().filter(|(body, _)| body.node == id) {
            visit(&graph.body(body)?, inner, &scope.types, found)?;
        }
    }
    Ok(())
}
