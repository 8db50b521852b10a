//! The plan that needs no samples: weights become codes, everything computes in float.

use half::{bf16, f16};
use rayon::prelude::*;

use super::fit::weight_ranges;
use super::{ConstantDecision, NodeDecision, Part, Plan, Policy, Present, Verdict};
use crate::error::{Place, Result};
use crate::model::{DataType, Graph, NodeExt, NodeId, NodeProto, Use, dtype_name, release};
use crate::number::QuantParams;
use crate::rule::{OpRule, Role};

impl Plan {
    /// Decides which weights are stored as codes, from the weights alone: those of nodes that multiply and accumulate,
    /// in the bodies of If, Loop and Scan too.
    ///
    /// Weights are read one after the other on each thread, where they lie. Errors when one does not fit its shape.
    pub fn of_weights(graph: &Graph, policy: &Policy) -> Result<Plan> {
        let mut plan = Plan::default();
        let mut wanted = Vec::new();
        let present = Present::of(graph, &Present::default());
        for (id, node) in graph.nodes() {
            if let Some(&reason) = present.nodes.get(&id) {
                plan.nodes.push(NodeDecision { node: id, verdict: Verdict::Already, reason: reason.to_owned() });
                continue;
            }
            match weight_of(graph, policy, node) {
                Ok(at) => wanted.push((id, Use { node: id, slot: at })),
                Err(reason) => plan.nodes.push(float(id, reason)),
            }
        }
        let fitted: Vec<Result<Result<ConstantDecision, String>>> =
            wanted.par_iter().map(|&(_, at)| fit(graph, policy, at).at(|| graph.label(at.node))).collect();
        for ((node, at), outcome) in wanted.into_iter().zip(fitted) {
            match outcome? {
                Ok(decision) => {
                    plan.constants.insert(at, decision);
                    let reason = "its weight is stored as codes".to_owned();
                    plan.nodes.push(NodeDecision { node, verdict: Verdict::WeightOnly, reason });
                }
                Err(reason) => plan.nodes.push(float(node, reason)),
            }
        }
        let places: std::collections::HashMap<NodeId, usize> =
            graph.nodes().enumerate().map(|(i, (id, _))| (id, i)).collect();
        plan.nodes.sort_by_key(|d| places.get(&d.node).copied());
        for id in graph.bodies() {
            plan.bodies.insert(id, Plan::of_weights(&graph.body(id)?, policy)?);
        }
        Ok(plan)
    }
}

fn float(node: NodeId, reason: String) -> NodeDecision {
    NodeDecision { node, verdict: Verdict::Float, reason }
}

/// The lowest opset in which the weights that [`Plan::of_weights`] takes can be written behind DequantizeLinear: its
/// scale has the type of what it makes, which may be float16 or bfloat16 since opset 19.
pub fn opset_of_weights(graph: &Graph, policy: &Policy) -> Result<i64> {
    let narrow = |node: &NodeProto| {
        let weight = weight_of(graph, policy, node).ok().and_then(|slot| node.input_at(slot));
        weight.and_then(|w| graph.stated_dtype(w)).is_some_and(|d| d != DataType::Float)
    };
    if graph.nodes().any(|(_, node)| narrow(node)) {
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

/// The slot of the node's weight, or why it stays float.
fn weight_of(graph: &Graph, policy: &Policy, node: &NodeProto) -> Result<usize, String> {
    let rule = OpRule::of(node).filter(|r| r.role == Role::Compute).ok_or("it has no weight")?;
    let slot = rule.weight_slot().ok_or("it has no weight")?;
    if let Some(reason) = policy.unwanted(graph, node) {
        return Err(reason);
    }
    let name = node.input_at(slot).ok_or("it has no weight")?;
    if graph.sparse_initializer(name).is_some() {
        return Err(format!("its weight `{name}` is sparse"));
    }
    let tensor = graph.initializer(name).ok_or_else(|| format!("its weight `{name}` is not a constant"))?;
    match DataType::try_from(tensor.data_type()) {
        Ok(DataType::Float | DataType::Float16 | DataType::Bfloat16) => Ok(slot),
        Ok(other) => Err(format!("its weight `{name}` is {}, not float32, float16 or bfloat16", dtype_name(other))),
        Err(_) => Err(format!("the type of its weight `{name}` is unknown")),
    }
}

/// Scales and zero points for the weight, or why it stays float.
fn fit(graph: &Graph, policy: &Policy, at: Use) -> Result<Result<ConstantDecision, String>> {
    let Some((node, rule)) = graph.node(at.node).and_then(|n| Some((n, OpRule::of(n)?))) else {
        return Ok(Err("it has no rule".into()));
    };
    let initializer = node.input_at(at.slot).unwrap_or_default().to_owned();
    let Some(tensor) = graph.constant(&initializer)? else { return Ok(Err("it has no weight".into())) };
    if tensor.is_empty() {
        return Ok(Err(format!("its weight `{initializer}` holds no number")));
    }
    let scheme = policy.weight_scheme(rule, node, tensor.shape(), false);
    let ranges = weight_ranges(&tensor, &scheme, policy.weight_clip);
    release(tensor.bytes());
    let Ok(ranges) = ranges else {
        return Ok(Err(format!("`{initializer}` holds numbers that are not finite")));
    };
    let params = QuantParams::from_ranges_stored(&scheme, &ranges, |scale| stored(tensor.dtype(), scale))
        .at(|| format!("initializer `{initializer}`"))?;
    Ok(Ok(ConstantDecision { initializer, params, part: Part::Weight, chosen: None }))
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
