//! Small models for the tests of passes.

use std::fmt::Write;

use super::{Context, Pass, Skipped};
use crate::error::Result;
use crate::events::Silent;
use crate::model::{
    AttributeProto, DataType, GraphProto, Model, ModelProto, NodeExt, NodeProto, Tensor, TensorProto, ValueInfoProto,
};
use crate::proto::{
    OperatorSetIdProto, TensorShapeProto, TypeProto, attribute_proto::AttributeType, tensor_shape_proto, type_proto,
};

/// A node; names are separated by spaces, and `_` stands for one that is left out.
pub(crate) fn node(op: &str, inputs: &str, outputs: &str, attributes: &[AttributeProto]) -> NodeProto {
    let names = |s: &str| s.split_whitespace().map(|n| if n == "_" { String::new() } else { n.to_owned() }).collect();
    NodeProto {
        op_type: Some(op.into()),
        input: names(inputs),
        output: names(outputs),
        attribute: attributes.to_vec(),
        ..Default::default()
    }
}

/// A float tensor value of that rank, or of no stated type.
pub(crate) fn value(name: &str, rank: Option<usize>) -> ValueInfoProto {
    let shape = |rank| TensorShapeProto { dim: vec![tensor_shape_proto::Dimension::default(); rank] };
    let tensor = |rank| type_proto::Tensor { elem_type: Some(DataType::Float as i32), shape: Some(shape(rank)) };
    ValueInfoProto {
        name: Some(name.into()),
        r#type: rank
            .map(|rank| TypeProto { value: Some(type_proto::Value::TensorType(tensor(rank))), ..Default::default() }),
        ..Default::default()
    }
}

/// An attribute that holds a subgraph.
pub(crate) fn subgraph(name: &str, graph: GraphProto) -> AttributeProto {
    let kind = Some(AttributeType::Graph as i32);
    AttributeProto { name: Some(name.into()), g: Some(graph), r#type: kind, ..Default::default() }
}

/// A float32 initializer.
pub(crate) fn floats(name: &str, shape: &[usize], x: &[f32]) -> TensorProto {
    Tensor::from_f32(shape.to_vec(), x.to_vec()).to_proto(name)
}

/// A graph whose inputs and outputs (names separated by spaces) have no stated type.
pub(crate) fn graph(inputs: &str, nodes: Vec<NodeProto>, initializer: Vec<TensorProto>, outputs: &str) -> GraphProto {
    let values = |s: &str| s.split_whitespace().map(|n| value(n, None)).collect();
    GraphProto { node: nodes, initializer, input: values(inputs), output: values(outputs), ..Default::default() }
}

/// A model of that opset.
pub(crate) fn model(opset: i64, graph: GraphProto) -> Model {
    Model::from_proto(ModelProto {
        ir_version: Some(3),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(opset) }],
        graph: Some(graph),
        ..Default::default()
    })
    .unwrap()
}

/// Runs a pass as the pipeline does; returns how many places changed, and what was left alone.
pub(crate) fn run(pass: &dyn Pass, model: &mut Model) -> Result<(usize, Vec<Skipped>)> {
    let mut cx = Context::new(None, &Silent);
    let changed = super::run(pass, model, &mut cx)?;
    Ok((changed, cx.skipped))
}

/// The nodes, a line each: `y = Gemm(a, w, b) alpha=2`; integer constants in place of their names.
pub(crate) fn lines(graph: &GraphProto) -> Vec<String> {
    let constant = |name: &str| {
        let t = graph.initializer.iter().find(|t| t.name() == name)?;
        let t = Tensor::from_proto(t).ok()?;
        let x = t.i64s().ok().filter(|_| t.dtype() == DataType::Int64)?;
        Some(if t.shape().is_empty() { x[0].to_string() } else { format!("{x:?}") })
    };
    let line = |n: &NodeProto| {
        let inputs: Vec<_> = n.input.iter().map(|i| constant(i).unwrap_or_else(|| i.clone())).collect();
        let mut line = format!("{} = {}({})", n.output.join(", "), n.operator(), inputs.join(", "));
        for a in &n.attribute {
            let _ = match a.r#type() {
                AttributeType::Int => write!(line, " {}={}", a.name(), a.i()),
                AttributeType::Float => write!(line, " {}={}", a.name(), a.f()),
                AttributeType::Ints => write!(line, " {}={:?}", a.name(), a.ints),
                AttributeType::Floats => write!(line, " {}={:?}", a.name(), a.floats),
                AttributeType::String => write!(line, " {}={}", a.name(), String::from_utf8_lossy(a.s())),
                _ => write!(line, " {}", a.name()),
            };
        }
        line
    };
    graph.node.iter().map(line).collect()
}
