//! Models of 16-bit floats keep their interface, and get scales of the type that the operators around them take.

use crate::common::{model_of, samples_of};
use qdq::check::{Severity, check};
use qdq::events::Silent;
use qdq::exec::Tract;
use qdq::model::{DataType, Linear, Model, NodeExt, Tensor, ValueInfoProto};
use qdq::plan::Policy;
use qdq::proto::type_proto;
use qdq::quantize::{Quantized, Recipe, quantize, quantize_weights};
use qdq::target::ORT_CPU;

const MODEL: &str = "small/float16/model.onnx";
const DATA: &str = "small/float16/data.npz";

fn types(model: &Model) -> Vec<(String, DataType)> {
    let values = model.graph.inputs().iter().chain(model.graph.outputs());
    values.map(|v| (v.name().to_owned(), model.graph.stated_dtype(v.name()).unwrap())).collect()
}

/// The types of the scales, and how many there are.
fn scales(model: &Model) -> Vec<DataType> {
    let nodes = model.graph.nodes().filter(|(_, n)| Linear::quantizes(n) || Linear::dequantizes(n));
    nodes.map(|(_, n)| model.graph.stated_dtype(n.input_at(1).unwrap()).unwrap()).collect()
}

fn holds(model: &Model, made: &Quantized, least: f64) {
    assert_eq!(types(&made.model), types(model));
    made.model.graph.check().unwrap();
    let found = check(&made.model.to_proto(), None);
    assert!(found.findings.iter().all(|f| f.severity != Severity::Error), "{:?}", found.findings);
    for output in &made.report.outputs {
        assert!(output.sqnr_db > Some(least), "{output:?}");
    }
    assert!(!made.report.outputs.is_empty());
}

/// The model with the other 16-bit type.
fn bfloat16() -> Model {
    let mut proto = model_of(MODEL).to_proto();
    let graph = proto.graph.as_mut().unwrap();
    for t in &mut graph.initializer {
        let tensor = Tensor::from_proto(t).unwrap();
        if tensor.dtype() == DataType::Float16 {
            let x = tensor.f64s().unwrap();
            *t = Tensor::from_f64(DataType::Bfloat16, tensor.shape().to_vec(), &x).unwrap().to_proto(t.name());
        }
    }
    let all = |v: &mut ValueInfoProto| {
        if let Some(type_proto::Value::TensorType(t)) = v.r#type.as_mut().unwrap().value.as_mut() {
            t.elem_type = Some(DataType::Bfloat16 as i32);
        }
    };
    graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info).for_each(all);
    Model::from_proto(proto).unwrap()
}

#[test]
fn what_computes_on_codes_is_float32_inside() {
    let model = model_of(MODEL);
    let samples = samples_of(DATA, &model);
    let made = quantize(&model, samples.as_ref(), &Recipe { policy: Policy::of(&ORT_CPU) }, &Tract, &Silent).unwrap();
    holds(&model, &made, 40.0);
    let scales = scales(&made.model);
    assert!(scales.len() > 10 && scales.iter().all(|&d| d == DataType::Float), "{scales:?}");
}

#[test]
fn weights_alone_get_scales_of_their_own_type() {
    let policies = [
        Policy::of(&ORT_CPU),
        Policy { per_channel: false, weights: qdq::number::Format::UINT8, ..Policy::of(&ORT_CPU) },
    ];
    for (model, dtype, least) in [(model_of(MODEL), DataType::Float16, 38.0), (bfloat16(), DataType::Bfloat16, 35.0)] {
        for policy in &policies {
            let samples = samples_of(DATA, &model_of(MODEL));
            let verify = (dtype == DataType::Float16).then_some((samples.as_ref(), &Tract as _));
            let made = quantize_weights(&model, policy, verify, None, &Silent).unwrap();
            if verify.is_some() {
                holds(&model, &made, least);
            }
            assert_eq!((types(&made.model), made.model.opset()), (types(&model), 19));
            assert_eq!(scales(&made.model), [dtype; 3]);
            // Nothing is wider than it was: what is left of the constants is as it was, or codes.
            for t in made.model.graph.initializers() {
                let wide = [DataType::Float, DataType::Double].map(|d| d as i32);
                assert!(!wide.contains(&t.data_type()), "{}", t.name());
            }
            near(&model, &made.model);
        }
    }
}

/// Every weight is as near as half a step of its scale, and 16 bits of rounding.
fn near(float: &Model, quantized: &Model) {
    let mut count = 0;
    for (_, node) in quantized.graph.nodes().filter(|(_, n)| Linear::dequantizes(n)) {
        let linear = Linear::read(&quantized.graph, node).unwrap();
        let codes = quantized.graph.constant(node.input_at(0).unwrap()).unwrap().unwrap();
        let real = linear.dequantize(&codes).unwrap();
        let name = node.input_at(0).unwrap().strip_suffix("_quantized").unwrap();
        let want = float.graph.constant(name).unwrap().unwrap();
        let step = linear.scales.iter().copied().fold(0.0, f32::max);
        for (x, y) in want.f32s().unwrap().iter().zip(real.f32s().unwrap().iter()) {
            assert!((x - y).abs() <= 0.5001 * step, "`{name}`: {y} instead of {x} in steps of {step}");
        }
        count += 1;
    }
    assert_eq!(count, 3);
}
