//! A ReLU or Clip that stays between a layer and its codes.

use super::{Cost, Rule, Scene};
use crate::model::{NodeExt, NodeId, NodeProto};
use crate::number::Range;
use crate::rule::{OpRule, Role};

/// A ReLU or Clip behind a quantized layer, in front of QuantizeLinear, that the range of the codes does not replace.
///
/// Source: onnxruntime's `ClipQuantFusion` and `ReluQuantFusion` (core/optimizer/qdq_transformer), which take it out where the
/// codes end at its bounds.
pub const RULE: Rule = Rule {
    name: "unfused-bound",
    costs: Cost::Speed,
    why: "the layer computes in float, since its codes are not made right behind it",
    way_out: "make the bounds constants, let nothing else read what comes before them, and use affine activations, whose \
              codes can end at 0",
    look,
};

fn look(scene: &Scene<'_>) -> Vec<(NodeId, String)> {
    let bound = |node: &NodeProto| OpRule::of(node).is_some_and(|r| r.role == Role::Bound);
    let found = |(id, node): (NodeId, &NodeProto)| {
        let input = node.input_at(0)?;
        let (_, layer) =
            scene.producer(input).filter(|(_, n)| OpRule::of(n).is_some_and(|r| r.role == Role::Compute))?;
        layer.input_at(0).and_then(|x| scene.activation(x))?;
        let output = node.output_at(0)?;
        let (_, quantize) = scene.quantizes(output).next()?;
        Some((id, stays_because(scene, node, input, quantize)?))
    };
    scene.graph.nodes().filter(|(_, n)| bound(n)).filter_map(found).collect()
}

/// Why the node stays; `None` if it does not.
fn stays_because(scene: &Scene<'_>, node: &NodeProto, input: &str, quantize: &NodeProto) -> Option<String> {
    if scene.graph.only_use(input).is_none() {
        return Some(format!("`{input}` in front of it is read elsewhere too"));
    }
    let Some((low, high)) = bounds(scene, node) else { return Some("its bounds are not constant".to_owned()) };
    let params = scene.one_scale(quantize)?.params_of_any_rank().ok()?;
    let (reach, half) = (params.reach(0), 0.5 * params.scales()[0]);
    let reach = Range::new(reach.0, reach.1)?;
    let inside = reach.min() >= low - half && reach.max() <= high + half;
    (!inside).then(|| {
        let shown = |x: f32| if x.is_finite() { format!("{x}") } else { "no end".to_owned() };
        format!(
            "the codes behind it reach {} to {}, past its bounds {} to {}",
            reach.min(),
            reach.max(),
            shown(low),
            shown(high)
        )
    })
}

/// The bounds; `None` where they are not constant.
fn bounds(scene: &Scene<'_>, node: &NodeProto) -> Option<(f32, f32)> {
    if node.is("Relu") {
        return Some((0.0, f32::INFINITY));
    }
    let bound = |slot: usize, name: &str, open: f32| match node.input_at(slot) {
        // Before opset 11 bounds were attributes.
        None => Some(node.float(name).unwrap_or(open)),
        Some(input) => scene.graph.constant(input).ok()??.f32s().ok()?.first().copied(),
    };
    Some((bound(1, "min", f32::NEG_INFINITY)?, bound(2, "max", f32::INFINITY)?))
}
