//! Every node of a model with what ONNX says of it, in one list.

use crate::error::shortened;
use crate::model::{GraphProto, ModelProto, NodeExt, NodeProto, domain_of, imported};
use crate::schema::{self, Version};

/// A node, in the graph or in a body.
#[derive(Debug)]
pub(super) struct Site<'m> {
    /// The node.
    pub node: &'m NodeProto,
    /// What ONNX says of its operator; `None` for operators of others, and for calls of functions.
    pub version: Option<&'static Version>,
    /// Its name behind those of the nodes around it: `If_0 > then_branch > Conv_3`.
    pub path: String,
    /// Whether it stands in a body of which it is not known what goes in and out.
    pub sealed: bool,
    /// How many nodes stand in its bodies; they follow it in the list.
    pub inside: usize,
}

impl Site<'_> {
    /// How messages name it.
    pub fn label(&self) -> String {
        format!("node `{}` ({})", shortened(&self.path, 400), shortened(&self.node.operator(), 120))
    }
}

/// The nodes of a model: each before those of its bodies.
pub(super) fn sites(model: &ModelProto) -> Vec<Site<'_>> {
    let mut found = Vec::new();
    if let Some(graph) = &model.graph {
        walk(model, graph, "", false, &mut found);
    }
    found
}

fn walk<'m>(model: &'m ModelProto, graph: &'m GraphProto, around: &str, sealed: bool, found: &mut Vec<Site<'m>>) {
    for node in &graph.node {
        let (at, path) = (found.len(), format!("{around}{}", node.title()));
        found.push(Site { node, version: version(model, node), path: path.clone(), sealed, inside: 0 });
        let sealed = sealed || !bodies_are_known(node);
        for a in &node.attribute {
            for body in a.g.iter().chain(&a.graphs) {
                walk(model, body, &format!("{path} > {} > ", a.name()), sealed, found);
            }
        }
        found[at].inside = found.len() - at - 1;
    }
}

fn version(model: &ModelProto, node: &NodeProto) -> Option<&'static Version> {
    let domain = domain_of(node.domain());
    let called = |f: &crate::proto::FunctionProto| domain_of(f.domain()) == domain && f.name() == node.op_type();
    if model.functions.iter().any(called) {
        return None;
    }
    let opset = imported(&model.opset_import, domain)?;
    schema::domain(domain)?.operator(node.op_type())?.at(opset).filter(|v| !v.deprecated)
}

/// Whether it is known what goes into the bodies of the node, and what comes out (If-1, Loop-1, Scan-9).
pub(super) fn bodies_are_known(node: &NodeProto) -> bool {
    let body = |name: &str| NodeExt::attribute(node, name).is_some_and(|a| a.g.is_some());
    if node.is("If") {
        return body("then_branch") && body("else_branch");
    }
    // The Scan of opset 8 has one input more than its body.
    let fits = |g: &GraphProto| g.input.len() == node.input.len();
    let body = || NodeExt::attribute(node, "body").and_then(|a| a.g.as_ref());
    (node.is("Loop") && body().is_some()) || (node.is("Scan") && body().is_some_and(fits))
}

/// Values of a node with known bodies that must be of one type.
#[derive(Debug, Default)]
pub(super) struct Tie<'m> {
    /// What goes in: inputs of the node, and outputs of its bodies.
    pub sources: Vec<&'m str>,
    /// What comes out of it: inputs of its bodies, and outputs of the node.
    pub sinks: Vec<&'m str>,
}

/// What goes into a node with known bodies, round in it, and comes out of it. The names of what is left out are empty.
pub(super) fn ties(node: &NodeProto) -> Vec<Tie<'_>> {
    if !bodies_are_known(node) {
        return Vec::new();
    }
    let body = |name: &str| NodeExt::attribute(node, name).and_then(|a| a.g.as_ref());
    let output = |i: usize| node.output.get(i).map(String::as_str);
    if node.is("If") {
        let branches = [body("then_branch"), body("else_branch")];
        let ends = |i: usize| branches.iter().flatten().filter_map(|g| Some(g.output.get(i)?.name())).collect();
        return (0..node.output.len())
            .map(|i| Tie { sources: ends(i), sinks: output(i).into_iter().collect() })
            .collect();
    }
    let Some(body) = body("body") else { return Vec::new() };
    // A Loop has its count and condition in front of what goes round; a Scan has what is scanned behind.
    let (first, past) = if node.is("Loop") { (2, 1) } else { (0, 0) };
    let scanned = node.int("num_scan_inputs").filter(|_| node.is("Scan")).and_then(|n| usize::try_from(n).ok());
    let states = node.input.len().saturating_sub(first + scanned.unwrap_or(0));
    let input = |i: usize| node.input.get(first + i).map(String::as_str);
    let inner = |i: usize| body.input.get(first + i).map(|v| v.name());
    let tie = |i: usize| {
        let made = body.output.get(past + i).map(|v| v.name());
        Tie {
            sources: input(i).filter(|_| i < states).into_iter().chain(made).collect(),
            sinks: inner(i).filter(|_| i < states).into_iter().chain(output(i)).collect(),
        }
    };
    let scan = |i: usize| Tie { sources: input(i).into_iter().collect(), sinks: inner(i).into_iter().collect() };
    let inputs = node.input.len().saturating_sub(first);
    (0..node.output.len().max(states)).map(tie).chain((states..inputs).map(scan)).collect()
}
