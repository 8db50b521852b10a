//! Sums of two products past int16.

use super::{Cost, Rule, Scene};
use crate::model::{DataType, NodeExt, NodeId, NodeProto};
use crate::rule::WeightMatrix;

/// A layer with uint8 activations and int8 weights two neighbours of which can pass int16 together:
/// `255 * (|w_k| + |w_k+1|) > 32767` for weights of one sign, the larger of both signs' sums for others.
///
/// Depthwise convolutions are left out: their kernel multiplies in 16 bits.
///
/// Source: VPMADDUBSW, which saturates the sum of two products of uint8 and int8 to int16 (Intel's instruction set
/// reference); onnxruntime's MLAS uses it on x86 without VNNI, qdwconv.cpp for depthwise convolutions does not.
pub const RULE: Rule = Rule {
    name: "int16-sum",
    costs: Cost::Accuracy,
    why: "x86 processors without VNNI add two products in int16, and cut off what does not fit; others do not",
    way_out: "where such processors are to run the model, use weights of 7 bits or int8 activations",
    look,
};

/// The largest code of an activation.
const LARGEST: i64 = 255;

fn look(scene: &Scene<'_>) -> Vec<(NodeId, String)> {
    scene.layers().filter_map(|(id, node, _)| Some((id, past(scene, node)?))).collect()
}

fn past(scene: &Scene<'_>, node: &NodeProto) -> Option<String> {
    let (_, dequantize) = scene.activation(node.input_at(0)?)?;
    scene.one_scale(dequantize).filter(|l| l.dtype == DataType::Uint8)?;
    let weight = scene.stored(node.input_at(1)?).filter(|w| w.linear.dtype == DataType::Int8)?;
    let shape = weight.codes.shape();
    let matrix = WeightMatrix::of(node, shape)?;
    if node.is("Conv") && matrix.groups > 1 && shape.get(1) == Some(&1) {
        return None;
    }
    let codes = weight.codes.codes().ok()?;
    let mut sums: Vec<i64> = Vec::with_capacity(matrix.groups * matrix.rows);
    for group in 0..matrix.groups {
        let part = matrix.matrix(group, &codes);
        sums.extend(part.chunks(matrix.columns.max(1)).map(largest));
    }
    let past = sums.iter().filter(|&&s| s > i64::from(i16::MAX)).count();
    let most = sums.iter().max()?;
    (past > 0).then(|| {
        let share = 100.0 * past as f64 / sums.len() as f64;
        format!("{past} of {} channels ({share:.0} %) may pass 32767, up to {most}", sums.len())
    })
}

/// The largest magnitude that two neighbouring products can add up to.
fn largest(weights: &[i32]) -> i64 {
    let pair = |w: &[i32]| {
        let (a, b) = (i64::from(w[0]), i64::from(w[1]));
        LARGEST * (a.max(0) + b.max(0)).max((-a).max(0) + (-b).max(0))
    };
    weights.windows(2).map(pair).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_neighbours_of_one_sign_add_up() {
        for (weights, sum) in [
            (&[127, 127][..], 64770),
            (&[127, -127], 32385),
            (&[-128, -1], 32895),
            (&[64, 64, -128], 32640),
            (&[64, 0, 64], 16320),
            (&[127], 0),
            (&[], 0),
        ] {
            assert_eq!(largest(weights), sum, "{weights:?}");
        }
    }
}
