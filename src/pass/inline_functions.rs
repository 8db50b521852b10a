//! Calls of model-local functions become what the functions do.

use std::collections::{BTreeSet, HashMap, HashSet};

use prost::Message;

use super::raise_opset::{means_another, only_float32, raise_function, raise_graph};
use super::refusal::{Refusal, no, settle};
use super::{Context, Effect, Pass};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::model::{
    AttributeExt, AttributeProto, Graph, GraphProto, Model, NodeExt, NodeId, NodeProto, ValueInfoProto, domain_of,
    imported,
};
use crate::proto::FunctionProto;

/// The most nodes that the calls of a model may become.
const NODES: u64 = 1 << 20;

/// The most bytes that they may become, as a file holds them.
const BYTES: u64 = 1 << 30;

/// How deep subgraphs may lie in each other in what a call becomes: what is deeper cannot be read back (prost).
const NESTED: usize = 24;

/// How long a chain of functions that call each other may be.
const CHAIN: usize = 256;

/// Puts the body of a model-local function in the place of every node that calls it.
///
/// - **Does**: names nodes `call/node` and gives values fresh names where theirs are taken; writes the attributes of the
///   call, or the function's defaults, where the body refers to them, and leaves out those that neither has; raises the
///   body to the opset of the model, or the model to that of the newest function it calls; imports the operator sets of
///   other domains that the body needs. In subgraphs and for functions that call functions too. Functions that nothing
///   calls any more go.
/// - **Skips when** the function calls itself, or nests too deep; it needs another version of a domain's operator set
///   than the model imports; it cannot be raised to the model's opset, or the model to its. It then stays as it is.
/// - **Before**: `y = my.F(x) k=2`, where `my.F(a) => b` is `b = Softmax(a) axis=@k`.
///   **After**: `y = Softmax(x) axis=2`, named `y/b`.
/// - **Source**: docs/IR.md of ONNX, "Functions". Errors where a body reads what nothing produces, and where the calls
///   would become more than 2^20 nodes or 1 GiB.
#[derive(Debug, Clone, Copy)]
pub struct InlineFunctions;

impl Pass for InlineFunctions {
    fn name(&self) -> &'static str {
        "inline-functions"
    }

    fn effect(&self) -> Effect {
        Effect::Same
    }

    fn run(&self, model: &mut Model, cx: &mut Context<'_>) -> Result<()> {
        if model.metadata().functions.is_empty() {
            return Ok(());
        }
        let mut library = Library::of(model);
        let called = library.called_by(model);
        library.check_growth(model)?;
        library.bring_up(model, &called);
        self.inline(model, &mut library, cx)?;
        let called = library.called_by(model);
        model.retain_functions(|f| called.contains(&Key::of_function(f)));
        Ok(())
    }
}

impl InlineFunctions {
    /// Inlines the calls in a graph and in its bodies.
    fn inline(&self, model: &mut Model, library: &mut Library, cx: &mut Context<'_>) -> Result<()> {
        loop {
            let calls = model.graph.nodes().filter(|(_, n)| library.inlinable(n).is_some());
            let calls: Vec<NodeId> = calls.map(|(id, _)| id).collect();
            if calls.is_empty() {
                break;
            }
            for id in calls {
                match library.put(model, id) {
                    Err(Refusal::Skip(reason)) => library.refuse(&model.graph, id, reason),
                    outcome => settle(outcome, self, model, id, cx)?,
                }
            }
        }
        for id in model.graph.node_ids() {
            if let Some(reason) = model.graph.node(id).and_then(|n| library.refused.get(&Key::of_call(n))) {
                cx.skip(self, model, id, reason);
            }
        }
        for id in model.graph.bodies() {
            model.edit_body(id, |inner| self.inline(inner, library, cx))?;
        }
        Ok(())
    }
}

/// What tells functions apart: domain, name and overload.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key(String, String, String);

impl Key {
    fn of_call(n: &NodeProto) -> Key {
        Key(domain_of(n.domain()).to_owned(), n.op_type().to_owned(), n.overload().to_owned())
    }

    fn of_function(f: &FunctionProto) -> Key {
        Key(domain_of(f.domain()).to_owned(), f.name().to_owned(), f.overload().to_owned())
    }
}

/// What a list of nodes becomes once nothing in it is a call any more.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    nodes: u64,
    bytes: u64,
    nested: usize,
    chain: usize,
}

/// The functions of a model.
struct Library {
    functions: HashMap<Key, FunctionProto>,
    costs: HashMap<Key, Cost>,
    /// Those that stay, and why.
    refused: HashMap<Key, String>,
    /// Whether the model speaks of no other float type.
    only_float32: bool,
}

impl Library {
    fn of(model: &Model) -> Library {
        let functions = model.metadata().functions.iter().map(|f| (Key::of_function(f), f.clone())).collect();
        let (costs, refused) = Default::default();
        let mut library = Library { functions, costs, refused, only_float32: only_float32(model) };
        library.measure();
        for (key, function) in &library.functions {
            let Some(cost) = library.costs.get(key) else {
                library.refused.insert(key.clone(), "its function calls itself".to_owned());
                continue;
            };
            if cost.nested > NESTED || cost.chain > CHAIN {
                library.refused.insert(key.clone(), "its function nests too deep".to_owned());
            } else if let Some(reason) = library.conflict(function, model) {
                library.refused.insert(key.clone(), reason);
            }
        }
        library
    }

    /// The function that a node calls, unless that stays.
    fn inlinable(&self, node: &NodeProto) -> Option<&FunctionProto> {
        let key = Key::of_call(node);
        self.functions.get(&key).filter(|_| !self.refused.contains_key(&key))
    }

    fn refuse(&mut self, graph: &Graph, id: NodeId, reason: String) {
        if let Some(node) = graph.node(id) {
            self.refused.insert(Key::of_call(node), reason);
        }
    }

    /// Finds out what each function becomes, from those that call none upwards; those in a circle are left out.
    fn measure(&mut self) {
        let mut waiting: HashMap<Key, usize> = HashMap::new();
        let mut callers: HashMap<Key, Vec<Key>> = HashMap::new();
        for (key, function) in &self.functions {
            let mut called = HashSet::new();
            self.calls(&function.node, &mut called);
            waiting.insert(key.clone(), called.len());
            for callee in called {
                callers.entry(callee).or_default().push(key.clone());
            }
        }
        let mut ready: Vec<Key> = waiting.iter().filter(|(_, n)| **n == 0).map(|(k, _)| k.clone()).collect();
        while let Some(key) = ready.pop() {
            let cost = self.functions.get(&key).map(|f| self.cost(&f.node)).unwrap_or_default();
            for caller in callers.get(&key).into_iter().flatten() {
                if let Some(n) = waiting.get_mut(caller) {
                    *n -= 1;
                    if *n == 0 {
                        ready.push(caller.clone());
                    }
                }
            }
            self.costs.insert(key, cost);
        }
    }

    /// Adds the functions that the nodes call, in subgraphs too.
    fn calls(&self, nodes: &[NodeProto], called: &mut HashSet<Key>) {
        for node in nodes {
            let key = Key::of_call(node);
            if self.functions.contains_key(&key) {
                called.insert(key);
            }
            node.subgraphs().for_each(|g| self.calls(&g.node, called));
        }
    }

    fn cost<'n>(&self, nodes: impl IntoIterator<Item = &'n NodeProto>) -> Cost {
        let mut sum = Cost::default();
        nodes.into_iter().for_each(|n| self.add(&mut sum, n));
        sum
    }

    fn add(&self, sum: &mut Cost, node: &NodeProto) {
        let call = self.costs.get(&Key::of_call(node)).map(|c| Cost { chain: c.chain + 1, ..*c });
        // The bytes of subgraphs are among those of the node.
        let inner = node.subgraphs().map(|g| self.cost(&g.node)).map(|c| Cost { nested: c.nested + 1, bytes: 0, ..c });
        let own = Cost { nodes: 1, bytes: node.encoded_len() as u64, nested: 0, chain: 0 };
        for part in [own].into_iter().chain(call).chain(inner) {
            sum.nodes = sum.nodes.saturating_add(part.nodes);
            sum.bytes = sum.bytes.saturating_add(part.bytes);
            sum.nested = sum.nested.max(part.nested);
            sum.chain = sum.chain.max(part.chain);
        }
    }

    /// Errors when what the model's calls become would be too large.
    fn check_growth(&self, model: &Model) -> Result<()> {
        let cost = self.cost(model.graph.nodes().map(|(_, n)| n));
        if cost.nodes > NODES || cost.bytes > BYTES {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("its functions would become {} nodes of {} bytes", cost.nodes, cost.bytes),
            )
            .hint(format!("at most {NODES} nodes and {BYTES} bytes are inlined")));
        }
        Ok(())
    }

    /// Why the function does not fit the operator sets that the model imports: engines run what it holds by those.
    fn conflict(&self, function: &FunctionProto, model: &Model) -> Option<String> {
        let mut used = BTreeSet::new();
        self.operators(&function.node, &mut used);
        used.into_iter().find_map(|(domain, op)| {
            let wanted = imported(&function.opset_import, domain)?;
            let present = model.imported(domain).filter(|&v| v != wanted)?;
            if domain.is_empty() && !means_another(op, wanted, present) {
                return None;
            }
            let set = if domain.is_empty() { "ai.onnx" } else { domain };
            Some(format!("its function needs `{op}` of version {wanted} of `{set}`, and the model imports {present}"))
        })
    }

    /// Adds domain and operator of the nodes that call no function.
    fn operators<'n>(&self, nodes: &'n [NodeProto], used: &mut BTreeSet<(&'n str, &'n str)>) {
        for node in nodes {
            if !self.functions.contains_key(&Key::of_call(node)) {
                used.insert((domain_of(node.domain()), node.op_type()));
            }
            node.subgraphs().for_each(|g| self.operators(&g.node, used));
        }
    }

    /// The functions that the model's graph calls, directly or not.
    fn called_by(&self, model: &Model) -> HashSet<Key> {
        let mut found = HashSet::new();
        for (_, node) in model.graph.nodes() {
            self.calls(std::slice::from_ref(node), &mut found);
        }
        let mut open: Vec<Key> = found.iter().cloned().collect();
        while let Some(function) = open.pop().and_then(|key| self.functions.get(&key)) {
            let mut called = HashSet::new();
            self.calls(&function.node, &mut called);
            open.extend(called.into_iter().filter(|key| found.insert(key.clone())));
        }
        found
    }

    /// Raises the model to the opset of the newest function it calls; where that cannot be, newer functions stay.
    fn bring_up(&mut self, model: &mut Model, called: &HashSet<Key>) {
        let present = model.opset();
        let own = |f: &FunctionProto| imported(&f.opset_import, "").unwrap_or(0);
        let newer: Vec<(Key, i64)> = called
            .iter()
            .filter(|key| !self.refused.contains_key(key))
            .filter_map(|key| Some((key.clone(), own(self.functions.get(key)?))))
            .filter(|(_, version)| *version > present)
            .collect();
        let Some(newest) = newer.iter().map(|(_, version)| *version).max() else { return };
        if let Err(e) = raise_graph(model, newest) {
            for (key, version) in newer {
                let why =
                    format!("its function is of opset {version}, and the model cannot be raised to {newest}: {e}");
                self.refused.insert(key, why);
            }
        }
    }

    /// Puts the function's body in the place of a call.
    fn put(&self, model: &mut Model, id: NodeId) -> Result<(), Refusal> {
        let Some(call) = model.graph.node(id).cloned() else { return Ok(()) };
        let Some(function) = self.inlinable(&call) else { return Ok(()) };
        let place = || format!("function `{}.{}`", function.domain(), function.name());
        let given = |name: &str| {
            let default = function.attribute_proto.iter().find(|a| a.name() == name);
            NodeExt::attribute(&call, name).or(default)
        };
        let mut instance = function.clone();
        instance.node.iter_mut().for_each(|n| resolve(n, &given, false));
        if let Err(e) = raise_function(&mut instance, model.opset(), self.only_float32) {
            return match e.kind() {
                ErrorKind::Unsupported => no(format!("its function cannot be raised: {e}")),
                _ => Err(Refusal::Fail(e.at(place()))),
            };
        }
        let values = |names: &[String]| {
            names.iter().map(|n| ValueInfoProto { name: Some(n.clone()), ..Default::default() }).collect()
        };
        let mut body = GraphProto {
            input: values(&instance.input),
            output: values(&instance.output),
            node: instance.node,
            value_info: instance.value_info,
            ..Default::default()
        };
        Graph::from_proto(body.clone()).and_then(|g| g.check()).at(place)?;
        for node in &mut body.node {
            node.name = Some(format!("{}/{}", call.title(), node.title()));
        }
        for import in function.opset_import.iter().filter(|o| !domain_of(o.domain()).is_empty()) {
            model.import(import.domain(), import.version());
        }
        let inlined = model.graph.inline(id, body).at(place)?;
        // Only now, since the names in subgraphs that the call hands over are not those of the function.
        for id in inlined.nodes {
            if model.graph.node(id).is_some_and(refers) {
                model.graph.edit(id, |n| resolve(n, &given, true))?;
            }
        }
        Ok(())
    }
}

/// Writes what `given` has for an attribute where the node, or one in its subgraphs, refers to that: subgraphs where
/// `graphs` is set, everything else where it is not. References to attributes that are not given go.
fn resolve<'a>(node: &mut NodeProto, given: &dyn Fn(&str) -> Option<&'a AttributeProto>, graphs: bool) {
    let resolved = std::mem::take(&mut node.attribute).into_iter().filter_map(|mut a| {
        if a.ref_attr_name().is_empty() {
            for graph in a.subgraphs_mut() {
                graph.node.iter_mut().for_each(|n| resolve(n, given, graphs));
            }
            return Some(a);
        }
        let value = given(a.ref_attr_name())?;
        let is_graph = value.g.is_some() || !value.graphs.is_empty();
        let written = || AttributeProto { name: a.name.clone(), ref_attr_name: None, ..value.clone() };
        Some(if is_graph == graphs { written() } else { a })
    });
    node.attribute = resolved.collect();
}

/// Whether the node, or one in its subgraphs, refers to an attribute of the function around it.
fn refers(node: &NodeProto) -> bool {
    node.attribute.iter().any(|a| !a.ref_attr_name().is_empty()) || node.subgraphs().any(|g| g.node.iter().any(refers))
}

#[cfg(test)]
mod tests {
    use super::super::sketch::{self, graph, lines, model, node, subgraph};
    use super::*;
    use crate::model::attribute::{float, int, ints};
    use crate::proto::OperatorSetIdProto;
    use crate::proto::attribute_proto::AttributeType;

    /// A function `my.NAME`; names are separated by spaces, imports are `domain version`.
    fn function(
        name: &str,
        inputs: &str,
        outputs: &str,
        imports: &[(&str, i64)],
        nodes: Vec<NodeProto>,
    ) -> FunctionProto {
        let names = |s: &str| s.split_whitespace().map(str::to_owned).collect();
        let import = |(domain, version): &(&str, i64)| OperatorSetIdProto {
            domain: Some((*domain).to_owned()),
            version: Some(*version),
        };
        FunctionProto {
            name: Some(name.into()),
            domain: Some("my".into()),
            input: names(inputs),
            output: names(outputs),
            opset_import: imports.iter().map(import).collect(),
            node: nodes,
            ..Default::default()
        }
    }

    fn call(op: &str, inputs: &str, outputs: &str, attributes: &[AttributeProto]) -> NodeProto {
        NodeProto { domain: Some("my".into()), ..node(op, inputs, outputs, attributes) }
    }

    /// An attribute that stands for one of the function.
    fn refers_to(name: &str, to: &str, kind: AttributeType) -> AttributeProto {
        let (name, r#type) = (Some(name.into()), Some(kind as i32));
        AttributeProto { name, r#type, ref_attr_name: Some(to.into()), ..Default::default() }
    }

    fn with(functions: Vec<FunctionProto>, opset: i64, inputs: &str, nodes: Vec<NodeProto>, outputs: &str) -> Model {
        let mut proto = model(opset, graph(inputs, nodes, vec![], outputs)).to_proto();
        proto.functions = functions;
        Model::from_proto(proto).unwrap()
    }

    #[test]
    fn bodies_take_the_place_of_calls_with_the_attributes_of_the_call() {
        let leaky = NodeProto {
            name: Some("act".into()),
            ..node("LeakyRelu", "t", "b", &[refers_to("alpha", "slope", AttributeType::Float)])
        };
        let mut inner = function("Act", "a", "b", &[("", 13)], vec![node("Neg", "a", "t", &[]), leaky]);
        inner.attribute_proto = vec![float("slope", 0.5)];
        let outer = function(
            "Block",
            "a scale",
            "b",
            &[("", 13), ("my", 1)],
            vec![
                call("Act", "a", "t", &[refers_to("slope", "k", AttributeType::Float)]),
                call("Act", "t", "u", &[]),
                node("Clip", "u scale", "b", &[]),
            ],
        );
        let nodes = vec![call("Block", "x", "t", &[float("k", 2.0)]), call("Block", "t x", "y", &[])];
        let mut m = with(vec![inner, outer], 13, "x", nodes, "y");
        assert_eq!(sketch::run(&InlineFunctions, &mut m).unwrap(), (6, vec![]));
        assert_eq!(
            lines(&m.graph.to_proto()),
            [
                "t_4 = Neg(x)",
                "t_2 = LeakyRelu(t_4) alpha=2",
                "t_5 = Neg(t_2)",
                "u = LeakyRelu(t_5) alpha=0.5",
                "t = Clip(u, )",
                "t_6 = Neg(t)",
                "t_3 = LeakyRelu(t_6) alpha=0.5",
                "t_7 = Neg(t_3)",
                "u_2 = LeakyRelu(t_7) alpha=0.5",
                "y = Clip(u_2, x)",
            ]
        );
        let names: Vec<_> = m.graph.nodes().map(|(_, n)| n.name().to_owned()).collect();
        assert_eq!(&names[..2], ["t/t/t", "t/t/act"]);
        assert!(m.metadata().functions.is_empty());
    }

    #[test]
    fn attributes_that_nobody_gives_are_left_out_and_overloads_are_told_apart() {
        let f = |overload: &str, op: &str| FunctionProto {
            overload: Some(overload.into()),
            ..function(
                "F",
                "a",
                "b",
                &[("", 13)],
                vec![node(op, "a", "b", &[refers_to("axis", "dim", AttributeType::Int)])],
            )
        };
        let of = |overload: &str, inputs: &str, output: &str, attributes: &[AttributeProto]| NodeProto {
            overload: Some(overload.into()),
            ..call("F", inputs, output, attributes)
        };
        let nodes = vec![of("", "x", "t", &[int("dim", 1)]), of("log", "t", "y", &[]), of("none", "x", "z", &[])];
        let mut m = with(vec![f("", "Softmax"), f("log", "LogSoftmax"), f("unused", "Neg")], 13, "x", nodes, "y z");
        assert_eq!(sketch::run(&InlineFunctions, &mut m).unwrap(), (2, vec![]));
        assert_eq!(lines(&m.graph.to_proto()), ["t = Softmax(x) axis=1", "y = LogSoftmax(t)", "z = my.F(x)"]);
        assert_eq!(m.functions().count(), 0);
    }

    #[test]
    fn calls_in_subgraphs_and_subgraphs_of_calls_keep_their_values_apart() {
        // The body that the call hands over reads the caller's `a`, which is not the function's.
        let choose = node(
            "If",
            "c",
            "b",
            &[
                subgraph("then_branch", graph("", vec![node("Neg", "a", "t", &[])], vec![], "t")),
                refers_to("else_branch", "other", AttributeType::Graph),
            ],
        );
        let f = function("F", "c a", "b", &[("", 13)], vec![choose]);
        let handed = subgraph("other", graph("", vec![node("Abs", "a", "t", &[])], vec![], "t"));
        let branch = graph("", vec![call("F", "c x", "r", &[handed])], vec![], "r");
        let nodes = vec![
            node("Exp", "x", "a", &[]),
            node("If", "c", "y", &[subgraph("then_branch", branch.clone()), subgraph("else_branch", branch)]),
        ];
        let mut m = with(vec![f], 13, "x c", nodes, "y");
        assert_eq!(sketch::run(&InlineFunctions, &mut m).unwrap(), (2, vec![]));
        m.graph.check().unwrap();
        for id in m.graph.bodies() {
            let body = m.graph.body(id).unwrap();
            let inner: Vec<_> = body.bodies().iter().map(|&b| lines(body.body_proto(b).unwrap())[0].clone()).collect();
            assert!(inner[0].ends_with("Neg(x)") && inner[1].ends_with("Abs(a)"), "{inner:?}");
        }
    }

    #[test]
    fn a_body_is_raised_to_the_model_and_the_model_to_the_newest_function() {
        let old = function(
            "Old",
            "a",
            "b",
            &[("", 12)],
            vec![node("Squeeze", "a", "b", &[refers_to("axes", "at", AttributeType::Ints)])],
        );
        let new = function("New", "a", "b", &[("", 13)], vec![node("Neg", "a", "b", &[])]);
        let nodes = vec![
            call("Old", "x", "t", &[ints("at", &[0])]),
            node("Squeeze", "t", "u", &[ints("axes", &[1])]),
            call("New", "u", "y", &[]),
        ];
        let mut m = with(vec![old, new], 11, "x", nodes, "y");
        assert_eq!(sketch::run(&InlineFunctions, &mut m).unwrap(), (2, vec![]));
        assert_eq!(m.opset(), 13);
        let got = lines(&m.graph.to_proto());
        assert!(got.contains(&"u = Squeeze(t, [1])".to_owned()), "{got:?}");
        assert!(got.iter().any(|l| l.starts_with("t = Squeeze(x, ") && l.contains("_axes")), "{got:?}");
    }

    #[test]
    fn a_function_whose_operator_is_another_in_the_model_stays() {
        let old = function("Old", "a", "b", &[("", 11)], vec![node("Softmax", "a", "b", &[])]);
        let mut m = with(vec![old], 17, "x", vec![call("Old", "x", "y", &[])], "y");
        let (changed, skipped) = sketch::run(&InlineFunctions, &mut m).unwrap();
        let reason = "its function needs `Softmax` of version 11 of `ai.onnx`, and the model imports 17";
        assert_eq!((changed, skipped[0].reason.as_str()), (0, reason));
    }

    #[test]
    fn what_cannot_be_inlined_stays_and_says_why() {
        let circle = |name: &str, other: &str| function(name, "a", "b", &[("", 13)], vec![call(other, "a", "b", &[])]);
        let contrib = NodeProto { domain: Some("their".into()), ..node("G", "a", "b", &[]) };
        let theirs = function("Theirs", "a", "b", &[("their", 2)], vec![contrib]);
        let newer = function("Newer", "a", "b", &[("", 99)], vec![node("Neg", "a", "b", &[])]);
        let nodes = vec![
            call("One", "x", "a", &[]),
            call("Theirs", "a", "b", &[]),
            call("Newer", "b", "c", &[]),
            node("Neg", "c", "y", &[]),
        ];
        let functions = vec![circle("One", "Two"), circle("Two", "One"), theirs, newer];
        let mut proto = with(functions, 13, "x", nodes, "y").to_proto();
        proto.opset_import.push(OperatorSetIdProto { domain: Some("their".into()), version: Some(1) });
        let mut m = Model::from_proto(proto).unwrap();
        let before = m.to_bytes().unwrap();
        let (changed, skipped) = sketch::run(&InlineFunctions, &mut m).unwrap();
        let reasons: Vec<_> = skipped.iter().map(|s| s.reason.as_str()).collect();
        assert_eq!(changed, 0);
        assert_eq!(
            reasons,
            [
                "its function calls itself",
                "its function needs `G` of version 2 of `their`, and the model imports 1",
                "its function is of opset 99, and the model cannot be raised to 99: opset 99 is not known",
            ]
        );
        assert!(m.to_bytes().unwrap() == before);
    }

    #[test]
    fn what_would_grow_past_all_bounds_is_refused() {
        let double = |i: usize| {
            let next = format!("F{}", i + 1);
            let nodes = vec![call(&next, "a", "t", &[]), call(&next, "t", "b", &[])];
            function(&format!("F{i}"), "a", "b", &[("", 13)], nodes)
        };
        let mut functions: Vec<_> = (0..60).map(double).collect();
        functions.push(function("F60", "a", "b", &[("", 13)], vec![node("Neg", "a", "b", &[])]));
        let mut m = with(functions, 13, "x", vec![call("F0", "x", "y", &[])], "y");
        let e = sketch::run(&InlineFunctions, &mut m).unwrap_err();
        assert!(e.to_string().contains("its functions would become"), "{e}");
        let chain = |i: usize| {
            let inner = graph("", vec![call(&format!("F{}", i + 1), "a", "t", &[])], vec![], "t");
            let choose =
                node("If", "a", "b", &[subgraph("then_branch", inner.clone()), subgraph("else_branch", inner)]);
            function(&format!("F{i}"), "a", "b", &[("", 13)], vec![choose])
        };
        let functions = (0..NESTED + 1).map(chain).collect();
        let mut m = with(functions, 13, "x", vec![call("F0", "x", "y", &[])], "y");
        let e = sketch::run(&InlineFunctions, &mut m).unwrap_err();
        assert!(e.to_string().contains("its functions would become"), "{e}");
    }

    #[test]
    fn a_body_that_reads_what_nothing_makes_is_named() {
        let f = function("F", "a", "b", &[("", 13)], vec![node("Add", "a x", "b", &[])]);
        let mut m = with(vec![f], 13, "x", vec![call("F", "x", "y", &[])], "y");
        let e = sketch::run(&InlineFunctions, &mut m).unwrap_err();
        assert!(
            e.to_string()
                .contains("node of `y` (my.F): function `my.F`: node of `b` (Add): reads `x`, which nothing produces"),
            "{e}"
        );
    }
}
