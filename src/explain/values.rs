//! What becomes of values.

use std::collections::HashMap;

use serde::Serialize;

use super::{How, Scope};
use crate::inspect::Span;
use crate::integer::{IntegerOp, Output, code_type};
use crate::model::{DataType, Linear, NodeExt, NodeId, dtype_name, format_of};
use crate::plan::{Origin, ValueDecision, Verdict};

/// What becomes of a value.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ValueFact {
    /// The value.
    pub value: String,
    /// The node that makes it, as [`NodeRow`](crate::quantize::NodeRow) names it; `None` for what a graph takes.
    pub node: Option<String>,
    /// Whether it is quantized, or was: that it is codes, or a QuantizeLinear, DequantizeLinear or both stand on it.
    pub quantized: bool,
    /// In what way it is quantized.
    pub how: Option<How>,
    /// The range that its scale is made from; `None` where there is none, or it is not known yet.
    pub range: Option<Span<f32>>,
    /// Where the range comes from: `seen` in samples, `unseen` yet, `fixed` by the operator, `passed` on from
    /// another value, or `present` in the given model.
    pub origin: Option<&'static str>,
    /// The value whose range it is, where that is another one.
    pub range_of: Option<String>,
    /// Why, in words.
    pub reason: String,
    /// Where it is read.
    pub readers: Vec<Reader>,
    /// Whether the graph gives it.
    pub output: bool,
    /// The other values with its scale and zero point, because one passes them on to another.
    pub shares: Vec<String>,
}

/// A place where a value is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reader {
    /// The node, as [`NodeRow`](crate::quantize::NodeRow) names it.
    pub node: String,
    /// Its operator.
    pub operator: String,
    /// Which of its inputs; `None` where a subgraph of it reads the value.
    pub slot: Option<usize>,
    /// Whether it reads what comes out of DequantizeLinear, rather than the float value.
    pub dequantized: bool,
}

/// The values that the graph takes, those that are constants left out.
pub(super) fn inputs(scope: &Scope<'_>, found: &mut Vec<ValueFact>) {
    let graph = scope.graph;
    let inputs = graph.inputs().iter().map(|v| v.name()).filter(|name| !graph.is_constant(name));
    found.extend(inputs.map(|name| fact(scope, name)));
}

/// The values that a node makes.
pub(super) fn outputs(scope: &Scope<'_>, node: NodeId, found: &mut Vec<ValueFact>) {
    let outputs = scope.graph.node(node).into_iter().flat_map(|n| &n.output).filter(|o| !o.is_empty());
    found.extend(outputs.map(|name| fact(scope, name)));
}

fn fact(scope: &Scope<'_>, name: &str) -> ValueFact {
    let graph = scope.graph;
    let decision = scope.plan.values.get(name);
    let mut fact = ValueFact {
        value: name.to_owned(),
        node: graph.producer(name).and_then(|(id, _)| graph.node(id)).map(|n| graph.path(n)),
        quantized: false,
        how: None,
        range: None,
        origin: None,
        range_of: None,
        reason: String::new(),
        readers: readers(scope, name, decision),
        output: graph.is_output(name),
        shares: Vec::new(),
    };
    if let Some(decision) = decision {
        decided(scope, name, decision, &mut fact);
    } else if let Some((how, reason)) = present(scope, name) {
        (fact.quantized, fact.how, fact.origin, fact.reason) = (true, Some(how), Some("present"), reason);
    } else {
        fact.reason = float_because(scope, name);
    }
    fact
}

fn decided(scope: &Scope<'_>, name: &str, decision: &ValueDecision, fact: &mut ValueFact) {
    let known = scope.plan.knows(name);
    fact.quantized = true;
    fact.how = Some(How::planned(&decision.params, known));
    fact.range = known.then(|| Span { min: decision.range.min(), max: decision.range.max() });
    let (origin, of) = match &decision.origin {
        Origin::Seen(of) => ("seen", of.as_str()),
        Origin::Unseen(of) => ("unseen", of.as_str()),
        Origin::Fixed => ("fixed", name),
        Origin::Passed => ("passed", decision.source.as_str()),
        Origin::Present => ("present", name),
    };
    fact.origin = Some(origin);
    fact.range_of = (of != name).then(|| of.to_owned());
    let only_reads = decision.readers.iter().all(|u| scope.verdict(u.node) == Some(Verdict::Quantized));
    let from = scope.graph.producer(name).and_then(|(id, _)| scope.verdict(id));
    let whose = match (from, only_reads) {
        (Some(Verdict::Quantized), _) => "made by a quantized node",
        (_, true) => "read by quantized nodes",
        (_, false) => "read as codes",
    };
    fact.reason = format!("{whose}; {}", decision.reason);
}

/// In what way the given model has the value quantized, and where that stands.
fn present(scope: &Scope<'_>, name: &str) -> Option<(How, String)> {
    let graph = scope.graph;
    let of = |node: NodeId| Linear::read(graph, graph.node(node)?).ok().map(|l| How::present(&l));
    let codes = code_type(graph, name).filter(|&d| is_code(d)).map(dtype_name);
    if let Some((id, _)) = graph.producer(name)
        && let Some(node) = graph.node(id)
    {
        if Linear::dequantizes(node) {
            let from = node.input_at(0).and_then(|codes| code_type(graph, codes)).map_or("codes", dtype_name);
            return Some((of(id).unwrap_or_else(|| How::computed(from)), "comes out of DequantizeLinear".to_owned()));
        }
        if Linear::quantizes(node) {
            let how = of(id).unwrap_or_else(|| How::computed(codes.unwrap_or("codes")));
            return Some((how, format!("codes of `{}`", node.input_at(0).unwrap_or_default())));
        }
        if let Some(op) = IntegerOp::of(node)
            && let Some(dtype) = codes.filter(|_| matches!(op.output, Output::Codes(..)))
        {
            let how = integer_output(scope, id, op).unwrap_or_else(|| How::computed(dtype));
            return Some((how, format!("codes that {} makes", node.operator())));
        }
    }
    if let Some(quantize) =
        graph.uses(name).iter().find(|u| u.slot == 0 && graph.node(u.node).is_some_and(Linear::quantizes))
    {
        let how = of(quantize.node).unwrap_or_else(|| How::computed("codes"));
        return Some((how, format!("goes into QuantizeLinear, {}", scope.named(quantize.node))));
    }
    codes.filter(|_| reads_codes(scope, name)).map(|dtype| (How::computed(dtype), "holds codes".to_owned()))
}

/// Whether values of that type may be codes of activations.
fn is_code(dtype: DataType) -> bool {
    format_of(dtype).is_some_and(|f| f.bits <= 16)
}

/// Whether something that handles codes reads or makes the value.
fn reads_codes(scope: &Scope<'_>, name: &str) -> bool {
    let graph = scope.graph;
    let already = |id: NodeId| scope.verdict(id) == Some(Verdict::Already);
    graph.producer(name).is_some_and(|(id, _)| already(id)) || graph.uses(name).iter().any(|u| already(u.node))
}

/// The parameters of the codes that an operator on codes makes, where they are constants.
fn integer_output(scope: &Scope<'_>, id: NodeId, op: &IntegerOp) -> Option<How> {
    let (graph, node) = (scope.graph, scope.graph.node(id)?);
    let Output::Codes(scale, zero) = op.output else { return None };
    let constant = |slot: usize| graph.constant(node.input_at(slot)?).ok()?;
    let zero = constant(zero);
    let dtype = zero.as_ref().map_or(DataType::Uint8, |z| z.dtype());
    Linear::of(dtype, &constant(scale)?, zero.as_ref(), 1, None).ok().map(|l| How::present(&l))
}

/// Why a value is no codes.
fn float_because(scope: &Scope<'_>, name: &str) -> String {
    let graph = scope.graph;
    if let Some(dtype) = scope.types.get(name).filter(|&&d| d != DataType::Float) {
        return format!("holds {}", dtype_name(*dtype));
    }
    let bound = graph.only_use(name).map(|u| u.node).filter(|&id| scope.verdict(id) == Some(Verdict::Absorbed));
    let Some((producer, _)) = graph.producer(name) else {
        return "no quantized node reads it".to_owned();
    };
    let made = scope.named(producer);
    if let Some(output) = bound.and_then(|id| graph.node(id)?.output_at(0)) {
        return format!("is not made: {made} makes `{output}` right away");
    }
    match scope.verdict(producer) {
        Some(Verdict::Quantized) => format!("{made} can write float, and no quantized node reads it"),
        Some(Verdict::WeightOnly) => format!("{made} computes in float"),
        Some(Verdict::Already) => format!("float behind {made}, and no quantized node reads it"),
        _ => format!("{made} stays float, and no quantized node reads it"),
    }
}

fn readers(scope: &Scope<'_>, name: &str, decision: Option<&ValueDecision>) -> Vec<Reader> {
    let graph = scope.graph;
    let from_codes = |id| graph.node(id).is_some_and(Linear::dequantizes);
    let already = graph.producer(name).is_some_and(|(id, _)| from_codes(id));
    let reader = |id: NodeId, slot: Option<usize>, dequantized: bool| {
        graph.node(id).map(|n| Reader { node: graph.path(n), operator: n.operator(), slot, dequantized })
    };
    let uses = graph.uses(name).iter().filter_map(|u| {
        let dequantized = already || decision.is_some_and(|d| d.readers.contains(u));
        reader(u.node, Some(u.slot), dequantized)
    });
    let captured =
        graph.captured_by(name).iter().filter_map(|&id| reader(id, None, decision.is_some_and(|d| d.at_output)));
    uses.chain(captured).collect()
}

/// Finds the values that share scale and zero point: those that are passed on, with what they come from.
pub(super) fn find_shares(values: &mut [ValueFact]) {
    let mut groups: HashMap<String, Vec<String>> = HashMap::new();
    let root = |v: &ValueFact| match v.origin {
        Some("passed") => v.range_of.clone().unwrap_or_else(|| v.value.clone()),
        _ => v.value.clone(),
    };
    for value in values.iter().filter(|v| v.quantized) {
        groups.entry(root(value)).or_default().push(value.value.clone());
    }
    for value in values.iter_mut().filter(|v| v.quantized) {
        let group = groups.get(&root(value)).into_iter().flatten();
        value.shares = group.filter(|other| **other != value.value).cloned().collect();
    }
}
