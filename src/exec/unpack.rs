//! Constants of types that engines do not know, in types that they do.

use crate::error::Result;
use crate::model::{DataType, Graph, Linear, NodeExt, Tensor, bits};

/// The type in which engines hold elements of this one: integers below 8 bits in 8, every other one as it is.
pub(super) fn held_as(dtype: DataType) -> DataType {
    match dtype {
        DataType::Int2 | DataType::Int4 => DataType::Int8,
        DataType::Uint2 | DataType::Uint4 => DataType::Uint8,
        other => other,
    }
}

/// Stores integer constants below 8 bits in 8, which operators that move them do not notice, and the result of a Cast
/// to float32 of a constant below 16 bits in its place.
///
/// What QuantizeLinear reads stays: its zero point says where codes saturate. So does what subgraphs read.
/// Errors, naming the tensor, when a constant cannot be read.
pub(super) fn unpack(graph: &mut Graph) -> Result<()> {
    for id in graph.node_ids() {
        let Some(node) = graph.node(id).filter(|n| n.is("Cast") && n.int("to") == Some(DataType::Float as i64)) else {
            continue;
        };
        let (Some(input), Some(output)) = (node.input_at(0), node.output_at(0)) else { continue };
        let narrow = graph.stated_dtype(input).and_then(bits).is_some_and(|bits| bits < 16);
        if let Some(constant) = graph.constant(input)?.filter(|_| narrow) {
            let (output, x) = (output.to_owned(), constant.reals()?.into_owned());
            graph.remove(id);
            graph.set_initializer(Tensor::from_f32(constant.shape().to_vec(), x).to_proto(&output));
        }
    }
    let quantizes = |name: &str| graph.uses(name).iter().any(|u| graph.node(u.node).is_some_and(Linear::quantizes));
    let mut wide = Vec::new();
    for t in graph.initializers().filter(|t| !quantizes(t.name()) && !graph.is_pinned(t.name())) {
        let Ok(dtype) = DataType::try_from(t.data_type()) else { continue };
        if held_as(dtype) != dtype {
            let tensor = Tensor::from_proto(t)?;
            let codes = tensor.codes()?.into_iter().map(|q| q as u8).collect::<Vec<u8>>();
            wide.push(Tensor::new(held_as(dtype), tensor.shape().to_vec(), codes.into())?.to_proto(t.name()));
        }
    }
    wide.into_iter().for_each(|t| graph.set_initializer(t));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{GraphProto, NodeProto, TensorProto, attribute};

    fn node(op: &str, inputs: &[&str], output: &str) -> NodeProto {
        NodeProto {
            op_type: Some(op.into()),
            input: inputs.iter().map(|s| s.to_string()).collect(),
            output: vec![output.into()],
            ..Default::default()
        }
    }

    fn four_bits(name: &str) -> TensorProto {
        Tensor::new(DataType::Int4, vec![2], vec![0xf7].into()).unwrap().to_proto(name)
    }

    #[test]
    fn codes_are_held_wider_but_for_those_that_say_where_to_saturate() {
        let mut cast = node("Cast", &["c"], "f");
        cast.set(attribute::int("to", DataType::Float as i64));
        let nodes = vec![
            cast,
            node("Transpose", &["m"], "t"),
            node("QuantizeLinear", &["f", "s", "z"], "q"),
            node("Foo", &["t", "q"], "y"),
        ];
        let mut initializer: Vec<TensorProto> = ["c", "m", "z"].map(four_bits).into();
        initializer.push(Tensor::from_f32(vec![2], vec![1.0; 2]).to_proto("s"));
        let mut graph = Graph::from_proto(GraphProto { node: nodes, initializer, ..Default::default() }).unwrap();
        unpack(&mut graph).unwrap();
        graph.check().unwrap();
        let value = |name: &str| graph.constant(name).unwrap().unwrap();
        assert_eq!((value("f").dtype(), &value("f").f32s().unwrap()[..]), (DataType::Float, &[7.0, -1.0][..]));
        assert_eq!((value("m").dtype(), value("m").i64s().unwrap()), (DataType::Int8, vec![7, -1]));
        assert_eq!(value("z").dtype(), DataType::Int4);
    }
}
