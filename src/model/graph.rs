//! The graph: nodes in stable slots, and a private index that every edit keeps true.

mod body;
mod inline;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::file::not_onnx;
use super::index::Index;
use super::names::{self, Names, sparse_names};
use super::order::Order;
use super::taken::Taken;
use super::wire::{Encode, Kept, Pieces, fields};
use super::{AttributeExt, DataType, GraphProto, NodeExt, NodeProto, Tensor, TensorProto, ValueInfoProto, captures};
use crate::error::{Error, ErrorKind, Place, Result, shortened};
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
    order: Order,
    initializers: Vec<Option<Kept<TensorProto>>>,
    /// The field of the model that it was read from, key and length included, until the first edit.
    read: Option<Bytes>,
    index: Index,
    taken: Taken,
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

/// Everything that a graph says of its values: inputs, outputs and value_info.
fn infos(rest: &GraphProto) -> impl Iterator<Item = &ValueInfoProto> {
    rest.input.iter().chain(&rest.output).chain(&rest.value_info)
}

/// Where in [`infos`] each value comes first.
fn index_infos(rest: &GraphProto) -> HashMap<String, usize> {
    let mut places = HashMap::new();
    for (i, v) in infos(rest).enumerate() {
        places.entry(v.name().to_owned()).or_insert(i);
    }
    places
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
        let count = u32::try_from(nodes.len()).map_err(|_| invalid(format!("it has {} nodes", nodes.len())))?;
        let mut graph = Graph {
            order: Order::of(count),
            rest,
            nodes: nodes.into_iter().map(Some).collect(),
            initializers: initializers.into_iter().map(Some).collect(),
            read: None,
            index: Index::default(),
            taken: Taken::default(),
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
        let nodes = self.order.iter().filter_map(|slot| self.nodes[slot as usize].as_ref());
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
        self.order.iter().filter_map(|slot| Some((NodeId(slot), self.node(NodeId(slot))?)))
    }

    /// The slots of the nodes in their order of execution, for loops that edit.
    pub fn node_ids(&self) -> Vec<NodeId> {
        self.order.iter().map(NodeId).collect()
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
            Some(node) => {
                let (path, operator) = (self.path(node), node.operator());
                format!("node `{}` ({})", shortened(&path, 400), shortened(&operator, 120))
            }
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
        let own = self.index.info.get(name).and_then(|&i| infos(&self.rest).nth(i));
        own.or_else(|| self.around.values.get(name)?.as_ref())
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

    /// Adds an initializer, or replaces the one of its name.
    pub fn set_initializer(&mut self, tensor: TensorProto) {
        let name = tensor.name().to_owned();
        match self.index.initializer.get(&name) {
            Some(&i) => self.initializers[i] = Some(Kept::new(tensor)),
            None => {
                self.index.initializer.insert(name.clone(), self.initializers.len());
                self.initializers.push(Some(Kept::new(tensor)));
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
            let known = index.producer.contains_key(v.name()) || index.initializer.contains_key(v.name());
            known && !stale(v.name())
        });
        self.index.info = index_infos(&self.rest);
        self.touch();
    }

    /// Adds what is said of a value, where nothing is said of it yet.
    fn add_value_info(&mut self, info: ValueInfoProto) {
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
        for slot in self.order.iter() {
            if let Some(node) = self.nodes[slot as usize].as_mut().filter(|n| any(n, meant)) {
                visit(node.edit(), meant, change);
            }
        }
        self.touch();
    }

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

    // ---- holding true ----

    /// Checks what must hold before a graph is run or written: every value one producer, everything that is read
    /// is there and comes first, every graph output is produced, and the index is true. In subgraphs too.
    pub fn check(&self) -> Result<()> {
        debug_assert!(self.build_index().is_ok_and(|i| i == self.index), "the index equals a rebuilt one");
        let mut around = Names::inside(None);
        for name in self.around.names() {
            around.input(name);
        }
        let initializers = self.initializers().map(|t| t.name()).chain(sparse_names(&self.rest));
        names::hold(Some(&around), &self.rest, initializers, self.nodes().map(|(_, n)| n))
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

    fn every_name(&self) -> Taken {
        fn visit(graph: &GraphProto, names: &mut Taken) {
            names.extend(graph.input.iter().chain(&graph.output).map(|v| v.name()));
            names.extend(graph.initializer.iter().map(|t| t.name()));
            names.extend(sparse_names(graph));
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
        g.order.arrange(&[2, 1, 0]);
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
