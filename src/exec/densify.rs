//! Sparse constants, dense.

use crate::error::{Place, Result};
use crate::model::{
    AttributeExt, Graph, GraphProto, NodeExt, NodeProto, SparseTensorProto, Tensor, TensorProto, attribute, sparse_name,
};

/// Makes sparse initializers and sparse values of Constant nodes dense, in subgraphs too.
///
/// Errors, naming tensor and node, when one is broken or out of proportion ([`Tensor::from_sparse`]).
pub(super) fn densify(graph: &mut Graph) -> Result<()> {
    let dense = |t: &SparseTensorProto| Ok(Tensor::from_sparse(t)?.to_proto(sparse_name(t)));
    let found = graph.sparse_initializers().map(dense).collect::<Result<Vec<TensorProto>>>()?;
    found.into_iter().for_each(|t| graph.set_initializer(t));
    for id in graph.node_ids() {
        let Some(node) = graph.node(id).filter(|n| any_sparse(n)) else { continue };
        let mut node = node.clone();
        densify_node(&mut node).at(|| graph.label(id))?;
        graph.edit(id, |n| *n = node)?;
    }
    Ok(())
}

fn any_sparse(node: &NodeProto) -> bool {
    let inside = |g: &GraphProto| !g.sparse_initializer.is_empty() || g.node.iter().any(any_sparse);
    node.attribute.iter().any(|a| a.sparse_tensor.is_some()) || node.subgraphs().any(inside)
}

fn densify_node(node: &mut NodeProto) -> Result<()> {
    let sparse = node.attribute("sparse_value").filter(|_| node.is("Constant"));
    if let Some(t) = sparse.and_then(|a| a.sparse_tensor.as_ref()) {
        let value = Tensor::from_sparse(t)?.to_proto("");
        node.take("sparse_value");
        node.set(attribute::tensor("value", value));
    }
    for graph in node.attribute.iter_mut().flat_map(AttributeExt::subgraphs_mut) {
        for t in std::mem::take(&mut graph.sparse_initializer) {
            graph.initializer.push(Tensor::from_sparse(&t)?.to_proto(sparse_name(&t)));
        }
        graph.node.iter_mut().try_for_each(densify_node)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AttributeProto, ValueInfoProto};

    #[test]
    fn sparse_constants_of_subgraphs_become_dense() {
        let sparse = |name: &str| SparseTensorProto {
            values: Some(Tensor::from_f32(vec![1], vec![2.0]).to_proto(name)),
            indices: Some(Tensor::from_i64(vec![1], vec![1]).to_proto("")),
            dims: vec![2],
        };
        let node = |op: &str, inputs: &[&str], output: &str| NodeProto {
            op_type: Some(op.into()),
            input: inputs.iter().map(|s| s.to_string()).collect(),
            output: vec![output.into()],
            ..Default::default()
        };
        let info = |name: &str| ValueInfoProto { name: Some(name.into()), ..Default::default() };
        let mut constant = node("Constant", &[], "c");
        let name = Some("sparse_value".into());
        constant.set(AttributeProto { name, sparse_tensor: Some(sparse("")), ..Default::default() });
        let body = GraphProto {
            node: vec![constant, node("Add", &["c", "w"], "o")],
            sparse_initializer: vec![sparse("w")],
            output: vec![info("o")],
            ..Default::default()
        };
        let mut choose = node("If", &["x"], "y");
        for name in ["then_branch", "else_branch"] {
            choose.set(AttributeProto { name: Some(name.into()), g: Some(body.clone()), ..Default::default() });
        }
        let proto =
            GraphProto { node: vec![choose], input: vec![info("x")], output: vec![info("y")], ..Default::default() };
        let mut graph = Graph::from_proto(proto).unwrap();
        densify(&mut graph).unwrap();
        graph.check().unwrap();
        let (_, choose) = graph.nodes().next().unwrap();
        for body in choose.subgraphs() {
            assert!(body.sparse_initializer.is_empty());
            let w = Tensor::from_proto(&body.initializer[0]).unwrap();
            assert_eq!((body.initializer[0].name(), &w.f32s().unwrap()[..]), ("w", &[0.0, 2.0][..]));
            assert_eq!(Tensor::from_proto(body.node[0].tensor("value").unwrap()).unwrap(), w);
        }
    }
}
