//! Calls of model-local functions become what the functions do.

use std::collections::{HashMap, HashSet};

use prost::Message;

use super::raise_opset::{only_float32, raise_function, raise_graph};
use super::refusal::{Refusal, no, settle};
use super::{Context, Effect, Pass};
use crate::error::{Error, ErrorKind, Place, Result};
use crate::model::{
    AttributeExt, AttributeProto, Graph, GraphProto, Model, NodeExt, NodeId, NodeProto, ValueInfoProto,
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

fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}

impl Key {
    fn of_call(n: &NodeProto) -> Key {
        Key(domain(n.domain()).to_owned(), n.op_type().to_owned(), n.overload().to_owned())
    }

    fn of_function(f: &FunctionProto) -> Key {
        Key(domain(f.domain()).to_owned(), f.name().to_owned(), f.overload().to_owned())
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
}

impl Library {
    fn of(model: &Model) -> Library {
        let functions = model.metadata().functions.iter().map(|f| (Key::of_function(f), f.clone())).collect();
        let mut library = Library { functions, costs: HashMap::new(), refused: HashMap::new() };
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

    /// Why the function does not fit the operator sets of other domains that the model imports.
    fn conflict(&self, function: &FunctionProto, model: &Model) -> Option<String> {
        let mut used = HashSet::new();
        self.domains(&function.node, &mut used);
        let foreign = function.opset_import.iter().filter(|o| !domain(o.domain()).is_empty());
        foreign.filter(|o| used.contains(o.domain())).find_map(|o| {
            let (name, wanted) = (o.domain(), o.version());
            let present = model.imported(name).filter(|&v| v != wanted)?;
            Some(format!(
                "its function needs version {wanted} of operator set `{name}`, and the model imports {present}"
            ))
        })
    }

    /// Adds the domains of the nodes that call no function.
    fn domains<'n>(&self, nodes: &'n [NodeProto], used: &mut HashSet<&'n str>) {
        for node in nodes {
            if !self.functions.contains_key(&Key::of_call(node)) {
                used.insert(node.domain());
            }
            node.subgraphs().for_each(|g| self.domains(&g.node, used));
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
        let own = |f: &FunctionProto| {
            f.opset_import.iter().find(|o| domain(o.domain()).is_empty()).map_or(0, |o| o.version())
        };
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
        if let Err(e) = raise_function(&mut instance, model.opset(), only_float32(model)) {
            return match e.kind() {
                ErrorKind::Unsupported => no(format!("its function cannot be raised: {e}")),
                _ => Err(Refusal::Fail(e.at(place()))),
            };
        }
        for node in &mut instance.node {
            node.name = Some(format!("{}/{}", call.title(), node.title()));
        }
        let values = |names: &[String]| {
            names.iter().map(|n| ValueInfoProto { name: Some(n.clone()), ..Default::default() }).collect()
        };
        let body = GraphProto {
            input: values(&instance.input),
            output: values(&instance.output),
            node: instance.node,
            value_info: instance.value_info,
            ..Default::default()
        };
        Graph::from_proto(body.clone()).and_then(|g| g.check()).at(place)?;
        for import in function.opset_import.iter().filter(|o| !domain(o.domain()).is_empty()) {
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
