//! Bodies: the subgraphs of If, Loop and Scan, lent out as graphs of their own.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::super::index::captures_of;
use super::{Graph, GraphProto, NodeExt, NodeId, NodeProto, TensorProto, ValueInfoProto};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::model::{AttributeExt, AttributeProto};

/// A subgraph of a node. Stays valid while the node keeps its attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BodyId {
    /// The node.
    pub node: NodeId,
    /// Which of its attributes.
    attribute: usize,
    /// Which graph of that attribute.
    place: usize,
}

/// The first value that the nodes of a graph make: it tells a branch from all others where names are unique in the
/// model. `None` for a graph whose nodes make nothing.
pub fn first_value(graph: &GraphProto) -> Option<&str> {
    graph.node.iter().flat_map(|n| &n.output).map(String::as_str).find(|o| !o.is_empty())
}

/// What a body sees of the graphs around it: the names that it captured when it was lent out.
#[derive(Debug, Clone, Default)]
pub(super) struct Around {
    /// The nodes around it, as they stand in front of the name of a node: `If_0 > then_branch > `.
    pub path: String,
    /// The constants.
    pub constants: BTreeMap<String, TensorProto>,
    /// Those of them that something else reads too.
    pub shared: BTreeSet<String>,
    /// All other values, with what is stated of their types.
    pub values: BTreeMap<String, Option<ValueInfoProto>>,
}

impl Around {
    pub fn has(&self, name: &str) -> bool {
        self.constants.contains_key(name) || self.values.contains_key(name)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.constants.keys().chain(self.values.keys()).map(String::as_str)
    }
}

impl Graph {
    /// The subgraphs of all nodes, in their order of execution.
    pub fn bodies(&self) -> Vec<BodyId> {
        let graphs = |node: NodeId, n: &NodeProto| {
            let count = |(attribute, a): (usize, &AttributeProto)| {
                let graphs = usize::from(a.g.is_some()) + a.graphs.len();
                (0..graphs).map(move |place| BodyId { node, attribute, place }).collect::<Vec<_>>()
            };
            n.attribute.iter().enumerate().flat_map(count).collect::<Vec<_>>()
        };
        self.nodes().flat_map(|(id, n)| graphs(id, n)).collect()
    }

    /// The attribute that holds a body: `then_branch`.
    pub fn body_name(&self, id: BodyId) -> &str {
        self.node(id.node).and_then(|n| n.attribute.get(id.attribute)).map_or("", |a| a.name())
    }

    /// The message of a body; `None` once its node was removed.
    pub fn body_proto(&self, id: BodyId) -> Option<&GraphProto> {
        let attribute = self.node(id.node)?.attribute.get(id.attribute)?;
        attribute.g.iter().chain(&attribute.graphs).nth(id.place)
    }

    /// The values that a body captures and that are no constants, by name; none for the graph of a model.
    pub fn captured_values(&self) -> impl Iterator<Item = &str> {
        self.around.values.keys().map(String::as_str)
    }

    /// Whether this is a constant that a body captures and that something outside of the body reads too.
    pub fn is_shared(&self, name: &str) -> bool {
        self.around.shared.contains(name)
    }

    /// A copy of a body, as a graph of its own.
    ///
    /// What it captures counts as known: constants can be read as if they were initializers of the body, and all names
    /// are pinned. Errors, naming the body, when it breaks the rules of [`Graph::from_proto`].
    pub fn body(&self, id: BodyId) -> Result<Graph> {
        let gone = || Error::new(ErrorKind::InvalidModel, "a removed node has no body");
        let (node, proto) = self.node(id.node).zip(self.body_proto(id)).ok_or_else(gone)?;
        let path = format!("{} > {}", self.path(node), self.body_name(id));
        let mut body = Graph::from_proto(proto.clone()).at(|| format!("`{path}`"))?;
        body.taken.extend(self.taken.iter().cloned());
        body.around.path = path + " > ";
        let siblings: Vec<&GraphProto> = node.subgraphs().filter(|g| !std::ptr::eq(*g, proto)).collect();
        let siblings: HashSet<&str> = siblings.into_iter().flat_map(captures_of).collect();
        for name in captures_of(proto) {
            let Some(tensor) = self.initializer(name).filter(|_| !self.is_input(name)) else {
                body.around.values.insert(name.to_owned(), self.value_info(name).cloned());
                continue;
            };
            body.around.constants.insert(name.to_owned(), tensor.clone());
            let elsewhere = !self.uses(name).is_empty() || self.is_output(name) || self.captured_by(name).len() > 1;
            if elsewhere || siblings.contains(name) || self.is_shared(name) {
                body.around.shared.insert(name.to_owned());
            }
        }
        Ok(body)
    }

    /// Changes a body, lent out as [`Graph::body`] says.
    ///
    /// Names that are fresh in the body are fresh in the whole model. Afterwards, a constant of this graph that the body
    /// captured and nothing reads any more is dropped. Errors as `change` does, and as [`Graph::body`]; this graph is
    /// then as it was.
    pub fn edit_body<T>(&mut self, id: BodyId, change: impl FnOnce(&mut Graph) -> Result<T>) -> Result<T> {
        let mut body = self.body(id)?;
        let outcome = change(&mut body)?;
        if body.revision == 0 {
            return Ok(outcome);
        }
        let proto = body.to_proto();
        self.taken = body.taken;
        self.edit(id.node, |n| {
            let attribute = n.attribute.get_mut(id.attribute);
            if let Some(place) = attribute.and_then(|a| a.subgraphs_mut().nth(id.place)) {
                *place = proto;
            }
        })?;
        for name in body.around.constants.keys() {
            if self.uses(name).is_empty() && !self.is_pinned(name) {
                self.drop_initializer(name);
            }
        }
        Ok(outcome)
    }
}
