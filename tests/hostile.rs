//! Models made to do harm: each is refused in words, or worked on, in bounded time and memory; never a panic or an abort.
#![cfg(all(target_os = "linux", feature = "cli", feature = "tract"))]

mod common;
mod desk;

use std::process::Command;

use common::{floats, ints, model, node, value, weights};
use desk::{Desk, Outcome};
use prost::Message;
use prost::encoding::encode_varint;
use qdq::model::attribute::{int, ints as whole};
use qdq::model::{AttributeProto, DataType, GraphProto, Model, ModelProto, NodeProto, Tensor, TensorProto};
use qdq::proto::attribute_proto::AttributeType;
use qdq::proto::tensor_proto::DataLocation;
use qdq::proto::{OperatorSetIdProto, StringStringEntryProto, TypeProto, ValueInfoProto, type_proto};

/// What a run may take: KiB of address space, and seconds of computing. Far more than any of them needs, and far less
/// than a run needs that believes what it is told.
const LIMITS: &str = "ulimit -v 4000000; ulimit -t 20; ulimit -c 0";

/// Runs `qdq` within the limits.
fn limited(args: &[&str]) -> Outcome {
    let script = format!("{LIMITS}; exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_qdq")]).args(args);
    let output = command.env("RAYON_NUM_THREADS", "2").output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (data, words) = (text(output.stdout), text(output.stderr));
    let code = output.status.code().unwrap_or_else(|| {
        eprintln!("KILLED {}", output.status);
        2
    });
    assert!(matches!(code, 0..=2) || !words.contains("panicked at"), "{args:?}: {code}: {words}");
    assert!(words.lines().all(|l| l.chars().count() < 2000), "{args:?}: a line is too long");
    Outcome { code, data, words }
}

/// What must come of a model: its first line on stderr holds this text, or, where that is empty, all goes well.
type Says = &'static str;

/// Inspects and quantizes a model, and fails unless each comes to what it must.
fn put_through(name: &str, bytes: &[u8], inspected: Says, quantized: Says) {
    let desk = Desk::new();
    let model = desk.file("m.onnx", bytes);
    let out = desk.path("out.onnx");
    let before = std::time::Instant::now();
    for args in [&["inspect", &model][..], &["inspect", &model, "--json"]] {
        says(name, &limited(args), inspected);
    }
    eprintln!("{name} {:?}", before.elapsed());
    let before = std::time::Instant::now();
    let outcome = limited(&["quantize", &model, "--data", "random:2", "-o", &out]);
    says(name, &outcome, quantized);
    eprintln!("{name} {:?}", before.elapsed());
    let left: &[&str] = if outcome.code == 2 { &["m.onnx"] } else { &["m.onnx", "out.onnx"] };
    assert_eq!(desk.names(), left, "{name}");
}

fn says(name: &str, outcome: &Outcome, text: Says) {
    let words: Vec<&str> = outcome.words.lines().filter(|l| !l.starts_with("warning: ")).collect();
    if outcome.code == 2 {
        eprintln!("{name}: {}", words[0]);
        return;
    } else {
        eprintln!("{name} ok {}", words.join(" "));
        return;
    }
    if text.is_empty() {
        assert_eq!(outcome.code, 0, "{name}: {words:?}");
    } else {
        assert!(outcome.code == 2 && words[0].contains(text), "{name}: expected `{text}`: {words:?}");
    }
}

/// A small model that works: MatMul and Relu.
fn sound() -> ModelProto {
    let nodes = vec![node("MatMul", "x w", "a", &[]), node("Relu", "a", "y", &[])];
    model(17, &[2, 4], nodes, vec![weights("w", &[4, 4])], &[("y", &[2, 4])]).to_proto()
}

/// The small model, changed, as bytes.
fn changed(change: impl FnOnce(&mut GraphProto)) -> Vec<u8> {
    let mut proto = sound();
    change(proto.graph.as_mut().unwrap());
    proto.encode_to_vec()
}

/// A model of these nodes that reads `x` and gives `y`, both `[2, 4]`, with a weight `w` of `[4, 4]`.
fn nodes(nodes: Vec<NodeProto>, more: Vec<TensorProto>) -> Vec<u8> {
    changed(|g| {
        g.node = nodes;
        g.initializer.extend(more);
    })
}

#[test]
fn graphs_that_are_none() {
    let twice =
        |g: &mut GraphProto| g.node.insert(1, NodeProto { output: vec!["a".into()], ..node("Relu", "x", "a", &[]) });
    let cases: &[(&str, Vec<u8>, Says)] = &[
        ("cycle", changed(|g| g.node[0].input[0] = "y".into()), "cycle"),
        ("self", changed(|g| g.node[0].input[0] = "a".into()), "cycle"),
        ("output twice", changed(twice), "`a` is produced twice"),
        ("initializer twice", changed(|g| g.initializer.push(weights("w", &[4, 4]))), "two initializers are named `w`"),
        ("input twice", changed(|g| g.input.push(value("x", None))), "two graph inputs are named `x`"),
        ("produced input", changed(|g| g.node[1].output[0] = "x".into()), "also produced"),
        ("nobody", changed(|g| g.node[0].input[0] = "nowhere".into()), "reads `nowhere`, which nothing produces"),
        ("no output", changed(|g| g.output[0].name = Some("z".into())), "nothing produces the graph output `z`"),
        ("empty names", changed(|g| g.node[0].output[0] = String::new()), "reads `a`"),
        ("no graph", ModelProto { graph: None, ..sound() }.encode_to_vec(), "no graph"),
    ];
    for (name, bytes, text) in cases {
        put_through(name, bytes, text, text);
    }
}

#[test]
fn operators_without_a_name_and_values_without_a_type() {
    put_through("empty operator", &changed(|g| g.node[1].op_type = Some(String::new())), "", "?");
    put_through("no operator", &changed(|g| g.node[1].op_type = None), "", "?");
    put_through("untyped output", &changed(|g| g.output[0].r#type = None), "", "?");
    put_through("untyped input", &changed(|g| g.input[0].r#type = None), "", "?");
    let strange = |kind| changed(|g| g.input[0].r#type = Some(TypeProto { value: Some(kind), ..Default::default() }));
    put_through("sequence", &strange(type_proto::Value::SequenceType(Default::default())), "", "?");
    let unknown = type_proto::Tensor { elem_type: Some(99), shape: None };
    put_through("unknown type", &strange(type_proto::Value::TensorType(unknown)), "", "?");
    put_through("unknown element", &changed(|g| g.initializer[0].data_type = Some(99)), "?", "?");
    put_through("undefined element", &changed(|g| g.initializer[0].data_type = Some(0)), "?", "?");
    put_through("negative element", &changed(|g| g.initializer[0].data_type = Some(-1)), "?", "?");
    put_through("unknown location", &changed(|g| g.initializer[0].data_location = Some(9)), "?", "?");
    put_through(
        "unknown attribute",
        &changed(|g| {
            g.node[0].attribute.push(AttributeProto { name: Some("a".into()), r#type: Some(99), ..Default::default() });
        }),
        "",
        "",
    );
}

fn tensor(dims: &[i64], dtype: DataType, raw: usize) -> TensorProto {
    TensorProto {
        name: Some("w".into()),
        dims: dims.to_vec(),
        data_type: Some(dtype as i32),
        raw_data: Some(vec![0; raw].into()),
        ..Default::default()
    }
}

#[test]
fn tensors_that_lie() {
    let with = |t: TensorProto| changed(|g| g.initializer[0] = t);
    let far = 100_000_000_000 / 4;
    let huge = i64::MAX;
    let cases: &[(&str, TensorProto)] = &[
        ("too few", tensor(&[4, 4], DataType::Float, 60)),
        ("too many", tensor(&[4, 4], DataType::Float, 68)),
        ("none", tensor(&[4, 4], DataType::Float, 0)),
        ("negative", tensor(&[-4, -4], DataType::Float, 64)),
        ("100 GB", tensor(&[far], DataType::Float, 4)),
        ("100 GB, typed", TensorProto { raw_data: None, float_data: vec![1.0], ..tensor(&[far], DataType::Float, 0) }),
        ("100 GB of strings", TensorProto { raw_data: None, ..tensor(&[far], DataType::String, 0) }),
        ("100 GB, packed", tensor(&[far * 8], DataType::Uint4, 4)),
        ("product", tensor(&[huge, huge], DataType::Float, 4)),
        ("product of 2^64", tensor(&[1 << 32, 1 << 32], DataType::Float, 0)),
        ("product beside 0", tensor(&[0, huge, huge], DataType::Float, 0)),
        ("ten million dims", tensor(&vec![1; 10_000_000], DataType::Float, 4)),
        ("ten million twos", tensor(&vec![2; 10_000_000], DataType::Float, 4)),
    ];
    for (name, t) in cases {
        put_through(name, &with(t.clone()), "tensor `w`", "tensor `w`");
    }
    let shape = |dims: &[usize]| changed(|g| g.input[0] = value("x", Some(dims)));
    put_through("input of 100 GB", &shape(&[2, 25_000_000_000]), "", "too large");
    put_through("input of 2^64", &shape(&[1 << 32, 1 << 32]), "", "too large");
    put_through("input of ten million dims", &shape(&vec![1; 10_000_000]), "", "?");
}

#[test]
fn numbers_that_are_none() {
    for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, 0.0] {
        put_through(
            &format!("weights of {x}"),
            &changed(|g| g.initializer[0] = floats("w", &[4, 4], &[x; 16])),
            "",
            "?",
        );
    }
    for scale in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-45] {
        let qdq = vec![
            node("QuantizeLinear", "x s z", "q", &[]),
            node("DequantizeLinear", "q s z", "d", &[]),
            node("DequantizeLinear", "wq s z", "wd", &[]),
            node("MatMul", "d wd", "y", &[]),
        ];
        let codes = |name: &str, shape: Vec<usize>| {
            let n = shape.iter().product();
            Tensor::new(DataType::Uint8, shape, vec![3; n].into()).unwrap().to_proto(name)
        };
        let more = vec![floats("s", &[], &[scale]), codes("z", vec![]), codes("wq", vec![4, 4])];
        let bytes = nodes(qdq, more);
        put_through(&format!("scale of {scale}"), &bytes, "", "quantized already");
        let desk = Desk::new();
        let (a, b) = (desk.file("a.onnx", &sound().encode_to_vec()), desk.file("b.onnx", &bytes));
        let outcome = limited(&["validate", &a, &b, "--data", "random:2"]);
        says(&format!("validate scale of {scale}"), &outcome, "?");
    }
}

#[test]
fn attributes_of_another_kind() {
    let of = |op: &str, attributes: &[AttributeProto]| {
        nodes(vec![node("MatMul", "x w", "a", &[]), node(op, "a", "y", attributes)], vec![])
    };
    let kind = |name: &str, kind: AttributeType| AttributeProto {
        name: Some(name.into()),
        r#type: Some(kind as i32),
        floats: vec![0.5, 1.5],
        s: Some(vec![0xff, 0xfe]),
        ..Default::default()
    };
    let huge = i64::MAX;
    let cases = [
        ("perm of floats", of("Transpose", &[kind("perm", AttributeType::Floats)])),
        ("perm of one", of("Transpose", &[whole("perm", &[1])])),
        ("perm twice", of("Transpose", &[whole("perm", &[1, 1])])),
        ("perm out of range", of("Transpose", &[whole("perm", &[0, 99])])),
        ("perm negative", of("Transpose", &[whole("perm", &[-1, 0])])),
        ("axis out of range", of("Softmax", &[int("axis", 99)])),
        ("axis at the end", of("Softmax", &[int("axis", huge)])),
        ("axis at the other end", of("Flatten", &[int("axis", i64::MIN)])),
        ("axis of text", of("Softmax", &[kind("axis", AttributeType::String)])),
        ("concat of nothing", of("Concat", &[int("axis", 7)])),
        (
            "gather",
            nodes(
                vec![node("MatMul", "x w", "a", &[]), node("Gather", "a i", "y", &[int("axis", -9)])],
                vec![ints("i", &[0])],
            ),
        ),
        (
            "gather far",
            nodes(vec![node("MatMul", "x w", "a", &[]), node("Gather", "a i", "y", &[])], vec![ints("i", &[huge])]),
        ),
        (
            "gather table",
            nodes(
                vec![node("Gather", "w i", "a", &[int("axis", -9)]), node("Add", "a x", "y", &[])],
                vec![ints("i", &[0, 1])],
            ),
        ),
        ("reshape", nodes(vec![node("Reshape", "x i", "y", &[])], vec![ints("i", &[-1, -1, -1])])),
        ("reshape far", nodes(vec![node("Reshape", "x i", "y", &[])], vec![ints("i", &[huge, huge])])),
        (
            "slice far",
            nodes(
                vec![node("Slice", "x a b c d", "y", &[])],
                vec![ints("a", &[huge]), ints("b", &[i64::MIN]), ints("c", &[99]), ints("d", &[0])],
            ),
        ),
    ];
    for (name, bytes) in &cases {
        put_through(name, bytes, "", "?");
    }
    let conv = |attributes: &[AttributeProto]| {
        let nodes = vec![node("Conv", "x k b", "c", attributes), node("BatchNormalization", "c b b b b", "y", &[])];
        let constants = vec![weights("k", &[4, 4, 3, 3]), weights("b", &[4])];
        model(17, &[1, 4, 8, 8], nodes, constants, &[("y", &[1, 4, 6, 6])]).to_bytes().unwrap()
    };
    let cases = [
        ("group 0", vec![int("group", 0)]),
        ("group -1", vec![int("group", -1)]),
        ("group 3", vec![int("group", 3)]),
        ("group 2^63", vec![int("group", huge)]),
        ("odd pads", vec![whole("pads", &[1, 1, 1])]),
        ("huge pads", vec![whole("pads", &[100_000, 100_000, 100_000, 100_000])]),
        ("more huge pads", vec![whole("pads", &[huge, huge, huge, huge])]),
        ("negative pads", vec![whole("pads", &[-9, -9, -9, -9])]),
        ("negative kernel", vec![whole("kernel_shape", &[-3, -3])]),
        ("huge kernel", vec![whole("kernel_shape", &[1 << 40, 1 << 40])]),
        ("stride 0", vec![whole("strides", &[0, 0])]),
        ("negative stride", vec![whole("strides", &[-1, -1])]),
        ("dilation 0", vec![whole("dilations", &[0, 0])]),
        ("huge dilation", vec![whole("dilations", &[huge, huge])]),
        ("no such mode", vec![kind("auto_pad", AttributeType::String)]),
    ];
    for (name, attributes) in &cases {
        put_through(name, &conv(attributes), "", "?");
        let nodes = vec![node("ConvTranspose", "x k b", "y", attributes)];
        let constants = vec![weights("k", &[4, 4, 3, 3]), weights("b", &[4])];
        let bytes = model(17, &[1, 4, 8, 8], nodes, constants, &[("y", &[1, 4, 10, 10])]).to_bytes().unwrap();
        put_through(&format!("{name}, transposed"), &bytes, "", "?");
        let nodes = vec![node("Conv", "x k b", "c", &[]), node("MaxPool", "c", "y", attributes)];
        let constants = vec![weights("k", &[4, 4, 3, 3]), weights("b", &[4])];
        let bytes = model(17, &[1, 4, 8, 8], nodes, constants, &[("y", &[1, 4, 10, 10])]).to_bytes().unwrap();
        put_through(&format!("{name}, pool"), &bytes, "", "?");
    }
}

#[test]
fn small_models_of_huge_values() {
    let far = &[100_000, 250_000];
    let scalar = |op: &str, attributes: &[AttributeProto]| {
        let all = vec![node(op, "s", "a", attributes), node("MatMul", "x w", "b", &[]), node("Add", "a b", "y", &[])];
        nodes(all, vec![ints("s", far)])
    };
    put_through("ConstantOfShape", &scalar("ConstantOfShape", &[]), "", "?");
    let two = |op: &str, data: &str| {
        let all = vec![
            node("MatMul", "x w", "b", &[]),
            node(op, &format!("{data} s"), "a", &[]),
            node("Add", "a a", "y", &[]),
        ];
        nodes(all, vec![ints("s", far)])
    };
    for op in ["Expand", "Tile", "Reshape"] {
        put_through(op, &two(op, "b"), "", "?");
        put_through(&format!("{op} constant"), &two(op, "w"), "", "?");
    }
    let pad = vec![node("MatMul", "x w", "b", &[]), node("Pad", "b s", "y", &[])];
    put_through("Pad", &nodes(pad, vec![ints("s", &[0, 0, 100_000, 250_000])]), "", "?");
    let resize = vec![node("MatMul", "x w", "b", &[]), node("Resize", "b _ _ s", "y", &[])];
    put_through("Resize", &nodes(resize, vec![ints("s", far)]), "", "?");
    let range = vec![
        node("Range", "l h d", "r", &[]),
        node("Cast", "r", "c", &[int("to", 1)]),
        node("MatMul", "x w", "b", &[]),
        node("Add", "c b", "y", &[]),
    ];
    let one = |n: &str, v: i64| Tensor::from_i64(vec![], vec![v]).to_proto(n);
    put_through("Range", &nodes(range, vec![one("l", 0), one("h", 25_000_000_000), one("d", 1)]), "", "?");
    let outer =
        vec![node("MatMul", "x w", "b", &[]), node("Reshape", "b c", "r", &[]), node("MatMul", "l r", "y", &[])];
    let bytes = nodes(outer, vec![ints("c", &[1, 8]), weights("l", &[1000, 1])]);
    put_through("outer", &bytes, "", "?");
    // Grows by a factor of 1000 with each node.
    let mut all = vec![node("MatMul", "x w", "v0", &[])];
    for i in 0..20 {
        all.push(node("Concat", &[format!("v{i}").as_str(); 10].join(" "), &format!("v{}", i + 1), &[int("axis", 0)]));
    }
    all.push(node("Relu", "v20", "y", &[]));
    put_through("Concat", &nodes(all, vec![]), "", "?");
}
