//! Activations with a scale for each channel.

use super::{Cost, Rule, Scene};
use crate::model::{Linear, NodeExt, NodeId, NodeProto};

/// A QuantizeLinear of an activation with several scales.
pub const RULE: Rule = Rule {
    name: "per-channel-activation",
    costs: Cost::Speed,
    why: "kernels sum over the channels of their input in integers, which needs one scale for all of them",
    way_out: "give the activation one scale; equalize channels that differ much",
    look,
};

fn look(scene: &Scene<'_>) -> Vec<(NodeId, String)> {
    let found = |(id, node): (NodeId, &NodeProto)| {
        let value = node.input_at(0).filter(|x| !scene.graph.is_constant(x))?;
        let linear = Linear::read(scene.graph, node).ok().filter(|l| l.scales.len() > 1)?;
        Some((id, format!("`{value}` has {} scales", linear.scales.len())))
    };
    scene.graph.nodes().filter(|(_, n)| Linear::quantizes(n)).filter_map(found).collect()
}
