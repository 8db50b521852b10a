//! Where ReLU and Clip cut off.

use crate::model::{Graph, NodeExt, NodeProto};

/// The bounds of a ReLU or Clip (ai.onnx, Relu-1, Clip-6 with attributes, Clip-11 with inputs): infinite where there is
/// none. `None` where they are no constants, and for other operators.
pub fn bounds(graph: &Graph, node: &NodeProto) -> Option<(f32, f32)> {
    if node.is("Relu") {
        return Some((0.0, f32::INFINITY));
    }
    if !node.is("Clip") {
        return None;
    }
    let bound = |slot: usize, attribute: &str, open: f32| match node.input_at(slot) {
        None => Some(node.float(attribute).unwrap_or(open)),
        Some(name) => graph.constant(name).ok()??.f32s().ok()?.first().copied(),
    };
    Some((bound(1, "min", f32::NEG_INFINITY)?, bound(2, "max", f32::INFINITY)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Tensor, attribute};

    #[test]
    fn bounds_are_inputs_or_attributes() {
        let mut graph = Graph::default();
        graph.set_initializer(Tensor::from_f32(vec![], vec![6.0]).to_proto("six"));
        let of = |op: &str, inputs: &[&str], attributes: Vec<_>| {
            let input = inputs.iter().map(|i| i.to_string()).collect();
            bounds(&graph, &NodeProto { op_type: Some(op.into()), input, attribute: attributes, ..Default::default() })
        };
        assert_eq!(of("Relu", &["x"], vec![]), Some((0.0, f32::INFINITY)));
        assert_eq!(of("Clip", &["x", "", "six"], vec![]), Some((f32::NEG_INFINITY, 6.0)));
        assert_eq!(of("Clip", &["x"], vec![attribute::float("min", -1.0)]), Some((-1.0, f32::INFINITY)));
        assert_eq!(of("Clip", &["x", "computed"], vec![]), None);
        assert_eq!(of("Abs", &["x"], vec![]), None);
    }
}
