//! Every target: the table of what it wants, and where it puts Q/DQ on the blocks that models are made of, node by node.
//!
//! Both are held in `tests/targets/`, a file a target. `QDQ_BLESS=1` writes the files anew.

use std::collections::BTreeMap;
use std::path::Path;

use crate::common::{emit, floats, model, node, noise_samples, weights};
use qdq::check::check;
use qdq::events::Silent;
use qdq::exec::Tract;
use qdq::model::{AttributeProto, DataType, Graph, Model, NodeExt, NodeProto, TensorProto, attribute, dtype_name};
use qdq::number::Format;
use qdq::plan::{Policy, Steps};
use qdq::quantize::{Quantized, Recipe, quantize};
use qdq::report;
use qdq::target::{QNN, TENSORRT, Target, XNNPACK};
use qdq::validate::{Questions, validate};

/// A block, by name: its shape of input, and the model.
type Block = (&'static str, Vec<usize>, Model);

fn square(n: i64) -> [AttributeProto; 2] {
    [attribute::ints("kernel_shape", &[n, n]), attribute::ints("pads", &[n / 2, n / 2, n / 2, n / 2])]
}

/// A convolution of `x` to 16 channels with a kernel of 3 by 3, and its constants.
fn conv(x: &str, y: &str, constants: &mut Vec<TensorProto>) -> NodeProto {
    let (w, b) = (format!("w_{y}"), format!("b_{y}"));
    constants.extend([weights(&w, &[16, 16, 3, 3]), weights(&b, &[16])]);
    node("Conv", &format!("{x} {w} {b}"), y, &square(3))
}

/// Two convolutions and the way around them, as in ResNet, and a head.
fn residual() -> Model {
    let mut constants = vec![weights("w_logits", &[16, 16]), weights("b_logits", &[16])];
    let nodes = vec![
        conv("x", "stem", &mut constants),
        node("Relu", "stem", "stem_relu", &[]),
        conv("stem_relu", "first", &mut constants),
        node("Relu", "first", "first_relu", &[]),
        conv("first_relu", "second", &mut constants),
        node("Add", "second stem_relu", "sum", &[]),
        node("Relu", "sum", "sum_relu", &[]),
        node("GlobalAveragePool", "sum_relu", "pool", &[]),
        node("Flatten", "pool", "flat", &[]),
        node("Gemm", "flat w_logits b_logits", "logits", &[]),
    ];
    model(17, &[2, 16, 8, 8], nodes, constants, &[("logits", &[2, 16])])
}

/// Expansion, a depthwise convolution and projection with the way around them, as in MobileNetV2.
fn inverted_residual() -> Model {
    let mut constants = vec![
        weights("w_expand", &[32, 16, 1, 1]),
        weights("b_expand", &[32]),
        weights("w_depth", &[32, 1, 3, 3]),
        weights("b_depth", &[32]),
        weights("w_project", &[16, 32, 1, 1]),
        weights("b_project", &[16]),
        floats("low", &[], &[0.0]),
        floats("high", &[], &[6.0]),
    ];
    let mut depthwise = square(3).to_vec();
    depthwise.push(attribute::int("group", 32));
    let nodes = vec![
        conv("x", "stem", &mut constants),
        node("Conv", "stem w_expand b_expand", "expand", &square(1)),
        node("Clip", "expand low high", "expand_clip", &[]),
        node("Conv", "expand_clip w_depth b_depth", "depth", &depthwise),
        node("Clip", "depth low high", "depth_clip", &[]),
        node("Conv", "depth_clip w_project b_project", "project", &square(1)),
        node("Add", "stem project", "sum", &[]),
        conv("sum", "y", &mut constants),
    ];
    model(17, &[1, 16, 8, 8], nodes, constants, &[("y", &[1, 16, 8, 8])])
}

/// Attention with one head, and the way around it.
fn attention() -> Model {
    let constants = ["w_q", "w_k", "w_v", "w_o"].map(|w| weights(w, &[16, 16]));
    let nodes = vec![
        node("MatMul", "x w_q", "q", &[]),
        node("MatMul", "x w_k", "k", &[]),
        node("MatMul", "x w_v", "v", &[]),
        node("Transpose", "k", "k_t", &[attribute::ints("perm", &[0, 2, 1])]),
        node("MatMul", "q k_t", "scores", &[]),
        node("Div", "scores root", "scaled", &[]),
        node("Softmax", "scaled", "shares", &[attribute::int("axis", -1)]),
        node("MatMul", "shares v", "context", &[]),
        node("MatMul", "context w_o", "out", &[]),
        node("Add", "out x", "sum", &[]),
    ];
    let constants = constants.into_iter().chain([floats("root", &[], &[4.0])]).collect();
    model(17, &[1, 20, 16], nodes, constants, &[("sum", &[1, 20, 16])])
}

/// Branches of different ranges that are joined, as in Inception.
fn concat() -> Model {
    let mut constants = vec![weights("w_y", &[16, 32, 1, 1])];
    let halves = [attribute::ints("kernel_shape", &[2, 2]), attribute::ints("strides", &[2, 2])];
    let nodes = vec![
        conv("x", "stem", &mut constants),
        node("Relu", "stem", "stem_relu", &[]),
        conv("stem_relu", "branch", &mut constants),
        node("Concat", "stem_relu branch", "joined", &[attribute::int("axis", 1)]),
        node("AveragePool", "joined", "pool", &halves),
        node("Conv", "pool w_y", "y", &square(1)),
    ];
    model(17, &[1, 16, 8, 8], nodes, constants, &[("y", &[1, 16, 4, 4])])
}

fn blocks() -> Vec<Block> {
    vec![
        ("residual", vec![2, 16, 8, 8], residual()),
        ("inverted_residual", vec![1, 16, 8, 8], inverted_residual()),
        ("attention", vec![1, 20, 16], attention()),
        ("concat", vec![1, 16, 8, 8], concat()),
    ]
}

/// Quantizes a block, looks at the result in every way there is, and hands it to the cross-check.
fn made(name: &str, shape: &[usize], float: &Model, policy: Policy) -> Quantized {
    let samples = noise_samples(shape, 12);
    let recipe = Recipe { policy: Policy { steps: Steps::NONE, ..policy } };
    let made = quantize(float, &samples, &recipe, &Tract, &Silent).unwrap_or_else(|e| panic!("{name}: {e}"));
    let findings = check(&made.model.to_proto(), None);
    assert_eq!(findings.errors, 0, "{name}: {:?}", findings.findings);
    let found = validate(float, &made.model, &samples, &Questions::default(), &Tract, &Silent).unwrap();
    emit(name, float, &made.model, &samples, &found.outputs);
    let db = found.outputs[0].sqnr_db.unwrap();
    assert!(db > 25.0, "{name}: {db} dB");
    made
}

/// A line for each node of the float model that is left: its operator and output, and what it reads. `q0` is a dequantized
/// activation, numbered by scale and zero point; constants tell their type.
fn placement(graph: &Graph) -> String {
    let mut scales = BTreeMap::new();
    let mut read = |name: &str| {
        let codes = graph.producer(name).and_then(|(id, _)| graph.node(id)).filter(|n| n.is("DequantizeLinear"));
        let Some(dq) = codes else {
            let kind = graph.initializer(name).map(|_| " float").unwrap_or_default();
            return format!("{name}{kind}");
        };
        let scale = graph.constant(&dq.input[1]).unwrap().unwrap();
        let zero = graph.constant(&dq.input[2]).unwrap().unwrap();
        if let Some(constant) = graph.constant(&dq.input[0]).unwrap() {
            let channels = if scale.shape().is_empty() { "" } else { " per channel" };
            return format!("{} {}{channels}", dq.input[0].replace("_quantized", ""), dtype_name(constant.dtype()));
        }
        let (q, _) = graph.producer(&dq.input[0]).unwrap();
        let value = graph.node(q).unwrap().input[0].clone();
        let bits = scale.f32s().unwrap()[0].to_bits();
        let next = scales.len();
        let number = *scales.entry((bits, zero.bytes().to_vec())).or_insert(next);
        format!("{value} q{number} {}", dtype_name(zero.dtype()))
    };
    let mut lines = Vec::new();
    for (_, n) in graph.nodes().filter(|(_, n)| !n.is("QuantizeLinear") && !n.is("DequantizeLinear")) {
        let inputs: Vec<String> = n.input.iter().map(|i| read(i)).collect();
        lines.push(format!("{} {} <- {}", n.op_type(), n.output[0], inputs.join(", ")));
    }
    lines.extend(
        graph
            .outputs()
            .iter()
            .map(|o| format!("output {} <- {}", o.name.as_deref().unwrap(), read(o.name.as_deref().unwrap()))),
    );
    lines.join("\n")
}

#[test]
fn every_target_puts_pairs_where_it_wants_them() {
    let bless = std::env::var_os("QDQ_BLESS").is_some();
    for target in Target::all() {
        let mut text = report::text(&target.tables(), None);
        for (block, shape, float) in blocks() {
            let made = made(&format!("target_{}_{block}", target.name), &shape, &float, Policy::of(target));
            text += &format!("\n{block}\n{}\n", placement(&made.model.graph));
        }
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/targets/{}.txt", target.name));
        if bless {
            std::fs::write(&file, &text).unwrap();
        }
        let want = std::fs::read_to_string(&file).unwrap();
        assert!(text == want, "{}:\n{text}", target.name);
    }
}

#[test]
fn sixteen_bits_have_the_tables_of_the_target() {
    let mut constants = vec![];
    let nodes = vec![
        conv("x", "a", &mut constants),
        node("Sigmoid", "a", "s", &[]),
        node("Tanh", "a", "t", &[]),
        node("Mul", "s t", "m", &[]),
        conv("m", "y", &mut constants),
    ];
    let float = model(17, &[1, 16, 8, 8], nodes, constants, &[("y", &[1, 16, 8, 8])]);
    let shape = [1, 16, 8, 8];
    for (target, format, sigmoid, tanh) in [
        (&QNN, Format::UINT16, (1.0 / 65536.0, 0), (1.0 / 32768.0, 32768)),
        (&QNN, Format::INT16, (1.0 / 32768.0, 0), (1.0 / 32768.0, 0)),
        (&QNN, Format::UINT8, (1.0 / 255.0, 0), (2.0 / 255.0, 127)),
        (&XNNPACK, Format::INT8, (1.0 / 256.0, -128), (1.0 / 128.0, 0)),
    ] {
        let policy = Policy { activations: format, ..Policy::of(target) };
        let made = made(&format!("target_{}_{}", target.name, format.name), &shape, &float, policy);
        let params = |value: &str| made.plan.values[value].params.channel(0);
        assert_eq!((params("s"), params("t")), (sigmoid, tanh), "{} {}", target.name, format.name);
    }
}

#[test]
fn ranges_are_as_wide_as_the_target_wants() {
    let mut constants = vec![floats("tiny", &[], &[1e-7])];
    let nodes = vec![
        conv("x", "a", &mut constants),
        node("Mul", "a tiny", "m", &[]),
        node("Relu", "m", "r", &[]),
        node("Add", "r a", "s", &[]),
        conv("s", "y", &mut constants),
    ];
    let float = model(17, &[1, 16, 8, 8], nodes, constants, &[("y", &[1, 16, 8, 8])]);
    let made = made("target_qnn_least_range", &[1, 16, 8, 8], &float, Policy::of(&QNN));
    let (scale, zero) = made.plan.values["r"].params.channel(0);
    assert_eq!(zero, 0);
    assert!((scale - 1e-4 / 255.0).abs() < 1e-9, "{scale}");
}

#[test]
fn bounds_that_stay_are_one_with_the_operator_before_them() {
    let mut constants = vec![floats("low", &[], &[0.0]), floats("high", &[], &[0.5])];
    let nodes = vec![
        conv("x", "a", &mut constants),
        node("Relu", "a", "r", &[]),
        node("Clip", "r low high", "c", &[]),
        conv("x", "b", &mut constants),
        node("Concat", "c b", "joined", &[attribute::int("axis", 0)]),
        conv("joined", "y", &mut constants),
    ];
    let float = model(17, &[1, 16, 8, 8], nodes, constants, &[("y", &[2, 16, 8, 8])]);
    let made = made("target_xnnpack_bounds", &[1, 16, 8, 8], &float, Policy::of(&XNNPACK));
    // The range that the branches share reaches below zero.
    assert_eq!(made.plan.values.keys().collect::<Vec<_>>(), ["b", "c", "joined", "x", "y"]);
    let operators: Vec<_> = made.model.graph.nodes().map(|(_, n)| n.op_type()).collect();
    assert!(operators.contains(&"Relu") && operators.contains(&"Clip"));
}

#[test]
fn where_convolutions_make_both_sides_the_shorter_path_is_the_residual() {
    for swapped in [false, true] {
        let mut constants = vec![];
        let sides = if swapped { "short long" } else { "long short" };
        let nodes = vec![
            conv("x", "stem", &mut constants),
            conv("stem", "middle", &mut constants),
            node("Relu", "middle", "middle_relu", &[]),
            conv("middle_relu", "long", &mut constants),
            conv("stem", "short", &mut constants),
            node("Add", sides, "sum", &[]),
            conv("sum", "y", &mut constants),
        ];
        let float = model(17, &[1, 16, 8, 8], nodes, constants, &[("y", &[1, 16, 8, 8])]);
        let made = made(&format!("target_tensorrt_shortcut_{swapped}"), &[1, 16, 8, 8], &float, Policy::of(&TENSORRT));
        let read = made.plan.values.keys().map(String::as_str).collect::<Vec<_>>();
        assert_eq!(read, ["middle_relu", "short", "stem", "sum", "x"]);
    }
}

#[test]
fn an_add_that_no_convolution_takes_in_stays_float() {
    let mut constants = vec![];
    let nodes = vec![
        conv("x", "a", &mut constants),
        // The other side hangs on the convolution that would take the Add in.
        node("Sigmoid", "a", "s", &[]),
        node("Add", "a s", "sum", &[]),
        conv("sum", "y", &mut constants),
    ];
    let float = model(17, &[1, 16, 8, 8], nodes, constants, &[("y", &[1, 16, 8, 8])]);
    let made = made("target_tensorrt_no_residual", &[1, 16, 8, 8], &float, Policy::of(&TENSORRT));
    let row = made.report.nodes.iter().find(|n| n.node == "sum_node").unwrap();
    assert_eq!((row.verdict, row.reason.as_str()), ("float", "no quantized convolution takes it in"));
    assert_eq!(made.plan.values.keys().collect::<Vec<_>>(), ["sum", "x"]);
}

#[test]
fn small_shapes_stay_float_where_the_target_says() {
    let constants = vec![weights("thin", &[16, 8]), weights("wide", &[8, 32]), weights("w", &[32, 16])];
    let nodes =
        vec![node("MatMul", "x thin", "a", &[]), node("MatMul", "a wide", "b", &[]), node("MatMul", "b w", "y", &[])];
    let float = model(17, &[4, 16], nodes, constants, &[("y", &[4, 16])]);
    let made = made("target_tensorrt_small", &[4, 16], &float, Policy::of(&TENSORRT));
    let rows: Vec<_> = made.report.nodes.iter().map(|n| (n.node.as_str(), n.verdict, n.reason.as_str())).collect();
    assert_eq!(
        rows,
        [
            ("a_node", "float", "8 outputs, and fewer than 16 are not worth integers on target `tensorrt`"),
            ("b_node", "float", "8 inputs, and fewer than 16 are not worth integers on target `tensorrt`"),
            ("y_node", "quantized", "multiplies and accumulates in integers"),
        ]
    );
}

#[test]
fn weights_without_vnni_never_saturate() {
    let target = Target::by_name("ort-cpu-no-vnni").unwrap();
    let made = made("target_no_vnni_codes", &[2, 16, 8, 8], &residual(), Policy::of(target));
    let codes = made.model.graph.initializers().filter(|t| t.name().ends_with("_quantized"));
    let mut weights = 0;
    for t in codes.filter(|t| t.data_type() == DataType::Int8 as i32) {
        let largest = t.raw_data().iter().map(|&b| i32::from(b as i8).abs()).max().unwrap();
        assert!(2 * 255 * largest <= i32::from(i16::MAX), "{}: {largest}", t.name());
        assert!(largest >= 63, "{}: {largest}", t.name());
        weights += 1;
    }
    assert_eq!(weights, 4);
}
