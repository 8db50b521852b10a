//! A model as engines run it: without number formats.

use std::collections::HashSet;

use super::arithmetic::{fake_quantize, spell_out};
use super::densify::densify;
use super::unpack::unpack;
use crate::error::{Error, ErrorKind, Place, Result};
use crate::integer::expand;
use crate::model::{At, Graph, Linear, Model, NodeExt, NodeId, NodeProto, Tensor, attribute, hold_axes, widen};

/// The operator that stands for a QuantizeLinear and its DequantizeLinear: one input, one output, and the
/// parameters as attributes `format` (its name), `scales`, `zero_points`, `axis`.
pub const FAKE_QUANTIZE: &str = "QdqFakeQuantize";

/// An operator of ours that rounds float32 to the numbers of a narrower type, ties to even: attribute `format`, `float16` or
/// `bfloat16`. What is past the range becomes an infinity (IEEE 754-2019, section 4.3.1).
pub const ROUND_FLOAT: &str = "QdqRoundFloat";

/// Makes a copy of the model that computes the same in float32 alone.
///
/// Sparse constants become dense; float16 and bfloat16 are widened; operators on codes become float operators between Q
/// and DQ ([`expand`]); constants behind DequantizeLinear become float constants, whatever the type of their codes and
/// the shape of their scales; each QuantizeLinear with the DequantizeLinear nodes behind it becomes [`FAKE_QUANTIZE`];
/// what is left of both is written as arithmetic; constants of types that engines do not know are stored in others.
/// Subgraphs are treated alike. Operators on codes that have no float form stay. Errors name the node whose format is not
/// supported.
pub fn lower(model: &Model) -> Result<Model> {
    for t in model.graph.initializers() {
        hold_axes(t.dims.len()).at(|| format!("tensor `{}`", t.name()))?;
    }
    let mut model = model.clone();
    densify(&mut model.graph)?;
    widen(&mut model)?;
    lower_graph(&mut model)?;
    Ok(model)
}

/// Lowers a graph whose constants are dense, none of them float16 or bfloat16, and then its bodies: what these capture is
/// float by then.
fn lower_graph(model: &mut Model) -> Result<()> {
    expand(model, &mut |_, _, _| {})?;
    let graph = &mut model.graph;
    check_attributes(graph)?;
    for id in graph.node_ids() {
        let Some(node) = graph.node(id).filter(|n| Linear::dequantizes(n) && n.output.len() == 1) else { continue };
        let (Some(input), Some(output)) = (node.input_at(0), node.output_at(0)) else { continue };
        if let Some(codes) = graph.constant(input)? {
            let real = Linear::read(graph, node)?.dequantize(&codes).at(|| graph.label(id))?;
            let output = output.to_owned();
            graph.remove(id);
            graph.set_initializer(real.to_proto(&output));
        } else if let Some((quantize, _)) = graph.producer(input)
            && graph.node(quantize).is_some_and(|q| Linear::quantizes(q) && q.output.len() == 1)
            && graph.node(quantize).is_some_and(|q| has_constant_scale(graph, q))
            && has_constant_scale(graph, node)
        {
            fuse(graph, quantize, id)?;
        }
    }
    for id in graph.node_ids() {
        if graph.node(id).is_some_and(|n| Linear::quantizes(n) || Linear::dequantizes(n)) {
            spell_out(graph, id)?;
        }
    }
    unpack(graph)?;
    state_defaults(graph)?;
    graph.drop_unused_initializers();
    name_apart(graph)?;
    for id in graph.bodies() {
        model.edit_body(id, lower_graph)?;
    }
    Ok(())
}

/// Refuses what engines take for granted, and work on without end where it is not so: the axes of a Transpose are all
/// its axes, each once (ai.onnx, Transpose-1).
fn check_attributes(graph: &Graph) -> Result<()> {
    for (_, node) in graph.nodes().filter(|(_, n)| n.is("Transpose")) {
        let perm = node.ints("perm").unwrap_or_default();
        let mut sorted = perm.to_vec();
        sorted.sort_unstable();
        if !sorted.into_iter().eq(0..perm.len() as i64) {
            let message = format!("`perm` {perm:?} does not list every axis once");
            return Err(Error::new(ErrorKind::InvalidModel, message).at(node.label()));
        }
    }
    Ok(())
}

/// Writes out a default that engines take for another type: ConstantOfShape without a value makes float32 zeros
/// (ai.onnx, ConstantOfShape-9).
fn state_defaults(graph: &mut Graph) -> Result<()> {
    for id in graph.node_ids() {
        if graph.node(id).is_some_and(|n| n.is("ConstantOfShape") && n.tensor("value").is_none()) {
            let zero = Tensor::from_f32(vec![1], vec![0.0]).to_proto("");
            graph.edit(id, |n| n.set(attribute::tensor("value", zero)))?;
        }
    }
    Ok(())
}

/// Lets every node have a name that no other node and no value has, except its own first output: engines keep both
/// in one list.
fn name_apart(graph: &mut Graph) -> Result<()> {
    let mut taken: HashSet<String> = graph.inputs().iter().map(|v| v.name().to_owned()).collect();
    taken.extend(graph.initializers().map(|t| t.name().to_owned()));
    for id in graph.node_ids() {
        let Some(node) = graph.node(id) else { continue };
        let own = node.output_at(0);
        let clash = !node.name().is_empty() && own != Some(node.name()) && graph.producer(node.name()).is_some();
        let name = if clash || node.name().is_empty() { own.unwrap_or_default() } else { node.name() }.to_owned();
        let name = if taken.contains(&name) { graph.fresh_name(&name) } else { name };
        taken.insert(name.clone());
        graph.edit(id, |n| n.name = Some(name))?;
    }
    Ok(())
}

fn has_constant_scale(graph: &Graph, node: &NodeProto) -> bool {
    node.input_at(1).is_some_and(|s| graph.initializer(s).is_some())
}

/// Puts fake quantization in the place of a DequantizeLinear, and drops its QuantizeLinear once nothing reads that.
fn fuse(graph: &mut Graph, quantize: NodeId, dequantize: NodeId) -> Result<()> {
    let (Some(q), Some(dq)) = (graph.node(quantize), graph.node(dequantize)) else { return Ok(()) };
    let params = Linear::read(graph, q)?;
    let attribute = fake_quantize(&params).at(|| q.label())?;
    if params != Linear::read(graph, dq)? {
        return Ok(());
    }
    let (codes, real) = (q.output[0].clone(), dq.output[0].clone());
    let fused = NodeProto {
        name: dq.name.clone(),
        op_type: Some(FAKE_QUANTIZE.to_owned()),
        input: vec![q.input[0].clone()],
        output: vec![real],
        attribute,
        ..Default::default()
    };
    graph.remove(dequantize);
    graph.insert(At::After(quantize), fused)?;
    if graph.uses(&codes).is_empty() && !graph.is_pinned(&codes) {
        graph.remove(quantize);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DataType, GraphProto, ModelProto, TensorProto, ValueInfoProto};
    use crate::proto::OperatorSetIdProto;

    fn node(op: &str, inputs: &[&str], output: &str) -> NodeProto {
        NodeProto {
            op_type: Some(op.into()),
            input: inputs.iter().map(|s| s.to_string()).collect(),
            output: vec![output.into()],
            ..Default::default()
        }
    }

    #[test]
    fn pairs_become_fake_quantization_and_weights_become_floats() {
        let scalar = |name: &str, t: Tensor| t.to_proto(name);
        let codes = Tensor::new(crate::model::DataType::Int8, vec![2], vec![2u8, 0xff].into()).unwrap();
        let zero = Tensor::new(crate::model::DataType::Uint8, vec![], vec![3u8].into()).unwrap();
        let value = |n: &str| ValueInfoProto { name: Some(n.into()), ..Default::default() };
        let model = Model::from_proto(ModelProto {
            opset_import: vec![OperatorSetIdProto { domain: None, version: Some(13) }],
            graph: Some(GraphProto {
                node: vec![
                    node("QuantizeLinear", &["x", "s", "z"], "q"),
                    node("DequantizeLinear", &["q", "s", "z"], "d"),
                    node("DequantizeLinear", &["w", "s"], "wd"),
                    node("Mul", &["d", "wd"], "y"),
                ],
                initializer: vec![
                    scalar("s", Tensor::from_f32(vec![], vec![0.5])),
                    scalar("z", zero),
                    scalar("w", codes),
                ],
                input: vec![value("x")],
                output: vec![value("y")],
                ..Default::default()
            }),
            ..Default::default()
        })
        .unwrap();
        let lowered = lower(&model).unwrap();
        lowered.graph.check().unwrap();
        let ops: Vec<_> = lowered.graph.nodes().map(|(_, n)| n.op_type().to_owned()).collect();
        assert_eq!(ops, [FAKE_QUANTIZE, "Mul"]);
        assert_eq!(lowered.graph.constant("wd").unwrap().unwrap().f32s().unwrap()[..], [1.0, -0.5]);
        assert_eq!(lowered.graph.initializers().count(), 1);
    }

    /// A graph from `x` to `y`.
    fn model(nodes: Vec<NodeProto>, initializer: Vec<TensorProto>) -> Model {
        let value = |n: &str| ValueInfoProto { name: Some(n.into()), ..Default::default() };
        let graph = GraphProto {
            node: nodes,
            initializer,
            input: vec![value("x")],
            output: vec![value("y")],
            ..Default::default()
        };
        let opset_import = vec![OperatorSetIdProto { domain: None, version: Some(21) }];
        Model::from_proto(ModelProto { opset_import, graph: Some(graph), ..Default::default() }).unwrap()
    }

    fn four_bits(name: &str, byte: u8) -> TensorProto {
        Tensor::new(DataType::Int4, vec![], vec![byte].into()).unwrap().to_proto(name)
    }

    #[test]
    fn pairs_of_four_bits_saturate_where_four_bits_do() {
        let scale = Tensor::from_f32(vec![], vec![0.5]).to_proto("s");
        let q = node("QuantizeLinear", &["x", "s", "z"], "q");
        let pair = model(
            vec![q.clone(), node("DequantizeLinear", &["q", "s", "z"], "y")],
            vec![scale.clone(), four_bits("z", 0x0f)],
        );
        let lowered = lower(&pair).unwrap();
        let (_, fused) = lowered.graph.nodes().next().unwrap();
        assert_eq!(NodeExt::string(fused, "format"), Some("int4"));
        assert_eq!(NodeExt::ints(fused, "zero_points"), Some(&[-1][..]));
        // Where the codes are moved in between, the two still meet.
        let apart = model(
            vec![q.clone(), node("Transpose", &["q"], "t"), node("DequantizeLinear", &["t", "s", "z"], "y")],
            vec![scale.clone(), four_bits("z", 0x0f)],
        );
        let lowered = lower(&apart).unwrap().graph;
        assert_eq!(lowered.nodes().map(|(_, n)| n.op_type()).collect::<Vec<_>>(), [FAKE_QUANTIZE, "Transpose"]);
        // Where they are an output, an engine without 4 bits holds them in 8.
        let codes = model(vec![NodeProto { output: vec!["y".into()], ..q }], vec![scale, four_bits("z", 0x0f)]);
        let lowered = lower(&codes).unwrap().graph;
        let (_, last) = lowered.nodes().last().unwrap();
        assert_eq!((last.op_type(), last.int("to")), ("Cast", Some(DataType::Int8 as i64)));
        let (_, first) = lowered.nodes().next().unwrap();
        assert_eq!(NodeExt::string(first, "format"), Some("int4"));
    }

    #[test]
    fn scales_of_activations_must_be_positive() {
        for scale in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            let nodes = vec![node("QuantizeLinear", &["x", "s"], "q"), node("DequantizeLinear", &["q", "s"], "y")];
            let pair = model(nodes, vec![Tensor::from_f32(vec![], vec![scale]).to_proto("s")]);
            let e = lower(&pair).unwrap_err().to_string();
            assert_eq!(e, format!("node of `q` (QuantizeLinear): scale {scale} is not a positive finite number"));
        }
    }
}
