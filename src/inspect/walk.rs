//! A model laid out flat: every node of the graph, of its subgraphs and of its functions, with where each input
//! comes from.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::error::{ErrorKind, Place, Result, shortened};
use crate::model::{
    DataType, Model, NodeExt, NodeProto, SparseHead, SparseTensorProto, Tensor, TensorProto, data_len, is_float,
    minifloat_of, release, sizes, sparse_name,
};
use crate::proto::FunctionProto;

/// How many characters are shown of the name of a node around another.
const AROUND: usize = 80;

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// A constant: its place in [`Walk::constants`].
    Constant(usize),
    /// A node: its place in [`Walk::sites`].
    Site(usize),
    /// An input of the graph, the subgraph or the function; also what is left empty.
    Outside,
}

/// A node in its place.
pub(super) struct Site<'m> {
    /// What is around it.
    around: Around<'m>,
    /// The node.
    pub node: &'m NodeProto,
    /// Where its inputs come from, one a slot. Identity nodes are seen through.
    pub inputs: Vec<Origin>,
}

/// What is around a list of nodes.
#[derive(Debug, Clone, Copy)]
enum Around<'m> {
    Model,
    Function(&'m FunctionProto),
    /// The subgraph in this attribute of that node, by its place in [`Walk::sites`].
    Node(usize, &'m str),
}

/// An initializer, or the value of a Constant node, dense or sparse.
pub(super) struct Constant<'m> {
    /// The name of the value.
    pub name: &'m str,
    held: Held<'m>,
}

enum Held<'m> {
    Dense(Box<Cow<'m, TensorProto>>),
    Sparse(&'m SparseTensorProto),
}

/// The flat model. A node stands behind those that its inputs come from.
pub(super) struct Walk<'m> {
    /// Every node.
    pub sites: Vec<Site<'m>>,
    /// Every constant.
    pub constants: Vec<Constant<'m>>,
    readers: Vec<Vec<usize>>,
}

/// One list of nodes with the names around it.
struct Part<'m, N> {
    inputs: Vec<&'m str>,
    constants: Vec<(&'m str, Held<'m>)>,
    nodes: N,
}

fn constants<'m>(
    dense: impl Iterator<Item = &'m TensorProto>,
    sparse: impl Iterator<Item = &'m SparseTensorProto>,
) -> Vec<(&'m str, Held<'m>)> {
    let dense = dense.map(|t| (t.name(), Held::Dense(Box::new(Cow::Borrowed(t)))));
    dense.chain(sparse.map(|t| (sparse_name(t), Held::Sparse(t)))).collect()
}

/// What names mean inside one part.
struct Scope<'s, 'm> {
    outer: Option<&'s Scope<'s, 'm>>,
    origins: HashMap<&'m str, Origin>,
}

impl<'m> Walk<'m> {
    /// Lays out a model.
    pub fn of(model: &'m Model) -> Walk<'m> {
        let mut walk = Walk { sites: Vec::new(), constants: Vec::new(), readers: Vec::new() };
        let graph = &model.graph;
        let inputs = graph.inputs().iter().map(|v| v.name()).collect();
        let constants = constants(graph.initializers(), graph.sparse_initializers());
        walk.lay(None, Around::Model, Part { inputs, constants, nodes: graph.nodes().map(|(_, n)| n) });
        for function in &model.metadata().functions {
            let inputs = function.input.iter().map(String::as_str).collect();
            let part = Part { inputs, constants: Vec::new(), nodes: function.node.iter() };
            walk.lay(None, Around::Function(function), part);
        }
        walk.readers = vec![Vec::new(); walk.sites.len()];
        for (reader, site) in walk.sites.iter().enumerate() {
            for origin in &site.inputs {
                if let Origin::Site(read) = *origin {
                    walk.readers[read].push(reader);
                }
            }
        }
        walk
    }

    fn lay<N>(&mut self, outer: Option<&Scope<'_, 'm>>, around: Around<'m>, part: Part<'m, N>)
    where
        N: Iterator<Item = &'m NodeProto>,
    {
        let origins = part.inputs.into_iter().map(|name| (name, Origin::Outside)).collect();
        let mut scope = Scope { outer, origins };
        for (name, held) in part.constants {
            scope.origins.insert(name, self.constant(name, held));
        }
        for node in part.nodes {
            let inputs: Vec<Origin> = node.input.iter().map(|name| scope.origin(name)).collect();
            let value =
                constant_value(node).map(Box::new).map(Held::Dense).or_else(|| sparse_value(node).map(Held::Sparse));
            let origin = match value {
                Some(held) => self.constant(node.output_at(0).unwrap_or_default(), held),
                None if node.is("Identity") => inputs.first().copied().unwrap_or(Origin::Outside),
                None => Origin::Site(self.sites.len()),
            };
            let site = self.sites.len();
            self.sites.push(Site { around, node, inputs });
            for attribute in &node.attribute {
                for graph in attribute.g.iter().chain(&attribute.graphs) {
                    let part = Part {
                        inputs: graph.input.iter().map(|v| v.name()).collect(),
                        constants: constants(graph.initializer.iter(), graph.sparse_initializer.iter()),
                        nodes: graph.node.iter(),
                    };
                    self.lay_inside(&scope, Around::Node(site, attribute.name()), part);
                }
            }
            scope.origins.extend(node.output.iter().filter(|n| !n.is_empty()).map(|n| (n.as_str(), origin)));
        }
    }

    /// The recursion of [`Walk::lay`], with the types of a subgraph.
    fn lay_inside(
        &mut self,
        scope: &Scope<'_, 'm>,
        around: Around<'m>,
        part: Part<'m, std::slice::Iter<'m, NodeProto>>,
    ) {
        self.lay(Some(scope), around, part);
    }

    fn constant(&mut self, name: &'m str, held: Held<'m>) -> Origin {
        self.constants.push(Constant { name, held });
        Origin::Constant(self.constants.len() - 1)
    }

    /// The node's name, or its first output where it has none, behind those of the nodes around it:
    /// `If_0 > then_branch > Conv_3`. The names around it lose their middle where they are long: many nodes may stand
    /// inside one.
    pub fn path(&self, site: usize) -> String {
        let title = |node: &'m NodeProto| match node.name() {
            "" => node.output_at(0).unwrap_or_default(),
            name => name,
        };
        let mut path = title(self.sites[site].node).to_owned();
        let mut around = self.sites[site].around;
        while let Around::Node(outer, attribute) = around {
            let (name, attribute) = (title(self.sites[outer].node), shortened(attribute, AROUND));
            path = format!("{} > {attribute} > {path}", shortened(name, AROUND));
            around = self.sites[outer].around;
        }
        match around {
            Around::Function(f) => {
                format!("{}.{} > {path}", shortened(f.domain(), AROUND), shortened(f.name(), AROUND))
            }
            _ => path,
        }
    }

    /// The first node that reads an output of this one, if it is one that `wanted` accepts.
    pub fn reader(&self, site: usize, wanted: impl Fn(&NodeProto) -> bool) -> Option<usize> {
        self.readers[site].first().copied().filter(|&r| wanted(self.sites[r].node))
    }

    /// Where the input in that slot comes from.
    pub fn origin(&self, site: usize, slot: usize) -> Origin {
        self.sites[site].inputs.get(slot).copied().unwrap_or(Origin::Outside)
    }

    /// The constant in that slot.
    pub fn constant_at(&self, site: usize, slot: usize) -> Option<usize> {
        match self.origin(site, slot) {
            Origin::Constant(c) => Some(c),
            _ => None,
        }
    }

    /// The node that the input in that slot comes from, if it is one that `wanted` accepts.
    pub fn site_at(&self, site: usize, slot: usize, wanted: impl Fn(&NodeProto) -> bool) -> Option<usize> {
        match self.origin(site, slot) {
            Origin::Site(s) if wanted(self.sites[s].node) => Some(s),
            _ => None,
        }
    }
}

impl Scope<'_, '_> {
    fn origin(&self, name: &str) -> Origin {
        match (self.origins.get(name), self.outer) {
            (Some(&origin), _) => origin,
            (None, Some(outer)) => outer.origin(name),
            (None, None) => Origin::Outside,
        }
    }
}

impl Constant<'_> {
    /// The element type; undefined for numbers that stand for none.
    pub fn dtype(&self) -> DataType {
        let dtype = match &self.held {
            Held::Dense(tensor) => tensor.data_type(),
            Held::Sparse(tensor) => tensor.values.as_ref().map_or(0, |v| v.data_type()),
        };
        DataType::try_from(dtype).unwrap_or(DataType::Undefined)
    }

    /// Whether it is stored as a sparse tensor.
    pub fn is_sparse(&self) -> bool {
        matches!(self.held, Held::Sparse(_))
    }

    /// Whether the elements are floats of 16 bits or more.
    pub fn is_float(&self) -> bool {
        is_float(self.dtype())
    }

    /// Whether the elements are floats of any width.
    pub fn holds_floats(&self) -> bool {
        self.is_float() || minifloat_of(self.dtype()).is_some()
    }

    /// The dimensions. Errors, naming the tensor, when one is negative or their product is past every memory.
    pub fn shape(&self) -> Result<Vec<usize>> {
        let dims = match &self.held {
            Held::Dense(tensor) => &tensor.dims,
            Held::Sparse(tensor) => &tensor.dims,
        };
        sizes(dims).at(|| format!("tensor `{}`", self.name))
    }

    /// How many elements there are. Errors as [`Constant::shape`].
    pub fn elements(&self) -> Result<u64> {
        Ok(self.shape()?.iter().product::<usize>() as u64)
    }

    /// How many elements are stored: all, but of a sparse tensor. Errors as [`Constant::tensor`].
    pub fn stored(&self) -> Result<u64> {
        match &self.held {
            Held::Dense(_) => self.elements(),
            Held::Sparse(tensor) => Ok(SparseHead::of(tensor)?.stored as u64),
        }
    }

    /// Bytes of the elements, and of the indices of a sparse tensor, as raw data would hold them; `None` for what is
    /// valid and not supported. Errors as [`Constant::tensor`].
    pub fn bytes(&self) -> Result<Option<u64>> {
        let bytes = match &self.held {
            Held::Dense(tensor) => data_len(tensor),
            Held::Sparse(tensor) => SparseHead::of(tensor).map(|head| head.bytes),
        };
        Ok(supported(bytes)?.map(|bytes| bytes as u64))
    }

    /// The value; `None` for strings, and for sparse tensors far larger in dense form.
    ///
    /// Errors, naming the tensor, when its data do not fit its shape.
    pub fn tensor(&self) -> Result<Option<Tensor>> {
        supported(match &self.held {
            Held::Dense(tensor) => Tensor::from_proto(tensor),
            Held::Sparse(tensor) => Tensor::from_sparse(tensor),
        })
    }

    /// Says that the value was read and is not needed soon.
    pub fn release(&self) {
        if let Held::Dense(tensor) = &self.held {
            tensor.raw_data.iter().for_each(|raw| release(raw));
        }
    }

    /// The value as floats, given to `read`; `None` for other element types. Errors as [`Constant::tensor`].
    pub fn floats<T>(&self, read: impl FnOnce(&[f32]) -> T) -> Result<Option<T>> {
        match self.tensor()? {
            Some(tensor) if tensor.is_float() => {
                Ok(Some(read(&tensor.f32s().at(|| format!("tensor `{}`", self.name))?)))
            }
            _ => Ok(None),
        }
    }
}

/// What could be read; `None` for what is valid and not supported.
fn supported<T>(outcome: Result<T>) -> Result<Option<T>> {
    match outcome {
        Err(e) if e.kind() == ErrorKind::Unsupported => Ok(None),
        outcome => outcome.map(Some),
    }
}

/// The sparse tensor of a Constant node.
fn sparse_value(node: &NodeProto) -> Option<&SparseTensorProto> {
    node.attribute("sparse_value").filter(|_| node.is("Constant"))?.sparse_tensor.as_ref()
}

/// The dense tensor of a Constant node, whichever attribute holds it; `None` for other nodes and for `value_string(s)`.
fn constant_value(node: &NodeProto) -> Option<Cow<'_, TensorProto>> {
    if !node.is("Constant") {
        return None;
    }
    if let Some(tensor) = node.tensor("value") {
        return Some(Cow::Borrowed(tensor));
    }
    let floats = |dims: Vec<i64>, float_data: Vec<f32>| TensorProto {
        data_type: Some(DataType::Float as i32),
        dims,
        float_data,
        ..Default::default()
    };
    let integers = |dims: Vec<i64>, int64_data: Vec<i64>| TensorProto {
        data_type: Some(DataType::Int64 as i32),
        dims,
        int64_data,
        ..Default::default()
    };
    let proto = if let Some(x) = node.float("value_float") {
        floats(vec![], vec![x])
    } else if let Some(x) = node.floats("value_floats") {
        floats(vec![x.len() as i64], x.to_vec())
    } else if let Some(x) = node.int("value_int") {
        integers(vec![], vec![x])
    } else {
        let x = node.ints("value_ints")?;
        integers(vec![x.len() as i64], x.to_vec())
    };
    Some(Cow::Owned(proto))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{GraphProto, ModelProto, attribute};
    use crate::proto::{AttributeProto, OperatorSetIdProto};

    fn node(op: &str, name: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
        NodeProto {
            op_type: Some(op.into()),
            name: Some(name.into()),
            input: inputs.iter().map(|s| s.to_string()).collect(),
            output: outputs.iter().map(|s| s.to_string()).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn subgraphs_see_what_is_around_them_and_identities_are_seen_through() {
        let scalar = |name: &str| Tensor::from_f32(vec![], vec![1.0]).to_proto(name);
        let branch = |weight: &str| GraphProto {
            node: vec![node("Mul", "", &["a", weight], &["y"])],
            initializer: vec![scalar("inner")],
            ..Default::default()
        };
        let mut choose = node("If", "choose", &["c"], &["z"]);
        for (name, weight) in [("then_branch", "outer"), ("else_branch", "inner")] {
            let g = Some(branch(weight));
            choose.attribute.push(AttributeProto { name: Some(name.into()), g, ..Default::default() });
        }
        let mut constant = node("Constant", "", &[], &["c"]);
        constant.set(attribute::floats("value_floats", &[1.0, 2.0]));
        let graph = GraphProto {
            node: vec![node("Abs", "abs", &[], &["b"]), constant, node("Identity", "", &["b"], &["a"]), choose],
            initializer: vec![scalar("outer")],
            ..Default::default()
        };
        let opset_import = vec![OperatorSetIdProto { version: Some(17), ..Default::default() }];
        let proto = ModelProto { graph: Some(graph), opset_import, ..Default::default() };
        let model = Model::from_proto(proto).unwrap();
        let walk = Walk::of(&model);
        let paths: Vec<String> = (0..walk.sites.len()).map(|site| walk.path(site)).collect();
        assert_eq!(paths, ["abs", "c", "a", "choose", "choose > then_branch > y", "choose > else_branch > y"]);
        let weight = |site| walk.constants[walk.constant_at(site, 1).unwrap()].name;
        assert_eq!((weight(4), weight(5)), ("outer", "inner"));
        assert_eq!(walk.origin(4, 0), Origin::Site(0));
        let c = &walk.constants[walk.constant_at(3, 0).unwrap()];
        assert_eq!((c.name, c.elements().unwrap(), c.bytes().unwrap()), ("c", 2, Some(8)));
    }
}
