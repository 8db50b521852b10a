//! By what a model is known again.

use std::borrow::Cow;
use std::fmt::Write;

use prost::Message;
use sha2::{Digest, Sha256};

use super::{Model, NodeProto, Tensor, release};

/// The SHA-256 hash, in hexadecimal digits, of what the model computes: its operator sets, inputs, outputs, nodes,
/// constants and functions.
///
/// It does not depend on where the data of initializers are stored (as raw data, as lists of numbers, or in another
/// file), nor on metadata and notes of the model and its nodes, or what is said of the shapes of inner values.
pub fn fingerprint(model: &Model) -> String {
    let mut hash = Sha256::new();
    // Lengths in front keep neighbours apart.
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    let meta = model.metadata();
    let mut opsets: Vec<(&str, i64)> = meta.opset_import.iter().map(|o| (o.domain(), o.version())).collect();
    opsets.sort_unstable();
    for (domain, version) in opsets {
        part(domain.as_bytes());
        part(&version.to_le_bytes());
    }
    let graph = &model.graph;
    for value in graph.inputs().iter().chain(graph.outputs()) {
        part(value.name().as_bytes());
        part(&value.r#type.as_ref().map(Message::encode_to_vec).unwrap_or_default());
    }
    for (_, node) in graph.nodes() {
        part(&without_notes(node).encode_to_vec());
    }
    for proto in graph.initializers() {
        part(proto.name().as_bytes());
        part(&proto.data_type().to_le_bytes());
        proto.dims.iter().for_each(|d| part(&d.to_le_bytes()));
        match Tensor::from_proto(proto) {
            Ok(tensor) => {
                part(tensor.bytes());
                release(tensor.bytes());
            }
            // Strings, and what is broken.
            Err(_) => part(&proto.encode_to_vec()),
        }
    }
    graph.sparse_initializers().for_each(|t| part(&t.encode_to_vec()));
    meta.functions.iter().for_each(|f| part(&f.encode_to_vec()));
    hash.finalize().iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A node without what is only said of it.
fn without_notes(node: &NodeProto) -> Cow<'_, NodeProto> {
    if node.doc_string.is_none() && node.metadata_props.is_empty() {
        return Cow::Borrowed(node);
    }
    Cow::Owned(NodeProto { doc_string: None, metadata_props: Vec::new(), ..node.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{GraphProto, ModelProto, NodeProto, TensorProto};
    use crate::proto::OperatorSetIdProto;

    fn model(constant: TensorProto, op: &str) -> Model {
        let node = NodeProto {
            op_type: Some(op.into()),
            input: vec!["w".into()],
            output: vec!["y".into()],
            ..Default::default()
        };
        let graph = GraphProto { node: vec![node], initializer: vec![constant], ..Default::default() };
        let opset = OperatorSetIdProto { domain: None, version: Some(17) };
        Model::from_proto(ModelProto { opset_import: vec![opset], graph: Some(graph), ..Default::default() }).unwrap()
    }

    #[test]
    fn knows_what_computes_and_not_how_it_is_stored() {
        let raw = Tensor::from_f32(vec![2], vec![1.0, 2.0]).to_proto("w");
        let listed = TensorProto { raw_data: None, float_data: vec![1.0, 2.0], ..raw.clone() };
        let one = fingerprint(&model(raw.clone(), "Relu"));
        assert_eq!(one.len(), 64);
        assert_eq!(one, fingerprint(&model(listed, "Relu")));
        let mut noted = model(raw.clone(), "Relu");
        noted.set_metadata("note", "of no importance");
        assert_eq!(one, fingerprint(&noted));

        let mut others = vec![fingerprint(&model(raw.clone(), "Abs"))];
        for changed in [vec![1.0, 2.5], vec![2.0, 1.0]] {
            others.push(fingerprint(&model(Tensor::from_f32(vec![2], changed).to_proto("w"), "Relu")));
        }
        let mut raised = model(raw, "Relu");
        raised.state_opset(18);
        others.push(fingerprint(&raised));
        assert!(!others.contains(&one));
    }
}
