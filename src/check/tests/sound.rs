//! A model without faults, and what is changed about it.

use super::*;

pub(super) fn node(name: &str, op: &str, inputs: &str, outputs: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    let names = |s: &str| s.split_whitespace().map(str::to_owned).collect();
    let (domain, op) = op.rsplit_once('.').unwrap_or(("", op));
    NodeProto {
        name: Some(name.into()),
        op_type: Some(op.into()),
        domain: Some(domain.into()),
        input: names(inputs),
        output: names(outputs),
        attribute,
        ..Default::default()
    }
}

pub(super) fn value(name: &str, dtype: DataType, shape: &[i64]) -> ValueInfoProto {
    let dim = |&n: &i64| Dimension { value: Some(dimension::Value::DimValue(n)), ..Default::default() };
    let shape = Some(TensorShapeProto { dim: shape.iter().map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type: Some(dtype as i32), shape };
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() }),
        ..Default::default()
    }
}

pub(super) fn import(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: Some(domain.into()), version: Some(version) }
}

pub(super) fn floats(name: &str, shape: &[usize]) -> TensorProto {
    Tensor::from_f32(shape.to_vec(), vec![0.5; shape.iter().product()]).to_proto(name)
}

pub(super) fn branch(name: &str, op: &str) -> AttributeProto {
    let graph = GraphProto {
        name: Some(name.into()),
        node: vec![node(op, op, "e", "t", vec![])],
        output: vec![ValueInfoProto { name: Some("t".into()), ..Default::default() }],
        ..Default::default()
    };
    let kind = Some(AttributeType::Graph as i32);
    AttributeProto { name: Some(name.into()), r#type: kind, g: Some(graph), ..Default::default() }
}

/// `x` through MatMul, Q/DQ, a function, and If.
pub(super) fn sound() -> ModelProto {
    let alpha = AttributeProto { ref_attr_name: Some("alpha".into()), f: None, ..float("alpha", 0.0) };
    let function = FunctionProto {
        name: Some("F".into()),
        domain: Some("my".into()),
        input: vec!["a".into()],
        output: vec!["b".into()],
        attribute: vec!["alpha".into()],
        node: vec![node("leaky", "LeakyRelu", "a", "b", vec![alpha])],
        opset_import: vec![import("", 17)],
        ..Default::default()
    };
    let branches = vec![branch("then_branch", "Neg"), branch("else_branch", "Abs")];
    let zero = Tensor::new(DataType::Uint8, vec![], vec![3].into()).unwrap();
    let graph = GraphProto {
        name: Some("g".into()),
        input: vec![value("x", DataType::Float, &[2, 3]), value("c", DataType::Bool, &[])],
        output: vec![value("y", DataType::Float, &[2, 4])],
        initializer: vec![floats("w", &[3, 4]), floats("s", &[]), zero.to_proto("z")],
        node: vec![
            node("mm", "MatMul", "x w", "h", vec![]),
            node("q", "QuantizeLinear", "h s z", "k", vec![]),
            node("dq", "DequantizeLinear", "k s z", "d", vec![]),
            node("f", "my.F", "d", "e", vec![float("alpha", 0.5)]),
            node("if", "If", "c", "y", branches),
        ],
        ..Default::default()
    };
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![import("", 17), import("my", 1)],
        graph: Some(graph),
        functions: vec![function],
        ..Default::default()
    }
}

/// The findings about the sound model after a change, as lines.
pub(super) fn after(change: impl FnOnce(&mut ModelProto)) -> Vec<String> {
    let mut model = sound();
    change(&mut model);
    lines(&check(&model, None))
}

pub(super) fn lines(found: &Findings) -> Vec<String> {
    assert!(found.findings.iter().all(|f| !f.hint.is_empty()));
    found.findings.iter().map(|f| format!("{}: {}: {}", f.rule, f.place, f.message)).collect()
}

pub(super) fn graph(m: &mut ModelProto) -> &mut GraphProto {
    m.graph.as_mut().unwrap()
}

pub(super) fn at<'a>(m: &'a mut ModelProto, name: &str) -> &'a mut NodeProto {
    graph(m).node.iter_mut().find(|n| n.name() == name).unwrap()
}

pub(super) fn inner(m: &mut ModelProto) -> &mut GraphProto {
    at(m, "if").attribute[0].g.as_mut().unwrap()
}

pub(super) fn tensor<'a>(m: &'a mut ModelProto, name: &str) -> &'a mut TensorProto {
    graph(m).initializer.iter_mut().find(|t| t.name() == name).unwrap()
}

pub(super) fn external(location: &str) -> TensorProto {
    let entry = StringStringEntryProto { key: Some("location".into()), value: Some(location.into()) };
    TensorProto {
        raw_data: None,
        data_location: Some(DataLocation::External as i32),
        external_data: vec![entry],
        ..floats("w", &[3, 4])
    }
}

pub(super) fn sparse(values: &[f32], indices: &[i64]) -> SparseTensorProto {
    SparseTensorProto {
        values: Some(Tensor::from_f32(vec![values.len()], values.to_vec()).to_proto("sparse")),
        indices: Some(Tensor::from_i64(vec![indices.len()], indices.to_vec()).to_proto("")),
        dims: vec![4],
    }
}

pub(super) fn packed(dtype: DataType, elements: i64, bytes: usize) -> TensorProto {
    let raw = vec![0xff; bytes];
    TensorProto {
        name: Some("w".into()),
        data_type: Some(dtype as i32),
        dims: vec![elements],
        raw_data: Some(raw.into()),
        ..Default::default()
    }
}

/// The weight becomes codes behind DequantizeLinear.
pub(super) fn constant_codes(m: &mut ModelProto, scale: f32) {
    *tensor(m, "w") = Tensor::new(DataType::Int8, vec![3, 4], vec![1; 12].into()).unwrap().to_proto("w");
    graph(m).initializer.push(Tensor::from_f32(vec![], vec![scale]).to_proto("ws"));
    graph(m).node.insert(0, node("dq_w", "DequantizeLinear", "w ws", "r", vec![]));
    at(m, "mm").input[1] = "r".into();
}

pub(super) fn tensor_type(v: &mut ValueInfoProto) -> &mut type_proto::Tensor {
    match v.r#type.as_mut().and_then(|t| t.value.as_mut()) {
        Some(type_proto::Value::TensorType(t)) => t,
        _ => panic!("a tensor"),
    }
}

/// Adds a node with graphs inside of each other.
pub(super) fn nest(graph: &mut GraphProto, depth: usize) {
    let mut node = node("deep", "my.Deep", "c", "v", vec![]);
    for _ in 0..depth {
        let mut outer = branch("body", "Abs");
        let inside = outer.g.as_mut().unwrap();
        inside.node = vec![std::mem::take(&mut node)];
        inside.output[0].name = Some("v".into());
        node = self::node("deep", "my.Deep", "c", "v", vec![outer]);
    }
    graph.node.push(node);
}

/// Adds functions that each call the next, after the one there is.
pub(super) fn chain(m: &mut ModelProto, more: usize) {
    for i in 0..more {
        let mut f = m.functions[0].clone();
        f.opset_import.push(import("my", 1));
        f.node = vec![node("next", &format!("my.F{}", i + 1), "a", "b", vec![])];
        f.name = Some(format!("F{i}"));
        m.functions.push(f);
    }
    m.functions.last_mut().unwrap().node[0].op_type = Some("F".into());
}

/// Quantizes to int8 in Microsoft's domain, with a zero point of uint8.
pub(super) fn microsoft(m: &mut ModelProto) {
    m.opset_import.push(import("com.microsoft", 1));
    at(m, "q").domain = Some("com.microsoft".into());
    at(m, "q").attribute.push(int("output_dtype", DataType::Int8 as i64));
}
