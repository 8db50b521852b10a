//! MatMul behind weights in blocks becomes MatMulNBits.

use std::collections::HashMap;

use rayon::prelude::*;

use crate::error::{Error, ErrorKind, Place, Result};
use crate::integer::{Packed, pack_blocks};
use crate::model::{Graph, Linear, NodeExt, NodeId, NodeProto, Scratch, attribute, release};
use crate::number::Granularity;
use crate::plan::{ConstantDecision, Plan, Verdict};

/// The operator set of MatMulNBits.
pub(super) const DOMAIN: &str = "com.microsoft";

/// Puts MatMulNBits in the place of the nodes that the plan calls packed, whose weights [`Insert`](super::Insert) has
/// stored as codes in blocks.
///
/// - **Does**: packs the codes of `[K, N]` into bytes along `K`, in 2, 4 or 8 bits each, whichever holds the format;
///   those of signed formats `2^(bits - 1)` higher, which is the zero point that the operator takes by default.
///   `accuracy_level` is left out: the runtime computes in the type of the input.
/// - **Skips when** the plan says otherwise.
/// - **Before**: `y = MatMul(x, DequantizeLinear(w, scale, zero))`. **After**: `y = MatMulNBits(x, w, scale, zero)`.
/// - **Source**: onnxruntime, docs/ContribOperators.md, com.microsoft.MatMulNBits.
pub(super) fn pack_weights(graph: &mut Graph, plan: &Plan, scratch: Option<&Scratch>) -> Result<()> {
    let packed: Vec<NodeId> = plan.nodes.iter().filter(|d| d.verdict == Verdict::Packed).map(|d| d.node).collect();
    let decisions: HashMap<NodeId, &ConstantDecision> = plan.constants.iter().map(|(at, d)| (at.node, d)).collect();
    // The weights, each once, by the value that they are dequantized to.
    let mut weights: Vec<(&str, NodeId)> = Vec::new();
    for &id in &packed {
        let value = graph.node(id).and_then(|n| n.input_at(1)).unwrap_or_default();
        if !weights.iter().any(|(w, _)| *w == value) {
            weights.push((value, id));
        }
    }
    let weights: Vec<Result<(String, Weight)>> = weights
        .into_par_iter()
        .map(|(value, id)| Ok((value.to_owned(), Weight::of(graph, id, decisions.get(&id), scratch)?)))
        .collect();
    let mut names = HashMap::new();
    for weight in weights {
        let (value, weight) = weight?;
        names.insert(value, weight.put(graph));
    }
    for &id in &packed {
        let Some(node) = graph.node(id) else { continue };
        let value = node.input_at(1).unwrap_or_default().to_owned();
        let Some((constants, attributes)) = names.get(&value) else { continue };
        let x = node.input_at(0).unwrap_or_default().to_owned();
        let packed = NodeProto {
            op_type: Some("MatMulNBits".to_owned()),
            domain: Some(DOMAIN.to_owned()),
            input: std::iter::once(x).chain(constants.iter().cloned()).collect(),
            attribute: attributes.iter().map(|&(name, n)| attribute::int(name, n)).collect(),
            ..node.clone()
        };
        graph.edit(id, |n| *n = packed)?;
        if graph.uses(&value).is_empty()
            && !graph.is_pinned(&value)
            && let Some((dequantize, _)) = graph.producer(&value)
        {
            graph.remove(dequantize);
        }
    }
    Ok(())
}

/// Whether MatMulNBits stands anywhere in the plan.
pub(super) fn packs(plan: &Plan) -> bool {
    plan.nodes.iter().any(|d| d.verdict == Verdict::Packed) || plan.bodies.values().any(packs)
}

/// A weight in its packed form.
struct Weight {
    base: String,
    packed: Packed,
    attributes: Vec<(&'static str, i64)>,
}

impl Weight {
    fn of(
        graph: &Graph,
        id: NodeId,
        decision: Option<&&ConstantDecision>,
        scratch: Option<&Scratch>,
    ) -> Result<Weight> {
        let label = || graph.label(id);
        let missing =
            || Error::new(ErrorKind::InvalidModel, "its weight is not behind DequantizeLinear in blocks").at(label());
        let node = graph.node(id).ok_or_else(missing)?;
        let behind = node.input_at(1).and_then(|w| graph.producer(w)).and_then(|(id, _)| graph.node(id));
        let linear = behind.filter(|n| Linear::dequantizes(n)).ok_or_else(missing)?;
        let (codes, scale) = linear.input_at(0).zip(linear.input_at(1)).ok_or_else(missing)?;
        let (codes, scale) = graph.constant(codes)?.zip(graph.constant(scale)?).ok_or_else(missing)?;
        let decision = decision.ok_or_else(missing)?;
        let (params, &[k, n]) = (&decision.params, codes.shape()) else { return Err(missing()) };
        let Granularity::Block { axis: 0, size } = params.granularity() else { return Err(missing()) };
        let bits = params.format().bits.next_power_of_two();
        let form = (size, bits, params.format().signed());
        let mut packed = pack_blocks([k, n], &codes.codes()?, &scale, params.zero_points(), form).at(label)?;
        release(codes.bytes());
        if let Some(scratch) = scratch {
            packed.codes = scratch.keep(packed.codes)?;
        }
        let attributes = [("K", k), ("N", n), ("bits", bits as usize), ("block_size", size)];
        let attributes = attributes.into_iter().map(|(name, n)| (name, n as i64)).collect();
        Ok(Weight { base: decision.initializer.clone(), packed, attributes })
    }

    /// Puts the constants into the graph; returns their names, and the attributes of nodes that read them.
    fn put(self, graph: &mut Graph) -> (Vec<String>, Vec<(&'static str, i64)>) {
        let base = &self.base;
        let mut add = |end: &str, t| graph.add_constant_beside(base, &format!("{base}_{end}"), t);
        let mut names = vec![add("packed", &self.packed.codes), add("scale", &self.packed.scales)];
        names.extend(self.packed.zero_points.as_ref().map(|z| add("zero_point", z)));
        (names, self.attributes)
    }
}
