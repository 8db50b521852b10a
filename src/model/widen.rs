//! float16 and bfloat16 models, computed in float32.

use super::{
    At, AttributeExt, DataType, Graph, GraphProto, Model, NodeExt, NodeProto, SparseTensorProto, Tensor, TensorProto,
    attribute,
};
use crate::error::Result;
use crate::proto::{ValueInfoProto, type_proto};

/// Lets a model compute in float32 what it computed in float16 or bfloat16; its inputs and outputs keep their types,
/// through Cast nodes right behind the inputs and right before the outputs.
///
/// Returns whether there was anything to widen. Constants are converted exactly; results differ from the original
/// by the rounding that the narrow types did. Subgraphs are widened too.
pub fn widen(model: &mut Model) -> Result<bool> {
    let graph = &mut model.graph;
    if !any_narrow(graph) {
        return Ok(false);
    }
    let narrow: Vec<(String, DataType)> =
        graph.initializers().filter_map(|t| Some((t.name().to_owned(), narrow_type(t.data_type())?))).collect();
    for (name, _) in narrow {
        if let Some(t) = graph.initializer(&name).cloned() {
            graph.set_initializer(widened(&t)?);
        }
    }
    let narrow: Vec<SparseTensorProto> = graph.sparse_initializers().filter(|t| narrow_sparse(t)).cloned().collect();
    for t in narrow {
        graph.set_sparse_initializer(widened_sparse(&t)?);
    }
    for id in graph.node_ids() {
        let Some(node) = graph.node(id).filter(|n| touches(n)) else { continue };
        let mut node = node.clone();
        widen_node(&mut node)?;
        graph.edit(id, |n| *n = node)?;
    }
    for (name, _) in narrow_values(graph.inputs()) {
        let wide = graph.fresh_name(&format!("{name}_float32"));
        graph.redirect(&name, &wide)?;
        let cast = cast(graph, &name, &wide, DataType::Float);
        graph.insert(At::Start, cast)?;
        recapture(graph, &name, &wide)?;
    }
    for (name, dtype) in narrow_values(graph.outputs()) {
        let Some((producer, place)) = graph.producer(&name) else { continue };
        let wide = graph.fresh_name(&format!("{name}_float32"));
        graph.edit(producer, |n| n.output[place] = wide.clone())?;
        graph.redirect(&name, &wide)?;
        recapture(graph, &name, &wide)?;
        let cast = cast(graph, &wide, &name, dtype);
        graph.insert(At::End, cast)?;
    }
    graph.retype_value_info(|t| narrow_type(t).map(|_| DataType::Float as i32));
    Ok(true)
}

fn narrow_type(dtype: i32) -> Option<DataType> {
    DataType::try_from(dtype).ok().filter(|d| matches!(d, DataType::Float16 | DataType::Bfloat16))
}

fn narrow_values(values: &[ValueInfoProto]) -> Vec<(String, DataType)> {
    let dtype = |v: &ValueInfoProto| match v.r#type.as_ref()?.value.as_ref()? {
        type_proto::Value::TensorType(t) => narrow_type(t.elem_type()),
        _ => None,
    };
    values.iter().filter_map(|v| Some((v.name().to_owned(), dtype(v)?))).collect()
}

/// Whether anything but the Cast nodes behind inputs and before outputs is narrow.
fn any_narrow(graph: &Graph) -> bool {
    let cast = |id| graph.node(id).is_some_and(|n| n.is("Cast"));
    let at_border = |n: &NodeProto| n.is("Cast") && n.output_at(0).is_some_and(|o| graph.is_output(o));
    let inputs = narrow_values(graph.inputs());
    let outputs = narrow_values(graph.outputs());
    graph.initializers().any(|t| narrow_type(t.data_type()).is_some())
        || graph.sparse_initializers().any(narrow_sparse)
        || inputs.iter().any(|(i, _)| graph.uses(i).iter().any(|u| !cast(u.node)))
        || outputs.iter().any(|(o, _)| graph.producer(o).is_none_or(|(id, _)| !cast(id)))
        || graph.nodes().any(|(_, n)| touches(n) && !at_border(n))
}

/// Whether a node names a narrow type: in a tensor, in the type it casts to or makes, or in a subgraph.
fn touches(node: &NodeProto) -> bool {
    let in_tensor = |t: &TensorProto| narrow_type(t.data_type()).is_some();
    node.attribute.iter().any(|a| a.t.iter().chain(&a.tensors).any(in_tensor))
        || node.attribute.iter().any(|a| a.sparse_tensor.iter().chain(&a.sparse_tensors).any(narrow_sparse))
        || ["to", "dtype"].iter().any(|name| node.int(name).is_some_and(|d| narrow_type(d as i32).is_some()))
        || node.subgraphs().any(|g| {
            g.initializer.iter().any(in_tensor)
                || g.sparse_initializer.iter().any(narrow_sparse)
                || g.node.iter().any(touches)
        })
}

fn widen_node(node: &mut NodeProto) -> Result<()> {
    for name in ["to", "dtype"] {
        if node.int(name).is_some_and(|d| narrow_type(d as i32).is_some()) {
            node.set(attribute::int(name, DataType::Float as i64));
        }
    }
    for a in &mut node.attribute {
        for t in a.t.iter_mut().chain(&mut a.tensors) {
            *t = widened(t)?;
        }
        for t in a.sparse_tensor.iter_mut().chain(&mut a.sparse_tensors) {
            *t = widened_sparse(t)?;
        }
        for graph in a.subgraphs_mut() {
            for t in &mut graph.initializer {
                *t = widened(t)?;
            }
            for t in &mut graph.sparse_initializer {
                *t = widened_sparse(t)?;
            }
            graph.node.iter_mut().try_for_each(widen_node)?;
            for v in graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info) {
                if let Some(type_proto::Value::TensorType(t)) = v.r#type.as_mut().and_then(|t| t.value.as_mut())
                    && narrow_type(t.elem_type()).is_some()
                {
                    t.elem_type = Some(DataType::Float as i32);
                }
            }
        }
    }
    Ok(())
}

fn widened(t: &TensorProto) -> Result<TensorProto> {
    if narrow_type(t.data_type()).is_none() {
        return Ok(t.clone());
    }
    let read = Tensor::from_proto(t)?;
    Ok(Tensor::from_f32(read.shape().to_vec(), read.f32s()?.into_owned()).to_proto(t.name()))
}

fn narrow_sparse(t: &SparseTensorProto) -> bool {
    t.values.as_ref().is_some_and(|v| narrow_type(v.data_type()).is_some())
}

fn widened_sparse(t: &SparseTensorProto) -> Result<SparseTensorProto> {
    Ok(SparseTensorProto { values: t.values.as_ref().map(widened).transpose()?, ..t.clone() })
}

fn cast(graph: &mut Graph, from: &str, to: &str, dtype: DataType) -> NodeProto {
    NodeProto {
        name: Some(graph.fresh_name(&format!("{to}_cast"))),
        op_type: Some("Cast".into()),
        input: vec![from.to_owned()],
        output: vec![to.to_owned()],
        attribute: vec![attribute::int("to", dtype as i64)],
        ..Default::default()
    }
}

/// Lets subgraphs that captured `old` capture `new`.
fn recapture(graph: &mut Graph, old: &str, new: &str) -> Result<()> {
    for id in graph.captured_by(old).to_vec() {
        graph.edit(id, |n| {
            n.attribute.iter_mut().flat_map(AttributeExt::subgraphs_mut).for_each(|g| rename(g, old, new));
        })?;
    }
    Ok(())
}

fn rename(graph: &mut GraphProto, old: &str, new: &str) {
    graph.output.iter_mut().filter(|v| v.name() == old).for_each(|v| v.name = Some(new.to_owned()));
    for node in &mut graph.node {
        node.input.iter_mut().filter(|n| *n == old).for_each(|n| *n = new.to_owned());
        node.attribute.iter_mut().flat_map(AttributeExt::subgraphs_mut).for_each(|g| rename(g, old, new));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{ModelProto, OperatorSetIdProto};

    fn value(name: &str, dtype: DataType) -> ValueInfoProto {
        let tensor = type_proto::Tensor { elem_type: Some(dtype as i32), shape: None };
        ValueInfoProto {
            name: Some(name.into()),
            r#type: Some(crate::proto::TypeProto {
                value: Some(type_proto::Value::TensorType(tensor)),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn inputs_and_outputs_keep_their_types_and_a_second_time_changes_nothing() {
        let half = Tensor::from_f64(DataType::Float16, vec![1], &[1.5]).unwrap().to_proto("w");
        let sparse = SparseTensorProto {
            values: Some(TensorProto { name: Some("s".into()), ..half.clone() }),
            indices: Some(Tensor::from_i64(vec![1], vec![0]).to_proto("")),
            dims: vec![1],
        };
        let add = NodeProto {
            op_type: Some("Add".into()),
            input: vec!["a".into(), "s".into()],
            output: vec!["y".into()],
            ..Default::default()
        };
        let first = NodeProto { input: vec!["x".into(), "w".into()], output: vec!["a".into()], ..add.clone() };
        let mut model = Model::from_proto(ModelProto {
            opset_import: vec![OperatorSetIdProto { domain: None, version: Some(13) }],
            graph: Some(GraphProto {
                node: vec![first, add],
                initializer: vec![half],
                sparse_initializer: vec![sparse],
                input: vec![value("x", DataType::Float16)],
                output: vec![value("y", DataType::Float16)],
                ..Default::default()
            }),
            ..Default::default()
        })
        .unwrap();
        assert!(widen(&mut model).unwrap());
        model.graph.check().unwrap();
        let ops: Vec<_> = model.graph.nodes().map(|(_, n)| n.op_type().to_owned()).collect();
        assert_eq!(ops, ["Cast", "Add", "Add", "Cast"]);
        assert_eq!(model.graph.stated_dtype("x"), Some(DataType::Float16));
        for name in ["w", "s"] {
            let t = model.graph.constant(name).unwrap().unwrap();
            assert_eq!((t.dtype(), &t.f32s().unwrap()[..]), (DataType::Float, &[1.5][..]));
        }
        assert_eq!(model.graph.sparse_initializers().count(), 1);
        assert!(!widen(&mut model).unwrap());
    }
}
