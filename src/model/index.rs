//! The index of a graph: made and kept true by the graph alone.

use std::collections::{HashMap, HashSet};

use super::graph::{NodeId, Use};
use super::{GraphProto, NodeExt, NodeProto, sparse_name};
use crate::error::{Error, ErrorKind, Result};

/// Where each value comes from and where it goes.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Index {
    pub producer: HashMap<String, (NodeId, usize)>,
    pub uses: HashMap<String, Vec<Use>>,
    pub captured: HashMap<String, Vec<NodeId>>,
    pub initializer: HashMap<String, usize>,
    pub sparse: HashMap<String, usize>,
    pub inputs: HashSet<String>,
    pub outputs: HashSet<String>,
    /// The place of each value among inputs, outputs and value_info, in this order.
    pub info: HashMap<String, usize>,
}

impl Index {
    /// Whether an initializer, dense or sparse, has that name.
    pub fn is_constant(&self, name: &str) -> bool {
        self.initializer.contains_key(name) || self.sparse.contains_key(name)
    }

    /// Takes in what the node makes and reads. Errors, and changes nothing, when it makes a value that is made already.
    pub fn add_node(&mut self, id: NodeId, node: &NodeProto) -> Result<()> {
        let mut seen = HashSet::new();
        for name in node.output.iter().filter(|n| !n.is_empty()) {
            if self.producer.contains_key(name) || self.is_constant(name) || !seen.insert(name) {
                return Err(Error::new(ErrorKind::InvalidModel, format!("`{name}` is produced twice")));
            }
        }
        for (place, name) in node.output.iter().enumerate().filter(|(_, n)| !n.is_empty()) {
            self.producer.insert(name.clone(), (id, place));
        }
        let mut reads: Vec<(&str, usize)> = node.input.iter().enumerate().map(|(slot, n)| (n.as_str(), slot)).collect();
        reads.sort_unstable();
        for same in reads.chunk_by(|a, b| a.0 == b.0).filter(|same| !same[0].0.is_empty()) {
            self.add_uses(id, same[0].0, same.iter().map(|&(_, slot)| Use { node: id, slot }));
        }
        for name in captures(node) {
            let nodes = self.captured.entry(name.to_owned()).or_default();
            nodes.insert(nodes.partition_point(|&n| n < id), id);
        }
        Ok(())
    }

    /// Notes that a node reads the value in these slots, which are in order.
    fn add_uses(&mut self, id: NodeId, name: &str, new: impl Iterator<Item = Use>) {
        let uses = self.uses.entry(name.to_owned()).or_default();
        let place = uses.partition_point(|u| u.node < id);
        uses.splice(place..place, new);
    }

    /// Notes that what read `old` reads `new`, and says where that is.
    pub fn move_uses(&mut self, old: &str, new: &str) -> Vec<Use> {
        let moved = self.uses.remove(old).unwrap_or_default();
        if !moved.is_empty() {
            let uses = self.uses.entry(new.to_owned()).or_default();
            if moved.len() < uses.len() / 64 {
                moved.iter().for_each(|at| uses.insert(uses.partition_point(|u| u < at), *at));
            } else {
                // Both are sorted, so this takes one step a use.
                uses.extend_from_slice(&moved);
                uses.sort();
            }
        }
        moved
    }

    /// Forgets the node.
    pub fn drop_node(&mut self, id: NodeId, node: &NodeProto) {
        for name in node.output.iter().filter(|n| !n.is_empty()) {
            self.producer.remove(name);
        }
        for name in &node.input {
            if let Some(uses) = self.uses.get_mut(name) {
                let first = uses.partition_point(|u| u.node < id);
                uses.drain(first..uses.partition_point(|u| u.node <= id));
                if uses.is_empty() {
                    self.uses.remove(name);
                }
            }
        }
        for name in captures(node) {
            if let Some(nodes) = self.captured.get_mut(name) {
                nodes.drain(nodes.partition_point(|&n| n < id)..nodes.partition_point(|&n| n <= id));
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
    node.subgraphs().for_each(|g| free.visit(g));
    free.names
}

/// The names a graph and its subgraphs read from outside, in the order of their first use.
pub(super) fn captures_of(graph: &GraphProto) -> Vec<&str> {
    let mut free = Free::default();
    free.visit(graph);
    free.names
}

/// Names that are read inside of graphs and not made there.
#[derive(Default)]
struct Free<'a> {
    names: Vec<&'a str>,
    known: HashSet<&'a str>,
    /// What is made inside so far, and in how many places.
    inside: HashMap<&'a str, usize>,
}

impl<'a> Free<'a> {
    fn visit(&mut self, graph: &'a GraphProto) {
        let mut own: Vec<&str> = graph.input.iter().map(|v| v.name()).collect();
        own.extend(graph.initializer.iter().map(|t| t.name()));
        own.extend(graph.sparse_initializer.iter().map(sparse_name));
        own.iter().for_each(|name| *self.inside.entry(name).or_default() += 1);
        for node in &graph.node {
            node.input.iter().for_each(|name| self.read(name));
            node.subgraphs().for_each(|g| self.visit(g));
            for name in &node.output {
                *self.inside.entry(name).or_default() += 1;
                own.push(name);
            }
        }
        graph.output.iter().for_each(|v| self.read(v.name()));
        for name in own {
            if let Some(places) = self.inside.get_mut(name) {
                *places -= 1;
            }
        }
    }

    fn read(&mut self, name: &'a str) {
        if !name.is_empty() && self.inside.get(name).is_none_or(|&n| n == 0) && self.known.insert(name) {
            self.names.push(name);
        }
    }
}
