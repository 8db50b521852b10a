//! Which nodes are quantized.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use super::place::must_write_integers;
use super::tables::Tied;
use super::{Policy, Present, element_types, inputs, pattern, residual, wish};
use crate::calibrate::Ranges;
use crate::error::Result;
use crate::model::{DataType, Graph, Linear, NodeExt, NodeId, NodeProto, Tensor, Use, dtype_name, is_float};
use crate::number::min_max;
use crate::rule::{OpRule, Role, picks_rows};
use crate::target::{Placement, ResidualAdd};

/// A value this low in front of a Softmax was put there to mask: no score is.
pub(super) const MASK: f32 = -9999.0;

/// A range past this leaves no code for ordinary numbers.
const TOO_WIDE: f32 = 1e30;

/// The chosen nodes with their rules, and for every other node why it stays float.
#[derive(Default)]
pub(super) struct Selection {
    pub chosen: BTreeMap<NodeId, &'static OpRule>,
    pub float: BTreeMap<NodeId, String>,
    /// The inputs of chosen nodes that stay float.
    pub float_inputs: BTreeSet<Use>,
    /// The nodes among those that stay float that pick rows of a table of codes, and make floats of these.
    pub tables: BTreeSet<NodeId>,
    /// The constants that are stored as one.
    pub tied: Tied,
}

impl Selection {
    /// The inputs of a node, chosen by this rule, that are to be integers.
    pub fn data_slots(&self, id: NodeId, rule: &OpRule, node: &NodeProto) -> impl Iterator<Item = usize> + use<'_> {
        rule.data_slots(node).filter(move |&slot| !self.float_inputs.contains(&Use { node: id, slot }))
    }

    fn drop(&mut self, node: NodeId, reason: String) {
        self.chosen.remove(&node);
        self.float.insert(node, reason);
    }
}

/// Chooses the nodes.
///
/// What computes is chosen wherever its operands are known. Glue and what passes values on is chosen only between
/// quantized neighbours: all its inputs must come out of chosen nodes that write integers, and an integer reader must
/// want the result. Otherwise it would only add rounding. A Gather whose rows no integer reader wants, or whose table is the
/// weight of a layer too, picks from a table that has scales of its own, or of the layer, and gives floats.
pub(super) fn select(graph: &Graph, ranges: &Ranges, policy: &Policy, present: &Present) -> Result<Selection> {
    let masks = masked(graph, ranges);
    let parts = pattern::parts(graph);
    let types = element_types(graph, &HashMap::new());
    let mut s = Selection::default();
    for (id, node) in graph.nodes().filter(|(id, _)| !present.nodes.contains_key(id)) {
        let other = integers(graph, &types, node).filter(|_| policy.unwanted(graph, node).is_none());
        let part = || parts.get(&id).filter(|_| policy.unwanted(graph, node).is_none()).cloned();
        match other.or_else(part).or_else(|| refusal(graph, ranges, policy, present, node, &masks, id)) {
            None => s.chosen.extend(OpRule::of(node).map(|r| (id, r))),
            Some(reason) => drop(s.float.insert(id, reason)),
        }
    }
    let gathers: Vec<NodeId> = s.chosen.keys().copied().filter(|id| picks(graph, *id)).collect();
    s.tied = Tied::of(graph, &weights(graph, &s, &gathers))?;
    for &id in &gathers {
        let tied = s.tied.leads(graph, id, Use { node: id, slot: 0 }).is_some();
        if !policy.wants("Gather") || tied && !policy.target.everywhere {
            s.drop(id, "it gives floats".into());
        }
    }
    // A node that is out of place stays so when more are dropped: the order of dropping does not matter. What looks past
    // its neighbours may be out of place by a node further off, so all are asked until none is.
    let mut left = usize::MAX;
    while s.chosen.len() < left {
        left = s.chosen.len();
        let mut queue: VecDeque<NodeId> = s.chosen.keys().copied().collect();
        while let Some(id) = queue.pop_front() {
            let Some(rule) = s.chosen.get(&id) else { continue };
            let Some(reason) = misfit(graph, policy, present, &s, id, rule) else { continue };
            s.drop(id, reason);
            let Some(node) = graph.node(id) else { continue };
            queue.extend(node.input.iter().filter_map(|i| graph.producer(i)).map(|(id, _)| id));
            queue.extend(node.output.iter().flat_map(|o| graph.uses(o)).map(|u| u.node));
        }
    }
    s.tables = gathers.into_iter().filter(|id| !s.chosen.contains_key(id)).collect();
    if policy.target.residual_add == ResidualAdd::ResidualSide {
        let adds = s.chosen.keys().filter(|&&id| graph.node(id).is_some_and(|n| n.is("Add")));
        let fused = adds.filter_map(|&node| Some(Use { node, slot: residual::fused_input(graph, &s, node)? }));
        s.float_inputs = fused.collect();
    }
    Ok(s)
}

/// Whether the node picks rows of a table of float32, which may be codes.
fn picks(graph: &Graph, id: NodeId) -> bool {
    let Some(node) = graph.node(id).filter(|n| picks_rows(graph, n).is_ok()) else { return false };
    let table = node.input_at(0).and_then(|name| graph.initializer(name));
    table.is_some_and(|t| t.data_type() == DataType::Float as i32)
}

/// The nodes whose tables and weights may become codes, and where they read these.
fn weights(graph: &Graph, s: &Selection, gathers: &[NodeId]) -> Vec<(NodeId, Use)> {
    let layers = s.chosen.iter().filter_map(|(&id, rule)| {
        let slot = rule.weight_slot()?;
        let name = graph.node(id)?.input_at(slot)?;
        graph.initializer(name).is_some().then_some((id, Use { node: id, slot }))
    });
    gathers.iter().map(|&id| (id, Use { node: id, slot: 0 })).chain(layers).collect()
}

/// Why a node cannot be quantized, looking at it alone.
fn refusal(
    graph: &Graph,
    ranges: &Ranges,
    policy: &Policy,
    present: &Present,
    node: &NodeProto,
    masks: &HashSet<NodeId>,
    id: NodeId,
) -> Option<String> {
    let Some(rule) = OpRule::of(node) else {
        let choice = node.is("If");
        return Some(if choice { "decided for each of its branches" } else { "no rule for the operator" }.into());
    };
    if let Some(reason) = wish::fused(policy, node, rule).or_else(|| policy.unwanted(graph, node)) {
        return Some(reason);
    }
    if let Role::Float(reason) = rule.role {
        return Some(reason.into());
    }
    if masks.contains(&id) {
        return Some("adds a mask for Softmax, whose huge numbers would take all codes".into());
    }
    if let Some(reason) = special(graph, node).or_else(|| wish::refusal(graph, policy, node, rule)) {
        return Some(reason);
    }
    let inputs = rule.data_slots(node).filter_map(|slot| node.input_at(slot));
    if let Some(reason) = kept_float(graph, policy, node, rule) {
        return Some(reason);
    }
    for name in inputs.chain(node.output.iter().map(String::as_str).filter(|n| !n.is_empty())) {
        if graph.sparse_initializer(name).is_some() {
            return Some(format!("`{name}` is sparse"));
        }
        if let Some(t) = graph.initializer(name) {
            let float =
                DataType::try_from(t.data_type()).is_ok_and(|d| matches!(d, DataType::Float | DataType::Double));
            if !float {
                return Some(format!("`{name}` is not float"));
            }
            let Ok(constant) = Tensor::from_proto(t) else { return Some(format!("`{name}` cannot be read")) };
            if constant.is_empty() {
                return Some(format!("`{name}` holds no number"));
            }
            let (min, max, non_finite) = constant.f32s().map_or((0.0, 0.0, 1), |x| min_max(&x));
            if non_finite > 0 {
                return Some(format!("`{name}` holds numbers that are not finite ({non_finite})"));
            }
            if max.max(-min) > TOO_WIDE {
                return Some(format!("the range of `{name}` is too wide ({min:e} to {max:e})"));
            }
            continue;
        }
        match (present.dequantized.get(name), present.quantized.get(name)) {
            (Some(Some(_)), _) => continue,
            (Some(None), _) => {
                return Some(format!("`{name}` comes out of DequantizeLinear, and not by one constant scale"));
            }
            (None, Some((_, None))) => {
                return Some(format!("`{name}` goes into QuantizeLinear, and not by one constant scale"));
            }
            _ => {}
        }
        // What is passed on was looked at where it came from.
        if rule.role == Role::Pass {
            continue;
        }
        let Some(stats) = ranges.get(super::seen_as(graph, name)) else {
            return Some(format!("`{name}` is not float, or was not seen"));
        };
        if stats.non_finite > 0 {
            return Some(format!("`{name}` held numbers that are not finite ({})", stats.non_finite));
        }
        match stats.range() {
            None => return Some(format!("`{name}` held no number")),
            Some(r) if r.magnitude() > TOO_WIDE => {
                return Some(format!("the range of `{name}` is too wide ({:e} to {:e})", r.min(), r.max()));
            }
            Some(_) => {}
        }
    }
    None
}

/// That a value stays float which the node would read, or write, as codes.
fn kept_float(graph: &Graph, policy: &Policy, node: &NodeProto, rule: &OpRule) -> Option<String> {
    let written = node.output.iter().filter(|_| must_write_integers(graph, node, policy)).map(String::as_str);
    let mut values = rule.data_slots(node).filter_map(|slot| node.input_at(slot)).chain(written);
    values.find_map(|v| {
        let kept = policy.kept.get(v).filter(|k| k.format.is_none())?;
        Some(format!("`{v}` stays float: {}", kept.reason))
    })
}

/// That a node works on something else than floats.
fn integers(graph: &Graph, types: &HashMap<String, DataType>, node: &NodeProto) -> Option<String> {
    let slots = OpRule::of(node)?.data_slots(node);
    let values = slots.filter_map(|slot| node.input_at(slot)).filter(|name| !graph.is_constant(name));
    let other = values.filter_map(|name| Some((name, *types.get(name)?))).find(|(_, dtype)| !is_float(*dtype));
    other.map(|(name, dtype)| format!("`{name}` holds {}", dtype_name(dtype)))
}

/// What only some nodes of an operator do.
pub(super) fn special(graph: &Graph, node: &NodeProto) -> Option<String> {
    let constant = |slot: usize| node.input_at(slot).is_some_and(|n| graph.is_constant(n));
    let text = |name: &str, default: &'static str| node.string(name).unwrap_or(default).to_owned();
    match node.op_type() {
        "Clip" if super::bounds(graph, graph.producer(node.output_at(0)?)?.0).is_none() => {
            Some("its bounds are not constant".into())
        }
        "Pad" if text("mode", "constant") == "constant" => {
            let fill = node.input_at(2).map(|n| graph.constant(n).ok()??.f32s().ok()?.first().copied());
            match fill {
                None | Some(Some(0.0)) => None,
                _ => Some("pads with something other than 0".into()),
            }
        }
        "Resize" if text("coordinate_transformation_mode", "") == "tf_crop_and_resize" => {
            Some("extrapolation leaves the range of its input".into())
        }
        "Resize" if text("mode", "nearest") == "cubic" => {
            Some("cubic interpolation leaves the range of its input".into())
        }
        "MatMul" | "Gemm" | "Conv" | "ConvTranspose" if constant(0) && constant(1) => {
            Some("both operands are constant".into())
        }
        _ => None,
    }
}

/// Nodes in front of a Softmax that put in a mask: Add, Sub, Mul or Where whose result is far below any score.
fn masked(graph: &Graph, ranges: &Ranges) -> HashSet<NodeId> {
    let mut found = HashSet::new();
    for (_, node) in graph.nodes().filter(|(_, n)| n.is("Softmax") || n.is("LogSoftmax")) {
        let mut value = node.input_at(0);
        while let Some((id, _)) = value.and_then(|v| graph.producer(v)) {
            let Some(producer) = graph.node(id) else { break };
            let passes = OpRule::of(producer).is_some_and(|r| r.role == Role::Pass);
            let seen = value.and_then(|v| ranges.get(v));
            let low = seen.is_some_and(|s| s.min.is_some_and(|m| m <= MASK) || s.non_finite > 0);
            let looked_past = passes && seen.is_none();
            if !(low || looked_past) {
                break;
            }
            if low {
                found.insert(id);
            }
            value = if passes || producer.is("Mul") || producer.is("Div") { producer.input_at(0) } else { None };
        }
    }
    found
}

/// Why a chosen node has no place between quantized neighbours.
fn misfit(
    graph: &Graph,
    policy: &Policy,
    present: &Present,
    s: &Selection,
    id: NodeId,
    rule: &OpRule,
) -> Option<String> {
    let node = graph.node(id)?;
    match rule.role {
        Role::Glue | Role::Pass | Role::Bound => {}
        Role::Compute | Role::Float(_) => return None,
    }
    if node.is("Add") && policy.target.residual_add == ResidualAdd::ResidualSide {
        let taken = residual::fused_input(graph, s, id);
        return taken.is_none().then(|| "no quantized convolution takes it in".into());
    }
    if policy.target.placement == Placement::Inputs {
        return inputs::misfit(graph, present, s, node, rule);
    }
    let inputs: Vec<&str> = rule.data_slots(node).filter_map(|slot| node.input_at(slot)).collect();
    let table = node.is("Gather") && inputs.first().is_some_and(|n| graph.initializer(n).is_some());
    let mut activations = inputs.iter().filter(|n| graph.initializer(n).is_none());
    let behind_compute = rule.role == Role::Bound;
    // What is passed on is quantized only if it was before; other values can be where they are.
    let anywhere = policy.target.everywhere && rule.role != Role::Pass;
    let mut float = |n: &&&str| !writes_integers(graph, policy, present, s, n, behind_compute);
    if let Some(name) = activations.find(&mut float).filter(|_| !anywhere) {
        return Some(format!("its input `{name}` is float"));
    }
    if inputs.iter().all(|n| graph.initializer(n).is_some()) && !table {
        return Some("its inputs are constant".into());
    }
    let wanted = node.output.iter().any(|o| graph.uses(o).iter().any(|u| reads_integers(s, graph, *u)));
    (!wanted && !policy.target.everywhere).then(|| "no quantized node reads its output".into())
}

/// Whether the value comes out of a chosen node as integers, or out of DequantizeLinear. A ReLU or Clip may also stand
/// right behind a node that could write float: the two become one.
fn writes_integers(
    graph: &Graph,
    policy: &Policy,
    present: &Present,
    s: &Selection,
    value: &str,
    behind_compute: bool,
) -> bool {
    if present.dequantized.contains_key(value) {
        return true;
    }
    let Some((producer, _)) = graph.producer(value) else { return false };
    let Some(node) = graph.node(producer) else { return false };
    s.chosen.contains_key(&producer) && (behind_compute || !policy.target.writes_float(node.op_type()))
}

pub(super) fn reads_integers(s: &Selection, graph: &Graph, at: Use) -> bool {
    let Some(node) = graph.node(at.node) else { return false };
    match s.chosen.get(&at.node) {
        Some(rule) => rule.data_slots(node).any(|slot| slot == at.slot),
        None => Linear::quantizes(node) && at.slot == 0,
    }
}
