//! Values that are kept out of the format of the others: which nodes compute in another width for it, and where codes are
//! turned from one width to the other.

use std::collections::{BTreeMap, BTreeSet};

use super::{Plan, Policy, Verdict, select::Selection};
use crate::model::{Graph, NodeExt, NodeId, Use};
use crate::number::{Format, QuantParams};
use crate::rule::{OpRule, Role};

/// Why a value is kept out of the format of activations, and what it is instead.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// The format of its codes; `None` where it stays float.
    pub format: Option<Format>,
    /// Why, in words.
    pub reason: String,
}

/// The pair behind the pair of a value, for those readers that compute in another width than the value is written in.
#[derive(Debug, Clone, PartialEq)]
pub struct Turned {
    /// Scale and zero point, per tensor.
    pub params: QuantParams,
    /// The places that read what comes out of it.
    pub readers: Vec<Use>,
}

/// The formats in which chosen nodes compute. All activations of a node have one: kernels take no two widths.
pub(super) struct Widths {
    base: Format,
    nodes: BTreeMap<NodeId, Format>,
}

impl Widths {
    /// A node that reads or writes a value of [`Policy::kept`] computes in the format of that value.
    pub fn of(graph: &Graph, selection: &Selection, policy: &Policy) -> Widths {
        let mut nodes = BTreeMap::new();
        if !policy.kept.is_empty() {
            for (&id, rule) in &selection.chosen {
                let Some(node) = graph.node(id) else { continue };
                let read = selection.data_slots(id, rule, node).filter_map(|slot| node.input_at(slot));
                let mut values = read.chain(node.output.iter().map(String::as_str));
                let format = values.find_map(|v| policy.kept.get(v)?.format);
                nodes.extend(format.map(|f| (id, f)));
            }
        }
        Widths { base: policy.activations, nodes }
    }

    /// The format in which a node computes.
    pub fn of_node(&self, id: NodeId) -> Format {
        self.nodes.get(&id).copied().unwrap_or(self.base)
    }

    /// The format in which a value is written: that of the node that makes it, or, of what comes in as float, that in which
    /// everything reads it, if that is one.
    pub fn written(&self, graph: &Graph, selection: &Selection, value: &str, readers: &[Use]) -> Format {
        match graph.producer(value).filter(|(id, _)| selection.chosen.contains_key(id)) {
            Some((id, _)) => self.of_node(id),
            None => {
                let formats: BTreeSet<u32> = readers.iter().map(|u| self.of_node(u.node).bits).collect();
                readers.first().filter(|_| formats.len() == 1).map_or(self.base, |u| self.of_node(u.node))
            }
        }
    }

    /// The readers of a value, which is written in `format`, that compute in another, with that. Those that do not compute on
    /// codes take what comes.
    pub fn turned(&self, selection: &Selection, readers: &[Use], format: Format) -> Option<(Format, Vec<Use>)> {
        let other = |u: &&Use| selection.chosen.contains_key(&u.node) && self.of_node(u.node) != format;
        let readers: Vec<Use> = readers.iter().filter(other).copied().collect();
        readers.first().map(|u| (self.of_node(u.node), readers.clone()))
    }
}

impl Plan {
    /// The values that have a pair, in the groups that have one width whatever is decided: what a quantized node only moves or
    /// bounds is as wide as what it reads. In the order of the graph.
    pub fn groups(&self, graph: &Graph) -> Vec<Vec<String>> {
        let mut group: BTreeMap<&str, usize> = BTreeMap::new();
        let mut groups: Vec<Vec<String>> = Vec::new();
        let moving: BTreeSet<NodeId> = self
            .nodes
            .iter()
            .filter(|d| matches!(d.verdict, Verdict::Quantized | Verdict::Absorbed))
            .filter(|d| {
                let rule = graph.node(d.node).and_then(OpRule::of);
                rule.is_some_and(|r| matches!(r.role, Role::Pass | Role::Bound))
            })
            .map(|d| d.node)
            .collect();
        let inputs = graph.inputs().iter().map(|v| v.name()).chain(graph.captured_values());
        let outputs = graph.nodes().flat_map(|(_, n)| n.output.iter().map(String::as_str));
        for value in inputs.chain(outputs) {
            let from = graph.producer(value).filter(|(id, _)| moving.contains(id)).and_then(|(id, _)| graph.node(id));
            let known = from.and_then(|n| group.get(n.input_at(0)?).copied());
            let bounded = super::bound_behind(graph, value).is_some_and(|id| moving.contains(&id));
            if known.is_none() && !bounded && !self.values.contains_key(value) {
                continue;
            }
            let place = known.unwrap_or_else(|| {
                groups.push(Vec::new());
                groups.len() - 1
            });
            group.insert(value, place);
            groups[place].push(value.to_owned());
        }
        groups.retain(|g| g.iter().any(|v| self.values.contains_key(v)));
        groups
    }
}
