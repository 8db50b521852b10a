//! Both forms of a quantized model: QDQ, and operators on codes.

use std::collections::BTreeMap;

use crate::common::{self, emit, emit_alike, floats, ints, model_of, node, noise_samples, run, samples_of, weights};
use qdq::convert::{Converted, Form, convert};
use qdq::events::Silent;
use qdq::exec::Tract;
use qdq::inspect::quantization;
use qdq::integer::Style;
use qdq::model::{AttributeProto, DataType, Linear, Model, NodeExt, Tensor, attribute};
use qdq::plan::{Emit, Policy, Steps};
use qdq::quantize::{Quantized, Recipe, quantize};
use qdq::sample::{Sample, Samples};
use qdq::target::ORT_CPU;
use qdq::validate::{Questions, validate};

const PLAIN: Form = Form::QOperator { contrib: false };
const CONTRIB: Form = Form::QOperator { contrib: true };

/// A float model with every operator that has a form on codes, and those that move codes.
fn everything() -> Model {
    let window = [attribute::ints("kernel_shape", &[3, 3]), attribute::ints("pads", &[1, 1, 1, 1])];
    let halves = [attribute::ints("kernel_shape", &[2, 2]), attribute::ints("strides", &[2, 2])];
    let pads = [attribute::ints("pads", &[1, 1, 1, 1])];
    let depthwise = [attribute::ints("pads", &[1, 1, 1, 1]), attribute::int("group", 8)];
    let channels = [attribute::int("axis", 1)];
    let nodes = vec![
        node("Conv", "x w1 b1", "c1", &pads),
        node("Relu", "c1", "r1", &[]),
        node("MaxPool", "r1", "p1", &window),
        node("Conv", "r1 w2", "c2", &depthwise),
        node("LeakyRelu", "c2", "l2", &[attribute::float("alpha", 0.2)]),
        node("Add", "p1 l2", "a3", &[]),
        node("Sigmoid", "a3", "s3", &[]),
        node("Mul", "a3 s3", "m3", &[]),
        node("Split", "m3 four", "h1 h2", &channels),
        node("Concat", "h2 h1", "k4", &channels),
        node("Pad", "k4 frame", "d4", &[]),
        node("Slice", "d4 from to axes", "i4", &[]),
        node("AveragePool", "i4", "v5", &halves),
        node("Conv", "v5 w6 b6", "c6", &[]),
        node("Where", "mask v5 c6", "e7", &[]),
        node("Unsqueeze", "e7 one", "u7", &[]),
        node("Squeeze", "u7 one", "q7", &[]),
        node("Reshape", "q7 rows", "t8", &[]),
        node("Transpose", "t8", "t9", &[attribute::ints("perm", &[0, 2, 1])]),
        node("Softmax", "t9", "o9", &[attribute::int("axis", -1)]),
        node("MatMul", "t8 o9", "y8", &[]),
        node("MatMul", "y8 t8", "context", &[]),
        node("GlobalAveragePool", "e7", "g9", &[]),
        node("Flatten", "g9", "f9", &[]),
        node("Gemm", "f9 w9 b9", "logits", &[attribute::int("transB", 1)]),
    ];
    let mask: Vec<u8> = (0..5 * 5).map(|i| u8::from(i % 3 == 0)).collect();
    let constants = vec![
        weights("w1", &[8, 3, 3, 3]),
        weights("b1", &[8]),
        weights("w2", &[8, 1, 3, 3]),
        weights("w6", &[8, 8, 1, 1]),
        weights("b6", &[8]),
        weights("w9", &[10, 8]),
        weights("b9", &[10]),
        ints("four", &[4, 4]),
        ints("frame", &[0, 0, 1, 1, 0, 0, 2, 2]),
        ints("from", &[0, 0]),
        ints("to", &[10, 10]),
        ints("axes", &[2, 3]),
        ints("one", &[0]),
        ints("rows", &[1, 8, 25]),
        Tensor::new(DataType::Bool, vec![1, 1, 5, 5], mask.into()).unwrap().to_proto("mask"),
    ];
    common::model(17, &[1, 3, 8, 8], nodes, constants, &[("logits", &[1, 10]), ("context", &[1, 8, 25])])
}

/// The model, quantized in that form without steps that ask for trials.
fn quantized(float: &Model, samples: &dyn Samples, change: impl FnOnce(&mut Policy)) -> Quantized {
    let mut policy = Policy::of(&ORT_CPU);
    policy.steps = Steps::NONE;
    change(&mut policy);
    quantize(float, samples, &Recipe { policy }, &Tract, &Silent).unwrap()
}

fn converted(model: &Model, to: Form) -> Converted {
    convert(model, to, None, &Tract, &Silent).unwrap()
}

/// How many nodes there are of each operator.
fn operators(model: &Model) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    model.graph.nodes().for_each(|(_, n)| *counts.entry(n.operator()).or_default() += 1);
    counts
}

/// Fails unless two models give the same numbers, bit for bit.
fn assert_same(name: &str, a: &Model, b: &Model, samples: &dyn Samples) {
    for (sample, (a, b)) in run(a, samples).iter().zip(&run(b, samples)).enumerate() {
        for (output, (a, b)) in a.iter().zip(b).enumerate() {
            assert!(a.bytes() == b.bytes(), "{name}: output {output} of sample {sample} differs");
        }
    }
}

/// Takes a model in QDQ form to operators on codes, and back: the outputs stay the same bit for bit. Returns the model on
/// codes.
fn there_and_back(name: &str, qdq: &Model, to: Form, samples: &dyn Samples) -> Converted {
    let there = converted(qdq, to);
    assert_same(name, qdq, &there.model, samples);
    let back = converted(&there.model, Form::Qdq);
    assert!(back.report.left.is_empty(), "{name}: {:?}", back.report.left);
    assert_same(name, qdq, &back.model, samples);
    let computing = |m: &Model| {
        let mut counts = operators(m);
        counts.retain(|op, _| !op.ends_with("quantizeLinear") && !op.ends_with("QuantizeLinear"));
        counts
    };
    assert_eq!(computing(&back.model), computing(qdq), "{name}");
    there
}

#[test]
fn every_operator_has_a_form_on_codes_and_goes_there_and_back() {
    let float = everything();
    let samples = noise_samples(&[1, 3, 8, 8], 8);
    let qdq = quantized(&float, &samples, |_| {}).model;
    let there = there_and_back("everything", &qdq, CONTRIB, &samples);
    let counts = operators(&there.model);
    for (op, count) in [
        ("QLinearConv", 3),
        ("QLinearMatMul", 1),
        ("com.microsoft.MatMulIntegerToFloat", 1),
        ("com.microsoft.QGemm", 1),
        ("com.microsoft.QLinearAdd", 1),
        ("com.microsoft.QLinearAveragePool", 1),
        ("com.microsoft.QLinearConcat", 1),
        ("com.microsoft.QLinearGlobalAveragePool", 1),
        ("com.microsoft.QLinearLeakyRelu", 1),
        ("com.microsoft.QLinearMul", 1),
        ("com.microsoft.QLinearSigmoid", 1),
        ("com.microsoft.QLinearSoftmax", 1),
        ("com.microsoft.QLinearWhere", 1),
        ("QuantizeLinear", 1),
    ] {
        assert_eq!(counts.get(op), Some(&count), "{op}: {counts:?}");
    }
    assert_eq!(counts.get("DequantizeLinear"), None, "{counts:?} {:?}", there.report.left);
    assert!(there.report.left.is_empty(), "{:?}", there.report.left);
    for moved in ["MaxPool", "Split", "Pad", "Slice", "Unsqueeze", "Squeeze", "Reshape", "Transpose", "Flatten"] {
        let (_, node) = there.model.graph.nodes().find(|(_, n)| n.is(moved)).unwrap();
        let label = format!("{moved} on codes");
        assert!(there.report.converted.iter().any(|c| c.from == moved && c.into == label), "{}", node.name());
    }
    // ONNX's own operators alone: the others stay between Q and DQ.
    let plain = there_and_back("everything, plain", &qdq, PLAIN, &samples);
    let counts = operators(&plain.model);
    assert!(counts.keys().all(|op| !op.contains('.')), "{counts:?}");
    assert_eq!((counts["QLinearConv"], counts["QLinearMatMul"], counts["Add"], counts["Gemm"]), (3, 1, 1, 1));
    assert!(plain.report.left.iter().any(|l| l.reason.contains("onnxruntime's own")), "{:?}", plain.report.left);
}

/// A model in QDQ form around one operator, whose inputs are `a`, of shape `[1, 4, 6, 6]`, and what `constants` adds.
fn alone(op: &str, inputs: &str, attributes: &[AttributeProto], zeros: (DataType, [u8; 2]), step: f32) -> Model {
    let nodes = vec![
        node("QuantizeLinear", "x s z", "xq", &[]),
        node("DequantizeLinear", "xq s z", "a", &[]),
        node("DequantizeLinear", "w ws", "wr", &[attribute::int("axis", 0)]),
        node("DequantizeLinear", "m ms", "mr", &[attribute::int("axis", 1)]),
        node("DequantizeLinear", "b bs", "br", &[attribute::int("axis", 0)]),
        node(op, inputs, "o", attributes),
        node("QuantizeLinear", "o t u", "oq", &[]),
        node("DequantizeLinear", "oq t u", "y", &[]),
    ];
    let used = |n: &qdq::model::NodeProto| n.output[0].len() != 2 || n.output[0] == "oq" || n.output[0] == "xq";
    let nodes = nodes.into_iter().filter(|n| used(n) || inputs.split(' ').any(|i| i == n.output[0])).collect();
    let codes = |name: &str, shape: &[usize]| {
        let bytes: Vec<u8> = common::noise(3, shape.iter().product()).iter().map(|x| (x * 127.0) as i8 as u8).collect();
        Tensor::new(DataType::Int8, shape.to_vec(), bytes.into()).unwrap().to_proto(name)
    };
    let zero = |name: &str, code: u8| Tensor::new(zeros.0, vec![], vec![code].into()).unwrap().to_proto(name);
    let s = 1.0 / 127.0;
    let scales = [0.011, 0.007, 0.02, 0.013];
    let bias: Vec<u8> = [900i32, -1200, 33, 0].iter().flat_map(|b| b.to_le_bytes()).collect();
    let mask: Vec<u8> = (0..36).map(|i| u8::from(i % 3 == 0)).collect();
    let constants = vec![
        floats("s", &[], &[s]),
        zero("z", zeros.1[0]),
        floats("t", &[], &[step]),
        zero("u", zeros.1[1]),
        codes("w", &[4, 4, 3, 3]),
        floats("ws", &[4], &scales),
        codes("m", &[6, 4]),
        floats("ms", &[4], &scales),
        Tensor::new(DataType::Int32, vec![4], bias.into()).unwrap().to_proto("b"),
        floats("bs", &[4], &scales.map(|w| s * w)),
        ints("frame", &[0, 0, 1, 1, 0, 0, 2, 2]),
        floats("half", &[], &[0.3]),
        Tensor::new(DataType::Bool, vec![1, 1, 6, 6], mask.into()).unwrap().to_proto("mask"),
    ];
    let shape: &[usize] = match op {
        "MatMul" => &[1, 4, 6, 4],
        "Concat" => &[1, 8, 6, 6],
        "AveragePool" | "MaxPool" => &[1, 4, 3, 3],
        "GlobalAveragePool" => &[1, 4, 1, 1],
        "Pad" => &[1, 4, 9, 9],
        _ => &[1, 4, 6, 6],
    };
    let mut model = common::model(17, &[1, 4, 6, 6], nodes, constants, &[("y", shape)]);
    model.graph.drop_unused_initializers();
    model
}

#[test]
fn each_operator_alone_is_the_same_to_within_a_quantum() {
    let window = [attribute::ints("kernel_shape", &[2, 2]), attribute::ints("strides", &[2, 2])];
    let pads = [attribute::ints("pads", &[1, 1, 1, 1])];
    let cases: [(&str, &str, &[AttributeProto], &str, f32); 13] = [
        ("Conv", "a wr br", &pads, "QLinearConv", 0.08),
        ("MatMul", "a mr", &[], "QLinearMatMul", 0.03),
        ("Add", "a a", &[], "com.microsoft.QLinearAdd", 2.0 / 127.0),
        ("Mul", "a a", &[], "com.microsoft.QLinearMul", 1.0 / 127.0),
        ("Concat", "a a", &[attribute::int("axis", 1)], "com.microsoft.QLinearConcat", 0.9 / 127.0),
        ("Where", "mask a a", &[], "com.microsoft.QLinearWhere", 1.3 / 127.0),
        ("Sigmoid", "a", &[], "com.microsoft.QLinearSigmoid", 1.0 / 127.0),
        ("LeakyRelu", "a", &[attribute::float("alpha", 0.3)], "com.microsoft.QLinearLeakyRelu", 1.0 / 127.0),
        ("Softmax", "a", &[attribute::int("axis", -1)], "com.microsoft.QLinearSoftmax", 0.5 / 127.0),
        ("AveragePool", "a", &window, "com.microsoft.QLinearAveragePool", 1.0 / 127.0),
        ("GlobalAveragePool", "a", &[], "com.microsoft.QLinearGlobalAveragePool", 0.3 / 127.0),
        ("MaxPool", "a", &window, "MaxPool on codes", 1.0 / 127.0),
        ("Pad", "a frame half", &[], "Pad on codes", 1.0 / 127.0),
    ];
    let samples = noise_samples(&[1, 4, 6, 6], 6);
    for (op, inputs, attributes, into, step) in cases {
        let moves = into.ends_with("on codes");
        for (kind, zeros) in [
            ("uint8", (DataType::Uint8, if moves { [128, 128] } else { [128, 120] })),
            ("int8", (DataType::Int8, if moves { [3, 3] } else { [3, 0xf9] })),
        ] {
            let qdq = alone(op, inputs, attributes, zeros, step);
            let name = format!("alone_{}_{kind}", op.to_lowercase());
            let there = there_and_back(&name, &qdq, CONTRIB, &samples);
            assert_eq!(there.report.converted[0].into, into, "{name}");
            assert_eq!(there.model.graph.nodes().count(), 3, "{name}: {:?}", operators(&there.model));
            let numbers: Vec<f32> = run(&qdq, &samples).iter().flat_map(|r| r[0].f32s().unwrap().to_vec()).collect();
            let (low, high) = numbers.iter().fold((f32::MAX, f32::MIN), |(l, h), &x| (l.min(x), h.max(x)));
            assert!(high - low > 4.0 * step, "{name}: {low} to {high}");
            emit_alike(&name, &qdq, &there.model, &samples, step);
        }
    }
}

#[test]
fn quantize_writes_the_form_that_is_asked_for() {
    let float = everything();
    let samples = noise_samples(&[1, 3, 8, 8], 8);
    let qdq = quantized(&float, &samples, |_| {});
    assert!(qdq.report.reformed.is_empty());
    for contrib in [false, true] {
        let made = quantized(&float, &samples, |p| p.emit = Emit::QOperator { contrib });
        let to = Form::QOperator { contrib };
        assert_eq!(operators(&made.model), operators(&converted(&qdq.model, to).model));
        assert_eq!(made.report.reformed, converted(&qdq.model, to).report.converted);
        assert_eq!(made.report.outputs, qdq.report.outputs);
        assert_same("everything", &qdq.model, &made.model, &samples);
        let name = if contrib { "qoperator_contrib" } else { "qoperator" };
        emit(name, &float, &made.model, &samples, &made.report.outputs);
    }
}

#[test]
fn other_types_and_granularities_go_there_and_back() {
    let float = everything();
    let samples = noise_samples(&[1, 3, 8, 8], 4);
    type Change = fn(&mut Policy);
    let cases: [(&str, Change); 3] = [
        ("tensor", |p| p.per_channel = false),
        ("int8", |p| p.activations = qdq::number::Format::INT8),
        ("uint8_weights", |p| (p.weights, p.per_channel) = (qdq::number::Format::UINT8, false)),
    ];
    for (name, change) in cases {
        let made = quantized(&float, &samples, change);
        let there = there_and_back(name, &made.model, CONTRIB, &samples);
        let left: Vec<_> = there.report.left.iter().map(|l| &l.reason).collect();
        assert!(left.is_empty(), "{name}: {left:?}");
        emit(&format!("qoperator_{name}"), &float, &there.model, &samples, &made.report.outputs);
    }
    // No kernel takes 16 bits.
    let wide = quantized(&float, &samples, |p| p.activations = qdq::number::Format::UINT16).model;
    let e = convert(&wide, CONTRIB, None, &Tract, &Silent).unwrap_err();
    assert!(e.to_string().contains("is uint16, and kernels take 8 bits") && e.way_out().is_some(), "{e}");
    let made = quantized(&float, &samples, |p| {
        (p.activations, p.emit) = (qdq::number::Format::UINT16, Emit::QOperator { contrib: true });
    });
    assert!(made.report.reformed.is_empty() && made.report.warnings.iter().any(|w| w.contains("in QDQ form")));
}

#[test]
fn models_of_other_tools_are_converted() {
    let data = "quantized/cnn/data.npz";
    for (kind, to) in [
        ("qdq", CONTRIB),
        ("qdq_part", CONTRIB),
        ("qdq_symmetric", PLAIN),
        ("qoperator", Form::Qdq),
        ("qoperator_channel", Form::Qdq),
    ] {
        let model = model_of(&format!("quantized/cnn/{kind}.onnx"));
        let samples = samples_of(data, &model);
        let made = convert(&model, to, Some(samples.as_ref()), &Tract, &Silent).unwrap();
        let style = if to == Form::Qdq { Style::Qdq } else { Style::QOperator };
        let seen = quantization(&made.model).unwrap().unwrap();
        let layers = seen.styles.iter().find(|s| s.style == style).map_or(0, |s| s.layers);
        assert!(layers >= 3, "{kind}: {:?} {:?}", seen.styles, made.report.left);
        // A bias at another scale is rounded once more; all else is the same.
        for output in &made.report.verified.unwrap().outputs {
            assert!(output.exact || output.sqnr_db.is_some_and(|db| db > 45.0), "{kind}: {output:?}");
        }
        let float = model_of("quantized/cnn/float.onnx");
        let found = validate(&float, &made.model, samples.as_ref(), &Questions::default(), &Tract, &Silent).unwrap();
        emit(&format!("converted_{kind}"), &float, &made.model, samples.as_ref(), &found.outputs);
    }
}

#[test]
fn what_has_no_form_in_between_stays() {
    for (name, why) in [
        ("quantized/cnn/dynamic.onnx", "by the range that it has in each run"),
        ("quantized/packed/nbits.onnx", "its weight alone is codes"),
    ] {
        let model = model_of(name);
        let e = convert(&model, Form::Qdq, None, &Tract, &Silent).unwrap_err();
        assert!(e.to_string().contains(why) && e.way_out().is_some(), "{name}: {e}");
    }
    let float = model_of("digits/model.onnx");
    let e = convert(&float, CONTRIB, None, &Tract, &Silent).unwrap_err();
    assert_eq!(e.to_string(), "nothing in the model is quantized");
    let qoperator = model_of("quantized/cnn/qoperator.onnx");
    let e = convert(&qoperator, CONTRIB, None, &Tract, &Silent).unwrap_err().to_string();
    assert!(e.starts_with("nothing in the model could be brought into the form QOperator"), "{e}");
}

#[test]
fn what_is_picked_from_a_table_is_dequantized_and_not_the_table() {
    let nodes = vec![
        node("Cast", "x", "i", &[attribute::int("to", DataType::Int64 as i64)]),
        node("Gather", "table i", "e", &[]),
        node("MatMul", "e w", "y", &[]),
    ];
    let constants = vec![weights("table", &[50, 8]), weights("w", &[8, 4])];
    let float = common::model(17, &[1, 6], nodes, constants, &[("y", &[1, 6, 4])]);
    let sample = |k: usize| (0..6).map(|i| ((k * 7 + i * 11) % 50) as f32).collect();
    let samples = (0..4).map(|k| Sample { inputs: vec![Tensor::from_f32(vec![1, 6], sample(k))] }).collect();
    let samples = common::InMemory(samples);
    let made = quantized(&float, &samples, |_| {});
    let (_, gather) = made.model.graph.nodes().find(|(_, n)| n.is("Gather")).unwrap();
    assert_eq!(made.model.graph.stated_dtype(&gather.input[0]), Some(DataType::Uint8));
    let reader = made.model.graph.uses(&gather.output[0])[0].node;
    assert!(made.model.graph.node(reader).is_some_and(Linear::dequantizes));
    assert!(made.report.outputs[0].sqnr_db.unwrap() > 30.0, "{:?}", made.report.outputs);
    there_and_back("table", &made.model, CONTRIB, &samples);
    emit("table", &float, &made.model, &samples, &made.report.outputs);
}

#[test]
fn branches_are_converted_too() {
    let body = |scale: &str| {
        use qdq::model::GraphProto;
        let nodes = vec![
            node("QuantizeLinear", &format!("x {scale} z"), &format!("{scale}q"), &[]),
            node("DequantizeLinear", &format!("{scale}q {scale} z"), &format!("{scale}d"), &[]),
            node("MaxPool", &format!("{scale}d"), &format!("{scale}p"), &[attribute::ints("kernel_shape", &[2, 2])]),
            node("QuantizeLinear", &format!("{scale}p {scale} z"), &format!("{scale}r"), &[]),
            node("DequantizeLinear", &format!("{scale}r {scale} z"), &format!("{scale}y"), &[]),
        ];
        let output = vec![common::value(&format!("{scale}y"), None)];
        GraphProto { name: Some(scale.into()), node: nodes, output, ..Default::default() }
    };
    let branch = |name: &str, graph| qdq::model::AttributeProto {
        name: Some(name.into()),
        g: Some(graph),
        r#type: Some(qdq::proto::attribute_proto::AttributeType::Graph as i32),
        ..Default::default()
    };
    let choice = node("If", "c", "y", &[branch("then_branch", body("s")), branch("else_branch", body("t"))]);
    let constants = vec![
        floats("s", &[], &[0.1]),
        floats("t", &[], &[0.2]),
        Tensor::new(DataType::Uint8, vec![], vec![128].into()).unwrap().to_proto("z"),
        floats("zero", &[], &[0.0]),
    ];
    let nodes = vec![
        node("ReduceSum", "x", "sum", &[attribute::int("keepdims", 0)]),
        node("Greater", "sum zero", "c", &[]),
        choice,
    ];
    let model = common::model(17, &[1, 1, 4, 4], nodes, constants, &[("y", &[1, 1, 3, 3])]);
    let there = converted(&model, PLAIN);
    assert_eq!(there.report.converted.iter().map(|c| c.nodes).sum::<usize>(), 2, "{:?}", there.report.left);
    let back = converted(&there.model, Form::Qdq);
    let count = |m: &Model| -> usize {
        let bodies = m.graph.bodies().into_iter().map(|id| m.graph.body(id).unwrap());
        bodies.map(|b| b.nodes().filter(|(_, n)| Linear::quantizes(n)).count()).sum()
    };
    assert_eq!((count(&model), count(&there.model), count(&back.model)), (4, 2, 4));
    let samples = noise_samples(&[1, 1, 4, 4], 6);
    assert_same("branches", &model, &there.model, &samples);
    assert_same("branches", &model, &back.model, &samples);
}

#[test]
fn real_models_go_to_codes_and_back() {
    let Some(zoo) = common::zoo() else { return };
    for name in ["mobilenet_v2_dfq", "resnet20_cifar10", "face_rfb_320", "ppocr_cls", "minilm_l6_v2"] {
        let float = Model::read(&zoo.join(name).join("model.onnx")).unwrap();
        let specs = qdq::model::InputSpec::all(&float.graph).unwrap();
        let options = qdq::sample::SampleOptions { limit: Some(3), ..Default::default() };
        let calib = zoo.join(name).join("calib.npz");
        let samples: Box<dyn Samples> = match calib.is_file() {
            true => qdq::sample::open(calib.to_str().unwrap(), &options, &specs, &Silent).unwrap(),
            false => Box::new(noise_samples(&[1, 3, 224, 224], 2)),
        };
        let made = quantized(&float, samples.as_ref(), |_| {});
        // Every product of MiniLM writes floats, which no operator of ONNX's own does on codes.
        let forms = if name == "minilm_l6_v2" { &[CONTRIB][..] } else { &[PLAIN, CONTRIB] };
        for &to in forms {
            let there = there_and_back(name, &made.model, to, samples.as_ref());
            eprintln!("{name}, {}: {:?}", to.name(), there.report.converted);
            let layers =
                |op: &str| there.report.converted.iter().filter(|c| c.into == op).map(|c| c.nodes).sum::<usize>();
            let products = layers("QLinearConv") + layers("com.microsoft.MatMulIntegerToFloat");
            assert!(products >= 10, "{name}: {:?}", there.report.left);
        }
    }
}
