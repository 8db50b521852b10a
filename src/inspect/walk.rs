//! A model laid out flat: every node of the graph, of its subgraphs and of its functions, with where each input
//! comes from.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::error::{Error, ErrorKind, Place, Result};
use crate::model::{DataType, Model, NodeExt, NodeProto, Tensor, TensorProto, release, width};

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
    /// Its name, or its first output where it has none, behind those of the nodes around it:
    /// `If_0 > then_branch > Conv_3`.
    pub path: String,
    /// The node.
    pub node: &'m NodeProto,
    /// Where its inputs come from, one a slot. Identity nodes are seen through.
    pub inputs: Vec<Origin>,
}

/// An initializer, or the value of a Constant node.
pub(super) struct Constant<'m> {
    /// The name of the value.
    pub name: &'m str,
    proto: Cow<'m, TensorProto>,
}

/// The flat model. A node stands behind those that its inputs come from.
pub(super) struct Walk<'m> {
    /// Every node.
    pub sites: Vec<Site<'m>>,
    /// Every dense constant.
    pub constants: Vec<Constant<'m>>,
    readers: Vec<Vec<usize>>,
}

/// One list of nodes with the names around it.
struct Part<'m, N, C> {
    inputs: Vec<&'m str>,
    initializers: C,
    nodes: N,
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
        walk.lay(None, "", Part { inputs, initializers: graph.initializers(), nodes: graph.nodes().map(|(_, n)| n) });
        for function in &model.metadata().functions {
            let path = format!("{}.{} > ", function.domain(), function.name());
            let inputs = function.input.iter().map(String::as_str).collect();
            walk.lay(None, &path, Part { inputs, initializers: std::iter::empty(), nodes: function.node.iter() });
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

    fn lay<N, C>(&mut self, outer: Option<&Scope<'_, 'm>>, path: &str, part: Part<'m, N, C>)
    where
        N: Iterator<Item = &'m NodeProto>,
        C: Iterator<Item = &'m TensorProto>,
    {
        let origins = part.inputs.into_iter().map(|name| (name, Origin::Outside)).collect();
        let mut scope = Scope { outer, origins };
        for tensor in part.initializers {
            scope.origins.insert(tensor.name(), self.constant(tensor.name(), Cow::Borrowed(tensor)));
        }
        for node in part.nodes {
            let name = if node.name().is_empty() { node.output_at(0).unwrap_or_default() } else { node.name() };
            let path = format!("{path}{name}");
            let inputs: Vec<Origin> = node.input.iter().map(|name| scope.origin(name)).collect();
            let origin = match constant_value(node) {
                Some(tensor) => self.constant(node.output_at(0).unwrap_or_default(), tensor),
                None if node.is("Identity") => inputs.first().copied().unwrap_or(Origin::Outside),
                None => Origin::Site(self.sites.len()),
            };
            self.sites.push(Site { path: path.clone(), node, inputs });
            for attribute in &node.attribute {
                for graph in attribute.g.iter().chain(&attribute.graphs) {
                    let part = Part {
                        inputs: graph.input.iter().map(|v| v.name()).collect(),
                        initializers: graph.initializer.iter(),
                        nodes: graph.node.iter(),
                    };
                    self.lay_inside(&scope, &format!("{path} > {} > ", attribute.name()), part);
                }
            }
            scope.origins.extend(node.output.iter().filter(|n| !n.is_empty()).map(|n| (n.as_str(), origin)));
        }
    }

    /// The recursion of [`Walk::lay`], with the types of a subgraph.
    fn lay_inside(
        &mut self,
        scope: &Scope<'_, 'm>,
        path: &str,
        part: Part<'m, std::slice::Iter<'m, NodeProto>, std::slice::Iter<'m, TensorProto>>,
    ) {
        self.lay(Some(scope), path, part);
    }

    fn constant(&mut self, name: &'m str, proto: Cow<'m, TensorProto>) -> Origin {
        self.constants.push(Constant { name, proto });
        Origin::Constant(self.constants.len() - 1)
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
        DataType::try_from(self.proto.data_type()).unwrap_or(DataType::Undefined)
    }

    /// Whether the elements are floats of 16 bits or more.
    pub fn is_float(&self) -> bool {
        matches!(self.dtype(), DataType::Float | DataType::Float16 | DataType::Bfloat16 | DataType::Double)
    }

    /// The dimensions. Errors when one is negative or their product is past 2^63.
    pub fn shape(&self) -> Result<Vec<usize>> {
        let dims: Option<Vec<usize>> = self.proto.dims.iter().map(|&d| usize::try_from(d).ok()).collect();
        dims.filter(|d| d.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).is_some()).ok_or_else(|| {
            Error::new(ErrorKind::Malformed, format!("the shape {:?} is impossible", self.proto.dims))
                .at(format!("tensor `{}`", self.name))
        })
    }

    /// How many elements there are. Errors as [`Constant::shape`].
    pub fn elements(&self) -> Result<u64> {
        Ok(self.shape()?.iter().product::<usize>() as u64)
    }

    /// Bytes of the elements, as raw data would hold them. Errors as [`Constant::shape`].
    pub fn bytes(&self) -> Result<u64> {
        if let Some(raw) = &self.proto.raw_data {
            return Ok(raw.len() as u64);
        }
        let elements = self.elements()?;
        Ok(match (self.dtype(), width(self.dtype())) {
            (_, Some(width)) => elements.saturating_mul(width as u64),
            (DataType::String, _) => self.proto.string_data.iter().map(|s| s.len() as u64).sum(),
            (DataType::Uint2 | DataType::Int2, _) => elements.div_ceil(4),
            _ => elements.div_ceil(2),
        })
    }

    /// The value; `None` for element types that [`Tensor`] does not hold.
    ///
    /// Errors, naming the tensor, when its data do not fit its shape.
    pub fn tensor(&self) -> Result<Option<Tensor>> {
        match Tensor::from_proto(&self.proto) {
            Ok(tensor) => Ok(Some(tensor)),
            Err(e) if e.kind() == ErrorKind::Unsupported => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Says that the value was read and is not needed soon.
    pub fn release(&self) {
        self.proto.raw_data.iter().for_each(|raw| release(raw));
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

/// The tensor of a Constant node, whichever attribute holds it; `None` for other nodes, strings and sparse tensors.
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
        let paths: Vec<&str> = walk.sites.iter().map(|s| s.path.as_str()).collect();
        assert_eq!(paths, ["abs", "c", "a", "choose", "choose > then_branch > y", "choose > else_branch > y"]);
        let weight = |site| walk.constants[walk.constant_at(site, 1).unwrap()].name;
        assert_eq!((weight(4), weight(5)), ("outer", "inner"));
        assert_eq!(walk.origin(4, 0), Origin::Site(0));
        let c = &walk.constants[walk.constant_at(3, 0).unwrap()];
        assert_eq!((c.name, c.elements().unwrap(), c.bytes().unwrap()), ("c", 2, 8));
    }
}
