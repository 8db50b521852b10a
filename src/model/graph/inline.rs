//! The nodes of a graph in the place of the node that stood for them.

use std::collections::{HashMap, HashSet};

use super::{At, Graph, GraphProto, NodeExt, NodeId, NodeProto};
use crate::error::Result;
use crate::model::{AttributeExt, sparse_name};

/// New names for values: from what one was called to what it is called now. An input that was left out is empty.
pub type Renamed = HashMap<String, String>;

/// What came of [`Graph::inline`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Inlined {
    /// The nodes that took the place.
    pub nodes: Vec<NodeId>,
    /// The values of the body that go by another name now.
    pub renamed: Renamed,
}

impl Graph {
    /// Puts the nodes of `body` in the place of a node: what the body calls its inputs and outputs becomes what the node
    /// reads and makes, slot by slot. Names that are taken here are changed; what the body captures keeps its name.
    ///
    /// An output that no node of the body makes, or that stands for two, comes out of an Identity. Errors where values
    /// would be made twice; the graph is then of no use.
    pub fn inline(&mut self, id: NodeId, mut body: GraphProto) -> Result<Inlined> {
        let Some(node) = self.node(id).cloned() else { return Ok(Inlined::default()) };
        // The node stays as a mark of the place.
        self.edit(id, |n| (n.input, n.output, n.attribute) = Default::default())?;
        if node.subgraphs().next().is_some() && self.around.path.is_empty() {
            // Names that only the node's own bodies had are free again.
            self.taken = self.every_name();
            self.taken.extend(&node.output);
        }
        let mut renamed = Renamed::new();
        for (slot, formal) in body.input.iter().enumerate() {
            renamed.insert(formal.name().to_owned(), node.input_at(slot).unwrap_or("").to_owned());
        }
        let made: HashSet<&str> = body.node.iter().flat_map(|n| &n.output).map(String::as_str).collect();
        let mut handed_on = Vec::new();
        for (slot, formal) in body.output.iter().enumerate() {
            let Some(output) = node.output_at(slot) else { continue };
            if made.contains(formal.name()) && !renamed.contains_key(formal.name()) {
                renamed.insert(formal.name().to_owned(), output.to_owned());
            } else {
                handed_on.push((formal.name().to_owned(), output.to_owned()));
            }
        }
        self.rename_apart(&mut body, &mut renamed);
        for (inner, output) in handed_on {
            let inner = renamed.get(&inner).cloned().unwrap_or(inner);
            body.node.push(NodeProto {
                name: Some(self.fresh_name(&format!("{output}_identity"))),
                op_type: Some("Identity".to_owned()),
                input: vec![inner],
                output: vec![output],
                ..Default::default()
            });
        }
        for tensor in body.initializer {
            self.set_initializer(tensor);
        }
        for tensor in body.sparse_initializer {
            self.set_sparse_initializer(tensor);
        }
        let nodes = body.node.into_iter().map(|n| self.insert(At::Before(id), n)).collect::<Result<Vec<_>>>()?;
        self.remove(id);
        let new = body.value_info.into_iter().chain(body.output);
        let new: Vec<_> = new.filter(|v| self.producer(v.name()).is_some() && v.r#type.is_some()).collect();
        new.into_iter().for_each(|v| self.add_value_info(v));
        Ok(Inlined { nodes, renamed })
    }

    /// The values that this graph makes itself, in their order: inputs, initializers, and what its nodes produce.
    pub fn own_values(&self) -> Vec<String> {
        let inputs = self.rest.input.iter().map(|v| v.name());
        let constants = self.initializers().map(|t| t.name()).chain(self.sparse_initializers().map(sparse_name));
        let made = self.nodes().flat_map(|(_, n)| &n.output).map(String::as_str);
        let mut known = HashSet::new();
        let all = inputs.chain(constants).chain(made).filter(|n| !n.is_empty() && known.insert(*n));
        all.map(str::to_owned).collect()
    }

    /// Gives values of this graph other names, wherever they are made and read, in subgraphs too. The new names must be
    /// fresh ones, and the old ones not those of inputs and outputs of a model.
    pub fn rename(&mut self, renamed: &Renamed) -> Result<()> {
        let mut proto = self.to_proto();
        rename(&mut proto, renamed, &mut str::to_owned);
        let fresh = Graph::from_proto(proto)?;
        let (taken, around) = (std::mem::take(&mut self.taken), std::mem::take(&mut self.around));
        *self = Graph { taken, around, revision: self.revision + 1, ..fresh };
        Ok(())
    }

    /// Gives values and nodes of `body`, and of what is inside it, fresh names where theirs are taken here, unless
    /// `renamed` has a name for them; afterwards all of its names are taken.
    fn rename_apart(&mut self, body: &mut GraphProto, renamed: &mut Renamed) {
        let (values, nodes) = defined(body);
        let (free, clash): (Vec<_>, Vec<_>) =
            values.into_iter().filter(|v| !renamed.contains_key(v)).partition(|v| !self.taken.has(v));
        let taken_nodes: HashSet<String> = nodes.iter().filter(|n| self.taken.has(n)).cloned().collect();
        self.taken.extend(free);
        self.taken.extend(nodes);
        for name in clash {
            let fresh = self.fresh_name(&name);
            renamed.insert(name, fresh);
        }
        rename(body, renamed, &mut |name| {
            if taken_nodes.contains(name) { self.fresh_name(name) } else { name.to_owned() }
        });
    }
}

/// The values that a graph and its subgraphs make, and the names of their nodes, in their order and each once.
fn defined(graph: &GraphProto) -> (Vec<String>, Vec<String>) {
    fn visit(graph: &GraphProto, values: &mut Vec<String>, nodes: &mut Vec<String>) {
        values.extend(graph.input.iter().map(|v| v.name().to_owned()));
        values.extend(graph.initializer.iter().map(|t| t.name().to_owned()));
        values.extend(graph.sparse_initializer.iter().map(|t| sparse_name(t).to_owned()));
        for node in &graph.node {
            values.extend(node.output.iter().cloned());
            nodes.push(node.name().to_owned());
            node.subgraphs().for_each(|g| visit(g, values, nodes));
        }
    }
    let (mut values, mut nodes) = Default::default();
    visit(graph, &mut values, &mut nodes);
    for names in [&mut values, &mut nodes] {
        let mut known = HashSet::new();
        names.retain(|n| !n.is_empty() && known.insert(n.clone()));
    }
    (values, nodes)
}

/// Gives values the names that `renamed` has for them, wherever they are made, read or described, and nodes those that
/// `node_name` makes of theirs.
fn rename(graph: &mut GraphProto, renamed: &Renamed, node_name: &mut impl FnMut(&str) -> String) {
    let new = |name: &mut String| {
        if let Some(new) = renamed.get(name) {
            new.clone_into(name);
        }
    };
    let option = |name: &mut Option<String>| name.iter_mut().for_each(new);
    for value in graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info) {
        option(&mut value.name);
    }
    graph.initializer.iter_mut().for_each(|t| option(&mut t.name));
    graph.sparse_initializer.iter_mut().filter_map(|s| s.values.as_mut()).for_each(|t| option(&mut t.name));
    for node in &mut graph.node {
        if node.name().is_empty() && node.output_at(0).is_some_and(|o| renamed.contains_key(o)) {
            // Whoever named the node by its output finds it still.
            node.name = node.output_at(0).map(str::to_owned);
        }
        node.input.iter_mut().chain(&mut node.output).for_each(new);
        if !node.name().is_empty() {
            node.name = Some(node_name(node.name()));
        }
        for inner in node.attribute.iter_mut().flat_map(AttributeExt::subgraphs_mut) {
            rename(inner, renamed, node_name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AttributeProto, Tensor, ValueInfoProto};

    fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
        NodeProto {
            name: Some(op.to_lowercase()),
            op_type: Some(op.into()),
            input: inputs.iter().map(|s| s.to_string()).collect(),
            output: outputs.iter().map(|s| s.to_string()).collect(),
            ..Default::default()
        }
    }

    fn graph(inputs: &[&str], nodes: Vec<NodeProto>, outputs: &[&str]) -> GraphProto {
        let values = |names: &[&str]| {
            names.iter().map(|n| ValueInfoProto { name: Some(n.to_string()), ..Default::default() }).collect()
        };
        GraphProto { node: nodes, input: values(inputs), output: values(outputs), ..Default::default() }
    }

    fn lines(g: &Graph) -> Vec<String> {
        let line =
            |n: &NodeProto| format!("{}: {} = {}({})", n.name(), n.output.join(" "), n.op_type(), n.input.join(" "));
        g.nodes().map(|(_, n)| line(n)).collect()
    }

    fn place(g: &Graph, op: &str) -> NodeId {
        g.nodes().find(|(_, n)| n.is(op)).unwrap().0
    }

    #[test]
    fn slots_become_names_and_taken_names_change() {
        let outer =
            vec![node("Neg", &["x"], &["t"]), node("Call", &["t", ""], &["y", "z", "x2"]), node("Abs", &["y"], &["w"])];
        let mut g = Graph::from_proto(graph(&["x"], outer, &["w", "z", "x2"])).unwrap();
        let mut body = graph(
            &["a", "b"],
            vec![node("Neg", &["a", "b", "k"], &["t"]), node("Exp", &["t"], &["w"])],
            &["w", "w", "a"],
        );
        body.initializer = vec![Tensor::from_f32(vec![], vec![1.0]).to_proto("k")];
        let call = place(&g, "Call");
        let inlined = g.inline(call, body).unwrap();
        g.check().unwrap();
        assert_eq!(
            lines(&g),
            [
                "neg: t = Neg(x)",
                "neg_2: t_2 = Neg(t  k)",
                "exp: y = Exp(t_2)",
                "z_identity: z = Identity(y)",
                "x2_identity: x2 = Identity(t)",
                "abs: w = Abs(y)",
            ]
        );
        assert_eq!((inlined.nodes.len(), &inlined.renamed["t"][..], &inlined.renamed["w"][..]), (4, "t_2", "y"));
        assert_eq!(g.build_index().unwrap(), g.index);
    }

    #[test]
    fn a_branch_keeps_the_names_that_only_it_has() {
        let inner = |op: &str| graph(&[], vec![node(op, &["h"], &["i"])], &["i"]);
        let holds = |name: &str, g| AttributeProto { name: Some(name.into()), g: Some(g), ..Default::default() };
        let mut deep = node("If", &["c"], &["o"]);
        deep.attribute = vec![holds("then_branch", inner("Neg")), holds("else_branch", inner("Abs"))];
        let branch = |op: &str| graph(&[], vec![node(op, &["x"], &["h"]), deep.clone()], &["o"]);
        let mut choice = node("If", &["c"], &["y"]);
        choice.attribute = vec![holds("then_branch", branch("Exp")), holds("else_branch", branch("Log"))];
        let mut g = Graph::from_proto(graph(&["x", "c"], vec![choice], &["y"])).unwrap();
        for name in ["else_branch", "then_branch"] {
            let id = place(&g, "If");
            let body = NodeExt::attribute(g.node(id).unwrap(), name).unwrap().g.clone().unwrap();
            let inlined = g.inline(id, body).unwrap();
            assert!(inlined.renamed.values().all(|n| n == "y"), "{:?}", inlined.renamed);
            g.check().unwrap();
        }
        assert_eq!(lines(&g), ["log: h = Log(x)", "neg: y = Neg(h)"]);
    }

    #[test]
    fn renaming_reaches_subgraphs() {
        let inner = graph(&[], vec![node("Neg", &["t"], &["i"])], &["i"]);
        let mut choice = node("If", &["c"], &["y"]);
        choice.attribute =
            vec![AttributeProto { name: Some("then_branch".into()), g: Some(inner), ..Default::default() }];
        let mut g = Graph::from_proto(graph(&["x", "c"], vec![node("Neg", &["x"], &["t"]), choice], &["y"])).unwrap();
        g.rename(&[("t".to_owned(), "fresh".to_owned())].into()).unwrap();
        g.check().unwrap();
        assert_eq!(g.captured_by("fresh").len(), 1);
        assert_eq!(g.own_values(), ["x", "c", "fresh", "y"]);
    }
}
