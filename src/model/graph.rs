//! The graph: nodes in stable slots, and a private index that every edit keeps true.

mod body;
mod inline;

use std::collections::HashSet;

use bytes::Bytes;

use super::file::not_onnx;
use super::index::Index;
use super::names::{self, Names, sparse_names};
use super::wire::{Encode, Kept, Pieces, fields};
use super::{AttributeExt, DataType, GraphProto, NodeExt, NodeProto, Tensor, TensorProto, ValueInfoProto, captures};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::proto::type_proto;

use body::Around;
pub use body::{BodyId, first_value};
pub use inline::{Inlined, Renamed};

/// A node's slot; stays valid while other nodes come and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u32);

/// One place where a value is read: an input slot of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Use {
    /// The node that reads.
    pub node: NodeId,
    /// Which of its inputs.
    pub slot: usize,
}

/// Where a node is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// Before every other node.
    Start,
    /// Right before that node.
    Before(NodeId),
    /// Right after that node.
    After(NodeId),
    /// After every other node.
    End,
}

/// A graph of ONNX nodes: that of a model, or the body of a node, lent out by [`Graph::edit_body`]. Values are their
/// names.
///
/// There is no way to change a node or an initializer but through the methods here; each keeps the index true
/// and moves [`Graph::revision`] on.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    /// Everything but nodes and initializers.
    rest: Kept<GraphProto>,
    nodes: Vec<Option<Kept<NodeProto>>>,
    order: Vec<NodeId>,
    initializers: Vec<Option<Kept<TensorProto>>>,
    /// The field of the model that it was read from, key and length included, until the first edit.
    read: Option<Bytes>,
    index: Index,
    taken: HashSet<String>,
    revision: u64,
    /// What a body sees of the graphs around it; nothing for the graph of a model.
    around: Around,
}

/// What [`Graph::read`] shows on the way.
pub(super) enum Part<'a> {
    /// A node.
    Node(&'a mut Kept<NodeProto>),
    /// An initializer.
    Tensor(&'a mut Kept<TensorProto>),
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidModel, message)
}

impl Graph {
    /// Takes a graph message apart and indexes it.
    ///
    /// Errors when a value has two producers or an initializer stands twice.
    pub fn from_proto(mut proto: GraphProto) -> Result<Graph> {
        let nodes = std::mem::take(&mut proto.node).into_iter().map(Kept::new).collect();
        let initializers = std::mem::take(&mut proto.initializer).into_iter().map(Kept::new).collect();
        Graph::assemble(Kept::new(proto), nodes, initializers)
    }

    /// Reads the field of a model that holds its graph: `whole` with key and length, `payload` without. `visit` sees
    /// every tensor outside of nodes and every node before they are indexed, and returns whether it changed them.
    pub(super) fn read(whole: Bytes, payload: &Bytes, visit: &mut dyn FnMut(Part<'_>) -> Result<()>) -> Result<Graph> {
        let (mut nodes, mut initializers, mut others) = (Vec::new(), Vec::new(), Vec::new());
        let mut untouched = true;
        for field in fields(payload).map_err(not_onnx)? {
            match (field.number, field.payload) {
                (1, Some(at)) => {
                    let mut node = Kept::<NodeProto>::read(payload.slice(at)).map_err(not_onnx)?;
                    visit(Part::Node(&mut node))?;
                    untouched &= node.as_read().is_some();
                    nodes.push(node);
                }
                (5, Some(at)) => {
                    let mut tensor = Kept::<TensorProto>::read(payload.slice(at)).map_err(not_onnx)?;
                    visit(Part::Tensor(&mut tensor))?;
                    untouched &= tensor.as_read().is_some();
                    initializers.push(tensor);
                }
                _ => others.extend_from_slice(&payload[field.whole]),
            }
        }
        let mut graph = Graph::assemble(Kept::read(others.into()).map_err(not_onnx)?, nodes, initializers)?;
        graph.read = untouched.then_some(whole);
        Ok(graph)
    }

    fn assemble(
        rest: Kept<GraphProto>,
        nodes: Vec<Kept<NodeProto>>,
        initializers: Vec<Kept<TensorProto>>,
    ) -> Result<Graph> {
        let mut graph = Graph {
            order: (0..nodes.len() as u32).map(NodeId).collect(),
            rest,
            nodes: nodes.into_iter().map(Some).collect(),
            initializers: initializers.into_iter().map(Some).collect(),
            read: None,
            index: Index::default(),
            taken: HashSet::new(),
            revision: 0,
            around: Around::default(),
        };
        graph.index = graph.build_index()?;
        graph.taken = graph.every_name();
        Ok(graph)
    }

    /// The graph message: everything that was read, with the edits.
    pub fn to_proto(&self) -> GraphProto {
        let mut proto = GraphProto::clone(&self.rest);
        proto.node = self.nodes().map(|(_, n)| n.clone()).collect();
        proto.initializer = self.initializers().cloned().collect();
        proto
    }

    /// Adds the graph to the pieces of a model, as the field of that number. What was not edited keeps its bytes.
    pub(super) fn encode(&self, number: u32, pieces: &mut Pieces) {
        if let Some(whole) = &self.read {
            return pieces.share(whole);
        }
        let mut inner = Pieces::default();
        let nodes = self.order.iter().filter_map(|&id| self.nodes[id.0 as usize].as_ref());
        nodes.for_each(|n| inner.field(1, n));
        self.rest.encode_into(&mut inner);
        self.initializers.iter().flatten().for_each(|t| inner.field(5, t));
        pieces.nested(number, inner);
    }

    /// Notes that the graph was edited.
    fn touch(&mut self) {
        self.revision += 1;
        self.read = None;
    }

    // ---- reading ----

    /// How often the graph was edited.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The nodes in their order of execution.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = (NodeId, &NodeProto)> + Clone {
        self.order.iter().filter_map(|&id| Some((id, self.node(id)?)))
    }

    /// The slots of the nodes in their order of execution, for loops that edit.
    pub fn node_ids(&self) -> Vec<NodeId> {
        self.order.clone()
    }

    /// The node in a slot; `None` once it was removed.
    pub fn node(&self, id: NodeId) -> Option<&NodeProto> {
        self.nodes[id.0 as usize].as_deref()
    }

    /// How a message names the node.
    pub fn label(&self, id: NodeId) -> String {
        match self.node(id) {
            None => "a removed node".to_owned(),
            Some(node) if self.around.path.is_empty() => node.label(),
            Some(node) => format!("node `{}` ({})", self.path(node), node.operator()),
        }
    }

    /// The node's name, or its first output where it has none, behind the nodes around it: `If_0 > then_branch > Conv_3`.
    pub fn path(&self, node: &NodeProto) -> String {
        format!("{}{}", self.around.path, node.title())
    }

    /// The initializers of this graph, in the file's order, new ones last. Those that a body captures are not among them.
    pub fn initializers(&self) -> impl Iterator<Item = &TensorProto> {
        self.initializers.iter().flatten().map(|t| &**t)
    }

    /// The initializer of that name, or the constant that a body captures under it.
    pub fn initializer(&self, name: &str) -> Option<&TensorProto> {
        let own = self.index.initializer.get(name).and_then(|&i| self.initializers[i].as_deref());
        own.or_else(|| self.around.constants.get(name))
    }

    /// The value of the initializer of that name, captured ones included; `None` if there is none. Errors name the tensor.
    pub fn constant(&self, name: &str) -> Result<Option<Tensor>> {
        self.initializer(name).map(Tensor::from_proto).transpose()
    }

    /// The node, and which of its outputs, that produces the value.
    pub fn producer(&self, name: &str) -> Option<(NodeId, usize)> {
        self.index.producer.get(name).copied()
    }

    /// Where the value is read, in the order of slots. Subgraphs that capture it and graph outputs do not count.
    pub fn uses(&self, name: &str) -> &[Use] {
        self.index.uses.get(name).map_or(&[], Vec::as_slice)
    }

    /// The nodes whose subgraphs read the value.
    pub fn captured_by(&self, name: &str) -> &[NodeId] {
        self.index.captured.get(name).map_or(&[], Vec::as_slice)
    }

    /// The graph's inputs, as declared.
    pub fn inputs(&self) -> &[ValueInfoProto] {
        &self.rest.input
    }

    /// The graph's outputs, as declared.
    pub fn outputs(&self) -> &[ValueInfoProto] {
        &self.rest.output
    }

    /// Whether the value is an input of the graph.
    pub fn is_input(&self, name: &str) -> bool {
        self.index.inputs.contains(name)
    }

    /// Whether the value is an output of the graph.
    pub fn is_output(&self, name: &str) -> bool {
        self.index.outputs.contains(name)
    }

    /// Whether something outside the nodes of this graph holds on to the name: a graph input or output, a subgraph, or
    /// the graph that a body captures it from.
    pub fn is_pinned(&self, name: &str) -> bool {
        self.is_input(name) || self.is_output(name) || !self.captured_by(name).is_empty() || self.around.has(name)
    }

    /// The only place where the value is read: one use, and not pinned.
    pub fn only_use(&self, name: &str) -> Option<Use> {
        match self.uses(name) {
            [only] if !self.is_pinned(name) => Some(*only),
            _ => None,
        }
    }

    /// What the file says of the value's type: an input, an output or a value_info entry, here or where a body captures
    /// it from.
    pub fn value_info(&self, name: &str) -> Option<&ValueInfoProto> {
        let own = self.rest.input.iter().chain(&self.rest.output).chain(&self.rest.value_info);
        own.chain(self.around.values.values().flatten()).find(|v| v.name() == name)
    }

    /// The element type the file states for the value, or that of the initializer.
    pub fn stated_dtype(&self, name: &str) -> Option<DataType> {
        if let Some(t) = self.initializer(name) {
            return DataType::try_from(t.data_type()).ok();
        }
        match self.value_info(name)?.r#type.as_ref()?.value.as_ref()? {
            type_proto::Value::TensorType(t) => DataType::try_from(t.elem_type()).ok(),
            _ => None,
        }
    }

    /// How many dimensions the file states for the value, or the initializer has.
    pub fn stated_rank(&self, name: &str) -> Option<usize> {
        if let Some(t) = self.initializer(name) {
            return Some(t.dims.len());
        }
        match self.value_info(name)?.r#type.as_ref()?.value.as_ref()? {
            type_proto::Value::TensorType(t) => Some(t.shape.as_ref()?.dim.len()),
            _ => None,
        }
    }

    // ---- editing ----

    /// A name like `base` that no value and no node has, now or in a subgraph.
    pub fn fresh_name(&mut self, base: &str) -> String {
        let mut name = base.to_owned();
        let mut n = 1;
        while !self.taken.insert(name.clone()) {
            n += 1;
            name = format!("{base}_{n}");
        }
        name
    }

    /// Puts a node into the graph.
    ///
    /// Errors, and changes nothing, when one of its outputs has a producer already.
    pub fn insert(&mut self, at: At, node: NodeProto) -> Result<NodeId> {
        let id = NodeId(self.nodes.len() as u32);
        self.index.add_node(id, &node)?;
        let position = match at {
            At::Start => 0,
            At::End => self.order.len(),
            At::Before(other) => self.position(other),
            At::After(other) => self.position(other) + 1,
        };
        self.taken.extend(node.output.iter().cloned());
        self.taken.insert(node.name().to_owned());
        self.order.insert(position, id);
        self.nodes.push(Some(Kept::new(node)));
        self.touch();
        Ok(id)
    }

    /// Takes a node out of the graph and returns it.
    pub fn remove(&mut self, id: NodeId) -> Option<NodeProto> {
        let node = self.nodes[id.0 as usize].take()?;
        self.index.drop_node(id, &node);
        self.order.retain(|&other| other != id);
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
        self.index.drop_node(id, &old);
        let outcome = self.index.add_node(id, &new);
        if outcome.is_err() {
            self.index.add_node(id, &old)?;
        }
        self.taken.extend(new.output.iter().cloned());
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
        for at in self.uses(old).to_vec() {
            self.set_input(at, new)?;
        }
        Ok(())
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

    /// Adds an initializer, or replaces the one of its name.
    pub fn set_initializer(&mut self, tensor: TensorProto) {
        let name = tensor.name().to_owned();
        match self.index.initializer.get(&name) {
            Some(&i) => self.initializers[i] = Some(Kept::new(tensor)),
            None => {
                self.index.initializer.insert(name.clone(), self.initializers.len());
                self.initializers.push(Some(Kept::new(tensor)));
                self.taken.insert(name);
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

    /// Removes the initializer of that name.
    pub fn drop_initializer(&mut self, name: &str) {
        if let Some(i) = self.index.initializer.remove(name) {
            self.initializers[i] = None;
            self.touch();
        }
    }

    /// Removes the initializers that nothing reads; graph outputs and captures count as reading.
    pub fn drop_unused_initializers(&mut self) {
        for i in 0..self.initializers.len() {
            let Some(name) = self.initializers[i].as_ref().map(|t| t.name().to_owned()) else { continue };
            if self.uses(&name).is_empty() && !self.is_pinned(&name) {
                self.drop_initializer(&name);
            }
        }
    }

    /// Takes a name off the graph's inputs.
    pub fn drop_input(&mut self, name: &str) {
        self.rest.edit().input.retain(|v| v.name() != name);
        self.index.inputs.remove(name);
        self.touch();
    }

    /// Removes value_info entries that name no value of this graph, or for which `stale` holds.
    pub fn prune_value_info(&mut self, stale: impl Fn(&str) -> bool) {
        let index = &self.index;
        self.rest.edit().value_info.retain(|v| {
            let known = index.producer.contains_key(v.name()) || index.initializer.contains_key(v.name());
            known && !stale(v.name())
        });
        self.touch();
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
    pub(super) fn edit_tensors(
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
        self.initializers.iter_mut().flatten().filter(|t| meant(t)).for_each(|t| change(t.edit()));
        for &id in &self.order {
            if let Some(node) = self.nodes[id.0 as usize].as_mut().filter(|n| any(n, meant)) {
                visit(node.edit(), meant, change);
            }
        }
        self.touch();
    }

    /// Puts the nodes into an order in which every value is produced before it is read, close to the present one.
    ///
    /// Errors when there is a cycle.
    pub fn sort(&mut self) -> Result<()> {
        let mut ready: HashSet<NodeId> = HashSet::new();
        let mut sorted = Vec::with_capacity(self.order.len());
        // Depth first along the inputs, in the present order, keeps a sorted graph as it is.
        for &root in &self.order {
            let mut stack = vec![(root, false)];
            let mut open = HashSet::new();
            while let Some((id, done)) = stack.pop() {
                if ready.contains(&id) {
                    continue;
                }
                if done {
                    ready.insert(id);
                    sorted.push(id);
                    continue;
                }
                if !open.insert(id) {
                    return Err(invalid("the graph has a cycle".into()).at(self.label(id)));
                }
                stack.push((id, true));
                let Some(node) = self.node(id) else { continue };
                for name in node.input.iter().map(String::as_str).chain(captures(node)).rev() {
                    if let Some((producer, _)) = self.producer(name).filter(|(p, _)| !ready.contains(p)) {
                        if open.contains(&producer) && stack.contains(&(producer, true)) {
                            return Err(invalid("the graph has a cycle".into()).at(self.label(producer)));
                        }
                        open.remove(&producer);
                        stack.push((producer, false));
                    }
                }
            }
        }
        if sorted != self.order {
            self.order = sorted;
            self.touch();
        }
        Ok(())
    }

    // ---- holding true ----

    /// Checks what must hold before a graph is run or written: every value one producer, everything that is read
    /// is there and comes first, every graph output is produced, and the index is true. In subgraphs too.
    pub fn check(&self) -> Result<()> {
        debug_assert!(self.build_index()? == self.index, "the index equals a rebuilt one");
        let mut around = Names::inside(None);
        for name in self.around.names() {
            around.input(name);
        }
        let initializers = self.initializers().map(|t| t.name()).chain(sparse_names(&self.rest));
        names::hold(Some(&around), &self.rest, initializers, self.nodes().map(|(_, n)| n))
    }

    fn position(&self, id: NodeId) -> usize {
        self.order.iter().position(|&o| o == id).unwrap_or(self.order.len().saturating_sub(1))
    }

    fn build_index(&self) -> Result<Index> {
        let mut index = Index::default();
        for (i, t) in self.initializers.iter().enumerate() {
            let Some(t) = t else { continue };
            if index.initializer.insert(t.name().to_owned(), i).is_some() {
                return Err(invalid(format!("two initializers are named `{}`", t.name())));
            }
        }
        for (id, node) in self.nodes() {
            index.add_node(id, node).at(|| node.label())?;
        }
        index.inputs = self.rest.input.iter().map(|v| v.name().to_owned()).collect();
        index.outputs = self.rest.output.iter().map(|v| v.name().to_owned()).collect();
        if let Some(name) = index.inputs.iter().find(|n| index.producer.contains_key(*n)) {
            return Err(invalid(format!("the graph input `{name}` is also produced by a node")));
        }
        Ok(index)
    }

    fn every_name(&self) -> HashSet<String> {
        fn visit(graph: &GraphProto, names: &mut HashSet<String>) {
            names.extend(graph.input.iter().chain(&graph.output).map(|v| v.name().to_owned()));
            names.extend(graph.initializer.iter().map(|t| t.name().to_owned()));
            graph.node.iter().for_each(|n| node_names(n, names));
        }
        fn node_names(node: &NodeProto, names: &mut HashSet<String>) {
            names.insert(node.name().to_owned());
            names.extend(node.input.iter().chain(&node.output).cloned());
            node.subgraphs().for_each(|g| visit(g, names));
        }
        let mut names = HashSet::new();
        visit(&self.rest, &mut names);
        names.extend(self.initializers().map(|t| t.name().to_owned()));
        names.extend(sparse_names(&self.rest).map(str::to_owned));
        self.nodes().for_each(|(_, n)| node_names(n, &mut names));
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
        NodeProto {
            op_type: Some(op.into()),
            input: inputs.iter().map(|s| s.to_string()).collect(),
            output: outputs.iter().map(|s| s.to_string()).collect(),
            ..Default::default()
        }
    }

    fn value(name: &str) -> ValueInfoProto {
        ValueInfoProto { name: Some(name.into()), ..Default::default() }
    }

    fn chain() -> Graph {
        Graph::from_proto(GraphProto {
            node: vec![
                node("Relu", &["x"], &["a"]),
                node("Identity", &["a"], &["b"]),
                node("Add", &["a", "b"], &["y"]),
            ],
            input: vec![value("x")],
            output: vec![value("y")],
            ..Default::default()
        })
        .unwrap()
    }

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
    fn captured_values_are_pinned() {
        let body = GraphProto {
            node: vec![node("Add", &["a", "inner"], &["o"])],
            initializer: vec![Tensor::from_f32(vec![], vec![1.0]).to_proto("inner")],
            output: vec![value("o")],
            ..Default::default()
        };
        let mut branch = node("If", &["x"], &["y"]);
        branch.attribute.push(crate::proto::AttributeProto { g: Some(body), ..Default::default() });
        let mut g = Graph::from_proto(GraphProto {
            node: vec![node("Relu", &["x"], &["a"]), branch],
            input: vec![value("x")],
            output: vec![value("y")],
            ..Default::default()
        })
        .unwrap();
        assert!(g.is_pinned("a") && !g.is_pinned("inner"));
        assert_eq!(g.captured_by("a"), [g.node_ids()[1]]);
        assert_eq!(g.fresh_name("inner"), "inner_2");
        assert_eq!(g.fresh_name("o"), "o_2");
    }

    #[test]
    fn sort_mends_the_order_and_finds_cycles() {
        let mut g = chain();
        let ids = g.node_ids();
        g.order.reverse();
        assert!(g.check().unwrap_err().to_string().contains("before it is produced"));
        g.sort().unwrap();
        assert_eq!(g.node_ids(), ids);
        g.edit(ids[0], |n| n.input[0] = "y".into()).unwrap();
        assert!(g.sort().unwrap_err().to_string().contains("cycle"));
    }

    #[test]
    fn broken_graphs_are_refused() {
        let twice = GraphProto { node: vec![node("A", &[], &["a"]), node("B", &[], &["a"])], ..Default::default() };
        assert!(Graph::from_proto(twice).is_err());
        let missing = GraphProto { node: vec![node("A", &["nowhere"], &["a"])], ..Default::default() };
        assert!(Graph::from_proto(missing).unwrap().check().unwrap_err().to_string().contains("`nowhere`"));
    }
}
