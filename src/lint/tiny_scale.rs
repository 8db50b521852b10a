//! Scales of zero, and next to it.

use super::{Cost, Rule, Scene};
use crate::model::{Linear, NodeId, NodeProto};

/// A Q/DQ node with a scale of zero, or with one so small that its product with another such is no normal float.
///
/// Scales of zero are allowed for weights in blocks that are all zero.
pub const RULE: Rule = Rule {
    name: "tiny-scale",
    costs: Cost::Accuracy,
    why: "a division by it overflows, and scales of sums, which are products of two, become zero",
    way_out: "calibrate with samples that reach this value; a channel or value of zeros may take the scale of its neighbours",
    look,
};

/// The root of the smallest normal float32.
const TINY: f32 = 1.084_202e-19;

fn look(scene: &Scene<'_>) -> Vec<(NodeId, String)> {
    let found = |(id, node): (NodeId, &NodeProto)| {
        let linear = Linear::read(scene.graph, node).ok()?;
        let zero = linear.scales.iter().filter(|&&s| s == 0.0 && linear.blocks.is_none()).count();
        let tiny = linear.scales.iter().filter(|&&s| s != 0.0 && s.abs() < TINY).count();
        let of = linear.scales.len();
        match (zero, tiny) {
            (0, 0) => None,
            (0, _) => Some((id, format!("{tiny} of {of} scales are below {TINY:e}"))),
            _ => Some((id, format!("{zero} of {of} scales are zero"))),
        }
    };
    let nodes = scene.graph.nodes().filter(|(_, n)| Linear::quantizes(n) || Linear::dequantizes(n));
    nodes.filter_map(found).collect()
}
