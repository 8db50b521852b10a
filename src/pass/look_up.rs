//! Rounding to numbers of a table, in float.

use crate::error::Result;
use crate::model::{At, AttributeProto, DataType, Graph, NodeProto, Tensor, attribute};
use crate::number::{Grid, QuantParams};

/// Adds what [`look_up`] reads to the graph: the thresholds between the numbers, and the numbers.
pub(super) fn add_table(graph: &mut Graph, base: &str, params: &QuantParams) -> (String, String) {
    let grid = Grid::of(params, 0);
    let (thresholds, numbers) = (grid.thresholds(), (grid.lowest..=grid.highest).map(|code| grid.real(code)).collect());
    let mut constant = |end: &str, x: Vec<f32>| {
        graph.add_constant_beside(base, &format!("{base}_{end}"), &Tensor::from_f32(vec![x.len()], x))
    };
    (constant("thresholds", thresholds), constant("numbers", numbers))
}

/// Puts what rounds `float` to the nearest number of a table, as `real`, into the graph.
///
/// ```text
/// x -> Unsqueeze(-1) -> GreaterOrEqual(thresholds) -> Cast(int32) -> ReduceSum(-1) -> Gather(numbers) -> y
/// ```
///
/// The place of a number is how many thresholds it reaches, so that no logarithm is taken whose last bit decides: the same
/// numbers as [`fake_quantize`](crate::number::fake_quantize) makes, bit for bit, NaN included. What lies between is as many
/// times as large as the value as there are thresholds: it simulates hardware that computes on such codes, and is not fast.
///
/// Source: ai.onnx Unsqueeze-13, GreaterOrEqual-12, ReduceSum-13, Gather-13.
pub(super) fn look_up(
    graph: &mut Graph,
    at: At,
    base: &str,
    [float, real]: [&str; 2],
    (thresholds, numbers): (&str, &str),
) -> Result<()> {
    let last = Tensor::from_i64(vec![1], vec![-1]);
    let axis = graph.add_constant_beside(base, &format!("{base}_axis"), &last);
    let int32 = attribute::int("to", DataType::Int32 as i64);
    let drop = attribute::int("keepdims", 0);
    let steps: [(&str, &str, Vec<AttributeProto>, &str); 4] = [
        ("Unsqueeze", &axis, vec![], "spread"),
        ("GreaterOrEqual", thresholds, vec![], "reached"),
        ("Cast", "", vec![int32], "ones"),
        ("ReduceSum", &axis, vec![drop], "place"),
    ];
    let mut value = float.to_owned();
    let mut nodes = Vec::new();
    let mut add = |graph: &mut Graph, op: &str, input: Vec<String>, attribute: Vec<AttributeProto>, output: &str| {
        nodes.push(NodeProto {
            name: Some(graph.fresh_name(&format!("{base}_{op}"))),
            op_type: Some(op.to_owned()),
            input,
            output: vec![output.to_owned()],
            attribute,
            ..Default::default()
        });
    };
    for (op, other, attributes, end) in steps {
        let input = [&value, other].into_iter().filter(|name| !name.is_empty()).map(str::to_owned).collect();
        let output = graph.fresh_name(&format!("{base}_{end}"));
        add(graph, op, input, attributes, &output);
        value = output;
    }
    add(graph, "Gather", vec![numbers.to_owned(), value], vec![], real);
    let mut at = at;
    for node in nodes {
        at = At::After(graph.insert(at, node)?);
    }
    Ok(())
}
