//! Biases at another scale than the sums they are added to.

use super::{Cost, Rule, Scene};
use crate::model::{DataType, NodeExt, NodeId, NodeProto};
use crate::rule::OpRule;

/// An int32 bias whose scale is not that of the input times that of the weight: one that layers with inputs of
/// different scales share, for instance.
///
/// Source: ONNX QLinearConv-10 (the bias is at `x_scale * w_scale`, and no slot says otherwise).
pub const RULE: Rule = Rule {
    name: "bias-scale",
    costs: Cost::Accuracy,
    why: "integer kernels take the codes of a bias for multiples of input scale times weight scale, whatever its own scale says",
    way_out: "store the bias once for each layer, at the scale of that layer's sums",
    look,
};

/// How far scales may be apart, relative to the larger: both are products of floats.
const NEAR: f64 = 1e-3;

fn look(scene: &Scene<'_>) -> Vec<(NodeId, String)> {
    scene.layers().filter_map(|(id, node, rule)| Some((id, apart(scene, node, rule)?))).collect()
}

fn apart(scene: &Scene<'_>, node: &NodeProto, rule: &OpRule) -> Option<String> {
    let bias = scene
        .stored(node.input_at(rule.bias?)?)
        .filter(|b| b.linear.dtype == DataType::Int32 && !b.linear.scales.is_empty())?;
    let (_, dequantize) = scene.activation(node.input_at(0)?)?;
    let input = f64::from(*scene.one_scale(dequantize)?.scales.first()?);
    let weight = scene.weight_scales(node.input_at(1)?)?;
    let count = bias.linear.scales.len().max(weight.len());
    let at = |scales: &[f32], i: usize| f64::from(scales[i % scales.len()]);
    let ratio = |i: usize| at(&bias.linear.scales, i) / (input * at(&weight, i));
    let apart: Vec<f64> = (0..count).map(ratio).filter(|r| (r - 1.0).abs() > NEAR).collect();
    let worst = apart.iter().copied().max_by(|a, b| a.ln().abs().total_cmp(&b.ln().abs()))?;
    let of = format!(
        "{} of {count} scales of the bias `{}` are not those of the sums, up to {worst:.3} times",
        apart.len(),
        bias.name
    );
    let users: Vec<&str> = readers(scene, &bias.name).into_iter().filter(|n| *n != node.title()).collect();
    Some(match users.first() {
        Some(other) => format!("{of}; `{other}` reads it too"),
        None => of,
    })
}

/// The nodes that read a constant through DequantizeLinear.
fn readers<'a>(scene: &Scene<'a>, constant: &str) -> Vec<&'a str> {
    let dequantize = scene.graph.uses(constant).iter().filter_map(|u| scene.graph.node(u.node));
    let real = dequantize.filter_map(|n| n.output_at(0)).flat_map(|real| scene.graph.uses(real));
    real.filter_map(|u| scene.graph.node(u.node)).map(|n| n.title()).collect()
}
