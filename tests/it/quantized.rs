//! Models that are quantized already: they run as in ONNX Runtime, are turned back to float, and are quantized no
//! second time.

use std::collections::{BTreeMap, BTreeSet};

use crate::common::{self, arrays, emit, floats, ints, median_sqnr, model_of, node, run, samples_of, weights};
use qdq::dequantize::{Dequantized, Recipe, dequantize};
use qdq::events::Silent;
use qdq::exec::Tract;
use qdq::inspect::quantization;
use qdq::integer::Style;
use qdq::model::{DataType, GraphProto, Linear, Model, ModelProto, NodeExt, NodeProto, Tensor, attribute, captures};
use qdq::number::Drift;
use qdq::pass::{self, Context, Effect, Ends};
use qdq::plan::Policy;
use qdq::quantize::{self, Quantized};
use qdq::sample::{Sample, Samples};
use qdq::target::ORT_CPU;
use qdq::validate::{Questions, validate};

/// A model among `fixtures/quantized`.
struct Case {
    /// The folder and the kind.
    name: &'static str,
    kind: &'static str,
    /// The float model and the samples.
    float: &'static str,
    data: &'static str,
    /// The style that most of it is in.
    style: Style,
}

/// The float model and the data of `cnn`.
const CNN: (&str, &str) = ("quantized/cnn/float.onnx", "quantized/cnn/data.npz");

const fn cnn(kind: &'static str, style: Style) -> Case {
    Case { name: "cnn", kind, float: CNN.0, data: CNN.1, style }
}

const CASES: &[Case] = &[
    cnn("qoperator", Style::QOperator),
    cnn("qoperator_channel", Style::QOperator),
    cnn("qdq", Style::Qdq),
    cnn("qdq_part", Style::Qdq),
    cnn("qdq_symmetric", Style::Qdq),
    cnn("dynamic", Style::Dynamic),
    Case {
        name: "encoder",
        kind: "dynamic",
        float: "small/transformer/model.onnx",
        data: "small/transformer/data.npz",
        style: Style::Dynamic,
    },
    Case {
        name: "fused",
        kind: "fused",
        float: "quantized/fused/float.onnx",
        data: "quantized/fused/data.npz",
        style: Style::Dynamic,
    },
    Case {
        name: "packed",
        kind: "nbits",
        float: "quantized/packed/float.onnx",
        data: "quantized/packed/data.npz",
        style: Style::WeightOnly,
    },
];

impl Case {
    fn model(&self) -> Model {
        model_of(&format!("quantized/{}/{}.onnx", self.name, self.kind))
    }

    fn label(&self) -> String {
        format!("quantized_{}_{}", self.name, self.kind)
    }
}

/// SQNR in dB of each output, over all samples.
fn sqnr(reference: &[Vec<f32>], got: &[Vec<f32>]) -> Vec<f64> {
    let drift = |(r, g): (&Vec<f32>, &Vec<f32>)| {
        let mut drift = Drift::default();
        drift.add(r, g);
        drift.sqnr()
    };
    reference.iter().zip(got).map(drift).collect()
}

/// What a model gives: for each output the numbers of all samples.
fn outputs(model: &Model, samples: &dyn Samples) -> Vec<Vec<f32>> {
    let runs = run(model, samples);
    let slots = 0..model.graph.outputs().len();
    slots.map(|slot| runs.iter().flat_map(|r| r[slot].f32s().unwrap().into_owned()).collect()).collect()
}

fn expected(case: &Case, model: &Model) -> Vec<Vec<f32>> {
    let arrays = arrays(&format!("quantized/{}/{}.npz", case.name, case.kind));
    let of = |name: &str| arrays.iter().find(|(n, _)| n == name).unwrap().1.f32s().unwrap().into_owned();
    model.graph.outputs().iter().map(|v| of(v.name())).collect()
}

fn dequantized(model: &Model, ends: Ends) -> Dequantized {
    dequantize(model, None, &Recipe { ends }, &Tract, &Silent).unwrap()
}

fn quantized(model: &Model, samples: &dyn Samples) -> qdq::error::Result<Quantized> {
    let recipe = quantize::Recipe { policy: Policy::of(&ORT_CPU) };
    quantize::quantize(model, samples, &recipe, &Tract, &Silent)
}

#[test]
fn what_other_tools_quantized_runs_as_in_onnxruntime() {
    for case in CASES {
        let model = case.model();
        let samples = samples_of(case.data, &model);
        let expected = expected(case, &model);
        let close = sqnr(&expected, &outputs(&model, samples.as_ref()));
        // The float model is far enough away to tell the two apart.
        let float = sqnr(&expected, &outputs(&model_of(case.float), samples.as_ref()));
        for (&close, &float) in close.iter().zip(&float) {
            let least = if case.style == Style::Qdq || case.style == Style::QOperator { float + 3.0 } else { 100.0 };
            assert!(close > least && float < 60.0, "{}: {close} dB, the float model {float} dB", case.label());
        }
    }
}

#[test]
fn the_style_is_told() {
    for case in CASES {
        let seen = quantization(&case.model()).unwrap().unwrap();
        let most = seen.styles.iter().max_by_key(|s| s.layers).unwrap();
        assert_eq!(most.style, case.style, "{}: {:?}", case.label(), seen.styles);
        let layers = seen.layers.quantized + seen.layers.weight_only;
        assert_eq!(seen.styles.iter().map(|s| s.layers).sum::<usize>(), layers, "{}", case.label());
    }
    assert_eq!(quantization(&model_of("quantized/cnn/float.onnx")).unwrap(), None);
}

#[test]
fn dequantized_models_are_float_and_as_close_to_the_original_as_before() {
    for case in CASES {
        let (model, original) = (case.model(), model_of(case.float));
        let samples = samples_of(case.data, &model);
        let reference = outputs(&original, samples.as_ref());
        let before = sqnr(&reference, &outputs(&model, samples.as_ref()));
        for ends in [Ends::Kept, Ends::Open] {
            let made = dequantized(&model, ends);
            let float = made.model.clone();
            assert_eq!((&made.report.left[..], quantization(&float).unwrap()), (&[][..], None), "{}", case.label());
            assert_eq!(float.graph.outputs(), model.graph.outputs());
            assert_eq!(float.graph.inputs(), model.graph.inputs());
            let findings = qdq::check::check(&float.to_proto(), None);
            assert_eq!(findings.errors, 0, "{}: {findings:?}", case.label());
            let after = sqnr(&reference, &outputs(&float, samples.as_ref()));
            for (after, before) in after.iter().zip(&before) {
                assert!(after >= before, "{} {ends:?}: {after} dB, before {before} dB", case.label());
            }
            let found = validate(&original, &float, samples.as_ref(), &Questions::default(), &Tract, &Silent).unwrap();
            let name = format!("{}_{ends:?}", case.label()).to_lowercase();
            emit(&name, &original, &made.model, samples.as_ref(), &found.outputs);
        }
    }
}

#[test]
fn a_dynamic_lstm_becomes_an_lstm() {
    let (model, original) = (model_of("quantized/lstm/dynamic.onnx"), model_of("quantized/lstm/float.onnx"));
    let samples = samples_of("quantized/lstm/data.npz", &original);
    let made = dequantized(&model, Ends::Kept);
    assert_eq!((made.report.counts.operators, &made.report.left[..]), (1, &[][..]));
    assert_eq!(made.report.styles[0].style, Style::Dynamic);
    assert!(made.model.graph.nodes().any(|(_, n)| n.is("LSTM")));
    let arrays = arrays("quantized/lstm/dynamic.npz");
    let of = |name: &str| arrays.iter().find(|(n, _)| n == name).unwrap().1.f32s().unwrap().into_owned();
    let before: Vec<Vec<f32>> = original.graph.outputs().iter().map(|v| of(v.name())).collect();
    let (reference, after) = (outputs(&original, samples.as_ref()), outputs(&made.model, samples.as_ref()));
    for (after, before) in sqnr(&reference, &after).into_iter().zip(sqnr(&reference, &before)) {
        assert!(after > before && before < 50.0, "{after} dB, before {before} dB");
    }
    // The engine does not know the operator; to quantize or to verify is an error that names it.
    let e = quantized(&model, samples.as_ref()).unwrap_err();
    assert!(e.to_string().contains("DynamicQuantizeLSTM"), "{e}");
}

#[test]
fn layers_of_operators_on_codes_are_compared() {
    let (float, model) = (model_of(CNN.0), CASES[0].model());
    let samples = samples_of(CNN.1, &float);
    let questions = Questions { layers: true, ..Default::default() };
    let layers = validate(&float, &model, samples.as_ref(), &questions, &Tract, &Silent).unwrap().layers.unwrap();
    let values: Vec<&str> = layers.iter().map(|l| l.value.as_str()).collect();
    assert!(["stem", "stem.leaky", "gated", "joined", "head"].iter().all(|v| values.contains(v)), "{values:?}");
    assert!(layers.iter().all(|l| l.local_sqnr_db.is_none_or(|db| db > 25.0)), "{layers:?}");
}

#[test]
fn only_the_pass_that_says_so_changes_what_a_model_computes() {
    for case in CASES {
        let mut model = case.model();
        let samples = samples_of(case.data, &model);
        let mut lossy = Vec::new();
        for pass in pass::dequantizing(&case.model(), Ends::Kept) {
            let before = model.clone();
            let changed = pass::run(pass.as_ref(), &mut model, &mut Context::new(None, &Silent)).unwrap();
            let off = common::difference(&before, &model, samples.as_ref());
            match pass.effect() {
                Effect::Lossy if changed > 0 => lossy.push(pass.name()),
                _ => assert!(off < 1e-5, "{}: {} moves the outputs by {off:e}", case.label(), pass.name()),
            }
        }
        assert!(lossy == ["drop-pairs"] || case.style == Style::WeightOnly, "{}: {lossy:?}", case.label());
    }
}

#[test]
fn weights_come_back_to_within_half_a_step() {
    for case in CASES.iter().filter(|c| c.name == "cnn") {
        let (original, float) = (model_of(case.float), dequantized(&case.model(), Ends::Kept).model);
        let mut found = 0;
        for weight in original.graph.initializers().filter(|t| t.name().ends_with(".weight")) {
            let back = [weight.name().to_owned(), format!("{}_DequantizeLinear_Output", weight.name())];
            let Some(back) = back.iter().find_map(|n| float.graph.constant(n).unwrap()) else { continue };
            let weight = Tensor::from_proto(weight).unwrap();
            let (a, b) = (weight.f32s().unwrap(), back.f32s().unwrap());
            // A Gemm that became MatMul has its weight the other way round.
            if weight.shape() != back.shape() {
                continue;
            }
            let step = a.iter().fold(0f32, |m, x| m.max(x.abs())) / 127.0;
            assert!(a.iter().zip(b.iter()).all(|(a, b)| (a - b).abs() <= 0.51 * step), "{}", case.label());
            found += 1;
        }
        assert!(found >= 3, "{}: {found}", case.label());
    }
}

#[test]
fn ranges_that_stood_for_a_relu_still_do() {
    // Every value below zero would pass, were the pairs only taken out.
    let case = &CASES[2];
    let float = dequantized(&case.model(), Ends::Open).model;
    let relus = float.graph.nodes().filter(|(_, n)| n.is("Relu")).count();
    assert_eq!(relus, 2, "the two Relu of the float model");
    assert_eq!(float.graph.nodes().filter(|(_, n)| n.is("Clip")).count(), 0);
}

/// Every weight that DequantizeLinear makes from constants, by the name of its value.
fn stored_weights(model: &Model) -> BTreeMap<String, Tensor> {
    let graph = &model.graph;
    let weight = |n: &NodeProto| {
        let codes = graph.constant(n.input_at(0)?).unwrap()?;
        Some((n.output[0].clone(), Linear::read(graph, n).unwrap().dequantize(&codes).unwrap()))
    };
    graph.nodes().filter(|(_, n)| Linear::dequantizes(n)).filter_map(|(_, n)| weight(n)).collect()
}

fn there_and_back(name: &str, float: &Model, calib: &dyn Samples, eval: &dyn Samples) {
    let made = quantized(float, calib).unwrap().model;
    let stored = stored_weights(&made);
    let back = dequantize(&made, Some(eval), &Recipe::default(), &Tract, &Silent).unwrap();
    assert!(back.report.left.is_empty(), "{name}: {:?}", back.report.left);
    let model = back.model.clone();
    assert_eq!(quantization(&model).unwrap(), None, "{name}");
    for (value, weight) in &stored {
        assert_eq!(model.graph.constant(value).unwrap().as_ref(), Some(weight), "{name}: {value}");
    }
    assert!(!stored.is_empty() && back.report.counts.constants >= stored.len(), "{name}");
    // The weights' rounding is left, and that of the activations is gone.
    // Scores that are saturated are near to the last bits, which are the processor's.
    let near = |a: &Model, b: &Model| median_sqnr(a, b, eval).min(60.0);
    let (before, after) = (near(float, &made), near(float, &model));
    assert!(after > before - 1.5, "{name}: {after} dB, quantized {before} dB");
    let between = near(&made, &model);
    assert!(between > before - 3.0, "{name}: {between} dB from the quantized model, which has {before} dB");
    let verified = back.report.verified.unwrap();
    assert!(verified.outputs.iter().all(|o| !o.broken && o.sqnr_db.unwrap_or(200.0) > 10.0), "{verified:?}");
}

#[test]
fn what_was_quantized_here_comes_back_with_the_weights_that_were_stored() {
    for (model, calib, eval) in [
        ("digits/model.onnx", "digits/calib.npz", "small/safetensors/digits.safetensors"),
        ("small/transformer/model.onnx", "small/transformer/data.npz", "small/transformer/data.npz"),
        ("small/float16/model.onnx", "small/float16/data.npz", "small/float16/data.npz"),
        ("small/legacy/model.onnx", "small/legacy/data.npz", "small/legacy/data.npz"),
    ] {
        let float = model_of(model);
        let (calib, eval) = (samples_of(calib, &float), samples_of(eval, &float));
        there_and_back(model, &float, calib.as_ref(), eval.as_ref());
    }
}

#[test]
fn real_models_go_there_and_back() {
    let Some(zoo) = common::zoo() else { return };
    for name in ["resnet20_cifar10", "mlperf_tiny_resnet8_cifar10", "mnist_cntk", "face_rfb_320", "ppocr_cls"] {
        let float = Model::read(&zoo.join(name).join("model.onnx")).unwrap();
        let specs = qdq::model::InputSpec::all(&float.graph).unwrap();
        let open = |file: &str| {
            let options = qdq::sample::SampleOptions { limit: Some(24), ..Default::default() };
            qdq::sample::open(zoo.join(name).join(file).to_str().unwrap(), &options, &specs, &Silent).unwrap()
        };
        there_and_back(name, &float, open("calib.npz").as_ref(), open("eval.npz").as_ref());
    }
}

/// QuantizeLinear and DequantizeLinear nodes: operator and inputs.
fn pairs(model: &Model) -> BTreeSet<(String, Vec<String>)> {
    let nodes = model.graph.nodes().filter(|(_, n)| Linear::quantizes(n) || Linear::dequantizes(n));
    nodes.map(|(_, n)| (n.op_type().to_owned(), n.input.clone())).collect()
}

/// That no value is quantized by two nodes, and none that was just dequantized, and no codes are quantized again.
fn nothing_twice(name: &str, model: &Model) {
    let mut quantized = BTreeSet::new();
    for (_, node) in model.graph.nodes().filter(|(_, n)| Linear::quantizes(n)) {
        let value = node.input_at(0).unwrap();
        assert!(quantized.insert(value.to_owned()), "{name}: `{value}` is quantized twice");
        let maker = model.graph.producer(value).and_then(|(id, _)| model.graph.node(id));
        assert!(!maker.is_some_and(Linear::dequantizes), "{name}: `{value}` was quantized before");
        assert!(model.graph.initializer(value).is_none(), "{name}: `{value}` is a constant");
    }
}

#[test]
fn the_passes_before_leave_what_is_quantized_alone() {
    for case in CASES {
        let model = case.model();
        let samples = samples_of(case.data, &model);
        for opset in [13, 21] {
            let mut prepared = model.clone();
            quantize::prepare(&mut prepared, opset, &mut Context::new(Some(&Tract), &Silent)).unwrap();
            assert_eq!(prepared.opset(), opset.max(model.opset()), "{}", case.label());
            assert_eq!(pairs(&prepared), pairs(&model), "{} at {opset}", case.label());
            let off = common::difference(&model, &prepared, samples.as_ref());
            assert!(off < 1e-5, "{} at {opset}: {off:e}", case.label());
        }
    }
}

#[test]
fn the_rest_of_a_model_is_quantized_and_what_was_quantized_stays() {
    for (case, at_least) in [(&CASES[3], 8), (&CASES[6], 4)] {
        let model = case.model();
        let samples = samples_of(case.data, &model);
        let made = quantized(&model, samples.as_ref()).unwrap();
        assert!(
            made.report.counts.already > 20 && made.report.counts.quantized >= at_least,
            "{:?}",
            made.report.counts
        );
        let written = made.model.clone();
        assert!(pairs(&written).is_superset(&pairs(&model)), "{}", case.label());
        nothing_twice(&case.label(), &written);
        for initializer in model.graph.initializers().filter(|t| t.name().ends_with("_quantized")) {
            assert_eq!(written.graph.initializer(initializer.name()), Some(initializer));
        }
        // Few numbers come out of the CNN: many samples, so that one code more or less does not count.
        let many: Box<dyn Samples> = match case.name {
            "cnn" => Box::new(common::noise_samples(&[1, 3, 12, 12], 64)),
            _ => samples,
        };
        let found = validate(&model, &written, many.as_ref(), &Questions::default(), &Tract, &Silent).unwrap();
        assert!(found.outputs.iter().all(|o| o.sqnr_db.unwrap() > 9.0), "{:?}", found.outputs);
        emit(&format!("{}_rest", case.label()), &model, &made.model, many.as_ref(), &found.outputs);
        // A second time there is nothing to do.
        let again = quantized(&written, many.as_ref()).unwrap_err();
        assert!(again.to_string().contains("is quantized already"), "{again}");
    }
}

#[test]
fn a_model_that_is_quantized_throughout_is_refused_with_the_way_out() {
    for case in
        CASES.iter().filter(|c| !matches!(c.label().as_str(), "quantized_cnn_qdq_part" | "quantized_encoder_dynamic"))
    {
        let model = case.model();
        let e = quantized(&model, samples_of(case.data, &model).as_ref()).unwrap_err();
        assert!(e.to_string().contains("is quantized already"), "{}: {e}", case.label());
        assert!(e.way_out().unwrap().contains("`qdq dequantize`"));
    }
}

const SHAPE: [usize; 4] = [1, 4, 8, 8];

/// A model over `x` of 4 channels, with the constants that it reads: weights `w1`, `w2`, `w3` of 1 x 1 convolutions, the
/// scales `s` and `ss`, the zero points `z`, `m` and `mm`.
fn partly(nodes: Vec<NodeProto>, outputs: &[(&str, &[usize])]) -> Model {
    let bytes = |name: &str, dtype, shape: &[usize], byte: u8| {
        let size = shape.iter().product();
        Tensor::new(dtype, shape.to_vec(), vec![byte; size].into()).unwrap().to_proto(name)
    };
    let mut constants = vec![
        bytes("mm", DataType::Uint8, &[4], 128),
        bytes("codes", DataType::Int8, &[4, 4, 1, 1], 3),
        bytes("yes", DataType::Bool, &[], 1),
        floats("s", &[], &[0.02]),
        floats("ss", &[4], &[0.02, 0.03, 0.04, 0.05]),
        bytes("z", DataType::Uint8, &[], 0),
        bytes("m", DataType::Uint8, &[], 128),
        ints("flat", &[1, 4, 64, 1]),
    ];
    constants.extend(["w1", "w2", "w3"].map(|w| weights(w, &[4, 4, 1, 1])));
    let read = |n: &NodeProto| [n.input.clone(), captures(n).into_iter().map(str::to_owned).collect()].concat();
    let read: BTreeSet<String> = nodes.iter().flat_map(read).collect();
    constants.retain(|t| read.contains(t.name()));
    common::model(17, &SHAPE, nodes, constants, outputs)
}

fn q(value: &str, zero: &str) -> Vec<NodeProto> {
    vec![
        node("QuantizeLinear", &format!("{value} s {zero}"), &format!("{value}_q"), &[]),
        node("DequantizeLinear", &format!("{value}_q s {zero}"), &format!("{value}_d"), &[]),
    ]
}

/// Quantizes the rest, checks what must hold of all, and returns the model and the verdicts by node.
fn rest(name: &str, model: &Model) -> (Model, BTreeMap<String, &'static str>) {
    let samples = common::noise_samples(&SHAPE, 12);
    let made = quantized(model, &samples).unwrap_or_else(|e| panic!("{name}: {e}"));
    let written = made.model.clone();
    nothing_twice(name, &written);
    assert!(pairs(&written).is_superset(&pairs(model)), "{name}");
    let found = validate(model, &written, &samples, &Questions::default(), &Tract, &Silent).unwrap();
    assert!(found.outputs.iter().all(|o| o.sqnr_db.is_none_or(|db| db > 25.0)), "{name}: {:?}", found.outputs);
    emit(&format!("present_{name}"), model, &made.model, &samples, &found.outputs);
    (written, made.report.nodes.into_iter().map(|n| (n.node, n.verdict)).collect())
}

fn input_of<'a>(model: &'a Model, output: &str, slot: usize) -> &'a str {
    let (id, _) = model.graph.producer(output).unwrap();
    model.graph.node(id).unwrap().input_at(slot).unwrap()
}

#[test]
fn a_value_that_is_quantized_for_another_reader_is_read_from_there() {
    let nodes = [
        vec![node("Conv", "x w1", "a", &[])],
        q("a", "m"),
        vec![node("Conv", "a_d w2", "b", &[]), node("Conv", "a w3", "c", &[])],
    ]
    .concat();
    let (written, verdicts) = rest("shared", &partly(nodes, &[("b", &SHAPE), ("c", &SHAPE)]));
    assert_eq!((input_of(&written, "a", 0), input_of(&written, "a_q", 0)), ("x_dequantized", "a"));
    for reader in ["b", "c"] {
        let reads = written.graph.nodes().filter(|(_, n)| n.is("Conv") && n.input_at(0) == Some("a_d"));
        assert_eq!((reads.count(), verdicts[&format!("{reader}_node")]), (2, "quantized"));
    }
}

#[test]
fn codes_without_a_dequantize_get_one() {
    let mut nodes = vec![node("QuantizeLinear", "x s m", "x_q", &[]), node("Conv", "x w1", "b", &[])];
    let dense = node("QLinearMatMul", "x_q s m x_q s m s m", "p", &[]);
    nodes.extend([dense, node("DequantizeLinear", "p s m", "y", &[])]);
    let (written, verdicts) = rest("codes", &partly(nodes, &[("b", &SHAPE), ("y", &SHAPE)]));
    assert_eq!((verdicts["p_node"], verdicts["b_node"]), ("already", "quantized"));
    let real = written.graph.nodes().find(|(_, n)| Linear::dequantizes(n) && n.input == ["x_q", "s", "m"]).unwrap().1;
    assert!(written.graph.uses(&real.output[0]).iter().any(|u| written.graph.node(u.node).unwrap().is("Conv")));
}

#[test]
fn parameters_are_passed_on_from_where_they_are() {
    let nodes = [
        q("x", "m"),
        vec![node("Conv", "x_d w1", "a", &[]), node("Reshape", "x_d flat", "r", &[]), node("Conv", "r w2", "b", &[])],
    ]
    .concat();
    let (written, verdicts) = rest("passed", &partly(nodes, &[("a", &SHAPE), ("b", &[1, 4, 64, 1])]));
    assert_eq!((verdicts["r_node"], verdicts["b_node"], verdicts["a_node"]), ("quantized", "quantized", "quantized"));
    let (_, again) = written.graph.nodes().find(|(_, n)| Linear::quantizes(n) && n.input_at(0) == Some("r")).unwrap();
    let linear = Linear::read(&written.graph, again).unwrap();
    assert_eq!((linear.scales, linear.zero_points), (vec![0.02], vec![128]));
}

#[test]
fn a_relu_in_front_of_a_pair_is_absorbed_where_the_range_ends_at_zero() {
    for (zero, verdict) in [("z", "absorbed"), ("m", "quantized")] {
        let nodes = [
            vec![node("Conv", "x w1", "a", &[]), node("Relu", "a", "r", &[])],
            q("r", zero),
            vec![node("Conv", "r_d w2", "b", &[])],
        ]
        .concat();
        let (_, verdicts) = rest(&format!("relu_{verdict}"), &partly(nodes, &[("b", &SHAPE)]));
        assert_eq!(verdicts["r_node"], verdict);
    }
}

#[test]
fn what_stands_between_pairs_and_weights_that_are_codes_stay() {
    let nodes = [
        q("x", "m"),
        vec![node("Relu", "x_d", "r", &[])],
        q("r", "z"),
        vec![
            node("DequantizeLinear", "codes ss", "w", &[attribute::int("axis", 0)]),
            node("Conv", "r_d w", "a", &[]),
            node("Conv", "a w1", "b", &[]),
        ],
    ]
    .concat();
    let (_, verdicts) = rest("between", &partly(nodes, &[("b", &SHAPE)]));
    assert_eq!((verdicts["r_node"], verdicts["a_node"], verdicts["b_node"]), ("already", "already", "quantized"));
}

#[test]
fn scales_that_are_computed_or_several_keep_their_readers_float() {
    let several =
        |name: &str, op: &str, out: &str| node(op, &format!("{name} ss mm"), out, &[attribute::int("axis", 1)]);
    let nodes = vec![
        several("x", "QuantizeLinear", "x_q"),
        several("x_q", "DequantizeLinear", "x_d"),
        node("Conv", "x_d w1", "a", &[]),
        node("Conv", "x w2", "b", &[]),
        node("Conv", "a w3", "c", &[]),
    ];
    let (_, verdicts) = rest("several", &partly(nodes, &[("b", &SHAPE), ("c", &SHAPE)]));
    assert_eq!((verdicts["a_node"], verdicts["b_node"], verdicts["c_node"]), ("float", "float", "quantized"));
}

/// A model whose input and output are codes.
fn codes_at_the_border() -> Model {
    let nodes = vec![
        node("DequantizeLinear", "x s m", "a", &[]),
        node("Conv", "a w1", "c", &[]),
        node("QuantizeLinear", "c s m", "c_q", &[]),
        node("DequantizeLinear", "c_q s m", "d", &[]),
        node("Abs", "d", "e", &[]),
        node("QuantizeLinear", "e s z", "y", &[]),
    ];
    let mut proto: ModelProto = partly(nodes, &[("y", &SHAPE)]).to_proto();
    let graph: &mut GraphProto = proto.graph.as_mut().unwrap();
    for v in graph.input.iter_mut().chain(&mut graph.output) {
        if let Some(qdq::proto::type_proto::Value::TensorType(t)) = v.r#type.as_mut().and_then(|t| t.value.as_mut()) {
            t.elem_type = Some(DataType::Uint8 as i32);
        }
    }
    Model::from_proto(proto).unwrap()
}

#[test]
fn codes_at_the_border_stay_codes_and_run() {
    let model = codes_at_the_border();
    let bytes: Vec<u8> = (0..256).map(|i| (i * 37 % 256) as u8).collect();
    let x = Tensor::new(DataType::Uint8, SHAPE.to_vec(), bytes.clone().into()).unwrap();
    let samples = common::InMemory(vec![Sample { inputs: vec![x] }]);
    let got = run(&model, &samples);
    // The same with integers, in f64.
    let w = model.graph.constant("w1").unwrap().unwrap();
    let w = w.f32s().unwrap();
    let want: Vec<u8> = (0..256)
        .map(|i| {
            let (channel, place) = (i / 64, i % 64);
            let sum: f64 = (0..4)
                .map(|k| {
                    f64::from(w[channel * 4 + k]) * (f64::from(bytes[k * 64 + place]) - 128.0) * f64::from(0.02f32)
                })
                .sum();
            let code = ((sum / f64::from(0.02f32)).round_ties_even() + 128.0).clamp(0.0, 255.0) - 128.0;
            code.abs() as u8
        })
        .collect();
    let off = got[0][0].bytes().iter().zip(&want).filter(|(a, b)| a != b).count();
    assert!(got[0][0].dtype() == DataType::Uint8 && off <= 2, "{off} of 256 differ");

    let made = dequantize(&model, Some(&samples), &Recipe::default(), &Tract, &Silent).unwrap();
    let float = made.model.clone();
    assert_eq!((float.graph.inputs(), float.graph.outputs()), (model.graph.inputs(), model.graph.outputs()));
    let ops: Vec<&str> = float.graph.nodes().map(|(_, n)| n.op_type()).collect();
    assert_eq!(ops, ["DequantizeLinear", "Conv", "Clip", "Abs", "QuantizeLinear"]);
    let reasons: Vec<&str> = made.report.left.iter().map(|l| l.reason.as_str()).collect();
    assert_eq!(reasons, ["its codes come from a graph input", "the graph output `y` is codes"]);
    assert!(made.report.verified.unwrap().outputs[0].equal.unwrap() > 0.5);
}

/// An If, one branch of which has a pair of its own and reads what is behind a pair of the graph around it; the other
/// reads codes from there.
fn with_branches() -> Model {
    let body = |nodes: Vec<NodeProto>, output: &str| GraphProto {
        name: Some(output.into()),
        node: nodes,
        output: vec![common::value(output, None)],
        ..Default::default()
    };
    let subgraph = |name: &str, graph: GraphProto| qdq::model::AttributeProto {
        name: Some(name.into()),
        r#type: Some(qdq::proto::attribute_proto::AttributeType::Graph as i32),
        g: Some(graph),
        ..Default::default()
    };
    let then = [
        vec![node("Abs", "x_d", "u", &[])],
        q("u", "z"),
        vec![node("DequantizeLinear", "codes ss", "w", &[attribute::int("axis", 0)]), node("Conv", "u_d w", "t", &[])],
    ];
    let other = vec![node("DequantizeLinear", "x_q s m", "v", &[]), node("Conv", "v w2", "e", &[])];
    let branches = [subgraph("then_branch", body(then.concat(), "t")), subgraph("else_branch", body(other, "e"))];
    let nodes = [q("x", "m"), vec![node("If", "yes", "i", &branches), node("Conv", "i w1", "y", &[])]].concat();
    partly(nodes, &[("y", &SHAPE)])
}

#[test]
fn branches_go_back_too_and_codes_from_outside_of_them_stay() {
    let made = dequantized(&with_branches(), Ends::Kept);
    let reasons: Vec<&str> = made.report.left.iter().map(|l| l.reason.as_str()).collect();
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert!(reasons.contains(&"its codes come from outside the graph"), "{reasons:?}");
    assert!(reasons.iter().any(|r| r.starts_with("`x_q` is captured by a subgraph")), "{reasons:?}");
    assert_eq!((made.report.counts.pairs, made.report.counts.constants, made.report.counts.ends), (2, 1, 2));
    let samples = common::noise_samples(&SHAPE, 4);
    assert!(sqnr(&outputs(&with_branches(), &samples), &outputs(&made.model, &samples))[0] > 25.0);
}

#[test]
fn what_a_branch_reads_from_behind_a_pair_is_not_quantized_again() {
    let model = with_branches();
    let samples = common::noise_samples(&SHAPE, 12);
    let made = quantized(&model, &samples).unwrap();
    let verdicts: BTreeMap<&str, &str> = made.report.nodes.iter().map(|n| (n.node.as_str(), n.verdict)).collect();
    assert_eq!((verdicts["i_node > then_branch > t_node"], verdicts["y_node"]), ("already", "quantized"));
    let found = validate(&model, &made.model, &samples, &Questions::default(), &Tract, &Silent).unwrap();
    assert!(found.outputs[0].sqnr_db.unwrap() > 25.0, "{:?}", found.outputs);
}

#[test]
fn functions_that_hold_codes_are_inlined_and_others_stay() {
    let function = |name: &str, nodes: Vec<NodeProto>| qdq::proto::FunctionProto {
        name: Some(name.into()),
        domain: Some("own".into()),
        input: vec!["a".into(), "s".into(), "m".into()],
        output: vec!["b".into()],
        node: nodes,
        opset_import: vec![qdq::proto::OperatorSetIdProto { domain: Some(String::new()), version: Some(17) }],
        ..Default::default()
    };
    let call = |name: &str, input: &str, output: &str| NodeProto {
        domain: Some("own".into()),
        ..node(name, &format!("{input} s m"), output, &[])
    };
    let rounding = [q("a", "m"), vec![node("Abs", "a_d", "b", &[])]].concat();
    for (body, functions) in [(rounding, 0), (vec![node("Abs", "a", "b", &[])], 1)] {
        let nodes = [q("x", "m"), vec![call("F", "x_d", "f"), node("Conv", "f w1", "y", &[])]].concat();
        let mut proto = partly(nodes, &[("y", &SHAPE)]).to_proto();
        proto.functions.push(function("F", body));
        proto.opset_import.push(qdq::proto::OperatorSetIdProto { domain: Some("own".into()), version: Some(1) });
        let made = dequantized(&Model::from_proto(proto).unwrap(), Ends::Kept);
        assert!(made.report.left.is_empty(), "{:?}", made.report.left);
        assert_eq!(quantization(&made.model).unwrap(), None);
        assert_eq!(made.model.functions().count(), functions);
    }
}

#[test]
fn models_without_codes_and_models_that_cannot_go_back_are_refused() {
    let e = dequantize(&model_of("digits/model.onnx"), None, &Recipe::default(), &Tract, &Silent).unwrap_err();
    assert!(e.to_string().contains("nothing in the model is quantized") && e.way_out().is_some());
    let computed = vec![
        node("Abs", "x", "t", &[]),
        node("QuantizeLinear", "x t", "q", &[]),
        node("DequantizeLinear", "q t", "y", &[]),
    ];
    let e = dequantize(&partly(computed, &[("y", &SHAPE)]), None, &Recipe::default(), &Tract, &Silent).unwrap_err();
    assert!(
        e.to_string().contains("could be turned back to float") && e.to_string().contains("`t` is not a constant"),
        "{e}"
    );
}
