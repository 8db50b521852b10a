//! The plan that needs no samples: weights become codes; everything computes in float, or quantizes what it reads by
//! the range that this has in each run.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;

use half::{bf16, f16};
use rayon::prelude::*;

use super::fit::weight_ranges;
use super::tables::Tied;
use super::{ConstantDecision, Emit, NodeDecision, Part, Plan, Policy, Present, Verdict};
use crate::error::{Place, Result};
use crate::model::{DataType, Graph, NodeExt, NodeId, NodeProto, Tensor, Use, attribute, dtype_name, release};
use crate::number::{Granularity, Levels, QuantParams, ScaleForm, Scheme, rounding_loss};
use crate::rule::{OpRule, Role, WeightMatrix, picks_rows};

/// A layer with fewer inputs or outputs than this is faster in float than what it reads is quantized.
const SLIGHT: usize = 16;

/// How many times smaller zero points must make the error of a signed weight, the sum of the squares, to be worth the sums
/// that they cost MatMulInteger. Behind DequantizeLinear they cost nothing.
const WORTH_ZERO_POINTS: f64 = 1.2;

/// What becomes of the values that nodes with quantized weights read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They stay float. Signed weights of 7 bits or 8 have zero points where these make the error of rounding
    /// them smaller, and the target takes affine ones.
    Weights,
    /// They are quantized by the range that they have in each run, to uint8, where the node has a form in integers;
    /// they stay float elsewhere. Zero points are those of [`Mode::Weights`], but for Conv, and
    /// for MatMul where they take a sixth off the error (ai.onnx, DynamicQuantizeLinear-11, MatMulInteger-10, ConvInteger-10).
    Dynamic,
}

impl Plan {
    /// Decides which weights are stored as codes, from the weights alone: those of nodes that multiply and accumulate,
    /// and tables whose rows Gather picks; in the bodies of If, Loop and Scan too. What several nodes read is stored once.
    ///
    /// Weights are read one after the other on each thread, where they lie. Errors when one does not fit its shape.
    pub fn of_weights(graph: &Graph, policy: &Policy, mode: Mode) -> Result<Plan> {
        let (wanted, nodes) = wanted(graph, policy);
        let mut plan = Plan { storage: policy.storage, nodes, ..Plan::default() };
        let tied = Tied::of(graph, &wanted)?;
        let (led, wanted): (Vec<_>, Vec<_>) =
            wanted.into_iter().partition(|&(id, at)| tied.leads(graph, id, at).is_some());
        let fit = |&(id, at): &(NodeId, Use)| fit(graph, policy, mode, &tied, id, at).at(|| graph.label(id));
        let fitted: Vec<Result<Result<ConstantDecision, String>>> = wanted.par_iter().map(fit).collect();
        let mut fitted = fitted.into_iter().collect::<Result<Vec<_>>>()?;
        let wishes = tie(&mut fitted);
        let leaders: BTreeMap<Use, &ConstantDecision> =
            wanted.iter().zip(&fitted).filter_map(|(&(_, at), d)| Some((at, d.as_ref().ok()?))).collect();
        for (node, at) in led {
            match tied.follow(graph, node, at, &leaders) {
                Ok((decision, reason)) => {
                    plan.constants.insert(at, decision);
                    plan.nodes.push(NodeDecision { node, verdict: Verdict::WeightOnly, reason });
                }
                Err(reason) => plan.nodes.push(float(node, reason)),
            }
        }
        for (((node, at), outcome), wish) in wanted.into_iter().zip(fitted).zip(wishes) {
            match outcome {
                Ok(decision) => {
                    let tied = wish.filter(|wish| *wish != decision.params);
                    let (verdict, reason) = match tied {
                        Some(_) => (Verdict::WeightOnly, "its weight is stored once, as codes for another node".into()),
                        None => form(graph, policy, mode, Use { node, ..at }, &decision),
                    };
                    if verdict != Verdict::Float {
                        plan.constants.insert(at, decision);
                    }
                    plan.nodes.push(NodeDecision { node, verdict, reason });
                }
                Err(reason) => plan.nodes.push(float(node, reason)),
            }
        }
        let places: std::collections::HashMap<NodeId, usize> =
            graph.nodes().enumerate().map(|(i, (id, _))| (id, i)).collect();
        plan.nodes.sort_by_key(|d| places.get(&d.node).copied());
        for id in graph.bodies() {
            plan.bodies.insert(id, Plan::of_weights(&graph.body(id)?, policy, mode)?);
        }
        Ok(plan)
    }
}

/// The nodes that have a weight to be stored as codes, with where it is read, and what is decided of all others.
fn wanted(graph: &Graph, policy: &Policy) -> (Vec<(NodeId, Use)>, Vec<NodeDecision>) {
    let (mut wanted, mut others) = (Vec::new(), Vec::new());
    let present = Present::of(graph, &Present::default());
    for (id, node) in graph.nodes() {
        if let Some(&reason) = present.nodes.get(&id) {
            others.push(NodeDecision { node: id, verdict: Verdict::Already, reason: reason.to_owned() });
            continue;
        }
        match weight_of(graph, policy, id, node) {
            Ok(at) => wanted.push((id, at)),
            Err(reason) => others.push(float(id, reason)),
        }
    }
    (wanted, others)
}

/// The nodes of a graph whose weights [`Plan::of_weights`] stores as codes, if these are finite.
pub(crate) fn nodes_with_weights(graph: &Graph, policy: &Policy) -> BTreeSet<NodeId> {
    wanted(graph, policy).0.into_iter().map(|(id, _)| id).collect()
}

/// Lets nodes that read one constant read the same codes: those with the most bits. Returns what each node wanted.
fn tie(fitted: &mut [Result<ConstantDecision, String>]) -> Vec<Option<QuantParams>> {
    let wishes = fitted.iter().map(|f| f.as_ref().ok().map(|d| d.params.clone())).collect();
    let mut best: BTreeMap<String, (u32, QuantParams)> = BTreeMap::new();
    for decision in fitted.iter().flatten() {
        let rank = decision.params.format().bits;
        match best.get_mut(&decision.initializer) {
            Some(known) if known.0 >= rank => {}
            Some(known) => *known = (rank, decision.params.clone()),
            None => drop(best.insert(decision.initializer.clone(), (rank, decision.params.clone()))),
        }
    }
    for decision in fitted.iter_mut().flatten() {
        if let Some((_, params)) = best.get(&decision.initializer) {
            decision.params = params.clone();
        }
    }
    wishes
}

/// The Transpose that turns a matrix for slot 1 of a MatMul, and nothing else.
fn turns_weight(graph: &Graph, node: &NodeProto) -> Option<NodeId> {
    let turned = node.input_at(1).filter(|_| node.is("MatMul"))?;
    let (id, _) = graph.producer(turned)?;
    let transpose = graph.node(id).filter(|n| n.is("Transpose"))?;
    let matrix = graph.initializer(transpose.input_at(0)?)?.dims.len() == 2;
    let swaps = transpose.ints("perm").is_none_or(|p| p == [1, 0]);
    (matrix && swaps && !graph.is_output(turned)).then_some(id)
}

/// The node as one that reads the weight where it lies: MatMul behind a Transpose is Gemm with `transB`.
fn at_weight<'a>(node: &'a NodeProto, id: NodeId, at: Use) -> Cow<'a, NodeProto> {
    if at.node == id {
        return Cow::Borrowed(node);
    }
    let mut gemm = NodeProto { op_type: Some("Gemm".to_owned()), input: node.input.clone(), ..NodeProto::default() };
    gemm.set(attribute::int("transB", 1));
    Cow::Owned(gemm)
}

/// How a node computes with its codes, and why.
fn form(graph: &Graph, policy: &Policy, mode: Mode, at: Use, decision: &ConstantDecision) -> (Verdict, String) {
    let Some(node) = graph.node(at.node) else { return (Verdict::Float, "it is not there".into()) };
    let float = |reason: &str| (Verdict::WeightOnly, format!("its weight is stored as codes; {reason}"));
    if node.is("Gather") {
        return (Verdict::WeightOnly, "its table is stored as codes".into());
    }
    match (mode, policy.emit) {
        (Mode::Dynamic, _) => match dynamic_refusal(graph, node, &decision.initializer) {
            None if is_slight(graph, node, &decision.initializer) => {
                let why =
                    format!("it has fewer than {SLIGHT} inputs or outputs: quantizing what it reads does not pay");
                (Verdict::Float, why)
            }
            None => (Verdict::Dynamic, "it computes in integers, by the range of its input in each run".into()),
            Some(reason) => float(&reason),
        },
        (Mode::Weights, Emit::Qdq | Emit::QOperator { .. }) => {
            (Verdict::WeightOnly, "its weight is stored as codes".into())
        }
        (Mode::Weights, Emit::MatMulNBits) => match packed_refusal(graph, node, decision) {
            None => (Verdict::Packed, "its weight is packed in blocks".into()),
            Some(reason) => float(reason),
        },
    }
}

/// Whether the sums of a node are of too few products, or there are too few of them, to make good for quantizing what
/// it reads.
fn is_slight(graph: &Graph, node: &NodeProto, weight: &str) -> bool {
    let shape = graph.constant_dims(weight).unwrap_or_default();
    let shape: Vec<usize> = shape.iter().filter_map(|&d| usize::try_from(d).ok()).collect();
    WeightMatrix::of(node, &shape).is_some_and(|m| m.rows < SLIGHT || m.columns < SLIGHT)
}

/// Why a node does not compute in integers.
fn dynamic_refusal(graph: &Graph, node: &NodeProto, weight: &str) -> Option<String> {
    if !["Conv", "Gemm", "MatMul"].iter().any(|op| node.is(op)) {
        return Some("no operator computes the same in integers".into());
    }
    if let Some(other) = graph.stated_dtype(weight).filter(|&d| d != DataType::Float) {
        return Some(format!("DynamicQuantizeLinear quantizes float32, and it reads {}", dtype_name(other)));
    }
    node.input_at(0).is_some_and(|x| graph.is_constant(x)).then(|| "its other operand is constant too".into())
}

/// Why a node does not become MatMulNBits.
fn packed_refusal(graph: &Graph, node: &NodeProto, decision: &ConstantDecision) -> Option<&'static str> {
    if !node.is("MatMul") {
        return Some("MatMulNBits stands for MatMul alone");
    }
    if turns_weight(graph, node).is_some() {
        return Some("a Transpose turns it");
    }
    match decision.params.granularity() {
        Granularity::Block { axis: 0, .. } => None,
        Granularity::Block { .. } => Some("MatMulNBits takes a matrix"),
        _ => Some("it has no blocks: fewer inputs than a block has, or one tensor with a table"),
    }
}

fn float(node: NodeId, reason: String) -> NodeDecision {
    NodeDecision { node, verdict: Verdict::Float, reason }
}

/// The lowest opset in which the weights that [`Plan::of_weights`] takes can be written behind DequantizeLinear: its
/// scale has the type of what it makes, which may be float16 or bfloat16 since opset 19.
pub fn opset_of_weights(graph: &Graph, policy: &Policy) -> Result<i64> {
    let narrow = |id: NodeId, node: &NodeProto| {
        let weight = weight_of(graph, policy, id, node).ok().and_then(|at| graph.node(at.node)?.input_at(at.slot));
        weight.and_then(|w| graph.stated_dtype(w)).is_some_and(|d| d != DataType::Float)
    };
    if graph.nodes().any(|(id, node)| narrow(id, node)) {
        return Ok(policy.opset().max(19));
    }
    graph
        .bodies()
        .into_iter()
        .try_fold(policy.opset(), |opset, id| Ok(opset.max(opset_of_weights(&graph.body(id)?, policy)?)))
}

/// The smallest number of that type that is not below a scale. In float16 there is none above 65504.
fn stored(dtype: DataType, scale: f32) -> f32 {
    match dtype {
        DataType::Float16 => {
            let near = f16::from_f32(scale);
            let above = if near.to_f32() < scale { f16::from_bits(near.to_bits() + 1) } else { near };
            above.to_f32()
        }
        DataType::Bfloat16 => {
            let near = bf16::from_f32(scale);
            let above = if near.to_f32() < scale { bf16::from_bits(near.to_bits() + 1) } else { near };
            above.to_f32()
        }
        _ => scale,
    }
}

/// Where the node's weight is read, by itself or by the Transpose before it; or why it stays float.
fn weight_of(graph: &Graph, policy: &Policy, id: NodeId, node: &NodeProto) -> Result<Use, String> {
    let slot = match OpRule::of(node) {
        Some(rule) if rule.role == Role::Compute => rule.weight_slot().ok_or("it has no weight")?,
        Some(_) if node.is("Gather") => picks_rows(graph, node).map(|()| 0)?,
        _ => return Err("it has no weight".into()),
    };
    if let Some(reason) = policy.unwanted(graph, node) {
        return Err(reason);
    }
    let at = match turns_weight(graph, node) {
        Some(turn) => Use { node: turn, slot: 0 },
        None => Use { node: id, slot },
    };
    let name = graph.node(at.node).and_then(|n| n.input_at(at.slot)).ok_or("it has no weight")?;
    if graph.sparse_initializer(name).is_some() {
        return Err(format!("its weight `{name}` is sparse"));
    }
    let tensor = graph.initializer(name).ok_or_else(|| format!("its weight `{name}` is not a constant"))?;
    match DataType::try_from(tensor.data_type()) {
        Ok(DataType::Float | DataType::Float16 | DataType::Bfloat16) => Ok(at),
        Ok(other) => Err(format!("its weight `{name}` is {}, not float32, float16 or bfloat16", dtype_name(other))),
        Err(_) => Err(format!("the type of its weight `{name}` is unknown")),
    }
}

/// How the weight of a node may be quantized, from what costs the runtime least to what costs it most. Behind each scheme is how
/// many times smaller than with what was taken before the error of rounding must be for it to be taken.
fn schemes(
    policy: &Policy,
    mode: Mode,
    rule: &OpRule,
    node: &NodeProto,
    shape: &[usize],
    tied: bool,
) -> Vec<(Scheme, f64)> {
    let scheme = match mode {
        _ if node.is("Gather") => policy.table_scheme(),
        _ if tied => policy.tied_scheme(rule, node, shape),
        _ => policy.weight_scheme(rule, node, shape, false),
    };
    // ConvInteger has one zero point for all channels.
    if mode == Mode::Dynamic && node.is("Conv") && !scheme.symmetric {
        let scheme = Scheme { granularity: Granularity::Tensor, joined: NonZeroUsize::MIN, ..scheme };
        return vec![(scheme, 1.0)];
    }
    let mut all = vec![(scheme, 1.0)];
    let zeros = |scheme: Scheme| {
        let takes = scheme.symmetric && takes_zero_points(policy, mode, node, &scheme);
        takes.then_some(Scheme { symmetric: false, narrow: false, ..scheme })
    };
    let sums = mode == Mode::Dynamic && !node.is("Gather");
    all.extend(zeros(scheme).map(|scheme| (scheme, if sums { WORTH_ZERO_POINTS } else { 1.0 })));
    all
}

/// Whether codes of a signed weight, of 7 bits or 8, can have zero points of their own: behind DequantizeLinear, and where
/// MatMulInteger reads them, which takes one a column; ConvInteger takes one for all channels. Blocks, whose numbers are of a
/// size, have none, nor formats that are no integers; and a target that takes no affine weights of 8 bits takes none.
fn takes_zero_points(policy: &Policy, mode: Mode, node: &NodeProto, scheme: &Scheme) -> bool {
    let convolves = node.is("Conv") || node.is("ConvTranspose");
    let fits = node.is("Gather") || mode == Mode::Weights || !convolves;
    let affine = policy.target.weight_formats.iter().any(|f| !f.signed() && f.bits == 8);
    let blocks = matches!(scheme.granularity, Granularity::Block { .. });
    let linear = scheme.format.levels == Levels::Linear && scheme.scales == ScaleForm::Float;
    affine && fits && linear && scheme.format.bits >= 7 && !blocks
}

/// Scales and zero points for what a node of that rule multiplies by, which may be stored as one with a table; `None` where a
/// number is not finite.
pub(crate) fn params_of_weight(
    policy: &Policy,
    mode: Mode,
    rule: &OpRule,
    node: &NodeProto,
    tensor: &Tensor,
    tied: bool,
) -> Result<Option<QuantParams>> {
    let schemes = schemes(policy, mode, rule, node, tensor.shape(), tied);
    let params = |scheme: &Scheme| -> Result<Option<QuantParams>> {
        if scheme.format.levels != Levels::Linear || scheme.scales != ScaleForm::Float {
            let finite = tensor.f32s()?.iter().all(|x| x.is_finite());
            return finite.then(|| policy.weight_params(tensor, scheme)).transpose();
        }
        let Ok(ranges) = weight_ranges(tensor, scheme, policy.weight_clip) else { return Ok(None) };
        QuantParams::from_ranges_stored(scheme, &ranges, |scale| stored(tensor.dtype(), scale)).map(Some)
    };
    let mut best: Option<(QuantParams, f64)> = None;
    for (scheme, worth) in &schemes {
        let Some(params) = params(scheme)? else { break };
        // One that stands alone is taken whatever it loses.
        let loss = if schemes.len() > 1 { rounding_loss(&tensor.f32s()?, tensor.shape(), &params)?.1 } else { 0.0 };
        if best.as_ref().is_none_or(|(_, least)| loss * worth < *least) {
            best = Some((params, loss));
        }
    }
    Ok(best.map(|(params, _)| params))
}

/// Scales and zero points for the weight, or why it stays float.
pub(super) fn fit(
    graph: &Graph,
    policy: &Policy,
    mode: Mode,
    tied: &Tied,
    id: NodeId,
    at: Use,
) -> Result<Result<ConstantDecision, String>> {
    let Some(node) = graph.node(id).map(|n| at_weight(n, id, at)) else { return Ok(Err("it is not there".into())) };
    let Some(rule) = OpRule::of(&node) else { return Ok(Err("it has no rule".into())) };
    let initializer = graph.node(at.node).and_then(|n| n.input_at(at.slot)).unwrap_or_default().to_owned();
    let Some(tensor) = graph.constant(&initializer)? else { return Ok(Err("it has no weight".into())) };
    if tensor.is_empty() {
        return Ok(Err(format!("its weight `{initializer}` holds no number")));
    }
    let layer = tied.layer(&initializer).is_some();
    let params = params_of_weight(policy, mode, rule, &node, &tensor, layer);
    let params = params.at(|| format!("initializer `{initializer}`"))?;
    release(tensor.bytes());
    let Some(params) = params else {
        return Ok(Err(format!("`{initializer}` holds numbers that are not finite")));
    };
    let twin = tied.twin(&initializer).cloned();
    Ok(Ok(ConstantDecision { initializer, params, part: Part::Weight, chosen: None, twin }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_stored_without_losing_the_ends_of_the_range() {
        for (dtype, scale, want) in [
            (DataType::Float, 0.1, 0.1),
            (DataType::Float16, 0.5, 0.5),
            (DataType::Float16, 0.1, 1639.0 / 16384.0),
            (DataType::Float16, 1e-9, 2f32.powi(-24)),
            (DataType::Float16, f32::MIN_POSITIVE, 2f32.powi(-24)),
            (DataType::Bfloat16, 1.001, 1.0078125),
            (DataType::Bfloat16, f32::MIN_POSITIVE, f32::MIN_POSITIVE),
        ] {
            assert_eq!(stored(dtype, scale), want, "{dtype:?} {scale}");
        }
    }
}
