//! A model as far as shapes depend on it.

use std::collections::HashSet;

use crate::error::Result;
use crate::model::{DataType, Dim, InputSpec, Model, NodeExt, Tensor, ValueInfoProto};
use crate::proto::{TypeProto, type_proto};

/// The model with an input in the place of every large weight of a layer, and those inputs: what shapes depend on is
/// smaller.
pub(super) fn weightless(model: &Model) -> Result<(Model, Vec<InputSpec>)> {
    const LARGE: usize = 1 << 10;
    let layers = model.graph.nodes().filter(|(_, n)| ["Conv", "Gemm", "MatMul"].iter().any(|op| n.is(op)));
    let names: HashSet<&str> = layers.filter_map(|(_, n)| n.input_at(1)).collect();
    let mut proto = model.to_proto();
    let mut weights = Vec::new();
    let Some(graph) = proto.graph.as_mut() else { return Ok((model.clone(), weights)) };
    graph.initializer.retain(|t| {
        let float = t.data_type() == DataType::Float as i32;
        let large = float && Tensor::from_proto(t).is_ok_and(|t| t.len() >= LARGE);
        let alone = names.contains(t.name()) && model.graph.captured_by(t.name()).is_empty();
        if !large || !alone || model.graph.is_input(t.name()) {
            return true;
        }
        let shape = t.dims.iter().map(|&d| Dim::Fixed(d as usize)).collect();
        weights.push(InputSpec { name: t.name().to_owned(), dtype: DataType::Float, shape: Some(shape) });
        false
    });
    // The shape is in the specification; a type without one is enough here.
    let float = type_proto::Tensor { elem_type: Some(DataType::Float as i32), shape: None };
    let float = TypeProto { value: Some(type_proto::Value::TensorType(float)), ..Default::default() };
    graph.input.extend(weights.iter().map(|w| ValueInfoProto {
        name: Some(w.name.clone()),
        r#type: Some(float.clone()),
        ..Default::default()
    }));
    Ok((Model::from_proto(proto)?, weights))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{GraphProto, ModelProto, NodeProto};
    use crate::proto::OperatorSetIdProto;

    #[test]
    fn only_large_weights_of_layers_go() {
        let node = |op: &str, input: &[&str], output: &str| NodeProto {
            op_type: Some(op.into()),
            input: input.iter().map(|i| i.to_string()).collect(),
            output: vec![output.into()],
            ..Default::default()
        };
        let value = |name: &str| ValueInfoProto { name: Some(name.into()), ..Default::default() };
        let zeros = |name: &str, shape: &[usize]| {
            Tensor::from_f32(shape.to_vec(), vec![0.0; shape.iter().product()]).to_proto(name)
        };
        let graph = GraphProto {
            node: vec![
                node("MatMul", &["x", "large"], "a"),
                node("MatMul", &["a", "small"], "b"),
                node("Add", &["b", "added"], "y"),
            ],
            initializer: vec![zeros("large", &[2, 1024]), zeros("small", &[1023, 1]), zeros("added", &[4096, 1])],
            input: vec![value("x")],
            output: vec![value("y")],
            ..Default::default()
        };
        let opset = OperatorSetIdProto { version: Some(17), ..Default::default() };
        let proto = ModelProto { graph: Some(graph), opset_import: vec![opset], ..Default::default() };
        let (light, weights) = weightless(&Model::from_proto(proto).unwrap()).unwrap();
        let shape = Some(vec![Dim::Fixed(2), Dim::Fixed(1024)]);
        assert_eq!(weights, [InputSpec { name: "large".into(), dtype: DataType::Float, shape }]);
        assert_eq!(light.graph.initializers().map(|t| t.name()).collect::<Vec<_>>(), ["small", "added"]);
        assert_eq!(light.graph.inputs().iter().map(|v| v.name()).collect::<Vec<_>>(), ["x", "large"]);
    }
}
