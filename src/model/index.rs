//! The index of a graph: made and kept true by the graph alone.

use std::collections::{HashMap, HashSet};

use super::graph::{NodeId, Use};
use super::{GraphProto, NodeExt, NodeProto};
use crate::error::{Error, ErrorKind, Result};

/// Where each value comes from and where it goes.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Index {
    pub producer: HashMap<String, (NodeId, usize)>,
    pub uses: HashMap<String, Vec<Use>>,
    pub captured: HashMap<String, Vec<NodeId>>,
    pub initializer: HashMap<String, usize>,
    pub inputs: HashSet<String>,
    pub outputs: HashSet<String>,
}

impl Index {
    /// Takes in what the node makes and reads. Errors, and changes nothing, when it makes a value that is made already.
    pub fn add_node(&mut self, id: NodeId, node: &NodeProto) -> Result<()> {
        let mut seen = HashSet::new();
        for name in node.output.iter().filter(|n| !n.is_empty()) {
            if self.producer.contains_key(name) || self.initializer.contains_key(name) || !seen.insert(name) {
                return Err(Error::new(ErrorKind::InvalidModel, format!("`{name}` is produced twice")));
            }
        }
        for (place, name) in node.output.iter().enumerate().filter(|(_, n)| !n.is_empty()) {
            self.producer.insert(name.clone(), (id, place));
        }
        for (slot, name) in node.input.iter().enumerate().filter(|(_, n)| !n.is_empty()) {
            let uses = self.uses.entry(name.clone()).or_default();
            let new = Use { node: id, slot };
            uses.insert(uses.binary_search(&new).unwrap_or_else(|i| i), new);
        }
        for name in captures(node) {
            let nodes = self.captured.entry(name.to_owned()).or_default();
            nodes.insert(nodes.binary_search(&id).unwrap_or_else(|i| i), id);
        }
        Ok(())
    }

    /// Forgets the node.
    pub fn drop_node(&mut self, id: NodeId, node: &NodeProto) {
        for name in node.output.iter().filter(|n| !n.is_empty()) {
            self.producer.remove(name);
        }
        for name in &node.input {
            if let Some(uses) = self.uses.get_mut(name) {
                uses.retain(|u| u.node != id);
                if uses.is_empty() {
                    self.uses.remove(name);
                }
            }
        }
        for name in captures(node) {
            if let Some(nodes) = self.captured.get_mut(name) {
                nodes.retain(|&n| n != id);
                if nodes.is_empty() {
                    self.captured.remove(name);
                }
            }
        }
    }
}

/// The names a node's subgraphs read from outside, in the order of their first use.
pub fn captures(node: &NodeProto) -> Vec<&str> {
    let mut free = Free::default();
    node.subgraphs().for_each(|g| free.visit(g, &HashSet::new()));
    free.names
}

/// The names a graph and its subgraphs read from outside, in the order of their first use.
pub(super) fn captures_of(graph: &GraphProto) -> Vec<&str> {
    let mut free = Free::default();
    free.visit(graph, &HashSet::new());
    free.names
}

/// Names that are read and not made.
#[derive(Default)]
struct Free<'a> {
    names: Vec<&'a str>,
    known: HashSet<&'a str>,
}

impl<'a> Free<'a> {
    fn visit(&mut self, graph: &'a GraphProto, outer: &HashSet<&'a str>) {
        let mut inside = outer.clone();
        inside.extend(graph.input.iter().map(|v| v.name()));
        inside.extend(graph.initializer.iter().map(|t| t.name()));
        inside.extend(graph.sparse_initializer.iter().filter_map(|s| s.values.as_ref()).map(|t| t.name()));
        for node in &graph.node {
            node.input.iter().for_each(|name| self.read(name, &inside));
            node.subgraphs().for_each(|g| self.visit(g, &inside));
            inside.extend(node.output.iter().map(String::as_str));
        }
        graph.output.iter().for_each(|v| self.read(v.name(), &inside));
    }

    fn read(&mut self, name: &'a str, inside: &HashSet<&'a str>) {
        if !name.is_empty() && !inside.contains(name) && self.known.insert(name) {
            self.names.push(name);
        }
    }
}
