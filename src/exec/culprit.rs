//! Which node an engine stumbles over, where the engine does not say it itself.

use crate::model::{Model, NodeId, ValueInfoProto};
use crate::proto::{TypeProto, type_proto};

/// The first node with which the model makes the engine stumble, as messages name it: found by halving, among the models
/// that end at each node. `None` where the engine stumbles over none of them.
pub(super) fn culprit(model: &Model, stumbles: impl Fn(&Model) -> bool) -> Option<String> {
    let ids: Vec<NodeId> = model.graph.node_ids();
    let places: Vec<usize> = (0..ids.len()).collect();
    let first = places.partition_point(|&last| !up_to(model, last).is_some_and(|m| stumbles(&m)));
    Some(model.graph.label(*ids.get(first)?))
}

/// The model that ends at the node in that place: its outputs are the model's.
fn up_to(model: &Model, last: usize) -> Option<Model> {
    let mut proto = model.to_proto();
    let graph = proto.graph.as_mut()?;
    graph.node.truncate(last + 1);
    let undefined = type_proto::Tensor { elem_type: Some(0), shape: None };
    let kind = TypeProto { value: Some(type_proto::Value::TensorType(undefined)), ..Default::default() };
    let outputs = graph.node.last()?.output.iter().filter(|name| !name.is_empty());
    graph.output = outputs
        .map(|name| ValueInfoProto { name: Some(name.clone()), r#type: Some(kind.clone()), ..Default::default() })
        .collect();
    Model::from_proto(proto).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{GraphProto, ModelProto, NodeProto};
    use crate::proto::OperatorSetIdProto;

    #[test]
    fn the_first_node_that_fails_is_named() {
        let names = ["x", "a", "b", "c", "d"];
        let node = |i: usize| NodeProto {
            op_type: Some(format!("Op{i}")),
            input: vec![names[i].into()],
            output: vec![names[i + 1].into()],
            ..Default::default()
        };
        let value = |name: &str| ValueInfoProto { name: Some(name.into()), ..Default::default() };
        let graph = GraphProto {
            node: (0..4).map(node).collect(),
            input: vec![value("x")],
            output: vec![value("d")],
            ..Default::default()
        };
        let opset_import = vec![OperatorSetIdProto { version: Some(13), ..Default::default() }];
        let model = Model::from_proto(ModelProto { graph: Some(graph), opset_import, ..Default::default() }).unwrap();
        for (i, name) in names.iter().enumerate().skip(1) {
            let found = culprit(&model, |m| m.graph.producer(name).is_some());
            assert_eq!(found, Some(format!("node of `{name}` (Op{})", i - 1)));
        }
        assert_eq!(culprit(&model, |_| false), None);
    }
}
