//! Models made to do harm: each is refused in words, or worked on, in bounded time and memory; never a panic or an abort.

use crate::gauntlet;
use std::process::Command;

use crate::common::{floats, ints, model, node, value, weights};
use crate::desk::{Desk, Outcome};
use crate::gauntlet::Fate;
use prost::Message;
use prost::encoding::encode_varint;
use qdq::model::attribute::{float, int, ints as whole, tensor};
use qdq::model::{AttributeProto, DataType, GraphProto, Model, ModelProto, NodeProto, Tensor, TensorProto};
use qdq::proto::attribute_proto::AttributeType;
use qdq::proto::tensor_proto::DataLocation;
use qdq::proto::{FunctionProto, OperatorSetIdProto, StringStringEntryProto, TypeProto, ValueInfoProto, type_proto};

/// What a run may take: KiB of address space, and seconds of computing. Far more than any of them needs, and far less
/// than a run needs that believes what it is told.
const LIMITS: &str = "ulimit -v 6000000; ulimit -t 30; ulimit -c 0";

/// Runs `qdq` within the limits.
fn limited(args: &[&str]) -> Outcome {
    let script = format!("{LIMITS}; exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_qdq")]).args(args);
    let output = command.env("RAYON_NUM_THREADS", "2").output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (data, words) = (text(output.stdout), text(output.stderr));
    let code = output.status.code().unwrap_or_else(|| panic!("{args:?}: {}: {words}", output.status));
    assert!(matches!(code, 0..=2) && !words.contains("panicked at"), "{args:?}: {code}: {words}");
    assert!(words.lines().all(|l| l.chars().count() < 2000), "{args:?}: a line is too long");
    Outcome { code, data, words }
}

/// What must come of a run.
#[derive(Clone, Copy)]
enum Says {
    /// All goes well.
    Fine,
    /// It is refused, with this text.
    No(&'static str),
    /// The one or the other: the engine decides.
    Either,
}

use Says::{Either, Fine, No};

/// Inspects and quantizes a model, and fails unless each comes to what it must.
fn put_through(name: &str, bytes: &[u8], inspected: Says, quantized: Says) {
    let desk = Desk::new();
    let model = desk.file("m.onnx", bytes);
    put_through_file(name, &desk, &model, inspected, quantized);
}

fn put_through_file(name: &str, desk: &Desk, model: &str, inspected: Says, quantized: Says) {
    let before = desk.names();
    for args in [&["inspect", model][..], &["inspect", model, "--json"]] {
        says(name, &limited(args), inspected);
    }
    let out = desk.path("out.onnx");
    let outcome = limited(&["quantize", model, "--data", "random:2", "-o", &out]);
    says(name, &outcome, quantized);
    let left = desk.names().into_iter().filter(|n| n != "out.onnx").collect::<Vec<_>>();
    assert_eq!(left, before, "{name}");
    assert_eq!(std::path::Path::new(&out).exists(), outcome.code == 0, "{name}");
}

fn says(name: &str, outcome: &Outcome, says: Says) {
    let words: Vec<&str> = outcome.words.lines().filter(|l| !l.starts_with("warning: ")).collect();
    match says {
        Fine => assert_eq!(outcome.code, 0, "{name}: {words:?}"),
        No(text) => {
            assert!(outcome.code == 2 && words[0].contains(text), "{name}: expected `{text}`: {words:?}");
        }
        Either => assert!(outcome.code == 0 || words[0].starts_with("error: "), "{name}: {words:?}"),
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
fn a_sound_model_goes_through() {
    put_through("sound", &sound().encode_to_vec(), Fine, Fine);
    assert_eq!(gauntlet::run(&sound().encode_to_vec()), Fate::Quantized);
}

#[test]
fn graphs_that_are_none() {
    let twice = |g: &mut GraphProto| g.node.insert(1, node("Relu", "x", "a", &[]));
    let cases: &[(&str, Vec<u8>, &'static str)] = &[
        ("cycle", changed(|g| g.node[0].input[0] = "y".into()), "the graph has a cycle"),
        ("self", changed(|g| g.node[0].input[0] = "a".into()), "the graph has a cycle"),
        ("output twice", changed(twice), "`a` is produced twice"),
        ("initializer twice", changed(|g| g.initializer.push(weights("w", &[4, 4]))), "two initializers are named `w`"),
        ("input twice", changed(|g| g.input.push(value("x", None))), "inputs are named `x`"),
        ("produced input", changed(|g| g.node[1].output[0] = "x".into()), "`x`"),
        ("nobody", changed(|g| g.node[0].input[0] = "nowhere".into()), "reads `nowhere`, which nothing produces"),
        ("no output", changed(|g| g.output[0].name = Some("z".into())), "nothing produces the graph output `z`"),
        ("empty names", changed(|g| g.node[0].output[0] = String::new()), "reads `a`"),
        ("no graph", ModelProto { graph: None, ..sound() }.encode_to_vec(), "no graph"),
    ];
    for (name, bytes, text) in cases {
        put_through(name, bytes, No(text), No(text));
    }
}

#[test]
fn operators_without_a_name_and_values_without_a_type() {
    put_through("empty operator", &changed(|g| g.node[1].op_type = Some(String::new())), Fine, No("y_node"));
    put_through("no operator", &changed(|g| g.node[1].op_type = None), Fine, No("y_node"));
    put_through("untyped output", &changed(|g| g.output[0].r#type = None), Fine, Fine);
    put_through("untyped input", &changed(|g| g.input[0].r#type = None), Fine, No("`x` is not a tensor"));
    let strange = |kind| changed(|g| g.input[0].r#type = Some(TypeProto { value: Some(kind), ..Default::default() }));
    let sequence = strange(type_proto::Value::SequenceType(Default::default()));
    put_through("sequence", &sequence, Fine, No("`x` is not a tensor"));
    let unknown = type_proto::Tensor { elem_type: Some(99), shape: None };
    put_through("unknown type", &strange(type_proto::Value::TensorType(unknown)), Fine, No("`x: "));
    for dtype in [99, 0, -1, i32::MAX] {
        put_through(
            &format!("element {dtype}"),
            &changed(|g| g.initializer[0].data_type = Some(dtype)),
            Either,
            No("m.onnx"),
        );
    }
    put_through("location", &changed(|g| g.initializer[0].data_location = Some(9)), Either, Either);
    let strange = AttributeProto { name: Some("a".into()), r#type: Some(99), ..Default::default() };
    put_through("attribute", &changed(|g| g.node[0].attribute.push(strange)), Fine, Fine);
    let imports = |version: i64| {
        let import = OperatorSetIdProto { domain: None, version: Some(version) };
        ModelProto { opset_import: vec![import], ..sound() }.encode_to_vec()
    };
    for version in [i64::MIN, -1, 0, 99, i64::MAX] {
        put_through(&format!("opset {version}"), &imports(version), Fine, Either);
    }
}

fn tensor_of(dims: &[i64], dtype: DataType, raw: usize) -> TensorProto {
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
        ("too few", tensor_of(&[4, 4], DataType::Float, 60)),
        ("too many", tensor_of(&[4, 4], DataType::Float, 68)),
        ("none", tensor_of(&[4, 4], DataType::Float, 0)),
        ("negative", tensor_of(&[-4, -4], DataType::Float, 64)),
        ("100 GB", tensor_of(&[far], DataType::Float, 4)),
        (
            "100 GB, typed",
            TensorProto { raw_data: None, float_data: vec![1.0], ..tensor_of(&[far], DataType::Float, 0) },
        ),
        ("product", tensor_of(&[huge, huge], DataType::Float, 4)),
        ("product of 2^64", tensor_of(&[1 << 32, 1 << 32], DataType::Float, 0)),
        ("product beside 0", tensor_of(&[0, huge, huge], DataType::Float, 0)),
    ];
    for (name, t) in cases {
        put_through(name, &with(t.clone()), No("tensor `w`"), No("m.onnx"));
    }
    let strings = TensorProto { raw_data: None, ..tensor_of(&[far], DataType::String, 0) };
    put_through("100 GB of strings", &with(strings), Either, No("m.onnx"));
    put_through("100 GB, packed", &with(tensor_of(&[far * 8], DataType::Uint4, 4)), Either, No("m.onnx"));
    let shape = |dims: &[usize]| changed(|g| g.input[0] = value("x", Some(dims)));
    put_through("input of 100 GB", &shape(&[2, 25_000_000_000]), Fine, No("too large"));
    put_through("input of 2^64", &shape(&[1 << 32, 1 << 32]), Fine, No("too large"));
}

#[test]
fn ten_million_dims() {
    let with = |t: TensorProto| changed(|g| g.initializer[0] = t);
    let many = |d: i64, raw| tensor_of(&vec![d; 10_000_000], DataType::Float, raw);
    put_through("ones", &with(many(1, 4)), Either, No("m.onnx"));
    put_through("twos", &with(many(2, 4)), No("tensor `w`"), No("m.onnx"));
    put_through(
        "of an input",
        &changed(|g| g.input[0] = value("x", Some(&vec![1; 10_000_000]))),
        Fine,
        No("10000000 axes"),
    );
}

#[test]
fn numbers_that_are_none() {
    let filled = |x: f32| changed(|g| g.initializer[0] = floats("w", &[4, 4], &[x; 16]));
    for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
        put_through(&format!("weights of {x}"), &filled(x), Fine, No("nothing in the model can be quantized"));
    }
    for x in [f32::MIN_POSITIVE, 1e-45, 0.0] {
        put_through(&format!("weights of {x}"), &filled(x), Fine, Fine);
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
        let bytes = nodes(qdq, vec![floats("s", &[], &[scale]), codes("z", vec![]), codes("wq", vec![4, 4])]);
        put_through(&format!("scale of {scale}"), &bytes, Fine, Either);
        let desk = Desk::new();
        let (a, b) = (desk.file("a.onnx", &sound().encode_to_vec()), desk.file("b.onnx", &bytes));
        let outcome = limited(&["validate", &a, &b, "--data", "random:2"]);
        says("validate", &outcome, if scale == 1e-45 { Either } else { No("is not a positive finite number") });
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
    let behind = |op: &str, more: &str, constants: Vec<TensorProto>, attributes: &[AttributeProto]| {
        let all = vec![node("MatMul", "x w", "a", &[]), node(op, &format!("a {more}"), "y", attributes)];
        nodes(all, constants)
    };
    let huge = i64::MAX;
    let far = vec![ints("a1", &[huge]), ints("b", &[i64::MIN]), ints("c", &[99]), ints("d", &[0])];
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
        ("concat", of("Concat", &[int("axis", 7)])),
        ("gather", behind("Gather", "i", vec![ints("i", &[0])], &[int("axis", -9)])),
        ("gather far", behind("Gather", "i", vec![ints("i", &[huge])], &[])),
        ("reshape", behind("Reshape", "i", vec![ints("i", &[-1, -1, -1])], &[])),
        ("reshape far", behind("Reshape", "i", vec![ints("i", &[huge, huge])], &[])),
        ("slice far", behind("Slice", "a1 b c d", far, &[])),
    ];
    for (name, bytes) in &cases {
        put_through(name, bytes, Fine, Either);
    }
    let table = vec![node("Gather", "w i", "a", &[int("axis", -9)]), node("Add", "a x", "y", &[])];
    put_through("gather table", &nodes(table, vec![ints("i", &[0, 1])]), Fine, Either);
    put_through("perm twice", &cases[2].1, Fine, No("does not list every axis once"));
}

#[test]
fn windows_that_are_none() {
    let huge = i64::MAX;
    let cases = [
        int("group", 0),
        int("group", -1),
        int("group", 3),
        int("group", huge),
        whole("pads", &[1, 1, 1]),
        whole("pads", &[100_000; 4]),
        whole("pads", &[huge; 4]),
        whole("pads", &[-9; 4]),
        whole("kernel_shape", &[-3, -3]),
        whole("kernel_shape", &[1 << 40, 1 << 40]),
        whole("strides", &[0, 0]),
        whole("strides", &[-1, -1]),
        whole("dilations", &[0, 0]),
        whole("dilations", &[huge, huge]),
    ];
    for attribute in cases {
        let kernel = whole("kernel_shape", &[3, 3]);
        let both = [attribute.clone(), kernel];
        let all: [(&str, Vec<NodeProto>); 3] = [
            ("Conv", vec![node("Conv", "x k b", "c", &both[..1]), node("BatchNormalization", "c b b b b", "y", &[])]),
            ("ConvTranspose", vec![node("ConvTranspose", "x k b", "y", &both[..1])]),
            ("MaxPool", vec![node("Conv", "x k b", "c", &[]), node("MaxPool", "c", "y", &both)]),
        ];
        for (op, nodes) in all {
            let constants = vec![weights("k", &[4, 4, 3, 3]), weights("b", &[4])];
            let bytes = model(17, &[1, 4, 8, 8], nodes, constants, &[("y", &[1, 4, 6, 6])]).to_bytes().unwrap();
            put_through(&format!("{op} {attribute:?}"), &bytes, Fine, Either);
        }
    }
}

#[test]
fn small_models_of_huge_values() {
    let far = &[100_000, 250_000];
    let size = || vec![ints("s", far)];
    let constant = |op: &str, inputs: &str| {
        vec![node(op, inputs, "a", &[]), node("MatMul", "x w", "b", &[]), node("Add", "a b", "y", &[])]
    };
    put_through("ConstantOfShape", &nodes(constant("ConstantOfShape", "s"), size()), Fine, No("error: "));
    put_through("Tile of a constant", &nodes(constant("Tile", "w s"), size()), Fine, No("error: "));
    for op in ["Expand", "Tile", "Reshape"] {
        let all = vec![node("MatMul", "x w", "b", &[]), node(op, "b s", "a", &[]), node("Add", "a a", "y", &[])];
        put_through(op, &nodes(all, size()), Fine, No("error: "));
    }
    let behind = |op: &str, inputs: &str| vec![node("MatMul", "x w", "b", &[]), node(op, inputs, "y", &[])];
    let pads = vec![ints("s", &[0, 0, 100_000, 250_000])];
    put_through("Pad", &nodes(behind("Pad", "b s"), pads), Fine, No("too large to be run"));
    put_through("Resize", &nodes(behind("Resize", "b _ _ s"), size()), Fine, No("error: "));
    let one = |n: &str, v: i64| Tensor::from_i64(vec![], vec![v]).to_proto(n);
    let range = vec![
        node("Range", "l h d", "r", &[]),
        node("Cast", "r", "c", &[int("to", 1)]),
        node("MatMul", "x w", "b", &[]),
        node("Add", "c b", "y", &[]),
    ];
    let bounds = vec![one("l", 0), one("h", 25_000_000_000), one("d", 1)];
    put_through("Range", &nodes(range, bounds), Fine, No("error: "));
    // Ten times as large with each node.
    let mut all = vec![node("MatMul", "x w", "v0", &[])];
    for i in 0..20 {
        let ten = [format!("v{i}").as_str(); 10].join(" ");
        all.push(node("Concat", &ten, &format!("v{}", i + 1), &[int("axis", 0)]));
    }
    all.push(node("Relu", "v20", "y", &[]));
    put_through("Concat", &nodes(all, vec![]), Fine, No("error: "));
}

// ---- bytes that are no message ----

/// A field with a length.
fn field(number: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_varint(number << 3 | 2, &mut out);
    encode_varint(payload.len() as u64, &mut out);
    out.extend(payload);
    out
}

/// A model around the message of a graph.
fn around(graph: &[u8]) -> Vec<u8> {
    [&field(8, &[0x10, 17])[..], &field(7, graph)].concat()
}

/// An If around an If, so many of them.
fn nested(depth: usize) -> Vec<u8> {
    let constant = field(1, &[&field(2, b"c0")[..], &field(4, b"Constant")].concat());
    let mut graph = [&constant[..], &field(12, &field(1, b"c0"))].concat();
    for i in 1..=depth {
        let branch = [&field(1, b"then_branch")[..], &field(6, &graph), &[0xa0, 0x01, 5]].concat();
        let name = format!("c{i}").into_bytes();
        let node = [&field(1, b"c")[..], &field(2, &name), &field(4, b"If"), &field(5, &branch)].concat();
        graph = [&field(1, &node)[..], &field(12, &field(1, &name))].concat();
    }
    let condition = field(1, &[&field(2, b"c")[..], &field(4, b"Constant")].concat());
    around(&[&condition[..], &graph].concat())
}

#[test]
fn messages_that_do_not_end() {
    let whole = sound().encode_to_vec();
    let cases: &[(&str, Vec<u8>)] = &[
        ("nothing but a key", vec![0x3a]),
        ("a varint of eleven bytes", [&[0x08][..], &[0xff; 11]].concat()),
        ("a length of eleven bytes", [&[0x3a][..], &[0xff; 11]].concat()),
        ("a length of 100 GB", [&[0x3a, 0x80, 0xd0, 0xdb, 0xc3, 0xf4, 0x02][..], &whole].concat()),
        ("a length of 2^63", [&[0x3a][..], &[0xff; 9], &[0x01]].concat()),
        ("the end of a group", [&whole[..], &[0x3c]].concat()),
        ("groups without end", vec![0x0b; 100_000]),
        ("field 0", [&whole[..], &[0x00, 0x01]].concat()),
        ("wire type 7", [&whole[..], &[0x0f]].concat()),
        ("a name that is no text", around(&field(2, &[0xff, 0xfe]))),
        ("a node's name that is no text", around(&field(1, &field(3, &[0xc0, 0x80])))),
        ("a graph that is a number", [&field(8, &[0x10, 17])[..], &[0x38, 1]].concat()),
        ("a node that is a number", around(&[0x08, 1])),
    ];
    for (name, bytes) in cases {
        put_through(name, bytes, No("not an ONNX model"), No("not an ONNX model"));
    }
    put_through(
        "two graphs",
        &[&whole[..], &field(7, b"")].concat(),
        No("more than one graph"),
        No("more than one graph"),
    );
}

#[test]
fn a_thousand_ifs_in_one_another() {
    put_through("a thousand", &nested(1000), No("not an ONNX model"), No("not an ONNX model"));
    let deepest = (1..1000).take_while(|&n| Model::from_bytes(nested(n).into()).is_ok()).last().unwrap();
    assert!(deepest >= 20, "{deepest}");
    put_through("the deepest that is read", &nested(deepest), Fine, Either);
    for depth in [1, deepest / 2, deepest] {
        let run = move || gauntlet::run(&nested(depth));
        // A thread that is not the first one has 2 MiB.
        let fate = std::thread::Builder::new().stack_size(1 << 20).spawn(run).unwrap().join().unwrap();
        assert!(fate >= Fate::Read, "{depth}: {fate:?}");
    }
}

// ---- much of everything ----

/// The name of value `i`; the first one is the input.
fn v(i: usize) -> String {
    if i == 0 { "x".to_owned() } else { format!("v{i}") }
}

/// A model of that opset whose output is the last value.
fn long(opset: i64, nodes: Vec<NodeProto>, constants: Vec<TensorProto>) -> Vec<u8> {
    let output = nodes.last().unwrap().output[0].clone();
    let mut proto = sound();
    proto.opset_import[0].version = Some(opset);
    let graph = proto.graph.as_mut().unwrap();
    (graph.node, graph.initializer, graph.output[0].name) = (nodes, constants, Some(output));
    proto.encode_to_vec()
}

/// Runs a model through all that needs no engine, in a process of its own within the limits: this one, with one test.
fn goes_far(name: &str, bytes: &[u8]) {
    let desk = Desk::new();
    let file = desk.file("m.onnx", bytes);
    let script = format!("{LIMITS}; exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &script]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", "one_model_of_many", "--test-threads", "1"]).env("QDQ_HOSTILE_MODEL", &file);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{name}: {}: {}", output.status, String::from_utf8_lossy(&output.stdout));
}

/// The process of [`goes_far`]; without a model there is nothing to do.
#[test]
fn one_model_of_many() {
    if let Some(file) = std::env::var_os("QDQ_HOSTILE_MODEL") {
        assert!(gauntlet::run(&std::fs::read(file).unwrap()) >= Fate::Read);
    }
}

/// How much is much: what takes a step for each pair of things would take hours of it.
const MANY: usize = 5_000;

#[test]
fn long_chains() {
    let chain = |op: &str, attributes: &[AttributeProto]| -> Vec<NodeProto> {
        (0..MANY).map(|i| node(op, &v(i), &v(i + 1), attributes)).collect()
    };
    let mut backwards = chain("Abs", &[]);
    backwards.reverse();
    let output = v(MANY);
    let mut reversed = long(17, backwards, vec![]);
    let mut proto = ModelProto::decode(&reversed[..]).unwrap();
    proto.graph.as_mut().unwrap().output[0].name = Some(output);
    reversed = proto.encode_to_vec();
    goes_far("reversed", &reversed);
    goes_far("Relu", &long(17, chain("Relu", &[]), vec![]));
    goes_far("Identity", &long(17, chain("Identity", &[]), vec![]));
    goes_far("Clip", &long(7, chain("Clip", &[float("max", 1.0)]), vec![]));
    goes_far("Softmax", &long(7, chain("Softmax", &[]), vec![]));
    goes_far("Dropout", &long(7, chain("Dropout", &[float("ratio", 0.5)]), vec![]));
    let mut named = chain("Relu", &[]);
    named.iter_mut().for_each(|n| n.name = Some("x".into()));
    goes_far("one name", &long(17, named, vec![]));
    let mut foreign = chain("Relu", &[]);
    foreign.iter_mut().enumerate().for_each(|(i, n)| n.domain = Some(format!("d{i}")));
    let mut proto = ModelProto::decode(&long(17, foreign, vec![])[..]).unwrap();
    let import = |i| OperatorSetIdProto { domain: Some(format!("d{i}")), version: Some(1) };
    proto.opset_import.extend((0..MANY).map(import));
    goes_far("operator sets", &proto.encode_to_vec());
    let mut proto = ModelProto::decode(&long(17, chain("Cast", &[int("to", 1)]), vec![])[..]).unwrap();
    proto.graph.as_mut().unwrap().value_info = (1..MANY).map(|i| value(&v(i), Some(&[2, 4]))).collect();
    goes_far("types", &proto.encode_to_vec());
}

#[test]
fn a_chain_through_the_engine() {
    let chain = (0..2000).map(|i| node("Relu", &v(i), &v(i + 1), &[])).collect();
    put_through("2000 Relu", &long(17, chain, vec![]), Fine, Either);
    let chain = (0..1_000_000).map(|i| node("Relu", &v(i), &v(i + 1), &[])).collect();
    let desk = Desk::new();
    let model = desk.file("m.onnx", &long(17, chain, vec![]));
    says("a million Relu", &limited(&["inspect", &model]), Fine);
}

#[test]
fn one_value_and_many_readers() {
    let readers = |op: &str, attributes: &[AttributeProto]| -> Vec<NodeProto> {
        let mut all: Vec<NodeProto> = (0..MANY).map(|i| node(op, "x", &v(i + 1), attributes)).collect();
        all.extend((0..MANY).map(|i| node("Abs", &v(i + 1), &format!("r{i}"), &[])));
        all
    };
    goes_far("Identity", &long(17, readers("Identity", &[]), vec![]));
    goes_far("Relu", &long(17, readers("Relu", &[]), vec![]));
    let all = vec![node("Identity", "x", "a", &[]), node("Sum", &vec!["a"; MANY].join(" "), "y", &[])];
    goes_far("one node", &long(17, all, vec![]));
    let shared = (0..MANY).map(|i| node("MatMul", &format!("{} w", v(i)), &v(i + 1), &[])).collect();
    goes_far("one weight", &long(17, shared, vec![weights("w", &[4, 4])]));
    let norms = (0..MANY).map(|i| node("BatchNormalization", &format!("{} s s s s", v(i)), &v(i + 1), &[])).collect();
    goes_far("one statistic", &long(9, norms, vec![floats("s", &[4], &[1.0; 4])]));
    let pairs = |i: usize| {
        let q = node("QuantizeLinear", &format!("{} s", v(i)), &format!("q{i}"), &[]);
        [q, node("DequantizeLinear", &format!("q{i} s"), &v(i + 1), &[])]
    };
    goes_far("one scale", &long(13, (0..MANY).flat_map(pairs).collect(), vec![floats("s", &[], &[1.0])]));
}

#[test]
fn many_constants() {
    let all = (0..MANY).map(|i| node("Constant", "", &v(i + 1), &[float("value_float", 1.0)]));
    let readers = (0..MANY).map(|i| node("Add", &format!("x {}", v(i + 1)), &format!("r{i}"), &[]));
    goes_far("Constant", &long(17, all.chain(readers).collect(), vec![]));
    let alike = |i| floats(&format!("w{i}"), &[4, 4], &[1.0; 16]);
    let chain = || (0..MANY).map(|i| node("MatMul", &format!("{} w{i}", v(i)), &v(i + 1), &[])).collect::<Vec<_>>();
    goes_far("initializers alike", &long(17, chain(), (0..MANY).map(alike).collect()));
    let mut proto = ModelProto::decode(&long(7, chain(), (0..MANY).map(alike).collect())[..]).unwrap();
    proto.graph.as_mut().unwrap().input.extend((0..MANY).map(|i| value(&format!("w{i}"), Some(&[4, 4]))));
    goes_far("initializers among the inputs", &proto.encode_to_vec());
    let half = |i| Tensor::from_f64(DataType::Float16, vec![1], &[1.0]).unwrap().to_proto(&format!("w{i}"));
    let adds = (0..MANY).map(|i| node("Add", &format!("{} w{i}", v(i)), &v(i + 1), &[])).collect();
    goes_far("float16", &long(17, adds, (0..MANY).map(half).collect()));
}

#[test]
fn many_subgraphs_and_calls() {
    let many = MANY / 5;
    let output = |name: String| ValueInfoProto { name: Some(name), ..Default::default() };
    let body = |i: usize| GraphProto {
        node: vec![node("Relu", "x", &format!("b{i}"), &[])],
        output: vec![output(format!("b{i}"))],
        ..Default::default()
    };
    let branch = |g: GraphProto| AttributeProto {
        name: Some("then_branch".into()),
        g: Some(g),
        r#type: Some(AttributeType::Graph as i32),
        ..Default::default()
    };
    let ifs = || (0..many).map(|i| node("If", "x", &v(i + 1), &[branch(body(i))])).collect::<Vec<_>>();
    goes_far("branches", &long(11, ifs(), vec![]));
    let inner = GraphProto { node: ifs(), output: vec![output("v1".into())], ..Default::default() };
    goes_far("branches in a branch", &long(11, vec![node("If", "x", "y", &[branch(inner)])], vec![]));
    let graphs = AttributeProto {
        name: Some("bodies".into()),
        graphs: (0..many).map(body).collect(),
        r#type: Some(AttributeType::Graphs as i32),
        ..Default::default()
    };
    goes_far("bodies of one node", &long(11, vec![node("If", "x", "y", &[graphs])], vec![]));
    let function = |i: usize, calls: Vec<NodeProto>| FunctionProto {
        name: Some(format!("F{i}")),
        domain: Some("own".into()),
        input: vec!["a".into()],
        output: vec!["z".into()],
        node: calls,
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
        ..Default::default()
    };
    let call = |i: usize, from: &str, to: &str| NodeProto {
        domain: Some("own".into()),
        ..node(&format!("F{i}"), from, to, &[])
    };
    let with = |bytes: Vec<u8>, functions: Vec<FunctionProto>| {
        let mut proto = ModelProto::decode(&bytes[..]).unwrap();
        proto.functions = functions;
        proto.opset_import.push(OperatorSetIdProto { domain: Some("own".into()), version: Some(1) });
        proto.encode_to_vec()
    };
    let calls = (0..many).map(|i| call(0, &v(i), &v(i + 1))).collect();
    let relu = function(0, vec![node("Relu", "a", "z", &[])]);
    goes_far("calls", &with(long(17, calls, vec![]), vec![relu]));
    // Each function calls the next one twice: 2^60 nodes.
    let twice = |i: usize| function(i, vec![call(i + 1, "a", "m"), call(i + 1, "m", "z")]);
    let mut doubling: Vec<FunctionProto> = (0..60).map(twice).collect();
    doubling.push(function(60, vec![node("Relu", "a", "z", &[])]));
    put_through("calls that double", &with(long(17, vec![call(0, "x", "y")], vec![]), doubling), Fine, No("error: "));
    let circle = vec![function(0, vec![call(0, "a", "z")])];
    put_through(
        "a function that calls itself",
        &with(long(17, vec![call(0, "x", "y")], vec![]), circle),
        Fine,
        No("error: "),
    );
}

/// What is inside a node with a long name would carry it along.
#[test]
fn long_names() {
    let long_name = "n".repeat(1_000_000);
    let odd = format!("\u{1b}[2J{long_name}\u{7}");
    let constants: Vec<TensorProto> = (0..2000).map(|i| weights(&format!("w{i}"), &[4, 4])).collect();
    let inside = (0..2000).map(|i| node("MatMul", &format!("x w{i}"), &format!("b{i}"), &[])).collect();
    let output = ValueInfoProto { name: Some("b0".into()), ..Default::default() };
    let body = GraphProto { node: inside, initializer: constants, output: vec![output], ..Default::default() };
    let branch = AttributeProto {
        name: Some(long_name.clone()),
        g: Some(body),
        r#type: Some(AttributeType::Graph as i32),
        ..Default::default()
    };
    let choice = NodeProto { name: Some(odd.clone()), ..node("If", "x", "y", &[branch]) };
    let bytes = long(11, vec![choice], vec![]);
    put_through("around many", &bytes, Fine, Either);
    let desk = Desk::new();
    let shown = limited(&["inspect", &desk.file("m.onnx", &bytes), "--json"]);
    assert!(shown.data.len() < 30_000_000, "{}", shown.data.len());
    // 2000 normalizations that all stand behind the node with the long name.
    let first = NodeProto { name: Some(odd), ..node("Relu", "x", "a", &[]) };
    let norm = |i| node("BatchNormalization", "a s s s s", &format!("r{i}"), &[]);
    let norms = std::iter::once(first).chain((0..2000).map(norm)).collect();
    goes_far("before many", &long(9, norms, vec![floats("s", &[4], &[1.0; 4])]));
}

// ---- files beside the model ----

#[test]
fn files_beside_the_model() {
    let desk = Desk::new();
    let entry = |k: &str, v: &str| StringStringEntryProto { key: Some(k.into()), value: Some(v.into()) };
    let external = |name: &str, entries: &[(&str, &str)]| TensorProto {
        name: Some(name.into()),
        dims: vec![4, 4],
        data_type: Some(DataType::Float as i32),
        data_location: Some(DataLocation::External as i32),
        external_data: entries.iter().map(|(k, v)| entry(k, v)).collect(),
        ..Default::default()
    };
    desk.file("w.bin", &[0; 256]);
    std::os::unix::fs::symlink("/etc/passwd", desk.path("out_of_here")).unwrap();
    std::os::unix::fs::symlink("/", desk.path("root")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", desk.path("zero")).unwrap();
    std::os::unix::fs::symlink("around", desk.path("around")).unwrap();
    assert!(Command::new("mkfifo").arg(desk.path("pipe")).status().unwrap().success());
    let cases: &[(&[(&str, &str)], &'static str)] = &[
        (&[], "names no location"),
        (&[("location", "")], "external data"),
        (&[("location", "../w.bin")], "leaves the model's folder"),
        (&[("location", "a/../../w.bin")], "leaves the model's folder"),
        (&[("location", "/etc/passwd")], "leaves the model's folder"),
        (&[("location", "out_of_here")], "links out of the model's folder"),
        (&[("location", "root/etc/passwd")], "links out of the model's folder"),
        (&[("location", "zero")], "links out of the model's folder"),
        (&[("location", "around")], "external data"),
        (&[("location", "pipe")], "no regular file"),
        (&[("location", ".")], "directory"),
        (&[("location", "a\0b")], "external data"),
        (&[("location", "m.onnx")], "tensor `w`"),
        (&[("location", "w.bin"), ("offset", "-1")], "not a whole number"),
        (&[("location", "w.bin"), ("offset", "1e9")], "not a whole number"),
        (&[("location", "w.bin"), ("offset", "99999999999999999999999")], "not a whole number"),
        (&[("location", "w.bin"), ("offset", "250")], "tensor `w`"),
        (&[("location", "w.bin"), ("offset", "250"), ("length", "64")], "were asked for"),
        (&[("location", "w.bin"), ("length", "100000000000")], "were asked for"),
        (&[("location", "w.bin"), ("offset", "18446744073709551615"), ("length", "64")], "were asked for"),
        (&[("location", "w.bin"), ("length", "60")], "tensor `w`"),
    ];
    for (entries, text) in cases {
        let model = desk.file("m.onnx", &changed(|g| g.initializer[0] = external("w", entries)));
        put_through_file(&format!("{entries:?}"), &desk, &model, No(text), No("error: "));
    }
    let part =
        |name: &str, offset: &str| external(name, &[("location", "w.bin"), ("offset", offset), ("length", "64")]);
    let two = |a: &str, b: &str| {
        changed(|g| {
            g.initializer = vec![part("w", a), part("u", b)];
            g.node.insert(1, node("MatMul", "a u", "a2", &[]));
            g.node[2].input[0] = "a2".into();
        })
    };
    let model = desk.file("m.onnx", &two("0", "32"));
    put_through_file("overlap", &desk, &model, No("overlap"), No("overlap"));
    let model = desk.file("m.onnx", &two("64", "64"));
    put_through_file("shared", &desk, &model, Fine, Fine);
}

#[test]
fn paths_that_are_no_models() {
    let desk = Desk::new();
    assert!(Command::new("mkfifo").arg(desk.path("pipe")).status().unwrap().success());
    let cases = [("/dev/zero", "no regular file"), ("/dev/stdin", ""), ("/proc/self/mem", ""), ("/", "is a directory")];
    for (path, text) in cases {
        says(path, &limited(&["inspect", path]), No(text));
    }
    says("pipe", &limited(&["inspect", &desk.path("pipe")]), No("no regular file"));
    let nowhere = tensor("value", TensorProto { data_location: Some(1), ..tensor_of(&[4], DataType::Float, 0) });
    let all =
        vec![node("Constant", "", "c", &[nowhere]), node("MatMul", "x w", "a", &[]), node("Add", "a c", "y", &[])];
    put_through("a Constant in no file", &nodes(all, vec![]), No("names no location"), No("names no location"));
}
