//! Biases past int32.

use super::{Cost, Rule, Scene};
use crate::model::{DataType, NodeExt, NodeId, NodeProto};
use crate::rule::OpRule;

/// A bias that does not fit int32 at the scale of the sums: codes that were cut off at its end, or floats that would be.
///
/// Source: onnxruntime issue 21000 (bias of a Conv with tiny scales cut off, silently).
pub const RULE: Rule = Rule {
    name: "bias-overflow",
    costs: Cost::Accuracy,
    why: "a bias is added in int32 at input scale times weight scale; what does not fit is cut off",
    way_out: "give the weights of these channels a wider range, as `qdq quantize` does",
    look,
};

fn look(scene: &Scene<'_>) -> Vec<(NodeId, String)> {
    scene.layers().filter_map(|(id, node, rule)| Some((id, overflow(scene, node, rule)?))).collect()
}

fn overflow(scene: &Scene<'_>, node: &NodeProto, rule: &OpRule) -> Option<String> {
    let name = node.input_at(rule.bias?)?;
    if let Some(bias) = scene.stored(name).filter(|b| b.linear.dtype == DataType::Int32) {
        let codes = bias.codes.codes().ok()?;
        let cut = codes.iter().filter(|&&c| c == i32::MAX || c <= -i32::MAX).count();
        return (cut > 0)
            .then(|| format!("{cut} of {} numbers of `{}` stand at the ends of int32", codes.len(), bias.name));
    }
    let bias = scene.graph.constant(name).ok()??;
    let (_, dequantize) = scene.activation(node.input_at(0)?)?;
    let input = f64::from(*scene.one_scale(dequantize)?.scales.first()?);
    let weight = scene.weight_scales(node.input_at(1)?)?;
    let numbers = bias.f32s().ok()?;
    let code = |(i, &b): (usize, &f32)| (f64::from(b) / (input * f64::from(weight[i % weight.len()]))).abs();
    let past = numbers.iter().enumerate().map(code).filter(|c| *c > f64::from(i32::MAX)).count();
    (past > 0)
        .then(|| format!("{past} of {} numbers of `{name}` do not fit int32 at the scale of the sums", numbers.len()))
}
