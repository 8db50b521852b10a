//! The graph: nodes in stable slots, and a private index that every edit keeps true.

mod body;
mod edit;
mod hold;
mod inline;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::file::not_onnx;
use super::index::Index;
use super::order::Order;
use super::taken::Taken;
use super::wire::{Encode, Kept, Pieces, fields};
use super::{DataType, GraphProto, NodeExt, NodeProto, SparseTensorProto, Tensor, TensorProto, ValueInfoProto};
use crate::error::{Error, ErrorKind, Result, shortened};
use crate::proto::{tensor_shape_proto::dimension, type_proto};

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
    /// Shared, so that a copy of the graph copies no tensor whose elements are in a typed field.
    initializers: Vec<Option<Arc<Kept<TensorProto>>>>,
    sparse: Vec<Option<Kept<SparseTensorProto>>>,
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
    /// A sparse initializer.
    Sparse(&'a mut Kept<SparseTensorProto>),
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
        let sparse = std::mem::take(&mut proto.sparse_initializer).into_iter().map(Kept::new).collect();
        Graph::assemble(Kept::new(proto), nodes, initializers, sparse)
    }

    /// Reads the field of a model that holds its graph: `whole` with key and length, `payload` without. `visit` sees
    /// every tensor outside of nodes and every node before they are indexed, and returns whether it changed them.
    pub(super) fn read(whole: Bytes, payload: &Bytes, visit: &mut dyn FnMut(Part<'_>) -> Result<()>) -> Result<Graph> {
        let (mut nodes, mut initializers, mut sparse, mut others) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
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
                (15, Some(at)) => {
                    let mut tensor = Kept::<SparseTensorProto>::read(payload.slice(at)).map_err(not_onnx)?;
                    visit(Part::Sparse(&mut tensor))?;
                    untouched &= tensor.as_read().is_some();
                    sparse.push(tensor);
                }
                _ => others.extend_from_slice(&payload[field.whole]),
            }
        }
        let rest = Kept::read(others.into()).map_err(not_onnx)?;
        let mut graph = Graph::assemble(rest, nodes, initializers, sparse)?;
        graph.read = untouched.then_some(whole);
        Ok(graph)
    }

    fn assemble(
        rest: Kept<GraphProto>,
        nodes: Vec<Kept<NodeProto>>,
        initializers: Vec<Kept<TensorProto>>,
        sparse: Vec<Kept<SparseTensorProto>>,
    ) -> Result<Graph> {
        let count = u32::try_from(nodes.len()).map_err(|_| invalid(format!("it has {} nodes", nodes.len())))?;
        let mut graph = Graph {
            order: Order::of(count),
            rest,
            nodes: nodes.into_iter().map(Some).collect(),
            initializers: initializers.into_iter().map(|t| Some(Arc::new(t))).collect(),
            sparse: sparse.into_iter().map(Some).collect(),
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
        proto.sparse_initializer = self.sparse_initializers().cloned().collect();
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
        self.initializers.iter().flatten().for_each(|t| inner.field(5, &**t));
        self.sparse.iter().flatten().for_each(|t| inner.field(15, t));
        pieces.nested(number, inner);
    }

    /// Notes that the graph was edited.
    fn touch(&mut self) {
        self.revision += 1;
        self.read = None;
    }

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

    /// The dense initializers of this graph, in the file's order, new ones last. Those that a body captures are not among
    /// them.
    pub fn initializers(&self) -> impl Iterator<Item = &TensorProto> {
        self.initializers.iter().flatten().map(|t| &***t)
    }

    /// The dense initializer of that name, or the constant that a body captures under it.
    pub fn initializer(&self, name: &str) -> Option<&TensorProto> {
        let own = self.index.initializer.get(name).and_then(|&i| self.initializers[i].as_deref().map(|t| &**t));
        own.or_else(|| self.around.constants.get(name))
    }

    /// The sparse initializers of this graph, in the file's order.
    pub fn sparse_initializers(&self) -> impl Iterator<Item = &SparseTensorProto> {
        self.sparse.iter().flatten().map(|t| &**t)
    }

    /// The sparse initializer of that name, or the sparse constant that a body captures under it.
    pub fn sparse_initializer(&self, name: &str) -> Option<&SparseTensorProto> {
        let own = self.index.sparse.get(name).and_then(|&i| self.sparse[i].as_deref());
        own.or_else(|| self.around.sparse.get(name))
    }

    /// Whether an initializer, dense or sparse, has that name, captured ones included.
    pub fn is_constant(&self, name: &str) -> bool {
        self.initializer(name).is_some() || self.sparse_initializer(name).is_some()
    }

    /// The dimensions of the initializer of that name, dense or sparse, captured ones included.
    pub fn constant_dims(&self, name: &str) -> Option<&[i64]> {
        let sparse = || self.sparse_initializer(name).map(|t| &t.dims[..]);
        self.initializer(name).map(|t| &t.dims[..]).or_else(sparse)
    }

    /// The value of the initializer of that name, captured ones included, dense whatever its form; `None` if there is none.
    /// Errors name the tensor.
    pub fn constant(&self, name: &str) -> Result<Option<Tensor>> {
        match self.sparse_initializer(name) {
            Some(sparse) => Tensor::from_sparse(sparse).map(Some),
            None => self.initializer(name).map(Tensor::from_proto).transpose(),
        }
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

    /// What is said of values: of inputs, of outputs, and of others.
    pub(crate) fn value_infos(&self) -> impl Iterator<Item = &ValueInfoProto> {
        infos(&self.rest)
    }

    /// What the file says of the value's type: an input, an output or a value_info entry, here or where a body captures
    /// it from.
    pub fn value_info(&self, name: &str) -> Option<&ValueInfoProto> {
        let own = self.index.info.get(name).and_then(|&i| infos(&self.rest).nth(i));
        own.or_else(|| self.around.values.get(name)?.as_ref())
    }

    /// The element type the file states for the value, or that of the initializer.
    pub fn stated_dtype(&self, name: &str) -> Option<DataType> {
        let values = self.sparse_initializer(name).and_then(|s| s.values.as_ref());
        if let Some(t) = values.or_else(|| self.initializer(name)) {
            return DataType::try_from(t.data_type()).ok();
        }
        match self.value_info(name)?.r#type.as_ref()?.value.as_ref()? {
            type_proto::Value::TensorType(t) => DataType::try_from(t.elem_type()).ok(),
            _ => None,
        }
    }

    /// How many dimensions the file states for the value, or the initializer has.
    pub fn stated_rank(&self, name: &str) -> Option<usize> {
        self.stated_dims(name).map(|dims| dims.len())
    }

    /// The dimensions the file states for the value, or those of the initializer: `None` in place of a symbol,
    /// and of what is no length.
    pub fn stated_dims(&self, name: &str) -> Option<Vec<Option<usize>>> {
        if let Some(dims) = self.constant_dims(name) {
            return Some(dims.iter().map(|&n| usize::try_from(n).ok()).collect());
        }
        let type_proto::Value::TensorType(t) = self.value_info(name)?.r#type.as_ref()?.value.as_ref()? else {
            return None;
        };
        let dims = t.shape.as_ref()?.dim.iter();
        let stated = dims.map(|d| match d.value {
            Some(dimension::Value::DimValue(n)) if n > 0 => usize::try_from(n).ok(),
            _ => None,
        });
        Some(stated.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
        NodeProto {
            op_type: Some(op.into()),
            input: inputs.iter().map(|s| s.to_string()).collect(),
            output: outputs.iter().map(|s| s.to_string()).collect(),
            ..Default::default()
        }
    }

    pub(super) fn value(name: &str) -> ValueInfoProto {
        ValueInfoProto { name: Some(name.into()), ..Default::default() }
    }

    pub(super) fn chain() -> Graph {
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
    fn broken_graphs_are_refused() {
        let twice = GraphProto { node: vec![node("A", &[], &["a"]), node("B", &[], &["a"])], ..Default::default() };
        assert!(Graph::from_proto(twice).is_err());
        let missing = GraphProto { node: vec![node("A", &["nowhere"], &["a"])], ..Default::default() };
        assert!(Graph::from_proto(missing).unwrap().check().unwrap_err().to_string().contains("`nowhere`"));
    }
}
