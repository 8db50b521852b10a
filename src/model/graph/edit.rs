//! The edits of a graph: each keeps the index true.

use std::collections::HashSet;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::super::wire::Kept;
use super::{At, Graph, NodeId, Use, index_infos, infos, invalid};
use crate::error::Result;
use crate::model::{
    AttributeExt, NodeExt, NodeProto, SparseTensorProto, Tensor, TensorProto, ValueInfoProto, sparse_name,
};
use crate::proto::type_proto;

impl Graph {
    /// A name like `base` that no value and no node has, now or in a subgraph.
    pub fn fresh_name(&mut self, base: &str) -> String {
        self.taken.fresh(base)
    }

    /// Puts a node into the graph.
    ///
    /// Errors, and changes nothing, when one of its outputs has a producer already.
    pub fn insert(&mut self, at: At, node: NodeProto) -> Result<NodeId> {
        let id = NodeId(self.nodes.len() as u32);
        self.index.add_node(id, &node)?;
        match at {
            At::Start => self.order.insert_first(id.0),
            At::End => self.order.insert_last(id.0),
            At::Before(other) => self.order.insert_before(other.0, id.0),
            At::After(other) => self.order.insert_after(other.0, id.0),
        }
        for name in node.output.iter().chain(&node.name) {
            self.taken.take(name);
        }
        self.nodes.push(Some(Kept::new(node)));
        self.touch();
        Ok(id)
    }

    /// Takes a node out of the graph and returns it.
    pub fn remove(&mut self, id: NodeId) -> Option<NodeProto> {
        let node = self.nodes[id.0 as usize].take()?;
        self.index.drop_node(id, &node);
        self.order.remove(id.0);
        self.touch();
        Some(node.into_message())
    }

    /// Changes a node.
    ///
    /// Errors, and changes nothing, when it would produce a value that has a producer already.
    pub fn edit(&mut self, id: NodeId, change: impl FnOnce(&mut NodeProto)) -> Result<()> {
        let Some(old) = self.nodes[id.0 as usize].take() else {
            return Err(invalid("a removed node cannot be edited".into()));
        };
        let mut new = old.clone();
        change(new.edit());
        let mut outcome = Ok(());
        // What is not indexed may change without a step through a long list of uses.
        if old.input != new.input || old.output != new.output || old.subgraphs().chain(new.subgraphs()).next().is_some()
        {
            self.index.drop_node(id, &old);
            outcome = self.index.add_node(id, &new);
            if outcome.is_err() {
                self.index.add_node(id, &old)?;
            }
        }
        for name in &new.output {
            self.taken.take(name);
        }
        self.nodes[id.0 as usize] = Some(if outcome.is_ok() { new } else { old });
        self.touch();
        outcome
    }

    /// Lets one use read another value.
    pub fn set_input(&mut self, at: Use, value: &str) -> Result<()> {
        self.edit(at.node, |n| {
            if n.input.len() <= at.slot {
                n.input.resize(at.slot + 1, String::new());
            }
            n.input[at.slot] = value.to_owned();
        })
    }

    /// Lets every node that reads `old` read `new`. Captures and graph outputs stay as they are.
    pub fn redirect(&mut self, old: &str, new: &str) -> Result<()> {
        if old == new {
            return Ok(());
        }
        // All at once: a node may read the value many times.
        for at in self.index.move_uses(old, new) {
            if let Some(node) = &mut self.nodes[at.node.0 as usize] {
                node.edit().input[at.slot] = new.to_owned();
            }
        }
        self.touch();
        Ok(())
    }

    /// Gives a value that a node makes a name like `base`, and returns it. A value that is pinned, or made by no node, keeps
    /// its name, which is returned.
    pub fn rename_value(&mut self, value: &str, base: &str) -> Result<String> {
        let Some((producer, place)) = self.producer(value).filter(|_| !self.is_pinned(value)) else {
            return Ok(value.to_owned());
        };
        let name = self.fresh_name(base);
        if let Some(info) = self.value_info(value).cloned() {
            self.add_value_info(ValueInfoProto { name: Some(name.clone()), ..info });
        }
        self.edit(producer, |n| n.output[place] = name.clone())?;
        self.redirect(value, &name)?;
        Ok(name)
    }

    /// Takes out a node that hands its value on: what read `output` now reads `input`.
    ///
    /// Where `output` is a graph output and `input` is neither pinned nor a constant, the producer of `input`
    /// takes over the name instead. Returns false, and changes nothing, where neither is possible.
    pub fn bypass(&mut self, id: NodeId, input: &str, output: &str) -> Result<bool> {
        if !self.captured_by(output).is_empty() {
            return Ok(false);
        }
        if !self.is_output(output) {
            self.redirect(output, input)?;
            self.remove(id);
            return Ok(true);
        }
        let Some((producer, place)) = self.producer(input) else { return Ok(false) };
        if self.is_pinned(input) {
            return Ok(false);
        }
        self.remove(id);
        self.edit(producer, |n| n.output[place] = output.to_owned())?;
        self.redirect(input, output)?;
        Ok(true)
    }

    /// Adds an initializer, or replaces the one of its name, dense or sparse.
    pub fn set_initializer(&mut self, tensor: TensorProto) {
        let name = tensor.name().to_owned();
        if let Some(i) = self.index.sparse.remove(&name) {
            self.sparse[i] = None;
        }
        match self.index.initializer.get(&name) {
            Some(&i) => self.initializers[i] = Some(Arc::new(Kept::new(tensor))),
            None => {
                self.index.initializer.insert(name.clone(), self.initializers.len());
                self.initializers.push(Some(Arc::new(Kept::new(tensor))));
                self.taken.take(&name);
            }
        }
        self.touch();
    }

    /// Adds an initializer under a fresh name like `base`, and says which.
    pub fn add_constant(&mut self, base: &str, value: &Tensor) -> String {
        let name = self.fresh_name(base);
        self.set_initializer(value.to_proto(&name));
        name
    }

    /// Lets one use read this constant, and says under which name: that of the initializer it reads now where nothing
    /// else reads it, else a fresh one like `base`.
    pub fn give_constant(&mut self, at: Use, base: &str, value: &Tensor) -> Result<String> {
        let present = self.node(at.node).and_then(|n| n.input_at(at.slot)).map(str::to_owned);
        if let Some(name) = present.filter(|n| self.initializer(n).is_some() && self.only_use(n) == Some(at)) {
            self.set_initializer(value.to_proto(&name));
            return Ok(name);
        }
        let name = self.add_constant(base, value);
        self.set_input(at, &name)?;
        Ok(name)
    }

    /// Adds a sparse initializer, or replaces the one of its name, dense or sparse.
    pub fn set_sparse_initializer(&mut self, tensor: SparseTensorProto) {
        let name = sparse_name(&tensor).to_owned();
        if let Some(&i) = self.index.sparse.get(&name) {
            self.sparse[i] = Some(Kept::new(tensor));
        } else {
            self.drop_initializer(&name);
            self.index.sparse.insert(name.clone(), self.sparse.len());
            self.sparse.push(Some(Kept::new(tensor)));
            self.taken.take(&name);
        }
        self.touch();
    }

    /// Removes the initializer of that name, dense or sparse.
    pub fn drop_initializer(&mut self, name: &str) {
        if let Some(i) = self.index.initializer.remove(name) {
            self.initializers[i] = None;
            self.touch();
        }
        if let Some(i) = self.index.sparse.remove(name) {
            self.sparse[i] = None;
            self.touch();
        }
    }

    /// Removes the initializers that nothing reads; graph outputs and captures count as reading.
    pub fn drop_unused_initializers(&mut self) {
        let dense = self.initializers().map(|t| t.name());
        let names = dense.chain(self.sparse_initializers().map(sparse_name));
        let unused = names.filter(|n| self.uses(n).is_empty() && !self.is_pinned(n));
        for name in unused.map(str::to_owned).collect::<Vec<_>>() {
            self.drop_initializer(&name);
        }
    }

    /// Takes the names that `gone` accepts off the graph's inputs, and says how many.
    pub fn drop_inputs(&mut self, gone: impl Fn(&Graph, &str) -> bool) -> usize {
        let dropped: HashSet<String> =
            self.rest.input.iter().map(|v| v.name()).filter(|name| gone(self, name)).map(str::to_owned).collect();
        if !dropped.is_empty() {
            self.rest.edit().input.retain(|v| !dropped.contains(v.name()));
            self.index.inputs.retain(|n| !dropped.contains(n));
            self.index.info = index_infos(&self.rest);
            self.touch();
        }
        dropped.len()
    }

    /// Removes value_info entries that name no value of this graph, or for which `stale` holds.
    pub fn prune_value_info(&mut self, stale: impl Fn(&str) -> bool) {
        let index = &self.index;
        self.rest.edit().value_info.retain(|v| {
            let known = index.producer.contains_key(v.name()) || index.is_constant(v.name());
            known && !stale(v.name())
        });
        self.index.info = index_infos(&self.rest);
        self.touch();
    }

    /// Adds what is said of a value, where nothing is said of it yet.
    pub(super) fn add_value_info(&mut self, info: ValueInfoProto) {
        if let Entry::Vacant(new) = self.index.info.entry(info.name().to_owned()) {
            new.insert(infos(&self.rest).count());
            self.rest.edit().value_info.push(info);
            self.touch();
        }
    }

    /// Changes element types in value_info: those for which `change` gives another.
    pub fn retype_value_info(&mut self, change: impl Fn(i32) -> Option<i32>) {
        for v in &mut self.rest.edit().value_info {
            if let Some(type_proto::Value::TensorType(t)) = v.r#type.as_mut().and_then(|t| t.value.as_mut())
                && let Some(dtype) = change(t.elem_type())
            {
                t.elem_type = Some(dtype);
            }
        }
        self.touch();
    }

    /// Changes the tensors that are `meant`, wherever they stand: initializers, and attributes and subgraphs of nodes.
    /// Their names must stay.
    pub(in crate::model) fn edit_tensors(
        &mut self,
        meant: &dyn Fn(&TensorProto) -> bool,
        change: &mut dyn FnMut(&mut TensorProto),
    ) {
        fn any(node: &NodeProto, meant: &dyn Fn(&TensorProto) -> bool) -> bool {
            node.attribute.iter().any(|a| a.t.iter().chain(&a.tensors).any(meant))
                || node.subgraphs().any(|g| g.initializer.iter().any(meant) || g.node.iter().any(|n| any(n, meant)))
        }
        fn visit(node: &mut NodeProto, meant: &dyn Fn(&TensorProto) -> bool, change: &mut dyn FnMut(&mut TensorProto)) {
            for attribute in &mut node.attribute {
                attribute.t.iter_mut().chain(&mut attribute.tensors).filter(|t| meant(t)).for_each(&mut *change);
                for graph in attribute.subgraphs_mut() {
                    graph.initializer.iter_mut().filter(|t| meant(t)).for_each(&mut *change);
                    graph.node.iter_mut().for_each(|n| visit(n, meant, change));
                }
            }
        }
        let initializers = self.initializers.iter_mut().flatten();
        initializers.filter(|t| meant(t)).for_each(|t| change(Arc::make_mut(t).edit()));
        for slot in self.order.iter() {
            if let Some(node) = self.nodes[slot as usize].as_mut().filter(|n| any(n, meant)) {
                visit(node.edit(), meant, change);
            }
        }
        self.touch();
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{chain, node, value};
    use super::*;
    use crate::model::{DataType, GraphProto};

    #[test]
    fn edits_keep_the_index_true() {
        let mut g = chain();
        let ids = g.node_ids();
        assert_eq!(g.uses("a").len(), 2);
        assert!(g.bypass(ids[1], "a", "b").unwrap());
        assert_eq!(g.uses("a"), [Use { node: ids[2], slot: 0 }, Use { node: ids[2], slot: 1 }]);
        let relu = g.insert(At::After(ids[0]), node("Relu", &["a"], &["c"])).unwrap();
        g.set_input(Use { node: ids[2], slot: 1 }, "c").unwrap();
        g.add_constant("w", &Tensor::from_f32(vec![1], vec![1.0]));
        g.check().unwrap();
        assert_eq!(g.producer("c"), Some((relu, 0)));
        assert!(g.insert(At::End, node("Relu", &["x"], &["c"])).is_err());
        assert!(g.edit(relu, |n| n.output[0] = "y".into()).is_err());
        g.check().unwrap();
        g.drop_unused_initializers();
        assert_eq!(g.initializers().count(), 0);
        assert_eq!(g.build_index().unwrap(), g.index);
    }

    #[test]
    fn bypass_hands_a_graph_output_to_the_producer() {
        let mut g = Graph::from_proto(GraphProto {
            node: vec![node("Relu", &["x"], &["a"]), node("Identity", &["a"], &["y"]), node("Abs", &["a"], &["z"])],
            input: vec![value("x")],
            output: vec![value("y"), value("z")],
            ..Default::default()
        })
        .unwrap();
        let ids = g.node_ids();
        assert!(g.bypass(ids[1], "a", "y").unwrap());
        g.check().unwrap();
        assert_eq!(g.producer("y"), Some((ids[0], 0)));
        assert_eq!(g.uses("y").len(), 1);
    }

    #[test]
    fn a_shared_constant_is_not_changed_under_its_other_readers() {
        let mut g = Graph::from_proto(GraphProto {
            node: vec![node("Add", &["x", "w"], &["a"]), node("Add", &["a", "w"], &["y"])],
            initializer: vec![Tensor::from_f32(vec![], vec![1.0]).to_proto("w")],
            input: vec![value("x")],
            output: vec![value("y")],
            ..Default::default()
        })
        .unwrap();
        let at = |i: usize| Use { node: g.node_ids()[i], slot: 1 };
        let (first, second) = (at(0), at(1));
        let two = Tensor::from_f32(vec![], vec![2.0]);
        assert_eq!(g.give_constant(first, "w", &two).unwrap(), "w_2");
        assert_eq!(g.constant("w").unwrap().unwrap().f32s().unwrap()[..], [1.0]);
        assert_eq!(g.give_constant(second, "w", &two).unwrap(), "w");
        assert_eq!(g.constant("w").unwrap(), Some(two));
        g.check().unwrap();
    }

    #[test]
    fn sparse_initializers_are_constants() {
        let sparse = |name: &str, x: f32| SparseTensorProto {
            values: Some(Tensor::from_f32(vec![1], vec![x]).to_proto(name)),
            indices: Some(Tensor::from_i64(vec![1], vec![1]).to_proto("")),
            dims: vec![3],
        };
        let proto = GraphProto {
            node: vec![node("Add", &["x", "s"], &["y"])],
            sparse_initializer: vec![sparse("s", 2.0), sparse("t", 3.0)],
            input: vec![value("x")],
            output: vec![value("y")],
            ..Default::default()
        };
        let mut g = Graph::from_proto(proto.clone()).unwrap();
        g.check().unwrap();
        assert_eq!(g.to_proto(), proto);
        assert_eq!(g.constant("s").unwrap().unwrap().f32s().unwrap()[..], [0.0, 2.0, 0.0]);
        assert!(g.is_constant("s") && g.initializer("s").is_none() && !g.is_constant("x"));
        assert_eq!((g.stated_dtype("s"), g.stated_rank("s")), (Some(DataType::Float), Some(1)));
        assert_eq!(g.fresh_name("s"), "s_2");
        assert!(g.insert(At::End, node("Neg", &["x"], &["s"])).is_err());
        g.drop_unused_initializers();
        assert_eq!(g.sparse_initializers().map(sparse_name).collect::<Vec<_>>(), ["s"]);
        g.set_initializer(Tensor::from_f32(vec![3], vec![1.0; 3]).to_proto("s"));
        assert_eq!((g.sparse_initializers().count(), g.initializers().count()), (0, 1));
        g.check().unwrap();
        g.set_sparse_initializer(sparse("s", 4.0));
        g.set_sparse_initializer(sparse("s", 5.0));
        assert_eq!((g.sparse_initializers().count(), g.initializers().count()), (1, 0));
        assert_eq!(g.constant("s").unwrap().unwrap().f32s().unwrap()[1], 5.0);
        g.check().unwrap();
        let twice = GraphProto { initializer: vec![Tensor::from_f32(vec![], vec![1.0]).to_proto("s")], ..proto };
        assert!(Graph::from_proto(twice).unwrap_err().to_string().contains("two initializers are named `s`"));
    }
}
