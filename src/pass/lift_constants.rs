//! Constant nodes become initializers.

use super::refusal::{Refusal, no, settle};
use super::{Context, Effect, Pass};
use crate::error::Result;
use crate::model::{DataType, Graph, Model, NodeExt, NodeId, NodeProto, SparseHead, Tensor, TensorProto, raw_len};

/// Bytes that a sparse constant may take in dense form whatever it takes now.
const LARGE: usize = 1 << 16;

/// Makes an initializer of every Constant node.
///
/// - **Does**: replaces Constant (`value`, `value_float(s)`, `value_int(s)`) by an initializer of the name of its
///   output, and states IR version 4 where the model's is lower. A sparse constant becomes a dense initializer where that
///   takes no more bytes, or at most 64 KiB.
/// - **Skips when** the constant holds strings, when it is sparse and larger in dense form, and when its output is a
///   graph output.
/// - **Before**: `w = Constant() value=[..]`. **After**: initializer `w`.
/// - **Source**: operator Constant-13; docs/IR.md of ONNX, "Graphs".
#[derive(Debug, Clone, Copy)]
pub struct LiftConstants;

impl Pass for LiftConstants {
    fn name(&self) -> &'static str {
        "lift-constants"
    }

    fn effect(&self) -> Effect {
        Effect::Same
    }

    fn enters_bodies(&self) -> bool {
        true
    }

    fn run(&self, model: &mut Model, cx: &mut Context<'_>) -> Result<()> {
        for id in model.graph.node_ids() {
            if model.graph.node(id).is_some_and(|n| n.is("Constant")) {
                let outcome = lift(&mut model.graph, id);
                settle(outcome, self, model, id, cx)?;
            }
        }
        if cx.changed > 0 {
            model.allow_constants();
        }
        Ok(())
    }
}

fn lift(graph: &mut Graph, id: NodeId) -> Result<(), Refusal> {
    let Some(node) = graph.node(id) else { return Ok(()) };
    let Some(output) = node.output_at(0).map(str::to_owned) else { return no("it has no output") };
    if graph.is_output(&output) {
        return no(format!("`{output}` is a graph output"));
    }
    let tensor = value(node, &output)?;
    graph.remove(id);
    graph.set_initializer(tensor);
    Ok(())
}

/// What the node holds, as an initializer.
fn value(node: &NodeProto, name: &str) -> Result<TensorProto, Refusal> {
    if let Some(sparse) = node.attribute("sparse_value").and_then(|a| a.sparse_tensor.as_ref()) {
        let head = SparseHead::of(sparse)?;
        let elements = head.shape.iter().product();
        return match raw_len(head.dtype, elements) {
            None => no("it holds strings"),
            Some(dense) if dense > LARGE.max(head.bytes) => {
                no(format!("it is sparse: its {} bytes would be {dense}", head.bytes))
            }
            Some(_) => Ok(Tensor::from_sparse(sparse)?.to_proto(name)),
        };
    }
    if let Some(tensor) = node.tensor("value") {
        if tensor.data_type() == DataType::String as i32 {
            return no("it holds strings");
        }
        return Ok(TensorProto { name: Some(name.to_owned()), ..tensor.clone() });
    }
    let value = if let Some(x) = node.float("value_float") {
        Tensor::from_f32(vec![], vec![x])
    } else if let Some(x) = node.int("value_int") {
        Tensor::from_i64(vec![], vec![x])
    } else if let Some(x) = node.floats("value_floats") {
        Tensor::from_f32(vec![x.len()], x.to_vec())
    } else if let Some(x) = node.ints("value_ints") {
        Tensor::from_i64(vec![x.len()], x.to_vec())
    } else {
        return no(match node.attribute.first().map(|a| a.name()) {
            Some("value_string" | "value_strings") => "it holds strings".to_owned(),
            Some(other) => format!("its attribute `{other}` is unknown"),
            None => "it has no value".to_owned(),
        });
    };
    Ok(value.to_proto(name))
}

#[cfg(test)]
mod tests {
    use super::super::sketch::{self, floats, graph, model, node, subgraph};
    use super::*;
    use crate::model::{AttributeProto, SparseTensorProto, attribute};

    #[test]
    fn every_form_of_number_is_lifted() {
        let forms = [
            (attribute::tensor("value", floats("", &[1, 2], &[1.0, 2.0])), vec![1, 2], DataType::Float),
            (attribute::float("value_float", 3.0), vec![], DataType::Float),
            (attribute::floats("value_floats", &[3.0, 4.0]), vec![2], DataType::Float),
            (attribute::int("value_int", 5), vec![], DataType::Int64),
            (attribute::ints("value_ints", &[5, 6, 7]), vec![3], DataType::Int64),
        ];
        for (form, shape, dtype) in forms {
            let nodes = vec![node("Constant", "", "c", &[form]), node("Foo", "c", "y", &[])];
            let mut m = model(12, graph("", nodes, vec![], "y"));
            assert_eq!(sketch::run(&LiftConstants, &mut m).unwrap(), (1, vec![]));
            let c = m.graph.constant("c").unwrap().unwrap();
            assert_eq!((c.shape(), c.dtype()), (&shape[..], dtype));
            assert_eq!(m.graph.nodes().count(), 1);
            assert_eq!(m.metadata().ir_version(), 4);
        }
    }

    /// One value of 3 at the place 4 of a square.
    fn sparse(side: i64) -> AttributeProto {
        let values = Some(floats("", &[1], &[3.0]));
        let indices = Some(Tensor::from_i64(vec![1], vec![4]).to_proto(""));
        let sparse_tensor = Some(SparseTensorProto { values, indices, dims: vec![side, side] });
        AttributeProto { name: Some("sparse_value".into()), sparse_tensor, ..Default::default() }
    }

    #[test]
    fn a_small_sparse_constant_is_lifted_dense() {
        let nodes = vec![node("Constant", "", "c", &[sparse(3)]), node("Foo", "c", "y", &[])];
        let mut m = model(12, graph("", nodes, vec![], "y"));
        assert_eq!(sketch::run(&LiftConstants, &mut m).unwrap(), (1, vec![]));
        let c = m.graph.constant("c").unwrap().unwrap();
        assert_eq!((c.shape(), &c.f32s().unwrap()[3..6]), (&[3, 3][..], &[0.0, 3.0, 0.0][..]));
        assert!(m.graph.sparse_initializers().next().is_none());
    }

    #[test]
    fn what_is_no_number_or_is_a_graph_output_stays() {
        let strings = TensorProto { data_type: Some(DataType::String as i32), ..Default::default() };
        let cases = [
            (vec![attribute::string("value_string", "a")], "c", "strings"),
            (vec![attribute::tensor("value", strings)], "c", "strings"),
            (vec![sparse(5000)], "c", "it is sparse: its 12 bytes would be 100000000"),
            (vec![attribute::int("sparse_value", 0)], "c", "`sparse_value` is unknown"),
            (vec![], "c", "no value"),
            (vec![attribute::int("value_int", 1)], "y", "graph output"),
        ];
        for (attributes, output, reason) in cases {
            let mut nodes = vec![node("Constant", "", output, &attributes)];
            if output == "c" {
                nodes.push(node("Foo", "c", "y", &[]));
            }
            let mut m = model(12, graph("", nodes, vec![], "y"));
            let (changed, skipped) = sketch::run(&LiftConstants, &mut m).unwrap();
            assert!(changed == 0 && skipped[0].reason.contains(reason), "{skipped:?}");
        }
    }

    #[test]
    fn a_captured_constant_stays_visible() {
        let body = graph("", vec![node("Neg", "c", "n", &[])], vec![], "n");
        let nodes = vec![
            node("Constant", "", "c", &[attribute::float("value_float", 1.0)]),
            node("If", "b", "y", &[subgraph("then_branch", body.clone()), subgraph("else_branch", body)]),
        ];
        let mut m = model(12, graph("b", nodes, vec![], "y"));
        assert_eq!(sketch::run(&LiftConstants, &mut m).unwrap().0, 1);
        assert!(m.graph.initializer("c").is_some());
    }
}
