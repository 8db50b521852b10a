//! Nodes: their operator, and what they give it.

use std::collections::HashSet;

use super::around::{Around, id_of};
use super::graph::Scope;
use super::{Checker, Place, count, function, rules};
use crate::model::{AttributeProto, NodeExt, NodeProto, domain_of};
use crate::proto::attribute_proto::AttributeType;
use crate::schema::{self, Arity, Parameter, Version};

/// Operators of ONNX's own domain that old exporters wrote before they were taken out again
/// (onnx/checker.cc, `experimental_ops`).
const EXPERIMENTAL: [&str; 11] = [
    "ATen",
    "Affine",
    "ConstantFill",
    "Crop",
    "DynamicSlice",
    "GRUUnit",
    "GivenTensorFill",
    "ImageScaler",
    "ParametricSoftplus",
    "Scale",
    "ScaledTanh",
];

impl<'m> Checker<'m> {
    /// Checks a node and its subgraphs, and notes what is known of its outputs; returns the names its subgraphs read.
    pub(super) fn node(
        &mut self,
        node: &'m NodeProto,
        place: &Place<'_>,
        scope: &mut Scope<'_, 'm>,
        around: &Around<'_, 'm>,
    ) -> HashSet<&'m str> {
        if node.op_type().is_empty() {
            self.add(&rules::NODE, place, "the node names no operator");
        }
        if node.input.is_empty() && node.output.is_empty() {
            self.add(&rules::NODE, place, "the node has neither inputs nor outputs");
        }
        let captured = self.attributes(node, place, scope, around);
        let version = self.version(node, place, around);
        if let Some(version) = version {
            self.verify(node, version, place);
            self.subgraphs(node, version, place);
        }
        self.quantization(node, place, scope);
        self.types(node, version, place, scope);
        captured
    }

    /// What ONNX says of the node's operator; `None` where it says nothing, or nothing good.
    fn version(&mut self, node: &'m NodeProto, place: &Place<'_>, around: &Around<'_, 'm>) -> Option<&'static Version> {
        let (domain, op) = (domain_of(node.domain()), node.op_type());
        let Some(opset) = around.imports.version(domain) else {
            if self.missing.insert((around.function.map(id_of), domain)) {
                let (name, who) = (
                    if domain.is_empty() { "ai.onnx" } else { domain },
                    if around.function.is_some() { "function" } else { "model" },
                );
                let why = format!("the node is of domain `{name}`, which the {who} does not import");
                self.add(&rules::DOMAIN, place, why);
            }
            return None;
        };
        if domain != node.domain() && !std::mem::replace(&mut self.spelled_out, true) {
            self.add(&rules::SPELLING, place, "the node's domain is written `ai.onnx`, which not all tools read");
        }
        let called = self.functions.get(&function::called(node)).copied();
        if let Some(function) = called {
            self.call(node, function, place);
        }
        let known = schema::domain(domain)?;
        if op.is_empty() {
            return None;
        }
        if domain.is_empty() && EXPERIMENTAL.contains(&op) {
            self.add(&rules::EXPERIMENTAL, place, format!("`{op}` was an experiment, and is no operator of ONNX"));
            return None;
        }
        let operator = known.operator(op);
        match operator.and_then(|o| o.at(opset)) {
            Some(version) if version.deprecated => {
                let (op, since) = (node.operator(), version.since);
                let why = format!("`{op}` is deprecated since opset {since}, and {opset} is imported");
                self.add(&rules::OPERATOR, place, why);
                None
            }
            Some(version) => Some(version),
            None if called.is_some() => None,
            None => {
                let since = operator.map(|o| o.since());
                let why = match since {
                    Some(since) => format!("`{}` exists since opset {since}, and {opset} is imported", node.operator()),
                    None => format!("ONNX has no operator `{}`", node.operator()),
                };
                self.add(&rules::OPERATOR, place, why);
                None
            }
        }
    }

    /// Holds a node against its operator, as `OpSchema::Verify` of onnx/defs/schema.cc does.
    fn verify(&mut self, node: &NodeProto, version: &Version, place: &Place<'_>) {
        let op = format!("`{}` of opset {}", node.operator(), version.since);
        if let Some(why) = misfit(&version.inputs, &node.input, "input") {
            self.add(&rules::INPUTS, place, format!("{op} {why}"));
        }
        if let Some(why) = misfit(&version.outputs, &node.output, "output") {
            self.add(&rules::OUTPUTS, place, format!("{op} {why}"));
        }
        let mut seen = HashSet::new();
        for a in &node.attribute {
            seen.insert(a.name());
            let Some(expected) = version.attribute(a.name()) else {
                if !version.open && !a.name().starts_with("__") && !a.name().is_empty() {
                    self.add(&rules::ATTRIBUTE_UNKNOWN, place, format!("{op} has no attribute `{}`", a.name()));
                }
                continue;
            };
            let (name, kind) = (expected.name, name_of(expected.kind));
            let stated = a.r#type.is_some_and(|t| AttributeType::try_from(t).is_ok());
            if a.r#type() != expected.kind && (stated || self.ir < 2) {
                let found = name_of(a.r#type());
                self.add(
                    &rules::ATTRIBUTE_TYPE,
                    place,
                    format!("attribute `{name}` of {op} is {kind}, and not {found}"),
                );
            } else if stated && a.ref_attr_name().is_empty() && is_absent(a, expected.kind) {
                self.add(&rules::ATTRIBUTE, place, format!("attribute `{name}` holds no {kind}"));
            }
        }
        for a in version.attributes.iter().filter(|a| a.required && !seen.contains(a.name)) {
            self.add(&rules::ATTRIBUTE_MISSING, place, format!("{op} needs the attribute `{}`", a.name));
        }
    }

    /// Holds the subgraphs of If, Loop and Scan against the values that go through them (their texts in
    /// docs/Operators.md of ONNX).
    fn subgraphs(&mut self, node: &NodeProto, version: &Version, place: &Place<'_>) {
        let outputs = node.output.len();
        let body = |name: &str| NodeExt::attribute(node, name).and_then(|a| a.g.as_ref());
        let mut wrong = |name: &str, what: &str, found: usize, wanted: usize| {
            if found != wanted {
                let why = format!("`{name}` has {}, and needs {wanted} here", count(found, what));
                self.add(&rules::SUBGRAPH, place, why);
            }
        };
        if node.is("If") {
            for name in ["then_branch", "else_branch"] {
                let Some(g) = body(name) else { continue };
                wrong(name, "input", g.input.len(), 0);
                wrong(name, "output", g.output.len(), outputs);
            }
        } else if node.is("Loop") {
            let Some(g) = body("body") else { return };
            wrong("body", "input", g.input.len(), node.input.len().max(2));
            wrong("body", "output", g.output.len(), outputs + 1);
        } else if node.is("Scan") {
            // In opset 8 the first input is the lengths of the sequences, which do not go into the body.
            let first = usize::from(version.since < 9);
            let Some(g) = body("body") else { return };
            wrong("body", "input", g.input.len(), node.input.len().saturating_sub(first));
            wrong("body", "output", g.output.len(), outputs);
        }
    }
}

/// Why the values do not fit the parameters.
fn misfit(parameters: &[Parameter], values: &[String], what: &str) -> Option<String> {
    let (least, most) = schema::arity(parameters);
    let found = values.len();
    if found < least || most.is_some_and(|most| found > most) {
        let range = match most {
            Some(most) if most == least => count(least, what),
            Some(most) => format!("{least} to {}", count(most, what)),
            None => format!("{} or more", count(least, what)),
        };
        return Some(format!("has {range}, and the node {found}"));
    }
    let alone = parameters.iter().filter(|p| p.arity != Arity::Together).count();
    if found > alone && found < parameters.len() {
        return Some(format!("has {alone} or {}, and the node {found}", count(parameters.len(), what)));
    }
    let empty = parameters.iter().zip(values).find(|(p, v)| p.arity == Arity::One && v.is_empty());
    empty.map(|(p, _)| format!("needs its {what} `{}`, which is left empty", p.name))
}

/// Whether a message that the attribute should hold is missing. Numbers, strings and lists may be: they are zero or empty.
fn is_absent(a: &AttributeProto, kind: AttributeType) -> bool {
    match kind {
        AttributeType::Tensor => a.t.is_none(),
        AttributeType::SparseTensor => a.sparse_tensor.is_none(),
        AttributeType::Graph => a.g.is_none(),
        AttributeType::TypeProto => a.tp.is_none(),
        _ => false,
    }
}

/// A type of attributes, as messages name it: `ints`.
pub(super) fn name_of(kind: AttributeType) -> String {
    kind.as_str_name().to_lowercase()
}
