//! What must hold of a graph: the order of its nodes, the rules of names, and an index that is true.

use super::super::index::Index;
use super::super::names::{self, Names};
use super::super::taken::Taken;
use super::{Graph, NodeId, index_infos, invalid};
use crate::error::{Place, Result};
use crate::model::{GraphProto, NodeExt, NodeProto, captures, sparse_name};

impl Graph {
    /// Puts the nodes into an order in which every value is produced before it is read, close to the present one.
    ///
    /// Errors when there is a cycle.
    pub fn sort(&mut self) -> Result<()> {
        #[derive(Clone, Copy)]
        enum Mark {
            New,
            Open,
            Done,
        }
        let mut marks = vec![Mark::New; self.nodes.len()];
        let mut sorted = Vec::new();
        // Depth first along the inputs, in the present order, keeps a sorted graph as it is.
        for root in self.order.iter() {
            let mut stack = vec![root];
            while let Some(&slot) = stack.last() {
                match marks[slot as usize] {
                    Mark::New => marks[slot as usize] = Mark::Open,
                    Mark::Open => {
                        marks[slot as usize] = Mark::Done;
                        sorted.push(slot);
                        stack.pop();
                        continue;
                    }
                    Mark::Done => {
                        stack.pop();
                        continue;
                    }
                }
                let Some(node) = self.node(NodeId(slot)) else { continue };
                for name in node.input.iter().map(String::as_str).chain(captures(node)).rev() {
                    let Some((producer, _)) = self.producer(name) else { continue };
                    match marks[producer.0 as usize] {
                        Mark::New => stack.push(producer.0),
                        Mark::Open => {
                            return Err(invalid("the graph has a cycle".into()).at(self.label(producer)));
                        }
                        Mark::Done => {}
                    }
                }
            }
        }
        if !self.order.iter().eq(sorted.iter().copied()) {
            self.order.arrange(&sorted);
            self.touch();
        }
        Ok(())
    }

    /// Checks what must hold before a graph is run or written: every value one producer, everything that is read
    /// is there and comes first, every graph output is produced, and the index is true. In subgraphs too.
    pub fn check(&self) -> Result<()> {
        debug_assert!(self.build_index().is_ok_and(|i| i == self.index), "the index equals a rebuilt one");
        let mut around = Names::inside(None);
        for name in self.around.names() {
            around.input(name);
        }
        let initializers = self.initializers().map(|t| t.name()).chain(self.sparse_initializers().map(sparse_name));
        names::hold(Some(&around), &self.rest, initializers, self.nodes().map(|(_, n)| n))
    }

    pub(super) fn build_index(&self) -> Result<Index> {
        let mut index = Index::default();
        for (i, t) in self.initializers.iter().enumerate() {
            let Some(t) = t else { continue };
            if index.initializer.insert(t.name().to_owned(), i).is_some() {
                return Err(invalid(format!("two initializers are named `{}`", t.name())));
            }
        }
        for (i, t) in self.sparse.iter().enumerate() {
            let Some(t) = t else { continue };
            if index.is_constant(sparse_name(t)) {
                return Err(invalid(format!("two initializers are named `{}`", sparse_name(t))));
            }
            index.sparse.insert(sparse_name(t).to_owned(), i);
        }
        for (id, node) in self.nodes() {
            index.add_node(id, node).at(|| node.label())?;
        }
        for v in &self.rest.input {
            if !index.inputs.insert(v.name().to_owned()) {
                return Err(invalid(format!("two graph inputs are named `{}`", v.name())));
            }
        }
        index.outputs = self.rest.output.iter().map(|v| v.name().to_owned()).collect();
        index.info = index_infos(&self.rest);
        if let Some(v) = self.rest.input.iter().find(|v| index.producer.contains_key(v.name())) {
            return Err(invalid(format!("the graph input `{}` is also produced by a node", v.name())));
        }
        Ok(index)
    }

    pub(super) fn every_name(&self) -> Taken {
        fn visit(graph: &GraphProto, names: &mut Taken) {
            names.extend(graph.input.iter().chain(&graph.output).map(|v| v.name()));
            names.extend(graph.initializer.iter().map(|t| t.name()));
            names.extend(graph.sparse_initializer.iter().map(sparse_name));
            graph.node.iter().for_each(|n| node_names(n, names));
        }
        fn node_names(node: &NodeProto, names: &mut Taken) {
            names.take(node.name());
            names.extend(node.input.iter().chain(&node.output));
            node.subgraphs().for_each(|g| visit(g, names));
        }
        let mut names = Taken::default();
        visit(&self.rest, &mut names);
        names.extend(self.initializers().map(|t| t.name()));
        names.extend(self.sparse_initializers().map(sparse_name));
        self.nodes().for_each(|(_, n)| node_names(n, &mut names));
        names
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::chain;

    #[test]
    fn sort_mends_the_order_and_finds_cycles() {
        let mut g = chain();
        let ids = g.node_ids();
        g.order.arrange(&[2, 1, 0]);
        assert!(g.check().unwrap_err().to_string().contains("before it is produced"));
        g.sort().unwrap();
        assert_eq!(g.node_ids(), ids);
        g.edit(ids[0], |n| n.input[0] = "y".into()).unwrap();
        assert!(g.sort().unwrap_err().to_string().contains("cycle"));
    }
}
