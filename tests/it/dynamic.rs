//! Quantization by the range of each run: what is written computes what the float model does, within what 8 bits cost.

use crate::common::{
    self, difference, emit, floats, median_sqnr, model, model_of, node, noise_samples, samples_of, weights,
};
use qdq::dequantize::{Recipe, dequantize};
use qdq::error::ErrorKind;
use qdq::events::Silent;
use qdq::exec::Tract;
use qdq::inspect::quantization;
use qdq::integer::Style;
use qdq::model::{AttributeProto, DataType, Model, NodeExt, Tensor, TensorProto, attribute};
use qdq::number::Format;
use qdq::pass::Ends;
use qdq::plan::{Emit, Policy};
use qdq::quantize::{Quantized, quantize_dynamic};
use qdq::sample::Samples;
use qdq::target::ORT_CPU;

fn policy() -> Policy {
    Policy::of(&ORT_CPU)
}

fn dynamic(float: &Model, policy: &Policy, samples: &dyn Samples) -> Quantized {
    quantize_dynamic(float, policy, Some((samples, &Tract)), None, &Silent).unwrap()
}

fn count(model: &Model, op: &str) -> usize {
    model.graph.nodes().filter(|(_, n)| n.is(op)).count()
}

/// A model of one layer behind what makes its input look like an activation.
struct Layer {
    name: &'static str,
    op: &'static str,
    inputs: &'static str,
    attributes: Vec<AttributeProto>,
    shape: &'static [usize],
    constants: Vec<TensorProto>,
    output: &'static [usize],
}

fn layers() -> Vec<Layer> {
    let (int, ints, float) = (attribute::int, attribute::ints, attribute::float);
    let layer = |name, op, inputs, attributes, shape, constants, output| Layer {
        name,
        op,
        inputs,
        attributes,
        shape,
        constants,
        output,
    };
    let conv = |shape: &[usize], bias: usize| vec![weights("w", shape), weights("b", &[bias])];
    vec![
        layer("rank_2", "MatMul", "x w", vec![], &[3, 24], vec![weights("w", &[24, 20])], &[3, 20]),
        layer("rank_3", "MatMul", "x w", vec![], &[2, 3, 24], vec![weights("w", &[24, 20])], &[2, 3, 20]),
        layer("vector", "MatMul", "x w", vec![], &[24], vec![weights("w", &[24, 20])], &[20]),
        layer("batched", "MatMul", "x w", vec![], &[2, 3, 24], vec![weights("w", &[2, 24, 20])], &[2, 3, 20]),
        layer("gemm", "Gemm", "x w", vec![], &[3, 24], vec![weights("w", &[24, 20])], &[3, 20]),
        layer(
            "gemm_all",
            "Gemm",
            "x w b",
            vec![float("alpha", -0.5), float("beta", 3.0), int("transA", 1), int("transB", 1)],
            &[24, 3],
            vec![weights("w", &[20, 24]), weights("b", &[3, 1])],
            &[3, 20],
        ),
        layer(
            "gemm_no_bias",
            "Gemm",
            "x w b",
            vec![float("alpha", 2.0), float("beta", 0.0)],
            &[3, 24],
            vec![weights("w", &[24, 20]), weights("b", &[20])],
            &[3, 20],
        ),
        layer("conv", "Conv", "x w b", vec![], &[1, 4, 7, 6], conv(&[18, 4, 3, 3], 18), &[1, 18, 5, 4]),
        layer(
            "conv_pads_strides",
            "Conv",
            "x w b",
            vec![ints("pads", &[1, 2, 0, 1]), ints("strides", &[2, 1]), ints("dilations", &[1, 2])],
            &[2, 4, 7, 8],
            conv(&[18, 4, 3, 3], 18),
            &[2, 18, 3, 7],
        ),
        layer(
            "conv_groups",
            "Conv",
            "x w",
            vec![int("group", 2), attribute::string("auto_pad", "SAME_UPPER")],
            &[1, 8, 5, 5],
            vec![weights("w", &[32, 4, 3, 3])],
            &[1, 32, 5, 5],
        ),
        layer("conv_1d", "Conv", "x w b", vec![ints("pads", &[2, 2])], &[1, 8, 9], conv(&[16, 8, 3], 16), &[1, 16, 11]),
    ]
}

impl Layer {
    fn model(&self) -> Model {
        let nodes = vec![node(self.op, self.inputs, "y", &self.attributes)];
        model(13, self.shape, nodes, self.constants.clone(), &[("y", self.output)])
    }
}

#[test]
fn layers_of_every_geometry_compute_in_integers() {
    for layer in layers() {
        for (weights, per_channel) in [(Format::INT8, true), (Format::UINT8, true), (Format::INT8, false)] {
            let float = layer.model();
            let samples = noise_samples(layer.shape, 6);
            let policy = Policy { weights, per_channel, ..policy() };
            let made = dynamic(&float, &policy, &samples);
            let name = format!("dynamic_{}_{}_{per_channel}", layer.name, weights.name);
            let integer = if layer.op == "Conv" { "ConvInteger" } else { "MatMulInteger" };
            assert_eq!((count(&made.model, integer), made.report.counts.dynamic), (1, 1), "{name}");
            assert_eq!(count(&made.model, "DequantizeLinear"), 0, "{name}");
            let db = made.report.outputs[0].sqnr_db.unwrap();
            assert!((30.0..60.0).contains(&db), "{name}: {db} dB");
            let findings = qdq::check::check(&made.model.to_proto(), None);
            assert_eq!((findings.errors, findings.warnings), (0, 0), "{name}: {findings:?}");
            assert_eq!(quantization(&made.model).unwrap().unwrap().styles[0].style, Style::Dynamic, "{name}");
            emit(&name, &float, &made.model, &samples, &made.report.outputs);
        }
    }
}

#[test]
fn the_way_back_is_the_float_model_with_rounded_weights() {
    for layer in layers() {
        let samples = noise_samples(layer.shape, 4);
        let made = dynamic(&layer.model(), &policy(), &samples);
        let back = dequantize(&made.model, None, &Recipe { ends: Ends::Open }, &Tract, &Silent).unwrap();
        assert_eq!((&back.report.left[..], quantization(&back.model).unwrap()), (&[][..], None), "{}", layer.name);
        let off = difference(&layer.model(), &back.model, &samples);
        assert!(off < 0.02, "{}: {off}", layer.name);
    }
}

#[test]
fn readers_of_a_value_share_its_codes() {
    let nodes = vec![
        node("MatMul", "x q", "a", &[]),
        node("MatMul", "x k", "b", &[]),
        node("Gemm", "x v", "c", &[attribute::int("transB", 1)]),
        node("Add", "a b", "ab", &[]),
        node("Add", "ab c", "y", &[]),
    ];
    let constants = ["q", "k", "v"].map(|n| weights(n, &[32, 32])).into();
    let float = model(13, &[4, 32], nodes, constants, &[("y", &[4, 32])]);
    let samples = noise_samples(&[4, 32], 4);
    let made = dynamic(&float, &policy(), &samples);
    assert_eq!((count(&made.model, "DynamicQuantizeLinear"), count(&made.model, "MatMulInteger")), (1, 3));
    assert!(made.report.outputs[0].sqnr_db.unwrap() > 35.0);
    emit("dynamic_shared", &float, &made.model, &samples, &made.report.outputs);
}

#[test]
fn a_bias_that_is_computed_is_added_in_shape() {
    let nodes = vec![
        node("Constant", "", "one", &[attribute::tensor("value", floats("", &[18], &[0.5; 18]))]),
        node("Neg", "one", "b", &[]),
        node("Conv", "x w b", "y", &[]),
    ];
    let float = model(13, &[1, 4, 5, 5], nodes, vec![weights("w", &[18, 4, 3, 3])], &[("y", &[1, 18, 3, 3])]);
    let samples = noise_samples(&[1, 4, 5, 5], 4);
    let made = dynamic(&float, &policy(), &samples);
    assert_eq!(count(&made.model, "Reshape"), 1);
    assert!(made.report.outputs[0].sqnr_db.unwrap() > 30.0);
}

/// A table of 300 rows whose columns differ a thousandfold, and a layer behind it.
fn embedding() -> (Model, Vec<f32>) {
    let table: Vec<f32> =
        common::noise(3, 300 * 32).iter().enumerate().map(|(i, x)| x * 10f32.powi(i as i32 % 4 - 2)).collect();
    let nodes = vec![
        node("Cast", "x", "ids", &[attribute::int("to", DataType::Int64 as i64)]),
        node("Gather", "table ids", "e", &[]),
        node("MatMul", "e w", "y", &[]),
    ];
    let constants = vec![floats("table", &[300, 32], &table), weights("w", &[32, 24])];
    (model(13, &[2, 5], nodes, constants, &[("y", &[2, 5, 24])]), table)
}

#[test]
fn what_is_picked_from_a_table_is_dequantized_behind() {
    let (float, table) = embedding();
    let ids = |i: usize| {
        let x = (0..10).map(|k| ((37 * k + 11 * i) % 300) as f32).collect();
        qdq::sample::Sample { inputs: vec![Tensor::from_f32(vec![2, 5], x)] }
    };
    let samples = common::InMemory((0..6).map(ids).collect());
    let made = dynamic(&float, &policy(), &samples);
    let gather = made.model.graph.nodes().find(|(_, n)| n.is("Gather")).unwrap().1;
    let codes = made.model.graph.constant(&gather.input[0]).unwrap().unwrap();
    assert_eq!((codes.dtype(), codes.shape()), (DataType::Int8, &[300, 32][..]));
    let behind = made.model.graph.nodes().find(|(_, n)| n.is("DequantizeLinear")).unwrap().1;
    assert_eq!((behind.input_at(0), behind.int("axis")), (gather.output_at(0), Some(-1)));
    // Each column on its own scale: none loses more than 8 bits cost it.
    let scale = made.model.graph.constant(&behind.input[1]).unwrap().unwrap();
    let back = dequantize(&made.model, None, &Recipe { ends: Ends::Open }, &Tract, &Silent).unwrap().model;
    let real = back.graph.nodes().find(|(_, n)| n.is("Gather")).unwrap().1.input[0].clone();
    let real = back.graph.constant(&real).unwrap().unwrap();
    for (i, (a, b)) in table.iter().zip(real.f32s().unwrap().iter()).enumerate() {
        let step = scale.f32s().unwrap()[i % 32];
        assert!((a - b).abs() <= 0.501 * step && step < 0.01 * 10f32.powi(i as i32 % 4 - 2), "{i}: {a} {b} {step}");
    }
    assert!(made.report.outputs[0].sqnr_db.unwrap() > 30.0);
    emit("dynamic_table", &float, &made.model, &samples, &made.report.outputs);
}

#[test]
fn what_has_no_form_in_integers_says_why() {
    let nodes = vec![
        node("MatMul", "x w", "a", &[]),
        node("MatMul", "a b", "ab", &[]),
        node("MatMul", "x tiny", "t", &[]),
        node("MatMul", "t up", "y", &[]),
    ];
    let nodes = [vec![node("Relu", "x", "b0", &[]), node("Transpose", "b0", "b", &[])], nodes].concat();
    let constants = vec![weights("w", &[32, 32]), weights("tiny", &[32, 8]), weights("up", &[8, 32])];
    let float = model(13, &[32, 32], nodes, constants, &[("y", &[32, 32]), ("ab", &[32, 32])]);
    let made = dynamic(&float, &policy(), &noise_samples(&[32, 32], 3));
    let verdict = |name: &str| {
        let row = made.report.nodes.iter().find(|n| n.node == name).unwrap();
        (row.verdict, row.reason.clone())
    };
    assert_eq!(verdict("a_node").0, "dynamic");
    assert_eq!(verdict("ab_node"), ("float", "its weight `b` is not a constant".to_owned()));
    assert!(verdict("t_node").0 == "float" && verdict("t_node").1.contains("does not pay"));
    assert_eq!(verdict("y_node").0, "float");
    let transposed = vec![node("ConvTranspose", "x w", "y", &[])];
    let float = model(13, &[1, 4, 5, 5], transposed, vec![weights("w", &[4, 18, 3, 3])], &[("y", &[1, 18, 7, 7])]);
    let made = dynamic(&float, &policy(), &noise_samples(&[1, 4, 5, 5], 3));
    assert_eq!((made.report.counts.dynamic, made.report.counts.weight_only), (0, 1));
    assert!(made.report.nodes[0].reason.contains("no operator computes the same in integers"));
}

#[test]
fn lopsided_weights_have_zero_points() {
    let lopsided: Vec<f32> = common::noise(5, 32 * 32).iter().map(|x| x + 0.9).collect();
    let float =
        |w: TensorProto| model(13, &[4, 32], vec![node("MatMul", "x w", "y", &[])], vec![w], &[("y", &[4, 32])]);
    let samples = noise_samples(&[4, 32], 4);
    let zero = |made: &Quantized| {
        let product = made.model.graph.nodes().find(|(_, n)| n.is("MatMulInteger")).unwrap().1.clone();
        product.input_at(3).map(|z| made.model.graph.constant(z).unwrap().unwrap())
    };
    let lopsided = float(floats("w", &[32, 32], &lopsided));
    let made = dynamic(&lopsided, &policy(), &samples);
    let points = zero(&made).unwrap();
    assert_eq!((points.dtype(), points.shape()), (DataType::Int8, &[32][..]));
    emit("dynamic_lopsided", &lopsided, &made.model, &samples, &made.report.outputs);
    assert!(zero(&dynamic(&float(weights("w", &[32, 32])), &policy(), &samples)).is_none());
}

#[test]
fn the_same_bytes_come_out_each_time_and_whole_models_hold_up() {
    for (name, data, least) in [
        ("digits/model.onnx", "digits/calib.npz", 25.0),
        ("small/transformer/model.onnx", "small/transformer/data.npz", 25.0),
        ("ppocr_cls/model.onnx", "ppocr_cls/calib.npz", 10.0),
    ] {
        let float = model_of(name);
        let samples = samples_of(data, &float);
        let samples = common::InMemory((0..samples.len().min(6)).map(|i| samples.get(i).unwrap()).collect());
        let made = dynamic(&float, &policy(), &samples);
        let again = quantize_dynamic(&float, &policy(), None, None, &Silent).unwrap();
        assert!(made.model.to_bytes().unwrap() == again.model.to_bytes().unwrap(), "{name}");
        let db = median_sqnr(&float, &made.model, &samples);
        assert!(made.report.counts.dynamic > 0 && db > least, "{name}: {db} dB");
        let findings = qdq::check::check(&made.model.to_proto(), None);
        assert_eq!(findings.errors, 0, "{name}: {findings:?}");
        emit(&format!("dynamic_{}", name.replace('/', "_")), &float, &made.model, &samples, &made.report.outputs);
    }
}

#[test]
fn what_cannot_be_is_refused_with_a_way_out() {
    use std::num::NonZeroUsize;
    let float = layers()[0].model();
    for (policy, word) in [
        (Policy { weights: Format::INT4, ..policy() }, "bytes"),
        (Policy { block_size: NonZeroUsize::new(16), ..policy() }, "one scale"),
        (Policy { activations: Format::INT8, ..policy() }, "uint8"),
        (Policy { symmetric_activations: true, ..policy() }, "uint8"),
        (Policy { emit: Emit::MatMulNBits, ..policy() }, "floats"),
    ] {
        let e = quantize_dynamic(&float, &policy, None, None, &Silent).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Usage);
        assert!(e.to_string().contains(word) && format!("{e:?}").contains("hint"), "{e:?}");
    }
    let nothing = model(13, &[4, 4], vec![node("Relu", "x", "y", &[])], vec![], &[("y", &[4, 4])]);
    let e = quantize_dynamic(&nothing, &policy(), None, None, &Silent).unwrap_err();
    assert!(e.to_string().contains("nothing in the model can be quantized"), "{e}");
    // Four bits in a byte each are bytes.
    let wide = Policy { weights: Format::INT4.widened(), ..policy() };
    assert_eq!(quantize_dynamic(&float, &wide, None, None, &Silent).unwrap().report.counts.dynamic, 1);
}
