//! Models that once led to wrong output, or to none: each is quantized, measured, and handed to the cross-check.

use crate::common::{InMemory, emit, floats, ints, model, noise, noise_samples, value, weights};
use qdq::events::Silent;
use qdq::exec::{Runner, Tract};
use qdq::model::{DataType, Model, Tensor, attribute};
use qdq::number::Format;
use qdq::plan::{Patterns, Policy};
use qdq::quantize::{Quantized, Recipe, quantize};
use qdq::sample::{Sample, Samples};
use qdq::target::ORT_CPU;
use qdq::validate::{Questions, Validation, validate};

use crate::common::node;

fn quantized(name: &str, float: &Model, samples: &dyn Samples, policy: Policy) -> (Quantized, Validation) {
    let made = quantize(float, samples, &Recipe { policy }, &Tract, &Silent).unwrap_or_else(|e| panic!("{name}: {e}"));
    let written = made.model.clone();
    let found = validate(float, &written, samples, &Questions::default(), &Tract, &Silent).unwrap();
    emit(name, float, &made.model, samples, &found.outputs);
    (made, found)
}

fn default() -> Policy {
    Policy::of(&ORT_CPU)
}

#[test]
fn constants_are_folded_in_the_type_that_onnx_gives_them() {
    let nodes =
        vec![node("MatMul", "x w", "a", &[]), node("ConstantOfShape", "n", "c", &[]), node("Add", "a c", "y", &[])];
    let float = model(17, &[2, 4], nodes, vec![weights("w", &[4, 3]), ints("n", &[3])], &[("y", &[2, 3])]);
    let (made, _) = quantized("trap_constant_of_shape", &float, &noise_samples(&[2, 4], 12), default());
    let written = made.model;
    assert!(written.graph.initializers().all(|t| t.data_type() != DataType::Double as i32));
}

#[test]
fn weights_of_more_than_two_axes_have_one_scale() {
    let nodes = vec![node("MatMul", "x w", "y", &[])];
    let float = model(17, &[2, 4, 8], nodes, vec![weights("w", &[2, 8, 16])], &[("y", &[2, 4, 16])]);
    for weights in [Format::INT8, Format::UINT8] {
        let policy = Policy { weights, ..default() };
        let name = format!("trap_stacked_weights_{}", weights.name);
        let (made, _) = quantized(&name, &float, &noise_samples(&[2, 4, 8], 12), policy);
        assert!(made.plan.constants.values().all(|c| c.params.axis().is_none()));
    }
}

#[test]
fn a_large_bias_leaves_room_in_the_accumulator() {
    let small = |name: &str, scale: f32| {
        let x: Vec<f32> = noise(5, 4 * 64 * 9).iter().map(|x| x * scale).collect();
        floats(name, &[4, 64, 3, 3], &x)
    };
    let positive = |i: u64| {
        let x: Vec<f32> = noise(i + 1, 64 * 25).iter().map(|x| x.abs()).collect();
        Sample { inputs: vec![Tensor::from_f32(vec![1, 64, 5, 5], x)] }
    };
    let samples = InMemory((0..12).map(positive).collect());
    for (name, scale) in [("tiny", 1e-5), ("denormal", 1e-12)] {
        let bias = floats("b", &[4], &[1.0, -1.0, 0.5, 0.7]);
        let nodes = vec![node("Conv", "x w b", "y", &[])];
        let float = model(17, &[1, 64, 5, 5], nodes, vec![small("w", scale), bias], &[("y", &[1, 4, 3, 3])]);
        let (_, found) = quantized(&format!("trap_bias_{name}"), &float, &samples, default());
        assert!(found.outputs[0].sqnr_db.is_none_or(|db| db > 40.0), "{:?}", found.outputs);
    }
}

#[test]
fn integer_outputs_are_compared_too() {
    let nodes = vec![
        node("Conv", "x w", "c", &[]),
        node("ArgMax", "c", "y", &[attribute::int("axis", 1), attribute::int("keepdims", 0)]),
    ];
    let mut proto = model(17, &[1, 4, 8, 8], nodes, vec![weights("w", &[16, 4, 1, 1])], &[]).to_proto();
    let mut y = value("y", Some(&[1, 8, 8]));
    if let Some(qdq::proto::type_proto::Value::TensorType(t)) = y.r#type.as_mut().and_then(|t| t.value.as_mut()) {
        t.elem_type = Some(DataType::Int64 as i32);
    }
    proto.graph.as_mut().unwrap().output.push(y);
    let float = Model::from_proto(proto).unwrap();
    let made = quantize(&float, &noise_samples(&[1, 4, 8, 8], 12), &Recipe { policy: default() }, &Tract, &Silent);
    let outputs = made.unwrap().report.outputs;
    let equal = outputs[0].equal.unwrap();
    assert!(equal > 0.9 && equal < 1.0 && !outputs[0].exact && !outputs[0].broken, "{outputs:?}");
}

#[test]
fn infinities_that_belong_there_are_no_drift() {
    let nodes = vec![node("Conv", "x w", "c", &[]), node("Where", "m c inf", "y", &[])];
    let mask = Tensor::new(DataType::Bool, vec![1, 1, 8, 1], vec![1, 0, 1, 1, 0, 0, 1, 0].into()).unwrap();
    let constants = vec![weights("w", &[4, 4, 1, 1]), mask.to_proto("m"), floats("inf", &[], &[f32::NEG_INFINITY])];
    let float = model(17, &[1, 4, 8, 8], nodes, constants, &[("y", &[1, 4, 8, 8])]);
    let made = quantize(&float, &noise_samples(&[1, 4, 8, 8], 12), &Recipe { policy: default() }, &Tract, &Silent);
    let report = made.unwrap().report;
    assert!(!report.outputs[0].broken && report.outputs[0].sqnr_db.unwrap() > 30.0, "{:?}", report.outputs);
    assert_eq!(report.nodes.iter().find(|n| n.operator == "Where").unwrap().verdict, "float");
}

#[test]
fn sizes_that_the_engine_cannot_leave_open_are_prepared_one_by_one() {
    let (text, nearest) = (attribute::string, "nearest");
    let nodes = vec![
        node("Conv", "x w", "c", &[attribute::ints("strides", &[2, 2])]),
        node("Shape", "x", "s", &[]),
        node("Slice", "s two four zero", "hw", &[]),
        node("Concat", "nc hw", "size", &[attribute::int("axis", 0)]),
        node(
            "Resize",
            "c _ _ size",
            "y",
            &[text("mode", nearest), text("coordinate_transformation_mode", "asymmetric")],
        ),
    ];
    let constants = vec![
        weights("w", &[4, 3, 1, 1]),
        ints("two", &[2]),
        ints("four", &[4]),
        ints("zero", &[0]),
        ints("nc", &[1, 4]),
    ];
    let mut proto = model(17, &[1, 3, 1, 1], nodes, constants, &[("y", &[1, 4, 1, 1])]).to_proto();
    for v in proto.graph.as_mut().unwrap().input.iter_mut() {
        *v = open_height_and_width(v.clone());
    }
    for v in proto.graph.as_mut().unwrap().output.iter_mut() {
        *v = open_height_and_width(v.clone());
    }
    let float = Model::from_proto(proto).unwrap();
    let sample = |(h, w): (usize, usize)| Sample {
        inputs: vec![Tensor::from_f32(vec![1, 3, h, w], noise((h * w) as u64, 3 * h * w))],
    };
    let sizes = [(8, 8), (10, 8), (12, 14), (8, 8), (6, 20), (16, 4)];
    let samples = InMemory(sizes.into_iter().map(sample).collect());
    let made = quantize(&float, &samples, &Recipe { policy: default() }, &Tract, &Silent).unwrap();
    assert!(made.report.outputs[0].sqnr_db.unwrap() > 30.0 && made.report.outputs[0].other_shape == 0);
}

fn open_height_and_width(mut v: qdq::model::ValueInfoProto) -> qdq::model::ValueInfoProto {
    use qdq::proto::{tensor_shape_proto::dimension, type_proto};
    if let Some(type_proto::Value::TensorType(t)) = v.r#type.as_mut().and_then(|t| t.value.as_mut()) {
        for (d, name) in t.shape.as_mut().unwrap().dim[2..].iter_mut().zip(["H", "W"]) {
            d.value = Some(dimension::Value::DimParam(name.into()));
        }
    }
    v
}

#[test]
fn nodes_that_were_folded_may_be_excluded() {
    let nodes = vec![
        node("Conv", "x w", "c", &[]),
        node("BatchNormalization", "c one zero zero one", "b", &[]),
        node("Conv", "b v", "y", &[]),
    ];
    let constants = vec![
        weights("w", &[4, 4, 1, 1]),
        weights("v", &[4, 4, 1, 1]),
        floats("one", &[4], &[1.0; 4]),
        floats("zero", &[4], &[0.0; 4]),
    ];
    let float = model(17, &[1, 4, 8, 8], nodes, constants, &[("y", &[1, 4, 8, 8])]);
    let exclude = |name: &str| Policy { exclude: Patterns::new(&[name.to_owned()]).unwrap(), ..default() };
    let samples = noise_samples(&[1, 4, 8, 8], 12);
    quantized("trap_exclude_folded", &float, &samples, exclude("b_node"));
    let wrong = quantize(&float, &samples, &Recipe { policy: exclude("b_nod") }, &Tract, &Silent).unwrap_err();
    assert!(wrong.to_string().contains("no node is called `b_nod`"));
}

fn error_of(model: &Model, sample: Sample) -> String {
    Runner::new(&Tract, model, Vec::new()).unwrap().worker().outputs(&sample).unwrap_err().to_string()
}

#[test]
fn a_panic_of_the_engine_is_an_error_that_names_the_node() {
    // The engine looks for two numbers of `output_shape` where the four of opset 8 stand.
    let shape = [attribute::ints("output_shape", &[1, 2, 10, 8]), attribute::ints("strides", &[3, 2])];
    let nodes =
        vec![node("Relu", "x", "a", &[]), node("ConvTranspose", "a w", "b", &shape), node("Relu", "b", "y", &[])];
    let float = model(8, &[1, 1, 3, 3], nodes, vec![weights("w", &[1, 2, 3, 3])], &[("y", &[1, 2, 10, 8])]);
    let e = error_of(&float, noise_samples(&[1, 1, 3, 3], 1).0[0].clone());
    let says =
        "tract cannot prepare the model: node `b_node` (ConvTranspose): the engine panicked: index out of bounds";
    assert!(e.starts_with(says), "{e}");
}

#[test]
fn a_panic_in_a_run_names_the_node_too() {
    let int64 = attribute::int("to", DataType::Int64 as i64);
    let nodes = vec![node("Cast", "x", "i", &[int64]), node("Gather", "w i", "y", &[])];
    let float = model(13, &[2], nodes, vec![weights("w", &[4])], &[("y", &[2])]);
    let e = error_of(&float, Sample { inputs: vec![Tensor::from_f32(vec![2], vec![1.0, 99.0])] });
    assert!(e.starts_with("tract cannot run the model: node `y_node` (Gather): the engine panicked: index"), "{e}");
}
