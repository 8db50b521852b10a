//! What becomes of constants.

use std::collections::HashSet;

use serde::Serialize;

use super::{How, Scope};
use crate::error::Result;
use crate::integer::{IntegerOp, handles_codes};
use crate::model::{Graph, Linear, NodeExt, NodeId, NodeProto, Use, dtype_name, is_float};
use crate::number::Granularity;
use crate::plan::{ConstantDecision, Part, Verdict};
use crate::rule::{ChannelIndex, OpRule, Role};

/// What becomes of a constant at a place where it is read.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConstantFact {
    /// The constant.
    pub constant: String,
    /// The node that reads it, as [`NodeRow`](crate::quantize::NodeRow) names it; empty if none does.
    pub node: String,
    /// Its operator; empty if no node reads it.
    pub operator: String,
    /// Which of the node's inputs; `None` if no node reads it.
    pub slot: Option<usize>,
    /// What it is to the node.
    pub kind: Kind,
    /// Its shape; sizes as the file states them.
    pub shape: Vec<i64>,
    /// Its element type in the model that the plan is for.
    pub dtype: String,
    /// In what way it is quantized; `None` where it stays as it is.
    pub how: Option<How>,
    /// Why, in words.
    pub reason: String,
    /// The other nodes that read the same codes; none where they are not known yet.
    pub shares: Vec<String>,
}

/// What a constant is to the node that reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The weight of a layer.
    Weight,
    /// The bias of a layer.
    Bias,
    /// An operand that stands where activations stand.
    Operand,
    /// A scale, a zero point or something else that belongs to codes.
    OfCodes,
    /// Says how the operator works: a shape, an axis, bounds.
    Setting,
    /// Nothing reads it.
    Unread,
}

impl Kind {
    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Weight => "weight",
            Kind::Bias => "bias",
            Kind::Operand => "operand",
            Kind::OfCodes => "of codes",
            Kind::Setting => "setting",
            Kind::Unread => "unread",
        }
    }
}

/// The constants that a node reads.
pub(super) fn read_by(scope: &Scope<'_>, id: NodeId, found: &mut Vec<ConstantFact>) -> Result<()> {
    let Some(node) = scope.graph.node(id) else { return Ok(()) };
    for slot in 0..node.input.len() {
        let Some(name) = node.input_at(slot).filter(|n| scope.graph.is_constant(n)) else { continue };
        let at = Use { node: id, slot };
        let mut fact = ConstantFact {
            node: scope.graph.path(node),
            operator: node.operator(),
            slot: Some(slot),
            kind: kind(node, slot),
            ..of(scope.graph, name)
        };
        match scope.plan.constants.get(&at) {
            Some(decision) => decided(scope, at, decision, &mut fact),
            None => match present(scope, node, slot) {
                Some((how, reason)) => (fact.how, fact.reason) = (Some(how), reason),
                None => fact.reason = kept_because(scope, at, node, &fact),
            },
        }
        found.push(fact);
    }
    Ok(())
}

/// The constants of the graph that no node reads, and no subgraph.
pub(super) fn unread(graph: &Graph, found: &mut Vec<ConstantFact>) {
    let known: HashSet<String> = found.iter().map(|c| c.constant.clone()).collect();
    let sparse = graph.sparse_initializers().filter_map(|s| s.values.as_ref());
    let names = graph.initializers().chain(sparse).map(|t| t.name());
    for name in names.filter(|n| !known.contains(*n)) {
        let reason = if graph.is_output(name) { "the graph gives it as it is" } else { "nothing reads it" };
        found.push(ConstantFact { reason: reason.to_owned(), ..of(graph, name) });
    }
}

fn of(graph: &Graph, name: &str) -> ConstantFact {
    ConstantFact {
        constant: name.to_owned(),
        node: String::new(),
        operator: String::new(),
        slot: None,
        kind: Kind::Unread,
        shape: graph.constant_dims(name).unwrap_or_default().to_vec(),
        dtype: graph.stated_dtype(name).map_or("unknown", dtype_name).to_owned(),
        how: None,
        reason: String::new(),
        shares: Vec::new(),
    }
}

fn kind(node: &NodeProto, slot: usize) -> Kind {
    if Linear::dequantizes(node) || Linear::quantizes(node) {
        return if slot == 0 { Kind::Operand } else { Kind::OfCodes };
    }
    if let Some(op) = IntegerOp::of(node) {
        let operand = op.operands(node).iter().find(|o| o.codes == slot).copied();
        return match operand {
            Some(o) if o.weight => Kind::Weight,
            Some(_) => Kind::Operand,
            None if op.bias == Some(slot) => Kind::Bias,
            None => Kind::OfCodes,
        };
    }
    match OpRule::of(node) {
        Some(rule) if rule.weight_slot() == Some(slot) => Kind::Weight,
        Some(rule) if rule.bias == Some(slot) => Kind::Bias,
        Some(rule) if rule.data_slots(node).any(|s| s == slot) => Kind::Operand,
        // The scale and the bias of a normalization are numbers like any others.
        Some(rule) if matches!(rule.role, Role::Float(_)) => Kind::Operand,
        Some(_) => Kind::Setting,
        None => Kind::Operand,
    }
}

fn decided(scope: &Scope<'_>, at: Use, decision: &ConstantDecision, fact: &mut ConstantFact) {
    fact.kind = match decision.part {
        Part::Weight => Kind::Weight,
        Part::Bias => Kind::Bias,
        Part::Operand => Kind::Operand,
    };
    // A bias is at the scale of its layer's input.
    let input = scope.graph.node(at.node).and_then(|n| n.input_at(0)).filter(|_| decision.part == Part::Bias);
    let known = input.is_none_or(|x| scope.plan.knows(x));
    let same = |other: &&Use| **other != at && scope.stored_as(other) == scope.stored_as(&at);
    let home = decision.twin.as_ref().map_or(&decision.initializer, |twin| &twin.table);
    let others = scope.stored.get(home.as_str()).into_iter().flatten().filter(|_| known);
    fact.shares = others.filter(same).filter_map(|u| Some(scope.graph.path(scope.graph.node(u.node)?))).collect();
    fact.how = Some(How::planned(&decision.params, known));
    let table = scope.graph.node(at.node).is_some_and(|n| n.is("Gather"));
    fact.reason = match decision.part {
        Part::Weight if table => match decision.params.granularity() {
            Granularity::Tensor => "a table whose rows are picked: codes of 8 bits, one scale",
            Granularity::Channel { axis: 0 } => "a table whose rows are picked: codes of 8 bits, a scale for each row",
            _ => "a table whose rows are picked: codes of 8 bits, a scale for each column",
        }
        .to_owned(),
        Part::Weight if decision.chosen.is_some() => {
            "codes chosen by what they do to the output of its layer".to_owned()
        }
        Part::Weight => {
            let shared = match (decision.params.granularity(), decision.params.joined().get()) {
                (Granularity::Tensor, _) => "one scale".to_owned(),
                (Granularity::Channel { .. }, 1) => "a scale for each output channel".to_owned(),
                (Granularity::Channel { .. }, joined) => format!("a scale for {joined} output channels together"),
                (Granularity::Block { .. }, _) => "a scale for each block of inputs".to_owned(),
            };
            format!("the weight of a layer: nearest codes, {shared}")
        }
        Part::Bias => "at the scale of the accumulator: that of the input times that of the weight".to_owned(),
        Part::Operand => "stands where activations stand, and has their format".to_owned(),
    };
    if let Some(twin) = &decision.twin {
        let turned = if twin.turned { ", whose rows are its columns" } else { ", which holds the same numbers" };
        fact.reason = format!("{}; stored as `{}`{turned}", fact.reason, twin.table);
    }
}

/// In what way the given model has the constant quantized.
fn present(scope: &Scope<'_>, node: &NodeProto, slot: usize) -> Option<(How, String)> {
    let graph = scope.graph;
    if Linear::dequantizes(node) && slot == 0 {
        let dtype = graph.stated_dtype(node.input_at(0)?).map_or("codes", dtype_name);
        let how = Linear::read(graph, node).map_or_else(|_| How::computed(dtype), |l| How::present(&l));
        return Some((how, "codes of the given model".to_owned()));
    }
    let op = IntegerOp::of(node)?;
    let operand = op.operands(node).iter().find(|o| o.codes == slot).copied()?;
    let constant = |slot: Option<usize>| graph.constant(node.input_at(slot?)?).ok()?;
    let dtype = graph.stated_dtype(node.input_at(slot)?)?;
    let zero = constant(operand.zero);
    let linear = constant(operand.scale).and_then(|s| Linear::of(dtype, &s, zero.as_ref(), 0, None).ok());
    let how = linear.map_or_else(|| How::computed(dtype_name(dtype)), |l| How::present(&l));
    Some((how, format!("codes that {} reads", node.operator())))
}

/// Why a constant stays as it is.
fn kept_because(scope: &Scope<'_>, at: Use, node: &NodeProto, fact: &ConstantFact) -> String {
    let graph = scope.graph;
    let name = &fact.constant;
    if fact.kind == Kind::OfCodes || handles_codes(node) {
        return format!("belongs to the codes of {}", scope.named(at.node));
    }
    let float = graph.stated_dtype(name).is_some_and(is_float);
    match (scope.verdict(at.node), fact.kind) {
        (_, Kind::Setting) => format!("says how {} works", node.operator()),
        _ if !float => format!("holds {}", fact.dtype),
        (Some(Verdict::Float), _) => format!("its node stays float: {}", scope.reason(at.node)),
        (Some(Verdict::Absorbed), _) => format!("goes with its node: {}", scope.reason(at.node)),
        (Some(Verdict::Already), _) => format!("its node stays as it is: {}", scope.reason(at.node)),
        (Some(Verdict::WeightOnly), _) => {
            "its node computes in float, and only the weight is stored as codes".to_owned()
        }
        (_, Kind::Bias) => bias_because(scope, at, node),
        _ => "no scale was found for it".to_owned(),
    }
}

/// Why the bias of a quantized layer stays float.
fn bias_because(scope: &Scope<'_>, at: Use, node: &NodeProto) -> String {
    let weight = scope.plan.constants.get(&Use { node: at.node, slot: 1 });
    let input = node.input_at(0).unwrap_or_default();
    match weight {
        None => "its layer has no constant weight, and so no scale of the accumulator".to_owned(),
        Some(w) if matches!(w.params.granularity(), Granularity::Block { .. }) => {
            "the sums over blocks of the weight have no one scale".to_owned()
        }
        Some(_) if !scope.plan.values.contains_key(input) => format!("its layer's input `{input}` has no one scale"),
        Some(_) if one_a_channel(scope, at, node) => "the target wants biases as float".to_owned(),
        Some(_) => "it does not hold one number for each output channel".to_owned(),
    }
}

/// Whether a bias holds one number for each output channel of its layer.
fn one_a_channel(scope: &Scope<'_>, at: Use, node: &NodeProto) -> bool {
    let shape = |slot: usize| {
        let tensor = node.input_at(slot).and_then(|name| scope.graph.initializer(name))?;
        tensor.dims.iter().map(|&d| usize::try_from(d).ok()).collect::<Option<Vec<usize>>>()
    };
    let channels = shape(1).and_then(|weight| ChannelIndex::outputs(node, &weight)).map(|c| c.channels());
    channels.is_some() && channels == shape(at.slot).map(|bias| bias.iter().product())
}
