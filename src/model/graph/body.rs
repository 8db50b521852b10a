//! Bodies: the subgraphs of If, Loop and Scan, lent out as graphs of their own.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::super::index::captures_of;
use super::{Graph, GraphProto, NodeExt, NodeId, NodeProto, SparseTensorProto, TensorProto, ValueInfoProto};
use crate::error::{Error, ErrorKind, Place, Result, shortened};
use crate::model::{AttributeExt, AttributeProto, Tensor};

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

/// The most bodies of a node that are told apart. No operator has more than two; a node with more is left as it is, or
/// each of its bodies would be compared with every other.
const MOST: usize = 8;

/// How many characters are shown of the name of a node around another: many nodes may stand inside one.
const SHOWN: usize = 80;

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
    /// The sparse constants.
    pub sparse: BTreeMap<String, SparseTensorProto>,
    /// Those of `constants` that something else reads too.
    pub shared: BTreeSet<String>,
    /// Constants to be added to the graph that has the named one.
    pub added: Vec<(String, TensorProto)>,
    /// All other values, with what is stated of their types.
    pub values: BTreeMap<String, Option<ValueInfoProto>>,
}

impl Around {
    pub fn has(&self, name: &str) -> bool {
        self.constants.contains_key(name) || self.sparse.contains_key(name) || self.values.contains_key(name)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.constants.keys().chain(self.sparse.keys()).chain(self.values.keys()).map(String::as_str)
    }
}

impl Graph {
    /// The subgraphs of all nodes, in their order of execution, but for nodes that have more than 8 of them.
    pub fn bodies(&self) -> Vec<BodyId> {
        let graphs = |node: NodeId, n: &NodeProto| {
            let count = |(attribute, a): (usize, &AttributeProto)| {
                let graphs = usize::from(a.g.is_some()) + a.graphs.len();
                (0..graphs).map(move |place| BodyId { node, attribute, place }).collect::<Vec<_>>()
            };
            n.attribute.iter().enumerate().flat_map(count).collect::<Vec<_>>()
        };
        let few = self.nodes().filter(|(_, n)| n.subgraphs().nth(MOST).is_none());
        few.flat_map(|(id, n)| graphs(id, n)).collect()
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

    /// Adds a constant under a fresh name like `base`, and says which: to the graph that holds the constant `beside` where
    /// that is shared, else to this one.
    pub fn add_constant_beside(&mut self, beside: &str, base: &str, value: &Tensor) -> String {
        if !self.is_shared(beside) {
            return self.add_constant(base, value);
        }
        let name = self.fresh_name(base);
        let tensor = value.to_proto(&name);
        self.capture_constant(&tensor);
        self.around.added.push((beside.to_owned(), tensor));
        name
    }

    /// Lets a body read a constant of a graph around it, which it did not capture when it was lent out.
    pub fn capture_constant(&mut self, tensor: &TensorProto) {
        if self.initializer(tensor.name()).is_none() {
            self.around.constants.insert(tensor.name().to_owned(), tensor.clone());
            self.touch();
        }
    }

    /// A copy of a body, as a graph of its own.
    ///
    /// What it captures counts as known: constants can be read as if they were initializers of the body, and all names
    /// are pinned. Errors, naming the body, when it breaks the rules of [`Graph::from_proto`].
    pub fn body(&self, id: BodyId) -> Result<Graph> {
        Ok(Graph { taken: self.taken.clone(), ..self.lend(id)? })
    }

    /// As [`Graph::body`], but for the names that are taken in the model.
    fn lend(&self, id: BodyId) -> Result<Graph> {
        let gone = || Error::new(ErrorKind::InvalidModel, "a removed node has no body");
        let (node, proto) = self.node(id.node).zip(self.body_proto(id)).ok_or_else(gone)?;
        let (title, name) = (shortened(node.title(), SHOWN), shortened(self.body_name(id), SHOWN));
        let path = format!("{}{title} > {name}", self.around.path);
        let mut body = Graph::from_proto(proto.clone()).at(|| format!("`{path}`"))?;
        body.around.path = path + " > ";
        let siblings = node.subgraphs().filter(|g| !std::ptr::eq(*g, proto));
        let siblings: HashSet<&str> = siblings.flat_map(captures_of).collect();
        for name in captures_of(proto) {
            if let Some(tensor) = self.sparse_initializer(name).filter(|_| !self.is_input(name)) {
                body.around.sparse.insert(name.to_owned(), tensor.clone());
                continue;
            }
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
        let mut body = self.lend(id)?;
        // The names go along and come back: there may be many of them, and many bodies.
        body.taken = std::mem::take(&mut self.taken);
        let outcome = change(&mut body);
        self.taken = std::mem::take(&mut body.taken);
        let outcome = outcome?;
        if body.revision == 0 {
            return Ok(outcome);
        }
        let proto = body.to_proto();
        self.edit(id.node, |n| {
            let attribute = n.attribute.get_mut(id.attribute);
            if let Some(place) = attribute.and_then(|a| a.subgraphs_mut().nth(id.place)) {
                *place = proto;
            }
        })?;
        for (beside, tensor) in body.around.added {
            if self.index.initializer.contains_key(&beside) {
                self.set_initializer(tensor);
            } else {
                self.capture_constant(&tensor);
                self.around.added.push((beside, tensor));
            }
        }
        for name in body.around.constants.keys().chain(body.around.sparse.keys()) {
            if self.uses(name).is_empty() && !self.is_pinned(name) {
                self.drop_initializer(name);
            }
        }
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Use;

    fn node(op: &str, inputs: &[&str], output: &str) -> NodeProto {
        NodeProto {
            op_type: Some(op.into()),
            input: inputs.iter().map(|s| s.to_string()).collect(),
            output: vec![output.into()],
            ..Default::default()
        }
    }

    fn value(name: &str) -> ValueInfoProto {
        ValueInfoProto { name: Some(name.into()), ..Default::default() }
    }

    fn choice(name: &str, output: &str, bodies: &[(&str, GraphProto)]) -> NodeProto {
        let attribute = |(name, g): &(&str, GraphProto)| AttributeProto {
            name: Some((*name).into()),
            g: Some(g.clone()),
            ..Default::default()
        };
        let attribute = bodies.iter().map(attribute).collect();
        NodeProto { name: Some(name.into()), attribute, ..node("If", &["c"], output) }
    }

    /// `a = Neg(x)`; an If whose branches read the constant `w`, `a`, and each a constant of its own.
    fn graph() -> Graph {
        let constant = |name: &str| Tensor::from_f32(vec![1], vec![1.0]).to_proto(name);
        let inner =
            GraphProto { node: vec![node("Add", &["t", "u"], "n")], output: vec![value("n")], ..Default::default() };
        let deep = choice("deep", "o", &[("then_branch", inner)]);
        let body = |own: &str| GraphProto {
            node: vec![node("Mul", &["a", "w"], "t"), node("Add", &["t", own], "s"), deep.clone()],
            output: vec![value("o")],
            ..Default::default()
        };
        Graph::from_proto(GraphProto {
            node: vec![
                node("Neg", &["x"], "a"),
                choice("if", "y", &[("then_branch", body("u")), ("else_branch", body("v"))]),
            ],
            initializer: vec![constant("w"), constant("u"), constant("v")],
            input: vec![value("x"), value("c")],
            output: vec![value("y")],
            ..Default::default()
        })
        .unwrap()
    }

    #[test]
    fn a_body_reads_what_is_around_it_and_cannot_change_it() {
        let g = graph();
        let body = g.body(g.bodies()[0]).unwrap();
        body.check().unwrap();
        assert_eq!(body.captured_values().collect::<Vec<_>>(), ["a", "c"]);
        assert!(body.constant("w").unwrap().is_some() && body.initializers().count() == 0);
        assert!(body.is_pinned("w") && body.is_pinned("a") && !body.is_pinned("s"));
        // `w` is read by the other branch, `u` by the body inside the other one.
        assert!(body.is_shared("w") && body.is_shared("u") && !g.body(g.bodies()[1]).unwrap().is_shared("v"));
        let inner = body.body(body.bodies()[0]).unwrap();
        assert!(inner.constant("u").unwrap().is_some());
        assert_eq!(inner.captured_values().collect::<Vec<_>>(), ["t"]);
        let (id, _) = inner.producer("n").unwrap();
        assert_eq!(inner.label(id), "node `if > then_branch > deep > then_branch > n` (Add)");
    }

    #[test]
    fn sparse_constants_are_seen_from_bodies_and_move_with_them() {
        let sparse = |name: &str| SparseTensorProto {
            values: Some(Tensor::from_f32(vec![1], vec![2.0]).to_proto(name)),
            indices: Some(Tensor::from_i64(vec![1], vec![1]).to_proto("")),
            dims: vec![2],
        };
        let body = GraphProto {
            node: vec![node("Add", &["s", "t"], "o")],
            sparse_initializer: vec![sparse("t")],
            output: vec![value("o")],
            ..Default::default()
        };
        let mut g = Graph::from_proto(GraphProto {
            node: vec![choice("if", "y", &[("then_branch", body.clone()), ("else_branch", body)])],
            sparse_initializer: vec![sparse("s")],
            input: vec![value("c")],
            output: vec![value("y")],
            ..Default::default()
        })
        .unwrap();
        let id = g.bodies()[0];
        let body = g.body(id).unwrap();
        body.check().unwrap();
        assert_eq!(body.captured_values().count(), 0);
        assert!(body.is_constant("s") && body.is_pinned("s") && body.initializer("s").is_none());
        assert_eq!(body.constant("s").unwrap(), body.constant("t").unwrap());
        assert_eq!(body.sparse_initializers().count(), 1);
        let proto = g.body_proto(id).unwrap().clone();
        g.inline(id.node, proto).unwrap();
        g.check().unwrap();
        assert_eq!(g.own_values(), ["c", "s", "t", "y"]);
    }

    #[test]
    fn edits_of_a_body_come_back_and_free_what_it_captured() {
        let mut g = graph();
        let id = g.bodies()[1];
        let fresh = g
            .edit_body(id, |body| {
                let (s, _) = body.producer("s").unwrap();
                let new = Tensor::from_f32(vec![1], vec![2.0]);
                let name = body.give_constant(Use { node: s, slot: 1 }, "v", &new)?;
                assert_eq!(body.fresh_name("x"), "x_2");
                body.check()?;
                Ok(name)
            })
            .unwrap();
        g.check().unwrap();
        assert_eq!(fresh, "v_2");
        assert!(g.initializer("v").is_none() && g.initializer("w").is_some() && g.initializer("u").is_some());
        assert_eq!(g.body(id).unwrap().constant("v_2").unwrap().unwrap().f32s().unwrap()[..], [2.0]);
        assert_eq!((g.fresh_name("v_2"), g.fresh_name("x")), ("v_2_2".to_owned(), "x_3".to_owned()));
        // A value that a body deep inside reads keeps its name.
        g.edit_body(id, |body| {
            assert_eq!(body.captured_by("t").len(), 1);
            Ok(())
        })
        .unwrap();
    }

    #[test]
    fn what_is_added_beside_a_shared_constant_lies_where_that_does() {
        let mut g = graph();
        let new = Tensor::from_f32(vec![1], vec![3.0]);
        let (then, other) = (g.bodies()[0], g.bodies()[1]);
        let read = |body: &mut Graph, value: &str, name: &str| {
            let (id, _) = body.producer(value).unwrap();
            body.set_input(Use { node: id, slot: 1 }, name)
        };
        let add = |body: &mut Graph| {
            let deep = body.bodies()[0];
            // From the innermost graph, past the one around it.
            let name = body.edit_body(deep, |inner| {
                let name = inner.add_constant_beside("u", "k", &new);
                read(inner, "n", &name)?;
                inner.check()?;
                Ok(name)
            })?;
            body.check()?;
            Ok(name)
        };
        let name = g.edit_body(then, add).unwrap();
        g.check().unwrap();
        assert_eq!(g.constant(&name).unwrap().unwrap(), new);
        let tensor = g.initializer(&name).unwrap().clone();
        g.edit_body(other, |body| {
            body.capture_constant(&tensor);
            read(body, "s", &name)?;
            assert_eq!(body.add_constant_beside("v", "own", &new), "own");
            body.check()
        })
        .unwrap();
        g.check().unwrap();
        assert_eq!(g.captured_by(&name).len(), 1);
        assert!(g.initializer("own").is_none() && g.body(other).unwrap().initializer("own").is_some());
    }

    #[test]
    fn a_failed_edit_changes_nothing() {
        let mut g = graph();
        let before = g.to_proto();
        let failed = g.edit_body(g.bodies()[0], |body| {
            body.drop_inputs(|_, name| name == "x");
            body.insert(crate::model::At::End, node("Neg", &["t"], "t"))
        });
        assert!(failed.unwrap_err().to_string().contains("`t` is produced twice"));
        assert_eq!(g.to_proto(), before);
    }
}
