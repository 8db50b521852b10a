//! Model-local functions state an opset of their own, which must fit that of the model.

use super::raise as raise_graph;
use super::scope::Scope;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{At, Graph, GraphProto, NodeProto, ValueInfoProto, attribute, imported, state_import};
use crate::proto::FunctionProto;

/// Raises a function that imports ONNX's own operator set to this version; returns how many nodes it changed.
///
/// ONNX wants each operator of a function to have the form of the model's opset (`check_opset_compatibility` in
/// onnx/checker.cc). What becomes a constant is a Constant node here, since functions have no initializers.
pub(in crate::pass) fn raise(function: &mut FunctionProto, to: i64, only_float32: bool) -> Result<usize> {
    let Some(from) = imported(&function.opset_import, "") else { return Ok(0) };
    if from >= to {
        return Ok(0);
    }
    let named = |names: &[String]| {
        names.iter().map(|n| ValueInfoProto { name: Some(n.clone()), ..Default::default() }).collect()
    };
    let body = GraphProto {
        node: std::mem::take(&mut function.node),
        input: named(&function.input),
        output: named(&function.output),
        value_info: std::mem::take(&mut function.value_info),
        ..Default::default()
    };
    let mut scope = Scope::of(Graph::from_proto(body)?, to, only_float32);
    let changed = raise_graph(&mut scope, from)?;
    if let Some(mut graph) = scope.leave() {
        let constants: Vec<_> = graph.to_proto().initializer;
        for tensor in constants.into_iter().rev() {
            let name = tensor.name().to_owned();
            let constant = NodeProto {
                op_type: Some("Constant".to_owned()),
                attribute: vec![attribute::tensor("value", tensor)],
                ..Default::default()
            };
            graph.drop_initializer(&name);
            graph.insert(At::Start, NodeProto { output: vec![name], ..constant })?;
        }
        let body = graph.to_proto();
        (function.node, function.value_info) = (body.node, body.value_info);
    }
    state_import(&mut function.opset_import, "", to);
    Ok(changed)
}

/// Refuses a node that must change and has an attribute that stands for one of the function around it.
pub(super) fn refuse_references(node: &NodeProto) -> Result<()> {
    match node.attribute.iter().find(|a| !a.ref_attr_name().is_empty()) {
        Some(a) => Err(Error::new(
            ErrorKind::Unsupported,
            format!("its attribute `{}` stands for an attribute of the function, which cannot be raised", a.name()),
        )
        .hint("inline the functions of the model first (`onnx.inliner.inline_local_functions`)")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::RaiseOpset;
    use super::*;
    use crate::model::{AttributeProto, Model, attribute::ints};
    use crate::pass::sketch::{self, graph, lines, model, node};
    use crate::proto::OperatorSetIdProto;

    fn with_function(opset: i64, squeeze: NodeProto) -> Model {
        let import = OperatorSetIdProto { domain: Some(String::new()), version: Some(opset) };
        let function = FunctionProto {
            name: Some("F".into()),
            domain: Some("my".into()),
            input: vec!["a".into()],
            output: vec!["b".into()],
            node: vec![squeeze],
            opset_import: vec![import],
            ..Default::default()
        };
        let call = NodeProto { domain: Some("my".into()), ..node("F", "x", "y", &[]) };
        let mut proto = model(11, graph("x", vec![call], vec![], "y")).to_proto();
        proto.functions.push(function);
        Model::from_proto(proto).unwrap()
    }

    #[test]
    fn a_function_is_raised_with_the_model() {
        let mut m = with_function(12, node("Squeeze", "a", "b", &[ints("axes", &[0])]));
        assert_eq!(sketch::run(&RaiseOpset { to: 13 }, &mut m).unwrap().0, 1);
        let f = m.metadata().functions[0].clone();
        assert_eq!(f.opset_import[0].version(), 13);
        let body = GraphProto { node: f.node, ..Default::default() };
        assert_eq!(lines(&body), ["b_axes = Constant() value", "b = Squeeze(a, b_axes)"]);
    }

    #[test]
    fn a_newer_function_stays() {
        let mut m = with_function(15, node("Squeeze", "a", "b", &[]));
        assert_eq!(sketch::run(&RaiseOpset { to: 13 }, &mut m).unwrap().0, 0);
        assert_eq!(m.metadata().functions[0].opset_import[0].version(), 15);
    }

    #[test]
    fn an_attribute_of_the_function_cannot_be_raised() {
        let axes = AttributeProto { ref_attr_name: Some("axes".into()), ..ints("axes", &[]) };
        let mut m = with_function(11, node("Squeeze", "a", "b", &[axes]));
        let e = sketch::run(&RaiseOpset { to: 13 }, &mut m).unwrap_err();
        assert!(e.to_string().contains("function `my.F`: node of `b` (Squeeze): its attribute `axes`"), "{e}");
    }
}
